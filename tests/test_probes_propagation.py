"""What passes a stack and what its branches do: known answers, and the closed forms of random branches."""

import pandas
import pytest
import torch
from torch import nn

from resnorm import predict, probes
from resnorm.branches import Damped
from resnorm.letters import add
from resnorm.models import alike_positions, random_stack, simple_transformer, transformer_lm
from resnorm.streams import Stack
from resnorm.words import Block


@pytest.mark.parametrize(("word", "beta"), [("Fan", 1.0), ("Fan", 0.0), ("nFa", 1.0), ("Fna", 0.5)])
def test_a_random_stack_passes_signal_and_gradient_as_predicted(word, beta):
    torch.manual_seed(0)
    rows = probes.propagation(random_stack(word, 6, 512, backward=beta), torch.randn(64, 512))
    expected = predict(word, 6, backward=beta)
    for name in ("forward_rms", "gradient"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=0.06), name
    assert rows[-1]["gradient"] == 1


def test_the_gradient_of_a_given_loss_is_relative_to_its_own_end():
    stack = Stack([Block("F", 4, F=lambda width: nn.Linear(width, width, bias=False)) for _ in range(2)])
    for branch in stack.parts("F"):
        nn.init.eye_(branch.weight)
        branch.weight.data *= 3
    rows = probes.propagation(stack, torch.ones(2, 4), lambda y: 10 * y.sum())
    assert [row["gradient"] for row in rows] == pytest.approx([9, 3, 1])


def test_a_random_stack_damps_its_branches_and_ends_in_the_norm_that_is_asked_for():
    stack = random_stack("nFa", 2, 8, backward=0.5, last="layer")
    assert all(isinstance(branch, Damped) and branch.beta == 0.5 for branch in stack.parts("F")) and stack.last is not None
    assert not any(isinstance(branch, Damped) for branch in random_stack("Fa", 2, 8).parts("F"))
    x, small = torch.randn(2, 8), random_stack("nFa", 1, 8, n="rms", a=add(gain=0.0))
    assert type(small.parts("n")[0]).__name__ == "RMSNorm" and torch.equal(small(x), x)


def test_the_gains_of_linear_branches_are_those_of_their_matrices():
    stack = Stack([Block("Fan", 4, F=lambda width: nn.Linear(width, width, bias=False), n="layer") for _ in range(2)])
    for factor, branch in zip((1.0, -0.5), stack.parts("F"), strict=True):
        nn.init.eye_(branch.weight)
        branch.weight.data *= factor
    first, second = probes.branch_gains(stack, torch.randn(3, 4))
    assert (first["block"], first["letter"], second["block"]) == (1, "F", 2)
    assert [first[name] for name in ("forward", "backward", "growth")] == pytest.approx([1, 1, 4])
    assert [second[name] for name in ("forward", "backward", "growth")] == pytest.approx([0.25, 0.25, 0.25])


def test_the_gains_of_the_branches_predict_the_gradient_of_post_norm():
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=11, context=8, depth=3, width=64, heads=2, variant="post")
    tokens, targets = torch.randint(11, (2, 8, 8))

    def loss(logits):
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    gains = probes.branch_gains(model, tokens, loss)
    assert [row["letter"] for row in gains] == list("AMAMAM") and all(parameter.grad is None for parameter in model.parameters())
    product = pandas.DataFrame(gains).factor.prod() ** 0.5
    assert product == pytest.approx(probes.propagation(model, tokens, loss)[0]["gradient"], rel=0.2)


def test_a_model_without_words_has_no_branch_to_measure():
    class Plain(nn.Module):
        blocks = nn.ModuleList([nn.Linear(4, 4)])

        def forward(self, x):
            return self.blocks[0](x)

    with pytest.raises(ValueError, match="no block of this Plain is made of a word"):
        probes.branch_gains(Plain(), torch.ones(1, 4))


@pytest.mark.parametrize(("cosine", "expected"), [(1.0, 1.0), (0.0, 1 / 256)])
def test_alignment_is_the_mean_cosine_of_all_positions(cosine, expected):
    torch.manual_seed(0)
    stack = Stack([Block("F", 512, F=lambda width: nn.Identity())])
    x = alike_positions(cosine, 512, positions=256, batch=1).requires_grad_()
    value = probes.alignment(stack, x)
    assert value.item() == pytest.approx(expected, rel=0.1)
    value.backward()
    assert x.grad is not None


def test_the_last_layers_gradient_falls_in_pre_norm_alone():
    def ratio(word):
        values = []
        for depth in (1, 16):
            torch.manual_seed(0)
            values.append(probes.last_layer_gradient(simple_transformer(word, depth, 64), 64))
        return values[1] / values[0]

    assert ratio("Aan Man") == pytest.approx(1, abs=0.15) and ratio("nAa nMa") == pytest.approx((2.5 / 25) ** 0.5, abs=0.1)


def test_the_streams_are_those_between_the_blocks():
    stack, x = random_stack("nFa", 2, 8, last="layer"), torch.randn(3, 8)
    start, middle, end = probes.streams_of(stack, x)
    assert torch.equal(start, x) and torch.equal(middle, stack.blocks[0](x)) and torch.equal(stack.last(end), stack(x))
    assert not end.requires_grad
