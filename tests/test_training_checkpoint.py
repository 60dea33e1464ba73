"""Checkpoints that are damaged, and several processes that write one."""

import random
from dataclasses import replace

import pytest
import test_training as usual
import torch

from resnorm.training import Checkpoint, Recipe, fit

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05)


def begun(path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        usual.stop_after(patch, 7)
        with pytest.raises(usual.Killed):
            fit(usual.ConvNet(), usual.images(), RECIPE, checkpoint=Checkpoint(path, steps=6), progress=False)


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    begun(path, monkeypatch)
    checkpoint = Checkpoint(path)
    written, identity = path.read_bytes(), torch.load(path, weights_only=True)["identity"]
    expected = torch.load(path, weights_only=True)["model"]
    refused, generator = 0, random.Random(0)
    for _ in range(200):
        place, bit = generator.randrange(len(written)), generator.randrange(8)
        damaged = bytearray(written)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            found = checkpoint.load(identity, CPU)
        except ValueError as error:
            assert "run.pt cannot be read as a checkpoint" in str(error) and f"Delete {path}" in str(error)
            refused += 1
        else:
            assert usual.same(list(found["model"].values()), list(expected.values()))
    assert refused > 100  # the rest fell between the members of the archive


def test_the_checksums_are_written_whatever_the_caller_has_chosen(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        Checkpoint(tmp_path / "run.pt").save(dict(identity={}, step=torch.ones(3)))
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert Checkpoint(tmp_path / "run.pt").load({}, CPU)["step"].sum() == 3


@pytest.mark.parametrize("key", ["step", "model", "optimizer", "run", "norms", "of_epoch", "unevaluated"])
def test_a_checkpoint_without_a_part_is_refused(tmp_path, monkeypatch, key):
    begun(tmp_path / "run.pt", monkeypatch)
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    del state[key]
    torch.save(state, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=f"run.pt cannot be read as a checkpoint .it has no '{key}'.*Delete"):
        fit(usual.ConvNet(), usual.images(), RECIPE, checkpoint=tmp_path / "run.pt", progress=False)


def test_a_write_that_ended_before_its_place_was_taken_is_never_loaded(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    whole, resumed = usual.ConvNet(), usual.ConvNet(seed=5)
    fit(whole, usual.images(), RECIPE, progress=False)
    begun(path, monkeypatch)
    # As a process leaves it that is killed while it writes.
    (tmp_path / ".run.pt.abcdefgh.part").write_bytes(path.read_bytes()[:500])
    fit(resumed, usual.images(), replace(RECIPE), checkpoint=path, progress=False)
    assert usual.same(usual.weights(whole), usual.weights(resumed))
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
