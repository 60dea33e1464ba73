"""Every variant of the catalog against an equation written by hand, forward and all gradients.

`ORACLES` has one line for each name. A variant without a line fails, and so does a line without a variant.
"""

import inspect
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnorm import catalog, init
from resnorm.branches import conv3x3, mlp
from resnorm.catalog import VARIANTS, transformer_word, transformer_words, variant
from resnorm.streams import Plain
from resnorm.words import BRANCHES, Tied

WIDTH = 16
r = F.relu


def gate(a, x):
    return 1 / (1 + torch.exp(-F.conv2d(x, a.gate.weight, a.gate.bias)))


def step(merge):
    return (merge.alpha.weight * 0.05 * WIDTH ** (1 / 2)).abs()


# Modules come in the word's order: branches as F, C, A, X, M, norms as n, LayerScale as s, merges as a, c and l.
ORACLES = {
    "plain": lambda x, F: F(x),
    "plain_norm": lambda x, n, F: F(n(x)),
    "residual": lambda x, F, a: x + F(x),
    "pre": lambda x, n, F, a: x + F(n(x)),
    "post": lambda x, F, a, n: n(x + F(x)),
    "skip_after_norm": lambda x, n, F, a: (u := n(x)) + F(u),
    "res_post": lambda x, F, n, a: x + n(F(x)),
    "sandwich": lambda x, n1, F, n2, a: x + n2(F(n1(x))),
    "keel": lambda x, n1, F, a, n2: n2(12 * x + F(n1(x))),
    "xskip": lambda x, F, a: 2 * x + F(x),
    "xskip_norm": lambda x, F, a, n: n(2 * x + F(x)),
    "rskip_norm": lambda x, F, a1, n1, a2, n2: n2(x + n1(x + F(x))),
    "deepnorm": lambda x, F, a, n: n(12 ** (1 / 4) * x + F(x)),
    "admin": lambda x, F, a, n: n(a.skip * x + F(x)),
    "depth_scaled": lambda x, n, F, a: x + F(n(x)) / 12 ** (1 / 2),
    "rezero": lambda x, F, a: x + a.gain * F(x),
    "skipinit": lambda x, F, a: x + a.gain * F(x),
    "layerscale": lambda x, n, F, s, a: x + s.gain * F(n(x)),
    "drop_path": lambda x, n, F, p, a: x + F(n(x)),  # eval; training has a test of its own
    "stochastic_depth": lambda x, F, p, a: x + F(x),  # eval
    "fixup": lambda x, F, a: x + a.gain * F(x),
    "resnet_v1": lambda x, C1, n1, C2, n2, a: r(x + n2(C2(r(n1(C1(x)))))),
    "bottleneck_v1": lambda x, C1, n1, C2, n2, C3, n3, a: r(x + n3(C3(r(n2(C2(r(n1(C1(x))))))))),
    "resnet_v2": lambda x, n1, C1, n2, C2, a: x + C2(r(n2(C1(r(n1(x)))))),
    "bottleneck_v2": lambda x, n1, C1, n2, C2, n3, C3, a: x + C3(r(n3(C2(r(n2(C1(r(n1(x))))))))),
    "projection_v2": lambda x, n1, C1, n2, C2, a: a.shortcut(r(n1(x))) + C2(r(n2(C1(r(n1(x)))))),
    "norm_after_add": lambda x, C1, n1, C2, a, n2: r(n2(x + C2(r(n1(C1(x)))))),
    "relu_before_add": lambda x, C1, n1, C2, n2, a: x + r(n2(C2(r(n1(C1(x)))))),
    "relu_only_pre": lambda x, C1, n1, C2, n2, a: x + n2(C2(r(n1(C1(r(x)))))),
    "constant_scaling": lambda x, C1, n1, C2, n2, a: r(x / 2 + n2(C2(r(n1(C1(x)))))),
    "exclusive_gating": lambda x, C1, n1, C2, n2, a: r((1 - (g := gate(a, x))) * x + g * n2(C2(r(n1(C1(x)))))),
    "shortcut_gating": lambda x, C1, n1, C2, n2, a: r((1 - gate(a, x)) * x + n2(C2(r(n1(C1(x)))))),
    "convolution_shortcut": lambda x, C1, n1, C2, n2, a: r(F.conv2d(x, a.shortcut.weight) + n2(C2(r(n1(C1(x)))))),
    "dropout_shortcut": lambda x, C1, n1, C2, n2, a: r(x / 2 + n2(C2(r(n1(C1(x)))))),  # eval; training has its own test
    "pyramid": lambda x, n1, C1, n2, C2, n3, a: x + n3(C2(r(n2(C1(n1(x)))))),
    "conv_norm_act_add": lambda x, C, n, a: x + r(n(C(x))),
    "conv_act_norm_add": lambda x, C, n, a: x + n(r(C(x))),
    "densenet": lambda x, n1, C1, n2, C2, c: torch.cat([x, C2(r(n2(C1(r(n1(x))))))], dim=1),
    "layernorm_scaling": lambda x, n, s, F, a: x + F(n(x) / 12 ** (1 / 2)),
    "mix_ln": lambda x, n1, A, a1, n2, M, a2: (y := x + A(n1(x))) + M(n2(y)),  # of a late layer
    "sub_ln": lambda x, n1, A, a1, n2, M, a2: (y := x + A(n1(x))) + M(n2(y)),
    "qk_norm": lambda x, n1, A, a1, n2, M, a2: (y := x + A(n1(x))) + M(n2(y)),
    "qk_norm_per_head": lambda x, n1, A, a1, n2, M, a2: (y := x + A(n1(x))) + M(n2(y)),
    "normformer": lambda x, n1, A, n2, a1, n3, M, a2: (y := x + n2(A(n1(x)))) + M(n3(y)),
    "hybridnorm": lambda x, A, a1, n, M, a2: (y := n(x + A(x))) + M(y),
    "value_residual": lambda x, n1, A, a1, n2, M, a2: (y := x + A(n1(x))) + M(n2(y)),
    "olmo2": lambda x, A, n1, a1, M, n2, a2: (y := x + n1(A(x))) + n2(M(y)),
    "parallel": lambda x, n, A, M, a: x + A(u := n(x)) + M(u),
    "parallel_two_norms": lambda x, n1, A, n2, M, a: x + A(n1(x)) + M(n2(x)),
    "encoder_pre": lambda x, n1, A, a1, n2, M, a2: (y := x + A(n1(x))) + M(n2(y)),
    "encoder_post": lambda x, A, a1, n1, M, a2, n2: n2((y := n1(x + A(x))) + M(y)),
    "encoder_b2t": lambda x, A, a1, n1, M, a2, n2: n2((y := n1(x + A(x))) + M(y) + x),
    "decoder_pre": lambda x, z, n1, A, a1, n2, X, a2, n3, M, a3: (w := (y := x + A(n1(x))) + X(n2(y), z)) + M(n3(w)),
    "decoder_post": lambda x, z, A, a1, n1, X, a2, n2, M, a3, n3: n3((w := n2((y := n1(x + A(x))) + X(y, z))) + M(w)),
    # The blocks of streams; what the streams make of them is in test_streams.py.
    "dual": lambda x, F: F(x),
    "denseformer": lambda x, n, F, a: x + F(n(x)),
    "attention_residuals": lambda x, n, F: F(n(x)),
    "hyper_connections": lambda x, n, F: F(n(x)),
    "manifold_hyper_connections": lambda x, n, F: F(n(x)),
    "ngpt": lambda x, A, n1, l1, n2, M, n3, l2, n4: n4((y := n2(x + l1.alpha * (n1(A(x)) - x))) + l2.alpha * (n3(M(y)) - y)),
    "ngpt_weights": lambda x, A, n1, l1, n2, M, n3, l2, n4: n4(
        (y := n2(x + step(l1) * (n1(A(x)) - x))) + step(l2) * (n3(M(y)) - y)
    ),
}


