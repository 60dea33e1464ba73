r"""Self-attention and cross-attention, by `torch.nn.functional.scaled_dot_product_attention` wherever that is the fast one.

Norms may stand inside: `query_key_norm` on the queries and the keys (QK-norm), `value_norm` on the values (HybridNorm),
`inner_norm` before the output matrix (Sub-LN), and `head_scale`, one learned number a head that starts at 1 (NormFormer).
Several heads may share their keys and values: `key_value_heads` (grouped-query attention).
A `Cache` keeps keys and values from one token to the next, a `FirstValues` keeps the first layer's values for the others.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm.letters import LearnedScale
from resnorm.norms import norm

KeysAndValues = tuple[Tensor, Tensor]


class Cache:
    """The keys and values that a model's attentions have computed, so that the next tokens need only their own.

    Give one to every pass over the same rows, as the `cache` of each attention: `stack(x, A=dict(cache=cache))`.
    Self-attention adds to its keys and values, cross-attention computes those of its memory once. They are kept by
    module, so a module may run only once in a pass.
    Shapes: keys and values (batch, key_value_heads, tokens, head_width).
    """

    def __init__(self) -> None:
        self.past: dict[nn.Module, KeysAndValues] = {}
        self.memory: dict[nn.Module, KeysAndValues] = {}

    @property
    def tokens(self) -> int:
        """The number of tokens of the passes before."""
        return max((self.length(module) for module in self.past), default=0)

    def length(self, module: nn.Module) -> int:
        """The number of tokens whose keys and values a self-attention has stored."""
        return self.past[module][0].shape[-2] if module in self.past else 0

    def extend(self, module: nn.Module, key: Tensor, value: Tensor) -> KeysAndValues:
        """Add the keys and values of the next tokens; return all of them."""
        if module in self.past:
            key, value = (torch.cat(pair, -2) for pair in zip(self.past[module], (key, value), strict=True))
        self.past[module] = key, value
        return key, value

    def once(self, module: nn.Module, compute: Callable[[], KeysAndValues]) -> KeysAndValues:
        """Return the keys and values of the memory, computed at the first pass."""
        if module not in self.memory:
            self.memory[module] = compute()
        return self.memory[module]

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from what was row `rows[i]`, (batch,) of int64; each keeps its memory."""
        self.past = {module: (key[rows], value[rows]) for module, (key, value) in self.past.items()}


