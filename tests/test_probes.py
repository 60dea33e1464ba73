"""The probes: right values on models whose answer is known, and no trace left behind."""

import math

import pytest
import torch
from torch import nn

from resnorm import probes, seq2seq
from resnorm.letters import add, dropout
from resnorm.streams import Stack
from resnorm.words import Block


def scale(factor):
    class Scale(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, x):
            return self.factor * x

    return Scale


def test_known_values():
    stack = Stack([Block("Fa", 4, F=scale(1.0)), Block("Fa", 4, F=scale(2.0))])  # x -> 2 x -> 6 x
    x = torch.ones(3, 4)
    rows = probes.measure(stack, x, lambda y: y.sum())
    assert [r["block"] for r in rows] == [0, 1, 2]
    assert [r["forward_rms"] for r in rows] == pytest.approx([1, 2, 6])
    root = math.sqrt(12)
    assert [r["gradient_norm"] for r in rows] == pytest.approx([6 * root, 3 * root, root])
    assert [r["parameter_gradient"] for r in rows[1:]] == pytest.approx([36, 24])  # sum x * 3, sum 2 x


def test_skip_share_is_the_cotangent_of_the_angle():
    x, f = torch.eye(8)[:1].double(), torch.eye(8)[1:2].double()
    assert probes.skip_share(x, 3 * x + f) == pytest.approx(3.0)
    assert probes.skip_share(x, f) == pytest.approx(0.0, abs=1e-9)
    assert probes.skip_share(x, f[:, :4]) is None


def test_nothing_of_the_model_changes():
    torch.manual_seed(0)
    model = Stack([Block("Fdan", 4, F=lambda w: nn.Linear(w, w), n="batch", d=dropout(0.5)) for _ in range(2)])
    model(torch.randn(8, 4)).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    first = probes.measure(model, torch.ones(8, 4), lambda y: y.square().sum())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert first == probes.measure(model, torch.ones(8, 4), lambda y: y.square().sum())
    assert not any(block._forward_hooks for block in model.blocks)


def test_it_finds_the_blocks_or_says_what_is_missing():
    inner = Stack([nn.Linear(3, 3)])
    assert probes.blocks_of(nn.Sequential(nn.Linear(3, 3), inner)) == list(inner.blocks)
    with pytest.raises(ValueError, match="attribute `blocks`"):
        probes.blocks_of(nn.Linear(3, 3))


def test_a_part_of_the_model_is_read_in_the_pass_of_the_whole():
    torch.manual_seed(0)
    model = seq2seq(vocabulary=9, context=8, depth=2, width=8, heads=2, variant="pre", dropout=0).eval()
    source, before = torch.randint(3, 9, (2, 3, 5))
    loss, seen = lambda logits: logits.square().sum(), []
    hook = model.decoder.blocks[-1].register_forward_hook(lambda _, given, made: seen.append(made))
    decoder, whole, encoder = (
        probes.measure(model, source, loss, before=before, part=part) for part in (model.decoder, None, model.encoder)
    )
    hook.remove()
    assert decoder[-1]["forward_rms"] == pytest.approx(seen[0].square().mean().sqrt().item())
    assert [row["block"] for row in decoder] == [0, 1, 2] and all(row["parameter_gradient"] > 0 for row in decoder[1:])
    assert whole == encoder != decoder  # of two stacks the first
    assert probes.activations(model, source, before=before, part=model.decoder)[-1]["rms"] == pytest.approx(
        decoder[-1]["forward_rms"]
    )
    residual = 1 - seen[0].mean(1, keepdim=True).expand_as(seen[0]).square().sum((1, 2)) / seen[0].square().sum((1, 2))
    rank = probes.rank_residual(model, source, before=before, part=model.decoder)[-1]["residual"]
    assert rank == pytest.approx(residual.sqrt().mean().item(), rel=1e-4)
    with pytest.raises(ValueError, match="no block of this Stack ran; give a `part`"):
        probes.measure(model, source, loss, before=before, part=Stack([nn.Linear(3, 3)]))


def test_infinite_values_become_none():
    stack = Stack([Block("Fa", 2, F=scale(1e30), a=add(skip=1e30))])
    assert probes.measure(stack, torch.full((2, 2), 1e30), lambda y: y.sum())[-1]["forward_rms"] is None


def test_gradients_by_example_are_those_of_each_example_alone():
    torch.manual_seed(0)
    layer, head, x = nn.Linear(4, 3), nn.Linear(3, 2), torch.randn(5, 4)
    rows = probes.example_gradients(layer, lambda: head(layer(x).relu()).square().sum())
    for given, one in zip(rows, x, strict=True):
        (alone,) = torch.autograd.grad(head(layer(one).relu()).square().sum(), layer.weight)
        assert given == pytest.approx(alone.norm().item(), rel=1e-5)
    assert not layer._forward_hooks
    with pytest.raises(ValueError, match="ran 2 times"):
        probes.example_gradients(layer, lambda: (layer(x) + layer(x)).sum())
