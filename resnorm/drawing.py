"""Draw a row of boxes with arcs over them as SVG: the block diagrams of the book.

The colours are mid-tones that read on white and on a dark page; boxes also differ by shape and carry their letter, so that
nothing depends on colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

LINE = "#7f7f7f"
FILLS = {"branch": "#0072B2", "norm": "#E69F00", "activation": "#009E73", "glue": "#CC79A7"}
TEXTS = {"branch": "#ffffff", "norm": "#000000", "activation": "#000000", "glue": "#000000"}
CORNERS = {"branch": 4, "norm": 16, "activation": 10, "glue": 0}
STEP, BOX, HEIGHT = 58, 34, 34


class Svg(str):
    """SVG source, shown as a picture by Jupyter; write it to a file as the string that it is."""

    def _repr_html_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Element:
    """One thing on the line: `kind` is fork, merge, branch, norm, activation or glue; a merge names the index of its fork.

    `on_skip` is written over a merge's arc, `on_branch` over the line that leads to it.
    """

    kind: str
    label: str
    title: str
    source: int | None = None
    on_skip: str = ""
    on_branch: str = ""


def diagram(elements: list[Element], description: str) -> Svg:
    """Draw the elements from left to right and every merge's skip as an arc from its fork; `description` is the alt text."""
    xs, x = [], 26.0
    for index, element in enumerate(elements):
        xs.append(x)
        close = element.kind == "fork" and index or (index + 1 < len(elements) and elements[index + 1].kind == "fork")
        x += STEP * (0.62 if close else 0.8 if element.kind in ("fork", "merge") else 1.0)
    width = x + 12
    spans = [xs[i] - xs[e.source] for i, e in enumerate(elements) if e.source is not None]
    top = max([_lift(span) for span in spans], default=0) + (26 if any(element.on_skip for element in elements) else 10)
    y = top + HEIGHT / 2
    height = y + HEIGHT / 2 + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="resnorm-word" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(description, quote=True)}" '
        'style="max-width:100%;height:auto" font-family="ui-monospace,Menlo,Consolas,monospace">',
        f"<title>{escape(description)}</title>",
        f'<g fill="none" stroke="{LINE}" stroke-width="2">',
        f'<path d="M{xs[0]:.1f} {y:.1f} H{width - 30:.1f}"/>',
    ]
    notes: list[tuple[float, float, str]] = []
    for index, element in enumerate(elements):
        if element.source is None:
            continue
        start, end = xs[element.source], xs[index]
        lift = y - HEIGHT / 2 - _lift(end - start) + 8
        radius = min(14.0, (end - start) / 2)
        parts.append(f'<path d="M{start:.1f} {y:.1f} C{start:.1f} {lift:.1f} {start:.1f} {lift:.1f} {start + radius:.1f} {lift:.1f} '
                     f'H{end - radius:.1f} C{end:.1f} {lift:.1f} {end:.1f} {lift:.1f} {end:.1f} {y - 12:.1f}"/>')
        notes += [(x, height, text) for x, height, text in (
            ((start + end) / 2, lift - 6, element.on_skip), (end - 26, y - 7, element.on_branch)) if text]
        parts.append(f'<path d="M{end - 4:.1f} {y - 18:.1f} L{end:.1f} {y - 12:.1f} L{end + 4:.1f} {y - 18:.1f}"/>')
    parts.append(f'<path d="M{width - 36:.1f} {y - 4:.1f} L{width - 30:.1f} {y:.1f} L{width - 36:.1f} {y + 4:.1f}"/></g>')
    parts.append('<g text-anchor="middle" font-size="15" font-weight="600">')
    parts += [f'<text x="{x:.1f}" y="{height:.1f}" font-size="13" fill="{LINE}">{escape(text)}</text>' for x, height, text in notes]
    for x, element in zip(xs, elements, strict=True):
        parts.append(f"<g><title>{escape(element.title)}</title>" + _shape(x, y, element) + "</g>")
    parts.append(f'<text x="{width - 16:.1f}" y="{y + 5:.1f}" fill="{LINE}">y</text></g></svg>')
    return Svg("".join(parts))


def _lift(span: float) -> float:
    """How high an arc rises: longer skips rise higher, so that nested arcs do not touch."""
    return 18 + 0.055 * span


def _shape(x: float, y: float, element: Element) -> str:
    if element.kind == "fork":
        label = f'<text x="{x - 12:.1f}" y="{y + 5:.1f}" fill="{LINE}">{escape(element.label)}</text>' if element.label else ""
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{LINE}"/>{label}'
    if element.kind == "merge":
        return (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" fill="#ffffff" stroke="{LINE}" stroke-width="2"/>'
                f'<text x="{x:.1f}" y="{y + 5:.1f}" fill="#000000">{escape(element.label)}</text>')
    return (f'<rect x="{x - BOX / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{BOX}" height="{HEIGHT}" rx="{CORNERS[element.kind]}" '
            f'fill="{FILLS[element.kind]}"/><text x="{x:.1f}" y="{y + 5:.1f}" fill="{TEXTS[element.kind]}">'
            f"{escape(element.label)}</text>")
