"""A thin pre-activation bottleneck ResNet of 1001 layers, beside ResNet v1 of the same size.  [he2016identity]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.images import images

ARMS = {"ResNet v1 bottleneck": dict(variant="bottleneck_v1"), "ResNet v2 bottleneck": dict(variant="bottleneck_v2")}
SIZES = {"smoke": (47, 2), "cpu": (1001, 2), "colab": (1001, 4), "paper": (1001, 16)}
RECIPE = {"smoke": dict(epochs=2), "cpu": dict(epochs=5, probe_every=0), "colab": dict(epochs=5)}
TASK = {"cpu": dict(subset=2000), "colab": dict(subset=5000)}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = (0,)) -> list[Experiment]:
    depth, width = SIZES[preset]
    model = arm | dict(depth=depth, width=width)
    return images(preset, model, seeds, task=TASK.get(preset), recipe=RECIPE.get(preset))
