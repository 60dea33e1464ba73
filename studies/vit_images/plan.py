"""A Vision Transformer with Pre-Norm against Post-Norm on small images.  [dosovitskiy2021image]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS, check_seeds, positive
from resnorm.lab.plans.language import ADAMW

# Each placement at the better of two learning rates, 1e-3 and 3e-3, by the validation loss of one short run of seed 0:
# as much effort for the one as for the other: two epochs of the size `cpu`.
RATE = {"pre": 1e-3, "post": 1e-3}
ARMS = {"Pre-Norm": dict(variant="pre"), "Post-Norm": dict(variant="post")}
SIZES: dict[str, tuple[dict, dict, dict]] = {
    "smoke": (
        dict(name="digits"),
        dict(patch=2, depth=4, width=32, heads=2),
        dict(epochs=4, batch_size=64, evaluate_every=4, precision="fp32", probe_every=15),
    ),
    # Many CPUs have no arithmetic of 16 bits, and are far slower with it.
    "cpu": (
        dict(name="cifar10", subset=5000),
        dict(patch=4, depth=6, width=64, heads=4),
        dict(epochs=5, batch_size=32, augment="crop_flip", evaluate_every=5, precision="fp32", probe_every=60),
    ),
    "colab": (
        dict(name="cifar10", subset=20000),
        dict(patch=4, depth=6, width=64, heads=4),
        dict(epochs=8, batch_size=64, augment="crop_flip", evaluate_every=8, probe_every=200),
    ),
    "paper": (
        dict(name="cifar10"),
        dict(patch=4, depth=12, width=192, heads=3),
        dict(epochs=200, batch_size=128, augment="crop_flip", evaluate_every=10, probe_every=2000),
    ),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    task, model, recipe = SIZES[preset]
    rates = [RATE[arm["variant"]]] if lrs is None else positive("lrs", lrs)
    model = dict(name="vit", **model, **arm)
    return [Experiment(task, model, ADAMW | recipe | dict(lr=rate), seed) for rate in rates for seed in check_seeds(seeds)]
