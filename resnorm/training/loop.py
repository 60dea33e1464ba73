"""The one training loop: classification of images and language modelling, for any nn.Module."""

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter

import torch
from torch import nn

from resnorm.data import DataSet
from resnorm.training.batches import Batches, Order
from resnorm.training.checkpoint import Checkpoint, identity
from resnorm.training.optimizers import build_optimizer
from resnorm.training.precision import autocast, choose_precision, gradient_scaler
from resnorm.training.recipe import Recipe
from resnorm.training.schedules import learning_rates
from resnorm.training.scores import Scores, cross_entropy

LOG_EVERY = 50
EVALUATION_BATCH = 512
PROBE_BATCH = 64


@dataclass
class Run:
    """What came out of a training run.

    status: "finished", or "diverged" where a loss became NaN or infinite.
    curves: one dict an observation: step, epoch, split, metric, value. Training values are means since the one before.
    metrics: train_loss, train_accuracy (of the last epoch, as trained on), validation_*, test_* (measured once, at the
        end), images_per_second or tokens_per_second (of training alone), steps. Losses in nats; sequences have *_exact.
    probes: the rows of `resnorm.probes.measure`, each with its step and epoch.
    device, precision: what it ran on and in. wall_seconds, peak_memory_bytes: of the GPU, or of the whole process on CPU.
    """

    status: str = "running"
    curves: list[dict] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    probes: list[dict] = field(default_factory=list)
    device: str = ""
    precision: str = ""
    wall_seconds: float = 0.0
    peak_memory_bytes: int = 0


def fit(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: Checkpoint | str | os.PathLike | None = None,
    progress: bool = True,
) -> Run:
    """Train the model in place and return what was measured; the model is left on the device, in eval mode.

    Images reach the model as float (batch, channels, height, width) and it returns logits (batch, classes); tokens as
    int64 (batch, context) and it returns (batch, context, vocabulary). On CPU the same seed, the same initial weights and
    the same number of threads give the same weights, bit for bit, also over a kill and a new start from ``checkpoint``
    (a path: saved after every epoch). The caller's random state is left as it was.
    ``device`` is the GPU where there is one, else the CPU.

    Raises ValueError where the recipe does not fit the data, or the checkpoint belongs to another run.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = Checkpoint(checkpoint)
    if recipe.batch_size > len(data.train[0]):
        raise ValueError(
            f"recipe: batch_size={recipe.batch_size} is more than the {len(data.train[0])} training examples of "
            f"{data.name!r}: take at most that many"
        )
    if recipe.augment != "none" and data.kind != "images":
        raise ValueError(f"recipe: augment={recipe.augment!r} is for images, and {data.name!r} holds {data.kind}: 'none'")
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.backends.cudnn.flags(benchmark=True, deterministic=False):
        torch.manual_seed(seed)
        return _Loop(model, data, recipe, seed, device, checkpoint, progress).run_all()


class _Loop:
    """The state of one run; `run_all` carries it from wherever it stands to the end."""

    def __init__(self, model, data, recipe, seed, device, checkpoint, progress) -> None:
        self.data, self.recipe, self.seed, self.device, self.checkpoint = data, recipe, seed, device, checkpoint
        self.precision = choose_precision(recipe.precision, device)
        channels_last = recipe.channels_last
        if channels_last == "auto":
            channels_last = data.kind == "images" and any(p.dim() == 4 for p in model.parameters())
        self.channels_last = channels_last
        self.model = model.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
        self.forward = torch.compile(self.model) if recipe.compile else self.model
        self.train = self._batches("train")
        self.steps_per_epoch = len(self.train) // recipe.batch_size
        self.steps = recipe.epochs * self.steps_per_epoch
        self.rates = learning_rates(recipe, self.steps)
        self.optimizer = build_optimizer(self.model, recipe)
        self.scaler = gradient_scaler(self.precision, device)
        self.run = Run(device=_device_name(device), precision=self.precision)
        self.step = 0
        self.recent, self.epoch_so_far = Scores(device), Scores(device)
        self.seconds_aside = 0.0
        self.show = progress and (sys.stderr.isatty() or "google.colab" in sys.modules)

    def run_all(self) -> Run:
        from tqdm import tqdm

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._restore()
        self.started = perf_counter() - self.run.wall_seconds
        self.model.train()
        order = None
        with tqdm(total=self.steps, initial=self.step, unit="step", disable=not self.show) as bar:
            while self.run.status == "running":
                epoch, position = divmod(self.step, self.steps_per_epoch)
                if order is None or position == 0:
                    order = Order(len(self.train), self.seed, epoch, self.device, self.train.shift)
                if self.recipe.probe_every and self.step % self.recipe.probe_every == 0:
                    self._probe()
                start = position * self.recipe.batch_size
                self._train_on(*self.train.batch(order, slice(start, start + self.recipe.batch_size)))
                self.step += 1
                bar.update()
                ends_epoch = self.step % self.steps_per_epoch == 0
                if ends_epoch or self.step % LOG_EVERY == 0:
                    self._log(ends_epoch)
                    bar.set_postfix({row["metric"]: f"{row['value']:.3f}" for row in self.run.curves[-2:]})
                if ends_epoch and (self._epoch() % self.recipe.evaluate_every == 0 or self.step == self.steps):
                    self._evaluate("validation")
                if self.step == self.steps and self.run.status == "running":
                    self._finish()
                if self.checkpoint and self.run.status == "running" and self.checkpoint.due(self.step, self.steps_per_epoch):
                    self._save()
        self.model.eval()
        return self.run

    def _batches(self, split: str) -> Batches:
        augment = self.recipe.augment if split == "train" else "none"
        return Batches(self.data, split, self.device, augment, self.channels_last)
