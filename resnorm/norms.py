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
        if not noise >= 0:
            raise ValueError(f"noisy batch norm: noise={noise!r}; it multiplies deviations: give 0 (none) or more")
        super().__init__(width, **options)
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not self.training:
            return y
        shape = [1] * y.dim()
        shape[self.dim] = y.shape[self.dim]
        kind = dict(dtype=y.dtype, device=y.device)
        mean, deviation = torch.rand(2, *shape, **kind)
        # Drawn in one row and then laid out as y: on CPU, drawing in the layout of channels_last is eight times slower.
        uniform, normal = (
            draw(y.numel(), **kind).as_strided(y.shape, y.stride()) for draw in (torch.rand, torch.randn)
        )
        shift, scale = (mean - 0.6) + 0.2 * uniform, 0.25 * deviation + 0.1 * normal
        return y + self.noise * (scale * y + shift)


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


class RMSNorm2d(RMSNorm):
    r"""Divide every pixel by the root mean square of its channels; training and eval are the same.

    $$y = \gamma_c \, x / \sqrt{\operatorname{mean}_c x_{nchw}^2 + \varepsilon}$$

    A channels-last tensor keeps its memory layout. Shapes: input and output (batch, channels, ...).
    Citation: zhang2019root.
    """

    def forward(self, x: Tensor) -> Tensor:
        # The gain is in 32 bits: a mean square of 16 bits would meet it on torch's slow path, with a warning.
        return super().forward(x.float().movedim(1, -1)).to(x.dtype).movedim(-1, 1)


