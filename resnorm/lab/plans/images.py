"""The plans on images: blocks, norms, depth and the recursive skip in one residual network."""

from typing import Any

from resnorm.lab.experiment import Experiment, sweep
from resnorm.lab.plans.registry import SEEDS, check_lambdas, check_orders, check_seeds, integers, positive, register

# The optimiser settings of He et al. [he2016deep; he2016identity], in every preset.
_SGD = dict(optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=1e-4)
_IMAGES = {
    "smoke": (
        dict(name="digits"),
        dict(width=8),
        dict(epochs=4, batch_size=128, lr=0.1, schedule="one_cycle", precision="fp32", probe_every=16),
    ),
    # bf16 by name, because "auto" is fp32 on a CPU: the machines that recorded these plans have bf16 matrix units,
    # which train these networks twice as fast; a CPU without them gives the same numbers, only slower than fp32 would be.
    "cpu": (
        dict(name="cifar10", subset=10000),
        dict(width=16),
        dict(
            epochs=6,
            batch_size=128,
            lr=0.1,
            schedule="one_cycle",
            augment="crop_flip",
            precision="bf16",
            evaluate_every=2,
            probe_every=100,
        ),
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
        dict(
            epochs=182,
            batch_size=128,
            lr=0.1,
            schedule="step",
            milestones=[0.5, 0.75],
            decay=0.1,
            warmup=400,
            augment="crop_flip",
            probe_every=4000,
        ),
    ),
}
# Plans with deep networks or many variants are smaller: half of the images on two cores, a quarter on a T4, and on a
# large GPU a schedule of 40 epochs in place of the paper's 182.
_MANY = {
    "cpu": (dict(subset=5000), dict(epochs=5)),
    "colab": (dict(subset=5000), dict(epochs=5)),
    "paper": (dict(), dict(epochs=40, schedule="one_cycle", probe_every=1000)),
}
# At 110 layers and more two cores have fewer epochs still, of smaller batches for as many steps, and half of the width.
_DEEP = {"cpu": dict(epochs=3, batch_size=64, probe_every=60)}
_DEEP_WIDTH = {"cpu": 8}
_DEPTH = {"smoke": 8, "cpu": 20, "colab": 20, "paper": 110}


def _image_sweep(
    preset: str,
    seeds: Any,
    models: list[dict],
    many: bool = False,
    measure: tuple[str, ...] = (),
    task: dict | None = None,
    recipe: dict | None = None,
) -> list[Experiment]:
    """Every model with every seed, at the preset's size; `task` and `recipe` go on top, a value of None takes one away."""
    smaller, shorter = _MANY.get(preset, ({}, {})) if many else ({}, {})
    base_task, model, base_recipe = _IMAGES[preset]
    base = Experiment(
        {key: value for key, value in (base_task | smaller | (task or {})).items() if value is not None},
        dict(name="cifar_resnet", **model),
        _SGD | base_recipe | shorter | (recipe or {}),
        measure=measure,
    )
    return sweep(base, {"seed": check_seeds(seeds), "model": models})


@register
def preact_resnet20(preset: str, seeds: Any = (0,)) -> list[Experiment]:
    """PreAct-ResNet-20 on all of CIFAR-10: the one number that says the training is sound.  [he2016identity]"""
    short = {}
    task = {}
    if preset in ("cpu", "colab"):
        task = dict(subset=None)
        short = dict(
            epochs=16, batch_size=64, lr=0.1, warmup=0.2, weight_decay=5e-4, nesterov=True, evaluate_every=4, probe_every=0
        )
    depth = 8 if preset == "smoke" else 20
    return _image_sweep(preset, seeds, [dict(variant="resnet_v2", depth=depth)], task=task, recipe=short)


@register
def degradation(preset: str, seeds: Any = SEEDS, depths: Any = None) -> list[Experiment]:
    """Plain against residual networks by depth: does the deeper one train worse?  [he2016deep]"""
    default = {"smoke": (8, 20), "cpu": (20, 32, 44, 56, 110), "colab": (20, 56), "paper": (20, 32, 44, 56, 110)}
    depths = integers("depths", default[preset] if depths is None else depths, least=8)
    models = [dict(variant=variant, depth=depth) for depth in depths for variant in ("plain", "residual")]
    return _image_sweep(preset, seeds, models, many=preset != "paper")


