"""Studies: arms by name, what is missing, contests as data, and the rules that decide them."""

import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from resnorm import claims, lab
from resnorm.claims import ClaimFailed
from resnorm.lab import rules
from resnorm.lab import study as study_function

ROOT = Path(__file__).resolve().parent.parent
CONTEST = {
    "id": "v2-beats-v1",
    "statement": "ResNet v2 is better.",
    "source": "he2016identity",
    "chapter": "orders",
    "level": "small training",
    "rule": "beats",
    "better": "ResNet v2",
    "than": "ResNet v1",
    "metric": "test_accuracy",
    "expected": "undecided",
    "study": "conv_orders",
    "file": "studies/conv_orders/claims.yml",
}


@pytest.fixture
def studies(tmp_path, monkeypatch):
    """A folder of studies that can be changed: conv_orders with its recorded runs, and an arm that has none."""
    folder = tmp_path / "studies"
    shutil.copytree(ROOT / "studies/conv_orders", folder / "conv_orders")
    plan = folder / "conv_orders/plan.py"
    plan.write_text(plan.read_text().replace("ARMS = {\n", 'ARMS = {\n    "LayerScale": dict(variant="layerscale"),\n'))
    monkeypatch.setenv("RESNORM_STUDIES", str(folder))
    return folder


@pytest.fixture
def contests(monkeypatch):
    """The contests of the studies are these; returns a function that adds one."""
    entries = {}
    monkeypatch.setattr(claims, "claims", lambda: entries)
    # `resnorm.lab.study` is the function of this name
    monkeypatch.setattr(sys.modules["resnorm.lab.study"], "claims", lambda: entries)

    def add(**fields):
        entry = CONTEST | fields
        entries[entry["id"]] = entry
        return entry["id"]

    return add


def test_an_arm_without_runs_is_not_yet_measured_and_touches_nobody_else(studies, contests):
    ids = contests(id="new", better="LayerScale"), contests()
    study = lab.study("conv_orders")
    assert study.arms[0] == "LayerScale" and len(study.missing()) == len(study.missing("LayerScale")) == 3
    say = "3 runs are missing: `python -m resnorm fill conv_orders --preset cpu --arm 'LayerScale'`"
    assert study.lacking() == study.lacking("LayerScale") == say and study.lacking("ResNet v1") == ""
    assert say in study.origin()
    whole = lab.study("conv_orders", arms=[arm for arm in study.arms if arm != "LayerScale"])
    assert str(study.gap("ResNet v2", "ResNet v1")) == str(whole.gap("ResNet v2", "ResNet v1"))
    card = study.judge(ids[0])
    assert card.verdict == "not yet measured" and card.note == say
    assert study.judge(ids[1]).verdict == "undecided"
    with pytest.raises(ValueError, match=re.escape(say)):
        study.gap("LayerScale", "ResNet v1")
    assert "LayerScale" not in list(study.against("ResNet v1").arm)
    assert "LayerScale" not in study.table().index and "LayerScale" not in study.figure("test_error").alt


def test_a_card_of_a_contest_says_rule_level_and_difference(contests, tmp_path, monkeypatch):
    monkeypatch.setenv("RESNORM_CLAIMS", str(tmp_path))
    study = lab.study("conv_orders")
    card = study.judge(contests(), published="6.37 against 6.61", note="Twenty layers.")
    rows = dict(card.rows())
    assert rows["Evidence"].startswith("small training") and rows["Decided by"] == rules.sentence("beats")
    assert (
        rows["Measured here"] == f"ResNet v2 minus ResNet v1: {study.gaps['v2-beats-v1']}"
        and "95 % interval" in rows["Measured here"]
    )
    assert rows["Note"] == "Test accuracy; positive is better. Twenty layers."
    assert json.loads((tmp_path / "v2-beats-v1.json").read_text())["rule"] == rules.sentence("beats")
    with pytest.raises(ClaimFailed, match="expected to be 'holds', but undecided"):
        lab.study("conv_orders").judge(contests(expected="holds"))
    with pytest.raises(ValueError, match="'nope' is no contest of the study 'conv_orders'; allowed: v2-beats-v1"):
        study.judge("nope")


