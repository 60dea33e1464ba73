"""Begin a chapter: a notebook that builds and passes every check, with its line in the order of reading.

python -m book.new_chapter graph_norms                         after the last chapter
python -m book.new_chapter graph_norms --after which_norm      after another one
python -m book.new_chapter graph_norms --title "Norms on graphs"
"""

import argparse
import os
import re
import sys
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.chapters import BuildError, Project
from book.notebooks import NAME, as_stored, faults

ROOT = Path(__file__).resolve().parent.parent


def text(id: str, source: str) -> NotebookNode:
    return new_markdown_cell(source, id=id)


def code(id: str, source: str, **metadata) -> NotebookNode:
    return new_code_cell(source, id=id, metadata=metadata)


def template(title: str) -> NotebookNode:
    """A chapter with all its sections around a first small experiment; badge and install cell come with the stored form."""
    opening = f"# {title}\n\nSay in a few short sentences what this chapter is about.\n\n**What you will learn**\n\n- what"
    cells = [
        text("title", f"{opening} the reader knows afterwards, one line a point."),
        code(
            "parameters",
            'preset = "smoke"  # str: "smoke" (seconds), "cpu", "colab" (minutes) or "paper" (hours)\n'
            "seeds = [0, 1, 2]  # list[int]: one training run of every network a seed",
            tags=["parameters"],
        ),
        code(
            "imports",
            "from resnorm.lab import check_preset, check_seeds\n\n"
            "preset, seeds = check_preset(preset), check_seeds(seeds)\n\n"
            "from IPython.display import Markdown, display\n"
            "from resnorm import Experiment, lab, plots, variant",
        ),
        text("question", "## The question\n\nAsk it so that a measurement can answer it."),
        text(
            "predict",
            "## Predict before you run\n\nCommit to a guess for each. The chapter answers them all.\n\n"
            "1. Which of the two networks below ends with the smaller error?",
        ),
        text(
            "mathematics",
            "## The mathematics\n\nDerive what the experiment is about. Here, two places of the norm: "
            "$y = x + F(\\operatorname{n}(x))$ and $y = \\operatorname{n}(x + F(x))$.",
        ),
        text("code", "## The code\n\nA block is a word: from it come the module and the equation."),
        code(
            "blocks",
            'for name in ("pre", "post"):\n'
            "    block = variant(name).block(16)\n"
            '    print(f"{variant(name).title}: {block.word}, y = {block.equation()}")',
        ),
        text("experiment", "## The experiment\n\nOne training run of each network and seed. A preset changes its size only."),
        code(
            "runs",
            'epochs = {"smoke": 2, "cpu": 20, "colab": 20, "paper": 50}[preset]\n'
            "base = Experiment(\n"
            '    task=dict(name="digits"),\n'
            '    model=dict(name="mlp_stack", variant="pre", depth=4, width=32),\n'
            "    recipe=dict(epochs=epochs, batch_size=64, lr=0.01),\n"
            ")\n"
            'grid = {"model.variant": ["pre", "post"], "seed": seeds}\n'
            "runs = lab.run_all(lab.sweep(base, grid), progress=False)\n"
            'display(Markdown(f"Preset {preset}, run by this build: {lab.origin(runs)}"))',
        ),
        code(
            "figure",
            'frame = lab.frame(runs)\nplots.show(plots.bars(frame, "test_accuracy", scale=100, ylabel="test accuracy, %"))',
        ),
        text(
            "shows",
            "## What it shows, and where it stops\n\nWhat stands, in which setting, over how many seeds, and what was not tried.",
        ),
        text("exercises", "## Exercises\n\n**1. A third place.** What does a norm on both sides of the branch do?"),
        code(
            "solution",
            '# @title Solution\nsandwich = variant("sandwich").block(16)\nprint(f"{sandwich.word}: y = {sandwich.equation()}")',
            tags=["hide-cell"],
            cellView="form",
        ),
        text("answer", "<details><summary>What it says</summary>\n\nWhat the solution shows, in words.\n\n</details>"),
        text(
            "references",
            "## References\n\n- [Xiong et al., 2020](https://arxiv.org/abs/2002.04745): R. Xiong and others. "
            "*On Layer Normalization in the Transformer Architecture.* ICML 2020; arXiv 2002.04745.",
        ),
    ]
    return new_notebook(cells=cells)


def with_line(toc: str, chapter: str, after: str) -> str:
    """The text of `_toc.yml` with one more chapter behind another, in the same indentation."""
    line = re.compile(rf"^([ -]*)file: *['\"]?notebooks/{after}(\.ipynb)?['\"]? *(#.*)?$", re.MULTILINE)
    places = list(line.finditer(toc))
    if len(places) != 1:
        raise BuildError(f"_toc.yml has no line of its own for notebooks/{after}; add `- file: notebooks/{chapter}` by hand")
    end = places[0].end()
    return f"{toc[:end]}\n{places[0][1]}file: notebooks/{chapter}{toc[end:]}"


def begin(project: Project, chapter: str, title: str | None = None, after: str | None = None) -> Path:
    """Write the notebook and its line in `_toc.yml`; return the notebook's path. Raises BuildError and then writes nothing."""
    path, order = project.root / "notebooks" / f"{chapter}.ipynb", project.chapters
    if not NAME.fullmatch(chapter):
        raise BuildError(f"{chapter!r} is no name of a chapter; take lower-case words joined by underscores, like graph_norms")
    if path.exists() or chapter in order:
        raise BuildError(f"there is a chapter {chapter} already; take another name")
    if not order or (after and after not in order):
        raise BuildError(f"_toc.yml has no chapter {after!r}; its chapters are {', '.join(order)}")
    toc = project.root / "_toc.yml"
    listed = with_line(toc.read_text(encoding="utf-8"), chapter, after or order[-1])
    stored = as_stored(project, template(title or chapter.replace("_", " ").capitalize()), chapter)
    for file, content in ((path, stored), (toc, listed)):
        part = file.with_suffix(".part")
        part.write_text(content, encoding="utf-8")
        os.replace(part, file)
    if found := faults(project, chapter):
        raise BuildError("\n".join(found))
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m book.new_chapter", description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="the notebook's name: lower-case words joined by underscores")
    parser.add_argument("--title", help="the chapter's title (default: its name)")
    parser.add_argument("--after", metavar="CHAPTER", help="where it is read (default: after the last chapter)")
    chosen = parser.parse_args(arguments)
    try:
        path = begin(Project(ROOT, ROOT / "_build"), chosen.name, chosen.title, chosen.after)
    except BuildError as error:
        print(f"The chapter was not begun: {error}", file=sys.stderr)
        return 1
    print(f'{path.relative_to(ROOT)} is in _toc.yml. Build it: make book ARGS="--only {chosen.name}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
