"""Counts of successes, and forecasts of outcomes that happen or not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from resnorm.extras import needed_for
from resnorm.lab.statistics.comparison import Outcome, rounded


@dataclass(frozen=True)
class Proportions:
    r"""Hold two counts of successes, $k_1$ of $n_1$ runs and $k_2$ of $n_2$, and compare them; see `proportions`.

    `q_values` and `untested` as in `Comparison`.
    """

    first: tuple[int, int]
    second: tuple[int, int]
    interval: tuple[float, float]
    p_value: float
    unit: str = ""
    level: float = 0.05
    q_values: tuple[float, ...] | None = None
    untested: str = ""

    @property
    def estimate(self) -> float:
        r"""The difference of the shares, $k_1 / n_1 - k_2 / n_2$."""
        return self.first[0] / self.first[1] - self.second[0] / self.second[1]

    @property
    def p_values(self) -> tuple[float, ...]:
        """Those that decide: of no difference."""
        return (self.p_value,)

    @property
    def outcome(self) -> Outcome:
        """What can be said at the level; few runs cannot show equivalence."""
        if self.untested:
            return "not tested here"
        if (self.q_values or self.p_values)[0] > self.level:
            return "undecided"
        return "larger" if self.estimate > 0 else "smaller"

    def not_tested(self, reason: str) -> "Proportions":
        """The same counts with the outcome "not tested here"."""
        return replace(self, untested=reason)

    def __str__(self) -> str:
        (k1, n1), (k2, n2) = self.first, self.second
        mean, ends = rounded(self.estimate, self.interval)
        unit = f" {self.unit}" if self.unit else ""
        share = f"difference of shares {mean} {ends}, {100 * (1 - self.level):g} % interval"
        text = f"{k1} of {n1} against {k2} of {n2}{unit} ({share}; p = {self.p_value:.2g})"
        return f"{text}; not tested here: {self.untested}" if self.untested else text


def proportions(k1: int, n1: int, k2: int, n2: int, unit: str = "", level: float = 0.05) -> Proportions:
    r"""Compare $k_1$ successes of $n_1$ with $k_2$ of $n_2$: Fisher's exact test, two-sided, and an interval.

    The interval of the difference adds the squares of the distances to the exact (Clopper-Pearson) ends of each share, the
    construction of newcombe1998interval. It is never of width 0, and of 2 to 10 runs a side the 95 % interval covers at
    least 92 %, whatever the true shares are. 3 of 3 against 0 of 3 is p = 0.10. Raises ValueError for counts that are not 0
    <= k <= n with n > 0.
    """
    for k, n in ((k1, n1), (k2, n2)):
        if not (0 <= k <= n and n > 0):
            raise ValueError(f"{k} of {n} is no count of successes: 0 <= successes <= runs, with one run or more")
    with needed_for("comparisons of counts"):
        from scipy import stats

    p_value = float(stats.fisher_exact([[k1, n1 - k1], [k2, n2 - k2]])[1])
    (low1, high1), (low2, high2) = (stats.binomtest(k, n).proportion_ci(1 - level) for k, n in ((k1, n1), (k2, n2)))
    share1, share2 = k1 / n1, k2 / n2
    low = share1 - share2 - ((share1 - low1) ** 2 + (high2 - share2) ** 2) ** 0.5
    high = share1 - share2 + ((high1 - share1) ** 2 + (share2 - low2) ** 2) ** 0.5
    return Proportions((k1, n1), (k2, n2), (max(-1.0, float(low)), min(1.0, float(high))), min(1.0, p_value), unit, level)


def matched(pairs: Iterable[tuple[bool, bool]], unit: str = "", level: float = 0.05) -> Proportions:
    r"""Compare successes in matched pairs of runs, which differ in one thing alone: McNemar's exact test.

    Of the pairs, only those speak in which one run succeeded and the other did not: if nothing differs, each of these
    $b + c$ falls to either side with probability 1/2. Three against none is p = 0.25, seven against none p = 0.016.
    `pairs`: (first succeeded, second succeeded). The interval of the difference is exact (Clopper-Pearson), given how many
    pairs speak. Citation: mcnemar1947note. Raises ValueError without a pair.
    """
    pairs = list(pairs)
    if not pairs:
        raise ValueError("there is no pair of runs: give one or more")
    with needed_for("comparisons of counts"):
        from scipy import stats

    first_only = sum(first and not second for first, second in pairs)
    differ = first_only + sum(second and not first for first, second in pairs)
    counts = proportions(sum(bool(first) for first, _ in pairs), len(pairs), sum(bool(second) for _, second in pairs), len(pairs))
    test = stats.binomtest(first_only, differ) if differ else None
    ends = test.proportion_ci(1 - level) if test else (0.5, 0.5)
    low, high = (float(differ * (2 * end - 1) / len(pairs)) for end in ends)
    return replace(counts, interval=(low, high), p_value=float(test.pvalue) if test else 1.0, unit=unit, level=level)


@dataclass(frozen=True)
class CalibrationBin:
    """Hold the forecasts between two probabilities: how many, their mean, and the share that came true."""

    low: float
    high: float
    count: int
    forecast: float
    share: float


def brier(forecasts: Sequence[float], outcomes: Sequence[bool]) -> float:
    r"""Return the Brier score $\frac1n \sum_i (f_i - o_i)^2$: 0 is perfect, 0.25 is "fifty-fifty" every time.

    `forecasts`: probabilities; `outcomes`: whether each came true. Citation: brier1950verification.
    Raises ValueError where the two do not match.
    """
    pairs = _forecasts(forecasts, outcomes)
    return sum((forecast - outcome) ** 2 for forecast, outcome in pairs) / len(pairs)


def calibration(forecasts: Sequence[float], outcomes: Sequence[bool], bins: int = 5) -> list[CalibrationBin]:
    """Sort forecasts into `bins` of equal width and return those that are not empty; a probability of 1 is in the last.

    Raises ValueError where forecasts and outcomes do not match.
    """
    sorted_in: dict[int, list[tuple[float, bool]]] = {}
    for forecast, outcome in _forecasts(forecasts, outcomes):
        sorted_in.setdefault(min(int(forecast * bins), bins - 1), []).append((forecast, outcome))
    return [
        CalibrationBin(
            index / bins,
            (index + 1) / bins,
            len(pairs),
            sum(f for f, _ in pairs) / len(pairs),
            sum(o for _, o in pairs) / len(pairs),
        )
        for index, pairs in sorted(sorted_in.items())
    ]


def _forecasts(forecasts: Sequence[float], outcomes: Sequence[bool]) -> list[tuple[float, bool]]:
    if len(forecasts) != len(outcomes) or not len(forecasts):
        raise ValueError(f"there are {len(forecasts)} forecasts and {len(outcomes)} outcomes: give one outcome a forecast")
    for forecast in forecasts:
        if not 0 <= forecast <= 1:
            raise ValueError(f"a forecast is {forecast}: give a probability from 0 to 1")
    return [(float(forecast), bool(outcome)) for forecast, outcome in zip(forecasts, outcomes, strict=True)]