def gap(estimate, error=1.0, margin=None, df=20.0):
    return lab.Comparison(estimate, error, df, 3, "points", margin)


DEPTHS = [{"depth": 56}, {"depth": 20}]


@pytest.mark.parametrize(
    ("rule", "metric", "options", "comparison", "outcome"),
    [
        ("beats", "test_accuracy", {}, gap(5), "holds"),
        ("beats", "test_accuracy", {}, gap(-5), "does not hold"),
        ("beats", "test_loss", {}, gap(-5), "holds"),
        ("beats", "test_loss", {}, gap(1), "undecided"),
        ("beats", "test_loss", {"cannot_refute": "400 steps."}, gap(5), "not tested here"),
        ("beats", "test_loss", {"cannot_refute": "400 steps."}, gap(-5), "holds"),
        ("equivalent", "test_loss", {"margin": 4}, gap(0.5, margin=4), "holds"),
        ("equivalent", "test_loss", {"margin": 2}, gap(5, margin=2), "does not hold"),
        ("equivalent", "test_loss", {"margin": 1}, gap(0.5, margin=1), "undecided"),
        ("gains_nothing", "test_loss", {}, gap(5), "holds"),
        ("gains_nothing", "test_loss", {}, gap(-5), "does not hold"),
        ("gains_nothing", "test_accuracy", {}, gap(5), "does not hold"),
        ("keeps_up", "test_accuracy", {"margin": 3}, gap(0, margin=3), "holds"),
        ("keeps_up", "test_accuracy", {"margin": 3}, gap(-2, margin=3), "undecided"),
        ("keeps_up", "test_accuracy", {"margin": 3}, gap(-9, margin=3), "does not hold"),
        ("keeps_up", "test_loss", {"margin": 3}, gap(9, margin=3), "does not hold"),
        ("keeps_up", "test_loss", {"margin": 3}, gap(-9, margin=3), "holds"),
        ("keeps_up", "test_loss", {"margin": 3, "cannot_refute": "Short."}, gap(9, margin=3), "not tested here"),
        ("better_under", "test_accuracy", {"conditions": DEPTHS}, gap(5), "holds"),
        ("better_under", "test_accuracy", {"conditions": DEPTHS, "cannot_refute": "Short."}, gap(-5), "not tested here"),
        ("keeps_up_under", "test_accuracy", {"conditions": DEPTHS, "margin": 3}, gap(-2, margin=3), "undecided"),
        ("keeps_up_under", "test_error", {"conditions": DEPTHS, "margin": 3}, gap(-2, margin=3), "holds"),
    ],
)
def test_rules(rule, metric, options, comparison, outcome):
    class Stub:
        gaps = {"x": comparison}

    assert rules.RULES[rule](Stub(), id="x", better="a", than="b", metric=metric, **options).outcome == outcome


@pytest.mark.parametrize(
    ("rule", "better", "than", "outcome"),
    [
        ("learns_at_more_rates", "wide", "narrow", "holds"),
        ("learns_at_more_rates", "narrow", "wide", "does not hold"),
        ("learns_at_more_rates", "wide", "calm", "does not hold"),
        ("less_sensitive", "calm", "wide", "holds"),
        ("less_sensitive", "narrow", "calm", "does not hold"),
        ("less_sensitive", "wide", "narrow", "undecided"),
    ],
)
def test_rules_across_rates(rule, better, than, outcome):
    class Stub:
        def values(self, metric):
            losses = {"wide": [2.0, 1.0, 2.5], "narrow": [2.0, 1.0, math.nan], "calm": [1.0, 1.0, 1.1]}
            return pandas.DataFrame(
                [{"arm": arm, "lr": lr, "value": value} for arm in losses for lr, value in enumerate(losses[arm])]
            )

    options = dict(metric="validation_loss", chance=2.7, margin=0.1)
    assert rules.RULES[rule](Stub(), id="x", better=better, than=than, **options).outcome == outcome
    assert rule in rules.RULES and rule not in rules.OF_A_DIFFERENCE


