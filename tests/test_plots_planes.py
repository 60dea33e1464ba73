"""Vectors of a plane: arrows, the circle, and sums as corners of parallelograms."""

import math

import pytest

from resnorm import plots

HALVED = {f"y{k}": (math.cos(math.pi / 2 ** (k + 1)), math.sin(math.pi / 2 ** (k + 1))) for k in (1, 2)}


def test_a_plane_draws_every_vector_and_the_sums_that_turn_into_the_next():
    figure = plots.plane({"x": (1, 0), "F(x)": (0, 1), **HALVED}, ["F(x)", "y1", "y2"])
    (ax,) = figure.axes
    texts = [text.get_text() for text in ax.texts]
    assert {"x", "F(x): 90°", "y1: 45°", "y2: 22.5°", "x + F(x)", "x + y1"} <= set(texts) and "x + y2" not in texts
    assert [text.arrow_patch is not None for text in ax.texts if hasattr(text, "arrow_patch")].count(True) == 4
    corners = [tuple(line.get_xydata()[0]) for line in ax.lines if len(line.get_xydata()) == 1]
    assert corners == [(1, 1), pytest.approx((1 + math.sqrt(0.5), math.sqrt(0.5)))]
    assert "x: 0°, 1; F(x): 90°, 1; y1: 45°, 1; y2: 22.5°, 1." in figure.alt


def test_a_plane_has_room_for_every_vector():
    (ax,) = plots.plane({"x": (1, 0), "h": (-2, 3)}).axes
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert left < -2 and right > 1 and low < 0 and high > 3


def test_a_vector_that_turns_has_an_arrow():
    with pytest.raises(ValueError, match="no arrow 'y1'; allowed: 'x'"):
        plots.plane({"x": (1, 0)}, ["y1"])
