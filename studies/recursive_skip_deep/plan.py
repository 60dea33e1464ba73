"""The six headline variants at 110 layers.  [liu2020rethinking]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import DEEP, DEEP_WIDTH, images, recursive

ARMS = recursive([2], [2])


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    size = dict(depth={"smoke": 14, "colab": 56}.get(preset, 110))
    size |= dict(width=DEEP_WIDTH[preset]) if preset in DEEP_WIDTH else {}
    return images(preset, arm | size, seeds, many=True, measure=("affine_maps",), recipe=DEEP.get(preset))
