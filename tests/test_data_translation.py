"""Sentence pairs: what a row holds, that no text is unknown, and that nothing of the test split reaches training."""

import gzip
import json
import os
import shutil
import sys

import pytest
import torch

from resnorm.data import (
    DataError,
    DataSet,
    en_vi,
    iwslt15_en_vi,
    load,
    multi30k,
    number_pairs,
    number_words,
    translation,
    wmt14_en_de,
)
from resnorm.data.dataset import END, NOT_SCORED, PADDING, START, UNKNOWN, padded
from resnorm.extras import MissingExtra

SPLITS = ("train", "validation", "test")
EN_VI = ("indomain-news/train", "wiki-alt/data", "basic/data", "indomain-news/dev", "indomain-news/tst")
# Trained on numbers below 90; the others are those of the validation and of the test split.
PARTS = (range(40), range(40, 70), range(70, 90), range(90, 100), range(100, 115))


def sentences(numbers, language: str) -> list[str]:
    from num2words import num2words

    ends = dict(en=" is a number.", vi=" là một số.", de=" ist eine Zahl.")
    return [num2words(number, lang=language) + ends[language] for number in numbers]


def pairs_of(data: DataSet, split: str) -> list[tuple[str, str]]:
    return [tuple(data.decode(row) for row in pair) for pair in zip(*getattr(data, split), strict=True)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with small English-Vietnamese and English-German files of the original layout."""
    for stem, numbers in zip(EN_VI, PARTS, strict=True):
        for language in ("en", "vi"):
            path = tmp_path / "envi-corpora" / f"{stem}.{language}"
            path.parent.mkdir(parents=True, exist_ok=True)
            end = "\r\n" if "wiki" in stem else "\n"
            path.write_bytes("".join(line + end for line in sentences(numbers, language)).encode())
    (tmp_path / "multi30k").mkdir()
    for stem, numbers in (("train", range(90)), ("val", PARTS[3]), ("test_2016_flickr", PARTS[4])):
        for language in ("en", "de"):
            text = "".join(line + "\n" for line in sentences(numbers, language))
            (tmp_path / "multi30k" / f"{stem}.{language}.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("RESNORM_DATA", str(tmp_path))
    return tmp_path


def rewrite(root, stem: str, *lines: tuple[str, str]) -> None:
    for language, column in zip(("en", "vi"), zip(*lines, strict=True), strict=True):
        (root / "envi-corpora" / f"{stem}.{language}").write_text("".join(line + "\n" for line in column), encoding="utf-8")


# --- DataSet


def test_rows_are_ended_and_filled():
    inputs, targets = padded([([5, 6], [7]), ([8], [9, 10, 11])])
    assert inputs.tolist() == [[5, 6, END], [8, END, PADDING]]
    assert targets.tolist() == [[7, END, NOT_SCORED, NOT_SCORED], [9, 10, 11, END]]
    assert (PADDING, START, END, UNKNOWN, NOT_SCORED) == (0, 1, 2, 3, -100)


def test_a_row_is_read_up_to_its_end():
    data = number_pairs(limit=60)
    token = {symbol: number for number, symbol in enumerate(data.spec["symbols"])}
    row = torch.tensor([START, token["o"], token["n"], PADDING, token["e"], END, token["x"], NOT_SCORED])
    assert data.decode(row) == "one"
    assert data.decode(row[:3]) == "on"


def test_pairs_may_differ_in_width_and_not_in_number():
    split = padded([([5], [6, 7]), ([5], [6])])
    assert DataSet("x", "pairs", split, split, split).train[1].shape == (2, 3)
    with pytest.raises(ValueError, match=r"test targets of 'x' .*\(1, 3\): they must be torch.int64 with shape \(2, 3\)"):
        DataSet("x", "pairs", split, split, (split[0], split[1][:1]))
    with pytest.raises(ValueError, match="train inputs of 'x' are torch.int32.*pairs need torch.int64"):
        DataSet("x", "pairs", (split[0].int(), split[1]), split, split)


# --- number names


@pytest.mark.parametrize("pair", ["en-vi", "en-de"])
def test_number_pairs_are_the_lines_of_number_words(pair):
    data, words = number_pairs(pair, limit=120), number_words(pair, limit=120)
    for split in SPLITS:
        lines = [words.decode(row).rstrip("\0") for row in getattr(words, split)[0]]
        assert ["=".join(found) for found in pairs_of(data, split)] == lines
    inputs, targets = data.train
    assert data.spec["context"] == max(inputs.shape[1], targets.shape[1])
    assert data.spec["vocabulary"] == len(data.spec["symbols"]) > max(inputs.max(), targets.max())
    for side in (inputs, targets):
        assert ((side == END).sum(1) == 1).all() and not ((side == START) | (side == UNKNOWN)).any()


def test_number_pairs_refuse():
    with pytest.raises(ValueError, match="pair='vi-en' of number_pairs: allowed are en-vi, en-de, en-fr"):
        number_pairs("vi-en")
    with pytest.raises(ValueError, match="limit=3 of number_pairs"):
        number_pairs(limit=3)


# --- text files


def test_en_vi_holds_the_sentences_of_the_files(root):
    data = en_vi(vocabulary=300)
    expected = [list(zip(sentences(part, "en"), sentences(part, "vi"), strict=True)) for part in PARTS]
    assert pairs_of(data, "train") == expected[0] + expected[1] + expected[2]
    for split, known in (("validation", expected[3]), ("test", expected[4])):
        assert pairs_of(data, split) == known == list(zip(data.sources[split], data.references[split], strict=True))
    assert data.name == "en_vi" and data.spec["vocabulary"] == 300
    widths = [side.shape[1] for split in SPLITS for side in getattr(data, split)]
    assert data.spec["context"] == max(widths)
    again = load("en_vi", root=root, vocabulary=300)
    assert all(torch.equal(*sides) for split in SPLITS for sides in zip(getattr(data, split), getattr(again, split), strict=True))


def test_multi30k_holds_the_sentences_of_the_files(root):
    data = multi30k(vocabulary=300)
    for split, numbers in (("train", range(90)), ("validation", PARTS[3]), ("test", PARTS[4])):
        assert pairs_of(data, split) == list(zip(sentences(numbers, "en"), sentences(numbers, "de"), strict=True))


def test_nothing_is_unknown_and_nothing_is_lost(root):
    never = [("Größe  “αβγ” <end> 🙂!", "Nghĩa là “ngữ pháp” <unknown>\u2028đúng."), (" a ", "Một\tkhoảng trắng ")]
    rewrite(root, "indomain-news/tst", *never)
    data = en_vi(vocabulary=300)
    assert pairs_of(data, "test") == never
    assert all(((side == END).sum(1) == 1).all() and not (side == UNKNOWN).any() for side in data.test)


def test_the_encoding_is_that_of_the_training_sentences(root):
    before = en_vi(vocabulary=300)
    rewrite(root, "indomain-news/tst", *[("zyxzyxzyx qqqq", "zyxzyxzyx qqqq")] * 50)
    assert torch.equal(before.train[0], en_vi(vocabulary=300).train[0])
    rewrite(root, "basic/data", *[("zyxzyxzyx qqqq", "zyxzyxzyx qqqq")] * 50)
    assert not torch.equal(before.train[0][:40], en_vi(vocabulary=300).train[0][:40])


def test_long_pairs_are_left_out_of_training_alone(root):
    long = ("long " * 30, "dài " * 30)
    rewrite(root, "basic/data", long, ("one is a number.", long[1]), ("seven", "bảy"))
    rewrite(root, "indomain-news/tst", long)
    whole = en_vi(vocabulary=300)
    lengths = torch.stack([(side != filler).sum(1) for side, filler in zip(whole.train, (PADDING, NOT_SCORED), strict=True)])
    longest = int(lengths.amax(0).sort().values[-3])  # of all but the two long pairs
    data = en_vi(vocabulary=300, longest=longest)
    assert pairs_of(data, "train") == [pair for pair in pairs_of(whole, "train") if long[1] not in pair]
    assert max(side.shape[1] for side in data.train) == longest
    assert pairs_of(data, "test") == [long] and data.spec["context"] > longest
    assert len(en_vi(vocabulary=300, longest=longest - 1).train[0]) < len(data.train[0])
    with pytest.raises(ValueError, match="longest=1 of en_vi leaves no pair"):
        en_vi(vocabulary=300, longest=1)


@pytest.mark.parametrize("stem", ["indomain-news/dev", "indomain-news/tst"])
def test_no_source_of_another_split_is_trained_on(root, stem):
    rewrite(root, stem, ("five is a number.", "Năm."), ("two hundred", "hai trăm"))
    trained = [source for source, _ in pairs_of(en_vi(vocabulary=300), "train")]
    assert len(trained) == 89 and "five is a number." not in trained


def test_subset_is_fixed_and_of_the_training_split_alone(root):
    whole, data = en_vi(vocabulary=300), en_vi(vocabulary=300, subset=20)
    chosen = pairs_of(data, "train")
    assert len(chosen) == 20 and set(chosen) < set(pairs_of(whole, "train"))
    assert chosen == pairs_of(en_vi(vocabulary=300, subset=20), "train")
    assert data.spec["vocabulary"] == 300 and torch.equal(data.test[0], whole.test[0])
    for subset in (0, 91, 2.5):
        with pytest.raises(ValueError, match=f"subset={subset} of en_vi: give a whole number from 1 to 90"):
            en_vi(vocabulary=300, subset=subset)
    with pytest.raises(ValueError, match="vocabulary=259 of en_vi: give a whole number of at least 260"):
        en_vi(vocabulary=259)


def test_missing_files_are_named_with_the_repair(root):
    shutil.rmtree(root / "envi-corpora/basic")
    (root / "multi30k/val.de.gz").unlink()
    repair = "Get it from https://.*RESNORM_DATA.*'number_pairs' is bundled"
    with pytest.raises(DataError, match=f"has no basic/data.en, basic/data.vi. {repair}"):
        en_vi()
    with pytest.raises(DataError, match=f"has no val.de.gz. {repair}"):
        multi30k()


def test_damaged_files_are_noticed(root):
    path = root / "multi30k/train.de.gz"
    whole = path.read_bytes()
    for damaged in (whole[:100], b"no archive", whole[:60] + b"\0\0\0\0\0\0" + whole[66:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="train.de.gz is damaged.*Get it from"):
            multi30k()
    path = root / "envi-corpora/basic/data.vi"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(DataError, match="basic/data has 20 lines in en and 19 in vi: one of them is incomplete"):
        en_vi()
    path.write_bytes("\n".join(lines).encode("utf-16"))
    with pytest.raises(DataError, match="data.vi is damaged.*utf-8"):
        en_vi()


# --- Hugging Face's hub, from folders of the same form


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Folders that `datasets` reads as it reads the hub's: configurations, splits and the column "translation"."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    parts = dict(train=range(90), validation=PARTS[3], test=PARTS[4])
    for name, config, target in (("iwslt15_en_vi", "iwslt2015-en-vi", "vi"), ("wmt14_en_de", "de-en", "de")):
        # As on the hub, the validation split of IWSLT is its test split, and files end with an empty pair.
        numbers = parts | ({"validation": parts["test"]} if target == "vi" else {})
        folder = tmp_path / name / config
        folder.mkdir(parents=True)
        files = []
        for split, chosen in numbers.items():
            columns = zip([*sentences(chosen, "en"), ""], [*sentences(chosen, target), ""], strict=True)
            rows = [{"translation": {"en": source, target: other}} for source, other in columns]
            if target == "vi":
                path = folder / f"{split}.parquet"
                Dataset.from_list(rows).to_parquet(path)
            else:
                path = folder / f"{split}.json"
                path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
            files.append(f"  - split: {split}\n    path: {config}/{path.name}\n")
        card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{''.join(files)}---\n"
        (tmp_path / name / "README.md").write_text(card, encoding="utf-8")
        assert translation.HUB[name]["name"] == config
        where = dict(path=str(tmp_path / name), name=config, cache_dir=str(tmp_path / "cache"))
        monkeypatch.setitem(translation.HUB, name, where)
    return tmp_path


def test_iwslt_keeps_its_test_split_for_the_test(hub):
    data = iwslt15_en_vi(vocabulary=300, validation=7)
    known = [set(zip(sentences(numbers, "en"), sentences(numbers, "vi"), strict=True)) for numbers in (range(90), PARTS[4])]
    train, validation, test = (pairs_of(data, split) for split in SPLITS)
    assert (len(train), len(validation), len(test)) == (83, 7, 15)
    assert set(train) | set(validation) == known[0] and set(test) == known[1]
    assert list(zip(data.sources["validation"], data.references["validation"], strict=True)) == validation
    assert validation == pairs_of(iwslt15_en_vi(vocabulary=300, validation=7, subset=10), "validation")
    for count in (0, 90):
        with pytest.raises(ValueError, match=f"validation={count} of iwslt15_en_vi: give a whole number from 1 to 89"):
            iwslt15_en_vi(validation=count)


def test_wmt_streamed_and_kept_are_the_same(hub):
    streamed, kept = (wmt14_en_de(vocabulary=300, streaming=streaming) for streaming in (True, False))
    for split, numbers in (("train", range(90)), ("validation", PARTS[3]), ("test", PARTS[4])):
        known = list(zip(sentences(numbers, "en"), sentences(numbers, "de"), strict=True))
        assert pairs_of(streamed, split) == pairs_of(kept, split) == known


def test_a_part_of_a_stream_is_drawn_by_a_fixed_seed(hub):
    first, again = (pairs_of(wmt14_en_de(vocabulary=300, subset=30), "train") for _ in range(2))
    ordered = pairs_of(wmt14_en_de(vocabulary=300), "train")
    assert first == again and set(first) < set(ordered) and len(first) in (29, 30)  # the empty pair may be among them
    assert first[:5] != ordered[:5]
    assert len(wmt14_en_de(vocabulary=300, subset=30, streaming=False).train[0]) == 30


def test_without_the_hub_the_error_names_the_repair(hub, monkeypatch):
    shutil.rmtree(hub / "wmt14_en_de/de-en")
    with pytest.raises(DataError, match="wmt14_en_de could not be had from .*Check the network.*'number_pairs' is bundled"):
        wmt14_en_de()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"package datasets.*pip install \"resnorm\[translation\]\".*'number_pairs'"):
        iwslt15_en_vi()


def test_without_tokenizers_the_error_names_the_repair(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"package tokenizers.*pip install \"resnorm\[translation\]\".*'number_pairs'"):
        en_vi()


# --- the real files


@pytest.mark.parametrize(
    "name, folder, vocabulary, context, counts",
    [("en_vi", "envi-corpora", 4000, 338, [1007, 1220]), ("multi30k", "multi30k", 8000, 49, [1014, 1000])],
)
def test_the_real_files(name, folder, vocabulary, context, counts):
    if not os.path.isdir(os.path.join(os.environ.get("RESNORM_DATA") or "/nowhere", folder)):
        pytest.skip(f"RESNORM_DATA names no folder that holds {folder}")
    data = load(name, subset=500)
    assert data.spec == dict(vocabulary=vocabulary, context=context)
    assert [len(getattr(data, split)[0]) for split in SPLITS] == [500, *counts]
    for split in ("validation", "test"):
        assert pairs_of(data, split) == list(zip(data.sources[split], data.references[split], strict=True))
