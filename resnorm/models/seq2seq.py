"""The Transformer that translates: an encoder reads the source, and a decoder predicts the next token of the target."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm import catalog, init
from resnorm.branches import Cache
from resnorm.branches.attention import angles
from resnorm.letters import Scalar, add
from resnorm.models.transformer import initialise_transformer, positions_of, transformer_stack
from resnorm.streams import Stack

# What a vocabulary of pairs starts with; a target is written after START and ends with END.
PADDING, START, END = 0, 1, 2


class Seq2Seq(nn.Module):
    r"""Encode the source, decode the target, score the vocabulary with the embedding; see `seq2seq`.

    One embedding E serves the source, the target and the output: a token enters as $\sqrt{d}\, E_t + P_i$, and the
    logits are $E h$.
    """

    def __init__(self, vocabulary: int, context: int, encoder: Stack, decoder: Stack, dropout: float, learned: bool):
        super().__init__()
        width = decoder.out_width
        self.context = context
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.encoder, self.decoder = encoder, decoder
        # the logits of a normalised stream have RMS 1, and learned positions the RMS of sinusoids
        nn.init.normal_(self.token.weight, std=width**-0.5)
        if learned:
            nn.init.normal_(self.position.weight, std=0.5**0.5)
        else:
            self.position = nn.Embedding.from_pretrained(sinusoids(context, width))

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Embed tokens at the positions from `start` on: (batch, tokens) to (batch, tokens, width)."""
        scale = self.token.embedding_dim**0.5
        return self.dropout(scale * self.token(tokens) + positions_of(tokens, self.position, start))

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return the memory (batch, source tokens, width) and its mask (batch, 1, 1, source tokens), False at PADDING."""
        mask = (source != PADDING)[:, None, None]
        return self.encoder(self.embed(source), A={"mask": mask}), mask

    def decode(self, before: Tensor, memory: Tensor, mask: Tensor, cache: Cache | None = None) -> Tensor:
        """Return the logits (batch, target tokens, vocabulary); with a cache, `before` goes on from the passes before."""
        kept = {} if cache is None else {"cache": cache}
        h = self.embed(before, 0 if cache is None else cache.tokens)
        return F.linear(self.decoder(h, A=kept, X={"memory": memory, "mask": mask, **kept}), self.token.weight)

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        return self.decode(before, *self.encode(source))


def sinusoids(context: int, width: int) -> Tensor:
    r"""The positions of the first Transformer: $P_{p,2i} = \sin(p\, 10000^{-2i/d})$, $P_{p,2i+1} = \cos(p\, 10000^{-2i/d})$.

    Shapes: (context, width). Citation: vaswani2017attention.
    """
    turn = angles(torch.arange(context), width)
    return torch.stack((turn.sin(), turn.cos()), -1).flatten(-2)[:, :width]


def deepnorm_encoder(depth: int) -> tuple[float, float]:
    r"""DeepNorm's $\alpha = 0.81\, (N^4 M)^{1/16}$ and $\beta = 0.87\, (N^4 M)^{-1/16}$ of an encoder, for $N = M$ layers.

    The decoder's are those of a stack by itself with its $3M$ branches, $(3M)^{1/4}$ and $(12M)^{-1/4}$: see
    `resnorm.init`. Citation: wang2022deepnet.
    """
    return 0.81 * depth ** (5 / 16), 0.87 * depth ** (-5 / 16)


def seq2seq(
    *,
    vocabulary,
    context=128,
    depth=6,
    width=512,
    heads=8,
    variant="post",
    norm="layer",
    activation="relu",
    dropout=0.1,
    expansion=4,
    positions="learned",
    initialisation=None,
    **options,
) -> Seq2Seq:
    r"""Build an encoder and a decoder of `depth` layers each: $p(t_{i+1} \mid t_1, \dots, t_i, s)$.

    `variant`: a generic one of the catalog, which spells both: `Fan` becomes `Aan Man` in the encoder and `Aan Xan Man`
    in the decoder, whose X attends to the encoder's output; or one of parallel branches, `n[A,M]a` and `n[A,X,M]a`.
    `positions`: "learned" or "sinusoidal"; the other settings are those of `transformer_lm`, and where they depend on the
    number of residual branches, that is what the words hold: for most variants 2 a layer in the encoder and 3 in the
    decoder. The defaults have the size of the base model of the first Transformer.
    Call it as `model(source, before)`: PADDING (0) in the source is never attended to; `before` is the target moved right
    by one, START (1) first.
    Shapes: source (batch, source tokens) and before (batch, target tokens) of int64, output (batch, target tokens,
    vocabulary), the logits.
    Raises `ValueError` for other positions, a depth below 1, a variant that is neither, and as `transformer_lm`.
    Citation: vaswani2017attention.
    """
    if positions not in ("learned", "sinusoidal"):
        raise ValueError(f"seq2seq: positions={positions!r}; allowed: 'learned', 'sinusoidal'")
    if depth < 1:
        raise ValueError(f"seq2seq: depth={depth!r}; give a whole number above 0, the layers of encoder and decoder each")
    settings = (depth, width, heads, variant, norm, activation, dropout, expansion)
    alpha, beta = deepnorm_encoder(depth)
    merge = add(skip=Scalar("α", alpha)) if variant == "deepnorm" else None
    encoder = transformer_stack(*settings, merge=merge, **options)
    decoder = transformer_stack(*settings, causal=True, branches="AXM", **options)
    if (initialisation or catalog.variant(variant).init) == "deepnorm":
        init.deepnorm(encoder, beta)
    else:
        initialise_transformer(encoder, variant, initialisation)
    initialise_transformer(decoder, variant, initialisation)
    return Seq2Seq(vocabulary, context, encoder, decoder, dropout, positions == "learned")
