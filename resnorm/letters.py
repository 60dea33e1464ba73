r"""What the lower-case letters stand for: the merges, the glue, and how a setting is read.

| letter | module | equation | set by |
|---|---|---|---|
| `a` | `Add` | $\lambda\, S(x) + g\, h$ | `add(skip, gain, learn, shortcut, stride, gate, dropout, dim)` |
| `c` | `Concat` | $[x \Vert h]$ | `concat(dim)` |
| `l` | `Lerp` | $x + \alpha \odot (h - x)$ | `lerp(alpha, learn, dim)` |
| `d` | `Dropout` | single values set to zero | `dropout(rate)` |
| `p` | `DropPath` | whole branches set to zero | `drop_path(rate)` |
| `s` | `LayerScale` | $\operatorname{diag}(\lambda)\, h$ | `layer_scale(init, dim, learn)` |
| `n` | see `resnorm.norms` | | `"layer"`, `"group(groups=4)"` |
| `r` | an activation | | `"relu"`, `"gelu"`, `"silu"`, `"tanh"`, `"identity"` |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm.norms import call_factory, call_form, norm


class Scalar(float):
    """A number with a symbol for equations: `add(skip=Scalar("λ", 2.0))` prints `λ·x + F(x)` and computes with 2.0."""

    symbol: str

    def __new__(cls, symbol: str, value: float) -> Scalar:
        self = super().__new__(cls, value)
        self.symbol = symbol
        return self

    def __getnewargs__(self) -> tuple[str, float]:
        return self.symbol, float(self)


class Add(nn.Module):
    r"""Add the skip to the branch: $y = \lambda\, S(x) + g\, h$.

    `skip` is $\lambda$, `gain` is $g$, and S is the shortcut. `learn` names the scalars that are trained: "gain" (ReZero,
    SkipInit), "skip" (Admin) or "both"; with a `dim` they are vectors, one number a feature along that axis. A `gate` is
    computed from the skip, $g(x) = \sigma(W x + b)$ with a 1x1 convolution W and b at first `gate_bias`, and takes the
    place of both scalars: $y = (1 - g(x))\, S(x) + g(x)\, h$ ("exclusive") or
    $y = (1 - g(x))\, S(x) + h$ ("shortcut_only"). `dropout` is the rate of a dropout of single values of $S(x)$.
    Shapes: h and x of the same shape, or of shapes that the shortcut makes the same; output as h. A gate is for images.
    Raises `ValueError` where the widths differ and the shortcut is the identity.
    Citations: he2016deep, he2016identity, liu2020rethinking, liu2020understanding.
    """

    def __init__(
        self, width: int, skip_width: int, skip: float, gain: float, learn: str | None, shortcut: Any, stride: int,
        gate: str | None, gate_bias: float, dropout: float, dim: int | None,
    ):  # fmt: skip
        super().__init__()
        self.notation = {
            "skip": _symbol(skip, "λ" if learn in ("skip", "both") else None),
            "gain": _symbol(gain, "g" if learn in ("gain", "both") else None),
            "shortcut": ("d" if dropout else "") + ("" if shortcut == "identity" else "S"),
            "gate": gate or "",
        }
        self.dim, size = dim, () if dim is None else (width,)
        self.skip = nn.Parameter(torch.full(size, float(skip))) if learn in ("skip", "both") else float(skip)
        self.gain = nn.Parameter(torch.full(size, float(gain))) if learn in ("gain", "both") else float(gain)
        self.shortcut = None
        if shortcut == "identity":
            if stride != 1:
                raise ValueError(f"an identity shortcut cannot take stride {stride}; use shortcut='zero_pad' or 'projection'")
            if width != skip_width:
                raise ValueError(
                    f"cannot add a branch of width {width} to a skip of width {skip_width}; give the branch width {skip_width}, "
                    "or use add(shortcut='projection') or add(shortcut='zero_pad')"
                )
        else:
            self.shortcut = _shortcut(shortcut, skip_width, width, stride)
        self.gate_kind, self.gate = gate, None
        if gate:
            self.gate = nn.Conv2d(skip_width, width, 1, stride)
            nn.init.constant_(self.gate.bias, gate_bias)
        self.dropout = dropout
        self.plain = self.shortcut is None and not (gate or dropout or learn) and self.skip == 1 and self.gain == 1
        self.out_width = width

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        gate = None if self.gate is None else torch.sigmoid(self.gate(x))
        if self.shortcut is not None:
            x = self.shortcut(x)
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        if gate is not None:
            return (1 - gate) * x + (gate * h if self.gate_kind == "exclusive" else h)
        if not isinstance(self.gain, float) or self.gain != 1:
            h = _along(self.gain, self.dim, h) * h
        if isinstance(self.skip, float):
            return torch.add(h, x, alpha=self.skip)
        return h + _along(self.skip, self.dim, x) * x

    def extra_repr(self) -> str:
        return f"gate={self.gate_kind!r}" if self.gate_kind else f"{self.notation['skip'] or 1}·x + {self.notation['gain'] or 1}·h"


class ZeroPad(nn.Module):
    r"""Subsample the skip and fill its new channels with zeros: $S(x) = [x_{::s,\,::s} \Vert 0]$, a shortcut without parameters.

    Shapes: (batch, channels, height, width) to (batch, wider, height / stride, width / stride); vectors with stride 1.
    Raises `ValueError` where the output would be narrower. Citation: he2016deep (option A).
    """

    def __init__(self, skip_width: int, width: int, stride: int):
        super().__init__()
        if width < skip_width:
            raise ValueError(f"zero_pad cannot narrow a skip of width {skip_width} to {width}; use shortcut='projection'")
        self.stride, self.extra = stride, width - skip_width

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != 1:
            # The same pixels as a strided slice, whose gradient would leave channels_last, and take that of the whole
            # stream before it along.
            x = F.avg_pool2d(x, 1, self.stride)
        return F.pad(x, (0, 0) * (x.dim() - 2) + (0, self.extra)) if self.extra else x


def _projection(skip_width: int, width: int, stride: int, norm: str = "none") -> nn.Module:
    """A 1x1 convolution on the skip, with a norm where one is named. Citation: he2016deep (option B)."""
    convolution = nn.Conv2d(skip_width, width, 1, stride, bias=False)
    return convolution if norm == "none" else nn.Sequential(convolution, setting_of("n", norm)(width))


def _linear_shortcut(skip_width: int, width: int, stride: int) -> nn.Module:
    """A matrix on the skip, for vectors and tokens."""
    if stride != 1:
        raise ValueError(f"a linear shortcut has no positions to stride over, got stride {stride}; use 'projection' on images")
    return nn.Linear(skip_width, width, bias=False)


SHORTCUTS = {"zero_pad": ZeroPad, "projection": _projection, "linear": _linear_shortcut}


def _shortcut(shortcut: Any, skip_width: int, width: int, stride: int) -> nn.Module:
    if not isinstance(shortcut, str):
        return shortcut(skip_width, width, stride)
    name, options = call_form(shortcut)
    if name not in SHORTCUTS:
        raise ValueError(f"unknown shortcut {shortcut!r}; allowed: identity, {', '.join(SHORTCUTS)}, or a factory "
                         "(skip_width, width, stride) -> module")
    return call_factory(name, partial(SHORTCUTS[name], width=width, stride=stride), skip_width, options)


class Concat(nn.Module):
    r"""Concatenate the skip and the branch along the features: $y = [x \Vert h]$.

    Shapes: (batch, features, ...) twice, output (batch, sum of both, ...); `dim=-1` for tokens. Citation: huang2017densely.
    """

    def __init__(self, width: int, skip_width: int, dim: int = 1):
        super().__init__()
        self.dim, self.out_width = dim, width + skip_width

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return torch.cat([x, h], self.dim)


class Lerp(nn.Module):
    r"""Interpolate from the skip towards the branch: $y = x + \alpha \odot (h - x)$, one $\alpha$ a feature.

    With `learn="rescaled"`, $\alpha = \lvert \alpha_0 \sqrt{d}\, p \rvert$ with a learned p, see `LearnedScale`.
    Shapes: h and x (..., features) with `dim=-1`, (batch, features, ...) with `dim=1`; output the same. Citation: loshchilov2024ngpt.
    Raises `ValueError` where the widths differ.
    """

    def __init__(self, width: int, skip_width: int, alpha: float = 0.05, learn: bool | str = True, dim: int = -1):
        super().__init__()
        if width != skip_width:
            raise ValueError(f"cannot interpolate between widths {skip_width} and {width}; give the branch width {skip_width}")
        self.dim, self.out_width = dim, width
        if learn == "rescaled":
            self.alpha = LearnedScale(width, width, alpha)
        else:
            self.alpha = nn.Parameter(torch.full((width,), float(alpha))) if learn else float(alpha)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        alpha = self.alpha().abs() if isinstance(self.alpha, LearnedScale) else self.alpha
        return x + _along(alpha, self.dim, x) * (h - x)


class LearnedScale(nn.Module):
    r"""Learned scales that Adam moves as fast as the entries of unit vectors: $s = s_0 \sqrt{d}\; p$.

    p is the parameter. It starts at $1 / \sqrt{d}$, the size of an entry of a unit vector of `width` d, and so s starts at
    $s_0$ = `start`. Shapes: output (count,). Citation: loshchilov2024ngpt.
    """

    def __init__(self, count: int, width: int, start: float = 1.0):
        super().__init__()
        self.factor = start * width**0.5
        self.weight = nn.Parameter(torch.full((count,), width**-0.5))

    def forward(self) -> Tensor:
        return self.factor * self.weight


class DropPath(nn.Module):
    r"""Drop the branch of a whole sample: $y = \frac{m}{1 - p} h$ with $m \sim \text{Bernoulli}(1 - p)$ in training, $y = h$ in eval.

    The division keeps the expectation, so training and eval agree in the mean. Shapes: any, samples first. Citation: huang2016deep.
    """

    def __init__(self, width: int, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate {rate!r}; allowed: 0 <= rate < 1")
        self.rate = rate

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return h
        keep = h.new_empty((h.shape[0],) + (1,) * (h.dim() - 1)).bernoulli_(1 - self.rate)
        return h * (keep / (1 - self.rate))


class LayerScale(nn.Module):
    r"""Scale every feature of the branch by a learned gain that starts small: $y = \operatorname{diag}(\lambda)\, h$.

    With `learn=False` the gain is one fixed number.
    Shapes: (..., features) with `dim=-1`, (batch, features, ...) with `dim=1`; output the same. Citation: touvron2021going.
    """

    def __init__(self, width: int, init: float = 1e-5, dim: int = -1, learn: bool = True):
        super().__init__()
        self.dim = dim
        self.gain = nn.Parameter(torch.full((width,), float(init))) if learn else float(init)

    def forward(self, h: Tensor) -> Tensor:
        return h * _along(self.gain, self.dim, h)


class Dropout(nn.Dropout):
    r"""Zero single values with probability `rate` in training and rescale the rest by $1 / (1 - \text{rate})$. Shapes: any."""

    def __init__(self, width: int, rate: float = 0.5):
        super().__init__(rate)


def _along(vector: Tensor | float, dim: int | None, x: Tensor) -> Tensor | float:
    """Shape a vector of features so that it broadcasts along one axis of x; a single number stays as it is."""
    if isinstance(vector, float) or dim in (None, -1, x.dim() - 1):
        return vector
    return vector.view((-1,) + (1,) * (x.dim() - 1 - dim))


def _symbol(value: float, learned: str | None) -> str:
    """How a scalar stands in an equation: its own symbol, a learned scalar's, its value, or nothing for 1."""
    if isinstance(value, Scalar):
        return value.symbol
    return learned or ("" if value == 1 else f"{value:.4g}")


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "identity": nn.Identity}


