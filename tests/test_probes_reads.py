"""What layers read, and what a forward pass keeps: right on networks whose answer is known."""

import pytest
import torch
from torch import nn

from resnorm import probes
from resnorm.lab.measurements import MEASUREMENTS
from resnorm.models import cifar_densenet, cifar_resnet
from resnorm.streams import Stack, Sum
from resnorm.words import Block


@pytest.fixture
def model():
    torch.manual_seed(0)
    return cifar_densenet(depth=13, growth=2, width=4)


def row(rows, **wanted):
    return next(one for one in rows if wanted.items() <= one.items())


def test_every_layer_has_a_row_for_every_source_and_so_has_what_follows_the_block(model):
    rows = probes.reads(model)
    pairs = [(one["stage"], one["block"], one["source"]) for one in rows]
    assert pairs == [(stage, block, source) for stage in (1, 2, 3) for block in (1, 2, 3, 4) for source in range(block)]
    assert MEASUREMENTS["reads"](model, None, None) == rows


@torch.no_grad()
def test_the_weights_are_those_on_the_sources_own_features(model):
    dense, transition = model.stack.blocks[0], model.stack.blocks[1]
    third = dense.blocks[2]  # reads 4 features of the stem, 2 of the first layer and 2 of the second
    weight, gain = third.get_parameter("2_C.weight"), third.get_parameter("0_n.weight")
    weight[:, :4], weight[:, 4:6], weight[:, 6:] = 1.0, -2.0, 3.0
    gain[:4], gain[4:6], gain[6:] = 1.0, -0.5, 2.0
    transition.get_parameter("2_C.0.weight")[:, 8:] = 7.0
    model.head.weight[:, -2:], model.stack.blocks[-1].last.weight[-2:] = 5.0, 3.0
    rows = probes.reads(model)
    found = [row(rows, stage=1, block=3, source=source) for source in range(3)]
    assert [one["weight"] for one in found] == [1, 2, 3] and [one["scaled"] for one in found] == [1, 1, 6]
    assert row(rows, stage=1, block=4, source=3)["weight"] == 7
    assert row(rows, stage=3, block=4, source=3)["weight"] == 5
    assert row(rows, stage=3, block=4, source=3)["scaled"] == 15


def test_a_norm_without_a_gain_scales_nothing():
    rows = probes.reads(cifar_densenet(depth=10, growth=2, norm="none"))
    assert all(one["weight"] == one["scaled"] for one in rows)


def test_a_network_that_adds_has_no_sources_to_tell_apart():
    with pytest.raises(ValueError, match="ResNet has no dense block"):
        probes.reads(cifar_resnet(depth=8))
    with pytest.raises(ValueError, match="no dense block"):
        probes.reads(Stack([Block("nF", 4, n="layer", F=lambda width: nn.Linear(width, width))], Sum()))


def test_stored_bytes_counts_every_tensor_once_and_no_parameter():
    x = torch.randn(8, 16)
    linear = nn.Linear(16, 32)
    assert probes.stored_bytes(linear, x) == 4 * 8 * 16  # its input; the weight is its own
    # The ReLU keeps its output, which the second layer keeps as its input.
    assert probes.stored_bytes(nn.Sequential(linear, nn.ReLU(), nn.Linear(32, 4)), x) == 4 * 8 * (16 + 32)
    with torch.no_grad():
        assert probes.stored_bytes(linear, x) == 0


def test_a_block_inside_a_stack_inside_a_stack_is_a_block(model):
    assert len(probes.blocks_of(model)) == 3 * 3 + 2
