import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook

from resnorm.data import DataSet, digits, number_words
from resnorm.models import transformer_lm
from resnorm.training import Checkpoint, Recipe, fit, learning_rates, loop
from resnorm.training.batches import Batches, Order
from resnorm.training.optimizers import build_optimizer
from resnorm.training.precision import choose_precision, gradient_scaler
from resnorm.training.scores import Scores, cross_entropy

CPU = torch.device("cpu")
# Every kind of state that a run has: momentum, an order with crops and flips, and, in `Network`, dropout and a batch norm.
SMALL = Recipe(epochs=3, batch_size=128, lr=0.05, augment="crop_flip", warmup=4, clip=1.0)
STEPS_PER_EPOCH = 1257 // 128


class Network(nn.Module):
    """Two blocks of linear, batch norm, ReLU and dropout."""

    def __init__(self, dropout: float = 0.2):
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout)) for _ in range(2)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def network(dropout: float = 0.2, seed: int = 0) -> Network:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Network(dropout)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return digits()


def trained(data: DataSet, recipe: Recipe = SMALL, model: nn.Module | None = None, **options):
    model = network() if model is None else model
    return model, fit(model, data, recipe, device="cpu", progress=False, **options)


def same(one: nn.Module, other: nn.Module) -> bool:
    other = other.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


def values(run, split: str, metric: str) -> list[float]:
    return [row["value"] for row in run.curves if row["split"] == split and row["metric"] == metric]


@pytest.fixture(scope="module")
def uninterrupted(data):
    torch.set_num_threads(1)
    return trained(data)


