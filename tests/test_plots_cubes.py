"""Cubes of what a norm averages over."""

import pytest

from resnorm import plots
from resnorm.plots.cubes import _averaged, _shared_statistic


@pytest.mark.parametrize(
    ("name", "over", "count"),
    [
        ("batch", "samples and positions", 16),
        ("layer", "channels", 6),
        ("layer2d", "channels", 6),
        ("group(groups=1)", "channels and positions", 24),
        ("group(groups=3)", "2 of 6 channels and positions", 8),
        ("instance", "positions", 4),
        ("rms", "channels", 6),
    ],
)
def test_the_cubes_colour_what_the_norm_averages_over(name, over, count):
    shared = _shared_statistic(name)
    assert shared.shape == (4, 6, 4) and shared.sum() == count
    assert _averaged(shared) == over


def test_norm_cubes_has_a_cube_for_each_and_says_what_it_shows():
    figure = plots.norm_cubes()
    assert [axes.get_title() for axes in figure.axes][:2] == ["Batch norm", "Layer norm"]
    assert "Batch norm (batch): 16 of 96 values, over samples and positions" in figure.alt
    assert len(plots.norm_cubes(["batch", "instance"]).axes) == 2
