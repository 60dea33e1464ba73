r"""Predictions in closed form: how signal and gradient pass through a stack of words at initialisation.

The algebra of a word. At initialisation a branch with unit gain returns a fresh direction of the same size:
$\operatorname{E} F(h)^2 = \operatorname{E} h^2$, uncorrelated with everything before it. So every
value inside a block is a combination of uncorrelated sources, the block's input $x$ and the output $f_j$ of each branch,

$$h = a\,x + \sum_j b_j f_j, \qquad \operatorname{E} h^2 = a^2 \operatorname{E} x^2 + \sum_j b_j^2 \operatorname{E} f_j^2,$$

and each letter acts on the coefficients: `n` divides them by the RMS, `a` adds the skip's to them, a branch starts a new source.
The same coefficients carry the gradient back. With a branch whose backward gain is
$\beta = \operatorname{E} \lVert J_F^T g \rVert^2 / \lVert g \rVert^2$, a norm's Jacobian close to
$1/\text{RMS}$, and $J_j$ the Jacobian of $f_j$,

$$\operatorname{E} \lVert J^T g \rVert^2 = \Big(a^2 + \sum_j b_j^2 \operatorname{E} \lVert J_j \rVert^2\Big) \lVert g \rVert^2.$$

No variant is named here: the laws of the book ($2^{L/2}$, $\sqrt{1+L}$, the halving angle) all come out of the word.
Citations: he2016identity (the product of skip scalars), xiong2020layer (Pre- and Post-Norm), de2020batch (the branch's share).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from resnorm.words import parse


class _Sources:
    """The uncorrelated sources inside one block: the variance of each, and the squared gain of its Jacobian by x."""

    def __init__(self) -> None:
        self.variance: list[float] = []
        self.jacobian: list[float] = []

    def new(self, variance: float, jacobian: float) -> _Value:
        self.variance.append(variance)
        self.jacobian.append(jacobian)
        return _Value(self, {len(self.variance) - 1: 1.0})


class _Value:
    """A combination of sources, by their numbers; what the letters' laws compute with."""

    def __init__(self, sources: _Sources, coefficients: dict[int, float]):
        self.sources, self.coefficients = sources, coefficients

    def __add__(self, other: _Value) -> _Value:
        numbers = self.coefficients.keys() | other.coefficients.keys()
        return _Value(self.sources, {j: self.coefficients.get(j, 0.0) + other.coefficients.get(j, 0.0) for j in numbers})

    def __rmul__(self, factor: float) -> _Value:
        return _Value(self.sources, {j: factor * c for j, c in self.coefficients.items()})

    @property
    def power(self) -> float:
        """The variance."""
        return sum(c * c * self.sources.variance[j] for j, c in self.coefficients.items())

    @property
    def gain(self) -> float:
        """The squared gain of the Jacobian."""
        return sum(c * c * self.sources.jacobian[j] for j, c in self.coefficients.items())

    def branch(self, backward: float) -> _Value:
        """What a branch that reads this value returns: a new source."""
        return self.sources.new(self.power, backward * self.gain)

    def normalised(self) -> _Value:
        """The value over its RMS."""
        rms = math.sqrt(self.power)
        return _Value(self.sources, {j: c / rms for j, c in self.coefficients.items()}) if rms else self


def through_block(
    word: str,
    variance: float = 1.0,
    skip: float = 1.0,
    gain: float = 1.0,
    backward: float = 1.0,
    alpha: float = 0.05,
    scale: float | None = None,
) -> dict[str, float]:
    r"""Pass one block: the output's variance, the squared backward gain, and the share of x in the output.

    `variance`: $\operatorname{E} x^2$ of the input; `skip`, `gain`: the scalars of every `a`; `backward`: $\beta$ of every branch;
    `alpha`: of every `l`; `scale`: the gain of every `s`. Branches in a bracket are a new source each, and their sum adds the
    coefficients. Returns `variance`, `gradient` ($\operatorname{E} \lVert J^T g \rVert^2 / \lVert g \rVert^2$) and
    `skip_share`, $|a|\,\mathrm{RMS}(x) / \mathrm{RMS}(\sum_j b_j f_j)$, the cotangent of the angle between x and the output
    (infinite where no branch reaches it). Raises `ValueError` for letters that the algebra does not cover (`r`, `c`, and `s`
    without `scale`).
    """
    scalars = SimpleNamespace(skip=skip, gain=gain, backward=backward, alpha=alpha, scale=scale)
    first = h = _Sources().new(variance, 1.0)
    for segment in parse(word):
        x = h
        for step in segment.steps:
            try:
                h = step.predict(h, x, first, scalars)
            except NotImplementedError as error:
                (letter,) = error.args
                raise ValueError(
                    f"letter {letter.symbol!r} at position {letter.position} of {word!r}: the algebra covers branches, "
                    "n, a, b, l, h, d, p, |, brackets, s with scale=...; put activations inside the branch"
                ) from None
    direct = h.coefficients.get(0, 0.0) ** 2 * variance
    rest = h.power - direct
    share = math.sqrt(direct / rest) if rest > 1e-12 * max(direct, 1e-300) else math.inf
    return {"variance": h.power, "gradient": h.gain, "skip_share": share}


