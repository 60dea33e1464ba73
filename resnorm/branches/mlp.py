"""Feed-forward branches."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm.norms import norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
GATED = "swiglu"


class MLP(nn.Module):
    r"""Map every position through one hidden layer of `expansion * width` units.

    $$W_2\, \phi(W_1 x) \qquad \text{or, with SwiGLU,} \qquad W_2\, (\operatorname{silu}(W_1 x) \odot V x)$$

    "gelu_tanh" is the approximation of GELU by a tanh that GPT-2 was trained with. `expansion` may be a fraction:
    Llama 2's 11,008 units on a width of 4,096 are `expansion=11008 / 4096`.
    `inner_norm`: the name of a norm of the hidden layer, before $W_2$; None for no norm. `normalised` is nGPT's MLP: the
    vectors of its matrices have length 1 along the width of the stream (see `unit_weights`), and $W_1 x$ (with SwiGLU $V x$
    too) is multiplied by one learned s a unit, which starts at 1. For x of root mean square 1 that is nGPT's
    $s\, \sqrt{d}\, W_1 x$ of a unit vector x of width d.
    Shapes: x (..., width), output (..., out).
    Raises `ValueError` for an unknown activation, for a hidden layer without units, and for normalised weights beside a bias.
    Citation: vaswani2017attention, shazeer2020glu (SwiGLU), wang2022magneto (inner norm), loshchilov2024ngpt (normalised).
    """

    def __init__(
        self,
        width: int,
        expansion: float = 4,
        activation: str = "relu",
        dropout: float = 0.0,
        bias: bool = True,
        out: int | None = None,
        inner_norm: str | None = None,
        normalised: bool = False,
    ):
        super().__init__()
        units = round(expansion * width)
        if activation not in (*ACTIVATIONS, GATED):
            raise ValueError(f"mlp: activation={activation!r} is unknown; use one of {', '.join((*ACTIVATIONS, GATED))}")
        if units < 1:
            raise ValueError(f"mlp: expansion={expansion} of width {width} leaves no hidden unit; use a larger expansion")
        if normalised and bias:
            raise ValueError("mlp: normalised=True with bias=True; a bias has no length to normalise: use bias=False")
        self.out_width = width if out is None else out
        self.activation = activation
        self.hidden = nn.Linear(width, 2 * units if activation == GATED else units, bias=bias)
        self.hidden_scale = nn.Parameter(torch.ones(self.hidden.out_features)) if normalised else None
        self.inner_norm = None if inner_norm is None else norm(inner_norm, units)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(units, self.out_width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        if self.hidden_scale is not None:
            h = h * self.hidden_scale.to(h.dtype)
        if self.activation == GATED:
            gate, h = h.chunk(2, dim=-1)
            h = F.silu(gate) * h
        else:
            h = ACTIVATIONS[self.activation](h)
        if self.inner_norm is not None:
            h = self.inner_norm(h)
        return self.output(self.dropout(h))

    def unit_weights(self) -> Iterator[tuple[Tensor, int]]:
        """Yield (weight, axis) of the vectors that `resnorm.init.project` brings to length 1; none unless normalised."""
        if self.hidden_scale is not None:
            yield from ((self.hidden.weight, 1), (self.output.weight, 0))

    def roles(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (role, tensor): `hidden` (twice with SwiGLU: views of one matrix), `output` and `bias`."""
        for weight in self.hidden.weight.chunk(2 if self.activation == GATED else 1):
            yield "hidden", weight
        yield "output", self.output.weight
        if self.output.bias is not None:
            yield from (("bias", self.hidden.bias), ("bias", self.output.bias))


class Linear(nn.Linear):
    r"""Map every position linearly: $W x + b$. Shapes: x (..., width), output (..., out)."""

    def __init__(self, width: int, out: int | None = None, bias: bool = True):
        super().__init__(width, width if out is None else out, bias=bias)
        self.out_width = self.out_features

    def roles(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (role, tensor): `output`, since the matrix writes into the stream, and `bias`."""
        yield "output", self.weight
        if self.bias is not None:
            yield "bias", self.bias


def mlp(
    expansion: float = 4,
    activation: str = "relu",
    dropout: float = 0.0,
    bias: bool = True,
    out: int | None = None,
    inner_norm: str | None = None,
    normalised: bool = False,
) -> partial[MLP]:
    """Return a factory of `MLP`."""
    return partial(
        MLP,
        expansion=expansion,
        activation=activation,
        dropout=dropout,
        bias=bias,
        out=out,
        inner_norm=inner_norm,
        normalised=normalised,
    )


def linear(out: int | None = None, bias: bool = True) -> partial[Linear]:
    """Return a factory of `Linear`."""
    return partial(Linear, out=out, bias=bias)
