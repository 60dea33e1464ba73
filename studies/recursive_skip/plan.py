"""Skip, xSkip, xSkip+LN, xSkip+BN, rSkip+LN, rSkip+BN on images.  [liu2020rethinking]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images, recursive

DEPTH = {"smoke": 14, "cpu": 20, "colab": 20, "paper": 110}


def arms(preset: str, orders: Any = (2,), lambdas: Any = (2,)) -> dict[str, dict[str, Any]]:
    return recursive(orders, lambdas)


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, depth: int | None = None) -> list[Experiment]:
    return images(preset, arm | dict(depth=depth or DEPTH[preset]), seeds)
