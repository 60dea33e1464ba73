"""The lesions: what is deleted, what is swapped, and a model that is left as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnorm import models, probes
from resnorm.letters import add
from resnorm.streams import Stack, Sum
from resnorm.words import Block


def network(variant, **options):
    """An untrained network of two blocks a stage whose batch norms have seen data, so that no two blocks agree."""
    torch.manual_seed(0)
    model = models.cifar_resnet(depth=14, width=4, inputs=1, variant=variant, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model(torch.randn(16, 1, 8, 8))
    return model.eval()


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(10, 1, 8, 8, generator=generator), torch.randint(10, (10,), generator=generator)


def scores(model, x, targets):
    with torch.no_grad():
        logits = model(x)
    right = (logits.argmax(1) == targets).double().mean().item()
    return {"loss": pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5), "accuracy": pytest.approx(right)}


class Subsampled(nn.Module):
    def forward(self, x):
        x = x[:, :, ::2, ::2]
        return torch.cat([x, torch.zeros_like(x)], dim=1)


@pytest.mark.parametrize("variant", ["plain", "residual", "resnet_v1"])
@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_a_deleted_block_leaves_its_shortcut(variant, number):
    model, (x, targets) = network(variant), images()
    rows = [row for row in probes.lesions(model, x, targets, batch=4) if row["kind"] == "delete"]
    assert [row["block"] for row in rows] == [1, 2, 3, 4, 5, 6]
    by_hand = copy.deepcopy(model)
    by_hand.stack.blocks[number - 1] = Subsampled() if number in (3, 5) else nn.Identity()
    assert {"loss": rows[number - 1]["loss"], "accuracy": rows[number - 1]["accuracy"]} == scores(by_hand, x, targets)
    assert rows[number - 1]["loss"] != pytest.approx(scores(model, x, targets)["loss"].expected, rel=1e-5)


def test_a_deleted_block_leaves_its_projection_and_its_scalar():
    model, (x, targets) = network("xskip", skip=3, shortcut="projection"), images()
    rows = [row for row in probes.lesions(model, x, targets) if row["kind"] == "delete"]
    for row in (rows[1], rows[2]):
        by_hand = copy.deepcopy(model)
        with torch.no_grad():  # a branch whose last convolution is zero returns zero
            by_hand.stack.blocks[row["block"] - 1].get_submodule("0_F").get_submodule("5_C").weight.zero_()
        assert {"loss": row["loss"], "accuracy": row["accuracy"]} == scores(by_hand, x, targets)


@pytest.mark.parametrize("variant", ["plain", "residual"])
def test_swapped_blocks_have_one_shape(variant):
    model, (x, targets) = network(variant), images()
    blocks = model.stack.blocks
    rows = [row for row in probes.lesions(model, x, targets, batch=4) if row["kind"] == "swap"]
    assert [(row["block"], row["other"]) for row in rows] == [(1, 2)]  # 3 and 5 change the shape, and 4 and 6 stand alone
    by_hand = copy.deepcopy(model)
    by_hand.stack.blocks = nn.ModuleList([blocks[1], blocks[0], *blocks[2:]])
    assert {"loss": rows[0]["loss"], "accuracy": rows[0]["accuracy"]} == scores(by_hand, x, targets)


def test_a_lesion_of_blocks_that_share_values_runs_all_others():
    torch.manual_seed(0)
    model = models.transformer_lm(vocabulary=7, context=6, depth=3, width=16, heads=2, variant="value_residual").eval()
    x, targets = torch.randint(7, (2, 4, 6))
    rows = {(row["kind"], row["block"], row["other"]): row["loss"] for row in probes.lesions(model, x, targets)}
    assert len(rows) == 1 + 3 + 3
    for case, order in (
        (("delete", 1, 0), (1, 2)),
        (("delete", 2, 0), (0, 2)),
        (("swap", 1, 3), (2, 1, 0)),
        (("whole", 0, 0), (0, 1, 2)),
    ):
        damaged = copy.deepcopy(model)
        damaged.stack.blocks = nn.ModuleList(damaged.stack.blocks[at] for at in order)
        expected = F.cross_entropy(damaged(x).flatten(0, 1), targets.flatten()).item()
        assert rows[case] == pytest.approx(expected, rel=1e-5), case


def test_the_seed_draws_the_swaps():
    x, targets = images()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Stack([nn.Linear(64, 64) for _ in range(8)]), nn.Linear(64, 10))

    def pairs(**options):
        rows = probes.lesions(model, x, targets, **options)
        return [(row["block"], row["other"]) for row in rows if row["kind"] == "swap"]

    assert len(pairs()) == 12 and pairs() == pairs() != pairs(seed=1)
    assert len(set(pairs(swaps=100))) == 28 and all(one < two for one, two in pairs(swaps=100))


def test_the_whole_network_comes_first_and_nothing_of_it_changes():
    model, (x, targets) = network("residual").train(), images()
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    rows = probes.lesions(model, x, targets)
    assert rows[0] == {"kind": "whole", "block": 0, "other": 0, **scores(copy.deepcopy(model).eval(), x, targets)}
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any("forward" in vars(block) or block._forward_hooks for block in model.stack.blocks)
    assert rows == probes.lesions(model, x, targets)


def test_what_cannot_be_damaged_is_refused():
    x, targets = images()
    sums = nn.Sequential(nn.Flatten(), Stack([nn.Linear(64, 64) for _ in range(2)], Sum()), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="block 2 does not read what block 1 returns.*put the skip into the word"):
        probes.lesions(sums, x, targets)
    with pytest.raises(ValueError, match="one target for each"):
        probes.lesions(network("plain"), x, targets[:3])


def test_a_loss_that_is_not_finite_is_none():
    x, targets = images()
    blocks = [Block("Fa", 64, F=lambda w: nn.Linear(w, w), a=add(skip=1e30)) for _ in range(2)]
    rows = probes.lesions(nn.Sequential(nn.Flatten(), Stack(blocks), nn.Linear(64, 10)), x, targets)
    assert rows[0]["loss"] is None
