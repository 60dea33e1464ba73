"""The loop around the step: what evaluation holds in memory, modes that the caller chose, targets that are not scored."""

from dataclasses import replace

import pytest
import test_training as usual
import test_training_pairs as of_pairs
import torch
from torch import nn
from torch.nn import functional

from resnorm.data import DataSet
from resnorm.data.dataset import NOT_SCORED
from resnorm.models import transformer_lm
from resnorm.probes import measure, measure_in_parts
from resnorm.training import Recipe, fit, loop, precision
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
