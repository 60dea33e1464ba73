"""The one way through: experiment -> store hit, or data -> model -> fit -> record."""

import functools
import json
import logging
import math
import os
import signal
import statistics
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from multiprocessing import get_context

from resnorm.lab.experiment import Experiment
from resnorm.lab.record import Record, device_name, provenance, source_hash
from resnorm.lab.store import Store

# A logger, because the command line wants a line a run, and a page that is built from a notebook does not.
LOG = logging.getLogger("resnorm.lab")
# Seconds until an experiment that another process is running is looked at again.
PAUSE = 0.5


def run(experiment: Experiment, store: Store | None = None, progress: bool = True) -> Record:
    """Return the experiment's record: from ``store`` (default: the live store) if it has one, else by running it.

    One process at a time runs an experiment in a store: where another one is at it, this one waits for its record.
    A variant that is `profiled` first has its skips set from the first training batch, see `resnorm.init.admin`;
    weights that are normed `from_data` have their gains set by it, see `resnorm.init.from_data`.
    An interrupted run leaves a checkpoint in the store and goes on from there. A diverged run is a record too.
    On a GPU the steps are a CUDA graph wherever they can be one.
    Under torchrun the processes train together, see `resnorm.training.fit`, and the first one writes the record.
    """
    store = Store.live() if store is None else store
    record = store.get(experiment)
    if record is None:
        record = _run_if_free(experiment, store, progress, wait=True)
    return record


def _run_if_free(experiment: Experiment, store: Store, progress: bool, wait: bool = False) -> Record | None:
    """The experiment's record, by running it where the store lacks it; None where another process is running it."""
    from resnorm.training.distributed import is_first, meet

    source_hash()  # of the source as it is now, not as somebody has edited it by the end of the run
    if wait and is_first() and store.busy(experiment):
        LOG.info("%s is being run by another process: waiting for its record", experiment.name)
    # Processes that torchrun started share the run, and the first one's lock.
    with store.lock(experiment, wait) if is_first() else nullcontext(True) as ours:
        meet()
        record = store.get(experiment) if ours else None
        if record is not None or not ours:
            return record
        store.remove_litter()
        return _run(experiment, store, progress)


