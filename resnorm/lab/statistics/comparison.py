"""Two arms of a study compared: the difference of their means, its interval, and what can be said."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from resnorm.extras import needed_for
from resnorm.lab.statistics.variance import ModeratedVariance, Values, moderated_variance

Outcome = Literal["larger", "smaller", "equivalent", "undecided", "not tested here"]
# Beyond this the t distribution is the normal one, and the noncentral t loses its digits.
_MANY_DF = 1e6


@dataclass(frozen=True)
class Comparison:
    r"""Hold a difference of means $\hat\delta$ with its standard error: it prints itself as a mean and an interval.

    `df`: degrees of freedom of the standard error. `seeds`: pairs of runs, or runs of the smaller arm where they are not
    paired. `items`: test items, where they were drawn anew too. `margin`: a difference that does not matter.
    `level`: how often equal arms may be called different. `q_values`: the `p_values`, corrected for a family (`control`).
    `untested`: why this setting cannot speak.
    """

    estimate: float
    standard_error: float
    df: float
    seeds: int
    unit: str = ""
    margin: float | None = None
    level: float = 0.05
    items: int | None = None
    q_values: tuple[float, ...] | None = None
    untested: str = ""

    def __post_init__(self):
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"margin is {self.margin}: give a positive number of the comparison's unit, or None")
        if not 0 < self.level < 0.5:
            raise ValueError(f"level is {self.level}: give a probability below 0.5, such as 0.05")

    @property
    def measurable(self) -> bool:
        """Whether there is a standard error: False for one seed alone, and where no seed differs from another."""
        return self.standard_error > 0 and self.df > 0

    @property
    def interval(self) -> tuple[float, float]:
        r"""The interval $\hat\delta \pm t_{1 - \alpha/2}\,\mathrm{SE}$ (95 % at level 0.05); NaN without a standard error."""
        half = _t_quantile(1 - self.level / 2, self.df) * self.standard_error if self.measurable else math.nan
        return self.estimate - half, self.estimate + half

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference; 1 without a standard error."""
        return 2 * _t_tail(abs(self.estimate) / self.standard_error, self.df) if self.measurable else 1.0

    @property
    def p_equivalence(self) -> float:
        r"""Of a difference of the margin or more, by two one-sided t tests (schuirmann1987comparison); 1 without a margin."""
        if self.margin is None or not self.measurable:
            return 1.0
        return _t_tail((self.margin - abs(self.estimate)) / self.standard_error, self.df)

    @property
    def p_inferiority(self) -> float:
        """One-sided, of being smaller by the margin or more; 1 without a margin: "keeps up within the margin" if small."""
        if self.margin is None or not self.measurable:
            return 1.0
        return _t_tail((self.estimate + self.margin) / self.standard_error, self.df)

    @property
    def p_values(self) -> tuple[float, ...]:
        """Those that decide: of no difference and, where a margin is stated, of no equivalence."""
        return (self.p_value,) if self.margin is None else (self.p_value, self.p_equivalence)

    @property
    def outcome(self) -> Outcome:
        """What can be said at the level: where a margin is stated, "equivalent" comes before a direction.

        Equivalence is two one-sided tests at the level: the interval of twice the level (90 %) lies within the margin.
        """
        if self.untested:
            return "not tested here"
        difference, *equivalence = self.q_values or self.p_values
        if equivalence and equivalence[0] <= self.level:
            return "equivalent"
        if difference <= self.level:
            return "larger" if self.estimate > 0 else "smaller"
        return "undecided"

    @property
    def detectable(self) -> float:
        """The smallest true difference that this design would have found at 80 % power; see `detectable`."""
        return detectable(self.standard_error, self.df, level=self.level) if self.measurable else math.nan

    def not_tested(self, reason: str) -> "Comparison":
        """The same numbers with the outcome "not tested here", where the reference arm cannot speak."""
        return replace(self, untested=reason)

    def __str__(self) -> str:
        seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        drawn = f"{seeds}, {self.items:,} test items" if self.items else seeds
        unit = f" {self.unit}" if self.unit else ""
        if not self.measurable:
            text = f"{self.estimate:+.3g}{unit} ({drawn}, no interval: {_no_interval(self)})"
        else:
            mean, ends = rounded(self.estimate, self.interval)
            text = f"{mean} {ends}{unit} ({100 * (1 - self.level):g} % interval, {drawn})"
        if self.untested:
            return f"{text}; not tested here: {self.untested}"
        if self.outcome == "equivalent":
            return f"{text}; equivalent within {self.margin:g}"
        if self.outcome == "undecided" and self.p_value <= self.level and self.q_values:
            return f"{text}; undecided in its family of comparisons (q = {self.q_values[0]:.2g})"
        if self.outcome == "undecided" and self.measurable:
            return f"{text}; undecided, {self.detectable:.2g} would have been found (80 % power)"
        return text


