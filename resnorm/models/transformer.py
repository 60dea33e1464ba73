"""Transformer layers from a word, and the language model that predicts the next token."""

from typing import Any

from torch import Tensor, nn

from resnorm import catalog, init
from resnorm.branches import attention, mlp
from resnorm.letters import dropout as dropout_letter
from resnorm.streams import Stack
from resnorm.words import Block


def transformer_stack(
    depth, width, heads, variant="pre", norm="layer", activation="gelu", dropout=0.0, expansion=4, causal=False, **options,
) -> Stack:  # fmt: skip
    """The layers of a model, with the last norm where their words need one; the weights are still torch's own."""
    chosen = catalog.variant(variant)
    known = [
        chosen.complete(options, depth=2 * depth, dim=-1, block=2 * layer, layer=layer) for layer in range(1, depth + 1)
    ]
    inside = chosen.inside(norm)
    branches: dict[str, Any] = {
        "A": attention(heads, causal=causal, dropout=dropout, **inside.get("A", {})),
        "M": mlp(expansion, activation, dropout, **inside.get("M", {})),
    }
    blocks = []
    for layer in known:
        letters = chosen.settings_for(n=norm, **layer)
        words = catalog.transformer_words(chosen, **layer)
        if words != [chosen.spell(**layer)]:  # one setting for each occurrence, and F was written out as A and M
            letters = {
                letter: setting * (2 // len(words)) if isinstance(setting, list) else setting
                for letter, setting in letters.items()
            }
        for word in words:
            own = letters | {letter: branches[letter] for letter in branches if letter in word}
            if dropout:
                word = word.replace("A", "Ad").replace("M", "Md")
                own["d"] = dropout_letter(dropout)
            blocks.append(Block(word, width, **own))
    return Stack(blocks, chosen.carry(width, len(blocks), norm, **options), last=norm)


def initialise_transformer(stack: Stack, depth: int, variant: str, initialisation: str | None = None) -> None:
    """Draw the weights of `depth` layers by a rule of `resnorm.init`: the one named, the variant's own, or "xavier"."""
    init.initialise(stack, initialisation or catalog.variant(variant).init or "xavier", 2 * depth)


def positions_of(tokens: Tensor, position: nn.Embedding) -> Tensor:
    """The embeddings of the positions of (batch, tokens); raises `ValueError` for more tokens than the context."""
    length, context = tokens.shape[1], position.num_embeddings
    if length > context:
        raise ValueError(f"got {length} tokens, but the model's context is {context}; build it with context={length}")
    return position.weight[:length]


class TransformerLM(nn.Module):
    """Embed tokens and positions, run the stack, predict the next token; see `transformer_lm`."""

    def __init__(self, vocabulary: int, context: int, stack: Stack, dropout: float):
        super().__init__()
        width = stack.out_width
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.stack = stack
        self.head = nn.Linear(width, vocabulary, bias=False)
        # the sum of token and position has RMS 1, and so have the logits of a normalised stream
        nn.init.normal_(self.token.weight, std=0.5**0.5)
        nn.init.normal_(self.position.weight, std=0.5**0.5)
        nn.init.normal_(self.head.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + positions_of(tokens, self.position)
        return self.head(self.stack(self.dropout(x)))


def transformer_lm(
    *,
    vocabulary,
    context=128,
    depth=6,
    width=128,
    heads=4,
    variant="pre",
    norm="layer",
    activation="gelu",
    dropout=0.0,
    expansion=4,
    initialisation=None,
    **options,
) -> TransformerLM:
    r"""Build a causal language model of `depth` layers, attention then MLP: $p(t_{i+1} \mid t_1, \dots, t_i)$.

    `variant`: a generic one of the catalog (`nFa` becomes `nAa nMa`), one with a stream (whose blocks are then the
    branches, `nA` and `nM`), or a word of A and M; `options` are the variant's.
    `dropout` acts on the embedding, on the attention's weights, inside the MLP and on every branch before its merge.
    `initialisation`: a rule of `resnorm.init`, by default the variant's own, else "xavier".
    GPT-2 is `transformer_lm(vocabulary=50257, context=1024, depth=12, width=768, heads=12, activation="gelu_tanh")`, and
    `load_weights` takes its weights.
    Shapes: input (batch, tokens) of int64, output (batch, tokens, vocabulary), the logits.
    Raises `ValueError` for an unknown option, a variant with another branch, or more tokens than the context.
    Citation: vaswani2017attention.
    """
    stack = transformer_stack(depth, width, heads, variant, norm, activation, dropout, expansion, causal=True, **options)
    model = TransformerLM(vocabulary, context, stack, dropout)
    initialise_transformer(stack, depth, variant, initialisation)
    return model