def built(name, **letters_and_options):
    """A block whose every learned value is away from its start, and inputs for it."""
    torch.manual_seed(0)
    block = variant(name).block(WIDTH, **letters_and_options)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    x = torch.randn((3, WIDTH, 6, 5) if "C" in block.word else (3, 5, WIDTH), requires_grad=True)
    memory = torch.randn(3, 4, WIDTH, requires_grad=True)
    return block, (x, memory) if "X" in block.word else (x,)


def learned(block):
    """The learned modules of a block in the order of its word."""
    return [module for name, module in block.named_children() if not name.endswith("_r")]


def check_oracle(block, inputs, oracle):
    """The block and the equation agree, forward and in the gradient of every input and parameter."""
    y = block(inputs[0], **({"X": {"memory": inputs[1]}} if len(inputs) > 1 else {}))
    expected = oracle(*inputs, *learned(block))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    leaves = [*inputs, *block.parameters()]
    direction = torch.randn_like(y)
    ours = torch.autograd.grad(y, leaves, direction, retain_graph=True)
    for mine, its in zip(ours, torch.autograd.grad(expected, leaves, direction), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=2e-5 * its.abs().max().item())


def check_input_untouched(block, inputs):
    """Running a block leaves its input as it was: no branch writes in place into the skip."""
    kept = [x.detach().clone() for x in inputs]
    with torch.no_grad():
        block(inputs[0], **({"X": {"memory": inputs[1]}} if len(inputs) > 1 else {}))
    assert all(torch.equal(x, before) for x, before in zip(inputs, kept, strict=True)), "the block changed its input"


