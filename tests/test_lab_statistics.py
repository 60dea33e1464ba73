"""Comparisons of arms: against scipy, statsmodels and hand-computed values, and by simulations of families."""

import math

import numpy
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from resnorm.lab import Comparison, compare, control, detectable, moderated_variance, variance_prior
from resnorm.lab.statistics.variance import PRIOR_DF


def study(table) -> dict[str, dict[int, float]]:
    """A table of (arms, seeds) as the functions take it; arms are "0", "1", ..."""
    return {str(arm): dict(enumerate(map(float, row))) for arm, row in enumerate(table)}


def draw(seed: int = 0) -> numpy.random.Generator:
    return numpy.random.default_rng(seed)


# -------------------------------------------------------------------------------- two arms


def test_two_arms_alone_are_the_ordinary_t_tests():
    a, b = draw().normal(size=(2, 5)) + [[0.5], [0]]
    paired, unpaired = compare(study([a, b]), "0", "1"), compare(study([a, b]), "0", "1", paired=False)
    for comparison, test in ((paired, stats.ttest_rel(a, b)), (unpaired, stats.ttest_ind(a, b))):
        assert comparison.df == pytest.approx(test.df)
        assert comparison.p_value == pytest.approx(test.pvalue)
        assert comparison.interval == pytest.approx(tuple(test.confidence_interval()))


def test_only_shared_seeds_are_paired():
    values = {"a": {0: 1.0, 1: 2.0, 2: 4.0, 3: 90.0}, "b": {0: 0.5, 1: 1.0, 2: 2.5, 7: -90.0}}
    comparison = compare(values, "a", "b")
    assert comparison.seeds == 3 and comparison.estimate == pytest.approx(1.0)
    assert comparison.p_value == pytest.approx(stats.ttest_rel([1, 2, 4], [0.5, 1, 2.5]).pvalue)


def test_equivalence_is_two_one_sided_tests():
    a, b = draw(1).normal(size=(2, 6))
    comparison = compare(study([a, b]), "0", "1", margin=1.5)
    p_value, *_ = DescrStatsW(a - b).ttost_mean(-1.5, 1.5)
    assert comparison.p_equivalence == pytest.approx(p_value)
    assert comparison.p_inferiority == pytest.approx(stats.ttest_1samp(a - b, -1.5, alternative="greater").pvalue)


@pytest.mark.parametrize(
    ("estimate", "margin", "outcome"),
    [(3.0, None, "larger"), (-3.0, None, "smaller"), (1.0, None, "undecided"), (0.1, 4.0, "equivalent"), (3.0, 9.0, "equivalent")],
)
def test_outcomes(estimate, margin, outcome):
    comparison = Comparison(estimate, 1.0, 20, 3, margin=margin)
    assert comparison.outcome == outcome
    silent = comparison.not_tested("the reference is at chance")
    assert silent.outcome == "not tested here" and str(silent).endswith("; not tested here: the reference is at chance")


def test_text():
    assert str(Comparison(1.7, 0.2, 40, 3, "points of test accuracy")) == (
        "+1.70 [1.3, 2.1] points of test accuracy (95 % interval, 3 seeds)"
    )
    undecided = str(Comparison(0.2, 0.5, 40, 3, "points"))
    assert undecided == (
        "+0.2 [-0.8, 1.2] points (95 % interval, 3 seeds); undecided: a difference of 1.4 would have been found (80 % power)"
    )
    assert str(Comparison(0.1, 0.5, 40, 3, margin=2.0)).endswith("; equivalent within 2")
    assert "[-0.003, " in str(Comparison(0.5, 0.249, 40, 3)), "an end that is not zero is not written as zero"
    assert str(Comparison(120.0, 2000.0, 40, 3)).startswith("+120 [-3922, 4162]")
    assert "one seed, 1,000 test items)" in str(Comparison(3.0, 1.0, 999, 1, items=1000))


def test_without_spread_there_is_no_interval():
    for table, reason in (([[1.0], [2.0]], "one run says nothing"), ([[1.0] * 3, [2.0] * 3], "no run differs")):
        comparison = compare(study(table), "1", "0", margin=9.0)
        assert comparison.outcome == "undecided" and comparison.p_value == 1 and math.isnan(comparison.detectable)
        assert f"no interval: {reason}" in str(comparison) and "± 0" not in str(comparison)


@pytest.mark.parametrize(("df", "power", "level"), [(2, 0.8, 0.05), (48, 0.8, 0.05), (10, 0.95, 0.01)])
def test_detectable(df, power, level):
    effect = TTestPower().solve_power(nobs=df + 1, alpha=level, power=power, alternative="two-sided")
    assert detectable(2.0, df, power, level) == pytest.approx(2.0 * effect * math.sqrt(df + 1), rel=1e-6)


def test_detectable_of_many_is_the_normal():
    assert detectable(1.0, math.inf) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), rel=1e-4)