class DynamicTanh(nn.Module):
    r"""Squash every value by itself, with no statistic at all: $y = \gamma \tanh(\alpha x) + \beta$.

    One learned $\alpha$ for the whole layer, from `alpha` on; $\gamma$ and $\beta$ for each feature. Small inputs pass as
    $\gamma \alpha x$, large ones saturate: unlike a norm it forgets no scale, and it needs its own learning rate.
    Shapes: input and output (..., features). Raises `ValueError` for an `alpha` that is not above 0.
    Citation: zhu2025transformers.
    """

    axis = -1

    def __init__(self, width: int, alpha: float = 0.5, affine: bool = True):
        if not alpha > 0:
            raise ValueError(f"dynamic tanh: alpha={alpha!r}; at 0 it returns nothing of its input: give a number above 0")
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def squash(self, x: Tensor) -> Tensor:
        """The bounded function of every value by itself."""
        return torch.tanh(self.alpha * x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.squash(x)
        if self.weight is None:
            return y
        shape = (-1,) if self.axis == -1 else (-1,) + (1,) * (x.dim() - 2)
        return (self.weight.view(shape) * y + self.bias.view(shape)).to(y.dtype)


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
        super().__init__()
        self.eps = eps
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
    r"""Return the input: $y = x$, for the same word without its normaliser. Shapes: any."""

    def __init__(self, width: int):
        super().__init__()


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
    r"""Build a normaliser by its name: $y = \gamma (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + \beta$, see the table of this module.

    `name`: a key of `NORMS`, or its string form with options, `"group(groups=4)"`; `width`: the number of channels or features.
    Options: `eps`; `affine` (learn $\gamma$ and $\beta$); `groups` (group); `momentum` and `dim` (batch);
    `noise` (noisy_batch); `alpha` (dyt, derf).
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


def convert_norm(
    model: nn.Module, to: str | Callable[[int], nn.Module], of: str | type[nn.Module] | tuple = "batch"
) -> nn.Module:
    r"""Put another normaliser in the place of every norm of one kind, in any model of torch; return the model.

    $$x \mapsto \gamma\, \mathrm{old}(x) + \beta \quad\text{becomes}\quad x \mapsto \gamma\, \mathrm{new}(x) + \beta$$

    `convert_norm(torchvision.models.resnet50(), "group(groups=32)")` makes its batch norms into group norms.
    `to`: a name with options as for `norm`, or a function of the width that returns a module, such as
    `lambda width: nn.GroupNorm(math.gcd(32, width), width)`. `of`: which norms are replaced: a kind ("batch", "group",
    "instance", "layer", "rms"), a class of modules, or a tuple of them; subclasses count.
    The model is changed in place; only where it is itself such a norm is the returned module another one. A norm that
    stands in several places stays one. Gain and bias are copied where old and new have one of the same shape; device,
    dtype and mode are kept, running statistics and `eps` are not. What a fused norm holds beside (the
    activation in timm's BatchNormAct2d) follows the new one. It is another function: a trained model has to be trained further.
    Shapes: the new norm works along its own axis, whatever the old one's was: "layer2d" or "group" along channels (axis 1),
    "layer" or "rms" along the last axis.
    Raises `ValueError`, and changes nothing, where the model has no such norm, the kind is unknown, or a norm cannot be
    built for a width; it names the layer. Citation: wu2018group.
    """
    kinds = of if isinstance(of, tuple) else (of,)
    if any(_is_norm(model, kind) for kind in kinds):
        return _converted(model, to)
    places = [
        (f"{name}.{child}".lstrip("."), parent, child, module)
        for name, parent in model.named_modules(remove_duplicate=False)
        for child, module in parent._modules.items()
        if any(_is_norm(module, kind) for kind in kinds)
    ]
    if not places:
        found = sorted({type(module).__name__ for module in model.modules() if "Norm" in type(module).__name__})
        raise ValueError(f"{type(model).__name__} has no norm of={of!r}; its norms are {', '.join(found) or 'none'}")
    new: dict[nn.Module, nn.Module] = {}
    for name, _, _, module in places:
        try:
            new[module] = new.get(module) or _converted(module, to)
        except ValueError as error:
            raise ValueError(f"the norm {name!r} cannot be converted: {error}") from None
    for _, parent, child, module in places:
        setattr(parent, child, new[module])
    return model


# The classes of torch, of which ours are subclasses; instance norm here is a group norm of one channel a group.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "batch": nn.modules.batchnorm._BatchNorm,
    "group": nn.GroupNorm,
    "instance": (nn.modules.instancenorm._InstanceNorm, InstanceNorm),
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}


def _is_norm(module: nn.Module | None, kind: str | type[nn.Module]) -> bool:
    if isinstance(kind, type):
        return isinstance(module, kind)
    if kind not in _KINDS:
        raise ValueError(f"of={kind!r}; allowed: {', '.join(_KINDS)}, or a class of modules")
    return isinstance(module, _KINDS[kind]) and not (kind == "group" and isinstance(module, InstanceNorm))


def _converted(old: nn.Module, to: str | Callable[[int], nn.Module]) -> nn.Module:
    """The new norm for the place of the old one, with its gain and bias, and with what else the old one holds."""
    gain = getattr(old, "weight", None)
    sizes = (getattr(old, name, None) for name in ("num_features", "num_channels", "normalized_shape"))
    size = next((size for size in sizes if size is not None), None if gain is None else gain.shape)
    width = size if isinstance(size, int) else size[0] if size is not None and len(size) == 1 else 0
    if width < 1:
        raise ValueError(f"{type(old).__name__} over {size} has no single width; leave it out with a class as `of`")
    new = norm(to, width) if isinstance(to, str) else to(width)
    with torch.no_grad():
        for name in ("weight", "bias"):
            its, mine = getattr(old, name, None), getattr(new, name, None)
            if its is not None and mine is not None and its.shape == mine.shape:
                mine.copy_(its).requires_grad_(its.requires_grad)
    like = gain if gain is not None else getattr(old, "running_mean", None)
    if like is not None:
        new.to(like.device, like.dtype)
    beside = [child for child in old.children() if not isinstance(child, nn.Identity)]
    return (nn.Sequential(new, *beside) if beside else new).train(old.training)


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
