"""Score a trained network on labelled examples, under every change that a probe makes to it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm.norms.checking import evaluating


def score(
    cases: Sequence[Any], logits: Callable[[Any, Tensor], Tensor], x: Tensor, targets: Tensor, batch: int
) -> list[dict[str, float | None]]:
    """Return `loss` (mean cross-entropy in nats) and `accuracy` of every case, a row each, in order.

    `logits`: maps a case and a batch of inputs to (batch, classes), or to (batch, tokens, classes) where every token has
    its target; all cases of one batch follow each other.
    Shapes: x (examples, ...), targets (examples,) or as x. A value that is not finite is none: JSON has no infinity.
    Raises `ValueError` where there are no examples, or not one target for each.
    """
    if not len(x) or targets.shape not in (x.shape[:1], x.shape):
        raise ValueError(f"{len(x)} inputs and targets of shape {tuple(targets.shape)}; give one target for each input")
    sums = torch.zeros(len(cases), 2, dtype=torch.float64)
    for inputs, labels in zip(x.split(batch), targets.split(batch), strict=True):
        for case, row in zip(cases, sums, strict=True):
            values = logits(case, inputs).float()
            row[0] += F.cross_entropy(values.flatten(0, -2), labels.flatten(), reduction="sum").item()
            row[1] += (values.argmax(-1) == labels).sum().item()
    means = (sums / targets.numel()).tolist()
    return [{"loss": loss if math.isfinite(loss) else None, "accuracy": accuracy} for loss, accuracy in means]


def accuracy(model: nn.Module, x: Tensor, targets: Tensor, batch: int | None = None) -> float:
    """Return the share of right answers in evaluation.

    `batch`: batch norms take the statistics of batches of so many examples, in their order, and not the running ones.
    Shapes: x (examples, ...), targets (examples,). The model is left as it was. Raises `ValueError` as `score` does.
    """
    with torch.no_grad(), evaluating(model), batch_statistics(model) if batch else nullcontext():
        (row,) = score([None], lambda _, inputs: model(inputs), x, targets, batch or 500)
    # Only a loss can be none.
    return row["accuracy"] or 0.0


def batch_noise(model: nn.Module, x: Tensor, size: int, seed: int = 0, batches: int = 60) -> list[dict[str, Any]]:
    r"""Measure how far the means of random batches scatter in front of every batch norm of a model: one row a norm, tidy.

    $$\sqrt{\operatorname{mean}_c \operatorname{Var}_B(\mu_{B, c}) / \sigma_c^2}$$

    over the channels c, with the running variance $\sigma_c^2$; batches B are drawn with replacement, and the norms below
    use their statistics, as in training. `layer`, from 1 on, and its `name`; `error`, the root above.
    Shapes: x (examples, ...). The model is left as it was. Raises `ValueError` where it has no batch norm, or
    one without a running variance.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    if not norms:
        raise ValueError(f"{type(model).__name__} has no batch norm, so no mean of a batch")
    means: dict[str, list[Tensor]] = {name: [] for name in norms}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: means[name].append(given[0].movedim(1, -1).flatten(0, -2).mean(0))

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in norms.items()]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad(), evaluating(model), batch_statistics(model):
            for _ in range(batches):
                model(x[torch.randint(len(x), (size,), generator=generator)])
    finally:
        for hook in hooks:
            hook.remove()
    rows = []
    for layer, (name, module) in enumerate(norms.items(), 1):
        if module.running_var is None:
            raise ValueError(f"{name!r} keeps no running variance, so its means have no unit")
        error = (torch.stack(means[name]).var(0) / module.running_var).mean().sqrt().item()
        rows.append({"layer": layer, "name": name, "error": error})
    return rows


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms take the statistics of the batch, as in training, and leave their running ones as they are.

    Every other module stays in the mode that it is in: no dropout comes back.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(module, module.training, module.track_running_stats) for module in norms]
    try:
        for module in norms:
            module.training, module.track_running_stats = True, False
        yield
    finally:
        for module, training, tracks in before:
            module.training, module.track_running_stats = training, tracks
