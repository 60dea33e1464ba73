"""One value a name: bars from zero, and tables of dots with the published values beside them."""

from collections.abc import Sequence

from resnorm.claims import mean_and_deviation
from resnorm.plots.charts import named_rows, say_seeds, side_by_side
from resnorm.plots.house import COLOURS, GREY, HATCHES, MARKERS, style
from resnorm.plots.observations import VALUE, number, observations, over_seeds, seed_count, select


def bars(frame, y: str, by: str = "label", *, ylabel: str | None = None, scale: float = 1.0, published=None):
    """Draw the mean of ``y`` for each value of ``by``: a bar from zero, a dot a seed, one deviation as a whisker.

    ``frame``, ``y``: as in `curves`; ``scale`` multiplies every value (100 for per cent); ``published``: a dictionary
    of published values by name, drawn as a diamond. Returns a matplotlib Figure. Raises as `curves`.
    """
    data = observations(frame, by, y, None, None)
    data = data.assign(**{VALUE: data[VALUE] * scale})
    names = list(dict.fromkeys(data[by]))
    parts = []
    with style():
        figure, (ax,) = side_by_side(1, height=0.9 + 0.46 * len(names))
        for row, name in enumerate(names):
            values = data[data[by] == name][VALUE].dropna()
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
            parts.append(f"{name}: {text}" + _one_seed(values, data))
            if published and name in published:
                ax.plot(published[name], row, "D", mfc="#FFFFFF", mec="#000000", ms=8, zorder=5)
                parts[-1] += f", published {number(published[name])}"
        ax.set(yticks=range(len(names)), yticklabels=names, xlabel=ylabel or y)
        ax.set_xlim(0, ax.get_xlim()[1] * 1.2)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
        say_seeds(figure, data, also="; diamonds: published" if published else "")
    return figure.says(f"Bar chart of {ylabel or y}{over_seeds(data)}", parts)


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
    data = observations(frame, by, y, None, panels)
    names = list(names or dict.fromkeys([*data[by], *(published or ())]))
    titles = list(dict.fromkeys(data[panels])) if panels else [None]
    parts: dict[str, list[str]] = {name: [] for name in names}
    with style():
        figure, axes = named_rows(len(titles), len(names), bool(published))
        for ax, title in zip(axes, titles, strict=False):
            shown = select(data, {panels: title})
            for row, name in enumerate(names):
                text = _draw_seeds(ax, row, shown[shown[by] == name], dense=len(titles) > 1)
                parts[name].append(text if title is None else f"{title}: {text}")
            if reference is not None and shown[shown[by] == reference][VALUE].notna().any():
                ax.axvline(shown[shown[by] == reference][VALUE].mean(), color=GREY, lw=1, zorder=1)
            ax.set(xlabel=ylabel or y, title="" if title is None else title)
        if published:
            _draw_published(axes[-1], names, published)
            axes[-1].set(title=published_label, xlabel=ylabel or y)
            for name in names:
                value = published.get(name)
                parts[name] += [] if value is None else [f"published {value}"]
        axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        say_seeds(figure, data, also=f"; line: mean of {reference}" if reference else "")
    what = f"Dot chart of {ylabel or y}{over_seeds(data)}{'; beside it the published values' if published else ''}"
    return figure.says(what, (f"{name}: {', '.join(texts)}" for name, texts in parts.items()))


def intervals(frame, y: str, by: str, interval: str, *, xlabel: str | None = None, reference: float | None = None):
    """Draw a point and its interval for every row of a frame.

    ``y``: the column of the points; ``by``: of the names; ``interval``: of pairs, the lower and the upper end.
    ``reference``: a value that is drawn as a line. Returns a matplotlib Figure. Raises as `curves`.
    """
    data = observations(frame, by, y, None, None)
    parts = []
    with style():
        figure, (ax,) = side_by_side(1, height=0.9 + 0.3 * len(data))
        for row, (name, value, (low, high)) in enumerate(zip(data[by], data[VALUE], data[interval], strict=True)):
            ax.plot([low, high], [row, row], "-", color=GREY, lw=1.6, zorder=2)
            ax.plot(value, row, MARKERS[0], color=COLOURS[0], mec=GREY, mew=0.7, ms=6, zorder=3)
            parts.append(f"{name}: {number(value)} ({number(low)} to {number(high)})")
        if reference is not None:
            ax.axvline(reference, color=GREY, lw=1, zorder=1)
        ax.set(yticks=range(len(data)), yticklabels=list(data[by]), xlabel=xlabel or y)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
    return figure.says(f"Points with 95 % intervals of {' '.join((xlabel or y).split())}", parts)


def _draw_seeds(ax, row: int, runs, dense: bool) -> str:
    """The seeds of one name, and the text that says them."""
    values, edge = runs[VALUE], ax.get_yaxis_transform()
    found = values.dropna()
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
    return text + _one_seed(found, runs) + (f", {diverged}" if lost else "")


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


def _one_seed(values, data) -> str:
    """A measurement of something else than runs has no seeds, and one value of it is no seed."""
    return " (one seed)" if len(values) == 1 and seed_count(data) else ""


def _spread_out(row: int, count: int) -> list[float]:
    return [row + 0.14 * (index - (count - 1) / 2) for index in range(count)]
