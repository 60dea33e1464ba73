"""GPT-NeoX of Hugging Face, which Pythia is: attention and MLP side by side, each with its norm."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from resnorm.models.transformer import TransformerLM
from resnorm.models.weights import decoder, layers
from resnorm.models.weights.configuration import Configuration, Only, Told
from resnorm.models.weights.family import Family, count
from resnorm.models.weights.source import Source
from resnorm.norms import LayerNorm

# Queries, keys and values stand together head by head, and their rows come in another order: see `prepare`.
TABLE = {
    "gpt_neox.embed_in": "token",
    "gpt_neox.layers.{layer}.input_layernorm": "stack.blocks.{index}.n1",
    "gpt_neox.layers.{layer}.attention.query_key_value": "stack.blocks.{index}.A1.query_key_value",
    "gpt_neox.layers.{layer}.attention.dense": "stack.blocks.{index}.A1.output",
    "gpt_neox.layers.{layer}.post_attention_layernorm": "stack.blocks.{index}.n2",
    "gpt_neox.layers.{layer}.mlp.dense_h_to_4h": "stack.blocks.{index}.M1.hidden",
    "gpt_neox.layers.{layer}.mlp.dense_4h_to_h": "stack.blocks.{index}.M1.output",
    "gpt_neox.final_layer_norm": "stack.last",
    "lm_head": "head",
    "embed_out": "head",  # its name before transformers 5
}
PART = 0.25  # of a head is turned where the configuration does not say
CONFIGURATION = Configuration(
    types=("gpt_neox",),
    silent="the number of heads, eps, the activation, the rotary positions and how much of a head they turn, and whether attention "
    "and MLP stand side by side",
    facts=layers.facts,
    fields={
        "num_attention_heads": Told("heads", 64),
        "layer_norm_eps": Told("eps", 1e-5),
        "hidden_act": Told("activation", "gelu"),
        "use_parallel_residual": Told("parallel", True),
        "is_decoder": Only(False),
        "is_encoder_decoder": Only(False),
    },
    shaped=("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "attention_bias", "tie_word_embeddings"),
    neutral=("max_position_embeddings", "hidden_dropout"),
    joint=decoder.ROPE,
    also=lambda model, source: decoder.rotary(model, source.config, PART),
)


def differences(model: TransformerLM, source: Source) -> Iterator[str]:
    yield from layers.differences(model, ("[nA,nM]a", "nAa nMa"), LayerNorm, causal=True)
    yield from decoder.turned(model, whole=False)
    yield from decoder.head(model, source, "gpt_neox.embed_in.weight")
    yield from CONFIGURATION.differences(model, source)


def prepare(source: Source, model: TransformerLM) -> dict[str, Tensor]:
    """All queries, then all keys, then all values, each with its rows in our order."""
    attention = layers.attention(model)
    width, turned = attention.head_width, attention.rotary_width

    def apart(value: Tensor) -> Tensor:
        if len(value) % (3 * width):
            return value
        heads = value.unflatten(0, (-1, 3, width)).transpose(0, 1).flatten(1, 2).clone()
        heads[0], heads[1] = (decoder.in_pairs(heads[part], width, turned) for part in (0, 1))
        return heads.flatten(0, 1)

    return {
        name: apart(value) if re.search(r"attention\.query_key_value\.", name) else value for name, value in source.tensors.items()
    }


def tied(source: Source) -> dict[str, str]:
    told = source.config is not None and source.config.get("tie_word_embeddings", False)
    return {"lm_head.weight": "gpt_neox.embed_in.weight"} if told else {}


def call(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    vocabulary, width = tensors["gpt_neox.embed_in.weight"].shape
    told = config or {}
    options = dict(
        vocabulary=vocabulary,
        context=told.get("max_position_embeddings", "..."),
        depth=count(tensors, r"gpt_neox\.layers\.(\d+)\."),
        width=width,
        heads=told.get("num_attention_heads", "..."),
    )
    units = len(tensors.get("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", ()))
    if units != 4 * width:
        options["expansion"] = f"{units} / {width}"
    if told.get("use_parallel_residual", True):
        options["variant"] = '"parallel_two_norms"'
    if told.get("layer_norm_eps", 1e-5) != 1e-5:
        options["norm"] = f'"layer(eps={told["layer_norm_eps"]})"'
    if (name := told.get("hidden_act", "gelu")) != "gelu":
        options["activation"] = layers.activation(name)
    options["positions"] = '"rotary"'
    rope = decoder.rope(told, PART)
    if rope["partial_rotary_factor"] != 1:
        each = width // options["heads"] if config else "..."
        options["rotary_width"] = int(each * rope["partial_rotary_factor"]) if config else "..."
    if rope["rope_theta"] != 10000.0:
        options["theta"] = rope["rope_theta"]
    if "gpt_neox.layers.0.attention.dense.bias" not in tensors:
        options["bias"] = '"mlp"'
    if "lm_head.weight" in tensors and decoder.tied(tensors, "gpt_neox.embed_in.weight"):
        options["tie"] = True
    return layers.call("transformer_lm", options)


FAMILIES = (
    Family(
        name="Hugging Face's GPT-NeoX",
        ours=TransformerLM,
        signature=("gpt_neox.embed_in.weight", "gpt_neox.layers.0.attention.query_key_value.weight"),
        base="gpt_neox.",
        table=TABLE,
        place=layers.place,
        call=call,
        configured=True,
        inputs=decoder.tokens,
        tied=tied,
        heads=decoder.HEADS,
        ignored=(r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),
        prepare=prepare,
        differences=differences,
        unchecked=lambda model, source: CONFIGURATION.silent,
    ),
)
