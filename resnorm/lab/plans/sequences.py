"""The plans on sequences."""

from typing import Any

from resnorm.lab.experiment import Experiment, sweep
from resnorm.lab.plans.registry import SEEDS, check_seeds, integers, positive, register


@register
def warm_up(preset: str, seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    """Pre-Norm against Post-Norm Transformers, with and without warm-up, by learning rate.  [xiong2020layer]"""
    # Small batches and many layers: Post-Norm needs its warm-up from about 8 layers on, in the first hundred steps.
    task, model, recipe = {
        "smoke": (
            dict(name="number_words", limit=400),
            dict(depth=8, width=32, heads=2),
            dict(epochs=5, batch_size=16, evaluate_every=5, probe_every=25),
        ),
        "cpu": (
            dict(name="number_words", limit=2000),
            dict(depth=12, width=64, heads=4),
            dict(epochs=4, batch_size=16, precision="fp32", probe_every=50),
        ),
        "colab": (
            dict(name="number_words", limit=2000),
            dict(depth=12, width=64, heads=4),
            dict(epochs=4, batch_size=16, precision="fp32", probe_every=50),
        ),
        "paper": (
            dict(name="number_words", limit=100000),
            dict(depth=24, width=256, heads=8),
            dict(epochs=10, batch_size=128, probe_every=500),
        ),
    }[preset]
    default = {"smoke": (5e-3,), "cpu": (1e-3, 3e-3), "colab": (1e-3, 3e-3), "paper": (3e-4, 1e-3, 3e-3)}
    lrs = positive("lrs", default[preset] if lrs is None else lrs)
    optimizer = dict(optimizer="adamw", weight_decay=0.01, schedule="cosine")
    base = Experiment(task, dict(name="transformer_lm", **model), optimizer | recipe)
    # Warm-up over the first quarter of the run: a fraction means the same at every size.
    grid = {"seed": check_seeds(seeds), "recipe.lr": lrs, "model.variant": ["pre", "post"], "recipe.warmup": [0, 0.25]}
    return sweep(base, grid)


# Task and network of the two plans below at the sizes of two cores.
_NARROW = (dict(name="tiny_shakespeare", context=32, subset=6400, validation=0.02, test=0.02), dict(width=32, heads=2))


@register
def depth_stability(preset: str, seeds: Any = SEEDS, depths: Any = None, lrs: Any = None) -> list[Experiment]:
    """At which depths, learning rates and warm-ups Pre-Norm and Post-Norm Transformers train at all.  [xiong2020layer]"""
    sizes = {
        "smoke": (
            dict(name="characters", context=32),
            dict(width=32, heads=2),
            dict(epochs=1, batch_size=32, precision="fp32"),
            (2, 6),
            (1e-2,),
            (0, 0.25),
        ),
        # So small that Post-Norm's edge, from all runs that learn to none, lies between 4 and 12 layers.
        "cpu": (*_NARROW, dict(epochs=1, batch_size=16, precision="fp32"), (4, 6, 8, 12, 20, 48), (1e-3, 3e-3, 1e-2), (0, 0.25)),
        "colab": (*_NARROW, dict(epochs=1, batch_size=16, precision="fp32"), (4, 8, 12), (3e-3, 1e-2), (0, 0.25)),
        "paper": (
            dict(name="tiny_shakespeare", context=256),
            dict(width=256, heads=8),
            dict(epochs=20, batch_size=32),
            (6, 12, 18, 24, 48),
            (3e-4, 1e-3, 3e-3, 1e-2),
            (0, 0.25),
        ),
    }
    return _stability(seeds, depths, lrs, *sizes[preset])


@register
def warm_up_steps(preset: str, seeds: Any = SEEDS, depths: Any = None, lrs: Any = None) -> list[Experiment]:
    """Pre-Norm and Post-Norm Transformers after no warm-up, a short one and one of most of the run.  [xiong2020layer]"""
    sizes = {
        "smoke": (
            dict(name="characters", context=32),
            dict(width=32, heads=2),
            dict(epochs=1, batch_size=32, precision="fp32"),
            (6,),
            (1e-2,),
            (0, 3, 30),
        ),
        # Four times as many steps as in `depth_stability`: 1,600.
        "cpu": (*_NARROW, dict(epochs=4, batch_size=16, precision="fp32", evaluate_every=2), (6, 12), (1e-3, 3e-3), (0, 100, 1000)),
        "colab": (
            *_NARROW,
            dict(epochs=4, batch_size=16, precision="fp32", evaluate_every=2),
            (6, 12, 24),
            (1e-3, 3e-3),
            (0, 100, 1000),
        ),
        "paper": (
            dict(name="tiny_shakespeare", context=64),
            dict(width=128, heads=4),
            dict(epochs=3, batch_size=32, precision="fp32"),
            (6, 12, 24, 48),
            (1e-3, 3e-3),
            (0, 100, 1000),
        ),
    }
    return _stability(seeds, depths, lrs, *sizes[preset])


def _stability(
    seeds: Any, depths: Any, lrs: Any, task: dict, model: dict, recipe: dict, own_depths: tuple, own_lrs: tuple, warmups: tuple
) -> list[Experiment]:
    """Both placements at every depth, learning rate and warm-up with every seed; the size's own where none are given."""
    optimizer = dict(optimizer="adamw", weight_decay=0.01, schedule="cosine")
    base = Experiment(task, dict(name="transformer_lm", **model), optimizer | recipe)
    grid = {
        "seed": check_seeds(seeds),
        "model.variant": ["pre", "post"],
        "recipe.warmup": warmups,
        "model.depth": integers("depths", own_depths if depths is None else depths, least=1),
        "recipe.lr": positive("lrs", own_lrs if lrs is None else lrs),
    }
    return sweep(base, grid)
