"""Comparisons of arms: against scipy, statsmodels and hand-computed values, and by simulations of families."""

import contextlib
import io
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pandas
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from resnorm.lab import (
    Comparison,
    at_chance,
    best_rates,
    brier,
    calibration,
    compare,
    control,
    corpus_bleu,
    detectable,
    false_discovery,
    hierarchical,
    learned_rates,
    matched,
    moderated_variance,
    paired_bootstrap,
    plateau,
    progress,
    proportions,
    rank_correlation,
    rate_sensitivity,
    unfinished,
    variance_prior,
)
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
    assert undecided == ("+0.2 [-0.8, 1.2] points (95 % interval, 3 seeds); undecided, 1.4 would have been found (80 % power)")
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


def test_a_difference_of_the_detectable_size_is_found_with_its_power():
    random = draw(9)
    shift = detectable(math.sqrt(2 / 5), 4)
    first, second = random.normal(size=(2, 2000, 5)) + 3 * random.normal(size=(2000, 5))
    pairs = [compare(study([a + shift, b]), "0", "1") for a, b in zip(first, second, strict=True)]
    assert sum(pair.outcome == "larger" for pair in pairs) / 2000 == pytest.approx(0.8, abs=0.03)


def test_a_study_finds_the_detectable_size_that_it_states():
    """With variances that are estimated, the power is the stated one in the mean over studies."""
    random, found, stated = draw(10), [], []
    shift = 2.6
    for _ in range(600):
        table = random.normal(size=(13, 3)) + 3 * random.normal(size=3)
        table[1] += shift
        comparison = compare(study(table), "1", "0")
        found.append(comparison.outcome == "larger")
        stated.append(comparison.detectable)
    assert numpy.median(stated) == pytest.approx(shift, rel=0.1)
    assert numpy.mean(found) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("arms", [2, 13])
def test_arms_that_differ_by_the_margin_are_called_equivalent_in_at_most_5_percent(arms):
    random, called = draw(11), 0
    for _ in range(600):
        table = random.normal(size=(arms, 5)) + 3 * random.normal(size=5)
        table[1] += 2.0
        called += compare(study(table), "0", "1", margin=2.0).outcome == "equivalent"
    assert called / 600 <= 0.05


# -------------------------------------------------------------------------------- counts and forecasts


def test_three_of_three_against_none_is_undecided():
    contest = proportions(3, 3, 0, 3, "runs that learned")
    assert contest.p_value == pytest.approx(2 / math.comb(6, 3))
    assert contest.outcome == "undecided" and contest.interval[0] < 0
    assert str(contest).startswith("3 of 3 against 0 of 3 runs that learned (difference of shares +1.000 [-0.001, 1.000], 95 %")
    assert proportions(5, 5, 0, 5).outcome == "larger" and proportions(0, 5, 5, 5).outcome == "smaller"
    assert contest.not_tested("no").outcome == "not tested here"
    with pytest.raises(ValueError, match="4 of 3 is no count"):
        proportions(4, 3, 0, 3)


def test_only_pairs_that_differ_speak():
    """McNemar's exact test, and an interval that agrees with it; what both runs of a pair do says nothing."""
    silent = [(True, True)] * 16 + [(False, False)] * 31
    contest = matched([(True, False)] * 7 + silent, "runs that learned")
    assert contest.p_value == pytest.approx(2 / 2**7) and contest.outcome == "larger" and contest.interval[0] > 0
    assert (contest.first, contest.second) == ((23, 54), (16, 54)) and "p = 0.016" in str(contest)
    assert matched([(False, True)] * 7 + silent).outcome == "smaller"
    few = matched([(True, False)] * 3 + silent)
    assert few.p_value == 0.25 and few.outcome == "undecided" and few.interval[0] < 0
    assert matched(silent).p_value == 1 and matched(silent).outcome == "undecided"
    with pytest.raises(ValueError, match="no pair"):
        matched([])