def add(
    skip: float = 1.0, gain: float = 1.0, learn: str | bool | None = None, shortcut: Any = "identity", stride: int = 1,
    gate: str | None = None, gate_bias: float = 0.0, dropout: float = 0.0, dim: int | None = None,
):  # fmt: skip
    r"""Set the letter `a`: $y = \lambda\, S(x) + g\, h$ with $\lambda$ = `skip` and g = `gain`; see `Add` for shapes.

    `learn`: "gain" (or True), "skip", "both", or None. `dim`: None for one learned number, or the axis of the features for
    one each, 1 for images and -1 for tokens and vectors. `shortcut`: "identity", "zero_pad", "projection",
    "projection(norm='batch')", "linear", or a factory (skip_width, width, stride) -> module. `gate`: None, "exclusive" or
    "shortcut_only", which begins with the bias `gate_bias`. `dropout`: its rate on the shortcut.
    Raises `ValueError` for another `learn` or `gate`, for a `dim` where nothing is learned, for a gate beside scalars, and
    for a rate outside [0, 1).
    Citations: he2016deep, he2016identity, liu2020rethinking, bachlechner2021rezero, liu2020understanding.
    """
    learn = {True: "gain", False: None}.get(learn, learn) if isinstance(learn, bool) else learn
    if learn not in (None, "gain", "skip", "both"):
        raise ValueError(f"learn={learn!r}; allowed: None, 'gain' (or True), 'skip', 'both'")
    if dim is not None and not learn:
        raise ValueError(f"dim={dim!r} is the axis of learned scalars, and none is learned; set learn, or leave dim out")
    if gate not in (None, "exclusive", "shortcut_only"):
        raise ValueError(f"gate={gate!r}; allowed: None, 'exclusive', 'shortcut_only'")
    if gate and (learn or skip != 1 or gain != 1):
        raise ValueError(f"gate={gate!r} takes the place of the scalars; leave out skip, gain and learn")
    if not 0 <= dropout < 1:
        raise ValueError(f"the shortcut's dropout is {dropout!r}; allowed: 0 <= dropout < 1")
    return partial(
        Add, skip=skip, gain=gain, learn=learn, shortcut=shortcut, stride=stride, gate=gate, gate_bias=gate_bias,
        dropout=dropout, dim=dim,
    )  # fmt: skip