# --- Recipe


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("optimizer", "adam", "one of sgd, adamw"),
        ("schedule", "linear", "one of constant, cosine, step, inverse_sqrt, one_cycle"),
        ("augment", "cutout", "one of none, crop_flip"),
        ("precision", "fp64", "one of auto, fp32, bf16, fp16"),
        ("epochs", 0, "a whole number of at least 1"),
        ("epochs", 1.5, "a whole number of at least 1"),
        ("batch_size", True, "a whole number of at least 1"),
        ("probe_every", -1, "a whole number of at least 0"),
        ("evaluate_every", 0, "a whole number of at least 1"),
        ("lr", 0.0, "a number above 0"),
        ("lr", math.nan, "a number above 0"),
        ("lr", "0.1", "a number above 0"),
        ("weight_decay", -1e-4, "a number of at least 0"),
        ("momentum", 1.0, "at least 0 and below 1"),
        ("label_smoothing", 1, "at least 0 and below 1"),
        ("clip", 0, "None or a number above 0"),
        ("warmup", 1.0, "a fraction of the run"),
        ("warmup", -1, "steps"),
        ("decay", 0, "above 0 and at most 1"),
        ("milestones", (0.75, 0.5), "increasing fractions"),
        ("milestones", (0.5, 1.0), "increasing fractions"),
        ("milestones", 0.5, "increasing fractions"),
        ("compile", "yes", "true or false"),
        ("channels_last", "no", "true, false or 'auto'"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(field, value, allowed):
    with pytest.raises(ValueError) as caught:
        Recipe(**{field: value})
    assert f"recipe: {field}={value!r}" in str(caught.value) and allowed in str(caught.value)


def test_a_recipe_survives_json():
    recipe = Recipe(milestones=(0.3, 0.6), clip=1.0, warmup=0.1, channels_last=False, optimizer="adamw")
    assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert Recipe(**json.loads(json.dumps(Recipe().to_dict()))) == Recipe()
    assert hash(Recipe(milestones=[0.3, 0.6])) == hash(Recipe(milestones=(0.3, 0.6)))


# --- schedules


@pytest.mark.parametrize(
    "schedule, expected",
    [
        # of 100 steps with 20 of warm-up, in units of the largest rate; step 60 is half way from the warm-up to the end
        ("constant", {20: 1, 60: 1, 99: 1}),
        ("cosine", {20: 1, 40: (1 + math.cos(math.pi / 4)) / 2, 60: 0.5, 99: (1 + math.cos(math.pi * 79 / 80)) / 2}),
        ("step", {20: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
        ("inverse_sqrt", {20: math.sqrt(20 / 21), 79: 0.5}),
        ("one_cycle", {20: 1, 60: 0.5, 99: 1 / 80}),
    ],
)
def test_schedules_have_their_values_after_a_linear_warm_up(schedule, expected):
    for warmup in (20, 0.2):
        rates = learning_rates(Recipe(schedule=schedule, lr=0.4, warmup=warmup), 100)
        assert len(rates) == 100 and max(rates) == pytest.approx(0.4)
        assert rates[:20] == pytest.approx([0.4 * (t + 1) / 20 for t in range(20)])
        assert {t: rates[t] for t in expected} == pytest.approx({t: 0.4 * value for t, value in expected.items()})


def test_schedules_without_warm_up_begin_at_the_largest_rate_but_one_cycle_rises_for_30_percent():
    for schedule in ("constant", "cosine", "step", "inverse_sqrt"):
        assert learning_rates(Recipe(schedule=schedule, lr=0.4), 50)[0] == 0.4
    rates = learning_rates(Recipe(schedule="one_cycle", lr=0.4), 10)
    assert rates == pytest.approx([0.4 * r for r in (1 / 3, 2 / 3, 1, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7)])
    assert learning_rates(Recipe(schedule="inverse_sqrt", lr=0.4), 5)[3] == pytest.approx(0.2)


def test_a_warm_up_as_long_as_the_run_is_refused(data):
    with pytest.raises(ValueError, match="warmup=10 does not fit in a run of 10 steps: take fewer, a fraction"):
        learning_rates(Recipe(warmup=10), 10)
    with pytest.raises(ValueError, match="warmup=500 does not fit in a run of 27 steps"):
        trained(data, replace(SMALL, warmup=500))


def test_the_optimiser_steps_with_the_rates_of_the_schedule(data):
    seen = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    try:
        trained(data, replace(SMALL, warmup=5))
    finally:
        handle.remove()
    assert seen == learning_rates(replace(SMALL, warmup=5), 27)


# --- optimisers


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_are_decayed_or_spared(name):
    model = network()
    model.head.weight.requires_grad_(False)
    matrices = {model.stem.weight, model.blocks[0][0].weight, model.blocks[1][0].weight}
    trainable = {parameter for parameter in model.parameters() if parameter.requires_grad}

    def decays(decay_norms: bool) -> dict:
        recipe = Recipe(optimizer=name, weight_decay=0.03, decay_norms=decay_norms)
        groups = build_optimizer(model, recipe).param_groups
        return {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}

    assert decays(True) == dict.fromkeys(trainable, 0.03)
    assert decays(False) == {parameter: 0.03 if parameter in matrices else 0.0 for parameter in trainable}


def test_optimisers_take_their_settings_from_the_recipe():
    sgd = build_optimizer(network(), Recipe(momentum=0.8, lr=0.3)).defaults
    assert (sgd["momentum"], sgd["nesterov"], sgd["lr"], sgd["fused"]) == (0.8, True, 0.3, True)
    assert not build_optimizer(network(), Recipe(nesterov=False)).defaults["nesterov"]
    assert not build_optimizer(network(), Recipe(momentum=0.0)).defaults["nesterov"]
    adamw = build_optimizer(network(), Recipe(optimizer="adamw", momentum=0.8, beta2=0.95))
    assert isinstance(adamw, torch.optim.AdamW) and adamw.defaults["betas"] == (0.8, 0.95)


# --- batches


@pytest.fixture(scope="module")
def pictures() -> DataSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
    images[:, 1] //= 2  # channels that differ in mean and deviation, so that mixing them up shows
    images[:, 2] //= 4
    labels = torch.arange(40) % 10
    split = (images, labels)
    return DataSet("pictures", "images", split, split, split, spec=dict(inputs=3, size=16, classes=10))


def normalised(images: torch.Tensor, data: DataSet) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return (images / 255 - mean) / std


def test_crop_flip_is_padding_cropping_and_mirroring_image_by_image(pictures):
    batches = Batches(pictures, "train", CPU, "crop_flip")
    order = Order(40, seed=5, epoch=2, device=CPU, shift=batches.shift)
    images, targets = batches.batch(order, slice(10, 30))
    assert batches.shift == 2 and images.shape == (20, 3, 16, 16) and images.dtype == torch.float32
    padding = [round(mean * 255) for mean in pictures.mean]
    for place in range(20):
        number = order.index[10 + place].item()
        padded = torch.tensor(padding, dtype=torch.uint8).view(3, 1, 1).repeat(1, 20, 20)
        padded[:, 2:18, 2:18] = pictures.train[0][number]
        top, left = order.corner[:, 10 + place].tolist()
        cropped = padded[:, top : top + 16, left : left + 16]
        expected = cropped.flip(-1) if order.mirror[10 + place] else cropped
        assert torch.allclose(images[place], normalised(expected, pictures), atol=1e-5)
        assert targets[place] == number % 10


def test_an_order_shifts_both_ways_within_bounds_and_mirrors_half():
    order = Order(4000, seed=0, epoch=0, device=CPU, shift=2)
    for corner in order.corner:
        assert torch.bincount(corner, minlength=5).min() > 700 and set(corner.tolist()) == set(range(5))
    assert 0.47 < order.mirror.float().mean() < 0.53
    assert torch.equal(order.index.sort().values, torch.arange(4000))


def test_an_order_is_a_function_of_seed_and_epoch_and_not_of_augmentation():
    def index(seed, epoch, shift=None):
        return Order(1000, seed, epoch, CPU, shift).index.tolist()

    torch.manual_seed(1)
    first = index(0, 1)
    torch.manual_seed(2)
    assert index(0, 1) == index(0, 1, shift=2) == first
    assert first not in (index(0, 2), index(1, 1), index(1, 0))


def test_evaluation_batches_are_normalised_and_not_augmented(pictures):
    expected = normalised(pictures.train[0], pictures)
    assert torch.allclose(expected.mean((0, 2, 3)), torch.zeros(3), atol=1e-3)
    assert torch.allclose(expected.std((0, 2, 3)), torch.ones(3), atol=1e-2)
    for augment in ("none", "crop_flip"):
        images, targets = Batches(pictures, "train", CPU, augment).plain(slice(5, 12))
        assert torch.allclose(images, expected[5:12], atol=1e-5) and torch.equal(targets, pictures.train[1][5:12])
    order = Order(40, seed=0, epoch=0, device=CPU)
    images, targets = Batches(pictures, "train", CPU).batch(order, slice(0, 8))
    assert torch.allclose(images, expected[order.index[:8]], atol=1e-5)


def test_only_training_batches_are_augmented(pictures):
    seen = {True: [], False: []}
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    model.register_forward_pre_hook(lambda module, inputs: seen[module.training].append(inputs[0]))
    trained(pictures, Recipe(epochs=2, batch_size=40, augment="crop_flip"), model)
    expected = normalised(pictures.test[0], pictures)
    assert len(seen[False]) == 3 and all(torch.allclose(images, expected, atol=1e-5) for images in seen[False])
    assert not torch.equal(seen[True][0].sum(), seen[True][1].sum())


def test_channels_last_is_chosen_where_the_model_has_convolutions(pictures):
    def stride_seen(model: nn.Module, **settings) -> tuple[int, ...]:
        strides = []
        model.register_forward_pre_hook(lambda module, inputs: strides.append(inputs[0].stride()))
        trained(pictures, Recipe(epochs=1, batch_size=20, **settings), model)
        assert len(set(strides)) == 1
        return strides[0]

    def convolution():
        return nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert stride_seen(convolution()) == (768, 1, 48, 3)
    assert stride_seen(convolution(), channels_last=False) == (768, 256, 16, 1)
    assert stride_seen(nn.Sequential(nn.Flatten(), nn.Linear(768, 10))) == (768, 256, 16, 1)


# --- scores


def test_scores_count_what_is_scored_and_rows_that_are_right_throughout():
    targets = torch.tensor([[-100, 0, 1], [-100, 1, 1], [-100, -100, 0]])
    said = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 1, 0]])
    logits = functional.one_hot(said, 2) * math.log(3.0)
    scores = Scores(CPU)
    for rows in (slice(0, 2), slice(2, 3)):
        scores.add(cross_entropy(logits[rows], targets[rows]), logits[rows], targets[rows])
    # Right means probability 3/4, wrong 1/4: four of the five scored characters are right.
    loss = (4 * math.log(4 / 3) + math.log(4)) / 5
    assert scores.metrics("sequences") == pytest.approx(dict(loss=loss, accuracy=4 / 5, exact=2 / 3))
    assert set(scores.metrics("images")) == {"loss", "accuracy"}


