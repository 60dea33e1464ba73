"""Vision Transformers of torchvision, timm and Hugging Face; DeiT without distillation is timm's ViT."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from resnorm.models.vit import VisionTransformer
from resnorm.models.weights import layers
from resnorm.models.weights.configuration import Configuration, Only, Told
from resnorm.models.weights.family import Family, count
from resnorm.models.weights.source import Source
from resnorm.norms import LayerNorm

TORCHVISION = {
    "class_token": "class_token",
    "conv_proj": "patches",
    "encoder.pos_embedding": "position.weight",
    "encoder.layers.encoder_layer_{layer}.ln_1": "stack.blocks.{index}.n1",
    "encoder.layers.encoder_layer_{layer}.self_attention.in_proj_weight": "stack.blocks.{index}.A1.query_key_value.weight",
    "encoder.layers.encoder_layer_{layer}.self_attention.in_proj_bias": "stack.blocks.{index}.A1.query_key_value.bias",
    "encoder.layers.encoder_layer_{layer}.self_attention.out_proj": "stack.blocks.{index}.A1.output",
    "encoder.layers.encoder_layer_{layer}.ln_2": "stack.blocks.{index}.n2",
    "encoder.layers.encoder_layer_{layer}.mlp.0": "stack.blocks.{index}.M1.hidden",
    "encoder.layers.encoder_layer_{layer}.mlp.3": "stack.blocks.{index}.M1.output",
    # torchvision's own files still have the names of its first version.
    "encoder.layers.encoder_layer_{layer}.mlp.linear_1": "stack.blocks.{index}.M1.hidden",
    "encoder.layers.encoder_layer_{layer}.mlp.linear_2": "stack.blocks.{index}.M1.output",
    "encoder.ln": "stack.last",
    "heads.head": "head",
}
TIMM = {
    "cls_token": "class_token",
    "patch_embed.proj": "patches",
    "pos_embed": "position.weight",
    "blocks.{layer}.norm1": "stack.blocks.{index}.n1",
    "blocks.{layer}.attn.qkv": "stack.blocks.{index}.A1.query_key_value",
    "blocks.{layer}.attn.proj": "stack.blocks.{index}.A1.output",
    "blocks.{layer}.norm2": "stack.blocks.{index}.n2",
    "blocks.{layer}.mlp.fc1": "stack.blocks.{index}.M1.hidden",
    "blocks.{layer}.mlp.fc2": "stack.blocks.{index}.M1.output",
    "norm": "stack.last",
    "head": "head",
}
# The names of transformers 5, and those of the versions before, which the published files have.
HUGGING_FACE = {
    "vit.embeddings.cls_token": "class_token",
    "vit.embeddings.patch_embeddings.projection": "patches",
    "vit.embeddings.position_embeddings": "position.weight",
    "vit.layers.{layer}.layernorm_before": "stack.blocks.{index}.n1",
    "vit.layers.{layer}.attention.q_proj": "stack.blocks.{index}.A1.query_key_value[0]",
    "vit.layers.{layer}.attention.k_proj": "stack.blocks.{index}.A1.query_key_value[1]",
    "vit.layers.{layer}.attention.v_proj": "stack.blocks.{index}.A1.query_key_value[2]",
    "vit.layers.{layer}.attention.o_proj": "stack.blocks.{index}.A1.output",
    "vit.layers.{layer}.layernorm_after": "stack.blocks.{index}.n2",
    "vit.layers.{layer}.mlp.fc1": "stack.blocks.{index}.M1.hidden",
    "vit.layers.{layer}.mlp.fc2": "stack.blocks.{index}.M1.output",
    "vit.encoder.layer.{layer}.layernorm_before": "stack.blocks.{index}.n1",
    "vit.encoder.layer.{layer}.attention.attention.query": "stack.blocks.{index}.A1.query_key_value[0]",
    "vit.encoder.layer.{layer}.attention.attention.key": "stack.blocks.{index}.A1.query_key_value[1]",
    "vit.encoder.layer.{layer}.attention.attention.value": "stack.blocks.{index}.A1.query_key_value[2]",
    "vit.encoder.layer.{layer}.attention.output.dense": "stack.blocks.{index}.A1.output",
    "vit.encoder.layer.{layer}.layernorm_after": "stack.blocks.{index}.n2",
    "vit.encoder.layer.{layer}.intermediate.dense": "stack.blocks.{index}.M1.hidden",
    "vit.encoder.layer.{layer}.output.dense": "stack.blocks.{index}.M1.output",
    "vit.layernorm": "stack.last",
    "classifier": "head",
}

CONFIGURATION = Configuration(
    types=("vit",),
    silent="the number of heads, eps and the activation",
    facts=layers.facts,
    fields={
        "num_attention_heads": Told("heads", 12),
        "layer_norm_eps": Told("eps", 1e-12),
        "hidden_act": Told("activation", "gelu"),
        "qkv_bias": Only(True),
    },
    shaped=("hidden_size", "num_hidden_layers", "intermediate_size", "image_size", "patch_size", "num_channels"),
    # What the pooler and the decoder of masked images would do, which stand beside the classifier.
    neutral=("encoder_stride", "pooler_act", "pooler_output_size"),
    others={"deit": "Hugging Face's DeiT has the second token of distillation"},
)


def image(model: VisionTransformer) -> tuple[Tensor]:
    """Two random images of the model's size."""
    return (torch.randn(2, model.patches.in_channels, model.size, model.size, generator=torch.Generator().manual_seed(0)),)


