"""Training on pairs: batches of like length, cut to their longest; and steps worked off in parts."""

from dataclasses import replace

import pytest
import small_runs as usual
import torch
from torch import Tensor, nn
from torch.nn import functional

from resnorm import Block, Stack, mlp
from resnorm.data import DataSet
from resnorm.data.dataset import END, NOT_SCORED, PADDING, START, padded
from resnorm.training import Checkpoint, Recipe, fit, learning_rates, loop
from resnorm.training.batches import Batches, Order, before_of, lengths_of
from resnorm.training.scores import Scores, cross_entropy

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch_tokens=60, optimizer="adamw", lr=0.02)


def pairs(examples: int = 80) -> DataSet:
    """A row of 1 to 8 tokens and the same backwards, now and then with its first token twice."""
    generator = torch.Generator().manual_seed(0)

    def split(count):
        rows = []
        for length, twice in torch.randint(1, 9, (count, 2), generator=generator).tolist():
            source = torch.randint(4, 9, (length,), generator=generator).tolist()
            rows.append((source, [*source[::-1], *source[: twice // 6]]))
        return padded(rows)

    return DataSet("backwards", "pairs", split(examples), split(30), split(30), spec=dict(vocabulary=9, context=10))


class Translator(nn.Module):
    """The mean of the source, and the token before, say the next one: small, and blind to padding."""

    def __init__(self, dropout: float = 0.0, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.token, self.dropout, self.head = nn.Embedding(9, 16), nn.Dropout(dropout), nn.Linear(16, 9)
        self.stack = Stack([Block("nMa", 16, n="layer", M=mlp(2)) for _ in range(2)], last="layer")
        self.shapes: list[tuple] = []

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        if self.training:
            self.shapes.append((tuple(source.shape), tuple(before.shape)))
        assert len(source)  # no model needs to take an empty batch
        real = (source != PADDING)[..., None]
        mean = (self.token(source) * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return self.head(self.stack(self.dropout(mean + self.token(before))))


# --- Batches


def test_what_comes_before_a_target_starts_with_start():
    targets = torch.tensor([[5, 6, END, NOT_SCORED, NOT_SCORED], [7, 8, 4, 5, END]])
    assert before_of(targets).tolist() == [[START, 5, 6, END, PADDING], [START, 7, 8, 4, 5]]


def test_a_batch_is_cut_to_its_longest():
    data = pairs()
    batches, order = Batches(data, "train", CPU), Order(80, 0, 0, CPU)
    (source, before), targets = batches.batch(batches.order(0, 0), slice(8, 12))
    inputs, expected = (tensor[order.index[8:12]] for tensor in data.train)
    longest = lengths_of(inputs, expected).amax(1).tolist()
    assert torch.equal(source, inputs[:, : longest[0]]) and torch.equal(targets, expected[:, : longest[1]])
    assert source.shape[1] < inputs.shape[1] and targets.shape[1] < expected.shape[1]
    assert torch.equal(before, before_of(expected)[:, : longest[1]])
    for part in (slice(0, 5), torch.tensor([3, 1, 7])):
        (source, before), targets = batches.plain(part)
        assert lengths_of(source, targets).amax(1).tolist() == [source.shape[1], targets.shape[1]]
        assert torch.equal(source, data.train[0][part][:, : source.shape[1]])


@pytest.mark.parametrize("batch_tokens", [20, 60, 333, 10**6])
def test_batches_of_like_length(batch_tokens):
    data = pairs()
    batches = Batches(data, "train", CPU, batch_tokens=batch_tokens)
    lengths, shapes = lengths_of(*data.train), []
    for epoch in (0, 1):
        order, seen = batches.order(3, epoch), []
        for start, stop in order.parts.tolist():
            (source, before), targets = batches.batch(order, slice(start, stop))
            assert source.numel() + targets.numel() <= batch_tokens and before.shape == targets.shape
            assert torch.equal(lengths_of(source, targets), lengths[:, order.index[start:stop]])
            seen += order.index[start:stop].tolist()
        assert sorted(seen) == list(range(80))
        ordered = lengths[:, order.index].T.tolist()
        assert ordered == sorted(ordered)
        shapes.append(sorted(order.parts.tolist()))
    assert shapes[0] == shapes[1] and (len(shapes[0]) == 1) == (batch_tokens == 10**6)
    # Greedy: the next example would not have fitted.
    for (start, stop), _ in zip(shapes[0][:-1], shapes[0][1:], strict=True):
        longest = lengths[:, order.index[start : stop + 1]].amax(1)
        assert (stop + 1 - start) * longest.sum() > batch_tokens


def test_the_order_of_pairs_is_a_function_of_seed_and_epoch():
    batches = Batches(pairs(), "train", CPU, batch_tokens=60)
    order, again = batches.order(1, 2), batches.order(1, 2)
    assert all(torch.equal(value, getattr(again, name)) for name, value in vars(order).items())
    for other in (batches.order(2, 2), batches.order(1, 3)):
        assert not torch.equal(order.index, other.index) and not torch.equal(order.parts, other.parts)
        assert torch.equal(order.lengths, other.lengths)  # only equal lengths change places


@pytest.mark.parametrize("batch_tokens", [12, 3])  # less than many examples, and less than the shortest
def test_what_is_longer_than_a_batch_stands_alone_in_an_evaluation(batch_tokens):
    data = pairs()
    parts = Batches(data, "validation", CPU, batch_tokens=batch_tokens).parts(512)
    lengths = lengths_of(*data.validation)
    assert sorted(torch.cat(parts).tolist()) == list(range(30))
    over = [part for part in parts if len(part) * lengths[:, part].amax(1).sum() > batch_tokens]
    assert over and all(len(part) == 1 for part in over)


# --- The loop


def written_out(model: nn.Module, data: DataSet, recipe: Recipe, seed: int) -> nn.Module:
    batches = Batches(data, "train", CPU, batch_tokens=recipe.batch_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.999), weight_decay=0.0)
    steps = [
        order.index[start:stop]
        for order in (batches.order(seed, epoch) for epoch in range(recipe.epochs))
        for start, stop in order.parts.tolist()
    ]
    for index, rate in zip(steps, learning_rates(recipe, len(steps)), strict=True):
        source, targets = (tensor[index] for tensor in data.train)  # with all their padding
        logits = model(source, before_of(targets))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
    return model.eval()


def test_the_loop_takes_the_steps_of_a_loop_written_out():
    model, data = Translator(), pairs()
    run = fit(model, data, RECIPE, seed=3, progress=False)
    expected = written_out(Translator(), data, RECIPE, seed=3)
    assert run.metrics["steps"] == 3 * (len(Batches(data, "train", CPU, batch_tokens=60).cut) - 1)
    for a, b in zip(usual.weights(model), usual.weights(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    source, targets = data.test
    scores, logits = Scores(CPU), expected(source, before_of(targets)).detach()
    scores.add(cross_entropy(logits, targets), logits, targets)
    for name, value in scores.metrics("pairs").items():
        assert run.metrics[f"test_{name}"] == pytest.approx(value, rel=1e-3)
    assert set(scores.metrics("pairs")) == {"loss", "accuracy", "exact"}


def test_without_batch_tokens_batches_have_a_number_of_examples():
    model = Translator()
    run = fit(model, pairs(), replace(RECIPE, batch_tokens=None, batch_size=32), progress=False)
    assert run.metrics["steps"] == 6 and {source[0] for source, _ in model.shapes} == {32}


def test_the_rate_counts_scored_target_tokens(monkeypatch):
    found, summarise, data = [], loop._Loop._summarise, pairs()
    monkeypatch.setattr(loop._Loop, "_summarise", lambda self: found.append(self.items) or summarise(self))
    run = fit(Translator(), data, RECIPE, progress=False)
    assert found == [3 * (data.train[1] != NOT_SCORED).sum().item()]
    assert run.metrics["tokens_per_second"] > 0


@pytest.mark.parametrize("batch_tokens", [60, None])
def test_a_run_on_pairs_goes_on_from_its_checkpoint(tmp_path, monkeypatch, batch_tokens):
    recipe = replace(RECIPE, batch_tokens=batch_tokens, batch_size=8, probe_every=7, clip=1.0)
    whole, stopped, resumed = Translator(0.2), Translator(0.2), Translator(0.2, seed=5)
    expected = fit(whole, pairs(), recipe, progress=False)
    checkpoint = Checkpoint(tmp_path / "run.pt", steps=4)
    with monkeypatch.context() as patch:
        usual.stop_after(patch, 15)
        with pytest.raises(usual.Killed):
            fit(stopped, pairs(), recipe, checkpoint=checkpoint, progress=False)
    found = fit(resumed, pairs(), recipe, checkpoint=checkpoint, progress=False)
    assert usual.same(usual.weights(whole), usual.weights(resumed))
    assert found.curves == expected.curves and found.probes == expected.probes
    for metrics in (found.metrics, expected.metrics):
        metrics.pop("tokens_per_second")
    assert found.metrics == expected.metrics
    scored = (pairs().train[1] != NOT_SCORED).sum().item()
    assert torch.load(checkpoint.path, weights_only=True)["items"] == 3 * scored


def test_probes_read_a_model_of_pairs_and_change_nothing():
    probed, plain = Translator(0.2), Translator(0.2)
    run = fit(probed, pairs(), replace(RECIPE, probe_every=10), progress=False)
    fit(plain, pairs(), RECIPE, progress=False)
    assert usual.same(usual.weights(probed), usual.weights(plain))
    assert {row["block"] for row in run.probes} == {0, 1, 2} and run.probes[0]["gradient_norm"] > 0


def test_a_translation_model_learns_pairs():
    run = fit(Translator(), pairs(400), replace(RECIPE, epochs=15, batch_tokens=200), progress=False)
    losses = [row["value"] for row in run.curves if (row["split"], row["metric"]) == ("train", "loss")]
    assert run.status == "finished" and losses[-1] < 0.75 * losses[0]


def test_fit_refuses_what_does_not_fit_pairs():
    with pytest.raises(ValueError, match="batch_tokens=60 is for pairs, but 'quadrants' holds images: take batch_size"):
        fit(usual.mlp(), usual.images(), RECIPE)
    with pytest.raises(ValueError, match="batch_tokens=15 is less than the 19 tokens of the longest training example"):
        fit(Translator(), pairs(), replace(RECIPE, batch_tokens=15))
    with pytest.raises(ValueError, match="cuda_graph=True for pairs: it needs batches of one shape"):
        fit(Translator(), pairs(), RECIPE, cuda_graph=True)


# --- A step in parts


@pytest.mark.parametrize("kind", ["images", "sequences", "pairs"])
@pytest.mark.parametrize("accumulate", [2, 3, 16])
def test_a_step_in_parts_is_the_same_step(kind, accumulate):
    make, data = {
        "images": (lambda: usual.mlp(dropout=0.0), usual.images()),
        "sequences": (usual.language_model, uneven()),
        "pairs": (Translator, pairs()),
    }[kind]
    recipe = Recipe(epochs=2, batch_size=16, optimizer="adamw", lr=0.01, clip=0.5, label_smoothing=0.1)
    if kind == "pairs":
        recipe = replace(recipe, batch_tokens=100)
    models, runs, parts = [make(), make()], [], []
    models[1].register_forward_pre_hook(lambda module, given: parts.append(len(given[0])) if module.training else None)
    for model, count in zip(models, (1, accumulate), strict=True):
        runs.append(fit(model, data, replace(recipe, accumulate=count), progress=False))
    assert max(parts) < 16 and len(parts) > 1.5 * runs[0].metrics["steps"]
    for a, b in zip(*map(usual.weights, models), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    for name in ("train_loss", "train_accuracy", "test_loss"):
        assert runs[0].metrics[name] == pytest.approx(runs[1].metrics[name], rel=1e-4)


def uneven() -> DataSet:
    """Sequences of which some score nothing, so that a part may have nothing to learn from."""
    data = usual.sequences()
    inputs, targets = data.train
    scored = torch.arange(6) < torch.randint(0, 7, (64, 1), generator=torch.Generator().manual_seed(1))
    return replace(data, train=(inputs, targets.where(scored, NOT_SCORED)))
