"""What the families of decoders share: rotary positions, a head that is the embedding or not, and tokens to try them on."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from resnorm.models.transformer import TransformerLM
from resnorm.models.weights import layers
from resnorm.models.weights.source import Source

# Heads that score a text, a span of it or the tokens of it.
HEADS = (r"score\..*", r"classifier\..*", r"qa_outputs\..*", r"multiple_choice_head\..*")
ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rotary_pct", "rotary_emb_base")


def rotary(model: TransformerLM, config: Mapping[str, Any], part: float = 1.0) -> Iterator[str]:
    """One reason for each way in which rotary positions differ; three generations of files spell them in three ways.

    `part`: the share of a head that is turned where the configuration does not say.
    """
    attention, told = layers.attention(model), rope(config, part)
    width = attention.head_width if attention.rotary_width is None else attention.rotary_width
    theirs = {"rope_type": told["rope_type"], "rope_theta": told["rope_theta"]}
    ours = {"rope_type": "default", "rope_theta": attention.theta}
    for name, value in theirs.items():
        if value != ours[name]:
            yield f"{name}={value!r} in the configuration, and {ours[name]!r} in this model"
    if int(attention.head_width * told["partial_rotary_factor"]) != width:
        yield (
            f"partial_rotary_factor={told['partial_rotary_factor']!r} in the configuration, and this model turns {width} of the "
            f"{attention.head_width} features of a head"
        )
    for name, value in told["others"].items():
        yield f"rope_parameters[{name!r}]={value!r} in the configuration, and rotary positions without it in this model"


def turned(model: TransformerLM, whole: bool = True) -> Iterator[str]:
    """A reason where our heads are not turned, or with `whole` only a part of their features."""
    attention = layers.attention(model)
    if not attention.rotary:
        yield "this model has no rotary positions, and the weights have no others"
    elif whole and attention.rotary_width not in (None, attention.head_width):
        yield f"this model has rotary_width={attention.rotary_width}, and the weights turn all features of a head"


def rope(config: Mapping[str, Any], part: float = 1.0) -> dict[str, Any]:
    """Kind, base and share of the rotary positions that a configuration tells."""
    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = given.pop("rope_type", None) or given.get("type") or "default"
    given.pop("type", None)
    theta = given.pop("rope_theta", None) or config.get("rope_theta") or config.get("rotary_emb_base") or 10000.0
    share = given.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or config.get("rotary_pct") or part
    return {"rope_type": kind, "rope_theta": theta, "partial_rotary_factor": share, "others": given}


def in_pairs(value: Tensor, head: int, turned: int | None = None) -> Tensor:
    """The rows of queries or keys in our order: pairs of features are neighbours here, and half a head apart there.

    `head` is the width of a head, `turned` how many of its features, the first ones, are in pairs.
    """
    turned = head if turned is None else turned
    heads = value.unflatten(0, (-1, head))
    pairs = heads[:, :turned].unflatten(1, (2, turned // 2)).transpose(1, 2).flatten(1, 2)
    return torch.cat((pairs, heads[:, turned:]), 1).flatten(0, 1)


def head(model: TransformerLM, source: Source, embedding: str) -> Iterator[str]:
    """A reason where our head is the embedding, and theirs is not."""
    if model.head.weight is model.token.weight and not tied(source.tensors, embedding):
        yield f"'lm_head.weight' is another matrix than {embedding!r}, and tie=True in this model"


def tied(tensors: Mapping[str, Tensor], embedding: str) -> bool:
    """Whether the head of the file is its embedding."""
    own = tensors.get("lm_head.weight", tensors.get("embed_out.weight"))
    return own is None or (own.shape == tensors[embedding].shape and torch.equal(own, tensors[embedding]))


def tokens(model: TransformerLM) -> tuple[Tensor]:
    """Two random sequences of at most 16 tokens."""
    shape = (2, min(16, model.context))
    return (torch.randint(model.token.num_embeddings, shape, generator=torch.Generator().manual_seed(0)),)
