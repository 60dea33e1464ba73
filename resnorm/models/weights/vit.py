"""Vision Transformers of torchvision, timm and Hugging Face."""

import torch
from torch import Tensor

from resnorm.models.vit import VisionTransformer
from resnorm.models.weights.family import Family, count

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
    "encoder.ln": "stack.last",
    "heads.head": "head",
}


def image(model: VisionTransformer) -> tuple[Tensor]:
    """Two random images of the model's size."""
    return (torch.randn(2, model.patches.in_channels, model.size, model.size, generator=torch.Generator().manual_seed(0)),)


def call_torchvision(tensors: dict[str, Tensor]) -> str:
    depth = count(tensors, r"encoder\.layers\.encoder_layer_(\d+)\.")
    return _call(tensors, "conv_proj.weight", "encoder.pos_embedding", depth, "heads.head.weight", "encoder.layers.encoder_layer_0.mlp.0.weight")


def _call(tensors: dict[str, Tensor], patches: str, positions: str, depth: int, head: str, hidden: str) -> str:
    width, inputs, patch, _ = tensors[patches].shape
    size = patch * round((tensors[positions].shape[-2] - 1) ** 0.5)
    given = dict(size=size, patch=patch, depth=depth, width=width)
    if inputs != 3:
        given["inputs"] = inputs
    if hidden in tensors and len(tensors[hidden]) != 4 * width:
        given["expansion"] = len(tensors[hidden]) / width
    if head in tensors:
        given["classes"] = len(tensors[head])
    return f"vit({', '.join(f'{name}={value}' for name, value in given.items())}, heads=...)"


FAMILIES = (
    Family(
        name="torchvision's VisionTransformer", ours=VisionTransformer, signature=("conv_proj.weight", "encoder.pos_embedding"),
        table=TORCHVISION, call=call_torchvision, inputs=image,
        # In older files the layers of the MLP had names.
        ignored=(),
    ),
)  # fmt: skip
