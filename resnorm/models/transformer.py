"""Transformer layers from a word, and the language model that predicts the next token."""

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from resnorm import catalog, init
from resnorm.branches import Cache, FirstValues, attention, cross_attention, mlp
from resnorm.letters import LearnedScale
from resnorm.letters import dropout as dropout_letter
from resnorm.norms import LAST_AXIS, NORMS, call_form
from resnorm.recursion import fuse
from resnorm.streams import Stack
from resnorm.words import Block, residual_branches, with_dropout

# The norm whose values are vectors of one length.
SPHERE = "rms(affine=False)"
BIASES = (True, False, "attention", "mlp", "qkv")


def transformer_stack(
    depth,
    width,
    heads,
    variant="pre",
    norm="layer",
    activation="gelu",
    dropout=0.0,
    expansion=4,
    causal=False,
    branches="AM",
    rotary=False,
    merge=None,
    bias=True,
    theta=10000,
    rotary_width=None,
    key_value_heads=None,
    head_width=None,
    **options,
) -> Stack:
    """The layers of a model, with the last norm where their words need one; the weights are still torch's own.

    `branches`: those of a layer, in order; `merge`: the setting of `a`, where it is not the variant's own.
    Raises `ValueError` for a norm that leaves the sphere of normalised weights or works along the positions, for an unknown
    `bias`, and for heads that were left open.
    """
    if heads is ...:
        raise ValueError("heads=...; no tensor tells the number of heads: write the one in the configuration of these weights")
    if bias not in BIASES:
        raise ValueError(f"bias={bias!r}; allowed: {', '.join(map(repr, BIASES))}")
    _check_axis(norm)
    chosen = catalog.variant(variant)
    if chosen.normalised and norm != SPHERE:
        raise ValueError(f"norm={norm!r} leaves the sphere of {variant!r}; take norm={SPHERE!r}")
    count = residual_branches(catalog.transformer_word(chosen.spell(**options), branches))
    known = [
        chosen.complete(options, depth=count * depth, dim=-1, block=count * layer, layer=layer) for layer in range(1, depth + 1)
    ]
    inside = chosen.inside(norm)
    grouped = {
        "key_value_heads": key_value_heads,
        "head_width": head_width,
        "bias": {"attention": True, "mlp": False}.get(bias, bias),
    }
    turned = {"rotary": rotary, "theta": theta, "rotary_width": rotary_width}
    built: dict[str, Any] = {
        "A": attention(heads, causal, dropout, **turned, **grouped | inside.get("A", {})),
        "X": cross_attention(heads, dropout=dropout, **grouped | inside.get("X", {})),
        "M": mlp(expansion, activation, dropout, **{"bias": bias in (True, "mlp")} | inside.get("M", {})),
    }
    blocks = []
    for layer in known:
        letters = chosen.settings_for(n=norm, **({} if merge is None else {"a": merge}), **layer)
        words = catalog.transformer_words(chosen, branches, **layer)
        if "F" in chosen.spell(**layer):  # one setting for each occurrence, and F was written out as every branch
            copies = len(branches) // len(words)
            letters = {letter: setting * copies if isinstance(setting, list) else setting for letter, setting in letters.items()}
        for word in words:
            own = letters | {branch: built[branch] for branch in branches if branch in word}
            if dropout:
                word = with_dropout(word, branches)
                own["d"] = dropout_letter(dropout)
            blocks.append(Block(word, width, **own))
    each_pass = {"A": {"first": FirstValues}} if inside.get("A", {}).get("value_residual") else None
    return fuse(Stack(blocks, chosen.carry(width, len(blocks), norm, **options), last=norm, each_pass=each_pass))


def _check_axis(norm: Any) -> None:
    """Raise `ValueError` for the name of a norm along axis 1: an image's channels, but the positions of tokens."""
    name, options = call_form(norm) if isinstance(norm, str) else ("none", {})
    on_tokens = (*LAST_AXIS, "scalar_bias", "none")
    if name in NORMS and name not in on_tokens and options.get("dim") != -1:
        allowed = ", ".join((*on_tokens, "batch(dim=-1)", "noisy_batch(dim=-1)"))
        raise ValueError(f"norm={norm!r} works along axis 1, which are the positions of tokens; allowed: {allowed}")


def initialise_transformer(stack: Stack, variant: str, initialisation: str | None = None) -> None:
    """Draw the weights by a rule of `resnorm.init`, the one named, the variant's own, or "xavier"; where the rule depends on
    the depth, it is given the number of residual branches in the words of the stack.
    """
    depth = sum(residual_branches(block.word) for block in stack.blocks)
    init.initialise(stack, initialisation or catalog.variant(variant).init or "xavier", depth)


def check_context(tokens: int, context: int) -> None:
    """Raise `ValueError` for more tokens than the context."""
    if tokens > context:
        raise ValueError(f"got {tokens} tokens, but the model's context is {context}; build it with context={tokens}")


def positions_of(tokens: Tensor, position: nn.Embedding, start: int = 0) -> Tensor:
    """The embeddings of the positions of (batch, tokens), which follow `start` others; raises as `check_context`."""
    end = start + tokens.shape[1]
    check_context(end, position.num_embeddings)
    return position.weight[start:end]


