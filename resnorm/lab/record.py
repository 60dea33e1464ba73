"""What came out of a run: final metrics, thinned curves, probes, and where the numbers come from."""

import datetime
import functools
import hashlib
import json
import math
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from resnorm.lab.experiment import Experiment

PACKAGE = Path(__file__).resolve().parent.parent
# A change in one of these cannot change what a training run computes.
_NOT_HASHED = (
    "plots",
    "claims.py",
    "__main__.py",
    "studies/",
    *(f"lab/{part}" for part in ("frames.py", "plans/", "rules.py", "runs.py", "statistics/", "study.py")),
)
_CURVE_POINTS, _PROBE_STEPS, _DIGITS = 200, 24, 6
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Record:
    """Hold what one experiment gave.

    ``status``: "finished" or "diverged". ``metrics``: final values by name. ``curves``: rows of step, epoch, split,
    metric, value. ``probes``: rows of step, block and the measured quantities. ``measurements``: rows by the name of
    what was measured on the trained model, empty where it diverged. ``provenance``: version, source, commit,
    torch, python, device, precision, threads, date, wall_seconds (seconds), peak_memory_bytes (bytes or None).
    """

    experiment: Experiment
    status: str
    metrics: dict[str, float]
    curves: Sequence[dict[str, Any]]
    probes: Sequence[dict[str, Any]]
    provenance: dict[str, Any]
    measurements: dict[str, Sequence[dict[str, Any]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record in JSON's types: curves thinned, numbers rounded to 6 significant digits, NaN as None."""
        content = {
            "experiment": self.experiment.to_dict(),
            "status": self.status,
            "metrics": _rounded(self.metrics),
            "curves": _columns(_thin(self.curves, by=("split", "metric"), points=_CURVE_POINTS)),
            "probes": _columns(_thin(self.probes, by=("block",), points=_PROBE_STEPS)),
            "provenance": _rounded(self.provenance),
        }
        if self.measurements:
            content["measurements"] = {name: _columns(rows) for name, rows in self.measurements.items()}
        return content

    def to_json(self) -> str:
        """The record as compact JSON; see `to_dict`."""
        # One line a part: small on disk, and a changed record still shows a readable difference.
        lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in self.to_dict().items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read what `to_json` wrote; a null number becomes NaN. Raises ValueError or TypeError for what it cannot have written."""
        return cls.from_dict(json.loads(text, object_pairs_hook=_each_once))

    @classmethod
    def from_dict(cls, content: Any, experiment: Experiment | None = None) -> "Record":
        """Read what `to_dict` wrote. ``experiment``: the one that it describes, where that is known and checked already."""
        content = _checked(content)
        if experiment is None or experiment.to_dict() != content["experiment"]:
            experiment = Experiment.from_dict(content["experiment"])
        return cls(
            experiment=experiment,
            status=content["status"],
            metrics={key: math.nan if value is None else value for key, value in content["metrics"].items()},
            curves=_Rows(content["curves"]),
            probes=_Rows(content["probes"]),
            provenance=content["provenance"],
            measurements={name: _Rows(columns) for name, columns in content.get("measurements", {}).items()},
        )


def machine() -> dict[str, Any]:
    """Say which code, versions and device a measurement that starts here comes from, and when."""
    import torch

    from resnorm import __version__

    return {
        "version": __version__,
        "source": source_hash(),
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def provenance(outcome: Any) -> dict[str, Any]:
    """Say where the numbers of a `resnorm.training.Run` come from: code, machine, date, time and memory."""
    here = machine()
    return here | {
        "device": here["device"] if outcome.device == "cpu" else outcome.device,
        "precision": str(outcome.precision),
        "wall_seconds": outcome.wall_seconds,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "data_bytes": outcome.data_bytes,
    }


@functools.cache
def source_hash() -> str:
    """Hash the package's source as it was when this process first asked: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.cpp")]):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(_NOT_HASHED):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that the package lies in, with "+changes" if its source differs from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", PACKAGE.parent, *words], capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # An installed package may lie inside another project's repository, whose commit says nothing about it.
        top = git("rev-parse", "--show-toplevel")
        commit = git("rev-parse", "HEAD") if top and Path(top).resolve() == PACKAGE.parent else ""
        changed = commit and git("status", "--porcelain", "--", PACKAGE.name)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (commit + ("+changes" if changed else "")) or None


def device_name() -> str:
    """Name the device that a run would take here: the GPU, or the model of the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    # platform.processor() is empty or "x86_64" on Linux, where two CPUs can differ fourfold in bf16.
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _thin(rows: list[dict], by: tuple[str, ...], points: int) -> list[dict]:
    """Keep at most ``points`` evenly spaced rows of each curve, the first and the last among them."""
    curves: dict[tuple, list[dict]] = {}
    for row in rows:
        curves.setdefault(tuple(row.get(key) for key in by), []).append(row)
    kept = set()
    for curve in curves.values():
        count = min(len(curve), points)
        kept |= {id(curve[round(i * (len(curve) - 1) / max(count - 1, 1))]) for i in range(count)}
    return [row for row in rows if id(row) in kept]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        rounded = float(f"{value:.{_DIGITS}g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
    return value


def _columns(rows: Iterable[dict]) -> dict[str, list]:
    rows = list(rows)
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [_rounded(row.get(key)) for row in rows] for key in keys}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return dict(pairs)


def _checked(content: Any) -> dict[str, Any]:
    """The content of a record's file, where it has the parts of a record and each has its form."""
    parts = [item.name for item in fields(Record)]
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}")
    unknown, missing = [key for key in content if key not in parts], [key for key in parts[:-1] if key not in content]
    if unknown or missing:
        raise ValueError(f"it has {unknown[0]!r}, which no record has" if unknown else f"it has no {missing[0]!r}")
    if content["status"] not in ("finished", "diverged"):
        raise ValueError(f"its status is {content['status']!r}; a record is 'finished' or 'diverged'")
    for part in ("metrics", "curves", "probes", "provenance", *(["measurements"] if "measurements" in content else [])):
        if not isinstance(content[part], dict):
            raise TypeError(f"its {part} are no dictionary")
    for name, value in (content["metrics"] | {"wall_seconds": content["provenance"].get("wall_seconds")}).items():
        if not ((value is None and name in content["metrics"]) or (type(value) in (int, float) and abs(value) <= _LARGEST)):
            raise ValueError(f"its {name} is {str(value)[:20]}, which is no number")
    if not isinstance(content["provenance"].get("device"), str):
        raise ValueError("its provenance names no device")
    tables = {"curves": content["curves"], "probes": content["probes"], **content.get("measurements", {})}
    for name, columns in tables.items():
        if not isinstance(columns, dict) or not all(isinstance(column, list) for column in columns.values()):
            raise TypeError(f"its {name} are no table of columns")
    return content


class _Rows(Sequence):
    """The rows of a table of columns, made when somebody looks at them: most readers want the metrics alone."""

    def __init__(self, columns: dict[str, list]) -> None:
        self._columns = columns
        if len({len(column) for column in columns.values()}) > 1:
            raise ValueError(f"the columns {', '.join(columns)} are not of one length")

    @functools.cached_property
    def _rows(self) -> list[dict[str, Any]]:
        return [dict(zip(self._columns, values, strict=True)) for values in zip(*self._columns.values(), strict=True)]

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def __getitem__(self, place):
        return self._rows[place]

    def __iter__(self):
        return iter(self._rows)

    def __eq__(self, other: object) -> bool:
        return self._rows == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # as a list

    def __repr__(self) -> str:
        return repr(self._rows)