def _run(experiment: Experiment, store: Store, progress: bool) -> Record:
    import torch

    from resnorm import init
    from resnorm.catalog import VARIANTS
    from resnorm.lab.measurements import MEASUREMENTS
    from resnorm.training import Recipe, fit
    from resnorm.training.batches import first_inputs
    from resnorm.training.distributed import is_first

    data = _load(json.dumps(experiment.task, sort_keys=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        model = experiment.build(data.spec)
        recipe, variant = Recipe(**experiment.recipe), VARIANTS.get(experiment.model.get("variant"))
        if variant and variant.profiled:
            init.admin(model, *first_inputs(data, recipe, experiment.seed))
        if any(getattr(module, "from_data", False) for module in model.modules()):
            init.from_data(model, *first_inputs(data, recipe, experiment.seed))
        checkpoint = store.checkpoint(experiment)
        outcome = fit(model, data, recipe, seed=experiment.seed, checkpoint=checkpoint, progress=progress, cuda_graph="auto")
        measured = experiment.measure if outcome.status == "finished" else ()
        measurements = {name: MEASUREMENTS[name](model, data, experiment) for name in measured}
    record = Record(experiment, outcome.status, outcome.metrics, outcome.curves, outcome.probes, provenance(outcome), measurements)
    if is_first():
        store.put(record)
        checkpoint.unlink(missing_ok=True)
    return record


@functools.lru_cache(maxsize=2)
def _load(task: str):
    from resnorm.data import load

    return load(**json.loads(task))


def run_all(
    experiments: list[Experiment],
    store: Store | None = None,
    budget: float | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> list[Record]:
    """Run the experiments that ``store`` (default: the live store) lacks; return the records that then exist, in order.

    What another process is running is left to it: the others come first, and at the end its record is waited for.
    ``processes``: how many run side by side, one thread each (default 1, with all threads; on a GPU leave it at 1).
    ``budget``: seconds. A run that, judged by the records of its like, would not fit is not started, and what still
    runs when the time is over is stopped; its checkpoint lets the next call go on from there.
    Raises ExceptionGroup, after all the others are done, if runs failed; ValueError under torchrun, whose processes share
    every run, for more processes or a budget.
    """
    store = Store.live() if store is None else store
    _check_positive("processes", processes)
    _check_positive("budget", budget)
    pending = [experiment for experiment in dict.fromkeys(experiments) if store.get(experiment) is None]
    # Those already begun come first: a series of short budgets then finishes runs instead of beginning all of them.
    pending.sort(key=lambda experiment: not store.checkpoint(experiment).exists())
    # A run in this process cannot be stopped from outside, so a budget needs a second one.
    separate = budget is not None or (processes or 1) > 1
    if separate:
        from resnorm.training.distributed import launched

        if launched():
            raise ValueError(
                f"processes={processes} and budget={budget} under torchrun: its processes share every run; leave both out"
            )
    errors = (_run_in_processes if separate else _run_here)(pending, store, budget, processes or 1, progress)
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(pending)} runs failed", errors)
    return [record for experiment in experiments if (record := store.get(experiment)) is not None]


def estimate(experiment: Experiment, records: list[Record]) -> float | None:
    """Return the seconds that the experiment should take, from records of its like; None if there are none.

    Records that differ in the seed alone count first; else those of the same task, model, depth and width, in
    proportion to their epochs, and of those the slowest, because variants cost differently.
    """

    def key(item: Experiment, exact: bool) -> tuple:
        if exact:
            return item.replace("seed", 0).name, ""
        return item.task["name"], *(str(item.model.get(setting)) for setting in ("name", "depth", "width"))

    def work(item: Experiment) -> float:
        return item.recipe.get("epochs", 1) * (item.task.get("subset") or item.task.get("limit") or math.inf)

    finished = [record for record in records if record.status == "finished"]
    for exact in (True, False):
        like = [record for record in finished if key(record.experiment, exact) == key(experiment, exact)]
        if like and exact:
            return statistics.median(record.provenance["wall_seconds"] for record in like)
        seconds = []
        for record in like:
            ratio = work(experiment) / work(record.experiment)
            if math.isnan(ratio):  # both on all examples
                ratio = experiment.recipe.get("epochs", 1) / record.experiment.recipe.get("epochs", 1)
            if 0 < ratio < math.inf:
                seconds.append(ratio * record.provenance["wall_seconds"])
        if seconds:
            return max(seconds)
    return None


def _run_here(pending, store, budget, processes, progress) -> list[Exception]:
    from resnorm.training.distributed import launched

    errors, waiting, number = [], list(pending), 0
    while waiting:
        # Processes of torchrun take all runs in one order.
        experiment = next((item for item in waiting if launched() or not store.busy(item)), None)
        if experiment is None:
            time.sleep(PAUSE)
            continue
        waiting.remove(experiment)
        number += 1
        try:
            record = run(experiment, store, progress=progress)
            _report(number, len(pending), record)
        except Exception as error:
            errors.append(_named(error, experiment))
    return errors


def _run_in_processes(pending, store, budget, processes, progress) -> list[Exception]:
    deadline = math.inf if budget is None else time.monotonic() + budget
    waiting, running, errors, total = list(pending), {}, [], len(pending)
    # When to look again at those that another process was running.
    later: dict[Experiment, float] = {}
    here = device_name()
    # A pool for each process: one that dies takes no other run with it, and it is known which one it had.
    idle = [_pool(processes) for _ in range(min(processes, len(waiting)))]
    try:
        while waiting or running:
            now = time.monotonic()
            left = deadline - now
            ready = [item for item in waiting if later.get(item, now) <= now] if idle and left > 0 else []
            # How long it took on another machine says nothing about this one.
            known = [item for item in store.records() if item.provenance["device"] == here] if ready and budget else []
            for item in ready:
                later.pop(item, None)
            for experiment in [item for item in ready if _fits(item, store, known, left)][: len(idle)]:
                waiting.remove(experiment)
                pool = idle.pop()
                running[pool.submit(_run_if_free, experiment, store, progress and processes == 1)] = experiment, pool
            if left <= 0 or (not running and not later.keys() & set(waiting)):
                break
            pause = min([left, *(max(later[item] - now, 0.01) for item in waiting if item in later)])
            done, _ = wait(running, timeout=None if pause == math.inf else pause, return_when=FIRST_COMPLETED)
            if not running:
                time.sleep(pause)
            for future in done:
                experiment, pool = running.pop(future)
                try:
                    record = future.result()
                except BrokenProcessPool as error:
                    pool.shutdown()
                    pool = _pool(processes)
                    dead = RuntimeError("the process that ran it was ended from outside: by a signal, or for want of memory")
                    dead.__cause__ = error
                    errors.append(_named(dead, experiment))
                except Exception as error:
                    errors.append(_named(error, experiment))
                else:
                    if record is None:
                        later[experiment] = time.monotonic() + PAUSE
                        waiting.append(experiment)
                    else:
                        _report(total - len(waiting) - len(running), total, record)
                idle.append(pool)
        return errors
    finally:
        for pool in (*idle, *(pool for _, pool in running.values())):
            _stop(pool, at_once=bool(running))


def _pool(processes: int) -> ProcessPoolExecutor:
    # torch may already run threads here, which a forked child would inherit dead.
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_prepare, initargs=(os.getpid(), processes))


def _fits(experiment: Experiment, store: Store, records: list[Record], left: float) -> bool:
    if left == math.inf or store.checkpoint(experiment).exists():
        return True
    seconds = estimate(experiment, records)
    return seconds is None or seconds <= left


def _prepare(parent: int, processes: int) -> None:
    import torch

    # Ctrl-C reaches every process of a terminal; the parent alone answers it and stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if processes > 1:
        torch.set_num_threads(1)

    def follow() -> None:
        # A parent that was killed cannot stop its children: they look whether it is still there.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _stop(pool, at_once: bool) -> None:
    if at_once:
        # The executor has no public way to stop a running call before Python 3.14.
        for worker in list((pool._processes or {}).values()):
            worker.terminate()
    # Waits for the executor's own thread too: it reaps the workers, and two threads that wait for one child race.
    pool.shutdown(wait=True, cancel_futures=True)


def _report(number: int, total: int, record: Record) -> None:
    from resnorm.training.distributed import is_first

    if not is_first():
        return
    experiment, metrics = record.experiment, record.metrics
    model = " ".join(f"{key}={value}" for key, value in experiment.model.items() if key != "name")
    result = f", test accuracy {metrics['test_accuracy']:.4f}" if "test_accuracy" in metrics else ""
    LOG.info(
        "[%d/%d] %s %s seed=%d: %s in %.0f s%s",
        number,
        total,
        experiment.model["name"],
        model,
        experiment.seed,
        record.status,
        record.provenance["wall_seconds"],
        result,
    )


def _named(error: Exception, experiment: Experiment) -> Exception:
    error.add_note(f"in the experiment {experiment.to_json()}")
    return error


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise ValueError(f"{name} is {value}; give a number above 0")