def predict(
    word: str,
    depth: int,
    skip: float = 1.0,
    gain: float = 1.0,
    backward: float = 1.0,
    alpha: float = 0.05,
    scale: float | None = None,
) -> list[dict[str, float]]:
    r"""Predict a stack of `depth` equal words at initialisation, for an input of RMS 1: one row a block, tidy.

    Rows 0 to `depth` hold `block`; `forward_rms`, $\mathrm{RMS}(x_l)$ of the stream after that block; `gradient`,
    $\lVert dL/dx_l \rVert / \lVert dL/dx_L \rVert$; and `skip_share` of that block (none for row 0). Scalars as in
    `through_block`. Raises `ValueError` for a negative depth or letters outside the algebra.
    """
    if depth < 0:
        raise ValueError(f"depth={depth!r}; allowed: 0 or more")
    rows: list[dict[str, Any]] = [{"block": 0, "forward_rms": 1.0, "skip_share": None, "gradient": 1.0}]
    gains, variance = [], 1.0
    for block in range(1, depth + 1):
        step = through_block(word, variance, skip, gain, backward, alpha, scale)
        variance = step["variance"]
        gains.append(step["gradient"])
        rows.append({"block": block, "forward_rms": math.sqrt(variance), "skip_share": step["skip_share"], "gradient": 1.0})
    for block in range(depth - 1, -1, -1):
        rows[block]["gradient"] = rows[block + 1]["gradient"] * math.sqrt(gains[block])
    return rows


def rank_residual(word: str, tokens: int, depth: int) -> list[dict[str, float]]:
    r"""Predict how alike unrelated tokens become in layers of attention that is nearly a plain mean, one row a layer.

    Attention adds the common part $c$ of all tokens to each of them; of the rest $\rho$ it adds nothing. Per layer

    $$\text{`Aan` and `Aa`:}\; c^2 \to 2 c^2, \qquad \text{`nAa`:}\; c^2 \to c^2 + \frac{c^2}{c^2 + \rho^2}, \qquad
    r = \sqrt{\rho^2 / (c^2 + \rho^2)},$$

    with $c^2 = 1/T$ and $\rho^2 = 1 - 1/T$ for T tokens at the start. Rows 0 to `depth` hold `block` and `residual`, r.
    Raises `ValueError` for another word, or fewer than two tokens. The law is derived in this book.
    """
    if word not in ("Aan", "Aa", "nAa"):
        raise ValueError(f"word={word!r}; allowed: Aan, Aa, nAa")
    if tokens < 2:
        raise ValueError(f"tokens={tokens!r}; allowed: 2 or more")
    common, rest, rows = 1 / tokens, 1 - 1 / tokens, []
    for block in range(depth + 1):
        rows.append({"block": block, "residual": math.sqrt(rest / (common + rest))})
        common += common / (common + rest) if word == "nAa" else common
    return rows


def forward_rms(word: str, depth: int, **scalars: float) -> float:
    r"""The RMS of the output of `depth` blocks for an input of RMS 1, for example $2^{L/2}$ for `Fa`; scalars as in `predict`."""
    return predict(word, depth, **scalars)[-1]["forward_rms"]


def branch_shares(word: str, depth: int, **scalars: float) -> list[float]:
    r"""The branch's share of each block's output in the mean square, $p_l = \operatorname{E} b_l^2 / \operatorname{E} x_l^2$.

    1 for `F`, 1/2 for `Fa` and `Fan`, $1/(l+1)$ for `nFa`; scalars as in `predict`. Citation: de2020batch.
    """
    return [1 / (1 + row["skip_share"] ** 2) for row in predict(word, depth, **scalars)[1:]]


def arc_cosine(cosine: float) -> float:
    r"""The cosine of two outputs of a random ReLU branch for two inputs at the angle $\theta$:

    $$\kappa(\cos\theta) = \frac{\sin\theta + (\pi - \theta) \cos\theta}{\pi}$$

    Citation: cho2009kernel (the kernel; derived in the chapter on signal and depth).
    """
    cosine = min(1.0, max(-1.0, cosine))
    angle = math.acos(cosine)
    return (math.sin(angle) + (math.pi - angle) * cosine) / math.pi


