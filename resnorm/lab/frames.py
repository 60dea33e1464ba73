"""Records as tidy frames: one row an observation."""

from typing import Any

from resnorm.lab.record import Record

KINDS = ("metrics", "curves", "probes")
_PROBE_KEYS = ("step", "epoch", "block")


def frame(records: list[Record], kind: str = "metrics"):
    """Return a tidy pandas DataFrame with one row an observation.

    ``kind``: "metrics" (final values), "curves" (columns step, epoch, split) or "probes" (columns step, block).
    Columns: experiment, task, model, variant, seed, status, every setting that varies among the records under its own
    name (depth, order, ...; with its part in front where two parts vary it), those of the kind, then metric and value.
    Raises ValueError for another kind.
    """
    import pandas

    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; allowed: {', '.join(KINDS)}")
    columns = settings_columns(records)
    rows = []
    for record in records:
        described = {column: _setting(record, path) for column, path in columns.items()}
        head = {"experiment": record.experiment.name, **described, "status": record.status}
        rows += ({**head, **row} for row in _observations(record, kind))
    if not rows:
        return pandas.DataFrame(columns=["experiment", *columns, "status", "metric", "value"])
    table = pandas.DataFrame(rows)
    table["value"] = table["value"].astype(float)
    return table[[column for column in table if column not in ("metric", "value")] + ["metric", "value"]]


def settings_columns(records: list[Record]) -> dict[str, str]:
    """Map a column's name to the path of its setting: what identifies a run, and all that varies among the records."""
    fixed = {"task": "task.name", "model": "model.name", "variant": "model.variant", "seed": "seed"}
    paths = dict.fromkeys(
        f"{part}.{key}" for record in records for part in ("task", "model", "recipe") for key in _part(record, part)
    )
    varied = [path for path in paths if path not in fixed.values() and _varies(records, path)]
    keys = [path.partition(".")[2] for path in varied]
    taken = {key for key in keys if keys.count(key) > 1} | set(fixed) | {"status", "metric", "value", "step", "epoch"}
    return fixed | {path if key in taken else key: path for path, key in zip(varied, keys, strict=True)}


def _varies(records: list[Record], path: str) -> bool:
    return len({repr(_setting(record, path)) for record in records}) > 1


def _part(record: Record, part: str) -> dict[str, Any]:
    return getattr(record.experiment, part)


def _setting(record: Record, path: str) -> Any:
    part, _, key = path.partition(".")
    value = _part(record, part)
    return value.get(key) if key else value


def _observations(record: Record, kind: str):
    if kind == "metrics":
        return ({"metric": key, "value": value} for key, value in record.metrics.items())
    if kind == "curves":
        return record.curves
    return (
        {**{key: row[key] for key in _PROBE_KEYS if key in row}, "metric": key, "value": value}
        for row in record.probes
        for key, value in row.items()
        if key not in _PROBE_KEYS
    )
