"""Tables of numbers."""

import math
import sys

import pandas
import pytest

from resnorm import plots
from resnorm.extras import MissingExtra
from tests.frames import contrast


def test_cells_show_the_mean_of_the_seeds_and_mark_what_has_no_value():
    frame = pandas.DataFrame(
        [("pre", 0.1, seed, 1.0 + seed) for seed in (0, 1)]
        + [("pre", 0.01, 0, 3.0), ("post", 0.1, 0, math.nan), ("post", 0.1, 1, math.nan)],
        columns=["word", "rate", "seed", "loss"],
    )
    figure = plots.cells(frame, "loss", "rate", "word", names=["post", "pre"])
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert texts == {(1.5, 0.5): "×", (1.5, 1.5): "1.50", (0.5, 1.5): "3.00"}  # rates are sorted; what never ran stays empty
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.01", "0.1"]
    assert "post: × at 0.1; pre: 3.00 at 0.01, 1.50 at 0.1" in figure.alt and "mean over 2 seeds" in figure.alt
    panels = plots.cells(frame.assign(norm=["LN", "RMS", "LN", "LN", "LN"]), "loss", "rate", "word", panels="norm")
    assert [ax.get_title(loc="left") for ax in panels.axes] == ["LN", "RMS"] and "RMS, pre: 2.00 at 0.1" in panels.alt


def test_a_number_can_be_read_on_every_shade():
    frame = pandas.DataFrame([dict(row=at // 6, column=at % 6, value=float(at)) for at in range(36)])
    (ax,) = plots.cells(frame, "value", "column", "row").axes
    shades = ax.collections[0].to_rgba(range(36))
    assert (
        len(ax.texts) == 36 and min(contrast(text.get_color(), shade[:3]) for text, shade in zip(ax.texts, shades, strict=True)) > 7
    )


def test_a_line_break_in_the_name_of_a_column_is_none_in_the_alt_text():
    figure = plots.cells(
        pandas.DataFrame(dict(row=[0, 0], column=["group\n(4)", "batch"], value=[1.0, 2.0])), "value", "column", "row"
    )
    assert figure.alt.endswith("0: 2.00 at batch, 1.00 at group (4).")


def test_without_seaborn_the_error_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "seaborn", None)
    frame = pandas.DataFrame(dict(row=[0], column=[0], value=[1.0]))
    with pytest.raises(MissingExtra, match=r'tables of numbers need the package seaborn.*pip install "resnorm\[lab\]"'):
        plots.cells(frame, "value", "column", "row")
