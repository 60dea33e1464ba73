"""A chart: a figure with its alt text and its panels."""

import math
from collections.abc import Iterable

from matplotlib.figure import Figure

from resnorm.plots.observations import seed_count


class Chart(Figure):
    """A matplotlib figure that carries its alt text, `alt`: computed from what was drawn, and the reader's to add to."""

    alt = ""

    def says(self, what: str, parts: Iterable[str], between: str = "; ") -> "Chart":
        """Set the alt text, a sentence on what is drawn and then its numbers, and return the chart."""
        self.alt = f"{what}. {between.join(parts)}."
        return self


def side_by_side(count: int, height: float = 4.0, legend_rows: int = 0):
    """Panels in one row, with one vertical axis, below a legend of so many rows."""
    figure = Chart(figsize=(7.6, height + 0.22 * legend_rows), layout="constrained")
    axes = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    return figure, list(axes)


def named_rows(panels: int, rows: int, published: bool):
    """Panels that share their rows, one a name; the panel of the published values is narrower, with an axis of its own."""
    figure = Chart(figsize=(7.6, 1.15 + 0.4 * rows), layout="constrained")
    ratios = [1.0] * panels + [0.62] * published
    axes = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0]
    for ax in axes[1:panels]:
        ax.sharex(axes[0])
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    return figure, list(axes)


def grid(count: int):
    """Small panels, three in a row, all on the same axes."""
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = Chart(figsize=(7.6, 0.5 + 2.35 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for ax in axes[count:]:
        ax.remove()
    return figure, list(axes[:count])


def say_seeds(figure, data, also: str = "", spread: str = "mean ± standard deviation") -> None:
    """Write below the panels what is drawn of how many seeds."""
    count = seed_count(data)
    text = {0: "", 1: "one seed"}.get(count, f"{spread}, {count} seeds")
    figure.supxlabel((text + also).removeprefix("; "), x=0.995, ha="right", fontsize=9)
