"""PreAct-ResNet-20 on all of CIFAR-10: the one number that says the training is sound.  [he2016identity]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.images import images

ARMS = {"ResNet v2": dict(variant="resnet_v2")}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = (0,)) -> list[Experiment]:
    task: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    if preset in ("cpu", "colab"):
        task = dict(subset=None)
        recipe = dict(
            epochs=16, batch_size=64, lr=0.1, warmup=0.2, weight_decay=5e-4, nesterov=True, evaluate_every=4, probe_every=0
        )
    return images(preset, arm | dict(depth=8 if preset == "smoke" else 20), seeds, task=task, recipe=recipe)
