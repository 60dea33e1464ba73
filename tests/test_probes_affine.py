"""The learned maps of a block's norms: which rows there are, and that they hold what the norms have learned."""

import pytest
import torch
from torch import nn

from resnorm import probes
from resnorm.branches import mlp
from resnorm.catalog import variant
from resnorm.models.resnet import cifar_resnet
from resnorm.streams import Stack
from resnorm.words import Block


def trained(*blocks):
    """A stack whose every norm has a gain and a bias of its own, as training would leave them."""
    stack = Stack(list(blocks))
    with torch.no_grad():
        for number, parameter in enumerate(stack.parameters()):
            if parameter.dim() == 1:
                parameter.copy_(torch.linspace(number, number + 2, len(parameter)))
    return stack


def test_every_step_of_the_recursion_has_a_row_with_its_own_map():
    stack = trained(*(variant("rskip_norm").block(5, order=3) for _ in range(2)))
    rows = probes.affine_maps(stack)
    assert [(row["block"], row["step"]) for row in rows] == [(block, step) for block in (1, 2) for step in (1, 2, 3)]
    gains = [stack.blocks[1].get_submodule(name).weight for name in ("2_n", "4_n", "6_n")]
    assert [row["gain"] for row in rows[3:]] == pytest.approx([gain.mean().item() for gain in gains])
    # linspace(a, a + 2) over 5 features has the mean a + 1 and the variance 1/2.
    assert all(row[f"{what}_deviation"] == pytest.approx(0.5**0.5) for row in rows for what in ("gain", "bias"))
    assert rows[0]["bias"] == pytest.approx(stack.blocks[0].get_submodule("2_n").bias.mean().item())
    assert len({row["gain"] for row in rows} | {row["bias"] for row in rows}) == 12


@pytest.mark.parametrize(("affine", "steps"), [("step", [1, 2, 3]), ("shared", [1, 2, 3]), ("last", [3])])
def test_a_step_without_a_map_has_no_row_and_a_shared_map_one_for_each_step(affine, steps):
    rows = probes.affine_maps(trained(variant("rskip_norm").block(4, order=3, affine=affine)))
    assert [row["step"] for row in rows] == steps
    assert len({row["gain"] for row in rows}) == (1 if affine == "shared" else len(steps))


def test_a_norm_without_a_bias_says_so_and_one_without_a_map_is_left_out():
    (row,) = probes.affine_maps(Stack([variant("post").block(4, n="rms")]))
    assert row["gain"] == 1 and row["bias"] is None and row["bias_deviation"] is None
    assert probes.affine_maps(Stack([variant("post").block(4, n="none"), variant("residual").block(4)])) == []


def test_only_the_blocks_own_norms_count_and_they_do_not_change():
    model = cifar_resnet(variant="xskip_norm", merge_norm="layer2d", depth=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = probes.affine_maps(model)  # each branch has two batch norms of its own
    assert rows == [dict(block=n, step=1, gain=1, gain_deviation=0, bias=0, bias_deviation=0) for n in (1, 2, 3)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_norms_in_brackets_count_in_the_order_of_the_word():
    stack = trained(Block("n[nF,F]an", 5, F=mlp(), n="layer"))
    rows = probes.affine_maps(stack)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["gain"] for row in rows] == pytest.approx([norm.weight.mean().item() for norm in stack.parts("n")])


def test_foreign_blocks_are_passed_over_and_counted():
    stack = Stack([nn.LayerNorm(4), variant("post").block(4, F=mlp())])
    assert [row["block"] for row in probes.affine_maps(stack)] == [2]
    with pytest.raises(ValueError, match="attribute `blocks`"):
        probes.affine_maps(nn.LayerNorm(4))