@register
def lesions(preset: str, seeds: Any = SEEDS, depth: int | None = None) -> list[Experiment]:
    """Delete and swap the blocks of trained networks, and walk from their minima.  [veit2016residual; li2018visualizing]"""
    depth = depth or {"smoke": 14, "cpu": 32, "colab": 32, "paper": 56}[preset]
    models = [dict(variant=variant, depth=depth) for variant in ("plain", "residual")]
    return _image_sweep(preset, seeds, models, many=preset != "paper", measure=("landscape", "lesions"))


@register
def resnet_v1(preset: str, seeds: Any = SEEDS) -> list[Experiment]:
    """ResNet-20 as it was published: the figure that a reader can hold against the paper's.  [he2016deep]"""
    depth = 8 if preset == "smoke" else 20
    recipe = {"cpu": dict(epochs=3, probe_every=0), "colab": dict(epochs=12, probe_every=0)}.get(preset, {})
    task = dict(subset=None) if preset in ("cpu", "colab") else {}
    return _image_sweep(preset, seeds, [dict(variant="resnet_v1", depth=depth)], task=task, recipe=recipe)


@register
def conv_orders(preset: str, seeds: Any = SEEDS, depth: int | None = None) -> list[Experiment]:
    """In which order a block convolves, normalises, activates and adds.  [he2016identity]"""
    variants = (
        "resnet_v1",
        "norm_after_add",
        "relu_before_add",
        "relu_only_pre",
        "resnet_v2",
        "pyramid",
        "conv_norm_act_add",
        "conv_act_norm_add",
    )
    models = [dict(variant=variant, depth=depth or _DEPTH[preset]) for variant in variants]
    return _image_sweep(preset, seeds, models, many=True)


@register
def conv_orders_deep(preset: str, seeds: Any = SEEDS) -> list[Experiment]:
    """ResNet v1 against v2 where depth should tell them apart: 110 layers, and bottlenecks of 164.  [he2016identity]"""
    sizes = {
        "smoke": [(14, 8, False), (20, 4, True)],
        "cpu": [(110, _DEEP_WIDTH["cpu"], False), (164, 4, True)],
        "colab": [(56, 16, False), (164, 4, True)],
        "paper": [(110, 16, False), (164, 16, True)],
    }[preset]
    models = []
    for depth, width, bottleneck in sizes:
        for version in (1, 2):
            variant = f"bottleneck_v{version}" if bottleneck else f"resnet_v{version}"
            models.append(dict(variant=variant, depth=depth, width=width))
    return _image_sweep(preset, seeds, models, many=preset != "paper", recipe=_DEEP.get(preset))


@register
def thousand_layers(preset: str, seeds: Any = (0,)) -> list[Experiment]:
    """A thin pre-activation bottleneck ResNet of 1001 layers, beside ResNet v1 of the same size.  [he2016identity]"""
    depth, width = {"smoke": (47, 2), "cpu": (1001, 2), "colab": (1001, 4), "paper": (1001, 16)}[preset]
    recipe = {"smoke": dict(epochs=2), "cpu": dict(epochs=5, probe_every=0), "colab": dict(epochs=5), "paper": {}}[preset]
    task = {"cpu": dict(subset=2000), "colab": dict(subset=5000)}.get(preset, {})
    models = [dict(variant=variant, depth=depth, width=width) for variant in ("bottleneck_v1", "bottleneck_v2")]
    return _image_sweep(preset, seeds, models, task=task, recipe=recipe)


@register
def shortcuts(preset: str, seeds: Any = SEEDS, depth: int | None = None) -> list[Experiment]:
    """What stands on the shortcut of ResNet v1: a scale, a gate, a convolution, dropout.  [he2016identity]"""
    models = [
        dict(variant="resnet_v1"),
        dict(variant="constant_scaling", skip=0),
        dict(variant="constant_scaling", skip=0.5),
        dict(variant="constant_scaling", skip=0.5, gain=0.5),
        *(dict(variant="exclusive_gating", bias=bias) for bias in (0, -6, -7)),
        *(dict(variant="shortcut_gating", bias=bias) for bias in (0, -6)),
        dict(variant="convolution_shortcut"),
        dict(variant="dropout_shortcut"),
    ]
    models = [dict(model, depth=depth or _DEPTH[preset]) for model in models]
    return _image_sweep(preset, seeds, models, many=True)


