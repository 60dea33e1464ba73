"""The house style and the figures: legible on white and on dark, never by colour alone, with alt text from the data."""

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from resnorm.extras import needed_for
from resnorm.lab import mean_and_deviation

with needed_for("figures"):
    import matplotlib
    import numpy
    from cycler import cycler
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

# Okabe-Ito without black and yellow, which vanish on a dark or a white page; the grey is as far from both.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#787878"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
LINES: list[Any] = ["-", "--", "-.", (0, (1, 1.2)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3))]
HATCHES = ["//", "\\\\", "||", "xx", "--", "++", "///"]
GREY = "#787878"


def style() -> AbstractContextManager:
    """Return a context in which matplotlib draws in the house style."""
    settings = {
        "figure.figsize": (7.6, 4.0),
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "font.size": 11,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "text.color": GREY,
        "axes.labelcolor": GREY,
        "axes.edgecolor": GREY,
        "axes.titlecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "grid.color": GREY,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS),
        "lines.linewidth": 2.0,
        "lines.markersize": 6,
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "hatch.linewidth": 0.8,
        "svg.fonttype": "path",
        "svg.hashsalt": "resnorm",
    }
    return matplotlib.rc_context(settings)


def show(figure, alt: str | None = None) -> None:
    """Display a figure in a notebook as SVG, with its alt text in the output's metadata and as its plain text.

    ``alt``: the text; by default the one that the figure's own function computed (see `describe`).
    Raises ValueError if there is none.
    """
    with needed_for("figures in a notebook", "book"):
        from IPython.display import display
    alt = alt or describe(figure)
    bundle = {"image/svg+xml": svg(figure), "text/plain": alt}
    display(bundle, metadata={"image/svg+xml": {"alt": alt}, "alt": alt}, raw=True)


def svg(figure) -> str:
    """Return the figure as the text of an SVG with a transparent background; equal figures give equal texts."""
    with style():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # A hundredth of a point is finer than any screen; matplotlib's millionths double the size of a page.
    shorter = re.compile(r"(\.\d\d)\d+")
    return re.sub(r' d="[^"]*"', lambda path: shorter.sub(r"\1", path[0]), buffer.getvalue())


def describe(figure) -> str:
    """Return the alt text that was computed from the figure's data; raises ValueError if it is not one of ours."""
    alt = getattr(figure, "alt", None)
    if not alt:
        raise ValueError("the figure has no alt text: write one, show(figure, alt=...), with the numbers that it shows")
    return alt


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
    law=None,
):
    """Draw the mean of ``y`` over ``x``, one line for each value of ``hue``, with a band of one standard deviation.

    ``frame``: tidy, as from `resnorm.lab.frame`; ``y`` is a column or a value of its column ``metric``; rows that
    differ in nothing but the seed are averaged. ``panels``: a column, one panel for each of its values. ``log``: a
    logarithmic vertical axis. ``law``: a frame of the same columns, drawn as thin lines: a prediction.
    Returns a matplotlib Figure. Raises ValueError if a column, the metric or every value is missing.
    """
    data = _observations(frame, x, y, hue, panels)
    laws = None if law is None else _observations(law, x, y, hue, panels)
    names = list(dict.fromkeys(data[hue])) if hue else [ylabel or y]
    titles = sorted(set(data[panels])) if panels else [None]
    xlabel, ylabel = xlabel or x, ylabel or y
    lines = {}
    with style():
        figure, axes = _panels(len(titles), legend_rows=math.ceil(len(names) / 3) if len(names) > 1 else 0)
        for ax, title in zip(axes, titles, strict=True):
            for index, name in enumerate(names):
                rows = _select(data, {panels: title, hue: name})
                if len(rows):
                    lines[title, name] = line = _summarised(rows, x)
                    _draw_line(ax, line, x, index, predicted=laws is not None)
                if laws is not None and len(rows := _select(laws, {panels: title, hue: name})):
                    line = _summarised(rows, x)
                    ax.plot(line[x], line["mean"], color=COLOURS[index % len(COLOURS)], lw=1.2, zorder=1)
            ax.set(xlabel=xlabel, title="" if title is None else f"{panels} {title}")
            if log:
                ax.set_yscale("log")
            if set(data[x]) <= set(range(200)):
                ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel(ylabel)
        _legend(figure, names, predicted=laws is not None)
        _say_seeds(figure, data)
    kind = "Line chart" if law is None else "Points, with predicted lines,"
    head = f"{kind} of {ylabel} by {xlabel}{' on a logarithmic axis' if log else ''}{_seeds(data)}."
    parts = [
        f"{'' if title is None else f'{panels} {title}, '}{name}: {_number(line['mean'].iloc[0])} at {xlabel} "
        f"{_number(line[x].iloc[0])}, {_number(line['mean'].iloc[-1])} at {_number(line[x].iloc[-1])}"
        for (title, name), line in lines.items()
    ]
    figure.alt = f"{head} {'; '.join(parts)}."
    return figure