@pytest.mark.parametrize(("n1", "n2"), [(2, 2), (3, 3), (3, 10), (10, 10)])
def test_the_interval_of_two_shares_covers(n1, n2):
    """Exactly, by all tables, for a grid of true shares."""
    grid = numpy.linspace(0, 1, 41)
    first, second = (stats.binom.pmf(numpy.arange(n + 1), n, grid[:, None]) for n in (n1, n2))
    covered = numpy.zeros((41, 41))
    for k1 in range(n1 + 1):
        for k2 in range(n2 + 1):
            low, high = proportions(k1, n1, k2, n2).interval
            difference = grid[:, None] - grid
            inside = (low - 1e-9 <= difference) & (difference <= high + 1e-9)
            covered += inside * first[:, [k1]] * second[:, k2]
    assert covered.min() >= 0.92 and covered.mean() >= 0.95


def test_brier_and_calibration():
    forecasts, outcomes = [0.9, 0.8, 0.1, 1.0], [True, False, False, True]
    assert brier(forecasts, outcomes) == pytest.approx((0.01 + 0.64 + 0.01 + 0) / 4)
    low, high = calibration(forecasts, outcomes)
    assert (low.count, low.forecast, low.share) == (1, 0.1, 0.0)
    assert (high.low, high.count, high.share) == (0.8, 3, pytest.approx(2 / 3)) and high.forecast == pytest.approx(0.9)
    with pytest.raises(ValueError, match="a forecast is 80"):
        brier([80], [True])
    with pytest.raises(ValueError, match="2 forecasts and 1 outcomes"):
        calibration([0.5, 0.5], [True])


# -------------------------------------------------------------------------------- test items


def test_items_alone_are_the_paired_test_of_one_seed():
    random = draw(12)
    a, b = random.random(2000) < 0.8, random.random(2000) < 0.75
    comparison = paired_bootstrap(a, b)
    assert comparison.estimate == pytest.approx(a.mean() - b.mean()) and comparison.items == 2000
    expected = (a.astype(float) - b).std() / math.sqrt(2000)
    assert comparison.standard_error == pytest.approx(expected, rel=0.05)
    assert comparison == paired_bootstrap(a, b), "the same draws again"


@pytest.mark.parametrize(("seeds", "of_seeds", "of_items"), [(4, 0.3, 0.2), (10, 0.05, 1.0)])
def test_seeds_and_items_both_count(seeds, of_seeds, of_items):
    """The interval covers the true difference where seeds and items are both drawn anew, whichever of them matters more."""
    random, covered, as_one_sample = draw(13), 0, 0
    for _ in range(300):
        items = random.normal(size=200)
        a = 0.3 + of_seeds * random.normal(size=(seeds, 1)) + items + random.normal(size=(seeds, 200))
        b = (1 + of_items) * items + random.normal(size=(seeds, 200))
        comparison = paired_bootstrap(a, b, replicates=200)
        low, high = comparison.interval
        covered += low <= 0.3 <= high
        as_one_sample += abs(comparison.estimate - 0.3) <= 1.96 * (a - b).std() / math.sqrt(200 * seeds)
    assert 0.92 <= covered / 300 <= 0.99
    assert as_one_sample / 300 < 0.8


def test_bleu_from_sums_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    references = ["the cat sat on the mat today", "a dog ran over the green field", "birds sing in the early morning light"]
    first = ["the cat sat on a mat today", "a dog ran over the green grass", "birds sing in the early morning"]
    second = ["the cat sat on the mat", "a dog runs over a green field", "the birds sing in early morning light"]
    bleu = sacrebleu.BLEU(smooth_method="none")
    statistics = []
    for translations in (first, second):
        scores = [bleu.corpus_score([t], [[r]]) for t, r in zip(translations, references, strict=True)]
        statistics.append([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores])
    sums = numpy.array(statistics).sum(axis=1)
    expected = [bleu.corpus_score(translations, [references]).score for translations in (first, second)]
    assert corpus_bleu(sums) == pytest.approx(expected)
    comparison = paired_bootstrap(*numpy.array(statistics)[:, None], score=corpus_bleu, unit="BLEU")
    assert comparison.estimate == pytest.approx(expected[0] - expected[1]) and comparison.standard_error > 0


