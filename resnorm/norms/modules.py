"""The normalisers as modules, and what stands in a norm's place: `resnorm.norms` has the table of what each averages over."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm.norms import channels_last
from resnorm.norms.settings import number, switch, whole


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    r"""Normalise each channel over the batch and every spatial position.

    $$\mu_c = \operatorname{mean}_{n,h,w} x_{nchw}, \qquad y = \gamma_c (x - \mu_c) / \sqrt{\sigma_c^2 + \varepsilon} + \beta_c$$

    In training the statistics are those of the batch, and running averages are kept; in eval the running averages are used,
    so that a sample's output no longer depends on its neighbours. `momentum` is the share of a new batch in the average; with
    `track_running_stats=False` nothing is kept, and eval too takes the statistics of its batch.

    Shapes: input and output (batch, channels, ...), or (batch, ..., features) with `dim=-1`.
    Raises `ValueError` in training for a batch of one sample, whose statistics would say nothing about a batch.
    Citation: ioffe2015batch.
    """

    def __init__(
        self,
        width: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        dim: int = 1,
        track_running_stats: bool = True,
    ):
        if dim not in (1, -1) or isinstance(dim, bool):
            raise ValueError(f"batch norm: dim={dim!r}; the channel axis is 1 (images) or -1 (tokens)")
        if momentum is None:
            raise ValueError("batch norm: momentum=None (a cumulative average) breaks torch.compile; give a number in (0, 1]")
        super().__init__(
            whole("batch norm", "width", width),
            number("batch norm", "eps", eps),
            number("batch norm", "momentum", momentum, above=0, most=1),
            switch("batch norm", "affine", affine),
            switch("batch norm", "track_running_stats", track_running_stats),
        )
        self.dim = dim

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"batch norm needs (batch, channels, ...), got a tensor of shape {tuple(x.shape)}")
        if self.training and x.shape[0] == 1:
            raise ValueError(
                f"batch norm in training got a batch of 1 (shape {tuple(x.shape)}): its statistics would be those of a single "
                "sample. Use a batch of 2 or more, call .eval(), or take 'group', 'layer' or 'instance'."
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.dim == -1 and x.dim() > 2:
            self._check_input_dim(x)
            # All positions in one row, so that the output is contiguous, as after every other norm of tokens.
            return super().forward(x.flatten(0, -2)).reshape(x.shape)
        return super().forward(x)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", dim=-1" if self.dim == -1 else "")


class NoisyBatchNorm(BatchNorm):
    r"""Normalise by batch norm and then, in training, undo its work at random: an instrument, to test why batch norm helps.

    $$y = s \cdot \mathrm{BN}(x) + m, \quad m \sim U(\mu_c - 0.1,\, \mu_c + 0.1),\; s \sim N(\sigma_c,\, 0.1^2), \quad
    \mu_c \sim U(-0.5,\, 0.5),\; \sigma_c \sim U(1,\, 1.25)$$

    Every call draws a $\mu_c$ and a $\sigma_c$ for each channel anew, and from them an m and an s for each activation of
    each sample. What the next layer reads thus has another mean and another variance at every step: more shift of its
    inputs than without any norm. If batch norm helps by holding them still, this must not help. In eval it is `batch`.
    `noise` multiplies all deviations from m = 0 and s = 1, and 0 is `batch`.
    Shapes and errors as `batch`; `ValueError` for a negative `noise`. Citation: santurkar2018how.
    """

    def __init__(self, width: int, noise: float = 1.0, **options):
        super().__init__(width, **options)
        self.noise = number("noisy batch norm", "noise", noise, why="it multiplies deviations: ")

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not self.training:
            return y
        shape = [1] * y.dim()
        shape[self.dim] = y.shape[self.dim]
        kind = dict(dtype=y.dtype, device=y.device)
        mean, deviation = torch.rand(2, *shape, **kind)
        # Drawn in one row and then laid out as y: on CPU, drawing in the layout of channels_last is eight times slower.
        uniform, normal = (draw(y.numel(), **kind).as_strided(y.shape, y.stride()) for draw in (torch.rand, torch.randn))
        shift, scale = (mean - 0.6) + 0.2 * uniform, 0.25 * deviation + 0.1 * normal
        return y + self.noise * (scale * y + shift)


class LayerNorm(nn.LayerNorm):
    r"""Normalise every position over its features, the last axis; training and eval are the same.

    $$\mu = \operatorname{mean}_d x_d, \qquad y = \gamma (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + \beta$$

    Shapes: input and output (..., features). Raises `RuntimeError` where the last axis is not `width`.
    Citation: ba2016layer.
    """

    def __init__(self, width: int, eps: float = 1e-5, affine: bool = True):
        super().__init__(
            whole("layer norm", "width", width), number("layer norm", "eps", eps), switch("layer norm", "affine", affine)
        )

    def forward(self, x: Tensor) -> Tensor:
        # What torch's own calls, after half a microsecond of checks that the operator makes again.
        return torch.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class LayerNorm2d(LayerNorm):
    r"""Normalise every pixel over its channels: LayerNorm as a Transformer does it, on an image; training and eval are the same.

    $$\mu_{nhw} = \operatorname{mean}_c x_{nchw}$$

    This is not `group(groups=1)`, which also averages over the pixels. A channels-last tensor keeps its memory layout.
    Shapes: input and output (batch, channels, ...). Citation: ba2016layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.movedim(1, -1)
        # On CPU the kernel for 16 bits starts anew for every pixel, which few channels do not repay.
        if x.device.type == "cpu" and x.dtype.itemsize == 2 and x.shape[1] < 64:
            affine = (None if one is None else one.float() for one in (self.weight, self.bias))
            return F.layer_norm(rows.float(), self.normalized_shape, *affine, self.eps).to(x.dtype).movedim(-1, 1)
        return super().forward(rows).to(x.dtype).movedim(-1, 1)


class GroupNorm(nn.GroupNorm):
    r"""Normalise each sample over groups of channels and every spatial position; training and eval are the same.

    $$\mu_{ng} = \operatorname{mean}_{c \in g,\, h,\, w} x_{nchw}$$

    `groups=1` averages over the whole sample, `groups=width` is instance norm. The default is 8: the paper's 32 does not
    divide the 16 channels of a CIFAR ResNet.
    Shapes: input and output (batch, channels, ...). Raises `ValueError` where `groups` does not divide the width, and where
    a group is a single value, in training and in eval.
    Citation: wu2018group.
    """

    def __init__(self, width: int, groups: int = 8, eps: float = 1e-5, affine: bool = True):
        width = whole("group norm", "width", width)
        if whole("group norm", "groups", groups) > width or width % groups:
            divisors = [g for g in range(1, width + 1) if width % g == 0]
            raise ValueError(f"group norm: groups={groups} does not divide width={width}; allowed: {divisors}")
        super().__init__(groups, width, number("group norm", "eps", eps), switch("group norm", "affine", affine))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() > 1 and self.num_channels == self.num_groups and math.prod(x.shape[2:]) == 1:
            raise ValueError(
                f"group norm: groups={self.num_groups} of width={self.num_channels} leave one value a group in an input of shape "
                f"{tuple(x.shape)}: every output would be the bias. Take fewer groups, or 'layer' for features."
            )
        return _in_layout(self, x)


class InstanceNorm(nn.GroupNorm):
    r"""Normalise each channel of each sample over its spatial positions; training and eval are the same.

    $$\mu_{nc} = \operatorname{mean}_{h,w} x_{nchw}$$

    The contrast and brightness of each channel are removed from every image: its "style".
    Unlike `torch.nn.InstanceNorm2d` the affine map is on by default, as for every other normaliser here.
    Shapes: input and output (batch, channels, height, ...). Raises `ValueError` where there is no spatial axis, or one position.
    Citation: ulyanov2016instance.
    """

    def __init__(self, width: int, eps: float = 1e-5, affine: bool = True):
        width = whole("instance norm", "width", width)
        super().__init__(width, width, number("instance norm", "eps", eps), switch("instance norm", "affine", affine))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 3 or math.prod(x.shape[2:]) == 1:
            raise ValueError(
                f"instance norm averages over spatial positions, and shape {tuple(x.shape)} has one or none: every output would "
                "be zero. Use 'layer' for features, 'group' or 'layer2d' for images of one pixel."
            )
        return _in_layout(self, x)


def _in_layout(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Normalise groups of channels and give back the layout that came in, forward and backward.

    On CPU in 32 bits that is our own kernel. Elsewhere torch's is given a contiguous copy: on GPUs it knows no other layout and
    leaves a contiguous tensor behind; on CPU its channels_last path takes the variance as E[x^2] - E[x]^2, and in 16 bits with
    several groups it is slower than two copies, up to ten times.
    """
    last = channels_last.LAST.get(x.dim())
    if last is None or x.is_contiguous():
        return nn.GroupNorm.forward(norm, x)
    if channels_last.takes(x, norm.num_groups, norm.weight, norm.bias):
        return channels_last.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    compiling = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if not compiling and channels_last.transformed():
        return nn.GroupNorm.forward(norm, x.contiguous())
    if not x.is_contiguous(memory_format=last):
        return nn.GroupNorm.forward(norm, x)
    if x.dtype.itemsize == 2:  # sums of 32 bits are long enough; one image may have a stride that torch before 2.15 refuses
        directly = norm.num_groups == 1 and len(x) > 1
    else:
        directly = compiling or type(x) is not Tensor
    if x.device.type == "cpu" and directly:
        return nn.GroupNorm.forward(norm, x)
    return nn.GroupNorm.forward(norm, _Contiguous.apply(x, last)).contiguous(memory_format=last)


class _Contiguous(torch.autograd.Function):
    """A contiguous copy of a channels_last tensor, whose gradient is channels_last again."""

    @staticmethod
    def forward(ctx, x: Tensor, last: torch.memory_format) -> Tensor:
        ctx.last = last
        return x.contiguous()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.contiguous(memory_format=ctx.last), None


class RMSNorm(nn.RMSNorm):
    r"""Divide every position by the root mean square of its features, without subtracting a mean; training and eval are the same.

    $$y = \gamma \, x / \sqrt{\operatorname{mean}_d x_d^2 + \varepsilon}$$

    Shapes: input and output (..., features). Raises `RuntimeError` where the last axis is not `width`.
    Citation: zhang2019root.
    """

    def __init__(self, width: int, eps: float = 1e-6, affine: bool = True):
        super().__init__(whole("rms norm", "width", width), number("rms norm", "eps", eps), switch("rms norm", "affine", affine))


class RMSNorm2d(RMSNorm):
    r"""Divide every pixel by the root mean square of its channels; training and eval are the same.

    $$y = \gamma_c \, x / \sqrt{\operatorname{mean}_c x_{nchw}^2 + \varepsilon}$$

    A channels-last tensor keeps its memory layout. Shapes: input and output (batch, channels, ...).
    Citation: zhang2019root.
    """

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast the gain has 32 bits: an input of 16 would meet it on torch's slow path, with a warning.
        rows = (x if self.weight is None else x.to(self.weight.dtype)).movedim(1, -1)
        return super().forward(rows).to(x.dtype).movedim(-1, 1)


class DynamicTanh(nn.Module):
    r"""Squash every value by itself, with no statistic at all: $y = \gamma \tanh(\alpha x) + \beta$.

    One learned $\alpha$ for the whole layer, from `alpha` on; $\gamma$ and $\beta$ for each feature. Small inputs pass as
    $\gamma \alpha x$, large ones saturate: unlike a norm it forgets no scale, and it needs its own learning rate.
    Shapes: input and output (..., features). Raises `ValueError` for an `alpha` that is not above 0.
    Citation: zhu2025transformers.
    """

    axis = -1

    def __init__(self, width: int, alpha: float = 0.5, affine: bool = True):
        kind = "dynamic tanh" if type(self).squash is DynamicTanh.squash else "dynamic erf"
        alpha = number(kind, "alpha", alpha, above=0, why="at 0 it returns nothing of its input: ")
        width = whole(kind, "width", width)
        affine = switch(kind, "affine", affine)
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def squash(self, x: Tensor) -> Tensor:
        """The bounded function of every value by itself."""
        return torch.tanh(self.alpha * x)

    def forward(self, x: Tensor) -> Tensor:
        y, shape = self.squash(x), (-1,) if self.axis == -1 else (-1,) + (1,) * (x.dim() - 2)
        if self.weight is not None:
            y = (self.weight.view(shape) * y).to(y.dtype)
        if self.bias is not None:
            return (y + self.bias.view(shape)).to(y.dtype)
        # The gradient of a tanh reads its output, which an activation in place would change.
        return y.clone() if self.weight is None and y.requires_grad else y


class DynamicTanh2d(DynamicTanh):
    r"""Squash every value of an image by itself: $y_{nchw} = \gamma_c \tanh(\alpha x_{nchw}) + \beta_c$.

    Shapes: input and output (batch, channels, ...). Citation: zhu2025transformers.
    """

    axis = 1


class DynamicErf(DynamicTanh):
    r"""Squash every value by itself with the error function: $y = \gamma \operatorname{erf}(\alpha x + s) + \beta$ (Derf).

    $\alpha$ and s are one learned number each for the whole layer; s starts at 0. Near 0 the slope is
    $2\alpha/\sqrt\pi$, that of a tanh of $1.13\,\alpha x$; the ends are reached sooner.
    Shapes: input and output (..., features). Raises `ValueError` for an `alpha` that is not above 0.
    Citation: chen2026stronger.
    """

    def __init__(self, width: int, alpha: float = 0.5, affine: bool = True):
        super().__init__(width, alpha, affine)
        self.shift = nn.Parameter(torch.zeros(()))

    def squash(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha * x + self.shift)


class SeeDNorm(nn.Module):
    r"""Divide by the root mean square, and let the gain depend on the input before that division.

    $$y = \big[\tanh(x^\top \beta)\, \alpha + \gamma\big] \odot \frac{x}{\sqrt{\operatorname{mean}_d x_d^2 + \varepsilon}}$$

    $\alpha, \beta, \gamma$ are learned vectors that start at 1, 0 and 1: at first this is the RMS norm. Through
    $x^\top \beta$ the size of x, which every norm forgets, comes back into the gain.
    Shapes: input and output (..., features). Citation: cai2026seednorm.
    """

    def __init__(self, width: int, eps: float = 1e-6, affine: bool = True):
        width, affine = whole("seed norm", "width", width), switch("seed norm", "affine", affine)
        super().__init__()
        self.eps = number("seed norm", "eps", eps)
        self.alpha = nn.Parameter(torch.ones(width)) if affine else None
        self.beta = nn.Parameter(torch.zeros(width)) if affine else None
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, x.shape[-1:], eps=self.eps)
        if self.weight is None:
            return y
        return ((torch.tanh(x @ self.beta).unsqueeze(-1) * self.alpha + self.weight) * y).to(y.dtype)


class ScalarBias(nn.Module):
    """Add one learned number, which starts at 0: $y = x + b$, all that Fixup leaves of a norm.

    Shapes: any. Citation: zhang2019fixup.
    """

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class NoNorm(nn.Identity):
    r"""Return the input: $y = x$, for the same word without its normaliser.

    With `copy` it is a copy of the input, as every other norm's output is one: an activation that works in place, in code
    that is not ours, then leaves the input as it was. Shapes: any.
    """

    def __init__(self, width: int, copy: bool = False):
        super().__init__()
        self.copy = switch("no norm", "copy", copy)

    def forward(self, x: Tensor) -> Tensor:
        return x.clone() if self.copy else x

    def extra_repr(self) -> str:
        return "copy=True" if self.copy else ""
