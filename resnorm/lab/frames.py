"""Records as tidy frames: one row an observation."""

import math
from collections.abc import Iterable
from typing import Any

from resnorm.claims import mean_and_deviation
from resnorm.extras import needed_for
from resnorm.lab.experiment import Experiment
from resnorm.lab.record import Record

KINDS = ("metrics", "curves", "probes")
# What the papers write for a norm behind a merge; the plan or the chapter says over which axes.
_NORMS = {
    "batch": "BN",
    "layer": "LN",
    "layer2d": "LN",
    "group": "GN",
    "instance": "IN",
    "rms": "RMSNorm",
    "rms2d": "RMSNorm",
    "dyt": "DyT",
    "dyt2d": "DyT",
    "derf": "Derf",
    "seed": "SeeDNorm",
}
_OWN_COLUMNS = {"experiment", "label", "arm", "status", "step", "epoch", "split", "block", "metric", "value"}
_PROBE_KEYS = ("step", "epoch", "block")


def frame(records: list[Record], kind: str = "metrics", arms: dict[str, str] | None = None):
    """Return a tidy pandas DataFrame with one row an observation.

    ``kind``: "metrics" (final values), "curves" (columns step, epoch, split), "probes" (columns step, block), or the name
    of a measurement ("lesions"), whose rows keep their own columns. ``arms``: of a study, by the name of the experiment.
    Columns: experiment, label (see `label`), arm where there are arms, task, model, variant, seed, every setting that varies
    under its own name (depth, order, ...; with its part in front where two parts vary it), status, those of the kind,
    metric and value.
    Raises ValueError for another kind.
    """
    with needed_for("tables of records"):
        import pandas

    from resnorm.lab.measurements import MEASUREMENTS

    if kind not in (*KINDS, *MEASUREMENTS):
        raise ValueError(f"kind is {kind!r}; allowed: {', '.join((*KINDS, *MEASUREMENTS))}")
    columns = settings_columns(records)
    rows: list[dict[str, Any]] = []
    for record in records:
        described = {column: setting(record, path) for column, path in columns.items()}
        names = {"experiment": record.experiment.name, "label": label(record.experiment)}
        names |= {"arm": arms[record.experiment.name]} if arms else {}
        head = {**names, **described, "status": record.status}
        rows += ({**head, **row} for row in _observations(record, kind))
    empty = ["experiment", "label", *(["arm"] if arms else []), *columns, "status"]
    if kind in MEASUREMENTS:
        return pandas.DataFrame(rows, columns=None if rows else empty)
    if not rows:
        return pandas.DataFrame(columns=[*empty, "metric", "value"])
    table = pandas.DataFrame(rows)
    table["value"] = table["value"].astype(float)
    return table[[column for column in table if column not in ("metric", "value")] + ["metric", "value"]]


def label(experiment: Experiment) -> str:
    """Name the variant of an experiment for a reader: "rSkip + LN (order 2)", "xSkip (λ = 2)", "ResNet v1"."""
    from resnorm.catalog import VARIANTS

    model = experiment.model
    if model.get("variant") not in VARIANTS:
        return model.get("variant") or model["name"]
    title = VARIANTS[model["variant"]].title
    norm = model.get("merge_norm")
    if norm:
        title = title.replace("norm", _NORMS.get(norm, norm))
    options = {
        "λ =": model.get("skip"),
        "gain": model.get("gain"),
        "bias": model.get("bias"),
        "β =": model.get("power"),
        "order": model.get("order"),
    }
    shown = ", ".join(f"{name} {value:g}" for name, value in options.items() if value is not None)
    return f"{title} ({shown})" if shown else title


def settings_columns(records: list[Record]) -> dict[str, str]:
    """Map a column's name to the path of its setting: what identifies a run, and all that varies among the records."""
    fixed = {"task": "task.name", "model": "model.name", "variant": "model.variant", "seed": "seed"}
    paths = dict.fromkeys(
        f"{part}.{key}" for record in records for part in ("task", "model", "recipe") for key in _part(record, part)
    )
    varied = [path for path in paths if path not in fixed.values() and _varies(records, path)]
    keys = [path.partition(".")[2] for path in varied]
    taken = {key for key in keys if keys.count(key) > 1} | set(fixed) | _OWN_COLUMNS
    return fixed | {path if key in taken else key: path for path, key in zip(varied, keys, strict=True)}


def _varies(records: list[Record], path: str) -> bool:
    return len({repr(setting(record, path)) for record in records}) > 1


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, (list, dict)) else value


def _part(record: Record, part: str) -> dict[str, Any]:
    return getattr(record.experiment, part)


