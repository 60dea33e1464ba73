"""The variance between seeds: each arm's own, moderated by the other arms of its study."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from resnorm.extras import needed_for

Values = Mapping[str, Mapping[int, float]]

PRIOR_DF = 6.0
FEW_DF = 5
_OUTLIER_LEVEL = 0.05


@dataclass(frozen=True)
class Prior:
    r"""Say what the arms of a study, or other studies, tell about a variance: $\sigma^2 \sim d_0 s_0^2 / \chi^2_{d_0}$."""

    variance: float
    df: float


@dataclass(frozen=True)
class ArmVariance:
    """Hold one arm's seeds, mean, own variance with its degrees of freedom, and the moderated variance with its own."""

    seeds: tuple[int, ...]
    mean: float
    own: float
    own_df: float
    moderated: float
    moderated_df: float


@dataclass(frozen=True)
class ModeratedVariance:
    """Hold the variance of every arm of a study; see `moderated_variance`.

    `prior`: what the arms share. `df`: all degrees of freedom of the study, which no comparison exceeds.
    `unstable`: arms that vary far more than the others and are judged by their own variance alone.
    `steady`: arms that vary far less; they are left out of the prior and moderated by it.
    """

    arms: dict[str, ArmVariance]
    prior: Prior
    df: float
    paired: bool
    unstable: tuple[str, ...]
    steady: tuple[str, ...]


def moderated_variance(values: Values, paired: bool = True, prior: Prior | None = None) -> ModeratedVariance:
    r"""Estimate each arm's variance between seeds, with the arm and, if `paired`, the seed as fixed effects.

    The model is $y_{as} = \mu_a + b_s + e_{as}$ with $e_{as} \sim N(0, \sigma_a^2)$. An arm's own variance $s_a^2$ has
    $d_a = (n_a - 1)(1 - 1/A)$ degrees of freedom for $A$ arms ($n_a - 1$ if not paired). It is shrunk towards the study's
    $$\tilde s_a^2 = \frac{d_0 s_0^2 + d_a s_a^2}{d_0 + d_a},$$
    as in limma (smyth2004linear): $s_0^2$ and $d_0$ are fitted to the spread of the arms' log variances, so that arms of
    equal variance are nearly pooled, and arms of unequal variance keep more of their own. $d_0$ is at most PRIOR_DF and
    what the other arms have: a few arms cannot show that they are alike, and six more degrees of freedom are worth nearly
    as much as fifty.

    An arm whose variance lies outside the central 95 % of $F(d, A d / 2)$ times the median arm's, Bonferroni-corrected for
    the number of arms, leaves the fit. One that is too large (a network that fails for some seeds) is judged by its own
    variance, as by Welch; one that is too small (always at chance, always perfect) by the moderated one. With two arms
    this is the ordinary t test.

    `values`: arm -> seed -> value, all finite. `prior`: of other studies by `variance_prior`, used where this study has
    fewer than FEW_DF degrees of freedom.
    Raises ValueError for no arms or a value that is not finite.
    """
    _check(values)
    means = {arm: math.fsum(seeds.values()) / len(seeds) for arm, seeds in values.items()}
    paired = paired and len(values) > 1
    # The median over arms does not follow an arm that explodes, as a mean would.
    rough = _own(values, _seed_effects(values, statistics.median) if paired else {}, dict.fromkeys(values, 1.0))
    unstable, steady = _outliers({arm: pair for arm, pair in rough.items() if pair[1] > 0})
    regular = {arm: seeds for arm, seeds in values.items() if arm not in (*unstable, *steady)}
    effects = _seed_effects(regular, statistics.fmean) if paired else {}
    own = _own(values, effects, dict.fromkeys(values, 1.0) | dict.fromkeys(regular, _share(regular) if paired else 1.0))
    known = [own[arm] for arm in regular if own[arm][1] > 0]
    df = math.fsum(own_df for _, own_df in known)
    shared = variance_prior(known) if known else Prior(math.nan, 0.0)
    borrowed = prior.df if prior and df < FEW_DF else 0.0
    arms = {}
    for arm, (variance, own_df) in own.items():
        if arm in unstable:
            arms[arm] = ArmVariance(tuple(values[arm]), means[arm], variance, own_df, variance, own_df)
            continue
        others = df - own_df if arm in regular else df
        weights = [(variance, own_df), (shared.variance, min(shared.df, others)), (prior.variance if prior else 0.0, borrowed)]
        total = math.fsum(weight for _, weight in weights)
        moderated = math.fsum(weight * value for value, weight in weights if weight > 0) / total if total > 0 else math.nan
        arms[arm] = ArmVariance(tuple(values[arm]), means[arm], variance, own_df, moderated, total)
    return ModeratedVariance(arms, shared, df + borrowed, paired, unstable, steady)


