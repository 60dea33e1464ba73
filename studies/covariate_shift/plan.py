"""Plain networks without a norm, with batch norm, and with batch norm that is then disturbed.  [santurkar2018how]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images

ARMS = {"none": dict(norm="none"), "batch": dict(norm="batch"), "noisy_batch": dict(norm="noisy_batch")}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    model = dict(variant="plain", depth={"smoke": 8, "paper": 20}.get(preset, 14)) | arm
    return images(preset, model, seeds, many=True, measure=("covariate_shift",), recipe=dict(lr=0.05))