@register
def norm_free(preset: str, seeds: Any = SEEDS, lrs: Any = None, depth: int | None = None) -> list[Experiment]:
    """Does a rule of initialisation replace the norms?  [zhang2019fixup; de2020batch; bachlechner2021rezero]"""
    default = {"smoke": (0.1,), "cpu": (0.1, 0.03), "colab": (0.1, 0.03), "paper": (0.1, 0.03)}
    models = [
        dict(variant="residual", norm="batch"),
        dict(variant="residual", norm="none"),
        dict(variant="depth_scaled", norm="none"),
        dict(variant="fixup", norm="scalar_bias"),
        dict(variant="skipinit", norm="none"),
        dict(variant="layerscale", norm="none", init=0.1),
        dict(variant="depth_scaled", norm="none", weight="scaled_standard"),
        dict(variant="stochastic_depth", norm="batch"),
    ]
    size = dict(depth=depth or {"smoke": 14, "paper": 56}.get(preset, 20))
    size |= dict(width=8) if preset == "cpu" else {}
    models = [dict(model, **size) for model in models]
    lrs = positive("lrs", default[preset] if lrs is None else lrs)
    return [one for lr in lrs for one in _image_sweep(preset, seeds, models, many=True, recipe=dict(lr=lr))]


@register
def norms(preset: str, seeds: Any = SEEDS) -> list[Experiment]:
    """The normaliser in one and the same residual network, and what a change of contrast does to it.  [wu2018group]"""
    names = ("batch", "layer2d", "group(groups=1)", "group(groups=8)", "instance", "rms2d", "dyt2d", "none")
    models = [dict(norm=name) for name in names]
    models += [dict(norm="none", weight="norm"), dict(norm="group(groups=8)", weight="standard")]
    depth = {"smoke": 8, "paper": 56}.get(preset, 20)
    models = [dict(variant="resnet_v2", depth=depth) | model for model in models]
    return _image_sweep(preset, seeds, models, many=True, measure=("contrast",))


@register
def group_counts(preset: str, seeds: Any = SEEDS) -> list[Experiment]:
    """Group norm from one group of all channels to one group a channel.  [wu2018group]"""
    counts = (1, 2, 4, 8) if preset == "smoke" else (1, 2, 4, 8, 16)
    models = [
        dict(variant="resnet_v2", norm=f"group(groups={count})", depth={"smoke": 8, "paper": 56}.get(preset, 20))
        for count in counts
    ]
    return _image_sweep(preset, seeds, models, many=True)


@register
def batch_sizes(preset: str, seeds: Any = SEEDS, sizes: Any = None) -> list[Experiment]:
    """Four norms by batch size, the learning rate in proportion to it.  [wu2018group]"""
    task, model, recipe = {
        "smoke": (dict(name="digits", test=1000), dict(depth=8, width=8), dict(epochs=3, precision="fp32")),
        "cpu": (
            dict(name="cifar10", subset=4000),
            dict(depth=8, width=16),
            dict(epochs=4, augment="crop_flip", precision="fp32", evaluate_every=4),
        ),
        "colab": (
            dict(name="cifar10", subset=4000),
            dict(depth=8, width=16),
            dict(epochs=4, augment="crop_flip", evaluate_every=4),
        ),
        "paper": (dict(name="cifar10"), dict(depth=20, width=16), dict(epochs=100, augment="crop_flip")),
    }[preset]
    default = (32, 8, 2) if preset == "smoke" else (128, 32, 8, 4, 2)
    names = ("batch", "group") if preset == "smoke" else ("batch", "group", "layer2d", "instance")
    schedule = dict(schedule="step", milestones=[0.3, 0.6, 0.9]) if preset == "paper" else dict(schedule="cosine")
    base = Experiment(task, dict(name="cifar_resnet", variant="resnet_v2", **model), _SGD | schedule | recipe)
    sizes = integers("sizes", default if sizes is None else sizes, least=2)
    batches = [dict(batch_size=size, lr=0.1 * size / 32) for size in sizes]
    return sweep(base, {"seed": check_seeds(seeds), "model.norm": list(names), "recipe": batches})


