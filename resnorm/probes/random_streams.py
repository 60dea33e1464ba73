"""What random stacks of several words do to the same inputs, block after block."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from resnorm.branches import mlp
from resnorm.init import unit_gain
from resnorm.letters import add
from resnorm.words import Block


def random_streams(
    words: Mapping[str, tuple[str, float]], depth: int, x: Tensor, constant: float = 0.0
) -> Iterator[dict[str, Tensor]]:
    r"""Pass x through random stacks of several words and yield their streams $x_0, x_1, ..., x_L$ by name, block after block.

    `words`: by name, a word of `F`, `n` (a layer norm) and `a`, and the gain of its branches. Block l has the same branch
    $F(x) = W_2\, \mathrm{relu}(W_1 x)$ of unit gain in all of them, so that they differ in nothing but the word.
    `constant`: the part of the branch's variance that is a bias, the same for every x. Gradients reach x and the streams
    where x asks for them. Shapes: x and the streams (batch, width). Raises ValueError for a `constant` outside 0 to 1.
    """
    if not 0 <= constant <= 1:
        raise ValueError(f"constant is {constant}: give a part of the variance, from 0 to 1")
    width = x.shape[-1]
    branch = mlp(1, bias=constant > 0)(width).to(x.dtype)
    blocks = {}
    for name, (word, gain) in words.items():
        letters = {"n": "layer", "a": add(gain=gain)}
        letters = {letter: setting for letter, setting in letters.items() if letter in word}
        block = Block(word, width, F=lambda _: branch, **letters).to(x.dtype)
        blocks[name] = block.requires_grad_(False)
    streams = dict.fromkeys(words, x)
    yield streams
    for _ in range(depth):
        _draw(branch, constant)
        streams = {name: blocks[name](stream) for name, stream in streams.items()}
        yield streams


def random_passage(
    words: Mapping[str, tuple[str, float]], depth: int, width: int, count: int = 16, constant: float = 0.0
) -> list[dict[str, Any]]:
    r"""Measure in such stacks what `resnorm.theory.passage` predicts, under the same names: a row a word and block, tidy.

    For `count` pairs of inputs at a right angle and a random gradient at the end, in 64 bits: `word`: the name; `block`;
    `forward_rms`, $\mathrm{RMS}(x_l)$; `gradient`, $\lVert dL/dx_l \rVert / \lVert dL/dx_L \rVert$; `share` of the branch in the
    block's output, $\sin^2 \angle(x_{l-1}, x_l)$ (NaN for block 0); `distance`, 1 minus the mean cosine of the pairs.
    `words`, `constant`: as in `random_streams`.
    """
    x = pairs(0.0, count, width).requires_grad_()
    g = torch.randn_like(x)
    passed = list(random_streams(words, depth, x, constant))
    rows = []
    for name in words:
        streams = [at_block[name] for at_block in passed]
        gradients = torch.autograd.grad(streams[-1], streams, g)
        for block, (stream, gradient) in enumerate(zip(streams, gradients, strict=True)):
            turned = cosine_similarity(streams[max(0, block - 1)], stream)
            rows.append(
                {
                    "word": name,
                    "block": block,
                    "forward_rms": stream.square().mean().sqrt().item(),
                    "gradient": (gradient.norm() / g.norm()).item(),
                    "share": (1 - turned.square()).mean().item() if block else math.nan,
                    "distance": 1 - cosine_of(stream),
                }
            )
    return rows


@torch.no_grad()
def _draw(branch: Any, constant: float) -> None:
    # New tensors, not new values: the gradient of the blocks before still needs the old ones.
    for layer in (branch.hidden, branch.output):
        layer.weight = nn.Parameter(torch.empty_like(layer.weight), requires_grad=False)
    unit_gain(branch)
    if constant:
        branch.output.weight.mul_((1 - constant) ** 0.5)
        branch.output.bias = nn.Parameter(torch.randn_like(branch.output.bias) * constant**0.5, requires_grad=False)


def pairs(cosine: float, count: int, width: int) -> Tensor:
    r"""Draw pairs of vectors with exactly this cosine, of mean square 1, in 64 bits: the first of all pairs, then the second.

    Shapes: (2 count, width). `cosine_of` reads their mean cosine again. Raises ValueError for a cosine outside -1 to 1.
    """
    if not -1 <= cosine <= 1:
        raise ValueError(f"cosine is {cosine}: give a number from -1 to 1")
    first, other = torch.linalg.qr(torch.randn(count, width, 2, dtype=torch.float64))[0].unbind(-1)
    return width**0.5 * torch.cat((first, cosine * first + (1 - cosine**2) ** 0.5 * other))


def cosine_of(both: Tensor) -> float:
    """The mean cosine of the pairs that `pairs` drew, behind whatever they have passed. Shape: (2 count, width)."""
    first, other = both.chunk(2)
    return cosine_similarity(first, other, dim=1).mean().item()
