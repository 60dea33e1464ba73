"""Residual networks for images, from any word of the catalog."""

from functools import partial
from math import floor

from torch import Tensor, nn

from resnorm import catalog, init
from resnorm.branches import Blur, Convolution, conv1x1, conv3x3
from resnorm.letters import add
from resnorm.norms import LAST_AXIS, call_form
from resnorm.norms import norm as build_norm
from resnorm.recursion import fuse
from resnorm.streams import Stack
from resnorm.words import BRANCHES, Block, residual_branches

BASIC, BOTTLENECK = "nrCnrC", "nrCnrCnrC"
LAYERS = {
    10: (1, 1, 1, 1),
    14: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
TWO_CONVOLUTIONS = (10, 18, 34)


class ResNet(nn.Module):
    """Stem, stack, tail, average over the pixels, classify; see `cifar_resnet` and `resnet`."""

    def __init__(self, stem: nn.Module, stack: Stack, tail: nn.Module, classes: int):
        super().__init__()
        self.stem, self.stack, self.tail = stem, stack, tail
        self.head = nn.Linear(stack.out_width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tail(self.stack(self.stem(x))).mean((2, 3)))


def _kernels(count: int, width: int, stride: int, weight: str | None, groups: int = 1, width_per_group: int = 64) -> list:
    """The convolutions of a block; the second of a bottleneck has the stride and the groups, as in torchvision."""
    if count == 3:
        inside = floor(width * width_per_group / 64) * groups
        return [
            conv1x1(inside, weight=weight),
            conv3x3(inside, stride, groups=groups, weight=weight),
            conv1x1(4 * width, weight=weight),
        ]
    return [conv3x3(width, stride, weight=weight)] + [conv3x3(width, weight=weight)] * (count - 1)


def _image_norm(norm: str) -> None:
    if isinstance(norm, str) and call_form(norm)[0] in LAST_AXIS:
        raise ValueError(
            f"norm={norm!r} works along the last axis, which is the width of an image; use 'layer2d', 'rms2d' or 'dyt2d' "
            "(along the channels of a pixel) or 'group(groups=1)' (over channels and pixels)"
        )


def cifar_resnet(
    *,
    depth=20,
    variant="resnet_v2",
    norm="batch",
    merge_norm=None,
    shortcut="zero_pad",
    width=16,
    widen=1,
    classes=10,
    inputs=3,
    bottleneck=False,
    weight=None,
    initialisation=None,
    **options,
) -> ResNet:
    """Build the ResNet for images of about 32x32: three stages of `width`, 2 and 4 times `width` channels.

    `depth`: 6n + 2 with two convolutions a block, 9n + 2 with three, 3n + 2 with one. `variant`: a word of C's, or a
    generic word whose F is the pre-activated branch `nrCnrC` (`bottleneck=True`: `nrCnrCnrC`). `norm`: every norm
    inside the branch, the stem and the tail; `merge_norm`: the norms that a generic word adds, by default `norm`.
    `shortcut`: what the skip does where the shape changes, "zero_pad" (He's option A) or "projection" (B).
    `widen`: multiplies the width of the stages and leaves that of the stem; a Wide ResNet of Zagoruyko and Komodakis,
    whose layers count its two projections, has `depth` 6n + 4. `weight`: None, "norm", "standard" or "scaled_standard",
    the form of the filters in the blocks.
    `initialisation`: a rule of `resnorm.init` for the stack, by default the variant's own, else "he". `options` are the
    variant's.
    Shapes: input (batch, inputs, height, image width), output (batch, classes).
    Raises `ValueError` for an impossible depth, an unknown option, or a norm that has no meaning on images.
    Citation: he2016deep, he2016identity, zagoruyko2016wide.
    """
    chosen = catalog.variant(variant)
    generic = "F" in chosen.spell()
    kernels = (3 if bottleneck else 2) if generic else chosen.spell().count("C")
    if kernels == 0 or "c" in chosen.spell() or (not generic and "[" in chosen.spell()):
        raise ValueError(
            f"cifar_resnet takes a variant with the branch F or with convolutions in a row that are added; {variant!r} is "
            f"{chosen.spell()!r}"
        )
    if chosen.stream:
        raise ValueError(
            f"cifar_resnet widens from stage to stage, and the stream of {variant!r} has one width; take mlp_stack or "
            "transformer_lm"
        )
    if bottleneck and kernels != 3:
        raise ValueError(
            f"bottleneck=True needs three convolutions a block, and {variant!r} has {kernels}; take a generic "
            "variant, 'bottleneck_v1' or 'bottleneck_v2'"
        )
    if merge_norm is not None and not (generic and "n" in chosen.spell()):
        raise ValueError(
            f"merge_norm={merge_norm!r} has no norm to set in {variant!r} ({chosen.spell()!r}); set norm, or take a "
            "generic variant with n, such as 'post'"
        )
    if not isinstance(depth, int) or depth < 3 * kernels + 2 or (depth - 2) % (3 * kernels):
        raise ValueError(
            f"depth={depth} with {kernels} convolutions a block; allowed: {3 * kernels}n + 2, "
            f"for example {', '.join(str(3 * kernels * n + 2) for n in (1, 3, 9, 18))}"
        )
    _image_norm(norm)
    _image_norm(merge_norm)
    count = (depth - 2) // (3 * kernels)
    branches = residual_branches(chosen.spell(**options))
    known = [
        chosen.complete(options, depth=3 * count * branches, dim=1, block=branches * block, layer=block)
        for block in range(1, 3 * count + 1)
    ]
    word = chosen.spell(**known[0])
    letters = [chosen.settings_for(n=merge_norm or norm, **options) for options in known]
    blocks = _stages(word, (count,) * 3, width, widen * width, letters, kernels, weight, norm, shortcut)
    stack = fuse(Stack(blocks, last=norm))
    inner = BASIC if generic else word
    stem = nn.Sequential(Convolution(inputs, width))
    if inner[0] != "n":
        stem.append(build_norm(norm, width))
    if inner[0] in BRANCHES:
        stem.append(nn.ReLU())
    tail = nn.Sequential()
    if word[-1] != "r":
        if word[-1] != "n" and stack.last is None:
            tail.append(build_norm(norm, stack.out_width))
        tail.append(nn.ReLU())
    model = ResNet(stem, stack, tail, classes)
    init.he(model)
    if initialisation or chosen.init:
        init.initialise(stack, initialisation or chosen.init, 3 * count * branches, model.head)
    return model


def _stages(word, counts, channels, width, letters, *settings) -> list[Block]:
    """The blocks of all stages, from the stem's `channels`, each with its own letters; each stage after the first
    doubles the width and halves the image in its first block.
    """
    blocks = []
    for stage, count in enumerate(counts):
        for index in range(count):
            stride = 2 if stage and not index else 1
            blocks.append(_block(word, channels, width * 2**stage, stride, letters[len(blocks)], *settings))
            channels = blocks[-1].out_width
    return blocks


def _block(
    word, channels, planes, stride, letters, kernels, weight, norm, shortcut, groups=1, width_per_group=64, antialias=None
) -> Block:
    """One block, from `channels` to the width of its stage, with the shortcut where the shape changes."""
    letters = dict(letters)
    smooth = antialias is not None and stride == 2
    branches = _kernels(kernels, planes, 1 if smooth else stride, weight, groups, width_per_group)
    if smooth:  # the convolution that had the stride is followed by its activation, and that by the pooling
        letters["r"] = ["relu"] * word.count("r")
        letters["r"][kernels - 2] = partial(_relu_pool, antialias)
    out = planes * (4 if kernels == 3 else 1)
    if (stride != 1 or out != channels) and "a" in word:
        merge = letters.get("a", add())
        if merge.keywords["shortcut"] != "identity":
            shortcut = merge.keywords["shortcut"]
        elif shortcut != "zero_pad" and word.startswith("nrC"):  # the projection takes the pre-activated input
            word = "nr|" + word[2:]
        elif shortcut != "zero_pad" and word.startswith("C"):  # the branch ends in a norm: so does the projection
            shortcut = f"projection(norm={norm!r})" if shortcut == "projection" else partial(shortcut, norm=norm)
        letters["a"] = partial(merge, shortcut=shortcut, stride=stride)
    if "F" in word:
        letters["F"] = partial(Block, BASIC if kernels == 2 else BOTTLENECK, n=norm, C=branches)
    else:
        letters["C"] = branches
    return Block(word, channels, **letters)


def _relu_pool(antialias: str, width: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), POOLS[antialias](width))


