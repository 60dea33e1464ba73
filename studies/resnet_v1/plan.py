"""ResNet-20 as it was published: the figure that a reader can hold against the paper's.  [he2016deep]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images

ARMS = {"ResNet v1": dict(variant="resnet_v1")}
RECIPE = {"cpu": dict(epochs=3, probe_every=0), "colab": dict(epochs=12, probe_every=0)}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    task = dict(subset=None) if preset in ("cpu", "colab") else {}
    model = arm | dict(depth=8 if preset == "smoke" else 20)
    return images(preset, model, seeds, task=task, recipe=RECIPE.get(preset))
