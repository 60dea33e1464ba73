"""The glue: norms, activations, and what acts on a branch alone before its merge."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from resnorm.drawing import Element
from resnorm.letters.letter import Letter
from resnorm.letters.merges import along


class DropPath(nn.Module):
    r"""Drop the branch of a whole sample: $y = \frac{m}{1 - p} h$ with $m \sim \text{Bernoulli}(1 - p)$ in training,
    $y = h$ in eval.

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
        return h * along(self.gain, self.dim, h)


class Dropout(nn.Dropout):
    r"""Zero single values with probability `rate` in training and rescale the rest by $1 / (1 - \text{rate})$. Shapes: any."""

    def __init__(self, width: int, rate: float = 0.5):
        super().__init__(rate)


def dropout(rate: float):
    """Set the letter `d`: dropout of single values. See `Dropout`."""
    return partial(Dropout, rate=rate)


def drop_path(rate: float):
    """Set the letter `p`: dropout of whole branches, sample by sample. See `DropPath`."""
    return partial(DropPath, rate=rate)


def layer_scale(init: float = 1e-5, dim: int = -1, learn: bool = True):
    """Set the letter `s`: a learned gain for every feature, or a fixed one; `dim=1` for images. See `LayerScale`."""
    return partial(LayerScale, init=init, dim=dim, learn=learn)


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "identity": nn.Identity}


# ---------------------------------------------------------------------------------------------------- the letters


class Norm(Letter):
    role, shape, example = "glue", "norm", 'n="layer"'

    def predict(self, h, x, first, scalars):
        return h.normalised()


class Activation(Letter):
    role, shape, default = "glue", "activation", "relu"
    named = {name: partial(lambda activation: lambda width: activation(), activation) for name, activation in ACTIVATIONS.items()}


class Drop(Letter):
    """Dropout, of values or of paths: what is kept is rescaled, so that in eval, and in the mean, h is as it was."""

    role, sums = "glue", None

    def __init__(self, symbol: str, title: str, setting):
        super().__init__(symbol, title)
        self.named, self.example = {setting.__name__: setting}, f"{symbol}={setting.__name__}(0.1)"

    def predict(self, h, x, first, scalars):
        return h


class Scale(Letter):
    role, sums, example = "glue", None, "s=layer_scale(1e-5)"
    named = {"layer_scale": layer_scale}

    def predict(self, h, x, first, scalars):
        if scalars.scale is None:
            raise NotImplementedError(self)
        return scalars.scale * h


class Half(Letter):
    role, sums, takes_setting = "glue", None, False

    def build(self, factory, width, skip_width, first_width):
        return None

    def apply(self, modules, h, x, first, inputs):
        return 0.5 * h

    def equation(self, write, h, x, first, notation):
        return write.scale("½", h)

    def draw(self, x, first, notation):
        return Element(self.shape, "½", self.title)

    def predict(self, h, x, first, scalars):
        return 0.5 * h