def test_ranks_leave_out_what_scatters_and_begin_with_the_best():
    zoo = lab.study("placements")
    ranks = zoo.ranks("Pre-Norm", "test_loss")
    assert "Post-Norm" in zoo.variance("test_loss").unstable and "Post-Norm" not in set(ranks.arm)
    assert ranks["rank"].is_monotonic_increasing and ranks.estimate.corr(ranks["rank"]) > 0.9
    assert set(zoo.ranks("Pre-Norm", "test_loss", ["Pre-Norm", "DeepNorm", "Keel"]).arm) == {"Pre-Norm", "DeepNorm", "Keel"}


def test_one_arm_under_two_conditions(contests):
    options = {"better": "Plain", "than": "Plain", "metric": "train_accuracy", "conditions": DEPTHS, "study": "degradation"}
    ids = [contests(id="deeper", rule="better_under", expected="does not hold", **options)]
    ids += [contests(id="as-deep", rule="keeps_up_under", margin=2, expected="does not hold", **options)]
    study = lab.study("degradation")
    change, values = study.change("Plain", *DEPTHS, "train_accuracy"), study.table("train_accuracy", depth=56)["mean"]
    gained = 100 * (values["Plain"] - study.table("train_accuracy", depth=20)["mean"]["Plain"])
    assert change.estimate == pytest.approx(gained) and change.unit == "points of train accuracy"
    assert change.interval[1] < 0 and change.df > 4  # two runs of the plain network alone have 2
    for id in ids:
        assert study.judge(id).measured.startswith("Plain, depth 56 minus depth 20: -")
    with pytest.raises(ValueError, match="has no arm 'Post'"):
        study.change("Post", *DEPTHS)


def test_a_forest_draws_the_differences_of_contests_that_have_one_unit(contests):
    accuracy, error = contests(id="accuracy"), contests(id="error", metric="test_error")
    study = lab.study("conv_orders")
    figure = study.forest(accuracy)
    gap = study.gaps[accuracy]
    (whisker, point, zero), label = figure.axes[0].lines, figure.axes[0].get_xlabel()
    assert list(whisker.get_xdata()) == list(gap.interval) and list(point.get_xdata()) == [gap.estimate]
    assert (
        list(zero.get_xdata()) == [0, 0]
        and label == "points of test accuracy,\npositive is better"
        and "accuracy, positive" in figure.alt
    )
    assert f"{CONTEST['better']} − {CONTEST['than']}: " in figure.alt
    with pytest.raises(ValueError, match="no common unit: 'points of test accuracy', 'points of test error'"):
        study.forest(accuracy, error)
    with pytest.raises(ValueError, match="'nothing' has no difference"):
        study.forest("nothing")


def test_all_verdicts_stand_one_below_the_other(contests):
    ids = contests(), contests(id="turned", better="ResNet v1", than="ResNet v2")
    cards = lab.study("conv_orders").verdicts()
    assert [card.id for card in cards] == list(ids) and str(cards).count("undecided: ResNet v2 is better.") == 2
    assert cards._repr_html_().count('role="note"') == 2
    assert [card.id for card in lab.study("conv_orders").verdicts("turned")] == ["turned"]


def test_all_arms_against_one_of_them():
    study = lab.study("conv_orders")
    table = study.against("ResNet v1").set_index("arm")
    assert list(table.index) == [arm for arm in study.arms if arm != "ResNet v1"]
    gap = study.gap("PyramidNet", "ResNet v1")
    assert tuple(table.loc["PyramidNet"]) == (gap.estimate, gap.interval, str(gap))
    assert list(study.against("ResNet v1", arms=["ResNet v1", "PyramidNet"]).arm) == ["PyramidNet"]
    figure = study.against_figure("ResNet v1", "test_loss")
    assert figure.axes[0].get_xlabel() == "hundredths of a nat of test loss, minus that of ResNet v1"
    assert f"PyramidNet: {study.gap('PyramidNet', 'ResNet v1', 'test_loss').estimate:.3g} (" in figure.alt