def test_exact_counts_the_rows_that_greedy_decoding_gives():
    words = number_words("en-de", limit=40)
    inputs, targets = words.train
    following = {}  # a model that knows these rows by heart, but has every third one wrong somewhere
    for number, (row, scored) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
        places = [place for place, target in enumerate(scored) if target >= 0]
        for place in places:
            following[tuple(row[: place + 1])] = scored[place]
        if number % 3 == 0:
            following[tuple(row[: places[number % len(places)] + 1])] = 0
    logits = torch.zeros(*inputs.shape, words.spec["vocabulary"])
    for row in range(len(inputs)):
        for place in range(inputs.shape[1]):
            logits[row, place, following.get(tuple(inputs[row, : place + 1].tolist()), 0)] = 1.0
    scores = Scores(CPU)
    scores.add(cross_entropy(logits, targets), logits, targets)

    decoded_right = 0
    for row, scored in zip(inputs, targets, strict=True):
        text = row.tolist()[: row.tolist().index(words.spec["symbols"].index("=")) + 1]
        start = len(text)
        while len(text) <= words.spec["context"] and words.decode(torch.tensor(text[-1:])) != "\n":
            text.append(following.get(tuple(text), 0))
        decoded_right += words.decode(torch.tensor(text[start:])) == words.decode(scored)
    assert scores.metrics("sequences")["exact"] == decoded_right / len(inputs)
    assert 0.6 < decoded_right / len(inputs) < 0.7