def by_depth(frame, y: str = "forward_rms", hue: str | None = "label", *, x: str = "block", log: bool = True, **options: Any):
    """Draw ``y`` by block, as `curves`, on a logarithmic axis; give the closed form as ``law`` to see both."""
    return curves(frame, x, y, hue, log=log, **options)


def bars(frame, y: str, by: str = "label", *, ylabel: str | None = None, scale: float = 1.0, published=None):
    """Draw the mean of ``y`` for each value of ``by``: a bar from zero, a dot a seed, one deviation as a whisker.

    ``frame``, ``y``: as in `curves`; ``scale`` multiplies every value (100 for per cent); ``published``: a dictionary
    of published values by name, drawn as a diamond. Returns a matplotlib Figure. Raises as `curves`.
    """
    data = _observations(frame, by, y, None, None)
    data = data.assign(**{_VALUE: data[_VALUE] * scale})
    names = list(dict.fromkeys(data[by]))
    parts = []
    with style():
        figure, (ax,) = _panels(1, height=0.9 + 0.46 * len(names))
        for row, name in enumerate(names):
            values = data[data[by] == name][_VALUE].dropna()
            if values.empty:
                ax.text(0, row, " diverged", va="center", style="italic")
                parts.append(f"{name}: diverged")
                continue
            mean, deviation = values.mean(), values.std() if len(values) > 1 else 0.0
            colour = COLOURS[row % len(COLOURS)]
            ax.barh(row, mean, 0.62, fc=colour + "59", ec=colour, lw=1.2, hatch=HATCHES[row % len(HATCHES)])
            if deviation:
                ax.errorbar(mean, row, xerr=deviation, color=GREY, lw=1.4, capsize=3, zorder=3)
            ax.plot(values, [row] * len(values), "o", color=colour, mec=GREY, mew=0.7, ms=5, zorder=4)
            text = mean_and_deviation(values)
            reach = max(values.max(), mean + deviation)
            ax.annotate(text, (reach, row), (8, 0), textcoords="offset points", va="center")
            parts.append(f"{name}: {text}" + (" (one seed)" if len(values) == 1 else ""))
            if published and name in published:
                ax.plot(published[name], row, "D", mfc="#FFFFFF", mec="#000000", ms=8, zorder=5)
                parts[-1] += f", published {_number(published[name])}"
        ax.set(yticks=range(len(names)), yticklabels=names, xlabel=ylabel or y)
        ax.set_xlim(0, ax.get_xlim()[1] * 1.2)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        _say_seeds(figure, data, also="; diamonds: published" if published else "")
    figure.alt = f"Bar chart of {ylabel or y}{_seeds(data)}. {'; '.join(parts)}."
    return figure


