"""The loop: what it learns, its curves, memory in evaluation, modes that the caller chose, targets that are not scored."""

import json
import math
from dataclasses import replace

import pytest
import small_runs as usual
import test_training_pairs as of_pairs
import torch
from torch import nn
from torch.nn import functional

from resnorm.data import DataSet, digits, number_words
from resnorm.data.dataset import NOT_SCORED
from resnorm.models import transformer_lm
from resnorm.probes import measure, measure_in_parts
from resnorm.training import Recipe, fit, learning_rates, loop, precision
from resnorm.training.batches import Batches, Order
from resnorm.training.scores import Scores, cross_entropy

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05)


def language_model() -> nn.Module:
    torch.manual_seed(0)
    return transformer_lm(vocabulary=5, context=6, depth=2, width=16, heads=2)


# --- Memory


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 1), (16, 1), (16, 8), (15, 4)])
def test_evaluation_and_probes_hold_no_more_rows_than_a_step(batch_size, accumulate):
    rows = {True: set(), False: set()}
    model = language_model()
    model.register_forward_pre_hook(lambda module, given: rows[module.training].add(len(given[0])))
    recipe = Recipe(epochs=1, batch_size=batch_size, accumulate=accumulate, lr=0.01, probe_every=20)
    fit(model, usual.sequences(), recipe, device="cpu", progress=False)
    assert max(rows[False]) <= max(rows[True]) == -(-batch_size // accumulate)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_batches_of_tokens_are_evaluated_as_they_are_trained(accumulate):
    tokens = {True: set(), False: set()}
    model = of_pairs.Translator()
    model.register_forward_pre_hook(lambda module, given: tokens[module.training].add(sum(map(torch.numel, given))))
    recipe = replace(of_pairs.RECIPE, epochs=1, accumulate=accumulate, probe_every=10)
    fit(model, of_pairs.pairs(), recipe, device="cpu", progress=False)
    # A third of a batch is a whole number of rows, and the longest row is a batch by itself.
    assert max(tokens[False]) <= max(tokens[True]) <= 60 // accumulate + 20


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_an_evaluation_is_the_same_whatever_the_batch(batch_size):
    data, model = usual.sequences(), language_model()
    run = fit(model, data, Recipe(epochs=1, batch_size=batch_size, lr=0.01), device="cpu", progress=False)
    with torch.no_grad():
        logits = model(data.validation[0])
    loss = functional.cross_entropy(logits.double().flatten(0, 1), data.validation[1].flatten(), ignore_index=NOT_SCORED)
    assert run.metrics["validation_loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_a_probe_in_parts_reads_what_one_pass_reads():
    model, (tokens, targets) = language_model(), usual.sequences().train
    whole = measure(model, tokens[:20], lambda logits: cross_entropy(logits, targets[:20]))
    scored = (targets[:20] != NOT_SCORED).sum()
    parts = [
        (tokens[start : start + 6], lambda logits, rows=targets[start : start + 6]: cross_entropy(logits, rows, scored=scored), {})
        for start in range(0, 18, 6)
    ]
    rest = (tokens[18:20], lambda logits: cross_entropy(logits, targets[18:20], scored=scored), {})
    for row, other in zip(whole, measure_in_parts(model, [*parts, rest]), strict=True):
        assert {key: value for key, value in row.items() if value is not None} == pytest.approx(
            {key: value for key, value in other.items() if value is not None}, rel=1e-4
        )


def test_the_epochs_checkpoint_comes_before_its_evaluation(tmp_path, monkeypatch):
    whole, resumed = usual.ConvNet(), usual.ConvNet(seed=5)
    expected = fit(whole, usual.images(), RECIPE, progress=False)

    def out_of_memory(self, split):
        raise MemoryError

    for _ in range(2):  # and again: the evaluation that failed is the first thing that the next start does
        with monkeypatch.context() as patch:
            patch.setattr(loop._Loop, "_evaluate", out_of_memory)
            with pytest.raises(MemoryError):
                fit(usual.ConvNet(), usual.images(), RECIPE, checkpoint=tmp_path / "run.pt", progress=False)
    assert torch.load(tmp_path / "run.pt", weights_only=True)["step"] == 6
    steps, one_step = [], loop._Loop._one_step
    monkeypatch.setattr(loop._Loop, "_one_step", lambda self: (steps.append(self.step), one_step(self)))
    found = fit(resumed, usual.images(), RECIPE, checkpoint=tmp_path / "run.pt", progress=False)
    assert steps == list(range(6, 12))
    assert usual.same(usual.weights(whole), usual.weights(resumed)) and found.curves == expected.curves
    for metrics in (found.metrics, expected.metrics):
        metrics.pop("images_per_second")
    assert found.metrics == expected.metrics


# --- Modes


class Merges(nn.Linear):
    """Does something more when its mode changes, as layers do that merge an adapter for evaluation."""

    merged = False

    def train(self, mode: bool = True) -> nn.Module:
        self.merged = not mode
        return super().train(mode)


def parts() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), Merges(8, 4)
    )


