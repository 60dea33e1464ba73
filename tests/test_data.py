"""The data sets: what they hold, that they never change, and what a reader is told where they are missing."""

import hashlib
import http.server
import os
import pickle
import shutil
import sys
import tarfile
import threading
from functools import partial

import numpy
import pytest
import torch

from resnorm import data
from resnorm.data import (
    DataError,
    DataSet,
    characters,
    cifar10,
    digits,
    load,
    masked_characters,
    masked_shakespeare,
    number_words,
    sequences,
    tiny_shakespeare,
)
from resnorm.data.dataset import channel_statistics, stratified_split
from resnorm.extras import MissingExtra

SPLITS = ("train", "validation", "test")
BUNDLED = [
    ("digits", {}),
    ("number_words", dict(limit=60)),
    ("characters", dict(context=50)),
    ("masked_characters", dict(context=50)),
]


def rows(split) -> set[bytes]:
    return {row.numpy().tobytes() for row in split[0]}


@pytest.mark.parametrize("name, options", BUNDLED, ids=[name for name, _ in BUNDLED])
def test_bundled_sets_are_the_same_every_time(name, options):
    first, again = load(name, **options), load(name, **options)
    assert first.spec == again.spec and first.kind in ("images", "sequences")
    for split in SPLITS:
        assert len(getattr(first, split)[0])
        assert all(torch.equal(a, b) for a, b in zip(getattr(first, split), getattr(again, split), strict=True))


def test_load_names_what_there_is():
    with pytest.raises(ValueError, match="unknown data set 'mnist': there are digits, cifar10, number_words, char"):
        load("mnist")
    with pytest.raises(ValueError, match="'digits' has no option subset: it has validation, test, seed"):
        load("digits", subset=3)


# --- DataSet


def test_data_set_refuses_what_training_could_not_use():
    images, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    good = (images, labels)
    with pytest.raises(ValueError, match="kind='sound'.*'images', 'sequences' and 'pairs'"):
        DataSet("x", "sound", good, good, good)
    with pytest.raises(ValueError, match="validation inputs of 'x' are torch.float32.*images need torch.uint8"):
        DataSet("x", "images", good, (images.float(), labels), good)
    with pytest.raises(ValueError, match=r"test targets of 'x' .*\(3,\): they must be torch.int64 with shape \(4,\)"):
        DataSet("x", "images", good, good, (images, labels[:3]))


def test_statistics_are_those_of_the_training_images():
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    images[:, 2] = 51
    mean, std = channel_statistics(images)
    reference = images.double() / 255
    assert mean == pytest.approx(reference.mean((0, 2, 3)).tolist(), abs=1e-4)
    # A channel without contrast is centred and not divided by zero.
    assert std == pytest.approx([*reference.std((0, 2, 3), correction=0).tolist()[:2], 1.0], abs=1e-4)


@pytest.mark.parametrize("count", [0, 7, 20, 100])
def test_stratified_split_takes_every_class_in_its_share(count):
    targets = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    chosen, rest = stratified_split(targets, count, seed=3)
    assert sorted(torch.cat([chosen, rest]).tolist()) == list(range(100))
    expected = count * torch.tensor([0.5, 0.3, 0.2])
    assert ((targets[chosen].bincount(minlength=3) - expected).abs() <= 1).all()
    if 0 < count < 100:
        assert not torch.equal(chosen, stratified_split(targets, count, seed=4)[0])
    with pytest.raises(ValueError, match="cannot take 101 of 100"):
        stratified_split(targets, 101, seed=0)


# --- digits


def test_digits():
    found = digits()
    assert [len(getattr(found, split)[0]) for split in SPLITS] == [1257, 180, 360]
    images, _ = found.train
    assert images.shape == (1257, 1, 8, 8) and images.max() == 255
    assert found.spec == dict(inputs=1, size=8, classes=10)
    assert found.test[1].bincount().tolist() == pytest.approx([36] * 10, abs=1)
    assert not torch.equal(digits(seed=1).test[1], found.test[1])
    with pytest.raises(ValueError, match="leave nothing of 1797"):
        digits(validation=1000, test=797)


# --- number names and text


