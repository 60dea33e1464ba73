"""A value over two axes as a table of numbers, shaded by their size."""

from collections.abc import Sequence

from matplotlib.patches import Rectangle

from resnorm.plots.charts import named_rows, say_seeds
from resnorm.plots.house import COLOURS, shaded, style
from resnorm.plots.observations import VALUE, number, observations, over_seeds, select


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
    data = observations(frame, x, y, rows, panels)
    names = list(names or dict.fromkeys(data[rows]))
    columns = sorted(set(data[x]))
    titles = list(dict.fromkeys(data[panels])) if panels else [None]
    means = {title: select(data, {panels: title}).groupby([rows, x])[VALUE].mean() for title in titles}
    low, high = data[VALUE].min(), data[VALUE].max()
    headings = [number(column) if isinstance(column, (int, float)) else column for column in columns]
    parts = []
    with style():
        figure, axes = named_rows(len(titles), len(names), published=False)
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
        say_seeds(figure, data, spread="mean")
    return figure.says(f"Table of {ylabel or y} by {xlabel or x}{over_seeds(data, 'mean')}", parts)


def _draw_cell(ax, column: int, row: int, text: str, depth: float) -> None:
    """A number on a shade of its own, dark enough for white text or pale enough for black: both pages can read it."""
    colour = shaded(COLOURS[0], 0.85 - 0.85 * depth)
    ax.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, facecolor=colour, edgecolor="none", zorder=1))
    ax.text(column, row, text, ha="center", va="center", fontsize=9, color="#000000" if depth < 0.55 else "#FFFFFF", zorder=2)
