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
| `none`     | nothing              |                          | the same           |                     |

"LayerNorm" on images has three meanings in the literature: `layer2d` here (over the channels of one pixel),
`group(groups=1)` (over C, H and W together), and `layer` on a channels-last tensor, which is `layer2d` by another route.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    r"""Normalise each channel over the batch and every spatial position.

    $$\mu_c = \operatorname{mean}_{n,h,w} x_{nchw}, \qquad y = \gamma_c (x - \mu_c) / \sqrt{\sigma_c^2 + \varepsilon} + \beta_c$$

    In training the statistics are those of the batch, and running averages are kept; in eval the running averages are used,
    so that a sample's output no longer depends on its neighbours.

    Shapes: input and output (batch, channels, ...), or (batch, ..., features) with `dim=-1`.
    Raises `ValueError` in training for a batch of one sample, whose statistics would say nothing about a batch.
    Citation: ioffe2015batch.
    """

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, dim: int = 1):
        if dim not in (1, -1):
            raise ValueError(f"batch norm: dim={dim!r}; the channel axis is 1 (images) or -1 (tokens)")
        if momentum is None:
            raise ValueError("batch norm: momentum=None (a cumulative average) breaks torch.compile; give a number in (0, 1]")
        super().__init__(width, eps=eps, momentum=momentum, affine=affine)
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
            return super().forward(x.transpose(1, -1)).transpose(1, -1)
        return super().forward(x)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", dim=-1" if self.dim == -1 else "")


class LayerNorm(nn.LayerNorm):
    r"""Normalise every position over its features, the last axis; training and eval are the same.

    $$\mu = \operatorname{mean}_d x_d, \qquad y = \gamma (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + \beta$$

    Shapes: input and output (..., features). Raises `RuntimeError` where the last axis is not `width`.
    Citation: ba2016layer.
    """

    def __init__(self, width: int, eps: float = 1e-5, affine: bool = True):
        super().__init__(width, eps=eps, elementwise_affine=affine)


class LayerNorm2d(LayerNorm):
    r"""Normalise every pixel over its channels: LayerNorm as a Transformer does it, on an image; training and eval are the same.

    $$\mu_{nhw} = \operatorname{mean}_c x_{nchw}$$

    This is not `group(groups=1)`, which also averages over the pixels. A channels-last tensor keeps its memory layout.
    Shapes: input and output (batch, channels, ...). Citation: ba2016layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        # On CPU the kernel for 16 bits starts anew for every pixel, which few channels do not repay.
        slow = x.device.type == "cpu" and x.dtype.itemsize == 2 and x.shape[1] < 64
        rows = (x.float() if slow else x).movedim(1, -1)
        return super().forward(rows).to(x.dtype).movedim(-1, 1)


class GroupNorm(nn.GroupNorm):
    r"""Normalise each sample over groups of channels and every spatial position; training and eval are the same.

    $$\mu_{ng} = \operatorname{mean}_{c \in g,\, h,\, w} x_{nchw}$$

    `groups=1` averages over the whole sample, `groups=width` is instance norm. The default is 8: the paper's 32 does not
    divide the 16 channels of a CIFAR ResNet.
    Shapes: input and output (batch, channels, ...). Raises `ValueError` where `groups` does not divide the width.
    Citation: wu2018group.
    """

    def __init__(self, width: int, groups: int = 8, eps: float = 1e-5, affine: bool = True):
        if groups < 1 or width % groups:
            divisors = [g for g in range(1, width + 1) if width % g == 0]
            raise ValueError(f"group norm: groups={groups} does not divide width={width}; allowed: {divisors}")
        super().__init__(groups, width, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return _in_layout(super().forward, x, self.num_groups)


class InstanceNorm(nn.GroupNorm):
    r"""Normalise each channel of each sample over its spatial positions; training and eval are the same.

    $$\mu_{nc} = \operatorname{mean}_{h,w} x_{nchw}$$

    The contrast and brightness of each channel are removed from every image: its "style".
    Unlike `torch.nn.InstanceNorm2d` the affine map is on by default, as for every other normaliser here.
    Shapes: input and output (batch, channels, height, ...). Raises `ValueError` where there is no spatial axis, or one position.
    Citation: ulyanov2016instance.
    """

    def __init__(self, width: int, eps: float = 1e-5, affine: bool = True):
        super().__init__(width, width, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 3 or math.prod(x.shape[2:]) == 1:
            raise ValueError(
                f"instance norm averages over spatial positions, and shape {tuple(x.shape)} has one or none: every output would "
                "be zero. Use 'layer' for features, 'group' or 'layer2d' for images of one pixel."
            )
        return _in_layout(super().forward, x, self.num_groups)


def _in_layout(group_norm: Callable[[Tensor], Tensor], x: Tensor, groups: int) -> Tensor:
    """Normalise groups of channels and give back the layout that came in, forward and backward.

    On GPUs torch's kernel knows contiguous tensors only and leaves one behind; on CPU its channels_last path for 16 bits
    and several groups is slower than two copies, up to ten times.
    """
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if not last or (x.device.type == "cpu" and (x.dtype.itemsize > 2 or groups == 1)):
        return group_norm(x)
    return group_norm(_Contiguous.apply(x)).contiguous(memory_format=torch.channels_last)


class _Contiguous(torch.autograd.Function):
    """A contiguous copy of a channels_last tensor, whose gradient is channels_last again."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)


