"""Learning rates by step."""

from bisect import bisect_right
from math import cos, pi, sqrt

from resnorm.training.recipe import Recipe

RISE = 0.3


def learning_rates(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate of each of the run's steps: lr * (t + 1) / w while t < w (warm-up), then the schedule's shape.

    With u = (t - w) / (steps - w), the part of the run after the warm-up that is over:
        constant: lr
        cosine: lr * (1 + cos(pi u)) / 2
        step: lr * decay^(number of milestones at or before t / steps)
        inverse_sqrt: lr * sqrt(max(w, 1) / (t + 1)), the schedule of [vaswani2017attention] with its peak at lr
        one_cycle: a linear rise to lr, then linearly to 0; the rise is the warm-up, or the first 30 % of the run where
            ``warmup`` is 0. Momentum stays as it is.
        wsd: lr * min(1, (1 - t / steps) / decay_share): warm-up, stable, decay [hu2024minicpm], whose decay is a straight
            line to 0 here.

    Raises ValueError where the warm-up does not fit in the run, or not before the decay of "wsd".
    """
    warmup = recipe.warmup if isinstance(recipe.warmup, int) else round(recipe.warmup * steps)
    if warmup >= steps:
        raise ValueError(
            f"recipe: warmup={recipe.warmup} does not fit in a run of {steps} steps: take fewer, a fraction "
            f"of the run (such as warmup=0.1), or more epochs"
        )
    if recipe.schedule == "wsd" and warmup > round((1 - recipe.decay_share) * steps):
        raise ValueError(
            f"recipe: warmup={recipe.warmup} and decay_share={recipe.decay_share} overlap in a run of {steps} steps: "
            "take a shorter warm-up or a smaller share"
        )
    if recipe.schedule == "one_cycle" and warmup == 0:
        warmup = round(RISE * steps)

    def shape(t: int) -> float:
        if t < warmup:
            return (t + 1) / warmup
        u = (t - warmup) / (steps - warmup)
        match recipe.schedule:
            case "constant":
                return 1.0
            case "cosine":
                return (1 + cos(pi * u)) / 2
            case "step":
                return recipe.decay ** bisect_right(recipe.milestones, t / steps)
            case "inverse_sqrt":
                return sqrt(max(warmup, 1) / (t + 1))
            case "one_cycle":
                return 1 - u
            case _:  # "wsd": the recipe has checked the name
                return min(1.0, (1 - t / steps) / recipe.decay_share)

    return [recipe.lr * shape(t) for t in range(steps)]
