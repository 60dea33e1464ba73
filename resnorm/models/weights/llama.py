"""Decoders of Hugging Face with the function of Llama, and OLMo 2, whose norms stand elsewhere."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from resnorm.branches.attention import angles
from resnorm.models.transformer import TransformerLM
from resnorm.models.weights import decoder, layers
from resnorm.models.weights.configuration import Configuration, Only, Told
from resnorm.models.weights.family import Family, count
from resnorm.models.weights.source import Source
from resnorm.norms import RMSNorm

# The rows of queries and keys come in another order: see `decoder.in_pairs`.
BRANCHES = {
    "model.embed_tokens": "token",
    "model.layers.{layer}.self_attn.q_proj": "stack.blocks.{index}.A1.query_key_value[0]",
    "model.layers.{layer}.self_attn.k_proj": "stack.blocks.{index}.A1.query_key_value[1]",
    "model.layers.{layer}.self_attn.v_proj": "stack.blocks.{index}.A1.query_key_value[2]",
    "model.layers.{layer}.self_attn.q_norm": "stack.blocks.{index}.A1.query_norm",
    "model.layers.{layer}.self_attn.k_norm": "stack.blocks.{index}.A1.key_norm",
    "model.layers.{layer}.self_attn.o_proj": "stack.blocks.{index}.A1.output",
    "model.layers.{layer}.mlp.gate_proj": "stack.blocks.{index}.M1.hidden[0]",
    "model.layers.{layer}.mlp.up_proj": "stack.blocks.{index}.M1.hidden[1]",
    "model.layers.{layer}.mlp.down_proj": "stack.blocks.{index}.M1.output",
    "model.norm": "stack.last",
    "lm_head": "head",
}
LLAMA = BRANCHES | {
    "model.layers.{layer}.input_layernorm": "stack.blocks.{index}.n1",
    "model.layers.{layer}.post_attention_layernorm": "stack.blocks.{index}.n2",
}
OLMO2 = BRANCHES | {
    "model.layers.{layer}.post_attention_layernorm": "stack.blocks.{index}.n1",
    "model.layers.{layer}.post_feedforward_layernorm": "stack.blocks.{index}.n2",
}
FREQUENCIES = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"


def _also(model: TransformerLM, source: Source) -> Iterator[str]:
    """Rotary positions, and the window of the attention."""
    config = source.config
    yield from decoder.rotary(model, config)
    mistral = config["model_type"] == "mistral"
    kinds = set(config.get("layer_types") or ["sliding_attention" if mistral else "full_attention"])
    if not kinds <= {"full_attention", "sliding_attention"}:
        yield f"layer_types has {', '.join(sorted(kinds))} in the configuration, and full attention in this model"
    window = config.get("sliding_window", 4096 if mistral else None)
    if window and window < model.context and ("sliding_attention" in kinds or config.get("use_sliding_window")):
        yield (
            f"sliding_window={window} in the configuration, and this model, which sees everything before, has a context of "
            f"{model.context}; up to {window} tokens they are the same: take context={window}"
        )


CONFIGURATION = Configuration(
    types=("llama", "mistral", "qwen2", "qwen3"),
    silent="the number of heads, eps, the activation, the base and scaling of the rotary positions, a sliding window, and whether "
    "these are the names of Gemma, Granite, SmolLM3, Ernie 4.5, Helium, Ministral 3 or EuroBERT, which compute something else",
    facts=layers.facts,
    fields={
        "num_attention_heads": Told("heads", 32),
        "num_key_value_heads": Told("key_value_heads"),
        "head_dim": Told("head_width"),
        "rms_norm_eps": Told("eps", 1e-6),
        "hidden_act": Told("activation", "silu"),
        "is_encoder_decoder": Only(False),
    },
    shaped=(
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "attention_bias",
        "mlp_bias",
        "tie_word_embeddings",
    ),
    # Rotary positions need no table, and so the longest text is only a promise.
    neutral=("max_position_embeddings", "is_llama_config", "transformers.js_config"),
    joint=(*decoder.ROPE, "sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
    also=_also,
    others={
        "gemma": "Gemma's gains are stored as an offset from 1, and its embeddings are multiplied by the root of the width",
        "granite": "Granite multiplies embeddings, branches, scores and logits",
        "smollm3": "SmolLM3 has no positions in every fourth layer",
        "ernie4_5": "Ernie 4.5 turns other pairs of features by its rotary positions",
        "helium": "Helium turns other pairs of features by its rotary positions",
        "ministral3": "Ministral 3 scales its queries by their positions",
        "eurobert": "EuroBERT attends to later tokens too",
    },
)
OLMO2_CONFIGURATION = replace(
    CONFIGURATION,
    types=("olmo2",),
    others={"olmo3": "OLMo 3 attends to a window in most layers"},
    fields=CONFIGURATION.fields | {"rms_norm_eps": Told("eps", 1e-5)},
    silent="the number of heads, eps, the activation, the base and scaling of the rotary positions, and whether these are the "
    "names of OLMo 3, which attends to a window",
)


def differences(word: str, configuration: Configuration, model: TransformerLM, source: Source) -> Iterator[str]:
    attention = layers.attention(model)
    per_head = word == "nAa nMa"
    normed = ("query_norm", "key_norm") if attention.per_head == per_head else ()
    yield from layers.differences(model, (word,), RMSNorm, causal=True, inside=normed)
    yield from decoder.turned(model)
    yield from decoder.head(model, source, "model.embed_tokens.weight")
    yield from configuration.differences(model, source)
    for name, value in source.tensors.items():
        if re.fullmatch(FREQUENCIES, name):
            own = angles(torch.ones(1, device=value.device), attention.head_width, attention.theta)[0]
            if own.shape != value.shape or not torch.allclose(own, value.float(), rtol=1e-2):
                yield f"{name!r} has other frequencies than heads of {attention.head_width} features with theta={attention.theta}"
                return
    gain = source.tensors["model.norm.weight"].float().mean().item()
    if source.config is None and abs(gain) < 0.3:
        yield (
            f"the gains of 'model.norm.weight' are {gain:.2g} at the mean, as where they are stored as an offset from 1 "
            "(Gemma); give config=model.config to load them as they are"
        )


def prepare(source: Source, model: TransformerLM) -> dict[str, Tensor]:
    """The rows of queries and keys, and the gains of their norms, in our order."""
    width = layers.attention(model).head_width
    return {
        name: decoder.in_pairs(value, width)
        if re.search(r"self_attn\.[qk]_(proj|norm)\.", name) and not len(value) % width
        else value
        for name, value in source.tensors.items()
    }


def tied(source: Source) -> dict[str, str]:
    """The head is the embedding where the configuration says so, or without one where a whole network has no tensor for it."""
    if source.config is None:
        told = source.names["model.embed_tokens.weight"].endswith("model.embed_tokens.weight")
    else:
        told = source.config.get("tie_word_embeddings", False)
    return {"lm_head.weight": "model.embed_tokens.weight"} if told else {}


def call(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    vocabulary, width = tensors["model.embed_tokens.weight"].shape
    told = config or {}
    first = "model.layers.0."
    queries, keys = (len(tensors.get(f"{first}self_attn.{part}_proj.weight", ())) for part in "qk")
    head_norm = tensors.get(f"{first}self_attn.q_norm.weight")
    frequencies = tensors.get(f"{first}self_attn.rotary_emb.inv_freq")
    each = told.get("head_dim") or (len(head_norm) if head_norm is not None and len(head_norm) != queries else None)
    each = each or (2 * len(frequencies) if frequencies is not None else None)
    heads = told.get("num_attention_heads") or (queries // each if each else "...")
    if each is None and heads != "...":
        each = queries // heads
    options = dict(
        vocabulary=vocabulary,
        context=told.get("max_position_embeddings", "..."),
        depth=count(tensors, r"model\.layers\.(\d+)\."),
        width=width,
        heads=heads,
    )
    if keys != queries:
        options["key_value_heads"] = keys // each if each else f"heads // {queries // keys}" if keys and heads == "..." else "..."
    if queries != width or (each and heads != "..." and each * heads != width):
        options["head_width"] = each or "..."
    units = len(tensors.get(f"{first}mlp.gate_proj.weight", ()))
    if units != 4 * width:
        options["expansion"] = f"{units} / {width}"
    if f"{first}input_layernorm.weight" not in tensors:
        options["variant"] = '"olmo2"'
    elif head_norm is not None:
        options["variant"] = '"qk_norm_per_head"'
    options["norm"] = f'"rms(eps={told["rms_norm_eps"]})"' if "rms_norm_eps" in told else '"rms"'
    options |= {"activation": layers.activation(told.get("hidden_act", "silu"), gated=True), "positions": '"rotary"'}
    if (theta := decoder.rope(told)["rope_theta"]) != 10000.0:
        options["theta"] = theta
    with_bias = [part for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj") if f"{first}{part}.bias" in tensors]
    if len(with_bias) < 3:
        options["bias"] = (False, '"qkv"', '"attention"')[len(with_bias)]
    if decoder.tied(tensors, "model.embed_tokens.weight"):
        options["tie"] = True
    return layers.call("transformer_lm", options)


FAMILIES = tuple(
    Family(
        name=name,
        ours=TransformerLM,
        signature=("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", f"model.layers.0.{norm}.weight"),
        base="model.",
        table=table,
        place=layers.place,
        call=call,
        configured=True,
        inputs=decoder.tokens,
        tied=tied,
        heads=decoder.HEADS,
        ignored=(FREQUENCIES,),
        prepare=prepare,
        differences=partial(differences, word, configuration),
        unchecked=lambda model, source, configuration=configuration: configuration.silent,
    )
    for name, norm, table, word, configuration in (
        ("Hugging Face's Llama, Mistral, Qwen2 or Qwen3", "input_layernorm", LLAMA, "nAa nMa", CONFIGURATION),
        ("Hugging Face's OLMo 2", "post_feedforward_layernorm", OLMO2, "Ana Mna", OLMO2_CONFIGURATION),
    )
)
