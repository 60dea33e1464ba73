"""At which depths, learning rates and warm-ups Pre-Norm and Post-Norm Transformers train at all.  [xiong2020layer]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.language import NARROW, stability

ARMS = {"Pre-Norm": dict(variant="pre"), "Post-Norm": dict(variant="post")}
# Task, model, recipe, and the depths, learning rates and warm-ups of each size.
SIZES: dict[str, tuple[dict, dict, dict, tuple, tuple, tuple]] = {
    "smoke": (
        dict(name="characters", context=32),
        dict(width=32, heads=2),
        dict(epochs=1, batch_size=32, precision="fp32"),
        (2, 6),
        (1e-2,),
        (0, 0.25),
    ),
    # So small that Post-Norm's edge, from all runs that learn to none, lies between 4 and 12 layers.
    "cpu": (*NARROW, dict(epochs=1, batch_size=16, precision="fp32"), (4, 6, 8, 12, 20, 48), (1e-3, 3e-3, 1e-2), (0, 0.25)),
    "colab": (*NARROW, dict(epochs=1, batch_size=16, precision="fp32"), (4, 8, 12), (3e-3, 1e-2), (0, 0.25)),
    "paper": (
        dict(name="tiny_shakespeare", context=256),
        dict(width=256, heads=8),
        dict(epochs=20, batch_size=32),
        (6, 12, 18, 24, 48),
        (3e-4, 1e-3, 3e-3, 1e-2),
        (0, 0.25),
    ),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, depths: Any = None, lrs: Any = None) -> list[Experiment]:
    return stability(arm, seeds, depths, lrs, *SIZES[preset])
