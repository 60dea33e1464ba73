"""How much of the degradation of 24 MLP blocks is the learning rate: plain at two rates, residual at the smaller.  [he2016deep]"""

from typing import Any

from resnorm.lab import Experiment, sweep
from resnorm.lab.plans.checks import SEEDS, check_seeds

ARMS = {
    "Plain, rate 0.004": dict(variant="plain_norm", lr=4e-3),
    "Plain, rate 0.0003": dict(variant="plain_norm", lr=3e-4),
    "Residual, rate 0.0003": dict(variant="pre", lr=3e-4),
}
EPOCHS = {"smoke": 2, "cpu": 30, "colab": 30, "paper": 300}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    recipe = dict(
        optimizer="adamw",
        lr=arm["lr"],
        epochs=EPOCHS[preset],
        batch_size=128,
        schedule="one_cycle",
        precision="fp32",
        evaluate_every=EPOCHS[preset],
    )
    model = dict(name="mlp_stack", depth=24, width=64, initialisation="unit_gain", variant=arm["variant"])
    return sweep(Experiment(dict(name="digits"), model, recipe), {"seed": check_seeds(seeds)})
