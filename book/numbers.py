"""Numbers in prose: each comes out of a run, or is a published figure that stands beside a link to its paper.

A measured number in a chapter is printed by its code. What a markdown cell may say as a decimal, a percentage or a
number of points are the figures of `book/published.yml`, which lists them by the bibliography's keys. Settings and
definitions are written as code or as maths, which are not looked at.
"""

import ast
import re

import nbformat
import yaml

from book.chapters import BuildError, Project, read, syntax
from book.render import bibliography_links

NUMBER = re.compile(r"(?<![\w.,/:])(\d+(?:,\d{3})*\.\d+|\d+(?=\s?(?:%|per cent\b|(?:percentage )?points\b)))")
# Not prose: maths, code, the targets of links, HTML, identifiers of papers.
_ASIDE = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`|\]\([^)]*\)|<[^>]*>|arXiv[: ]\s*\d{4}\.\d{4,5}", re.DOTALL)
_REFERENCES = re.compile(r"^##+ References.*?(?=^##|\Z)", re.DOTALL | re.MULTILINE)
_URL = re.compile(r"\]\((https?://[^)\s]+)\)")


def unsourced(notebook: nbformat.NotebookNode, published: dict[str, list[str]], keys: dict[str, str]) -> list[tuple[int, str]]:
    """Return (cell, number) for every number that is neither computed nor published.

    `published`: figures by key; `keys`: a paper's key by its URL. A cell may print the figures of the papers to which it
    links; a claim's `published=` those of any paper.
    """
    anywhere = {figure for figures in published.values() for figure in figures}
    found = []
    for index, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "markdown":
            linked = {keys[url] for url in _URL.findall(cell.source) if url in keys}
            allowed = {figure for key in linked for figure in published.get(key, ())}
            texts = [_REFERENCES.sub("", cell.source)]
        else:
            allowed, texts = anywhere, _published_in(cell.source)
        for text in texts:
            found += [(index, number) for number in NUMBER.findall(_ASIDE.sub(" ", text)) if number not in allowed]
    return found


def _published_in(source: str) -> list[str]:
    """The texts that are typed into `claim(..., published=...)`."""
    return [
        part.value
        for call in ast.walk(syntax(source) or ast.Module([], []))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "published"
        for part in ast.walk(keyword.value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


def published_figures(project: Project) -> dict[str, list[str]]:
    """The figures of `book/published.yml` by the paper's key; the file may group them in lists, one a table."""
    content = yaml.safe_load((project.root / "book/published.yml").read_text(encoding="utf-8")) or {}
    return {key: [figure for row in rows for figure in (row if isinstance(row, list) else [row])] for key, rows in content.items()}


def check_numbers(project: Project) -> None:
    """Refuse chapters that state a number without a run or a paper behind it."""
    published, keys = published_figures(project), bibliography_links(project)
    faults = []
    for chapter in project.chapters:
        if found := unsourced(read(project.notebook(chapter)), published, keys):
            where = ", ".join(f"{number} (cell {cell})" for cell, number in found)
            faults.append(
                f"notebooks/{chapter}.ipynb states numbers that no run gave and no linked paper published: {where}. "
                "Print a measured number from code; add a published one to book/published.yml and link its paper in "
                "the same cell; write a setting as `code` or $maths$"
            )
    if faults:
        raise BuildError("\n\n".join(faults))
