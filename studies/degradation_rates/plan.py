"""How much of the degradation is the learning rate: 56 plain layers at four rates, 56 residual ones at one.  [he2016deep]"""

from typing import Any

from resnorm.lab import Experiment, sweep
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images

ARMS = {"Plain": dict(variant="plain"), "Residual": dict(variant="residual")}
# The residual network has nothing left to learn at the first rate.
RATES = {"plain": [0.1, 0.03, 0.01, 0.003], "residual": [0.1]}
DEPTH = {"smoke": 14, "cpu": 56, "colab": 56, "paper": 56}
EPOCHS = {"smoke": 2, "cpu": 30, "colab": 60, "paper": 200}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    recipe = dict(epochs=EPOCHS[preset], probe_every=0)
    planned = images("smoke", arm | dict(depth=DEPTH[preset]), seeds, recipe=recipe)
    return [experiment for base in planned for experiment in sweep(base, {"recipe.lr": RATES[arm["variant"]]})]