def test_what_the_caller_has_put_in_eval_mode_stays_in_it():
    model = parts()
    model[1].eval()
    model[5].eval()
    before = {name: value.clone() for name, value in model[1].named_buffers()}
    modes = []
    model.register_forward_pre_hook(lambda module, given: modes.append(tuple(part.training for part in module)))
    merged = []
    model[6].register_forward_pre_hook(lambda module, given: merged.append(module.merged))
    fit(model, usual.images(), RECIPE, device="cpu", progress=False)
    trained, evaluated = (True, False, True, True, True, False, True), (False,) * 7
    # Two epochs of six steps, two validation batches after each, and the test split.
    assert modes == 2 * (6 * [trained] + 2 * [evaluated]) + 2 * [evaluated]
    assert merged == [mode == evaluated for mode in modes]
    assert all(torch.equal(value, before[name]) for name, value in model[1].named_buffers())
    assert not model.training


def test_a_model_in_eval_mode_as_a_whole_is_trained_but_for_its_frozen_batch_norms():
    model = nn.Sequential(parts(), nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.BatchNorm2d(4), nn.Flatten()))
    model[0][:2].requires_grad_(False)
    model.eval()
    seen = {}
    for norm in (model[0][1], model[1][1]):
        norm.register_forward_hook(lambda module, *_: seen.update({module: seen.get(module, module.training)}))
    frozen, trained = model[0][1].running_mean.clone(), model[1][1].running_mean.clone()
    fit(model, usual.images(), RECIPE, device="cpu", progress=False)
    assert torch.equal(model[0][1].running_mean, frozen) and not torch.equal(model[1][1].running_mean, trained)
    assert list(seen.values()) == [False, True]


# --- Targets that are not scored


def with_unscored_rows(examples: int = 64) -> DataSet:
    """Every second row has nothing to score: with one row a batch, every second batch."""
    data = usual.sequences(examples)
    for _, targets in (data.train, data.validation, data.test):
        targets[::2] = NOT_SCORED
    return data


@pytest.mark.parametrize("settings", [dict(), dict(label_smoothing=0.1), dict(clip=1.0), dict(precision="bf16")], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_without_a_scored_target_changes_nothing(batch_size, settings):
    recipe = Recipe(epochs=1, batch_size=batch_size, accumulate=batch_size, lr=0.1, momentum=0.0, **settings)
    data, model = with_unscored_rows(), usual.language_model()
    run = fit(model, data, recipe, device="cpu", progress=False)
    assert run.status == "finished" and all(tensor.isfinite().all() for tensor in usual.weights(model))
    # The rows that are scored, alone, in the same order and as many steps: the same loss.
    with torch.no_grad():
        logits, targets = model(data.test[0]), data.test[1]
    loss = functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), ignore_index=NOT_SCORED)
    assert run.metrics["test_loss"] == pytest.approx(loss.item(), rel=2e-2 if settings.get("precision") else 1e-6)
    right = (logits.argmax(-1) == targets) | (targets == NOT_SCORED)
    assert run.metrics["test_exact"] == pytest.approx(right[1::2].all(1).double().mean().item())


