"""Pre-Norm and Post-Norm Transformers after no warm-up, a short one and one of most of the run.  [xiong2020layer]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.language import NARROW, stability

LONG = dict(epochs=4, batch_size=16, precision="fp32", evaluate_every=2)
ARMS = {"Pre-Norm": dict(variant="pre"), "Post-Norm": dict(variant="post")}
# Task, model, recipe, and the depths, learning rates and warm-ups of each size.
SIZES: dict[str, tuple[dict, dict, dict, tuple, tuple, tuple]] = {
    "smoke": (
        dict(name="characters", context=32),
        dict(width=32, heads=2),
        dict(epochs=1, batch_size=32, precision="fp32"),
        (6,),
        (1e-2,),
        (0, 3, 30),
    ),
    # Four times as many steps as in `depth_stability`: 1,600.
    "cpu": (*NARROW, LONG, (6, 12), (1e-3, 3e-3), (0, 100, 1000)),
    "colab": (*NARROW, LONG, (6, 12, 24), (1e-3, 3e-3), (0, 100, 1000)),
    "paper": (
        dict(name="tiny_shakespeare", context=64),
        dict(width=128, heads=4),
        dict(epochs=3, batch_size=32, precision="fp32"),
        (6, 12, 24, 48),
        (1e-3, 3e-3),
        (0, 100, 1000),
    ),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, depths: Any = None, lrs: Any = None) -> list[Experiment]:
    return stability(arm, seeds, depths, lrs, *SIZES[preset])
