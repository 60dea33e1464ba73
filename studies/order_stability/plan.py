"""Whether a deep Transformer without warm-up is stable if it adds, then normalises, or the other way round."""

from typing import Any

from resnorm.lab import Experiment, sweep
from resnorm.lab.plans.checks import check_seeds

ARMS = {
    "add, then norm: Fan": dict(variant="post"),
    "norm, then add: Fna": dict(variant="res_post"),
    "Pre-Norm: nFa": dict(variant="pre"),
}
SMALL = (dict(name="characters", context=32), dict(depth=6, width=32, heads=2), dict(epochs=1, batch_size=32), 1e-2)
# Task, model, length and the rate at which Post-Norm is at its border, in each size.
SIZES: dict[str, tuple[dict, dict, dict, float]] = {
    "smoke": SMALL,
    "cpu": SMALL,
    "colab": SMALL,
    "paper": (dict(name="tiny_shakespeare", context=256), dict(depth=24, width=256, heads=8), dict(epochs=20, batch_size=32), 1e-3),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = range(5)) -> list[Experiment]:
    task, model, length, lr = SIZES[preset]
    recipe = dict(optimizer="adamw", lr=lr, warmup=0, weight_decay=0.01, schedule="cosine", precision="fp32") | length
    return sweep(Experiment(task, dict(name="transformer_lm", **model, **arm), recipe), {"seed": check_seeds(seeds)})
