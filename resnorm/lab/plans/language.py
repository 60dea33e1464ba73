"""Small language models whose depth, learning rate and warm-up vary."""

from typing import Any

from resnorm.lab.experiment import Experiment, sweep
from resnorm.lab.plans.checks import check_seeds, integers, positive

ADAMW = dict(optimizer="adamw", beta2=0.95, weight_decay=0.1, decay_norms=False, schedule="cosine", warmup=0.1, clip=1)
# Task and network at the sizes of two cores.
NARROW = (dict(name="tiny_shakespeare", context=32, subset=6400, validation=0.02, test=0.02), dict(width=32, heads=2))


def stability(
    arm: dict[str, Any],
    seeds: Any,
    depths: Any,
    lrs: Any,
    task: dict,
    model: dict,
    recipe: dict,
    own_depths: tuple,
    own_lrs: tuple,
    warmups: tuple,
) -> list[Experiment]:
    """One placement at every warm-up, depth and learning rate with every seed; the size's own where none are given."""
    optimizer = dict(optimizer="adamw", weight_decay=0.01, schedule="cosine")
    base = Experiment(task, dict(name="transformer_lm", **model, **arm), optimizer | recipe)
    grid: dict[str, list[Any]] = {
        "seed": check_seeds(seeds),
        "recipe.warmup": list(warmups),
        "model.depth": integers("depths", own_depths if depths is None else depths, least=1),
        "recipe.lr": positive("lrs", own_lrs if lrs is None else lrs),
    }
    return sweep(base, grid)