def differences(model: VisionTransformer, source: Source) -> Iterator[str]:
    yield from layers.differences(model, ("nAa nMa",), LayerNorm, causal=False)


def differences_timm(model: VisionTransformer, source: Source) -> Iterator[str]:
    yield from differences(model, source)
    name = str((source.config or {}).get("architecture", ""))
    if "quickgelu" in name:
        yield f"{name} has the activation quick GELU, x times the sigmoid of 1.702 x"


def differences_hugging_face(model: VisionTransformer, source: Source) -> Iterator[str]:
    yield from differences(model, source)
    yield from CONFIGURATION.differences(model, source)


def call_torchvision(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    depth = count(tensors, r"encoder\.layers\.encoder_layer_(\d+)\.")
    hidden = next((name for name in tensors if re.search(r"mlp\.(0|linear_1)\.weight", name)), "")
    return _call(tensors, config, "conv_proj", "encoder.pos_embedding", depth, "heads.head", hidden)


def call_timm(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    return _call(
        tensors, config, "patch_embed.proj", "pos_embed", count(tensors, r"blocks\.(\d+)\."), "head", "blocks.0.mlp.fc1.weight"
    )


def call_hugging_face(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> str:
    depth = count(tensors, r"vit\.(?:encoder\.layer|layers)\.(\d+)\.")
    hidden = next((name for name in tensors if re.search(r"(mlp\.fc1|intermediate\.dense)\.weight", name)), "")
    names = ("vit.embeddings.patch_embeddings.projection", "vit.embeddings.position_embeddings")
    return _call(tensors, config, *names, depth, "classifier", hidden, eps=1e-12)


def _call(tensors, config, patches: str, positions: str, depth: int, head: str, hidden: str, eps: float = 1e-6) -> str:
    told = config or {}
    width, inputs, patch, _ = tensors[f"{patches}.weight"].shape
    tokens = tensors[positions].shape[-2] if positions in tensors else 1
    options = dict(size=patch * round((tokens - 1) ** 0.5), patch=patch, depth=depth, width=width)
    options["heads"] = told.get("num_attention_heads", "...")
    if inputs != 3:
        options["inputs"] = inputs
    if hidden in tensors and (units := len(tensors[hidden])) != 4 * width:
        options["expansion"] = f"{units} / {width}"
    if (eps := told.get("layer_norm_eps", eps)) != 1e-6:
        options["norm"] = f'"layer(eps={eps})"'
    if (name := told.get("hidden_act", "gelu")) != "gelu":
        options["activation"] = layers.activation(name)
    if f"{head}.weight" in tensors:
        options["classes"] = len(tensors[f"{head}.weight"])
    return layers.call("vit", options)


FAMILIES = (
    Family(
        name="torchvision's VisionTransformer",
        ours=VisionTransformer,
        signature=("conv_proj.weight", "encoder.pos_embedding"),
        table=TORCHVISION,
        place=layers.place,
        call=call_torchvision,
        configured=True,
        inputs=image,
        differences=differences,
        unchecked=lambda model, source: CONFIGURATION.silent,
    ),
    Family(
        name="timm's VisionTransformer",
        ours=VisionTransformer,
        signature=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        table=TIMM,
        place=layers.place,
        call=call_timm,
        configured=True,
        inputs=image,
        differences=differences_timm,
        unchecked=lambda model, source: CONFIGURATION.silent,
    ),
    Family(
        name="Hugging Face's ViT",
        ours=VisionTransformer,
        signature=("vit.embeddings.cls_token", "vit.embeddings.patch_embeddings.projection.weight"),
        base="vit.",
        table=HUGGING_FACE,
        place=layers.place,
        call=call_hugging_face,
        configured=True,
        inputs=image,
        # The pooler and the token of masked images stand beside the classifier.
        ignored=(r"vit\.pooler\..*", r"vit\.embeddings\.mask_token"),
        differences=differences_hugging_face,
        unchecked=lambda model, source: CONFIGURATION.silent,
    ),
)
