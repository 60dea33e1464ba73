"""`fit` beside a tutorial's loop on a small language model: six layers, width 128, 4,096 characters a step, AdamW.

    python -m benchmarks.language_model               speed and memory: two minutes
    python -m benchmarks.language_model --accuracy    final loss over three seeds; starts again where it stopped
    python -m benchmarks.language_model --quick       the same calls, fewer of them: writes only where --folder is given

Ours is `transformer_lm`, in fp32 and bf16. The peer is `nn.TransformerEncoder` with its norms first, a last norm, the
same initialisation and sizes, in the loop of PyTorch's tutorials. The clock is that of `benchmarks.training_loops`.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import measure
from benchmarks.measure import spread, write
from benchmarks.peers import OURS, Task, batches
from benchmarks.turns import (
    DEVICE,
    Clock,
    Loop,
    Process,
    Row,
    chosen,
    first_round,
    in_turn,
    peak_of,
    show,
    speed_rows,
    stored,
    whole_runs,
)
from resnorm.data import DataSet, data_root, load
from resnorm.models import transformer_lm
from resnorm.training import Recipe, fit

NAME = "language_model"
DEPTH, WIDTH, HEADS, EXPANSION = 6, 128, 4, 4
BETA1, BETA2 = 0.9, 0.95


def dataset(options: argparse.Namespace) -> DataSet:
    path = data_root() / "tinyshakespeare/input.txt"
    if options.text is None and path.exists() and not options.quick:
        return load("characters", path=path, context=options.context)
    return load("characters", path=options.text, context=options.context)


# -------------------------------------------------------------------------------- the models


class EncoderLM(nn.Module):
    """A causal language model around `nn.TransformerEncoder`.

    Shapes: tokens (batch, context) -> logits (batch, context, vocabulary).
    """

    def __init__(self, vocabulary: int, context: int):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, WIDTH), nn.Embedding(context, WIDTH)
        self.encoder = nn.TransformerEncoder(self._layer(), DEPTH, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        # The encoder copies the layer that it is given: all would start with the same weights.
        self.encoder.layers = nn.ModuleList(self._layer() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.5**0.5)
        nn.init.normal_(self.head.weight, std=WIDTH**-0.5)

    def _layer(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, EXPANSION * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        for parameter in layer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        return layer

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        return self.head(self.encoder(x, mask=self.mask, is_causal=True))


def our_model(vocabulary: int, context: int) -> nn.Module:
    size = dict(depth=DEPTH, width=WIDTH, heads=HEADS, expansion=EXPANSION)
    return transformer_lm(vocabulary=vocabulary, context=context, **size)


MODELS = {"resnorm": our_model, "resnorm_bf16": our_model, "tutorial": EncoderLM}


def network(name: str, data: DataSet, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name](data.spec["vocabulary"], data.spec["context"])


# -------------------------------------------------------------------------------- the loops


def resnorm(model: nn.Module, data: DataSet, task: Task, precision: str = "fp32") -> None:
    """`resnorm.training.fit`."""
    nothing = tuple(part[:0] for part in data.validation)
    recipe = Recipe(
        epochs=task.steps // (len(data.train[0]) // task.batch_size),
        batch_size=task.batch_size,
        optimizer="adamw",
        lr=task.lr,
        momentum=BETA1,
        beta2=BETA2,
        weight_decay=task.weight_decay,
        schedule="cosine",
        precision=precision,
    )
    fit(model, replace(data, validation=nothing, test=nothing), recipe, seed=task.seed, device=DEVICE, progress=False)


def resnorm_bf16(model: nn.Module, data: DataSet, task: Task) -> None:
    """`resnorm.training.fit` in bf16."""
    resnorm(model, data, task, precision="bf16")


def tutorial(model: nn.Module, data: DataSet, task: Task) -> None:
    """The loop of PyTorch's tutorials: a DataLoader, the loss asked for in every step."""
    model.to(DEVICE)
    train = DataLoader(
        TensorDataset(*data.train), batch_size=task.batch_size, shuffle=True, drop_last=True, num_workers=task.workers
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr, betas=(BETA1, BETA2), weight_decay=task.weight_decay)
    scheduler = CosineAnnealingLR(optimizer, task.steps)
    total_loss = 0.0
    for tokens, targets in batches(train, task.steps):
        tokens, targets = tokens.to(DEVICE), targets.to(DEVICE)
        optimizer.zero_grad()
        loss = criterion(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        scheduler.step()
        total_loss += loss.item()


LOOPS = {
    "resnorm": Loop("resnorm", resnorm, workers=(0,)),
    "resnorm_bf16": Loop("resnorm", resnorm_bf16, workers=(0,), precision="bf16"),
    "tutorial": Loop("nn.TransformerEncoder, tutorial", tutorial),
}


def task_of(options: argparse.Namespace, steps: int, seed: int, workers: int) -> Task:
    return Task(steps, options.batch, lr=options.lr, weight_decay=0.01, seed=seed, workers=workers)


# -------------------------------------------------------------------------------- in the process of one loop


def cut(data: DataSet, examples: int) -> DataSet:
    """The data set with so many training examples; one that has fewer is repeated."""
    times = -(-examples // len(data.train[0]))
    return replace(data, train=tuple(part.repeat(times, 1)[:examples] for part in data.train))


def steady(name: str, options: argparse.Namespace) -> Callable[[int], tuple[float, int | None]]:
    """A function that gives seconds a step of one loop, and the bytes that training took at its largest moment."""
    data, train = dataset(options), LOOPS[name].train
    steps = options.warm + options.steps + 1
    train(network(name, data, 0), cut(data, 2), replace(task_of(options, 1, 0, 0), batch_size=2))
    data = cut(data, steps * options.batch)

    def measured(workers: int) -> tuple[float, int | None]:
        model = network(name, data, 0)
        clock = Clock(model, (options.warm, options.warm + options.steps))
        peak = peak_of(lambda: train(model, data, task_of(options, steps, 0, workers)))
        start, end = clock.seconds
        return (end - start) / options.steps, peak

    return measured


def whole_run(name: str, options: argparse.Namespace) -> Callable[[int, int], dict[str, Any]]:
    """A function that trains to the end and gives the validation loss after each epoch, with its seconds."""
    data = dataset(options)
    if options.quick:
        data = cut(data, 20 * options.batch)

    def measured(seed: int, workers: int) -> dict[str, Any]:
        model = network(name, data, seed)
        steps_per_epoch = len(data.train[0]) // options.batch
        steps = options.epochs * steps_per_epoch
        losses: list[float] = []
        clock = Clock(model, range(0, steps, steps_per_epoch), lambda: losses.append(validation_loss(model, data)))
        LOOPS[name].train(model, data, task_of(options, steps, seed, workers))
        clock.read()
        seconds = [one - clock.seconds[0] for one in clock.seconds[1:]]
        return dict(workers=workers, seconds=seconds, loss=losses[1:], validation_loss=losses[-1])

    return measured


@torch.no_grad()
def validation_loss(model: nn.Module, data: DataSet) -> float:
    training = model.training
    model.eval()
    total = 0.0
    # The clock may call from inside autocast.
    with torch.autocast(DEVICE.type, enabled=False):
        for tokens, targets in zip(*(part.split(64) for part in data.validation), strict=True):
            logits = model(tokens.to(DEVICE)).flatten(0, 1)
            total += functional.cross_entropy(logits, targets.to(DEVICE).flatten(), reduction="sum").item()
    model.train(training)
    return total / data.validation[1].numel()


# -------------------------------------------------------------------------------- the command


def speed(options: argparse.Namespace) -> list[Row]:
    names = chosen(LOOPS, options.loops)
    processes = {name: Process(steady, name, options) for name in names}
    try:
        first = {name: first_round(processes[name], LOOPS[name].workers[: options.tried]) for name in names}
        found = in_turn({name: partial(processes[name].ask, first[name][0]) for name in names}, options.rounds)
        seconds = {name: [value for value, _ in values] for name, values in found.items()}
        return speed_rows(LOOPS, seconds, first, OURS, "tokens_per_second", options.batch * options.context)
    finally:
        for process in processes.values():
            process.close()


def summary(runs: list[Row]) -> Row:
    """Mean and standard deviation over the seeds."""
    last = [run["validation_loss"] for run in runs]
    return dict(
        seeds=len(runs),
        validation_loss=statistics.mean(last),
        validation_loss_sd=statistics.stdev(last) if len(last) > 1 else None,
        training_seconds=spread([run["seconds"][-1] for run in runs]),
    )


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return dict(
        model=f"Transformer, {DEPTH} layers, width {WIDTH}, {HEADS} heads",
        text=text_name(options),
        batch_size=options.batch,
        context=options.context,
        rounds=options.rounds,
        warm_steps=options.warm,
        steps=options.steps,
    )


def text_name(options: argparse.Namespace) -> str:
    if options.text is not None:
        return options.text.name
    return "tinyshakespeare" if (data_root() / "tinyshakespeare").exists() and not options.quick else "number names"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    separated = lambda kind: lambda text: [kind(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--accuracy", action="store_true", help="train to the end instead, and write the final losses")
    parser.add_argument("--quick", action="store_true", help="a few tiny steps; nothing is written without --folder")
    parser.add_argument("--text", type=Path, help="a UTF-8 file; tinyshakespeare where it is there, else bundled")
    parser.add_argument("--loops", type=separated(str), help=f"some of {', '.join(LOOPS)}")
    parser.add_argument("--folder", type=Path, help="where the JSON goes; results/benchmarks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--steps", type=int, default=8, help="steps that are counted")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    accuracy = parser.add_argument_group("with --accuracy")
    accuracy.add_argument("--epochs", type=int, default=2)
    accuracy.add_argument("--seeds", type=separated(int), default=[0, 1, 2])
    options = parser.parse_args(arguments)
    options.tried = None
    if options.quick:
        options.rounds, options.warm, options.steps, options.batch, options.context = 2, 1, 2, 4, 16
        options.epochs, options.seeds, options.tried = 1, [0], 1
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    folder = options.folder or (None if options.quick else measure.RESULTS)
    before = stored(NAME, folder)

    def save(rows: list[Row], of: dict[str, Any]) -> None:
        if folder:
            write(NAME, of.get("settings") or settings(options), rows, folder, of.get("provenance"))

    if options.accuracy:
        budget = dict(text=text_name(options), epochs=options.epochs)
        # Where the other rows came from stays as it is; every run says for itself.
        names = chosen(LOOPS, options.loops)
        rows = whole_runs(
            LOOPS, names, options.seeds, budget, before["rows"], whole_run, options, partial(save, of=before), summary
        )
        show([row for row in rows if row["kind"] == "accuracy"])
        return
    rows = speed(options)
    show(rows)
    save(rows + [row for row in before["rows"] if row["kind"] in ("run", "accuracy")], of={})


if __name__ == "__main__":
    main()
