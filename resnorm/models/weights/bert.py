"""BERT of Hugging Face, with the head of its masked language model."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from resnorm.models.bert import Bert
from resnorm.models.weights import layers
from resnorm.models.weights.configuration import Configuration, Only, Told
from resnorm.models.weights.family import Family, count
from resnorm.models.weights.source import Source
from resnorm.norms import LayerNorm

TABLE = {
    "bert.embeddings.word_embeddings": "embedding.token",
    "bert.embeddings.position_embeddings": "embedding.position",
    "bert.embeddings.token_type_embeddings": "embedding.segment",
    "bert.embeddings.LayerNorm": "embedding.norm",
    "bert.encoder.layer.{layer}.attention.self.query": "stack.blocks.{index}.A1.query_key_value[0]",
    "bert.encoder.layer.{layer}.attention.self.key": "stack.blocks.{index}.A1.query_key_value[1]",
    "bert.encoder.layer.{layer}.attention.self.value": "stack.blocks.{index}.A1.query_key_value[2]",
    "bert.encoder.layer.{layer}.attention.output.dense": "stack.blocks.{index}.A1.output",
    "bert.encoder.layer.{layer}.attention.output.LayerNorm": "stack.blocks.{index}.n1",
    "bert.encoder.layer.{layer}.intermediate.dense": "stack.blocks.{index}.M1.hidden",
    "bert.encoder.layer.{layer}.output.dense": "stack.blocks.{index}.M1.output",
    "bert.encoder.layer.{layer}.output.LayerNorm": "stack.blocks.{index}.n2",
    "cls.predictions.bias": "head.bias",
    "cls.predictions.transform.dense": "head.hidden",
    "cls.predictions.transform.LayerNorm": "head.norm",
}


def tokens(model: Bert) -> tuple[Tensor]:
    """Two random sequences of at most 16 tokens."""
    token, position = model.embedding.token, model.embedding.position
    shape = (2, min(16, position.num_embeddings))
    return (torch.randint(token.num_embeddings, shape, generator=torch.Generator().manual_seed(0)),)


CONFIGURATION = Configuration(
    types=("bert",),
    silent="the number of heads, eps, the activation, whether it is a decoder, and whether these are the names of BigBird, which "
    "attends to blocks",
    facts=layers.facts,
    fields={
        "num_attention_heads": Told("heads", 12),
        "layer_norm_eps": Told("eps", 1e-12),
        "hidden_act": Told("activation", "gelu"),
        "position_embedding_type": Only("absolute"),
        "is_decoder": Only(False),
        "add_cross_attention": Only(False),
        "is_encoder_decoder": Only(False),
        "tie_word_embeddings": Only(True),
    },
    shaped=("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings", "type_vocab_size"),
    # Left in the files of the multilingual models, and read by nobody.
    neutral=(
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ),
    others={
        "megatron-bert": "Megatron's BERT is Pre-Norm",
        "roberta": "RoBERTa's positions start at 2",
        "xlm-roberta": "XLM-RoBERTa's positions start at 2",
        "camembert": "CamemBERT's positions start at 2",
        "big_bird": "BigBird attends to blocks of tokens",
    },
)


def differences(model: Bert, source: Source) -> Iterator[str]:
    yield from layers.differences(model, ("Aan Man",), LayerNorm, causal=False)
    yield from CONFIGURATION.differences(model, source)
    bare = "bert." not in source.names["bert.embeddings.word_embeddings.weight"]
    if source.config is None and bare and len(source.tensors["bert.embeddings.token_type_embeddings.weight"]) == 1:
        yield (
            "'embeddings.token_type_embeddings.weight' has one segment, as in RoBERTa, whose positions start at 2 and whose names "
            "are BERT's; give config=model.config to load them as BERT's"
        )


def call(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    vocabulary, width = tensors["bert.embeddings.word_embeddings.weight"].shape
    told = config or {}
    options = dict(
        vocabulary=vocabulary,
        context=len(tensors["bert.embeddings.position_embeddings.weight"]),
        depth=count(tensors, r"bert\.encoder\.layer\.(\d+)\."),
        width=width,
        heads=told.get("num_attention_heads", "..."),
    )
    segments = len(tensors.get("bert.embeddings.token_type_embeddings.weight", "12"))
    units = len(tensors["bert.encoder.layer.0.intermediate.dense.weight"])
    if segments != 2:
        options["segments"] = segments
    if units != 4 * width:
        options["expansion"] = f"{units} / {width}"
    if (eps := told.get("layer_norm_eps", 1e-12)) != 1e-12:
        options["norm"] = f'"layer(eps={eps})"'
    if (name := told.get("hidden_act", "gelu")) != "gelu":
        options["activation"] = layers.activation(name)
    return layers.call("bert", options)


FAMILIES = (
    Family(
        name="Hugging Face's BERT",
        ours=Bert,
        signature=("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.output.LayerNorm.weight"),
        base="bert.",
        table=TABLE,
        place=layers.place,
        call=call,
        configured=True,
        inputs=tokens,
        # The pooler and the prediction of the next sentence stand beside the head that we have.
        ignored=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*", r"bert\.embeddings\.(position|token_type)_ids"),
        heads=(r"classifier\..*", r"qa_outputs\..*"),
        tied={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        differences=differences,
        unchecked=lambda model, source: CONFIGURATION.silent,
    ),
)