def dot_table(
    frame,
    y: str,
    by: str,
    *,
    panels: str | None = None,
    names: Sequence[str] | None = None,
    ylabel: str | None = None,
    reference: str | None = None,
    published: dict[str, float | str] | None = None,
    published_label: str = "published",
):
    """Draw ``y`` as a table of dots: a row a name, a marker a seed, the mean as a tick; the published values beside it.

    ``frame``, ``y``, ``by``: as in `curves`; a run without a value counts as diverged. ``panels``: a column, one panel
    for each of its values, on one axis. ``names``: the rows, by default those of the frame, then those published.
    ``reference``: a name whose mean is drawn as a line through its panel. ``published``: values, or words such as
    "fail", by name; they have a panel and an axis of their own, because they come from another setting.
    Returns a matplotlib Figure. Raises as `curves`.
    """
    data = _observations(frame, by, y, None, panels)
    names = list(names or dict.fromkeys([*data[by], *(published or ())]))
    titles = list(dict.fromkeys(data[panels])) if panels else [None]
    parts: dict[str, list[str]] = {name: [] for name in names}
    with style():
        figure, axes = _dot_panels(len(titles), len(names), bool(published))
        for ax, title in zip(axes, titles, strict=False):
            shown = _select(data, {panels: title})
            for row, name in enumerate(names):
                text = _draw_seeds(ax, row, shown[shown[by] == name][_VALUE], dense=len(titles) > 1)
                parts[name].append(text if title is None else f"{title}: {text}")
            if reference is not None and shown[shown[by] == reference][_VALUE].notna().any():
                ax.axvline(shown[shown[by] == reference][_VALUE].mean(), color=GREY, lw=1, zorder=1)
            ax.set(xlabel=ylabel or y, title="" if title is None else title)
        if published:
            _draw_published(axes[-1], names, published)
            axes[-1].set(title=published_label, xlabel=ylabel or y)
            for name in names:
                value = published.get(name)
                parts[name] += [] if value is None else [f"published {value}"]
        axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        _say_seeds(figure, data, also=f"; line: mean of {reference}" if reference else "")
    rows = "; ".join(f"{name}: {', '.join(texts)}" for name, texts in parts.items())
    figure.alt = f"Dot chart of {ylabel or y}{_seeds(data)}{'; beside it the published values' if published else ''}. {rows}."
    return figure


def traces(frame, x: str, y: str, panels: str, *, xlabel: str | None = None, ylabel: str | None = None):
    """Draw ``y`` over ``x`` as one thin line a panel, each in units of its own standard deviation, around its mean.

    ``frame``: one row a point, evenly spaced, no seeds; ``panels``: a column, one panel for each of its values. A panel
    says its autocorrelation r, the correlation of every value with the next: 0 for white noise, near 1 for a smooth
    line. Returns a matplotlib Figure. Raises as `curves`, and ValueError where a line has fewer than three values.
    """
    data = _observations(frame, x, y, None, panels)
    names, parts = list(dict.fromkeys(data[panels])), []
    with style():
        figure, axes = _grid(len(names))
        for index, (ax, name) in enumerate(zip(axes, names, strict=True)):
            line = data[data[panels] == name].sort_values(x)
            if len(line) < 3:
                raise ValueError(f"{name!r} has {len(line)} values; a line needs three or more")
            values = (line[_VALUE] - line[_VALUE].mean()) / line[_VALUE].std()
            text = f"r = {values.autocorr(1):.2f}"
            ax.plot(line[x], values, color=COLOURS[index % len(COLOURS)], lw=1.1)
            ax.set_title(str(name), fontsize=10, pad=16)
            ax.annotate(text, (0, 1), (0, 4), "axes fraction", textcoords="offset points", fontsize=9)
            place = ax.get_subplotspec()
            ax.set(xlabel=(xlabel or x) if place.is_last_row() else "")
            ax.set_ylabel((ylabel or y) if place.is_first_col() else "")
            parts.append(f"{name}: {text}")
    head = f"Lines of {ylabel or y} by {xlabel or x}, each in units of its standard deviation, with the correlation r of neighbours"
    figure.alt = f"{head}. {'; '.join(parts)}."
    return figure


