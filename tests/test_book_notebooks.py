"""The stored form of a chapter: what is filled in, what is refused and with which repair, how a new chapter begins."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from test_book import CLAIM, ROOT, notebook, project  # noqa: F401 - a fixture

from book import build, chapters, new_chapter, notebooks, numbers
from book.chapters import BuildError, Project

REAL = Project(ROOT, ROOT / "_build")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_chapter_is_in_order(path):
    assert not (faults := notebooks.faults(REAL, path.stem)), "\n".join(faults)


# -------------------------------------------------------------------------------- make notebooks


def test_normalise_strips_and_writes_the_name(project):  # noqa: F811
    dirty = notebook("draw()")
    dirty.cells[2].outputs = [new_output("display_data", {"image/png": "aGk="})]
    dirty.cells.insert(1, new_code_cell('%pip install "resnorm[lab] @ git+https://github.com/old/name"', execution_count=3))
    nbformat.write(dirty, project.root / "notebooks/good.ipynb")
    assert "good.ipynb" in notebooks.normalise(project)
    clean = nbformat.read(project.root / "notebooks/good.ipynb", 4)
    assert f"github/{project.repository}/blob/main/notebooks/good.ipynb" in clean.cells[0].source
    assert clean.cells[1].source == f'%pip install "resnorm[lab] @ git+https://github.com/{project.repository}"'
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in clean.cells)
    assert notebooks.normalise(project) == [] and not list((project.root / "notebooks").glob("*.part"))


def test_normalise_fills_in_badge_and_install_cell(project):  # noqa: F811
    cells = [
        new_markdown_cell("# Title\n\nText."),
        new_code_cell('preset = "smoke"  # str: the size', metadata={"tags": ["parameters"]}),
        new_code_cell("from resnorm.lab.translation import scores"),
    ]
    nbformat.write(new_notebook(cells=cells), project.root / "notebooks/other.ipynb")
    notebooks.normalise(project)
    assert notebooks.faults(project, "other") == []
    filled = nbformat.read(project.root / "notebooks/other.ipynb", 4)
    title, badge, text = filled.cells[0].source.split("\n\n")
    assert (title, text) == ("# Title", "Text.") and badge.endswith("/blob/main/notebooks/other.ipynb)")
    assert f'"resnorm[translation] @ git+https://github.com/{project.repository}"' in filled.cells[1].source
    assert notebooks.normalise(project) == []


def test_normalise_keeps_attachments_and_raw_cells(project):  # noqa: F811
    picture = {"a.png": {"image/png": "aGk="}}
    stored = notebook("1")
    stored.cells[0].attachments = picture
    stored.cells.append(new_raw_cell("<hr>", metadata={"raw_mimetype": "text/html", "collapsed": True}))
    path = project.root / "notebooks/good.ipynb"
    nbformat.write(stored, path)
    notebooks.normalise(project)
    clean = nbformat.read(path, 4)
    assert clean.cells[0].attachments == picture
    assert (clean.cells[-1].cell_type, clean.cells[-1].source) == ("raw", "<hr>")
    assert clean.cells[-1].metadata == {"raw_mimetype": "text/html"}
    before = chapters.execution_key(project, "good", "smoke")
    clean.cells[0].attachments["a.png"]["image/png"] = "aGo="
    nbformat.write(clean, path)
    assert chapters.execution_key(project, "good", "smoke") != before, "the page shows the executed notebook's attachments"


def test_normalise_names_a_notebook_that_it_cannot_read(project):  # noqa: F811
    (project.root / "notebooks/good.ipynb").write_text("<<<<<<< a merge")
    with pytest.raises(BuildError, match=r"notebooks/good\.ipynb is no notebook"):
        notebooks.normalise(project)
    assert (project.root / "notebooks/good.ipynb").read_text() == "<<<<<<< a merge"


# -------------------------------------------------------------------------------- all faults at once


def test_a_chapter_hears_of_all_its_faults_at_once(project):  # noqa: F811
    cells = [
        new_markdown_cell("## No title\n\n{cite}`he2016deep` and [a paper](https://arxiv.org/abs/0000.00000): 12.5 %"),
        new_code_cell("x = 1"),
        new_code_cell('preset = "smoke"', metadata={"tags": ["parameters"]}),
    ]
    nbformat.write(new_notebook(cells=cells), project.root / "notebooks/New.ipynb")
    (project.root / "book/claims.yml").write_text(yaml.safe_dump([CLAIM | {"chapter": "New"}]))
    faults = notebooks.faults(project, "New")
    for pattern in (
        "not in its stored form; run `make notebooks`",
        "its name 'New' .*; rename",
        "_toc.yml does not list it; add `- file: notebooks/New`",
        "does not start with the title; begin",
        "does not install the package on Colab; run `make notebooks`",
        'the parameter `preset = "smoke"` does not say .*; write NAME = LITERAL  # type: meaning',
        "cell 1 has MyST, '{cite}`'.*; write plain Markdown",
        "cell 1 links to https://arxiv.org/abs/0000.00000.*; add its entry",
        "cell 1 states 12.5,.*; print",
        r"does not name the claim one-is-one; call claim\('one-is-one', ...\)",
    ):
        assert [fault for fault in faults if re.search(f"^notebooks/New.ipynb: .*{pattern}", fault)], pattern
    assert len(faults) == 10


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda cells: cells.append(new_markdown_cell("# Second")), "it has 2 titles"),
        (lambda cells: cells.insert(2, new_code_cell("1")), "its second code cell is not the one tagged 'parameters'"),
        (lambda cells: cells.append(new_code_cell("import resnorm.lab.translation")), r"write resnorm\[translation\] there"),
        (lambda cells: cells[2].metadata.pop("tags"), "no code cell is tagged 'parameters'"),
        (lambda cells: cells.pop(1), "does not install the package"),
        (lambda cells: cells[0].update(source="# Title"), "no Colab badge"),
    ],
)
def test_each_fault_of_a_chapter_is_found(project, change, pattern):  # noqa: F811
    new_chapter.begin(project, "fresh")
    assert notebooks.faults(project, "fresh") == []
    path = project.root / "notebooks/fresh.ipynb"
    changed = nbformat.read(path, 4)
    change(changed.cells)
    nbformat.write(changed, path)
    assert [fault for fault in notebooks.faults(project, "fresh") if re.search(pattern, fault)]


@pytest.mark.parametrize(
    ("cell", "pattern"),
    [
        (new_code_cell("\n".join(f"x{number} = {number}" for number in range(21))), "has 21 lines of code, 20 at most; split it"),
        (new_code_cell("x = 1" + " + 1" * 30), "line 1 is wider than the page; break it at 88"),
        (new_code_cell("plots.show(a)\nplots.show(b)"), "shows several figures; one a cell"),
        (new_code_cell("for x in y:\n    plots.show(x)"), "shows several figures; one a cell"),
        (new_code_cell("\n".join(["x = 1"] * 20), metadata={"tags": ["hide-input"]}), "% of its code is hidden"),
    ],
)
def test_a_chapter_that_cannot_be_taken_in_is_found(project, cell, pattern):  # noqa: F811
    new_chapter.begin(project, "fresh")
    path = project.root / "notebooks/fresh.ipynb"
    changed = nbformat.read(path, 4)
    changed.cells.append(cell)
    nbformat.write(changed, path)
    assert [fault for fault in notebooks.faults(project, "fresh") if re.search(pattern, fault)]


def test_no_helper_is_defined_in_two_chapters(project):  # noqa: F811
    assert notebooks.repeated(REAL) == {}
    for chapter in ("good", "other"):
        path = project.root / f"notebooks/{chapter}.ipynb"
        changed = nbformat.read(path, 4)
        changed.cells.append(new_code_cell("def compare(a, b):\n    return a - b"))
        nbformat.write(changed, path)
    assert notebooks.repeated(project) == {"compare": ["good", "other"]}


def test_make_notebooks_says_what_an_author_must_repair(project, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(build, "ROOT", project.root)
    assert build.main(["--normalise"]) == 1
    said = capsys.readouterr()
    assert "notebooks/good.ipynb rewritten" in said.out
    for chapter in ("good", "other"):
        assert f"notebooks/{chapter}.ipynb: the parameter `preset" in said.err
    assert "stored form" not in said.err


# -------------------------------------------------------------------------------- claims and their calls


def code(*sources):
    return new_notebook(cells=[*map(new_code_cell, sources), new_markdown_cell("`in-the-prose`")])


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (['claim("one-is-one", 1, True)'], []),
        (['CONTESTS = {"one-is-one": (1, 2)}\nfor id in CONTESTS:\n    claim(id, 1, True)'], []),
        (["%matplotlib inline\nif 1:\n    !ls\nclaim('one-is-one', 1, True)"], []),
        (["# one-is-one"], ["one-is-one"]),
        (['claim("one-is-one-too", 1, True)', "1 +"], ["one-is-one"]),
        (['NAMES = ["one-is"]', 'claim(f"{name}-one", 1, True)'], []),
        (['NAMES = ["two-is"]', 'claim(f"{name}-one", 1, True)'], ["one-is-one"]),
        (['NAMES = ["one-is"]', 'claim(f"{name}-{title.lower()}", 1, True)'], []),
        (['print(f"{row.a}-{row.b}")'], ["one-is-one"]),
        (['print(f"{a}-{b}")'], ["one-is-one"]),
    ],
)
def test_which_claim_no_code_names(sources, expected):
    assert notebooks.unnamed(code(*sources), ["one-is-one"]) == expected


def test_prose_gives_no_verdict():
    assert notebooks.unnamed(code("1"), ["in-the-prose"]) == ["in-the-prose"]


# -------------------------------------------------------------------------------- a new chapter


def test_of_two_figures_that_exclude_each_other_a_cell_shows_one():
    assert notebooks._figures("if a:\n    plots.show(b)\nelse:\n    plots.show(c)") == 1
    assert notebooks._figures("plots.show(a)\nif b:\n    plots.show(c)") == 2


def test_a_new_chapter_passes_every_check_and_runs(project):  # noqa: F811
    shutil.rmtree(project.root / "resnorm")
    (project.root / "resnorm").symlink_to(ROOT / "resnorm")
    path = new_chapter.begin(project, "graph_norms", "Norms on graphs", after="good")
    assert project.chapters == ["good", "graph_norms", "other"]
    assert "  - file: notebooks/good\n  - file: notebooks/graph_norms\n" in (project.root / "_toc.yml").read_text()
    assert notebooks.faults(project, "graph_norms") == []
    numbers.check_numbers(project)
    shutil.copy(ROOT / "notebooks/ruff.toml", path.parent)
    for command in (["format", "--check"], ["check"]):
        ruff = [Path(sys.executable).with_name("ruff"), *command, "--no-cache", path]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    folders = chapters.execute_all(project, ["graph_norms"], "smoke", False, 1, strict=True)
    prose = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    titles = re.findall(r"^##? .*", "\n".join(prose), re.MULTILINE)
    assert titles[0] == "# Norms on graphs" and titles[-1] == "## References" and len(titles) == 9
    assert (folders["graph_norms"] / "notebook.ipynb").exists()


@pytest.mark.parametrize(
    ("name", "after", "pattern"),
    [
        ("Graph norms", None, "no name of a chapter.*like graph_norms"),
        ("good", None, "there is a chapter good already"),
        ("fresh", "nowhere", "no chapter 'nowhere'; its chapters are good, other"),
    ],
)
def test_a_chapter_that_cannot_begin_changes_nothing(project, name, after, pattern):  # noqa: F811
    before = {path: path.read_bytes() for path in project.root.rglob("*") if path.is_file()}
    with pytest.raises(BuildError, match=pattern):
        new_chapter.begin(project, name, after=after)
    assert before == {path: path.read_bytes() for path in project.root.rglob("*") if path.is_file()}


def test_an_order_in_another_style_is_left_to_its_author(project):  # noqa: F811
    toc = "root: index\nchapters: [{file: notebooks/good}, {file: notebooks/other}]\n"
    (project.root / "_toc.yml").write_text(toc)
    with pytest.raises(BuildError, match="add `- file: notebooks/fresh` by hand"):
        new_chapter.begin(project, "fresh")
    assert (project.root / "_toc.yml").read_text() == toc and not (project.root / "notebooks/fresh.ipynb").exists()
