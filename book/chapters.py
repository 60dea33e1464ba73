"""The chapters: their stored form, their execution, and what is checked in their outputs."""

import ast
import hashlib
import json
import os
import platform
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

import nbformat
import yaml

from book.processes import ending_with_this_one

BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\n*")
COLAB = re.compile(r"colab\.research\.google\.com/github/[^/\s]+/[^/\s]+/blob/[^/\s]+/notebooks/[^)\s]+")
INSTALL = re.compile(r"git\+https://github\.com/[\w.-]+/[\w.-]+?(?=[\"'\s@]|$)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class BuildError(Exception):
    """What is wrong with the book, where, and how to repair it."""


@dataclass(frozen=True)
class Project:
    """The folders of the project, and the names that are derived from them."""

    root: Path
    build: Path

    @property
    def repository(self) -> str:
        """owner/name on GitHub: the workflow's own repository, else the one in pyproject.toml."""
        return os.environ.get("GITHUB_REPOSITORY") or stored_repository(self.root)

    @property
    def config(self) -> dict:
        return yaml.safe_load((self.root / "_config.yml").read_text(encoding="utf-8"))

    @property
    def chapters(self) -> list[str]:
        """The chapters' names, in reading order."""
        text = (self.root / "_toc.yml").read_text(encoding="utf-8")
        return re.findall(r"^\s*-?\s*file:\s*notebooks/(\w+)\s*$", text, re.MULTILINE)

    @property
    def claims(self) -> list[dict]:
        return yaml.safe_load((self.root / "book/claims.yml").read_text(encoding="utf-8")) or []

    def notebook(self, chapter: str) -> Path:
        path = self.root / "notebooks" / f"{chapter}.ipynb"
        if not path.exists():
            raise BuildError(f"notebooks/{chapter}.ipynb does not exist, but _toc.yml lists it; add it, or take it off the list")
        return path


def stored_repository(root: Path) -> str:
    """owner/name as pyproject.toml has it: the one place where it stands."""
    import tomllib

    url = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", url)
    if not found:
        raise BuildError(f"pyproject.toml: Repository = {url!r} is no https://github.com/OWNER/NAME")
    return found[1]


# -------------------------------------------------------------------------------- the stored form


def normalised(notebook: nbformat.NotebookNode, chapter: str, repository: str, branch: str) -> nbformat.NotebookNode:
    """The notebook without outputs, with plain metadata, with the repository's name in badge and install cell."""
    cells = []
    for index, cell in enumerate(notebook.cells):
        source = COLAB.sub(f"colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{chapter}.ipynb", cell.source)
        source = INSTALL.sub(f"git+https://github.com/{repository}", source)
        metadata = {key: cell.metadata[key] for key in ("tags", "cellView") if cell.metadata.get(key)}
        make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}[cell.cell_type]
        cells.append(make(source, metadata=metadata, id=cell.get("id") or f"cell-{index}"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def normalise(project: Project) -> list[str]:
    """Bring every notebook into its stored form; return the names of those that changed."""
    changed = []
    for path in sorted((project.root / "notebooks").glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = normalised(
            nbformat.reads(before, 4), path.stem, stored_repository(project.root), project.config["repository"]["branch"]
        )
        after = nbformat.writes(notebook) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path.name)
    return changed


# -------------------------------------------------------------------------------- execution


def fingerprint(paths: list[Path], root: Path, extra: object = None) -> str:
    """A hash of the files' names and contents, and of anything else that JSON can write."""
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for path in sorted(paths):
        digest.update(f"\0{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def files_under(folder: Path, *patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()]


def execution_key(project: Project, chapter: str, preset: str) -> str:
    """What an execution depends on: cells, parameters, package, installed versions, committed records, its claims."""
    notebook = nbformat.read(project.notebook(chapter), 4)
    cells = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in notebook.cells]
    claims = [claim for claim in project.claims if claim["chapter"] == chapter]
    paths = files_under(project.root / "resnorm", "*.py", "*.cpp") + files_under(project.root / "results", "*.json")
    # requirements/colab.txt installs others than requirements.txt says.
    versions = [metadata.version(name) for name in ("torch", "numpy", "pandas", "matplotlib", "ipython")]
    environment = [platform.python_version(), versions, Path(__file__).read_text(encoding="utf-8")]
    return fingerprint(
        [*paths, project.root / "requirements.txt"], project.root, [cells, parameters(notebook, preset), claims, environment]
    )


def parameters(notebook: nbformat.NotebookNode, preset: str) -> dict:
    """The parameters to pass: the preset, where the notebook has one and its default is another."""
    cell = next((cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])), None)
    if cell is None:
        raise BuildError("has no cell tagged 'parameters'; add one, empty if there is nothing to choose")
    defaults = {
        target.id: node.value
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if "preset" not in defaults or ast.literal_eval(defaults["preset"]) == preset:
        return {}
    return {"preset": preset}


def last_execution(project: Project, chapter: str) -> Path | None:
    """The folder of a chapter's last good execution, current or not: notebook.ipynb and, in claims/, the verdicts."""
    return next((path for path in (project.build / "executed" / chapter).glob("*") if path.suffix != ".part"), None)


def execute_all(project: Project, chapters: list[str], preset: str, fresh: bool, processes: int, strict: bool) -> dict[str, Path]:
    """Execute what has changed, several at a time; return each chapter's folder. Raises BuildError."""
    keys = {chapter: _located(chapter, execution_key, project, chapter, preset) for chapter in chapters}
    folders = {chapter: project.build / "executed" / chapter / key for chapter, key in keys.items()}
    pending = [chapter for chapter in chapters if fresh or not folders[chapter].exists()]
    if fresh:
        shutil.rmtree(project.build / "records", ignore_errors=True)
    for chapter in chapters:
        if chapter not in pending:
            print(f"  {chapter}: unchanged", flush=True)
    if not pending:
        return folders
    processes = max(1, min(processes, len(pending)))
    # Threads that wait for each other on a busy machine take many times as long: OMP_NUM_THREADS, where set, comes first.
    threads = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or max(1, (os.cpu_count() or 1) // processes))
    failures = []
    # Spawned, because a process that has loaded papermill or torch does not survive a fork well.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        with ending_with_this_one():
            waiting = [pool.submit(_execute, project, chapter, preset, folders[chapter], threads, strict) for chapter in pending]
            for future in waiting:
                report, failure = future.result()
                print(report, flush=True)
                failures += [failure] if failure else []
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise BuildError("\n\n".join(failures))
    return folders


def _located(chapter, function, *arguments):
    try:
        return function(*arguments)
    except BuildError as error:
        raise BuildError(f"notebooks/{chapter}.ipynb {error}") from None


def _execute(project: Project, chapter: str, preset: str, folder: Path, threads: int, strict: bool) -> tuple[str, str | None]:
    """Execute one notebook in its own process; return a line for the log, and what failed."""
    import papermill
    from traitlets.config import Config

    started = time.monotonic()
    part = folder.parent / f"{folder.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "claims").mkdir(parents=True)
    (part / "work").mkdir()
    os.environ.update({name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")})
    os.environ.update(
        RESNORM_CLAIMS=str(part / "claims"),
        RESNORM_LIVE=str(project.build / "records"),
        # This tree's package, whatever else is installed.
        PYTHONPATH=os.pathsep.join(filter(None, [str(project.root), os.environ.get("PYTHONPATH")])),
        PYTHONHASHSEED="0",
    )
    os.environ.pop("MPLBACKEND", None)
    # The kernel's own log, which is not output of the notebook.
    with open(part / "kernel.log", "w") as log:
        os.dup2(log.fileno(), 2)
    notes, failure = [], None
    try:
        papermill.execute_notebook(
            str(project.notebook(chapter)),
            str(part / "notebook.ipynb"),
            kernel_name="python3",
            cwd=str(part / "work"),
            parameters=parameters(nbformat.read(project.notebook(chapter), 4), preset),
            progress_bar=False,
            # Sockets in the file system: nobody else on the machine can listen, and ipykernel does not warn.
            config=Config(KernelManager={"transport": "ipc"}),
        )
        notes = check_outputs(nbformat.read(part / "notebook.ipynb", 4), chapter, strict)
        check_verdicts(project, chapter, part / "claims")
    except BuildError as error:
        failure = str(error)
    except papermill.exceptions.PapermillExecutionError as error:
        failure = describe_failure(nbformat.read(part / "notebook.ipynb", 4), chapter, error)
    except Exception as error:
        failure = f"notebooks/{chapter}.ipynb could not be executed: {type(error).__name__}: {error}"
    shutil.rmtree(part / "work", ignore_errors=True)
    seconds = f"{time.monotonic() - started:.0f} s"
    if failure:
        return f"  {chapter}: FAILED after {seconds}", f"{failure}\n  as far as it came: {part / 'notebook.ipynb'}"
    for old in folder.parent.iterdir():
        if old != part:
            shutil.rmtree(old)
    os.replace(part, folder)
    return "\n".join([f"  {chapter}: executed in {seconds}", *notes]), None


# -------------------------------------------------------------------------------- checks of the outputs


def describe_failure(notebook: nbformat.NotebookNode, chapter: str, error: Exception) -> str:
    """The notebook, the cell and the error, for somebody who reads a terminal."""
    for index, cell in stored_cells(notebook):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                ours = [
                    line for line in COLOUR.sub("", "\n".join(output.traceback)).splitlines() if re.match(r"File .*resnorm", line)
                ]
                lines = [_cell(chapter, index, cell), f"  {output.ename}: {COLOUR.sub('', output.evalue)}"]
                lines += [f"  raised in {line.removeprefix('File ')}" for line in ours[-1:]]
                return "\n".join(lines)
    return f"notebooks/{chapter}.ipynb failed: {error}"


def stored_cells(notebook: nbformat.NotebookNode) -> list[tuple[int, nbformat.NotebookNode]]:
    """The cells of the stored notebook with their numbers, without those that papermill put in between."""
    papermills = {"injected-parameters", "papermill-error-cell-tag"}
    return list(enumerate((cell for cell in notebook.cells if not papermills & set(cell.metadata.get("tags", []))), start=1))


def _cell(chapter: str, index: int, cell: nbformat.NotebookNode) -> str:
    source = "".join(f"\n    | {line}" for line in cell.source.splitlines())
    return f"notebooks/{chapter}.ipynb, cell {index}:{source}"


def alt_text(output: nbformat.NotebookNode) -> str | None:
    """The alt text that `resnorm.plots.show` attached to a figure."""
    metadata = output.get("metadata", {})
    for kind in ("image/png", "image/svg+xml"):
        if metadata.get(kind, {}).get("alt"):
            return metadata[kind]["alt"]
    return metadata.get("alt")


def check_outputs(notebook: nbformat.NotebookNode, chapter: str, strict: bool) -> list[str]:
    """Refuse figures without alt text and, if strict, anything on stderr; else return the latter as notes."""
    notes = []
    for index, cell in stored_cells(notebook):
        outputs = cell.get("outputs", [])
        figures = [output for output in outputs if any(kind.startswith("image/") for kind in output.get("data", {}))]
        if len(figures) > 1:
            raise BuildError(f"{_cell(chapter, index, cell)}\n  shows {len(figures)} figures; one a cell, each with its alt text")
        if figures and not alt_text(figures[0]):
            raise BuildError(f"{_cell(chapter, index, cell)}\n  shows a figure without alt text; use plots.show(figure, alt)")
        for output in outputs:
            if output.output_type == "stream" and output.name == "stderr":
                text = f"{_cell(chapter, index, cell)}\n  wrote to stderr: {output.text.strip()}"
                if strict:
                    raise BuildError(text)
                notes.append(f"  note: {text}")
    return notes


def check_verdicts(project: Project, chapter: str, folder: Path) -> None:
    """Refuse a chapter whose claims do not all have their verdict."""
    expected = {claim["id"] for claim in project.claims if claim["chapter"] == chapter and claim["expected"] != "not yet measured"}
    if missing := sorted(expected - {path.stem for path in folder.glob("*.json")}):
        raise BuildError(
            f"notebooks/{chapter}.ipynb gives no verdict on {', '.join(missing)}; call claim(...) with each id, or set "
            "expected: not yet measured, with a reason, in book/claims.yml"
        )


def check_ledger(project: Project) -> None:
    """Refuse a claim that no chapter of the book can measure."""
    for claim in project.claims:
        if claim["chapter"] not in project.chapters and claim["expected"] != "not yet measured":
            raise BuildError(f"book/claims.yml: {claim['id']} is to be measured in {claim['chapter']!r}, which is not in _toc.yml")


def verdicts(folders: dict[str, Path]) -> dict[str, dict]:
    """All verdicts of the executed chapters, by the claim's id."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for folder in folders.values()
        for path in folder.glob("claims/*.json")
    }
