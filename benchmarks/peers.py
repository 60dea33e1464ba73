"""Training loops for images that others use, each as its library's documentation or reference script has it.

All train the same: SGD with Nesterov momentum on the cosine of `resnorm.training.learning_rates`, images shifted by up
to an eighth of their size and mirrored, a last batch that is not full left out. What a loop does beside that is its own
default. Nothing is printed and no file is left.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.turns import DEVICE, Loop
from resnorm.data import DataSet
from resnorm.training import Recipe, fit


@dataclass(frozen=True)
class Task:
    """What every loop is asked to do. ``workers``: processes that prepare batches, where the loop has them."""

    steps: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 0
    workers: int = 2

    @property
    def sgd(self) -> dict[str, Any]:
        return dict(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=True)


# -------------------------------------------------------------------------------- data


class Images(Dataset):
    """The training images as `torchvision.datasets.CIFAR10` has them: an array; each access makes a PIL image of it."""

    def __init__(self, data: DataSet, transform: Callable | None = None):
        images, targets = data.train
        self.array, self.targets = images.permute(0, 2, 3, 1).contiguous().numpy(), targets.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        pixels = self.array[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return self.transform(image) if self.transform else image, self.targets[index]


def crop_flip(data: DataSet) -> list:
    from torchvision import transforms

    size = data.spec["size"]
    return [transforms.RandomCrop(size, padding=max(1, size // 8)), transforms.RandomHorizontalFlip()]


def tutorial_images(data: DataSet) -> Images:
    from torchvision import transforms

    last = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    return Images(data, transforms.Compose(crop_flip(data) + last))


def loader(images: Dataset, task: Task, **options: Any) -> DataLoader:
    order = {} if "sampler" in options else dict(shuffle=True)
    return DataLoader(images, batch_size=task.batch_size, num_workers=task.workers, drop_last=True, **order, **options)


def batches(of: Any, steps: int) -> Iterator:
    """``steps`` batches of a loader, epoch after epoch."""
    while steps > 0:
        for batch in islice(of, steps):
            steps -= 1
            yield batch


# -------------------------------------------------------------------------------- the loops


def resnorm(model: nn.Module, data: DataSet, task: Task, precision: str = "fp32", compile: bool = False) -> None:
    """`resnorm.training.fit`."""
    steps_per_epoch = len(data.train[0]) // task.batch_size
    if task.steps < steps_per_epoch:
        kept = task.steps * task.batch_size
        data, steps_per_epoch = replace(data, train=tuple(part[:kept] for part in data.train)), task.steps
    nothing = tuple(part[:0] for part in data.validation)
    recipe = Recipe(
        epochs=-(-task.steps // steps_per_epoch),
        batch_size=task.batch_size,
        lr=task.lr,
        momentum=task.momentum,
        weight_decay=task.weight_decay,
        schedule="cosine",
        augment="crop_flip",
        precision=precision,
        compile=compile,
    )
    fit(model, replace(data, validation=nothing, test=nothing), recipe, seed=task.seed, device=DEVICE, progress=False)


def resnorm_bf16(model: nn.Module, data: DataSet, task: Task) -> None:
    """`resnorm.training.fit` in bf16."""
    resnorm(model, data, task, precision="bf16")


def resnorm_compiled(model: nn.Module, data: DataSet, task: Task) -> None:
    """`resnorm.training.fit` with `Recipe(compile=True)`."""
    resnorm(model, data, task, compile=True)


def resnorm_bf16_compiled(model: nn.Module, data: DataSet, task: Task) -> None:
    """`resnorm.training.fit` in bf16 with `Recipe(compile=True)`."""
    resnorm(model, data, task, precision="bf16", compile=True)


def tutorial(model: nn.Module, data: DataSet, task: Task) -> None:
    """The loop of PyTorch's tutorials: a DataLoader, one transform an image, the loss asked for in every step."""
    model.to(DEVICE)
    train = loader(tutorial_images(data), task)
    criterion = nn.CrossEntropyLoss()
    optimizer = SGD(model.parameters(), **task.sgd)
    scheduler = CosineAnnealingLR(optimizer, task.steps)
    running_loss = 0.0
    for inputs, targets in batches(train, task.steps):
        inputs, targets = inputs.to(DEVICE), targets.to(DEVICE)
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        running_loss += loss.item()


