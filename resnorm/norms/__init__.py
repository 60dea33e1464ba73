r"""Normalisers by name: what each one averages over, in training and in eval.

Every normaliser computes

$$y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta$$

and they differ in one thing only: the set of values over which the mean $\mu$ and the variance $\sigma^2$ are taken.
For an image batch of shape (batch N, channels C, height H, width W):

| name       | averaged over        | one statistic for each   | in eval            | citation            |
|------------|----------------------|--------------------------|--------------------|---------------------|
| `batch`    | N, H, W              | channel                  | running statistics | ioffe2015batch      |
| `layer`    | the last axis        | every other position     | the same           | ba2016layer         |
| `layer2d`  | C                    | sample and pixel         | the same           | ba2016layer         |
| `group`    | C / groups, H, W     | sample and group         | the same           | wu2018group         |
| `instance` | H, W                 | sample and channel       | the same           | ulyanov2016instance |
| `rms`      | the last axis, no $\mu$ | every other position  | the same           | zhang2019root       |
| `rms2d`    | C, no $\mu$          | sample and pixel         | the same           | zhang2019root       |

Others stand in a norm's place, so that the same word can be built with them:

| name          | computes                                   | in eval            | citation             |
|---------------|--------------------------------------------|--------------------|----------------------|
| `dyt`         | $\gamma \tanh(\alpha x) + \beta$, by the last axis | the same     | zhu2025transformers  |
| `dyt2d`       | the same, by channel                       | the same           | zhu2025transformers  |
| `derf`        | $\gamma \operatorname{erf}(\alpha x + s) + \beta$, by the last axis | the same | chen2026stronger |
| `seed`        | `rms` with a gain that depends on x        | the same           | cai2026seednorm      |
| `noisy_batch` | `batch`, then noise that changes every step | `batch`, no noise | santurkar2018how     |
| `scalar_bias` | $x + b$, one learned number                | the same           | zhang2019fixup       |
| `none`        | $x$                                        | the same           |                      |

"LayerNorm" on images has three meanings in the literature: `layer2d` here (over the channels of one pixel),
`group(groups=1)` (over C, H and W together), and `layer` on a channels-last tensor, which is `layer2d` by another route.
"""

from resnorm.norms.checking import check_conversion
from resnorm.norms.convert import convert_norm
from resnorm.norms.functional import adaptive_instance_norm, weight_norm, weight_standardisation
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
from resnorm.norms.names import LAST_AXIS, NORMS, norm
from resnorm.norms.settings import call_factory, call_form

__all__ = [
    "LAST_AXIS",
    "NORMS",
    "BatchNorm",
    "DynamicErf",
    "DynamicTanh",
    "DynamicTanh2d",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LayerNorm2d",
    "NoNorm",
    "NoisyBatchNorm",
    "RMSNorm",
    "RMSNorm2d",
    "ScalarBias",
    "SeeDNorm",
    "adaptive_instance_norm",
    "call_factory",
    "call_form",
    "check_conversion",
    "convert_norm",
    "norm",
    "weight_norm",
    "weight_standardisation",
]