# --- the loop


def test_the_loop_takes_the_steps_of_a_loop_written_out(data):
    recipe = Recipe(epochs=2, batch_size=100, lr=0.2, weight_decay=1e-3, clip=0.5, label_smoothing=0.1, warmup=6)
    model, run = trained(data, recipe, network(dropout=0.0), seed=3)
    expected = network(dropout=0.0)
    optimizer = torch.optim.SGD(expected.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-3)
    rates = iter(learning_rates(recipe, 24))
    losses, norms = [], []
    for epoch in range(2):
        index = Order(1257, 3, epoch, CPU).index
        for start in range(0, 1200, 100):
            batch = index[start : start + 100]
            logits = expected(normalised(data.train[0][batch], data))
            loss = functional.cross_entropy(logits, data.train[1][batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(expected.parameters(), 0.5).item())
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.step()
            losses.append(loss.item())
    assert min(norms) < 0.5 < max(norms)
    for name, tensor in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name], tensor, atol=1e-4), name
    assert values(run, "train", "loss") == pytest.approx([sum(losses[:12]) / 12, sum(losses[12:]) / 12], rel=1e-4)
    expected.eval()
    logits = expected(normalised(data.test[0], data))
    assert run.metrics["test_loss"] == pytest.approx(functional.cross_entropy(logits, data.test[1]).item(), rel=1e-3)
    right = (logits.argmax(1) == data.test[1]).float().mean().item()
    assert run.metrics["test_accuracy"] == pytest.approx(right, abs=0.006)