@register
def learning_rates(preset: str, seeds: Any = SEEDS, lrs: Any = None) -> list[Experiment]:
    """The largest learning rate that trains, with and without a norm and with and without a skip.  [santurkar2018how]"""
    default = (0.01, 0.1, 1) if preset == "smoke" else (0.01, 0.03, 0.1, 0.3, 1, 3)
    lrs = positive("lrs", default if lrs is None else lrs)
    depth = {"smoke": 8, "paper": 56}.get(preset, 20)
    pairs = [(variant, norm) for variant in ("plain", "residual") for norm in ("none", "batch", "group")]
    models = [dict(variant=variant, norm=norm, depth=depth) for variant, norm in pairs]
    size = {"cpu": dict(subset=2000), "colab": dict(subset=2000)}.get(preset, {})
    recipe = dict(schedule="constant", probe_every=0) | (dict(epochs=4) if preset in ("cpu", "colab") else {})
    sweeps = (_image_sweep(preset, seeds, models, many=True, task=size, recipe=dict(recipe, lr=lr)) for lr in lrs)
    return [one for sweep_of_one_rate in sweeps for one in sweep_of_one_rate]


@register
def covariate_shift(preset: str, seeds: Any = SEEDS) -> list[Experiment]:
    """Plain networks without a norm, with batch norm, and with batch norm that is then disturbed.  [santurkar2018how]"""
    depth = {"smoke": 8, "paper": 20}.get(preset, 14)
    names = ("none", "batch", "noisy_batch")
    models = [dict(variant="plain", norm=name, depth=depth) for name in names]
    recipe = dict(lr=0.05)
    return _image_sweep(preset, seeds, models, many=True, measure=("covariate_shift",), recipe=recipe)


@register
def concatenation(preset: str, seeds: Any = SEEDS) -> list[Experiment]:
    """DenseNet against a residual network with as many parameters, with two norms.  [huang2017densely]"""
    # Thousands of parameters, dense and residual: smoke 70 and 68, cpu and colab 271 and 270, paper 1020 and 1028.
    (depth, growth, stem), (residual_depth, width), norm = {
        "smoke": ((22, 6, 8), (20, 8), "group(groups=2)"),
        "paper": ((40, 12, 16), (44, 20), "group(groups=4)"),
    }.get(preset, ((22, 12, 16), (20, 16), "group(groups=4)"))
    dense = [dict(name="cifar_densenet", depth=depth, growth=growth, width=stem)]
    residual = [dict(variant="resnet_v2", depth=residual_depth, width=width)]
    dense += [dict(dense[0], norm=norm)]
    residual += [dict(residual[0], norm=norm)]
    if preset == "paper":  # 769 and 756
        dense += [dict(name="cifar_densenet", depth=100, growth=12, width=24, bottleneck=True, compression=0.5)]
        residual += [dict(variant="resnet_v2", depth=50)]
    concatenated = _image_sweep(preset, seeds, dense, many=True, measure=("reads",))
    return concatenated + _image_sweep(preset, seeds, residual, many=True)


