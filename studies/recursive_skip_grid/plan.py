"""The recursive skip by norm, order and affine map, and xSkip by its factor.  [liu2020rethinking]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images, recursive

# One map a step is the default, which an experiment does not name.
AFFINES = ("step", "shared", "last")


def arms(preset: str, orders: Any = (1, 2, 3, 4), lambdas: Any = (0.5, 2, 4), affines: Any = AFFINES) -> dict[str, dict[str, Any]]:
    models = recursive(orders, lambdas)
    several = {arm: model for arm, model in models.items() if model.get("order", 1) > 1}
    for affine in affines:
        if affine != "step":
            models |= {f"{arm[:-1]}, {affine} map)": dict(model, affine=affine) for arm, model in several.items()}
    return models


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    size = dict(depth=8 if preset == "smoke" else 20) | (dict(width=8) if preset == "cpu" else {})
    return images(preset, arm | size, seeds, many=True)
