"""The Transformer of the warm-up paper's proofs, and inputs whose positions are as alike as one wants."""

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from resnorm import init
from resnorm.branches import attention, mlp
from resnorm.streams import Stack
from resnorm.words import Block


def simple_transformer(word: str, depth: int, width: int, last: str | None = "layer") -> Stack:
    """Build the Transformer in which Lemma 2 and Theorem 1 are proved: `depth` layers of `word`, and a `last` norm or none.

    One head, square matrices, ReLU, Xavier's weights, and queries and keys of zero, so that attention is the plain average
    over positions. Shapes: (batch, positions, width) in and out. Citation: xiong2020layer.
    """
    stack = Stack([Block(word, width, n="layer", A=attention(1), M=mlp(1)) for _ in range(depth)], last=last)
    init.xavier(stack, query=0.0, key=0.0)
    return stack


def alike_positions(cosine: float, width: int, positions: int = 32, batch: int = 8) -> Tensor:
    r"""Draw vectors of mean square 1, any two positions of which have the expected cosine $a$ = `cosine`.

    $$x_t = \mathrm{LN}\big(\sqrt{a}\, c + \sqrt{1 - a}\, z_t\big), \qquad c, z_t \sim N(0, I)$$

    Shapes: (batch, positions, width). Raises ValueError for a cosine outside 0 to 1.
    """
    if not 0 <= cosine <= 1:
        raise ValueError(f"cosine is {cosine}: give a number from 0 (independent positions) to 1 (equal ones)")
    common, own = torch.randn(batch, 1, width), torch.randn(batch, positions, width)
    return layer_norm(cosine**0.5 * common + (1 - cosine) ** 0.5 * own, (width,))