def cosines(shares: Iterable[float], slope: float = 1.0, cosine: float = 0.0) -> list[float]:
    r"""The cosine of two inputs after 0, 1, ... blocks whose ReLU branches have these shares of the stream:

    $$c_{l+1} = c_l + p_{l+1} \big(s\, \kappa(c_l) + 1 - s - c_l\big)$$

    `slope`: s; the part 1 - s of the branch's variance is a bias that all inputs share. `cosine`: that of the inputs.
    """
    values = [cosine]
    for share in shares:
        values.append(values[-1] + share * (slope * arc_cosine(values[-1]) + 1 - slope - values[-1]))
    return values


def passage(words: Mapping[str, tuple[str, float]], depth: int, constant: float = 0.0) -> list[dict[str, Any]]:
    r"""Predict how signal, gradient and the angle of two inputs pass stacks of several words: a row a word and block, tidy.

    `words`: by name, a word and the gain of its branches; `constant`: the part of a branch's variance that is the same for
    all inputs, of which the gradient here knows nothing. Columns: `word`, the name; `block`; `forward_rms` and `gradient` as
    in `predict`; `share` as in `branch_shares` (NaN for block 0); `distance`, 1 minus the cosine of inputs at a right angle.
    """
    rows = []
    for name, (word, gain) in words.items():
        shares = branch_shares(word, depth, gain=gain)
        predicted = zip(predict(word, depth, gain=gain), [math.nan, *shares], cosines(shares, 1 - constant), strict=True)
        for row, share, cosine in predicted:
            sizes = {quantity: row[quantity] for quantity in ("block", "forward_rms", "gradient")}
            rows.append({"word": name, **sizes, "share": share, "distance": 1 - cosine})
    return rows


def path_lengths(word: str, depth: int) -> list[float]:
    r"""The part of a gradient's power that has passed 0, 1, ..., `depth` branches on its way back through a stack.

    At block l the branch takes the part $1 - (\lVert dL/dx_l \rVert / \lVert dL/dx_{l-1} \rVert)^2$ of it: a binomial for `Fa`,
    and for `nFa` the number of cycles of `depth` + 1 shuffled cards, less one. Citation: veit2016residual.
    """
    parts, gradients = [1.0], [row["gradient"] for row in predict(word, depth)]
    for before, after in pairwise(gradients):
        branch = 1 - (after / before) ** 2
        parts = [(1 - branch) * stay + branch * longer for stay, longer in zip([*parts, 0.0], [0.0, *parts], strict=True)]
    return parts


def skip_share(order: int) -> float:
    r"""The ratio of skip to branch in the output of an rSkip of order k: $\cot(\pi / 2^{k+1})$.

    Two vectors of equal length at an angle $\theta$ sum to their bisector, and the norm restores the length: each further step
    halves the angle to x, from $\pi/4$ at order 1. Order 1 gives 1, order 2 gives 2.41, and each step about doubles it.
    Raises `ValueError` for an order below 1. Citation: liu2020rethinking (the recursion; the law is derived in this book).
    """
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"order={order!r}; the order of a recursive skip is a whole number from 1")
    return 1.0 / math.tan(math.pi / 2 ** (order + 1))


def next_skip_share(share: float, weight: float) -> float:
    r"""The ratio of skip to branch after one more step of a recursive skip: $r_{j+1} = r_j + w \sqrt{1 + r_j^2}$.

    `share`: $r_j$ before the step. `weight`: $w = \sigma / \gamma_j$, the size of the stream by the gain of the norm between the
    steps; 1 gives `skip_share` of the next order, and a gain without end leaves the share as it was.
    Raises `ValueError` for a negative share or weight. The law is derived in this book.
    """
    if share < 0 or weight < 0:
        raise ValueError(f"share={share!r}, weight={weight!r}; allowed: 0 or more")
    return share + weight * math.sqrt(1 + share**2)