def setting(record: Record, path: str) -> Any:
    """The value of a setting by its path, as `settings_columns` has it; None where the experiment does not name it."""
    part, _, key = path.partition(".")
    value = _part(record, part)
    return value.get(key) if key else value


def _observations(record: Record, kind: str):
    if kind == "metrics":
        return ({"metric": key, "value": value} for key, value in record.metrics.items())
    if kind == "curves":
        return record.curves
    if kind != "probes":
        return record.measurements.get(kind, ())
    return (
        {**{key: row[key] for key in _PROBE_KEYS if key in row}, "metric": key, "value": value}
        for row in record.probes
        for key, value in row.items()
        if key not in _PROBE_KEYS
    )


def summary(records: list[Record], metric: str | None = None) -> str:
    """Return a text table: for each variant the mean and standard deviation over seeds, and how many seeds these are.

    ``metric``: show this one only. Records of different tasks, models or recipes stand in tables of their own.
    A record that is there twice counts once. Raises ValueError if no record has the metric.
    """
    records = list({record.experiment.name: record for record in records}.values())
    groups: dict[str, list[Record]] = {}
    for record in records:
        item = record.experiment
        key = f"{_words(item.task)} | {item.model['name']} | {_words(item.recipe)}"
        groups.setdefault(key, []).append(record)
    known = dict.fromkeys(name for record in records for name in record.metrics)
    if metric and metric not in known:
        raise ValueError(f"no record has the metric {metric!r}; allowed: {', '.join(known)}")
    shown = [metric] if metric else [name for name in known if name.endswith(("_accuracy", "_exact", "train_loss"))]
    return "\n\n".join(f"{title}\n{_table(group, shown)}" for title, group in groups.items())


def _table(records: list[Record], metrics: list[str]) -> str:
    with needed_for("tables of records"):
        import pandas

    columns = [name for name in settings_columns(records) if name not in ("task", "model", "seed")]
    paths = settings_columns(records)
    runs: dict[tuple, list[Record]] = {}
    for record in records:
        values = tuple(_hashable(setting(record, paths[name])) for name in columns)
        runs.setdefault(values, []).append(record)
    rows = []
    for values, group in runs.items():
        diverged = sum(record.status == "diverged" for record in group)
        rows.append(
            {name: "" if value is None else value for name, value in zip(columns, values, strict=True)}
            | {"seeds": "one seed" if len(group) == 1 else f"{len(group)} seeds"}
            | {name: mean_and_deviation([record.metrics.get(name, math.nan) for record in group]) for name in metrics}
            | {"diverged": diverged, "seconds": f"{sum(r.provenance['wall_seconds'] for r in group) / len(group):.0f}"}
            | {"device": ", ".join(dict.fromkeys(record.provenance["device"] for record in group))}
        )
    return pandas.DataFrame(rows).to_string(index=False)


def origin(records: list[Record], planned: list[Experiment] | None = None) -> str:
    """Say where records come from, for a page: what ran, on what, when, with which seeds and commit, and what is missing.

    ``planned``: the experiments that should be there. Returns one line of Markdown without a single result in it.
    """
    planned = planned or []
    missing = max(0, len(planned) - len(records))
    wanted = f"; {missing} of {len(planned)} runs are not recorded yet: `python -m resnorm missing` lists them" if missing else ""
    if not records:
        return f"No runs are recorded{wanted}."
    settings = [record.experiment for record in records]
    made = [record.provenance for record in records]

    def named(values: Iterable[Any]) -> str:
        return ", ".join(map(str, sorted(set(values))))

    tasks = named(_words(item.task) for item in settings)
    budgets = named(f"{item.recipe.get('epochs')} epochs of batches of {_batch(item.recipe)}" for item in settings)
    dates = sorted({item["date"][:10] for item in made})
    return (
        f"{len(records)} {'run' if len(records) == 1 else 'runs'} of {named(item.model['name'] for item in settings)} on {tasks}; "
        f"{budgets}; {'seed' if len({item.seed for item in settings}) == 1 else 'seeds'} {named(item.seed for item in settings)}; "
        f"{named(item['device'] for item in made)}, {named(item['precision'] for item in made)}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; "
        f"commit {named(str(item['commit'])[:7] for item in made)}{wanted}."
    )


def _batch(recipe: dict[str, Any]) -> Any:
    return f"{recipe['batch_tokens']} tokens" if recipe.get("batch_tokens") else recipe.get("batch_size")


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(str(value) if key == "name" else f"{key} {value}" for key, value in settings.items())
