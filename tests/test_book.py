"""The book's build: what is executed again, what fails and how it says so, what a page may contain."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml

from book import benchmarks, chapters, numbers, pages, render
from book.chapters import BuildError, Project

ROOT = Path(__file__).parent.parent
REAL = Project(ROOT, ROOT / "_build")
CLAIM = {"id": "one-is-one", "statement": "One is one.", "source": "he2016deep", "chapter": "good", "level": "identity"}
CLAIM |= {"expected": "holds"}
VERDICT = """
import os, pathlib
verdict = '{"id": "one-is-one", "verdict": "holds", "measured": 1.0}'
pathlib.Path(os.environ["RESNORM_CLAIMS"], "one-is-one.json").write_text(verdict)
"""


def notebook(*cells: str) -> nbformat.NotebookNode:
    """A notebook with a title, a parameters cell and further code cells."""
    code = [
        nbformat.v4.new_code_cell('preset = "smoke"', metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, cells),
    ]
    title = nbformat.v4.new_markdown_cell(
        "# Title\n\n[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        "(https://colab.research.google.com/github/a/b/blob/main/notebooks/x.ipynb)\n\n"
        "See [He et al.](https://arxiv.org/abs/1512.03385) "
        "and [the gallery](../book/gallery.md)."
    )
    return nbformat.v4.new_notebook(cells=[title, *code])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two chapters, one claim and a package of one file."""
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    for folder in ("notebooks", "book", "resnorm", "studies/zoo/runs", "results/benchmarks"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.txt", "_config.yml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copy(ROOT / "book/references.bib", tmp_path / "book")
    (tmp_path / "_toc.yml").write_text("root: index\nchapters:\n  - file: notebooks/good\n  - file: notebooks/other\n")
    (tmp_path / "book/claims.yml").write_text(yaml.safe_dump([CLAIM]))
    (tmp_path / "book/published.yml").write_text("")
    (tmp_path / "resnorm/__init__.py").write_text("")
    (tmp_path / "studies/zoo/plan.py").write_text("")
    nbformat.write(notebook(VERDICT, "('zoo', 'steps')"), tmp_path / "notebooks/good.ipynb")
    nbformat.write(notebook("1 + 1"), tmp_path / "notebooks/other.ipynb")
    return Project(tmp_path, tmp_path / "_build")


# -------------------------------------------------------------------------------- what is executed again


def another_record(project):
    (project.root / "studies/other/runs").mkdir(parents=True)
    for name in ("plan.py", "runs/cpu.jsonl"):
        (project.root / "studies/other" / name).write_text("")


def edit_cell(project):
    nbformat.write(notebook(VERDICT, "2"), project.root / "notebooks/good.ipynb")


CHANGES = {
    "cell": edit_cell,
    "package": lambda project: (project.root / "resnorm/new.py").write_text("x = 1\n"),
    "versions": lambda project: (project.root / "requirements.txt").write_text("torch==1.0\n"),
    "record": lambda project: (project.root / "studies/zoo/runs/cpu.jsonl").write_text("{}"),
    "plan": lambda project: (project.root / "studies/zoo/plan.py").write_text("ARMS = {}\n"),
    "benchmark": lambda project: (project.root / "results/benchmarks/steps.json").write_text("{}"),
    "claim": lambda project: (project.root / "book/claims.yml").write_text(yaml.safe_dump([CLAIM | {"expected": "does not hold"}])),
}
NO_CHANGES = {
    "record of another study": lambda project: another_record(project),
    "prose": lambda project: (project.root / "book/index.md").write_text("# Title\n"),
    "other chapter": lambda project: nbformat.write(notebook("3"), project.root / "notebooks/other.ipynb"),
    "claim of another chapter": lambda project: (project.root / "book/claims.yml").write_text(
        yaml.safe_dump([CLAIM, CLAIM | {"id": "two", "chapter": "other"}])
    ),
}


def test_a_chapter_depends_on_the_studies_of_its_studies(project):
    plans = {"zoo": "measure = ('zoo', 'rates')", "rates": "study('zoo')", "other": ""}
    for name, text in plans.items():
        (project.root / "studies" / name).mkdir(exist_ok=True)
        (project.root / "studies" / name / "plan.py").write_text(text)
    assert sorted(project.studies_in("lab.study('zoo')")) == ["rates", "zoo"] and project.studies_in("zoo") == []


@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES])
def test_execution_key(project, change):
    before = chapters.execution_key(project, "good", "smoke")
    (CHANGES | NO_CHANGES)[change](project)
    assert (chapters.execution_key(project, "good", "smoke") != before) == (change in CHANGES)


def test_preset_is_passed_where_it_differs(project):
    with_preset = notebook()
    assert chapters.parameters(with_preset, "smoke") == {} and chapters.parameters(with_preset, "cpu") == {"preset": "cpu"}
    assert chapters.execution_key(project, "good", "smoke") != chapters.execution_key(project, "good", "cpu")
    with_preset.cells[1].source = "seeds = [0]"
    assert chapters.parameters(with_preset, "cpu") == {}


