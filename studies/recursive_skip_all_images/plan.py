"""The six headline variants on every image of CIFAR-10, and what their norms learn.  [liu2020rethinking]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images, recursive

ARMS = recursive([2], [2])


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    task, recipe = (dict(subset=None), dict(epochs=2)) if preset in ("cpu", "colab") else ({}, {})
    model = arm | dict(depth={"smoke": 8, "paper": 110}.get(preset, 20))
    return images(preset, model, seeds, measure=("affine_maps",), task=task, recipe=recipe)