def test_arms_without_runs_are_not_compared(studies):
    assert "LayerScale" not in list(lab.study("conv_orders").against("ResNet v1").arm)
    assert lab.study("conv_orders").against("LayerScale").empty


def test_the_learning_curves_of_all_arms():
    study = lab.study("conv_orders", arms=["ResNet v1", "ResNet v2"])
    figure = study.curves()
    assert figure.axes[0].get_ylabel() == "training loss, nats" and figure.alt.count(" at step ") == 2
    losses = study.frame("curves", split="train", metric="loss")
    first = losses[(losses.arm == "ResNet v1") & (losses.step == losses.step.min())].value.mean()
    assert f"ResNet v1: {first:.3g} at step" in figure.alt


def test_each_arm_at_its_own_best_rate_is_chosen_by_other_seeds_than_those_that_decide(contests, monkeypatch):
    study = lab.study("weight_norm")

    def values(metric, seed=None, lr=None):
        rows = [
            dict(arm=arm, seed=s, lr=rate, status="finished", value=base + abs(index - best) + 0.1 * s**2 * (base == 10))
            for arm, base, best in (("no norm", 10, 1), ("weight norm", 20, 3))
            for index, rate in enumerate((0.003, 0.01, 0.03, 0.1))
            for s in range(5)
        ]
        # at the smallest rate the test split looks best of all, and nobody asks it
        rows = [row | dict(value=0.0) if row["lr"] == 0.003 and metric == "test_error" else row for row in rows]
        return pandas.DataFrame([row for row in rows if (seed is None or row["seed"] in seed) and lr in (None, row["lr"])])

    monkeypatch.setattr(type(study), "values", lambda self, metric, **where: values(metric, **where))
    monkeypatch.setattr(type(study), "missing", lambda self, *arms: [])
    id = contests(study="weight_norm", better="no norm", than="weight norm", metric="test_error", tuning=[3, 4], expected="holds")
    gap = study.gaps[id]
    assert gap.estimate == pytest.approx(-9.8333, abs=1e-3) and gap.seeds == 3
    note = study.judge(id).note
    assert "validation split of seeds 3 and 4: 0.01 for no norm, 0.1 for weight norm (edge of the grid)." in note


def test_what_was_tried_beside_the_plan():
    study = lab.study("translation_en_de", "colab")
    table = study.tried("recipe.lr", (1e-3, 2e-3, 3e-3), "validation_loss", "validation_bleu")
    assert list(table.columns) == ["arm", "lr", "planned", "validation_loss", "validation_bleu"]
    per_arm = table.groupby("arm").planned
    assert (per_arm.sum() == 1).all() and (per_arm.size() > 1).all()
    assert study.tried("recipe.lr", (1e-3,), "validation_loss").empty


def test_two_arms_that_only_guess_have_no_winner(contests):
    study = lab.study("conv_orders")
    id = contests(chance=0.9)
    card = study.judge(contests(id="guess", chance=0.9, expected="not tested here"))
    assert card.note == "Neither has learned: test accuracy is not better than 0.9."
    del study.__dict__["contests"], study.__dict__["gaps"]
    assert study.judge(contests(id=id, chance=0.1)).verdict == "undecided"
    error = contests(id="error", metric="test_error", chance=10, expected="not tested here")
    assert lab.study("conv_orders").judge(error).verdict == "not tested here"


def test_a_contest_that_names_a_preset_is_decided_at_that_size(contests):
    ids = contests(), contests(id="longer", preset="colab")
    assert set(lab.study("conv_orders").contests) == {ids[0]}
    assert set(lab.study("conv_orders", "colab").contests) == set(ids)


def test_scores_of_translations_are_metrics():
    study = lab.study("translation_en_vi")
    scores = study.values("test_bleu").set_index(["arm", "seed"]).value
    record = study.of("Pre-Norm")[0]
    (widest,) = (row["bleu"] for row in record.measurements["translation"] if (row["split"], row["beam"]) == ("test", 4))
    assert scores["Pre-Norm", record.experiment.seed] == widest
    assert scores["xSkip (λ = 2)", 1] == 0, "a run that diverged translates nothing"
    assert study.gap("Pre-Norm", "Post-Norm", "test_bleu").unit == "points of test BLEU"
    with pytest.raises(ValueError, match="has the metric 'test_rouge'; allowed: .*test_bleu"):
        study.values("test_rouge")