def _projection(skip_width: int, width: int, stride: int, weight: str | None, average: bool, norm: str | None = None) -> nn.Module:
    """A 1x1 convolution on the skip: with the stride, or after an average over every 2x2 pixels. Citation: he2019bag."""
    parts = []
    if average:
        parts.append(nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity())
    parts.append(Convolution(skip_width, width, kernel=1, stride=1 if average else stride, weight=weight))
    if norm is not None:
        parts.append(build_norm(norm, width))
    return nn.Sequential(*parts) if len(parts) > 1 else parts[0]


def _stem(inputs, width, stem, pool, antialias, weight, norm, version) -> nn.Sequential:
    """One 7x7 convolution or three of 3x3, then the pooling."""
    layers = nn.Sequential()
    for index, out in enumerate(stem or (width,)):
        kernel, stride = (7, 2) if stem is None else (3, 1 if index else 2)
        layers.append(Convolution(inputs, out, kernel=kernel, stride=stride, weight=weight))
        if version == 1 or (stem and index < len(stem) - 1):
            layers.extend([build_norm(norm, out), nn.ReLU()])
        inputs = out
    if antialias == "average":
        return layers.append(POOLS[antialias](inputs))
    if antialias == "blur":
        return layers.extend([nn.MaxPool2d(3, stride=1, padding=1), POOLS[antialias](inputs)])
    if pool == "zero_padded_max":
        return layers.extend([nn.ZeroPad2d(1), nn.MaxPool2d(3, stride=2)])
    return layers.append(nn.MaxPool2d(3, stride=2, padding=1))


