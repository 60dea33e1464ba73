"""Skip, xSkip, xSkip+LN, rSkip+LN and a model of three times the size, English to German.  [liu2020rethinking]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.translation import NUMBERS, models, translation

TASKS = {
    "smoke": dict(name="number_pairs", pair="en-de", **NUMBERS),
    # Two thirds of the captions, and 2,000 tokens: a larger softmax would be most of the work.
    "cpu": dict(name="multi30k", vocabulary=2000, subset=20000),
    "colab": dict(name="multi30k", vocabulary=4000),
    "paper": dict(name="wmt14_en_de"),
}
# Some 25,000 tokens of each language a batch, for about the 100,000 steps of the published base model.
RECIPE = {"colab": dict(lr=3e-3), "paper": dict(epochs=18, batch_tokens=50000, evaluate_every=3)}
# What the recorded runs of `translation_peaks` found: without a norm the lower of the two peaks was better.
PEAKS = {"colab": {"Residual": 1e-3, "xSkip (λ = 2)": 1e-3}}


def arms(preset: str, orders: Any = (2, 3), lambdas: Any = (2,)) -> dict[str, dict[str, Any]]:
    return models(preset, orders, lambdas, PEAKS.get(preset, {}))


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    return translation(TASKS[preset], preset, arm, seeds, RECIPE.get(preset, {}))
