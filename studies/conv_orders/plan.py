"""In which order a block convolves, normalises, activates and adds.  [he2016identity]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import DEPTH, images

ARMS = {
    "ResNet v1": dict(variant="resnet_v1"),
    "Norm after addition": dict(variant="norm_after_add"),
    "ReLU before addition": dict(variant="relu_before_add"),
    "ReLU-only pre-activation": dict(variant="relu_only_pre"),
    "ResNet v2": dict(variant="resnet_v2"),
    "PyramidNet": dict(variant="pyramid"),
    "Conv-norm-act-add": dict(variant="conv_norm_act_add"),
    "Conv-act-norm-add": dict(variant="conv_act_norm_add"),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, depth: int | None = None) -> list[Experiment]:
    return images(preset, arm | dict(depth=depth or DEPTH[preset]), seeds, many=True)
