"""Covariate shift against its definition, written out by hand, and a model that is left as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnorm import probes
from resnorm.norms import norm

LR = 0.1


def network(middle="batch"):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), norm(middle, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)).double()


def examples():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 5, generator=generator).double(), torch.randint(3, (16,), generator=generator)


def gradients(model, x, targets):
    model = copy.deepcopy(model).train()
    F.cross_entropy(model(x), targets).backward()
    return [parameter.grad for parameter in model.parameters()]


def stepped(model, steps, count=None):
    """A copy whose first `count` parameters have taken a step."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, step in list(zip(model.parameters(), steps, strict=True))[:count]:
            parameter.sub_(step)
    return model


def test_each_layer_sees_the_step_of_the_ones_before_it_and_of_no_other():
    model, (x, targets) = network(), examples()
    before = gradients(model, x, targets)
    rows = probes.covariate_shift(model, x, targets, LR)
    assert [(row["layer"], row["name"]) for row in rows] == [(1, "0.weight"), (2, "3.weight"), (3, "5.weight")]
    for row, place in zip(rows, (0, 4, 6), strict=True):  # the weights' places among the eight parameters
        after = gradients(stepped(model, [LR * g for g in before], place), x, targets)[place]
        assert row["gradient_norm"] == pytest.approx(before[place].norm().item())
        assert row["difference"] == pytest.approx((before[place] - after).norm().item(), abs=1e-12)
        assert row["cosine"] == pytest.approx(F.cosine_similarity(before[place].flatten(), after.flatten(), 0).item())
    assert rows[0]["difference"] == 0 and rows[0]["input_shift"] == 0 and rows[1]["difference"] > 0


def test_the_shift_of_what_a_layer_reads_is_in_units_of_its_deviation():
    model, (x, targets) = network(), examples()
    moved = stepped(model, [LR * g for g in gradients(model, x, targets)], 4)
    reads = [one.train()[:3](x) for one in (copy.deepcopy(model), moved)]
    shift = (reads[1].mean(0) - reads[0].mean(0)).norm() / reads[0].var(0).sum().sqrt()
    assert probes.covariate_shift(model, x, targets, LR)[1]["input_shift"] == pytest.approx(shift.item(), rel=1e-5)


def test_steps_along_the_gradient_start_at_the_loss_and_say_how_the_gradient_turns():
    model, (x, targets) = network(), examples()
    start = torch.cat([g.flatten() for g in gradients(model, x, targets)])
    rows = probes.gradient_steps(model, x, targets, LR, steps=(0.5, 2.0))
    assert rows[0]["step"] == 0 and rows[0]["loss"] == pytest.approx(F.cross_entropy(model.train()(x), targets).item())
    for row in rows[1:]:
        steps = [row["step"] * LR * g for g in gradients(model, x, targets)]
        moved = stepped(model, steps)
        here = torch.cat([g.flatten() for g in gradients(moved, x, targets)])
        assert row["loss"] == pytest.approx(F.cross_entropy(moved.train()(x), targets).item())
        assert row["difference"] == pytest.approx((start - here).norm().item())
        length = torch.cat([step.flatten() for step in steps]).norm()
        assert row["smoothness"] == pytest.approx(((start - here).norm() / length).item())


@pytest.mark.parametrize("probe", [probes.covariate_shift, probes.gradient_steps])
def test_nothing_of_the_model_changes_and_noise_is_drawn_again(probe):
    model, (x, targets) = network("noisy_batch").eval(), examples()
    model[2].train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    rows = probe(model, x, targets, LR)
    assert rows == probe(model, x, targets, LR)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [False, False, True, False, False, False]
    assert torch.equal(torch.random.get_rng_state(), generator) and all(p.grad is None for p in model.parameters())
    if probe is probes.covariate_shift:
        assert rows[0]["difference"] > 0, "the noise behind the first layer is that of the next step"


def test_four_numbers_sum_up_the_shift_and_the_walk():
    model, (x, targets) = network(), examples()
    layers, walk = probes.covariate_shift(model, x, targets, LR)[1:], probes.gradient_steps(model, x, targets, LR, (1.0, 3.0))
    summary = probes.shift_and_roughness(model, x, targets, LR, (1.0, 3.0))
    assert summary["input shift"] == pytest.approx(sum(row["input_shift"] for row in layers) / 2)
    assert summary["turn of the gradient"] == pytest.approx(1 - sum(row["cosine"] for row in layers) / 2)
    assert summary["roughness"] == max(row["smoothness"] for row in walk[1:]) and summary["loss"] == walk[0]["loss"]