def parameter_cell(source: str) -> nbformat.NotebookNode:
    made = notebook()
    made.cells[1].source = source
    return made


def test_parameters_with_an_annotation_are_read():
    annotated = parameter_cell('preset: str = "smoke"  # str: the size\nshift = -0.5\nseeds: list[int] = [0, 1]')
    assert chapters.defaults(annotated) == {"preset": "smoke", "shift": -0.5, "seeds": [0, 1]}
    assert chapters.parameters(annotated, "cpu") == {"preset": "cpu"}


UNREADABLE = {
    '%matplotlib inline\npreset = "smoke"': "is at line 1.*no Python.*the cell after it",
    'import os\npreset = "smoke"': "has `import os`; write each parameter as NAME = LITERAL",
    'preset = str("smoke")': r"has `preset = str\('smoke'\)`; write",
    'preset, seeds = "smoke", [0]': "has `preset, seeds = .*`; write",
    'preset = other = "smoke"': "has `preset = other = 'smoke'`; write",
    'if True:\n    preset = "smoke"': "has `if True:.*`; write",
    "preset: str": "has `preset: str`; write",
    'preset = "smoke"\npreset = "smoke"': "sets preset twice",
}


@pytest.mark.parametrize("source", UNREADABLE)
def test_parameters_that_cannot_be_read_are_refused(project, source):
    nbformat.write(parameter_cell(source), project.root / "notebooks/good.ipynb")
    with pytest.raises(BuildError, match=rf"(?s)^notebooks/good.ipynb: the cell of parameters {UNREADABLE[source]}"):
        chapters.execute_all(project, ["good"], "cpu", False, 1, True)


def test_there_is_one_cell_of_parameters():
    twice = notebook()
    twice.cells.append(twice.cells[1])
    with pytest.raises(BuildError, match="2 cells are tagged 'parameters'"):
        chapters.parameters(twice, "cpu")
    prose = notebook()
    prose.cells[1] = nbformat.v4.new_markdown_cell("text", metadata={"tags": ["parameters"]})
    with pytest.raises(BuildError, match="no code cell is tagged 'parameters'"):
        chapters.parameters(prose, "cpu")


TOCS = [
    "root: index\nchapters:\n- file: notebooks/good\n- file: notebooks/other\n",
    'root: "notebooks/good"\nchapters:\n  - {title: Other, file: notebooks/other}\n',
    "root: index\nparts:\n  - chapters:\n    - file: 'notebooks/good.ipynb'  # first\n      sections: [file: notebooks/other]\n",
    "root: index\nsubtrees:\n- entries:\n  - glob: notebooks/*\n",
    "root: index\nchapters:\n- title: The good one\n  file: notebooks/good\n- file:\n    notebooks/other\n- url: https://example.org\n",
]


@pytest.mark.parametrize("toc", TOCS)
def test_the_order_of_the_chapters_is_yaml(project, toc):
    (project.root / "_toc.yml").write_text(toc)
    assert project.chapters == ["good", "other"]


@pytest.mark.parametrize(
    ("toc", "message"),
    [
        ("root: index\nchapters:\n- file: [notebooks/good\n", "_toc.yml is no YAML.*line"),
        ("root: index\nchapters:\n- file: notebooks/good\n- file: notebooks/good\n", "_toc.yml lists notebooks/good 2 times"),
        ("- notebooks/good\n", "_toc.yml is a list"),
    ],
)
def test_an_order_that_cannot_be_read_is_refused(project, toc, message):
    (project.root / "_toc.yml").write_text(toc)
    with pytest.raises(BuildError, match=f"(?s){message}"):
        project.chapters  # noqa: B018


def test_execute_once(project, capsys):
    folders = chapters.execute_all(project, project.chapters, "smoke", fresh=False, processes=2, strict=True)
    assert nbformat.read(folders["other"] / "notebook.ipynb", 4).cells[2].outputs[0].data["text/plain"] == "2"
    assert chapters.verdicts(folders)["one-is-one"]["measured"] == 1.0
    assert "good: executed" in capsys.readouterr().out
    assert chapters.execute_all(project, project.chapters, "smoke", fresh=False, processes=2, strict=True) == folders
    out = capsys.readouterr().out
    assert "good: unchanged" in out and "other: unchanged" in out and "executed" not in out


# -------------------------------------------------------------------------------- what fails


def test_failures_name_notebook_cell_and_error(project):
    nbformat.write(notebook("pass"), project.root / "notebooks/good.ipynb")
    nbformat.write(notebook("a = 1", "a / 0  # the culprit"), project.root / "notebooks/other.ipynb")
    with pytest.raises(BuildError) as error:
        chapters.execute_all(project, project.chapters, "smoke", fresh=False, processes=2, strict=True)
    message = str(error.value)
    assert "notebooks/other.ipynb, cell 4" in message and "a / 0  # the culprit" in message
    assert "ZeroDivisionError: division by zero" in message and "\x1b" not in message
    assert "notebooks/good.ipynb gives no verdict on one-is-one" in message
    assert chapters.last_execution(project, "other") is None, "a failure must not be taken for an execution"


