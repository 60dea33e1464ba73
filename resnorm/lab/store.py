"""Where records lie: one small JSON file an experiment, named by its hash, never half-written."""

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from resnorm.lab.experiment import Experiment
from resnorm.lab.record import PACKAGE, Record, source_hash
from resnorm.training.files import lock, remove_litter, whole_file


class Store:
    """Keep records in a folder.

    ``path``: the folder, made when first needed. ``same_source``: if true, a record counts only when the package's
    source was the one that runs now; an older one is then run again and replaced.
    """

    def __init__(self, path: str | os.PathLike, same_source: bool = False) -> None:
        self.path, self.same_source = Path(path), same_source

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, same_source={self.same_source})"

    @classmethod
    def waiting(cls) -> "Store":
        """The runs that `python -m resnorm fill` has done and `pack` has not yet put into their studies: ``_build/runs``."""
        return cls(_home() / "_build" / "runs")

    @classmethod
    def live(cls) -> "Store":
        """The records of this build, valid for this source only: ``_build/records``, or the folder in RESNORM_LIVE."""
        return cls(os.environ.get("RESNORM_LIVE") or _home() / "_build" / "records", same_source=True)

    def _file(self, experiment: Experiment) -> Path:
        return self.path / f"{experiment.name}.json"

    def get(self, experiment: Experiment) -> Record | None:
        """Return the record of the experiment, or None. Raises ValueError naming a file that is no record."""
        path = self._file(experiment)
        record = self._read(path) if path.exists() else None
        return record if record and self._counts(record) else None

    def put(self, record: Record) -> Path:
        """Write the record in one step: another process sees the whole file or none."""
        path = self._file(record.experiment)
        write_atomically(path, record.to_json())
        return path

    def records(self) -> list[Record]:
        """All records of the folder that count, ordered by file name."""
        return [record for path in sorted(self.path.glob("*.json")) if self._counts(record := self._read(path))]

    def remove(self, records: list[Record]) -> None:
        """Remove the files of these records."""
        for record in records:
            self._file(record.experiment).unlink(missing_ok=True)

    def frame(self, kind: str = "metrics"):
        """All records as one tidy DataFrame; see `resnorm.lab.frame`."""
        from resnorm.lab.frames import frame

        return frame(self.records(), kind)

    def checkpoint(self, experiment: Experiment) -> Path:
        """The file from which an interrupted run of this experiment, with this source, goes on."""
        folder = self.path / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            write_atomically(ignore, "*\n")
        return folder / f"{experiment.name}-{source_hash()}.pt"

    def lock(self, experiment: Experiment, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold the experiment, so that one process at a time runs it; see `resnorm.training.files.lock`."""
        return lock(self.checkpoint(experiment).with_name(f"{experiment.name}.lock"), wait)

    def busy(self, experiment: Experiment) -> bool:
        """Whether a process, or another thread of this one, is running the experiment at this moment."""
        with self.lock(experiment, wait=False) as free:
            return not free

    def remove_litter(self) -> None:
        """Remove what processes that were killed while they wrote have left in the folder."""
        for folder in (self.path, self.path / "checkpoints"):
            remove_litter(folder)

    def _counts(self, record: Record) -> bool:
        return not self.same_source or record.provenance.get("source") == source_hash()

    @staticmethod
    def _read(path: Path) -> Record:
        try:
            record = Record.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path.name} is no valid record ({error}); delete it and run it again") from error
        if record.experiment.name != path.stem:
            raise ValueError(f"{path.name} holds the experiment {record.experiment.name}; rename or delete it")
        return record


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader, or a kill at any moment, finds the old file or the new one, never a part."""
    with whole_file(path, "w") as file:
        file.write(text)


def benchmark(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """What ``benchmarks/NAME.py`` measured: `provenance`, `settings` and `rows`; None where this copy has no such measurement.

    ``folder``: by default ``results/benchmarks``, or the copy in an installed package. Raises ValueError naming a file that
    is no JSON.
    """
    path = (folder or _results("benchmarks")) / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); measure again with `make bench`") from None


def _home() -> Path:
    """The checkout, or where an installed package is used."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").exists() else Path.cwd()


def _results(kind: str) -> Path:
    packed = PACKAGE / kind
    return packed if packed.is_dir() else PACKAGE.parent / "results" / kind
