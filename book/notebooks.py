"""The stored form of a chapter: what a notebook must have, and what is filled in for its author."""

import ast
import os
import re
from collections.abc import Iterable

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from book.chapters import BADGE, BuildError, Project, defaults, read, stored_repository, syntax
from book.numbers import published_figures, unsourced
from book.render import bibliography_links

COLAB = re.compile(r"colab\.research\.google\.com/github/[^/\s]+/[^/\s]+/blob/[^/\s]+/notebooks/[^)\s]+")
INSTALL = re.compile(r"git\+https://github\.com/[\w.-]+/[\w.-]+?(?=[\"'\s@]|$)")
INSTALL_CELL = """import sys

# Colab keeps its own torch: pip adds only what is missing.
if "google.colab" in sys.modules:
    %pip install --quiet "resnorm[{extra}] @ git+https://github.com/{repository}"

import resnorm

print(resnorm.describe_environment())"""
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
PARAMETER = re.compile(r"\w+ = .+  # [\w\[\]| ]+: .+")
MYST = re.compile(r"^:::|^```\{|\{(cite|ref|doc|eq)(:\w+)?\}`", re.MULTILINE)
SOURCE = re.compile(r"\]\((https://(?:arxiv\.org|aclanthology\.org)[^)]*)\)")


def normalised(notebook: NotebookNode, chapter: str, repository: str, branch: str) -> NotebookNode:
    """The notebook without outputs, with plain metadata, with badge and install cell, and the repository's name in both."""
    colab = f"colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{chapter}.ipynb"
    make = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}
    cells = []
    for index, cell in enumerate(notebook.cells):
        source = INSTALL.sub(f"git+https://github.com/{repository}", COLAB.sub(colab, cell.source))
        metadata = {key: cell.metadata[key] for key in ("tags", "cellView", "raw_mimetype") if cell.metadata.get(key)}
        attachments = {"attachments": cell.attachments} if cell.get("attachments") else {}
        cells.append(make[cell.cell_type](source, metadata=metadata, id=cell.get("id") or f"cell-{index}", **attachments))
    if cells and cells[0].source.startswith("# "):
        if not COLAB.search(cells[0].source):
            title, _, text = BADGE.sub("", cells[0].source).partition("\n")
            badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://{colab})"
            cells[0].source = "\n\n".join(filter(None, [title, badge, text.strip("\n")]))
        if not any(INSTALL.search(cell.source) for cell in _code(cells)):
            source = INSTALL_CELL.format(extra=_extra(cells), repository=repository)
            cells.insert(1, new_code_cell(source, metadata={"tags": ["hide-input"]}, id="install"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def as_stored(project: Project, notebook: NotebookNode, chapter: str) -> str:
    """The text of a chapter's file."""
    stored = normalised(notebook, chapter, stored_repository(project.root), project.config["repository"]["branch"])
    return nbformat.writes(stored) + "\n"


def normalise(project: Project) -> list[str]:
    """Bring every notebook into its stored form; return the names of those that changed."""
    changed = []
    for path in sorted((project.root / "notebooks").glob("*.ipynb")):
        text = as_stored(project, read(path), path.stem)
        if text != path.read_text(encoding="utf-8"):
            part = path.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
            changed.append(path.name)
    return changed


def _code(cells: list[NotebookNode]) -> list[NotebookNode]:
    return [cell for cell in cells if cell.cell_type == "code"]


def _extra(cells: list[NotebookNode]) -> str:
    """The extra of the package that a chapter needs."""
    return "translation" if any("resnorm.lab.translation" in cell.source for cell in _code(cells)) else "lab"


# -------------------------------------------------------------------------------- what a chapter must have


def faults(project: Project, chapter: str) -> list[str]:
    """Everything that is wrong with a stored chapter, each with its repair. Raises BuildError for a file that is no notebook."""
    path = project.root / "notebooks" / f"{chapter}.ipynb"
    notebook = read(path)
    stored = path.read_text(encoding="utf-8") == as_stored(project, notebook, chapter)
    found = [] if stored else ["it is not in its stored form; run `make notebooks`"]
    if not NAME.fullmatch(chapter):
        found.append(f"its name {chapter!r} is not lower-case words joined by underscores; rename the file")
    if chapter not in project.chapters:
        found.append(f"_toc.yml does not list it; add `- file: notebooks/{chapter}` where it is to be read")
    found += [*_title(notebook), *_install(notebook), *_parameters(notebook), *_prose(notebook, project), *_form(notebook)]
    studies = _judged(notebook)
    expected = [
        claim["id"]
        for claim in project.claims
        if claim["chapter"] == chapter and claim["expected"] != "not yet measured" and claim.get("study") not in studies
    ]
    found += [
        f"its code does not name the claim {claim}; call claim({claim!r}, ...), or set `expected: not yet measured`, with a "
        "reason, in book/claims.yml"
        for claim in unnamed(notebook, expected)
    ]
    return [f"notebooks/{chapter}.ipynb: {fault}" for fault in found]


def _title(notebook: NotebookNode) -> list[str]:
    first = notebook.cells[0] if notebook.cells else new_markdown_cell("")
    titles = re.findall(r"^# ", "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"), re.MULTILINE)
    found = []
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        found.append("its first cell does not start with the title; begin a text cell with `# TITLE`")
    elif not COLAB.search(first.source):
        found.append("its first cell has no Colab badge; run `make notebooks`")
    if len(titles) > 1:
        found.append(f"it has {len(titles)} titles; let one line start with `# `, and sections with `## `")
    return found


def _install(notebook: NotebookNode) -> list[str]:
    code, extra = _code(notebook.cells), _extra(notebook.cells)
    if not code or '"google.colab" in sys.modules' not in code[0].source or not INSTALL.search(code[0].source):
        return ["its first code cell does not install the package on Colab; run `make notebooks`, or move that cell to the top"]
    if f'%pip install --quiet "resnorm[{extra}] @ git+' not in code[0].source:
        return [f"its install cell does not install what the chapter imports; write resnorm[{extra}] there"]
    return []


def _parameters(notebook: NotebookNode) -> list[str]:
    code, found = _code(notebook.cells), []
    try:
        defaults(notebook)
    except BuildError as error:
        return [str(error)]
    if "parameters" not in code[min(1, len(code) - 1)].metadata.get("tags", []):
        found.append("its second code cell is not the one tagged 'parameters'; move that below the install cell")
    source = next(cell.source for cell in code if "parameters" in cell.metadata.get("tags", []))
    return found + [
        f"the parameter `{line}` does not say its type and its meaning; write NAME = LITERAL  # type: meaning"
        for line in source.splitlines()
        if line.strip() and not PARAMETER.fullmatch(line)
    ]


def _prose(notebook: NotebookNode, project: Project) -> list[str]:
    found, links = [], bibliography_links(project)
    for index, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "markdown":
            continue
        if myst := MYST.search(cell.source):
            found.append(f"cell {index} has MyST, {myst[0].strip()!r}, which is raw text in Colab; write plain Markdown")
        for address in sorted(set(SOURCE.findall(cell.source)) - set(links)):
            found.append(f"cell {index} links to {address}, which is not in book/references.bib; add its entry with this url")
    for index, number in unsourced(notebook, published_figures(project), links):
        found.append(
            f"cell {index} states {number}, which no run gave and no linked paper published; print a measured number from code, "
            "add a published one to book/published.yml and link its paper in that cell, write a setting as `code` or $maths$"
        )
    return found


# -------------------------------------------------------------------------------- claims and their calls


def unnamed(notebook: NotebookNode, ids: Iterable[str]) -> list[str]:
    """The ids that no string in the notebook's code can be.

    A string counts as it stands. An f-string counts where each name in braces stands for another string of the notebook; what
    is computed in braces stands for anything. A mention in prose or in a comment does not count.
    """
    parts = [part for cell in _code(notebook.cells) if (tree := syntax(cell.source)) for part in ast.walk(tree)]
    texts = {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    patterns = {_pattern(part, texts) for part in parts if isinstance(part, ast.JoinedStr)} - {None}
    joined = re.compile("|".join(sorted(patterns)) or r"(?!)")
    return [id for id in ids if id not in texts and not joined.fullmatch(id)]


# -------------------------------------------------------------------------------- form

LINES, WIDTH, HIDDEN = 20, 88, 0.25


def _form(notebook: NotebookNode) -> list[str]:
    """Cells that a reader cannot take in: too long, too wide, or hidden."""
    found, counts = [], {True: 0, False: 0}
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        lines = cell.source.splitlines()
        # The cell that installs and the solutions of the exercises are hidden for a reason.
        if not ("google.colab" in cell.source or cell.source.startswith("# @title")):
            counts[any(tag.startswith(("hide", "remove")) for tag in cell.metadata.get("tags", ()))] += len(lines)
        if len(lines) > LINES:
            found.append(f"cell {number} has {len(lines)} lines of code, {LINES} at most; split it, or move it into the package")
        wide = [place for place, line in enumerate(lines, start=1) if len(line) > WIDTH]
        if wide:
            found.append(f"cell {number}, line {wide[0]} is wider than the page; break it at {WIDTH} characters")
        if _figures(cell.source) > 1:
            found.append(f"cell {number} shows several figures; one a cell, each with its alt text")
    share = counts[True] / max(1, counts[True] + counts[False])
    if share > HIDDEN:
        found.append(f"{share:.0%} of its code is hidden; show it or move it into the package: {HIDDEN:.0%} at most")
    return found


def _figures(source: str) -> int:
    """How many figures a cell shows, as far as its code tells: a loop counts as two, a choice as the larger."""

    def shown(node: ast.AST, times: int = 1) -> int:
        if isinstance(node, (ast.For, ast.While)):
            times = 2
        if isinstance(node, ast.If):
            return max(sum(shown(child, times) for child in branch) for branch in (node.body, node.orelse))
        call = isinstance(node, ast.Call) and ast.unparse(node.func) == "plots.show"
        return times * call + sum(shown(child, times) for child in ast.iter_child_nodes(node))

    tree = syntax(source)
    return shown(tree) if tree is not None else 0


def repeated(project: Project) -> dict[str, list[str]]:
    """The helpers that two chapters define under one name, and where: they belong into the package."""
    where: dict[str, list[str]] = {}
    for chapter in project.chapters:
        trees = (syntax(cell.source) for cell in _code(read(project.root / "notebooks" / f"{chapter}.ipynb").cells))
        for name in {part.name for tree in trees if tree for part in tree.body if isinstance(part, ast.FunctionDef)}:
            where.setdefault(name, []).append(chapter)
    return {name: chapters for name, chapters in where.items() if len(chapters) > 1}


# -------------------------------------------------------------------------------- claims and their calls


def _judged(notebook: NotebookNode) -> set[str]:
    """The studies all of whose contests the notebook goes through: it names them and reads `.contests`."""
    parts = [part for cell in _code(notebook.cells) if (tree := syntax(cell.source)) for part in ast.walk(tree)]
    loops = any(isinstance(part, ast.Attribute) and part.attr in ("contests", "verdicts") for part in parts)
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)} if loops else set()


def _pattern(string: ast.JoinedStr, texts: set[str]) -> str | None:
    """What an f-string can become, as a regular expression; None where it says too little to be an id."""
    named = any(isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) for part in string.values)
    fixed = [part.value for part in string.values if isinstance(part, ast.Constant)]
    if not named or not all(re.fullmatch(r"[a-z0-9-]+", text) for text in fixed):
        return None
    words = "|".join(sorted(re.escape(text) for text in texts if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", text)))
    pieces = [
        re.escape(part.value) if isinstance(part, ast.Constant) else f"(?:{words})" if isinstance(part.value, ast.Name) else ".+"
        for part in string.values
    ]
    return "".join(pieces) if words else None
