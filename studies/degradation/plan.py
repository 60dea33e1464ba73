"""Plain against residual networks by depth: does the deeper one train worse?  [he2016deep]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS, integers
from resnorm.lab.plans.images import images

ARMS = {"Plain": dict(variant="plain"), "Residual": dict(variant="residual")}
DEPTHS = {"smoke": (8, 20), "cpu": (20, 32, 44, 56, 110), "colab": (20, 56), "paper": (20, 32, 44, 56, 110)}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, depths: Any = None) -> list[Experiment]:
    depths = integers("depths", DEPTHS[preset] if depths is None else depths, least=8)
    sized = [arm | dict(depth=depth) for depth in depths]
    return [experiment for model in sized for experiment in images(preset, model, seeds, many=preset != "paper")]
