"""Your own data as a `DataSet`: a folder of images, a text, two aligned texts, tensors.

Each function says how it cuts the three splits. ``validation`` and ``test`` are shares of all examples, or the split itself
in the form of the first argument; ``seed`` chooses the examples of a share. A share of 0 leaves a split empty.
"""

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnorm.data.dataset import END, NOT_SCORED, PADDING, START, UNKNOWN, DataSet, Split, padded, stratified_split
from resnorm.data.root import DataError
from resnorm.data.sequences import windows_of
from resnorm.data.translation import lines_of, subword_pairs
from resnorm.extras import needed_for

# The names that folders of a split go by, in capitals or not.
SPLITS = dict(train=("train", "training"), validation=("validation", "val", "valid", "dev"), test=("test", "testing"))
UNKNOWN_WORD = "<unknown>"


def tensors(
    inputs: Any,
    targets: Any,
    validation: float | tuple[Any, Any] = 0.1,
    test: float | tuple[Any, Any] = 0.1,
    seed: int = 0,
    name: str = "tensors",
) -> DataSet:
    """Tensors, or what `torch.as_tensor` takes, such as arrays of NumPy: what they hold follows from type and shape.

    Shapes:
        images and classes: uint8 (examples, channels, size, size), integers (examples,).
        features and classes: floating point (examples, features), integers (examples,). Each feature is standardised by the
        training split; for `mlp_stack`, or any model that takes (batch, features).
        tokens and the tokens to predict: integers (examples, context) twice; a target of -100 is not scored.

    Classes are 0, 1, 2, ...; a share holds each of them in its part. Shares of tokens are drawn by the seed.
    Raises ValueError where lengths, types or shapes do not fit, a feature is not finite, or a class has no training example.
    """
    first = _pair(inputs, targets, "inputs")
    given = {}
    for split, value in (("validation", validation), ("test", test)):
        if isinstance(value, (tuple, list)):
            if len(value) != 2:
                raise ValueError(f"{split} has {len(value)} parts; give a share of the examples, or (inputs, targets)")
            given[split] = _pair(*value, f"the inputs of {split}")
    shares = {"validation": validation, "test": test}
    counts = {split: 0 if split in given else _count(split, share, len(first[0])) for split, share in shares.items()}
    splits = _parted(first, counts, seed) | given
    return _checked(name, splits)


