"""DenseNets of torchvision and timm."""

from collections.abc import Iterator

from torch import Tensor

from resnorm.models.densenet import LAYERS, DenseNet
from resnorm.models.weights.family import Family, blocks
from resnorm.models.weights.resnet import image, layers
from resnorm.models.weights.source import Source

# Dense blocks and transitions take turns in our stack; theirs are counted from 1.
TABLE = {
    "features.conv0": "stem.0",
    "features.norm0": "stem.1",
    "features.denseblock{block}.denselayer{layer}.norm1": "stack.blocks.{dense}.blocks.{place}.n1",
    "features.denseblock{block}.denselayer{layer}.conv1": "stack.blocks.{dense}.blocks.{place}.C1",
    "features.denseblock{block}.denselayer{layer}.norm2": "stack.blocks.{dense}.blocks.{place}.n2",
    "features.denseblock{block}.denselayer{layer}.conv2": "stack.blocks.{dense}.blocks.{place}.C2",
    # torchvision's own files still have the names of its first version.
    "features.denseblock{block}.denselayer{layer}.norm.1": "stack.blocks.{dense}.blocks.{place}.n1",
    "features.denseblock{block}.denselayer{layer}.conv.1": "stack.blocks.{dense}.blocks.{place}.C1",
    "features.denseblock{block}.denselayer{layer}.norm.2": "stack.blocks.{dense}.blocks.{place}.n2",
    "features.denseblock{block}.denselayer{layer}.conv.2": "stack.blocks.{dense}.blocks.{place}.C2",
    "features.transition{block}.norm": "stack.blocks.{transition}.n1",
    "features.transition{block}.conv": "stack.blocks.{transition}.C1.0",
    "features.norm5": "stack.blocks.6.last",
    "classifier": "head",
}


def place(fields: dict[str, int], names) -> dict[str, int]:
    block = fields["block"]
    return {"dense": 2 * block - 2, "transition": 2 * block - 1, "place": fields.get("layer", 1) - 1}


def differences(model: DenseNet, source: Source) -> Iterator[str]:
    yield from layers(model, ("nrCnrC", "nrC"), source.tensors, "features.norm0")
    parts = source.module.named_modules() if source.module is not None else ()
    pools = {type(part).__name__ for name, part in parts if "transition" in name}
    name = str((source.config or {}).get("architecture", ""))
    if "blur" in name or "BlurPool2d" in pools:
        yield "the transitions of these weights' network blur, and those of densenet take the mean of every 2x2 pixels"


def call(tensors: dict[str, Tensor]) -> str:
    counts = blocks(tensors, r"features\.denseblock(\d+)\.denselayer(\d+)\.")
    depth = next((depth for depth, layers in LAYERS.items() if layers == counts), None)
    if depth is None:
        return f"a DenseNet with blocks of {counts} layers, which densenet does not build"
    channels = tensors["features.conv0.weight"].shape[1]
    inputs = f", inputs={channels}" if channels != 3 else ""
    classes = f", classes={len(tensors['classifier.weight'])}" if "classifier.weight" in tensors else ""
    return f"densenet(depth={depth}{inputs}{classes})"


FAMILIES = (
    Family(
        name="torchvision's or timm's DenseNet",
        ours=DenseNet,
        signature=("features.conv0.weight", "features.transition1.conv.weight"),
        table=TABLE,
        place=place,
        call=call,
        inputs=image,
        differences=differences,
        unchecked=lambda model, source: "the norms' eps, the activation and the pooling before the head",
    ),
)
