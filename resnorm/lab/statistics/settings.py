"""Can this setting answer the question: each arm at its own best rate, and a reference arm that has learned something."""

import math
from collections.abc import Iterable, Sequence

from resnorm.extras import needed_for

RATES_NEEDED = 4
INTERIOR, EDGE, FEW = "interior", "edge of the grid", "too few rates"


def best_rates(frame, larger: bool = True, arm: str = "arm", rate: str = "lr", value: str = "value"):
    """Return each arm at its own best rate: a frame with one row an arm.

    `frame`: tidy, one row a run, with the columns `arm`, `rate`, seed and `value`, a validation metric of the tuning
    seeds. The best rate has the best mean over seeds; a rate with a run that is not finite is the worst. `larger`: whether
    larger values are better. Columns: arm, rate, value (the mean there), rates (how many), runs (how many at the best),
    optimum ("interior", "edge of the grid", or "too few rates" for fewer than RATES_NEEDED).
    Raises ValueError for a missing column, or an arm none of whose rates has a finite value.
    """
    with needed_for("comparisons of runs"):
        import pandas

    if missing := {arm, rate, value} - set(frame.columns):
        raise ValueError(f"the frame has no column {', '.join(sorted(missing))}; it has: {', '.join(map(str, frame.columns))}")
    rows = []
    for name, runs in frame.groupby(arm, sort=False):
        means = {r: math.fsum(v) / len(v) for r, v in runs.groupby(rate)[value] if all(map(math.isfinite, v))}
        if not means:
            raise ValueError(f"arm {name!r} has no rate at which every run is finite: add smaller rates")
        best = (max if larger else min)(means, key=means.__getitem__)
        tried = sorted(runs[rate].unique())
        edge = EDGE if best in (tried[0], tried[-1]) else INTERIOR
        optimum = FEW if len(tried) < RATES_NEEDED else edge
        count = int((runs[rate] == best).sum())
        rows.append({arm: name, rate: best, value: means[best], "rates": len(tried), "runs": count, "optimum": optimum})
    return pandas.DataFrame(rows)


def learned_rates(frame, chance: float, margin: float, arm: str = "arm", value: str = "value"):
    """Return at how many rates each arm learns, a Series: its loss there is below `chance` by the margin or more.

    `frame`: as for `best_rates`, with one run a rate; a run that is not finite has not learned.
    """
    return (frame[value] < chance - margin).groupby(frame[arm], sort=False).sum()


def rate_sensitivity(frame, chance: float, arm: str = "arm", value: str = "value"):
    r"""Return how much of its loss each arm owes to the choice of the rate, a Series:

    $$\operatorname{mean}_\eta \big(\min(\ell(\eta), \ell_0) - \min_\eta \ell(\eta)\big)$$

    `chance`: $\ell_0$, which a run that diverged has too; `frame`: as for `best_rates`, with one run a rate.
    Citation: wortsman2023small.
    """
    losses = frame[value].fillna(math.inf).clip(upper=chance).groupby(frame[arm], sort=False)
    return losses.mean() - losses.min()


def progress(value: float, chance: float, perfect: float) -> float:
    r"""Return how far a value has come from chance to perfect, $(v - c) / (p - c)$: 0 at chance, 1 when perfect.

    For an accuracy `chance` is 1 over the number of classes and `perfect` is 1; for a loss they are its logarithm and 0.
    """
    if chance == perfect:
        raise ValueError(f"chance and perfect are both {chance}: nothing can be learned")
    return (value - chance) / (perfect - chance)


def at_chance(values: Iterable[float], chance: float, perfect: float = 1.0, share: float = 0.1) -> bool:
    """Whether an arm has come less than `share` of the way from chance to perfect, in the mean over its seeds.

    A contest whose reference arm is at chance cannot say "does not hold": give it `Comparison.not_tested`.
    A value that is not finite (a run that failed) counts as chance. Raises ValueError without a value.
    """
    ways = [progress(value, chance, perfect) if math.isfinite(value) else 0.0 for value in values]
    if not ways:
        raise ValueError("there is no value: give one a seed")
    return math.fsum(ways) / len(ways) < share


def plateau(losses: Sequence[float], perfect: float = 0.0, share: float = 0.1) -> bool:
    """Whether a curve has come less than `share` of the way from its first value to perfect by its last tenth: it sits still."""
    if len(losses) < 2:
        raise ValueError(f"a curve of {len(losses)} values shows no plateau: give two or more")
    return at_chance(_last(losses, 0.1), losses[0], perfect, share)


def unfinished(losses: Sequence[float], window: float = 0.2, share: float = 0.1) -> bool:
    """Whether more than `share` of all that a curve has gained was gained in its last `window`: it is far from its end.

    Compares the means of the last `window` of the steps and of as many before; False for a curve that gained nothing.
    """
    count = max(1, round(window * len(losses)))
    if len(losses) < 2 * count + 1:
        raise ValueError(f"a curve of {len(losses)} values is too short for windows of {count}")
    late, before = (math.fsum(part) / count for part in (losses[-count:], losses[-2 * count : -count]))
    gained = losses[0] - late
    return gained > 0 and (before - late) / gained > share


def _last(curve: Sequence[float], share: float) -> Sequence[float]:
    return curve[-max(1, round(share * len(curve))) :]