def test_items_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 5\) and \(2, 6\)"):
        paired_bootstrap(numpy.zeros((2, 5)), numpy.zeros((2, 6)))
    with pytest.raises(ValueError, match="10 statistics an item: give the score"):
        paired_bootstrap(numpy.zeros((2, 5, 10)), numpy.zeros((2, 5, 10)))


# -------------------------------------------------------------------------------- families


def test_false_discoveries_by_hand():
    p_values = [0.01, 0.04, 0.03, 0.5]
    found, q_values = false_discovery(p_values)
    assert q_values == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5]) and found == [True, False, False, False]
    _, stricter = false_discovery(p_values, method="benjamini-yekutieli")
    assert stricter == pytest.approx([min(1, q * (1 + 1 / 2 + 1 / 3 + 1 / 4)) for q in q_values])
    assert false_discovery([]) == ([], [])
    with pytest.raises(ValueError, match="method is 'bonferroni'; allowed: benjamini-hochberg"):
        false_discovery(p_values, method="bonferroni")


def test_a_family_takes_back_what_is_found_by_chance():
    alone = {str(i): Comparison(0.5, 1.0, 30, 3) for i in range(19)} | {"found": Comparison(2.2, 1.0, 30, 3)}
    assert alone["found"].outcome == "larger" and control(alone)["found"].outcome == "undecided"
    assert str(control(alone)["found"]).endswith("; undecided in its family of comparisons (q = 0.62)")
    alone["found"] = Comparison(6.0, 1.0, 30, 3)
    assert control(alone)["found"].outcome == "larger"
    silent = alone["0"].not_tested("at chance")
    mixed = control({"silent": silent, "counts": proportions(9, 10, 0, 10), "same": Comparison(0.0, 1.0, 30, 3, margin=5.0)})
    assert mixed["silent"] is silent and len(mixed["same"].q_values) == 2
    assert (mixed["counts"].outcome, mixed["same"].outcome) == ("larger", "equivalent")
    with pytest.raises(ValueError, match=r"levels 0\.01, 0\.05"):
        control({1: Comparison(1.0, 1.0, 3, 3, level=0.01), 2: Comparison(1.0, 1.0, 3, 3)})


SCHOOLS = dict(zip("ABCDEFGH", [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], strict=True))
ERRORS = dict(zip("ABCDEFGH", [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], strict=True))


def test_hierarchical_is_the_posterior_by_another_road():
    """The eight schools of Rubin, by random walk over all parameters instead of a grid and exact draws."""
    y, error = numpy.array(list(SCHOOLS.values())), numpy.array(list(ERRORS.values()))
    random = draw(14)
    chains, kept = 400, []
    mean, deviation = random.normal(8, 5, chains), random.uniform(1, 15, chains)
    for step in range(3000):
        weight = 1 / (1 / error**2 + 1 / deviation[:, None] ** 2)
        effects = weight * (y / error**2 + mean[:, None] / deviation[:, None] ** 2) + numpy.sqrt(weight) * random.normal(
            size=(chains, 8)
        )
        mean = effects.mean(axis=1) + deviation / math.sqrt(8) * random.normal(size=chains)
        # A flat prior on the deviation: its square is scaled inverse chi-square with 7 degrees of freedom.
        deviation = numpy.sqrt(((effects - mean[:, None]) ** 2).sum(axis=1) / random.chisquare(7, size=chains))
        if step >= 500 and step % 5 == 0:
            kept.append(effects)
    sampled = numpy.concatenate(kept)
    model = hierarchical(SCHOOLS, ERRORS, reference="E")
    for i, effect in enumerate(model.effects):
        assert effect.shrunken == pytest.approx(sampled[:, i].mean(), abs=0.35)
        assert effect.interval == pytest.approx(tuple(numpy.quantile(sampled[:, i], [0.025, 0.975])), abs=1.5)
        assert effect.best == pytest.approx((sampled.argmax(axis=1) == i).mean(), abs=0.02)
        assert effect.above == pytest.approx((sampled[:, i] > sampled[:, 4]).mean(), abs=0.02)
    assert model == hierarchical(SCHOOLS, ERRORS, reference="E"), "the same draws again"


