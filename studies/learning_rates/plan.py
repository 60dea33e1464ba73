"""The largest learning rate that trains, with and without a norm and with and without a skip.  [santurkar2018how]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS, positive
from resnorm.lab.plans.images import images

ARMS = {
    f"{title}, {norm}": dict(variant=variant, norm=norm)
    for title, variant in (("Plain", "plain"), ("Residual", "residual"))
    for norm in ("none", "batch", "group")
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    default = (0.01, 0.1, 1) if preset == "smoke" else (0.01, 0.03, 0.1, 0.3, 1, 3)
    lrs = positive("lrs", default if lrs is None else lrs)
    small = preset in ("cpu", "colab")
    model = arm | dict(depth={"smoke": 8, "paper": 56}.get(preset, 20))
    recipe = dict(schedule="constant", probe_every=0) | (dict(epochs=4) if small else {})
    task = dict(subset=2000) if small else {}
    rates = [dict(recipe, lr=lr) for lr in lrs]
    return [item for rate in rates for item in images(preset, model, seeds, many=True, task=task, recipe=rate)]