def check_own_parameters(block):
    """No two modules of a block share a parameter."""
    every = [id(parameter) for module in block.children() for parameter in module.parameters()]
    assert len(every) == len(set(every)), "two letters share a parameter"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_equals_its_equation(name):
    assert name in ORACLES, f"write the equation of {name!r} into ORACLES"
    block, inputs = built(name)
    if name in ("drop_path", "stochastic_depth", "dropout_shortcut"):
        block.eval()
    check_oracle(block, inputs, ORACLES[name])
    check_input_untouched(block, inputs)
    check_own_parameters(block)


def test_every_equation_has_its_variant():
    assert set(ORACLES) == set(VARIANTS)


@pytest.mark.parametrize(
    ("order", "oracle"),
    [
        (1, lambda x, F, a1, n1: n1(x + F(x))),
        (3, lambda x, F, a1, n1, a2, n2, a3, n3: n3(x + n2(x + n1(x + F(x))))),
        (4, lambda x, F, a1, n1, a2, n2, a3, n3, a4, n4: n4(x + n3(x + n2(x + n1(x + F(x)))))),
    ],
)
def test_recursive_skips_of_every_order(order, oracle):
    check_oracle(*built("rskip_norm", order=order), oracle)


def test_the_affine_map_of_a_recursive_skip_is_a_choice():
    step, shared, last = (built("rskip_norm", order=3, affine=affine)[0] for affine in ("step", "shared", "last"))
    norms = lambda block: [block.get_submodule(f"{position}_n") for position in (2, 4, 6)]  # noqa: E731
    assert len({id(norm.weight) for norm in norms(step)}) == 3
    assert len({id(norm.weight) for norm in norms(shared)}) == 1
    assert [norm.weight is not None for norm in norms(last)] == [False, False, True]
    with pytest.raises(AssertionError, match="share"):
        check_own_parameters(shared)
    for block in (shared, last):
        x = torch.randn(3, WIDTH, requires_grad=True)
        check_oracle(block, (x,), lambda x, F, a1, n1, a2, n2, a3, n3: n3(x + n2(x + n1(x + F(x)))))
    assert isinstance(variant("rskip_norm").settings_for(affine="shared")["n"], Tied)
    grouped = variant("rskip_norm").block(WIDTH, F=conv3x3(), n="group(groups=4)", affine="last")
    assert [grouped.get_submodule(name).affine for name in ("2_n", "4_n")] == [False, True]


def test_depth_counts_residual_branches():
    block, inputs = built("deepnorm", depth=48)
    check_oracle(block, inputs, lambda x, F, a, n: n(48 ** (1 / 4) * x + F(x)))
    assert block.get_submodule("1_a").skip == pytest.approx(init.deepnorm_alpha(48))
    block, inputs = built("keel", depth=48)
    check_oracle(block, inputs, lambda x, n1, F, a, n2: n2(48 * x + F(n1(x))))


