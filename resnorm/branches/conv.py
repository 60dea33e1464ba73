"""Convolutions, plain, weight-normalised or weight-standardised."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm.norms import call_form, weight_norm, weight_standardisation
from resnorm.norms.settings import switch

WEIGHTS = (None, "norm", "standard", "scaled_standard")
STANDARD = ("standard", "scaled_standard")
OPTIONS: dict[str | None, set[str]] = {"norm": {"from_data"}, **{form: {"eps"} for form in STANDARD}}
# A filter's variance is about 1 / fan-in: an eps of 1e-5 would be a tenth of it in wide layers.
EPS = 1e-10
# A ReLU leaves the variance (1 - 1/π) / 2 of a standard normal input; a filter of mean 0 takes out the common mean.
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))


class Convolution(nn.Conv2d):
    r"""Convolve an image with odd kernels, padded so that stride 1 keeps its height and width.

    $$y = \hat w * x + b, \qquad \hat w = w,\; g\,w / \lVert w \rVert \text{ (norm)},\;
    (w - \mu_w) / \sigma_w \text{ (standard)},\; \gamma\,(w - \mu_w) / (\sigma_w \sqrt{n}) \text{ (scaled\_standard)}$$

    Weight norm and weight standardisation act on each filter. A standardised filter has variance 1 whatever its fan-in
    n: a norm has to follow it. The scaled form needs none: with $\gamma = \sqrt{2 / (1 - 1/\pi)}$ the variance of a ReLU's
    input passes through it unchanged. `weight` may give the eps that is added to $\sigma_w^2$, as "standard(eps=1e-8)"; it is
    1e-10, since the variance of a filter is about 1 / n. "norm(from_data=True)" is weight norm whose gains wait for a first
    batch: `resnorm.lab` sets them by `resnorm.init.from_data` before it trains.

    Shapes: x (batch, width, height, image width), output (batch, out, height / stride, image width / stride), rounded
    up.
    Raises `ValueError` for an even kernel, for groups that do not divide the widths and for an unknown `weight`.
    Citation: salimans2016weight, qiao2019weight, brock2021characterizing.
    """

    def __init__(
        self,
        width: int,
        out: int | None = None,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        weight: str | None = None,
    ):
        out = width if out is None else out
        if kernel % 2 == 0:
            raise ValueError(f"conv: kernel={kernel} is even and would change the image's size; use an odd kernel")
        if groups < 1 or width % groups or out % groups:
            raise ValueError(f"conv: groups={groups} does not divide the widths {width} and {out}; use a common divisor")
        form, options = (None, {}) if weight is None else call_form(weight)
        if form not in WEIGHTS or set(options) - OPTIONS.get(form, set()):
            raise ValueError(
                f"conv: weight={weight!r} is unknown; use None, 'norm', 'norm(from_data=True)', 'standard' or 'scaled_standard', "
                "these two with an eps, as 'standard(eps=1e-8)'"
            )
        super().__init__(width, out, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.out_width, self.form = out, form
        self.eps: float | None = options.get("eps", EPS) if form in STANDARD else None
        self.from_data = switch("conv", "from_data", options.get("from_data", False))
        if form == "norm":
            self.gain = nn.Parameter(torch.empty(out))
            self.reset_gain()

    @torch.no_grad()
    def reset_gain(self) -> None:
        """Set weight norm's gain to the length of each filter, so that its filters are the weight; other forms have no
        gain.
        """
        if self.form == "norm":
            self.gain.copy_(self.weight.flatten(1).norm(dim=1))

    def filters(self) -> Tensor:
        """Return the filters as they are used: (out, width / groups, kernel, kernel)."""
        if self.form == "norm":
            return weight_norm(self.weight, self.gain)
        if self.eps is not None:
            filters = weight_standardisation(self.weight, eps=self.eps)
            return filters if self.form == "standard" else filters * (RELU_GAIN / self.weight[0].numel() ** 0.5)
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.filters(), self.bias)

    def roles(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (role, tensor): `kernel` and, where there is one, `bias`."""
        yield "kernel", self.weight
        if self.bias is not None:
            yield "bias", self.bias

    def extra_repr(self) -> str:
        form = f"{self.form}(eps={self.eps})" if self.eps not in (None, EPS) else self.form
        form = "norm(from_data=True)" if self.from_data else form
        return super().extra_repr() + (f", weight={form!r}" if form else "")


class Blur(nn.Module):
    r"""Average every 3x3 pixels with the weights $(1, 2, 1)^\top (1, 2, 1) / 16$, and keep every second pixel.

    What a stride alone would alias, the average takes out first. Pixels outside the image are those mirrored at its border.
    Shapes: (batch, width, height, image width) to (batch, width, height / 2, image width / 2), rounded up.
    Raises `RuntimeError` for an image of one pixel a side. Citation: zhang2019making.
    """

    weights: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.out_width = width
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("weights", line.outer(line).expand(width, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weights.to(x.dtype), stride=2, groups=self.out_width)


def conv(
    out: int | None = None, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False, weight: str | None = None
) -> partial[Convolution]:
    """Return a factory of `Convolution`; `out=None` keeps the width."""
    return partial(Convolution, out=out, kernel=kernel, stride=stride, groups=groups, bias=bias, weight=weight)


def conv3x3(out: int | None = None, stride: int = 1, **options: Any) -> partial[Convolution]:
    """Return a factory of 3x3 convolutions."""
    return conv(out, kernel=3, stride=stride, **options)


def conv1x1(out: int | None = None, stride: int = 1, **options: Any) -> partial[Convolution]:
    """Return a factory of 1x1 convolutions."""
    return conv(out, kernel=1, stride=stride, **options)
