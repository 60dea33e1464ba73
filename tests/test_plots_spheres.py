"""Points beside a sphere."""

import pytest
import torch

from resnorm import plots


def test_the_alt_text_says_how_far_the_points_are():
    on = torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), dim=1) * 2
    figure = plots.spheres({"on it": on, "inside": on / 4}, 2.0)
    assert figure.alt == "20 points in space beside a sphere of radius 2; their distance from 0. on it: 2 to 2; inside: 0.5 to 0.5."
    assert len(figure.axes) == 2 and figure.axes[0].get_xlim()[1] > 2
    # the rings are drawn on the sphere
    x, y, z = (torch.tensor(values) for values in figure.axes[0].lines[3].get_data_3d())
    assert (x**2 + y**2 + z**2).sqrt().tolist() == pytest.approx([2.0] * 25)


def test_points_have_three_coordinates():
    with pytest.raises(ValueError, match=r"'flat' has the shape \(4, 2\)"):
        plots.spheres({"flat": torch.zeros(4, 2)}, 1.0)
