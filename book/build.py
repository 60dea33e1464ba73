"""Build the book: execute the chapters that changed, generate pages, render with Jupyter Book.

    python -m book.build                         everything that changed, in the preset smoke
    python -m book.build --preset cpu --fresh    execute every chapter again, larger
    python -m book.build --only recursive_skip   execute one chapter; the others show what they last had
    python -m book.build --no-pages              execute, and render nothing: where Jupyter Book is not installed
    python -m book.build --normalise             bring the notebooks into their stored form, and say what they lack

A failing cell, a claim that does not hold, a figure without alt text, any warning of Sphinx and anything that a page
would load from the network fail the build.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

from book import chapters, notebooks, numbers, pages, render
from book.chapters import BuildError, Project
from book.processes import ending_with_this_one

PRESETS = ("smoke", "cpu", "colab", "paper")
ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m book.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="smoke", help="size of the experiments (default: smoke)")
    parser.add_argument("--only", action="append", metavar="CHAPTER", help="execute this chapter only; repeatable")
    parser.add_argument("--fresh", action="store_true", help="execute again what has not changed, without records of earlier runs")
    parser.add_argument("--no-pages", action="store_true", help="execute the chapters and render no pages")
    parser.add_argument("--processes", type=int, default=2, help="chapters executed at a time (default: 2)")
    parser.add_argument(
        "--strict", action="store_true", default="CI" in os.environ, help="a message on stderr fails (default in CI)"
    )
    parser.add_argument(
        "--normalise", action="store_true", help="only bring the notebooks into their stored form, and say what they lack"
    )
    chosen = parser.parse_args(arguments)
    project = Project(ROOT, ROOT / "_build")
    try:
        if chosen.normalise:
            normalise(project)
        else:
            build(project, chosen.preset, chosen.only, chosen.fresh, chosen.processes, chosen.strict, not chosen.no_pages)
    except BuildError as error:
        print(
            f"\n{'The notebooks are not in order.' if chosen.normalise else 'The book was not built.'}\n\n{error}", file=sys.stderr
        )
        return 1
    return 0


def normalise(project: Project) -> None:
    """Bring the notebooks into their stored form. Raises BuildError with everything that only an author can repair."""
    changed = notebooks.normalise(project)
    print("\n".join(f"notebooks/{name} rewritten" for name in changed) or "all notebooks are in their stored form")
    names = sorted(path.stem for path in (project.root / "notebooks").glob("*.ipynb"))
    if faults := [fault for name in names for fault in notebooks.faults(project, name)]:
        raise BuildError("\n".join(faults))


def build(
    project: Project,
    preset: str = "smoke",
    only: list[str] | None = None,
    fresh: bool = False,
    processes: int = 2,
    strict: bool = False,
    with_pages: bool = True,
) -> Path:
    """Build the site and return its first page; without pages the folder of the executions.

    Raises BuildError saying what is wrong, and where.
    """
    started = time.monotonic()
    if unknown := set(only or []) - set(project.chapters):
        raise BuildError(f"_toc.yml has no chapter {', '.join(sorted(unknown))}; its chapters are {', '.join(project.chapters)}")
    numbers.check_numbers(project)
    print(f"Chapters (preset {preset}):", flush=True)
    folders = chapters.execute_all(project, only or project.chapters, preset, fresh, processes, strict)
    if not with_pages:
        return project.build / "executed"
    for chapter in set(project.chapters) - set(folders):
        if folder := chapters.last_execution(project, chapter):
            folders[chapter] = folder
    if not only:
        chapters.check_ledger(project)
    index = project.build / "html/index.html"
    key, stamp = site_key(project, folders), project.build / "html/.key"
    if not fresh and stamp.exists() and stamp.read_text() == key:
        print("Pages: unchanged")
    else:
        print("Pages:", flush=True)
        source = render.stage(project, folders)
        pages.write_pages(project, source, chapters.verdicts(folders))
        with ending_with_this_one():
            site = render.render(project, source)
        (site / ".key").write_text(key)
        print(f"  {len(list(site.rglob('*.html')))} pages, no warning")
    print(f"The book stands after {time.monotonic() - started:.0f} s. Open {index}")
    return index


def site_key(project: Project, folders: dict[str, Path]) -> str:
    """What the pages depend on: executions, prose, configuration, the package's docstrings, the pinned versions."""
    paths = chapters.files_under(project.root / "resnorm", "*.py")
    paths += [path for path in chapters.files_under(project.root / "book", "*") if "__pycache__" not in path.parts]
    paths += chapters.files_under(project.root / "results/benchmarks", "*.json")
    paths += [project.root / name for name in ("_config.yml", "_toc.yml", "requirements.txt")]
    paths += [project.notebook(chapter) for chapter in project.chapters]
    executions = {chapter: folder.name for chapter, folder in folders.items()}
    return chapters.fingerprint(paths, project.root, [executions, project.repository, platform.python_version()])


if __name__ == "__main__":
    sys.exit(main())
