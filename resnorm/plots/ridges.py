"""How values are distributed, row by row: hills one above the other."""

import math
from typing import Any

import numpy

from resnorm.plots.charts import say_seeds, side_by_side
from resnorm.plots.house import COLOURS, GREY, style
from resnorm.plots.observations import VALUE, number, observations, over_seeds, select


def ridgeline(
    frame,
    y: str,
    panels: str | None = "label",
    *,
    rows: str = "block",
    xlabel: str | None = None,
    behind: Any = None,
    log: bool = False,
):
    """Draw how the values of ``y`` are distributed, a hill for each of ``rows`` above that of the one before.

    ``frame``: tidy, one row a value. ``panels``: a column, one panel for each of its values. Every hill has the same
    height, so that width and place are what is compared. ``behind``: a panel whose hills stand as dashed lines in the
    others, too. ``log``: a logarithmic axis; values of 0 and less are left out, as are those that are not finite.
    Returns a matplotlib Figure. Raises as `curves`, and ValueError for a ``behind`` that is no panel.
    """
    data = observations(frame, rows, y, panels, None)
    if panels and behind is not None and behind not in set(data[panels]):
        raise ValueError(f"behind={behind!r} is no panel; allowed: {', '.join(map(str, dict.fromkeys(data[panels])))}")
    titles, levels = list(dict.fromkeys(data[panels])) if panels else [None], sorted(set(data[rows]))
    data = data[numpy.isfinite(data[VALUE]) & ((data[VALUE] > 0) | (not log))]
    values = numpy.log10(data[VALUE]) if log else data[VALUE]
    edges = numpy.linspace(values.quantile(0.005 if log else 0.0003), values.quantile(0.9998) + 1e-9, 101)
    data = data.assign(**{VALUE: values})
    hills = {
        title: {level: hill.to_numpy() for level, hill in select(data, {panels: title}).groupby(rows)[VALUE]} for title in titles
    }
    parts = []
    with style():
        figure, axes = side_by_side(len(titles), height=1.2 + 0.24 * len(levels))
        for index, (ax, title) in enumerate(zip(axes, titles, strict=True)):
            _draw_hills(ax, hills[title], levels, edges, COLOURS[index % len(COLOURS)], log)
            if behind is not None and title != behind:
                _draw_hills(ax, hills[behind], levels, edges, None, log)
            ax.set(xlabel=xlabel or y, title="" if title is None else str(title))
            ax.set_xlim(*(10 ** edges[[0, -1]] if log else edges[[0, -1]]))
            parts.append(("" if title is None else f"{title}: ") + _ends_of_hills(hills[title], levels, rows, log))
        step = math.ceil(len(levels) / 9)
        axes[0].set(ylabel=rows, ylim=(-0.3, len(levels) + 0.6))
        axes[0].set_yticks(range(0, len(levels), step), [number(level) for level in levels[::step]])
        say_seeds(figure, data, also="" if behind is None else f"; dashed: {behind}", spread="all values")
    axis = " on a logarithmic axis" if log else ""
    head = f"Ridgeline plot, the distribution of {xlabel or y} by {rows}{axis}{over_seeds(data, 'all values')}"
    return figure.says(head, parts)


def _draw_hills(ax, hills, levels: list, edges, colour: str | None, log: bool) -> None:
    """Hills of equal height over their rows; without a colour dashed outlines."""
    middle = (edges[1:] + edges[:-1]) / 2
    if log:
        ax.set_xscale("log")
        middle = 10**middle
    for row in reversed(range(len(levels))):
        hill = _density(hills[levels[row]], edges) if levels[row] in hills else None
        if hill is None or not hill.any():
            if colour:
                where = ax.get_yaxis_transform()
                ax.text(0.5, row + 0.1, "no value", ha="center", style="italic", fontsize=8, transform=where)
            continue
        (seen,) = (hill > 0.004).nonzero()
        x, top = (along[seen[0] : seen[-1] + 1] for along in (middle, row + 1.3 * hill))
        if colour is None:
            ax.plot(x, top, color=GREY, lw=0.9, ls=(0, (3, 2)), zorder=200)
        else:
            around = [x[0], *x, x[-1]], [row, *top, row]
            ax.fill(*around, fc=colour + "66", ec=colour, lw=1.2, zorder=100 - row)


def _density(values, edges):
    """A smoothed histogram, highest at 1; zeros where no value lies between the edges."""
    counts = numpy.histogram(values, edges)[0].astype(float)
    low, high = numpy.quantile(values, (0.25, 0.75))
    # Silverman's bandwidth, in bins.
    wide = 0.9 * min(values.std(), (high - low) / 1.34 or values.std()) * len(values) ** -0.2 / (edges[1] - edges[0])
    wide = min(max(wide, 0.8), len(counts) / 10)
    reach = numpy.arange(-math.ceil(3 * wide), math.ceil(3 * wide) + 1)
    smooth = numpy.convolve(counts, numpy.exp(-0.5 * (reach / wide) ** 2), "same")
    return smooth / (smooth.max() or 1.0)


def _ends_of_hills(hills, levels: list, rows: str, log: bool) -> str:
    """Where the values of the first and of the last row lie."""
    texts = []
    for level in (levels[0], levels[-1]):
        found = hills.get(level)
        if found is None:
            where = "no value"
        elif log:
            where = f"geometric mean {number(10 ** found.mean())}"
        else:
            where = f"mean {number(found.mean())}, deviation {number(found.std())}"
        texts.append(f"{where} at {rows} {number(level)}")
    return ", ".join(texts)
