r"""Measure on a real model what `resnorm.theory` predicts: signal, gradient and skip share, block by block.

One forward and one backward pass. Nothing of the model changes: not `.grad`, not the running statistics of a batch norm, not the
state of the random generators. So the same call serves at initialisation and in the middle of a training run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from resnorm.streams import Plain, Stack


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The residual blocks of a model in forward order: its `blocks`, or those of its `stack`, or of the one `Stack` inside it.

    A block that is itself a `Stack` stands for its own blocks. Raises `ValueError` where the model shows none.
    """
    for holder in (model, getattr(model, "stack", None), *(m for m in model.modules() if isinstance(m, Stack))):
        if isinstance(blocks := getattr(holder, "blocks", None), nn.ModuleList):
            return [inner for block in blocks for inner in (blocks_of(block) if isinstance(block, Stack) else [block])]
    raise ValueError(f"{type(model).__name__} shows no residual blocks; give it an attribute `blocks` (an nn.ModuleList in forward "
                     "order) or build it from resnorm.Stack")


def measure(
    model: nn.Module, x: Tensor, loss: Callable[[Any], Tensor], *, part: nn.Module | None = None, **inputs: Any
) -> list[dict[str, float | None]]:
    r"""Run the model once forward and once backward and read every block: one row a block, tidy.

    `x`: the model's input; `loss`: maps the model's output to a scalar; `inputs`: further arguments of the model.
    `part`: the module within the model whose blocks are read, such as `model.decoder`; by default the model. Of two stacks
    in it, as in a model that translates, that is the first, the encoder.
    Row 0 is the stream that enters the first block; row l holds, for the stream $x_l$ after block l,
    `forward_rms`, $\sqrt{\operatorname{mean} x_l^2}$;
    `gradient_norm`, $\lVert dL/dx_l \rVert_2$;
    `parameter_gradient`, $\lVert dL/dW_l \rVert_2$ over the parameters of the block;
    `skip_share`, $\cot \angle(x_{l-1}, x_l)$, the mean angle over samples (none where the shape changes).
    Which stream that is where one crosses the blocks, `watching` says.
    Raises `ValueError` where the model shows no blocks.
    """
    part = model if part is None else part
    blocks = blocks_of(part)
    of_block = [[p for p in block.parameters() if p.requires_grad] for block in blocks]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad(), watching(part) as streams_seen:
            value = loss(model(x if not x.is_floating_point() else x.detach().requires_grad_(), **inputs))
            streams = streams_seen()
            wanted = streams + [p for parameters in of_block for p in parameters]
            gradients = list(torch.autograd.grad(value, wanted, allow_unused=True))
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    of_stream, of_parameters = gradients[: len(streams)], iter(gradients[len(streams) :])
    rows: list[dict[str, float | None]] = []
    for block, (stream, gradient) in enumerate(zip(streams, of_stream, strict=True)):
        parameters = [next(of_parameters) for _ in of_block[block - 1]] if block else []
        rows.append({
            "block": block,
            "forward_rms": _finite(stream.detach().float().square().mean().sqrt()),
            "gradient_norm": _norm([gradient]),
            "parameter_gradient": _norm(parameters) if block else None,
            "skip_share": skip_share(streams[block - 1].detach(), stream.detach()) if block else None,
        })
    return rows


@contextmanager
def watching(model: nn.Module) -> Iterator[Callable[[], list[Tensor]]]:
    """Watch a forward pass: the function that it hands over returns the streams $x_0, ..., x_L$ that passed.

    $x_l$ is what block l returned. Where a stream other than the plain one carries the skip, a block returns its branch
    alone: there $x_l$ is what the next block reads, and behind the last block what the stream closes with.
    Raises `ValueError` where the model shows no blocks, and the function does where none of them ran.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    closed: list[Tensor] = []
    blocks = blocks_of(model)
    hooks = [one.register_forward_hook(lambda _, given, made: seen.append((given[0], made))) for one in blocks]
    for stack in model.modules():
        # Sum and Dense are kinds of Plain; stacks within a stack have a part of the blocks each.
        if isinstance(stack, Stack) and type(stack.stream) is not Plain and list(stack.blocks) == blocks:
            if stack.last is None:
                hooks.append(stack.register_forward_hook(lambda _, given, made: closed.append(made)))
            else:
                hooks.append(stack.last.register_forward_pre_hook(lambda _, given: closed.append(given[0])))

    def streams() -> list[Tensor]:
        if not seen:
            raise ValueError(f"no block of this {type(model).__name__} ran; give a `part` that the model's forward pass uses")
        return [given for given, _ in seen] + closed if closed else [seen[0][0], *(made for _, made in seen)]

    try:
        yield streams
    finally:
        for hook in hooks:
            hook.remove()


def skip_share(x: Tensor, y: Tensor) -> float | None:
    r"""The ratio of the part of y along x to the part across it: $\cot \angle(x, y)$, from the mean angle over samples.

    Shapes: both (batch, ...), the same; otherwise there is no angle and the result is none.
    """
    if x.shape != y.shape:
        return None
    x, y = x.double().flatten(1), y.double().flatten(1)
    cosine = nn.functional.cosine_similarity(x, y, dim=1).clamp(-1, 1)
    angle = torch.arccos(cosine).mean().item()
    return _finite(1.0 / math.tan(angle)) if angle > 1e-7 else None


def _norm(gradients: list[Tensor | None]) -> float | None:
    return _finite(math.sqrt(sum(g.double().square().sum().item() for g in gradients if g is not None)))


def _finite(value: Tensor | float) -> float | None:
    """A plain number for a record; JSON has no infinity, so a value that is not finite is none."""
    value = float(value)
    return value if math.isfinite(value) else None