class Meter:
    """A running mean and the last values of one quantity."""

    def __init__(self, window: int = 20):
        self.last, self.total, self.count = deque(maxlen=window), 0.0, 0

    def update(self, value: float, count: int = 1) -> None:
        self.last.append(value)
        self.total += value * count
        self.count += count


def torchvision(model: nn.Module, data: DataSet, task: Task) -> None:
    """torchvision's references/classification at its defaults: loss, top-1, top-5 and the rate, read in every step."""
    from torchvision import transforms

    to_float = [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float)]
    images = Images(data, transforms.Compose([*crop_flip(data), *to_float, transforms.Normalize(data.mean, data.std)]))
    train = loader(images, task, sampler=RandomSampler(images), pin_memory=True)
    model.to(DEVICE)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.0)
    optimizer = SGD(model.parameters(), **task.sgd)
    scheduler = CosineAnnealingLR(optimizer, task.steps)
    meters = {name: Meter() for name in ("loss", "top1", "top5", "images_per_second", "data", "step")}
    end = perf_counter()
    for inputs, targets in batches(train, task.steps):
        start = perf_counter()
        meters["data"].update(start - end)
        inputs, targets = inputs.to(DEVICE), targets.to(DEVICE)
        logits = model(inputs)
        loss = criterion(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        top1, top5 = top_shares(logits, targets, (1, 5))
        meters["loss"].update(loss.item())
        meters["top1"].update(top1.item(), len(inputs))
        meters["top5"].update(top5.item(), len(inputs))
        meters["images_per_second"].update(len(inputs) / (perf_counter() - start))
        meters["step"].update(perf_counter() - end)
        end = perf_counter()


@torch.inference_mode()
def top_shares(logits: Tensor, targets: Tensor, counts: tuple[int, ...]) -> list[Tensor]:
    """The share of examples whose class is among the first so many, in per cent."""
    right = logits.topk(max(counts)).indices == targets[:, None]
    return [100 * right[:, :count].any(1).float().mean() for count in counts]


def timm(model: nn.Module, data: DataSet, task: Task) -> None:
    """timm's train.py at its defaults: its loader that normalises whole batches, its optimiser, schedule and meters."""
    from timm.data import create_loader
    from timm.data.transforms import MaybePILToTensor
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import AverageMeter
    from torchvision.transforms import Compose

    images = Images(data)
    shape = (data.spec["inputs"], data.spec["size"], data.spec["size"])
    train = create_loader(
        images,
        shape,
        task.batch_size,
        is_training=True,
        no_aug=True,
        mean=data.mean,
        std=data.std,
        num_workers=task.workers,
        device=DEVICE,
        pin_memory=DEVICE.type == "cuda",
    )
    # In place of its cropping for ImageNet; turning a batch of bytes into numbers stays with its loader.
    images.transform = Compose([*crop_flip(data), MaybePILToTensor()])
    model.to(DEVICE)
    criterion = nn.CrossEntropyLoss()
    settings = dict(lr=task.lr, momentum=task.momentum, weight_decay=task.weight_decay, filter_bias_and_bn=False)
    optimizer = create_optimizer_v2(model, opt="sgd", **settings)
    scheduler = CosineLRScheduler(optimizer, t_initial=task.steps, t_in_epochs=False)
    losses, step_seconds, data_seconds = AverageMeter(), AverageMeter(), AverageMeter()
    optimizer.zero_grad()
    end = perf_counter()
    for step, (inputs, targets) in enumerate(batches(train, task.steps)):
        data_seconds.update(perf_counter() - end)
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), len(inputs))
        optimizer.zero_grad()
        step_seconds.update(perf_counter() - end)
        scheduler.step_update(num_updates=step + 1, metric=losses.avg)
        end = perf_counter()


