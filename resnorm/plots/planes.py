"""Vectors of one plane: how a norm on the circle and a skip that is added again turn them."""

import math
from collections.abc import Mapping, Sequence

import numpy

from resnorm.plots.charts import Chart
from resnorm.plots.house import COLOURS, GREY, MARKERS, style


def plane(arrows: Mapping[str, tuple[float, float]], turning: Sequence[str] = ()):
    """Draw vectors of a plane as arrows, with the circle on which a norm puts them.

    ``arrows``: components along x and across it by name, in units of the circle's radius; the first of them is x.
    ``turning``: those that follow one another, each as x plus the one before, pulled back onto the circle; the sum is drawn
    as the corner of a parallelogram. Returns a matplotlib Figure. Raises ValueError for a name that has no arrow.
    """
    for name in turning:
        if name not in arrows:
            raise ValueError(f"there is no arrow {name!r}; allowed: {', '.join(map(repr, arrows))}")
    x, *_ = arrows
    degrees = {name: round(math.degrees(math.atan2(across, along)), 9) + 0.0 for name, (along, across) in arrows.items()}
    sums = {name: (arrows[x][0] + arrows[name][0], arrows[x][1] + arrows[name][1]) for name in turning[:-1]}
    points = numpy.array([(0.0, 0.0), *arrows.values(), *sums.values()])
    with style():
        figure = Chart(figsize=(7.6, 4.4), layout="constrained")
        ax = figure.add_subplot(aspect="equal")
        ax.axis("off")
        arc = numpy.linspace(0, math.radians(max(90, *degrees.values())), 200)
        ax.plot(numpy.cos(arc), numpy.sin(arc), color=GREY, lw=1)
        for name, tip in arrows.items():
            if name in turning:
                _draw_along(ax, f"{name}: {degrees[name]:.3g}°", tip, degrees[name], COLOURS[turning.index(name)])
            else:
                _draw_arrow(ax, tip, GREY)
                below = -15 if tip[1] <= 0 else 4
                ax.annotate(name, tip, (4, below), textcoords="offset points", color=GREY, weight="bold")
        for index, (name, corner) in enumerate(sums.items(), start=1):
            _draw_sum(ax, f"{x} + {name}", arrows[x], arrows[name], corner, index)
        ax.set(
            xlim=(points[:, 0].min() - 0.15, points[:, 0].max() + 0.35),
            ylim=(points[:, 1].min() - 0.12, max(1.0, points[:, 1].max()) + 0.12),
        )
    return figure.says(
        f"Vectors of a plane, with the circle of radius 1; {x} along the horizontal axis. Their angles to it and their lengths",
        (f"{name}: {degrees[name]:.3g}°, {math.hypot(*tip):.3g}" for name, tip in arrows.items()),
    )


def _draw_arrow(ax, tip, colour: str) -> None:
    ax.annotate("", tip, (0, 0), arrowprops=dict(arrowstyle="-|>", color=colour, lw=2, shrinkA=0, shrinkB=0))


def _draw_along(ax, text: str, tip, turn: float, colour: str) -> None:
    """An arrow with its name along it, above it."""
    _draw_arrow(ax, tip, colour)
    at = (0.62 * tip[0] - 0.03 * tip[1], 0.62 * tip[1] + 0.03 * tip[0])
    ax.text(*at, text, rotation=turn, rotation_mode="anchor", color=colour, weight="bold")


def _draw_sum(ax, text: str, x, y, corner, index: int) -> None:
    """The sum before the norm: the corner of a parallelogram, its diagonal dashed."""
    colour = COLOURS[index]
    ax.plot([y[0], corner[0], x[0]], [y[1], corner[1], x[1]], ":", color=colour, lw=1.2)
    ax.plot([0, corner[0]], [0, corner[1]], "--", color=colour, lw=1)
    ax.plot(*corner, MARKERS[index], color=colour)
    ax.annotate(text, corner, (9, -4), textcoords="offset points", color=colour)