POOLS = {"blur": Blur, "average": lambda width: nn.AvgPool2d(2)}
CHOICES = {"shortcut": ("projection", "average"), "stem_pool": ("max", "zero_padded_max"), "antialias": (None, *POOLS)}


def resnet(
    *,
    depth=18,
    classes=1000,
    norm="batch",
    width=64,
    inputs=3,
    version=1,
    groups=1,
    width_per_group=64,
    stem=None,
    stem_pool="max",
    shortcut="projection",
    antialias=None,
    weight=None,
) -> ResNet:
    """Build the ResNet for images of about 224x224: blocks of two convolutions with depth 10, 18 and 34, else of three.

    `version` 1 is torchvision's network, of `CnrCnar`; 2 is timm's ResNetV2, of `nrCnrCa`, whose stem has no norm and
    whose projections take the pre-activated input. In both the 3x3 convolution of a block of three has the stride.
    `load_weights` takes the weights of either. The other options tell the published relatives apart:

    | option | what it does | network |
    |---|---|---|
    | `groups`, `width_per_group` | groups of the 3x3 convolutions, their width in stage 1 | ResNeXt (32, 4), Wide ResNet (1, 128) |
    | `stem=(32, 32, 64)` | three 3x3 convolutions of these widths for the 7x7 one | ResNet-C, -D, -S, -T |
    | `shortcut="average"` | the mean of every 2x2 pixels before the projection, which has no stride | ResNet-D |
    | `antialias="blur"`, `"average"` | stride 1 and this pooling wherever a stride would be | resnetblur, resnetaa |
    | `weight="standard(eps=1e-8)"` | every convolution's filters are standardised | BiT |
    | `stem_pool="zero_padded_max"` | the stem's maximum sees zeros at the border, and not only pixels | BiT |

    BiT-R50x1 is `resnet(depth=50, version=2, norm="group(groups=32)", weight="standard(eps=1e-8)",
    stem_pool="zero_padded_max")`, and `width=192` makes it x3.
    Shapes: input (batch, inputs, height, image width), output (batch, classes).
    Raises `ValueError` for an unknown depth, version or choice, and for options that do not go together.
    Citation: he2016deep, he2016identity, xie2017aggregated, zagoruyko2016wide, he2019bag, zhang2019making, kolesnikov2020big.
    """
    if depth not in LAYERS:
        raise ValueError(f"depth={depth}; allowed: {', '.join(map(str, LAYERS))}")
    if version not in (1, 2):
        raise ValueError(f"version={version!r}; allowed: 1 (norm and ReLU after each convolution), 2 (before)")
    for name, value in (("shortcut", shortcut), ("stem_pool", stem_pool), ("antialias", antialias)):
        if value not in CHOICES[name]:
            raise ValueError(f"{name}={value!r}; allowed: {', '.join(map(repr, CHOICES[name]))}")
    kernels = 2 if depth in TWO_CONVOLUTIONS else 3
    if kernels == 2 and (groups, width_per_group) != (1, 64):
        raise ValueError(
            f"groups={groups}, width_per_group={width_per_group} with depth={depth}: groups are in the middle one of three "
            "convolutions; use a depth with three, such as 50"
        )
    if stem is not None and not (isinstance(stem, (list, tuple)) and len(stem) == 3):
        raise ValueError(f"stem={stem!r}; give the widths of three convolutions, as (32, 32, 64), or None for one of 7x7")
    if antialias and (version == 2 or stem_pool != "max"):
        raise ValueError(f"antialias={antialias!r} is for version=1 with stem_pool='max', got version={version}, {stem_pool!r}")
    _image_norm(norm)
    word = catalog.variant(f"{'resnet' if kernels == 2 else 'bottleneck'}_v{version}").spell()
    letters = [{"n": norm}] * sum(LAYERS[depth])
    if shortcut == "average" or weight is not None:
        shortcut = partial(_projection, weight=weight, average=shortcut == "average")
    stem_width = width if stem is None else stem[-1]
    settings = (kernels, weight, norm, shortcut, groups, width_per_group, antialias)
    blocks = _stages(word, LAYERS[depth], stem_width, width, letters, *settings)
    first = _stem(inputs, width, stem, stem_pool, antialias, weight, norm, version)
    tail = nn.Identity() if version == 1 else nn.Sequential(nn.ReLU())
    model = ResNet(first, Stack(blocks, last=norm), tail, classes)
    init.he(model)
    return model
