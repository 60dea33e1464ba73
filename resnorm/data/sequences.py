"""Data sets of characters: number names in two languages, and running text."""

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from resnorm.data.dataset import NOT_SCORED, DataSet, Split, padded
from resnorm.data.root import DataError, data_root
from resnorm.extras import needed_for

SEED = 0
PAIRS = ("en-vi", "en-de", "en-fr")
PADDING, SEPARATOR, END = "\0", "=", "\n"
# What ASCII calls null, start of text, end of text and substitute, in the places of the special tokens of pairs.
SPECIAL = "\0\x02\x03\x1a"
MASK, MASKED = "\N{WHITE SQUARE}", 0.15
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def number_words(pair: str = "en-vi", limit: int = 2000, validation: float = 0.1, test: float = 0.1) -> DataSet:
    """Translate number names, character by character: ``forty-two=bốn mươi hai``, made by num2words without a download.

    The numbers 0 to ``limit`` - 1, shuffled by a fixed seed; ``validation`` and ``test`` are shares of them. An input
    row is the source, "=", and the target; only the target and the end of its line are scored. Where every scored
    character of a row is right given those before it, decoding greedily gives exactly that row: the metric ``exact``
    counts these.

    Shapes: (numbers, context) for inputs and targets, with context the longest row.
    Raises ValueError for an unknown pair, a limit that is too small or shares that leave nothing to train on.
    """
    rows = [f"{source}{SEPARATOR}{target}{END}" for source, target in _named_numbers("number_words", pair, limit)]
    symbols = PADDING + "".join(sorted(set("".join(rows))))
    token_of = {symbol: token for token, symbol in enumerate(symbols)}
    context = max(map(len, rows)) - 1
    inputs = torch.zeros(limit, context, dtype=torch.int64)
    targets = torch.full((limit, context), NOT_SCORED)
    for number, row in enumerate(rows):
        tokens = torch.tensor([token_of[symbol] for symbol in row])
        start = row.index(SEPARATOR)
        inputs[number, : len(row) - 1] = tokens[:-1]
        targets[number, start : len(row) - 1] = tokens[start + 1 :]
    return DataSet(
        f"number_words {pair}",
        "sequences",
        *_splits(inputs, targets, validation, test),
        spec=dict(vocabulary=len(symbols), context=context, symbols=symbols),
    )


def number_pairs(pair: str = "en-vi", limit: int = 2000, validation: float = 0.1, test: float = 0.1) -> DataSet:
    """Translate number names as sentence pairs of characters, for an encoder and a decoder: no download.

    Numbers, order and splits are those of `number_words`; source and target are rows of their own, in one vocabulary of
    the special tokens and the characters of both languages.

    Shapes: (numbers, source tokens) for inputs, (numbers, target tokens) for targets, see `DataSet`.
    Raises ValueError as `number_words`.
    """
    names = _named_numbers("number_pairs", pair, limit)
    symbols = SPECIAL + "".join(sorted({symbol for row in names for side in row for symbol in side}))
    token_of = {symbol: token for token, symbol in enumerate(symbols)}
    inputs, targets = padded([tuple([token_of[symbol] for symbol in side] for side in row) for row in names])
    return DataSet(
        f"number_pairs {pair}",
        "pairs",
        *_splits(inputs, targets, validation, test),
        spec=dict(vocabulary=len(symbols), context=max(inputs.shape[1], targets.shape[1]), symbols=symbols),
    )


def characters(path: str | os.PathLike | None = None, context: int = 128, validation: float = 0.1, test: float = 0.1) -> DataSet:
    """Predict the next character of a text: a UTF-8 file of yours, or the bundled default, English number names.

    The text is cut into windows of ``context`` characters that do not overlap, each with the characters one further on
    as its targets. The first part is for training; the last ones, ``validation`` and ``test``, are shares of the
    windows.

    Shapes: (windows, context) for inputs and targets.
    Raises DataError where the file cannot be read; ValueError where the text is too short or ``context`` is impossible.
    """
    text = _bundled_text() if path is None else _read(Path(path))
    return windows_of("characters", text, context, validation, test)


