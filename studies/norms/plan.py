"""The normaliser in one and the same residual network, and what a change of contrast does to it.  [wu2018group]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images

ARMS = {
    "batch": dict(norm="batch"),
    "layer2d": dict(norm="layer2d"),
    "group(groups=1)": dict(norm="group(groups=1)"),
    "group(groups=8)": dict(norm="group(groups=8)"),
    "instance": dict(norm="instance"),
    "rms2d": dict(norm="rms2d"),
    "dyt2d": dict(norm="dyt2d"),
    "none": dict(norm="none"),
    "weight norm": dict(norm="none", weight="norm"),
    "group(groups=8) + weight standardisation": dict(norm="group(groups=8)", weight="standard"),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    model = dict(variant="resnet_v2", depth={"smoke": 8, "paper": 56}.get(preset, 20)) | arm
    return images(preset, model, seeds, many=True, measure=("contrast",))
