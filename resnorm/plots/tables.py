"""A value over two axes as a table of numbers, shaded by their size."""

from collections.abc import Sequence

from resnorm.extras import needed_for
from resnorm.plots.charts import named_rows, say_seeds
from resnorm.plots.house import COLOURS, GREY, style
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
    A line break in the name of a column is one on the axis, and a space in the alt text.
    Returns a matplotlib Figure. Raises as `curves`.
    """
    with needed_for("tables of numbers"):
        import seaborn
    data = observations(frame, x, y, rows, panels)
    names = list(names or dict.fromkeys(data[rows]))
    columns = sorted(set(data[x]))
    titles = list(dict.fromkeys(data[panels])) if panels else [None]
    headings = [number(column) if isinstance(column, (int, float)) else column for column in columns]
    low, high = data[VALUE].min(), data[VALUE].max()
    # From nearly white to sky blue, black text reads on every shade, and the shade on both pages.
    shades = dict(cmap=seaborn.light_palette(COLOURS[5], as_cmap=True), vmin=low, vmax=high, linewidths=0.8, linecolor=GREY)
    text = dict(fmt="", annot_kws=dict(color="#000000", fontsize=9), xticklabels=headings, yticklabels=names)
    parts = []
    with style():
        figure, axes = named_rows(len(titles), len(names), published=False)
        for ax, title in zip(axes, titles, strict=True):
            runs = select(data, {panels: title}).groupby([rows, x])[VALUE]
            means, counts = (each.unstack().reindex(names, columns=columns) for each in (runs.mean(), runs.size()))
            shown = means.map(lambda value: missing if value != value else f"{value:.{digits}f}")
            never = counts.isna()
            seaborn.heatmap(means.fillna(low), mask=never, annot=shown, cbar=False, ax=ax, **text, **shades)
            ax.set(xlabel=xlabel or x, ylabel="", title="" if title is None else title)
            ax.tick_params(length=0, rotation=0)
            ax.grid(visible=False)
            for name in names:
                said = (
                    f"{shown.at[name, column]} at {' '.join(str(heading).split())}"
                    for column, heading in zip(columns, headings, strict=True)
                    if not never.at[name, column]
                )
                parts.append(f"{'' if title is None else f'{title}, '}{name}: {', '.join(said)}")
        say_seeds(figure, data, spread="mean")
    return figure.says(f"Table of {ylabel or y} by {xlabel or x}{over_seeds(data, 'mean')}", parts)
