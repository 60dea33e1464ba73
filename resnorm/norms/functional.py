"""Normalisation that is no layer: of an image by another image, and of weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def adaptive_instance_norm(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Give each channel of the content the mean and the deviation that it has in the style (AdaIN).

    $$y = \sigma(s) \, \frac{c - \mu(c)}{\sigma(c)} + \mu(s), \qquad \sigma^2 = \operatorname{var}_{h,w} + \varepsilon$$

    Instance norm whose gain and bias are not learned but read from another image.
    Shapes: `content` (batch, channels, ...), `style` the same batch and channels, or one sample for all, over any
    positions; output as `content`. Raises `ValueError` where they do not match, or where an image has no or one position.
    Citation: huang2017arbitrary.
    """
    if content.shape[1:2] != style.shape[1:2] or style.shape[0] not in (1, content.shape[0]):
        raise ValueError(
            f"AdaIN of content {tuple(content.shape)} and style {tuple(style.shape)}: give both the same channels, and one "
            "style for each sample or one for all"
        )
    statistics = []
    for name, x in (("content", content), ("style", style)):
        if x.dim() < 3 or math.prod(x.shape[2:]) == 1:
            raise ValueError(f"AdaIN averages over spatial positions, and the {name} of shape {tuple(x.shape)} has one or none")
        variance, mean = torch.var_mean(x, tuple(range(2, x.dim())), correction=0, keepdim=True)
        axes = (...,) + (None,) * (content.dim() - 2)
        statistics.append((mean.flatten(1)[axes], (variance + eps).sqrt().flatten(1)[axes]))
    (mean, deviation), (style_mean, style_deviation) = statistics
    return style_deviation * ((content - mean) / deviation) + style_mean


def weight_norm(weight: Tensor, gain: Tensor) -> Tensor:
    r"""Rescale each filter to a learned length: $\hat w = g \, w / \lVert w \rVert$.

    Shapes: `weight` (out, in, ...), `gain` (out,), output as `weight`. The norm is over every axis but the first; it is the
    weights that are normalised, so training, eval and the batch size make no difference. Citation: salimans2016weight.
    """
    shape = (-1,) + (1,) * (weight.dim() - 1)
    length = weight.flatten(1).norm(dim=1).view(shape)
    return weight * (gain.view(shape) / length)


def weight_standardisation(weight: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Give each filter mean 0 and variance 1: $\hat w = (w - \mu_w) / \sqrt{\sigma_w^2 + \varepsilon}$.

    Shapes: `weight` (out, in, ...), output the same. The statistics are over every axis but the first (input channels and
    kernel), the same in training and in eval. Citation: qiao2019weight.
    """
    return F.layer_norm(weight, weight.shape[1:], eps=eps)
