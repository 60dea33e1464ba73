"""Initialisation by role: the variance of every role, and the identity where a rule promises it."""

import math
import re

import pytest
import torch

from resnorm import init
from resnorm.branches import Convolution, attention, conv, conv1x1, conv3x3, cross_attention, linear, mlp
from resnorm.letters import add, layer_scale
from resnorm.models import cifar_resnet
from resnorm.words import Block

WIDTH = 128


def encoder(**options):
    torch.manual_seed(0)
    return Block("nAa nXa nMa", WIDTH, n="layer", A=attention(4), X=cross_attention(4, memory_width=64), M=mlp(2, **options))


def spreads(module):
    """The standard deviation of every weight, by role, in order."""
    out = {}
    for role, tensor in init.roles(module):
        if role != "bias":
            out.setdefault(role, []).append(tensor.std().item())
    return out


def xavier_std(fan_in, fan_out, gain=1.0):
    return gain * math.sqrt(2 / (fan_in + fan_out))


def test_xavier_uses_the_fans_of_the_role_and_not_of_the_packed_matrix():
    block = encoder(activation="swiglu")
    init.xavier(block, hidden=3.0)
    square = xavier_std(WIDTH, WIDTH)
    assert spreads(block) == {
        "query": pytest.approx([square] * 2, rel=0.03),
        "key": pytest.approx([square, xavier_std(64, WIDTH)], rel=0.03),
        "value": pytest.approx([square, xavier_std(64, WIDTH)], rel=0.03),
        "output": pytest.approx([square, square, xavier_std(2 * WIDTH, WIDTH)], rel=0.03),
        "hidden": pytest.approx([xavier_std(WIDTH, 2 * WIDTH, 3.0)] * 2, rel=0.03),
    }


def test_every_rule_sets_biases_to_zero_and_leaves_norms_alone():
    for rule in ("he", "xavier", "deepnorm"):
        block = encoder()
        init.initialise(block, rule, depth=6)
        assert all((tensor == 0).all() for role, tensor in init.roles(block) if role == "bias")
        assert (block.get_parameter("0_n.weight") == 1).all()


def test_deepnorm_scales_what_is_written_and_not_what_is_compared():
    # N = 12 encoder layers have 24 residual branches; the figures are those of the paper's formula
    assert init.deepnorm_alpha(24) == pytest.approx(2.213, abs=1e-3)
    assert init.deepnorm_beta(24) == pytest.approx(0.3195, abs=1e-4)
    assert (init.deepnorm_alpha(200), init.deepnorm_beta(200)) == pytest.approx((3.7606, 0.1880), abs=1e-4)
    block, square = encoder(), xavier_std(WIDTH, WIDTH)
    init.deepnorm(block, 0.25)
    measured = spreads(block)
    assert measured["query"][0] == pytest.approx(square, rel=0.03) and measured["key"][0] == pytest.approx(square, rel=0.03)
    for role in ("value", "output"):
        assert measured[role][0] == pytest.approx(0.25 * square, rel=0.03)
    assert measured["hidden"][0] == pytest.approx(0.25 * xavier_std(WIDTH, 2 * WIDTH), rel=0.03)


def test_magneto_enlarges_what_deepnorm_shrinks():
    block, square = encoder(), xavier_std(WIDTH, WIDTH)
    init.initialise(block, "magneto", 24)
    measured, gain = spreads(block), math.log(24) ** 0.5
    assert measured["query"][0] == pytest.approx(square, rel=0.03)
    for role in ("value", "output"):
        assert measured[role][0] == pytest.approx(gain * square, rel=0.03)
    with pytest.raises(ValueError, match="magneto: depth=1"):
        init.magneto(block, 1)


@pytest.mark.parametrize(("mode", "fan"), [("fan_out", 48 * 9), ("fan_in", 32 * 9)])
def test_he_reads_fan_out_or_fan_in_of_kernels_and_shortcuts(mode, fan):
    block = Block("Ca", 32, C=conv3x3(48, stride=2), a=add(shortcut="projection", stride=2))
    init.he(block, mode)
    assert spreads(block)["kernel"] == pytest.approx([math.sqrt(2 / fan)], rel=0.03)
    assert spreads(block)["shortcut"] == pytest.approx([math.sqrt(2 / (fan / 9))], rel=0.05)


