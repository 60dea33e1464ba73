"""Data sets of translated sentences, cut into the tokens of one byte-pair encoding of both languages."""

import gzip
import os
import random
import zlib
from array import array
from collections.abc import Iterable
from pathlib import Path

from resnorm.data.dataset import DataSet, padded
from resnorm.data.root import DataError, data_root
from resnorm.extras import needed_for

SEED = 0
SPECIAL = ["<padding>", "<start>", "<end>", "<unknown>"]
BYTES = 256
BUNDLED = "The data set 'number_pairs' is bundled and needs no download."
# Of a stream, what is held to draw the next pair from.
BUFFER = 10_000
PART = 50_000
# The IWSLT set is kept as a script, which the library no longer runs, beside the hub's own copy as files.
HUB = {
    "iwslt15_en_vi": dict(path="IWSLT/mt_eng_vietnamese", name="iwslt2015-en-vi", revision="refs/convert/parquet"),
    "wmt14_en_de": dict(path="wmt/wmt14", name="de-en"),
}

Pairs = list[tuple[str, str]]


def en_vi(root: str | os.PathLike | None = None, vocabulary: int = 4000, longest: int = 100, subset: int | None = None) -> DataSet:
    """English to Vietnamese, from the corpora of [ha2020goals]: news, Wikipedia and basic sentences.

    Trained on `indomain-news/train`, `wiki-alt` and `basic` (48,924 pairs), chosen on the news of `dev` (1,007) and
    tested on those of `tst` (1,220), which are not the sets of IWSLT. Files are looked for in ``root`` (see `data_root`).

    One byte-pair encoding [sennrich2016neural] of both languages, over bytes, is trained on the training pairs:
    ``vocabulary`` tokens, or fewer where the text has no more to merge. No text is unknown to it, and decoding gives back
    what was encoded. Training pairs with a side of more than ``longest`` tokens, END counted, are left out (671 of 48,924
    as it stands), and so are those whose source is also a source of another split (30); ``subset`` keeps that many of the
    rest, drawn by a fixed seed. Validation and test are whole: their longest row is the context.

    Shapes: (pairs, source tokens) for inputs, (pairs, target tokens) for targets, see `DataSet`.
    Raises DataError where files are missing, MissingExtra without the package tokenizers, ValueError for impossible sizes.
    """
    files = dict(
        train=("indomain-news/train", "wiki-alt/data", "basic/data"), validation=("indomain-news/dev",), test=("indomain-news/tst",)
    )
    pairs = _read(data_root(root) / "envi-corpora", files, ("en", "vi"), "https://github.com/thanhleha-kit/EnViCorpora")
    return subword_pairs("en_vi", pairs, vocabulary, longest, subset)


def multi30k(
    root: str | os.PathLike | None = None, vocabulary: int = 8000, longest: int = 50, subset: int | None = None
) -> DataSet:
    """English to German, the captions of Multi30k [elliott2016multi30k]: 29,000 + 1,014 + 1,000 pairs, tested on 2016.

    Tokens, ``vocabulary``, ``longest``, ``subset``, shapes and errors are those of `en_vi`.
    """
    files: dict[str, tuple[str, ...]] = dict(train=("train",), validation=("val",), test=("test_2016_flickr",))
    original = "https://github.com/multi30k/dataset, data/task1/raw"
    pairs = _read(data_root(root) / "multi30k", files, ("en.gz", "de.gz"), original)
    return subword_pairs("multi30k", pairs, vocabulary, longest, subset)


def iwslt15_en_vi(vocabulary: int = 8000, longest: int = 100, subset: int | None = None, validation: int = 1500) -> DataSet:
    """English to Vietnamese talks, IWSLT'15 as in [luong2015stanford]: "iwslt2015-en-vi" of IWSLT/mt_eng_vietnamese.

    Read through Hugging Face `datasets`, which downloads it. The hub's validation split holds the sentences of its test
    split, tst2013: here ``validation`` pairs leave the training split by a fixed seed instead. The text is tokenised and
    holds escapes such as `&apos;`, so that its BLEU is not that of plain text. The loading code is tested on files of the
    same form; no run of this project has used the real ones.

    Tokens, ``vocabulary``, ``longest``, ``subset`` and shapes are those of `en_vi`. Raises as `en_vi`, DataError
    where the hub cannot be reached, and MissingExtra without the package datasets.
    """
    train, test = (_hub("iwslt15_en_vi", split, ("en", "vi")) for split in ("train", "test"))
    if type(validation) is not int or not 1 <= validation < len(train):
        raise ValueError(f"validation={validation!r} of iwslt15_en_vi: give a whole number from 1 to {len(train) - 1}")
    random.Random(SEED).shuffle(train)
    pairs = dict(train=train[validation:], validation=train[:validation], test=test)
    return subword_pairs("iwslt15_en_vi", pairs, vocabulary, longest, subset)


