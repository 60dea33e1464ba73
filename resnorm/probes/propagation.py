"""What a stack does to the signal and the gradient that pass it, and what each of its branches does."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from resnorm.probes.blocks import blocks_of, measure, watching
from resnorm.words import BRANCHES, Block


def propagation(model: nn.Module, x: Tensor, loss: Callable[[Any], Tensor] | None = None, **inputs: Any) -> list[dict[str, Any]]:
    r"""Measure what `resnorm.theory.predict` predicts, under the same names: one row a block, tidy.

    `block`, `forward_rms`, `skip_share`: as `measure` has them; `gradient`: $\lVert dL/dx_l \rVert / \lVert dL/dx_L \rVert$.
    `loss`: maps the output to a scalar; by default $\langle g, x_L \rangle$ with a random $g \sim N(0, I)$.
    Shapes: x as the model takes it. Raises ValueError where the model shows no blocks.
    """
    rows = measure(model, x, _random_direction if loss is None else loss, **inputs)
    end = rows[-1]["gradient_norm"]
    for row in rows:
        own = row.pop("gradient_norm")
        # The probe has none where a gradient is not finite.
        row["gradient"] = own / end if own is not None and end else None
        del row["parameter_gradient"]
    return rows


def branch_gains(model: nn.Module, x: Tensor, loss: Callable[[Any], Tensor] | None = None, **inputs: Any) -> list[dict[str, Any]]:
    r"""Measure what every branch adds and what it gives back: one row a branch, tidy, in the order in which they run.

    For a branch that reads h and receives the gradient g: `block`, from 1; `letter`;
    `forward`, $\varphi = \lVert F(h) \rVert^2 / \lVert h \rVert^2$;
    `backward`, $\beta = \lVert J_F^\top g \rVert^2 / \lVert g \rVert^2$;
    `growth`, $\lVert h + F(h) \rVert^2 / \lVert h \rVert^2$: of the sum, where the branch reads the stream that it is added to.
    `factor`, $(1 + \beta) / \text{growth}$: by which Post-Norm multiplies the squared gradient at this branch.
    `loss`: as in `propagation`. Shapes: x as the model takes it. The model is left as it was.
    Raises ValueError where the model shows no blocks made of words.
    """
    passed: list[tuple[int, str, Tensor, Tensor]] = []
    hooks = []
    for number, block in enumerate(blocks_of(model), start=1):
        if not isinstance(block, Block):
            continue
        for letter in sorted(set(block.word) & set(BRANCHES)):
            for branch in block.parts(letter):
                hooks.append(branch.register_forward_hook(_keep(passed, number, letter)))
    if not hooks:
        raise ValueError(f"no block of this {type(model).__name__} is made of a word with a branch")
    try:
        with torch.enable_grad():
            given = x.detach().requires_grad_() if x.is_floating_point() else x
            value = (_random_direction if loss is None else loss)(model(given, **inputs))
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(value, [output for *_, output in passed], retain_graph=True)
    rows = []
    for (number, letter, h, output), g in zip(passed, gradients, strict=True):
        (back,) = torch.autograd.grad(output, h, g, retain_graph=True)
        size = h.norm()
        gains = {"forward": output.norm() / size, "backward": back.norm() / g.norm(), "growth": (h + output).norm() / size}
        row = {name: gain.item() ** 2 for name, gain in gains.items()}
        rows.append({"block": number, "letter": letter} | row | {"factor": (1 + row["backward"]) / row["growth"]})
    return rows


def alignment(model: nn.Module, x: Tensor, **inputs: Any) -> Tensor:
    r"""Return the mean cosine of two vectors of the stream behind the last block, over all positions of all examples.

    $$\frac{1}{N^2} \sum_{s, t} \cos(x_s, x_t) = \Big\lVert \frac{1}{N} \sum_t \frac{x_t}{\lVert x_t \rVert} \Big\rVert^2$$

    1 where the network gives the same vector everywhere, near 0 for vectors without a common direction. A loss may contain
    it. Shapes: x as the model takes it, the stream (..., width); returns a scalar. Raises ValueError where the model shows
    no blocks.
    """
    with watching(model) as streams_seen:
        model(x, **inputs)
        end = streams_seen()[-1]
    return normalize(end.flatten(0, -2), dim=-1).mean(0).square().sum()


def _random_direction(y: Tensor) -> Tensor:
    return (torch.randn_like(y) * y).sum()


def _keep(passed: list, number: int, letter: str) -> Callable[..., None]:
    return lambda _, given, output: passed.append((number, letter, given[0], output))
