"""A BERT with Pre-Norm against Post-Norm that fills in masked characters of a text.  [devlin2019bert]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS, check_seeds, positive
from resnorm.lab.plans.language import ADAMW

# Each placement at the better of two learning rates, 1e-3 and 3e-3, by the validation loss of one short run of seed 0:
# as much effort for the one as for the other: 6,400 of the windows, once.
RATE = {"pre": 3e-3, "post": 1e-3}
ARMS = {"Pre-Norm": dict(variant="pre"), "Post-Norm": dict(variant="post")}
SIZES: dict[str, tuple[dict, dict, dict]] = {
    "smoke": (
        dict(name="masked_characters", context=32, copies=2),
        dict(depth=4, width=32, heads=2),
        dict(epochs=1, batch_size=16, precision="fp32", probe_every=40),
    ),
    "cpu": (
        dict(name="masked_shakespeare", context=64, copies=2),
        dict(depth=6, width=64, heads=4),
        dict(epochs=1, batch_size=16, precision="fp32", probe_every=200),
    ),
    "colab": (
        dict(name="masked_shakespeare", context=64, copies=8),
        dict(depth=6, width=64, heads=4),
        dict(epochs=1, batch_size=32, probe_every=400),
    ),
    "paper": (
        dict(name="masked_shakespeare", context=256, copies=40),
        dict(depth=12, width=256, heads=4),
        dict(epochs=1, batch_size=64, probe_every=400),
    ),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    task, model, recipe = SIZES[preset]
    rates = [RATE[arm["variant"]]] if lrs is None else positive("lrs", lrs)
    model = dict(name="bert", **model, **arm)
    return [Experiment(task, model, ADAMW | recipe | dict(lr=rate), seed) for rate in rates for seed in check_seeds(seeds)]
