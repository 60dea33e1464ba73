"""What one training step of every placement of the zoo costs beside Pre-Norm: time and memory of the whole network.

    python -m benchmarks.placements                     results/benchmarks/placements.json
    python -m benchmarks.placements --precision fp32    where the processor only emulates bf16, much slower
    python -m benchmarks.placements --quick             the same calls, fewer of them: prints and writes nothing

Networks, recipe and batches are those of the plans `placements` and `newcomers` at the size `cpu`, all in one precision.
The step is that of `fit`: forward, loss, backward, clipping, optimiser. The tokens are random: the time of a step does
not depend on what it learns.
A step of Pre-Norm stands right before each step that is measured, and the ratio of the two is formed in each round.
So Pre-Norm has a row of its own, beside itself: how far it is from 1 is what this measurement cannot tell.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import VOCABULARY, Engine, letters
from benchmarks.measure import interleaved, spread, write
from resnorm import lab, variant
from resnorm.data import DataSet
from resnorm.lab.experiment import Experiment
from resnorm.probes import stored_bytes
from resnorm.training.memory import keep_freed_memory
from resnorm.training.precision import DTYPES

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDS, REPEAT = 11, 1
BASE = "Pre-Norm"
PREVIOUS = "Pre-Norm before {}"


def every_placement(precision: str | None = None) -> dict[str, Experiment]:
    """One experiment of each arm of the zoo, all in one precision: that of Pre-Norm where none is given."""
    zoo = lab.study("placements", seeds=[0])
    first = {arm: experiments[0] for arm, experiments in zoo.experiments.items() if arm != "Pre-Norm, 32 bits"}
    precision = precision or first[BASE].recipe["precision"]
    return {arm: experiment.replace("recipe.precision", precision) for arm, experiment in first.items()}


def trained(experiment: Experiment, data: DataSet) -> Engine:
    """The experiment's network in the training loop of `fit`; Admin is not profiled, which costs no step."""
    torch.manual_seed(experiment.seed)
    # A probe is no part of a step.
    recipe = experiment.recipe | dict(probe_every=0)
    return Engine(experiment.build(data.spec), data, device=DEVICE, **recipe)


def kept_bytes(engine: Engine) -> int:
    """What a forward pass on one batch keeps for the backward pass, in the precision of the recipe."""
    tokens = engine.loop.data.train[0][: engine.loop.recipe.batch_size].to(DEVICE)
    with engine.loop.autocast:
        return stored_bytes(engine.loop.model, tokens)


def placement_rows(experiments: dict[str, Experiment], rounds: int, repeat: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A row for each experiment, and the milliseconds of a step of Pre-Norm, which must be among them.

    All of them have the data and the size of the first one.
    """
    first = next(iter(experiments.values()))
    task, batch = first.task, first.recipe["batch_size"]
    torch.manual_seed(0)
    data = letters(task.get("subset") or 100 * batch, task["context"])
    engines = {arm: trained(experiment, data) for arm, experiment in experiments.items()}
    calls = {}
    for name, engine in engines.items():
        calls |= {PREVIOUS.format(name): engines[BASE], name: engine}
    # Whatever runs first in a round runs on colder caches than the rest: a call that is not counted.
    seconds = interleaved(dict(settle=engines[BASE]) | calls, rounds, repeat)
    kept = {name: kept_bytes(engine) for name, engine in engines.items()}
    rows = []
    for name, experiment in experiments.items():
        pairs = zip(seconds[name], seconds[PREVIOUS.format(name)], strict=True)
        rows.append(
            dict(
                kind="placement",
                placement=name,
                word=variant(experiment.model["variant"]).spell(),
                precision=engines[name].loop.precision,
                time=spread([own / base for own, base in pairs]),
                memory=kept[name] / kept[BASE],
            )
        )
    return rows, spread([1000 * value for value in seconds[BASE]])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round; nothing is written")
    parser.add_argument("--precision", choices=tuple(DTYPES), help="in place of the recipe's")
    parser.add_argument("--folder", type=Path, help="where to write, in place of results/benchmarks")
    chosen = parser.parse_args(arguments)
    rounds = 1 if chosen.quick else ROUNDS
    # As in `fit`: otherwise the kernel filling new pages with zeros is a large part of every step.
    keeps = keep_freed_memory()
    experiments = every_placement(chosen.precision)
    rows, step_ms = placement_rows(experiments, rounds, REPEAT)
    for row in rows:
        time = row["time"]
        print(
            f"{row['placement']:28s} time {time['median']:5.2f} ({time['low']:.2f} to {time['high']:.2f})   "
            f"memory {row['memory']:5.2f}"
        )
    print(
        f"a step of Pre-Norm: {step_ms['median']:.1f} ms ({step_ms['low']:.1f} to {step_ms['high']:.1f}), "
        f"{torch.get_num_threads()} threads"
    )
    if not chosen.quick:
        first = next(iter(experiments.values()))
        settings = dict(
            rounds=rounds,
            repeat=REPEAT,
            keeps_freed_memory=keeps,
            vocabulary=VOCABULARY,
            context=first.task["context"],
            batch_size=first.recipe["batch_size"],
            **{key: first.model[key] for key in ("depth", "width", "heads")},
            pre_norm_step_ms=step_ms,
        )
        print(write("placements", settings, rows, chosen.folder))


if __name__ == "__main__":
    main()
