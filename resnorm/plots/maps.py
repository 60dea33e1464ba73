"""A value over two axes as colour, with lines of equal value, so that nothing hangs on the colour."""

import math

import numpy
from matplotlib.patheffects import withStroke

from resnorm.plots.charts import grid, say_seeds
from resnorm.plots.house import style
from resnorm.plots.observations import VALUE, number, observations, over_seeds, select


def heat_map(frame, y: str, panels: str | None = "label", *, x: str = "step", rows: str = "block", ylabel: str | None = None):
    """Draw ``y`` > 0 as colour over ``x`` and ``rows``, a panel for each value of ``panels``, on one logarithmic scale.

    ``frame``, ``y``: as in `curves`; seeds are averaged by their geometric mean. Nothing hangs on the colour: lines of
    equal value carry their value, and every panel says its range. Returns a matplotlib Figure.
    Raises as `curves`, and ValueError where no value is above 0.
    """
    data = observations(frame, x, y, panels, rows)
    if not (data[VALUE] > 0).any():
        raise ValueError(f"no value of {y!r} is above 0; a heat map has a logarithmic scale")
    data = data.assign(**{VALUE: numpy.log10(data[VALUE].where(data[VALUE] > 0))})
    tables = {
        name: select(data, {panels: name}).pivot_table(index=rows, columns=x, values=VALUE, dropna=False)
        for name in (dict.fromkeys(data[panels]) if panels else [None])
    }
    ylabel, parts, images = ylabel or y, [], []
    with style():
        figure, axes = grid(len(tables))
        low = numpy.nanmin([table.min(axis=None) for table in tables.values()])
        high = numpy.nanmax([table.max(axis=None) for table in tables.values()])
        levels = _levels(low, high)
        for ax, (name, table) in zip(axes, tables.items(), strict=True):
            images.append(_draw_map(ax, table, low, high, levels))
            place, extent = ax.get_subplotspec(), _extent(table)
            ax.set_title("" if name is None else str(name), fontsize=10, pad=16)
            ax.annotate(extent, (0, 1), (0, 4), "axes fraction", textcoords="offset points", fontsize=9)
            ax.set(xlabel=x if place.is_last_row() else "", ylabel=rows if place.is_first_col() else "")
            parts.append(f"{'' if name is None else f'{name}: '}{extent}{_corners(table.dropna(axis=1, how='all'))}")
        bar = figure.colorbar(images[0], ax=axes, aspect=30, pad=0.02, label=ylabel, ticks=levels)
        bar.set_ticklabels([number(10**level) for level in levels])
        bar.outline.set_visible(False)
        say_seeds(figure, data, spread="geometric mean")
    head = f"Heat map of {ylabel} by {x} and {rows} on a logarithmic scale{over_seeds(data, 'geometric mean')}"
    return figure.says(head, parts, between=". ")


def _draw_map(ax, table, low: float, high: float, levels: list[float]):
    x, y = (numpy.asarray(axis, dtype=float) for axis in (table.columns, table.index))
    # One picture a panel in place of a path a cell: a deep network has thousands of cells.
    image = ax.pcolormesh(_edges(x), _edges(y), table, cmap="cividis", vmin=low, vmax=high, rasterized=True)
    own = [level for level in levels if table.min(axis=None) + 1e-9 < level < table.max(axis=None) - 1e-9]
    if own and min(table.shape) > 1:
        lines = ax.contour(x, y, numpy.ma.masked_invalid(table), own, colors="#FFFFFF", linewidths=1, linestyles="-")
        labels = ax.clabel(lines, fontsize=8, fmt=lambda value: number(10**value))
        for artist in (lines, *labels):
            artist.set_path_effects([withStroke(linewidth=2, foreground="#000000")])
    ax.set(xlim=_edges(x)[[0, -1]], ylim=_edges(y)[[0, -1]])
    ax.grid(visible=False)
    ax.yaxis.get_major_locator().set_params(integer=True)
    if len(x) > 4:
        ax.xaxis.get_major_locator().set_params(nbins=4, integer=True)
    else:
        ax.set_xticks(x)
    return image


def _levels(low: float, high: float) -> list[float]:
    """At most six round values between two logarithms: 1, 2 and 5 times a power of ten, or powers alone."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    choices = [[power + math.log10(factor) for power in powers for factor in (1, 2, 5)]]
    choices += [[power for power in powers if power % stride == 0] for stride in (1, 2, 5, 10, 20, 50)]
    inside = ([level for level in levels if low <= level <= high] for levels in choices)
    return next(levels for levels in inside if len(levels) <= 6)


def _edges(centres):
    """The borders halfway between neighbours, and as far outside the first and the last."""
    if len(centres) == 1:
        return numpy.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return numpy.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _extent(table) -> str:
    """The smallest and the largest value of a table of logarithms."""
    low, high = table.min(axis=None), table.max(axis=None)
    return "diverged" if low != low else f"{number(10**low)} to {number(10**high)}"


def _corners(table) -> str:
    """What a table of logarithms says in its first and its last row, at its first and its last column."""
    found = ""
    for at in dict.fromkeys(table.columns[[0, -1]] if table.shape[1] else ()):
        known = [row for row in table.index[[0, -1]] if table.at[row, at] == table.at[row, at]]
        ends = [f"{number(10 ** table.at[row, at])} at {table.index.name} {number(row)}" for row in known]
        found += f"; at {table.columns.name} {number(at)} {', '.join(ends)}" if ends else ""
    return found
