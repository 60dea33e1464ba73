"""Splits that live on the device, and batches cut out of them without a loop over examples."""

import warnings

import torch
from torch import Tensor
from torch.nn import functional

from resnorm.data import DataSet
from resnorm.data.dataset import NOT_SCORED, PADDING, START
from resnorm.training.recipe import Recipe

# Of a GPU's free memory, what a resident split may take: the rest is for the model and its activations.
SHARE = 0.5


class Order:
    """One epoch's order of examples and their augmentation: a pure function of (seed, epoch).

    Nothing of it has to be saved: a run that starts again in the middle of an epoch draws the same order. It is drawn
    on the CPU, so that every device sees the same examples, and reaches the device in one piece.

    For pairs, ``lengths`` (2, examples) are the numbers of source and target tokens. With ``cut``, where batches of like
    length begin and end, the examples stand in the order of their lengths, equal ones permuted, and ``parts``
    (batches, 2) says where each batch of the epoch begins and ends: those are permuted too.
    """

    def __init__(
        self,
        examples: int,
        seed: int,
        epoch: int,
        device: torch.device,
        shift: int | None = None,
        lengths: Tensor | None = None,
        cut: Tensor | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        index = torch.randperm(examples, generator=generator)
        if cut is not None:
            index = index[by_length(lengths[:, index])]
            self.parts = cut.unfold(0, 2, 1)[torch.randperm(len(cut) - 1, generator=generator)]
        if lengths is not None:
            self.lengths = lengths[:, index]
        self.index = index.to(device)
        if shift is not None:
            self.corner = torch.randint(2 * shift + 1, (2, examples), generator=generator).to(device)
            self.mirror = torch.randint(2, (examples,), generator=generator, dtype=torch.bool).to(device)
            # In the mirrored copy the same window starts as far from the other side.
            left = torch.where(self.mirror, 2 * shift - self.corner[1], self.corner[1])
            self.window = torch.stack([2 * self.index + self.mirror, self.corner[0], left])

    def refill(self, other: "Order") -> None:
        """Take over another epoch's order in place: a recorded CUDA graph reads these tensors by address."""
        for name, tensor in vars(self).items():
            tensor.copy_(getattr(other, name))


class Batches:
    """A split on the device: ``batch(order, part)`` for training, ``plain(part)`` for evaluation.

    A batch is a tuple of the model's inputs, and the targets. Shapes: images float (batch, channels, height, width),
    normalised per channel, with targets (batch,); features float (batch, features), standardised, with targets (batch,);
    tokens (batch, context) with targets (batch, context); pairs have two
    inputs, the source (batch, source tokens) and what comes before each target, see `before_of`, (batch, target tokens),
    with targets (batch, target tokens), all cut to the longest of the batch. ``part`` is a slice, or an int64 tensor of
    positions.

    With ``batch_tokens`` (pairs only) `order` cuts batches of like length: sorted by the number of source tokens, then by
    that of target tokens, as many examples as stay within ``batch_tokens`` tokens, source and target with their padding
    counted. An example that is longer than that is a batch by itself. The cut is the same in every epoch.

    With ``augment="crop_flip"`` an image is shifted by up to size / 8 pixels each way and mirrored with probability
    1/2; what comes in from outside is the mean pixel, as in [he2016deep], whose images are padded once the mean is
    taken off. Every image lies there twice, as it is and mirrored, with its border: a batch is then one indexing of
    windows, and nothing else. ``bytes`` says what that takes.

    ``dtype`` is the type in which images reach the model.

    A split that would fill more than half of a GPU's free memory stays in the host's, and its batches are sent one by
    one: a warning says so.
    """

    def __init__(
        self,
        data: DataSet,
        split: str,
        device: torch.device,
        augment: str = "none",
        channels_last: bool = False,
        batch_tokens: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        inputs, targets = getattr(data, split)
        self.device = device
        self.images = data.kind == "images"
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.shift = self.lengths = self.cut = self.mean = None
        if data.kind == "features":
            self.mean, self.scale = (torch.tensor(values, device=device, dtype=dtype) for values in (data.mean, data.std))
            self.scale = 1 / self.scale
        if data.kind == "pairs":
            # On the host: the widths of a batch are known there without asking the device.
            self.lengths = lengths_of(inputs, targets)
            if batch_tokens:
                self.cut = _cut(self.lengths[:, by_length(self.lengths)], batch_tokens)
        if self.images:
            mean = torch.tensor(data.mean) * 255
            self.mean, self.scale = mean.to(device, dtype), 1 / (torch.tensor(data.std) * 255).to(device, dtype)
            # Channels stand last in memory, so that one index takes whole pixels.
            inputs = inputs.permute(0, 2, 3, 1)
            self.size = inputs.shape[1:3]
            if augment == "crop_flip":
                self.shift = max(1, self.size[0] // 8)
                inputs = self._mirrored(inputs, mean.round().to(torch.uint8))
        self.bytes = inputs.nbytes + targets.nbytes
        self.home = device if _fits(self.bytes, device) else torch.device("cpu")
        if self.home != device:
            warnings.warn(
                f"the {split} split of {data.name!r} takes {self.bytes / 2**20:.0f} MiB, more than half of what is "
                f"free on {device}: it stays in the host's memory and its batches are sent one by one, which is slower",
                stacklevel=2,
            )
        self.inputs, self.targets = inputs.to(self.home).contiguous(), targets.to(self.home)
        if self.shift is not None:
            self.inputs = self._windows()

    def __len__(self) -> int:
        return len(self.targets)

    def _mirrored(self, inputs: Tensor, border: Tensor) -> Tensor:
        """The images with a border of one pixel's value, each followed by its mirror image."""
        (height, width), shift = self.size, self.shift
        padded = inputs.new_empty(len(inputs), 2, height + 2 * shift, width + 2 * shift, inputs.shape[-1])
        padded[:] = border
        padded[:, 0, shift:-shift, shift:-shift] = inputs
        padded[:, 1, shift:-shift, shift:-shift] = inputs.flip(2)
        return padded.flatten(0, 1)

    def _windows(self) -> Tensor:
        """All windows of the images' size: (2 x examples, shifts down, shifts right, height, width x channels).

        They overlap in memory; none is written.
        """
        (height, width), steps = self.size, 2 * self.shift + 1
        image, row, pixel, _ = self.inputs.stride()
        size = (len(self.inputs), steps, steps, height, width * pixel)
        return self.inputs.as_strided(size, (image, row, pixel, row, 1))

    def order(self, seed: int, epoch: int) -> Order:
        return Order(len(self), seed, epoch, self.home, self.shift, self.lengths, self.cut)

    def items(self, order: Order, part: slice) -> int:
        """How many images a batch has, or tokens, or, of pairs, scored target tokens."""
        if self.lengths is not None:
            return int(order.lengths[1, part].sum())
        return (part.stop - part.start) * self.targets[:1].numel()

    def parts(self, size: int) -> list[slice] | list[Tensor]:
        """All examples once, for `plain`: ``size`` at a time, pairs sorted by their lengths and by ``batch_tokens``."""
        if self.lengths is None:
            return [slice(start, start + size) for start in range(0, len(self), size)]
        index = by_length(self.lengths)
        return list(index.split(size) if self.cut is None else index.tensor_split(self.cut[1:-1]))

    def batch(self, order: Order, part: slice | Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        index = order.index[part]
        if self.lengths is not None:
            return self._trimmed(index, order.lengths[:, part])
        if self.shift is None:
            pixels = self.inputs[index]
        else:
            pixels = self.inputs[order.window[:, part].unbind()].unflatten(-1, (self.size[1], -1))
        return (self._normalised(pixels),), self._sent(self.targets[index])

    def plain(self, part: slice | Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        if self.lengths is not None:
            return self._trimmed(part, self.lengths[:, part])
        pixels = self.inputs[part]
        if self.shift is not None:
            shift = self.shift
            pixels = self.inputs[::2, shift, shift][part].unflatten(-1, (self.size[1], -1))
        return (self._normalised(pixels),), self._sent(self.targets[part])

    def _trimmed(self, index: slice | Tensor, lengths: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        # One of several processes may have no example of a small batch: then there is no longest. A model needs a token, also
        # where none is to be predicted.
        source, target = (max(row, default=0) or 1 for row in lengths.tolist())
        targets = self._sent(self.targets[index, :target])
        return (self._sent(self.inputs[index, :source]), before_of(targets)), targets

    def _sent(self, tensor: Tensor) -> Tensor:
        if self.home == self.device:
            return tensor
        # From pinned memory the copy runs beside the computation.
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _normalised(self, inputs: Tensor) -> Tensor:
        inputs = self._sent(inputs)
        if self.mean is None:
            return inputs
        values = (inputs - self.mean).mul_(self.scale)
        return values.permute(0, 3, 1, 2).contiguous(memory_format=self.format) if self.images else values


def rows_at_once(recipe: Recipe, processes: int = 1) -> int:
    """How many examples of a step a process holds at the same time: its share of a batch, or of one of the batch's parts."""
    return -(-recipe.batch_size // (processes * recipe.accumulate))


def tokens_at_once(recipe: Recipe, processes: int = 1) -> int | None:
    """The same in tokens, where batches are counted in tokens; else None."""
    return recipe.batch_tokens and max(1, recipe.batch_tokens // (processes * recipe.accumulate))


def first_inputs(data: DataSet, recipe: Recipe, seed: int) -> tuple[Tensor, ...]:
    """The model's inputs in the first batch of a run with this seed, on the CPU: (batch, ...) each."""
    batches = Batches(data, "train", torch.device("cpu"), recipe.augment, batch_tokens=recipe.batch_tokens)
    order = batches.order(seed, 0)
    part = slice(0, recipe.batch_size) if batches.cut is None else slice(*order.parts[0].tolist())
    return batches.batch(order, part)[0]


def before_of(targets: Tensor) -> Tensor:
    """What the decoder is given to predict the targets: moved right by one, START first; PADDING where none is scored.

    Shapes: targets (batch, target tokens) -> (batch, target tokens).
    """
    before = functional.pad(targets[:, :-1], (1, 0), value=START)
    return before.masked_fill(before == NOT_SCORED, PADDING)


def lengths_of(inputs: Tensor, targets: Tensor) -> Tensor:
    """The numbers of source and of target tokens of pairs: (examples, tokens) twice -> (2, examples)."""
    return torch.stack([(inputs != PADDING).sum(1), (targets != NOT_SCORED).sum(1)])


def by_length(lengths: Tensor) -> Tensor:
    """The positions of examples in the order of their first length, then of their second; equal ones stay in order.

    Shapes: (2, examples) -> (examples,).
    """
    return (lengths[0] * (lengths[1].max() + 1) + lengths[1]).argsort(stable=True)


def _cut(lengths: Tensor, batch_tokens: int) -> Tensor:
    """Where batches begin, and where the last one ends: as many examples each as stay within ``batch_tokens``."""
    starts, longest = [0], (0, 0)
    for position, pair in enumerate(lengths.T.tolist()):
        longest = tuple(map(max, longest, pair))
        if (position + 1 - starts[-1]) * sum(longest) > batch_tokens and position > starts[-1]:
            starts.append(position)
            longest = pair
    return torch.tensor([*starts, lengths.shape[1]])


def _fits(size: int, device: torch.device) -> bool:
    return device.type != "cuda" or size <= SHARE * torch.cuda.mem_get_info(device)[0]
