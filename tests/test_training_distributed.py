"""Two processes on CPU, started by torchrun, arrive where one does."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs as usual
import test_training_pairs as of_pairs
import torch
from torch import nn

from resnorm import lab
from resnorm.models import transformer_lm
from resnorm.training import Checkpoint, Recipe, fit
from resnorm.training.distributed import Processes

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Recipe(epochs=2, batch_size=16, optimizer="adamw", lr=0.01, weight_decay=0.01, clip=0.5)


class Convolutional(nn.Module):
    """In channels last, with a parameter that no step uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.spare = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.layers(x).mean((2, 3))


def language_model():
    torch.manual_seed(0)
    return transformer_lm(vocabulary=5, context=6, depth=1, width=16, heads=2)


# Some batches of pairs have one example, so that one of the two processes has none.
CASES = {
    "images": (lambda: usual.mlp(dropout=0.0), usual.images, replace(RECIPE, augment="crop_flip")),
    "convolutions": (Convolutional, usual.images, replace(RECIPE, weight_decay=0.0, optimizer="sgd")),
    # Not AdamW: the gradient of a key's bias is 0 but for rounding, which AdamW makes as large as any other.
    "sequences": (language_model, of_pairs.uneven, replace(RECIPE, accumulate=2, optimizer="sgd", lr=0.1)),
    "pairs": (
        of_pairs.Translator,
        of_pairs.pairs,
        replace(RECIPE, batch_tokens=25, accumulate=2, probe_every=20, optimizer="muon"),
    ),
}


def trained(name: str, **options) -> tuple[nn.Module, dict]:
    make, data, recipe = CASES[name]
    model = make()
    run = fit(model, data(), recipe, progress=False, **options)
    return model, dict(metrics=run.metrics, curves=run.curves, probes=run.probes, device=run.device, status=run.status)


def in_two_processes(folder: Path) -> None:
    """What each of the two does: every case, a run that goes on from its checkpoint, and what is refused."""
    rank, made = int(os.environ["RANK"]), {}
    for name in CASES:
        model, run = trained(name)
        made[name] = dict(weights=usual.weights(model), run=run)
    # Other weights and other dropout in each process: the first one's weights count, and both streams of noise go on.
    noisy = lambda seed: usual.mlp(seed=seed + rank)  # noqa: E731
    whole, stopped, resumed = noisy(0), noisy(0), noisy(7)
    fit(whole, usual.images(), RECIPE, progress=False)
    checkpoint = Checkpoint(folder / "run.pt", steps=3)
    with pytest.MonkeyPatch.context() as patch:
        usual.stop_after(patch, 10)
        with pytest.raises(usual.Killed):
            fit(stopped, usual.images(), RECIPE, checkpoint=checkpoint, progress=False)
    fit(resumed, usual.images(), RECIPE, checkpoint=checkpoint, progress=False)
    made["noisy"] = [usual.weights(model) for model in (whole, resumed)]
    diverged = fit(usual.mlp(), usual.images(), replace(RECIPE, lr=1e30, optimizer="sgd", clip=None), progress=False)
    made["diverged"] = diverged.status
    for model, recipe in ((usual.mlp(), replace(RECIPE, batch_size=15)), (usual.ConvNet(), RECIPE)):
        with pytest.raises(ValueError) as refused:
            fit(model, usual.images(), recipe, progress=False)
        made.setdefault("refused", []).append(str(refused.value))
    own = checkpoint if rank == 0 else folder / "elsewhere.pt"
    with pytest.raises(ValueError, match="is not the same file for all processes"):
        fit(noisy(0), usual.images(), RECIPE, checkpoint=own, progress=False)
    experiment = lab.Experiment(dict(name="digits"), dict(name="mlp_stack"), dict(epochs=1))
    with pytest.raises(ValueError, match="processes=2 and budget=None under torchrun"):
        lab.run_all([experiment], lab.Store(folder), processes=2)
    torch.save(made, folder / f"{rank}.pt")


COMMAND = "resnorm run --task digits --model mlp_stack --set model.depth=2 --set recipe.epochs=1 --seed 3 --json --store"
# As `torchrun script.py` and `torchrun -m resnorm run ...`, in one start: that takes longest.
SCRIPT = f"""
import runpy, sys
import test_training_distributed as test
test.in_two_processes(test.Path(sys.argv[1]))
sys.argv = {COMMAND.split()} + [sys.argv[1] + "/store"]
runpy.run_module("resnorm", run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes have written, and printed."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [*launcher, str(folder / "script.py"), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    # The script's own fits come first, and torch 2.9's gloo greets them on stdout; the command is the last to print.
    (folder / "printed.json").write_text(done.stdout.splitlines()[-1])
    return folder


@pytest.fixture(scope="module")
def two(folder) -> list[dict]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_arrive_where_one_does(two, name):
    model, run = trained(name, device="cpu")
    for process in two:
        found = process[name]
        for a, b in zip(found["weights"], usual.weights(model), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
        assert (found["run"]["device"], found["run"]["status"]) == ("2 x cpu", "finished")
        for kind in ("curves", "probes"):
            for row, expected in zip(found["run"][kind], run[kind], strict=True):
                assert row == {k: pytest.approx(v, rel=1e-2, abs=1e-4) if type(v) is float else v for k, v in expected.items()}
        rates = ("images_per_second", "tokens_per_second")
        for metric, value in run["metrics"].items():
            assert metric in rates or found["run"]["metrics"][metric] == pytest.approx(value, rel=1e-3), metric
    assert all(map(torch.equal, two[0][name]["weights"], two[1][name]["weights"]))


def test_two_processes_start_with_the_first_ones_weights_and_go_on_bit_for_bit(two):
    (whole, resumed), others = two[0]["noisy"], two[1]["noisy"]
    for other in (resumed, *others):
        assert usual.same(whole, other)


def test_two_processes_agree_on_what_ends_a_run(two):
    assert [process["diverged"] for process in two] == ["diverged"] * 2
    for process in two:
        shares, norm = process["refused"]
        assert "batch_size=15 cannot be shared by 2 processes: take a multiple of 2" in shares
        assert "the model has a batch norm" in norm and "train it in one process" in norm


def test_the_command_line_writes_and_prints_one_record(folder, tmp_path):
    (shown,) = json.loads((folder / "printed.json").read_text())
    (record,) = lab.Store(folder / "store").records()
    assert shown["name"] == record.experiment.name and record.status == "finished"
    alone = lab.run(record.experiment, lab.Store(tmp_path), progress=False)
    assert record.metrics["test_loss"] == pytest.approx(alone.metrics["test_loss"], rel=1e-3)
    assert not list((folder / "store").rglob("*.pt*"))


def test_a_process_alone_does_nothing_of_this(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes, device = Processes.join(torch.device("cpu"))
    assert (processes, device) == (Processes(0, 1), torch.device("cpu"))
    processes.check(usual.ConvNet(), 15)
    frozen = usual.ConvNet().eval()  # its statistics are those of the caller, not of a share
    Processes(0, 2).check(frozen, 16)
    with pytest.raises(ValueError, match="the model has a batch norm"):
        Processes(0, 2).check(usual.ConvNet(), 16)
    value = torch.ones(2)
    assert processes.sum_(value) is value and processes.gathered("x") == ["x"] and processes.share(3, 7) == slice(3, 7, 1)
    model = usual.mlp()
    processes.sum_gradients(model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
