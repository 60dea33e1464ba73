"""The protocol of a stream, and the three whose state is one tensor without learned parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def whole(name: str, value: int, meaning: str, least: int = 1) -> int:
    """Return a whole number; raises `ValueError` for anything else and for one below `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}; it is the number of {meaning}, an integer of {least} or more")
    return value


class Stream(nn.Module):
    """The protocol: subclass it and define the four verbs; a stream with learned mixing holds its parameters here.

    The state may be of any type. `i` counts the blocks from 0. `sums` says that the output is an unnormalised sum, after
    which a stack needs its last norm; `count` is the number of blocks that the stream was built for, None for any number.
    """

    sums = False
    count: int | None = None

    def open(self, x: Tensor) -> Any:
        """Make the state from the input, (batch, ...)."""
        raise NotImplementedError

    def read(self, S: Any, i: int) -> Tensor:
        """What block i sees, (batch, ...)."""
        raise NotImplementedError

    def write(self, S: Any, h: Tensor, i: int) -> Any:
        """The state after block i returned h."""
        raise NotImplementedError

    def close(self, S: Any) -> Tensor:
        """The output, (batch, ...)."""
        raise NotImplementedError

    def out_width(self, start: int | None, widths: list[int | None]) -> int | None:
        """The width of the output, from that of the stack's input and those of its blocks; None where they are not known."""
        return widths[-1]


class Plain(Stream):
    r"""Hand each block's output to the next: $S \leftarrow h$. For blocks that carry their skip in their word."""

    def open(self, x: Tensor) -> Tensor:
        return x

    def read(self, S: Tensor, i: int) -> Tensor:
        return S

    def write(self, S: Tensor, h: Tensor, i: int) -> Tensor:
        return h

    def close(self, S: Tensor) -> Tensor:
        return S


class Sum(Plain):
    r"""Add each branch to the state: $S \leftarrow S + h$, so that $x_L = x_0 + \sum_i F_i$. Citation: he2016identity."""

    sums = True

    def write(self, S: Tensor, h: Tensor, i: int) -> Tensor:
        return S + h


class Dense(Plain):
    r"""Let each block read everything before it: $h_i = B_i([x \Vert h_0 \Vert \dots \Vert h_{i-1}])$.

    Block i has the input width $w_0 + i\,g$ for growth g; the output is the concatenation of all. `dim`: 1 for images and
    vectors, -1 for tokens. Citation: huang2017densely.
    """

    sums = True

    def __init__(self, dim: int = 1):
        super().__init__()
        self.dim = dim

    def write(self, S: Tensor, h: Tensor, i: int) -> Tensor:
        return torch.cat((S, h), self.dim)

    def out_width(self, start: int | None, widths: list[int | None]) -> int | None:
        return None if start is None or None in widths else start + sum(widths)
