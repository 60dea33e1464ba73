"""ResNets, ResNeXts and Wide ResNets of torchvision, timm and Hugging Face, with BiT and the pre-activated ones of timm."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from resnorm.branches import Blur, Convolution
from resnorm.letters import Add
from resnorm.models.resnet import LAYERS, TWO_CONVOLUTIONS, ResNet
from resnorm.models.weights.configuration import Configuration, Only
from resnorm.models.weights.family import Family, blocks
from resnorm.models.weights.source import Source
from resnorm.norms import BatchNorm, GroupNorm
from resnorm.words import Block

# The stem is one convolution or three (ResNet-C, -D, -S, -T); a shortcut is a convolution and a norm, after a pooling in -D.
V1 = {
    "conv1": "stem.0",
    "conv1.0": "stem.0",
    "conv1.1": "stem.1",
    "conv1.3": "stem.3",
    "conv1.4": "stem.4",
    "conv1.6": "stem.6",
    "bn1": ("stem.7", "stem.1"),
    "layer{stage}.{block}.conv1": "stack.blocks.{index}.C1",
    "layer{stage}.{block}.bn1": "stack.blocks.{index}.n1",
    "layer{stage}.{block}.conv2": "stack.blocks.{index}.C2",
    "layer{stage}.{block}.bn2": "stack.blocks.{index}.n2",
    "layer{stage}.{block}.conv3": "stack.blocks.{index}.C3",
    "layer{stage}.{block}.bn3": "stack.blocks.{index}.n3",
    "layer{stage}.{block}.downsample.0": "stack.blocks.{index}.a1.shortcut.0",
    "layer{stage}.{block}.downsample.1": "stack.blocks.{index}.a1.shortcut.1",
    "layer{stage}.{block}.downsample.2": "stack.blocks.{index}.a1.shortcut.2",
    "fc": "head",
}
V2 = {
    "stem.conv": "stem.0",
    "stem.conv1": "stem.0",
    "stem.norm1": "stem.1",
    "stem.conv2": "stem.3",
    "stem.norm2": "stem.4",
    "stem.conv3": "stem.6",
    "stages.{stage}.blocks.{block}.norm1": "stack.blocks.{index}.n1",
    "stages.{stage}.blocks.{block}.conv1": "stack.blocks.{index}.C1",
    "stages.{stage}.blocks.{block}.norm2": "stack.blocks.{index}.n2",
    "stages.{stage}.blocks.{block}.conv2": "stack.blocks.{index}.C2",
    "stages.{stage}.blocks.{block}.norm3": "stack.blocks.{index}.n3",
    "stages.{stage}.blocks.{block}.conv3": "stack.blocks.{index}.C3",
    "stages.{stage}.blocks.{block}.downsample.conv": ("stack.blocks.{index}.a1.shortcut.1", "stack.blocks.{index}.a1.shortcut"),
    "norm": "stack.last",
    "head.fc": "head",
}
HUGGING_FACE = {
    "resnet.embedder.embedder.convolution": "stem.0",
    "resnet.embedder.embedder.normalization": "stem.1",
    "resnet.encoder.stages.{stage}.layers.{block}.layer.0.convolution": "stack.blocks.{index}.C1",
    "resnet.encoder.stages.{stage}.layers.{block}.layer.0.normalization": "stack.blocks.{index}.n1",
    "resnet.encoder.stages.{stage}.layers.{block}.layer.1.convolution": "stack.blocks.{index}.C2",
    "resnet.encoder.stages.{stage}.layers.{block}.layer.1.normalization": "stack.blocks.{index}.n2",
    "resnet.encoder.stages.{stage}.layers.{block}.layer.2.convolution": "stack.blocks.{index}.C3",
    "resnet.encoder.stages.{stage}.layers.{block}.layer.2.normalization": "stack.blocks.{index}.n3",
    "resnet.encoder.stages.{stage}.layers.{block}.shortcut.convolution": "stack.blocks.{index}.a1.shortcut.0",
    "resnet.encoder.stages.{stage}.layers.{block}.shortcut.normalization": "stack.blocks.{index}.a1.shortcut.1",
    "classifier.1": "head",
}

CONFIGURATION = Configuration(
    types=("resnet",),
    silent="the activation, and which convolutions have the strides",
    facts=lambda model: {},
    fields={"hidden_act": Only("relu"), "downsample_in_first_stage": Only(False), "downsample_in_bottleneck": Only(False)},
    shaped=("depths", "embedding_size", "hidden_sizes", "layer_type", "num_channels"),
    neutral=("out_features", "out_indices", "stage_names"),
)


def image(model: ResNet) -> tuple[Tensor]:
    """Two random images, large enough that the last stage has pixels."""
    return (torch.randn(2, model.stem[0].in_channels, 64, 64, generator=torch.Generator().manual_seed(0)),)


def layers(
    model: ResNet, words: tuple[str, ...], tensors: dict[str, Tensor], norm: str, standardised: bool = False
) -> Iterator[str]:
    """One reason for each way in which our model is not blocks of these words, plain sums, with the norm of the weights.

    `standardised`: filters may be, and the stem's padding may be of zeros, as in BiT.
    """
    wanted = BatchNorm if f"{norm}.running_mean" in tensors else GroupNorm
    for name, module in model.named_modules():
        if isinstance(module, Block):
            # A pre-activated projection takes the skip after the first norm: `nr|C`.
            if re.sub("[dp]", "", module.word).replace("nr|C", "nrC") not in words:
                yield f"{name!r} of this model is {module.word!r}, and in the weights' network {' or '.join(words)}"
            for part in module.children():
                if isinstance(part, Add) and (part.gate_kind or part.skip != 1 or part.gain != 1):
                    yield f"{name!r} of this model adds by {module.equation()!r}, and the network of these weights by a plain sum"
    for name, module in model.named_modules():
        norms = re.search(r"_n$|\.last$|^stem\.\d+$", name) and hasattr(module, "weight") and not isinstance(module, Convolution)
        if norms and not isinstance(module, wanted):
            yield f"{name!r} of this model is {type(module).__name__}, and in the network of these weights {wanted.__name__}"
        if not standardised and (getattr(module, "form", None) or isinstance(module, nn.ZeroPad2d)):
            yield f"this model has {name!r}, {module}, and the network of these weights does not"


# Anti-aliasing leaves no tensor. timm's blurred stem has a module more, and its averaging one as many as without.
def antialias(source: Source) -> set[str | None]:
    """What the network of these weights may do where a stride would alias, as far as anything tells."""
    if source.module is not None:
        pool = getattr(source.module, "maxpool", None)
        kinds = {type(module).__name__ for module in source.module.modules()}
        return {"blur"} if "BlurPool2d" in kinds else {"average"} if isinstance(pool, nn.AvgPool2d) else {None}
    if source.config is not None:
        name = str(source.config.get("architecture", ""))
        return {"blur"} if "blur" in name else {"average"} if re.search(r"(resnet|resnext)aa", name) else {None}
    if not source.modules:
        return {None, "blur", "average"}
    if "layer1.0.aa" not in source.modules:  # torchvision's
        return {None}
    return {"blur"} if "maxpool.1" in source.modules else {None, "average"}


def told_v1(source: Source) -> list[str]:
    kinds = antialias(source)
    return [f'antialias="{kind}"' for kind in kinds if kind and len(kinds) == 1]


def own_antialias(model: ResNet) -> str | None:
    """What our network does there."""
    if any(isinstance(module, Blur) for module in model.modules()):
        return "blur"
    return "average" if isinstance(model.stem[-1], nn.AvgPool2d) else None


def differences_v1(model: ResNet, source: Source) -> Iterator[str]:
    yield from layers(model, ("CnrCnar", "CnrCnrCnar"), source.tensors, "bn1")
    theirs, ours = antialias(source), own_antialias(model)
    if ours not in theirs:
        wanted = " or ".join(sorted(map(repr, theirs)))
        build = f"build it with resnet(..., antialias={wanted})"
        yield f"the network of these weights has antialias={wanted}, and this model {ours!r}; {build}"
    elif ours is None and len(theirs) == 2 and (name := twin(source.tensors)):
        yield (
            f"timm's {name} and {name.replace('resnet', 'resnetaa')} have the same tensors; give the network itself, "
            "load_weights(model, network), or config=network.pretrained_cfg, to tell them apart"
        )


def twin(tensors: dict[str, Tensor]) -> str | None:
    """The network of timm with these tensors, where one with averages in the place of strides is published as well."""
    if call_v1(tensors).partition(", classes")[0] in ("resnet(depth=50", "resnet(depth=50)"):
        return "resnet50"
    found = re.match(r'resnet\(depth=(34|50|101), stem=\(32, 32, 64\), shortcut="average"[,)]', call_v1(tensors))
    return f"resnet{found[1]}d" if found and "norm=" not in call_v1(tensors) else None


def unchecked_v1(model: ResNet, source: Source) -> str:
    alike = "anti-aliasing (resnet50, resnetblur50 and resnetaa50 have the same tensors), "
    start = alike if len(antialias(source)) > 1 else ""
    return f"{start}the norms' eps, the activation, dilation and the pooling before the head"


def differences_v2(model: ResNet, source: Source) -> Iterator[str]:
    """BiT has the tensors of a plain network with group norms, and no plain one with that stem is published."""
    tensors = source.tensors
    yield from layers(model, ("nrCnrCa", "nrCnrCnrCa"), tensors, "norm", standardised=True)
    standard, padded = model.stem[0].form == "standard", any(isinstance(part, nn.ZeroPad2d) for part in model.stem)
    alike = "stem.conv.weight" in tensors and "norm.running_mean" not in tensors
    if source.config is not None and source.module is None:
        bit = "_bit" in str(source.config.get("architecture", ""))
    else:
        bit = alike and (not source.modules or "stem.pad" in source.modules)
    if bit and not (standard and padded):
        yield "these are the tensors of timm's BiT, whose convolutions are standardised and whose stem pads with zeros"
    if not bit and (padded or (standard and source.config is not None and source.module is None)):
        yield "this model standardises its filters or pads its stem with zeros, as BiT, and these weights are not BiT's"


def unchecked_v2(model: ResNet, source: Source) -> str:
    groups = "" if "norm.running_mean" in source.tensors else "the number of groups, "
    return f"{groups}whether filters are standardised, the norms' eps, the activation, dilation and the pooling before the head"


def differences_hugging_face(model: ResNet, source: Source) -> Iterator[str]:
    yield from layers(model, ("CnrCnar", "CnrCnrCnar"), source.tensors, "resnet.embedder.embedder.normalization")
    if own_antialias(model):
        yield f"this model has antialias={own_antialias(model)!r}, and the network of these weights has strides"
    yield from CONFIGURATION.differences(model, source)


def call_v1(tensors: dict[str, Tensor]) -> str:
    given = [_depth(blocks(tensors, r"layer(\d+)\.(\d+)\."), "layer1.0.conv3.weight" in tensors)]
    if "layer1.0.conv3.weight" in tensors:
        inside, each = tensors["layer1.0.conv2.weight"].shape[:2]
        given += [f"groups={inside // each}"] * (inside != each)
        given += [f"width_per_group={each}"] * (each != 64)
    if "conv1.0.weight" in tensors:
        given.append(_stem(tensors, "conv1.0", "conv1.3", "conv1.6"))
    given += ['shortcut="average"'] * ("layer2.0.downsample.2.weight" in tensors)
    given += _norm(tensors, "bn1") + _inputs(tensors, "conv1.weight", "conv1.0.weight")
    return f"resnet({', '.join(given)}{_classes(tensors, 'fc.weight')})"


def call_v2(tensors: dict[str, Tensor]) -> str:
    counts = blocks(tensors, r"stages\.(\d+)\.blocks\.(\d+)\.")
    given = [_depth(counts, "stages.0.blocks.0.conv3.weight" in tensors), "version=2"]
    width = len(tensors.get("stem.conv.weight", tensors.get("stem.conv3.weight", range(64))))
    given += [f"width={width}"] * (width != 64) + _norm(tensors, "norm")
    if "stem.conv.weight" not in tensors:
        given += [_stem(tensors, "stem.conv1", "stem.conv2", "stem.conv3"), 'shortcut="average"']
    elif "norm.running_mean" not in tensors:
        given.append('weight="standard(eps=1e-8)", stem_pool="zero_padded_max"')
    given += _inputs(tensors, "stem.conv.weight", "stem.conv1.weight")
    return f"resnet({', '.join(given)}{_classes(tensors, 'head.fc.weight')})"


def call_hugging_face(tensors: dict[str, Tensor]) -> str:
    counts = blocks(tensors, r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.")
    depth = _depth(counts, "resnet.encoder.stages.0.layers.0.layer.2.convolution.weight" in tensors)
    inputs = _inputs(tensors, "resnet.embedder.embedder.convolution.weight")
    return f"resnet({', '.join([depth, *inputs])}{_classes(tensors, 'classifier.1.weight')})"


def _norm(tensors: dict[str, Tensor], name: str) -> list[str]:
    return [] if f"{name}.running_mean" in tensors else ['norm="group(groups=32)"']


def _stem(tensors: dict[str, Tensor], *names: str) -> str:
    return f"stem={tuple(len(tensors[f'{name}.weight']) for name in names if f'{name}.weight' in tensors)}"


def _inputs(tensors: dict[str, Tensor], *names: str) -> list[str]:
    channels = next((tensors[name].shape[1] for name in names if name in tensors), 3)
    return [f"inputs={channels}"] * (channels != 3)


def _depth(counts: tuple[int, ...], bottleneck: bool) -> str:
    fits = (depth for depth, layers in LAYERS.items() if layers == counts and bottleneck != (depth in TWO_CONVOLUTIONS))
    return f"depth={depth}" if (depth := next(fits, None)) else f"with stages of {counts} blocks, which resnet does not build"


def _classes(tensors: dict[str, Tensor], name: str) -> str:
    return f", classes={len(tensors[name])}" if name in tensors else ""


FAMILIES = (
    Family(
        name="torchvision's or timm's ResNet",
        ours=ResNet,
        signature=("bn1.weight", "layer1.0.conv1.weight"),
        table=V1,
        call=call_v1,
        told=told_v1,
        inputs=image,
        differences=differences_v1,
        unchecked=unchecked_v1,
    ),
    Family(
        name="timm's ResNetV2 or BiT",
        ours=ResNet,
        signature=("stages.0.blocks.0.conv1.weight", "stages.0.blocks.0.conv2.weight"),
        table=V2,
        call=call_v2,
        inputs=image,
        differences=differences_v2,
        unchecked=unchecked_v2,
    ),
    Family(
        name="Hugging Face's ResNet",
        ours=ResNet,
        signature=("resnet.embedder.embedder.convolution.weight",),
        base="resnet.",
        table=HUGGING_FACE,
        call=call_hugging_face,
        inputs=image,
        differences=differences_hugging_face,
        unchecked=lambda model, source: CONFIGURATION.silent,
    ),
)
