"""ResNets of torchvision, timm and Hugging Face."""

import torch
from torch import Tensor

from resnorm.models.resnet import LAYERS, ResNet
from resnorm.models.weights.family import Family, blocks

V1 = {
    "conv1": "stem.0",
    "bn1": "stem.1",
    "layer{stage}.{block}.conv1": "stack.blocks.{index}.C1",
    "layer{stage}.{block}.bn1": "stack.blocks.{index}.n1",
    "layer{stage}.{block}.conv2": "stack.blocks.{index}.C2",
    "layer{stage}.{block}.bn2": "stack.blocks.{index}.n2",
    "layer{stage}.{block}.conv3": "stack.blocks.{index}.C3",
    "layer{stage}.{block}.bn3": "stack.blocks.{index}.n3",
    "layer{stage}.{block}.downsample.0": "stack.blocks.{index}.a1.shortcut.0",
    "layer{stage}.{block}.downsample.1": "stack.blocks.{index}.a1.shortcut.1",
    "fc": "head",
}
V2 = {
    "stem.conv": "stem.0",
    "stages.{stage}.blocks.{block}.norm1": "stack.blocks.{index}.n1",
    "stages.{stage}.blocks.{block}.conv1": "stack.blocks.{index}.C1",
    "stages.{stage}.blocks.{block}.norm2": "stack.blocks.{index}.n2",
    "stages.{stage}.blocks.{block}.conv2": "stack.blocks.{index}.C2",
    "stages.{stage}.blocks.{block}.norm3": "stack.blocks.{index}.n3",
    "stages.{stage}.blocks.{block}.conv3": "stack.blocks.{index}.C3",
    "stages.{stage}.blocks.{block}.downsample.conv": "stack.blocks.{index}.a1.shortcut",
    "norm": "stack.last",
    "head.fc": "head",
}


def image(model: ResNet) -> tuple[Tensor]:
    """Two random images, large enough that the last stage has pixels."""
    return (torch.randn(2, model.stem[0].in_channels, 64, 64, generator=torch.Generator().manual_seed(0)),)


def call_v1(tensors: dict[str, Tensor]) -> str:
    depth = _depth(blocks(tensors, r"layer(\d+)\.(\d+)\."), "layer1.0.conv3.weight" in tensors)
    return f"resnet({depth}{_classes(tensors, 'fc.weight')})"


def call_v2(tensors: dict[str, Tensor]) -> str:
    depth = _depth(blocks(tensors, r"stages\.(\d+)\.blocks\.(\d+)\."), "stages.0.blocks.0.conv3.weight" in tensors)
    norm = "" if "norm.running_mean" in tensors else ', norm="group(groups=32)"'
    return f"resnet({depth}, version=2{norm}{_classes(tensors, 'head.fc.weight')})"


def _depth(counts: tuple[int, ...], bottleneck: bool) -> str:
    depth = next((depth for depth, layers in LAYERS.items() if layers == counts and bottleneck == (depth >= 50)), None)
    return f"depth={depth}" if depth else f"with stages of {counts} blocks, which resnet does not build"


def _classes(tensors: dict[str, Tensor], name: str) -> str:
    return f", classes={len(tensors[name])}" if name in tensors else ""


FAMILIES = (
    Family(
        name="torchvision's or timm's ResNet", ours=ResNet, signature=("conv1.weight", "layer1.0.conv1.weight"),
        table=V1, call=call_v1, inputs=image,
    ),
    Family(
        name="timm's ResNetV2", ours=ResNet, signature=("stem.conv.weight", "stages.0.blocks.0.conv1.weight", "norm.weight"),
        table=V2, call=call_v2, inputs=image,
    ),
)  # fmt: skip
