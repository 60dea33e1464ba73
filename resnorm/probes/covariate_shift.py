"""Internal covariate shift, measured: how far a step of the earlier layers moves what a layer wants."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from resnorm.probes.scores import batch_statistics

STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)


def covariate_shift(model: nn.Module, x: Tensor, targets: Tensor, lr: float) -> list[dict[str, Any]]:
    r"""Compare each layer's gradient before and after the step of all parameters before it: one row a layer, tidy.

    $$G_i = \nabla_{W_i} L(W_1, \dots, W_k), \qquad
    G_i' = \nabla_{W_i} L(W_1', \dots, W_{i-1}', W_i, \dots, W_k), \qquad W' = W - \eta\, G$$

    A layer is a weight of two dimensions or more; "before" is the order of `model.parameters()`, gains and biases
    included; G and G' are of one batch, with its own statistics in batch norms, and `lr` is $\eta$.
    `layer`, from 1 on, and its `name`; `gradient_norm`, $\lVert G_i \rVert$; `difference`, $\lVert G_i - G_i' \rVert$;
    `cosine` of the angle between them; `input_shift`, how far the mean of the layer's input moves, in deviations of it,
    the mean over its channels. A model that draws random numbers draws new ones for G', as at its next step.
    For layer 1 nothing but these has changed. Nothing of the model changes.
    Shapes: x (examples, ...), targets (examples,). Citation: santurkar2018how.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    names = [name for name, weight in weights.items() if weight.dim() > 1]
    readers = {name: model.get_submodule(name.rpartition(".")[0]) for name in names}
    with _Passes(model, x, targets) as passes:
        before, read = passes.gradients(weights, weights, readers.values()), dict(passes.moments)
        stepped = {name: weight - lr * before[name] for name, weight in weights.items()}
        rows = []
        moved = dict(weights)
        for name in weights:
            if name in readers:
                old = before[name]
                new = passes.gradients(moved, [name], [readers[name]], seed=1)[name]
                (mean, deviation), (now, _) = read[readers[name]], passes.moments[readers[name]]
                rows.append({
                    "layer": len(rows) + 1,
                    "name": name,
                    "gradient_norm": _finite(old.norm()),
                    "difference": _finite((old - new).norm()),
                    "cosine": _cosine(old, new),
                    "input_shift": _finite(((now - mean).abs() / deviation).mean()),
                })  # fmt: skip
            moved[name] = stepped[name]
    return rows


def gradient_steps(
    model: nn.Module, x: Tensor, targets: Tensor, lr: float, steps: Sequence[float] = STEPS
) -> list[dict[str, Any]]:
    r"""Walk along the negative gradient and read the loss and the gradient on the way: one row a step, tidy.

    $$\theta_s = \theta - s\, \eta\, \nabla L(\theta), \qquad
    \beta_s = \lVert \nabla L(\theta) - \nabla L(\theta_s) \rVert \,/\, \lVert \theta - \theta_s \rVert$$

    `step`: s, in learning rates `lr`, the first of them 0; `loss` in nats; `difference`, the numerator; `smoothness`,
    $\beta_s$, none at 0; `cosine` of the angle between the two gradients. One batch with its own statistics, and one
    draw of what is random. The narrower the range of the losses and the smaller the differences, the further can the
    gradient be trusted. Nothing of the model changes. Shapes: as `covariate_shift`. Citation: santurkar2018how.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    with _Passes(model, x, targets) as passes:
        start = passes.gradients(weights, weights)
        flat = _flat(start)
        rows = [{"step": 0.0, "loss": _finite(passes.loss), "difference": 0.0, "smoothness": None, "cosine": 1.0}]
        for step in steps:
            moved = {name: weight - step * lr * start[name] for name, weight in weights.items()}
            here = _flat(passes.gradients(moved, moved))
            difference = (flat - here).norm()
            rows.append({
                "step": float(step),
                "loss": _finite(passes.loss),
                "difference": _finite(difference),
                "smoothness": _finite(difference / (step * lr * flat.norm())),
                "cosine": _cosine(flat, here),
            })  # fmt: skip
    return rows


class _Passes:
    """Gradients of the loss at other weights than the model's, in its mode of training and without a trace left in it."""

    def __init__(self, model: nn.Module, x: Tensor, targets: Tensor):
        self.model, self.x, self.targets = model, x, targets
        self.statistics = batch_statistics(model)
        self.modes = [(module, module.training) for module in model.modules()]
        self.moments: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.loss: Tensor | float = math.nan

    def __enter__(self):
        self.model.train()
        self.statistics.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self.statistics.__exit__(*failure)
        for module, training in self.modes:
            module.training = training

    def gradients(
        self, weights: dict[str, Tensor], wanted: Iterable[str], read: Iterable[nn.Module] = (), seed: int = 0
    ) -> dict[str, Tensor]:
        """The gradients of `wanted`; the loss and the moments of what the modules of `read` took in are kept."""
        leaves = {name: weights[name].detach().requires_grad_() for name in wanted}
        hooks = [module.register_forward_pre_hook(self._note) for module in read]
        devices = [self.x.device] if self.x.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), torch.enable_grad():
                torch.manual_seed(seed)
                loss = F.cross_entropy(functional_call(self.model, {**weights, **leaves}, (self.x,)), self.targets)
                found = torch.autograd.grad(loss, list(leaves.values()))
        finally:
            for hook in hooks:
                hook.remove()
        self.loss = loss.detach()
        return dict(zip(leaves, found, strict=True))

    def _note(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        channel = 1 if given[0].dim() == 4 else -1
        values = given[0].detach().float().movedim(channel, -1).flatten(0, -2)
        # A channel of zeros does not move: 0 / tiny is 0.
        self.moments[module] = values.mean(0), values.std(0).clamp_min(torch.finfo(values.dtype).tiny)


def _flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def _cosine(first: Tensor, second: Tensor) -> float | None:
    return _finite(F.cosine_similarity(first.flatten().double(), second.flatten().double(), dim=0, eps=0))


def _finite(value: Tensor | float) -> float | None:
    """A plain number for a record; JSON has no infinity, so a value that is not finite is none."""
    value = float(value)
    return value if math.isfinite(value) else None
