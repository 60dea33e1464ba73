"""What stands on the shortcut of ResNet v1: a scale, a gate, a convolution, dropout.  [he2016identity]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import DEPTH, images

ARMS = {
    "ResNet v1": dict(variant="resnet_v1"),
    "Constant scaling (λ = 0)": dict(variant="constant_scaling", skip=0),
    "Constant scaling (λ = 0.5)": dict(variant="constant_scaling", skip=0.5),
    "Constant scaling (λ = 0.5, gain 0.5)": dict(variant="constant_scaling", skip=0.5, gain=0.5),
    "Exclusive gating (bias 0)": dict(variant="exclusive_gating", bias=0),
    "Exclusive gating (bias -6)": dict(variant="exclusive_gating", bias=-6),
    "Exclusive gating (bias -7)": dict(variant="exclusive_gating", bias=-7),
    "Shortcut-only gating (bias 0)": dict(variant="shortcut_gating", bias=0),
    "Shortcut-only gating (bias -6)": dict(variant="shortcut_gating", bias=-6),
    "Convolution on the shortcut": dict(variant="convolution_shortcut"),
    "Dropout on the shortcut": dict(variant="dropout_shortcut"),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, depth: int | None = None) -> list[Experiment]:
    return images(preset, arm | dict(depth=depth or DEPTH[preset]), seeds, many=True)
