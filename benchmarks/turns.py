"""Training loops that take turns, each in a process of its own, and one clock for all of them.

A process of its own, because a loop changes the process that it runs in: `fit` tells the C library to keep freed
memory, libraries set seeds and signal handlers. A peer in the same process would be given what it does not do itself.
"""

import gc
import importlib.util
import json
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from benchmarks.measure import spread
from resnorm.lab.record import machine
from resnorm.training.memory import peak_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STATUS = "/proc/self/status"
Row = dict[str, Any]


class Clock:
    """Reads the time in front of a model's forward pass in some of its training steps.

    That the model is called once a step is what all loops share. ``seconds`` are those readings; ``aside`` is called
    after each, and what it takes is not counted.
    """

    def __init__(self, model: nn.Module, steps: Iterable[int], aside: Callable[[], Any] | None = None):
        self.steps, self.aside = set(steps), aside
        self.step, self.waited, self.seconds = 0, 0.0, []
        model.register_forward_pre_hook(self._count)

    @torch.compiler.disable
    def _count(self, model: nn.Module, inputs: Any) -> None:
        # An evaluation, ours or the loop's own, is no step.
        if model.training:
            if self.step in self.steps:
                self.read()
            self.step += 1

    def read(self) -> None:
        synchronise()
        now = perf_counter()
        self.seconds.append(now - self.waited)
        if self.aside:
            self.aside()
            self.waited += perf_counter() - now


class Process:
    """``start(*arguments)`` in a new process gives a function; `ask` calls it there and returns what it returns.

    Raises RuntimeError with the traceback of the other process where that fails.
    """

    def __init__(self, start: Callable[..., Callable[..., Any]], *arguments: Any):
        # What is slow to import is imported once, by a server that runs none of it. Who saw a GPU may not be forked.
        forked = "forkserver" in multiprocessing.get_all_start_methods() and DEVICE.type == "cpu"
        context = multiprocessing.get_context("forkserver" if forked else "spawn")
        if forked:
            context.set_forkserver_preload(["torchvision", "sklearn.datasets", "resnorm.models", "benchmarks.peers"])
        self.pipe, other = context.Pipe()
        # Not a daemon: those may not have the worker processes of a DataLoader.
        usual = multiprocessing.get_start_method()
        self.process = context.Process(target=_serve, args=(other, usual, start, arguments))
        self.process.start()
        other.close()

    def ask(self, *arguments: Any, **options: Any) -> Any:
        self.pipe.send((arguments, options))
        try:
            failed, answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"the process of a measurement ended with exit code {self.process.exitcode}") from None
        if failed:
            raise RuntimeError(f"a measurement failed in its process:\n{answer}")
        return answer

    def close(self) -> None:
        self.pipe.close()
        self.process.join()


def _serve(pipe: Any, usual: str, start: Callable[..., Callable[..., Any]], arguments: tuple) -> None:
    # The workers of a DataLoader shall start as they do in a process that a user starts.
    multiprocessing.set_start_method(usual, force=True)
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    function = None
    while True:
        try:
            given, options = pipe.recv()
        except EOFError:  # the other side is done
            return
        try:
            function = function or start(*arguments)
            answer = (False, function(*given, **options))
        except Exception:
            answer = (True, traceback.format_exc())
        gc.collect()
        pipe.send(answer)


