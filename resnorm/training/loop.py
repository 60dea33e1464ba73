"""The one training loop: classification of images, language modelling and translation, for any nn.Module."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from math import isfinite
from time import perf_counter

import torch
from torch import Tensor, nn

from resnorm import init, probes
from resnorm.data import DataSet
from resnorm.data.dataset import NOT_SCORED
from resnorm.training.batches import Batches, lengths_of, rows_at_once, tokens_at_once
from resnorm.training.checkpoint import Checkpoint, identity
from resnorm.training.distributed import Processes
from resnorm.training.graph import CapturedStep
from resnorm.training.memory import keep_freed_memory, peak_memory
from resnorm.training.optimizers import build_optimizer
from resnorm.training.precision import autocast, gradient_scaler, precision_for
from resnorm.training.recipe import Recipe
from resnorm.training.schedules import learning_rates
from resnorm.training.scores import Scores, cross_entropy, scored_in, spike_share

LOG_EVERY = 50
PROBE_BATCH = 64
# Small batches are cut out several at a time, as many as a core's cache holds: what a fetch costs is a call's overhead.
FETCH_BYTES = 2**18


@dataclass
class Run:
    """What came out of a training run.

    status: "finished", or "diverged" where a loss became NaN or infinite.
    curves: one dict an observation: step, epoch, split, metric, value. Training values are means since the one before.
    metrics: train_loss, train_accuracy (of the last epoch, as trained on), validation_*, test_* (measured once, at the
        end), images_per_second or tokens_per_second (of training alone; of pairs, scored target tokens), steps. Losses in
        nats; sequences and pairs have *_exact.
        With ``clip`` also gradient_spikes, see `spike_share`, of the norm of the whole gradient before it is clipped; the
        curves hold its mean as gradient_norm.
    probes: the rows of `resnorm.probes.measure`, each with its step and epoch.
    device, precision: what it ran on and in, with the number of processes before it where they were several.
    wall_seconds: over all starts of the run.
    peak_memory_bytes: of the GPU, or of the whole process on CPU. data_bytes: what the training split takes of it, where
        it lies on the device.
    """

    status: str = "running"
    curves: list[dict] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    probes: list[dict] = field(default_factory=list)
    device: str = ""
    precision: str = ""
    wall_seconds: float = 0.0
    peak_memory_bytes: int = 0
    data_bytes: int = 0


def fit(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: Checkpoint | str | os.PathLike | None = None,
    progress: bool = True,
    cuda_graph: bool | str = False,
) -> Run:
    """Train the model in place and return what was measured; the model is left on the device, in eval mode.

    Parts that the caller has put in eval mode stay in it, such as batch norms whose statistics are to stay as they are.
    A model that is in eval mode as a whole, as one that was just loaded, is put in training mode, but for its frozen batch
    norms: those whose gain and bias do not require a gradient.
    Evaluations, and probes, hold no more examples at the same time than a training step does, and come after the epoch's
    checkpoint. A batch without a scored target (-100) has a loss and a gradient of 0, and counts in no mean.

    Images reach the model as float (batch, channels, height, width) and it returns logits (batch, classes); features as
    float (batch, features) with the same logits; tokens as
    int64 (batch, context) and it returns (batch, context, vocabulary). For pairs it is called as ``model(source, before)``,
    with int64 (batch, source tokens) and (batch, target tokens), see `resnorm.training.batches`, and returns (batch,
    target tokens, vocabulary).
    On CPU the same seed, the same initial weights and the same number of threads give the same weights, bit for bit, also
    over a kill and a new start from ``checkpoint`` (a path: saved after every epoch). The caller's random state is left as
    it was.
    ``device`` is the GPU where there is one, else the CPU. On CPU the process keeps the memory that it frees from then
    on, see `resnorm.training.memory`.
    After every step what the model's modules name as `unit_weights` is brought back to length 1, see `resnorm.init.project`.
    ``cuda_graph`` records the step once and replays it, for models that neither wait for the GPU nor branch on what
    it computes; "auto" does so wherever it can be done, else takes the steps one kernel after the other.
    Under ``torchrun --nproc_per_node N`` the N processes train one model, each on its share of every batch, and arrive
    at the weights of one process up to the order of additions; dropout draws other masks. The model starts with the first
    process's weights, and that process alone writes the checkpoint, which all of them must be able to read.

    Raises ValueError where the recipe does not fit the data, a split has rows but no scored target, the checkpoint belongs
    to another run, processes cannot share a batch or the model has a batch norm that is not frozen, whose statistics
    would be those of a share, or a CUDA graph is asked for on another device, in fp16, whose scaler waits for the GPU, for
    pairs, whose batches differ in shape, or for several processes; where no parameter requires a gradient, and where the
    recipe's precision is not for the type of the model's parameters.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    processes, device = Processes.join(device)
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = Checkpoint(checkpoint)
    _check_targets(data)
    _check_batches(recipe, data)
    _into_training(model)
    processes.check(model, None if recipe.batch_tokens else recipe.batch_size)
    if cuda_graph not in (True, False, "auto"):
        raise ValueError(f"cuda_graph={cuda_graph!r}, but it must be true, false or 'auto'")
    refused = _no_graph(data, precision_for(model, recipe.precision, device), device, processes)
    if cuda_graph == "auto":
        cuda_graph = refused is None
    if cuda_graph and refused:
        raise ValueError(refused)
    if recipe.augment != "none" and data.kind != "images":
        raise ValueError(
            f"recipe: augment={recipe.augment!r} is for images, but {data.name!r} holds {data.kind}: take augment='none'"
        )
    if device.type == "cpu":
        keep_freed_memory()
    devices = [device] if device.type == "cuda" else []
    benchmark = torch.backends.cudnn.benchmark
    try:
        # Every batch has the same shape, so that trying each convolution's algorithms once pays for itself.
        torch.backends.cudnn.benchmark = True
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed + 1_000_003 * processes.rank)
            return _Loop(model, data, recipe, seed, device, checkpoint, progress, cuda_graph, processes).run_all()
    finally:
        torch.backends.cudnn.benchmark = benchmark


