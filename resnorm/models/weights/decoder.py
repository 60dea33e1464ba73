"""Decoders of Hugging Face: GPT-2, and what has the names and the function of Llama."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from resnorm.branches.attention import angles
from resnorm.models.transformer import TransformerLM
from resnorm.models.weights import layers
from resnorm.models.weights.configuration import Configuration, Only, Told
from resnorm.models.weights.family import Family, count
from resnorm.models.weights.source import Source
from resnorm.norms import LayerNorm, RMSNorm

# Their matrices are stored the other way round.
GPT2 = {
    "transformer.wte": "token",
    "transformer.wpe": "position",
    "transformer.h.{layer}.ln_1": "stack.blocks.{index}.n1",
    "transformer.h.{layer}.attn.c_attn": "stack.blocks.{index}.A1.query_key_value.T",
    "transformer.h.{layer}.attn.c_proj": "stack.blocks.{index}.A1.output.T",
    "transformer.h.{layer}.ln_2": "stack.blocks.{index}.n2",
    "transformer.h.{layer}.mlp.c_fc": "stack.blocks.{index}.M1.hidden.T",
    "transformer.h.{layer}.mlp.c_proj": "stack.blocks.{index}.M1.output.T",
    "transformer.ln_f": "stack.last",
    "lm_head": "head",
}
# The rows of queries and keys come in another order: see `_in_pairs`.
LLAMA = {
    "model.embed_tokens": "token",
    "model.layers.{layer}.input_layernorm": "stack.blocks.{index}.n1",
    "model.layers.{layer}.self_attn.q_proj": "stack.blocks.{index}.A1.query_key_value[0]",
    "model.layers.{layer}.self_attn.k_proj": "stack.blocks.{index}.A1.query_key_value[1]",
    "model.layers.{layer}.self_attn.v_proj": "stack.blocks.{index}.A1.query_key_value[2]",
    "model.layers.{layer}.self_attn.q_norm": "stack.blocks.{index}.A1.query_norm",
    "model.layers.{layer}.self_attn.k_norm": "stack.blocks.{index}.A1.key_norm",
    "model.layers.{layer}.self_attn.o_proj": "stack.blocks.{index}.A1.output",
    "model.layers.{layer}.post_attention_layernorm": "stack.blocks.{index}.n2",
    "model.layers.{layer}.mlp.gate_proj": "stack.blocks.{index}.M1.hidden[0]",
    "model.layers.{layer}.mlp.up_proj": "stack.blocks.{index}.M1.hidden[1]",
    "model.layers.{layer}.mlp.down_proj": "stack.blocks.{index}.M1.output",
    "model.norm": "stack.last",
    "lm_head": "head",
}
FREQUENCIES = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"


def facts(model: TransformerLM) -> dict[str, Any]:
    return layers.facts(model) | {"context": model.context}


GPT2_CONFIGURATION = Configuration(
    types=("gpt2",),
    silent="the number of heads, eps, the activation and the scale of the attention",
    facts=facts,
    fields={
        "n_head": Told("heads", 12),
        "layer_norm_epsilon": Told("eps", 1e-5),
        "activation_function": Told("activation", "gelu_new"),
        "scale_attn_weights": Only(True),
        "scale_attn_by_inverse_layer_idx": Only(False),
        "add_cross_attention": Only(False),
        "is_encoder_decoder": Only(False),
    },
    shaped=("vocab_size", "n_positions", "n_ctx", "n_embd", "n_layer", "n_inner", "tie_word_embeddings"),
    neutral=(
        # Scores in another order of operations and in 32 bits: the same function.
        "reorder_and_upcast_attn", "resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_type", "summary_use_proj",
        "summary_activation", "summary_proj_to_labels", "summary_first_dropout", "predict_special_tokens",
    ),
)  # fmt: skip


def _llama_also(model: TransformerLM, source: Source) -> Iterator[str]:
    """The rotary positions, which three generations of files spell in three ways, and the window of the attention."""
    config = source.config
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theirs = {
        "rope_type": rope.pop("rope_type", rope.pop("type", "default")),
        "rope_theta": rope.pop("rope_theta", config.get("rope_theta")) or 10000.0,
        "partial_rotary_factor": rope.pop("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0,
    }
    rope.pop("type", None)
    attention = layers.attention(model)
    ours = {"rope_type": "default", "rope_theta": attention.theta, "partial_rotary_factor": 1.0}
    for name, value in theirs.items():
        if value != ours[name]:
            yield f"{name}={value!r} in the configuration, and {ours[name]!r} in this model"
    for name, value in rope.items():
        yield f"rope_parameters[{name!r}]={value!r} in the configuration, and rotary positions without it in this model"
    kinds = set(config.get("layer_types") or ["sliding_attention" if config["model_type"] == "mistral" else "full_attention"])
    if not kinds <= {"full_attention", "sliding_attention"}:
        yield f"layer_types has {', '.join(sorted(kinds))} in the configuration, and full attention in this model"
    window = config.get("sliding_window", 4096 if config["model_type"] == "mistral" else None)
    if window and window < model.context and ("sliding_attention" in kinds or config.get("use_sliding_window")):
        yield (
            f"sliding_window={window} in the configuration, and this model, which sees everything before, has a context of "
            f"{model.context}; up to {window} tokens they are the same: take context={window}"
        )


LLAMA_CONFIGURATION = Configuration(
    types=("llama", "mistral", "qwen2", "qwen3"),
    silent="the number of heads, eps, the activation, the base and scaling of the rotary positions, a sliding window, and whether "
    "these are the names of Gemma, Granite, SmolLM3, Ernie 4.5, Helium, Ministral 3 or EuroBERT, which compute something else",
    facts=facts,
    fields={
        "num_attention_heads": Told("heads", 32),
        "num_key_value_heads": Told("key_value_heads"),
        "head_dim": Told("head_width"),
        "rms_norm_eps": Told("eps", 1e-6),
        "hidden_act": Told("activation", "silu"),
        "is_encoder_decoder": Only(False),
    },
    shaped=(
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "attention_bias", "mlp_bias", "tie_word_embeddings",
    ),
    # Rotary positions need no table, and so the longest text is only a promise.
    neutral=("max_position_embeddings",),
    joint=(
        "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "sliding_window", "use_sliding_window",
        "max_window_layers", "layer_types",
    ),
    also=_llama_also,
    others={
        "gemma": "Gemma's gains are stored as an offset from 1, and its embeddings are multiplied by the root of the width",
        "granite": "Granite multiplies embeddings, branches, scores and logits",
        "smollm3": "SmolLM3 has no positions in every fourth layer",
        "ernie4_5": "Ernie 4.5 turns other pairs of features by its rotary positions",
        "helium": "Helium turns other pairs of features by its rotary positions",
        "ministral3": "Ministral 3 scales its queries by their positions",
        "eurobert": "EuroBERT attends to later tokens too",
    },
)  # fmt: skip


def gpt2_differences(model: TransformerLM, source: Source) -> Iterator[str]:
    yield from layers.differences(model, "nAa nMa", LayerNorm, causal=True)
    yield from _head(model, source, "transformer.wte.weight")
    yield from GPT2_CONFIGURATION.differences(model, source)


def llama_differences(model: TransformerLM, source: Source) -> Iterator[str]:
    attention = layers.attention(model)
    per_head = ("query_norm", "key_norm") if attention.per_head else ()
    yield from layers.differences(model, "nAa nMa", RMSNorm, causal=True, inside=per_head)
    if not attention.rotary:
        yield "this model has no rotary positions, and the weights have no others"
    yield from _head(model, source, "model.embed_tokens.weight")
    yield from LLAMA_CONFIGURATION.differences(model, source)
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


def _head(model: TransformerLM, source: Source, embedding: str) -> Iterator[str]:
    """A reason where our head is the embedding, and theirs is not."""
    if model.head.weight is model.token.weight and not _tied(source.tensors, embedding):
        yield f"'lm_head.weight' is another matrix than {embedding!r}, and tie=True in this model"


def _in_pairs(source: Source, model: TransformerLM) -> dict[str, Tensor]:
    """Rotary positions turn features i and i + d/2 of a head there, and two neighbours here: rows are put side by side."""
    width = layers.attention(model).head_width

    def paired(name: str, value: Tensor) -> Tensor:
        if not re.search(r"self_attn\.[qk]_(proj|norm)\.", name) or len(value) % width:
            return value
        return value.unflatten(0, (-1, 2, width // 2)).transpose(1, 2).flatten(0, 2)

    return {name: paired(name, value) for name, value in source.tensors.items()}


def _llama_tied(source: Source) -> dict[str, str]:
    """The head is the embedding where the configuration says so; without one, where a network with a head has no tensor for it."""
    if source.config is None:
        tied = source.names["model.embed_tokens.weight"].endswith("model.embed_tokens.weight")
    else:
        tied = source.config.get("tie_word_embeddings", False)
    return {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}


def _gpt2_tied(source: Source) -> dict[str, str]:
    tied = source.config is None or source.config.get("tie_word_embeddings", True)
    return {"lm_head.weight": "transformer.wte.weight"} if tied else {}


def tokens(model: TransformerLM) -> tuple[Tensor]:
    """Two random sequences of at most 16 tokens."""
    shape = (2, min(16, model.context))
    return (torch.randint(model.token.num_embeddings, shape, generator=torch.Generator().manual_seed(0)),)


def gpt2_call(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    vocabulary, width = tensors["transformer.wte.weight"].shape
    told = config or {}
    options = dict(
        vocabulary=vocabulary, context=len(tensors["transformer.wpe.weight"]), depth=count(tensors, r"transformer\.h\.(\d+)\."),
        width=width, heads=told.get("n_head", "..."),
    )  # fmt: skip
    units = tensors["transformer.h.0.mlp.c_fc.weight"].shape[-1]
    if units != 4 * width:
        options["expansion"] = f"{units} / {width}"
    options["activation"] = layers.activation(told.get("activation_function", "gelu_new"))
    if told.get("layer_norm_epsilon", 1e-5) != 1e-5:
        options["norm"] = f'"layer(eps={told["layer_norm_epsilon"]})"'
    if _tied(tensors, "transformer.wte.weight"):
        options["tie"] = True
    return layers.call("transformer_lm", options)


def llama_call(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    vocabulary, width = tensors["model.embed_tokens.weight"].shape
    told = config or {}
    first = "model.layers.0."
    queries, keys = (len(tensors.get(f"{first}self_attn.{part}_proj.weight", ())) for part in "qk")
    head_norm = tensors.get(f"{first}self_attn.q_norm.weight")
    frequencies = tensors.get(f"{first}self_attn.rotary_emb.inv_freq")
    each = told.get("head_dim") or (len(head_norm) if head_norm is not None else None)
    each = each or (2 * len(frequencies) if frequencies is not None else None)
    heads = told.get("num_attention_heads") or (queries // each if each else "...")
    if each is None and heads != "...":
        each = queries // heads
    options = dict(
        vocabulary=vocabulary, context=told.get("max_position_embeddings", "..."), depth=count(tensors, r"model\.layers\.(\d+)\."),
        width=width, heads=heads,
    )  # fmt: skip
    if keys != queries:
        options["key_value_heads"] = keys // each if each else f"heads // {queries // keys}" if keys and heads == "..." else "..."
    if queries != width or (each and heads != "..." and each * heads != width):
        options["head_width"] = each or "..."
    units = len(tensors.get(f"{first}mlp.gate_proj.weight", ()))
    if units != 4 * width:
        options["expansion"] = f"{units} / {width}"
    if head_norm is not None:
        options["variant"] = '"qk_norm_per_head"'
    options["norm"] = f'"rms(eps={told["rms_norm_eps"]})"' if "rms_norm_eps" in told else '"rms"'
    options |= {"activation": layers.activation(told.get("hidden_act", "silu"), gated=True), "positions": '"rotary"'}
    rope = {**told, **(told.get("rope_parameters") or {})}
    if (theta := rope.get("rope_theta") or 10000.0) != 10000.0:
        options["theta"] = theta
    with_bias = [part for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj") if f"{first}{part}.bias" in tensors]
    if len(with_bias) < 3:
        options["bias"] = (False, '"qkv"', '"attention"')[len(with_bias)]
    if _tied(tensors, "model.embed_tokens.weight"):
        options["tie"] = True
    return layers.call("transformer_lm", options)


def _tied(tensors: Mapping[str, Tensor], embedding: str) -> bool:
    head = tensors.get("lm_head.weight")
    return head is None or (head.shape == tensors[embedding].shape and torch.equal(head, tensors[embedding]))


FAMILIES = (
    Family(
        name="Hugging Face's GPT-2", ours=TransformerLM,
        signature=("transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight"),
        base="transformer.", table=GPT2, place=layers.place, call=gpt2_call, configured=True, inputs=tokens, tied=_gpt2_tied,
        ignored=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),  # the masks of older files
        differences=gpt2_differences, unchecked=lambda model, source: GPT2_CONFIGURATION.silent,
    ),
    Family(
        name="Hugging Face's Llama, Mistral, Qwen2 or Qwen3", ours=TransformerLM,
        signature=("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"),
        base="model.", table=LLAMA, place=layers.place, call=llama_call, configured=True, inputs=tokens, tied=_llama_tied,
        ignored=(FREQUENCIES,), prepare=_in_pairs, differences=llama_differences,
        unchecked=lambda model, source: LLAMA_CONFIGURATION.silent,
    ),
)  # fmt: skip
