"""How sharply attention chooses: uniform at queries of zero, a choice where they are large."""

import pytest
import torch
from torch import nn

from resnorm import probes
from resnorm.branches import attention
from resnorm.streams import Stack
from resnorm.words import Block


def test_from_uniform_to_a_choice():
    torch.manual_seed(0)
    stack = Stack([Block("Aa", 16, A=attention(4)) for _ in range(2)]).train()
    x, weight = torch.randn(3, 5, 16), stack.parts("A")[-1].query_key_value.weight
    q, k = (torch.nn.functional.linear(x + stack.parts("A")[0](x), weight[rows], stack.parts("A")[-1].query_key_value.bias[rows])
            for rows in (slice(16), slice(16, 32)))  # fmt: skip
    by_hand = (q.view(3, 5, 4, 4).transpose(1, 2) @ k.view(3, 5, 4, 4).permute(0, 2, 3, 1) / 2).softmax(-1).amax(-1).mean()
    assert probes.sharpness(stack, x) == pytest.approx(by_hand.item(), rel=1e-5)
    assert stack.training
    with torch.no_grad():
        weight[:32] *= 100
    assert probes.sharpness(nn.Sequential(stack), x, part=stack) > 0.95
    nn.init.zeros_(weight)
    nn.init.zeros_(stack.parts("A")[-1].query_key_value.bias)
    assert probes.sharpness(stack, x) == pytest.approx(1 / 5)


def test_without_attention_it_says_so():
    with pytest.raises(ValueError, match="Linear has no self-attention"):
        probes.sharpness(nn.Linear(2, 2), torch.zeros(1, 2))