def _no_graph(data: DataSet, precision: str, device: torch.device, processes: Processes) -> str | None:
    """Why no CUDA graph can hold the step; None where one can."""
    if data.kind == "pairs":
        return "cuda_graph=True for pairs: it needs batches of one shape, and theirs differ; leave it out"
    if processes.count > 1:
        return f"cuda_graph=True in {processes.count} processes: it holds the step of one alone; leave it out"
    if device.type != "cuda" or precision == "fp16":
        return f"cuda_graph=True on {device} in {precision}: it needs a GPU, and bf16 or fp32; leave it out"
    return None


def _into_training(model: nn.Module) -> None:
    """Leave a model in training mode as it is, frozen parts and all; wake one that is in eval mode as a whole.

    Whoever has loaded or trained a model is handed it in eval mode, which says nothing of its parts: there a norm with
    running statistics is taken as frozen where its own parameters are.
    """
    if model.training:
        return
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase) and not module.training]
    model.train()
    for norm in norms:
        own = list(norm.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            norm.eval()


def _check_targets(data: DataSet) -> None:
    for split in ("train", "validation", "test"):
        targets = getattr(data, split)[1]
        if len(targets) and not scored_in(targets):
            raise ValueError(
                f"the {split} split of {data.name!r} has {len(targets)} rows and not one scored target: all are "
                f"{NOT_SCORED}. Give it targets" + ("" if split == "train" else ", or leave the split empty")
            )


def _check_batches(recipe: Recipe, data: DataSet) -> None:
    inputs, targets = data.train
    if recipe.batch_tokens is None:
        if recipe.batch_size > len(inputs):
            raise ValueError(
                f"recipe: batch_size={recipe.batch_size} is more than the {len(inputs)} training examples of "
                f"{data.name!r}: take at most that many"
            )
        return
    if data.kind != "pairs":
        raise ValueError(
            f"recipe: batch_tokens={recipe.batch_tokens} is for pairs, but {data.name!r} holds {data.kind}: take batch_size"
        )
    longest = int(lengths_of(inputs, targets).sum(0).max())
    if longest > recipe.batch_tokens:
        raise ValueError(
            f"recipe: batch_tokens={recipe.batch_tokens} is less than the {longest} tokens of the longest training example "
            f"of {data.name!r}: take at least that many"
        )


class _Loop:
    """The state of one run; `run_all` carries it from wherever it stands to the end."""

    def __init__(self, model, data, recipe, seed, device, checkpoint, progress, cuda_graph=False, processes=None) -> None:
        processes = processes or Processes()
        self.data, self.recipe, self.seed, self.device = data, recipe, seed, device
        self.checkpoint, self.progress, self.processes = checkpoint, progress, processes
        self.precision = precision_for(model, recipe.precision, device)
        self.channels_last = recipe.channels_last
        if self.channels_last == "auto":
            self.channels_last = data.kind == "images" and any(p.dim() == 4 for p in model.parameters())
        model.to(device, memory_format=torch.channels_last if self.channels_last else torch.preserve_format)
        self.model = model
        processes.same_start(model)
        self.unit_weights = list(init.unit_weights(model))
        # Training batches have the same shape, those of pairs excepted, and code for one shape is the faster.
        self.forward = torch.compile(model, dynamic=data.kind == "pairs") if recipe.compile else model
        self.autocast = autocast(self.precision, device) if self.precision != "fp32" else nullcontext()
        of_model = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.dtype = of_model if self.precision == "fp32" else torch.float32
        self.train = self._batches("train")
        self.evaluated: dict[str, Batches] = {}
        cut = self.train.cut
        self.steps_per_epoch = len(self.train) // recipe.batch_size if cut is None else len(cut) - 1
        self.steps = recipe.epochs * self.steps_per_epoch
        self.rates = learning_rates(recipe, self.steps)
        self.optimizer = build_optimizer(model, recipe)
        self.scaler = gradient_scaler(self.precision, device)
        # Batches that come from the host cannot be part of a graph.
        recorded = cuda_graph and self.train.home == device
        self.captured = CapturedStep(self._train_at, recipe.batch_size, self.optimizer, device) if recorded else None
        self.fetched, self.fetched_at = None, 0
        batch_bytes = 4 * recipe.batch_size * data.train[0][:1].numel()
        self.fetch = max(1, FETCH_BYTES // batch_bytes) * recipe.batch_size
        self.run = Run(device=_device_name(device, processes.count), precision=self.precision)
        self.step = self.items = 0
        # Whether an epoch is over whose evaluation is still to come.
        self.unevaluated = False
        self.order = None
        self.recent, self.of_epoch = Scores(device), Scores(device)
        # The norm of every step's gradient, and where the next one goes: on the device, which nobody waits for.
        self.norms = torch.full((self.steps,), torch.nan, device=device)
        self.norm_at = torch.zeros(1, dtype=torch.int64, device=device)
        self.norms_logged = 0
        self.seconds_aside = 0.0

    def run_all(self) -> Run:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._restore()
        self.started = perf_counter() - self.run.wall_seconds
        with self._bar() as bar:
            while self.run.status == "running":
                if not self.unevaluated:
                    self._one_step()
                    if bar:
                        bar.update()
                    self.unevaluated = self._ends_epoch()
                    if self.step % LOG_EVERY == 0 or self.unevaluated:
                        self._log()
                    # Before the evaluation: if that fails, for want of memory or by a bug, no epoch of training is lost.
                    if self.checkpoint and self.run.status == "running" and self.checkpoint.due(self.step, self.steps_per_epoch):
                        self._save()
                if self.unevaluated and self.run.status == "running":
                    self._end_epoch()
                    if bar:
                        bar.set_postfix({name: f"{value:.3f}" for name, value in self.run.metrics.items()})
                if self.run.status != "running":
                    self._summarise()
                    if self.checkpoint:
                        self._save()
        self.model.eval()
        return self.run

    def _bar(self):
        """A bar of progress on a terminal and on Colab, where tqdm is installed."""
        # In a notebook that is only executed, a bar would become part of the page.
        shown = self.progress and self.processes.rank == 0 and (sys.stderr.isatty() or "google.colab" in sys.modules)
        if not shown or find_spec("tqdm") is None:
            return nullcontext()
        from tqdm import tqdm

        return tqdm(total=self.steps, initial=self.step, unit="step")

    def _one_step(self) -> None:
        recipe = self.recipe
        epoch, position = divmod(self.step, self.steps_per_epoch)
        if self.order is None or position == 0:
            order = self.train.order(self.seed, epoch)
            if self.order is None:
                self.order = order
            else:
                self.order.refill(order)
            self.fetched = None
        if recipe.probe_every and self.step % recipe.probe_every == 0:
            self._probe()
        part, rate = self._part(position), self.rates[self.step]
        if self.captured:
            self.captured(part.start, rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self._train_on(*self._batch(part))
        self.items += self.train.items(self.order, part)
        self.step += 1

    def _part(self, position: int) -> slice:
        """The places of an epoch's order that its batch of this number takes, of all processes together."""
        if self.train.cut is not None:
            return slice(*self.order.parts[position].tolist())
        return slice(position * self.recipe.batch_size, (position + 1) * self.recipe.batch_size)

    def _batch(self, part: slice) -> tuple[tuple[Tensor, ...], Tensor]:
        """This process's share of a batch."""
        if self.data.kind == "pairs":
            return self.train.batch(self.order, self.processes.share(part.start, part.stop))
        if self.fetched is None or part.start >= self.fetched_at + self.fetch:
            share = self.processes.share(part.start, part.start + self.fetch)
            self.fetched, self.fetched_at = self.train.batch(self.order, share), part.start
        (inputs,), targets = self.fetched
        part = slice(*((place - self.fetched_at) // self.processes.count for place in (part.start, part.stop)))
        return (inputs[part],), targets[part]

    def _train_at(self, part: Tensor) -> None:
        self._train_on(*self.train.batch(self.order, part))

    def _train_on(self, inputs: tuple[Tensor, ...], targets: Tensor) -> None:
        """The step itself. Nothing in here waits for the device: a CUDA graph can hold it."""
        if self.recipe.accumulate == self.processes.count == 1:
            self._backward(inputs, targets)
        else:
            self._backward_in_parts(inputs, targets)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        if self.recipe.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            self.norms.index_copy_(0, self.norm_at, norm.detach().float().view(1))
            self.norm_at.add_(1)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.unit_weights:
            init.project(self.unit_weights)
        self.optimizer.zero_grad()

    def _backward(self, inputs: tuple[Tensor, ...], targets: Tensor, *scored: Tensor) -> None:
        """Add the gradient of a batch, or of a part of one that has ``scored`` targets in all."""
        with self.autocast:
            logits = self.forward(*inputs)
        loss = cross_entropy(logits, targets, self.recipe.label_smoothing, *scored)
        self.scaler.scale(loss).backward()
        self.recent.add(loss.detach(), logits.detach(), targets, *scored)

    def _backward_in_parts(self, inputs: tuple[Tensor, ...], targets: Tensor) -> None:
        scored = self.processes.sum_(scored_in(targets))
        if len(targets):  # several processes may be too many for a small batch
            parts = [tensor.chunk(self.recipe.accumulate) for tensor in (*inputs, targets)]
            for *of_inputs, of_targets in zip(*parts, strict=True):
                self._backward(of_inputs, of_targets, scored)
        self.processes.sum_gradients(self.model.parameters())

    def _ends_epoch(self) -> bool:
        return self.step % self.steps_per_epoch == 0

    def _log(self) -> None:
        # The one place of an epoch where the host waits for the device, and where a loss gone wrong is noticed.
        self.processes.sum_(self.recent.sums)
        self._observe("train", self.recent)
        self.of_epoch.take(self.recent)
        if self.recipe.clip is not None and self.run.status == "running":
            mean = self.norms[self.norms_logged : self.step].mean().item()
            if isfinite(mean):  # fp16 lets a step overflow now and then, and its scaler skips it
                place = dict(step=self.step, epoch=self.step / self.steps_per_epoch, split="train")
                self.run.curves.append(place | dict(metric="gradient_norm", value=mean))
            self.norms_logged = self.step

    def _end_epoch(self) -> None:
        epoch = self.step // self.steps_per_epoch
        last = self.step == self.steps
        self.run.metrics |= _named("train", self.of_epoch.metrics(self.data.kind))
        self.of_epoch.clear()
        if epoch % self.recipe.evaluate_every == 0 or last:
            self._evaluate("validation")
        if last and self.run.status == "running":
            self._evaluate("test")
        if last and self.run.status == "running":
            self.run.status = "finished"
        self.unevaluated = False

    def _observe(self, split: str, scores: Scores) -> dict[str, float]:
        values = scores.metrics(self.data.kind)
        if not isfinite(values.get("loss", 0.0)):
            self.run.status = "diverged"
            return {}
        place = dict(step=self.step, epoch=self.step / self.steps_per_epoch, split=split)
        self.run.curves += [place | dict(metric=metric, value=value) for metric, value in values.items()]
        return values

    def _evaluate(self, split: str) -> None:
        if not len(getattr(self.data, split)[0]):
            return
        with self._aside(), probes.evaluating(self.model):
            if split not in self.evaluated:
                self.evaluated[split] = self._batches(split)
            batches, scores = self.evaluated[split], Scores(self.device)
            # No more at once than a training step has: what could be trained can be evaluated.
            rows = rows_at_once(self.recipe, self.processes.count)
            for part in batches.parts(rows)[self.processes.rank :: self.processes.count]:
                inputs, targets = batches.plain(part)
                with self.autocast:
                    logits = self.model(*inputs)
                scores.add(cross_entropy(logits, targets), logits, targets)
            self.processes.sum_(scores.sums)
            self.run.metrics |= _named(split, self._observe(split, scores))

    def _probe(self) -> None:
        with self._aside():
            place = dict(step=self.step, epoch=self.step / self.steps_per_epoch)
            self.run.probes += [place | row for row in probes.measure_in_parts(self.model, self._probed())]

    def _probed(self) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor], dict[str, Tensor]]]:
        """The first examples of the training split, no more at once than a step has: inputs, loss and second inputs."""
        scored = scored_in(self.data.train[1][:PROBE_BATCH]).to(self.device)
        rows, tokens = rows_at_once(self.recipe), tokens_at_once(self.recipe)
        if tokens is not None:
            rows = max(1, tokens // int(self.train.lengths[:, :PROBE_BATCH].amax(1).sum()))
        for start in range(0, min(PROBE_BATCH, len(self.train)), rows):
            (x, *before), targets = self.train.plain(slice(start, min(start + rows, PROBE_BATCH)))
            # Pairs alone have a second input.
            yield x, partial(cross_entropy, targets=targets, scored=scored), dict(zip(("before",), before, strict=False))

    def _summarise(self) -> None:
        run, items = self.run, {"images": "images", "features": "examples"}.get(self.data.kind, "tokens")
        run.wall_seconds = perf_counter() - self.started
        if run.status == "diverged":
            run.metrics = {}  # what an earlier epoch measured is in the curves; as final values it would mislead
        rate = self.items / (run.wall_seconds - self.seconds_aside)
        run.metrics |= {"steps": self.step, f"{items}_per_second": rate}
        if self.recipe.clip is not None:
            run.metrics["gradient_spikes"] = spike_share(self.norms[: self.step])
        run.peak_memory_bytes = max(run.peak_memory_bytes, peak_memory(self.device))
        run.data_bytes = self.train.bytes if self.train.home == self.device else 0

    @contextmanager
    def _aside(self):
        """Time in here is not counted as training."""
        start = perf_counter()
        yield
        self.seconds_aside += perf_counter() - start

    def _batches(self, split: str) -> Batches:
        recipe, train = self.recipe, split == "train"
        tokens = recipe.batch_tokens if train else tokens_at_once(recipe, self.processes.count)
        augment = recipe.augment if train else "none"
        return Batches(self.data, split, self.device, augment, self.channels_last, tokens, self.dtype)

    @cached_property
    def _identity(self) -> dict:
        return identity(self.model, self.data, self.recipe, self.seed, self.device, self.precision) | dict(
            processes=self.processes.count
        )

    def _save(self) -> None:
        with self._aside():
            self.run.wall_seconds = perf_counter() - self.started
            cuda = self.device.type == "cuda"
            own = dict(
                random=torch.get_rng_state(),
                random_cuda=torch.cuda.get_rng_state(self.device) if cuda else None,
                recent=self.recent.sums,
            )
            state = dict(
                identity=self._identity,
                step=self.step,
                items=self.items,
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                scaler=self.scaler.state_dict(),
                of_processes=self.processes.gathered(own),
                of_epoch=self.of_epoch.sums,
                unevaluated=self.unevaluated,
                norms=self.norms,
                norm_at=self.norm_at,
                norms_logged=self.norms_logged,
                seconds_aside=self.seconds_aside,
                run=asdict(self.run),
            )
            if self.processes.rank == 0:
                self.checkpoint.save(state)

    def _restore(self) -> None:
        state = self.checkpoint and self.checkpoint.load(self._identity, self.device)
        if len(set(self.processes.gathered(state and state.get("step")))) > 1:
            raise ValueError(
                f"{self.checkpoint.path} is not the same file for all processes: give a path that every one of them can read"
            )
        if not state:
            return
        try:
            self._take(state)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise self.checkpoint.refusal(error) from error

    def _take(self, state: dict) -> None:
        own = state["of_processes"][self.processes.rank]
        self.step, self.items = state["step"], state["items"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(own["random"].cpu())
        if own["random_cuda"] is not None:
            torch.cuda.set_rng_state(own["random_cuda"].cpu(), self.device)
        self.recent.sums.copy_(own["recent"])
        self.of_epoch.sums.copy_(state["of_epoch"])
        self.unevaluated = state["unevaluated"]
        self.norms.copy_(state["norms"])
        self.norm_at.copy_(state["norm_at"])
        self.norms_logged = state["norms_logged"]
        self.seconds_aside = state["seconds_aside"]
        self.run = Run(**state["run"])


def _named(split: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{split}_{metric}": value for metric, value in values.items()}


def _device_name(device: torch.device, processes: int) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return name if processes == 1 else f"{processes} x {name}"
