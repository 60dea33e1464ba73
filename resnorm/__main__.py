"""The command line: ``python -m resnorm --help``."""

import json as json_format
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from resnorm.extras import MissingExtra, needed_for

try:
    with needed_for("the commands of resnorm"):
        import typer
except MissingExtra as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

# torch takes seconds to import: every command imports what it needs, so that --help answers at once.
app = typer.Typer(
    help="Run, record and show the experiments of the book.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Preset = Annotated[str, typer.Option(help="Size of the experiments: smoke, cpu, colab or paper.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of a table.")]
Data = Annotated[str, typer.Option(help="Folder of the data sets (default: RESNORM_DATA, else ~/.cache/resnorm).")]
Folder = Annotated[str, typer.Option("--store", help="Folder of the records.")]
Notebooks = Annotated[Path, typer.Option(help="Folder of the notebooks.")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="PATH=VALUE", help="Change a setting: --set model.depth=20. Repeatable.")
]
Processes = Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each; keep 1 on a GPU.")]
COMMITTED = "studies"
WAITING = "_build/runs"
# Settings whose value is a list.
LISTS = ("recipe.milestones", "measure")
# JSON writes them null, true and false; error messages, and the options of norms, as Python does.
CONSTANTS = {"None": None, "True": True, "False": False}


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="Name of a study that has one experiment, such as preact_resnet20.")] = "",
    preset: Preset = "smoke",
    task: Annotated[str, typer.Option(help="Instead of a study: the data set, such as cifar10.")] = "",
    model: Annotated[str, typer.Option(help="With --task: the model, such as cifar_resnet.")] = "",
    settings: Settings = [],  # noqa: B006 - typer copies it
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of initialisation and data order.")] = None,
    data: Data = "",
    store: Folder = "",
    json: Json = False,
) -> None:
    """Run one experiment, or show its record if the store has it.

    python -m resnorm run preact_resnet20 --preset cpu

    python -m resnorm run --task cifar10 --model cifar_resnet --set model.depth=20 --set recipe.epochs=10 --seed 0

    torchrun --nproc_per_node 2 -m resnorm run ... trains one model in 2 processes, on 2 GPUs where there are any.
    """
    from resnorm import lab

    experiments = _experiments(study, preset, task, model, settings, None if seed is None else [seed])
    if len(experiments) > 1:
        raise ValueError(f"the study {study!r} has {len(experiments)} experiments: use `sweep`, or --seed and --set")
    _data_root(data)
    record = lab.run(experiments[0], _store(store), progress=not json)
    _print_records([record], json, None)