def compare(
    values: Values,
    first: str,
    second: str,
    *,
    unit: str = "",
    margin: float | None = None,
    paired: bool = True,
    variance: ModeratedVariance | None = None,
    level: float = 0.05,
) -> Comparison:
    r"""Compare two arms of a study: $\hat\delta = \bar a - \bar b$, over the seeds that both have if `paired`.

    $$\mathrm{SE}^2 = \tilde s_a^2 / n_a + \tilde s_b^2 / n_b$$ with the moderated variances of *all* arms in `values`
    (`moderated_variance`; give `variance` to fit them once). The degrees of freedom are the smaller of the two arms', at
    most the study's: Satterthwaite's are more, and call equal arms of unequal variance different too often. Alone in
    `values`, two arms give the ordinary t test, paired or Student's.

    `values`: arm -> seed -> value, in `unit`. `paired`: the same seed means the same data, order and draw; fix it before
    you look, per study. Raises ValueError for an unknown arm, or where paired arms share no seed.
    """
    for arm in (first, second):
        if arm not in values:
            raise ValueError(f"there is no arm {arm!r}; allowed: {', '.join(map(repr, values))}")
    if first == second:
        raise ValueError(f"both arms are {first!r}: name two")
    variance = variance or moderated_variance(values, paired)
    if variance.paired != paired:
        raise ValueError(f"paired is {paired}, and the variance was fitted with paired={variance.paired}: give both the same")
    a, b = variance.arms[first], variance.arms[second]
    if paired:
        shared = sorted(set(values[first]) & set(values[second]))
        if not shared:
            raise ValueError(f"the arms share no seed: {first!r} has {sorted(a.seeds)}, {second!r} has {sorted(b.seeds)}")
        estimate = math.fsum(values[first][seed] - values[second][seed] for seed in shared) / len(shared)
        counts = (len(shared), len(shared))
    else:
        estimate, counts = a.mean - b.mean, (len(a.seeds), len(b.seeds))
    squared = math.fsum(arm.moderated / count for arm, count in zip((a, b), counts, strict=True))
    df = min(a.moderated_df, b.moderated_df, math.inf if {first, second} & set(variance.unstable) else variance.df)
    if not (squared > 0 and df > 0):
        return Comparison(estimate, math.nan, 0.0, min(counts), unit, margin, level)
    return Comparison(estimate, math.sqrt(squared), df, min(counts), unit, margin, level)


def detectable(standard_error: float, df: float, power: float = 0.8, level: float = 0.05) -> float:
    r"""Return the true difference $\delta$ that a two-sided t test at `level` finds with probability `power`.

    The root of $P(|T| > t_{1-\alpha/2}) = \text{power}$, where $T$ is noncentral t with $\delta / \mathrm{SE}$.
    Raises ValueError where the standard error or the degrees of freedom are not positive.
    """
    if not (standard_error > 0 and df > 0):
        raise ValueError(f"standard_error is {standard_error} and df is {df}: both must be positive")
    with needed_for("comparisons of runs"):
        from scipy import optimize, special

    df = min(df, _MANY_DF)
    critical = _t_quantile(1 - level / 2, df)

    def shortfall(shift: float) -> float:
        wrong_side = special.nctdtr(df, shift, -critical)
        # So small that it is not computed: not a number.
        return float(1 - special.nctdtr(df, shift, critical) + (0.0 if math.isnan(wrong_side) else wrong_side)) - power

    upper = critical + 1.0
    while shortfall(upper) < 0:
        upper *= 2
    return standard_error * optimize.brentq(shortfall, 0.0, upper, xtol=1e-10)


def rounded(estimate: float, interval: tuple[float, float]) -> tuple[str, str]:
    """Write an estimate and its interval with as many decimals as the interval's half width justifies."""
    half = (interval[1] - interval[0]) / 2
    exponent = math.floor(math.log10(half))
    # A half width of 0.12 needs both its digits, one of 0.41 the first only.
    decimals = max(0, -exponent + (half < 3 * 10**exponent))
    while decimals < 12 and any(end and not float(f"{end:.{decimals}f}") for end in interval):
        decimals += 1
    low, high = (f"{float(f'{end:.{decimals}f}') + 0.0:.{decimals}f}" for end in interval)
    shown = max(decimals, 1 - exponent, 0)
    return f"{estimate:+.{shown}f}", f"[{low}, {high}]"


def _no_interval(comparison: Comparison) -> str:
    return "one run says nothing about the next" if comparison.seeds == 1 else "no run differs from another"


def _t_quantile(probability: float, df: float) -> float:
    with needed_for("comparisons of runs"):
        from scipy import special

    return float(special.stdtrit(min(df, _MANY_DF), probability))


def _t_tail(statistic: float, df: float) -> float:
    with needed_for("comparisons of runs"):
        from scipy import special

    return float(special.stdtr(min(df, _MANY_DF), -statistic))
