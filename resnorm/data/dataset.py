"""What a data set is: three splits held as tensors, and what a model has to know of them."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Split = tuple[Tensor, Tensor]
# What the vocabulary of sentence pairs starts with; source and target share one.
PADDING, START, END, UNKNOWN = range(4)
NOT_SCORED = -100
# Of each kind, the type and the number of dimensions of its inputs.
KINDS = {"features": (torch.float32, 2), "images": (torch.uint8, 4), "sequences": (torch.int64, 2), "pairs": (torch.int64, 2)}


@dataclass(frozen=True)
class DataSet:
    """Three splits of one data set, each a pair of tensors (inputs, targets).

    Shapes:
        images: inputs uint8 (examples, channels, height, width), targets int64 (examples,).
        features: inputs float32 (examples, features), targets int64 (examples,).
        sequences: inputs int64 tokens (examples, context), targets int64 (examples, context);
        a target of -100 is not scored.
        pairs: inputs int64 tokens (examples, source tokens), each source ended by END (2) and filled with PADDING (0);
        targets int64 tokens (examples, target tokens), each ended by END and filled with -100.

    ``spec`` holds what a model is built from: ``inputs`` (channels), ``size`` (pixels a side) and ``classes`` for
    images, and for features, of ``size`` 1; ``vocabulary``, ``context`` (of pairs: the longest row of any split) and, where a
    token is a character, ``symbols`` (character i is token i) for the others.
    ``mean`` and ``std`` are per channel, of the training split, in units of the largest pixel value (255); or per feature.
    ``detokenise`` gives the text of a list of tokens that are no characters. ``sources`` and ``references`` are the
    sentences of the validation and the test split as they were before they became tokens, in the order of the rows.

    Raises ValueError where a split does not have the shapes and types above.
    """

    name: str
    kind: str
    train: Split
    validation: Split
    test: Split
    spec: dict = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    detokenise: Callable[[list[int]], str] | None = None
    sources: dict[str, list[str]] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            *others, last = map(repr, KINDS)
            raise ValueError(f"kind={self.kind!r} of data set {self.name!r}: allowed are {', '.join(others)} and {last}")
        dtype, dimensions = KINDS[self.kind]
        for split in ("train", "validation", "test"):
            inputs, targets = getattr(self, split)
            if inputs.dtype != dtype or inputs.dim() != dimensions:
                raise ValueError(
                    f"{split} inputs of {self.name!r} are {inputs.dtype} with shape {tuple(inputs.shape)}: "
                    f"{self.kind} need {dtype} with {dimensions} dimensions"
                )
            widths = {"images": (), "features": (), "sequences": inputs.shape[1:], "pairs": targets.shape[-1:]}
            expected = (len(inputs), *widths[self.kind])
            if targets.dtype != torch.int64 or targets.shape != expected:
                raise ValueError(
                    f"{split} targets of {self.name!r} are {targets.dtype} with shape {tuple(targets.shape)}: "
                    f"they must be torch.int64 with shape {expected}"
                )
        if self.kind in ("images", "features") and not self.mean:
            mean, std = (channel_statistics if self.kind == "images" else feature_statistics)(self.train[0])
            object.__setattr__(self, "mean", mean)
            object.__setattr__(self, "std", std)

    def decode(self, tokens: Tensor) -> str:
        """The text that a row of tokens (tokens,) stands for; targets that are not scored are left out.

        A row of pairs is read up to END, without START and PADDING.
        """
        row = [token for token in tokens.tolist() if token != NOT_SCORED]
        if self.kind == "pairs":
            row = [token for token in row[: row.index(END) if END in row else None] if token not in (PADDING, START)]
        if self.detokenise is not None:
            return self.detokenise(row)
        return "".join(self.spec["symbols"][token] for token in row)


def padded(pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Split:
    """Put pairs of lists of tokens into the two tensors of a split of pairs: see `DataSet`."""
    pairs, sides = list(pairs), []
    if not pairs:
        return torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.int64)
    for side, filler in zip(zip(*pairs, strict=True), (PADDING, NOT_SCORED), strict=True):
        width = max(map(len, side)) + 1
        rows = array("q", [filler]) * (len(side) * width)
        for start, tokens in zip(range(0, len(rows), width), side, strict=True):
            rows[start : start + len(tokens) + 1] = array("q", [*tokens, END])
        sides.append(torch.frombuffer(rows, dtype=torch.int64).view(-1, width))
    return sides[0], sides[1]


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of uint8 images (examples, channels, height, width), per channel, in units of 255.

    They are rounded to four decimals, as papers give them.
    """
    values, pairs = torch.arange(256) / 255, []
    for channel in range(images.shape[1]):
        # Counting the 256 values is exact, and needs no float copy of all images.
        share = torch.bincount(images[:, channel].flatten(), minlength=256).double() / images[:, channel].numel()
        mean = (share * values).sum()
        pairs.append((mean.item(), (share * (values - mean).square()).sum().sqrt().item()))
    # A channel without any contrast is only centred; dividing by its deviation would give NaN.
    return tuple(round(mean, 4) for mean, _ in pairs), tuple(round(std, 4) or 1.0 for _, std in pairs)


def feature_statistics(features: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each feature: (examples, features); 1 for one that does not vary."""
    std, mean = torch.std_mean(features.double(), 0, correction=0)
    return tuple(mean.tolist()), tuple(std.where(std > 0, 1.0).tolist())


def stratified_split(targets: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of ``count`` examples that hold every class in its share, and the indices of the others.

    Shapes: targets (examples,) -> (count,), (examples - count,). Raises ValueError where count is not within 0 and the
    number of examples.
    """
    if not 0 <= count <= len(targets):
        raise ValueError(f"cannot take {count} of {len(targets)} examples: ask for 0 to {len(targets)}")
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    position = torch.empty(len(targets))
    for label in targets.unique():
        members = (targets[order] == label).nonzero().flatten()
        position[members] = (torch.arange(len(members)) + 0.5) / len(members)
    order = order[position.argsort(stable=True)]
    return order[:count], order[count:]
