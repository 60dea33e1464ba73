"""The zoo: every placement at its own tuned learning rate.  [xiong2020layer; kim2025peri; xie2025mhc]

The rates are those that `placement_rates` found at the size `cpu`; for another size, run that study there first.
"""

from typing import Any

from resnorm.catalog import variant
from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS, check_seeds
from resnorm.lab.plans.language import ADAMW

SIZES: dict[str, tuple[dict, dict, dict]] = {
    "smoke": (
        dict(name="characters", context=32),
        dict(depth=4, width=32, heads=2),
        dict(epochs=2, batch_size=32, evaluate_every=2, precision="fp32", probe_every=25),
    ),
    # bf16 by name, as for images: "auto" is fp32 on a CPU.
    "cpu": (
        dict(name="tiny_shakespeare", context=64, subset=6400),
        dict(depth=12, width=64, heads=4),
        dict(epochs=1, batch_size=16, precision="bf16", probe_every=100),
    ),
    "colab": (
        dict(name="tiny_shakespeare", context=64, subset=6400),
        dict(depth=12, width=64, heads=4),
        dict(epochs=1, batch_size=16, probe_every=100),
    ),
    "paper": (
        dict(name="tiny_shakespeare", context=256),
        dict(depth=24, width=384, heads=6),
        dict(epochs=20, batch_size=64, evaluate_every=2, probe_every=200),
    ),
}
# What an arm sets of the recipe; the rest is the model's.
RECIPE = ("lr", "precision")
# The later arms were recorded in 32 bits, and Pre-Norm, once more, beside them.
FP32 = dict(precision="fp32")
# `lr` is the rate that the recorded runs of the study `placement_rates` found at the size `cpu`: a test compares the two.
ARMS: dict[str, dict[str, Any]] = {
    "Residual, no norm": dict(variant="residual", lr=3e-4),
    "Pre-Norm": dict(variant="pre", lr=1e-2),
    "Post-Norm": dict(variant="post", lr=1e-3),
    "Residual post-norm": dict(variant="res_post", lr=3e-3),
    "Peri-LN (sandwich)": dict(variant="sandwich", lr=1e-2),
    "Keel": dict(variant="keel", lr=1e-2),
    "DeepNorm": dict(variant="deepnorm", lr=1e-2),
    "rSkip + norm": dict(variant="rskip_norm", lr=3e-3),
    "B2T": dict(variant="encoder_b2t", lr=3e-3),
    "Sub-LN (Magneto)": dict(variant="sub_ln", lr=3e-3),
    "NormFormer": dict(variant="normformer", lr=1e-2),
    "Mix-LN": dict(variant="mix_ln", lr=3e-3),
    "LayerNorm Scaling": dict(variant="layernorm_scaling", lr=3e-2),
    "Depth-scaled branch": dict(variant="depth_scaled", lr=1e-2),
    "Pre-Norm + QK-norm": dict(variant="qk_norm", lr=1e-2),
    "OLMo 2": dict(variant="olmo2", lr=1e-2),
    "ReZero": dict(variant="rezero", lr=1e-2),
    "nGPT": dict(variant="ngpt", lr=1e-2),
    "Pre-Norm with DyT": dict(variant="pre", norm="dyt", lr=1e-2),
    "Pre-Norm with Derf": dict(variant="pre", norm="derf", lr=1e-2),
    "ResiDual": dict(variant="dual", lr=1e-2),
    "DenseFormer": dict(variant="denseformer", lr=3e-2),
    "Attention Residuals": dict(variant="attention_residuals", lr=1e-2),
    "Hyper-Connections": dict(variant="hyper_connections", lr=1e-2),
    "Hyper-Connections, dynamic": dict(variant="hyper_connections", dynamic=True, lr=1e-2),
    "mHC": dict(variant="manifold_hyper_connections", lr=1e-2),
    "Pre-Norm, 32 bits": dict(variant="pre", lr=1e-2, **FP32),
    "Admin": dict(variant="admin", lr=3e-3, **FP32),
    "HybridNorm": dict(variant="hybridnorm", lr=1e-3, **FP32),
    "Value residual (ResFormer)": dict(variant="value_residual", lr=1e-2, **FP32),
    "nGPT, normalised weights": dict(variant="ngpt_weights", lr=1e-2, **FP32),
    "Skip after the norm": dict(variant="skip_after_norm", lr=1e-3, **FP32),
    "Parallel branches, one norm": dict(variant="parallel", lr=1e-2, **FP32),
    "Parallel branches, two norms": dict(variant="parallel_two_norms", lr=1e-2, **FP32),
}


def arms(preset: str) -> dict[str, dict[str, Any]]:
    # Elsewhere there is one precision, and the second Pre-Norm would be the first once more.
    return ARMS if preset == "cpu" else {arm: settings for arm, settings in ARMS.items() if arm != "Pre-Norm, 32 bits"}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    return [experiment(preset, arm, seed) for seed in check_seeds(seeds)]


def experiment(preset: str, arm: dict[str, Any], seed: int, lr: float | None = None) -> Experiment:
    """An arm of the zoo with one seed, at its own learning rate or at ``lr``; its precision is for the size `cpu` alone."""
    task, size, recipe = SIZES[preset]
    model = {key: value for key, value in arm.items() if key not in RECIPE}
    recipe = ADAMW | recipe | dict(lr=arm.get("lr", 1e-2) if lr is None else lr)
    if preset == "cpu" and "precision" in arm:
        recipe["precision"] = arm["precision"]
    # A layer can be deleted where the blocks carry their own skip.
    word = variant(arm["variant"])
    last = ("layers",) if word.stream is None else ("mixing",) if "hyper" in word.name else ()
    return Experiment(task, dict(name="transformer_lm", **size, **model), recipe, seed, ("activations", *last))