class TransformerLM(nn.Module):
    """Embed tokens and positions, run the stack, predict the next token; see `transformer_lm`."""

    def __init__(
        self,
        vocabulary: int,
        context: int,
        stack: Stack,
        dropout: float,
        learned: bool,
        normalised: bool = False,
        tie: bool = False,
    ):
        super().__init__()
        width = stack.out_width
        self.context = context
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width) if learned else None
        self.dropout = nn.Dropout(dropout)
        self.stack = stack
        self.head = nn.Linear(width, vocabulary, bias=False)
        # Logits of a normalised stream have RMS 1, and so has the sum of token and position unless the head is the embedding.
        scale = width**-0.5 if tie else 0.5**0.5 if learned else 1.0
        for part in (self.token, self.position) if learned else (self.token,):
            nn.init.normal_(part.weight, std=scale)
        if tie:
            self.head.weight = self.token.weight
        else:
            nn.init.normal_(self.head.weight, std=width**-0.5)
        self.logit_scale = LearnedScale(vocabulary, width) if normalised else None
        init.project(self.unit_weights())

    def unit_weights(self) -> Iterator[tuple[Tensor, int]]:
        """Yield (weight, axis) of the vectors that `resnorm.init.project` brings to length 1; none unless normalised."""
        if self.logit_scale is not None:
            yield from ((part.weight, 1) for part in (self.token, self.position, self.head) if part is not None)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        start, inputs = (0, {}) if cache is None else (cache.tokens, {"A": {"cache": cache}})
        x = self.token(tokens)
        if self.position is None:
            check_context(start + tokens.shape[1], self.context)
        else:
            x = x + positions_of(tokens, self.position, start)
        if self.logit_scale is None:
            return self.head(self.stack(self.dropout(x), **inputs))
        length = x.shape[-1] ** 0.5  # of a vector with root mean square 1, as the norms give it
        x = F.normalize(x, dim=-1) * length
        return self.logit_scale() / length * self.head(self.stack(self.dropout(x), **inputs))


def transformer_lm(
    *,
    vocabulary,
    context=128,
    depth=6,
    width=128,
    heads=4,
    variant="pre",
    norm=None,
    activation="gelu",
    dropout=0.0,
    expansion=4,
    positions="learned",
    initialisation=None,
    tie=False,
    bias=True,
    theta=10000,
    rotary_width=None,
    key_value_heads=None,
    head_width=None,
    **options,
) -> TransformerLM:
    r"""Build a causal language model of `depth` layers, attention then MLP: $p(t_{i+1} \mid t_1, \dots, t_i)$.

    `variant`: a generic one of the catalog (`nFa` becomes `nAa nMa`), one with a stream (whose blocks are then the
    branches, `nA` and `nM`), or a word of A and M, also side by side, `n[A,M]a`; `options` are the variant's.
    `dropout` acts on the embedding, on the attention's weights, inside the MLP and on every branch before its merge.
    `positions`: "learned" embeddings that are added to the tokens', or "rotary", which turns queries and keys, with the
    base `theta`. `rotary_width`, `key_value_heads` and `head_width` are those of `SelfAttention`. `bias`: True, False,
    "attention" or "mlp" (in one of the branches), or "qkv" (on queries, keys and values alone). With `tie` the head is the
    tokens' embedding, a second time.
    `initialisation`: a rule of `resnorm.init`, by default the variant's own, else "xavier".
    With a `Cache`, `model(tokens, cache)` takes the tokens that follow those of the passes before; `generate` does so.
    `norm`: by default "layer". The variant `ngpt_weights` has its own, "rms(affine=False)", and takes no other. There all
    vectors of embeddings and head have length 1 as well, the sum of token and position is brought to the sphere, and with
    one learned $s_t$ a token, from 1 on, a logit is $s_t \cos \angle(h, e_t)$ for the token's vector $e_t$ in the head.
    `load_weights` takes Hugging Face's weights. GPT-2, and a decoder like Llama's (TinyLlama):

    ```python
    transformer_lm(vocabulary=50257, context=1024, depth=12, width=768, heads=12, activation="gelu_tanh", tie=True)
    transformer_lm(
        vocabulary=32000, context=2048, depth=22, width=2048, heads=32, key_value_heads=4, expansion=5632 / 2048,
        norm="rms(eps=1e-5)", activation="swiglu", positions="rotary", bias=False,
    )
    ```

    Shapes: input (batch, tokens) of int64, output (batch, tokens, vocabulary), the logits.
    Raises `ValueError` for an unknown option, a variant with another branch, a norm that is not the variant's or works along
    the positions, as "batch" does where "batch(dim=-1)" does not, or more tokens than the context.
    Citation: vaswani2017attention, radford2019language, touvron2023llama, su2024roformer, loshchilov2024ngpt.
    """
    if positions not in ("learned", "rotary"):
        raise ValueError(f"transformer_lm: positions={positions!r}; allowed: 'learned', 'rotary'")
    normalised = catalog.variant(variant).normalised
    if norm is None:
        norm = SPHERE if normalised else "layer"
    stack = transformer_stack(
        depth,
        width,
        heads,
        variant,
        norm,
        activation,
        dropout,
        expansion,
        causal=True,
        rotary=positions == "rotary",
        bias=bias,
        theta=theta,
        rotary_width=rotary_width,
        key_value_heads=key_value_heads,
        head_width=head_width,
        **options,
    )
    model = TransformerLM(vocabulary, context, stack, dropout, positions == "learned", normalised, tie)
    initialise_transformer(stack, variant, initialisation)
    return model