def image_folder(
    path: str | os.PathLike, size: int | None = None, validation: float = 0.1, test: float = 0.1, channels: int = 3, seed: int = 0
) -> DataSet:
    """Images in one folder a class, as `torchvision.datasets.ImageFolder` reads them: ``path/CLASS/anything.png``.

    Where ``path`` holds ``train/CLASS``, with or without ``validation`` (or ``val``) and ``test`` beside it, those are the
    splits, and shares are taken of what is not there; ``Training`` and ``Testing`` do as well. A share holds every class in
    its part.
    ``size``: each image is scaled until its shorter side has so many pixels, and the middle of the longer one is kept;
    without it all images must be squares of one size. ``channels``: 3 for colours, 1 for grey.
    All images are kept in memory: examples x channels x size x size bytes. ``spec["names"]`` are the classes.

    Shapes: (examples, channels, size, size) for inputs, (examples,) for targets.
    Raises DataError for a folder that is missing, a class without images and a file that is no image of 8 bits a channel;
    ValueError for images of several sizes, and for impossible settings; MissingExtra without torchvision.
    """
    root = Path(path)
    if channels not in (1, 3):
        raise ValueError(f"channels={channels!r} of image_folder: give 3 for colours or 1 for grey")
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"size={size!r} of image_folder: give a whole number of pixels above 0")
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: give the folder that holds a folder of images for each class")
    inside = {folder.name.lower(): folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    folders = {split: next((inside[name] for name in names if name in inside), None) for split, names in SPLITS.items()}
    if folders["train"] is None:
        folders = dict(train=root, validation=None, test=None)
    splits, classes = {}, None
    for split, folder in folders.items():
        if folder is not None:
            splits[split], names = _images(folder, size, channels)
            if names != (classes := classes or names):
                raise DataError(f"{folder} has the classes {', '.join(names)}, but the training folder {', '.join(classes)}")
    shares = dict(validation=validation, test=test)
    data = tensors(*splits.pop("train"), **(shares | splits), seed=seed, name=root.name)
    return replace(data, spec=data.spec | dict(names=list(classes)))


def text_file(
    path: str | os.PathLike,
    unit: str = "characters",
    context: int = 128,
    vocabulary: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
) -> DataSet:
    """A text in UTF-8, to predict each character, or word, from those before it.

    The text is cut into windows of ``context`` tokens, each with the tokens one further on as its targets. The first part is
    for training, the last ones are ``validation`` and ``test``, shares of the windows: neighbours in the text are alike, and
    windows that were drawn by chance would be half known.
    ``unit``: "characters", all of the text, or "words": a run of letters and digits, or any other sign that is no blank.
    Words are those of the training part, at most ``vocabulary`` of them, the most frequent; any other one is <unknown>.

    Shapes: (windows, context) for inputs and targets.
    Raises DataError where the file cannot be read; ValueError where the text is too short, or a setting is impossible.
    """
    path = Path(path)
    shares = _share("validation", validation) + _share("test", test)
    text = "\n".join(lines_of(path, "Give the path of a text in UTF-8."))
    if unit == "characters":
        if vocabulary is not None:
            raise ValueError(
                f"vocabulary={vocabulary!r} of text_file: characters are all taken; leave it out, or take unit='words'"
            )
        return windows_of(path.stem, text, context, validation, test)
    if unit != "words":
        raise ValueError(f"unit={unit!r} of text_file: allowed are 'characters' and 'words'")
    words = re.findall(r"\w+|[^\w\s]", text)
    trained = int(len(words) * (1 - shares))
    return windows_of(path.stem, words, context, validation, test, [UNKNOWN_WORD, *_frequent(words[:trained], vocabulary)])


def text_pairs(
    source: str | os.PathLike,
    target: str | os.PathLike,
    unit: str = "subwords",
    vocabulary: int | None = None,
    longest: int = 100,
    validation: float | tuple[Any, Any] = 0.1,
    test: float | tuple[Any, Any] = 0.1,
    seed: int = 0,
) -> DataSet:
    """Two texts in UTF-8 (or .gz) whose lines belong together, to translate the first into the second.

    ``validation`` and ``test``: shares of the pairs, or two paths each.
    ``unit``: "subwords", one byte-pair encoding of both texts with ``vocabulary`` (8,000) tokens, trained on the training
    pairs; "words", what stands between blanks, or "characters", those of the training pairs, at most ``vocabulary`` of
    them, the most frequent. Training pairs with a side of more than ``longest`` tokens, END counted, are left out, and so are
    those whose source is also one of another split.

    Shapes: (pairs, source tokens) for inputs, (pairs, target tokens) for targets, see `DataSet`.
    Raises DataError where a file cannot be read, or two have not the same number of lines; ValueError for an empty line and
    for impossible settings; MissingExtra for subwords without the package tokenizers.
    """
    if unit not in ("subwords", "words", "characters"):
        raise ValueError(f"unit={unit!r} of text_pairs: allowed are 'subwords', 'words' and 'characters'")
    pairs = {"train": _aligned(source, target)}
    examples, rest = len(pairs["train"]), pairs["train"]
    random.Random(seed).shuffle(rest)
    for split, value in (("validation", validation), ("test", test)):
        if isinstance(value, (tuple, list)) and len(value) == 2:
            pairs[split] = _aligned(*value)
        else:
            count = _count(split, value, examples)
            pairs[split], rest = rest[:count], rest[count:]
    pairs["train"] = rest
    if not rest:
        raise ValueError(
            f"validation={validation!r} and test={test!r} leave nothing of {examples} pairs to train on: take smaller shares"
        )
    if type(longest) is not int or longest < 2:
        raise ValueError(f"longest={longest!r} of text_pairs: give a whole number of at least 2")
    held_out = {source for split in ("validation", "test") for source, _ in pairs[split]}
    if all(source in held_out for source, _ in rest):
        raise ValueError(
            f"every source of {Path(source)} to train on is also one of validation or test, and left out: nothing is left; give "
            "other validation and test pairs"
        )
    name = Path(source).stem
    if unit == "subwords":
        return subword_pairs(name, pairs, 8000 if vocabulary is None else vocabulary, longest)
    return _pairs_of(name, pairs, unit, vocabulary, longest)


def _tensor(values: Any, what: str) -> Tensor:
    """Any array or list of numbers, on the CPU; a table of pandas is read by position, whatever its index says."""
    try:
        # A copy, because arrays may be read-only, or run backwards, which tensors cannot.
        array = values if isinstance(values, Tensor) or not hasattr(values, "__array__") else values.__array__().copy()
        return torch.as_tensor(array).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{what} are a {type(values).__name__} that makes no tensor ({error}): give arrays of numbers, of one shape for all "
            "examples; names of classes become numbers by numpy.unique(names, return_inverse=True)[1]"
        ) from error


