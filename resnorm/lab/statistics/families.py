"""Many comparisons at once: false discoveries, and one model of many arms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from resnorm.extras import needed_for
from resnorm.lab.statistics.comparison import Comparison
from resnorm.lab.statistics.counts import Proportions

Key = TypeVar("Key")
Contest = TypeVar("Contest", Comparison, Proportions)
_METHODS = {"benjamini-hochberg": "fdr_bh", "benjamini-yekutieli": "fdr_by"}


def false_discovery(
    p_values: Sequence[float],
    level: float = 0.05,
    method: Literal["benjamini-hochberg", "benjamini-yekutieli"] = "benjamini-hochberg",
) -> tuple[list[bool], list[float]]:
    r"""Return for each test of a family whether it is a discovery, and its q value, $\min_{j \ge i} m\,p_{(j)} / j$.

    Among the discoveries at most a share of `level` is expected to be false; if no arm differs, a family makes any
    discovery in at most that share of cases. Benjamini-Hochberg (benjamini1995controlling) is the default although the arms
    of a study share their reference: sharing makes the tests positively dependent, the case in which it is known to hold
    for one-sided tests and has held in simulations of two-sided ones (ours is among the tests of this package).
    Benjamini-Yekutieli (benjamini2001control) holds for any dependence, at the price of a factor $\sum_i 1/i$: 3.8 for 25
    tests. Raises ValueError for another method.
    """
    if method not in _METHODS:
        raise ValueError(f"method is {method!r}; allowed: {', '.join(_METHODS)}")
    if not len(p_values):
        return [], []
    with needed_for("families of comparisons"):
        from statsmodels.stats.multitest import multipletests

    found, q_values, *_ = multipletests(list(p_values), alpha=level, method=_METHODS[method])
    return [bool(one) for one in found], [float(q) for q in q_values]


def control(family: Mapping[Key, Contest], method: str = "benjamini-hochberg") -> dict[Key, Contest]:
    """Return the comparisons (or proportions) of a family with their q values, by which `outcome` then decides.

    A family holds the tests of a difference and, where a margin is stated, of equivalence; a comparison that was not
    tested stays out. They must have one level. The intervals stay those of each comparison alone.
    Raises ValueError where the levels differ.
    """
    tested = {key: contest for key, contest in family.items() if not contest.untested}
    if len(levels := {contest.level for contest in tested.values()}) > 1:
        raise ValueError(f"the family has the levels {', '.join(map(str, sorted(levels)))}: give it one")
    p_values = [p_value for contest in tested.values() for p_value in contest.p_values]
    q_values = iter(false_discovery(p_values, method=method)[1])
    corrected = {key: replace(one, q_values=tuple(next(q_values) for _ in one.p_values)) for key, one in tested.items()}
    return {key: corrected.get(key, contest) for key, contest in family.items()}


@dataclass(frozen=True)
class Effect:
    """Hold one arm of a `hierarchical` model: its estimate, what is left of it after shrinking, and where it ranks.

    `interval`, `rank_interval`: 95 %. `best`: the probability of being the largest. `above`: that of lying above the
    reference arm; None without one.
    """

    arm: str
    estimate: float
    standard_error: float
    shrunken: float
    interval: tuple[float, float]
    rank: float
    rank_interval: tuple[int, int]
    best: float
    above: float | None


@dataclass(frozen=True)
class Hierarchy:
    r"""Hold a `hierarchical` model: the mean of all arms, the deviation $\tau$ between them with its 95 % interval, the effects."""

    mean: float
    deviation: float
    deviation_interval: tuple[float, float]
    effects: tuple[Effect, ...]


def hierarchical(
    estimates: Mapping[str, float],
    standard_errors: Mapping[str, float],
    reference: str | None = None,
    *,
    larger: bool = True,
    draws: int = 20_000,
    seed: int = 0,
) -> Hierarchy:
    r"""Shrink many arms towards each other: $\hat\theta_a \sim N(\theta_a, \mathrm{SE}_a^2)$, $\theta_a \sim N(\mu, \tau^2)$.

    Give the arms' means, the `reference` among them, and not their differences from it: those share its error. An arm far
    from all others (one that failed) widens $\tau$ until nothing is shrunk: leave it out. $\mu$ and $\tau$ have flat
    priors, so that the density of $\tau$ is the restricted likelihood (REML), here on a grid; the $\theta_a$ are drawn from
    the posterior, with this `seed`, and the draws give means, intervals and ranks. `larger`: whether rank 1 is the largest.
    Citation: rubin1981estimation. Raises ValueError for fewer than 3 arms, or a standard error that is not positive.
    """
    with needed_for("families of comparisons"):
        import numpy

    arms = list(estimates)
    if len(arms) < 3:
        raise ValueError(f"there are {len(arms)} arms: the deviation between arms needs 3 or more")
    if reference is not None and reference not in estimates:
        raise ValueError(f"there is no arm {reference!r}; allowed: {', '.join(map(repr, arms))}")
    y, error = (numpy.array([float(column[arm]) for arm in arms]) for column in (estimates, standard_errors))
    if not (error > 0).all():
        arm = arms[int(numpy.argmin(error > 0))]
        raise ValueError(f"the standard error of {arm!r} is {standard_errors[arm]}: it must be positive")
    # The restricted likelihood falls as a power of tau: beyond the grid next to nothing is left.
    scale = max(float(y.std(ddof=1)), float(error.min()))
    grid = numpy.linspace(0, 10 * scale, 4001)[:, None]
    weight = 1 / (error**2 + grid**2)
    precision = weight.sum(axis=1)
    mean = (weight * y).sum(axis=1) / precision
    logs = 0.5 * (numpy.log(weight).sum(axis=1) - numpy.log(precision) - (weight * (y - mean[:, None]) ** 2).sum(axis=1))
    density = numpy.exp(logs - logs.max())
    draw = numpy.random.default_rng(seed)
    chosen = draw.choice(len(grid), size=draws, p=density / density.sum())
    deviation = grid[chosen]
    centre = (mean[chosen] + draw.standard_normal(draws) / numpy.sqrt(precision[chosen]))[:, None]
    kept = deviation**2 / (deviation**2 + error**2)
    effects = centre + kept * (y - centre) + numpy.sqrt(kept) * error * draw.standard_normal((draws, len(arms)))
    order = -effects if larger else effects
    ranks = order.argsort(axis=1).argsort(axis=1) + 1
    low, high = numpy.quantile(effects, [0.025, 0.975], axis=0)
    rank_low, rank, rank_high = numpy.quantile(ranks, [0.025, 0.5, 0.975], axis=0)
    above = (effects > effects[:, [arms.index(reference)]]).mean(axis=0) if reference is not None else None
    made = tuple(
        Effect(
            arm=arm,
            estimate=float(y[i]),
            standard_error=float(error[i]),
            shrunken=float(effects[:, i].mean()),
            interval=(float(low[i]), float(high[i])),
            rank=float(rank[i]),
            rank_interval=(int(rank_low[i]), int(rank_high[i])),
            best=float((ranks[:, i] == 1).mean()),
            above=None if above is None else float(above[i]),
        )
        for i, arm in enumerate(arms)
    )
    spread = numpy.quantile(deviation, [0.025, 0.5, 0.975])
    return Hierarchy(float(centre.mean()), float(spread[1]), (float(spread[0]), float(spread[2])), made)
