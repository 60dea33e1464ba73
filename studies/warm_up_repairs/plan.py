"""Whether what tames the first steps of a Post-Norm Transformer otherwise takes the place of its warm-up.  [xiong2020layer]"""

from typing import Any

from resnorm.lab import Experiment, sweep
from resnorm.lab.plans.checks import check_seeds

ARMS = {
    "as it is": {},
    "warm-up": dict(warmup=0.25),
    "clipped at 1": dict(clip=1.0),
    "clipped at 0.1": dict(clip=0.1),
    "Adam's β₂ of 0.9": dict(beta2=0.9),
    "a third of the rate": dict(lr=5e-3 / 3),
}
TASK = dict(name="number_words", limit=400)
LARGE = dict(name="number_words", limit=2000)
# The rate at which the runs without warm-up fail, in each size.
SIZES: dict[str, tuple[dict, dict, dict]] = {
    "smoke": (TASK, dict(depth=8, width=32, heads=2), dict(epochs=1, batch_size=16)),
    "cpu": (TASK, dict(depth=8, width=32, heads=2), dict(epochs=5, batch_size=16)),
    "colab": (LARGE, dict(depth=12, width=64, heads=4), dict(epochs=4, batch_size=16)),
    "paper": (LARGE, dict(depth=24, width=256, heads=8), dict(epochs=20, batch_size=16)),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = range(5)) -> list[Experiment]:
    task, model, length = SIZES[preset]
    recipe = dict(optimizer="adamw", lr=5e-3, weight_decay=0.01, schedule="cosine", precision="fp32", **length) | arm
    recipe["evaluate_every"] = recipe["epochs"]
    return sweep(Experiment(task, dict(name="transformer_lm", variant="post", **model), recipe), {"seed": check_seeds(seeds)})