def _pair(inputs: Any, targets: Any, what: str) -> Split:
    inputs, targets = _tensor(inputs, what), _tensor(targets, f"the targets of {what}")
    if not inputs.dim() or not targets.dim() or len(inputs) != len(targets):
        raise ValueError(
            f"{what} have shape {tuple(inputs.shape)} and their targets {tuple(targets.shape)}: there must be one target, or "
            "one row of targets, for each example"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"the targets of {what} are {targets.dtype}: give classes or tokens as integers, targets.long()")
    images = inputs.dtype == torch.uint8 and inputs.dim() == 4
    features = inputs.is_floating_point() and inputs.dim() == 2
    if (images or features) and targets.dim() != 1:
        raise ValueError(
            f"the targets of {what} have shape {tuple(targets.shape)}: give one class for each example, shape ({len(inputs)},)"
            + (", targets[:, 0]" if targets.shape[1:] == (1,) else "")
        )
    if features:
        inputs = inputs.float()
        rows = (~inputs.isfinite()).any(1).nonzero().flatten()
        if len(rows):
            raise ValueError(
                f"{what} are not finite in float32 in {len(rows)} rows, first in row {rows[0].item()}: repair them, or leave "
                "them out"
            )
        return inputs, targets.long()
    if images:
        return inputs, targets.long()
    if not inputs.is_floating_point() and inputs.dtype != torch.bool and inputs.dim() == targets.dim() == 2:
        return inputs.long(), targets.long()
    pixels = inputs.is_floating_point() and inputs.dim() == 4
    advice = ": pixels from 0 to 1 become (x * 255).round().to(torch.uint8)" if pixels else ""
    raise ValueError(
        f"{what} are {inputs.dtype} with shape {tuple(inputs.shape)}; give images as uint8 (examples, channels, size, size), "
        f"features as floating point (examples, features), or tokens as integers (examples, context){advice}"
    )


def _parted(data: Split, counts: dict[str, int], seed: int) -> dict[str, Split]:
    """The splits of these sizes, and the rest for training: classes in their shares, tokens by chance."""
    inputs, targets = data
    if sum(counts.values()) >= len(inputs):
        wanted = " and ".join(f"{count} for {split}" for split, count in counts.items())
        raise ValueError(f"{wanted} leave nothing of {len(inputs)} examples to train on: take smaller shares")
    classes = targets if targets.dim() == 1 else torch.zeros(len(targets), dtype=torch.int64)
    rest, splits = torch.arange(len(inputs)), {}
    for split in ("test", "validation"):
        chosen, other = stratified_split(classes[rest], counts[split], seed)
        # In the order that they came in: what lies together can be found again.
        (chosen, _), (other, _) = chosen.sort(), other.sort()
        splits[split], rest = (inputs[rest[chosen]], targets[rest[chosen]]), rest[other]
    return {"train": (inputs[rest], targets[rest]), **splits}


def _checked(name: str, splits: dict[str, Split]) -> DataSet:
    inputs, targets = splits["train"]
    for split, (other, of_other) in splits.items():
        if (other.shape[1:], other.dtype, of_other.dim()) != (inputs.shape[1:], inputs.dtype, targets.dim()):
            raise ValueError(
                f"{split} has inputs {other.dtype} {tuple(other.shape)}, the training split {inputs.dtype} {tuple(inputs.shape)}: "
                "all splits need examples of one shape and type"
            )
    everything = torch.cat([of_split.flatten() for _, of_split in splits.values()])
    if targets.dim() == 2:
        tokens = torch.cat([tokens.flatten() for tokens, _ in splits.values()])
        if (tokens < 0).any() or ((everything < 0) & (everything != NOT_SCORED)).any():
            raise ValueError(
                f"{name} has tokens below 0: give tokens of 0 or more, and {NOT_SCORED} for targets that are not scored"
            )
        spec = dict(vocabulary=int(torch.cat([tokens, everything]).max()) + 1, context=inputs.shape[1])
        return DataSet(name, "sequences", **splits, spec=spec)
    classes = int(everything.max()) + 1 if len(everything) else 0
    counts = torch.bincount(targets.clamp_min(0), minlength=classes) if len(targets) else torch.zeros(0)
    missing = (counts == 0).nonzero().flatten().tolist()
    if int(everything.min()) < 0 or missing:
        wrong = f"the class {int(everything.min())}" if int(everything.min()) < 0 else f"no training example of class {missing[0]}"
        raise ValueError(f"{name} has {wrong}: number the classes 0, 1, 2, ... and give each an example to train on")
    if inputs.dim() == 2:
        return DataSet(name, "features", **splits, spec=dict(inputs=inputs.shape[1], size=1, classes=classes))
    if inputs.shape[2] != inputs.shape[3]:
        last = inputs.shape[1] == inputs.shape[2] and inputs.shape[3] in (1, 3, 4)
        repair = "the channels stand last; give images.permute(0, 3, 1, 2)" if last else "models take squares; cut or scale them"
        raise ValueError(f"{name} has images of {inputs.shape[2]} x {inputs.shape[3]} pixels: {repair}")
    return DataSet(name, "images", **splits, spec=dict(inputs=inputs.shape[1], size=inputs.shape[2], classes=classes))