def test_hierarchical_shrinks_noise_and_keeps_what_is_clear():
    noise = {str(i): value for i, value in enumerate(draw(15).normal(size=25))}
    shrunk = hierarchical(noise, dict.fromkeys(noise, 1.0))
    estimates, means = numpy.array([(e.estimate, e.shrunken) for e in shrunk.effects]).T
    assert means.std() < 0.5 * estimates.std() and max(e.best for e in shrunk.effects) < 0.5
    clear = hierarchical({"a": 0.0, "b": 10.0, "c": 20.0}, dict.fromkeys("abc", 0.1), larger=False)
    assert [e.rank for e in clear.effects] == [1, 2, 3] and clear.effects[0].rank_interval == (1, 1)
    assert clear.effects[2].shrunken == pytest.approx(20, abs=0.1) and clear.effects[0].best == 1
    for arguments, message in (
        (({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0}), "there are 2 arms"),
        ((SCHOOLS, ERRORS | {"C": 0.0}), "the standard error of 'C' is 0"),
        ((SCHOOLS, ERRORS, "Z"), "no arm 'Z'; allowed: 'A'"),
    ):
        with pytest.raises(ValueError, match=message):
            hierarchical(*arguments)


# -------------------------------------------------------------------------------- can the setting speak?


def test_what_an_arm_owes_to_its_rate():
    losses = {"wide": [2.0, 1.0, 2.5], "narrow": [2.0, 1.5, math.nan], "high": [2.6, 2.6, 2.6]}
    runs = pandas.DataFrame([{"arm": arm, "value": value} for arm, values in losses.items() for value in values])
    assert learned_rates(runs, chance=2.7, margin=0.2).to_dict() == {"wide": 2, "narrow": 2, "high": 0}
    # a run that diverged counts as chance, and a loss that is high at every rate owes nothing to the rate
    sensitivity = rate_sensitivity(runs, chance=2.7).to_dict()
    assert sensitivity == pytest.approx({"wide": 5.5 / 3 - 1, "narrow": 6.2 / 3 - 1.5, "high": 0})


def test_each_arm_at_its_own_best_rate():
    accuracy = {
        "inside": {0.1: [0.5], 0.2: [0.7, 0.9], 0.3: [0.75], 0.4: [0.1]},
        "edge": {0.1: [0.9], 0.2: [0.8], 0.3: [0.7], 0.4: [0.6]},
        "few": {0.1: [0.1], 0.2: [0.8], 0.3: [0.2]},
        "fails": {0.1: [0.5], 0.2: [0.6], 0.3: [0.9, math.nan], 0.4: [math.nan]},
    }
    rows = [
        {"arm": arm, "lr": rate, "seed": seed, "value": value}
        for arm, rates in accuracy.items()
        for rate, values in rates.items()
        for seed, value in enumerate(values)
    ]
    best = best_rates(pandas.DataFrame(rows)).set_index("arm")
    assert best["lr"].to_dict() == {"inside": 0.2, "edge": 0.1, "few": 0.2, "fails": 0.2}
    assert best["optimum"].to_dict() == {
        "inside": "interior",
        "edge": "edge of the grid",
        "few": "too few rates",
        "fails": "interior",
    }
    assert best.loc["inside", ["value", "rates", "runs"]].tolist() == [pytest.approx(0.8), 4, 2]
    assert best_rates(pandas.DataFrame(rows), larger=False).set_index("arm").loc["inside", "lr"] == 0.4
    with pytest.raises(ValueError, match="no column value; it has: arm, lr, seed"):
        best_rates(pandas.DataFrame(rows).drop(columns="value"))
    with pytest.raises(ValueError, match="arm 'x' has no rate at which every run is finite"):
        best_rates(pandas.DataFrame({"arm": ["x"], "lr": [0.1], "seed": [0], "value": [math.inf]}))