ENDS = {
    "import sys; sys.exit()": "cell 3.*raised SystemExit.*1 later cell was not executed",
    "import sys; sys.exit(3)": "cell 3.*SystemExit: 3",
    "raise SystemExit": "cell 3.*raised SystemExit.*1 later cell was not executed",
    "exit()": r"cell 3.*calls exit\(\).*ends the kernel",
    "if 1 > 0:\n    quit()": r"cell 3.*calls quit\(\).*ends the kernel",
    # Which cell a death is seen in depends on how fast it is noticed.
    "import os; os._exit(0)": "cell [23].*the kernel ended in this cell or in one before it.*later cells? w",
}


@pytest.mark.parametrize("source", ENDS)
def test_a_cell_that_ends_the_chapter_early_is_refused(project, source):
    nbformat.write(notebook(source, "print('later')"), project.root / "notebooks/other.ipynb")
    with pytest.raises(BuildError, match=f"(?s)notebooks/other.ipynb, {ENDS[source]}"):
        chapters.execute_all(project, ["other"], "smoke", False, 1, strict=False)
    assert chapters.last_execution(project, "other") is None


def test_a_cell_that_is_skipped_is_refused(project):
    skipping = notebook("1 / 0", "")
    skipping.cells[2].metadata["tags"] = ["skip-execution"]
    nbformat.write(skipping, project.root / "notebooks/other.ipynb")
    with pytest.raises(BuildError, match="(?s)cell 3.*1 / 0.*was not executed.*skip-execution"):
        chapters.execute_all(project, ["other"], "smoke", False, 1, strict=False)


def test_missing_chapter_and_missing_parameters(project):
    (project.root / "notebooks/other.ipynb").unlink()
    with pytest.raises(BuildError, match="notebooks/other.ipynb does not exist, but _toc.yml lists it"):
        chapters.execute_all(project, ["other"], "smoke", False, 1, True)
    bare = notebook()
    del bare.cells[1]
    nbformat.write(bare, project.root / "notebooks/good.ipynb")
    with pytest.raises(BuildError, match="notebooks/good.ipynb: no code cell is tagged 'parameters'"):
        chapters.execute_all(project, ["good"], "smoke", False, 1, True)


def test_claim_of_a_chapter_that_is_not_there(project):
    (project.root / "book/claims.yml").write_text(yaml.safe_dump([CLAIM | {"chapter": "nowhere"}]))
    with pytest.raises(BuildError, match="one-is-one is to be measured in 'nowhere'"):
        chapters.check_ledger(project)


def figure(alt=None, key="image/png"):
    metadata = {} if alt is None else {key: {"alt": alt}} if key else {"alt": alt}
    return nbformat.v4.new_output("display_data", {"image/png": "aGk="}, metadata=metadata)


def executed(*outputs):
    made = notebook("draw()")
    made.cells[2].outputs = list(outputs)
    return made


def test_figures_need_alt_text():
    with pytest.raises(BuildError, match="(?s)cell 3:.*draw.*without alt text"):
        chapters.check_outputs(executed(figure()), "good", strict=True)
    with pytest.raises(BuildError, match="shows 2 figures"):
        chapters.check_outputs(executed(figure("a"), figure("b")), "good", strict=True)
    for key in ("image/png", None):
        assert chapters.check_outputs(executed(figure("A line.", key)), "good", strict=True) == []


def test_stderr_fails_in_ci_and_is_noted_elsewhere():
    noisy = executed(nbformat.v4.new_output("stream", name="stderr", text="UserWarning: old driver"))
    with pytest.raises(BuildError, match="wrote to stderr: UserWarning: old driver"):
        chapters.check_outputs(noisy, "good", strict=True)
    assert "old driver" in chapters.check_outputs(noisy, "good", strict=False)[0]


# -------------------------------------------------------------------------------- the pages


def test_notebook_on_the_page():
    chapter = executed(figure("A line that rises."))
    chapter.cells.append(nbformat.v4.new_code_cell("# @title Solution\n1 + 1"))
    page = render.for_the_page(chapter, render.bibliography_links(REAL))
    assert page.cells[3].source == "1 + 1" and page.cells[3].metadata["mystnb"]["code_prompt_show"] == "Solution"
    text = page.cells[0].source
    assert "Colab" not in text and "[the gallery](../gallery.md)" in text
    assert '<a href="../bibliography.html#he2016deep">He et al.</a>' in text
    assert page.cells[2].metadata["mystnb"]["image"]["alt"] == "A line that rises."