def test_scalars_that_start_at_0_are_learned_and_start_as_the_identity():
    for name in ("rezero", "skipinit"):
        block, x = variant(name).block(WIDTH), torch.randn(3, WIDTH)
        assert torch.equal(block(x), x)
        block(x).sum().backward()
        assert block.get_parameter("1_a.gain").grad.abs() > 0
    block, x = variant("layerscale").block(WIDTH, init=1e-6), torch.randn(3, WIDTH)
    torch.testing.assert_close(block(x), x, atol=1e-5, rtol=0)


def test_drop_path_drops_whole_samples_and_rescales_the_others():
    torch.manual_seed(0)
    block, x = variant("drop_path").block(WIDTH, rate=0.5), torch.randn(64, 3, WIDTH)
    branch = block.eval()(x) - x
    ratio = ((block.train()(x) - x) / branch).flatten(1).median(1).values
    torch.testing.assert_close(ratio, torch.where(ratio > 1, 2.0, 0.0), atol=1e-2, rtol=0)
    assert 0.3 < (ratio > 1).float().mean() < 0.7


def test_stochastic_depth_drops_in_proportion_to_the_block():
    rates = [variant("stochastic_depth").block(WIDTH, block=block, depth=20).get_submodule("1_p").rate for block in (1, 10, 20)]
    assert rates == pytest.approx([0.025, 0.25, 0.5])
    assert variant("stochastic_depth").block(WIDTH, block=20, depth=20, last=0.2).get_submodule("1_p").rate == 0.2


def test_dropout_on_the_shortcut_drops_single_values_and_rescales_none():
    torch.manual_seed(0)
    block, x = variant("dropout_shortcut").block(WIDTH), torch.rand(8, WIDTH, 6, 6) + 1
    nn.init.zeros_(block.get_parameter("4_n.weight"))  # the branch adds nothing: what is left is the shortcut
    ratio = block(x) / x
    assert set(ratio.unique().tolist()) == {0.0, 1.0}
    assert 0.45 < ratio.mean() < 0.55
    torch.testing.assert_close(block.eval()(x), x / 2)


@pytest.mark.parametrize(("name", "branch"), [("exclusive_gating", 0.0), ("shortcut_gating", 1.0)])
def test_a_gate_that_starts_closed_leaves_the_shortcut_and_only_the_exclusive_one_shuts_the_branch(name, branch):
    block, x = variant(name).block(WIDTH, bias=-50), torch.rand(2, WIDTH, 6, 6)
    grown = block(x) - x
    assert (grown.abs().max() > 1) == bool(branch)
    half = variant(name).block(WIDTH, bias=0)
    nn.init.zeros_(half.get_parameter("5_a.gate.weight"))
    nn.init.zeros_(half.get_parameter("4_n.weight"))
    torch.testing.assert_close(half(x), x / 2)


def test_equations_carry_the_symbols_of_their_scalars():
    inside = "n(C(r(n(C(x)))))"
    for name, options, equation in (
        ("constant_scaling", {}, f"r(0.5·x + {inside})"),
        ("constant_scaling", {"skip": 0, "gain": 0.5}, f"r(0·x + 0.5·{inside})"),
        ("exclusive_gating", {}, f"r((1 - g(x))·x + g(x)·{inside})"),
        ("shortcut_gating", {}, f"r((1 - g(x))·x + {inside})"),
        ("convolution_shortcut", {}, f"r(S(x) + {inside})"),
        ("dropout_shortcut", {}, f"r(0.5·d(x) + {inside})"),
    ):
        assert variant(name).block(WIDTH, **options).equation() == equation
    assert variant("xskip").block(WIDTH).equation() == "λ·x + F(x)"
    assert variant("deepnorm").block(WIDTH).equation() == "n(α·x + F(x))"
    assert variant("admin").block(WIDTH).equation() == "n(ω·x + F(x))"
    assert r"\omega\, x" in variant("admin").block(WIDTH).equation(latex=True)
    assert variant("keel").block(WIDTH).equation() == "n(α·x + F(n(x)))"
    assert variant("rskip_norm").block(WIDTH, order=3).equation() == "n(x + n(x + n(x + F(x))))"


def test_the_caller_sets_letters_and_options():
    block = variant("post").block(WIDTH, n="rms", F=mlp(1, "swiglu"))
    assert type(block.get_submodule("2_n")).__name__ == "RMSNorm" and block.get_submodule("0_F").activation == "swiglu"
    assert variant("densenet").block(WIDTH, growth=5).out_width == WIDTH + 5
    assert variant("layerscale").block(WIDTH, F=conv3x3(), n="batch", dim=1)(torch.randn(2, WIDTH, 4, 4)).shape[1] == WIDTH


