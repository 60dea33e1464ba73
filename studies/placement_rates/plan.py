"""The tuning of the zoo: every placement at every learning rate, the same ones for all.  [xiong2020layer]"""

from typing import Any

from resnorm.lab import Experiment, study
from resnorm.lab.plans.checks import check_seeds, positive

ZOO = study("placements").module
arms = ZOO.arms
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def experiments(preset: str, arm: dict[str, Any], seeds: Any = (0,), lrs: Any = None) -> list[Experiment]:
    lrs = positive("lrs", ((3e-3, 3e-2) if preset == "smoke" else RATES) if lrs is None else lrs)
    return [ZOO.experiment(preset, arm, seed, lr) for lr in lrs for seed in check_seeds(seeds)]
