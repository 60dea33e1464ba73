"""The chapters: their stored form, their execution, and what is checked in their outputs."""

import ast
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

import nbformat
import yaml

from book.processes import ending_with_this_one
from resnorm.claims import read_claims
from resnorm.training.files import lock

BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\n*")
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
        """The chapters' names, in reading order. Raises BuildError for an order that cannot be read."""
        try:
            toc = yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise BuildError(f"_toc.yml is no YAML: {error}") from None
        if not isinstance(toc, dict):
            raise BuildError(f"_toc.yml is a {type(toc).__name__}; it needs `format`, `root` and `parts` or `chapters`")
        names = [Path(page).stem for page in _pages_of(toc, self.root) if Path(page).parent == Path("notebooks")]
        for name in names:
            if (times := names.count(name)) > 1:
                raise BuildError(f"_toc.yml lists notebooks/{name} {times} times; list it once")
        return names

    @property
    def claims(self) -> list[dict]:
        return read_claims(self.root)

    def studies_in(self, code: str) -> list[str]:
        """The studies that a piece of code names, and those that their plans name."""
        plans = {path.parent.name: path for path in sorted((self.root / "studies").glob("*/plan.py"))}
        names: dict[str, None] = {}
        texts = [code]
        while texts:
            text = texts.pop()
            for name in plans:
                if name not in names and re.search(rf"[\"']{name}[\"']", text):
                    names[name] = None
                    texts.append(plans[name].read_text(encoding="utf-8"))
        return list(names)

    def notebook(self, chapter: str) -> Path:
        path = self.root / "notebooks" / f"{chapter}.ipynb"
        if not path.exists():
            raise BuildError(f"notebooks/{chapter}.ipynb does not exist, but _toc.yml lists it; add it, or take it off the list")
        return path


def _pages_of(entry: object, root: Path) -> Iterator[str]:
    """The files of a table of contents and of all that is below it, in reading order."""
    if isinstance(entry, dict):
        if isinstance(page := entry.get("root") or entry.get("file"), str):
            yield page
        if isinstance(pattern := entry.get("glob"), str):
            yield from (path.relative_to(root).as_posix() for path in sorted(root.glob(pattern)))
        entry = list(entry.values())
    if isinstance(entry, list):
        for part in entry:
            yield from _pages_of(part, root)


def stored_repository(root: Path) -> str:
    """owner/name as pyproject.toml has it: the one place where it stands."""
    import tomllib

    url = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", url)
    if not found:
        raise BuildError(f"pyproject.toml: Repository = {url!r} is no https://github.com/OWNER/NAME")
    return found[1]


def read(path: Path) -> nbformat.NotebookNode:
    """A stored notebook. Raises BuildError naming a file that is none."""
    try:
        return nbformat.read(path, 4)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise BuildError(f"notebooks/{path.name} is no notebook ({reason}); repair its JSON, or take it from git again") from None


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
    """What an execution depends on: cells, parameters, package, versions, its claims, and the studies and benchmarks it names."""
    notebook = read(project.notebook(chapter))
    # What is pasted into a cell, too: the page shows the executed notebook.
    cells = [
        [cell.cell_type, cell.source, cell.metadata.get("tags", []), *filter(None, [cell.get("attachments")])]
        for cell in notebook.cells
    ]
    claims = [claim for claim in project.claims if claim["chapter"] == chapter]
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    paths = files_under(project.root / "resnorm", "*.py", "*.cpp")
    paths += [path for path in files_under(project.root / "results", "*.json") if re.search(rf"[\"']{path.stem}[\"']", code)]
    for study in project.studies_in(code):
        paths += files_under(project.root / "studies" / study, "plan.py", "*.jsonl")
    # requirements/colab.txt installs others than requirements.txt says.
    versions = [metadata.version(name) for name in ("torch", "numpy", "pandas", "matplotlib", "ipython")]
    environment = [platform.python_version(), versions, Path(__file__).read_text(encoding="utf-8")]
    return fingerprint(
        [*paths, project.root / "requirements.txt"], project.root, [cells, parameters(notebook, preset), claims, environment]
    )


def parameters(notebook: nbformat.NotebookNode, preset: str) -> dict:
    """The parameters to pass: the preset, where the notebook has one and its default is another. Raises BuildError."""
    stored = defaults(notebook)
    return {} if stored.get("preset", preset) == preset else {"preset": preset}


def defaults(notebook: nbformat.NotebookNode) -> dict:
    """The parameters of a notebook with their defaults.

    Raises BuildError unless one code cell is tagged 'parameters' and holds nothing but literals under names: what cannot be
    read could not be replaced either, and the chapter would run at another size than was asked for.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])]
    if not cells:
        raise BuildError("no code cell is tagged 'parameters'; add one, empty if there is nothing to choose")
    if len(cells) > 1:
        raise BuildError(f"{len(cells)} cells are tagged 'parameters'; papermill reads the first alone: join them")
    source = cells[0].source
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        text = (source.splitlines() or [""])[(error.lineno or 1) - 1].strip()
        raise BuildError(
            f"the cell of parameters is at line {error.lineno}, `{text}`, no Python; magics go into the cell after it"
        ) from None
    found: dict = {}
    for node in statements:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        try:
            value = ast.literal_eval(getattr(node, "value", None) or node)
        except ValueError:
            targets = []
        if len(targets) != 1 or not isinstance(targets[0], ast.Name) or isinstance(node, ast.AugAssign):
            raise BuildError(
                f"the cell of parameters has `{ast.unparse(node)}`; write each parameter as NAME = LITERAL, and compute in the "
                "cell after it"
            )
        if targets[0].id in found:
            raise BuildError(f"the cell of parameters sets {targets[0].id} twice; set it once")
        found[targets[0].id] = value
    return found


def last_execution(project: Project, chapter: str) -> Path | None:
    """The folder of a chapter's last good execution, current or not: notebook.ipynb and, in claims/, the verdicts."""
    return next((path for path in (project.build / "executed" / chapter).glob("*") if path.suffix != ".part"), None)


