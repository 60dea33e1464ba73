"""The merges: how the skip and the branch become one value."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from resnorm.drawing import Element
from resnorm.letters.letter import Formula, Letter
from resnorm.norms import call_factory, call_form
from resnorm.norms import norm as build_norm


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
        self,
        width: int,
        skip_width: int,
        skip: float,
        gain: float,
        learn: str | None,
        shortcut: Any,
        stride: int,
        gate: str | None,
        gate_bias: float,
        dropout: float,
        dim: int | None,
    ):
        super().__init__()
        self.start = {"skip": skip, "gain": gain}  # a `Scalar` has its symbol while it is what it was at first
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
        self.out_width = width

    @property
    def notation(self) -> dict[str, str]:
        """How it is written now: the symbols of its scalars and its shortcut, and the kind of its gate."""
        return {
            "skip": self._symbol_of("skip", "λ"),
            "gain": self._symbol_of("gain", "g"),
            "gate": self.gate_kind or "",
            "shortcut": ("d" if self.dropout else "") + ("" if self.shortcut is None else "S"),
        }

    def _symbol_of(self, name: str, learned: str) -> str:
        value, start = getattr(self, name), self.start[name]
        if isinstance(value, Tensor):
            return _symbol(start, learned)
        return _symbol(start if value == start else value, None)

    @property
    def plain(self) -> bool:
        """Whether it computes x + h and nothing else."""
        return (
            self.shortcut is None
            and self.gate is None
            and not self.dropout
            and all(isinstance(scalar, float) and scalar == 1 for scalar in (self.skip, self.gain))
        )

    def __call__(self, h: Tensor, x: Tensor) -> Tensor:
        # The call of a module of torch takes as long as the addition. Where nobody watches it does nothing but this.
        if (
            self._forward_hooks
            or self._forward_pre_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
            or _global_forward_hooks
            or _global_forward_pre_hooks
            or _global_backward_hooks
            or _global_backward_pre_hooks
        ):
            return super().__call__(h, x)
        return self.forward(h, x)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        skip, gain = self.skip, self.gain
        gate = None if self.gate is None else torch.sigmoid(self.gate(x))
        if self.shortcut is not None:
            x = self.shortcut(x)
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        if gate is not None:
            return (1 - gate) * x + (gate * h if self.gate_kind == "exclusive" else h)
        if type(gain) is not float or gain != 1:
            h = along(gain, self.dim, h) * h
        if type(skip) is not float:
            return h + along(skip, self.dim, x) * x
        return x + h if skip == 1 else torch.add(h, x, alpha=skip)

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
    return convolution if norm == "none" else nn.Sequential(convolution, build_norm(norm, width))


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
        raise ValueError(
            f"unknown shortcut {shortcut!r}; allowed: identity, {', '.join(SHORTCUTS)}, or a factory "
            "(skip_width, width, stride) -> module"
        )
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
    Shapes: h and x (..., features) with `dim=-1`, (batch, features, ...) with `dim=1`; output the same.
    Citation: loshchilov2024ngpt. Raises `ValueError` where the widths differ.
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
        return x + along(alpha, self.dim, x) * (h - x)


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


def along(vector: Tensor | float, dim: int | None, x: Tensor) -> Tensor | float:
    """Shape a vector of features so that it broadcasts along one axis of x; a single number stays as it is."""
    if isinstance(vector, float) or dim in (None, -1, x.dim() - 1):
        return vector
    return vector.view((-1,) + (1,) * (x.dim() - 1 - dim))


def _symbol(value: float, learned: str | None) -> str:
    """How a scalar stands in an equation: its own symbol, a learned scalar's, its value, or nothing for 1."""
    if isinstance(value, Scalar):
        return value.symbol
    return learned or ("" if value == 1 else f"{value:.4g}")


def add(
    skip: float = 1.0,
    gain: float = 1.0,
    learn: str | bool | None = None,
    shortcut: Any = "identity",
    stride: int = 1,
    gate: str | None = None,
    gate_bias: float = 0.0,
    dropout: float = 0.0,
    dim: int | None = None,
):
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
        Add,
        skip=skip,
        gain=gain,
        learn=learn,
        shortcut=shortcut,
        stride=stride,
        gate=gate,
        gate_bias=gate_bias,
        dropout=dropout,
        dim=dim,
    )


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


# ---------------------------------------------------------------------------------------------------- the letters

NO_SIGNS = {"skip": "", "gain": "", "shortcut": "", "gate": ""}


class Merge(Letter):
    """What brings the skip, or the first input, into the value; a module takes (h, skip)."""

    role, sums, sign = "merge", True, "+"

    def build(self, factory, width, skip_width, first_width):
        return factory(width, skip_width)

    def apply(self, modules, h, x, first, inputs):
        return modules[self.name](h, x)

    def draw(self, x, first, notation):
        return Element("merge", self.sign, self.title, source=x)


class AddSkip(Merge):
    default, named = "add", {"add": add}

    def equation(self, write, h, x, first, notation):
        signs = notation.get(self.position, NO_SIGNS)
        term, skip, gain = x, signs["skip"], signs["gain"]
        for function in reversed(signs["shortcut"]):
            term = write.call(function, term)
        if signs["gate"]:
            gate = write.call("g", x)
            skip = write.bracketed(write.minus(Formula("1"), gate).text)
            gain = gate.text if signs["gate"] == "exclusive" else ""
        return write.plus(write.scale(skip, term), write.scale(gain, h))

    def draw(self, x, first, notation):
        signs = notation.get(self.position, NO_SIGNS)
        skip = "1 - g" if signs["gate"] else "·".join(filter(None, (signs["skip"], *signs["shortcut"])))
        gain = "g" if signs["gate"] == "exclusive" else signs["gain"]
        return Element("merge", self.sign, self.title, source=x, on_skip=skip, on_branch=gain)

    def predict(self, h, x, first, scalars):
        return scalars.skip * x + scalars.gain * h


class ConcatenateSkip(Merge):
    default, named, sign = "concat", {"concat": concat}, "‖"

    def equation(self, write, h, x, first, notation):
        return write.beside(x, h)


class Interpolate(Merge):
    default, named, sign = "lerp", {"lerp": lerp}, "↗"

    def equation(self, write, h, x, first, notation):
        return write.plus(x, write.scale("α", write.minus(h, x)))

    def predict(self, h, x, first, scalars):
        return (1.0 - scalars.alpha) * x + scalars.alpha * h


class AddFirst(Merge):
    takes_setting = False

    def build(self, factory, width, skip_width, first_width):
        if width != first_width:
            raise ValueError(f"it adds the first input of width {first_width}; keep the width through the word")
        return

    def apply(self, modules, h, x, first, inputs):
        return h + first

    def equation(self, write, h, x, first, notation):
        return write.plus(h, first)

    def draw(self, x, first, notation):
        return super().draw(first, first, notation)

    def predict(self, h, x, first, scalars):
        return first + h