@app.command()
def sweep(
    study: Annotated[str, typer.Argument(help="Name of a study, such as recursive_skip.")] = "",
    preset: Preset = "smoke",
    task: Annotated[str, typer.Option(help="Instead of a study: the data set.")] = "",
    model: Annotated[str, typer.Option(help="With --task: the model.")] = "",
    settings: Settings = [],  # noqa: B006
    grid: Annotated[
        list[str],
        typer.Option(
            metavar="PATH=LIST",
            help="Vary a setting: --grid model.depth=8,20, or 'model.norm=layer,rms(eps=1e-5,affine=False)'. Repeatable.",
        ),
    ] = [],  # noqa: B006
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas (default: the study's).")] = "",
    processes: Processes = 1,
    data: Data = "",
    store: Folder = "",
    json: Json = False,
) -> None:
    """Run all experiments of a study or a grid.

    Those that the store has are not run again.

    python -m resnorm sweep recursive_skip --preset cpu --processes 2

    python -m resnorm sweep --task digits --model mlp_stack --grid model.depth=4,16 --grid model.variant=plain,residual
    """
    from resnorm import lab

    chosen = [_value(seed) for seed in seeds.split(",")] if seeds else None
    experiments = _experiments(study, preset, task, model, settings, chosen)
    for path, values in map(_assignment, grid):
        values = _values(path, values)
        swept = [other for experiment in experiments for other in lab.sweep(experiment, {path: values})]
        experiments = list(dict.fromkeys(swept))
    _data_root(data)
    records = lab.run_all(experiments, _store(store), processes=processes, progress=not json)
    _print_records(records, json, None)


@app.command()
def missing(
    studies: Annotated[list[str] | None, typer.Argument(help="Studies (default: those that the notebooks name).")] = None,
    preset: Preset = "cpu",
    notebooks: Notebooks = Path("notebooks"),
    store: Folder = COMMITTED,
    json: Json = False,
) -> None:
    """List experiments that the notebooks name and that have no run."""
    lacking = _missing(studies or _studies_of(notebooks), preset, _store(store))
    if json:
        print(json_format.dumps([{"study": name, "arm": arm, **item.to_dict(), "name": item.name} for name, arm, item in lacking]))
        return
    for name, arm, item in lacking:
        print(f"{item.name}  {name:16} {arm}: {_short(item)}")
    print(f"{len(lacking)} experiments are missing in {store} for the preset {preset}.", file=sys.stderr)


@app.command()
def fill(
    studies: Annotated[list[str] | None, typer.Argument(help="Studies (default: those that the notebooks name).")] = None,
    arm: Annotated[list[str], typer.Option(help="Only this arm of a study. Repeatable.")] = [],  # noqa: B006
    budget: Annotated[float | None, typer.Option(min=1, help="Seconds to spend (default: no limit).")] = None,
    preset: Preset = "cpu",
    processes: Processes = 1,
    notebooks: Notebooks = Path("notebooks"),
    data: Data = "",
    store: Folder = WAITING,
) -> None:
    """Run missing experiments until the time is used; `pack` then puts them into their studies.

    It is safe to interrupt: the next call goes on from there.

    python -m resnorm fill --preset cpu --budget 1800 --processes 2
    """
    from resnorm import lab

    _data_root(data)
    target = _store(store)
    experiments = [item for _, _, item in _missing(studies or _studies_of(notebooks), preset, lab.committed(), arm)]
    # Seed by seed, so that a short budget gives every variant once rather than one variant three times.
    experiments.sort(key=lambda item: item.seed)
    done = lab.run_all(experiments, target, budget, processes)
    print(f"{len(done)} of {len(experiments)} missing experiments were run; {len(experiments) - len(done)} are left.")
    if done:
        print(f"Put them into their studies with `python -m resnorm pack{'' if store == WAITING else f' --store {store}'}`.")


@app.command()
def pack(
    preset: Annotated[str, typer.Option(help="Only runs of this size (default: every size but smoke).")] = "",
    store: Folder = WAITING,
) -> None:
    """Move finished runs from their folder into the studies that planned them: studies/NAME/runs/PRESET.jsonl.

    Each file is replaced in one step, and a run leaves the folder when it stands in its study. Others stay where they are.
    """
    from resnorm import lab

    source = _store(store)
    packed = lab.pack(source, [preset] if preset else [name for name in lab.PRESETS if name != "smoke"])
    for (study, size), count in packed.items():
        print(f"studies/{study}/runs/{size}.jsonl: {count} {'run' if count == 1 else 'runs'}")
    left = len(source.records())
    rest = f"; {left} are left in {store}, which no study plans at these sizes" if left else ""
    print(f"{sum(packed.values())} runs were packed{rest}.")


@app.command()
def show(
    study: Annotated[str, typer.Argument(help="Show the runs of this study only.")] = "",
    preset: Annotated[str, typer.Option(help="With a study: its size.")] = "cpu",
    metric: Annotated[str, typer.Option(help="Show this metric only, such as test_accuracy.")] = "",
    store: Folder = COMMITTED,
    json: Json = False,
) -> None:
    """Show runs: mean and standard deviation over seeds."""
    from resnorm import lab

    target = _store(store)
    wanted = lab.plan(study, preset) if study else None
    records = target.records() if wanted is None else [r for item in wanted if (r := target.get(item)) is not None]
    if not records:
        print(f"There are no such runs in {store}.", file=sys.stderr)
    _print_records(records, json, metric or None)


@app.command()
def variants(json: Json = False) -> None:
    """List the catalog: every variant with its word."""
    from resnorm import equation
    from resnorm.catalog import VARIANTS

    rows = [
        {
            "name": item.name,
            "word": item.spell(),
            "equation": equation(item.spell()),
            "title": item.title,
            "sentence": item.sentence,
            "cite": item.cite,
        }
        for item in VARIANTS.values()
    ]
    if json:
        print(json_format.dumps(rows, ensure_ascii=False))
        return
    wide = {key: max(len(row[key]) for row in rows) for key in ("name", "word")}
    for row in rows:
        print(f"{row['name']:{wide['name']}}  {row['word']:{wide['word']}}  {row['title']}")


def _experiments(study: str, preset: str, task: str, model: str, settings: list[str], seeds: list | None) -> list:
    from resnorm import lab

    if bool(study) == bool(task or model):
        raise ValueError(f"give either a study ({', '.join(lab.studies())}) or --task and --model")
    if study:
        experiments = lab.plan(study, preset, **({} if seeds is None else {"seeds": seeds}))
    elif task and model:
        changes = [(path, _value(value)) for path, value in map(_assignment, settings)]
        content: dict[str, Any] = {"task": {"name": task}, "model": {"name": model}, "recipe": {}}
        # All settings together, because one alone may be valid only with another.
        for path, value in changes:
            part, _, key = path.partition(".")
            if part not in content or not key:
                raise ValueError(f"--set {path}: write task.KEY, model.KEY or recipe.KEY")
            content[part][key] = value
        base = lab.Experiment.from_dict(content)
        return [base.replace("seed", seed) for seed in lab.check_seeds([0] if seeds is None else seeds)]
    else:
        raise ValueError("--task and --model go together: give both")
    for path, value in map(_assignment, settings):
        experiments = [item.replace(path, _value(value)) for item in experiments]
    return list(dict.fromkeys(experiments))


def _assignment(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not (path and equals and value):
        raise ValueError(f"{text!r} is no setting: write PATH=VALUE, such as model.depth=20")
    return path, value


def _value(text: str) -> Any:
    try:
        return json_format.loads(text)
    except ValueError:
        if len(text) > 1 and text[0] == text[-1] == "'":
            return text[1:-1]
        return CONSTANTS.get(text, text)


def _values(path: str, text: str) -> list:
    """The values of a grid: separated by commas, or one JSON list of them, but where the setting is a list itself."""
    values = [_value(part) for part in _split(path, text)]
    (first, *others) = values
    if not others and isinstance(first, list) and (path not in LISTS or all(isinstance(value, list) for value in first)):
        return first
    return values


def _split(path: str, text: str) -> list[str]:
    """Split at the commas that stand outside of brackets and quotes."""
    parts, open_brackets, quoted = [""], "", ""
    for place, character in enumerate(text):
        if character in "\"'" and quoted in ("", character) and text[place - 1 : place] != "\\":
            quoted = "" if quoted else character
        elif not quoted and character in "([{":
            open_brackets += ")]}"["([{".index(character)]
        elif not quoted and character in ")]}":
            if not open_brackets.endswith(character):
                raise ValueError(f"--grid {path}: {text!r} closes a bracket with {character!r} that was not opened so")
            open_brackets = open_brackets[:-1]
        if character == "," and not open_brackets and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    if open_brackets or quoted:
        raise ValueError(f"--grid {path}: {text!r} does not close {'a quote' if quoted else 'a bracket'}")
    parts = [part.strip() for part in parts]
    if not all(parts):
        raise ValueError(f"--grid {path}: {text!r} has an empty value; write values between commas, such as 8,20")
    return parts


def _store(folder: str):
    from resnorm.lab import Store, committed

    known = {"": Store.live, COMMITTED: committed, WAITING: Store.waiting}
    return known[folder]() if folder in known else Store(folder)


def _data_root(folder: str) -> None:
    if folder:
        if not Path(folder).is_dir():
            raise ValueError(f"--data {folder}: there is no such folder")
        os.environ["RESNORM_DATA"] = folder


def _studies_of(notebooks: Path) -> list[str]:
    """The studies that the notebooks call by name: ``study("name"`` or ``plan("name"``."""
    if not notebooks.is_dir():
        raise ValueError(f"there is no folder {notebooks}: name it with --notebooks, or name studies")
    names: dict[str, None] = {}
    for path in sorted(notebooks.glob("*.ipynb")):
        cells = json_format.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        names |= dict.fromkeys(re.findall(r"\b(?:plan|study)\(\s*[\"'](\w+)[\"']", code))
    return list(names)


def _missing(studies: list[str], preset: str, store, arms: list[str] | None = None) -> list[tuple[str, str, Any]]:
    """Study, arm and experiment of what the store lacks, each experiment once."""
    from resnorm.lab import study

    lacking = {}
    for name in studies:
        chosen = study(name, preset, arms or None)
        for experiment in chosen.planned:
            if experiment not in lacking and store.get(experiment) is None:
                lacking[experiment] = name, chosen.arm_of[experiment.name]
    return [(name, arm, experiment) for experiment, (name, arm) in lacking.items()]


def _short(experiment) -> str:
    model = " ".join(f"{key}={value}" for key, value in experiment.model.items() if key != "name")
    return f"{experiment.task['name']} {experiment.model['name']} {model} seed={experiment.seed}"


def _print_records(records: list, json: bool, metric: str | None) -> None:
    from resnorm.training.distributed import is_first

    if not is_first():
        return
    if json:
        rows = [
            {
                "name": r.experiment.name,
                **r.experiment.to_dict(),
                "status": r.status,
                "metrics": r.metrics,
                "provenance": r.provenance,
            }
            for r in records
        ]
        print(json_format.dumps(rows))
    elif records:
        from resnorm.lab import summary

        print(summary(records, metric))


def main() -> None:
    """Run the command line; bad input ends in one line on stderr and exit code 2."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("resnorm.lab").setLevel(logging.INFO)
    with _clean_output():
        try:
            app(prog_name="python -m resnorm")
        except (ValueError, TypeError, OSError, MissingExtra) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except ExceptionGroup as failures:
            for error in failures.exceptions:
                print(f"error: {error} {' '.join(error.__notes__)}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            if os.environ.get("RESNORM_TRACEBACK"):
                raise
            print(f"error: {type(error).__name__}: {error} (RESNORM_TRACEBACK=1 shows where)", file=sys.stderr)
            sys.exit(1)


@contextmanager
def _clean_output() -> Iterator[None]:
    """Keep standard output for what the commands print: what libraries write there past Python goes to standard error.

    Some versions of torch's gloo do so, in front of the JSON that a script reads.
    """
    try:
        ours = sys.stdout.fileno() == 1
    except (AttributeError, OSError, ValueError):  # captured, or closed
        ours = False
    if not ours:
        yield
        return
    before = sys.stdout
    before.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(os.dup(real), "w", encoding=before.encoding, errors=before.errors, buffering=1)
    try:
        yield
    finally:
        with suppress(BrokenPipeError):  # as in `... | head`
            sys.stdout.close()
        sys.stdout = before
        os.dup2(real, 1)
        os.close(real)


if __name__ == "__main__":
    main()