def tiny_shakespeare(
    root: str | os.PathLike | None = None,
    context: int = 128,
    subset: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    download: bool = True,
) -> DataSet:
    """Predict the next character of 1.1 MB of Shakespeare's plays [karpathy2015charrnn], the real sibling of `characters`.

    Windows and splits are those of `characters`; ``subset`` keeps that many of the training windows, drawn by a fixed
    seed. The file is looked for in ``root`` (see `data_root`), checked against its SHA-256 and downloaded where missing.

    Shapes: (windows, context) for inputs and targets.
    Raises DataError where the file is missing, damaged or out of reach; ValueError for impossible sizes.
    """
    data = windows_of("tiny_shakespeare", _shakespeare(data_root(root), download), context, validation, test)
    if subset is None:
        return data
    inputs, targets = data.train
    if type(subset) is not int or not 1 <= subset <= len(inputs):
        raise ValueError(
            f"subset={subset!r} of tiny_shakespeare: give a whole number from 1 to {len(inputs)}, the training windows"
        )
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(SEED))[:subset]
    return replace(data, train=(inputs[chosen], targets[chosen]))


def masked_characters(
    path: str | os.PathLike | None = None, context: int = 128, copies: int = 1, validation: float = 0.1, test: float = 0.1
) -> DataSet:
    r"""Fill in characters that were taken out of a text [devlin2019bert]: the windows of `characters`, masked.

    In each window 15 % of the positions, at least one, are chosen. A chosen character is replaced by the mask, the last
    token of the vocabulary, with probability 0.8, by a character drawn evenly from all with 0.1, and stays with 0.1.
    Targets are the true characters at the chosen positions, and -100 elsewhere. The choice is fixed by a seed;
    ``copies``: how many times the training part holds every window, each time masked anew.

    Shapes: (windows, context) for inputs and targets; ``copies`` times the windows for training.
    Raises what `characters` raises; ValueError for impossible copies, and for a text that holds the mask's symbol.
    """
    return _masked("masked_characters", characters(path, context, validation, test), copies)


def masked_shakespeare(
    root: str | os.PathLike | None = None,
    context: int = 128,
    subset: int | None = None,
    copies: int = 1,
    validation: float = 0.1,
    test: float = 0.1,
    download: bool = True,
) -> DataSet:
    """Fill in characters that were taken out of Shakespeare's plays: `tiny_shakespeare`, masked as `masked_characters`.

    Shapes: (windows, context) for inputs and targets; ``copies`` times the windows for training.
    Raises what `tiny_shakespeare` and `masked_characters` raise.
    """
    text = tiny_shakespeare(root, context, subset, validation, test, download)
    return _masked("masked_shakespeare", text, copies)


def _masked(name: str, text: DataSet, copies: int) -> DataSet:
    if type(copies) is not int or copies < 1:
        raise ValueError(f"copies={copies!r} of {name}: give a whole number of at least 1")
    symbols = text.spec["symbols"]
    if MASK in symbols:
        raise ValueError(f"the text of {name} holds {MASK!r}, which stands for the mask; replace it in the text")
    mask, generator = len(symbols), torch.Generator().manual_seed(SEED)
    splits = []
    for tokens in (text.train[0].repeat(copies, 1), text.validation[0], text.test[0]):
        count = max(1, round(MASKED * tokens.shape[1]))
        chosen = torch.rand(tokens.shape, generator=generator).argsort(1) < count
        draw = torch.rand(tokens.shape, generator=generator)
        other = torch.randint(mask, tokens.shape, generator=generator)
        inputs = torch.where(chosen & (draw < 0.9), other, tokens).masked_fill(chosen & (draw < 0.8), mask)
        splits.append((inputs, tokens.masked_fill(~chosen, NOT_SCORED)))
    return DataSet(name, "sequences", *splits, spec=text.spec | dict(vocabulary=mask + 1, symbols=symbols + MASK))


