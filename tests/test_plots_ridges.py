"""Ridgelines: hills of equal height."""

import re

import numpy
import pytest

from resnorm import plots
from tests.frames import values_by_block


def test_a_ridgeline_has_a_hill_of_equal_height_for_every_row():
    figure = plots.ridgeline(values_by_block(), "value_of", behind="before")
    before, after = figure.axes
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["before", "after"]
    # Five hills, and in the second panel those of the first, dashed.
    assert len(before.patches) == len(after.patches) == len(after.lines) == 5 and not before.lines
    hills = {row: hill.get_xy() for row, hill in zip(range(4, -1, -1), after.patches, strict=True)}
    assert [hill[:, 1].max() - row for row, hill in hills.items()] == pytest.approx([1.3] * 5)
    half = {row: numpy.ptp(hill[hill[:, 1] - row > 0.65, 0]) for row, hill in hills.items()}
    assert half[4] > 3 * half[0]
    assert re.search(r"after: mean -?[\d.]+, deviation (0\.9|1\.0|1)\d* at block 0, mean -?[\d.]+, deviation [45]", figure.alt)
    assert figure._supxlabel.get_text() == "dashed: before"


def test_a_ridgeline_has_a_logarithmic_axis_and_says_where_there_is_no_value():
    frame = values_by_block(["only"])
    frame["size"] = frame.value_of.abs() * 10.0**frame.block
    frame.loc[frame.block == 4, "size"] = numpy.inf
    frame.loc[frame.block == 0, "size"] *= -1
    figure = plots.ridgeline(frame, "size", None, log=True)
    (ax,) = figure.axes
    assert ax.get_xscale() == "log" and len(ax.patches) == 3
    assert [text.get_text() for text in ax.texts] == ["no value"] * 2
    # The hills of blocks 3, 2 and 1 stand a factor of about 10 apart from each other.
    tops = [hill.get_xy()[hill.get_xy()[:, 1].argmax(), 0] for hill in ax.patches]
    assert 40 < tops[0] / tops[2] < 400
    assert figure.alt == (
        "Ridgeline plot, the distribution of size by block on a logarithmic axis. no value at block 0, no value at block 4."
    )
    with pytest.raises(ValueError, match="behind='later' is no panel; allowed: only"):
        plots.ridgeline(frame, "size", behind="later")
