"""The house style: legible on both pages, and left behind."""

import matplotlib
import pytest

from resnorm import plots
from tests.frames import contrast, runs


@pytest.mark.parametrize("page", ["#FFFFFF", "#121212"])
def test_text_and_lines_stand_out_from_both_pages(page):
    assert contrast(plots.GREY, page) > 4
    # Orange and sky blue are light by design of the palette; marker and line style carry them too.
    assert all(contrast(colour, page) > (2.1 if index > 3 else 2.9) for index, colour in enumerate(plots.COLOURS))


def test_the_style_is_left_behind():
    before = dict(matplotlib.rcParams)
    plots.curves(runs())
    assert dict(matplotlib.rcParams) == before
