r"""Self-attention and cross-attention, by `torch.nn.functional.scaled_dot_product_attention` wherever that is the fast one.

Three norms may stand inside: `query_key_norm` on the queries and the keys (QK-norm), `inner_norm` before the output
matrix (Sub-LN), and `head_scale`, one learned number a head that starts at 1 (NormFormer).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from resnorm.norms import norm


class _Attention(nn.Module):
    """What both attentions share: heads, the mask, the norms inside and the output matrix.

    `inputs` are the matrices that make queries, keys and values, by name and in the order in which they run.
    """

    def __init__(
        self, width, inputs, heads, causal, dropout, bias, query_key_norm=None, inner_norm=None, head_scale=False
    ):  # fmt: skip
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"attention: heads={heads} does not divide the width {width}; use a divisor of {width}")
        if not 0 <= dropout < 1:
            raise ValueError(f"attention: dropout={dropout} is not a rate; use 0 <= dropout < 1")
        self.out_width, self.heads, self.causal, self.dropout = width, heads, causal, dropout
        for name, (wide, out) in inputs.items():
            self.add_module(name, nn.Linear(wide, out, bias=bias))
        self.query_norm = None if query_key_norm is None else norm(query_key_norm, width)
        self.key_norm = None if query_key_norm is None else norm(query_key_norm, width)
        self.head_scale = nn.Parameter(torch.ones(heads, 1, 1)) if head_scale else None
        self.inner_norm = None if inner_norm is None else norm(inner_norm, width)
        self.output = nn.Linear(width, width, bias=bias)

    def attend(self, query, key, value, mask):
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        # (batch, tokens, width) -> (batch, heads, tokens, width / heads)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        causal = self.causal
        written_out = query.device.type == "cpu" and query.dtype.itemsize == 2 and torch.is_grad_enabled()
        if causal and (written_out or mask is not None):  # scaled_dot_product_attention takes one or the other
            past = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
            if mask is None:
                mask = past
            else:
                mask = mask & past if mask.dtype == torch.bool else mask.masked_fill(~past, float("-inf"))
            causal = False
        rate = self.dropout if self.training else 0.0
        attention = _written_out if written_out else F.scaled_dot_product_attention
        h = attention(query, key, value, attn_mask=mask, dropout_p=rate, is_causal=causal)
        if self.head_scale is not None:
            h = h * self.head_scale.to(h.dtype)
        h = h.transpose(1, 2).flatten(-2)
        return self.output(h if self.inner_norm is None else self.inner_norm(h))


def _written_out(query, key, value, attn_mask, dropout_p, is_causal):
    """Attention as two matrix products and a softmax: on CPU the fused one is slow backwards in 16 bits."""
    scores, scale, blind = query @ key.transpose(-2, -1), query.shape[-1] ** -0.5, None
    if attn_mask is not None:
        least = torch.finfo(scores.dtype).min  # and not minus infinity: a row of those has no softmax
        if attn_mask.dtype == torch.bool:
            blind = ~attn_mask.any(-1, keepdim=True)
            attn_mask = torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill_(~attn_mask, least)
        scores = torch.add(attn_mask.to(scores.dtype).clamp_min(least), scores, alpha=scale)
    else:
        scores = scores * scale
    h = F.dropout(scores.softmax(-1), dropout_p).to(value.dtype) @ value
    # A token that may attend to nothing gets zeros, as from the fused one.
    return h if blind is None else h.masked_fill(blind, 0.0)


class SelfAttention(_Attention):
    r"""Attend from every token to the tokens of the same sequence.

    $$\operatorname{softmax}(Q K^\top / \sqrt{d} + m)\, V W_O, \qquad (Q, K, V) = x\,(W_Q, W_K, W_V)$$

    $d$ is the width of a head, $m$ the mask: a boolean (True = may attend) or a float that is added to the scores.
    With `causal`, a token attends to itself and to earlier tokens only, whatever the mask allows.
    `query_key_norm` normalises $Q$ and $K$ over their whole width, before the heads are split; `inner_norm` and
    `head_scale` act on the heads' outputs, before $W_O$. Each is None, or False, unless it is asked for.

    Shapes: x and output (batch, tokens, width), mask broadcasts to (batch, heads, tokens, tokens).
    Raises `ValueError` where the heads do not divide the width.
    Citation: vaswani2017attention; olmo2025two (QK-norm), wang2022magneto (Sub-LN), shleifer2021normformer (head scale).
    """

    def __init__(self, width, heads=8, causal=False, dropout=0.0, bias=True, **inside):
        inputs = {"query_key_value": (width, 3 * width)}
        super().__init__(width, inputs, heads, causal, dropout, bias, **inside)

    def forward(self, x, mask=None):
        return self.attend(*self.query_key_value(x).chunk(3, dim=-1), mask)

    def roles(self):
        """Yield (role, tensor) for `query`, `key`, `value` (views of one matrix), `output` and `bias`."""
        yield from zip(("query", "key", "value"), self.query_key_value.weight.chunk(3), strict=True)
        yield "output", self.output.weight
        if self.output.bias is not None:
            yield from (("bias", self.query_key_value.bias), ("bias", self.output.bias))


class CrossAttention(_Attention):
    r"""Attend from every token to the tokens of a memory.

    $$\operatorname{softmax}(Q K^\top / \sqrt{d} + m)\, V W_O, \qquad Q = x W_Q, \quad (K, V) = z\,(W_K, W_V)$$

    $z$ is the memory, $d$ the width of a head, $m$ the mask: a boolean (True = may attend) or a float added to the
    scores.

    Shapes: x and output (batch, tokens, width), memory (batch, memory tokens, memory_width), mask broadcasts to
    (batch, heads, tokens, memory tokens).
    The norms inside are those of `SelfAttention`.
    Raises `ValueError` where the heads do not divide the width. Citation: vaswani2017attention.
    """

    def __init__(self, width, heads=8, memory_width=None, dropout=0.0, bias=True, **inside):
        inputs = {"query": (width, width), "key_value": (width if memory_width is None else memory_width, 2 * width)}
        super().__init__(width, inputs, heads, False, dropout, bias, **inside)

    def forward(self, x, memory, mask=None):
        return self.attend(self.query(x), *self.key_value(memory).chunk(2, dim=-1), mask)

    def roles(self):
        """Yield (role, tensor) for `query`, `key`, `value` (views of one matrix), `output` and `bias`."""
        yield "query", self.query.weight
        yield from zip(("key", "value"), self.key_value.weight.chunk(2), strict=True)
        yield "output", self.output.weight
        if self.output.bias is not None:
            yield from (("bias", self.query.bias), ("bias", self.key_value.bias), ("bias", self.output.bias))


def attention(heads=8, causal=False, dropout=0.0, bias=True, **inside):
    """Return a factory of `SelfAttention`; `inside`: its `query_key_norm`, `inner_norm` and `head_scale`."""
    return partial(SelfAttention, heads=heads, causal=causal, dropout=dropout, bias=bias, **inside)


def cross_attention(heads=8, memory_width=None, dropout=0.0, bias=True, **inside):
    """Return a factory of `CrossAttention`; a block passes the memory on as `block(x, X=dict(memory=z))`.

    `inside`: its `query_key_norm`, `inner_norm` and `head_scale`.
    """
    return partial(CrossAttention, heads=heads, memory_width=memory_width, dropout=dropout, bias=bias, **inside)
