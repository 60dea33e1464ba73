"""The loss landscape: directions that do not depend on the scale of the weights, and a model that is left as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnorm import models, probes


def two_layers(factor=1.0):
    """The same function for every factor: ReLU passes a positive one on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[2].weight.div_(factor)
    return model


def examples(width=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, width, generator=generator).double(), torch.randint(3, (9,), generator=generator)


def test_the_middle_of_every_line_is_the_trained_network():
    model, (x, targets) = two_layers(), examples()
    rows = probes.landscape(model, x, targets, points=5, reach=0.5, batch=4)
    assert [row["direction"] for row in rows] == [1] * 5 + [2] * 5 + [3] * 5
    assert [row["alpha"] for row in rows[:5]] == [-0.5, -0.25, 0, 0.25, 0.5]
    loss = F.cross_entropy(model(x), targets).item()
    assert [row["loss"] for row in rows if row["alpha"] == 0] == pytest.approx([loss] * 3)
    assert len({row["loss"] for row in rows}) == 13
    assert rows == probes.landscape(model, x, targets, points=5, reach=0.5, batch=4)
    assert rows != probes.landscape(model, x, targets, points=5, reach=0.5, batch=4, seed=1)


def test_the_slices_do_not_depend_on_the_scale_of_the_weights():
    x, targets = examples()
    one, other = (probes.landscape(two_layers(factor), x, targets, points=5) for factor in (1.0, 50.0))
    assert [row["loss"] for row in other] == pytest.approx([row["loss"] for row in one], rel=1e-5)


def test_a_step_of_one_moves_every_filter_by_its_length():
    class Weight(nn.Module):
        def __init__(self):
            super().__init__()
            self.filters = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.1]], dtype=torch.float64))

        def forward(self, x):
            moved.append(self.filters.detach())
            return x @ self.filters.T

    moved, model = [], Weight()
    x, targets = torch.randn(4, 2).double(), torch.tensor([0, 1, 0, 1])
    probes.landscape(model, x, targets, directions=1, points=3, reach=2.0)
    assert torch.equal(moved[1], model.filters)
    for place in (0, 2):
        assert (moved[place] - model.filters).norm(dim=1).tolist() == pytest.approx([10.0, 0.2])
    assert torch.allclose(moved[0] + moved[2], 2 * model.filters)


def test_the_axes_of_the_plane_are_the_first_two_lines():
    model, (x, targets) = two_layers(), examples()
    lines = probes.landscape(model, x, targets, points=5)
    plane = probes.landscape_plane(model, x, targets, points=5)
    assert len({(row["alpha"], row["beta"]) for row in plane}) == 25
    for number, along, across in ((1, "alpha", "beta"), (2, "beta", "alpha")):
        axis = [row["loss"] for row in plane if row[across] == 0]
        assert axis == pytest.approx([row["loss"] for row in lines if row["direction"] == number])
        assert [row[along] for row in plane if row[across] == 0] == [-1, -0.5, 0, 0.5, 1]


def test_gains_biases_and_running_statistics_stay_and_so_does_the_model():
    torch.manual_seed(0)
    model = models.cifar_resnet(depth=8, width=4, inputs=1, classes=3, variant="residual").train()
    model(torch.randn(16, 1, 8, 8))
    modes, before = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    x, targets = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        loss = F.cross_entropy(copy.deepcopy(model).eval()(x), targets).item()
    rows = probes.landscape(model, x, targets, directions=1, points=3)
    assert rows[1]["loss"] == pytest.approx(loss, rel=1e-5)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    vectors = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Unflatten(1, (64,)))
    rows = probes.landscape(vectors, x, targets, directions=1, points=3)
    assert len({row["loss"] for row in rows}) == 1


def test_a_line_needs_two_points():
    with pytest.raises(ValueError, match="points=1; a line needs 2 or more"):
        probes.landscape(two_layers(), *examples(), points=1)
