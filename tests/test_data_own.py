"""Your own data: images in folders, a text, two texts, tensors; how they are cut, and what is refused."""

import gzip
import re
from pathlib import Path

import numpy
import pandas
import pytest
import torch
from PIL import Image

from resnorm import build
from resnorm.data import DataError, image_folder, tensors, text_file, text_pairs
from resnorm.training import Recipe, fit

PAGE = Path(__file__).parent.parent / "book/own_data.md"
ROWS = numpy.random.default_rng(0)
FEATURES, CLASSES = ROWS.normal(size=(60, 5)), numpy.arange(60) % 3


def sizes(data) -> list[int]:
    return [len(inputs) for inputs, _ in (data.train, data.validation, data.test)]


def learns(data, model: str, **options) -> None:
    recipe = Recipe(epochs=1, batch_size=4, lr=0.01, optimizer="adamw")
    run = fit(build(model, data.spec, depth=options.pop("depth", 1), **options), data, recipe, progress=False, device="cpu")
    assert run.status == "finished" and run.metrics["test_loss"] > 0


def photos(folder: Path, names=("cat", "dog"), count: int = 8, size: tuple[int, int] = (8, 8)) -> Path:
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = numpy.full((size[1], size[0], 3), 100 * place + number, dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


# --- Tensors


def test_features_are_standardised_and_every_class_is_in_every_share():
    data = tensors(FEATURES, CLASSES, validation=0.2, test=0.1)
    assert data.kind == "features" and data.spec == dict(inputs=5, size=1, classes=3) and sizes(data) == [42, 12, 6]
    assert [targets.bincount().tolist() for _, targets in (data.validation, data.test)] == [[4, 4, 4], [2, 2, 2]]
    together = torch.cat([inputs for inputs, _ in (data.train, data.validation, data.test)])
    assert together.sort(0).values.equal(torch.from_numpy(FEATURES).float().sort(0).values)
    assert data.mean == pytest.approx(data.train[0].double().mean(0).tolist())
    seen = []
    model = build("mlp_stack", data.spec, depth=1, width=8)
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]) if module.training else None)
    run = fit(model, data, Recipe(epochs=1, batch_size=42, lr=0.1), progress=False, device="cpu")
    assert seen[0].mean(0).abs().max() < 1e-5 and (seen[0].std(0, correction=0) - 1).abs().max() < 1e-5
    assert {"examples_per_second", "test_accuracy"} <= set(run.metrics) and "test_exact" not in run.metrics


def test_the_seed_chooses_and_given_splits_are_taken_as_they_are():
    first, again, other = (tensors(FEATURES, CLASSES, seed=seed) for seed in (0, 0, 1))
    assert first.test[0].equal(again.test[0]) and not first.test[0].equal(other.test[0])
    data = tensors(FEATURES, CLASSES, validation=(FEATURES[:3], CLASSES[:3]), test=0)
    assert sizes(data) == [60, 3, 0] and data.train[1].equal(torch.from_numpy(CLASSES))