def test_the_gradient_of_nothing_is_0():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    nothing = torch.full((2, 3), NOT_SCORED)
    for options in (dict(), dict(label_smoothing=0.1), dict(scored=torch.tensor(0))):
        logits.grad = None
        loss = cross_entropy(logits, nothing, **options)
        loss.backward()
        assert loss == 0 and torch.equal(logits.grad, torch.zeros(2, 3, 5))
    scores = Scores(CPU)
    scores.add(loss.detach(), logits.detach(), nothing)
    assert scores.metrics("sequences") == {}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_any_scored_target_is_refused(split):
    data = usual.sequences()
    inputs, targets = getattr(data, split)
    data = replace(data, **{split: (inputs, torch.full_like(targets, NOT_SCORED))})
    with pytest.raises(ValueError, match=f"the {split} split of 'counting' has .* not one scored target.*Give it targets"):
        fit(usual.language_model(), data, RECIPE, progress=False)


# --- Types


@pytest.mark.parametrize("clip", [None, 0.5])
def test_float64_models_train(clip):
    for model, data in ((language_model(), usual.sequences()), (usual.ConvNet(), usual.images())):
        run = fit(model.double(), data, replace(RECIPE, clip=clip, accumulate=2), device="cpu", progress=False)
        assert run.status == "finished" and all(value.dtype == torch.float64 for value in model.parameters())
    x = torch.randn(3, 4, dtype=torch.float64)
    assert cross_entropy(x, torch.tensor([0, 1, 2])) == functional.cross_entropy(x, torch.tensor([0, 1, 2]))


def test_a_format_that_is_not_for_the_models_type_is_left_or_refused(monkeypatch):
    monkeypatch.setattr(precision, "choose_precision", lambda asked, device: "bf16" if asked == "auto" else asked)
    run = fit(language_model().double(), usual.sequences(), RECIPE, device="cpu", progress=False)
    assert run.status == "finished" and run.precision == "fp32"
    for dtype, asked in ((torch.float64, "bf16"), (torch.float64, "fp16"), (torch.float16, "fp16"), (torch.bfloat16, "fp16")):
        with pytest.raises(ValueError, match=f"precision='{asked}' for a .* with parameters in {dtype}: it needs float32; call"):
            fit(language_model().to(dtype), usual.sequences(), replace(RECIPE, precision=asked), device="cpu")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_model_with_nothing_to_train_is_refused(optimizer):
    recipe = replace(RECIPE, optimizer=optimizer)
    with pytest.raises(ValueError, match="has no parameter that requires a gradient: there is nothing to train; thaw"):
        fit(language_model().requires_grad_(False), usual.sequences(), recipe, device="cpu")


@pytest.mark.parametrize("settings", [dict(batch_size=1), dict(batch_size=4, accumulate=4), dict(batch_tokens=20)], ids=str)
def test_a_pair_without_a_target_changes_nothing(settings):
    data = of_pairs.pairs(12)
    for split in (data.train, data.validation, data.test):
        split[1][::2] = NOT_SCORED
    run = fit(of_pairs.Translator(), data, Recipe(epochs=2, lr=0.01, **settings), device="cpu", progress=False)
    assert run.status == "finished" and 0 < run.metrics["validation_loss"] < 5


def test_fit_learns_images():
    run = fit(
        usual.ConvNet(), usual.images(256), replace(usual.RECIPE, epochs=5, augment="none", weight_decay=1e-4), progress=False
    )
    assert run.status == "finished" and run.metrics["steps"] == 5 * 16
    assert run.metrics["train_accuracy"] > 0.9 and run.metrics["test_accuracy"] > 0.9
    assert run.metrics["images_per_second"] > 0 and run.wall_seconds > 0 and run.peak_memory_bytes > 1e6
    assert (run.device, run.precision) == ("cpu", "fp32")


def test_fit_learns_sequences():
    run = fit(
        usual.language_model(), usual.sequences(), replace(usual.RECIPE, epochs=20, optimizer="adamw", lr=0.05), progress=False
    )
    assert run.metrics["test_exact"] == run.metrics["test_accuracy"] == 1.0 and run.metrics["test_loss"] < 0.2
    assert run.metrics["tokens_per_second"] > 0 and "images_per_second" not in run.metrics