def test_a_network_learns_the_digits(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model, run = trained(data, Recipe(epochs=6, batch_size=64, lr=0.1), model)
    losses = values(run, "train", "loss")
    assert run.status == "finished" and losses[-1] < 0.2 * losses[0]
    assert run.metrics["test_accuracy"] > 0.9 and run.metrics["validation_accuracy"] > 0.9
    assert run.metrics["steps"] == 6 * 19 and run.metrics["images_per_second"] > 0
    assert run.wall_seconds > 0 and run.peak_memory_bytes > 2**20 and (run.device, run.precision) == ("cpu", "fp32")
    assert not model.training


def test_curves_are_tidy_and_the_final_metrics_are_those_of_the_last_epoch(data, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 4)
    _, run = trained(data, replace(SMALL, evaluate_every=2))
    assert all(set(row) == {"step", "epoch", "split", "metric", "value"} for row in run.curves)
    steps = {split: [r["step"] for r in run.curves if (r["split"], r["metric"]) == (split, "loss")]
             for split in ("train", "validation", "test")}  # fmt: skip
    assert steps == dict(train=[4, 8, 9, 12, 16, 18, 20, 24, 27], validation=[18, 27], test=[27])
    assert {row["epoch"] for row in run.curves} == {step / 9 for step in steps["train"]}
    for metric in ("loss", "accuracy"):
        last = values(run, "train", metric)[-3:]
        assert run.metrics[f"train_{metric}"] == pytest.approx((2 * last[0] + 4 * last[1] + 3 * last[2]) / 9)
        assert run.metrics[f"validation_{metric}"] == values(run, "validation", metric)[-1]
        assert [run.metrics[f"test_{metric}"]] == values(run, "test", metric)
    json.dumps([run.curves, run.metrics], allow_nan=False)


def test_the_test_split_is_seen_once_and_last(data):
    sizes = []
    model = network()
    model.register_forward_pre_hook(lambda module, inputs: module.training or sizes.append(len(inputs[0])))
    trained(data, SMALL, model)
    assert sizes == [180, 180, 180, 360]


def test_a_data_set_without_validation_is_trained_on_and_tested(data):
    whole = digits(validation=0)
    _, run = trained(whole, replace(SMALL, epochs=1))
    assert run.status == "finished" and "test_loss" in run.metrics
    assert not any(name.startswith("validation") for name in run.metrics)


def test_runs_that_do_not_fit_their_data_are_refused(data):
    with pytest.raises(ValueError, match="batch_size=1258 is more than the 1257 training examples of 'digits'"):
        trained(data, replace(SMALL, batch_size=1258))
    with pytest.raises(ValueError, match="augment='crop_flip' is for images, and 'number_words en-vi' holds sequences"):
        trained(number_words(limit=20), replace(SMALL, batch_size=4))


# --- determinism


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(data, uninterrupted):
    torch.manual_seed(123)  # the caller's random state must not matter
    again, run = trained(data)
    assert same(again, uninterrupted[0]) and run.metrics["test_loss"] == uninterrupted[1].metrics["test_loss"]
    other, _ = trained(data, seed=1)
    assert not torch.equal(other.head.weight, again.head.weight)


def test_dropout_is_drawn_anew_by_the_seed_of_the_run(data):
    # Without an order that differs, only the random state of the run is left to make two seeds differ.
    small = DataSet("one batch", "images", *[tuple(t[:128] for t in data.train)] * 3, spec=data.spec)
    recipe = Recipe(epochs=1, batch_size=128)
    outputs = []
    for seed in (0, 0, 1):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
        model[1].register_forward_hook(
            lambda module, _, output: outputs.append((output != 0).sum().item()) if module.training else None
        )
        trained(small, recipe, model, seed=seed)
    assert outputs[0] == outputs[1] != outputs[2]


def test_the_callers_random_state_is_left_as_it_was(data):
    before = torch.get_rng_state()
    trained(data, replace(SMALL, probe_every=5))
    assert torch.equal(torch.get_rng_state(), before)

    def fail(*_):
        raise RuntimeError("in the forward pass")

    model = network()
    model.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the forward pass"):
        trained(data, SMALL, model)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_leaves_cudnn_on_and_the_callers_flags_as_they_were(data):
    flags = []
    model = network()
    model.register_forward_pre_hook(
        lambda *_: flags.append((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark))
    )
    before = (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)
    trained(data, replace(SMALL, epochs=1), model)
    assert set(flags) == {(True, True)}
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark) == before


# --- divergence


def spoil(model: nn.Module, training: bool, after: int) -> None:
    """From the forward pass number ``after`` on, in training or in evaluation, the logits are NaN."""
    calls = []

    def hook(module, _, output):
        if module.training == training:
            calls.append(1)
            return output * math.nan if len(calls) > after else output

    model.register_forward_hook(hook)


