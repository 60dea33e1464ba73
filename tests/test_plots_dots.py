"""Bars and tables of dots: every seed, and who diverged."""

import numpy
import pandas
import pytest

from resnorm import plots


def test_bars_start_at_zero_show_every_seed_and_say_who_diverged():
    frame = pandas.DataFrame(dict(label=["a"] * 3 + ["b"] + ["c"], seed=[0, 1, 2, 0, 0], error=[0.08, 0.09, 0.10, 0.2, numpy.nan]))
    figure = plots.bars(frame, "error", scale=100, published={"a": 6.37})
    axes = figure.axes[0]
    assert axes.get_xlim()[0] == 0
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([9, 20])
    assert sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o") == 4
    assert "a: 9.0 ± 1.0, published 6.37; b: 20 (one seed); c: diverged" in figure.alt


def dotted(**options):
    frame = pandas.DataFrame(
        dict(
            name=["a"] * 3 + ["b"] + ["c"] + ["d"] * 2,
            seed=[0, 1, 2, 0, 0, 0, 1],
            rate="0.1",
            error=[8.0, 8.0, 9.5, 20.0, numpy.nan, 7.0, numpy.nan],
        )
    )
    return plots.dot_table(frame, "error", "name", **options)


def test_a_dot_table_shows_every_seed_and_sets_the_published_values_on_an_axis_of_their_own():
    figure = dotted(reference="a", published={"a": 6.61, "b": "fail", "e": 6.37})
    ours, theirs = figure.axes
    assert not ours.get_shared_x_axes().joined(ours, theirs) and ours.get_shared_y_axes().joined(ours, theirs)
    (seeds,) = (line for line in ours.lines if len(line.get_xdata()) == 3)
    # Two seeds of one value stand side by side, none hides another.
    assert list(seeds.get_xdata()) == [8, 8, 9.5] and len(set(seeds.get_ydata())) == 3
    assert [line.get_xdata()[0] for line in theirs.lines] == [6.61, 6.37]
    assert any(line.get_xdata()[0] == pytest.approx(8.5) and len(line.get_xdata()) == 2 for line in ours.lines)
    assert [text.get_text() for text in ours.get_yticklabels()] == ["a", "b", "c", "d", "e"]
    assert figure.alt == (
        "Dot chart of error, mean and standard deviation over 3 seeds; beside it the published values. "
        "a: 8.50 ± 0.87, published 6.61; b: 20 (one seed), published fail; c: diverged; "
        "d: 7 (one seed), 1 of 2 diverged; e: not recorded, published 6.37."
    )


def test_a_dot_table_has_a_panel_for_each_value_of_a_column_on_one_axis():
    frame = pandas.DataFrame(dict(name=["a", "a", "b"], rate=["x", "y", "y"], seed=0, error=[1.0, 2.0, 3.0]))
    figure = plots.dot_table(frame, "error", "name", panels="rate")
    first, second = figure.axes
    assert first.get_shared_x_axes().joined(first, second) and [ax.get_title("left") for ax in figure.axes] == ["x", "y"]
    assert figure.alt.endswith("a: x: 1 (one seed), y: 2 (one seed); b: x: not recorded, y: 3 (one seed).")


def test_what_has_no_seeds_is_not_called_one_seed():
    frame = pandas.DataFrame(dict(name=["a", "b"], memory=[1.0, 0.5]))
    assert plots.dot_table(frame, "memory", "name").alt == "Dot chart of memory. a: 1; b: 0.5."
    assert plots.bars(frame, "memory", "name").alt == "Bar chart of memory. a: 1; b: 0.5."
