"""GPT-2 of Hugging Face."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from resnorm.models.transformer import TransformerLM
from resnorm.models.weights import decoder, layers
from resnorm.models.weights.configuration import Configuration, Only, Told
from resnorm.models.weights.family import Family, count
from resnorm.models.weights.source import Source
from resnorm.norms import LayerNorm

# Their matrices are stored the other way round.
TABLE = {
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
CONFIGURATION = Configuration(
    types=("gpt2",),
    silent="the number of heads, eps, the activation and the scale of the attention",
    facts=layers.facts,
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
        "reorder_and_upcast_attn",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
        "predict_special_tokens",
    ),
)


def differences(model: TransformerLM, source: Source) -> Iterator[str]:
    yield from layers.differences(model, ("nAa nMa",), LayerNorm, causal=True)
    yield from decoder.head(model, source, "transformer.wte.weight")
    yield from CONFIGURATION.differences(model, source)


def tied(source: Source) -> dict[str, str]:
    """The head is the embedding: their own file has none, and no prefix."""
    told = source.config is None or source.config.get("tie_word_embeddings", True)
    return {"lm_head.weight": "transformer.wte.weight"} if told else {}


def call(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    vocabulary, width = tensors["transformer.wte.weight"].shape
    told = config or {}
    options = dict(
        vocabulary=vocabulary,
        context=len(tensors["transformer.wpe.weight"]),
        depth=count(tensors, r"transformer\.h\.(\d+)\."),
        width=width,
        heads=told.get("n_head", "..."),
    )
    units = tensors["transformer.h.0.mlp.c_fc.weight"].shape[-1]
    if units != 4 * width:
        options["expansion"] = f"{units} / {width}"
    options["activation"] = layers.activation(told.get("activation_function", "gelu_new"))
    if told.get("layer_norm_epsilon", 1e-5) != 1e-5:
        options["norm"] = f'"layer(eps={told["layer_norm_epsilon"]})"'
    if decoder.tied(tensors, "transformer.wte.weight"):
        options["tie"] = True
    return layers.call("transformer_lm", options)


FAMILIES = (
    Family(
        name="Hugging Face's GPT-2",
        ours=TransformerLM,
        signature=("transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight"),
        base="transformer.",
        table=TABLE,
        place=layers.place,
        call=call,
        configured=True,
        inputs=decoder.tokens,
        tied=tied,
        heads=decoder.HEADS,
        ignored=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),  # the masks of older files
        differences=differences,
        unchecked=lambda model, source: CONFIGURATION.silent,
    ),
)
