"""The rules that decide contests: each is a function of a study, and its first line is what the ledger prints."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from resnorm.lab.statistics import Comparison, learned_rates, rate_sensitivity


@dataclass(frozen=True)
class Judgement:
    """Hold what a rule says: what was measured, the outcome, and what limits it."""

    measured: Any
    outcome: str
    note: str | None = None


RULES: dict[str, Callable[..., Judgement]] = {}
OF_A_DIFFERENCE: set[str] = set()


def rule(function: Callable[..., Judgement]) -> Callable[..., Judgement]:
    """Add a rule under the name of its function."""
    RULES[function.__name__] = function
    return function


def of_a_difference(function: Callable[..., Judgement]) -> Callable[..., Judgement]:
    """Add a rule that judges one difference, `Study.gaps`, which is one of the family of its study."""
    OF_A_DIFFERENCE.add(function.__name__)
    return rule(function)


def sentence(name: str) -> str:
    """The sentence of a rule, for the card and the ledger."""
    return (RULES[name].__doc__ or "").partition("\n")[0]


def points(metric: str) -> tuple[float, str]:
    """The factor and the unit in which a metric's differences read: shares and losses in hundredths."""
    words = spoken(metric)
    if metric.endswith("loss"):
        return 100.0, f"hundredths of a nat of {words}"
    if metric.endswith(("accuracy", "exact")):
        return 100.0, f"points of {words}"
    return 1.0, f"points of {words}" if metric.endswith(("error", "bleu", "chrf")) else words


def spoken(metric: str) -> str:
    """A metric in words."""
    return metric.replace("_", " ").replace("bleu", "BLEU").replace("chrf", "chrF")


def axis(metric: str) -> str:
    """What an axis of the metric is called, with its unit."""
    unit = ", nats" if metric.endswith("loss") else ", %" if metric.endswith("error") else ""
    return spoken(metric) + unit


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return metric.endswith(("loss", "error"))


@of_a_difference
def beats(
    study: Any, id: str, better: str, than: str, metric: str, cannot_refute: str | None = None, chance: float | None = None
) -> Judgement:
    """It holds if the 95 % interval of the difference, with the variance of all arms, lies on the better side of 0."""
    gap = study.gaps[id]
    measured = f"{better} minus {than}: {gap}"
    if chance is not None and not _learned(study, id, (better, than), metric, chance):
        return Judgement(measured, "not tested here", f"Neither has learned: {axis(metric)} is not better than {chance:g}.")
    return Judgement(measured, _unless(outcome(gap, metric), cannot_refute), _note(metric, cannot_refute))


@of_a_difference
def equivalent(study: Any, id: str, better: str, than: str, metric: str, margin: float) -> Judgement:
    """It holds if two one-sided tests put the difference within the stated margin, and fails if it is certainly not 0."""
    gap = study.gaps[id]
    words = {"equivalent": "holds", "larger": "does not hold", "smaller": "does not hold"}
    return Judgement(f"{better} minus {than}: {gap}", words.get(gap.outcome, gap.outcome), f"Margin: {margin:g}.")


@of_a_difference
def gains_nothing(study: Any, id: str, better: str, than: str, metric: str) -> Judgement:
    """It holds if the first arm is equivalent or worse, and fails if it is better."""
    gap = study.gaps[id]
    words = {"equivalent": "holds", "larger": "holds", "smaller": "does not hold"}
    if not lower_is_better(metric):
        words |= {"larger": "does not hold", "smaller": "holds"}
    return Judgement(f"{better} minus {than}: {gap}", words.get(gap.outcome, gap.outcome), side(metric))


@of_a_difference
def keeps_up(
    study: Any, id: str, better: str, than: str, metric: str, margin: float, cannot_refute: str | None = None
) -> Judgement:
    """It holds if the first arm is not worse by the margin or more, at a one-sided level of 5 %."""
    gap = study.gaps[id]
    verdict, note = _unless(_not_worse(gap, metric, margin), cannot_refute), f"{side(metric)} Margin: {margin:g}."
    return Judgement(f"{better} minus {than}: {gap}", verdict, f"{note} {cannot_refute}" if cannot_refute else note)


@of_a_difference
def better_under(
    study: Any, id: str, better: str, than: str, metric: str, conditions: list[dict], cannot_refute: str | None = None
) -> Judgement:
    """It holds if one arm is better under the first condition than under the second, by a 95 % interval."""
    gap, (first, second) = study.gaps[id], map(condition_name, conditions)
    measured = f"{better}, {first} minus {second}: {gap}"
    return Judgement(measured, _unless(outcome(gap, metric), cannot_refute), _note(metric, cannot_refute))