def concat(dim: int = 1):
    r"""Set the letter `c`: $y = [x \Vert h]$ along axis `dim`; 1 for images and vectors, -1 for tokens. See `Concat`."""
    return partial(Concat, dim=dim)


def lerp(alpha: float = 0.05, learn: bool | str = True, dim: int = -1):
    r"""Set the letter `l`: $y = x + \alpha (h - x)$, one learned $\alpha$ a feature. See `Lerp`.

    `learn`: True, False, or "rescaled" (nGPT's). Raises `ValueError` for another.
    """
    if learn not in (True, False, "rescaled"):
        raise ValueError(f"learn={learn!r}; allowed: True, False, 'rescaled'")
    return partial(Lerp, alpha=alpha, learn=learn, dim=dim)


def dropout(rate: float):
    """Set the letter `d`: dropout of single values. See `Dropout`."""
    return partial(Dropout, rate=rate)


def drop_path(rate: float):
    """Set the letter `p`: dropout of whole branches, sample by sample. See `DropPath`."""
    return partial(DropPath, rate=rate)


def layer_scale(init: float = 1e-5, dim: int = -1, learn: bool = True):
    """Set the letter `s`: a learned gain for every feature, or a fixed one; `dim=1` for images. See `LayerScale`."""
    return partial(LayerScale, init=init, dim=dim, learn=learn)


