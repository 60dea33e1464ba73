"""The experiments of the book: one plan a question, sized by a preset that never changes its meaning."""

import inspect
import json
from collections.abc import Callable
from typing import Any

from resnorm.lab.experiment import Experiment, sweep

PRESETS = ("smoke", "cpu", "colab", "paper")
PLANS: dict[str, Callable[..., list[Experiment]]] = {}
SEEDS = (0, 1, 2)

# The optimiser settings of He et al. [he2016deep; he2016identity], in every preset.
_SGD = dict(optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=1e-4)
_IMAGES = {
    "smoke": (
        dict(name="digits"),
        dict(width=8),
        dict(epochs=4, batch_size=128, lr=0.1, schedule="one_cycle", precision="fp32", probe_every=16),
    ),
    # bf16 by name, because "auto" is fp32 on a CPU: recording machines have bf16 matrix units, which train these
    # networks twice as fast; a CPU without them gives the same numbers, only slower than fp32 would be.
    "cpu": (
        dict(name="cifar10", subset=10000),
        dict(width=16),
        dict(epochs=6, batch_size=128, lr=0.1, schedule="one_cycle", augment="crop_flip", precision="bf16",
             evaluate_every=2, probe_every=100),
    ),
    "colab": (
        dict(name="cifar10", subset=20000),
        dict(width=16),
        dict(epochs=8, batch_size=256, lr=0.2, schedule="one_cycle", augment="crop_flip", probe_every=100),
    ),
    # 64,000 steps of 128 images, lower rates from 32,000 and 48,000, are 182 epochs of the 45,000 training images.
    "paper": (
        dict(name="cifar10"),
        dict(width=16),
        dict(epochs=182, batch_size=128, lr=0.1, schedule="step", milestones=[0.5, 0.75], decay=0.1, warmup=400,
             augment="crop_flip", probe_every=4000),
    ),
}  # fmt: skip
# On two cores the plans with deep networks or many variants take half the images.
_HALF = {"cpu": dict(subset=5000, epochs=5)}


def plan(name: str, preset: str = "smoke", **narrow: Any) -> list[Experiment]:
    """Return the experiments of the plan ``name`` at the size ``preset``, all seeds of one variant after another's.

    ``narrow``: the plan's own parameters, such as ``seeds``, ``depths`` or ``orders``.
    Raises ValueError for an unknown plan, preset or parameter.
    """
    if name not in PLANS:
        raise ValueError(f"there is no plan {name!r}; allowed: {', '.join(PLANS)}")
    allowed = list(inspect.signature(PLANS[name]).parameters)[1:]
    unknown = [key for key in narrow if key not in allowed]
    if unknown:
        raise ValueError(f"the plan {name!r} has no parameter {unknown[0]!r}; allowed: {', '.join(allowed)}")
    return PLANS[name](check_preset(preset), **narrow)


def _plan(function: Callable[..., list[Experiment]]) -> Callable[..., list[Experiment]]:
    PLANS[function.__name__] = function
    return function


@_plan
def degradation(preset: str, seeds: Any = SEEDS, depths: Any = None) -> list[Experiment]:
    """Plain against residual networks by depth: does the deeper one train worse?  [he2016deep]"""
    default = {"smoke": (8, 20), "cpu": (20, 44), "colab": (20, 56), "paper": (20, 32, 44, 56)}
    depths = _integers("depths", default[preset] if depths is None else depths, least=8)
    models = [dict(variant=variant, depth=depth) for depth in depths for variant in ("plain", "residual")]
    return _image_sweep(preset, seeds, models, **_HALF.get(preset, {}))


@_plan
def conv_orders(preset: str, seeds: Any = SEEDS, depth: int | None = None) -> list[Experiment]:
    """Where the norm stands in a convolutional block: after the addition, before it, or first.  [he2016identity]"""
    depth = depth or {"smoke": 8, "cpu": 20, "colab": 20, "paper": 110}[preset]
    variants = ("resnet_v1", "conv_norm_act_add", "conv_act_norm_add", "resnet_v2")
    models = [dict(variant=variant, depth=depth) for variant in variants]
    return _image_sweep(preset, seeds, models, **_HALF.get(preset, {}))


@_plan
def recursive_skip(
    preset: str, seeds: Any = SEEDS, orders: Any = (2,), lambdas: Any = (2,), depth: int | None = None
) -> list[Experiment]:
    """Skip, xSkip, xSkip+LN, xSkip+BN, rSkip+LN, rSkip+BN on images.  [liu2020rethinking]"""
    orders, lambdas = check_orders(orders), check_lambdas(lambdas)
    depth = depth or {"smoke": 14, "cpu": 20, "colab": 20, "paper": 110}[preset]
    models: list[dict[str, Any]] = [dict(variant="residual")]
    models += [dict(variant="xskip", skip=skip) for skip in lambdas]
    for norm in ("layer2d", "batch"):
        models += [dict(variant="xskip_norm", merge_norm=norm, skip=skip) for skip in lambdas]
    for norm in ("layer2d", "batch"):
        models += [dict(variant="rskip_norm", merge_norm=norm, order=order) for order in orders]
    return _image_sweep(preset, seeds, [dict(model, depth=depth) for model in models])