def heat_map(frame, y: str, panels: str | None = "label", *, x: str = "step", rows: str = "block", ylabel: str | None = None):
    """Draw ``y`` > 0 as colour over ``x`` and ``rows``, a panel for each value of ``panels``, on one logarithmic scale.

    ``frame``, ``y``: as in `curves`; seeds are averaged by their geometric mean. Nothing hangs on the colour: lines of
    equal value carry their value, and every panel says its range. Returns a matplotlib Figure.
    Raises as `curves`, and ValueError where no value is above 0.
    """
    data = _observations(frame, x, y, panels, rows)
    if not (data[_VALUE] > 0).any():
        raise ValueError(f"no value of {y!r} is above 0; a heat map has a logarithmic scale")
    data = data.assign(**{_VALUE: numpy.log10(data[_VALUE].where(data[_VALUE] > 0))})
    tables = {
        name: _select(data, {panels: name}).pivot_table(index=rows, columns=x, values=_VALUE, dropna=False)
        for name in (dict.fromkeys(data[panels]) if panels else [None])
    }
    ylabel, parts, images = ylabel or y, [], []
    with style():
        figure, axes = _grid(len(tables))
        low = numpy.nanmin([table.min(axis=None) for table in tables.values()])
        high = numpy.nanmax([table.max(axis=None) for table in tables.values()])
        levels = _levels(low, high)
        for ax, (name, table) in zip(axes, tables.items(), strict=True):
            images.append(_draw_heat(ax, table, low, high, levels))
            place, extent = ax.get_subplotspec(), _extent(table)
            ax.set_title("" if name is None else str(name), fontsize=10, pad=16)
            ax.annotate(extent, (0, 1), (0, 4), "axes fraction", textcoords="offset points", fontsize=9)
            ax.set(xlabel=x if place.is_last_row() else "", ylabel=rows if place.is_first_col() else "")
            parts.append(f"{'' if name is None else f'{name}: '}{extent}{_corners(table.dropna(axis=1, how='all'))}")
        bar = figure.colorbar(images[0], ax=axes, aspect=30, pad=0.02, label=ylabel, ticks=levels)
        bar.set_ticklabels([_number(10**level) for level in levels])
        bar.outline.set_visible(False)
        _say_seeds(figure, data, spread="geometric mean")
    head = f"Heat map of {ylabel} by {x} and {rows} on a logarithmic scale{_seeds(data, 'geometric mean')}"
    figure.alt = f"{head}. {'. '.join(parts)}."
    return figure


def cells(
    frame,
    y: str,
    x: str,
    rows: str,
    *,
    panels: str | None = None,
    names: Sequence[str] | None = None,
    digits: int = 2,
    xlabel: str | None = None,
    ylabel: str | None = None,
    missing: str = "×",
):
    """Draw ``y`` as a table of numbers over ``x`` and ``rows``, shaded by their size, a panel for each value of ``panels``.

    ``frame``, ``y``: as in `curves`; seeds are averaged, and a cell that has runs but no value shows ``missing``.
    ``names``: the rows in their order, by default that of the frame. The columns are the values of ``x``, sorted.
    Returns a matplotlib Figure. Raises as `curves`.
    """
    data = _observations(frame, x, y, rows, panels)
    names = list(names or dict.fromkeys(data[rows]))
    columns = sorted(set(data[x]))
    titles = list(dict.fromkeys(data[panels])) if panels else [None]
    means = {title: _select(data, {panels: title}).groupby([rows, x])[_VALUE].mean() for title in titles}
    low, high = data[_VALUE].min(), data[_VALUE].max()
    headings = [_number(column) if isinstance(column, (int, float)) else column for column in columns]
    parts = []
    with style():
        figure, axes = _dot_panels(len(titles), len(names), published=False)
        for ax, title in zip(axes, titles, strict=False):
            for row, name in enumerate(names):
                said = []
                for place, (column, heading) in enumerate(zip(columns, headings, strict=True)):
                    value = means[title].get((name, column))
                    if value is None:  # never run
                        continue
                    text = missing if value != value else f"{value:.{digits}f}"
                    _draw_cell(ax, place, row, text, 0.0 if value != value else (value - low) / ((high - low) or 1))
                    said.append(f"{text} at {heading}")
                parts.append(f"{'' if title is None else f'{title}, '}{name}: {', '.join(said)}")
            ax.set(
                xlabel=xlabel or x,
                title="" if title is None else title,
                xticks=range(len(columns)),
                xticklabels=headings,
                xlim=(-0.5, len(columns) - 0.5),
            )
            ax.grid(visible=False)
        axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        _say_seeds(figure, data, spread="mean")
    figure.alt = f"Table of {ylabel or y} by {xlabel or x}{_seeds(data, 'mean')}. {'; '.join(parts)}."
    return figure


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
    data = _observations(frame, rows, y, panels, None)
    if panels and behind is not None and behind not in set(data[panels]):
        raise ValueError(f"behind={behind!r} is no panel; allowed: {', '.join(map(str, dict.fromkeys(data[panels])))}")
    titles, levels = list(dict.fromkeys(data[panels])) if panels else [None], sorted(set(data[rows]))
    data = data[numpy.isfinite(data[_VALUE]) & ((data[_VALUE] > 0) | (not log))]
    values = numpy.log10(data[_VALUE]) if log else data[_VALUE]
    edges = numpy.linspace(values.quantile(0.005 if log else 0.0003), values.quantile(0.9998) + 1e-9, 101)
    data = data.assign(**{_VALUE: values})
    hills = {
        title: {level: hill.to_numpy() for level, hill in _select(data, {panels: title}).groupby(rows)[_VALUE]} for title in titles
    }
    parts = []
    with style():
        figure, axes = _panels(len(titles), height=1.2 + 0.24 * len(levels))
        for index, (ax, title) in enumerate(zip(axes, titles, strict=True)):
            _draw_hills(ax, hills[title], levels, edges, COLOURS[index % len(COLOURS)], log)
            if behind is not None and title != behind:
                _draw_hills(ax, hills[behind], levels, edges, None, log)
            ax.set(xlabel=xlabel or y, title="" if title is None else str(title))
            ax.set_xlim(*(10 ** edges[[0, -1]] if log else edges[[0, -1]]))
            parts.append(("" if title is None else f"{title}: ") + _ends_of_hills(hills[title], levels, rows, log))
        step = math.ceil(len(levels) / 9)
        axes[0].set(ylabel=rows, ylim=(-0.3, len(levels) + 0.6))
        axes[0].set_yticks(range(0, len(levels), step), [_number(level) for level in levels[::step]])
        _say_seeds(figure, data, also="" if behind is None else f"; dashed: {behind}", spread="all values")
    axis = " on a logarithmic axis" if log else ""
    head = f"Ridgeline plot, the distribution of {xlabel or y} by {rows}{axis}{_seeds(data, 'all values')}"
    figure.alt = f"{head}. {'; '.join(parts)}."
    return figure


