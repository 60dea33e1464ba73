"""Streams that keep what the blocks returned, and read more of it than the last sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnorm import norms
from resnorm.streams.stream import Stream, whole


class Jump(Stream):
    r"""Jumping knowledge: run the blocks in a row, and let the output read all of them.

    $$y = [h_1 \Vert \dots \Vert h_L], \qquad y = \max_i h_i, \qquad\text{or}\qquad y = \sum_i \operatorname{softmax}_i(s_i)\, h_i$$

    `mode`: "cat", "max" (feature by feature) or "lstm": the scores $s_i$ come from a two-way LSTM of `width` units that
    runs over the blocks, position by position. `dim`: where the features lie; "lstm" takes the last only.
    Shapes: (batch, ...) to (batch, ...), with "cat" as wide as all blocks together.
    Raises `ValueError` for another mode, and for "lstm" without a width. Citation: xu2018representation.
    """

    def __init__(self, mode: str = "cat", width: int | None = None, dim: int = -1):
        super().__init__()
        if mode not in ("cat", "max", "lstm"):
            raise ValueError(f"Jump: mode={mode!r}; allowed: 'cat', 'max', 'lstm'")
        if mode == "lstm":
            if width is None or dim != -1:
                raise ValueError(f"Jump: mode='lstm' runs over the last dimension; give width=... and dim=-1, got {width}, {dim}")
            self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
            self.score = nn.Linear(2 * width, 1)
        self.mode, self.dim = mode, dim

    def open(self, x: Tensor) -> list[Tensor]:
        return [x]

    def read(self, S: list[Tensor], i: int) -> Tensor:
        return S[-1]

    def write(self, S: list[Tensor], h: Tensor, i: int) -> list[Tensor]:
        return [*S, h]

    def close(self, S: list[Tensor]) -> Tensor:
        blocks = S[1:]
        if self.mode == "cat":
            return torch.cat(blocks, self.dim)
        if self.mode == "max":
            return torch.stack(blocks).amax(0)
        values = torch.stack(blocks, -2)
        hidden, _ = self.lstm(values.flatten(0, -3))
        return (self.score(hidden).softmax(-2).view(*values.shape[:-1], 1) * values).sum(-2)

    def out_width(self, start: int | None, widths: list[int | None]) -> int | None:
        return widths[-1] if self.mode != "cat" else None if None in widths else sum(widths)


class Dual(Stream):
    r"""ResiDual: a Post-Norm stream that the branches read, and an unnormalised sum beside it.

    $$n_{i+1} = N_i(n_i + h_i), \qquad d_{i+1} = d_i + h_i, \qquad h_i = F_i(n_i), \qquad y = n_L + N(d_L)$$

    Both start from the input. The first keeps every block's input normalised, the second keeps the gradient's way free.
    `norm`: a registered name. Shapes: (batch, ...) to (batch, ...).
    Raises `ValueError` for a count below 1. Citation: xie2023residual.
    """

    def __init__(self, width: int, count: int, norm: str = "layer"):
        super().__init__()
        self.count = whole("Dual: count", count, "blocks of the stack")
        self.norms = nn.ModuleList(norms.norm(norm, width) for _ in range(count))
        self.last = norms.norm(norm, width)

    def open(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x

    def read(self, S: tuple[Tensor, Tensor], i: int) -> Tensor:
        return S[0]

    def write(self, S: tuple[Tensor, Tensor], h: Tensor, i: int) -> tuple[Tensor, Tensor]:
        return self.norms[i](S[0] + h), S[1] + h

    def close(self, S: tuple[Tensor, Tensor]) -> Tensor:
        return S[0] + self.last(S[1])


class Depth(Stream):
    r"""DenseFormer: after each block, a learned mean of the input and of everything that the blocks returned.

    $$z_0 = x, \qquad z_{i+1} = B_i(x_i), \qquad x_{i+1} = \sum_{j=0}^{i+1} w_{i+1,j}\, z_j$$

    The blocks carry their own skip (`nFa`). The weights start at $w_{i+1,i+1} = 1$ and 0 elsewhere: the stack is then
    exactly the plain one. Shapes: (batch, ...) to (batch, ...), all blocks of one width.
    Raises `ValueError` for a count below 1. Citation: pagliardini2024denseformer.
    """

    sums = True

    def __init__(self, count: int):
        super().__init__()
        self.count = whole("Depth: count", count, "blocks of the stack")
        self.weights = nn.ParameterList(torch.eye(i + 2)[-1] for i in range(count))

    def open(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        return [x], x

    def read(self, S: tuple[list[Tensor], Tensor], i: int) -> Tensor:
        return S[1]

    def write(self, S: tuple[list[Tensor], Tensor], h: Tensor, i: int) -> tuple[list[Tensor], Tensor]:
        values = [*S[0], h]
        return values, sum(weight * value for weight, value in zip(self.weights[i], values, strict=True))

    def close(self, S: tuple[list[Tensor], Tensor]) -> Tensor:
        return S[1]


class Attend(Stream):
    r"""Attention Residuals: every branch reads the branches before it, weighted by attention over depth.

    $$x_i = \sum_j \operatorname{softmax}_j\!\big(w_i^\top \operatorname{RMS}(v_j)\big)\, v_j, \quad v_0 = x,\ v_{j+1} = F_j(x_j)$$

    The output is one more such reading. The queries $w_i$ start at 0: every branch then reads the plain mean, which
    differs from the residual sum by a factor only, and a branch that starts with a norm does not see the factor.
    `group`: add so many outputs up before they become one value (the paper's Block Attention Residuals); 1 keeps all.
    A gain of the RMS norm would only multiply into $w_i$; there is none.
    Shapes: (..., width) to (..., width). Raises `ValueError` for a count or a group below 1. Citation: kimi2026attention.
    """

    sums = True

    def __init__(self, width: int, count: int, group: int = 1):
        super().__init__()
        self.count = whole("Attend: count", count, "blocks of the stack")
        self.group = whole("Attend: group", group, "outputs that are added up")
        self.queries = nn.Parameter(torch.zeros(count + 1, width))
        self.norm = norms.norm("rms", width, affine=False)

    def open(self, x: Tensor) -> list[Tensor]:
        return [x]

    def read(self, S: list[Tensor], i: int) -> Tensor:
        values = torch.stack(S)
        return ((self.norm(values) @ self.queries[i]).softmax(0).unsqueeze(-1) * values).sum(0)

    def write(self, S: list[Tensor], h: Tensor, i: int) -> list[Tensor]:
        return [*S, h] if i % self.group == 0 else [*S[:-1], S[-1] + h]

    def close(self, S: list[Tensor]) -> Tensor:
        return self.read(S, self.count)