GOOD_PAGE = """<html><body id="top"><a href="b.html#there">b</a><a href="https://example.org">out</a>
<img src="x.png" alt="A line."></body></html>"""
BAD_PAGES = {
    "loads https://cdn.example.org/x.js": '<script src="https://cdn.example.org/x.js"></script>',
    "loads //fonts.example.org/f.css": '<link rel="stylesheet" href="//fonts.example.org/f.css">',
    "links to c.html, which does not exist": '<a href="c.html">c</a>',
    "links to b.html#nowhere, and that page has no such place": '<a href="b.html#nowhere">b</a>',
    "without alt text": '<img src="x.png">',
    "shows the text of a table that was not rendered: | word | loss |": "<p>| word | loss |\n|—|—|\n| nFa | 2 |</p>",
    "shows x.png without alt text": f'<img src="x.png" alt="_images/{"0a" * 20}.png">',
}


@pytest.mark.parametrize("problem", BAD_PAGES)
def test_check_site(tmp_path, problem):
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "b.html").write_text('<html><h2 id="there">There</h2></html>')
    (tmp_path / "a.html").write_text(GOOD_PAGE)
    assert render.check_site(tmp_path) == []
    (tmp_path / "a.html").write_text(GOOD_PAGE.replace("</body>", BAD_PAGES[problem] + "</body>"))
    assert len(found := render.check_site(tmp_path)) == 1 and problem in found[0]


def test_remote_font_in_a_stylesheet(tmp_path):
    (tmp_path / "a.css").write_text("@font-face { src: url('https://fonts.example.org/f.woff2') }")
    assert "loads" in render.check_site(tmp_path)[0]


