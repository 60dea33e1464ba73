"""Change the contrast, the brightness and the colour of the test images, and score the trained network on them."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from resnorm.norms.checking import evaluating
from resnorm.probes.scores import batch_statistics, score

LUMINANCE = (0.299, 0.587, 0.114)


def contrast(
    model: nn.Module, pixels: Tensor, targets: Tensor, mean: Tensor, deviation: Tensor, batch: int = 100
) -> list[dict[str, Any]]:
    r"""Score the network on images as they are and on changed ones: one row a change, tidy.

    For pixels p between 0 and 1, of mean $\bar p$ over the image, and a strength s the changes are
    $\bar p + s\,(p - \bar p)$ ("contrast"), $p + s$ ("brightness"), $(1 + s,\, 1,\, 1 - s)$ times red, green and blue
    ("colour") and $(1 - s)\, p + s\, p_{grey}$ ("grey"), the last two for images of three channels only; "none" is p.
    Nothing is cut at black and white: what is lost, the network loses. It reads $(p - \mu) / \sigma$, `mean` and
    `deviation` being those of the training set.
    `statistics`: "running", or "batch" where a model with batch norms takes them from batches of `batch` changed images;
    `shift`, `strength`; `loss` in nats; `accuracy`. The model is left as it was.
    Shapes: pixels (examples, channels, height, width), targets (examples,), mean and deviation (channels,).
    Raises `ValueError` as `score` does, and where mean and deviation are not one for each channel.
    """
    channels = pixels.shape[1]
    if mean.shape != (channels,) or deviation.shape != (channels,):
        raise ValueError(
            f"mean {tuple(mean.shape)} and deviation {tuple(deviation.shape)}; give one for each of {channels} channels"
        )
    mean, deviation = mean.view(-1, 1, 1), deviation.view(-1, 1, 1)
    batched = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    shifts = [case for case in CASES if channels == 3 or case[0] not in ("colour", "grey")]
    cases = [(*case, statistics) for case in shifts for statistics in (("running", "batch") if batched else ("running",))]

    def logits(case: tuple[str, float, str], inputs: Tensor) -> Tensor:
        shift, strength, statistics = case
        x = (CHANGES[shift](inputs, strength) - mean) / deviation
        with batch_statistics(model) if statistics == "batch" else nullcontext():
            return model(x)

    with evaluating(model):
        rows = score(cases, logits, pixels, targets, batch)
    return [
        {**dict(zip(("shift", "strength", "statistics"), case, strict=True)), **row} for case, row in zip(cases, rows, strict=True)
    ]


def _contrast(pixels: Tensor, factor: float) -> Tensor:
    level = pixels.mean((1, 2, 3), keepdim=True)
    return level + factor * (pixels - level)


def _colour(pixels: Tensor, strength: float) -> Tensor:
    return pixels * torch.tensor([1 + strength, 1, 1 - strength]).to(pixels).view(3, 1, 1)


def _grey(pixels: Tensor, share: float) -> Tensor:
    grey = (pixels * torch.tensor(LUMINANCE).to(pixels).view(3, 1, 1)).sum(1, keepdim=True)
    return (1 - share) * pixels + share * grey


CHANGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda pixels, strength: pixels,
    "contrast": _contrast,
    "brightness": lambda pixels, strength: pixels + strength,
    "colour": _colour,
    "grey": _grey,
}
CASES = (
    ("none", 0.0),
    ("contrast", 0.25),
    ("contrast", 0.5),
    ("contrast", 2.0),
    ("brightness", -0.3),
    ("brightness", 0.3),
    ("colour", 0.4),
    ("grey", 1.0),
)
