"""The plans of ViT and BERT: the same task, once with the norm before every branch and once after every addition."""

from typing import Any

from resnorm.lab.experiment import Experiment
from resnorm.lab.plans.placements import ADAMW
from resnorm.lab.plans.registry import SEEDS, check_seeds, positive, register

# Each placement at the better of two learning rates, 1e-3 and 3e-3, by the validation loss of one short run of seed 0:
# as much effort for the one as for the other. ViT: two epochs of the cpu preset; BERT: 6,400 of its windows, once.
_RATES = {"vit": {"pre": 1e-3, "post": 1e-3}, "bert": {"pre": 3e-3, "post": 1e-3}}


def _pre_and_post(model: dict, task: dict, recipe: dict, seeds: Any, lrs: Any) -> list[Experiment]:
    return [
        Experiment(task, model | dict(variant=variant), ADAMW | recipe | dict(lr=rate), seed)
        for variant, chosen in _RATES[model["name"]].items()
        for rate in ([chosen] if lrs is None else positive("lrs", lrs))
        for seed in check_seeds(seeds)
    ]


@register
def vit_images(preset: str, seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    """A Vision Transformer with Pre-Norm against Post-Norm on small images.  [dosovitskiy2021image]"""
    task, model, recipe = {
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
    }[preset]
    return _pre_and_post(dict(name="vit", **model), task, recipe, seeds, lrs)


@register
def masked_text(preset: str, seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    """A BERT with Pre-Norm against Post-Norm that fills in masked characters of a text.  [devlin2019bert]"""
    task, model, recipe = {
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
    }[preset]
    return _pre_and_post(dict(name="bert", **model), task, recipe, seeds, lrs)
