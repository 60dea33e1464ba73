"""What is read off the stream of a trained stack: the size of single values, how far it turns, how its rows are mixed."""

import math

import pytest
import torch
from torch import nn

from resnorm import probes
from resnorm.models import cifar_densenet, transformer_lm
from resnorm.streams import Dual, Hyper, Stack, Sum
from resnorm.words import Block


class Move(nn.Module):
    """A branch that always returns one vector."""

    def __init__(self, *vector):
        super().__init__()
        self.vector = nn.Parameter(torch.tensor(vector))

    def forward(self, x):
        return self.vector.expand_as(x)


def test_activations_know_the_largest_value_its_place_and_the_turn():
    stack = Stack([Block("Fa", 2, F=lambda width: Move(0.0, 1.0)), Block("Fa", 2, F=lambda width: Move(0.0, -101.0))])
    x = torch.tensor([1.0, 0.0]).repeat(3, 4, 1)
    x[2, 3] = torch.tensor([2.0, 0.0])
    rows = probes.activations(stack, x)
    assert [row["block"] for row in rows] == [0, 1, 2]
    assert [row["largest"] for row in rows] == pytest.approx([2, 2, 100])
    assert [row["rms"] for row in rows] == pytest.approx([math.sqrt(15 / 24), math.sqrt(27 / 24), math.sqrt((15 + 12 * 1e4) / 24)])
    assert (rows[1]["feature"], rows[1]["token"], rows[2]["feature"]) == (0, 3, 1)
    assert rows[0]["angle"] is None
    assert rows[1]["angle"] == pytest.approx((11 * 45 + math.degrees(math.atan(1 / 2))) / 12, abs=1e-3)
    assert not any(block._forward_hooks for block in stack.blocks)


def test_a_stream_that_crosses_blocks_is_what_the_blocks_read():
    branches = [nn.Linear(4, 4) for _ in range(3)]
    words = [Block("F", 4, F=lambda width, one=one: one) for one in branches]
    within = [Block("Fa", 4, F=lambda width, one=one: one) for one in branches]
    x = torch.randn(5, 4)
    for last in (None, "layer"):
        across, inside = Stack(words, Sum(), last=last), Stack(within, last=last)
        found, expected = (probes.measure(one, x, lambda y: y.square().sum()) for one in (across, inside))
        for key in ("forward_rms", "gradient_norm", "parameter_gradient", "skip_share"):
            values = [row[key] for row in found if row[key] is not None]
            assert len(values) >= 3
            assert values == pytest.approx([row[key] for row in expected if row[key] is not None], rel=1e-4)
    dual = Stack(words, Dual(4, 3, "layer"))
    rows = probes.measure(dual, x, lambda y: y.sum())
    assert rows[0]["forward_rms"] == pytest.approx(x.square().mean().sqrt().item())
    assert rows[-1]["forward_rms"] == pytest.approx(dual(x).square().mean().sqrt().item(), rel=1e-5)
    assert not dual._forward_hooks


def test_mixing_multiplies_the_matrices_in_their_order():
    stream = Hyper(4, 2, rows=2)
    first, second = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [-3.0, 1.0]])
    with torch.no_grad():
        stream.connections[0].mix.copy_(first.mT)  # what acts on the rows is the transpose
        stream.connections[1].mix.copy_(second.mT)
    stack = Stack([Block("F", 4, F=lambda width: nn.Linear(4, 4)) for _ in range(2)], stream)
    rows = probes.mixing(stack, torch.randn(3, 4))
    assert rows[0] == pytest.approx(
        {"block": 1, "forward_gain": 3, "backward_gain": 3, "forward_gain_alone": 3, "backward_gain_alone": 3}
    )
    # second @ first = [[1, 2], [-3, -5]]; first @ second would have gains 7 and 8
    assert rows[1] == pytest.approx(
        {"block": 2, "forward_gain": 8, "backward_gain": 7, "forward_gain_alone": 4, "backward_gain_alone": 4}
    )


def test_doubly_stochastic_matrices_cannot_grow():
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=7, context=6, depth=3, width=8, heads=2, variant="manifold_hyper_connections")
    with torch.no_grad():
        for connections in model.stack.stream.connections:
            connections.mix.normal_(std=2)
    rows = probes.mixing(model, torch.randint(7, (2, 6)))
    assert len(rows) == 6 and all(row["forward_gain"] == pytest.approx(1, abs=1e-5) for row in rows)
    assert all(row["backward_gain"] < 1.3 for row in rows)
    with pytest.raises(ValueError, match="no stack of this TransformerLM has Hyper-Connections"):
        probes.mixing(transformer_lm(vocabulary=7, context=6, depth=1, width=8, heads=2), torch.randint(7, (2, 6)))


def test_stacks_inside_a_stack_hand_on_what_their_blocks_return():
    torch.manual_seed(0)
    model = cifar_densenet(depth=10, growth=4, width=8, inputs=1).eval()  # a stack with a dense stream for each stage
    x = torch.randn(2, 1, 8, 8)
    rows = probes.measure(model, x, lambda y: y.square().sum())
    assert [row["block"] for row in rows] == list(range(len(probes.blocks_of(model)) + 1))
    made = []
    hook = probes.blocks_of(model)[1].register_forward_hook(lambda _, given, output: made.append(output))
    model(x)
    hook.remove()
    assert rows[2]["forward_rms"] == pytest.approx(made[0].square().mean().sqrt().item())
