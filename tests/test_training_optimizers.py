"""Optimisers: what decays, fused steps, and Muon: matrices by orthogonalised momentum, everything else by AdamW."""

from dataclasses import replace

import pytest
import small_runs as usual
import torch
from torch import nn

from resnorm.models import mlp_stack, transformer_lm
from resnorm.training import Checkpoint, Recipe, fit
from resnorm.training.optimizers import Muon, build_optimizer, orthogonalised

RECIPE = Recipe(epochs=3, batch_size=16, optimizer="muon", lr=0.01, momentum=0.95, weight_decay=0.1, decay_norms=False)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return mlp_stack(inputs=64, classes=4, depth=3, width=16, hidden=2)


@pytest.mark.parametrize("shape", [(32, 32), (24, 96), (96, 24), (1, 8)])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape):
    generator = torch.Generator().manual_seed(0)
    least = min(shape)
    left, right = (torch.linalg.qr(torch.randn(side, least, generator=generator))[0] for side in shape)
    matrix = 3.0 * left * torch.logspace(0, -1.5, least) @ right.T  # singular values from 3 to a thirtieth of that
    found = orthogonalised(matrix)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and found.dtype == torch.float32
    assert values.min() > 0.68 and values.max() < 1.14
    # The directions stay: the same singular vectors on both sides.
    across = left.T @ found @ right
    torch.testing.assert_close(across, across.diagonal().diag(), rtol=0, atol=1e-3)
    assert torch.equal(orthogonalised(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_muon_takes_the_steps_of_that_of_torch(nesterov, shape):
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    recipe = replace(RECIPE, nesterov=nesterov)
    options = dict(lr=0.01, weight_decay=0.1, momentum=0.95, nesterov=nesterov, adjust_lr_fn="match_rms_adamw")
    optimizers = [Muon([ours], [], recipe), torch.optim.Muon([theirs], **options)]
    for _ in range(5):
        gradient = torch.randn(shape)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    # Torch's orthogonalises in bf16.
    assert (ours - theirs).norm() < 0.02 * (ours - 1).norm()


def test_all_but_the_matrices_takes_the_steps_of_adamw():
    model, expected = network(), network()
    recipe = replace(RECIPE, momentum=0.9, beta2=0.95)
    muon, adamw = build_optimizer(model, recipe), build_optimizer(expected, replace(recipe, optimizer="adamw"))
    for step in range(4):
        torch.manual_seed(step)
        gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
        for optimizer, one in ((muon, model), (adamw, expected)):
            for parameter, gradient in zip(one.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (step + 1)
            optimizer.step()
    for (name, a), b in zip(model.named_parameters(), expected.parameters(), strict=True):
        if name.startswith("stack.blocks.") and a.dim() == 2:
            assert (a - b).abs().mean() > 1e-3, name
        else:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_muon_takes_the_matrices_inside_blocks_and_nothing_else():
    model = transformer_lm(vocabulary=5, context=6, depth=2, width=16, heads=2)
    optimizer = build_optimizer(model, RECIPE)
    matrices = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in matrices) == (name.startswith("stack.blocks") and parameter.dim() == 2), name
        assert decay[id(parameter)] == (0.1 if parameter.dim() > 1 else 0.0), name
    assert len(matrices) == 2 * 4


@pytest.mark.parametrize("model", [usual.mlp, usual.ConvNet])
def test_muon_needs_matrices_inside_blocks(model):
    with pytest.raises(ValueError, match="optimizer='muon', but .* has no trainable matrix inside the blocks of a Stack: take"):
        fit(model(), usual.images(), RECIPE, progress=False)


def test_a_run_with_muon_learns_and_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    whole, stopped, resumed, data = network(), network(), network(seed=5), usual.images(256)
    recipe = replace(RECIPE, epochs=4, schedule="wsd", warmup=5, accumulate=2, clip=1.0)
    expected = fit(whole, data, recipe, progress=False)
    assert expected.metrics["test_accuracy"] > 0.9
    checkpoint = Checkpoint(tmp_path / "run.pt", steps=6)
    with monkeypatch.context() as patch:
        usual.stop_after(patch, 27)
        with pytest.raises(usual.Killed):
            fit(stopped, data, recipe, checkpoint=checkpoint, progress=False)
    found = fit(resumed, data, recipe, checkpoint=checkpoint, progress=False)
    assert usual.same(usual.weights(whole), usual.weights(resumed)) and found.curves == expected.curves


def test_fp16_passes_over_a_step_that_overflows():
    model = network()
    optimizer, scaler = build_optimizer(model, RECIPE), torch.amp.GradScaler("cpu")
    before = usual.weights(model)
    scaler.scale(model(torch.randn(4, 64)).sum() * torch.inf).backward()
    scaler.step(optimizer)
    assert usual.same(before, usual.weights(model))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_weight_decay_spares_gains_and_biases_where_asked(optimizer, decay_norms):
    model = usual.ConvNet()
    built = build_optimizer(model, Recipe(optimizer=optimizer, weight_decay=0.1, decay_norms=decay_norms))
    decay = {id(parameter): group["weight_decay"] for group in built.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.1 if decay_norms or parameter.dim() > 1 else 0.0), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fused_steps_equal_unfused_ones_on_channels_last(optimizer):
    models = [usual.ConvNet(channels=3).to(memory_format=torch.channels_last) for _ in range(2)]
    recipe = Recipe(optimizer=optimizer, lr=0.05, weight_decay=0.01)
    fused, plain = (build_optimizer(model, recipe) for model in models)
    assert fused.param_groups[0]["fused"]
    plain.param_groups[0]["fused"] = False
    for step in range(3):
        for model, steps in ((models[0], fused), (models[1], plain)):
            torch.manual_seed(step)
            model(torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)).square().sum().backward()
            steps.step()
            steps.zero_grad()
    for a, b in zip(usual.weights(models[0]), usual.weights(models[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
