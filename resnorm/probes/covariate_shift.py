"""Internal covariate shift, measured: how far a step of the earlier layers moves what a layer wants."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from resnorm.probes.scores import batch_statistics

STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)
Tensors = dict[str, Tensor]


def covariate_shift(model: nn.Module, x: Tensor, targets: Tensor, lr: float) -> list[dict[str, Any]]:
    r"""Compare each layer's gradient before and after the step of all parameters before it: one row a layer, tidy.

    $$G_i = \nabla_{W_i} L(W_1, \dots, W_k), \qquad
    G_i' = \nabla_{W_i} L(W_1', \dots, W_{i-1}', W_i, \dots, W_k), \qquad W' = W - \eta\, G$$

    A layer is a weight of two dimensions or more; "before" is the order of `model.parameters()`, gains and biases
    included; G and G' are of one batch, with its own statistics in batch norms, and `lr` is $\eta$.
    `layer`, from 1 on, and its `name`; `gradient_norm`, $\lVert G_i \rVert$; `difference`, $\lVert G_i - G_i' \rVert$;
    `cosine` of the angle between them; `input_shift`, $\lVert \mu_i' - \mu_i \rVert / \lVert \sigma_i \rVert$ over the
    channels' means and deviations of what the layer reads. A model that draws random numbers draws new ones for G', as
    at its next step; for layer 1 nothing else has changed. Nothing of the model changes.
    Shapes: x (examples, ...), targets (examples,). Citation: santurkar2018how.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    readers = {name: model.get_submodule(name.rpartition(".")[0]) for name in weights if weights[name].dim() > 1}
    with _training(model):
        before, _, read = _gradients(model, weights, weights, x, targets, readers.values())
        moved, rows = dict(weights), list[dict]()
        for name in weights:
            if name in readers:
                found, _, now = _gradients(model, moved, [name], x, targets, [readers[name]], seed=1)
                mean, variance = read[readers[name]]
                old, new, shift = before[name], found[name], now[readers[name]][0] - mean
                rows.append(
                    {
                        "layer": len(rows) + 1,
                        "name": name,
                        "gradient_norm": _finite(old.norm()),
                        "difference": _finite((old - new).norm()),
                        "cosine": _cosine(old, new),
                        "input_shift": _finite(shift.norm() / variance.sum().sqrt()),
                    }
                )
            moved[name] = weights[name] - lr * before[name]
    return rows


def gradient_steps(model: nn.Module, x: Tensor, targets: Tensor, lr: float, steps: Sequence[float] = STEPS) -> list[dict[str, Any]]:
    r"""Walk along the negative gradient and read the loss and the gradient on the way: one row a step, tidy.

    $$\theta_s = \theta - s\, \eta\, \nabla L(\theta), \qquad
    \beta_s = \lVert \nabla L(\theta) - \nabla L(\theta_s) \rVert \,/\, \lVert \theta - \theta_s \rVert$$

    `step`: s, in learning rates `lr`, the first of them 0; `loss` in nats; `difference`, the numerator; `smoothness`,
    $\beta_s$, none at 0; `cosine` of the angle between the two gradients. One batch with its own statistics, and one
    draw of what is random. The narrower the range of the losses and the smaller the differences, the further can the
    gradient be trusted. Nothing of the model changes. Shapes: as `covariate_shift`. Citation: santurkar2018how.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    rows = []
    with _training(model):
        start, loss, _ = _gradients(model, weights, weights, x, targets)
        flat = _flat(start)
        rows.append({"step": 0.0, "loss": _finite(loss), "difference": 0.0, "smoothness": None, "cosine": 1.0})
        for step in steps:
            moved = {name: weight - step * lr * start[name] for name, weight in weights.items()}
            found, loss, _ = _gradients(model, moved, moved, x, targets)
            here = _flat(found)
            difference = (flat - here).norm()
            rows.append(
                {
                    "step": float(step),
                    "loss": _finite(loss),
                    "difference": _finite(difference),
                    "smoothness": _finite(difference / (step * lr * flat.norm())),
                    "cosine": _cosine(flat, here),
                }
            )
    return rows


def shift_and_roughness(
    model: nn.Module, x: Tensor, targets: Tensor, lr: float, steps: Sequence[float] = (0.5, 1.0, 2.0, 4.0)
) -> dict[str, float]:
    r"""Sum up `covariate_shift` and `gradient_steps` in four numbers, for a figure over the steps of a training.

    `input shift` and `turn of the gradient`, 1 minus the cosine: means over the layers that have a layer below them;
    `roughness`, $\max_s \beta_s$; `loss`, in nats, before the walk. NaN where no value is finite. Shapes: as `covariate_shift`.
    """
    layers = covariate_shift(model, x, targets, lr)[1:]
    walk = gradient_steps(model, x, targets, lr, steps)
    shifts = [row["input_shift"] for row in layers if row["input_shift"] is not None]
    turns = [1 - row["cosine"] for row in layers if row["cosine"] is not None]
    return {
        "input shift": math.fsum(shifts) / len(shifts) if shifts else math.nan,
        "turn of the gradient": math.fsum(turns) / len(turns) if turns else math.nan,
        "roughness": max((row["smoothness"] for row in walk[1:] if row["smoothness"] is not None), default=math.nan),
        "loss": math.nan if walk[0]["loss"] is None else walk[0]["loss"],
    }


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """The mode of training, in which nothing is kept; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with batch_statistics(model):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _gradients(
    model: nn.Module,
    weights: Tensors,
    wanted: Iterable[str],
    x: Tensor,
    targets: Tensor,
    readers: Iterable[nn.Module] = (),
    seed: int = 0,
) -> tuple[Tensors, Tensor, dict[nn.Module, tuple[Tensor, Tensor]]]:
    """At other weights than the model's: the gradients of `wanted`, the loss, and the moments of what `readers` took in."""
    leaves = {name: weights[name].detach().requires_grad_() for name in wanted}
    moments: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0].detach().float().movedim(1 if given[0].dim() == 4 else -1, -1).flatten(0, -2)
        moments[module] = values.mean(0), values.var(0)

    hooks = [reader.register_forward_pre_hook(note) for reader in readers]
    try:
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(seed)
            loss = F.cross_entropy(functional_call(model, {**weights, **leaves}, (x,)), targets)
            gradients = torch.autograd.grad(loss, list(leaves.values()))
    finally:
        for hook in hooks:
            hook.remove()
    return dict(zip(leaves, gradients, strict=True)), loss.detach(), moments


def _flat(gradients: Tensors) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def _cosine(first: Tensor, second: Tensor) -> float | None:
    return _finite(F.cosine_similarity(first.flatten().double(), second.flatten().double(), dim=0, eps=0))


def _finite(value: Tensor | float) -> float | None:
    """A plain number for a record; JSON has no infinity, so a value that is not finite is none."""
    value = float(value)
    return value if math.isfinite(value) else None