def test_curves_are_tidy_and_the_test_split_is_measured_once(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 4)
    run = fit(usual.mlp(), usual.images(), replace(usual.RECIPE, evaluate_every=2), progress=False)
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
    run = fit(usual.mlp(), usual.images(), usual.RECIPE, progress=False)
    parts = {row["step"]: row["value"] for row in run.curves if (row["split"], row["metric"]) == ("train", "loss")}
    assert run.metrics["train_loss"] == pytest.approx((parts[16] * 4 + parts[18] * 2) / 6)


def test_an_empty_validation_split_is_left_out():
    found = usual.images()
    empty = tuple(tensor[:0] for tensor in found.validation)
    run = fit(usual.mlp(), replace(found, validation=empty), usual.RECIPE, progress=False)
    assert run.status == "finished" and not [name for name in run.metrics if name.startswith("validation")]


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_state():
    models = [usual.mlp(), usual.mlp(), usual.mlp()]
    torch.manual_seed(9)
    state = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        fit(model, usual.images(), usual.RECIPE, seed=seed, progress=False)
        assert torch.equal(state, torch.get_rng_state())
    assert usual.same(usual.weights(models[0]), usual.weights(models[1]))
    assert not usual.same(usual.weights(models[0]), usual.weights(models[2]))


def test_probes_are_read_on_schedule_and_change_nothing():
    probed, plain = usual.ConvNet(), usual.ConvNet()
    run = fit(probed, usual.images(), replace(usual.RECIPE, probe_every=4), progress=False)
    fit(plain, usual.images(), usual.RECIPE, progress=False)
    assert usual.same(usual.weights(probed), usual.weights(plain))
    assert sorted({row["step"] for row in run.probes}) == [0, 4, 8, 12, 16]
    assert {row["block"] for row in run.probes} == {0, 1, 2} and all(row["forward_rms"] > 0 for row in run.probes)


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_a_loss_that_is_not_finite_ends_the_run(where):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.calls = usual.mlp(), 0

        def forward(self, x):
            self.calls += self.training
            broken = self.calls > 8 if where == "training" else not self.training and self.calls > 8
            return self.model(x) * (math.nan if broken else 1.0)

    model = Breaks()
    run = fit(model, usual.images(), usual.RECIPE, progress=False)
    assert run.status == "diverged" and run.metrics["steps"] == 12  # noticed where the second epoch ends
    assert set(run.metrics) == {"steps", "images_per_second"}  # what earlier epochs measured is not the result
    assert max(row["step"] for row in run.curves) == (6 if where == "training" else 12)
    json.dumps([run.curves, run.metrics], allow_nan=False)


def test_clipping_bounds_the_step():
    model, bound = usual.mlp(), 1e-3
    before = usual.weights(model)
    fit(model, usual.images(16), Recipe(epochs=1, batch_size=16, lr=1.0, schedule="constant", momentum=0.0, clip=bound))
    change = sum((a - b).square().sum() for a, b in zip(before, usual.weights(model), strict=True)).sqrt()
    assert change == pytest.approx(bound, rel=1e-2)


def test_one_step_is_that_of_plain_pytorch():
    model, reference, found = usual.mlp(dropout=0.0), usual.mlp(dropout=0.0), usual.images(16)
    recipe = Recipe(epochs=1, batch_size=16, lr=0.3, schedule="constant", weight_decay=0.01, label_smoothing=0.1)
    fit(model, found, recipe, progress=False)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.01)
    x = (found.train[0] / 255 - found.mean[0]) / found.std[0]
    functional.cross_entropy(reference(x), found.train[1], label_smoothing=0.1).backward()
    optimizer.step()
    for a, b in zip(usual.weights(model), usual.weights(reference), strict=True):
        torch.testing.assert_close(a, b)


def test_images_reach_convolutions_in_channels_last():
    seen = []
    for setting in ("auto", False):
        model = usual.ConvNet(channels=3)
        keep = lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))  # noqa: E731
        model.stem.register_forward_pre_hook(keep)
        fit(model, usual.images(16, channels=3), Recipe(epochs=1, batch_size=16, channels_last=setting), progress=False)
        assert len(set(seen)) == 1
        assert seen[0] is (setting == "auto")
        seen.clear()