def normalised_turn(lr: float, step: int, length: float = 1.0, gradient: float = 1.0) -> float:
    r"""The tangent by which gradient descent turns a weight before a norm in its t-th step: $\eta c / r_t$.

    The gradient is perpendicular to the weight and of size $c / \lVert w \rVert$, so the squared length r grows by Pythagoras:
    $$r_1 = r_0 + \eta^2 c^2 / r_0, \qquad r_t \approx \sqrt{r_1^2 + 2 \eta^2 c^2 (t - 1)}$$
    after t steps, and the turn tends to $1 / \sqrt{2t}$ whatever the rate is. `length`: $\lVert w_0 \rVert$; `gradient`: c; no
    momentum, no weight decay. Raises `ValueError` for a step below 1 or a rate, length or gradient that is not positive.
    Citations: vanlaarhoven2017l2, hoffer2018norm, arora2019theoretical.
    """
    if step < 1 or min(lr, length, gradient) <= 0:
        raise ValueError(
            f"step={step!r}, lr={lr!r}, length={length!r}, gradient={gradient!r}; allowed: a step from 1, the rest above 0"
        )
    squared, pace = length**2, lr * gradient
    if step == 1:
        return pace / squared
    first = squared + pace**2 / squared
    return pace / math.sqrt(first**2 + 2 * pace**2 * (step - 2))


def activation_gains(activation: Callable[[Tensor], Tensor], scale: float = 1.0) -> tuple[float, float]:
    r"""What an activation f does to hidden values $s z$, $z \sim N(0, 1)$, and to the gradient that comes back through it:

    $$\operatorname{E} f(s z)^2, \qquad s^2 \operatorname{E} f'(s z)^2$$

    `scale`: s. Their quotient is $\varphi / \beta$ of a random branch with this activation: 1 for ReLU, which is homogeneous.
    Raises `ValueError` for a scale that is not positive. The law is derived in this book.
    """
    if scale <= 0:
        raise ValueError(f"scale={scale!r}; allowed: above 0")
    # An even number of points: none stands on ReLU's kink.
    z = torch.linspace(-10, 10, 8000, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    with torch.enable_grad():
        h = (scale * z).requires_grad_()
        value = activation(h)
        (slope,) = torch.autograd.grad(value.sum(), h)
    forward, backward = (torch.trapezoid(part.detach() ** 2 * density, z).item() for part in (value, scale * slope))
    return forward, backward


def first_loss(square: float, classes: int) -> dict[str, float]:
    r"""The loss over V classes before training, of logits $s z_i$ with $z_i \sim N(0, 1)$: `linear`, `bound`, and `loss`.

    $$\operatorname{E} \ln \sum_i e^{s z_i} \approx \ln V + \tfrac{s^2}{2} \ \text{for}\ s < \sqrt{2 \ln V}, \qquad
    \lesssim s \sqrt{2 \ln V} \ \text{beyond}$$

    Beyond the border the largest logit alone decides. `square`: $s^2$, as $1 + L$ behind L blocks of Pre-Norm without a last
    norm. Raises `ValueError` for a negative square or fewer than two classes. Citation: derrida1981random.
    """
    if square < 0 or classes < 2:
        raise ValueError(f"square={square!r}, classes={classes!r}; allowed: 0 or more, and 2 classes or more")
    linear, bound = math.log(classes) + square / 2, math.sqrt(2 * square * math.log(classes))
    return {"linear": linear, "bound": bound, "loss": linear if square < 2 * math.log(classes) else bound}


def predict_convolutions(word: str, depth: int) -> list[dict[str, float]]:
    r"""Predict a stack of `Cnra` or `Crna` with ReLU at initialisation, for an input of RMS 1, one row a block as `predict`.

    With $k = \tfrac12 - \tfrac1{2\pi}$, the variance of ReLU of a normal variable:
    $$\texttt{Cnra}:\ \operatorname{E} x_l^2 = 1 + k l + \tfrac{l^2}{2\pi},\ \text{gradient}^2\ 1 + \tfrac{1/2}{1 + k l}; \qquad
    \texttt{Crna}:\ \operatorname{E} x_l^2 = 1 + l,\ \text{gradient}^2\ 1 + \tfrac{1/(2k)}{1 + l}$$
    Rows hold `block`, `forward_rms` and `gradient`, relative to the last block's. Raises `ValueError` for another word.
    """
    variance = 1 / 2 - 1 / (2 * math.pi)
    if word == "Cnra":
        added, mean, returned = variance, 1 / (2 * math.pi), 1 / 2
    elif word == "Crna":
        added, mean, returned = 1.0, 0.0, 1 / (2 * variance)
    else:
        raise ValueError(f"word={word!r}; allowed: Cnra, Crna")
    factors = [1 + returned / (1 + added * block) for block in range(depth)]
    return [
        {
            "block": block,
            "forward_rms": math.sqrt(1 + added * block + mean * block**2),
            "gradient": math.sqrt(math.prod(factors[block:])),
        }
        for block in range(depth + 1)
    ]
