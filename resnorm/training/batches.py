"""Splits that live on the device, and batches cut out of them without a loop over examples."""

import torch
from torch import Tensor

from resnorm.data import DataSet


class Order:
    """One epoch's order of examples and their augmentation: a pure function of (seed, epoch).

    Nothing of it has to be saved: a run that starts again in the middle of an epoch draws the same order. It is drawn
    on the CPU, so that every device sees the same examples, and reaches the device in one piece.
    """

    def __init__(self, examples: int, seed: int, epoch: int, device: torch.device, shift: int | None = None) -> None:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        self.index = torch.randperm(examples, generator=generator).to(device)
        if shift is not None:
            self.corner = torch.randint(2 * shift + 1, (2, examples), generator=generator).to(device)
            self.mirror = torch.randint(2, (examples,), generator=generator, dtype=torch.bool).to(device)


class Batches:
    """A split on the device: ``batch(order, part)`` for training, ``plain(part)`` for evaluation.

    Shapes of a batch: images float (batch, channels, height, width), normalised per channel, and targets (batch,);
    tokens (batch, context) and targets (batch, context).

    With ``augment="crop_flip"`` an image is shifted by up to size / 8 pixels each way and mirrored with probability
    1/2; what comes in from outside is the mean pixel, as in [he2016deep], whose images are padded once the mean is
    taken off.
    """

    def __init__(self, data: DataSet, split: str, device: torch.device, augment: str = "none",
                 channels_last: bool = False) -> None:
        inputs, self.targets = getattr(data, split)
        self.targets = self.targets.to(device)
        self.images = data.kind == "images"
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.shift = None
        if self.images:
            self.mean = torch.tensor(data.mean, device=device).view(1, -1, 1, 1) * 255
            self.scale = 1 / (torch.tensor(data.std, device=device).view(1, -1, 1, 1) * 255)
            # Channels stand last in memory, so that one index takes whole pixels.
            inputs = inputs.permute(0, 2, 3, 1)
            self.size = inputs.shape[1:3]
            if augment == "crop_flip":
                self.shift = max(1, self.size[0] // 8)
                inputs = self._padded(inputs)
        self.inputs = inputs.to(device).contiguous()

    def __len__(self) -> int:
        return len(self.targets)

    def _padded(self, inputs: Tensor) -> Tensor:
        height, width = self.size
        shift = self.shift
        padded = inputs.new_empty(len(inputs), height + 2 * shift, width + 2 * shift, inputs.shape[-1])
        padded[:] = self.mean.flatten().round().to("cpu", torch.uint8)
        padded[:, shift:-shift, shift:-shift] = inputs
        return padded

    def batch(self, order: Order, part: slice) -> tuple[Tensor, Tensor]:
        index = order.index[part]
        if self.shift is None:
            return self._normalised(self.inputs[index]), self.targets[index]
        height, width = self.size
        device = index.device
        rows = order.corner[0, part, None] + torch.arange(height, device=device)
        columns = torch.arange(width, device=device).expand(len(index), width)
        # Mirroring is the columns read backwards: it costs no pass of its own.
        columns = torch.where(order.mirror[part, None], width - 1 - columns, columns) + order.corner[1, part, None]
        pixels = self.inputs[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._normalised(pixels), self.targets[index]

    def plain(self, part: slice) -> tuple[Tensor, Tensor]:
        return self._normalised(self.inputs[part] if self.shift is None else self._centre(part)), self.targets[part]

    def _centre(self, part: slice) -> Tensor:
        return self.inputs[part, self.shift : -self.shift, self.shift : -self.shift]

    def _normalised(self, inputs: Tensor) -> Tensor:
        if not self.images:
            return inputs
        images = inputs.permute(0, 3, 1, 2).float()
        return images.sub_(self.mean).mul_(self.scale).contiguous(memory_format=self.format)