@register
def thousand_blocks(preset: str, seeds: Any = SEEDS, depths: Any = None, lrs: Any = None) -> list[Experiment]:
    """Stacks of up to 1,000 residual blocks on digits: which of them train?  [de2020batch; marion2025scaling]"""
    sizes, width, epochs, rates = {
        "smoke": ((64,), 32, 2, (0.03,)),
        "cpu": ((1000,), 32, 8, (0.01,)),
        "colab": ((1000,), 32, 8, (0.01,)),
        "paper": ((10, 100, 1000), 256, 40, (0.1, 0.01)),
    }[preset]
    # Branches that keep the size of their input, to which the closed forms apply; DeepNorm draws its own.
    models = [
        dict(initialisation="unit_gain", **model)
        for model in (
            dict(variant="plain"),
            dict(variant="residual", norm="none"),
            *(dict(variant="depth_scaled", norm="none", power=power) for power in (0.25, 0.5, 1)),
            dict(variant="rezero", norm="none"),
            dict(variant="pre"),
            dict(variant="depth_scaled", norm="layer", power=0.5),
            dict(variant="post"),
        )
    ]
    models.append(dict(variant="deepnorm"))
    base = Experiment(
        dict(name="digits"),
        dict(name="mlp_stack", width=width),
        _SGD | dict(epochs=epochs, batch_size=128, schedule="one_cycle", precision="fp32", evaluate_every=epochs),
    )
    depths = integers("depths", sizes if depths is None else depths, least=1)
    lrs = positive("lrs", rates if lrs is None else lrs)
    return sweep(base, {"recipe.lr": lrs, "model.depth": depths, "seed": check_seeds(seeds), "model": models})


@register
def recursive_skip(
    preset: str, seeds: Any = SEEDS, orders: Any = (2,), lambdas: Any = (2,), depth: int | None = None
) -> list[Experiment]:
    """Skip, xSkip, xSkip+LN, xSkip+BN, rSkip+LN, rSkip+BN on images.  [liu2020rethinking]"""
    orders, lambdas = check_orders(orders), check_lambdas(lambdas)
    models = _recursive(orders, lambdas, depth or {"smoke": 14, "cpu": 20, "colab": 20, "paper": 110}[preset])
    return _image_sweep(preset, seeds, models)


@register
def recursive_skip_grid(
    preset: str,
    seeds: Any = SEEDS,
    orders: Any = (1, 2, 3, 4),
    lambdas: Any = (0.5, 2, 4),
    affines: Any = ("step", "shared", "last"),
) -> list[Experiment]:
    """The recursive skip by norm, order and affine map, and xSkip by its factor.  [liu2020rethinking]"""
    models = _recursive(check_orders(orders), check_lambdas(lambdas), 8 if preset == "smoke" else 20)
    for model in [model for model in models if model.get("order", 1) > 1]:
        # One map a step is the default, which an experiment does not name.
        models += [dict(model, affine=affine) for affine in affines if affine != "step"]
    models = [dict(model, width=8) for model in models] if preset == "cpu" else models
    return _image_sweep(preset, seeds, models, many=True)


@register
def recursive_skip_all_images(preset: str, seeds: Any = SEEDS) -> list[Experiment]:
    """The six headline variants on every image of CIFAR-10, and what their norms learn.  [liu2020rethinking]"""
    models = _recursive([2], [2], {"smoke": 8, "paper": 110}.get(preset, 20))
    task, recipe = (dict(subset=None), dict(epochs=2)) if preset in ("cpu", "colab") else ({}, {})
    return _image_sweep(preset, seeds, models, measure=("affine_maps",), task=task, recipe=recipe)


@register
def recursive_skip_deep(preset: str, seeds: Any = SEEDS) -> list[Experiment]:
    """The six headline variants at 110 layers.  [liu2020rethinking]"""
    models = _recursive([2], [2], {"smoke": 14, "colab": 56}.get(preset, 110))
    models = [dict(model, width=_DEEP_WIDTH[preset]) for model in models] if preset in _DEEP_WIDTH else models
    return _image_sweep(preset, seeds, models, many=True, measure=("affine_maps",), recipe=_DEEP.get(preset))


def _recursive(orders: list[int], lambdas: list[float], depth: int) -> list[dict[str, Any]]:
    """Skip, xSkip without and with a norm, and rSkip with a norm, LN and BN."""
    models: list[dict[str, Any]] = [dict(variant="residual")]
    models += [dict(variant="xskip", skip=skip) for skip in lambdas]
    for norm in ("layer2d", "batch"):
        models += [dict(variant="xskip_norm", merge_norm=norm, skip=skip) for skip in lambdas]
    for norm in ("layer2d", "batch"):
        models += [dict(variant="rskip_norm", merge_norm=norm, order=order) for order in orders]
    return [dict(model, depth=depth) for model in models]
