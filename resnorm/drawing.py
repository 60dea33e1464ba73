"""Draw a row of boxes with arcs over them as SVG: the block diagrams of the book.

The colours are mid-tones that read on white and on a dark page; boxes also differ by shape and carry their letter, so that
nothing depends on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LINE = "#7f7f7f"
FILLS = {"branch": "#0072B2", "norm": "#E69F00", "activation": "#009E73", "glue": "#CC79A7"}
TEXTS = {"branch": "#ffffff", "norm": "#000000", "activation": "#000000", "glue": "#000000"}
CORNERS = {"branch": 4, "norm": 16, "activation": 10, "glue": 0}
STEP, BOX, HEIGHT = 58, 34, 34
# Between two rows, and the room below a row for the skip that a merge in it takes.
GAP, UNDERPASS = 14, 30


class Svg(str):
    """SVG source, shown as a picture by Jupyter; write it to a file as the string that it is."""

    def _repr_html_(self) -> str:
        return str(self)


@dataclass(frozen=True, eq=False)
class Element:
    """One thing on the line: `kind` is fork, merge, rows, branch, norm, activation or glue; a merge names the fork that it reads.

    `on_skip` is written over a merge's arc, `on_branch` over the line that leads to it. Of the kind rows, `rows` are the
    branches side by side, from a fork to the sum that they end in, whose sign is the label.
    """

    kind: str
    label: str
    title: str
    source: Element | None = None
    on_skip: str = ""
    on_branch: str = ""
    rows: tuple[tuple[Element, ...], ...] = ()


class _Layout:
    """Where every element stands: x in `at`, the line of its row in `row_of`, counted from 0 for the main line."""

    def __init__(self, elements: Sequence[Element]):
        self.at: dict[Element, float] = {}
        self.row_of: dict[Element, int] = {}
        self.sums: dict[Element, float] = {}
        self.lowered: set[int] = set()  # rows with a merge, whose skip passes below them
        self.right = self._place(elements, 26.0, 0)
        self.depths = [0.0]
        for row in range(max(self.row_of.values(), default=0)):
            self.depths.append(self.depths[-1] + HEIGHT + (UNDERPASS if row in self.lowered else GAP))

    def _place(self, elements: Sequence[Element], x: float, row: int) -> float:
        for index, element in enumerate(elements):
            self.at[element], self.row_of[element] = x, row
            if element.kind == "rows":
                ends = [self._place(part, x + 0.8 * STEP, number) for number, part in enumerate(element.rows)]
                x = self.sums[element] = max(ends) - 0.1 * STEP
            if element.kind == "merge" and row:
                self.lowered.add(row)
            close = (element.kind == "fork" and index) or (index + 1 < len(elements) and elements[index + 1].kind == "fork")
            x += STEP * (0.62 if close else 0.8 if element.kind in ("fork", "merge") else 1.0)
        return x


def diagram(elements: list[Element], description: str) -> Svg:
    """Draw the elements from left to right and every merge's skip as an arc from its fork; `description` is the alt text."""
    layout = _Layout(elements)
    at, everything = layout.at, list(layout.at)
    merges = [one for one in everything if one.source is not None]
    over = [one for one in merges if not layout.row_of[one]]
    width = layout.right + 12
    top = max([_lift(at[one] - at[one.source]) for one in over], default=0) + (26 if any(one.on_skip for one in over) else 10)
    y = top + HEIGHT / 2
    lines = {one: y + layout.depths[layout.row_of[one]] for one in everything}
    lowest = len(layout.depths) - 1
    height = y + layout.depths[-1] + HEIGHT / 2 + (UNDERPASS if lowest in layout.lowered else 8)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="resnorm-word" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(description, quote=True)}" '
        'style="max-width:100%;height:auto" font-family="ui-monospace,Menlo,Consolas,monospace">',
        f"<title>{escape(description)}</title>",
        f'<g fill="none" stroke="{LINE}" stroke-width="2">',
        f'<path d="M{at[elements[0]]:.1f} {y:.1f} H{width - 30:.1f}"/>',
    ]
    for fork, end in layout.sums.items():
        parts += _rows(at[fork], end, [y + layout.depths[row] for row in range(1, len(fork.rows))], y)
    notes: list[tuple[float, float, str]] = []
    for merge in merges:
        start, end, line = at[merge.source], at[merge], lines[merge]
        radius = min(14.0, (end - start) / 2)
        if merge in over:
            lift, tip, turn = y - HEIGHT / 2 - _lift(end - start) + 8, line - 12, -6
        else:
            lift, tip, turn = line + HEIGHT / 2 + 12, line + 12, 6
        parts.append(
            f'<path d="M{start:.1f} {y:.1f} C{start:.1f} {lift:.1f} {start:.1f} {lift:.1f} {start + radius:.1f} '
            f'{lift:.1f} H{end - radius:.1f} C{end:.1f} {lift:.1f} {end:.1f} {lift:.1f} {end:.1f} {tip:.1f}"/>'
        )
        above = lift - 6 if merge in over else lift + 13
        notes += [
            (x, height, text)
            for x, height, text in (((start + end) / 2, above, merge.on_skip), (end - 26, line - 7, merge.on_branch))
            if text
        ]
        parts.append(_tip(end, tip, turn))
    parts.append(f'<path d="M{width - 36:.1f} {y - 4:.1f} L{width - 30:.1f} {y:.1f} L{width - 36:.1f} {y + 4:.1f}"/></g>')
    parts.append('<g text-anchor="middle" font-size="15" font-weight="600">')
    parts += [f'<text x="{x:.1f}" y="{height:.1f}" font-size="13" fill="{LINE}">{escape(text)}</text>' for x, height, text in notes]
    for element in everything:
        parts.append(f"<g><title>{escape(element.title)}</title>" + _shape(at[element], lines[element], element) + "</g>")
        if element.kind == "rows":
            parts.append("<g><title>sum</title>" + _circle(layout.sums[element], y, element.label) + "</g>")
    parts.append(f'<text x="{width - 16:.1f}" y="{y + 5:.1f}" fill="{LINE}">y</text></g></svg>')
    return Svg("".join(parts))


