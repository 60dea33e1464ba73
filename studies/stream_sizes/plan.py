"""Stacks of 16 residual blocks on digits: how large is the stream after every block, before and during training?  [kim2025peri]"""

from typing import Any

from resnorm.lab import Experiment, sweep
from resnorm.lab.plans.checks import SEEDS, check_seeds

ARMS = {
    "No norm": dict(variant="residual", norm="none"),
    "Pre-Norm": dict(variant="pre"),
    "Post-Norm": dict(variant="post"),
    "Gain 1/√L": dict(variant="depth_scaled", norm="none"),
}
# Epochs of nine steps; the stream is read at the first step, after 30 and after 60.
EPOCHS = {"smoke": 4, "cpu": 7, "colab": 7, "paper": 70}


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    base = Experiment(
        dict(name="digits"),
        dict(name="mlp_stack", depth=16, width=64, initialisation="unit_gain", **arm),
        dict(
            optimizer="adamw",
            lr=3e-3,
            epochs=EPOCHS[preset],
            batch_size=128,
            schedule="constant",
            precision="fp32",
            probe_every=30,
            evaluate_every=EPOCHS[preset],
        ),
    )
    return sweep(base, {"seed": check_seeds(seeds)})