def test_a_warning_fails_and_a_page_reads_offline(project):
    """Jupyter Book itself, on one page: the warning is shown and fatal, MathJax comes from the page's own folder."""
    source = project.build / "source"
    (source / "_static").mkdir(parents=True)
    shutil.copy(ROOT / "book/references.bib", source)
    config = {key: value for key, value in REAL.config.items() if key not in ("logo", "html", "launch_buttons")}
    (source / "_config.yml").write_text(yaml.safe_dump(config))
    (source / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (source / "index.md").write_text("# Title\n\n$x + F(x)$ and [nowhere](missing.md)\n")
    with pytest.raises(BuildError, match=r"index.md.*WARNING.*missing.md"):
        render.render(project, source)
    (source / "index.md").write_text("# Title\n\n$x + F(x)$\n")
    html = render.render(project, source)
    assert (
        'src="_static/mathjax/tex-svg-full.js' in (html / "index.html").read_text()
        and (html / "_static/mathjax/tex-svg-full.js").exists()
    )


def test_gallery_shows_every_variant():
    from resnorm.catalog import NOT_BUILT, VARIANTS

    text = pages.gallery()
    for variant in VARIANTS.values():
        assert f"### {variant.title}\n" in text and f"{{cite:t}}`{variant.cite}`" in text and f"`{variant.spell()}`" in text
    assert text.count("<svg") == len(VARIANTS)
    for name in NOT_BUILT:
        assert f"- **{name}**: " in text


def test_ledger_shows_every_claim(project, tmp_path):
    (project.root / "book/claims.yml").write_text(
        yaml.safe_dump(
            [
                CLAIM,
                CLAIM | {"id": "two", "expected": "does not hold", "forecast": 0.1},
                CLAIM | {"id": "three", "expected": "not yet measured", "reason": "No GPU.", "forecast": 0.5},
                CLAIM | {"id": "four", "expected": "undecided", "forecast": 0.9},
            ]
        )
    )
    verdicts = {
        "one-is-one": {"verdict": "holds only when x is 1", "measured": {"left": 1.0, "right": 0.33333}},
        "two": {"verdict": "does not hold", "measured": 2, "published": "1"},
        "four": {"verdict": "undecided", "measured": "+1 ± 2"},
    }
    text = pages.ledger(project, verdicts, ["he2016deep"], tmp_path)
    assert "| {ref}`One is one. <claim-two>` | 10% | ✗ does not hold |" in text
    # of three forecasts one has no outcome yet; undecided counts as no: (0.1² + 0.9²) / 2
    assert "The Brier score of 2 forecasts is 0.41" in text and "1 with 90% on average, 0% came true" in text
    assert (tmp_path / "forecasts.svg").exists() and "- **Forecast:** 50%, before the runs" in text
    text = text.split("## Forecasts")[0]
    assert "4 claims: ◐ 1 holds on a condition, ✗ 1 does not hold, ? 1 undecided, … 1 not yet measured." in text
    assert (
        "## What did not hold" in text and text.count("- {ref}`One is one. <claim-two>` (identity)") == text.count("- {ref}") == 1
    )
    assert "## Identity" in text and "## Small training" not in text
    assert "left: 1; right: 0.3333" in text and "No GPU." in text and "{cite:t}`he2016deep`" in text


def test_api_documents_what_is_public():
    from resnorm import PUBLIC

    for module, names in PUBLIC.items():
        text = pages.api(module, ["he2016deep"])
        for name in names:
            if name != "VARIANTS":
                assert re.search(rf"^:+{{py:\w+}} {name}\(", text, re.MULTILINE), f"resnorm.{module}.{name} has no docstring"


# -------------------------------------------------------------------------------- what was measured


def spread(median):
    return dict(median=median, low=median * 0.9, high=median * 1.1)


HERE = dict(date="2026-11-21T10:00:00Z", device="A processor", threads=2, torch="2.15.0", commit="0123456789+changes")
COST = dict(forward=spread(1.3), backward=spread(1.4), memory=1.2, shape=[2, 3, 4])
MEASURED = {
    "costs": [
        COST | dict(kind="norm", norm="batch", input="channels_last", precision="fp32", time=spread(4.6)),
        COST | dict(kind="norm", norm="batch", input="channels_last", precision="bf16", time=spread(6.2)),
        COST
        | dict(kind="variant", variant="pre", group="generic", word="nFa", reference="Fa", precision="fp32", time=spread(1.37)),
        COST
        | dict(kind="variant", variant="residual", group="generic", word="Fa", reference="Fa", precision="fp32", time=spread(0.99)),
    ],
    "training_loops": [
        dict(kind="speed", loop="resnorm", precision="fp32", images_per_second=spread(812), ratio=spread(1.0)),
        dict(kind="speed", loop="tutorial", precision="fp32", images_per_second=spread(406), ratio=spread(2.0)),
        dict(kind="accuracy", loop="resnorm", seeds=3, epochs=6, test_accuracy=0.8765, test_accuracy_sd=0.0021),
        dict(kind="accuracy", loop="tutorial", seeds=3, epochs=6, test_accuracy=0.8712, test_accuracy_sd=None),
        dict(kind="limit", precision="fp32", limit_ms=spread(100), step_ms=spread(130), step_over_limit=spread(1.3)),
        dict(kind="depth", depth=20, step_ms=spread(150), step_ms_a_block=spread(17)),
    ],
    "engine": [
        {
            "technique": "channels_last",
            "title": "Channels last",
            "kept": True,
            "note": "",
            "unit": "images/s",
            "precision": "fp32",
            "without": spread(500),
            "with": spread(650),
            "ratio": spread(1.3),
        },
        {
            "technique": "compile",
            "title": "Compiling",
            "kept": False,
            "note": "Slow start.",
            "unit": "images/s",
            "precision": "fp32",
            "without": spread(500),
            "with": spread(490),
            "ratio": spread(0.98),
        },
    ],
    "recursive_skip": [
        dict(size=[64, 128], dtype="float32", order=order, form=form, ratio_to_layer_norm=spread(value))
        for form, order, value in [("recursion", 1, 1.1), ("recursion", 2, 2.3), ("closed form", 2, 1.15)]
    ],
}


@pytest.fixture
def measured(tmp_path):
    """Measurements of a few rows, read back from their files."""
    folder = tmp_path / "results/benchmarks"
    folder.mkdir(parents=True)
    for name, rows in MEASURED.items():
        content = dict(name=name, provenance=HERE, settings=dict(rounds=7), rows=rows)
        (folder / f"{name}.json").write_text(json.dumps(content))
    return benchmarks.read(folder)


def test_gallery_says_what_was_not_measured(tmp_path):
    text = pages.gallery(benchmarks.read(tmp_path / "nowhere"))
    assert "No cost has been measured yet" in text and "`make bench`" in text and "times the time" not in text


def test_gallery_shows_costs(measured):
    text = pages.gallery(measured)
    assert "| `batch` | channels last | 4.60 (4.14–5.06) | 1.30 | 1.40 | 6.20 (5.58–6.82) | 1.20 |" in text
    assert "| {ref}`Pre-Norm <variant-pre>` | `nFa` | 1.37 (1.23–1.51) |" in text
    assert "Measured on 2026-11-21, A processor, 2 threads, torch 2.15.0, commit 0123456+changes, 7 rounds." in text
    costs = re.findall(r"[\d.]+ times the time and [\d.]+ times the memory of the plain skip `\w+`", text)
    assert costs == ["1.37 times the time and 1.20 times the memory of the plain skip `Fa`"], "once, under Pre-Norm"


def test_page_on_training_fast_without_measurements(tmp_path):
    source = (ROOT / "book/fast_training.md").read_text(encoding="utf-8")
    text, missing = benchmarks.fill(source, {}, tmp_path)
    assert missing == benchmarks.PLACEHOLDER.findall(source) and "{{" not in text
    assert "Not measured yet: `engine.channels_last`" in text and "Not measured yet: `cuda_graph.table`" in text
    assert not list(tmp_path.iterdir()), "a figure of nothing"
    assert not re.search(r"\d ?(times|%|images/s|tokens/s|GFLOP)", source), "a measured number typed by hand"


def test_page_on_training_fast_with_measurements(tmp_path, measured):
    source = (ROOT / "book/fast_training.md").read_text(encoding="utf-8")
    text, missing = benchmarks.fill(source, measured, tmp_path)
    assert "engine.bf16" in missing and "engine.channels_last" not in missing
    assert "In fp32 this engine trained 812 images/s, 2.00 times as many as the fastest other loop (tutorial)." in text
    assert "| tutorial | fp32 | 406 | 2.00 (1.80–2.20) |" in text
    assert "| resnorm | 87.65 ± 0.21 % |" in text and "In all rows: seeds 3, epochs 6." in text
    assert "| precision | step over limit | step (ms) | limit (ms) |" in text and "1.30 (1.17–1.43) | 130 | 100 |" in text
    assert "| depth | step (ms) | step a block (ms) |" in text
    assert "**1.30 times** as fast (1.17 to 1.43): 500 (450–550) images/s without it, 650 (585–715) with it" in text
    assert "| recursion | 1.10 (0.99–1.21) | 2.30 (2.07–2.53) |\n| closed form | – | 1.15 (1.03–1.26) |" in text
    declined = text.partition("## What did not pay")[2]
    assert "| Compiling | 0.98 (0.88–1.08) |" in declined and "Slow start." in declined and "Channels last" not in declined


def test_summary_compares_what_was_compared(tmp_path, measured):
    """Where no other loop ran in our precision, the ratio of another precision says nothing about ours."""
    rows = measured["training_loops"]["rows"]
    rows.append(dict(rows[0], precision="bf16", images_per_second=spread(1218)))
    text, _ = benchmarks.fill("{{training_loops.summary}}", measured, tmp_path)
    assert "In fp32 this engine trained 812 images/s, 2.00 times" in text
    assert "In bf16 this engine trained 1,220 images/s, 3.00 times as many as" in text and "(tutorial, in fp32)." in text
    rows[1]["ratio_bf16"] = spread(3.1)
    assert "3.10 times as many" in benchmarks.fill("{{training_loops.summary}}", measured, tmp_path)[0], "round by round"


def test_page_on_changed_norms_counts_what_was_recorded(tmp_path):
    source = (ROOT / "book/convert_norm.md").read_text(encoding="utf-8")
    text, missing = benchmarks.fill(source, {}, tmp_path)
    assert missing == benchmarks.PLACEHOLDER.findall(source) and "{{" not in text
    one = dict(library="timm", family="resnet", conversion="batch to layer", outcome="converted")
    rows = [
        dict(one, model="a"),
        dict(one, model="b"),
        dict(one, model="c", outcome="refused", reason="A.forward reads bn.eps, so"),
        dict(one, model="d", outcome="refused on the example", reason="the forward pass in eval is not finite"),
        dict(library="timm", family="vgg", model="e", outcome="no norm of these kinds"),
    ]
    content = dict(name="convert_norm", provenance=dict(date="2026-11-30"), settings=dict(timm="1.0"), rows=rows)
    text, _ = benchmarks.fill(source, dict(convert_norm=content), tmp_path)
    assert "4 conversions were tried, on 4 of timm 1.0: 2 gave a model that passes the check, 2 were refused, 0 were" in text
    assert "| timm | batch to layer | 4 | 2 | 1 | 1 | 0 |" in text and "- No norm of these kinds (1): `e`." in text
    assert "| batch to layer | another module reads the norm's parameters | 1 | `c` |" in text


def test_page_on_changed_norms_has_no_silent_change(tmp_path):
    text, missing = benchmarks.fill(
        (ROOT / "book/convert_norm.md").read_text(encoding="utf-8"), benchmarks.read(ROOT / "results/benchmarks"), tmp_path
    )
    assert not missing and " 0 were silently wrong, and 0 ended in any other way" in text


def test_page_on_training_fast_explains_what_the_engine_keeps():
    from benchmarks import engine

    kept = {name: measure[-1] for name, measure in (engine.IN_PROCESS | engine.OWN_PROCESS).items()}
    source = (ROOT / "book/fast_training.md").read_text(encoding="utf-8")
    named = {name.partition(".")[2] for name in benchmarks.PLACEHOLDER.findall(source) if name.startswith("engine.")}
    assert named - set(benchmarks.PARTS["engine"]) == {name for name in kept if kept[name]}


def test_page_on_weights_of_other_libraries(tmp_path, measured):
    source = (ROOT / "book/load_weights.md").read_text(encoding="utf-8")
    ways = ("network", "state dict", "shuffled", "safetensors", "safetensors, config")
    rows = [
        dict(library="timm", network="resnet18", ours="resnet()", outcomes=dict.fromkeys(ways, "equal"), difference=1.25e-7),
        dict(
            library="timm",
            network="resnetblur18",
            ours="resnet()",
            difference=0.1,
            said="cannot tell",
            outcomes=dict.fromkeys(ways, "refused") | dict(shuffled="unchecked", safetensors="unchecked"),
            reason="the network has antialias='blur', and this model None; build it",
        ),
        dict(library="timm", network="resnetrs50", ours="resnet()", outcomes=dict.fromkeys(ways, "refused"), reason="squeeze"),
    ]
    content = measured["recursive_skip"] | dict(name="load_weights", settings=dict(tolerance=1e-4), rows=rows)
    text, missing = benchmarks.fill(source, {"load_weights": content}, tmp_path)
    assert not [name for name in missing if name.startswith("load_weights.")] and "{{" not in text
    assert "3 networks of torchvision, timm and Hugging Face" in text
    assert "1 gave the same logits and 2 were refused. 1 were refused in every way. Tensors alone cannot tell 1:" in text
    assert "Loaded without a word, with other logits: none." in text
    assert "| `resnetblur18` | timm | refused | refused or unchecked | – | `resnet()` | the network has antialias=" in text
    examples = re.findall(r"```python\n(.*?)```", source, re.DOTALL)
    names = {}
    for example in examples:
        exec(compile(example.replace('weights="DEFAULT"', ""), "load_weights.md", "exec"), names)
    assert names["model"].head.out_features == 10 and names["decoder"].head.out_features == 101


def test_what_ran_on_a_gpu_has_tables_of_its_own(tmp_path, measured):
    one = measured["recursive_skip"]
    rows = [row | dict(launch=launch) for row in one["rows"] for launch in ("called from Python", "in a CUDA graph")]
    measured["recursive_skip_gpu"] = one | dict(rows=rows)
    graph = dict(model="Pre-Norm", layers=12, steps="CUDA graph", tokens_per_second=400000.0, ratio=7.5)
    measured["cuda_graph"] = one | dict(rows=[graph, graph | dict(model="Post-Norm", ratio=8.25)])
    text, missing = benchmarks.fill("{{cuda_graph.table}} {{recursive_skip_gpu.table}}", measured, tmp_path)
    assert not missing and "| Post-Norm | 8.25 |" in text and "In all rows: layers 12, steps CUDA graph, tokens/s 400,000." in text
    assert text.count("called from Python**") == text.count("in a CUDA graph**") > 0
    assert text.count("Measured on 2026-11-21, A processor") == 2


def test_figures_say_their_numbers(tmp_path, measured):
    text, _ = benchmarks.fill("{{training_loops.figure}}", measured, tmp_path)
    assert text == (
        "![Horizontal bars of images/s, median and range. resnorm, fp32: 812 (731 to 893), this engine; "
        "tutorial, fp32: 406 (365 to 447).](training_loops.svg)"
    )
    drawn = (tmp_path / "training_loops.svg").read_text()
    measured["training_loops"]["rows"][1]["images_per_second"] = spread(200)
    assert "tutorial, fp32: 200 (180 to 220)" in benchmarks.fill("{{training_loops.figure}}", measured, tmp_path)[0]
    assert drawn != (tmp_path / "training_loops.svg").read_text()


@pytest.mark.parametrize("name", ["engin.channels_last", "training_loops.sped", "engine"])
def test_placeholder_that_nothing_fills(tmp_path, measured, name):
    with pytest.raises(BuildError, match=rf"\{{\{{{re.escape(name)}\}}\}} is no placeholder.*training_loops.speed"):
        benchmarks.fill(f"It is {{{{{name}}}}}.", measured, tmp_path)


def test_broken_measurement_is_named(tmp_path):
    (tmp_path / "costs.json").write_text("{")
    with pytest.raises(BuildError, match="costs.json is no JSON.*make bench"):
        benchmarks.read(tmp_path)


def test_costs_compare_the_same_branches():
    from benchmarks import costs
    from resnorm import VARIANTS, Block

    words = {
        "pre": "Fa",
        "rskip_norm": "Fa",
        "resnet_v1": "CrCa",
        "bottleneck_v2": "CrCrCa",
        "projection_v2": "CrCa",
        "conv_act_norm_add": "Cra",
        "densenet": "CrCc",
        "encoder_b2t": "Aa Ma",
        "decoder_post": "Aa Xa Ma",
        "parallel": "[A,M]a",
        "parallel_two_norms": "[A,M]a",
    }
    assert {name: costs.plain_skip(VARIANTS[name].spell()) for name in words} == words
    for variant in VARIANTS.values():
        same = costs.branches(variant.block(16))
        plain, own = Block(costs.plain_skip(variant.spell()), 16, **same), variant.block(16, **same)
        learned = {id(p) for name, part in own.named_children() if name[-1].isupper() for p in part.parameters()}
        assert learned and {id(parameter) for parameter in plain.parameters()} == learned, variant.name


def test_costs_name_every_norm():
    from benchmarks import costs
    from resnorm.norms import NORMS, call_form

    instruments = {"none", "noisy_batch", "scalar_bias"}  # nobody chooses them for what they cost
    assert {call_form(name)[0] for name in (*costs.ON_IMAGES, *costs.ON_TOKENS)} == set(NORMS) - instruments


def test_costs_count_what_is_saved_for_backward():
    import torch

    from benchmarks import costs
    from resnorm import norm

    x = torch.randn(4, 8, requires_grad=True)
    linear = costs.Cost(torch.nn.Linear(8, 8), x, "fp32")
    assert linear.saved_bytes == x.nbytes, "the input; the weight is a parameter"
    # Its input, and a mean and a standard deviation for each of the four rows.
    assert costs.Cost(norm("layer", 8), x, "fp32").saved_bytes == x.nbytes + 2 * 4 * 4
    twice = costs.Cost(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(8, 8)), x, "fp32")
    assert twice.saved_bytes == x.nbytes, "the ReLU's output is the linear layer's input: one storage"
    assert [gradient.shape for gradient in linear.backward()] == [(4, 8), (8, 8), (8,)]


