r"""Measure on a real model what `resnorm.theory` predicts: signal, gradient and skip share, block by block.

One forward and one backward pass. Nothing of the model changes: not `.grad`, not the running statistics of a batch norm, not the
state of the random generators. So the same call serves at initialisation and in the middle of a training run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    raise ValueError(
        f"{type(model).__name__} shows no residual blocks; give it an attribute `blocks` (an nn.ModuleList in forward "
        "order) or build it from resnorm.Stack"
    )


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
    return measure_in_parts(model, [(x, loss, inputs)], part=part)


def measure_in_parts(
    model: nn.Module, parts: Iterable[tuple[Tensor, Callable[[Any], Tensor], dict[str, Any]]], *, part: nn.Module | None = None
) -> list[dict[str, float | None]]:
    r"""What `measure` reads, from a batch that is worked off in parts, one after the other, in the memory of one.

    `parts`: of each its input, its loss and further arguments of the model; the loss of the batch is their sum. The rows are
    those of the whole batch where no example depends on another one; a batch norm in training takes each part's statistics.
    Raises `ValueError` where the model shows no blocks.
    """
    part = model if part is None else part
    blocks = blocks_of(part)
    sums = [_Sums() for _ in range(len(blocks) + 1)]
    of_block = [[p for p in block.parameters() if p.requires_grad] for block in blocks]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for x, loss, inputs in parts:
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
        for block, (stream, gradient) in enumerate(zip(streams, of_stream, strict=True)):
            parameters = [next(of_parameters) for _ in of_block[block - 1]] if block else []
            sums[block].add(stream.detach(), gradient, parameters, streams[block - 1].detach() if block else None)
        # Before the next part, which would otherwise need its memory beside this one's.
        del value, streams, wanted, gradients, of_stream, of_parameters, stream, gradient, parameters
    return [{"block": block, **row.read(first=not block)} for block, row in enumerate(sums) if row.values]


class _Sums:
    """What the rows of one block are made of, over the parts of a batch."""

    def __init__(self) -> None:
        self.squares = self.values = self.gradient = self.angle = self.samples = 0.0
        self.parameters: list[Tensor | None] = []

    def add(self, stream: Tensor, gradient: Tensor | None, parameters: Sequence[Tensor | None], before: Tensor | None) -> None:
        self.squares += stream.float().square().mean().item() * stream.numel()
        self.values += stream.numel()
        self.gradient += _squares([gradient])
        # Gradients of parameters add up over the parts, those of the streams lie side by side.
        pairs = zip(self.parameters, parameters, strict=True) if self.parameters else ((None, new) for new in parameters)
        self.parameters = [new if old is None else old if new is None else old + new for old, new in pairs]
        if before is not None and before.shape == stream.shape:
            self.angle += _mean_angle(before, stream) * len(stream)
            self.samples += len(stream)

    def read(self, first: bool) -> dict[str, float | None]:
        return {
            "forward_rms": _finite(math.sqrt(self.squares / self.values)),
            "gradient_norm": _finite(math.sqrt(self.gradient)),
            "parameter_gradient": None if first else _finite(math.sqrt(_squares(self.parameters))),
            "skip_share": _cotangent(self.angle / self.samples) if self.samples else None,
        }


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


@torch.no_grad()
def streams_of(model: nn.Module, x: Tensor, **inputs: Any) -> list[Tensor]:
    """Run the model and return the streams $x_0, ..., x_L$ that pass its blocks, without gradients; see `watching`."""
    with watching(model) as streams_seen:
        model(x, **inputs)
        return streams_seen()


def skip_share(x: Tensor, y: Tensor) -> float | None:
    r"""The ratio of the part of y along x to the part across it: $\cot \angle(x, y)$, from the mean angle over samples.

    Shapes: both (batch, ...), the same; otherwise there is no angle and the result is none.
    """
    if x.shape != y.shape:
        return None
    return _cotangent(_mean_angle(x, y))


def _mean_angle(x: Tensor, y: Tensor) -> float:
    cosine = nn.functional.cosine_similarity(x.double().flatten(1), y.double().flatten(1), dim=1).clamp(-1, 1)
    return torch.arccos(cosine).mean().item()


def _cotangent(angle: float) -> float | None:
    return None if angle <= 1e-7 else _finite(1.0 / math.tan(angle))


def _squares(gradients: list[Tensor | None]) -> float:
    return sum(g.double().square().sum().item() for g in gradients if g is not None)


def _finite(value: Tensor | float) -> float | None:
    """A plain number for a record; JSON has no infinity, so a value that is not finite is none."""
    value = float(value)
    return value if math.isfinite(value) else None
