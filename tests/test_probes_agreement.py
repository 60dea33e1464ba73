"""Two ways to compute the same: what differs is found, in the output and in the gradients."""

import pytest
import torch
from torch import nn

from resnorm import probes


def test_the_largest_difference_of_tensors_and_of_sequences():
    a, b = torch.zeros(3), torch.tensor([0.0, -2.0, 1.0])
    assert probes.largest_difference(a, b) == 2
    assert probes.largest_difference([a, a], [a, b / 2]) == 1
    with pytest.raises(ValueError, match=r"the shapes are \[\(3,\)\] and \[\(1,\)\]"):
        probes.largest_difference(a, a[:1])


def test_equal_outputs_with_other_gradients_are_told_apart():
    x = torch.randn(4, 3, dtype=torch.float64)
    same = probes.agreement(lambda x: (2 * x) ** 2, lambda x: 4 * x * x, x)
    assert max(same.values()) < 1e-12
    stopped = probes.agreement(lambda x: x * x, lambda x: x * x.detach(), x)
    assert stopped["output"] == 0 and stopped["gradients"] > 0.1
    assert not x.requires_grad


def test_shared_parameters_count_too():
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    assert probes.agreement(layer, lambda x: x @ layer.weight.T + layer.bias.detach(), x)["gradients"] < 1e-6
    with_bias = dict(parameters=list(layer.parameters()))
    with pytest.raises(RuntimeError, match="not have been used"):
        probes.agreement(layer, lambda x: x @ layer.weight.T + layer.bias.detach(), x, **with_bias)
    wrong = probes.agreement(layer, lambda x: layer(x) + layer.bias - layer.bias.detach(), x, **with_bias)
    assert wrong["output"] < 1e-6 and wrong["gradients"] > 0.1


def test_the_parameters_of_a_part():
    layer = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    layer[1].weight.requires_grad_(False)
    assert probes.parameter_count(layer) == probes.parameter_count(layer, "0.") == 8
    assert probes.parameter_count(layer, "bias") == 2