def test_generic_words_become_transformer_layers():
    assert transformer_word("nFa") == VARIANTS["encoder_pre"].word == "nAa nMa"
    assert transformer_word("Fan") == VARIANTS["encoder_post"].word == "Aan Man"
    assert transformer_word("Fanan") == "Aanan Manan"
    assert transformer_word("Aan Mabn") == "Aan Mabn"
    spelled = {name: transformer_words(variant(name)) for name in ("pre", "dual", "denseformer", "hyper_connections")}
    assert spelled == {"pre": ["nAa nMa"], "dual": ["A", "M"], "denseformer": ["nAa nMa"], "hyper_connections": ["nA", "nM"]}
    for word in ("CnrCa", "nAa nXa nMa"):
        with pytest.raises(ValueError, match="a Transformer layer needs a word of F"):
            transformer_word(word)


@pytest.mark.parametrize(
    ("word", "decoder"),
    [
        ("n[A,M]a", "n[A,X,M]a"),
        ("[nA,nM]a", "[nA,nX,nM]a"),
        ("[nMs,nAs]an", "[nMs,nAs,nXs]an"),
        ("[nA,nA]a [nM,nM]a", "[nA,nA]a [nX,nX]a [nM,nM]a"),
        ("nAa n[A,M]a", "nAa nXa n[A,X,M]a"),
        ("n[A,X,M]a", "n[A,X,M]a"),
        ("[nF,nF]a", "[nA,nA]a [nX,nX]a [nM,nM]a"),
    ],
)
def test_cross_attention_stands_beside_attention(word, decoder):
    assert transformer_word(word, "AXM") == decoder
    if "X" not in word and "F" not in word:
        assert transformer_word(word) == word


@pytest.mark.parametrize("word", ["n[AM,M]a", "A[n,M]a", "[Aa,M]n"])
def test_brackets_without_a_place_for_cross_attention_are_refused(word):
    with pytest.raises(ValueError, match="no place for the cross-attention of a decoder.*as in 'n.A,X,M.a'"):
        transformer_word(word, "AXM")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: variant("pre_norm"), "unknown variant 'pre_norm'; allowed: plain, plain_norm, residual, pre"),
        (lambda: variant("xskip").block(WIDTH, scale=2.0), "variant 'xskip' has no option 'scale'; its options are skip"),
        (lambda: variant("pre").spell(order=2), "variant 'pre' has no option 'order'; it has no options"),
        (lambda: variant("dual").carry(WIDTH, 3, rows=2), "variant 'dual' has no option 'rows'"),
        (lambda: variant("rskip_norm").spell(order=0), "order=0; the order .* integer of 1 or more"),
        (lambda: variant("rskip_norm").spell(order=2.0), "order=2.0"),
        (lambda: variant("rskip_norm").block(WIDTH, affine="each"), "affine='each'; allowed: 'step'"),
        (lambda: variant("residual").block(WIDTH, n="layer"), "'n' is set but does not occur in 'Fa'"),
    ],
)
def test_wrong_names_and_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_describes_itself(name):
    one = VARIANTS[name]
    assert one.name == name and one.title and one.tags
    assert one.sentence.endswith(".") and one.sentence[0].isupper()
    assert one.init is None or one.init in init.RULES
    assert set(one.spell()) & set(BRANCHES)
    assert set(inspect.signature(one.settings).parameters) in (set(one.options), {"options"})
    assert set(one.inside("layer")) <= set("AM")
    bibliography = Path(__file__).parents[1] / "book" / "references.bib"
    assert re.search(rf"^@\w+{{{one.cite},", bibliography.read_text(), re.MULTILINE), f"{one.cite} is not in the bibliography"
    assert isinstance(one.block(WIDTH), nn.Module)
    assert (one.stream is not None) == ("stream" in one.tags) == (type(one.carry(WIDTH, 3)) is not Plain)


def test_the_catalog_cannot_list_a_name_twice():
    assert len(catalog.variants._ALL) == len(VARIANTS)