def test_a_loss_that_becomes_nan_ends_the_run_and_leaves_no_final_metrics(data):
    model = network()
    spoil(model, training=True, after=14)  # in the second epoch of three
    model, run = trained(data, SMALL, model)
    assert run.status == "diverged"
    assert set(run.metrics) == {"steps", "images_per_second"} and run.metrics["steps"] == 18
    assert len(values(run, "train", "loss")) == len(values(run, "validation", "loss")) == 1
    assert not values(run, "test", "loss")
    json.dumps([run.curves, run.metrics], allow_nan=False)


def test_a_learning_rate_that_is_far_too_large_diverges(data):
    assert trained(data, replace(SMALL, lr=1e30, warmup=0, clip=None))[1].status == "diverged"


@pytest.mark.parametrize("after, validated", [(1, 1), (3, 3)])
def test_a_loss_that_is_nan_only_in_evaluation_is_divergence_too(data, after, validated):
    model = network()
    spoil(model, training=False, after=after)
    _, run = trained(data, SMALL, model)
    assert run.status == "diverged" and set(run.metrics) == {"steps", "images_per_second"}
    assert len(values(run, "validation", "loss")) == validated and not values(run, "test", "loss")


# --- probes


def test_probes_are_recorded_every_n_steps_and_change_nothing(data, uninterrupted):
    model, run = trained(data, replace(SMALL, probe_every=5))
    assert same(model, uninterrupted[0])
    assert run.curves == uninterrupted[1].curves
    assert [(row["step"], row["block"]) for row in run.probes] == [(s, b) for s in range(0, 27, 5) for b in range(3)]
    assert [row["epoch"] for row in run.probes[::3]] == [step / STEPS_PER_EPOCH for step in range(0, 27, 5)]
    assert all(row["forward_rms"] > 0 and row["gradient_norm"] > 0 for row in run.probes)
    # At step 0 the model is the one that was handed in: its stem is what enters the first block.
    stream = network().stem(normalised(data.train[0][:64], data).flatten(1))
    assert run.probes[0]["forward_rms"] == pytest.approx(stream.square().mean().sqrt().item(), rel=1e-4)
    assert uninterrupted[1].probes == []


# --- precision and compilation


def test_precision_is_chosen_by_what_the_device_has(monkeypatch):
    assert choose_precision("auto", CPU) == "fp32" and choose_precision("bf16", CPU) == "bf16"
    gpu = SimpleNamespace(type="cuda")
    for capability, expected in {(7, 5): "fp16", (8, 0): "bf16", (9, 0): "bf16", (7, 0): "fp16"}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert choose_precision("auto", gpu) == expected
    assert choose_precision("fp32", gpu) == "fp32"


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)])
def test_lower_precision_computes_in_it_and_keeps_the_weights_in_fp32(data, precision, dtype):
    assert gradient_scaler(precision, CPU).is_enabled() == (precision == "fp16")
    model, seen = network(), {True: set(), False: set()}
    model.head.register_forward_hook(lambda module, _, output: seen[module.training].add(output.dtype))
    model, run = trained(data, replace(SMALL, precision=precision), model)
    losses = values(run, "train", "loss")
    assert run.status == "finished" and run.precision == precision and losses[-1] < 0.7 * losses[0]
    assert seen == {True: {dtype}, False: {dtype}}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


def test_clipping_sees_gradients_without_the_scale_of_fp16(data):
    # With gradients left at 65,536 times their size, a norm of 1.0 would clip every step and slow training down.
    recipe = replace(SMALL, clip=1e3, epochs=1)
    scaled, _ = trained(data, replace(recipe, precision="fp16"), network(0.0))
    plain, _ = trained(data, recipe, network(0.0))
    assert torch.allclose(scaled.head.weight, plain.head.weight, atol=5e-3)
    assert not torch.allclose(network(0.0).head.weight, plain.head.weight, atol=2e-2)


def test_compile_is_for_training_alone_and_off_unless_asked_for(data, monkeypatch):
    calls = []

    def compiled(model):
        return lambda inputs: calls.append(model.training) or model(inputs)

    monkeypatch.setattr(torch, "compile", compiled)
    trained(data, replace(SMALL, epochs=1))
    assert calls == []
    trained(data, replace(SMALL, epochs=1, compile=True))
    assert calls == [True] * STEPS_PER_EPOCH