def variance_prior(variances: Iterable[tuple[float, float]]) -> Prior:
    r"""Fit $s_0^2$ and $d_0$ of $s^2 \sim s_0^2 F(d, d_0)$ to (variance, degrees of freedom) by the moments of $\log s^2$.

    With $z = \log s^2 - \psi(d/2) + \log(d/2)$: $\psi'(d_0/2) = \operatorname{var}(z) - \overline{\psi'(d/2)}$, at most
    PRIOR_DF; where that bound is met, $s_0^2$ is the pooled variance. Raises ValueError where there is no variance.
    """
    with needed_for("comparisons of runs"):
        import numpy
        from scipy import optimize, special

    pairs = [pair for pair in variances if pair[1] > 0]
    if not pairs:
        raise ValueError("there is no variance with degrees of freedom: give an arm two seeds or more")
    variance, df = numpy.array(pairs, dtype=float).T
    pooled = Prior(float(df @ variance / df.sum()), PRIOR_DF)
    positive = variance > 0
    if positive.sum() < 3:
        return pooled
    half = df[positive] / 2
    logs = numpy.log(variance[positive]) - special.digamma(half) + numpy.log(half)
    excess = logs.var(ddof=1) - special.polygamma(1, half).mean()
    if excess <= special.polygamma(1, PRIOR_DF / 2):
        return pooled
    prior_half = optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-4, PRIOR_DF / 2) if excess < 1e7 else 1e-4
    return Prior(float(numpy.exp(logs.mean() + special.digamma(prior_half) - numpy.log(prior_half))), 2 * float(prior_half))


def _check(values: Values) -> None:
    if not values or not all(values.values()):
        empty = [arm for arm, seeds in values.items() if not seeds]
        raise ValueError(f"arms without a value: {', '.join(map(repr, empty)) or 'all'}; each arm needs one seed or more")
    for arm, seeds in values.items():
        for seed, value in seeds.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"arm {arm!r}, seed {seed} has the value {value}: give what a failed run is worth (an accuracy of 0), "
                    "or count the runs that fail with `proportions`"
                )


def _seed_effects(values: Values, centre: Callable) -> dict[int, float]:
    """Each seed's effect, with the arms' own centres removed: least squares for the mean, a polish for the median."""
    values = {arm: seeds for arm, seeds in values.items() if len(seeds) > 1}
    effects = dict.fromkeys((seed for seeds in values.values() for seed in seeds), 0.0)
    # For means one round is enough where every arm has every seed.
    for _ in range(50):
        centres = {arm: centre([value - effects[seed] for seed, value in seeds.items()]) for arm, seeds in values.items()}
        before = effects
        effects = {seed: centre([seeds[seed] - centres[arm] for arm, seeds in values.items() if seed in seeds]) for seed in before}
        if all(math.isclose(effects[seed], before[seed], rel_tol=1e-9, abs_tol=1e-12) for seed in effects):
            break
    return effects


def _share(values: Values) -> float:
    """The share of the arms' degrees of freedom that the seeds' effects leave: 1 - 1/A where every arm has every seed."""
    df = sum(len(seeds) - 1 for seeds in values.values())
    seeds = {seed for seeds in values.values() if len(seeds) > 1 for seed in seeds}
    return max(0.0, 1 - (len(seeds) - 1) / df) if df else 0.0


def _own(values: Values, effects: Mapping[int, float], shares: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Each arm's own variance and its degrees of freedom, of which the seeds' effects leave a share."""
    rounding = 1e-12 * max(abs(value) for seeds in values.values() for value in seeds.values())
    own = {}
    for arm, seeds in values.items():
        residuals = [value - effects.get(seed, 0.0) for seed, value in seeds.items()]
        middle = math.fsum(residuals) / len(residuals)
        squares = math.fsum((value - middle) ** 2 for value in residuals if abs(value - middle) > rounding)
        df = (len(residuals) - 1) * shares[arm]
        own[arm] = (squares / df if df > 0 else math.nan, df)
    return own


def _outliers(own: Mapping[str, tuple[float, float]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The arms that vary far more, and those that vary far less, than the median arm."""
    with needed_for("comparisons of runs"):
        from scipy import special

    if len(own) < 3:
        return (), ()
    middle = statistics.median(variance for variance, _ in own.values())
    if middle == 0:
        return tuple(arm for arm, (variance, _) in own.items() if variance > 0), ()
    unstable, steady = [], []
    tail = _OUTLIER_LEVEL / 2 / len(own)
    for arm, (variance, df) in own.items():
        scale = middle * df / (2 * special.gammaincinv(df / 2, 0.5))
        low, high = (special.fdtri(df, df * len(own) / 2, level) for level in (tail, 1 - tail))
        unstable += [arm] if variance > high * scale else []
        steady += [arm] if variance < low * scale else []
    return tuple(unstable), tuple(steady)
