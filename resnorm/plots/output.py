"""How a figure leaves: as the text of an SVG, and in a notebook with its alt text."""

import io
import re

from resnorm.extras import needed_for
from resnorm.plots.house import style


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