def test_fit_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="batch_size=128 is more than the 96 training examples of 'quadrants'"):
        fit(usual.mlp(), usual.images(), Recipe())
    with pytest.raises(ValueError, match="augment='crop_flip' is for images, but 'counting' holds sequences"):
        fit(usual.language_model(), usual.sequences(), replace(usual.RECIPE, augment="crop_flip"))
    with pytest.raises(ValueError, match="warmup=500 does not fit in a run of 18 steps"):
        fit(usual.mlp(), usual.images(), replace(usual.RECIPE, warmup=500))


def test_compiled_training_follows_the_eager_one(monkeypatch):
    used = []

    def traced(model, dynamic):  # traced, but not translated: that would need a C++ compiler
        used.append(model)
        return compile_model(model, backend="aot_eager", dynamic=dynamic)

    compile_model = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    runs = [fit(usual.mlp(dropout=0.0), usual.images(), replace(usual.RECIPE, compile=compiled)) for compiled in (False, True)]
    assert runs[1].metrics["test_loss"] == pytest.approx(runs[0].metrics["test_loss"], rel=1e-3)
    assert len(used) == 1


def test_the_loop_takes_the_steps_of_a_loop_written_out():
    recipe = Recipe(epochs=2, batch_size=20, lr=0.2, weight_decay=1e-3, clip=0.8, label_smoothing=0.1, warmup=3)
    model, expected, found = usual.mlp(dropout=0.0), usual.mlp(dropout=0.0), usual.images()
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
    for a, b in zip(usual.weights(model), usual.weights(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert run.metrics["train_loss"] == pytest.approx(sum(losses[4:]) / 4, rel=1e-4)
    logits = expected((found.test[0] / 255 - found.mean[0]) / found.std[0])
    assert run.metrics["test_loss"] == pytest.approx(functional.cross_entropy(logits, found.test[1]).item(), rel=1e-3)


def test_only_training_batches_are_augmented_and_the_test_split_is_seen_once_and_last():
    found, seen = usual.images(size=16), {True: [], False: []}
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    model.register_forward_pre_hook(lambda module, given: seen[module.training].append(given[0]))
    fit(model, found, replace(usual.RECIPE, batch_size=96, augment="crop_flip"), progress=False)
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


def test_an_error_leaves_the_callers_state_too():
    def fail(*_):
        raise usual.Killed

    model = usual.mlp()
    model[-1].register_forward_hook(fail)
    torch.manual_seed(9)
    before = (torch.get_rng_state().tolist(), torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)
    with pytest.raises(usual.Killed):
        fit(model, usual.images(), usual.RECIPE, progress=False)
    assert (torch.get_rng_state().tolist(), torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark) == before


def test_convolutions_may_use_cudnn_while_training():
    seen, model = set(), usual.mlp()
    model.register_forward_pre_hook(lambda *_: seen.add((torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark)))
    fit(model, usual.images(), usual.RECIPE, progress=False)
    assert seen == {(True, True)}


def test_with_clipping_the_gradient_of_every_step_is_kept(tmp_path):
    recipe = Recipe(epochs=4, batch_size=8, lr=0.1, clip=1e-3)
    whole = fit(usual.mlp(), usual.images(64), recipe, progress=False)
    measured = [row["value"] for row in whole.curves if row["metric"] == "gradient_norm"]
    assert len(measured) == 4 and min(measured) > 1e-3  # before it is clipped
    assert whole.metrics["gradient_spikes"] == 0.0
    path = tmp_path / "checkpoint.pt"
    fit(usual.mlp(), usual.images(64), recipe, checkpoint=path, progress=False)
    state = torch.load(path, weights_only=True)
    assert state["norms"].isfinite().all() and state["norms"].shape == (32,)
    assert [state["norms"][at : at + 8].mean().item() for at in (0, 8, 16, 24)] == pytest.approx(measured)
    unclipped = fit(usual.mlp(), usual.images(64), replace(recipe, clip=None), progress=False)
    assert "gradient_spikes" not in unclipped.metrics and not any(row["metric"] == "gradient_norm" for row in unclipped.curves)