def test_a_gate_is_drawn_like_a_shortcut_and_keeps_its_bias():
    block = Block("Ca", 32, C=conv3x3(48, stride=2), a=add(shortcut="zero_pad", stride=2, gate="exclusive", gate_bias=-6))
    init.he(block)
    assert spreads(block)["gate"] == pytest.approx([math.sqrt(2 / 48)], rel=0.05)
    assert (block.get_parameter("1_a.gate.bias") == -6).all()


def test_fixup_sets_the_classifier_to_zero_and_no_other_rule_does():
    for rule in ("fixup", "he"):
        block, head = Block("Fa", 8, F=mlp()), torch.nn.Linear(8, 3)
        init.initialise(block, rule, 4, head)
        assert all((parameter == 0).all() for parameter in head.parameters()) == (rule == "fixup")


def test_a_rule_reaches_what_weight_norm_computes_with():
    branch = conv(weight="norm")(32)
    init.he(branch)
    torch.testing.assert_close(branch.filters(), branch.weight)


@pytest.mark.parametrize("expansion", [1, 4])
def test_unit_gain_keeps_the_mean_square_and_is_uncorrelated(expansion):
    squares, products = [], []
    for seed in range(20):
        torch.manual_seed(seed)
        branch = mlp(expansion)(WIDTH)
        init.unit_gain(branch)
        # any input, not only a normal one: half of these features are constant
        x = torch.cat([torch.randn(256, WIDTH // 2), torch.full((256, WIDTH // 2), 2.0)], dim=1)
        y = branch(x)
        squares.append((y.square().mean() / x.square().mean()).item())
        products.append(torch.cosine_similarity(x, y).mean().item())
    assert sum(squares) / 20 == pytest.approx(1, abs=0.1)
    assert sum(products) / 20 == pytest.approx(0, abs=0.06)


def test_unit_gain_of_a_convolution_keeps_the_mean_square_of_what_came_before_relu():
    squares = []
    for seed in range(20):
        torch.manual_seed(seed)
        block = Block("rC", 64, C=conv1x1())
        init.unit_gain(block)
        squares.append(block(torch.randn(8, 64, 8, 8)).square().mean().item())
    assert sum(squares) / 20 == pytest.approx(1, rel=0.05)


def test_fixup_starts_as_the_identity_with_branches_that_shrink_with_depth():
    block, x = (
        Block("Fa Ma", 64, F=lambda width: Block("nrCnrCnrC", width, n="none", C=conv1x1()), M=mlp(1)),
        torch.randn(2, 64, 64, 64),
    )
    block.get_submodule("3_M").forward = torch.zeros_like  # an MLP reads another axis; here only its weights matter
    init.fixup(block, 16)
    assert torch.equal(block(x), x)
    he = math.sqrt(2 / 64)
    assert spreads(block)["kernel"] == pytest.approx([he * 16 ** (-1 / 4), he * 16 ** (-1 / 4), 0], rel=0.05)
    assert spreads(block)["hidden"] + spreads(block)["output"] == pytest.approx([he * 16 ** (-1 / 2), 0], rel=0.05)


@pytest.mark.parametrize(
    ("word", "factors"),
    [
        # the size of each branch's two matrices over He's: 16^(-1/2) for two in a row, 16^(-1/6) for four
        ("[Fn,F]a", [1 / 4, 0, 1 / 4, 0]),
        ("F[n,F]a", [16 ** (-1 / 6), 0, 16 ** (-1 / 6), 0]),
        ("nFha Fa nFha n", [1 / 4, 0] * 3),
        ("[Fa,F]n", [1 / 4, 0] * 2),
        ("F Fa", [1, 1, 1 / 4, 0]),
    ],
)
def test_fixup_takes_each_branch_up_to_its_merge(word, factors):
    torch.manual_seed(0)
    block = Block(word, 256, F=mlp(1), **({"n": "none"} if "n" in word else {}))
    init.fixup(block, 16)
    found = [tensor.std().item() for role, tensor in init.roles(block) if role != "bias"]
    assert found == pytest.approx([math.sqrt(2 / 256) * factor for factor in factors], rel=0.02)


@pytest.mark.parametrize(
    ("factory", "message"), [(attention(4), "gain of attention"), (mlp(activation="gelu"), "derived for ReLU")]
)
@pytest.mark.parametrize("rule", ["unit_gain", "fixup"])
def test_a_rule_refuses_what_it_is_not_derived_for(rule, factory, message):
    with pytest.raises(ValueError, match=f"{rule}.*{message}"):
        init.initialise(factory(WIDTH), rule, 1)


@pytest.mark.parametrize("word", ["Fna", "nFna", "Fnan", "nFnsa", "[Fn,nFn]a", "n[F,FF]na", "nFnha nFna nFnha", "[Fna,Fns]h"])
def test_zero_last_gain_makes_the_block_start_without_its_branch(word):
    letters = {"s": layer_scale(1.0)} if "s" in word else {}
    block, x = Block(word, 8, n="layer", F=mlp(), **letters), torch.randn(3, 8)
    init.zero_last_gain(block)
    expected = torch.nn.functional.layer_norm(x, (8,)) if word.endswith("n") else x / 2 if word.endswith("]h") else x
    torch.testing.assert_close(block(x), expected)


def test_zero_last_gain_of_resnet_v1_is_torchvisions():
    block, x = Block("CnrCnar", 8, n="batch", C=conv3x3()), torch.randn(2, 8, 4, 4)
    init.zero_last_gain(block)
    torch.testing.assert_close(block(x), x.relu())
    assert (block.get_parameter("1_n.weight") == 1).all()


def test_zero_last_gain_leaves_what_no_merge_adds():
    block = Block("[Cn,Cn,n]r CnrCna", 8, n="batch", C=conv3x3())
    init.zero_last_gain(block)
    assert [bool(norm.weight.any()) for norm in block.parts("n")] == [True, True, True, True, False]


@pytest.mark.parametrize("word", ["nFa", "Fan", "Fanan", "n[F,F]an", "[nF,s]"])
def test_zero_last_gain_never_touches_a_norm_of_the_stream(word):
    with pytest.raises(ValueError, match=f"between a branch and its merge in {re.escape(word)}"):
        init.zero_last_gain(Block(word, 8, n="layer", F=mlp(), **({"s": layer_scale(1.0)} if "s" in word else {})))


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="unknown role 'outputs'; allowed: query"):
        init.xavier(mlp()(4), outputs=1.0)
    with pytest.raises(ValueError, match="unknown rule of initialisation 'orthogonal'; allowed: he"):
        init.initialise(linear()(4), "orthogonal", 1)
    with pytest.raises(ValueError, match="no branch whose weights have roles"):
        init.he(torch.nn.Linear(4, 4))


def test_a_first_batch_gives_every_weight_normalised_convolution_mean_0_and_deviation_1():
    torch.manual_seed(0)
    model = cifar_resnet(depth=8, width=8, variant="resnet_v2", norm="none", weight="norm(from_data=True)")
    images = torch.randn(64, 3, 16, 16)
    before = torch.get_rng_state()
    init.from_data(model, images)
    assert torch.equal(torch.get_rng_state(), before)
    outputs = {}
    for name, module in model.named_modules():
        if isinstance(module, Convolution) and module.form == "norm":
            module.register_forward_hook(lambda module, x, y, name=name: outputs.update({name: (y, module.bias)}))
    model(images)
    assert len(outputs) == 6
    for y, bias in outputs.values():
        assert torch.allclose(y.std((0, 2, 3), correction=0), torch.ones(y.shape[1]), atol=1e-4)
        assert bias is None or y.mean((0, 2, 3)).abs().max() < 1e-4
    assert "weight='norm(from_data=True)'" in repr(model)


def test_a_closed_branch_keeps_its_gain():
    branch = conv1x1(weight="norm(from_data=True)")(3)
    init.from_data(branch, torch.ones(2, 3, 1, 1))  # no spread: nothing to divide by
    assert torch.equal(branch.gain.data, torch.ones(3)) and branch(torch.ones(2, 3, 1, 1)).isfinite().all()


def test_what_has_no_weight_norm_cannot_start_from_data():
    with pytest.raises(ValueError, match="no weight-normalised convolution; build it with weight='norm'"):
        init.from_data(conv()(3), torch.ones(1, 3, 4, 4))
