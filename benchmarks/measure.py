"""How every benchmark measures: in turn, on one machine, written down with where the numbers come from."""

import gc
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from resnorm.lab.record import machine
from resnorm.lab.store import write_atomically

RESULTS = Path(__file__).resolve().parent.parent / "results/benchmarks"


def interleaved(functions: dict[str, Callable[[], Any]], rounds: int, repeat: int = 1) -> dict[str, list[float]]:
    """Seconds of one call of each function, ``rounds`` values each, after one round that is not counted.

    The functions take turns, so that a machine that slows down slows all of them; each value is the mean of ``repeat``
    calls in a row, after one that is not counted: what ran before leaves its own data in the caches. On a GPU every
    value waits for the device.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    collects = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds + 1):
            for name, function in functions.items():
                function()
                _synchronise()
                start = perf_counter()
                for _ in range(repeat):
                    function()
                _synchronise()
                seconds[name].append((perf_counter() - start) / repeat)
            gc.collect()
    finally:
        if collects:
            gc.enable()
    return {name: values[1:] for name, values in seconds.items()}


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """The time of each function over that of ``base`` in the same round: median, smallest and largest."""
    return {
        name: spread([value / reference for value, reference in zip(values, seconds[base], strict=True)])
        for name, values in seconds.items()
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return dict(median=statistics.median(values), low=min(values), high=max(values))


def write(
    name: str,
    settings: dict[str, Any],
    rows: list[dict[str, Any]],
    folder: Path | None = None,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write ``NAME.json`` whole or not at all, with the machine that the rows were measured on.

    It goes to ``results/benchmarks`` where no folder is named; that machine is this one where none is given.
    """
    folder = folder or RESULTS
    content = dict(name=name, provenance=provenance or machine(), settings=settings, rows=rows)
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(_rounded(content), indent=1, ensure_ascii=False) + "\n")
    return path


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
