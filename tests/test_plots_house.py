"""The house style: legible on both pages, and left behind."""

import matplotlib
import numpy
import pytest
from matplotlib.colors import to_rgb

from resnorm import plots
from tests.frames import runs


def luminance(colour):
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return numpy.dot([0.2126, 0.7152, 0.0722], parts)


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#FFFFFF", "#121212"])
def test_text_and_lines_stand_out_from_both_pages(page):
    assert contrast(plots.GREY, page) > 4
    # Orange and sky blue are light by design of the palette; marker and line style carry them too.
    assert all(contrast(colour, page) > (2.1 if index > 3 else 2.9) for index, colour in enumerate(plots.COLOURS))


def test_the_style_is_left_behind():
    before = dict(matplotlib.rcParams)
    plots.curves(runs())
    assert dict(matplotlib.rcParams) == before
