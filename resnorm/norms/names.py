"""Every normaliser by its name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from resnorm.norms.modules import (
    BatchNorm,
    DynamicErf,
    DynamicTanh,
    DynamicTanh2d,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LayerNorm2d,
    NoisyBatchNorm,
    NoNorm,
    RMSNorm,
    RMSNorm2d,
    ScalarBias,
    SeeDNorm,
)
from resnorm.norms.settings import call_factory, call_form

NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNorm,
    "noisy_batch": NoisyBatchNorm,
    "layer": LayerNorm,
    "layer2d": LayerNorm2d,
    "group": GroupNorm,
    "instance": InstanceNorm,
    "rms": RMSNorm,
    "rms2d": RMSNorm2d,
    "dyt": DynamicTanh,
    "dyt2d": DynamicTanh2d,
    "derf": DynamicErf,
    "seed": SeeDNorm,
    "scalar_bias": ScalarBias,
    "none": NoNorm,
}

# These work along the last axis, which is the features of a token, and the width of an image.
LAST_AXIS = ("layer", "rms", "dyt", "derf", "seed")


def norm(name: str, width: int, **options) -> nn.Module:
    r"""Build a normaliser by its name: $y = \gamma (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + \beta$, see the module's table.

    `name`: a key of `NORMS`, or its string form with options, `"group(groups=4)"`; `width`: the number of channels or features.
    Options: `eps`; `affine` (learn $\gamma$ and $\beta$); `groups` (group); `momentum` and `dim` (batch);
    `noise` (noisy_batch); `alpha` (dyt, derf).
    Raises `ValueError` for an unknown name or an impossible setting, `TypeError` for an option that the normaliser lacks.
    """
    name, written = call_form(name)
    if name not in NORMS:
        raise ValueError(f"unknown normaliser {name!r}; allowed: {', '.join(NORMS)}")
    return call_factory(name, NORMS[name], width, {**written, **options})
