"""ResNet v1 against v2 where depth should tell them apart: 110 layers, and bottlenecks of 164.  [he2016identity]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import DEEP, DEEP_WIDTH, images

ARMS = {
    "ResNet v1": dict(variant="resnet_v1"),
    "ResNet v2": dict(variant="resnet_v2"),
    "ResNet v1 bottleneck": dict(variant="bottleneck_v1"),
    "ResNet v2 bottleneck": dict(variant="bottleneck_v2"),
}
# Depth and width of the networks of two convolutions a block, and of those of three.
SIZES = {
    "smoke": ((14, 8), (20, 4)),
    "cpu": ((110, DEEP_WIDTH["cpu"]), (164, 4)),
    "colab": ((56, 16), (164, 4)),
    "paper": ((110, 16), (164, 16)),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    depth, width = SIZES[preset][arm["variant"].startswith("bottleneck")]
    model = arm | dict(depth=depth, width=width)
    return images(preset, model, seeds, many=preset != "paper", recipe=DEEP.get(preset))