def lightning(model: nn.Module, data: DataSet, task: Task) -> None:
    """A LightningModule that logs its loss, and Lightning's Trainer."""
    import logging

    from lightning import pytorch

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Classifier(pytorch.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            inputs, targets = batch
            loss = functional.cross_entropy(self.model(inputs), targets)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), **task.sgd)
            scheduler = CosineAnnealingLR(optimizer, task.steps)
            return dict(optimizer=optimizer, lr_scheduler=dict(scheduler=scheduler, interval="step"))

    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pytorch.Trainer(accelerator=DEVICE.type.replace("cuda", "gpu"), devices=1, max_steps=task.steps, **off)
    trainer.fit(Classifier(), loader(tutorial_images(data), task))


def accelerate(model: nn.Module, data: DataSet, task: Task) -> None:
    """The tutorial's loop with everything prepared by Hugging Face's Accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=DEVICE.type == "cpu")
    optimizer = SGD(model.parameters(), **task.sgd)
    scheduler = CosineAnnealingLR(optimizer, task.steps)
    train = loader(tutorial_images(data), task)
    model, optimizer, train, scheduler = accelerator.prepare(model, optimizer, train, scheduler)
    criterion = nn.CrossEntropyLoss()
    total_loss = 0.0
    for inputs, targets in batches(train, task.steps):
        loss = criterion(model(inputs), targets)
        total_loss += loss.detach().float()
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


class NamedImages(Dataset):
    """Examples by name, as the Trainer of transformers takes them."""

    def __init__(self, images: Dataset):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, target = self.images[index]
        return dict(pixel_values=image, labels=target)


class WithLoss(nn.Module):
    """A model that computes its own loss, as the Trainer of transformers wants it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        return dict(loss=functional.cross_entropy(logits, labels), logits=logits)


def transformers(model: nn.Module, data: DataSet, task: Task) -> None:
    """The Trainer of Hugging Face's transformers, without its clipping, which the others do not have."""
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.utils import logging

    logging.set_verbosity_error()
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=task.steps,
            per_device_train_batch_size=task.batch_size,
            learning_rate=task.lr,
            lr_scheduler_type="cosine",
            max_grad_norm=0.0,
            seed=task.seed,
            dataloader_num_workers=task.workers,
            dataloader_drop_last=True,
            remove_unused_columns=False,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=DEVICE.type == "cpu",
        )
        optimizer = SGD(model.parameters(), **task.sgd)
        trainer = Trainer(
            WithLoss(model), arguments, train_dataset=NamedImages(tutorial_images(data)), optimizers=(optimizer, None)
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


# -------------------------------------------------------------------------------- the list


LOOPS = {
    "resnorm": Loop("resnorm", resnorm, workers=(0,)),
    "resnorm_bf16": Loop("resnorm", resnorm_bf16, workers=(0,), precision="bf16"),
    "resnorm_compiled": Loop("resnorm, compiled", resnorm_compiled, workers=(0,)),
    "resnorm_bf16_compiled": Loop("resnorm, compiled", resnorm_bf16_compiled, workers=(0,), precision="bf16"),
    "tutorial": Loop("PyTorch tutorial, two workers", tutorial, ("torchvision",), (2,)),
    "tutorial_0": Loop("PyTorch tutorial, no workers", tutorial, ("torchvision",), (0,)),
    "torchvision": Loop("torchvision references", torchvision, ("torchvision",)),
    "timm": Loop("timm train.py", timm, ("timm",)),
    "lightning": Loop("Lightning", lightning, ("lightning",)),
    "accelerate": Loop("Accelerate", accelerate, ("accelerate",)),
    "transformers": Loop("Hugging Face Trainer", transformers, ("transformers", "accelerate")),
}
OURS = {"fp32": "resnorm", "bf16": "resnorm_bf16"}
