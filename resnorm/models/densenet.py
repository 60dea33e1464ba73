"""Densely connected networks for images: words without a merge, over the stream that concatenates."""

from functools import partial

from torch import nn

from resnorm import init
from resnorm.branches import Convolution, conv1x1, conv3x3
from resnorm.models.resnet import ResNet, _image_norm
from resnorm.norms import norm as build_norm
from resnorm.streams import Dense, Stack
from resnorm.words import Block

LAYERS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


class DenseNet(ResNet):
    """Stem, stack, tail, average over the pixels, classify; see `cifar_densenet` and `densenet`.

    `stack` holds dense blocks, each a `Stack` over the stream `Dense`, with a transition after each but the last. The
    parameters stand in the order of torchvision's DenseNet: stem; for each layer of a dense block norm, convolution,
    norm, convolution; for each transition norm, convolution; last norm; head.
    """


def cifar_densenet(
    *, depth=40, growth=12, norm="batch", bottleneck=False, compression=1.0, width=None, classes=10, inputs=3
) -> DenseNet:
    r"""Build the DenseNet for images of about 32x32: three dense blocks, in which a layer adds `growth` features.

    $h_i = B_i([x \Vert h_0 \Vert \dots \Vert h_{i-1}])$, with the word `nrC` for $B_i$, or `nrCnrC` with
    `bottleneck`, whose first convolution, 1x1, gives `4 * growth` features. A transition keeps the share `compression`
    of a dense block's features and halves the image. DenseNet-BC is `bottleneck=True, compression=0.5`.
    `depth`: 3n + 4, with `bottleneck` 6n + 4, for n layers a dense block. `norm`: every norm. `width`: the features of
    the stem, by default 16, with `bottleneck` 2 * growth.
    Shapes: input (batch, inputs, height, image width), output (batch, classes).
    Raises `ValueError` for an impossible depth, growth or compression, or a norm that has no meaning on images.
    Citation: huang2017densely.
    """
    kernels = 2 if bottleneck else 1
    if not isinstance(depth, int) or depth < 3 * kernels + 4 or (depth - 4) % (3 * kernels):
        raise ValueError(
            f"depth={depth} with bottleneck={bottleneck}; allowed: {3 * kernels}n + 4, "
            f"for example {', '.join(str(3 * kernels * n + 4) for n in (1, 6, 16))}"
        )
    _image_norm(norm)
    width = width or (2 * growth if bottleneck else 16)
    stem = nn.Sequential(Convolution(inputs, width))
    return _build(stem, width, ((depth - 4) // (3 * kernels),) * 3, growth, norm, bottleneck, compression, classes)


def densenet(*, depth=121, classes=1000, norm="batch", inputs=3) -> DenseNet:
    """Build torchvision's DenseNet-BC, for images of about 224x224: four dense blocks, see `cifar_densenet`.

    A layer adds 32 features, with depth 161 it adds 48.
    Shapes: input (batch, inputs, height, image width), output (batch, classes).
    Raises `ValueError` for a depth other than 121, 161, 169 or 201. Citation: huang2017densely.
    """
    if depth not in LAYERS:
        raise ValueError(f"depth={depth}; allowed: {', '.join(map(str, LAYERS))}")
    _image_norm(norm)
    growth = 48 if depth == 161 else 32
    stem = nn.Sequential(
        Convolution(inputs, 2 * growth, kernel=7, stride=2),
        build_norm(norm, 2 * growth),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    return _build(stem, 2 * growth, LAYERS[depth], growth, norm, True, 0.5, classes)


def _build(stem, width, counts, growth, norm, bottleneck, compression, classes) -> DenseNet:
    if growth < 1 or not 0 < compression <= 1:
        raise ValueError(f"growth={growth}, compression={compression}; allowed: growth >= 1, 0 < compression <= 1")
    word = "nrCnrC" if bottleneck else "nrC"
    kernels = ([conv1x1(4 * growth)] if bottleneck else []) + [conv3x3(growth)]
    parts: list[nn.Module] = []
    for stage, count in enumerate(counts):
        if stage:
            shrink = partial(_shrink, out=int(compression * width))
            parts.append(Block("nrC", width, n=norm, C=shrink))
            width = parts[-1].out_width
        layers = [Block(word, width + growth * index, n=norm, C=kernels) for index in range(count)]
        parts.append(Stack(layers, Dense(), last=norm if stage == len(counts) - 1 else None))
        width = parts[-1].out_width
    model = DenseNet(stem, Stack(parts), nn.Sequential(nn.ReLU()), classes)
    # The signal's size rather than the gradient's: every layer then writes features of the same size.
    init.he(model, "fan_in")
    return model


def _shrink(width: int, out: int) -> nn.Module:
    """The convolution of a transition: fewer features, then the mean of every 2x2 pixels."""
    return nn.Sequential(Convolution(width, out, kernel=1), nn.AvgPool2d(2))
