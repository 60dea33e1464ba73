"""Does a rule of initialisation replace the norms?  [zhang2019fixup; de2020batch; bachlechner2021rezero]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS, positive
from resnorm.lab.plans.images import images

ARMS = {
    "Residual, batch norm": dict(variant="residual", norm="batch"),
    "Residual, no norm": dict(variant="residual", norm="none"),
    "Depth-scaled branch": dict(variant="depth_scaled", norm="none"),
    "Fixup": dict(variant="fixup", norm="scalar_bias"),
    "SkipInit": dict(variant="skipinit", norm="none"),
    "LayerScale": dict(variant="layerscale", norm="none", init=0.1),
    "Depth-scaled, scaled weight standardisation": dict(variant="depth_scaled", norm="none", weight="scaled_standard"),
    "Stochastic depth": dict(variant="stochastic_depth", norm="batch"),
}


def experiments(
    preset: str, arm: dict[str, Any], seeds: Any = SEEDS, lrs: Any = None, depth: int | None = None
) -> list[Experiment]:
    size = dict(depth=depth or {"smoke": 14, "paper": 56}.get(preset, 20)) | (dict(width=8) if preset == "cpu" else {})
    lrs = positive("lrs", ((0.1,) if preset == "smoke" else (0.1, 0.03)) if lrs is None else lrs)
    return [experiment for lr in lrs for experiment in images(preset, arm | size, seeds, many=True, recipe=dict(lr=lr))]