def test_an_arm_at_chance_or_on_a_plateau_cannot_speak():
    assert at_chance([0.1, 0.11, 0.12], chance=0.1) and not at_chance([0.1, 0.4, 0.5], chance=0.1)
    assert at_chance([2.3, math.nan], chance=math.log(10), perfect=0.0) and not at_chance([1.0], math.log(10), 0.0)
    assert progress(0.55, chance=0.1, perfect=1.0) == pytest.approx(0.5)
    steps = numpy.arange(100)
    assert plateau(2.3 - 0.001 * steps) and not plateau(2.3 * numpy.exp(-steps / 30))
    assert unfinished(2.3 - 0.01 * steps) and not unfinished(2.3 * numpy.exp(-steps / 10)) and not unfinished(numpy.ones(100))
    with pytest.raises(ValueError, match="chance and perfect are both 1"):
        progress(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="3 values is too short"):
        unfinished([1.0, 0.5, 0.4], window=0.5)
    with pytest.raises(ValueError, match="no value"):
        at_chance([], 0.1)


def test_the_page_prints_what_its_code_prints():
    """And what it says of the old rule: twice the standard error of three seeds, 18 of 100; 4.3 would be needed."""
    text = (Path(__file__).parent.parent / "book/how_this_book_decides.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|text)\n(.*?)```", text, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "text"] * (len(blocks) // 2) and blocks
    names = {}
    for (_, code), (_, shown) in zip(blocks[::2], blocks[1::2], strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "how_this_book_decides.md", "exec"), names)
        assert printed.getvalue() == shown
    assert f"${200 * stats.t.sf(2, 2):.0f}$ of $100$ cases" in text
    assert f"mean of ${stats.t.isf(0.025, 2):.1f}$ standard errors" in text


def test_the_lab_loads_no_statistics_package():
    code = "import sys, resnorm.lab; print(sorted({'scipy', 'statsmodels', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_rank_correlation_holds_a_third_quantity_fixed():
    draw = numpy.random.default_rng(0)
    depth = numpy.arange(40.0)
    angle, damage = depth + 8 * draw.standard_normal(40), depth + 8 * draw.standard_normal(40)
    raw = rank_correlation(angle, damage)
    assert raw.estimate == pytest.approx(stats.spearmanr(angle, damage).statistic)
    assert raw.interval[0] < raw.estimate < raw.interval[1] < 1
    # The residuals of the ranks correlate as the partial correlation says; here the common cause was everything.
    ranks = [stats.rankdata(side) for side in (angle, damage, depth)]
    rest = [side - numpy.polyval(numpy.polyfit(ranks[2], side, 1), ranks[2]) for side in ranks[:2]]
    partial = rank_correlation(angle, damage, depth)
    assert partial.estimate == pytest.approx(numpy.corrcoef(*rest)[0, 1])
    assert raw.interval[0] > 0.3 and partial.interval[0] < 0 < partial.interval[1]
    # A side whose order is that of what is held fixed has nothing left to say.
    assert math.isnan(rank_correlation(-depth, damage, depth).estimate)
    assert str(rank_correlation(-depth, damage, depth)) == "not defined"
    assert rank_correlation(depth, depth**3).estimate == 1
    with pytest.raises(ValueError, match="4 pairs: an interval needs 5"):
        rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="the sides have 5, 6 values"):
        rank_correlation(range(5), range(6))
