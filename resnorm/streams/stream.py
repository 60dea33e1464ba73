r"""Streams: what flows from block to block, and the stack that drives it.

A word describes the skip inside one block. A skip that crosses blocks is a stream: a state with four verbs.

$$S_0 = \text{open}(x), \qquad h_i = B_i(\text{read}(S_i, i)), \qquad S_{i+1} = \text{write}(S_i, h_i, i), \qquad y = \text{close}(S_L)$$

With `Sum`, the block `nF` gives the same network as the block `nFa` in a plain stack: the merge has moved into the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from resnorm.letters import setting_of
from resnorm.words import Block


class Stream(nn.Module):
    """The protocol: subclass it and define the four verbs; a stream with learned mixing holds its parameters here.

    The state may be of any type. `i` counts the blocks from 0. `sums` says that the state is an unnormalised sum, after which
    a stack needs its last norm.
    """

    sums = False

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


class Stack(nn.Module):
    r"""Run blocks over a stream: $x_{i+1} = B_i(x_i)$ for the plain stream.

    `blocks`: modules in order; `stream`: how their outputs combine; `last`: the last norm, a registered name or a factory
    `width -> module`. It is built only where the stack needs one: when the stream is a sum or when the last word ends in a
    merge (`nFa` does, `Fan` does not). `width` is asked for only where the blocks do not tell theirs.
    Shapes: (batch, ...) to (batch, ...). Raises `ValueError` for no blocks, or a last norm of unknown width.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        stream: Stream | None = None,
        last: str | Callable[[int], nn.Module] | None = None,
        width: int | None = None,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if not self.blocks:
            raise ValueError("a stack needs at least one block, got none")
        self.stream = Plain() if stream is None else stream
        end = self.blocks[-1]
        self.out_width = width if width is not None else self._width()
        self.last = None
        if last is not None and (self.stream.sums or (isinstance(end, Block) and end.ends_in_merge)):
            if self.out_width is None:
                raise ValueError("the blocks do not tell their width, which the last norm needs; give Stack(..., width=...)")
            self.last = setting_of("n", last)(self.out_width)

    def _width(self) -> int | None:
        widths = [getattr(block, "out_width", None) for block in self.blocks]
        if isinstance(self.stream, Dense) and None not in widths:
            start = getattr(self.blocks[0], "width", None)
            return None if start is None else start + sum(widths)
        return widths[-1]

    def forward(self, x: Tensor, **inputs: dict[str, Any]) -> Tensor:
        """Run every block; `inputs` go to each of them by letter, as in `Block`."""
        S = self.stream.open(x)
        for i, block in enumerate(self.blocks):
            S = self.stream.write(S, block(self.stream.read(S, i), **inputs), i)
        y = self.stream.close(S)
        return y if self.last is None else self.last(y)
