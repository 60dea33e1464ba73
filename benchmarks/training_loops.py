"""`fit` beside the training loops that others use: PreAct-ResNet-20 on CIFAR-10, batch 128, SGD on a cosine.

    python -m benchmarks.training_loops               speed, memory, limit, scaling: eight minutes
    python -m benchmarks.training_loops --accuracy    test accuracy and time to it: hours; starts again where it stopped
    python -m benchmarks.training_loops --quick       the same calls, fewer of them: writes only where --folder is given

The clock is the same for all: it reads the time in front of the model's forward pass. A loop is built anew for every
round, takes a few steps that are not counted, then the counted ones, all within one epoch; the data go on for a few
batches after the last, so that nobody's workers have run out of work. Each loop has the number of workers, of 0, 1 and
2, that was the fastest in a round that is not counted; the two rows of the tutorial have theirs in their names. Peak
memory is what training adds to the process, in the first round; worker processes are not in it.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks import measure
from benchmarks.measure import spread, write
from benchmarks.peers import LOOPS, OURS, Task, loader, tutorial_images
from benchmarks.turns import (
    DEVICE,
    Clock,
    Process,
    Row,
    chosen,
    first_round,
    in_turn,
    over,
    peak_of,
    show,
    speed_rows,
    stored,
    synchronise,
    whole_runs,
)
from resnorm.data import DataSet, load
from resnorm.models import build
from resnorm.training import Recipe, fit
from resnorm.training.batches import Batches, Order
from resnorm.training.memory import keep_freed_memory

NAME = "training_loops"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# A pass reads or writes every value once. A norm and a ReLU behind each convolution need ten: of each, two forward and
# three backward.
PASSES, PASSES_OF_A_COPY = 10, 2
# What the workers of a DataLoader hold ready at most, in batches.
AHEAD = 4
DEPTHS = (20, 32, 44)


def dataset(options: argparse.Namespace) -> DataSet:
    subset = dict(subset=options.images) if options.data == "cifar10" else {}
    return load(options.data, **subset)


def network(data: DataSet, seed: int, depth: int = 20) -> nn.Module:
    torch.manual_seed(seed)
    return build("cifar_resnet", data.spec, depth=depth)


# -------------------------------------------------------------------------------- in the process of one loop


def steady(name: str, options: argparse.Namespace) -> Callable[..., tuple[float, int | None]]:
    """A function that gives seconds a step of one loop, and the bytes that training took at its largest moment."""
    data, train = dataset(options), LOOPS[name].train
    steps = options.warm + options.steps + 1
    needed = (steps + AHEAD) * options.batch
    if len(data.train[0]) < needed:
        # A small data set is repeated, so that an epoch is long enough.
        times = -(-needed // len(data.train[0]))
        data = replace(data, train=tuple(part.repeat(times, *[1] * (part.dim() - 1)) for part in data.train))
    data = replace(data, train=tuple(part[:needed] for part in data.train))
    # What a library loads when it is first used is neither time nor memory of a step.
    few = replace(data, train=tuple(part[:8] for part in data.train))
    train(network(data, 0), few, Task(2, 2, workers=0))

    def measured(workers: int = 0, depth: int = 20) -> tuple[float, int | None]:
        model = network(data, 0, depth)
        clock = Clock(model, (options.warm, options.warm + options.steps))
        task = Task(steps, options.batch, workers=workers)
        peak = peak_of(lambda: train(model, data, task))
        start, end = clock.seconds
        return (end - start) / options.steps, peak

    return measured


def limit(options: argparse.Namespace) -> Callable[[], dict[str, dict[str, float]]]:
    """A function that gives, by precision, the machine's rates and the seconds of a step's convolutions and passes."""
    data = dataset(options)
    model = network(data, 0).to(DEVICE, memory_format=torch.channels_last)
    keep_freed_memory()
    convolutions: list[tuple[nn.Conv2d, tuple[int, ...]]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, inputs: convolutions.append((module, inputs[0].shape)))
    size = data.spec["size"]
    with torch.no_grad():
        model(torch.zeros(options.batch, data.spec["inputs"], size, size, device=DEVICE))
    return lambda: {name: limit_of(convolutions, dtype, options) for name, dtype in DTYPES.items()}


def limit_of(
    convolutions: list[tuple[nn.Conv2d, tuple[int, ...]]], dtype: torch.dtype, options: argparse.Namespace
) -> dict[str, float]:
    seconds, passes, copies = 0.0, 0.0, {}
    for number, (module, shape) in enumerate(convolutions):
        x = torch.randn(shape, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = module.weight.detach().to(dtype).requires_grad_()
        # Nobody asks for the gradient of the images.
        wanted = (weight, x.requires_grad_()) if number else (weight,)

        def convolve(x=x, weight=weight, module=module, wanted=wanted):
            y = functional.conv2d(x, weight, stride=module.stride, padding=module.padding)
            torch.autograd.grad(y, wanted, y.detach())
            return y.shape

        out = convolve()
        seconds += timed(convolve, options.repeat)
        if out not in copies:
            a, b = torch.ones(out, device=DEVICE, dtype=dtype), torch.ones(out, device=DEVICE, dtype=dtype)
            copies[out] = timed(partial(b.copy_, a), 4 * options.repeat)
        passes += PASSES / PASSES_OF_A_COPY * copies[out]
    side, big = (2048, 2**26) if options.repeat > 1 else (64, 2**10)
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=dtype)
    one, other = torch.ones(2, big, device=DEVICE, dtype=dtype)
    return dict(
        matrix_product_gflops=2 * side**3 / timed(lambda: a @ b, options.repeat) / 1e9,
        copy_gb_per_second=2 * one.nbytes / timed(lambda: other.copy_(one), options.repeat) / 1e9,
        convolutions=seconds,
        passes=passes,
    )


def timed(function: Callable[[], Any], repeat: int) -> float:
    """Seconds of one call, the mean of ``repeat`` after one that is not counted."""
    function()
    synchronise()
    start = perf_counter()
    for _ in range(repeat):
        function()
    synchronise()
    return (perf_counter() - start) / repeat


def pipeline_of_fit(options: argparse.Namespace) -> Callable[[], float]:
    """A function that gives images a second of our batches alone, the order of the epoch included."""
    data = dataset(options)
    keep_freed_memory()
    train = Batches(data, "train", DEVICE, "crop_flip", channels_last=True)
    epochs = iter(range(10**9))

    def epoch() -> None:
        order = Order(len(train), 0, next(epochs), train.home, train.shift)
        for start in range(0, len(train) - options.batch + 1, options.batch):
            train.batch(order, slice(start, start + options.batch))

    return lambda: len(train) // options.batch * options.batch / timed(epoch, options.repeat)


def pipeline_of_loader(options: argparse.Namespace) -> Callable[[], float]:
    """A function that gives images a second of a DataLoader with two workers and torchvision's transforms, running."""
    train = loader(tutorial_images(dataset(options)), Task(0, options.batch))

    def measured() -> float:
        running, count = iter(train), len(train) - 2 * AHEAD
        for _ in range(AHEAD):
            next(running)
        start = perf_counter()
        for _ in range(count):
            next(running)
        rate = count * options.batch / (perf_counter() - start)
        del running
        return rate

    return measured