def _rows(start: float, end: float, lines: list[float], y: float) -> list[str]:
    """The lines of the rows below the main one: down from the fork, along, and up into the sum."""
    paths = [
        f'<path d="M{start:.1f} {y:.1f} V{line - 10:.1f} Q{start:.1f} {line:.1f} {start + 10:.1f} {line:.1f} H{end - 10:.1f} '
        f'Q{end:.1f} {line:.1f} {end:.1f} {line - 10:.1f} V{y + 12:.1f}"/>'
        for line in lines
    ]
    return [*paths, _tip(end, y + 12, 6)]


def _tip(x: float, y: float, turn: float) -> str:
    """An arrow's tip at (x, y), which comes from above for a negative `turn`."""
    return f'<path d="M{x - 4:.1f} {y + turn:.1f} L{x:.1f} {y:.1f} L{x + 4:.1f} {y + turn:.1f}"/>'


def _lift(span: float) -> float:
    """How high an arc rises: longer skips rise higher, so that nested arcs do not touch."""
    return 18 + 0.055 * span


def _circle(x: float, y: float, label: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" fill="#ffffff" stroke="{LINE}" stroke-width="2"/>'
        f'<text x="{x:.1f}" y="{y + 5:.1f}" fill="#000000">{escape(label)}</text>'
    )


def _shape(x: float, y: float, element: Element) -> str:
    if element.kind in ("fork", "rows"):
        label = element.label if element.kind == "fork" else ""
        text = f'<text x="{x - 12:.1f}" y="{y + 5:.1f}" fill="{LINE}">{escape(label)}</text>' if label else ""
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{LINE}"/>{text}'
    if element.kind == "merge":
        return _circle(x, y, element.label)
    return (
        f'<rect x="{x - BOX / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{BOX}" height="{HEIGHT}" rx="{CORNERS[element.kind]}" '
        f'fill="{FILLS[element.kind]}"/><text x="{x:.1f}" y="{y + 5:.1f}" fill="{TEXTS[element.kind]}">'
        f"{escape(element.label)}</text>"
    )
