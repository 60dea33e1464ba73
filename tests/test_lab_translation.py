"""Translations are scored in the order of their references, and as sacreBLEU scores them."""

import json
import sys
from dataclasses import replace

import pytest
import sacrebleu
import torch

from resnorm import data, lab, models
from resnorm.data.dataset import END, PADDING
from resnorm.extras import MissingExtra
from resnorm.lab import translation as measure
from resnorm.lab.measurements import MEASUREMENTS

SMALL = dict(depth=1, width=32, heads=2, variant="pre", dropout=0)


@pytest.fixture(scope="module")
def numbers():
    return data.load("number_pairs", limit=400, validation=0.2, test=0.5)


@pytest.fixture
def oracle(numbers, monkeypatch):
    """A translator that knows the targets of the test and the validation split by heart; it notes what it was asked."""
    known, asked = {}, []
    for inputs, targets in (numbers.validation, numbers.test):
        known |= {numbers.decode(source): target.clamp_min(PADDING) for source, target in zip(inputs, targets, strict=True)}

    def translate(model, source, beam=1):
        asked.append((source, beam))
        return torch.stack([known[numbers.decode(row)] for row in source])

    monkeypatch.setattr(measure, "translate", translate)
    return asked


@pytest.fixture
def model():
    return torch.nn.Linear(1, 1)


def test_right_translations_are_wholly_right(numbers, oracle, model):
    rows = measure.translation(model, numbers)
    assert [(row["split"], row["beam"]) for row in rows] == [("validation", 1), ("test", 1), ("test", 4)]
    for row in rows:
        assert (row["bleu"], row["chrf"]) == pytest.approx((100, 100)) and row["exact"] == row["length_ratio"] == 1
        assert "tok:13a" in row["signature"] and sacrebleu.__version__ in row["signature"] and "nc:6" in row["chrf_signature"]
    json.dumps(rows)


def test_sentences_of_like_length_are_translated_together(numbers, oracle, model):
    measure.translated(model, numbers, "test", beam=4)
    sources = [source for source, _ in oracle]
    assert [len(source) for source in sources] == [128, 72] and {beam for _, beam in oracle} == {4}
    lengths = torch.cat([(source != PADDING).sum(1) for source in sources])
    assert (lengths.diff() <= 0).all()
    assert all((source[:, -1] != PADDING).any() for source in sources)


def test_a_split_without_rows_has_no_scores(numbers, oracle, model):
    rows = measure.translation(model, replace(numbers, validation=tuple(side[:0] for side in numbers.validation)))
    assert {row["split"] for row in rows} == {"test"}


def test_references_are_the_sentences_as_they_were_written(numbers, oracle, model):
    written = [numbers.decode(row).upper() for row in numbers.test[1]]
    sources = [f"{number}." for number in range(len(written))]
    named = replace(numbers, sources=dict(test=sources), references=dict(test=written))
    found = measure.samples(model, named)
    assert [(row["source"], row["reference"]) for row in found] == list(zip(sources, written, strict=True))[:8]
    assert [row["translation"].upper() for row in found] == written[:8]
    scores = {row["split"]: row for row in measure.translation(model, named)}
    assert scores["test"]["bleu"] < 1 and scores["test"]["exact"] == 0 and scores["validation"]["exact"] == 1


def test_samples_are_the_first_of_the_test_split(numbers, oracle, model):
    rows = measure.samples(model, numbers)
    inputs, targets = numbers.test
    expected = [(numbers.decode(source), numbers.decode(target)) for source, target in zip(inputs[:8], targets[:8], strict=True)]
    assert [(row["source"], row["reference"]) for row in rows] == expected
    assert all(row["translation"] == row["reference"] for row in rows)


def test_scores_are_those_of_sacrebleu():
    found = ["the cat sat on the mat today", "a dog barked at us", "we saw it there"]
    references = ["the cat sat on the mat", "the dog barked at me loudly", "we saw it there"]
    scores = measure.scores(found, references)
    bleu = sacrebleu.corpus_bleu(found, [references])
    assert scores["bleu"] == bleu.score and 10 < bleu.score < 90
    assert scores["chrf"] == sacrebleu.corpus_chrf(found, [references]).score
    assert scores["length_ratio"] == 16 / 16 and scores["exact"] == pytest.approx(1 / 3)
    assert measure.scores(found[:1], references[:1])["length_ratio"] == 7 / 6


