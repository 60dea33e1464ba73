r"""Hyper-Connections: n copies of the stream, and learned matrices that mix them.

A residual stream has one number for how much of it goes on, and it is 1. With n rows $H \in \mathbb{R}^{n \times d}$ it
has a matrix of them. The danger is the product of these matrices over the depth: it need not stay near 1. The manifold
form keeps every factor doubly stochastic, and a product of doubly stochastic matrices is doubly stochastic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from resnorm.norms import norm
from resnorm.streams.stream import Stream, whole

Mixing = tuple[Tensor, Tensor, Tensor]


def sinkhorn(logits: Tensor, iterations: int = 20) -> Tensor:
    r"""Turn a matrix of any numbers into a doubly stochastic one: $\exp(M)$, columns and rows divided by their sums in turn.

    Rows come last, so they sum to 1 exactly, and the columns as nearly as the iterations bring them.
    Shapes: (..., n, n) to (..., n, n). Raises `ValueError` for no iterations. Citation: xie2025mhc.
    """
    if iterations < 1:
        raise ValueError(f"sinkhorn: iterations={iterations}; it needs one or more")
    for _ in range(iterations):
        logits = logits - logits.logsumexp(-2, keepdim=True)
        logits = logits - logits.logsumexp(-1, keepdim=True)
    return logits.exp()


class _Connections(nn.Module):
    r"""The three mixings of one block: what it reads, what the rows get of it, and how the rows mix.

    `dynamic`: each mixing also depends on the rows, $s \tanh(\hat H W)$, with W = 0 and s = 0.01 at the start. `mix` is
    the paper's $A_r$, whose row says where one row of H goes; its transpose acts on H.
    """

    def __init__(self, width: int, rows: int, row: int, dynamic: bool):
        super().__init__()
        self.read = nn.Parameter(torch.eye(rows)[row])
        self.write = nn.Parameter(torch.ones(rows))
        self.mix = nn.Parameter(torch.eye(rows))
        self.dynamic = dynamic
        if dynamic:
            self.norm = norm("layer", width)
            self.to_read = nn.Parameter(torch.zeros(width))
            self.to_write = nn.Parameter(torch.zeros(width))
            self.to_mix = nn.Parameter(torch.zeros(width, rows))
            self.scale_in = nn.Parameter(torch.tensor(0.01))
            self.scale_out = nn.Parameter(torch.tensor(0.01))

    def forward(self, H: Tensor) -> Mixing:
        if not self.dynamic:
            return self.read, self.write, self.mix.mT
        N = self.norm(H)
        return (
            self.read + self.scale_in * (N @ self.to_read).tanh(),
            self.write + self.scale_out * (N @ self.to_write).tanh(),
            (self.mix + self.scale_in * (N @ self.to_mix).tanh()).mT,
        )


class _ManifoldConnections(nn.Module):
    r"""The three mixings of one block, held on a manifold: $\sigma(\cdot)$, $2\sigma(\cdot)$ and `sinkhorn`.

    Each is $\alpha\, \operatorname{RMS}(\operatorname{vec} H)\, W + b$ inside, with W = 0 and $\alpha$ = 0.01 at the start.
    The paper's b is not known to us. Ours makes the block read shares that sum to 1, half of them from a row of its own:
    with equal shares all rows would stay equal for ever.
    """

    def __init__(self, width: int, rows: int, row: int):
        super().__init__()
        share = torch.full((rows,), 0.5 / (rows - 1))
        share[row] = 0.5
        self.norm = norm("rms", rows * width, affine=False)
        self.read = nn.Parameter(share.logit())
        self.write = nn.Parameter(torch.zeros(rows))
        self.mix = nn.Parameter(torch.eye(rows) * math.log(9 * (rows - 1)))  # 0.9 on the diagonal
        self.to_read = nn.Parameter(torch.zeros(rows * width, rows))
        self.to_write = nn.Parameter(torch.zeros(rows * width, rows))
        self.to_mix = nn.Parameter(torch.zeros(rows * width, rows * rows))
        self.scales = nn.Parameter(torch.full((3,), 0.01))

    def forward(self, H: Tensor) -> Mixing:
        N = self.norm(H.flatten(-2))
        read, write, mix = self.scales
        return (
            (read * (N @ self.to_read) + self.read).sigmoid(),
            2 * (write * (N @ self.to_write) + self.write).sigmoid(),
            sinkhorn(mix * (N @ self.to_mix).unflatten(-1, self.mix.shape) + self.mix),
        )


class Hyper(Stream):
    r"""Carry n rows in place of one stream; each block reads a mix of them, and writes to all of them.

    $$x_i = r_i^\top H_i, \qquad H_{i+1} = M_i H_i + w_i\, F_i(x_i)^\top, \qquad y = \tfrac1n \textstyle\sum_k (H_L)_k$$

    `form` says where $r_i, w_i \in \mathbb{R}^n$ and $M_i \in \mathbb{R}^{n \times n}$ come from:
    "static" learns them; "dynamic" adds a part that depends on the rows; "manifold" (mHC) has a sigmoid for $r_i$, two
    sigmoids for $w_i$, and for $M_i$ the doubly stochastic matrices of `sinkhorn`.
    In all three forms the stack is the plain residual one at the start. The paper adds the rows up at the end; the mean
    differs by the factor n, which the stack's last norm takes away, and is the plain stream's own size.

    `rows` is n, at least 2. Shapes: (..., width) to (..., width), the state (..., n, width).
    Raises `ValueError` for another form, and for fewer than 2 rows or 1 block.
    Citation: zhu2025hyper, xie2025mhc.
    """

    sums = True

    def __init__(self, width: int, count: int, rows: int = 4, form: str = "static"):
        super().__init__()
        self.count = whole("Hyper: count", count, "blocks of the stack")
        self.rows = whole("Hyper: rows", rows, "copies of the stream", least=2)
        if form not in ("static", "dynamic", "manifold"):
            raise ValueError(f"Hyper: form={form!r}; allowed: 'static', 'dynamic', 'manifold'")
        self.connections = nn.ModuleList(
            _ManifoldConnections(width, rows, i % rows)
            if form == "manifold"
            else _Connections(width, rows, i % rows, form == "dynamic")
            for i in range(count)
        )

    def open(self, x: Tensor) -> tuple[Tensor, Mixing]:
        H = x.unsqueeze(-2).expand(*x.shape[:-1], self.rows, x.shape[-1])
        return H, self.connections[0](H)

    def read(self, S: tuple[Tensor, Mixing], i: int) -> Tensor:
        H, (read, _, _) = S
        return (read.unsqueeze(-1) * H).sum(-2)

    def write(self, S: tuple[Tensor, Mixing], h: Tensor, i: int) -> tuple[Tensor, Mixing | None]:
        H, (_, write, mix) = S
        H = mix @ H + write.unsqueeze(-1) * h.unsqueeze(-2)
        return H, self.connections[i + 1](H) if i + 1 < self.count else None

    def close(self, S: tuple[Tensor, Mixing | None]) -> Tensor:
        return S[0].mean(-2)