def test_images_and_tokens_are_known_by_type_and_shape():
    images = tensors(torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8), torch.arange(20) % 2)
    assert images.kind == "images" and images.spec == dict(inputs=3, size=8, classes=2)
    learns(images, "cifar_resnet", depth=8)
    tokens = torch.arange(90).view(30, 3) % 7
    rows = tensors(tokens, (tokens + 1) % 7)
    assert rows.kind == "sequences" and rows.spec == dict(vocabulary=7, context=3) and sizes(rows) == [24, 3, 3]
    learns(rows, "transformer_lm", width=8, heads=2)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (FEATURES, CLASSES[:-1], {}, r"inputs have shape \(60, 5\) and their targets \(59,\): there must be one target"),
        (FEATURES, CLASSES.astype(float), {}, r"are torch.float64: give classes or tokens as integers, targets.long\(\)"),
        (numpy.where(FEATURES > 2, numpy.nan, FEATURES), CLASSES, {}, "are not finite in .* rows, first in row "),
        (FEATURES, CLASSES + 1, {}, "no training example of class 0: number the classes 0, 1, 2"),
        (FEATURES, CLASSES - 1, {}, "the class -1: number the classes"),
        (FEATURES, CLASSES, dict(validation=(FEATURES, CLASSES + 7)), "no training example of class 3"),
        (FEATURES, CLASSES, dict(test=(FEATURES[:, :4], CLASSES)), r"test has inputs torch.float32 \(60, 4\), the training split"),
        (FEATURES, CLASSES, dict(validation=0.5, test=0.5), "30 for validation and 30 for test leave nothing of 60 examples"),
        (FEATURES, CLASSES, dict(validation=1.5), "validation=1.5: give a share from 0 to below 1, or the split itself"),
        (FEATURES, CLASSES, dict(test=(FEATURES,)), "test has 1 parts; give a share of the examples, or"),
        (numpy.zeros((9, 3, 8, 8)), CLASSES[:9], {}, r"float64 with shape \(9, 3, 8, 8\).*become \(x \* 255\).round"),
        (numpy.zeros((9, 3, 8, 6), "uint8"), CLASSES[:9], {}, "images of 8 x 6 pixels: models take squares"),
        (numpy.zeros((9, 4), int), numpy.full((9, 4), -7), {}, "tokens below 0: give tokens of 0 or more, and -100"),
        (numpy.zeros((9, 8, 8, 3), "uint8"), CLASSES[:9], {}, r"8 x 3 pixels: the channels stand last; give images.permute"),
        (FEATURES, CLASSES[:, None], {}, r"targets of inputs have shape \(60, 1\): give one class .* targets\[:, 0\]"),
        (numpy.zeros((9, 3, 8, 8), "uint8"), CLASSES[:9, None], {}, "have shape .9, 1.: give one class for each example"),
        (FEATURES, numpy.array(["cat", "dog", "hen"])[CLASSES], {}, "targets of inputs are a ndarray that makes no tensor.*unique"),
        ([[1.0, 2.0], [3.0]], [0, 1], {}, "inputs are a list that makes no tensor .*of one shape for all examples"),
        (FEATURES * 1e300, CLASSES, {}, "not finite in float32 in 60 rows"),
        (numpy.zeros((9, 4), int), CLASSES[:9], {}, r"inputs are torch.int64 with shape \(9, 4\); give images as uint8"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(inputs, targets, options, message):
    with pytest.raises(ValueError, match=message):
        tensors(inputs, targets, **options)


def test_tables_are_read_by_position_and_arrays_as_they_lie():
    table, order = pandas.DataFrame(FEATURES), numpy.random.default_rng(1).permutation(60)
    expected = tensors(FEATURES[order], CLASSES[order]).train
    backwards = FEATURES[order][::-1].copy()[::-1]
    backwards.flags.writeable = False
    for inputs, targets in ((table.iloc[order], pandas.Series(CLASSES).iloc[order]), (backwards, CLASSES[order])):
        assert all(map(torch.equal, tensors(inputs, targets).train, expected))


# --- A folder of images


def test_a_folder_of_images_is_read_class_by_class(tmp_path):
    data = image_folder(photos(tmp_path / "pets"), validation=0.25, test=0.25)
    assert (data.name, data.kind, data.spec) == ("pets", "images", dict(inputs=3, size=8, classes=2, names=["cat", "dog"]))
    assert sizes(data) == [8, 4, 4] and data.train[0].dtype == torch.uint8
    for inputs, targets in (data.train, data.validation, data.test):
        assert ((inputs[:, 0, 0, 0] >= 100).long() == targets).all() and targets.double().mean() == 0.5
    learns(data, "cifar_resnet", depth=8)
    grey = image_folder(tmp_path / "pets", channels=1)
    assert grey.train[0].shape[1:] == (1, 8, 8)


def test_folders_of_splits_are_the_splits(tmp_path):
    photos(tmp_path / "train")
    photos(tmp_path / "val", count=2)
    data = image_folder(tmp_path, test=0.25)
    assert sizes(data) == [12, 4, 4]
    photos(tmp_path / "b/Training")
    photos(tmp_path / "b/Testing", count=2)
    data = image_folder(tmp_path / "b", validation=0.25)
    assert sizes(data) == [12, 4, 4] and data.spec["names"] == ["cat", "dog"]
    photos(tmp_path / "test", ("cat", "mouse"), count=1)
    with pytest.raises(DataError, match="test has the classes cat, mouse, but the training folder cat, dog"):
        image_folder(tmp_path)


def test_images_of_any_size_are_scaled_and_cut_where_asked(tmp_path):
    photos(tmp_path, ("cat",), size=(12, 9))
    photos(tmp_path, ("dog",), size=(8, 8))
    assert image_folder(tmp_path, size=6).train[0].shape[1:] == (3, 6, 6)
    with pytest.raises(ValueError, match="0.png has 12 x 9 pixels.*give size="):
        image_folder(tmp_path)
    for file in tmp_path.glob("cat/*"):
        file.unlink()
    photos(tmp_path, ("bird",), size=(9, 8))
    (tmp_path / "cat").rmdir()
    with pytest.raises(ValueError, match="0.png has 9 x 8 pixels: give size="):
        image_folder(tmp_path)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_pixels_of_more_than_8_bits_are_not_cut_at_255(tmp_path, dtype):
    for name in photos(tmp_path).iterdir():
        Image.fromarray(numpy.full((8, 8), 700, dtype)).save(name / "deep.tiff")
    with pytest.raises(DataError, match="deep.tiff .*more than 8 bits, mode .*: scale them to 0 to 255 and save them so"):
        image_folder(tmp_path, channels=1)


def test_what_is_no_folder_of_images_is_refused(tmp_path):
    for settings, message in ((dict(size=0), "size=0 of image_folder"), (dict(channels=4), "channels=4 of image_folder")):
        with pytest.raises(ValueError, match=message):
            image_folder(tmp_path, **settings)
    with pytest.raises(DataError, match="there is no folder .*nowhere: give the folder that holds a folder of images for each"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="needs a folder for each class"):
        image_folder(tmp_path)
    photos(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty.*at least one image in each"):
        image_folder(tmp_path)
    (tmp_path / "empty").rmdir()
    broken = tmp_path / "cat/3.png"
    for content in (b"no image", broken.read_bytes()[:40]):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=f"{re.escape(str(broken))} cannot be read as an image .*repair it, or take it out"):
            image_folder(tmp_path)


# --- A text


def test_a_text_becomes_windows_of_characters_or_words(tmp_path):
    path = text(tmp_path / "novel.txt", "The cat sat, and the cat ate.\n" * 30)
    data = text_file(path, context=20)
    assert data.name == "novel" and data.kind == "sequences" and data.decode(data.train[0][0]) == "The cat sat, and the"
    words = text_file(path, "words", context=8)
    assert words.decode(words.train[0][0]) == "The cat sat , and the cat ate" and words.spec["vocabulary"] == 9
    assert words.train[1][0, :-1].equal(words.train[0][0, 1:]) and sizes(words) == [27, 3, 3]
    learns(words, "transformer_lm", width=8, heads=2)
    few = text_file(path, "words", context=8, vocabulary=1)
    assert few.decode(few.train[0][0]) == "<unknown> cat" + " <unknown>" * 4 + " cat <unknown>"


def test_words_are_those_of_the_training_part(tmp_path):
    data = text_file(text(tmp_path / "a.txt", "old " * 160 + "new " * 41), "words", context=4, validation=0.1, test=0.1)
    assert data.spec["symbols"] == ["<unknown>", "old"] and data.decode(data.test[0][-1]) == " ".join(["<unknown>"] * 4)


def test_a_text_that_does_not_do_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file .*nowhere.txt. Give the path of a text"):
        text_file(tmp_path / "nowhere.txt")
    (tmp_path / "latin.txt").write_bytes("déjà".encode("latin-1"))
    with pytest.raises(DataError, match="latin.txt is damaged .*utf-8.*UTF-8"):
        text_file(tmp_path / "latin.txt")
    path = text(tmp_path / "a.txt", "one two three")
    for settings, message in (
        (dict(unit="lines"), "unit='lines' of text_file: allowed are 'characters' and 'words'"),
        (dict(vocabulary=5), "vocabulary=5 of text_file: characters are all taken"),
        (dict(unit="words", vocabulary=0), "vocabulary=0: give a whole number above 0"),
        (dict(unit="words"), "3 words make 0 windows of context=128"),
        (dict(context=0), "context=0 of a: give a whole number"),
        (dict(context=2, validation=0.6, test=0.6), "must be shares"),
    ):
        with pytest.raises(ValueError, match=message):
            text_file(path, **settings)


# --- Two texts


@pytest.fixture
def talks(tmp_path) -> tuple[Path, Path]:
    english = text(tmp_path / "talks.en", "".join(f"the number {number}\n" for number in range(100, 200)))
    return english, text(tmp_path / "talks.de", "".join(f"die Zahl {number}\n" for number in range(100, 200)))


@pytest.mark.parametrize("unit", ["subwords", "words", "characters"])
def test_lines_that_belong_together_stay_together(talks, unit):
    data = text_pairs(*talks, unit, vocabulary=300 if unit == "subwords" else None, validation=0.1, test=0.2)
    assert data.name == "talks" and data.kind == "pairs" and sizes(data) == [70, 10, 20]
    for split in ("validation", "test"):
        for source, reference in zip(data.sources[split], data.references[split], strict=True):
            assert source.split()[-1] == reference.split()[-1]
    number = data.decode(data.train[0][0]).split()[-1]
    assert number.isdigit() and data.decode(data.train[1][0]) == f"die Zahl {number}"
    if unit != "words":  # a number that no training pair has is no word
        assert [data.decode(row) for row in data.test[1]] == data.references["test"]
    learns(data, "seq2seq", width=8, heads=2)


def test_texts_of_their_own_are_validation_and_test(talks, tmp_path):
    other = [text(tmp_path / f"other.{suffix}", "one\ntwo\n") for suffix in ("en", "de")]
    with gzip.open(tmp_path / "packed.en.gz", "wb") as file:
        file.write(b"the number 150\nthree\n")
    packed = [tmp_path / "packed.en.gz", text(tmp_path / "packed.de", "a\nb\n")]
    data = text_pairs(*talks, "characters", validation=other, test=packed)
    assert sizes(data) == [99, 2, 2]  # a training pair whose source is tested is left out
    assert data.sources == dict(validation=["one", "two"], test=["the number 150", "three"])
    assert sizes(text_pairs(*talks, "characters", validation=0, test=0)) == [100, 0, 0]


def test_texts_that_are_not_aligned_are_refused(talks, tmp_path):
    short = text(tmp_path / "short.de", "eins\nzwei\n")
    with pytest.raises(DataError, match="talks.en has 100 lines and .*short.de has 2: line i of one must belong to line i"):
        text_pairs(talks[0], short)
    with pytest.raises(ValueError, match="gap.en is empty in line 2: take that line out of both files"):
        text_pairs(text(tmp_path / "gap.en", "one\n \n"), short)
    for settings, message in (
        (dict(unit="bytes"), "unit='bytes' of text_pairs: allowed are 'subwords', 'words' and 'characters'"),
        (dict(longest="9"), "longest='9' of text_pairs: give a whole number of at least 2"),
        (dict(unit="words", validation=talks), "every source of .*talks.en .*is also one of validation or test, and left out"),
        (dict(unit="words", longest=2), "longest=2 of talks leaves no pair to train on"),
        (dict(unit="subwords", vocabulary=10), "vocabulary=10 of talks: give a whole number of at least 260"),
        (dict(validation=0.5, test=0.5), "leave nothing of 100 pairs to train on"),
        (dict(test="some"), "test='some': give a share from 0 to below 1, or the split itself"),
    ):
        with pytest.raises(ValueError, match=message):
            text_pairs(*talks, **settings)


def test_the_mark_that_windows_sets_in_front_of_a_text_is_no_part_of_it(tmp_path):
    marked = text(tmp_path / "marked.txt", "\ufeff" + "abc def\n" * 9)
    assert "\ufeff" not in text_file(marked, context=4).spec["symbols"]
    data = text_pairs(marked, marked, unit="words", validation=0, test=0)
    assert data.decode(data.train[0][0]) == "abc def" and data.spec["vocabulary"] == 6


# --- The page


def test_the_examples_of_the_page_run(talks, tmp_path, monkeypatch):
    photos(tmp_path / "photos", count=20, size=(20, 16))
    text(tmp_path / "novel.txt", "The cat sat, and the cat ate. " * 400)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, "own_data.md", "exec"), names)
    assert len(blocks) >= 5
