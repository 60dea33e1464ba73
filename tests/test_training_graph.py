"""Steps as a CUDA graph: where it is refused, and, on a GPU, that it takes the same steps."""

from dataclasses import replace
from functools import partial

import pytest
import small_runs as usual
import torch

from resnorm.models import cifar_resnet, transformer_lm
from resnorm.training import fit, loop
from resnorm.training.graph import WARM_STEPS, CapturedStep


def test_a_cuda_graph_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="cuda_graph=True on cpu in fp32: it needs a GPU"):
        fit(usual.mlp(), usual.images(), usual.RECIPE, device="cpu", cuda_graph=True, progress=False)


def test_a_cuda_graph_is_asked_for_by_name():
    with pytest.raises(ValueError, match="cuda_graph='always', but it must be true, false or 'auto'"):
        fit(usual.mlp(), usual.images(), usual.RECIPE, device="cpu", cuda_graph="always", progress=False)


def test_an_automatic_cuda_graph_is_left_out_where_there_is_none():
    assert fit(usual.mlp(), usual.images(), usual.RECIPE, device="cpu", cuda_graph="auto", progress=False).status == "finished"


# On a GPU convolutions add up in another order from run to run, and Muon computes in 16 bits: two runs of the same steps
# differ by far less than they move.
ON_A_GPU = {
    "sgd": (
        partial(cifar_resnet, depth=8, width=8, classes=4),
        partial(usual.images, size=16, channels=3),
        dict(augment="crop_flip"),
    ),
    "adamw": (
        partial(transformer_lm, vocabulary=5, context=6, depth=2, width=16, heads=2),
        usual.sequences,
        dict(clip=1, beta2=0.95),
    ),
    "muon": (partial(transformer_lm, vocabulary=5, context=6, depth=2, width=16, heads=2), usual.sequences, dict(weight_decay=0.1)),
}


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ON_A_GPU)
def test_a_cuda_graph_takes_the_same_steps(optimizer, monkeypatch):
    make, data, more = ON_A_GPU[optimizer]
    recipe = replace(usual.RECIPE, optimizer=optimizer, lr=0.01, precision="fp32", probe_every=4, schedule="cosine", **more)
    torch.manual_seed(0)
    models, runs, captured = [make().cuda()], [], []
    capture = CapturedStep._capture
    monkeypatch.setattr(CapturedStep, "_capture", lambda self: captured.append(self) or capture(self))
    for cuda_graph in (False, "auto"):
        torch.manual_seed(0)
        models.append(make())
        runs.append(fit(models[-1], data(), recipe, device="cuda", cuda_graph=cuda_graph, progress=False))
    assert len(captured) == 1 and runs[0].metrics["steps"] > 2 * WARM_STEPS
    start, plain, graph = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    assert (graph - plain).norm() < 0.05 * (plain - start).norm()
    assert runs[1].metrics["train_loss"] == pytest.approx(runs[0].metrics["train_loss"], rel=1e-2)


@pytest.mark.gpu
def test_a_cuda_graph_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    make, data, more = ON_A_GPU["adamw"]
    recipe = replace(usual.RECIPE, optimizer="adamw", lr=0.01, precision="fp32", **more)
    models = []
    for stops in (False, True):
        torch.manual_seed(0)
        models.append(make())
        again = partial(fit, models[-1], data(), recipe, device="cuda", cuda_graph=True, checkpoint=tmp_path / f"{stops}.pt")
        if stops:
            with monkeypatch.context() as patch, pytest.raises(usual.Killed):
                usual.stop_after(patch, 10)
                again(progress=False)
        again(progress=False)
    for a, b in zip(usual.weights(models[0]), usual.weights(models[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_step_waits_for_the_gpu(monkeypatch):
    model, found = cifar_resnet(depth=8, width=8, classes=4), usual.images(size=16, channels=3)
    trained_on = loop._Loop._train_on

    def strict(self, inputs, targets):
        torch.cuda.set_sync_debug_mode("error")
        try:
            trained_on(self, inputs, targets)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop._Loop, "_train_on", strict)
    fit(model, found, replace(usual.RECIPE, augment="crop_flip", precision="bf16"), device="cuda", progress=False)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits_on_a_gpu_learn(precision):
    make, data, more = ON_A_GPU["adamw"]
    torch.manual_seed(0)
    recipe = replace(usual.RECIPE, optimizer="adamw", epochs=30, lr=0.01, precision=precision, **more)
    run = fit(make(), data(), recipe, device="cuda", cuda_graph="auto", progress=False)
    assert run.precision == precision and run.metrics["test_accuracy"] > 0.95
