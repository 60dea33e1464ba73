"""Walk away from the trained weights in random directions and read the loss on the way."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from resnorm.norms.checking import evaluating
from resnorm.probes.scores import score


def landscape(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    directions: int = 3,
    points: int = 21,
    reach: float = 1.0,
    seed: int = 0,
    batch: int = 100,
) -> list[dict[str, Any]]:
    r"""Score the network along straight lines through its weights: $L(\theta + \alpha\, d)$, one row a point, tidy.

    $$d_f \leftarrow \lVert \theta_f \rVert\, \frac{d_f}{\lVert d_f \rVert}$$

    for every filter f (every row of a matrix) of a random normal direction d, so that a step of $\alpha$ moves every
    filter by the same share of its length, whatever the network's scale. Vectors (gains and biases) stay where they
    are. Batch norm is in eval mode: it keeps the running statistics of the trained weights.
    `direction`: from 1 on, drawn by `seed`; `alpha`: `points` steps from -`reach` to `reach`; `loss` in nats;
    `accuracy`. The model is left as it was.
    Shapes: x (examples, ...), targets (examples,). Raises `ValueError` for fewer than two points.
    Citation: li2018visualizing.
    """
    lines = [_direction(model, seed, number) for number in range(directions)]
    cases = [(number, alpha) for number in range(directions) for alpha in _steps(points, reach)]
    rows = _walk(model, [[(alpha, lines[number])] for number, alpha in cases], x, targets, batch)
    return [{"direction": number + 1, "alpha": alpha, **row} for (number, alpha), row in zip(cases, rows, strict=True)]


def landscape_plane(
    model: nn.Module, x: Tensor, targets: Tensor, points: int = 11, reach: float = 1.0, seed: int = 0, batch: int = 100
) -> list[dict[str, Any]]:
    r"""Score the network on a plane through its weights: $L(\theta + \alpha\, d_1 + \beta\, d_2)$, one row a point, tidy.

    The directions are the first two of `landscape`, which says how they are drawn; `alpha` and `beta`: `points` steps
    each from -`reach` to `reach`. Shapes and errors as there. Citation: li2018visualizing.
    """
    first, second = (_direction(model, seed, number) for number in range(2))
    cases = [(alpha, beta) for alpha in _steps(points, reach) for beta in _steps(points, reach)]
    rows = _walk(model, [[(alpha, first), (beta, second)] for alpha, beta in cases], x, targets, batch)
    return [{"alpha": alpha, "beta": beta, **row} for (alpha, beta), row in zip(cases, rows, strict=True)]


def _steps(points: int, reach: float) -> list[float]:
    if points < 2:
        raise ValueError(f"points={points}; a line needs 2 or more, and an odd number has the trained weights in its middle")
    # Divided last, so that the middle of the line is 0 exactly.
    return [reach * (2 * step - points + 1) / (points - 1) for step in range(points)]


def _direction(model: nn.Module, seed: int, number: int) -> dict[str, Tensor]:
    """A normal direction for every filter, of that filter's length; drawn on the CPU, the same on every device."""
    generator = torch.Generator().manual_seed(1000 * seed + number)
    direction = {}
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            drawn = torch.randn(weight.shape, generator=generator).to(weight).flatten(1)
            lengths = weight.detach().flatten(1).norm(dim=1, keepdim=True)
            direction[name] = (drawn * (lengths / drawn.norm(dim=1, keepdim=True))).view_as(weight)
    return direction


def _walk(
    model: nn.Module, steps: Sequence[list[tuple[float, dict[str, Tensor]]]], x: Tensor, targets: Tensor, batch: int
) -> list[dict[str, float | None]]:
    weights = dict(model.named_parameters())

    def logits(step: list[tuple[float, dict[str, Tensor]]], inputs: Tensor) -> Tensor:
        moved = {name: weights[name] + sum(length * direction[name] for length, direction in step) for name in step[0][1]}
        return functional_call(model, moved, (inputs,))

    with evaluating(model):
        return score(steps, logits, x, targets, batch)
