r"""Predictions in closed form: how signal and gradient pass through a stack of words at initialisation.

The algebra of a word. At initialisation a branch with unit gain returns a fresh direction of the same size: $\operatorname{E} F(h)^2 =
\operatorname{E} h^2$, uncorrelated with everything before it. So every value inside a block is a combination of uncorrelated
sources, the block's input $x$ and the output $f_j$ of each branch,

$$h = a\,x + \sum_j b_j f_j, \qquad \operatorname{E} h^2 = a^2 \operatorname{E} x^2 + \sum_j b_j^2 \operatorname{E} f_j^2,$$

and each letter acts on the coefficients: `n` divides them by the RMS, `a` adds the skip's to them, a branch starts a new source.
The same coefficients carry the gradient back. With a branch whose backward gain is $\beta = \operatorname{E} \lVert J_F^T g
\rVert^2 / \lVert g \rVert^2$, a norm's Jacobian close to $1/\text{RMS}$, and $J_j$ the Jacobian of $f_j$,

$$\operatorname{E} \lVert J^T g \rVert^2 = \Big(a^2 + \sum_j b_j^2 \operatorname{E} \lVert J_j \rVert^2\Big) \lVert g \rVert^2.$$

Nothing here knows the name of a variant: the laws of the book ($2^{L/2}$, $\sqrt{1+L}$, the halving angle) all come out of the word.
Citations: he2016identity (the product of skip scalars), xiong2020layer (Pre- and Post-Norm), de2020batch (the branch's share).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from resnorm.words import BRANCHES, parse


@dataclass
class _Sources:
    """The uncorrelated sources inside one block: the variance of each and the squared gain of its Jacobian with respect to x."""

    variance: list[float] = field(default_factory=list)
    jacobian: list[float] = field(default_factory=list)

    def new(self, variance: float, jacobian: float) -> list[float]:
        self.variance.append(variance)
        self.jacobian.append(jacobian)
        return [0.0] * (len(self.variance) - 1) + [1.0]

    def power(self, value: list[float]) -> float:
        return sum(c * c * v for c, v in zip(value, self.variance, strict=False))

    def gain(self, value: list[float]) -> float:
        return sum(c * c * j for c, j in zip(value, self.jacobian, strict=False))


def _combine(a: float, x: list[float], b: float, h: list[float]) -> list[float]:
    size = max(len(x), len(h))
    x, h = x + [0.0] * (size - len(x)), h + [0.0] * (size - len(h))
    return [a * i + b * j for i, j in zip(x, h, strict=True)]


def through_block(
    word: str, variance: float = 1.0, skip: float = 1.0, gain: float = 1.0, backward: float = 1.0, alpha: float = 0.05
) -> dict[str, float]:
    r"""Pass one block: the output's variance, the squared backward gain, and the share of x in the output.

    `variance`: $\operatorname{E} x^2$ of the input; `skip`, `gain`: the scalars of every `a`; `backward`: $\beta$ of every branch;
    `alpha`: of every `l`. Returns `variance`, `gradient` ($\operatorname{E} \lVert J^T g \rVert^2 / \lVert g \rVert^2$) and
    `skip_share`, $|a|\,\mathrm{RMS}(x) / \mathrm{RMS}(\sum_j b_j f_j)$, the cotangent of the angle between x and the output
    (infinite where no branch reaches it). Raises `ValueError` for letters that the algebra does not cover (`r`, `c`, `s`).
    """
    sources = _Sources()
    first = h = sources.new(variance, 1.0)
    for sub_block in parse(word):
        x = h
        for position, letter in sub_block:
            if letter in BRANCHES:
                h = sources.new(sources.power(h), backward * sources.gain(h))
            elif letter == "n":
                rms = math.sqrt(sources.power(h))
                h = [c / rms for c in h] if rms else h
            elif letter == "a":
                h = _combine(skip, x, gain, h)
            elif letter == "b":
                h = _combine(1.0, first, 1.0, h)
            elif letter == "l":
                h = _combine(1.0 - alpha, x, alpha, h)
            elif letter == "h":
                h = [0.5 * c for c in h]
            elif letter == "|":
                x = h
            elif letter not in "dp":
                raise ValueError(f"letter {letter!r} at position {position} of {word!r}: the algebra covers branches and n, a, b, l, "
                                 "h, d, p, |; put activations inside the branch")
    direct = h[0] ** 2 * variance
    rest = sources.power(h) - direct
    share = math.sqrt(direct / rest) if rest > 1e-12 * max(direct, 1e-300) else math.inf
    return {"variance": sources.power(h), "gradient": sources.gain(h), "skip_share": share}


def predict(
    word: str, depth: int, skip: float = 1.0, gain: float = 1.0, backward: float = 1.0, alpha: float = 0.05
) -> list[dict[str, float]]:
    r"""Predict a stack of `depth` equal words at initialisation, for an input of RMS 1: one row a block, tidy.

    Rows 0 to `depth` hold `block`; `forward_rms`, $\mathrm{RMS}(x_l)$ of the stream after that block; `gradient`,
    $\lVert dL/dx_l \rVert / \lVert dL/dx_L \rVert$; and `skip_share` of that block (none for row 0). Scalars as in
    `through_block`. Raises `ValueError` for a negative depth or letters outside the algebra.
    """
    if depth < 0:
        raise ValueError(f"depth={depth!r}; allowed: 0 or more")
    rows = [{"block": 0, "forward_rms": 1.0, "skip_share": None, "gradient": 1.0}]
    gains, variance = [], 1.0
    for block in range(1, depth + 1):
        step = through_block(word, variance, skip, gain, backward, alpha)
        variance = step["variance"]
        gains.append(step["gradient"])
        rows.append({"block": block, "forward_rms": math.sqrt(variance), "skip_share": step["skip_share"], "gradient": 1.0})
    for block in range(depth - 1, -1, -1):
        rows[block]["gradient"] = rows[block + 1]["gradient"] * math.sqrt(gains[block])
    return rows


def forward_rms(word: str, depth: int, **scalars: float) -> float:
    r"""The RMS of the output of `depth` blocks for an input of RMS 1, for example $2^{L/2}$ for `Fa`; scalars as in `predict`."""
    return predict(word, depth, **scalars)[-1]["forward_rms"]


def skip_share(order: int) -> float:
    r"""The ratio of skip to branch in the output of an rSkip of order k: $\cot(\pi / 2^{k+1})$.

    Two vectors of equal length at an angle $\theta$ sum to their bisector, and the norm restores the length: each further step
    halves the angle to x, from $\pi/4$ at order 1. Order 1 gives 1, order 2 gives 2.41, and each step about doubles it.
    Raises `ValueError` for an order below 1. Citation: liu2020rethinking (the recursion; the law is derived in this book).
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"order={order!r}; the order of a recursive skip is a whole number from 1")
    return 1.0 / math.tan(math.pi / 2 ** (order + 1))
