"""The house style: colours, markers, lines and hatches that go together, legible on white and on dark."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.colors import to_rgb

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


def shaded(colour: str, amount: float) -> tuple[float, float, float]:
    """The colour mixed with white (amount > 0) or black (amount < 0)."""
    goal = 1.0 if amount > 0 else 0.0
    red, green, blue = (part + (goal - part) * abs(amount) for part in to_rgb(colour))
    return red, green, blue
