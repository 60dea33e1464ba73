"""Translate a split of sentence pairs and score the translations by sacreBLEU."""

import re
from typing import Any

from torch import nn

from resnorm.data import DataSet
from resnorm.data.dataset import PADDING
from resnorm.extras import needed_for
from resnorm.models import translate

# What is searched: greedily for the choice between models, and both ways for the result.
SEARCHES = (("validation", 1), ("test", 1), ("test", 4))
BATCH = 128
SAMPLES = 8


def translation(model: nn.Module, data: DataSet, batch: int = BATCH) -> list[dict[str, Any]]:
    """Score the translations of a whole split, one row a split and beam; an empty split has none.

    `batch`: how many sentences are searched at the same time.

    Columns: split, beam, the columns of `scores`.
    Raises MissingExtra without the package sacrebleu.
    """
    return [
        dict(split=split, beam=beam) | scores(translated(model, data, split, beam, batch=batch), _sentences(data, split)[1])
        for split, beam in SEARCHES
        if len(getattr(data, split)[0])
    ]


def samples(model: nn.Module, data: DataSet) -> list[dict[str, str]]:
    """The first 8 sentences of the test split: source, reference and the translation by greedy search."""
    rows = zip(*_sentences(data, "test", SAMPLES), translated(model, data, "test", count=SAMPLES), strict=True)
    return [dict(source=source, reference=reference, translation=found) for source, reference, found in rows]


def translated(
    model: nn.Module, data: DataSet, split: str, beam: int = 1, count: int | None = None, batch: int = BATCH
) -> list[str]:
    """The translations of a split's first `count` sources (None: of all), in the order of its rows."""
    inputs, device = getattr(data, split)[0][:count], next(model.parameters()).device
    lengths, found = (inputs != PADDING).sum(1), {}
    # Sentences of like length end together and need little padding; the longest come first, so that memory fails at once.
    for part in lengths.argsort(descending=True, stable=True).split(batch):
        source = inputs[part, : lengths[part].max()].to(device)
        found |= zip(part.tolist(), map(data.decode, translate(model, source, beam=beam).cpu()), strict=True)
    return [found[row] for row in range(len(inputs))]


def scores(translations: list[str], references: list[str]) -> dict[str, Any]:
    """Compare translations with one reference each, by the corpus scores of sacreBLEU [post2018call] as it is set.

    bleu [papineni2002bleu] and chrf [popovic2015chrf] in percent, each with its signature; length_ratio, the tokens of all
    translations by those of all references; exact, the share of translations that are their reference.
    Raises MissingExtra without the package sacrebleu.
    """
    with needed_for("scores of translations", "translation"):
        from sacrebleu.metrics import BLEU, CHRF
    bleu, chrf = BLEU(), CHRF()
    result = bleu.corpus_score(translations, [references])
    right = sum(one == other for one, other in zip(translations, references, strict=True))
    return dict(
        bleu=result.score,
        chrf=chrf.corpus_score(translations, [references]).score,
        signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
        length_ratio=result.ratio,
        exact=right / len(references),
    )


def samples_beside(made: dict[str, list[dict[str, str]]], count: int = 4) -> str:
    """Return a Markdown table of the first sentences: source, reference, and what each model makes of them.

    `made`: the rows of `samples` by the name of the model. A tick marks a translation that is its reference.
    """
    lines = ["| | sentence |", "|---|---|"]
    for rows in list(zip(*made.values(), strict=True))[:count]:
        lines += [f"| *source* | *{_plain(rows[0]['source'])}* |", f"| reference | {_plain(rows[0]['reference'])} |"]
        for name, row in zip(made, rows, strict=True):
            tick = " ✓" if row["translation"] == row["reference"] else ""
            lines.append(f"| {name}{tick} | {_plain(row['translation'])} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """No sign of a sentence means anything to the page."""
    return re.sub(r"([\\|$*_<`\[])", r"\\\1", text)


def _sentences(data: DataSet, split: str, count: int | None = None) -> tuple[list[str], list[str]]:
    """Sources and references: as they were written, or as their tokens say where the data set keeps no text."""
    kept = (data.sources.get(split), data.references.get(split))
    rows = getattr(data, split)
    return tuple(
        texts[:count] if texts else [data.decode(row) for row in side[:count]] for texts, side in zip(kept, rows, strict=True)
    )
