"""Delete and swap the blocks of trained networks, and walk from their minima.  [veit2016residual; li2018visualizing]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images

ARMS = {"Plain": dict(variant="plain"), "Residual": dict(variant="residual")}
DEPTH = {"smoke": 14, "cpu": 32, "colab": 32, "paper": 56}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, depth: int | None = None) -> list[Experiment]:
    model = arm | dict(depth=depth or DEPTH[preset])
    return images(preset, model, seeds, many=preset != "paper", measure=("landscape", "lesions"))
