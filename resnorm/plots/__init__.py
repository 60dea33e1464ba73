"""The house style and the figures: legible on white and on dark, never by colour alone, with alt text from the data."""

from resnorm.extras import needed_for

with needed_for("figures"):
    from resnorm.plots.cubes import norm_cubes
    from resnorm.plots.dots import bars, dot_table, intervals
    from resnorm.plots.house import COLOURS, GREY, HATCHES, LINES, MARKERS, style
    from resnorm.plots.lines import by_depth, curves, traces
    from resnorm.plots.maps import heat_map
    from resnorm.plots.output import describe, show, svg
    from resnorm.plots.pictures import pictures
    from resnorm.plots.planes import plane
    from resnorm.plots.ridges import ridgeline
    from resnorm.plots.spheres import spheres
    from resnorm.plots.tables import cells

__all__ = [
    "COLOURS",
    "GREY",
    "HATCHES",
    "LINES",
    "MARKERS",
    "bars",
    "by_depth",
    "cells",
    "curves",
    "describe",
    "dot_table",
    "heat_map",
    "intervals",
    "norm_cubes",
    "pictures",
    "plane",
    "ridgeline",
    "show",
    "spheres",
    "style",
    "svg",
    "traces",
]