class RMSNorm(nn.RMSNorm):
    r"""Divide every position by the root mean square of its features, without subtracting a mean; training and eval are the same.

    $$y = \gamma \, x / \sqrt{\operatorname{mean}_d x_d^2 + \varepsilon}$$

    Shapes: input and output (..., features). Raises `RuntimeError` where the last axis is not `width`.
    Citation: zhang2019root.
    """

    def __init__(self, width: int, eps: float = 1e-6, affine: bool = True):
        super().__init__(width, eps=eps, elementwise_affine=affine)


class NoNorm(nn.Identity):
    r"""Return the input: $y = x$, for the same word without its normaliser. Shapes: any."""

    def __init__(self, width: int):
        super().__init__()


NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNorm,
    "layer": LayerNorm,
    "layer2d": LayerNorm2d,
    "group": GroupNorm,
    "instance": InstanceNorm,
    "rms": RMSNorm,
    "none": NoNorm,
}


def norm(name: str, width: int, **options) -> nn.Module:
    r"""Build a normaliser by its name: $y = \gamma (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + \beta$, see the table of this module.

    `name`: a key of `NORMS`, or its string form with options, `"group(groups=4)"`; `width`: the number of channels or features.
    Options: `eps`; `affine` (learn $\gamma$ and $\beta$); `groups` (group); `momentum` and `dim` (batch).
    Raises `ValueError` for an unknown name or an impossible setting, `TypeError` for an option that the normaliser lacks.
    """
    name, written = call_form(name)
    if name not in NORMS:
        raise ValueError(f"unknown normaliser {name!r}; allowed: {', '.join(NORMS)}")
    return call_factory(name, NORMS[name], width, {**written, **options})


def call_form(text: str) -> tuple[str, dict]:
    """Split a setting's string form, `"group(groups=4)"`, into its name and its options, `("group", {"groups": 4})`.

    Raises `ValueError` where the text is neither a name nor a call with literal keyword options.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if isinstance(tree, ast.Constant) and tree.value is None:
            return "none", {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            return tree.func.id, {k.arg: ast.literal_eval(k.value) for k in tree.keywords if k.arg}
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"cannot read {text!r}; write a name, \"group\", or a name with options, \"group(groups=4)\"")


def call_factory(name: str, factory: Callable[..., nn.Module], width: int, options: dict) -> nn.Module:
    """Call a factory and turn Python's complaint about a keyword into one that names the setting."""
    try:
        return factory(width, **options)
    except TypeError as error:
        raise TypeError(f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())}): {error}") from None


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
