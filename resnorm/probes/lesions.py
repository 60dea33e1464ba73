"""Damage a trained network on purpose, delete one block or swap two, and score what is left."""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from resnorm.letters import Add, ZeroPad
from resnorm.norms.checking import evaluating
from resnorm.probes.blocks import blocks_of
from resnorm.probes.scores import score
from resnorm.streams import Stack


def lesions(model: nn.Module, x: Tensor, targets: Tensor, swaps: int = 12, seed: int = 0, batch: int = 100) -> list[dict[str, Any]]:
    r"""Score the network as it is, without one block, for every block, and with two blocks swapped: one row each, tidy.

    $$x_l = S_l(x_{l-1}) \text{ (delete)}, \qquad B_l, B_m \to B_m, B_l \text{ (swap)}$$

    A deleted block leaves its shortcut: the skip of its merge with the scalar on it, and nothing of what follows the
    merge. A plain block has none; it leaves the identity and, where the shape changes, every second pixel and channels
    of zeros. Swaps are at most `swaps` pairs of blocks of one shape, drawn by `seed`.
    `kind`: "whole", "delete" or "swap"; `block`: from 1 on, in forward order, 0 for the whole network; `other`: the
    block it is swapped with, else 0; `loss` in nats; `accuracy`. In eval mode; the model is left as it was.
    Shapes: x (examples, channels, height, width) with targets (examples,), or both (examples, tokens) for a language model.
    Raises `ValueError` where the model shows no blocks, or blocks that do not hand their output to the next.
    Citation: veit2016residual.
    """
    blocks = blocks_of(model)
    sharing = any(isinstance(module, Stack) and module.each_pass for module in model.modules())
    with evaluating(model):
        streams, _ = _streams(model, blocks, x[:1])
        shapes = [(given.shape, made.shape) for given, made in itertools.pairwise(streams)]
        pairs = itertools.combinations(range(len(blocks)), 2)
        same = [(one, two) for one, two in pairs if shapes[one] == shapes[two]]
        drawn = sorted(random.Random(seed).sample(same, min(swaps, len(same))))
        cases: list[tuple[int, ...]] = [(), *((one,) for one in range(len(blocks))), *drawn]

        def logits(case: tuple[int, ...], inputs: Tensor) -> Tensor:
            if not case:
                streams[:], whole = _streams(model, blocks, inputs)
                return whole
            with _forward(_damaged(blocks, streams, case, sharing)):
                return model(inputs)

        rows = score(cases, logits, x, targets, batch)
    kinds = ("whole", "delete", "swap")
    return [
        {"kind": kinds[len(case)], **dict(zip(("block", "other"), [*(at + 1 for at in case), 0, 0], strict=False)), **row}
        for case, row in zip(cases, rows, strict=True)
    ]


def _streams(model: nn.Module, blocks: list[nn.Module], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What enters the first block and what leaves each, and the model's output."""
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [block.register_forward_hook(lambda _, given, made: seen.append((given[0], made))) for block in blocks]
    try:
        output = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    for number, ((_, made), (given, _)) in enumerate(itertools.pairwise(seen), start=1):
        if given is not made:
            raise ValueError(
                f"block {number + 1} does not read what block {number} returns, so that nothing can stand in its place; "
                "put the skip into the word, as in 'nFa'"
            )
    return [seen[0][0], *(made for _, made in seen)], output


def _damaged(blocks: list[nn.Module], streams: list[Tensor], case: tuple[int, ...], sharing: bool) -> dict[nn.Module, Callable]:
    """The forward passes that take the place of the blocks' own; `sharing`: whether blocks hand on more than the stream."""
    first, other = blocks[case[0]], blocks[case[-1]]
    x, y = streams[case[0] : case[0] + 2]
    if sharing:  # then all other blocks have to run
        if other is not first:
            return {first: other.forward, other: first.forward}
        return {first: lambda x, **_: _shortcut(first, x, y)}
    made = _shortcut(first, x, y) if other is first else other(x)
    # Up to the damage nothing differs from the whole network, whose streams are at hand.
    replaced: dict[nn.Module, Callable] = dict.fromkeys(blocks[: case[0]], _same)
    return replaced | {other: first.forward} | {first: lambda _: made}


def _same(x: Tensor) -> Tensor:
    return x


def _shortcut(block: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """What a block without its branch returns, where with it it returned y."""
    merges = [child for child in block.children() if isinstance(child, Add)]
    if merges:
        return merges[0](torch.zeros_like(y), x)
    if x.shape == y.shape:
        return x
    return ZeroPad(x.shape[1], y.shape[1], x.shape[-1] // y.shape[-1])(x)


@contextmanager
def _forward(replaced: dict[nn.Module, Callable]) -> Iterator[None]:
    try:
        for block, forward in replaced.items():
            block.forward = forward
        yield
    finally:
        for block in replaced:
            del block.forward