def test_bad_input_is_named():
    values = study([[1.0, 2.0], [2.0, 3.5]])
    for arguments, message in (
        ((values, "0", "2"), "no arm '2'; allowed: '0', '1'"),
        ((values, "0", "0"), "both arms are '0'"),
        (({"a": {0: 1.0}, "b": {1: 1.0}}, "a", "b"), "share no seed: 'a' has \\[0\\], 'b' has \\[1\\]"),
        (({"a": {0: 1.0}, "b": {}}, "a", "b"), "arms without a value: 'b'"),
        (({"a": {0: 1.0}, "b": {0: math.nan}}, "a", "b"), "arm 'b', seed 0 has the value nan: .*proportions"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(*arguments)
    with pytest.raises(ValueError, match="margin is 0"):
        compare(values, "0", "1", margin=0)
    with pytest.raises(ValueError, match="paired is True, and the variance was fitted with paired=False"):
        compare(values, "0", "1", variance=moderated_variance(values, paired=False))
    with pytest.raises(ValueError, match="both must be positive"):
        detectable(0.0, 3)


# -------------------------------------------------------------------------------- the study's variance


def test_alike_arms_share_their_variance():
    """Four arms with the same deviations: the residual of a two-way analysis of variance."""
    seeds = numpy.array([3.0, -1.0, 5.0])
    noise = numpy.array([[1, -1, 0], [-1, 1, 0], [0, 1, -1], [0, -1, 1.0]])
    table = numpy.arange(4)[:, None] + seeds + noise
    fitted = moderated_variance(study(table))
    residual = (noise**2).sum() / (3 * 2)
    assert fitted.df == pytest.approx(6) and fitted.prior.variance == pytest.approx(residual)
    assert all(arm.moderated == pytest.approx(residual) for arm in fitted.arms.values())
    assert compare(study(table), "0", "1").standard_error == pytest.approx(math.sqrt(2 * residual / 3))


def test_missing_seeds_are_fitted_by_least_squares():
    """The residual sum of squares of an unbalanced study is that of the regression on arms and seeds."""
    values = study(draw(2).normal(size=(4, 5)) + 4 * numpy.arange(5))
    del values["0"][4], values["1"][0], values["2"][1]
    rows = [(arm, seed, value) for arm, seeds in values.items() for seed, value in seeds.items()]
    design = numpy.array([[arm == a for a in values] + [seed == s for s in range(5)] for arm, seed, _ in rows], float)
    _, (*_,), rank, _ = numpy.linalg.lstsq(design, numpy.array([value for *_, value in rows]))
    fit = design @ numpy.linalg.pinv(design) @ [value for *_, value in rows]
    expected = sum((value - f) ** 2 for (*_, value), f in zip(rows, fit, strict=True))
    fitted = moderated_variance(values)
    assert fitted.df == pytest.approx(len(rows) - rank)
    assert sum(arm.own * arm.own_df for arm in fitted.arms.values()) == pytest.approx(expected)


def test_prior_recovers_how_unequal_the_arms_are():
    random = draw(3)
    variances = 2.0 * 4 / random.chisquare(4, 4000) * random.chisquare(2, 4000) / 2
    prior = variance_prior((variance, 2) for variance in variances)
    assert prior.df == pytest.approx(4, rel=0.15) and prior.variance == pytest.approx(2, rel=0.1)
    equal = variance_prior((variance, 2) for variance in random.chisquare(2, 4000) / 2)
    assert equal.df == PRIOR_DF and equal.variance == pytest.approx(1, rel=0.05)


def test_an_unstable_arm_does_not_poison_the_others():
    table = draw(4).normal(size=(8, 3))
    alone = compare(study(table), "1", "2")
    table[0] = [90, 5, 80]
    fitted = moderated_variance(study(table))
    assert fitted.unstable == ("0",)
    assert compare(study(table), "1", "2").standard_error == pytest.approx(alone.standard_error, rel=0.3)
    own = compare(study(table), "0", "1")
    assert own.df == pytest.approx(2, abs=0.3) and own.standard_error > 20


def test_a_constant_arm_borrows_the_variance_of_the_others():
    table = draw(5).normal(size=(8, 3))
    table[0] = 0.1
    fitted = moderated_variance(study(table), paired=False)
    assert fitted.steady == ("0",) and fitted.arms["0"].own == 0 and fitted.arms["0"].moderated > 0.1 * fitted.prior.variance
    others = moderated_variance(study(table[1:]), paired=False)
    assert fitted.prior == others.prior


def test_few_arms_borrow_from_other_studies():
    table = [[1.0, 1.1, 1.2], [2.0, 2.2, 2.1]]
    alone = moderated_variance(study(table))
    prior = variance_prior([(0.4, 8), (0.5, 12), (0.45, 10)])
    both = moderated_variance(study(table), prior=prior)
    assert alone.df == 2 and both.df == 2 + prior.df
    expected = (2 * alone.arms["0"].moderated + prior.df * prior.variance) / (2 + prior.df)
    assert both.arms["0"].moderated == pytest.approx(expected)
    many = study(draw(6).normal(size=(6, 3)))
    assert moderated_variance(many, prior=prior) == moderated_variance(many)


def test_one_seed_of_an_arm_is_judged_by_the_study():
    values = study(draw(7).normal(size=(6, 3)))
    values["5"] = {0: 9.0}
    comparison = compare(values, "5", "0")
    assert comparison.seeds == 1 and comparison.measurable and comparison.outcome == "larger"


# -------------------------------------------------------------------------------- simulations


def families(count: int, arms: int, deviations, seed: int):
    """Studies of equal arms with seeds that matter, and each arm's comparison with arm "0"."""
    random = draw(seed)
    for _ in range(count):
        table = random.normal(size=(arms, 3)) * deviations(random)[:, None] + 3 * random.normal(size=3)
        values = study(table)
        variance = moderated_variance(values)
        yield {arm: compare(values, arm, "0", variance=variance) for arm in values if arm != "0"}


def alike(random):
    return numpy.ones(13)


def unequal(random):
    """The deviations of arms as our recorded studies have them: the largest of 13 is some five times the smallest."""
    return numpy.sqrt(4 / random.chisquare(4, size=13))


@pytest.mark.parametrize("deviations", [alike, unequal])
def test_equal_arms_differ_in_at_most_5_percent_of_families(deviations):
    called = [
        any(comparison.outcome != "undecided" for comparison in control(family).values())
        for family in families(500, 13, deviations, seed=8)
    ]
    assert sum(called) / len(called) <= 0.05
