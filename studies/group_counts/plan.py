"""Group norm from one group of all channels to one group a channel.  [wu2018group]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images


def arms(preset: str) -> dict[str, dict[str, Any]]:
    counts = (1, 2, 4, 8) if preset == "smoke" else (1, 2, 4, 8, 16)
    return {f"group(groups={count})": dict(norm=f"group(groups={count})") for count in counts}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    model = dict(variant="resnet_v2", depth={"smoke": 8, "paper": 56}.get(preset, 20)) | arm
    return images(preset, model, seeds, many=True)
