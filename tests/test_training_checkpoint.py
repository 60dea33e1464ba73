"""Checkpoints: going on where a run stopped, files that are damaged, and several processes that write one."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs as usual
import torch
from torch import nn

from resnorm.training import Checkpoint, Recipe, fit
from resnorm.training.checkpoint import identity

ROOT = Path(__file__).resolve().parent.parent

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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("interval", [dict(steps=4), dict(epochs=1), dict(epochs=2)])
def test_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch, optimizer, interval):
    recipe = replace(usual.RECIPE, optimizer=optimizer, lr=0.01, schedule="one_cycle", augment="crop_flip", probe_every=5)
    whole, stopped, resumed = usual.ConvNet(), usual.ConvNet(), usual.ConvNet(seed=5)
    expected = fit(whole, usual.images(), recipe, progress=False)
    checkpoint = Checkpoint(tmp_path / "folder" / "run.pt", **interval)
    with monkeypatch.context() as patch:
        usual.stop_after(patch, 14)
        with pytest.raises(usual.Killed):
            fit(stopped, usual.images(), recipe, checkpoint=checkpoint)
    assert torch.load(checkpoint.path, weights_only=True)["step"] == 12
    found = fit(resumed, usual.images(), recipe, checkpoint=checkpoint, progress=False)
    assert usual.same(usual.weights(whole), usual.weights(resumed))
    assert found.curves == expected.curves and found.probes == expected.probes
    for metrics in (found.metrics, expected.metrics):
        metrics.pop("images_per_second")
    assert found.metrics == expected.metrics
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["run.pt"]


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    model = usual.mlp()
    first = fit(model, usual.images(), usual.RECIPE, checkpoint=tmp_path / "run.pt", progress=False)
    usual.stop_after(monkeypatch, 0)
    again = usual.mlp(seed=3)
    assert fit(again, usual.images(), usual.RECIPE, checkpoint=tmp_path / "run.pt", progress=False) == first
    assert usual.same(usual.weights(model), usual.weights(again))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(recipe=replace(usual.RECIPE, lr=0.2)), "recipe.lr is 0.1 there and 0.2 here"),
        (dict(recipe=replace(usual.RECIPE, epochs=4)), "recipe.epochs is 3 there and 4 here"),
        (dict(seed=1), "seed is 0 there and 1 here"),
        (dict(model=nn.Sequential(usual.mlp())), r"model tensor 0.1.weight is absent there and \[16, 64\] here"),
        (dict(model=usual.mlp(dropout=0.5)), "fingerprint of the modules is '"),  # the same tensors, another model
        (dict(data=usual.images(128)), r"train split is '96 examples of \[1, 8, 8\].* and '128"),
        (dict(data=usual.with_other_pixels()), r"train split is '96 examples.* and '96 examples"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    path = tmp_path / "run.pt"
    fit(usual.mlp(), usual.images(), usual.RECIPE, checkpoint=path, progress=False)
    run = dict(model=usual.mlp(), data=usual.images(), recipe=usual.RECIPE) | change
    with pytest.raises(ValueError, match=f"run.pt belongs to another run: .*{message}.*Delete .* checkpoint path"):
        fit(**run, checkpoint=path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    for content in (b"text", b""):
        (tmp_path / "run.pt").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint.*Delete"):
            fit(usual.mlp(), usual.images(), usual.RECIPE, checkpoint=tmp_path / "run.pt")
    for interval in (dict(steps=0), dict(epochs=0), dict(epochs=None), dict(steps=1.5)):
        with pytest.raises(ValueError, match="must be a whole number above 0"):
            Checkpoint(tmp_path / "run.pt", **interval)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save(dict(identity=dict(a=1), step=1))

    def half_a_file(state, file):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half_a_file)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(dict(identity=dict(a=1), step=2))
    assert checkpoint.load(dict(a=1), CPU)["step"] == 1


def test_identity_does_not_hold_addresses():
    # A branch that shows a function shows its address, which is another one in the next process.
    class Shows(nn.Module):
        def extra_repr(self):
            return repr(object())

    first, second = Shows(), Shows()
    alive = [object() for _ in range(10)]
    ids = [identity(model, usual.images(), usual.RECIPE, 0, CPU, "fp32") for model in (first, second)]
    assert ids[0] == ids[1] and alive


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1] + "/tests")
from small_runs import ConvNet, images
from resnorm.training import Checkpoint, Recipe, fit
torch.set_num_threads(1)
model = ConvNet()
recipe = Recipe(epochs=60, batch_size=16, lr=0.01, augment="crop_flip", schedule="one_cycle", weight_decay=1e-3)
fit(model, images(), recipe, checkpoint=Checkpoint(sys.argv[2], steps=7), progress=False)
torch.save(model.state_dict(), sys.argv[3])
"""


def test_sigkill_and_a_new_start_give_the_weights_of_an_uninterrupted_run(tmp_path):
    def start(checkpoint, result):
        command = [sys.executable, "-c", SCRIPT, str(ROOT), str(tmp_path / checkpoint), str(tmp_path / result)]
        return subprocess.Popen(command, cwd=ROOT)

    assert start("whole.pt", "whole_weights.pt").wait(timeout=300) == 0
    process = start("killed.pt", "killed_weights.pt")
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed_weights.pt").exists()
    assert 0 < torch.load(tmp_path / "killed.pt", weights_only=True)["step"] < 360
    assert start("killed.pt", "killed_weights.pt").wait(timeout=300) == 0
    whole, killed = (torch.load(tmp_path / f"{name}_weights.pt", weights_only=True) for name in ("whole", "killed"))
    assert list(whole) == list(killed) and usual.same(list(whole.values()), list(killed.values()))


def test_a_diverged_run_is_not_run_again(tmp_path, monkeypatch):
    recipe = replace(usual.RECIPE, lr=1e30)
    first = fit(usual.mlp(), usual.images(), recipe, checkpoint=tmp_path / "run.pt", progress=False)
    usual.stop_after(monkeypatch, 0)
    again = fit(usual.mlp(), usual.images(), recipe, checkpoint=tmp_path / "run.pt", progress=False)
    assert first.status == "diverged" and again == first


def test_the_scale_of_fp16_survives_a_new_start(tmp_path, monkeypatch):
    recipe, checkpoint = replace(usual.RECIPE, precision="fp16"), Checkpoint(tmp_path / "run.pt", steps=4)
    with monkeypatch.context() as patch:
        usual.stop_after(patch, 10)
        with pytest.raises(usual.Killed):
            fit(usual.mlp(), usual.images(), recipe, checkpoint=checkpoint, progress=False)
    saved = torch.load(checkpoint.path, weights_only=True)
    saved["scaler"]["scale"] = 1024.0  # as after steps that overflowed
    torch.save(saved, checkpoint.path)
    fit(usual.mlp(), usual.images(), recipe, checkpoint=checkpoint, progress=False)
    state = torch.load(checkpoint.path, weights_only=True)["scaler"]
    assert state["scale"] == 1024.0 and state["_growth_tracker"] == 18


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    for content in (dict(identity=Code()), [1, 2]):
        torch.save(content, tmp_path / "run.pt")
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            fit(usual.mlp(), usual.images(), usual.RECIPE, checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "made").exists()
