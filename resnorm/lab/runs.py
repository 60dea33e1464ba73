"""The recorded runs of the studies: one JSON line a run in ``studies/NAME/runs/PRESET.jsonl``."""

import functools
import json
import os
from pathlib import Path

from resnorm.lab.experiment import Experiment
from resnorm.lab.record import PACKAGE, Record
from resnorm.lab.store import write_atomically

_START = '{"name": "'


class Runs:
    """Read the runs that are recorded in a folder of studies; `pack` adds to them.

    ``path``: the folder, by default the project's own ``studies``, or the copy in an installed package.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = studies_folder() if path is None else Path(path)

    def __repr__(self) -> str:
        return f"Runs({str(self.path)!r})"

    @functools.cached_property
    def _lines(self) -> dict[str, tuple[Path, int, str]]:
        """The line of every run by the name of its experiment: read once, and parsed when somebody asks for it."""
        lines: dict[str, tuple[Path, int, str]] = {}
        for path in sorted(self.path.glob("*/runs/*.jsonl")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                name = line[len(_START) : len(_START) + 16]
                if not line.startswith(_START) or not name.isalnum() or line[len(_START) + 16] != '"':
                    raise ValueError(f"{_place(path, number)} is no recorded run: it starts with {line[:30]!r}; remove the line")
                other = lines.setdefault(name, (path, number, line))
                # A run that two studies plan stands in both, each of which is whole by itself.
                if other[2] != line and _content(other[2]) != _content(line):
                    raise ValueError(f"{_place(path, number)} and {_place(*other[:2])} differ on the run {name}; remove one")
        return lines

    def __contains__(self, experiment: Experiment) -> bool:
        return experiment.name in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, experiment: Experiment) -> Record | None:
        """Return the record of the experiment, or None. Raises ValueError naming a line that holds no record."""
        return self.named(experiment.name, experiment) if experiment.name in self._lines else None

    def named(self, name: str, experiment: Experiment | None = None) -> Record:
        """Return the record of this name: 16 hexadecimal digits. Raises ValueError where no run has it."""
        if name not in self._lines:
            raise ValueError(f"no recorded run is named {name!r}; `python -m resnorm show --json` lists them")
        path, number, line = self._lines[name]
        try:
            content = json.loads(line)
            del content["name"], content["arm"]
            record = Record.from_dict(content, experiment)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{_place(path, number)} is no valid record ({error}); remove the line and run it again") from error
        if record.experiment.name != name:
            raise ValueError(f"{_place(path, number)} is named {name} and holds {record.experiment.name}; remove the line")
        return record

    def records(self) -> list[Record]:
        """All recorded runs, study by study."""
        return [self.named(name) for name in self._lines]

    def frame(self, kind: str = "metrics"):
        """All recorded runs as one tidy DataFrame; see `resnorm.lab.frame`."""
        from resnorm.lab.frames import frame

        return frame(self.records(), kind)

    @staticmethod
    def _of(path: Path) -> dict[str, str]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {line[len(_START) : len(_START) + 16]: line for line in lines}

    def add(self, study: str, preset: str, records: dict[str, list[Record]], order: list[str]) -> int:
        """Write records, by arm, into the file of a study and a preset, in one step; return how many are new or renewed.

        ``order``: names of experiments, as the file shall have them; runs that it leaves out stay at the end.
        """
        path = self.path / study / "runs" / f"{preset}.jsonl"
        lines = self._of(path)
        new = {record.experiment.name: to_line(record, arm) for arm, runs in records.items() for record in runs}
        changed = sum(lines.get(name) != line for name, line in new.items())
        lines |= new
        ranks = {name: rank for rank, name in enumerate(order)}
        ordered = sorted(lines, key=lambda name: (ranks.get(name, len(ranks)), name))
        write_atomically(path, "".join(f"{lines[name]}\n" for name in ordered))
        self.__dict__.pop("_lines", None)
        return changed


def _content(line: str) -> str:
    """A line without the arm, which is the study's own name for what it holds."""
    return line[line.index('"experiment": ') :]


def to_line(record: Record, arm: str | None) -> str:
    """A record as one JSON line that begins with its name and the arm of the study that it belongs to."""
    content = {"name": record.experiment.name, "arm": arm} | record.to_dict()
    return json.dumps(content, allow_nan=False, ensure_ascii=False)


def committed() -> Runs:
    """The recorded runs of the studies, read once."""
    return _runs(studies_folder())


@functools.cache
def _runs(folder: Path) -> Runs:
    return Runs(folder)


def studies_folder() -> Path:
    """Where the studies lie: RESNORM_STUDIES, ``studies`` in the checkout, or the copy in an installed package."""
    if own := os.environ.get("RESNORM_STUDIES"):
        return Path(own)
    packed = PACKAGE / "studies"
    return packed if packed.is_dir() else PACKAGE.parent / "studies"


def _place(path: Path, number: int) -> str:
    return f"{'/'.join(path.parts[-4:])}, line {number}"


def recorded(experiments: list[Experiment]) -> list[Record]:
    """Return the committed records of these experiments, in order; runs nothing and leaves out what is missing."""
    runs = committed()
    return [record for experiment in experiments if (record := runs.get(experiment)) is not None]
