"""What random stacks of several words do to the same inputs, block after block."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from resnorm.branches import mlp
from resnorm.init import unit_gain
from resnorm.letters import add
from resnorm.words import Block


@torch.no_grad()
def random_streams(
    words: Mapping[str, tuple[str, float]], depth: int, x: Tensor, constant: float = 0.0
) -> Iterator[dict[str, Tensor]]:
    r"""Pass x through random stacks of several words and yield their streams $x_0, x_1, ..., x_L$ by name, block after block.

    `words`: by name, a word of `F`, `n` (a layer norm) and `a`, and the gain of its branches. Block l has the same branch
    $F(x) = W_2\, \mathrm{relu}(W_1 x)$ of unit gain in all of them, so that they differ in nothing but the word.
    `constant`: the part of the branch's variance that is a bias, the same for every x.
    Shapes: x and the streams (batch, width). Raises ValueError for a `constant` outside 0 to 1.
    """
    if not 0 <= constant <= 1:
        raise ValueError(f"constant is {constant}: give a part of the variance, from 0 to 1")
    width = x.shape[-1]
    branch = mlp(1, bias=constant > 0)(width).to(x.dtype)
    blocks = {}
    for name, (word, gain) in words.items():
        letters = {"n": "layer", "a": add(gain=gain)}
        letters = {letter: setting for letter, setting in letters.items() if letter in word}
        blocks[name] = Block(word, width, F=lambda _: branch, **letters).to(x.dtype)
    streams = dict.fromkeys(words, x)
    yield streams
    for _ in range(depth):
        unit_gain(branch)
        if constant:
            branch.output.weight.mul_((1 - constant) ** 0.5)
            branch.output.bias.normal_(0, constant**0.5)
        streams = {name: blocks[name](stream) for name, stream in streams.items()}
        yield streams


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
    return torch.nn.functional.cosine_similarity(first, other, dim=1).mean().item()
