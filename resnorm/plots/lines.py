"""Lines: the mean over the seeds with its spread, and traces, each in units of its own."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D

from resnorm.plots.charts import grid, say_seeds, side_by_side
from resnorm.plots.house import COLOURS, GREY, LINES, MARKERS, style
from resnorm.plots.observations import VALUE, number, observations, over_seeds, select


def curves(
    frame,
    x: str = "step",
    y: str = "loss",
    hue: str | None = "label",
    *,
    panels: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    log: bool = False,
    log_x: float | None = None,
    level: float | Sequence[float] | None = None,
    law=None,
):
    """Draw the mean of ``y`` over ``x``, one line for each value of ``hue``, with a band of one standard deviation.

    ``frame``: tidy, as from `resnorm.lab.frame`, or its rows as dictionaries; ``y`` is a column or a value of its column
    ``metric``; rows that differ in nothing but the seed are averaged. ``panels``: a column, one panel for each of its
    values. ``log``: a logarithmic vertical axis; ``log_x``: the base of a logarithmic horizontal one. ``level``: a value,
    or several, that a line marks across all panels. ``law``: a prediction, drawn as thin lines: a frame of the same columns, or the
    name of the frame's column that holds it.
    Returns a matplotlib Figure. Raises ValueError if a column, the metric or every value is missing.
    """
    data = observations(frame, x, y, hue, panels)
    predicted, column = (data, law) if isinstance(law, str) else (law, y)
    laws = None if law is None else observations(predicted, x, column, hue, panels)
    names = list(dict.fromkeys(data[hue])) if hue else [ylabel or y]
    titles = _titles(data[panels]) if panels else [None]
    levels = [] if level is None else list(level) if isinstance(level, Sequence) else [level]
    xlabel, ylabel = xlabel or x, ylabel or y
    lines = {}
    with style():
        figure, axes = side_by_side(len(titles), legend_rows=math.ceil(len(names) / 3) if len(names) > 1 else 0)
        for ax, title in zip(axes, titles, strict=True):
            for index, name in enumerate(names):
                rows = select(data, {panels: title, hue: name})
                if len(rows):
                    lines[title, name] = line = _summarised(rows, x)
                    _draw_line(ax, line, x, index, predicted=laws is not None)
                if laws is not None and len(rows := select(laws, {panels: title, hue: name})):
                    line = _summarised(rows, x)
                    ax.plot(line[x], line["mean"], color=COLOURS[index % len(COLOURS)], lw=1.2, zorder=1)
            ax.set(xlabel=xlabel, title=_named(panels, title))
            if log:
                ax.set_yscale("log")
            for value in levels:
                ax.axhline(value, color=GREY, lw=1, zorder=1)
            if log_x:
                _log_x(ax, log_x, sorted(set(data[x])))
            elif set(data[x]) <= set(range(200)):
                ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel(ylabel)
        _legend(figure, names, predicted=laws is not None)
        say_seeds(figure, data)
    kind = "Line chart" if law is None else "Points, with predicted lines,"
    on = {
        (True, False): " on a logarithmic axis",
        (False, True): ", that on a logarithmic axis",
        (True, True): ", both logarithmic",
    }
    marked = f"; {'a line marks' if len(levels) == 1 else 'lines mark'} {' and '.join(map(number, levels))}" if levels else ""
    head = f"{kind} of {ylabel} by {xlabel}{on.get((log, bool(log_x)), '')}{over_seeds(data)}{marked}"
    parts = [
        f"{'' if title is None else f'{_named(panels, title)}, '}{name}: {number(line['mean'].iloc[0])} at {xlabel} "
        f"{number(line[x].iloc[0])}, {number(line['mean'].iloc[-1])} at {number(line[x].iloc[-1])}"
        for (title, name), line in lines.items()
    ]
    return figure.says(head, parts)


def by_depth(frame, y: str = "forward_rms", hue: str | None = "label", *, x: str = "block", log: bool = True, **options: Any):
    """Draw ``y`` by block, as `curves`, on a logarithmic axis; give the closed form as ``law`` to see both."""
    return curves(frame, x, y, hue, log=log, **options)


def traces(frame, x: str, y: str, panels: str, *, xlabel: str | None = None, ylabel: str | None = None):
    """Draw ``y`` over ``x`` as one thin line a panel, each in units of its own standard deviation, around its mean.

    ``frame``: one row a point, evenly spaced, no seeds; ``panels``: a column, one panel for each of its values. A panel
    says its autocorrelation r, the correlation of every value with the next: 0 for white noise, near 1 for a smooth
    line. Returns a matplotlib Figure. Raises as `curves`, and ValueError where a line has fewer than three values.
    """
    data = observations(frame, x, y, None, panels)
    names, parts = list(dict.fromkeys(data[panels])), []
    with style():
        figure, axes = grid(len(names))
        for index, (ax, name) in enumerate(zip(axes, names, strict=True)):
            line = data[data[panels] == name].sort_values(x)
            if len(line) < 3:
                raise ValueError(f"{name!r} has {len(line)} values; a line needs three or more")
            values = (line[VALUE] - line[VALUE].mean()) / line[VALUE].std()
            text = f"r = {values.autocorr(1):.2f}"
            ax.plot(line[x], values, color=COLOURS[index % len(COLOURS)], lw=1.1)
            ax.set_title(str(name), fontsize=10, pad=16)
            ax.annotate(text, (0, 1), (0, 4), "axes fraction", textcoords="offset points", fontsize=9)
            place = ax.get_subplotspec()
            ax.set(xlabel=(xlabel or x) if place.is_last_row() else "")
            ax.set_ylabel((ylabel or y) if place.is_first_col() else "")
            parts.append(f"{name}: {text}")
    head = f"Lines of {ylabel or y} by {xlabel or x}, each in units of its standard deviation, with the correlation r of neighbours"
    return figure.says(head, parts)


def _summarised(rows, x: str):
    """Mean, standard deviation and number of seeds at each x, where there is a value."""
    grouped = rows.dropna(subset=[VALUE]).groupby(x, sort=True)[VALUE]
    return grouped.agg(["mean", "std", "count"]).reset_index()


def _draw_line(ax, line, x: str, index: int, predicted: bool) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    # Beside a predicted line, the measured points stand alone; else a line needs few markers.
    kind = "" if predicted else LINES[index % len(LINES)]
    every = 1 if predicted or len(line) <= 12 else (index, max(1, len(line) // 8))
    ax.plot(line[x], line["mean"], linestyle=kind, marker=marker, markevery=every, color=colour, mec="none", zorder=3)
    if (line["count"] > 1).any():
        low, high = line["mean"] - line["std"].fillna(0), line["mean"] + line["std"].fillna(0)
        ax.fill_between(line[x], low, high, color=colour, alpha=0.2, lw=0, zorder=2)


def _titles(values) -> list:
    """The panels: numbers by their size, names in the order of the frame."""
    values = list(dict.fromkeys(values))
    return values if any(isinstance(value, str) for value in values) else sorted(values)


def _named(panels: str | None, title) -> str:
    """What stands above a panel: a name says by itself what it is, a number does not."""
    return "" if title is None else title if isinstance(title, str) else f"{panels} {title}"


def _log_x(ax, base: float, values: list) -> None:
    """A logarithmic horizontal axis; where the values are few, they are its ticks."""
    ax.set_xscale("log", base=base)
    if len(values) <= 7:
        ax.set_xticks(values, [number(value) for value in values])
        ax.minorticks_off()


def _legend(figure, names: list, predicted: bool) -> None:
    if len(names) < 2:
        return
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle="-" if predicted else LINES[i % len(LINES)],
            lw=1.2 if predicted else 2.0,
        )
        for i in range(len(names))
    ]
    figure.legend(handles, [str(name) for name in names], loc="outside upper left", ncols=min(3, len(names)))