def test_what_is_measured_is_what_was_learnt(tmp_path):
    """Greedy search finds the whole target exactly where every token is right given those before it."""
    experiment = lab.Experiment(
        task=dict(name="number_pairs", limit=100, validation=0.2, test=0.3),
        model=dict(name="seq2seq", **SMALL),
        recipe=dict(epochs=30, evaluate_every=30, batch_tokens=400, optimizer="adamw", lr=0.01, weight_decay=0, warmup=10, clip=1),
        measure=("samples", "translation"),
    )
    record = lab.run(experiment, lab.Store(tmp_path), progress=False)
    rows = {(row["split"], row["beam"]): row for row in record.measurements["translation"]}
    assert 0 < record.metrics["test_exact"] < 1
    for split in ("validation", "test"):
        assert rows[split, 1]["exact"] == pytest.approx(record.metrics[f"{split}_exact"])
    assert len(record.measurements["samples"]) == 8 and rows["test", 4]["chrf"] > 20
    stored = lab.Store(tmp_path).get(experiment).measurements
    assert stored["samples"] == record.measurements["samples"]
    assert [row["signature"] for row in stored["translation"]] == [row["signature"] for row in rows.values()]


def test_the_model_is_left_as_it_was(numbers):
    model = models.build("seq2seq", numbers.spec, **SMALL).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measure.translated(model, numbers, "test", count=3)
    assert len(found) == 3 and not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tokens = models.translate(model, numbers.test[0][:3])
    assert found == [numbers.decode(row) for row in tokens] and (tokens == END).any(1).all()


@pytest.mark.parametrize("name", ["translation", "samples"])
def test_pairs_are_needed(name, model):
    with pytest.raises(ValueError, match="holds images; this measurement takes pairs"):
        MEASUREMENTS[name](model, data.load("digits"), None)


def test_without_sacrebleu_the_error_names_the_repair(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtra, match=r'package sacrebleu.*pip install "resnorm\[translation\]"'):
        measure.scores(["a"], ["a"])


@pytest.mark.parametrize(("name", "preset", "alone"), [("en_vi", "cpu", True), ("en_vi", "colab", False), ("en_de", "cpu", False)])
def test_only_the_larger_model_may_have_a_peak_of_its_own(name, preset, alone):
    planned = lab.plan(f"translation_{name}", preset)
    smallest = min(one.model["width"] for one in planned)
    peaks = [{one.recipe["lr"] for one in planned if (one.model["width"] > smallest) == larger} for larger in (False, True)]
    assert [len(found) for found in peaks] == [1, 1] and (peaks[0] != peaks[1]) == alone


def test_the_longer_training_takes_the_peaks_that_the_recorded_tuning_found():
    peaks, long = lab.study("translation_peaks", "colab"), lab.study("translation_en_de", "colab", seeds=[0])
    assert not peaks.missing() and len(peaks.records) == 16
    rows = peaks.frame("translation")
    validated = rows[(rows.split == "validation") & (rows.beam == 1)]  # greedy search on the validation pairs
    best = validated.sort_values("bleu").groupby("arm").lr.last()
    assert {arm: experiments[0].recipe["lr"] for arm, experiments in long.experiments.items()} == best.to_dict()
    # the first seed is a run of the tuning, and is not run twice
    assert {item.name for item in long.planned} <= {item.name for item in peaks.planned}


def test_samples_stand_below_their_source_and_a_tick_marks_what_is_right():
    rows = [dict(source="a|b", reference="x", translation=made) for made in ("x", "y")]
    table = measure.samples_beside({"one": rows, "other": rows[::-1]}, count=1)
    assert table.splitlines()[2:] == [r"| *source* | *a\|b* |", "| reference | x |", "| one ✓ | x |", "| other | y |"]
