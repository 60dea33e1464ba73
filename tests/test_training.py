"""Training: recipes, schedules, batches, the loop, and that a kill costs nothing but time."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from resnorm import Block, Stack, conv3x3
from resnorm.data import DataSet, digits, number_words
from resnorm.models import cifar_resnet, transformer_lm
from resnorm.training import Checkpoint, Recipe, fit, learning_rates, loop
from resnorm.training.batches import Batches, Order
from resnorm.training.checkpoint import identity
from resnorm.training.graph import WARM_STEPS, CapturedStep
from resnorm.training.optimizers import build_optimizer
from resnorm.training.precision import autocast, choose_precision, gradient_scaler
from resnorm.training.scores import Scores, cross_entropy, spike_share

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
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


# --- Recipe


def test_recipe_survives_json():
    recipe = Recipe(schedule="step", milestones=(0.3, 0.6), warmup=0.1, clip=1.0, channels_last=False)
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert Recipe(**json.loads(json.dumps(Recipe().to_dict()))) == Recipe()


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("epochs", 0, "at least 1"),
        ("epochs", 1.5, "whole number"),
        ("batch_size", True, "whole number"),
        ("optimizer", "adam", "one of sgd, adamw, muon"),
        ("schedule", "linear", "one of constant, cosine, step, inverse_sqrt, one_cycle, wsd"),
        ("batch_tokens", 0, "None or a whole number above 0"),
        ("batch_tokens", 1e3, "None or a whole number above 0"),
        ("accumulate", 0, "at least 1"),
        ("accumulate", 129, "at most batch_size=128"),
        ("decay_share", 0, "above 0"),
        ("decay_share", 1.5, "at most 1"),
        ("augment", "flip", "one of none, crop_flip"),
        ("precision", "fp64", "one of auto, fp32, bf16, fp16"),
        ("lr", 0, "above 0"),
        ("lr", math.nan, "above 0"),
        ("lr", "0.1", "above 0"),
        ("momentum", 1.0, "below 1"),
        ("weight_decay", -1e-4, "at least 0"),
        ("label_smoothing", 1, "below 1"),
        ("warmup", 1.5, "a fraction of the run"),
        ("warmup", -1, "steps"),
        ("milestones", (0.6, 0.3), "increasing fractions"),
        ("milestones", (32_000,), "each between 0 and 1"),
        ("decay", 0, "above 0"),
        ("clip", 0.0, "None or a number above 0"),
        ("compile", 1, "true or false"),
        ("channels_last", "yes", "'auto'"),
        ("probe_every", -1, "at least 0"),
        ("evaluate_every", 0, "at least 1"),
    ],
)
def test_recipe_names_what_is_wrong(field, value, allowed):
    with pytest.raises(ValueError, match=f"recipe: {field}=.*must be .*{allowed}"):
        Recipe(**{field: value})


# --- Schedules

SCHEDULES = ("constant", "cosine", "step", "inverse_sqrt", "one_cycle", "wsd")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [10, 0.1])
def test_warm_up_combines_with_every_schedule(schedule, warmup):
    rates = learning_rates(Recipe(lr=2.0, schedule=schedule, warmup=warmup), 100)
    assert rates[:10] == pytest.approx([2.0 * (t + 1) / 10 for t in range(10)])
    assert max(rates) == pytest.approx(2.0, rel=0.05) and min(rates) > 0
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_schedules_have_their_shapes():
    def rates(schedule, **options):
        return learning_rates(Recipe(lr=1.0, schedule=schedule, **options), 100)

    assert rates("constant") == [1.0] * 100
    assert rates("step") == pytest.approx([1.0] * 50 + [0.1] * 25 + [0.01] * 25)
    assert rates("step", warmup=20)[50] == pytest.approx(0.1)  # milestones count from the start of the run
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for rate in rates("cosine"):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()
    vaswani = [min((t + 1) ** -0.5, (t + 1) * 25**-1.5) * 5 for t in range(100)]
    assert rates("inverse_sqrt", warmup=25) == pytest.approx(vaswani)
    falling = [0.04 * (100 - t) for t in range(75, 100)]
    assert rates("wsd", decay_share=0.25) == pytest.approx([1.0] * 75 + falling)
    halved = [1.0] * 25 + [0.02 * (100 - t) for t in range(50, 100)]
    assert rates("wsd", warmup=25, decay_share=0.5)[25:] == pytest.approx(halved)  # a share of the run, as in "step"
    triangle = rates("one_cycle")
    assert triangle[29] == 1.0 and triangle[0] == pytest.approx(1 / 30) and triangle[-1] == pytest.approx(1 / 70)


def test_warm_up_must_fit():
    with pytest.raises(ValueError, match="warmup=100 does not fit in a run of 100 steps.*fraction"):
        learning_rates(Recipe(warmup=100), 100)
    learning_rates(Recipe(warmup=80, schedule="wsd"), 100)
    with pytest.raises(ValueError, match="warmup=0.9 and decay_share=0.2 overlap in a run of 100 steps: take a shorter"):
        learning_rates(Recipe(warmup=0.9, schedule="wsd"), 100)


# --- Precision


def test_precision_is_chosen_by_device(monkeypatch):
    cuda = torch.device("cuda")
    assert choose_precision("auto", CPU) == "fp32" and choose_precision("bf16", CPU) == "bf16"
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert choose_precision("auto", cuda) == expected
    assert gradient_scaler("fp16", CPU).is_enabled() and not gradient_scaler("bf16", CPU).is_enabled()
    with autocast("bf16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_close_to_fp32(precision):
    found = {}
    for name in ("fp32", precision):
        run = fit(mlp(dropout=0.0), images(), replace(RECIPE, precision=name, clip=5.0), progress=False)
        assert run.status == "finished" and run.precision == name
        found[name] = run.metrics["train_loss"]
    assert found[precision] == pytest.approx(found["fp32"], rel=0.05) and found[precision] != found["fp32"]


# --- Batches


def test_order_is_a_function_of_seed_and_epoch():
    order, again = Order(50, 3, 1, CPU, shift=2), Order(50, 3, 1, CPU, shift=2)
    assert sorted(order.index.tolist()) == list(range(50))
    for name in ("index", "corner", "mirror"):
        assert torch.equal(getattr(order, name), getattr(again, name))
    for other in (Order(50, 4, 1, CPU, shift=2), Order(50, 3, 2, CPU, shift=2)):
        assert not torch.equal(order.index, other.index)


def test_a_plain_batch_is_normalised():
    found = images(channels=3)
    batches = Batches(found, "train", CPU)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (found.mean, found.std))
    expected = (found.train[0][5:20] / 255 - mean) / std
    torch.testing.assert_close(batches.plain(slice(5, 20))[0], (expected,))
    (whole,) = batches.plain(slice(None))[0]
    assert whole.mean((0, 2, 3)).abs().max() < 1e-3 and (whole.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_crop_and_flip_equal_the_same_done_image_by_image():
    found = images(40, size=16, channels=3)
    batches = Batches(found, "train", CPU, augment="crop_flip", channels_last=True)
    order = Order(40, 0, 0, CPU, batches.shift)
    (inputs,), targets = batches.batch(order, slice(8, 40))
    assert inputs.is_contiguous(memory_format=torch.channels_last) and inputs.shape == (32, 3, 16, 16)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (found.mean, found.std))
    for position in range(32):
        index, (top, left) = order.index[8 + position], order.corner[:, 8 + position].tolist()
        assert targets[position] == found.train[1][index]
        padded = (255 * mean).round().expand(3, 20, 20).clone()
        padded[:, 2:-2, 2:-2] = found.train[0][index]
        expected = padded[:, top : top + 16, left : left + 16]
        expected = expected.flip(2) if order.mirror[8 + position] else expected
        torch.testing.assert_close(inputs[position], (expected / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    assert order.corner.min() == 0 and order.corner.max() == 4 and 5 < order.mirror.sum() < 35
    torch.testing.assert_close(batches.plain(slice(40))[0], Batches(found, "train", CPU).plain(slice(40))[0])


def test_a_tensor_of_positions_gives_the_batch_of_the_slice():
    for found, augment in ((images(40, size=16, channels=3), "crop_flip"), (images(40), "none"), (sequences(), "none")):
        batches = Batches(found, "train", CPU, augment=augment)
        order = Order(len(batches), 0, 0, CPU, batches.shift)
        (x, *_), targets = batches.batch(order, slice(8, 24))
        (again, *_), same_targets = batches.batch(order, torch.arange(8, 24))
        assert torch.equal(x, again) and torch.equal(targets, same_targets)


def test_an_order_is_refilled_in_place():
    order, other = Order(50, 0, 0, CPU, shift=2), Order(50, 0, 1, CPU, shift=2)
    addresses = {name: tensor.data_ptr() for name, tensor in vars(order).items()}
    order.refill(other)
    assert addresses == {name: tensor.data_ptr() for name, tensor in vars(order).items()}
    assert all(torch.equal(tensor, getattr(other, name)) for name, tensor in vars(order).items())


def test_a_split_that_does_not_fit_streams_and_says_so(monkeypatch):
    found = images(40, size=16, channels=3)
    resident = Batches(found, "train", CPU, augment="crop_flip")
    assert resident.bytes >= 2 * 40 * 20 * 20 * 3
    monkeypatch.setattr("resnorm.training.batches._fits", lambda size, device: device.type == "cpu")
    with pytest.warns(UserWarning, match="the train split .* stays in the host's memory"):
        streamed = Batches(found, "train", torch.device("meta"), augment="crop_flip")
    assert streamed.home == CPU
    order = Order(40, 0, 0, streamed.home, streamed.shift)
    monkeypatch.setattr(streamed, "device", CPU)  # what the host would send, before it is sent
    for name in ("mean", "scale"):
        monkeypatch.setattr(streamed, name, getattr(resident, name))
    ((x,), targets), ((again,), same_targets) = (one.batch(order, slice(8)) for one in (streamed, resident))
    assert torch.equal(x, again) and torch.equal(targets, same_targets)


def test_small_batches_that_are_fetched_together_are_the_same_batches(monkeypatch):
    found, weights_of = images(96, size=16), []
    for size in (1, 5000, 2**18):  # one at a time, a few, the whole epoch
        monkeypatch.setattr(loop, "FETCH_BYTES", size)
        model = mlp(dropout=0.0, pixels=256)
        fit(model, found, replace(RECIPE, batch_size=20, augment="crop_flip"), progress=False)
        weights_of.append(weights(model))
    assert same(weights_of[0], weights_of[1]) and same(weights_of[0], weights_of[2])


@pytest.mark.parametrize(
    "variant",
    [
        "residual",
        "resnet_v1",
        "resnet_v2",
        "norm_after_add",
        "rskip_norm",
        "exclusive_gating",
        "shortcut_gating",
        "convolution_shortcut",
        "dropout_shortcut",
        "stochastic_depth",
    ],
)
@pytest.mark.parametrize("shortcut", ["zero_pad", "projection"])
def test_every_gradient_of_a_network_in_channels_last_is_channels_last(variant, shortcut):
    model = cifar_resnet(depth=8, width=8, variant=variant, shortcut=shortcut).to(memory_format=torch.channels_last)
    left = []

    def look(name, gradient):
        if not gradient.is_contiguous(memory_format=torch.channels_last):
            left.append(name)

    def follow(name, module, given, made):
        made.register_hook(lambda gradient: look(name, gradient))

    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, Block)):
            module.register_forward_hook(partial(follow, name))
    x = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    model(x).square().sum().backward()
    assert set(left) <= {"stack.blocks.2"}  # the last: its gradient is that of the mean over all pixels


def test_glibc_keeps_what_a_step_frees():
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    code = """
import resource, torch
from resnorm.training.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(2**24, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
assert keep_freed_memory()
faults()
print(before, faults())
"""
    before, after = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert after < before / 10


def test_a_cuda_graph_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="cuda_graph=True on cpu in fp32: it needs a GPU"):
        fit(mlp(), images(), RECIPE, device="cpu", cuda_graph=True, progress=False)


def test_a_cuda_graph_is_asked_for_by_name():
    with pytest.raises(ValueError, match="cuda_graph='always', but it must be true, false or 'auto'"):
        fit(mlp(), images(), RECIPE, device="cpu", cuda_graph="always", progress=False)


def test_an_automatic_cuda_graph_is_left_out_where_there_is_none():
    assert fit(mlp(), images(), RECIPE, device="cpu", cuda_graph="auto", progress=False).status == "finished"


# On a GPU convolutions add up in another order from run to run, and Muon computes in 16 bits: two runs of the same steps
# differ by far less than they move.
ON_A_GPU = {
    "sgd": (partial(cifar_resnet, depth=8, width=8, classes=4), partial(images, size=16, channels=3), dict(augment="crop_flip")),
    "adamw": (partial(transformer_lm, vocabulary=5, context=6, depth=2, width=16, heads=2), sequences, dict(clip=1, beta2=0.95)),
    "muon": (partial(transformer_lm, vocabulary=5, context=6, depth=2, width=16, heads=2), sequences, dict(weight_decay=0.1)),
}


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ON_A_GPU)
def test_a_cuda_graph_takes_the_same_steps(optimizer, monkeypatch):
    make, data, more = ON_A_GPU[optimizer]
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01, precision="fp32", probe_every=4, schedule="cosine", **more)
    torch.manual_seed(0)
    models, runs, captured = [make().cuda()], [], []
    capture = CapturedStep._capture
    monkeypatch.setattr(CapturedStep, "_capture", lambda self: captured.append(self) or capture(self))
    for cuda_graph in (False, "auto"):
        torch.manual_seed(0)
        models.append(make())
        runs.append(fit(models[-1], data(), recipe, device="cuda", cuda_graph=cuda_graph, progress=False))
    assert len(captured) == 1 and runs[0].metrics["steps"] > 2 * WARM_STEPS
    start, plain, graph = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    assert (graph - plain).norm() < 0.05 * (plain - start).norm()
    assert runs[1].metrics["train_loss"] == pytest.approx(runs[0].metrics["train_loss"], rel=1e-2)


@pytest.mark.gpu
def test_a_cuda_graph_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    make, data, more = ON_A_GPU["adamw"]
    recipe = replace(RECIPE, optimizer="adamw", lr=0.01, precision="fp32", **more)
    models = []
    for stops in (False, True):
        torch.manual_seed(0)
        models.append(make())
        again = partial(fit, models[-1], data(), recipe, device="cuda", cuda_graph=True, checkpoint=tmp_path / f"{stops}.pt")
        if stops:
            with monkeypatch.context() as patch, pytest.raises(Killed):
                stop_after(patch, 10)
                again(progress=False)
        again(progress=False)
    for a, b in zip(weights(models[0]), weights(models[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_step_waits_for_the_gpu(monkeypatch):
    model, found = cifar_resnet(depth=8, width=8, classes=4), images(size=16, channels=3)
    trained_on = loop._Loop._train_on

    def strict(self, inputs, targets):
        torch.cuda.set_sync_debug_mode("error")
        try:
            trained_on(self, inputs, targets)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop._Loop, "_train_on", strict)
    fit(model, found, replace(RECIPE, augment="crop_flip", precision="bf16"), device="cuda", progress=False)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits_on_a_gpu_learn(precision):
    make, data, more = ON_A_GPU["adamw"]
    torch.manual_seed(0)
    recipe = replace(RECIPE, optimizer="adamw", epochs=30, lr=0.01, precision=precision, **more)
    run = fit(make(), data(), recipe, device="cuda", cuda_graph="auto", progress=False)
    assert run.precision == precision and run.metrics["test_accuracy"] > 0.95


# --- Scores and optimisers


def test_scores_of_sequences_leave_out_what_is_not_scored():
    targets = torch.tensor([[-100, 1, 2], [-100, 3, -100], [0, 0, -100]])
    guesses = torch.tensor([[4, 1, 2], [4, 3, 4], [0, 1, 4]])  # two rows wholly right, 4 of 5 tokens
    logits = 3.0 * functional.one_hot(guesses, 5)
    scores = Scores(CPU)
    for part in (slice(0, 1), slice(1, 3)):
        scores.add(cross_entropy(logits[part], targets[part]), logits[part], targets[part])
    values = scores.metrics("sequences")
    assert values["accuracy"] == pytest.approx(4 / 5) and values["exact"] == pytest.approx(2 / 3)
    assert values["loss"] == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-6)


def test_label_smoothing():
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, -100, 1])
    smooth = functional.one_hot(targets.clamp(min=0), 4) * 0.9 + 0.1 / 4
    expected = -(smooth * logits.log_softmax(-1)).sum(-1)[targets >= 0].mean()
    torch.testing.assert_close(cross_entropy(logits, targets, 0.1), expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_weight_decay_spares_gains_and_biases_where_asked(optimizer, decay_norms):
    model = ConvNet()
    built = build_optimizer(model, Recipe(optimizer=optimizer, weight_decay=0.1, decay_norms=decay_norms))
    decay = {id(parameter): group["weight_decay"] for group in built.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.1 if decay_norms or parameter.dim() > 1 else 0.0), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fused_steps_equal_unfused_ones_on_channels_last(optimizer):
    models = [ConvNet(channels=3).to(memory_format=torch.channels_last) for _ in range(2)]
    recipe = Recipe(optimizer=optimizer, lr=0.05, weight_decay=0.01)
    fused, plain = (build_optimizer(model, recipe) for model in models)
    assert fused.param_groups[0]["fused"]
    plain.param_groups[0]["fused"] = False
    for step in range(3):
        for model, steps in ((models[0], fused), (models[1], plain)):
            torch.manual_seed(step)
            model(torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)).square().sum().backward()
            steps.step()
            steps.zero_grad()
    for a, b in zip(weights(models[0]), weights(models[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# --- The loop


def test_fit_learns_images():
    run = fit(ConvNet(), images(256), replace(RECIPE, epochs=5, augment="none", weight_decay=1e-4), progress=False)
    assert run.status == "finished" and run.metrics["steps"] == 5 * 16
    assert run.metrics["train_accuracy"] > 0.9 and run.metrics["test_accuracy"] > 0.9
    assert run.metrics["images_per_second"] > 0 and run.wall_seconds > 0 and run.peak_memory_bytes > 1e6
    assert (run.device, run.precision) == ("cpu", "fp32")


def test_fit_learns_sequences():
    run = fit(language_model(), sequences(), replace(RECIPE, epochs=20, optimizer="adamw", lr=0.05), progress=False)
    assert run.metrics["test_exact"] == run.metrics["test_accuracy"] == 1.0 and run.metrics["test_loss"] < 0.2
    assert run.metrics["tokens_per_second"] > 0 and "images_per_second" not in run.metrics


def test_curves_are_tidy_and_the_test_split_is_measured_once(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 4)
    run = fit(mlp(), images(), replace(RECIPE, evaluate_every=2), progress=False)
    assert all(set(row) == {"step", "epoch", "split", "metric", "value"} for row in run.curves)

    def steps(split, metric="accuracy"):
        return [row["step"] for row in run.curves if (row["split"], row["metric"]) == (split, metric)]

    assert steps("train") == [4, 6, 8, 12, 16, 18]  # every fourth step, and where an epoch of six ends
    assert steps("validation", "loss") == [12, 18] and steps("test") == [18]  # every second epoch, and the last
    last = [row for row in run.curves if row["step"] == 18 and row["split"] == "test"]
    assert {f"test_{row['metric']}": row["value"] for row in last}.items() <= run.metrics.items()
    json.dumps([run.curves, run.metrics, run.probes], allow_nan=False)


def test_final_training_values_are_means_over_the_last_epoch(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 4)
    run = fit(mlp(), images(), RECIPE, progress=False)
    parts = {row["step"]: row["value"] for row in run.curves if (row["split"], row["metric"]) == ("train", "loss")}
    assert run.metrics["train_loss"] == pytest.approx((parts[16] * 4 + parts[18] * 2) / 6)


def test_an_empty_validation_split_is_left_out():
    found = images()
    empty = tuple(tensor[:0] for tensor in found.validation)
    run = fit(mlp(), replace(found, validation=empty), RECIPE, progress=False)
    assert run.status == "finished" and not [name for name in run.metrics if name.startswith("validation")]


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_state():
    models = [mlp(), mlp(), mlp()]
    torch.manual_seed(9)
    state = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        fit(model, images(), RECIPE, seed=seed, progress=False)
        assert torch.equal(state, torch.get_rng_state())
    assert same(weights(models[0]), weights(models[1]))
    assert not same(weights(models[0]), weights(models[2]))


def test_probes_are_read_on_schedule_and_change_nothing():
    probed, plain = ConvNet(), ConvNet()
    run = fit(probed, images(), replace(RECIPE, probe_every=4), progress=False)
    fit(plain, images(), RECIPE, progress=False)
    assert same(weights(probed), weights(plain))
    assert sorted({row["step"] for row in run.probes}) == [0, 4, 8, 12, 16]
    assert {row["block"] for row in run.probes} == {0, 1, 2} and all(row["forward_rms"] > 0 for row in run.probes)


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_a_loss_that_is_not_finite_ends_the_run(where):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.calls = mlp(), 0

        def forward(self, x):
            self.calls += self.training
            broken = self.calls > 8 if where == "training" else not self.training and self.calls > 8
            return self.model(x) * (math.nan if broken else 1.0)

    model = Breaks()
    run = fit(model, images(), RECIPE, progress=False)
    assert run.status == "diverged" and run.metrics["steps"] == 12  # noticed where the second epoch ends
    assert set(run.metrics) == {"steps", "images_per_second"}  # what earlier epochs measured is not the result
    assert max(row["step"] for row in run.curves) == (6 if where == "training" else 12)
    json.dumps([run.curves, run.metrics], allow_nan=False)


def test_clipping_bounds_the_step():
    model, bound = mlp(), 1e-3
    before = weights(model)
    fit(model, images(16), Recipe(epochs=1, batch_size=16, lr=1.0, schedule="constant", momentum=0.0, clip=bound))
    change = sum((a - b).square().sum() for a, b in zip(before, weights(model), strict=True)).sqrt()
    assert change == pytest.approx(bound, rel=1e-2)


def test_one_step_is_that_of_plain_pytorch():
    model, reference, found = mlp(dropout=0.0), mlp(dropout=0.0), images(16)
    recipe = Recipe(epochs=1, batch_size=16, lr=0.3, schedule="constant", weight_decay=0.01, label_smoothing=0.1)
    fit(model, found, recipe, progress=False)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.01)
    x = (found.train[0] / 255 - found.mean[0]) / found.std[0]
    functional.cross_entropy(reference(x), found.train[1], label_smoothing=0.1).backward()
    optimizer.step()
    for a, b in zip(weights(model), weights(reference), strict=True):
        torch.testing.assert_close(a, b)


def test_images_reach_convolutions_in_channels_last():
    seen = []
    for setting in ("auto", False):
        model = ConvNet(channels=3)
        keep = lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))  # noqa: E731
        model.stem.register_forward_pre_hook(keep)
        fit(model, images(16, channels=3), Recipe(epochs=1, batch_size=16, channels_last=setting), progress=False)
        assert len(set(seen)) == 1
        assert seen[0] is (setting == "auto")
        seen.clear()


def test_fit_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="batch_size=128 is more than the 96 training examples of 'quadrants'"):
        fit(mlp(), images(), Recipe())
    with pytest.raises(ValueError, match="augment='crop_flip' is for images, but 'counting' holds sequences"):
        fit(language_model(), sequences(), replace(RECIPE, augment="crop_flip"))
    with pytest.raises(ValueError, match="warmup=500 does not fit in a run of 18 steps"):
        fit(mlp(), images(), replace(RECIPE, warmup=500))


def test_compiled_training_follows_the_eager_one(monkeypatch):
    used = []

    def traced(model, dynamic):  # traced, but not translated: that would need a C++ compiler
        used.append(model)
        return compile_model(model, backend="aot_eager", dynamic=dynamic)

    compile_model = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    runs = [fit(mlp(dropout=0.0), images(), replace(RECIPE, compile=compiled)) for compiled in (False, True)]
    assert runs[1].metrics["test_loss"] == pytest.approx(runs[0].metrics["test_loss"], rel=1e-3)
    assert len(used) == 1


# --- Checkpoints


class Killed(Exception):
    pass


def stop_after(monkeypatch, steps: int) -> None:
    one_step, count = loop._Loop._one_step, []

    def counted(self):
        if len(count) == steps:
            raise Killed
        count.append(one_step(self))

    monkeypatch.setattr(loop._Loop, "_one_step", counted)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("interval", [dict(steps=4), dict(epochs=1), dict(epochs=2)])
def test_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch, optimizer, interval):
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01, schedule="one_cycle", augment="crop_flip", probe_every=5)
    whole, stopped, resumed = ConvNet(), ConvNet(), ConvNet(seed=5)
    expected = fit(whole, images(), recipe, progress=False)
    checkpoint = Checkpoint(tmp_path / "folder" / "run.pt", **interval)
    with monkeypatch.context() as patch:
        stop_after(patch, 14)
        with pytest.raises(Killed):
            fit(stopped, images(), recipe, checkpoint=checkpoint)
    assert torch.load(checkpoint.path, weights_only=True)["step"] == 12
    found = fit(resumed, images(), recipe, checkpoint=checkpoint, progress=False)
    assert same(weights(whole), weights(resumed))
    assert found.curves == expected.curves and found.probes == expected.probes
    for metrics in (found.metrics, expected.metrics):
        metrics.pop("images_per_second")
    assert found.metrics == expected.metrics
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["run.pt"]


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    model = mlp()
    first = fit(model, images(), RECIPE, checkpoint=tmp_path / "run.pt", progress=False)
    stop_after(monkeypatch, 0)
    again = mlp(seed=3)
    assert fit(again, images(), RECIPE, checkpoint=tmp_path / "run.pt", progress=False) == first
    assert same(weights(model), weights(again))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(recipe=replace(RECIPE, lr=0.2)), "recipe.lr is 0.1 there and 0.2 here"),
        (dict(recipe=replace(RECIPE, epochs=4)), "recipe.epochs is 3 there and 4 here"),
        (dict(seed=1), "seed is 0 there and 1 here"),
        (dict(model=nn.Sequential(mlp())), r"model tensor 0.1.weight is absent there and \[16, 64\] here"),
        (dict(model=mlp(dropout=0.5)), "fingerprint of the modules is '"),  # the same tensors, another model
        (dict(data=images(128)), r"train split is '96 examples of \[1, 8, 8\].* and '128"),
        (dict(data=with_other_pixels()), r"train split is '96 examples.* and '96 examples"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    path = tmp_path / "run.pt"
    fit(mlp(), images(), RECIPE, checkpoint=path, progress=False)
    run = dict(model=mlp(), data=images(), recipe=RECIPE) | change
    with pytest.raises(ValueError, match=f"run.pt belongs to another run: .*{message}.*Delete .* checkpoint path"):
        fit(**run, checkpoint=path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    for content in (b"text", b""):
        (tmp_path / "run.pt").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint.*Delete"):
            fit(mlp(), images(), RECIPE, checkpoint=tmp_path / "run.pt")
    for interval in (dict(steps=0), dict(epochs=0), dict(epochs=None), dict(steps=1.5)):
        with pytest.raises(ValueError, match="must be a whole number above 0"):
            Checkpoint(tmp_path / "run.pt", **interval)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save(dict(identity=dict(a=1), step=1))

    def half_a_file(state, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half_a_file)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(dict(identity=dict(a=1), step=2))
    assert checkpoint.load(dict(a=1), CPU)["step"] == 1


def test_identity_does_not_hold_addresses():
    # A branch that shows a function shows its address, which is another one in the next process.
    class Shows(nn.Module):
        def extra_repr(self):
            return repr(object())

    first, second = Shows(), Shows()
    alive = [object() for _ in range(10)]
    ids = [identity(model, images(), RECIPE, 0, CPU, "fp32") for model in (first, second)]
    assert ids[0] == ids[1] and alive


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1] + "/tests")
from test_training import ConvNet, Checkpoint, Recipe, fit, images
torch.set_num_threads(1)
model = ConvNet()
recipe = Recipe(epochs=60, batch_size=16, lr=0.01, augment="crop_flip", schedule="one_cycle", weight_decay=1e-3)
fit(model, images(), recipe, checkpoint=Checkpoint(sys.argv[2], steps=7), progress=False)
torch.save(model.state_dict(), sys.argv[3])
"""


def test_sigkill_and_a_new_start_give_the_weights_of_an_uninterrupted_run(tmp_path):
    def start(checkpoint, result):
        command = [sys.executable, "-c", SCRIPT, str(ROOT), str(tmp_path / checkpoint), str(tmp_path / result)]
        return subprocess.Popen(command, cwd=ROOT)

    assert start("whole.pt", "whole_weights.pt").wait(timeout=300) == 0
    process = start("killed.pt", "killed_weights.pt")
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed_weights.pt").exists()
    assert 0 < torch.load(tmp_path / "killed.pt", weights_only=True)["step"] < 360
    assert start("killed.pt", "killed_weights.pt").wait(timeout=300) == 0
    whole, killed = (torch.load(tmp_path / f"{name}_weights.pt", weights_only=True) for name in ("whole", "killed"))
    assert list(whole) == list(killed) and same(list(whole.values()), list(killed.values()))


# --- Against loops and decoders written out


def test_the_loop_takes_the_steps_of_a_loop_written_out():
    recipe = Recipe(epochs=2, batch_size=20, lr=0.2, weight_decay=1e-3, clip=0.8, label_smoothing=0.1, warmup=3)
    model, expected, found = mlp(dropout=0.0), mlp(dropout=0.0), images()
    run = fit(model, found, recipe, seed=3, progress=False)
    optimizer = torch.optim.SGD(expected.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-3)
    rates, losses, norms = iter(learning_rates(recipe, 8)), [], []
    for epoch in range(2):
        index = Order(96, 3, epoch, CPU).index
        for batch in index[:80].split(20):  # the 16 examples that do not fill a batch are left out
            logits = expected((found.train[0][batch] / 255 - found.mean[0]) / found.std[0])
            loss = functional.cross_entropy(logits, found.train[1][batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(expected.parameters(), 0.8).item())
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.step()
            losses.append(loss.item())
    assert min(norms) < 0.8 < max(norms)  # some steps are clipped and some are not
    for a, b in zip(weights(model), weights(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert run.metrics["train_loss"] == pytest.approx(sum(losses[4:]) / 4, rel=1e-4)
    logits = expected((found.test[0] / 255 - found.mean[0]) / found.std[0])
    assert run.metrics["test_loss"] == pytest.approx(functional.cross_entropy(logits, found.test[1]).item(), rel=1e-3)


def test_only_training_batches_are_augmented_and_the_test_split_is_seen_once_and_last():
    found, seen = images(size=16), {True: [], False: []}
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    model.register_forward_pre_hook(lambda module, given: seen[module.training].append(given[0]))
    fit(model, found, replace(RECIPE, batch_size=96, augment="crop_flip"), progress=False)
    splits = [found.validation, found.validation, found.validation, found.test]
    for inputs, (pixels, _) in zip(seen[False], splits, strict=True):
        torch.testing.assert_close(inputs, (pixels / 255 - found.mean[0]) / found.std[0], rtol=1e-4, atol=1e-5)
    (plain,), _ = Batches(found, "train", CPU).plain(slice(None))
    given = {image.numpy().tobytes() for image in plain}
    changed = sum(image.numpy().tobytes() not in given for image in seen[True][0])
    assert changed > 80  # of 96: one in 50 is neither shifted nor mirrored


def test_exact_counts_the_rows_that_greedy_decoding_gives():
    words = number_words("en-de", limit=40)
    inputs, targets = words.train
    following = {}  # what comes after a beginning, known by heart but for one wrong character in every third row
    for number, (row, scored) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
        places = [place for place, target in enumerate(scored) if target >= 0]
        following |= {tuple(row[: place + 1]): scored[place] for place in places}
        if number % 3 == 0:
            following[tuple(row[: places[number % len(places)] + 1])] = 0
    guesses = [[following.get(tuple(row[: end + 1]), 0) for end in range(len(row))] for row in inputs.tolist()]
    logits = functional.one_hot(torch.tensor(guesses), words.spec["vocabulary"]).float()
    scores = Scores(CPU)
    scores.add(cross_entropy(logits, targets), logits, targets)

    separator, end = (words.spec["symbols"].index(symbol) for symbol in "=\n")
    right = 0
    for row, scored in zip(inputs.tolist(), targets, strict=True):
        start = row.index(separator) + 1
        text = row[:start]
        while len(text) <= words.spec["context"] and text[-1] != end:
            text.append(following.get(tuple(text), 0))
        right += text[start:] == scored[scored >= 0].tolist()
    assert scores.metrics("sequences")["exact"] == right / len(inputs)
    assert right == sum(number % 3 > 0 for number in range(len(inputs)))


# --- On the bundled data


def test_a_network_of_torch_learns_the_digits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    run = fit(model, digits(), Recipe(epochs=6, batch_size=64, lr=0.1), progress=False)
    losses = [row["value"] for row in run.curves if (row["split"], row["metric"]) == ("train", "loss")]
    assert losses[-1] < 0.2 * losses[0]
    assert run.metrics["test_accuracy"] > 0.9 and run.metrics["validation_accuracy"] > 0.9
    assert not model.training


def test_a_language_model_learns_number_words_by_heart():
    words = number_words("en-de", limit=20)
    words = replace(words, test=words.train)  # so that there are rows that are right throughout, to be counted
    torch.manual_seed(0)
    size = {key: words.spec[key] for key in ("vocabulary", "context")}
    model = transformer_lm(**size, depth=1, width=32, heads=2)
    recipe = Recipe(epochs=40, batch_size=8, optimizer="adamw", lr=0.01, clip=1.0, evaluate_every=20, probe_every=50)
    run = fit(model, words, recipe, progress=False)
    losses = [row["value"] for row in run.curves if (row["split"], row["metric"]) == ("train", "loss")]
    assert run.status == "finished" and losses[0] > 2.0 and losses[-1] < 0.2 * losses[0]
    metrics = ("loss", "accuracy", "exact")
    names = {f"{split}_{metric}" for split in ("train", "validation", "test") for metric in metrics}
    assert set(run.metrics) == names | {"steps", "tokens_per_second", "gradient_spikes"}
    assert [(row["step"], row["block"]) for row in run.probes] == [(0, 0), (0, 1), (50, 0), (50, 1)]
    with torch.no_grad():
        guesses = model(words.test[0]).argmax(-1)
    right, scored = guesses == words.test[1], words.test[1] >= 0
    assert run.metrics["test_accuracy"] == pytest.approx(((right & scored).sum() / scored.sum()).item())
    assert run.metrics["test_exact"] == (right | ~scored).all(1).float().mean().item() > 0.5


# --- What an end that is not the usual one leaves


def test_an_error_leaves_the_callers_state_too():
    def fail(*_):
        raise Killed

    model = mlp()
    model[-1].register_forward_hook(fail)
    torch.manual_seed(9)
    before = (torch.get_rng_state().tolist(), torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)
    with pytest.raises(Killed):
        fit(model, images(), RECIPE, progress=False)
    assert (torch.get_rng_state().tolist(), torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark) == before


def test_convolutions_may_use_cudnn_while_training():
    seen, model = set(), mlp()
    model.register_forward_pre_hook(lambda *_: seen.add((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)))
    fit(model, images(), RECIPE, progress=False)
    assert seen == {(True, True)}


def test_a_diverged_run_is_not_run_again(tmp_path, monkeypatch):
    recipe = replace(RECIPE, lr=1e30)
    first = fit(mlp(), images(), recipe, checkpoint=tmp_path / "run.pt", progress=False)
    stop_after(monkeypatch, 0)
    again = fit(mlp(), images(), recipe, checkpoint=tmp_path / "run.pt", progress=False)
    assert first.status == "diverged" and again == first


def test_the_scale_of_fp16_survives_a_new_start(tmp_path, monkeypatch):
    recipe, checkpoint = replace(RECIPE, precision="fp16"), Checkpoint(tmp_path / "run.pt", steps=4)
    with monkeypatch.context() as patch:
        stop_after(patch, 10)
        with pytest.raises(Killed):
            fit(mlp(), images(), recipe, checkpoint=checkpoint, progress=False)
    saved = torch.load(checkpoint.path, weights_only=True)
    saved["scaler"]["scale"] = 1024.0  # as after steps that overflowed
    torch.save(saved, checkpoint.path)
    fit(mlp(), images(), recipe, checkpoint=checkpoint, progress=False)
    state = torch.load(checkpoint.path, weights_only=True)["scaler"]
    assert state["scale"] == 1024.0 and state["_growth_tracker"] == 18


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    for content in (dict(identity=Code()), [1, 2]):
        torch.save(content, tmp_path / "run.pt")
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            fit(mlp(), images(), RECIPE, checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "made").exists()


def test_a_spike_stands_out_from_the_hundred_steps_before_it():
    calm = torch.ones(300) + 0.01 * torch.arange(300).remainder(2)
    assert spike_share(calm) == 0
    norms = calm.clone()
    norms[[150, 250]] = 2.0
    assert spike_share(norms) == pytest.approx(2 / 200)
    norms[50] = 100.0  # not judged, and it hides what follows within a hundred steps: 150 is the last of them
    assert spike_share(norms) == pytest.approx(1 / 200)
    norms[50], norms[200] = 1.0, torch.inf  # a spike itself, and it hides nothing
    assert spike_share(norms) == pytest.approx(3 / 200)
    assert spike_share(norms[:100]) == 0


def test_with_clipping_the_gradient_of_every_step_is_kept(tmp_path):
    recipe = Recipe(epochs=4, batch_size=8, lr=0.1, clip=1e-3)
    whole = fit(mlp(), images(64), recipe, progress=False)
    measured = [row["value"] for row in whole.curves if row["metric"] == "gradient_norm"]
    assert len(measured) == 4 and min(measured) > 1e-3  # before it is clipped
    assert whole.metrics["gradient_spikes"] == 0.0
    path = tmp_path / "checkpoint.pt"
    fit(mlp(), images(64), recipe, checkpoint=path, progress=False)
    state = torch.load(path, weights_only=True)
    assert state["norms"].isfinite().all() and state["norms"].shape == (32,)
    assert [state["norms"][at : at + 8].mean().item() for at in (0, 8, 16, 24)] == pytest.approx(measured)
    unclipped = fit(mlp(), images(64), replace(recipe, clip=None), progress=False)
    assert "gradient_spikes" not in unclipped.metrics and not any(row["metric"] == "gradient_norm" for row in unclipped.curves)
