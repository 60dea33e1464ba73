"""What can be measured on a trained model besides its accuracy, by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resnorm import probes
from resnorm.data import DataSet
from resnorm.lab.translation import samples, translation
from resnorm.training import Recipe
from resnorm.training.batches import Batches, rows_at_once

# Each takes the trained model in eval mode, its data and the experiment, leaves the model as it was and returns tidy rows.
MEASUREMENTS: dict[str, Callable[[nn.Module, DataSet, Any], list[dict[str, Any]]]] = {
    "activations": lambda model, data, experiment: probes.activations(model, _validation(model, data, 64, "sequences")[0]),
    "affine_maps": lambda model, data, experiment: probes.affine_maps(model),
    "contrast": lambda model, data, experiment: probes.contrast(model, *_test_pixels(model, data, 2000)),
    "covariate_shift": lambda model, data, experiment: _covariate_shift(model, data, experiment.recipe["lr"]),
    "landscape": lambda model, data, experiment: probes.landscape(
        model, *_validation(model, data, 400), batch=_at_once(experiment)
    ),
    "layers": lambda model, data, experiment: probes.lesions(
        model, *_validation(model, data, 100, "sequences"), swaps=0, batch=_at_once(experiment)
    ),
    "lesions": lambda model, data, experiment: probes.lesions(model, *_validation(model, data, 1000), batch=_at_once(experiment)),
    "mixing": lambda model, data, experiment: probes.mixing(model, _validation(model, data, 64, "sequences")[0]),
    "reads": lambda model, data, experiment: probes.reads(model),
    "samples": lambda model, data, experiment: samples(model, _check(data, "pairs")),
    "translation": lambda model, data, experiment: translation(model, _check(data, "pairs"), _at_once(experiment, 128)),
}


def _at_once(experiment: Any, most: int = 100) -> int:
    """How many examples are scored at the same time: no more than a training step holds.

    Measurements that are defined by their batch (statistics of batch norms, a step's change) keep the size that they have.
    """
    return most if experiment is None else min(most, rows_at_once(Recipe(**experiment.recipe)))


def _validation(model: nn.Module, data: DataSet, count: int, kind: str = "images") -> tuple[Tensor, Tensor]:
    """The first `count` validation examples as in training, unaugmented, and their targets: a measurement is no test result."""
    _check(data, kind)
    (x,), targets = Batches(data, "validation", next(model.parameters()).device, channels_last=True).plain(slice(0, count))
    return x, targets


def _test_pixels(model: nn.Module, data: DataSet, count: int) -> tuple[Tensor, ...]:
    """The first `count` test images between 0 and 1, their classes, and the training set's mean and deviation."""
    _check(data, "images")
    device, (images, targets) = next(model.parameters()).device, data.test
    pixels = (images[:count].to(device) / 255).contiguous(memory_format=torch.channels_last)
    return pixels, targets[:count].to(device), *(torch.tensor(one, device=device) for one in (data.mean, data.std))


def _covariate_shift(model: nn.Module, data: DataSet, lr: float) -> list[dict[str, Any]]:
    """Rows of two kinds on one training batch: "layer", by layer after a step of the ones before it, and "step"."""
    _check(data, "images")
    (x,), targets = Batches(data, "train", next(model.parameters()).device, channels_last=True).plain(slice(0, 128))
    rows = {"layer": probes.covariate_shift(model, x, targets, lr), "step": probes.gradient_steps(model, x, targets, lr)}
    return [{"kind": kind, **row} for kind, found in rows.items() for row in found]


def _check(data: DataSet, kind: str) -> DataSet:
    if data.kind != kind:
        raise ValueError(f"the data set {data.name!r} holds {data.kind}; this measurement takes {kind}")
    return data