def overhead(options: argparse.Namespace) -> Callable[[], dict[str, float]]:
    """A function that gives seconds a step of a linear model on the digits, in `fit` and in the barest loop."""
    data = load("digits")
    empty = tuple(part[:0] for part in data.test)
    data = replace(data, validation=empty, test=empty)
    recipe = Recipe(epochs=options.tiny_epochs, batch_size=64, lr=0.01, schedule="constant", precision="fp32")
    steps = options.tiny_epochs * (len(data.train[0]) // recipe.batch_size)

    def tiny() -> tuple[nn.Module, Clock]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(DEVICE)
        return model, Clock(model, (steps // 10, steps - 1))

    def bare(model: nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, nesterov=True, fused=True)
        inputs = data.train[0][: recipe.batch_size].float().div(255).to(DEVICE)
        targets = data.train[1][: recipe.batch_size].to(DEVICE)
        for _ in range(steps):
            functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    def measured() -> dict[str, float]:
        seconds = {}
        fitted = partial(fit, data=data, recipe=recipe, device=DEVICE, progress=False)
        for name, run in dict(fit=fitted, bare=bare).items():
            model, clock = tiny()
            run(model)
            seconds[name] = (clock.seconds[1] - clock.seconds[0]) / (steps - 1 - steps // 10)
        return seconds

    return measured


def whole_epochs(options: argparse.Namespace) -> Callable[[int], float]:
    """A function that gives the seconds of `fit` for one epoch of so many images, everything included."""
    data = dataset(options)

    def measured(images: int) -> float:
        part = replace(data, train=tuple(part[:images] for part in data.train))
        model = network(part, 0)
        start = perf_counter()
        LOOPS["resnorm"].train(model, part, Task(images // options.batch, options.batch))
        return perf_counter() - start

    return measured


# -------------------------------------------------------------------------------- speed


def speed(options: argparse.Namespace) -> list[Row]:
    """All rows but those of the accuracy, measured in turns."""
    names = chosen(LOOPS, options.loops)
    processes = {name: Process(steady, name, options) for name in names}
    others = (limit, pipeline_of_fit, pipeline_of_loader, overhead)
    processes |= {start.__name__: Process(start, options) for start in others}
    try:
        calls: dict[str, Callable[[], Any]] = {}
        tried = {name: LOOPS[name].workers[: options.tried] for name in names}
        first = {name: first_round(processes[name], tried[name]) for name in names}
        for name, process in processes.items():
            given = dict(workers=first[name][0]) if name in names else {}
            calls[name] = partial(process.ask, **given)
            if name not in names:
                process.ask()  # a round that is not counted
        found = in_turn(calls, options.rounds)
        seconds = {name: [value for value, _ in found[name]] for name in names}
        rows = speed_rows(LOOPS, seconds, first, OURS, "images_per_second", options.batch)
        rows += limit_rows(seconds, found["limit"])
        rows += other_rows(found)
        ours = OURS["fp32"]
        return rows + (scaling_rows(processes[ours], options) if ours in names else [])
    finally:
        for process in processes.values():
            process.close()


def limit_rows(seconds: dict[str, list[float]], limits: list[dict[str, dict[str, float]]]) -> list[Row]:
    """Our step beside its own limit, the convolutions alone and ten passes over what each gives; a row a precision."""
    rows = []
    for precision, ours in OURS.items():
        if ours not in seconds:
            continue
        by_round = [one[precision] for one in limits]
        columns = {key: [one[key] for one in by_round] for key in by_round[0]}
        step = seconds[ours]
        least = [one["convolutions"] + one["passes"] for one in by_round]
        parts = {key: columns.pop(key) for key in ("convolutions", "passes")} | dict(limit=least, step=step)
        row = dict(kind="limit", precision=precision) | {key: spread(values) for key, values in columns.items()}
        row |= {f"{key}_ms": spread([1000 * value for value in values]) for key, values in parts.items()}
        rows.append(row | dict(step_over_limit=spread(over(step, least))))
    return rows


def other_rows(found: dict[str, list[Any]]) -> list[Row]:
    """The input pipeline alone, and what the loop costs around a model that costs almost nothing."""
    ours, theirs = found["pipeline_of_fit"], found["pipeline_of_loader"]
    fitted, bare = ([one[key] for one in found["overhead"]] for key in ("fit", "bare"))
    microseconds = lambda values: spread([1e6 * value for value in values])  # noqa: E731
    return [
        dict(kind="pipeline", batches="resnorm", images_per_second=spread(ours), ratio=spread(over(ours, ours))),
        dict(
            kind="pipeline", batches="DataLoader, two workers", images_per_second=spread(theirs), ratio=spread(over(ours, theirs))
        ),
        dict(
            kind="overhead",
            model="linear, digits, batch 64",
            bare_step_us=microseconds(bare),
            step_us=microseconds(fitted),
            ratio=spread(over(fitted, bare)),
        ),
    ]


def scaling_rows(process: Process, options: argparse.Namespace) -> list[Row]:
    """Seconds a step by depth, and seconds an epoch by the number of images."""
    rows = []
    by_depth = in_turn({d: partial(process.ask, depth=d) for d in options.depths}, options.scaling_rounds)
    for depth, values in by_depth.items():
        blocks = (depth - 2) // 2
        step = [1000 * seconds for seconds, _ in values]
        rows.append(
            dict(
                kind="depth",
                depth=depth,
                residual_blocks=blocks,
                step_ms=spread(step),
                step_ms_a_block=spread([value / blocks for value in step]),
            )
        )
    whole = Process(whole_epochs, options)
    try:
        images = [count * options.batch * options.steps // 2 for count in (1, 2, 4)]
        whole.ask(options.batch)
        by_images = in_turn({count: partial(whole.ask, count) for count in images}, options.scaling_rounds)
    finally:
        whole.close()
    for count, values in by_images.items():
        rows.append(
            dict(
                kind="data",
                images=count,
                epoch_seconds=spread(values),
                us_an_image=spread([1e6 * value / count for value in values]),
            )
        )
    return rows


# -------------------------------------------------------------------------------- accuracy


def whole_run(name: str, options: argparse.Namespace) -> Callable[[int, int], dict[str, Any]]:
    """A function that trains with one loop to the end and gives the test accuracy after each epoch, with its seconds.

    Evaluations, the same for all, are in fp32 and outside the clock, and so is everything before the first step.
    """
    data = dataset(options)

    def measured(seed: int, workers: int) -> dict[str, Any]:
        model = network(data, seed)
        steps_per_epoch = len(data.train[0]) // options.batch
        steps = options.epochs * steps_per_epoch
        accuracies: list[float] = []
        clock = Clock(model, range(0, steps, steps_per_epoch), lambda: accuracies.append(test_accuracy(model, data)))
        LOOPS[name].train(model, data, Task(steps, options.batch, seed=seed, workers=workers))
        clock.read()
        seconds = [one - clock.seconds[0] for one in clock.seconds[1:]]
        return dict(workers=workers, seconds=seconds, accuracy=accuracies[1:], test_accuracy=accuracies[-1])

    return measured


@torch.no_grad()
def test_accuracy(model: nn.Module, data: DataSet) -> float:
    images, targets = data.test
    mean, std = (torch.tensor(values, device=DEVICE)[:, None, None] for values in (data.mean, data.std))
    training = model.training
    model.eval()
    right = 0
    # The clock may call from inside a loop's autocast.
    with torch.autocast(DEVICE.type, enabled=False):
        for some, of in zip(images.split(500), targets.split(500), strict=True):
            logits = model((some.to(DEVICE) / 255 - mean) / std)
            right += (logits.argmax(1) == of.to(DEVICE)).sum().item()
    model.train(training)
    return right / len(targets)


def summary(runs: list[Row], target: float) -> Row:
    """Mean and standard deviation over the seeds; seconds to the first epoch's end at which ``target`` was reached."""
    last = [run["test_accuracy"] for run in runs]
    seconds = [
        next((at for at, value in zip(run["seconds"], run["accuracy"], strict=True) if value >= target), None) for run in runs
    ]
    return dict(
        seeds=len(runs),
        test_accuracy=statistics.mean(last),
        test_accuracy_sd=statistics.stdev(last) if len(last) > 1 else None,
        training_seconds=spread([run["seconds"][-1] for run in runs]),
        target_accuracy=target,
        seconds_to_target=None if None in seconds else spread(seconds),
    )


# -------------------------------------------------------------------------------- the command


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return dict(
        model="PreAct-ResNet-20",
        data=options.data,
        batch_size=options.batch,
        rounds=options.rounds,
        warm_steps=options.warm,
        steps=options.steps,
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    separated = lambda kind: lambda text: [kind(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--accuracy", action="store_true", help="train to the end instead, and write the accuracies")
    parser.add_argument("--quick", action="store_true", help="a few tiny steps; nothing is written without --folder")
    parser.add_argument("--data", choices=("cifar10", "digits"), help="cifar10; digits, without download, if --quick")
    parser.add_argument("--loops", type=separated(str), help=f"some of {', '.join(LOOPS)}")
    parser.add_argument("--folder", type=Path, help="where the JSON goes; results/benchmarks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm", type=int, default=3, help="steps that are not counted")
    parser.add_argument("--steps", type=int, default=12, help="steps that are counted")
    parser.add_argument("--batch", type=int, default=128)
    accuracy = parser.add_argument_group("with --accuracy")
    accuracy.add_argument("--images", type=int, default=10_000)
    accuracy.add_argument("--epochs", type=int, default=6)
    accuracy.add_argument("--seeds", type=separated(int), default=[0, 1, 2])
    accuracy.add_argument("--target", type=float, default=0.55, help="the accuracy to which the time is taken")
    options = parser.parse_args(arguments)
    options.data = options.data or ("digits" if options.quick else "cifar10")
    options.repeat, options.tiny_epochs, options.depths, options.scaling_rounds = 3, 40, DEPTHS, 3
    options.tried = None
    if options.quick:
        options.rounds, options.warm, options.steps, options.batch = 1, 1, 2, 16
        options.images, options.epochs, options.seeds = 512, 2, [0]
        options.repeat, options.tiny_epochs, options.depths, options.scaling_rounds = 1, 2, (20,), 1
        options.tried = 1
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    folder = options.folder or (None if options.quick else measure.RESULTS)
    before = stored(NAME, folder)

    def save(rows: list[Row], of: dict[str, Any]) -> None:
        if folder:
            write(NAME, of.get("settings") or settings(options), rows, folder, of.get("provenance"))

    if options.accuracy:
        budget = dict(data=options.data, images=options.images, epochs=options.epochs)
        # Where the other rows came from stays as it is; every run says for itself.
        names = chosen(LOOPS, options.loops)
        rows = whole_runs(
            LOOPS,
            names,
            options.seeds,
            budget,
            before["rows"],
            whole_run,
            options,
            partial(save, of=before),
            partial(summary, target=options.target),
        )
        show([row for row in rows if row["kind"] == "accuracy"])
        return
    rows = speed(options)
    show(rows)
    save(rows + [row for row in before["rows"] if row["kind"] in ("run", "accuracy")], of={})


if __name__ == "__main__":
    main()
