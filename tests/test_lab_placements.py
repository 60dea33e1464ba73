"""The placement zoo: a name for every experiment, and the rate that its validation loss chooses."""

import pytest

from resnorm import lab
from resnorm.lab.plans.placements import NEWCOMERS, PLACEMENTS, RATES, TUNED, TUNED_NEWCOMERS, best_rates, placement_of


def record(name, rate, loss):
    experiment = lab.plan("placement_rates", "smoke", placements=[name], lrs=[rate])[0]
    metrics = {} if loss is None else {"validation_loss": loss, "test_loss": -loss}
    return lab.Record(experiment, "finished" if loss else "diverged", metrics, [], [], {})


def test_every_experiment_knows_its_placement():
    for preset in lab.PRESETS:
        for name in PLACEMENTS:
            found = {placement_of(one) for one in lab.plan("placements", preset, placements=name)}
            assert found == {name}
        for name in NEWCOMERS:
            found = {placement_of(one) for one in lab.plan("newcomers", preset, placements=name)}
            assert found == {name}
    with pytest.raises(ValueError, match="there is no placement 'post'; allowed: pre, admin, hybridnorm"):
        lab.plan("newcomers", placements=["post"])
    with pytest.raises(ValueError, match="no placement has the model"):
        placement_of(lab.plan("placements", "smoke", placements=["pre"])[0].replace("model.norm", "rms"))
    with pytest.raises(ValueError, match="there is no placement 'prenorm'; allowed: residual, pre, post"):
        lab.plan("placements", placements=["prenorm"])


def test_the_newcomers_have_a_pre_norm_that_differs_in_precision_and_rate_only():
    one, other = (lab.plan(name, "cpu", seeds=[0], placements="pre")[0] for name in ("newcomers", "placements"))
    assert one.recipe["precision"] == "fp32" and set(TUNED_NEWCOMERS) == set(NEWCOMERS)
    assert one.replace("recipe.precision", "bf16") == other.replace("recipe.lr", one.recipe["lr"])
    mixed = {placement_of(one) for one in lab.plan("placements", "cpu") if "mixing" in one.measure}
    assert mixed == {"hyper_connections", "dynamic_hyper_connections", "manifold_hyper_connections"}


def test_the_validation_loss_chooses_and_a_diverged_run_cannot_win():
    records = [record("pre", 1e-3, 2.0), record("pre", 3e-3, 1.0), record("pre", 1e-2, None), record("post", 1e-2, None)]
    assert best_rates(records) == {"pre": 3e-3}  # by the test loss it would be 1e-3


@pytest.mark.parametrize(
    ("tuning", "plan", "known", "tuned"),
    [("placement_rates", "placements", PLACEMENTS, TUNED), ("newcomer_rates", "newcomers", NEWCOMERS, TUNED_NEWCOMERS)],
)
def test_the_zoo_takes_the_rates_that_the_recorded_tuning_found(tuning, plan, known, tuned):
    planned = lab.plan(tuning, "cpu")
    records = lab.recorded(planned)
    assert len(planned) == len(known) * len(RATES) == len(records)
    assert best_rates(records) == tuned == {one: tuned[one] for one in known}
    seeds = lab.plan(plan, "cpu", seeds=[0])
    assert set(seeds) <= set(planned)  # the first seed is a run of the tuning, and is not run twice
