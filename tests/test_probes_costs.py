"""Costs: passes are counted operation by operation, and steps take turns."""

import torch
from torch.nn.functional import layer_norm

from resnorm import probes


def test_passes_of_one_norm_of_a_sum():
    x, h = torch.randn(2, 16, 32)
    # forward: the sum reads two and writes one, the norm reads and writes; backward: the norm reads two and writes one
    assert probes.memory_passes(lambda x, h: layer_norm(x + h, (32,)), x, h) == 3 + 2 + 3
    assert probes.memory_passes(lambda x: x.view(2, -1).view(16, 32) * 2, x) == 2 + 2
    assert not x.requires_grad


def test_steps_take_turns_and_the_first_round_is_left_out():
    calls = []
    seconds = probes.times({"a": lambda: calls.append("a"), ("b", 2): lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert list(seconds.columns) == ["a", ("b", 2)] and seconds.shape == (3, 2) and (seconds >= 0).all(axis=None)
