"""The models of the derivations: random branches of unit gain, the Transformer of the warm-up paper's proofs, its inputs."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from resnorm import init
from resnorm.branches import Damped, attention, mlp
from resnorm.streams import Stack
from resnorm.words import Block


def random_stack(word: str, depth: int, width: int, *, backward: float = 1.0, last: str | None = None, **letters: Any) -> Stack:
    r"""Build `depth` blocks of `word` as `resnorm.theory` assumes them: branches of one hidden ReLU layer with unit gain.

    $\operatorname{E} F(x)^2 = \operatorname{E} x^2$ and $\operatorname{E} \lVert J_F^\top g \rVert^2 = \beta \lVert g \rVert^2$
    with $\beta$ = `backward` (see `Damped`). Norms are layer norms; `last`: as of `Stack`. `letters`: settings of
    the word's other letters, as in `Block`: `a=add(gain=0.5)`.
    Shapes: (..., width) in and out. Raises ValueError for a negative `backward`, or a word with other letters than `F` for
    its branches.
    """
    branch = mlp(1) if backward == 1 else lambda width: Damped(mlp(1)(width), backward)
    letters = {"F": branch} | ({"n": "layer"} if "n" in word else {}) | letters
    stack = Stack([Block(word, width, **letters) for _ in range(depth)], last=last)
    init.unit_gain(stack)
    return stack


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