def _share(split: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{split}={value!r}: give a share from 0 to below 1, or the split itself")
    return value


def _count(split: str, share: Any, examples: int) -> int:
    return max(1, round(_share(split, share) * examples)) if share else 0


def _images(folder: Path, size: int | None, channels: int) -> tuple[Split, tuple[str, ...]]:
    with needed_for("folders of images"):
        import numpy
        from PIL import Image, ImageOps, UnidentifiedImageError
        from torchvision.datasets import ImageFolder
    try:
        listed = ImageFolder(folder)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}. It needs a folder for each class, with at least one image in each") from error
    images, first = [], None
    for file, _ in listed.samples:
        try:
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
            if opened.mode[0] in "IF":  # Pillow would cut them at 255, and leave a white image
                raise ValueError(f"its pixels have more than 8 bits, mode {opened.mode}: scale them to 0 to 255 and save them so")
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise DataError(f"{file} cannot be read as an image ({error}): repair it, or take it out of the folder") from error
        if size is not None:
            image = ImageOps.fit(image, (size, size))
        first = first or (file, image.size)
        if image.size != first[1] or image.width != image.height:
            other = "" if image.size == first[1] else f", {first[0]} {first[1][0]} x {first[1][1]}"
            raise ValueError(
                f"{file} has {image.width} x {image.height} pixels{other}: give size=, to which all are scaled and cut, or make "
                "them squares of one size"
            )
        images.append(torch.from_numpy(numpy.array(image)).view(image.height, image.width, channels).permute(2, 0, 1))
    return (torch.stack(images), torch.tensor(listed.targets)), tuple(listed.classes)


def _aligned(source: str | os.PathLike, target: str | os.PathLike) -> list[tuple[str, str]]:
    paths = (Path(source), Path(target))
    sides = [lines_of(path, "Give the path of a text in UTF-8, one sentence a line.") for path in paths]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{paths[0]} has {len(sides[0])} lines and {paths[1]} has {len(sides[1])}: line i of one must belong to line i of the "
            "other; one of them is incomplete, or has lines of its own"
        )
    for path, lines in zip(paths, sides, strict=True):
        empty = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
        if empty:
            raise ValueError(f"{path} is empty in line {empty}: take that line out of both files")
    return list(zip(*sides, strict=True))


def _frequent(units: Sequence[str], most: int | None) -> list[str]:
    if most is not None and (type(most) is not int or most < 1):
        raise ValueError(f"vocabulary={most!r}: give a whole number above 0, or leave it out")
    # By frequency, and those of one frequency by the alphabet: not by the order of the text.
    return [unit for unit, _ in sorted(Counter(units).items(), key=lambda item: (-item[1], item[0]))[:most]]


def _pairs_of(name: str, pairs: dict[str, list[tuple[str, str]]], unit: str, vocabulary: int | None, longest: int) -> DataSet:
    cut: Callable[[str], list[str]] = str.split if unit == "words" else list
    held_out = {source for split in ("validation", "test") for source, _ in pairs[split]}
    cuts = {split: [(cut(source), cut(target)) for source, target in rows] for split, rows in pairs.items()}
    cuts["train"] = [
        row
        for row, (source, _) in zip(cuts["train"], pairs["train"], strict=True)
        if max(map(len, row)) < longest and source not in held_out
    ]
    if not cuts["train"]:
        raise ValueError(f"longest={longest!r} of {name} leaves no pair to train on: take a larger one")
    symbols = _frequent([symbol for row in cuts["train"] for side in row for symbol in side], vocabulary)
    special = {PADDING: "<padding>", START: "<start>", END: "<end>", UNKNOWN: UNKNOWN_WORD}
    token_of = {symbol: token for token, symbol in enumerate(symbols, start=len(special))}
    splits = {
        split: padded([[[token_of.get(symbol, UNKNOWN) for symbol in side] for side in row] for row in rows])
        for split, rows in cuts.items()
    }
    listed = [*special.values(), *symbols]
    between = " " if unit == "words" else ""
    sources, references = ({split: [pair[side] for pair in pairs[split]] for split in ("validation", "test")} for side in (0, 1))
    return DataSet(
        name,
        "pairs",
        **splits,
        spec=dict(vocabulary=len(listed), context=max(side.shape[1] for split in splits.values() for side in split)),
        detokenise=lambda tokens: between.join(listed[token] for token in tokens),
        sources=sources,
        references=references,
    )
