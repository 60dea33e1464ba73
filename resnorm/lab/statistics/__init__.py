"""Statistics of arms and seeds: intervals, equivalence, counts, families, and what a design could have found."""

from resnorm.lab.statistics.comparison import Comparison, Outcome, compare, detectable
from resnorm.lab.statistics.correlation import Correlation, rank_correlation
from resnorm.lab.statistics.counts import CalibrationBin, Proportions, brier, calibration, matched, proportions
from resnorm.lab.statistics.families import Effect, Hierarchy, control, false_discovery, hierarchical
from resnorm.lab.statistics.items import corpus_bleu, paired_bootstrap
from resnorm.lab.statistics.settings import at_chance, best_rates, learned_rates, plateau, progress, rate_sensitivity, unfinished
from resnorm.lab.statistics.variance import ArmVariance, ModeratedVariance, Prior, Values, moderated_variance, variance_prior

__all__ = [
    "ArmVariance",
    "CalibrationBin",
    "Comparison",
    "Correlation",
    "Effect",
    "Hierarchy",
    "ModeratedVariance",
    "Outcome",
    "Prior",
    "Proportions",
    "Values",
    "at_chance",
    "best_rates",
    "brier",
    "calibration",
    "compare",
    "control",
    "corpus_bleu",
    "detectable",
    "false_discovery",
    "hierarchical",
    "learned_rates",
    "matched",
    "moderated_variance",
    "paired_bootstrap",
    "plateau",
    "progress",
    "proportions",
    "rank_correlation",
    "rate_sensitivity",
    "unfinished",
    "variance_prior",
]