def wmt14_en_de(vocabulary: int = 37000, longest: int = 100, subset: int | None = None, streaming: bool = True) -> DataSet:
    """English to German, WMT 2014 [bojar2014findings]: "de-en" of wmt/wmt14, about 4.5 million pairs.

    Chosen on newstest2013 and tested on newstest2014, as in [vaswani2017attention]. Read through Hugging Face `datasets`.
    ``streaming`` reads the training split over the network without keeping it; then ``subset`` is how many pairs are read,
    in an order shuffled by a fixed seed, before any is left out, and the byte-pair encoding is trained on those.
    The loading code is tested on files of the same form; no run of this project has used the real ones.

    Tokens, ``vocabulary``, ``longest``, ``subset`` and shapes are those of `en_vi`. Raises as `iwslt15_en_vi`.
    """
    read = subset if streaming else None
    pairs = {"train": _hub("wmt14_en_de", "train", ("en", "de"), streaming, read)}
    pairs |= {split: _hub("wmt14_en_de", split, ("en", "de"), streaming) for split in ("validation", "test")}
    return subword_pairs("wmt14_en_de", pairs, vocabulary, longest, None if streaming else subset)


def _read(folder: Path, files: dict[str, tuple[str, ...]], suffixes: tuple[str, str], original: str) -> dict[str, Pairs]:
    """The pairs of every split from text files, one sentence a line, source and target in files of their own."""
    repair = (
        f"Get it from {original} and put it into {folder}, or point RESNORM_DATA or root= at a folder that has "
        f"{folder.name}. {BUNDLED}"
    )
    names = [f"{stem}.{suffix}" for stems in files.values() for stem in stems for suffix in suffixes]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}. {repair}")
    pairs: dict[str, Pairs] = {split: [] for split in files}
    for split, stems in files.items():
        for stem in stems:
            sides = [lines_of(folder / f"{stem}.{suffix}", repair) for suffix in suffixes]
            if len(sides[0]) != len(sides[1]):
                raise DataError(
                    f"{folder / stem} has {len(sides[0])} lines in {suffixes[0]} and {len(sides[1])} in {suffixes[1]}: "
                    f"one of them is incomplete. {repair}"
                )
            pairs[split] += zip(*sides, strict=True)
    return pairs


def lines_of(path: Path, repair: str) -> list[str]:
    """The lines of a text in UTF-8, compressed where its name ends in .gz. Raises DataError, which ends in ``repair``."""
    if not path.is_file():
        raise DataError(f"there is no file {path}. {repair}")
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}). {repair}") from error
    # Without the mark that editors on Windows set in front. No splitlines: it cuts at characters that stand inside a sentence.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _hub(data: str, split: str, languages: tuple[str, str], streaming: bool = False, count: int | None = None) -> Pairs:
    """A split from Hugging Face's hub, without the pairs that have an empty side."""
    with needed_for("sentence pairs of Hugging Face's hub", "translation", BUNDLED):
        from datasets import load_dataset
    try:
        rows = load_dataset(**HUB[data], split=split, streaming=streaming)
        if count is not None:
            rows = rows.shuffle(seed=SEED, buffer_size=BUFFER).take(count)
        pairs = [tuple(row["translation"][language] for language in languages) for row in rows]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{data} could not be had from {HUB[data]['path']} on Hugging Face's hub ({error}). Check the network and run "
            f"again. {BUNDLED}"
        ) from error
    return [pair for pair in pairs if all(side.strip() for side in pair)]


def subword_pairs(name: str, pairs: dict[str, Pairs], vocabulary: int, longest: int, subset: int | None = None) -> DataSet:
    """Train the byte-pair encoding on the training pairs, encode all, leave out what training does not use."""
    least = len(SPECIAL) + BYTES
    if type(vocabulary) is not int or vocabulary < least:
        raise ValueError(
            f"vocabulary={vocabulary!r} of {name}: give a whole number of at least {least}, the special tokens and all bytes"
        )
    tokenizer = _byte_pair_encoding((side for pair in pairs["train"] for side in pair), vocabulary)
    held_out = {source for split in ("validation", "test") for source, _ in pairs[split]}
    rows = {
        split: list(zip(*(_encode(tokenizer, side) for side in zip(*pairs[split], strict=True)), strict=True)) for split in pairs
    }
    rows["train"] = [
        row
        for row, (source, _) in zip(rows["train"], pairs["train"], strict=True)
        if max(map(len, row)) < longest and source not in held_out
    ]
    if not rows["train"]:
        raise ValueError(f"longest={longest!r} of {name} leaves no pair to train on: take a larger one")
    if subset is not None:
        if type(subset) is not int or not 1 <= subset <= len(rows["train"]):
            raise ValueError(
                f"subset={subset!r} of {name}: give a whole number from 1 to {len(rows['train'])}, the training pairs of at "
                f"most {longest} tokens"
            )
        rows["train"] = random.Random(SEED).sample(rows["train"], subset)
    splits = {split: padded(found) for split, found in rows.items()}
    context = max(side.shape[1] for split in splits.values() for side in split)
    sources, references = ({split: [pair[side] for pair in pairs[split]] for split in ("validation", "test")} for side in (0, 1))
    return DataSet(
        name,
        "pairs",
        **splits,
        spec=dict(vocabulary=tokenizer.get_vocab_size(), context=context),
        detokenise=tokenizer.decode,
        sources=sources,
        references=references,
    )


def _byte_pair_encoding(texts: Iterable[str], vocabulary: int):
    with needed_for("sentences that are cut into tokens", "translation", BUNDLED):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.encode_special_tokens = True  # a sentence that writes <end> has five characters there
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _encode(tokenizer, texts: tuple[str, ...]) -> list[array]:
    # By parts, and in four bytes a token: millions of sentences would not fit in memory otherwise.
    parts = (tokenizer.encode_batch_fast(list(texts[start : start + PART])) for start in range(0, len(texts), PART))
    return [array("i", encoding.ids) for part in parts for encoding in part]
