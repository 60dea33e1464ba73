"""How far the statistics of a batch of images are from those of all images."""

from typing import Any

import torch
from torch import Tensor


def variance_of_image_means(images: Tensor) -> float:
    r"""Return v, the variance of the means of whole images, in units of the variance of all values.

    $$v = \operatorname{mean}_{n, c} \bar z_{n c}^2, \qquad z = (x - \mu_c) / \sigma_c$$

    The error of a batch's mean is $\sigma \sqrt{v / N}$ for N images, so an image counts as 1 / v independent values. White
    noise of P pixels has v = 1 / P. Shapes: images (number, channels, height, width).
    """
    return _image_moments(images)[0].square().mean().item()


def batch_errors(images: Tensor, size: int, draws: int = 2000) -> list[dict[str, Any]]:
    r"""Return the root mean square errors of the mean and of the deviation of random batches, in units of $\sigma$.

    Two rows: `of the`, "mean" or "deviation", and `error`. The batches hold `size` images, drawn with replacement by torch's
    own generator. Shapes: images (number, channels, height, width). Raises `ValueError` for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size!r}; a batch has at least one image")
    first, second = _image_moments(images)
    pick = torch.randint(len(images), (draws, size))
    mean = first[pick].mean(1)
    deviation = (second[pick].mean(1) - mean.square()).clamp(min=0).sqrt()
    errors = {"mean": mean, "deviation": deviation - 1}
    return [{"of the": name, "error": error.square().mean().sqrt().item()} for name, error in errors.items()]


def _image_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's means of z and of z squared: two of (images, channels)."""
    deviation = images.std((0, 2, 3), correction=0, keepdim=True)
    z = (images - images.mean((0, 2, 3), keepdim=True)) / deviation
    return z.mean((2, 3)), z.square().mean((2, 3))
