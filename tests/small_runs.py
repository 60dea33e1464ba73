"""Small tasks and networks, and runs that are killed, for the tests of training."""

from dataclasses import replace

import torch
from torch import nn

from resnorm import Block, Stack, conv3x3
from resnorm.data import DataSet
from resnorm.training import Recipe, loop

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.1, momentum=0.9)


def images(examples: int = 96, size: int = 8, channels: int = 1) -> DataSet:
    """Images whose class is the quadrant that is bright."""
    generator = torch.Generator().manual_seed(0)

    def split(count):
        targets = torch.randint(0, 4, (count,), generator=generator)
        pixels = torch.randint(0, 100, (count, channels, size, size), generator=generator)
        half = size // 2
        for image, target in zip(pixels, targets, strict=True):
            top, left = half * (target // 2), half * (target % 2)
            image[:, top : top + half, left : left + half] += 120
        return pixels.to(torch.uint8), targets

    spec = dict(inputs=channels, size=size, classes=4)
    return DataSet("quadrants", "images", split(examples), split(32), split(32), spec=spec)


def with_other_pixels() -> DataSet:
    """The same targets, from images that were prepared in another way."""
    data = images()
    return replace(data, train=(255 - data.train[0], data.train[1]))


def sequences(examples: int = 64, context: int = 6) -> DataSet:
    """Count upwards modulo 5; the first position is not scored."""

    def split(count):
        tokens = (torch.arange(count)[:, None] + torch.arange(context + 1)) % 5
        targets = tokens[:, 1:].clone()
        targets[:, 0] = -100
        return tokens[:, :-1].contiguous(), targets

    spec = dict(vocabulary=5, context=context, symbols="01234")
    return DataSet("counting", "sequences", split(examples), split(10), split(10), spec=spec)


def mlp(seed: int = 0, dropout: float = 0.2, pixels: int = 64) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 4))


class ConvNet(nn.Module):
    """Blocks with batch norms, whose running statistics a checkpoint and a probe have to respect."""

    def __init__(self, seed: int = 0, channels: int = 1):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.stack = Stack([Block("nrCad", 8, n="batch", C=conv3x3(), d="dropout(rate=0.1)") for _ in range(2)])
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.stack(self.stem(x)).mean((2, 3)))


def language_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Killed(Exception):
    pass


def stop_after(monkeypatch, steps: int) -> None:
    one_step, count = loop._Loop._one_step, []

    def counted(self):
        if len(count) == steps:
            raise Killed
        count.append(one_step(self))

    monkeypatch.setattr(loop._Loop, "_one_step", counted)
