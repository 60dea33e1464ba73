"""Lines with their spread over seeds, predictions beside them, and traces."""

import re

import numpy
import pandas
import pytest

from resnorm import plots
from tests.frames import runs


def test_nothing_is_told_apart_by_colour_alone():
    axes = plots.curves(runs(["a", "b", "c", "d", "e", "f", "g"])).axes[0]
    looks = {(line.get_marker(), str(line.get_linestyle()), line._unscaled_dash_pattern) for line in axes.lines}
    assert len({marker for marker, *_ in looks}) == 7 == len({dashes for *_, dashes in looks})
    assert len(set(plots.HATCHES)) == 7


def test_curves_draw_the_mean_and_the_spread_over_seeds():
    axes = plots.curves(runs()).axes[0]
    line = axes.lines[1]
    assert line.get_ydata()[0] == pytest.approx(1 + 0.1 + 1)
    band = axes.collections[1].get_paths()[0].get_extents()
    assert band.y1 == pytest.approx(2.1 + 0.1) and len(axes.collections) == 2


def test_the_alt_text_has_the_numbers_of_the_data():
    assert plots.describe(plots.curves(runs(), ylabel="training loss")) == (
        "Line chart of training loss by step, mean and standard deviation over 3 seeds. "
        "Plain: 1.1 at step 0, 0.125 at 39; Residual: 2.1 at step 0, 1.12 at 39."
    )


def test_one_seed_is_called_one_seed_and_has_no_band():
    figure = plots.curves(runs(seeds=[4]))
    assert not figure.axes[0].collections
    assert "one seed" in figure.alt and figure._supxlabel.get_text() == "one seed"


def test_panels_are_ordered_and_share_their_axis():
    frame = pandas.concat([runs(depth=20), runs(depth=8)])
    figure = plots.curves(frame, panels="depth")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["depth 8", "depth 20"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert "depth 8, Plain: 1.1 at step 0" in figure.alt


def test_panels_with_names_stand_in_the_order_of_the_frame_and_are_called_by_them():
    frame = pandas.concat([runs(arm="without"), runs(arm="with")])
    figure = plots.curves(frame, panels="arm")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["without", "with"]
    assert "without, Plain: 1.1 at step 0" in figure.alt


def test_several_levels_are_several_lines():
    axes = plots.curves(runs(), level=(0.5, 1.5)).axes[0]
    assert {line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 2} == {0.5, 1.5}
    assert "lines mark 0.5 and 1.5" in plots.curves(runs(), level=(0.5, 1.5)).alt


def test_a_diverged_value_is_left_out_of_mean_and_alt_text():
    frame = runs(steps=3)
    frame.loc[(frame.label == "Plain") & (frame.step == 2), "value"] = numpy.nan
    figure = plots.curves(frame)
    assert len(figure.axes[0].lines[0].get_xdata()) == 2
    assert "Plain: 1.1 at step 0, 0.6 at 1" in figure.alt


def test_by_depth_sets_measured_points_beside_the_law():
    law = pandas.DataFrame([dict(label="Residual", block=block, forward_rms=2 ** (block / 2)) for block in range(9)])
    measured = pandas.concat([law.assign(seed=seed, forward_rms=law.forward_rms * (1 + seed / 100)) for seed in (0, 1)])
    figure = plots.by_depth(measured, law=law)
    points, line = figure.axes[0].lines
    assert points.get_linestyle() == "None" and line.get_marker() == "None"
    assert list(line.get_ydata()) == pytest.approx(list(law.forward_rms))
    assert figure.axes[0].get_yscale() == "log"
    assert "Points, with predicted lines," in figure.alt and "16.1 at 8" in figure.alt


def test_a_logarithmic_horizontal_axis_has_the_values_as_ticks_and_a_level_is_marked_in_every_panel():
    frame = pandas.DataFrame([dict(size=2**k, kind=kind, loss=k) for k in range(1, 6) for kind in "ab"])
    figure = plots.curves(frame, "size", hue=None, panels="kind", log_x=2, level=3.5)
    for axes in figure.axes:
        assert axes.get_xscale() == "log" and [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "4", "8", "16", "32"]
        assert list(axes.lines[-1].get_ydata()) == [3.5, 3.5]
    assert "by size, that on a logarithmic axis; a line marks 3.5. " in figure.alt
    many = pandas.DataFrame([dict(rate=10 ** (k / 4), loss=k) for k in range(20)])
    assert plots.curves(many, "rate", hue=None, log_x=10, log=True).alt.startswith("Line chart of loss by rate, both logarithmic. ")


def test_traces_say_how_much_neighbours_have_in_common():
    smooth = [dict(kind="smooth", at=at, y=3 + numpy.sin(at / 20)) for at in range(100)]
    noise = numpy.random.default_rng(0).normal(size=100)
    frame = pandas.DataFrame(smooth + [dict(kind="noise", at=at, y=100 * y) for at, y in enumerate(noise)])
    figure = plots.traces(frame, "at", "y", "kind")
    drawn = [ax.lines[0].get_ydata() for ax in figure.axes]
    assert [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes] == ["smooth", "noise"]
    assert all(values.std(ddof=1) == pytest.approx(1) and abs(values.mean()) < 1e-9 for values in drawn)
    smooth, noise = (float(number) for number in re.findall(r"r = (-?\d\.\d\d)", figure.alt))
    assert smooth > 0.95 and abs(noise) < 0.3
    with pytest.raises(ValueError, match="three or more"):
        plots.traces(frame[:2], "at", "y", "kind")


def test_a_prediction_stands_in_a_column_and_rows_are_a_frame():
    rows = [
        dict(label=label, seed=seed, step=step, y=step + seed, law=2 * step)
        for label in "ab"
        for seed in (0, 1)
        for step in range(3)
    ]
    figure = plots.curves(rows, "step", "y", law="law")
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert drawn == [[0.5, 1.5, 2.5], [0, 2, 4]] * 2
    assert figure.alt.startswith("Points, with predicted lines")
    assert figure.alt == plots.curves(pandas.DataFrame(rows), "step", "y", law=pandas.DataFrame(rows).assign(y=lambda f: f.law)).alt
