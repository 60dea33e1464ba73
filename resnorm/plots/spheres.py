"""Points in space beside the sphere on which a norm puts them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from resnorm.plots.charts import Chart
from resnorm.plots.house import COLOURS, GREY, MARKERS, style
from resnorm.plots.observations import number


def spheres(clouds: Mapping[str, Tensor], radius: float):
    """Draw points with three coordinates, a panel for each cloud, all with the same sphere around 0.

    ``clouds``: by their title, each of shape (points, 3). The alt text has the smallest and the largest distance from 0.
    Returns a matplotlib Figure. Raises ValueError for another shape.
    """
    for title, points in clouds.items():
        if points.dim() != 2 or points.shape[1] != 3:
            raise ValueError(f"{title!r} has the shape {tuple(points.shape)}; give (points, 3)")
    around = torch.linspace(0, 2 * math.pi, 25)
    reach = 1.15 * radius
    with style():
        figure = Chart(figsize=(7.6, 0.4 + 7.2 / len(clouds)))
        figure.subplots_adjust(0, 0, 1, 0.92, wspace=0)
        for index, (title, points) in enumerate(clouds.items()):
            panel = figure.add_subplot(1, len(clouds), index + 1, projection="3d", title=title)
            for height in torch.linspace(-0.92, 0.92, 9) * radius:
                ring = (radius**2 - height**2).sqrt()
                panel.plot(ring * around.cos(), ring * around.sin(), height, color=GREY, lw=0.5)
            looks = dict(marker=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)])
            panel.scatter(*points.T.numpy(), s=9, depthshade=False, **looks)
            panel.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach, reach))
            panel.set_box_aspect((1, 1, 1), zoom=1.5)
            panel.view_init(elev=20, azim=-15)
            panel.set_axis_off()
    distances = {title: points.norm(dim=1) for title, points in clouds.items()}
    count = len(next(iter(clouds.values())))
    return figure.says(
        f"{count} points in space beside a sphere of radius {number(radius)}; their distance from 0",
        (f"{title}: {number(away.min().item())} to {number(away.max().item())}" for title, away in distances.items()),
    )
