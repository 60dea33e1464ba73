"""Pre-Norm against Post-Norm Transformers, with and without warm-up, by learning rate.  [xiong2020layer]"""

from typing import Any

from resnorm.lab import Experiment, sweep
from resnorm.lab.plans.checks import SEEDS, check_seeds, positive

ARMS = {"Pre-Norm": dict(variant="pre"), "Post-Norm": dict(variant="post")}
# Small batches and many layers: Post-Norm needs its warm-up from about 8 layers on, in the first hundred steps.
SMALL = (
    dict(name="number_words", limit=2000),
    dict(depth=12, width=64, heads=4),
    dict(epochs=4, batch_size=16, precision="fp32", probe_every=50),
    (1e-3, 3e-3),
)
SIZES: dict[str, tuple[dict, dict, dict, tuple]] = {
    "smoke": (
        dict(name="number_words", limit=400),
        dict(depth=8, width=32, heads=2),
        dict(epochs=5, batch_size=16, evaluate_every=5, probe_every=25),
        (5e-3,),
    ),
    "cpu": SMALL,
    "colab": SMALL,
    "paper": (
        dict(name="number_words", limit=100000),
        dict(depth=24, width=256, heads=8),
        dict(epochs=10, batch_size=128, probe_every=500),
        (3e-4, 1e-3, 3e-3),
    ),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    task, model, recipe, rates = SIZES[preset]
    optimizer = dict(optimizer="adamw", weight_decay=0.01, schedule="cosine")
    base = Experiment(task, dict(name="transformer_lm", **model, **arm), optimizer | recipe)
    # Warm-up over the first quarter of the run: a fraction means the same at every size.
    grid = {"seed": check_seeds(seeds), "recipe.lr": positive("lrs", rates if lrs is None else lrs), "recipe.warmup": [0, 0.25]}
    return sweep(base, grid)