def _shakespeare(root: Path, download: bool) -> str:
    path, instead = root / "tinyshakespeare" / "input.txt", "The data set 'characters' is bundled and needs no download."
    if not path.exists() and not download:
        raise DataError(f"{path} is missing. Set RESNORM_DATA or root= to a folder that has it, or allow download=True. {instead}")
    with needed_for("downloads", instead=instead):
        import pooch
    try:
        # An existing file is only checked; a download becomes visible whole, and never under a wrong checksum.
        pooch.retrieve(SHAKESPEARE, SHAKESPEARE_SHA256, fname=path.name, path=path.parent, progressbar=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"Tiny Shakespeare could not be had from {SHAKESPEARE} ({error}). Check the network and run again, or put that "
            f"file at {path} by hand, or point RESNORM_DATA at a folder that has it. {instead}"
        ) from error
    return path.read_text(encoding="utf-8")


def windows_of(
    name: str, text: Sequence[str], context: int, validation: float, test: float, words: list[str] | None = None
) -> DataSet:
    """Cut a text into windows of tokens, each with the tokens one further on as its targets.

    ``text``: a string, whose characters are the tokens; or words, with the list of those that are tokens: any other one is
    the first of them, and a space stands between two.
    """
    if type(context) is not int or context < 1:
        raise ValueError(f"context={context!r} of {name}: give a whole number of at least 1")
    windows, units = (len(text) - 1) // context, "characters" if words is None else "words"
    if windows < 3:
        raise ValueError(
            f"{len(text)} {units} make {max(windows, 0)} windows of context={context}: at least 3 are needed; "
            "give a longer text or a smaller context"
        )
    symbols = "".join(sorted(set(text))) if words is None else words
    token_of = {symbol: token for token, symbol in enumerate(symbols)}
    tokens = torch.tensor([token_of.get(symbol, 0) for symbol in text[: windows * context + 1]])
    inputs, targets = tokens[:-1].view(windows, context), tokens[1:].view(windows, context)
    return DataSet(
        name,
        "sequences",
        *_splits(inputs, targets, validation, test),
        spec=dict(vocabulary=len(symbols), context=context, symbols=symbols),
        detokenise=None if words is None else lambda row: " ".join(words[token] for token in row),
    )


def _splits(inputs: torch.Tensor, targets: torch.Tensor, validation: float, test: float) -> list[Split]:
    """Cut rows, in their order, into training, validation and test splits; the last two are shares of all rows."""
    counts = [max(1, round(share * len(inputs))) if share else 0 for share in (validation, test)]
    train = len(inputs) - sum(counts)
    if not (0 <= validation < 1 and 0 <= test < 1) or train < 1:
        raise ValueError(
            f"validation={validation!r} and test={test!r} must be shares from 0 to below 1 that leave some of the "
            f"{len(inputs)} rows to train on"
        )
    sizes = [train, *counts]
    return list(zip(inputs.split(sizes), targets.split(sizes), strict=True))


def _named_numbers(task: str, pair: str, limit: int) -> list[tuple[str, str]]:
    """The names of the numbers below ``limit`` in two languages, in an order fixed by a seed."""
    if pair not in PAIRS:
        raise ValueError(f"pair={pair!r} of {task}: allowed are {', '.join(PAIRS)}")
    if type(limit) is not int or limit < 10:
        raise ValueError(f"limit={limit!r} of {task}: give a whole number of at least 10")
    numbers = list(range(limit))
    random.Random(SEED).shuffle(numbers)
    return [tuple(_name(number, language) for language in pair.split("-")) for number in numbers]


def _name(number: int, language: str) -> str:
    with needed_for("number names", instead="The data set 'digits' needs only scikit-learn."):
        from num2words import num2words
    return num2words(number, lang=language)


def _bundled_text() -> str:
    """About 65,000 characters: the names of 0 to 1999, each once, a line each, in an order fixed by a seed."""
    numbers = list(range(2000))
    random.Random(SEED).shuffle(numbers)
    return "".join(_name(number, "en") + END for number in numbers)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the text {path} cannot be read ({error}). Give the path of a UTF-8 file, or leave path out for the "
            "bundled default, number names."
        ) from error