# --- checkpoints

KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
import torch
import test_training as t
from resnorm.data import digits

count = 0
def die(*arguments):
    global count
    count += 1
    if count == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return True

model = t.network()
if {inside_save}:
    os.fsync = die
else:
    model.register_forward_pre_hook(die)
t.fit(model, digits(), t.SMALL, device="cpu", checkpoint=t.Checkpoint({path!r}, steps=4), progress=False)
"""


def test_a_killed_run_goes_on_to_the_same_weights(data, uninterrupted, tmp_path):
    # One is killed in step 15 (the 14 before are 4 x 3 + 2, and one evaluation), one while it writes the checkpoint of
    # step 16 over that of step 12: both stand in the middle of the second epoch.
    paths = [tmp_path / "in_a_step.pt", tmp_path / "in_a_save.pt"]
    environment = os.environ | dict(OMP_NUM_THREADS="1")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED.format(
                tests=str(Path(__file__).parent), root=str(Path(__file__).parent.parent), path=str(path),
                at=at, inside_save=inside_save)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for path, at, inside_save in ((paths[0], 16, False), (paths[1], 4, True))
    ]  # fmt: skip
    for child in children:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == -signal.SIGKILL, errors
    assert (tmp_path / "in_a_save.pt.partial").exists() and not (tmp_path / "in_a_step.pt.partial").exists()
    for path in paths:
        assert torch.load(path, weights_only=True)["step"] == 12
        steps = []
        handle = register_optimizer_step_pre_hook(lambda *_, steps=steps: steps.append(1))
        model, run = trained(data, model=network(seed=7), checkpoint=Checkpoint(path, steps=4))
        handle.remove()
        assert len(steps) == 27 - 12
        assert same(model, uninterrupted[0])
        assert run.curves == uninterrupted[1].curves
        timeless = {name for name in run.metrics if not name.endswith("per_second")}
        assert {name: run.metrics[name] for name in timeless} == {n: uninterrupted[1].metrics[n] for n in timeless}
        assert not path.with_name(path.name + ".partial").exists()


def interrupt(data: DataSet, path: Path, recipe: Recipe = SMALL, step: int = 14) -> None:
    """Leave the checkpoint of a run that was interrupted in the second epoch."""
    model, calls = network(), []

    def hook(module, _):
        calls.append(1)
        if len(calls) > step:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(hook)
    with pytest.raises(KeyboardInterrupt):
        trained(data, recipe, model, checkpoint=path)


def test_resuming_keeps_probes_and_the_step_size_of_adamw(data, tmp_path):
    recipe = replace(SMALL, optimizer="adamw", lr=0.01, weight_decay=0.1, decay_norms=False, probe_every=4)
    expected, whole = trained(data, recipe)
    interrupt(data, tmp_path / "run.pt", recipe, step=20)
    model, run = trained(data, recipe, network(seed=7), checkpoint=tmp_path / "run.pt")
    assert same(model, expected) and run.probes == whole.probes


def test_resuming_keeps_the_scale_of_fp16(data, tmp_path):
    recipe = replace(SMALL, precision="fp16", clip=None)
    expected, _ = trained(data, recipe)
    interrupt(data, tmp_path / "run.pt", recipe)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    assert saved["scaler"]["scale"] > 1 and saved["scaler"]["_growth_tracker"] > 0
    model, _ = trained(data, recipe, network(seed=7), checkpoint=tmp_path / "run.pt")
    assert same(model, expected)


def test_a_run_that_is_over_is_not_run_again(data, uninterrupted, tmp_path):
    spoiled = network()
    spoil(spoiled, training=True, after=14)
    for path, model in ((tmp_path / "finished.pt", network()), (tmp_path / "diverged.pt", spoiled)):
        model, run = trained(data, SMALL, model, checkpoint=path)
        other = network(seed=7)
        other.register_forward_pre_hook(lambda *_: pytest.fail("it must not train"))
        other, again = trained(data, SMALL, other, checkpoint=path)
        assert again == run and not other.training
        assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(other.parameters(), model.parameters(), strict=True))
    assert run.status == "diverged"


def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(data, tmp_path):
    path = tmp_path / "run.pt"
    interrupt(data, path)
    before = path.read_bytes()
    smaller = DataSet("digits", "images", tuple(t[:1000] for t in data.train), data.validation, data.test, data.spec)
    wider = network()
    wider.head = nn.Linear(32, 11)
    for arguments, difference in [
        (dict(recipe=replace(SMALL, lr=0.1)), "recipe.lr is 0.05 there and 0.1 here"),
        (dict(recipe=replace(SMALL, clip=None)), "recipe.clip is 1.0 there and absent here"),
        (dict(seed=1), "seed is 0 there and 1 here"),
        (dict(model=wider), r"model tensor head.bias is \[10\] there and \[11\] here"),
        (dict(model=network(dropout=0.3)), "model is '"),
        (dict(data=smaller), r"digits \(1257 training.*digits \(1000 training"),
    ]:
        with pytest.raises(ValueError, match=f"belongs to another run: .*{difference}") as caught:
            trained(**(dict(data=data, checkpoint=path) | arguments))
        assert f"Delete {path}" in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "another file of torch's"])
def test_a_checkpoint_that_cannot_be_read_is_named(data, tmp_path, damage):
    path = tmp_path / "run.pt"
    if damage == "another file of torch's":
        torch.save([1, 2], path)
    else:
        interrupt(data, path)
        path.write_bytes({"truncated": path.read_bytes()[:2000], "text": b"not a checkpoint", "empty": b""}[damage])
    with pytest.raises(ValueError, match="run.pt cannot be read as a checkpoint.*Delete .*run.pt to start anew"):
        trained(data, checkpoint=path)


def test_a_checkpoint_that_would_run_code_is_refused(data, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save(dict(identity=Code()), tmp_path / "run.pt")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        trained(data, checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "made").exists()


def test_a_partial_file_is_never_loaded(data, uninterrupted, tmp_path):
    (tmp_path / "run.pt.partial").write_bytes(b"half of a checkpoint")
    model, _ = trained(data, checkpoint=tmp_path / "run.pt")
    assert same(model, uninterrupted[0])
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_is_due_by_epochs_or_by_steps():
    def due(**settings):
        checkpoint = Checkpoint("run.pt", **settings)
        return [step for step in range(1, 28) if checkpoint.due(step, 9)]

    assert due() == [9, 18, 27] and due(epochs=2) == [18] and due(steps=10) == [10, 20]
    for settings in (dict(steps=0), dict(epochs=0), dict(steps=1.5), dict(epochs=None)):
        with pytest.raises(ValueError, match=f"checkpoint: {next(iter(settings))}=.*whole number above 0"):
            Checkpoint("run.pt", **settings)


# --- sequences


def test_a_language_model_learns_number_words_and_reports_exact_rows():
    words = number_words("en-de", limit=60)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = transformer_lm(**{key: words.spec[key] for key in ("vocabulary", "context")}, depth=1, width=32, heads=2)
    recipe = Recipe(epochs=12, batch_size=16, optimizer="adamw", lr=0.01, clip=1.0, evaluate_every=12, probe_every=20)
    model, run = trained(words, recipe, model)
    losses = values(run, "train", "loss")
    assert run.status == "finished" and losses[0] > 2.0 and losses[-1] < 0.6 * losses[0]
    names = {f"{split}_{metric}" for split in ("train", "validation", "test") for metric in ("loss", "accuracy", "exact")}
    assert set(run.metrics) == names | {"steps", "tokens_per_second"}
    assert [(row["step"], row["block"]) for row in run.probes] == [(0, 0), (0, 1), (20, 0), (20, 1)]
    with torch.no_grad():
        said = model(words.test[0]).argmax(-1)
    targets = words.test[1]
    right = sum(bool((said[row] == targets[row])[targets[row] >= 0].all()) for row in range(len(targets)))
    assert run.metrics["test_exact"] == right / len(targets)
    assert run.metrics["test_accuracy"] == pytest.approx(((said == targets).sum() / (targets >= 0).sum()).item())