def in_turn(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """What the functions return, ``rounds`` values each, one call of every function a round."""
    values: dict[str, list[Any]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            values[name].append(function())
    return values


def peak_of(function: Callable[[], Any]) -> int | None:
    """Bytes by which a call raises this process's memory, at its largest moment; on a GPU, of tensors.

    None where the kernel does not tell: it does on Linux.
    """
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return peak_memory(DEVICE) - before
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts anew
        before = _status("VmRSS")
    except OSError:
        function()
        return None
    function()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    with open(STATUS) as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def over(values: list[float], base: list[float]) -> list[float]:
    """Each value over that of the base in the same round."""
    return [value / reference for value, reference in zip(values, base, strict=True)]


# -------------------------------------------------------------------------------- loops by name


@dataclass(frozen=True)
class Loop:
    """A loop of the list: its name in a table, the packages it needs, numbers of workers to choose the best of."""

    title: str
    train: Callable[..., None]
    packages: tuple[str, ...] = ()
    workers: tuple[int, ...] = (0, 1, 2)
    precision: str = "fp32"

    @property
    def missing(self) -> str | None:
        """The first package that is not installed."""
        for package in self.packages:
            found = None
            with suppress(ImportError):
                found = importlib.util.find_spec(package)
            if found is None:
                return package
        return None


def chosen(loops: dict[str, Loop], names: list[str] | None) -> list[str]:
    """The loops to run; one whose package is missing is left out, with a line that says so.

    Raises ValueError for an unknown name.
    """
    for name in names or ():
        if name not in loops:
            raise ValueError(f"unknown loop {name!r}; allowed: {', '.join(loops)}")
    found = []
    for name in names or loops:
        if missing := loops[name].missing:
            reason = f"the package {missing} is not installed (pip install resnorm[bench])"
            print(f"{loops[name].title} is left out: {reason}")
        else:
            found.append(name)
    return found


def first_round(process: Process, workers: tuple[int, ...]) -> tuple[int, int | None]:
    """A round that is not counted: of these numbers of workers the one that is the fastest here, and the peak memory.

    In later rounds a process still holds what it took in the first, so that its peak says nothing.
    """
    found = {number: process.ask(workers=number) for number in workers}
    peaks = [peak for _, peak in found.values() if peak is not None]
    return min(found, key=lambda number: found[number][0]), max(peaks, default=None)


def speed_rows(
    loops: dict[str, Loop],
    seconds: dict[str, list[float]],
    first: dict[str, tuple[int, int | None]],
    ours: dict[str, str],
    rate: str,
    items: int,
) -> list[Row]:
    """A row a loop, from its seconds a step in every round; ``items``: images or tokens of a step.

    ``ratio`` and ``ratio_bf16``: how many times as fast ours is, in fp32 and in bf16, round by round.
    """
    rows = []
    for name, values in seconds.items():
        workers, peak = first[name]
        row = dict(kind="speed", loop=loops[name].title, precision=loops[name].precision, workers=workers)
        row[rate] = spread([items / value for value in values])
        for column, precision in (("ratio", "fp32"), ("ratio_bf16", "bf16")):
            if ours[precision] in seconds:
                row[column] = spread(over(values, seconds[ours[precision]]))
        rows.append(row | dict(peak_memory_bytes=peak))
    return rows


# -------------------------------------------------------------------------------- runs to the end


def whole_runs(
    loops: dict[str, Loop],
    names: list[str],
    seeds: list[int],
    budget: dict[str, Any],
    rows: list[Row],
    start: Callable[..., Any],
    options: Any,
    save: Callable[[list[Row]], None],
    summary: Callable[[list[Row]], Row],
) -> list[Row]:
    """The rows, with those of kind "run", one a loop and seed, and "accuracy", their summary by loop and budget.

    ``start(name, options)`` in a new process gives a function of the seed and the number of workers, which gives the
    run. Every finished run is saved at once; one of the same budget that is among the rows is not repeated.
    """
    for seed in seeds:
        for name in names:
            key = dict(kind="run", loop=loops[name].title, precision=loops[name].precision, seed=seed) | budget
            title = f"{key['loop']}, {key['precision']}, seed {seed}"
            if any(key.items() <= row.items() for row in rows):
                print(f"{title}: there already")
                continue
            process = Process(start, name, options)
            try:
                run = process.ask(seed, _workers_of(loops[name], rows))
            finally:
                process.close()
            here = machine()
            rows = [*rows, key | run | dict(commit=here["commit"], date=here["date"])]
            save(_summarised(rows, tuple(budget), summary))
            print(f"{title}: {run['seconds'][-1]:.0f} s", flush=True)
    rows = _summarised(rows, tuple(budget), summary)
    save(rows)
    return rows


def _summarised(rows: list[Row], budget: tuple[str, ...], summary: Callable[[list[Row]], Row]) -> list[Row]:
    rows = [row for row in rows if row["kind"] != "accuracy"]
    groups: dict[tuple, list[Row]] = {}
    keys = ("loop", "precision", *budget)
    for row in rows:
        if row["kind"] == "run":
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return rows + [dict(kind="accuracy") | dict(zip(keys, group, strict=True)) | summary(some) for group, some in groups.items()]


def _workers_of(loop: Loop, rows: list[Row]) -> int:
    """As many workers as the loop had when its speed was measured, else the last of those to choose from."""
    for row in rows:
        if (row["kind"], row.get("loop"), row.get("precision")) == ("speed", loop.title, loop.precision):
            return row["workers"]
    return loop.workers[-1]


# -------------------------------------------------------------------------------- rows


def stored(name: str, folder: Path | None) -> dict[str, Any]:
    """What was written before, or a file without rows."""
    path = folder and folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else dict(rows=[])


def show(rows: list[Row]) -> None:
    """Print every row but those of single runs."""
    for row in rows:
        if row["kind"] != "run":
            print("  ".join(f"{key} {_brief(value)}" for key, value in row.items() if value is not None))


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.4g} ({value['low']:.4g} to {value['high']:.4g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