def execute_all(project: Project, chapters: list[str], preset: str, fresh: bool, processes: int, strict: bool) -> dict[str, Path]:
    """Execute what has changed, several at a time; return each chapter's folder. Raises BuildError."""
    keys, refused = {}, []
    for chapter in chapters:
        try:
            check_sources(read(project.notebook(chapter)), chapter)
            keys[chapter] = execution_key(project, chapter, preset)
        except BuildError as error:
            named = str(error).startswith("notebooks/")
            refused.append(str(error) if named else f"notebooks/{chapter}.ipynb: {error}")
    if refused:
        raise BuildError("\n\n".join(refused))
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
            waiting = [
                pool.submit(_execute_alone, project, chapter, preset, folders[chapter], fresh, threads, strict)
                for chapter in pending
            ]
            for future in waiting:
                report, failure = future.result()
                print(report, flush=True)
                failures += [failure] if failure else []
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise BuildError("\n\n".join(failures))
    return folders


def _execute_alone(project: Project, chapter: str, preset: str, folder: Path, fresh: bool, *how) -> tuple[str, str | None]:
    """Execute a chapter while no other build of this tree is at it; what that one has left here is taken."""
    with lock(project.build / "executed" / f"{chapter}.lock"):
        if folder.exists() and not fresh:
            return f"  {chapter}: executed by another build", None
        return _execute(project, chapter, preset, folder, *how)


def _execute(project: Project, chapter: str, preset: str, folder: Path, threads: int, strict: bool) -> tuple[str, str | None]:
    """Execute one notebook in its own process; return a line for the log, and what failed."""
    import papermill
    from nbclient.exceptions import DeadKernelError
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
            parameters=parameters(read(project.notebook(chapter)), preset),
            progress_bar=False,
            # Sockets in the file system: nobody else on the machine can listen, and ipykernel does not warn.
            config=Config(KernelManager={"transport": "ipc"}),
        )
        check_executed(nbformat.read(part / "notebook.ipynb", 4), chapter)
        notes = check_outputs(nbformat.read(part / "notebook.ipynb", 4), chapter, strict)
        check_verdicts(project, chapter, part / "claims")
    except BuildError as error:
        failure = str(error)
    except papermill.exceptions.PapermillExecutionError as error:
        failure = describe_failure(nbformat.read(part / "notebook.ipynb", 4), chapter, error)
    except DeadKernelError:
        failure = describe_dead_kernel(nbformat.read(part / "notebook.ipynb", 4), chapter)
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


# -------------------------------------------------------------------------------- every cell is executed


def syntax(source: str) -> ast.Module | None:
    """The syntax of a code cell, with `pass` in place of IPython's own lines; None where it is no Python."""
    try:
        return ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source))
    except SyntaxError:
        return None


def check_sources(notebook: nbformat.NotebookNode, chapter: str) -> None:
    """Refuse `exit()` and `quit()`: IPython ends the kernel a little later, in whichever cell then runs, or after the last."""
    for index, cell in stored_cells(notebook):
        tree = syntax(cell.source) if cell.cell_type == "code" else None
        for node in ast.walk(tree or ast.Module([], [])):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("exit", "quit"):
                raise BuildError(
                    f"{_cell(chapter, index, cell)}\n  calls {node.func.id}(), which ends the kernel under the cells that follow; "
                    "put them under a condition, or raise an error that says what is wrong"
                )


def check_executed(notebook: nbformat.NotebookNode, chapter: str) -> None:
    """Refuse a chapter of which a cell was not executed, or ended in an error that papermill lets pass: SystemExit."""
    for index, cell in stored_cells(notebook):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if errors := [output.ename for output in cell.outputs if output.output_type == "error"]:
            raise BuildError(
                f"{_cell(chapter, index, cell)}\n  raised {errors[0]}: {_left(notebook, index)}; put what may be left out under a "
                "condition, or raise an error that says what is wrong"
            )
        if cell.execution_count is None:
            raise BuildError(f"{_cell(chapter, index, cell)}\n  was not executed; remove a tag like skip-execution")


def describe_dead_kernel(notebook: nbformat.NotebookNode, chapter: str) -> str:
    """Where the kernel was last seen, and how much it has left undone."""
    cells = stored_cells(notebook)
    index, cell = next(((index, cell) for index, cell in reversed(cells) if cell.get("execution_count")), cells[0])
    return (
        f"{_cell(chapter, index, cell)}\n  the kernel ended in this cell or in one before it: {_left(notebook, index)}; look for "
        "os._exit(), a crash of a library (kernel.log beside the notebook), or too little memory"
    )


def _left(notebook: nbformat.NotebookNode, index: int) -> str:
    count = sum(
        place > index and cell.cell_type == "code" and bool(cell.source.strip()) and cell.execution_count is None
        for place, cell in stored_cells(notebook)
    )
    return f"{count} later cell{' was' if count == 1 else 's were'} not executed"


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
