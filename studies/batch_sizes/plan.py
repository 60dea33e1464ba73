"""Four norms by batch size, the learning rate in proportion to it.  [wu2018group]"""

from typing import Any

from resnorm.lab import Experiment, sweep
from resnorm.lab.plans.checks import SEEDS, check_seeds, integers
from resnorm.lab.plans.images import SGD

SIZES: dict[str, tuple[dict, dict, dict]] = {
    "smoke": (dict(name="digits", test=1000), dict(depth=8, width=8), dict(epochs=3, precision="fp32")),
    "cpu": (
        dict(name="cifar10", subset=4000),
        dict(depth=8, width=16),
        dict(epochs=4, augment="crop_flip", precision="fp32", evaluate_every=4),
    ),
    "colab": (dict(name="cifar10", subset=4000), dict(depth=8, width=16), dict(epochs=4, augment="crop_flip", evaluate_every=4)),
    "paper": (dict(name="cifar10"), dict(depth=20, width=16), dict(epochs=100, augment="crop_flip")),
}


def arms(preset: str) -> dict[str, dict[str, Any]]:
    names = ("batch", "group") if preset == "smoke" else ("batch", "group", "layer2d", "instance")
    return {name: dict(norm=name) for name in names}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, sizes: Any = None) -> list[Experiment]:
    task, model, recipe = SIZES[preset]
    schedule = dict(schedule="step", milestones=[0.3, 0.6, 0.9]) if preset == "paper" else dict(schedule="cosine")
    base = Experiment(task, dict(name="cifar_resnet", variant="resnet_v2", **model, **arm), SGD | schedule | recipe)
    default = (32, 8, 2) if preset == "smoke" else (128, 32, 8, 4, 2)
    sizes = integers("sizes", default if sizes is None else sizes, least=2)
    batches = [dict(batch_size=size, lr=0.1 * size / 32) for size in sizes]
    return sweep(base, {"seed": check_seeds(seeds), "recipe": batches})