@_plan
def batch_sizes(preset: str, seeds: Any = SEEDS, sizes: Any = (32, 8, 2)) -> list[Experiment]:
    """Batch norm against group norm by batch size, the learning rate in proportion to it.  [wu2018group]"""
    task, model, recipe = {
        "smoke": (dict(name="digits", test=1000), dict(depth=8, width=8), dict(epochs=3, precision="fp32")),
        "cpu": (
            dict(name="cifar10", subset=5000),
            dict(depth=8, width=16),
            dict(epochs=6, augment="crop_flip", precision="fp32", evaluate_every=2),
        ),
        "colab": (
            dict(name="cifar10", subset=4000),
            dict(depth=8, width=16),
            dict(epochs=4, augment="crop_flip", evaluate_every=4),
        ),
        "paper": (dict(name="cifar10"), dict(depth=20, width=16), dict(epochs=100, augment="crop_flip")),
    }[preset]
    schedule = dict(schedule="step", milestones=[0.3, 0.6, 0.9]) if preset == "paper" else dict(schedule="cosine")
    base = Experiment(task, dict(name="cifar_resnet", variant="resnet_v2", **model), _SGD | schedule | recipe)
    batches = [dict(batch_size=size, lr=0.1 * size / 32) for size in _integers("sizes", sizes, least=2)]
    return sweep(base, {"seed": check_seeds(seeds), "model.norm": ["batch", "group"], "recipe": batches})


@_plan
def preact_resnet20(preset: str, seeds: Any = (0,)) -> list[Experiment]:
    """PreAct-ResNet-20 on all of CIFAR-10: the one number that says the training is sound.  [he2016identity]"""
    task, _, recipe = _IMAGES[preset]
    if preset in ("cpu", "colab"):
        task = dict(name="cifar10")
        short = dict(epochs=16, batch_size=64, lr=0.1, warmup=0.2, weight_decay=5e-4, nesterov=True)
        recipe = dict(recipe, **short, evaluate_every=4, probe_every=0)
    depth, width = (8, 8) if preset == "smoke" else (20, 16)
    base = Experiment(task, dict(name="cifar_resnet", variant="resnet_v2", depth=depth, width=width), _SGD | recipe)
    return sweep(base, {"seed": check_seeds(seeds)})


def _image_sweep(
    preset: str, seeds: Any, models: list[dict], subset: int | None = None, epochs: int | None = None
) -> list[Experiment]:
    task, model, recipe = _IMAGES[preset]
    task = task | (dict(subset=subset) if subset else {})
    recipe = recipe | (dict(epochs=epochs) if epochs else {})
    base = Experiment(task, dict(name="cifar_resnet", **model), _SGD | recipe)
    return sweep(base, {"seed": check_seeds(seeds), "model": models})


@_plan
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
    lrs = _positive("lrs", default[preset] if lrs is None else lrs)
    optimizer = dict(optimizer="adamw", weight_decay=0.01, schedule="cosine")
    base = Experiment(task, dict(name="transformer_lm", **model), optimizer | recipe)
    # Warm-up over the first quarter of the run: a fraction means the same at every size.
    grid = {"seed": check_seeds(seeds), "recipe.lr": lrs, "model.variant": ["pre", "post"], "recipe.warmup": [0, 0.25]}
    return sweep(base, grid)


def check_preset(preset: Any) -> str:
    """Return the preset; raises ValueError in one line if there is no such preset."""
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; allowed: {', '.join(PRESETS)}")
    return preset


def check_seeds(seeds: Any) -> list[int]:
    """Return seeds as a list, from a list or its text ("[0, 1, 2]"); raises ValueError for anything below 0."""
    return _integers("seeds", seeds, least=0)


def check_orders(orders: Any) -> list[int]:
    """Return rSkip's orders as a list, from a list or its text ("[1, 2]"); raises ValueError for anything below 1."""
    return _integers("orders", orders, least=1)


def check_lambdas(lambdas: Any) -> list[float]:
    """Return xSkip's factors as a list, from a list or its text ("[0.5, 2]"); raises ValueError for 0 or less."""
    return _positive("lambdas", lambdas)


def _positive(name: str, values: Any) -> list[float]:
    allowed = "numbers above 0, such as [0.5, 1, 2]"
    values = _list(name, values, allowed)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ValueError(f"{name} has {value!r}; allowed: {allowed}")
    return values


def _integers(name: str, values: Any, least: int) -> list[int]:
    allowed = f"integers of {least} or more, such as [{least}, {least + 1}]"
    values = _list(name, values, allowed)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} has {value!r}; allowed: {allowed}")
    return values


def _list(name: str, values: Any, allowed: str) -> list:
    if isinstance(values, str):  # papermill's -p passes a list as text
        try:
            values = json.loads(values)
        except ValueError:
            raise ValueError(f"{name} is {values!r}; give a list of {allowed}") from None
    values = list(values) if isinstance(values, (list, tuple, range)) else [values]
    if not values or len(set(map(repr, values))) < len(values):
        raise ValueError(f"{name} is {values!r}; give a list, without repeats, of {allowed}")
    return values
