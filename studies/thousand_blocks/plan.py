"""Stacks of up to 1,000 residual blocks on digits: which of them train?  [de2020batch; marion2025scaling]"""

from typing import Any

from resnorm.lab import Experiment, sweep
from resnorm.lab.plans.checks import SEEDS, check_seeds, integers, positive
from resnorm.lab.plans.images import SGD

# Branches that keep the size of their input, to which the closed forms apply; DeepNorm draws its own.
UNIT = dict(initialisation="unit_gain")
ARMS = {
    "Plain": dict(variant="plain", **UNIT),
    "Residual": dict(variant="residual", norm="none", **UNIT),
    "Depth-scaled branch (β = 0.25)": dict(variant="depth_scaled", norm="none", power=0.25, **UNIT),
    "Depth-scaled branch (β = 0.5)": dict(variant="depth_scaled", norm="none", power=0.5, **UNIT),
    "Depth-scaled branch (β = 1)": dict(variant="depth_scaled", norm="none", power=1, **UNIT),
    "ReZero": dict(variant="rezero", norm="none", **UNIT),
    "Pre-Norm": dict(variant="pre", **UNIT),
    "Depth-scaled Pre-Norm (β = 0.5)": dict(variant="depth_scaled", norm="layer", power=0.5, **UNIT),
    "Post-Norm": dict(variant="post", **UNIT),
    "DeepNorm": dict(variant="deepnorm"),
}
# Depths, width, epochs and learning rates.
SIZES = {
    "smoke": ((64,), 32, 2, (0.03,)),
    "cpu": ((1000,), 32, 8, (0.01,)),
    "colab": ((1000,), 32, 8, (0.01,)),
    "paper": ((10, 100, 1000), 256, 40, (0.1, 0.01)),
}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS, depths: Any = None, lrs: Any = None) -> list[Experiment]:
    sizes, width, epochs, rates = SIZES[preset]
    base = Experiment(
        dict(name="digits"),
        dict(name="mlp_stack", width=width, **arm),
        SGD | dict(epochs=epochs, batch_size=128, schedule="one_cycle", precision="fp32", evaluate_every=epochs),
    )
    depths = integers("depths", sizes if depths is None else depths, least=1)
    lrs = positive("lrs", rates if lrs is None else lrs)
    return sweep(base, {"recipe.lr": lrs, "model.depth": depths, "seed": check_seeds(seeds)})
