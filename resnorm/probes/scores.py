"""Score a trained network on labelled examples, under every change that a probe makes to it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
