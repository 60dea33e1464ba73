"""The tuning of `translation_en_de`: every model at every peak of the learning rate, the same ones for all."""

from typing import Any

from resnorm.lab import Experiment, study
from resnorm.lab.plans.checks import positive

EN_DE = study("translation_en_de").module
arms = EN_DE.arms


def experiments(preset: str, arm: dict[str, Any], seeds: Any = (0,), lrs: Any = (1e-3, 3e-3)) -> list[Experiment]:
    tuned = EN_DE.experiments(preset, arm, seeds)
    return [experiment.replace("recipe.lr", lr) for experiment in tuned for lr in positive("lrs", lrs)]
