"""Weight norm with and without its start from a first batch, beside batch norm and no norm, at five rates.  [salimans2016weight]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import positive
from resnorm.lab.plans.images import images

ARMS = {
    "batch norm": dict(norm="batch"),
    "no norm": dict(norm="none"),
    "weight norm": dict(norm="none", weight="norm"),
    "weight norm, start from data": dict(norm="none", weight="norm(from_data=True)"),
}
# Seeds 3 and 4 choose the rate on the validation split; the others are the result.
SEEDS = (0, 1, 2, 3, 4)
RATES = {"smoke": (0.03, 0.1)}
EPOCHS = {"smoke": 2, "cpu": 10, "colab": 20}
DEPTH = {"smoke": 8, "paper": 56}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    lrs = positive("lrs", RATES.get(preset, (0.003, 0.01, 0.03, 0.1, 0.3)) if lrs is None else lrs)
    model = arm | dict(variant="resnet_v2", depth=DEPTH.get(preset, 20))
    recipe = dict(probe_every=0) | (dict(epochs=EPOCHS[preset]) if preset in EPOCHS else {})
    # Two cores and a T4 train on the digits.
    size = preset if preset == "paper" else "smoke"
    return [item for lr in lrs for item in images(size, model, seeds, recipe=recipe | dict(lr=lr))]