def norm_cubes(names: Sequence[str] = ("batch", "layer2d", "group(groups=1)", "group(groups=2)", "instance", "rms")):
    """Draw, for each normaliser, which values of a (samples, channels, positions) array share one statistic.

    The coloured values are measured: those on which the output at the front corner depends. Names as in
    `resnorm.norm`. Returns a matplotlib Figure.
    """
    parts = []
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    with style():
        figure = Figure(figsize=(7.6, 3.0 * rows + 0.1))
        # Every cell of the same size, whatever stands below it.
        figure.subplots_adjust(0.01, 0.68 / (3.0 * rows), 0.99, 1 - 0.25 / (3.0 * rows), wspace=0.12, hspace=0.42)
        for index, (ax, name) in enumerate(zip(figure.subplots(rows, columns).flat, names, strict=False)):
            shared = _shared_statistic(name)
            title, note = _NORM_TITLES.get(name, (name, ""))
            over = f"over {_averaged(shared)}"
            _draw_cube(ax, shared, COLOURS[index % len(COLOURS)], HATCHES[index % len(HATCHES)])
            ax.set_title(title, loc="center", pad=2)
            below = "\n".join(filter(None, (name, over, note)))
            ax.text(0.5, -0.03, below, transform=ax.transAxes, ha="center", va="top", fontsize=9.5, linespacing=1.35)
            count = f"{int(shared.sum())} of {shared.numel()} values"
            parts.append(f"{title} ({name}): {count}, {over}" + (f" ({note})" if note else ""))
    size = " × ".join(f"{length} {what}" for length, what in zip(shared.shape, _AXES, strict=True))
    figure.alt = f"Cubes of {size}; in each the values that share one statistic are coloured and hatched. {'; '.join(parts)}."
    return figure


# --- data

_VALUE = "_value"