def test_number_words_score_the_target_alone():
    found = number_words(limit=60)
    inputs, targets = (torch.cat([getattr(found, split)[part] for split in SPLITS]) for part in (0, 1))
    pairs = {}
    for tokens, scored in zip(inputs, targets, strict=True):
        source, _, shown = found.decode(tokens).rstrip("\0").partition("=")
        pairs[source] = found.decode(scored)
        assert pairs[source].removesuffix("\n") == shown.removesuffix("\n")
        # The first scored position is the one that reads "=".
        first = (scored != -100).nonzero()[0, 0]
        assert found.spec["symbols"][tokens[first]] == "="
    assert len(pairs) == 60
    assert pairs["forty-two"] == "bốn mươi hai\n" and pairs["fifteen"] == "mười lăm\n"
    assert found.spec["vocabulary"] == len(found.spec["symbols"]) > inputs.max()
    assert found.spec["context"] == inputs.shape[1]


@pytest.mark.parametrize("pair, name", [("en-de", "zweiundvierzig\n"), ("en-fr", "quarante-deux\n")])
def test_number_words_in_other_languages(pair, name):
    found = number_words(pair, limit=50)
    assert name in {found.decode(targets) for split in SPLITS for targets in getattr(found, split)[1]}


def test_no_number_is_in_two_splits():
    found = number_words(limit=100)
    train, validation, test = (rows(getattr(found, split)) for split in SPLITS)
    assert len(train | validation | test) == 100 and (len(validation), len(test)) == (10, 10)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(pair="en-xx"), "allowed are en-vi, en-de, en-fr"),
        (dict(limit=3), "whole number of at least 10"),
        (dict(limit=20, validation=0.6, test=0.5), "leave some of the 20 rows"),
    ],
)
def test_number_words_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        number_words(**options)


def test_characters_of_a_file(tmp_path):
    text = "Đây là một dòng.\n" * 20
    (tmp_path / "text.txt").write_text(text, encoding="utf-8", newline="")
    found = characters(tmp_path / "text.txt", context=10)
    inputs = torch.cat([getattr(found, split)[0] for split in SPLITS])
    targets = torch.cat([getattr(found, split)[1] for split in SPLITS])
    assert found.decode(inputs.flatten()) == text[: inputs.numel()]
    assert found.decode(targets.flatten()) == text[1 : inputs.numel() + 1]
    assert found.spec["context"] == 10 and found.spec["symbols"] == "".join(sorted(set(text)))


def test_characters_refuse(tmp_path):
    with pytest.raises(DataError, match="cannot be read.*leave path out"):
        characters(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 100)
    with pytest.raises(DataError, match="UTF-8"):
        characters(tmp_path / "latin.txt")
    (tmp_path / "short.txt").write_text("abc")
    with pytest.raises(ValueError, match="3 characters make 0 windows"):
        characters(tmp_path / "short.txt")
    with pytest.raises(ValueError, match="context=0"):
        characters(context=0)


@pytest.fixture
def shakespeare(tmp_path, monkeypatch):
    """A text of the real one's form under the name of the real one, with its own checksum."""
    text = "".join(chr(97 + i % 26) for i in range(2001)).encode()
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(text)
    monkeypatch.setattr(sequences, "SHAKESPEARE_SHA256", hashlib.sha256(text).hexdigest())
    monkeypatch.setattr(sequences, "SHAKESPEARE", "http://127.0.0.1:9/input.txt")  # where nobody answers
    return tmp_path


def test_tiny_shakespeare_is_the_text_and_a_subset_of_its_windows_is_fixed(shakespeare):
    whole = tiny_shakespeare(shakespeare, context=20)
    assert whole.spec["vocabulary"] == 26 and [len(getattr(whole, name)[0]) for name in SPLITS] == [80, 10, 10]
    assert whole.decode(whole.train[0][0]) == "abcdefghijklmnopqrst" and whole.decode(whole.train[1][0])[0] == "b"
    part, again = tiny_shakespeare(shakespeare, context=20, subset=30), tiny_shakespeare(shakespeare, context=20, subset=30)
    assert torch.equal(part.train[0], again.train[0]) and len(part.train[0]) == 30
    assert rows(part.train) <= rows(whole.train) and torch.equal(part.test[0], whole.test[0])
    assert torch.equal(part.train[0][:, 1:], part.train[1][:, :-1])  # inputs and targets are drawn together
    assert not torch.equal(part.train[0], whole.train[0][:30])
    for subset in (0, 81, 2.5):
        with pytest.raises(ValueError, match=f"subset={subset} of tiny_shakespeare: give a whole number from 1 to 80"):
            tiny_shakespeare(shakespeare, context=20, subset=subset)