class FirstValues:
    """The values of the first attention of a pass, which the later ones mix into theirs; see `SelfAttention`.

    Give one to every attention of a stack, and a new one to every pass: `stack(x, A=dict(first=FirstValues()))`.
    Shapes: values (batch, key_value_heads, tokens, head_width). Citation: zhou2025value.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def of(self, value: Tensor) -> Tensor:
        """Return the first values of this pass, which are the given ones where none came before."""
        self.value = value if self.value is None else self.value
        return self.value


def angles(positions: Tensor, width: int, theta: float = 10000) -> Tensor:
    r"""The angle of every position for every pair of features: $p\, \Theta^{-2i / d}$, with `theta` for $\Theta$.

    Shapes: positions (tokens,), output (tokens, width / 2), in radians. Citation: vaswani2017attention.
    """
    return positions[:, None] * theta ** (-torch.arange(0, width, 2, device=positions.device) / width)


def rotate(x: Tensor, start: int = 0, theta: float = 10000) -> Tensor:
    r"""Turn every pair of features by the angle of its token's position, so that a score sees the distance only.

    $$R_p^\top R_q = R_{q-p}, \qquad R_p = \operatorname{diag}\begin{pmatrix} \cos p\theta_i & -\sin p\theta_i \\
    \sin p\theta_i & \cos p\theta_i \end{pmatrix}, \qquad \theta_i = \Theta^{-2i / d}$$

    A pair are two neighbours, $x_{2i}$ and $x_{2i+1}$, as in the paper; Hugging Face pairs $x_i$ with $x_{i+d/2}$, which is
    the same with the rows of $W_Q$ and $W_K$ in another order. `theta` is $\Theta$, `start` the position of the first token.
    Shapes: (..., tokens, d) to (..., tokens, d). Citation: su2024roformer.
    """
    turn = angles(torch.arange(start, start + x.shape[-2], device=x.device), x.shape[-1], theta)
    cos, sin = turn.cos().to(x.dtype), turn.sin().to(x.dtype)
    one, other = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((one * cos - other * sin, one * sin + other * cos), -1).flatten(-2)


class _Attention(nn.Module):
    """What both attentions share: heads, the mask, the norms inside and the output matrix.

    `inputs` are the matrices that make queries, keys and values, in the order in which they run: for a name its input's
    width and what it makes, "q", "kv" or "qkv".
    """

    def __init__(
        self,
        width: int,
        inputs: dict[str, tuple[int, str]],
        heads: int,
        causal: bool,
        dropout: float,
        bias: bool | str,
        key_value_heads: int | None = None,
        head_width: int | None = None,
        query_key_norm: str | None = None,
        value_norm: str | None = None,
        per_head: bool = False,
        inner_norm: str | None = None,
        head_scale: bool = False,
    ):
        super().__init__()
        if heads < 1 or (head_width is None and width % heads):
            raise ValueError(f"attention: heads={heads} does not divide the width {width}; use a divisor of {width}")
        groups = heads if key_value_heads is None else key_value_heads
        if groups < 1 or heads % groups:
            raise ValueError(
                f"attention: key_value_heads={groups} does not divide heads={heads}; use a divisor of {heads}, with 1 for "
                "multi-query attention"
            )
        each = width // heads if head_width is None else head_width
        if each < 1:
            raise ValueError(f"attention: head_width={head_width}; use 1 or more, or None for width / heads")
        if bias not in (True, False, "qkv"):
            raise ValueError(f"attention: bias={bias!r}; allowed: True, False, 'qkv' (on queries, keys and values alone)")
        if not 0 <= dropout < 1:
            raise ValueError(f"attention: dropout={dropout} is not a rate; use 0 <= dropout < 1")
        self.out_width, self.heads, self.causal, self.dropout = width, heads, causal, dropout
        self.key_value_heads, self.head_width = groups, each
        self.sizes = {"q": heads * each, "k": groups * each, "v": groups * each}
        for name, (wide, made) in inputs.items():
            self.add_module(name, nn.Linear(wide, sum(self.sizes[part] for part in made), bias=bool(bias)))
        self.per_head = per_head
        queries, keys = (each, each) if per_head else (self.sizes["q"], self.sizes["k"])
        self.query_norm = None if query_key_norm is None else norm(query_key_norm, queries)
        self.key_norm = None if query_key_norm is None else norm(query_key_norm, keys)
        self.value_norm = None if value_norm is None else norm(value_norm, keys)
        self.head_scale = nn.Parameter(torch.ones(heads, 1, 1)) if head_scale else None
        self.inner_norm = None if inner_norm is None else norm(inner_norm, heads * each)
        self.output = nn.Linear(heads * each, width, bias=bias is True)

    def parts(self, packed: Tensor, made: str, dim: int) -> tuple[Tensor, ...]:
        """Cut what one matrix of `inputs` made, or its rows, into queries, keys and values."""
        return packed.split([self.sizes[part] for part in made], dim)

    def split(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """(batch, tokens, width) to (batch, heads, tokens, head_width), normalised before, or after it for `per_head`."""
        x = x if norm is None or self.per_head else norm(x)
        x = x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        return norm(x) if norm is not None and self.per_head else x

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        queries, keys = query.shape[-2], key.shape[-2]
        if self.key_value_heads != self.heads:  # each key and value for all the queries of its group
            key, value = (h.repeat_interleave(self.heads // self.key_value_heads, 1) for h in (key, value))
        # A single token is the last one, and sees all. A compiler's sizes have no plain truth value but in a condition.
        causal = self.causal if queries > 1 else False
        written_out = query.device.type == "cpu" and query.dtype.itemsize == 2 and torch.is_grad_enabled()
        # scaled_dot_product_attention takes one or the other, and for it the first query is the first token
        if causal and (written_out or mask is not None or queries < keys):
            past = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
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


def _written_out(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, dropout_p: float, is_causal: bool) -> Tensor:
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
    `query_key_norm` normalises $Q$ and $K$ over their whole width, before the heads are split, and `value_norm` $V$; with
    `per_head` each head is normalised by itself, by one norm for all heads.
    `inner_norm` and `head_scale` act on the heads' outputs, before $W_O$. Each is None, or False, unless it is asked for.
    `value_residual` puts $\lambda_1 V + \lambda_2 V_1$ in the place of $V$, with two learned numbers that start at 1/2;
    $V_1$ are the values of the first attention that had the same `first` in this pass (without one: its own).
    `rotary` turns $Q$ and $K$ by their positions, with the base `theta` (see `rotate`), in each head all features or the first
    `rotary_width`. With `key_value_heads`, a divisor of
    `heads`, that many keys and values are computed, and each serves as many queries that follow one another; `head_width` is
    d, by default width / heads. `bias` is True, False or "qkv": on queries, keys and values, and not on the output.
    `normalised` is nGPT's attention: the vectors of its matrices have length 1 along the width of the stream (see
    `unit_weights`), and in each head, with one learned s a feature,

    $$q \leftarrow \sqrt{d}\; s \odot q / \lVert q \rVert_2, \qquad k \leftarrow \sqrt{d}\; s \odot k / \lVert k \rVert_2,$$

    so that the scores are $\sqrt{d}$ times the products of two unit vectors, scaled by s.
    With a `cache`, x holds the tokens that follow those of the passes before, and attends to them too.

    Shapes: x and output (batch, tokens, width), mask broadcasts to (batch, heads, tokens, tokens), with a cache to
    (batch, heads, tokens, all tokens so far).
    Raises `ValueError` where the heads do not divide the width or the heads of keys and values the heads, for rotary
    positions on an odd number of features, and for normalised weights beside a bias, grouped heads or a width of their own.
    Citation: vaswani2017attention; su2024roformer (rotary), ainslie2023gqa (grouped heads), henry2020query (QK-norm),
    muennighoff2025olmoe (over the whole width), yang2025qwen3 (per head), zhuo2025hybridnorm (value norm),
    wang2022magneto (Sub-LN), shleifer2021normformer (head scale), zhou2025value (value residual),
    loshchilov2024ngpt (normalised).
    """

    query_key_value: nn.Linear

    def __init__(
        self,
        width: int,
        heads: int = 8,
        causal: bool = False,
        dropout: float = 0.0,
        bias: bool | str = True,
        rotary: bool = False,
        theta: float = 10000,
        rotary_width: int | None = None,
        value_residual: bool = False,
        normalised: bool = False,
        **inside: Any,
    ):
        super().__init__(width, {"query_key_value": (width, "qkv")}, heads, causal, dropout, bias, **inside)
        if rotary and rotary_width is None and self.head_width % 2:
            raise ValueError(
                f"attention: rotary positions turn pairs of features, and a head has {self.head_width}; use a width that "
                f"{2 * heads} divides, or an even head_width"
            )
        if rotary_width is not None and (rotary_width % 2 or not 0 < rotary_width <= self.head_width):
            raise ValueError(
                f"attention: rotary_width={rotary_width}; use an even number of the {self.head_width} features of a head, or None"
            )
        if normalised and bias:
            raise ValueError("attention: normalised=True with bias=True; a bias has no length to normalise: use bias=False")
        if normalised and self.sizes != dict.fromkeys("qkv", width):
            raise ValueError("attention: normalised=True takes heads of one kind; leave out key_value_heads and head_width")
        self.rotary, self.theta, self.rotary_width = rotary, theta, rotary_width
        self.query_key_scale = LearnedScale(width, width) if normalised else None
        self.value_mix = nn.Parameter(torch.full((2,), 0.5)) if value_residual else None

    def forward(
        self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None, first: FirstValues | None = None
    ) -> Tensor:
        query, key, value = self.parts(self.query_key_value(x), "qkv", -1)
        query, key = self.split(query, self.query_norm), self.split(key, self.key_norm)
        value = self.split(value, self.value_norm)
        if self.value_mix is not None:
            own, others = self.value_mix.to(value.dtype)
            value = own * value + others * (value if first is None else first.of(value))
        if self.rotary:
            start = 0 if cache is None else cache.length(self)
            query, key = self.turn(query, start), self.turn(key, start)
        if self.query_key_scale is not None:
            scale = self.query_key_scale().view(self.heads, 1, -1)
            # a root mean square of 1 is a length of the square root of d
            query, key = (scale.to(h.dtype) * F.rms_norm(h, h.shape[-1:], eps=1e-6) for h in (query, key))
        if cache is not None:
            key, value = cache.extend(self, key, value)
        return self.attend(query, key, value, mask)

    def turn(self, x: Tensor, start: int) -> Tensor:
        """Queries or keys after `rotate`, all features of a head or the first `rotary_width`."""
        if self.rotary_width is None:
            return rotate(x, start, self.theta)
        width = self.rotary_width
        return torch.cat((rotate(x[..., :width], start, self.theta), x[..., width:]), -1)

    def unit_weights(self) -> Iterator[tuple[Tensor, int]]:
        """Yield (weight, axis) of the vectors that `resnorm.init.project` brings to length 1; none unless normalised."""
        if self.query_key_scale is not None:
            yield from ((self.query_key_value.weight, 1), (self.output.weight, 0))

    def roles(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (role, tensor) for `query`, `key`, `value` (views of one matrix), `output` and `bias`."""
        yield from zip(("query", "key", "value"), self.parts(self.query_key_value.weight, "qkv", 0), strict=True)
        yield "output", self.output.weight
        yield from (("bias", part.bias) for part in (self.query_key_value, self.output) if part.bias is not None)


class CrossAttention(_Attention):
    r"""Attend from every token to the tokens of a memory.

    $$\operatorname{softmax}(Q K^\top / \sqrt{d} + m)\, V W_O, \qquad Q = x W_Q, \quad (K, V) = z\,(W_K, W_V)$$

    $z$ is the memory, $d$ the width of a head, $m$ the mask: a boolean (True = may attend) or a float added to the
    scores. With a `cache`, $K$ and $V$ are computed at the first pass and kept.

    Shapes: x and output (batch, tokens, width), memory (batch, memory tokens, memory_width), mask broadcasts to
    (batch, heads, tokens, memory tokens).
    The norms inside, `key_value_heads`, `head_width` and `bias` are those of `SelfAttention`.
    Raises `ValueError` where the heads do not divide the width, and without a memory. Citation: vaswani2017attention.
    """

    query: nn.Linear
    key_value: nn.Linear

    def __init__(
        self,
        width: int,
        heads: int = 8,
        memory_width: int | None = None,
        dropout: float = 0.0,
        bias: bool | str = True,
        **inside: Any,
    ):
        inputs = {"query": (width, "q"), "key_value": (width if memory_width is None else memory_width, "kv")}
        super().__init__(width, inputs, heads, False, dropout, bias, **inside)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        if memory is None:
            raise ValueError("cross-attention needs a memory to attend to; give it as block(x, X=dict(memory=z))")

        def keys_and_values() -> KeysAndValues:
            key, value = self.parts(self.key_value(memory), "kv", -1)
            return self.split(key, self.key_norm), self.split(value, self.value_norm)

        query = self.split(self.query(x), self.query_norm)
        return self.attend(query, *(keys_and_values() if cache is None else cache.once(self, keys_and_values)), mask)

    def roles(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (role, tensor) for `query`, `key`, `value` (views of one matrix), `output` and `bias`."""
        yield "query", self.query.weight
        yield from zip(("key", "value"), self.parts(self.key_value.weight, "kv", 0), strict=True)
        yield "output", self.output.weight
        yield from (("bias", part.bias) for part in (self.query, self.key_value, self.output) if part.bias is not None)


def attention(
    heads: int = 8, causal: bool = False, dropout: float = 0.0, bias: bool | str = True, rotary: bool = False, **inside: Any
) -> partial[SelfAttention]:
    """Return a factory of `SelfAttention`; `inside`: its norms and what else it takes by name, such as `key_value_heads`."""
    return partial(SelfAttention, heads=heads, causal=causal, dropout=dropout, bias=bias, rotary=rotary, **inside)


def cross_attention(
    heads: int = 8, memory_width: int | None = None, dropout: float = 0.0, bias: bool | str = True, **inside: Any
) -> partial[CrossAttention]:
    """Return a factory of `CrossAttention`; a block passes the memory on as `block(x, X=dict(memory=z))`.

    `inside`: its norms, `head_scale`, `key_value_heads` and `head_width`.
    """
    return partial(CrossAttention, heads=heads, memory_width=memory_width, dropout=dropout, bias=bias, **inside)