def _observations(frame, x: str, y: str, hue: str | None, panels: str | None):
    for column in filter(None, (x, hue, panels)):
        if column not in frame:
            raise ValueError(f"the frame has no column {column!r}; allowed: {', '.join(map(str, frame.columns))}")
    if y in frame:
        data = frame.assign(**{_VALUE: frame[y]})
    elif "metric" in frame and y in set(frame["metric"]):
        data = frame[frame["metric"] == y]
        data = data.assign(**{_VALUE: data["value"]})
    else:
        allowed = [*frame.columns, *(dict.fromkeys(frame["metric"]) if "metric" in frame else [])]
        raise ValueError(f"the frame has no column and no metric {y!r}; allowed: {', '.join(map(str, allowed))}")
    if data[_VALUE].isna().all():
        raise ValueError(f"every value of {y!r} is missing; did all runs diverge?")
    return data


def _select(data, wanted: dict):
    for column, value in wanted.items():
        if column is not None:
            data = data[data[column] == value]
    return data


def _summarised(rows, x: str):
    """Mean, standard deviation and number of seeds at each x, where there is a value."""
    grouped = rows.dropna(subset=[_VALUE]).groupby(x, sort=True)[_VALUE]
    return grouped.agg(["mean", "std", "count"]).reset_index()


def _seed_count(data) -> int:
    return data["seed"].nunique() if "seed" in data else 0


def _seeds(data, spread: str = "mean and standard deviation") -> str:
    count = _seed_count(data)
    # A prediction has no seeds.
    return {0: "", 1: ", one seed"}.get(count, f", {spread} over {count} seeds")


def _number(value: float) -> str:
    if value != value:
        return "not a number"
    exact = f"{value:.3g}"
    return exact if "e" not in exact else f"{value:.2g}" if abs(value) < 1 or abs(value) >= 1e5 else f"{value:.0f}"


def _extent(table) -> str:
    """The smallest and the largest value of a table of logarithms."""
    low, high = table.min(axis=None), table.max(axis=None)
    return "diverged" if low != low else f"{_number(10**low)} to {_number(10**high)}"


def _corners(table) -> str:
    """What a table of logarithms says in its first and its last row, at its first and its last column."""
    found = ""
    for at in dict.fromkeys(table.columns[[0, -1]] if table.shape[1] else ()):
        known = [row for row in table.index[[0, -1]] if table.at[row, at] == table.at[row, at]]
        ends = [f"{_number(10 ** table.at[row, at])} at {table.index.name} {_number(row)}" for row in known]
        found += f"; at {table.columns.name} {_number(at)} {', '.join(ends)}" if ends else ""
    return found


# --- drawing


def _panels(count: int, height: float = 4.0, legend_rows: int = 0):
    figure = Figure(figsize=(7.6, height + 0.22 * legend_rows), layout="constrained")
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    return figure, list(axes)


def _dot_panels(panels: int, rows: int, published: bool):
    figure = Figure(figsize=(7.6, 1.15 + 0.4 * rows), layout="constrained")
    ratios = [1.0] * panels + [0.62] * published
    axes = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0]
    for ax in axes[1:panels]:
        ax.sharex(axes[0])
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    return figure, list(axes)


def _draw_seeds(ax, row: int, values, dense: bool) -> str:
    """The seeds of one name, and the text that says them."""
    found, edge = values.dropna(), ax.get_yaxis_transform()
    if not len(values):
        ax.text(0.02, row, "not recorded", va="center", style="italic", fontsize=9, transform=edge)
        return "not recorded"
    lost = len(values) - len(found)
    diverged = f"{lost} of {len(values)} diverged" if len(found) else "diverged"
    if lost:
        ax.text(0.98, row, diverged, va="center", ha="right", style="italic", fontsize=9, transform=edge)
    if not len(found):
        return diverged
    colour, marker = COLOURS[row % len(COLOURS)], MARKERS[row % len(MARKERS)]
    ax.plot(found.mean(), row, "|", color=GREY, ms=18, mew=2.2, zorder=3)
    ax.plot(found, _spread_out(row, len(found)), marker, color=colour, mec=GREY, mew=0.7, ms=6, ls="none", zorder=4)
    text = mean_and_deviation(found)
    if not dense:
        ax.annotate(text, (1, row), (6, 0), edge, textcoords="offset points", va="center", fontsize=10)
    return text + (" (one seed)" if len(found) == 1 else "") + (f", {diverged}" if lost else "")


