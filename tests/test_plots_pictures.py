"""Images and maps in a table."""

import pytest
import torch

from resnorm import plots


def test_rows_are_drawn_in_their_own_span_and_said_in_numbers():
    flat, bright = torch.full((4, 5), 0.25), torch.full((3, 4, 5), 2.0)
    figure = plots.pictures(
        {"map": [flat, flat], "photograph": [bright, bright / 4]}, ["a", "b"], span={"map": (-1, 1), "photograph": (0, 1)}
    )
    images = [axes.images[0] for axes in figure.axes]
    assert images[0].get_clim() == (-1, 1)
    # Colour is cut at the ends of the span, as a screen does.
    assert images[2].get_array().max() == 1 and images[3].get_array().max() == 0.5
    assert [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes[:2]] == ["a", "b"]
    assert figure.alt == (
        "2 rows of 2 pictures, a, b; mean ± standard deviation of their values. "
        "map: 0.25 ± 0, 0.25 ± 0; photograph: 2 ± 0, 0.5 ± 0."
    )


def test_rows_of_unequal_length_and_other_shapes_are_refused():
    image = torch.zeros(4, 5)
    with pytest.raises(ValueError, match=r"one image for every column; there are \{'a': 1, 'columns': 2\}"):
        plots.pictures({"a": [image]}, ["x", "y"])
    with pytest.raises(ValueError, match=r"shape \(2, 4, 5\)"):
        plots.pictures({"a": [torch.zeros(2, 4, 5)]})