def test_a_missing_or_damaged_text_is_refused(shakespeare):
    path = shakespeare / "tinyshakespeare" / "input.txt"
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(DataError, match="'characters' is bundled"):  # another checksum, and no network to mend it
        tiny_shakespeare(shakespeare)
    assert path.exists()  # nothing of the reader's is deleted
    path.unlink()
    with pytest.raises(DataError, match="could not be had .*Check the network.*RESNORM_DATA"):
        tiny_shakespeare(shakespeare)
    with pytest.raises(DataError, match="input.txt is missing. .*allow download=True"):
        tiny_shakespeare(shakespeare, download=False)
    assert not path.exists()


# --- masked text


def masked_of(data, split):
    """The positions that are scored, what the model is shown there, and what stood there."""
    inputs, targets = getattr(data, split)
    chosen = targets != -100
    return chosen, inputs[chosen], targets[chosen]


def test_masked_characters_follow_berts_rule():
    plain, masked = characters(context=40), masked_characters(context=40, copies=3)
    mask = plain.spec["vocabulary"]
    assert masked.spec == plain.spec | dict(vocabulary=mask + 1, symbols=plain.spec["symbols"] + sequences.MASK)
    shown, true = [], []
    for split in SPLITS:
        text, (inputs, _) = getattr(plain, split)[0], getattr(masked, split)
        text = text.repeat(3, 1) if split == "train" else text
        chosen, seen, stood = masked_of(masked, split)
        assert set(chosen.sum(1).tolist()) == {6}  # 15 % of 40, in every row
        assert torch.equal(inputs[~chosen], text[~chosen]) and torch.equal(stood, text[chosen])
        shown.append(seen), true.append(stood)
    shown, true = torch.cat(shown), torch.cat(true)
    kept, hidden = shown == true, shown == mask
    assert hidden.float().mean() == pytest.approx(0.8, abs=0.01)
    # A character drawn from all of them is the true one in one of the `mask` cases.
    assert kept.float().mean() == pytest.approx(0.1 + 0.1 / mask, abs=0.01)
    other = shown[~hidden & ~kept]
    assert set(other.tolist()) == set(range(mask)) and torch.bincount(other).max() < 3 * len(other) / mask


def test_every_copy_is_masked_anew_and_every_window_is_masked():
    once, twice = masked_characters(context=3), masked_characters(context=3, copies=2)
    first, second = (twice.train[1] != -100).chunk(2)
    assert len(first) == len(once.train[0]) and 0 < (first & second).sum() < first.sum() / 2
    assert set(first.sum(1).tolist()) == {1}  # 15 % of 3 are less than a half
    assert len(twice.validation[0]) == len(once.validation[0])


def test_masked_shakespeare_is_the_text_masked(shakespeare):
    whole, part = tiny_shakespeare(shakespeare, context=20), masked_shakespeare(shakespeare, context=20, subset=30, copies=2)
    chosen, _, _ = masked_of(part, "train")
    assert part.name == "masked_shakespeare" and len(chosen) == 60 and len(part.test[0]) == len(whole.test[0])
    text = torch.where(chosen, part.train[1], part.train[0])
    assert rows((text,)) <= rows(whole.train)


def test_masked_text_refuses(tmp_path):
    for copies in (0, 1.5):
        with pytest.raises(ValueError, match=f"copies={copies} of masked_characters: give a whole number"):
            masked_characters(copies=copies)
    path = tmp_path / "text.txt"
    path.write_text(f"a{sequences.MASK}" * 50, encoding="utf-8")
    with pytest.raises(ValueError, match=f"holds '{sequences.MASK}', which stands for the mask"):
        masked_characters(path, context=10)