NAMED: dict[str, dict[str, Callable[..., Any]]] = {
    "a": {"add": add},
    "c": {"concat": concat},
    "l": {"lerp": lerp},
    "d": {"dropout": dropout},
    "p": {"drop_path": drop_path},
    "s": {"layer_scale": layer_scale},
    "r": {name: partial(lambda activation: lambda width: activation(), activation) for name, activation in ACTIVATIONS.items()},
}
DEFAULTS = {"a": "add", "c": "concat", "l": "lerp", "r": "relu"}


def setting_of(letter: str, setting: Any) -> Callable[..., nn.Module]:
    """Turn what a caller wrote for a letter into a factory."""
    if letter == "n" and (setting is None or isinstance(setting, str)):
        return partial(norm, setting or "none")
    if isinstance(setting, str):
        named = NAMED.get(letter, {})
        name, options = call_form(setting)
        if name not in named:
            allowed = f"allowed: {', '.join(named)}" if named else "a branch has no registered names: give a factory width -> module"
            raise ValueError(f"unknown setting {setting!r}; {allowed}")
        return named[name](**options)
    if isinstance(setting, nn.Module):
        raise TypeError(f"got the module {type(setting).__name__}, whose parameters two occurrences would share; give a factory, "
                        "for example F=lambda width: module")
    if not callable(setting):
        raise TypeError(f"got {setting!r}; give a factory width -> module, a list of them, or a registered name")
    return setting
