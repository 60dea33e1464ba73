"""What a family asks of our Transformer layers beyond tensors: the word, plain merges, the norm, nothing more inside."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from resnorm.branches import MLP, SelfAttention
from resnorm.streams import Stack
from resnorm.streams.stream import Plain
from resnorm.words import Block, equation

# Hugging Face's names of our activations, in an MLP and in a gated one; those of one row are the same function.
ACTIVATIONS = {
    "relu": ("relu",),
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"),
}
GATED = {"swiglu": ("silu", "swish")}
INSIDE = {SelfAttention: {"query_key_value", "output"}, MLP: {"hidden", "dropout", "output"}}


def differences(
    model: nn.Module, words: tuple[str, ...], norm: type[nn.Module], causal: bool, inside: Iterable[str] = ()
) -> Iterator[str]:
    """One reason for each way in which our model is not layers of one of the words with norms of one class.

    `inside`: the norms that the attention may have. What only acts in training, dropout and drop path, may stand in the word.
    """
    stack: Stack = model.stack
    if not isinstance(stack.stream, Plain):
        yield f"this model carries its skip by {type(stack.stream).__name__}, and the weights by the plain sum"
    for block in stack.blocks:
        if not isinstance(block, Block) or re.sub("[dp]", "", block.word) not in words:
            allowed = " or ".join(map(repr, words))
            yield f"this model has the word {getattr(block, 'word', type(block).__name__)!r}, and the weights {allowed}"
            return
        if block.equation() != equation(block.word):
            yield f"this model adds by {block.equation()!r}, and the weights by {equation(block.word)!r}"
            return
        for part in block.children():
            for name, _ in part.named_children():
                if type(part) in INSIDE and name not in (*INSIDE[type(part)], *inside):
                    yield f"this model has {name} in its {type(part).__name__}, and the weights have none"
                    return
    if attention(model).causal != causal:
        yield f"this model has causal={not causal}, and the weights causal={causal}"
    for name, module in norms(model):
        if type(module) is not norm:
            yield f"{name!r} of this model is {type(module).__name__}, and in the weights {norm.__name__}"
            return


def norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The norms of a model's layers, of its stack, its embedding and its head, by name."""
    for name, module in model.named_modules():
        if re.fullmatch(r"stack\.blocks\.\d+\.(\d+_n|\d+_A\.(query|key)_norm)|stack\.last|(embedding|head)\.norm", name):
            yield name, module


def facts(model: nn.Module) -> dict[str, Any]:
    """The settings of our layers that no tensor tells; see `Told`."""
    parts = list(model.stack.modules())
    own = attention(model)
    mlp = next(part for part in parts if isinstance(part, MLP))
    eps = {getattr(module, "eps", None) for _, module in norms(model)}
    return {
        "heads": own.heads,
        "key_value_heads": own.key_value_heads,
        "head_width": own.head_width,
        "eps": eps.pop() if len(eps) == 1 else f"several, {sorted(eps)}",
        "parallel": "[" in model.stack.blocks[0].word,
        "activation": (ACTIVATIONS | GATED)[mlp.activation],
    }


def attention(model: nn.Module) -> SelfAttention:
    """The first attention of a model; all of them have the same settings."""
    return next(part for part in model.stack.modules() if isinstance(part, SelfAttention))


def place(fields: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    """Which of our blocks a layer is: there is one a layer."""
    return {"index": fields["layer"]}


def activation(name: str, gated: bool = False) -> str:
    """Our name of an activation of theirs, in quotes, or "..." where we have none."""
    return next((f'"{ours}"' for ours, theirs in (GATED if gated else ACTIVATIONS).items() if name in theirs), "...")


def call(builder: str, options: Mapping[str, Any]) -> str:
    """The text of a call; values are text already, or numbers."""
    return f"{builder}({', '.join(f'{name}={value}' for name, value in options.items())})"