# --- CIFAR-10, from a small archive of the same form


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A folder with a 600-image CIFAR-10 and its archive; torchvision is told its checksums and a server's address."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "original" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    random = numpy.random.default_rng(0)

    def write(name, content) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch():
        return dict(data=random.integers(0, 256, (100, 3072), dtype=numpy.uint8), labels=[i % 10 for i in range(100)])

    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{i}", batch()) for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch())])
    name, md5 = write("batches.meta", dict(label_names=list("abcdefghij")))
    monkeypatch.setattr(CIFAR10, "meta", dict(filename=name, key="label_names", md5=md5))
    with tarfile.open(tmp_path / CIFAR10.filename, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    md5 = hashlib.md5((tmp_path / CIFAR10.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5)
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:9/{CIFAR10.filename}")  # nobody listens there
    return tmp_path


@pytest.fixture
def server(archive, monkeypatch):
    from torchvision.datasets import CIFAR10

    # A proxy of the surroundings would not reach this machine's own address.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=archive)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        yield archive
        server.shutdown()


def test_cifar10_holds_the_images_of_the_files(archive):
    found = cifar10(archive / "original", validation=100)
    assert [len(getattr(found, split)[0]) for split in SPLITS] == [400, 100, 100]
    content = pickle.loads((archive / "original/cifar-10-batches-py/test_batch").read_bytes())
    assert torch.equal(found.test[0], torch.from_numpy(content["data"]).view(100, 3, 32, 32))
    assert found.test[1].tolist() == content["labels"]
    assert len(rows(found.train) | rows(found.validation)) == 500 and not rows(found.train) & rows(found.validation)
    assert found.validation[1].bincount().tolist() == [10] * 10


def test_cifar10_subset_is_balanced_and_fixed(archive, monkeypatch):
    monkeypatch.setenv("RESNORM_DATA", str(archive / "original"))
    found, whole = cifar10(subset=50, validation=100), cifar10(validation=100)
    assert found.train[1].bincount().tolist() == [5] * 10
    assert torch.equal(found.train[0], cifar10(subset=50, validation=100).train[0])
    assert rows(found.train) < rows(whole.train)
    assert torch.equal(found.validation[0], whole.validation[0]) and torch.equal(found.test[0], whole.test[0])
    with pytest.raises(ValueError, match="subset=450 with validation=100: 400 of 500 images are left"):
        cifar10(subset=450, validation=100)
    with pytest.raises(ValueError, match="subset=0 .* at least one is needed"):
        cifar10(subset=0, validation=100)


def test_cifar10_is_downloaded_once_and_whole(server):
    root = server / "new" / "root"
    assert len(cifar10(root, validation=100).train[0]) == 400
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]
    assert len(cifar10(root, validation=100, download=False).train[0]) == 400


def test_a_bad_archive_is_refused_and_leaves_nothing(server, monkeypatch):
    from torchvision.datasets import CIFAR10

    (server / CIFAR10.filename).write_bytes(b"a portal that asks for a login")
    with pytest.raises(DataError, match="could not be downloaded.*hash.*'digits' is bundled"):
        cifar10(server / "new")
    assert list((server / "new").iterdir()) == []


def test_no_network(archive):
    with pytest.raises(DataError, match="Check the network.*RESNORM_DATA.*'digits' is bundled and needs no download"):
        cifar10(archive / "new")


def test_missing_without_download(archive):
    with pytest.raises(DataError, match="is not in .*RESNORM_DATA.*download=True.*'digits' is bundled"):
        cifar10(archive / "new", download=False)
    assert not (archive / "new").exists()


def test_damaged_files(archive):
    (archive / "original/cifar-10-batches-py/data_batch_3").write_bytes(b"damaged")
    with pytest.raises(DataError, match="incomplete or damaged.*Delete that folder and run again"):
        cifar10(archive / "original")


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.delenv("RESNORM_DATA", raising=False)
    assert data.data_root().parts[-2:] == (".cache", "resnorm")
    monkeypatch.setenv("RESNORM_DATA", str(tmp_path))
    assert data.data_root() == tmp_path
    assert data.data_root("~/elsewhere").name == "elsewhere" and "~" not in str(data.data_root("~/elsewhere"))


# --- What must never happen to a reader's results


def test_digits_are_those_of_scikit_learn_each_in_one_split():
    from sklearn.datasets import load_digits

    found, bunch = digits(), load_digits()
    splits = [getattr(found, split) for split in SPLITS]
    whole = [(*image.flatten().tolist(), label.item()) for split in splits for image, label in zip(*split, strict=True)]
    given = numpy.column_stack([numpy.round(bunch.data * 255 / 16), bunch.target])
    assert sorted(whole) == sorted(map(tuple, given.tolist()))
    assert (found.mean, found.std) == channel_statistics(found.train[0])
    assert found.mean != channel_statistics(torch.cat([found.train[0], found.test[0]]))[0]


@pytest.mark.parametrize("pair", ["en-vi", "en-de", "en-fr"])
def test_number_words_are_every_number_once_as_num2words_says_it(pair):
    from num2words import num2words

    found = number_words(pair, limit=120)
    shown = [found.decode(row).rstrip("\0") for split in SPLITS for row in getattr(found, split)[0]]
    assert sorted(shown) == sorted(f"{num2words(n, lang='en')}={num2words(n, lang=pair[-2:])}" for n in range(120))
    assert found.spec["context"] == max(map(len, shown))


def test_the_bundled_text_begins_as_it_always_did():
    # The order is drawn by Python's generator: another order would make recorded runs another experiment.
    found = characters()
    assert found.decode(found.train[0][0]).startswith("one thousand, seven hundred and forty-eight\none thousand")
    assert [tuple(getattr(found, split)[0].shape) for split in SPLITS] == [(408, 128), (51, 128), (51, 128)]


def test_without_num2words_the_error_names_the_repair(monkeypatch):
    monkeypatch.setitem(sys.modules, "num2words", None)
    for function in (number_words, characters):
        with pytest.raises(MissingExtra, match=r"package num2words.*pip install \"resnorm\[lab\]\".*'digits'"):
            function()


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_any_damaged_file_is_noticed_and_left_to_the_reader(server, name):
    file = server / "original/cifar-10-batches-py" / name
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(DataError, match="incomplete or damaged.*'digits' is bundled"):
        cifar10(server / "original")
    assert file.stat().st_size == 20


def test_an_interrupted_download_leaves_nothing(server, monkeypatch):
    import pooch

    def interrupted(self, fname, action, pup):
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.Untar, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cifar10(server / "new")
    assert list((server / "new").iterdir()) == []


def test_two_processes_may_download_at_the_same_time(server, monkeypatch):
    import pooch

    root, retrieve = server / "new", pooch.retrieve

    def slower(*arguments, **options):
        shutil.copytree(server / "original" / "cifar-10-batches-py", root / "cifar-10-batches-py")
        return retrieve(*arguments, **options)

    monkeypatch.setattr(pooch, "retrieve", slower)
    assert len(cifar10(root, validation=100).train[0]) == 400
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]


@pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("RESNORM_DATA") or "/nowhere", "cifar-10-batches-py")),
    reason="RESNORM_DATA names no folder that holds cifar-10-batches-py",
)
def test_the_real_cifar10():
    found = cifar10(download=False)
    counts = [getattr(found, split)[1].bincount().tolist() for split in SPLITS]
    assert counts == [[4500] * 10, [500] * 10, [1000] * 10]
    # What everybody normalises by, of all 50,000 training images; these are 45,000 of them.
    assert found.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)
    assert found.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=2e-3)
    assert found.test[1][:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog


def test_tables_count_what_they_say(tmp_path):
    """Against the counts by hand, and a text whose next character is known beats the table of single characters."""
    text = data.load("characters", context=32)
    unigram, bigram = data.table_losses(text)
    counts = torch.bincount(text.train[1].flatten(), minlength=text.spec["vocabulary"]).double() + text.spec["vocabulary"]
    assert unigram == pytest.approx(-(counts / counts.sum()).log()[text.validation[1].flatten()].mean().item())
    assert 0 < bigram < unigram
    with pytest.raises(ValueError, match="has no tables"):
        data.table_losses(data.load("number_words", limit=100))


def test_the_tables_of_the_recorded_text_are_the_numbers_of_the_chapter():
    from resnorm.lab import plan

    try:
        text = data.load(**plan("depth_stability", "cpu")[0].task, download=False)
    except OSError:
        pytest.skip("tiny_shakespeare is not here")
    assert data.table_losses(text) == pytest.approx((3.34115, 2.46599), abs=1e-4)