@of_a_difference
def keeps_up_under(study: Any, id: str, better: str, than: str, metric: str, conditions: list[dict], margin: float) -> Judgement:
    """It holds if one arm is not worse by the margin or more under the first condition than under the second."""
    gap, (first, second) = study.gaps[id], map(condition_name, conditions)
    measured = f"{better}, {first} minus {second}: {gap}"
    return Judgement(measured, _not_worse(gap, metric, margin), f"{side(metric)} Margin: {margin:g}.")


@rule
def interaction(study: Any, id: str, better: str, than: str, metric: str, conditions: list[dict]) -> Judgement:
    """It holds if the advantage of the first arm is larger under the first condition than under the second: a 95 % interval."""
    first, second = (study.gap(better, than, metric, **condition) for condition in conditions)
    change = minus(first, second)
    names = [condition_name(condition) for condition in conditions]
    measured = {f"{better} minus {than}, {name}": str(gap) for name, gap in zip(names, (first, second), strict=True)}
    return Judgement(measured | {"difference": str(change)}, outcome(change, metric), side(metric))


@rule
def learns_at_more_rates(study: Any, id: str, better: str, than: str, metric: str, chance: float, margin: float) -> Judgement:
    """It holds if the first arm learns at more of the rates, and a run learns if its loss is below chance by the margin."""
    counts = learned_rates(study.values(metric), chance, margin)
    measured = {arm: f"learns at {counts[arm]} of the rates" for arm in (better, than)}
    note = f"Learned: {spoken(metric)} below {chance:g} by {margin:g} nats."
    return Judgement(measured, "holds" if counts[better] > counts[than] else "does not hold", note)


@rule
def less_sensitive(study: Any, id: str, better: str, than: str, metric: str, chance: float, margin: float) -> Judgement:
    """It holds if the first arm owes less of its loss to the choice of the rate; within the margin it is undecided."""
    sensitivity = rate_sensitivity(study.values(metric), chance)
    less = sensitivity[than] - sensitivity[better]
    measured = {arm: round(sensitivity[arm], 2) for arm in (better, than)}
    outcome = "undecided" if abs(less) < margin else "holds" if less > 0 else "does not hold"
    return Judgement(measured, outcome, f"Mean over the rates of the loss above the best one, in nats. Margin: {margin:g}.")


def minus(first: Comparison, second: Comparison) -> Comparison:
    """The difference of two differences that share no run, with the degrees of freedom of Welch and Satterthwaite."""
    error = math.hypot(first.standard_error, second.standard_error)
    parts = [(gap.standard_error**4, gap.df) for gap in (first, second)]
    df = error**4 / math.fsum(part / df for part, df in parts) if error > 0 else 0.0
    return replace(first, estimate=first.estimate - second.estimate, standard_error=error, df=df, margin=None, q_values=None)


def outcome(gap: Comparison, metric: str) -> str:
    """What a difference says of "the first is better": equivalent arms are not better."""
    if gap.outcome in ("undecided", "not tested here"):
        return gap.outcome
    better = "smaller" if lower_is_better(metric) else "larger"
    return "holds" if gap.outcome == better else "does not hold"


def condition_name(condition: dict[str, Any]) -> str:
    """How a condition is called: its settings and their values."""
    return ", ".join(f"{key} {value}" for key, value in condition.items())


def _not_worse(gap: Comparison, metric: str, margin: float) -> str:
    worst = (-1 if lower_is_better(metric) else 1) * gap.estimate
    if replace(gap, estimate=worst, margin=margin).p_inferiority <= gap.level:
        return "holds"
    worse = replace(gap, estimate=-worst - margin, margin=None).p_value <= gap.level and worst < -margin
    return "does not hold" if worse else "undecided"


def _learned(study: Any, id: str, arms: tuple[str, ...], metric: str, chance: float) -> bool:
    """Whether one of the arms is better than `chance` in the mean over its seeds: two that only guess have no winner."""
    means = study.table(metric, **study.contests[id].get("where", {}))["mean"][list(arms)]
    return bool(means.min() < chance if lower_is_better(metric) else means.max() > chance)


def _unless(outcome: str, cannot_refute: str | None) -> str:
    """A setting that cannot speak against a claim leaves it untested."""
    return "not tested here" if cannot_refute and outcome != "holds" else outcome


def _note(metric: str, cannot_refute: str | None) -> str:
    return f"{side(metric)} {cannot_refute}" if cannot_refute else side(metric)


def side(metric: str) -> str:
    """Which sign is the better one."""
    words = spoken(metric)
    return f"{words[0].upper()}{words[1:]}; {'negative' if lower_is_better(metric) else 'positive'} is better."
