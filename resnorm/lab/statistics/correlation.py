"""Rank correlations, also with a third quantity held fixed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resnorm.extras import needed_for


@dataclass(frozen=True)
class Correlation:
    r"""Hold a rank correlation $\rho$ of `count` pairs, from -1 to 1, with its 95 % `interval` for independent pairs.

    NaN where it is not defined: one side does not vary, or its order is that of what is held fixed.
    """

    estimate: float
    interval: tuple[float, float]
    count: int

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return "not defined"
        return f"{self.estimate:+.2f} [{self.interval[0]:.2f}, {self.interval[1]:.2f}] (95 % interval, {self.count} pairs)"


def rank_correlation(first: Sequence[float], second: Sequence[float], given: Sequence[float] | None = None) -> Correlation:
    r"""Return Spearman's rank correlation of two quantities; with `given`, the partial one, $z$ held fixed:

    $$\rho_{xy \cdot z} = \frac{\rho_{xy} - \rho_{xz} \rho_{yz}}{\sqrt{(1 - \rho_{xz}^2)(1 - \rho_{yz}^2)}} .$$
    The interval is Fisher's, $\operatorname{artanh} \rho \pm 1.96 \sqrt{1.06 / (n - 3 - k)}$, with $k = 1$ where something is
    held fixed and 0 otherwise (fieller1957tests). It takes the pairs as independent: the layers of one network are not.
    Raises ValueError for sides of different lengths, or fewer pairs than $5 + k$.
    """
    with needed_for("correlations"):
        from scipy import stats

    sides = [first, second] if given is None else [first, second, given]
    lengths = {len(side) for side in sides}
    held = len(sides) - 2
    if len(lengths) > 1:
        raise ValueError(f"the sides have {', '.join(map(str, sorted(lengths)))} values: give each the same number")
    if (count := lengths.pop()) < 5 + held:
        raise ValueError(f"there are {count} pairs: an interval needs {5 + held} or more")
    ranks = [list(map(float, stats.rankdata(side))) for side in sides]
    rho = _pearson(ranks[0], ranks[1])
    if given is not None:
        by_first, by_second = _pearson(ranks[0], ranks[2]), _pearson(ranks[1], ranks[2])
        free = (1 - by_first**2) * (1 - by_second**2)
        # Ranks are halves of whole numbers: a smaller rest is rounding.
        rho = (rho - by_first * by_second) / math.sqrt(free) if free > 1e-12 else math.nan
    if abs(rho) > 1 - 1e-12:
        return Correlation(round(rho), (round(rho), round(rho)), count)
    half = 1.96 * math.sqrt(1.06 / (count - 3 - held))
    # atanh of not a number is not a number
    return Correlation(rho, (math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)), count)


def _pearson(first: list[float], second: list[float]) -> float:
    centred = [[value - math.fsum(side) / len(side) for value in side] for side in (first, second)]
    squares = [math.fsum(value * value for value in side) for side in centred]
    if not squares[0] * squares[1] > 0:
        return math.nan
    return math.fsum(a * b for a, b in zip(*centred, strict=True)) / math.sqrt(squares[0] * squares[1])