def test_an_interaction_compares_two_differences():
    first, second = gap(9.0), gap(1.0)
    change = rules.minus(first, second)
    assert change.estimate == 8 and change.standard_error == pytest.approx(2**0.5) and change.df == pytest.approx(40)


def test_every_rule_has_a_sentence_and_every_contest_what_its_rule_needs():
    for name in rules.RULES:
        assert rules.sentence(name).endswith("."), name
    for name in lab.studies():
        sizes = {preset: lab.study(name, preset) for preset in lab.PRESETS}
        for id, entry in {id: entry for study in sizes.values() for id, entry in study.contests.items()}.items():
            assert entry["rule"] in rules.RULES, id
            for arm in (entry["better"], entry["than"]):
                assert any(arm in study.settings for study in sizes.values()), (id, arm)


def test_one_condition_must_be_named():
    study = lab.study("degradation")
    with pytest.raises(ValueError, match="'Plain' has several runs of seed 0: name a value of depth"):
        study.gap("Residual", "Plain")
    assert study.gap("Residual", "Plain", depth=56).seeds == 3
    with pytest.raises(ValueError, match="no setting 'deep' varies here; allowed: arm, seed, depth"):
        study.values(deep=56)
    with pytest.raises(ValueError, match="has the metric 'bleu'; allowed: "):
        study.values("bleu")
    with pytest.raises(ValueError, match="has no arm 'Post'; allowed: 'Plain', 'Residual'"):
        lab.study("degradation", arms="Post")


def test_errors_and_losses_read_in_their_units():
    study = lab.study("degradation")
    errors, shares = study.values("test_error", depth=20), study.values("test_accuracy", depth=20)
    assert errors.value.to_list() == pytest.approx((100 * (1 - shares.value)).to_list())
    assert study.gap("Residual", "Plain", "test_error", depth=20).unit == "points of test error"
    assert study.gap("Residual", "Plain", "train_loss", depth=20).unit == "hundredths of a nat of train loss"


def test_runs_that_a_file_holds_are_checked(studies):
    path = studies / "conv_orders/runs/cpu.jsonl"
    line, *others = path.read_text().splitlines()
    path.write_text("\n".join(["no record", *others]))
    with pytest.raises(ValueError, match="conv_orders/runs/cpu.jsonl, line 1 is no recorded run"):
        lab.Runs(studies).records()
    path.write_text("\n".join([line[:2000], *others]))
    with pytest.raises(ValueError, match="line 1 is no valid record .*; remove the line and run it again"):
        lab.Runs(studies).records()
    path.write_text("\n".join([line, line.replace('"status": "finished"', '"status": "diverged"'), *others]))
    with pytest.raises(ValueError, match="line 2 and .*line 1 differ on the run"):
        lab.Runs(studies).records()


def test_packing_keeps_what_no_study_plans_and_replaces_a_run(studies, tmp_path):
    target, source = lab.Runs(studies), lab.Store(tmp_path / "runs")
    record = target.records()[0]
    other = replace(record, experiment=record.experiment.replace("seed", 77))
    for run in (replace(record, provenance=record.provenance | dict(device="another")), other):
        source.put(run)
    count = len(target)
    assert lab.pack(source, ["cpu"], target) == {("conv_orders", "cpu"): 1} and len(target) == count
    assert target.get(record.experiment).provenance["device"] == "another"
    assert [run.experiment for run in source.records()] == [other.experiment]


def test_recorded_lines_name_the_arm_of_their_study():
    for name in lab.studies():
        for preset in lab.PRESETS:
            path = ROOT / "studies" / name / "runs" / f"{preset}.jsonl"
            if path.exists():
                arms = lab.study(name, preset).arm_of
                lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
                assert {line["name"]: line["arm"] for line in lines if line["arm"]}.items() <= arms.items()


def test_the_function_and_the_module_are_one_name():
    assert study_function is lab.study
