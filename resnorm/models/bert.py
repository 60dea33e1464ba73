"""BERT: an encoder that fills in the tokens that were taken out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm.branches.mlp import ACTIVATIONS
from resnorm.models.transformer import initialise_transformer, positions_of, transformer_stack
from resnorm.norms import norm as build_norm
from resnorm.streams import Stack


class Embedding(nn.Module):
    r"""Add up the embeddings of token, position and segment, and normalise: $n(E_t + E_p + E_s)$.

    Shapes: tokens and segments (batch, tokens) of int64, output (batch, tokens, width).
    Raises `ValueError` for more tokens than positions. Citation: devlin2019bert.
    """

    def __init__(self, vocabulary: int, context: int, segments: int, width: int, norm: str, dropout: float):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.segment = nn.Embedding(segments, width)
        self.norm = build_norm(norm, width)
        self.dropout = nn.Dropout(dropout)
        for part in (self.token, self.position, self.segment):
            nn.init.normal_(part.weight, std=0.02)

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        segment = self.segment.weight[0] if segments is None else self.segment(segments)
        return self.dropout(self.norm(self.token(tokens) + positions_of(tokens, self.position) + segment))


class MaskedHead(nn.Module):
    r"""Score every word of the vocabulary for every position: $E\, n(\phi(W h)) + b$.

    E is the embedding of the tokens, used a second time, and $\phi$ the activation of the MLPs; beside gated ones, gelu.
    Shapes: h (batch, tokens, width), E (vocabulary, width), output (batch, tokens, vocabulary). Citation: devlin2019bert.
    """

    def __init__(self, vocabulary: int, width: int, norm: str, activation: str):
        super().__init__()
        self.activation = activation
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.hidden = nn.Linear(width, width)
        self.norm = build_norm(norm, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return F.linear(self.norm(ACTIVATIONS.get(self.activation, F.gelu)(self.hidden(h))), embedding, self.bias)


class Bert(nn.Module):
    """Embed the tokens, run the stack, score the vocabulary at every position; see `bert`."""

    def __init__(self, embedding: Embedding, stack: Stack, head: MaskedHead):
        super().__init__()
        self.embedding, self.stack, self.head = embedding, stack, head

    def forward(self, tokens: Tensor, segments: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        inputs = {} if mask is None else {"A": {"mask": mask[:, None, None, :].bool()}}
        return self.head(self.stack(self.embedding(tokens, segments), **inputs), self.embedding.token.weight)


def bert(
    *,
    vocabulary=30522,
    context=512,
    segments=2,
    depth=12,
    width=768,
    heads=12,
    variant="post",
    norm="layer(eps=1e-12)",
    activation="gelu",
    dropout=0.0,
    expansion=4,
    initialisation=None,
    **options,
) -> Bert:
    r"""Build BERT with the head of its masked language model: $p(t_i \mid t_{j \ne i})$ for the tokens that were masked.

    The original BERT is Post-Norm: `variant="post"`. The other settings are those of `transformer_lm`. The defaults
    are BERT-base; `load_weights` takes the weights of Hugging Face's `BertForMaskedLM` and `BertForPreTraining`.
    Call it as `model(tokens, segments, mask)`: `mask` (batch, tokens) is True, or 1, for the tokens that may be attended to.
    Shapes: tokens and segments (batch, tokens) of int64, output (batch, tokens, vocabulary), the logits.
    Raises `ValueError` for more tokens than the context, and as `transformer_lm`. Citation: devlin2019bert.
    """
    stack = transformer_stack(depth, width, heads, variant, norm, activation, dropout, expansion, **options)
    initialise_transformer(stack, variant, initialisation)
    embedding = Embedding(vocabulary, context, segments, width, norm, dropout)
    return Bert(embedding, stack, MaskedHead(vocabulary, width, norm, activation))