# -------------------------------------------------------------------------------- sources


def test_repository_name_stands_in_one_place(monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/fork")
    assert REAL.repository == "someone/fork"
    monkeypatch.delenv("GITHUB_REPOSITORY")
    stored = REAL.repository
    assert chapters.stored_repository(ROOT) == stored
    texts = [
        path
        for pattern in ("*.md", "*.yml", "*.cff", "Makefile", "book/**/*", "resnorm/**/*.py", ".github/**/*.yml")
        for path in ROOT.glob(pattern)
    ]
    for path in texts:
        if path.suffix in (".md", ".yml", ".cff", ".py", ".bib", ""):
            assert path.is_dir() or stored not in path.read_text(encoding="utf-8"), f"{path} repeats {stored}"


def test_citation_keys_exist():
    from resnorm import VARIANTS

    keys = set(pages.bibliography_keys(REAL))
    cited = {variant.cite for variant in VARIANTS.values()}
    for path in (ROOT / "resnorm").rglob("*.py"):
        cited |= set(re.findall(r"\b[a-z]+(?:19|20)\d\d[a-z]\w+\b", path.read_text(encoding="utf-8")))
    assert cited <= keys, "add these to book/references.bib"


def test_no_source_is_listed_twice():
    for field in (r"^@\w+\{([^,]+)", r"^  url = \{([^}]+)"):
        found = Counter(re.findall(field, (ROOT / "book/references.bib").read_text(encoding="utf-8"), re.MULTILINE))
        assert found and not [one for one, times in found.items() if times > 1]


# -------------------------------------------------------------------------------- numbers in prose


def numbers_in(*sources: str, kind=nbformat.v4.new_markdown_cell) -> list[tuple[int, str]]:
    """What the check finds in cells, where one paper has one published figure."""
    cells = nbformat.v4.new_notebook(cells=[kind(source) for source in sources])
    return numbers.unsourced(cells, {"he2016deep": ["8.75"]}, {"https://arxiv.org/abs/1512.03385": "he2016deep"})


PAPER = "[He et al.](https://arxiv.org/abs/1512.03385)"


@pytest.mark.parametrize(
    "text",
    [
        f"{PAPER} report 8.75 %.",
        "A rate of `0.1`, $\\lambda = 0.5$ and $$x = 0.25$$ are settings.",
        "Three seeds, 110 layers, 45,000 images, 2 of 3.",
        "## References\n\nK. He, arXiv 1512.03385, 99.9 %",
        "[A link](https://example.org/1.5/2.5)",
    ],
)
def test_prose_may_print_published_figures_and_settings(text):
    assert numbers_in(text) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It reaches 91.2 %.", "91.2"),
        (f"{PAPER} report 8.76 %.", "8.76"),
        ("He et al. report 8.75 %.", "8.75"),
        ("It loses 3 points.", "3"),
        ("About 40 % of it.", "40"),
        ("It takes 1,024.5 s.", "1,024.5"),
    ],
)
def test_a_number_without_a_source_is_found(text, number):
    assert numbers_in("Nothing.", text) == [(2, number)]


def test_a_claim_prints_published_figures_only():
    code = 'claim("x", measured=3.14, holds=3.14 > 3, published={!r})'
    assert numbers_in(code.format("8.75 % (He et al.)"), kind=nbformat.v4.new_code_cell) == []
    assert numbers_in(code.format("8.8 %"), kind=nbformat.v4.new_code_cell) == [(1, "8.8")]


def test_every_chapter_says_where_its_numbers_come_from():
    numbers.check_numbers(REAL)
    assert set(numbers.published_figures(REAL)) <= set(pages.bibliography_keys(REAL))


def test_the_build_stops_at_a_number_without_a_source(project):
    (project.root / "book/published.yml").write_text("he2016deep:\n  - ['8.75']\n")
    numbers.check_numbers(project)
    nbformat.write(notebook("1"), project.root / "notebooks/other.ipynb")
    cells = nbformat.read(project.root / "notebooks/other.ipynb", 4)
    cells.cells.append(nbformat.v4.new_markdown_cell("We measured 12.5 %."))
    nbformat.write(cells, project.root / "notebooks/other.ipynb")
    with pytest.raises(BuildError, match=r"other\.ipynb.*12\.5 \(cell 4\)"):
        numbers.check_numbers(project)