def _draw_published(ax, names: list, published: dict) -> None:
    numbers = [value for value in published.values() if not isinstance(value, str)]
    for row, name in enumerate(names):
        value = published.get(name)
        if isinstance(value, str):
            ax.text(0.98, row, value, va="center", ha="right", style="italic", transform=ax.get_yaxis_transform())
        elif value is not None:
            ax.plot(value, row, "D", mfc="#FFFFFF", mec="#000000", ms=8, zorder=5)
            ax.annotate(f"{value:g}", (value, row), (9, 0), textcoords="offset points", va="center", fontsize=10)
    low, high = min(numbers), max(numbers)
    room = (high - low) or 1
    ax.set_xlim(low - 0.15 * room, high + 0.75 * room)


def _spread_out(row: int, count: int) -> list[float]:
    return [row + 0.14 * (index - (count - 1) / 2) for index in range(count)]


def _grid(count: int):
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(7.6, 0.5 + 2.35 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for ax in axes[count:]:
        ax.remove()
    return figure, list(axes[:count])


def _levels(low: float, high: float) -> list[float]:
    """At most six round values between two logarithms: 1, 2 and 5 times a power of ten, or powers alone."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    choices = [[power + math.log10(factor) for power in powers for factor in (1, 2, 5)]]
    choices += [[power for power in powers if power % stride == 0] for stride in (1, 2, 5, 10, 20, 50)]
    inside = ([level for level in levels if low <= level <= high] for levels in choices)
    return next(levels for levels in inside if len(levels) <= 6)


def _draw_heat(ax, table, low: float, high: float, levels: list[float]):
    x, y = (numpy.asarray(axis, dtype=float) for axis in (table.columns, table.index))
    # One picture a panel in place of a path a cell: a deep network has thousands of cells.
    image = ax.pcolormesh(_edges(x), _edges(y), table, cmap="cividis", vmin=low, vmax=high, rasterized=True)
    own = [level for level in levels if table.min(axis=None) + 1e-9 < level < table.max(axis=None) - 1e-9]
    if own and min(table.shape) > 1:
        lines = ax.contour(x, y, numpy.ma.masked_invalid(table), own, colors="#FFFFFF", linewidths=1, linestyles="-")
        labels = ax.clabel(lines, fontsize=8, fmt=lambda value: _number(10**value))
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


def _draw_cell(ax, column: int, row: int, text: str, depth: float) -> None:
    """A number on a shade of its own, dark enough for white text or pale enough for black: both pages can read it."""
    colour = _shaded(COLOURS[0], 0.85 - 0.85 * depth)
    ax.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, facecolor=colour, edgecolor="none", zorder=1))
    ax.text(column, row, text, ha="center", va="center", fontsize=9, color="#000000" if depth < 0.55 else "#FFFFFF", zorder=2)


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
            where = f"geometric mean {_number(10 ** found.mean())}"
        else:
            where = f"mean {_number(found.mean())}, deviation {_number(found.std())}"
        texts.append(f"{where} at {rows} {_number(level)}")
    return ", ".join(texts)


def _edges(centres):
    """The borders halfway between neighbours, and as far outside the first and the last."""
    if len(centres) == 1:
        return numpy.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return numpy.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _draw_line(ax, line, x: str, index: int, predicted: bool) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    # Beside a predicted line, the measured points stand alone; else a line needs few markers.
    kind = "" if predicted else LINES[index % len(LINES)]
    every = 1 if predicted or len(line) <= 12 else (index, max(1, len(line) // 8))
    ax.plot(line[x], line["mean"], linestyle=kind, marker=marker, markevery=every, color=colour, mec="none", zorder=3)
    if (line["count"] > 1).any():
        low, high = line["mean"] - line["std"].fillna(0), line["mean"] + line["std"].fillna(0)
        ax.fill_between(line[x], low, high, color=colour, alpha=0.2, lw=0, zorder=2)


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


def _say_seeds(figure, data, also: str = "", spread: str = "mean ± standard deviation") -> None:
    count = _seed_count(data)
    text = {0: "", 1: "one seed"}.get(count, f"{spread}, {count} seeds")
    figure.supxlabel((text + also).removeprefix("; "), x=0.995, ha="right", fontsize=9)


_AXES = ("samples", "channels", "positions")
_NORM_TITLES = {
    "batch": ("Batch norm", ""),
    "layer": ("Layer norm", "of one token"),
    "layer2d": ("Layer norm", "of one pixel or token"),
    "group(groups=1)": ("Group norm, one group", "“LayerNorm” in some papers"),
    "group(groups=2)": ("Group norm, two groups", ""),
    "instance": ("Instance norm", ""),
    "rms": ("RMS norm", "of one token; no mean taken"),
}


def _shared_statistic(name: str, samples: int = 4, channels: int = 6, side: int = 2):
    """True where the output at sample 0, channel 0, last position depends on: (samples, channels, positions)."""
    import torch

    from resnorm.norms import LAST_AXIS, call_form, norm

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, channels, side, side, generator=generator, dtype=torch.float64, requires_grad=True)
    module = norm(name, channels).double()
    tokens = call_form(name)[0] in LAST_AXIS  # an image is given to them as a row of tokens
    y = module(x.movedim(1, -1)).movedim(-1, 1) if tokens else module(x)
    (gradient,) = torch.autograd.grad(y[0, 0, -1, -1], x)
    return (gradient != 0).flatten(2)


def _averaged(shared) -> str:
    """In words, the axes over which the statistic is taken."""
    words = []
    for axis, what in enumerate(_AXES):
        others = [other for other in range(3) if other != axis]
        extent = int(shared.any(dim=others[1]).any(dim=others[0]).sum())
        if extent == shared.shape[axis]:
            words.append(what)
        elif extent > 1:
            words.append(f"{extent} of {shared.shape[axis]} {what}")
    return " and ".join(words) if len(words) < 3 else f"{words[0]}, {words[1]} and {words[2]}"


def _draw_cube(ax, shared, colour: str, hatch: str) -> None:
    samples, channels, positions = shared.shape
    faces: dict[float | None, list] = {}

    def at(sample: float, channel: float, position: float) -> tuple[float, float]:
        return 0.866 * (channel - sample), 0.5 * (channel + sample) + position

    def face(corners, on: bool, shade: float) -> None:
        faces.setdefault(shade if on else None, []).append([at(*corner) for corner in corners])

    for c in range(channels):
        for p in range(positions):
            face([(0, c, p), (0, c + 1, p), (0, c + 1, p + 1), (0, c, p + 1)], bool(shared[0, c, p]), 0.0)
    for n in range(samples):
        for p in range(positions):
            face([(n, 0, p), (n + 1, 0, p), (n + 1, 0, p + 1), (n, 0, p + 1)], bool(shared[n, 0, p]), -0.18)
    for n in range(samples):
        for c in range(channels):
            top = [(n, c), (n + 1, c), (n + 1, c + 1), (n, c + 1)]
            face([(a, b, positions) for a, b in top], bool(shared[n, c, positions - 1]), 0.3)
    for shade, polygons in faces.items():
        if shade is None:
            ax.add_collection(PolyCollection(polygons, fc=GREY + "1E", ec=GREY, lw=0.7, zorder=1))
        else:
            fill = _shaded(colour, shade)
            ax.add_collection(PolyCollection(polygons, fc=fill, ec="#FFFFFFB0", hatch=hatch, lw=0, zorder=2))
            ax.add_collection(PolyCollection(polygons, fc="none", ec=GREY, lw=0.9, zorder=3))
    for place, right, up, rotation, what in (
        (at(samples / 2, 0, 0), -0.5, -0.35, -30, "samples"),
        (at(0, channels / 2, 0), 0.5, -0.35, 30, "channels"),
        (at(samples, 0, positions / 2), -0.45, 0, 90, "positions"),
    ):
        ax.text(place[0] + right, place[1] + up, what, rotation=rotation, ha="center", va="center", fontsize=9)
    ax.set(aspect="equal", xlim=(-0.866 * samples - 1, 0.866 * channels + 0.6))
    ax.set_ylim(-0.9, 0.5 * (samples + channels) + positions + 0.2)
    ax.axis("off")


def _shaded(colour: str, amount: float) -> tuple[float, float, float]:
    """The colour mixed with white (amount > 0) or black (amount < 0)."""
    goal = 1.0 if amount > 0 else 0.0
    red, green, blue = (part + (goal - part) * abs(amount) for part in to_rgb(colour))
    return red, green, blue
