"""Images: the sizes of the residual networks that read them, and the models of the recursive skip."""

from typing import Any

from resnorm.lab.experiment import Experiment, sweep
from resnorm.lab.plans.checks import check_lambdas, check_orders, check_seeds

# The optimiser settings of He et al. [he2016deep; he2016identity], in every preset.
SGD = dict(optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=1e-4)
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
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
MANY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cpu": (dict(subset=5000), dict(epochs=5)),
    "colab": (dict(subset=5000), dict(epochs=5)),
    "paper": (dict(), dict(epochs=40, schedule="one_cycle", probe_every=1000)),
}
# At 110 layers and more two cores have fewer epochs still, of smaller batches for as many steps, and half of the width.
DEEP = {"cpu": dict(epochs=3, batch_size=64, probe_every=60)}
DEEP_WIDTH = {"cpu": 8}
DEPTH = {"smoke": 8, "cpu": 20, "colab": 20, "paper": 110}


def images(
    preset: str,
    model: dict[str, Any],
    seeds: Any,
    many: bool = False,
    measure: tuple[str, ...] = (),
    task: dict | None = None,
    recipe: dict | None = None,
) -> list[Experiment]:
    """One model with every seed, at the preset's size; `task` and `recipe` go on top, a value of None takes one away.

    `many`: for studies of deep networks or of many arms, which are smaller.
    """
    smaller, shorter = MANY.get(preset, ({}, {})) if many else ({}, {})
    base_task, base_model, base_recipe = SIZES[preset]
    experiment = Experiment(
        {key: value for key, value in (base_task | smaller | (task or {})).items() if value is not None},
        dict(name="cifar_resnet", **base_model) | model,
        SGD | base_recipe | shorter | (recipe or {}),
        measure=measure,
    )
    return sweep(experiment, {"seed": check_seeds(seeds)})


def recursive(orders: Any, lambdas: Any) -> dict[str, dict[str, Any]]:
    """Skip, xSkip without and with a norm, and rSkip with a norm, LN and BN."""
    orders, lambdas = check_orders(orders), check_lambdas(lambdas)
    norms = {"LN": "layer2d", "BN": "batch"}
    models: dict[str, dict[str, Any]] = {"Residual": dict(variant="residual")}
    models |= {f"xSkip (λ = {skip:g})": dict(variant="xskip", skip=skip) for skip in lambdas}
    for short, norm in norms.items():
        for skip in lambdas:
            models[f"xSkip + {short} (λ = {skip:g})"] = dict(variant="xskip_norm", merge_norm=norm, skip=skip)
    for short, norm in norms.items():
        for order in orders:
            models[f"rSkip + {short} (order {order})"] = dict(variant="rskip_norm", merge_norm=norm, order=order)
    return models
