"""The word notation: grammar, equations, drawings, settings, and what a block promises to torch."""

import copy
import pickle
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from resnorm.letters import Scalar, add, concat, drop_path, dropout, layer_scale, lerp
from resnorm.words import (
    BRANCHES,
    LETTERS,
    Block,
    Tied,
    WordError,
    draw,
    draw_blocks,
    ends_in_merge,
    equation,
    parse,
    residual_branches,
    residual_paths,
    with_dropout,
)

WIDTH = 6


def linear(width):
    return nn.Linear(width, width)


def letters_for(word, **overrides):
    """Settings that make every word of the grammar buildable on vectors."""
    usual = dict.fromkeys(BRANCHES, linear) | {
        "n": "layer",
        "d": dropout(0.1),
        "p": drop_path(0.1),
        "s": layer_scale(0.5),
        "c": concat(dim=-1),
    }
    return {letter: overrides.get(letter, usual.get(letter)) for letter in set(word) if letter in usual or letter in overrides}


def build(word, **overrides):
    torch.manual_seed(0)
    return Block(word, WIDTH, **letters_for(word, **overrides))


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("F", "F(x)"),
        ("nFa", "x + F(n(x))"),
        ("Fan", "n(x + F(x))"),
        ("Fanan", "n(x + n(x + F(x)))"),
        ("nFan", "n(x + F(n(x)))"),
        ("nrCnrCc", "[x ‖ C(r(n(C(r(n(x))))))]"),
        ("nAa nMa", "x1 = x + A(n(x))\ny = x1 + M(n(x1))"),
        ("Aan Mabn", "x1 = n(x + A(x))\ny = n(x1 + M(x1) + x)"),
        ("nr|CnrCa", "x1 = r(n(x))\ny = x1 + C(r(n(C(x1))))"),
        ("nMha", "x + ½·M(n(x))"),
        ("Anln", "n(x + α·(n(A(x)) - x))"),
        ("n[A,M]a", "x1 = n(x)\ny = x + A(x1) + M(x1)"),
        ("[nA,nM]a", "x + A(n(x)) + M(n(x))"),
        ("[nAs,nAs]a", "x + s(A(n(x))) + s(A(n(x)))"),
        ("n[A,X,M]a", "x1 = n(x)\ny = x + A(x1) + X(x1) + M(x1)"),
        ("[Cn,Cn,n]r", "r(n(C(x)) + n(C(x)) + n(x))"),
        ("[AC,M]a", "x + C(A(x)) + M(x)"),
        ("[Aa,M]n", "n(x + A(x) + M(x))"),
        ("[Mh,Ab]ha", "x + ½·(½·M(x) + A(x) + x)"),
        ("nFa n[A,M]a nFa", "x1 = x + F(n(x))\nx2 = n(x1)\nx3 = x1 + A(x2) + M(x2)\ny = x3 + F(n(x3))"),
        ("Fa[A,M]l", "x1 = x + F(x)\ny = x + α·(A(x1) + M(x1) - x)"),
    ],
)
def test_equation(word, text):
    assert equation(word) == text


def test_equation_shows_scalars_and_shortcuts():
    block = Block("Fan", WIDTH, F=linear, n="layer", a=add(skip=Scalar("λ", 2.0), gain=0.5))
    assert block.equation() == "n(λ·x + 0.5·F(x))"
    assert r"\lambda" in block.equation(latex=True)
    assert Block("Fa", WIDTH, F=linear, a=add(gain=0, learn=True)).equation() == "x + g·F(x)"
    beside = Block("[F,F]a", WIDTH, F=linear, a=add(skip=2.0, gain=0.5))
    assert beside.equation() == "2·x + 0.5·(F(x) + F(x))"
    assert beside.equation(latex=True) == r"2\, x + 0.5\, \left(F\!\left(x\right) + F\!\left(x\right)\right)"
    assert Block("Fa", WIDTH, F=lambda w: nn.Linear(w, 9), a=add(shortcut="linear")).equation() == "S(x) + F(x)"


BESIDE = ["n[A,M]a", "[nA,nM]a", "[Cn,Cn,n]r", "[nAs,nAs]a", "n[A,X,M]a", "[AC,M]a", "[Aa,M]n", "n[A,M]ab [F,Fa]h", "nr|[C,Ca]n"]


@pytest.mark.parametrize("word", ["nFa", "Aan Mabn", "nr|CnrCa", "nMha nAa nKa nMha n", "nrCnrCc", "Fanananan", *BESIDE])
def test_drawing_is_svg_with_an_arc_for_every_merge(word):
    picture = draw(word)
    root = ElementTree.fromstring(picture)
    arcs = [p for p in root.iter("{http://www.w3.org/2000/svg}path") if " C" in p.get("d")]
    assert len(arcs) == sum(letter in "aclb" for letter in word)
    boxes = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert len(boxes) == sum(letter.isupper() or letter in "nrdpsh" for letter in word)
    assert equation(word).split("\n")[0] in root.get("aria-label")
    width = float(root.get("width"))
    assert all(float(box.get("x")) >= 0 and float(box.get("x")) + 34 <= width for box in boxes)


@pytest.mark.parametrize(
    ("options", "on_skip", "on_branch"),
    [
        ({}, None, None),
        ({"skip": Scalar("λ", 2.0), "gain": 0.5}, "λ", "0.5"),
        ({"skip": 0.5, "dropout": 0.5}, "0.5·d", None),
        ({"shortcut": "projection"}, "S", None),
        ({"gate": "exclusive"}, "1 - g", "g"),
        ({"gate": "shortcut_only"}, "1 - g", None),
    ],
)
def test_a_drawing_shows_what_stands_on_the_skip_and_on_the_branch(options, on_skip, on_branch):
    root = ElementTree.fromstring(Block("Ca", WIDTH, C=lambda w: nn.Conv2d(w, w, 1), a=add(**options)).draw())
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text") if text.get("font-size") == "13"]
    assert texts == [text for text in (on_skip, on_branch) if text]
    assert all(float(text.get("y")) > 10 for text in root.iter("{http://www.w3.org/2000/svg}text"))


def test_gates_are_written_with_the_value_that_they_read():
    block = Block("nr|CnrCa", WIDTH, C=lambda w: nn.Conv2d(w, w, 1), n="batch", a=add(gate="exclusive"))
    assert block.equation() == "x1 = r(n(x))\ny = (1 - g(x1))·x1 + g(x1)·C(r(n(C(x1))))"
    assert r"\left(1 - g\!\left(x_{1}\right)\right)" in block.equation(latex=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "open"}, "gate='open'; allowed: None, 'exclusive'"),
        ({"gate": "exclusive", "skip": 2.0}, "takes the place of the scalars"),
        ({"gate": "shortcut_only", "learn": True}, "takes the place of the scalars"),
        ({"dropout": 1.0}, "dropout is 1.0; allowed: 0 <= dropout < 1"),
    ],
)
def test_impossible_shortcuts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        add(**options)


@pytest.mark.parametrize(
    ("word", "needs"),
    [
        ("nFa", True),
        ("Fan", False),
        ("Fa", True),
        ("CnrCnar", False),
        ("Gnrad", True),
        ("nMha nAa nKa nMha n", False),
        ("F", False),
        ("nrCnrCc", True),
        ("Aan Mabn", False),
        ("Fad", True),
        ("Far", False),
        ("n[A,M]a", True),
        ("[nA,nM]an", False),
        ("[Cn,Cn,n]r", False),
        ("[A,M]", False),
        ("[An,Mn]", False),
        ("[An,Man]", False),
        ("[Aa,Mn]", True),
        ("[Aa,M]n", False),
        ("[F,s]", True),
        ("[F,ns]", False),
        ("F[F,d]", True),
    ],
)
def test_ends_in_merge(word, needs):
    assert ends_in_merge(word) is needs


@pytest.mark.parametrize(
    ("word", "count", "paths"),
    [
        ("nAa nMa", 2, ["nA", "nM"]),
        ("nMha nAa nKa nMha n", 4, ["nMh", "nA", "nK", "nMh"]),
        ("Mha Aa Mha", 3, ["Mh", "A", "Mh"]),
        ("n[A,M]a", 2, ["nA", "nM"]),
        ("[nA,nM]a", 2, ["nA", "nM"]),
        ("n[A,X,M]an", 3, ["nA", "nX", "nM"]),
        ("[Aa,M]n", 2, ["A", "M"]),
        ("CnrCnar", 1, ["CnrCn"]),
        ("nr|CnrCa", 1, ["CnrC"]),
        ("Fanan", 1, ["F"]),
        ("F[A,n]a", 2, ["FA", "Fn"]),
        ("[A,M]Fa", 1, ["AF", "MF"]),
        ("[F,s]", 1, ["F"]),
        ("nF", 1, []),
        ("F Fa", 2, ["F"]),
        ("[Cn,Cn,n]r", 2, []),
        ("n", 0, []),
    ],
)
def test_residual_branches_are_what_a_merge_adds(word, count, paths):
    assert residual_branches(word) == count
    assert ["".join(letter.symbol for letter in path) for path in residual_paths(word)] == paths


@pytest.mark.parametrize(
    ("word", "branches", "expected"),
    [
        ("nAa nMa", "AM", "nAda nMda"),
        ("n[A,M]a", "AM", "n[Ad,Md]a"),
        ("[nAs,nAs]a", "AM", "[nAds,nAds]a"),
        ("nMha", "AM", "nMdha"),
        ("Aan Mabn", "A", "Adan Mabn"),
        ("AdaMa", "AM", "AdaMda"),
        ("[AC,M]a", "CM", "[ACd,Md]a"),
        ("nFa", "AM", "nFa"),
    ],
)
def test_dropout_goes_behind_each_branch_once(word, branches, expected):
    assert with_dropout(word, branches) == expected
    assert with_dropout(expected, branches) == expected
    with pytest.raises(ValueError, match="'n' is no branch; the branches are F, C"):
        with_dropout(word, "An")
    with pytest.raises(WordError, match="bracket '\\['"):
        with_dropout("[A")


@pytest.mark.parametrize(
    ("word", "given", "says"),
    [
        ("Fqa", {}, r"letter 'q' at position 1 of 'Fqa' is unknown"),
        ("aF", {}, r"letter 'a' at position 0 of 'aF' merges before any branch"),
        ("nFa  nFa", {}, r"position 4 .* empty sub-block"),
        ("nFa ", {}, r"position 3 .* empty sub-block"),
        ("nFa na", {}, r"letter 'a' at position 5"),
        ("bF", {}, r"letter 'b' at position 0"),
        ("nF|Fa|F", {}, r"letter '\|' at position 5 .* no merge uses"),
        ("", {}, "at least one letter"),
        ("Fa", {"n": "layer", "F": linear}, "letter 'n' is set but does not occur"),
        ("Fa", {"q": linear, "F": linear}, "unknown letter 'q'"),
        ("nFa", {"F": linear}, r"letter 'n' at position 0 .* n=\"layer\""),
        ("nFa", {"n": "layer"}, "letter 'F' at position 1 .* has no setting"),
        ("Fanan", {"F": linear, "n": ["layer"] * 3}, "letter 'n' at position 2 .* occurs 2 times and got a list of 3"),
        ("Fan", {"F": linear, "n": "lyer"}, "letter 'n' at position 2 .* unknown normaliser 'lyer'; allowed: batch"),
        ("Fan", {"F": linear, "n": "group(groups=4)"}, r"groups=4 does not divide width=6; allowed: \[1, 2, 3, 6\]"),
        ("Fa", {"F": lambda w: nn.Linear(w, 2 * w)}, "letter 'a' at position 1 .* branch of width 12 to a skip of width 6"),
        ("Fa", {"F": linear(4)}, "letter 'F' at position 0 .* give a factory"),
        ("Fa", {"F": "mlp"}, "letter 'F' at position 0 .* no registered names"),
        ("Fa", {"F": linear, "a": "add(skp=2)"}, "letter 'a' at position 1"),
        ("Fa", {"F": linear, "a": "add(shortcut='projektion')"}, "unknown shortcut 'projektion'; allowed: identity, zero_pad"),
        ("Fha", {"F": linear, "h": 0.5}, "letter 'h' of 'Fha' takes no setting; leave it out"),
        ("Fpa", {"F": linear, "p": drop_path(1.0)}, "letter 'p' at position 1 .* drop path rate 1.0"),
        ("Fb", {"F": lambda w: nn.Linear(w, 9)}, "letter 'b' at position 1"),
        ("Fa", {"F": lambda w: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(w, w))}, "letter 'F' .* in place into the skip"),
        ("Fa", {"F": lambda w: nn.Sequential(nn.Dropout(), nn.ReLU(inplace=True))}, "letter 'F' .* in place into the skip"),
        ("drFa", {"F": linear, "d": dropout(0.1), "r": lambda w: nn.ReLU(inplace=True)}, "letter 'r' at position 1 .* in place"),
        ("F[rF,F]a", {"F": linear, "r": lambda w: nn.ReLU(inplace=True)}, "letter 'r' at position 2 .* in place .* parts beside"),
        ("n[F,M]a", {"F": linear, "M": lambda w: nn.Linear(w, 9), "n": "layer"}, r"bracket '\[' at position 1 .* widths 6, 9"),
        ("n[A,M", {}, r"bracket '\[' at position 1 of 'n\[A,M' is never closed; put '\]'"),
        ("A]a", {}, r"bracket '\]' at position 1 .* closes no bracket; put '\['"),
        ("A,Ma", {}, r"comma ',' at position 1 .* outside brackets; .* 'n\[A,M\]a'"),
        ("[A]a", {}, r"bracket '\[' at position 0 .* one part; put a second"),
        ("[]a", {}, r"bracket '\]' at position 1 .* follows an empty part"),
        ("[,A]a", {}, "comma ',' at position 1 .* follows an empty part"),
        ("[A,]a", {}, r"bracket '\]' at position 3 .* follows an empty part"),
        ("F[n,n]a", {}, r"bracket '\[' at position 1 .* has no branch; put a branch"),
        ("[A,[M,X]]a", {}, r"bracket '\[' at position 3 .* do not nest: .* '\[A,X,M\]'"),
        ("[A Ma,M]a", {}, "letter ' ' at position 2 .* inside the bracket of position 0"),
        ("[A|Ma,M]a", {}, r"letter '\|' at position 2 .* inside the bracket of position 0"),
        ("[A,a]a", {}, "letter 'a' at position 3 .* before any branch has run since"),
        ("[A,b]a", {}, "letter 'b' at position 3 .* before any branch"),
        ("n|[A,M]", {}, r"letter '\|' at position 1 .* no merge uses"),
    ],
)
def test_construction_errors_name_the_letter_and_the_repair(word, given, says):
    with pytest.raises(WordError, match=says):
        Block(word, WIDTH, **given)


def test_an_in_place_operation_after_a_branch_that_hands_its_input_on_is_refused():
    for idle in (nn.Identity(), nn.Sequential(), nn.Sequential(nn.Dropout(), nn.Identity())):
        with pytest.raises(WordError, match="in place into the skip"):
            Block("Fra", WIDTH, F=lambda width: idle, r=lambda width: nn.ReLU(inplace=True))  # noqa: B023


def test_an_in_place_operation_after_a_fresh_value_is_allowed():
    block = Block("Fra", WIDTH, F=linear, r=lambda width: nn.ReLU(inplace=True))
    x = torch.randn(3, WIDTH)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


def test_every_occurrence_has_its_own_parameters_and_its_own_name():
    block = build("Fanan")
    assert list(block.state_dict()) == ["0_F.weight", "0_F.bias", "2_n.weight", "2_n.bias", "4_n.weight", "4_n.bias"]
    assert block.get_parameter("2_n.weight") is not block.get_parameter("4_n.weight")


def test_names_in_brackets_are_positions_in_the_word():
    block = build("n[F,Fs]a")
    assert list(block.state_dict()) == ["0_n.weight", "0_n.bias", "2_F.weight", "2_F.bias", "4_F.weight", "4_F.bias", "5_s.gain"]


def test_ties_hold_within_a_sub_block_in_brackets_too():
    block = Block("[nF,nF]a nFan", WIDTH, F=linear, n=Tied("layer"))
    first, second, other, last = (block.get_submodule(name).weight for name in ("1_n", "4_n", "9_n", "12_n"))
    assert first is second and other is last and first is not other


def test_inputs_reach_every_branch_of_their_letter_in_brackets():
    class Plus(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x, more=0.0):
            return x + more

    block, x = Block("[A,M]a", WIDTH, A=Plus, M=Plus), torch.randn(2, WIDTH)
    torch.testing.assert_close(block(x, A={"more": 1.0}, M={"more": 2.0}), 3 * x + 3)


@pytest.mark.parametrize("word", ["nFa", "Fanan", "n[F,Fs]a", "[Fa,Fd]l", "nFpa nFab"])
def test_every_module_that_is_shown_is_called(word):
    block, x, called = build(word), torch.randn(3, WIDTH, requires_grad=True), []
    names = [name for name, _ in block.named_children()]
    assert all(f"({name})" in repr(block) for name in names)
    for kind in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        called.clear()
        handles = [getattr(block.get_submodule(name), kind)(lambda *given, name=name: called.append(name)) for name in names]
        block(x).sum().backward()
        assert sorted(called) == sorted(names), kind
        for handle in handles:
            handle.remove()
    called.clear()
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, made: called.append(module))
    block(x)
    handle.remove()
    assert [one for one in called if one in list(block.children())] == list(block.children())


def test_what_is_put_in_the_place_of_a_sum_runs_and_so_do_its_new_scalars():
    class Difference(nn.Module):
        def forward(self, h, x):
            return h - x

    block, x = build("Fa"), torch.randn(3, WIDTH)
    h = block.get_submodule("0_F")(x)
    block.get_submodule("1_a").gain = 3.0
    torch.testing.assert_close(block(x), x + 3 * h)
    block.add_module("1_a", Difference())
    torch.testing.assert_close(block(x), h - x)


def test_parts_are_the_modules_of_a_letter_in_the_order_of_the_word():
    block = build("nFha n[F,Fs]a")
    assert block.parts("F") == [block.get_submodule(name) for name in ("1_F", "7_F", "9_F")]
    assert block.parts("n") == [block.get_submodule(name) for name in ("0_n", "5_n")]
    assert block.parts("s") == [block.get_submodule("10_s")]
    with pytest.raises(ValueError, match=r"no letter 'M' in 'nFha n\[F,Fs\]a'; there are n, F, a, s$"):
        block.parts("M")
    for letter in ("q", "h", "[", "nF", ""):
        with pytest.raises(ValueError, match=f"'{letter.replace('[', '.')}' is no letter with a module; these are F C A"):
            block.parts(letter)


@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_tied_occurrences_share_parameters_but_not_running_statistics(kind):
    block = Block("Fanan", WIDTH, F=linear, n=Tied(kind))
    for copied in (block, copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        first, second = copied.get_submodule("2_n"), copied.get_submodule("4_n")
        assert first.weight is second.weight and first.bias is second.bias
        assert first is not second
        if kind == "batch":
            assert first.running_mean is not second.running_mean


def test_inputs_are_routed_to_their_letter():
    class Memory(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x, memory, scale=1.0):
            return x + scale * memory

    block = Block("Fa nXa", WIDTH, F=linear, X=Memory, n="layer")
    x, memory = torch.randn(2, WIDTH), torch.randn(2, WIDTH)
    assert not torch.equal(block(x, X=dict(memory=memory)), block(x, X=dict(memory=memory, scale=3.0)))
    with pytest.raises(ValueError, match="no branch 'M'.*F, X"):
        block(x, M=dict(memory=memory))
    with pytest.raises(TypeError, match=r"X got a Tensor; give its arguments by name, as X=dict\("):
        block(x, X=memory)


def test_width_flows_through_concatenation():
    block = Block("Fc nFc", 4, F=lambda width: nn.Linear(width, 3), n="layer", c=concat(dim=-1))
    assert block.out_width == 4 + 3 + 3
    assert block(torch.randn(2, 4)).shape == (2, 10)


@pytest.mark.parametrize(
    ("shortcut", "parameters"), [("zero_pad", 0), ("projection", 4 * 8), ("projection(norm='batch')", 4 * 8 + 16)]
)
def test_shortcuts_match_a_strided_wider_branch(shortcut, parameters):
    block = Block("Ca", 4, C=lambda w: nn.Conv2d(w, 8, 3, 2, 1, bias=False), a=add(shortcut=shortcut, stride=2))
    assert block(torch.randn(2, 4, 8, 8)).shape == (2, 8, 4, 4)
    assert sum(p.numel() for p in block.get_submodule("1_a").parameters()) == parameters
    if shortcut == "zero_pad":
        nn.init.zeros_(block.get_parameter("0_C.weight"))
        x = torch.randn(2, 4, 8, 8)
        assert torch.equal(block(x)[:, :4], x[:, :, ::2, ::2]) and not block(x)[:, 4:].any()


def test_drop_path_keeps_the_mean_and_is_the_identity_in_eval():
    block = Block("Fpa", 1, F=lambda width: nn.Identity(), p=drop_path(0.3))
    x = torch.ones(20_000, 1)
    torch.manual_seed(0)
    assert (block(x) - x).mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(block.eval()(x), 2 * x)


def test_learned_scalars_are_parameters():
    block = Block("Fa", WIDTH, F=linear, a=add(gain=0, learn=True))
    x = torch.randn(3, WIDTH)
    assert torch.equal(block(x), x)
    block(x).sum().backward()
    assert block.get_parameter("1_a.gain").grad.abs() > 0
    assert {
        name for name, _ in Block("Fa", WIDTH, F=linear, a=add(learn="both")).named_parameters() if "a" in name.split(".")[0]
    } == {"1_a.gain", "1_a.skip"}
    with pytest.raises(ValueError, match="learn='gian'; allowed"):
        add(learn="gian")


def test_lerp_and_concat_work_along_channels_of_images():
    x = torch.randn(2, 4, 5, 5)
    block = Block("Cl", 4, C=lambda w: nn.Conv2d(w, w, 1), l=lerp(alpha=0.25, dim=1))
    expected = x + 0.25 * (block.get_submodule("0_C")(x) - x)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("word", ["nFa", "Fanan", "Aan Mabn", "nFsa", "Anln Mnln", "nr|FnrFa", "nMha n", "n[A,M]a", "[nAs,Aa]n"])
def test_deepcopy_pickle_export_and_compile_agree(word):
    block = build(word)
    x = torch.randn(4, WIDTH)
    y = block(x)
    assert torch.equal(copy.deepcopy(block)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(block))(x), y)
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), y)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), y)


@pytest.mark.filterwarnings("ignore")  # the compiler's own deprecation warnings are not ours
def test_inductor_compiles_forward_and_backward_without_a_graph_break():
    block, x = build("nFa Fanan"), torch.randn(4, WIDTH)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True)
    block(x).square().sum().backward()
    compiled(x).square().sum().backward()
    for (name, ours), (_, theirs) in zip(block.named_parameters(), compiled.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="".join(LETTERS) + "[,]", min_size=1, max_size=9))
def test_random_words_build_run_and_backpropagate_or_are_refused_by_name(word):
    try:
        parse(word)
    except WordError as error:
        assert re.search(r"(letter|bracket|comma) '.' at position \d+ of", str(error)) or not word.strip()
        return
    try:
        block = build(word)
    except WordError as error:
        assert re.search(r"letter '[aclbn]' at position \d+ of", str(error)), error
        return
    x = torch.randn(4, WIDTH, requires_grad=True)
    y = block(x)
    assert y.shape == (4, block.out_width)
    y.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(p.grad is not None for p in block.parameters())
    assert equation(word, latex=True).count(r"\left") == equation(word, latex=True).count(r"\right")
    ElementTree.fromstring(draw(word))


PIECES = st.sampled_from(["F", "nF", "Fn", "rF", "a", "an", "l", "d", "p", "s", "h", "b", "n"])
PARTS = st.lists(st.lists(PIECES, min_size=1, max_size=3).map("".join), min_size=2, max_size=3).map(
    lambda parts: f"[{','.join(parts)}]"
)
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]
WORDS = st.lists(st.lists(PIECES | PARTS | st.just("|F"), min_size=1, max_size=5).map("".join), min_size=1, max_size=3).map(
    " ".join
)


def interpret(word, block, x):
    """What a word means, in the plainest way: recursion over the string."""

    def run(text, at, h, skip):
        while text:
            letter = text[0]
            if letter in " |":
                skip = h
            elif letter == "[":
                inside = text[1 : text.index("]")]
                total, start = None, at + 1
                for part in inside.split(","):
                    y = run(part, start, h, skip)
                    total, start = y if total is None else total + y, start + len(part) + 1
                h, text, at = total, text[len(inside) + 1 :], at + len(inside) + 1
            elif letter == "h":
                h = h / 2
            elif letter == "b":
                h = h + x
            else:
                module = block.get_submodule(f"{at}_{letter}")
                h = module(h, skip) if letter in "acl" else module(h)
            text, at = text[1:], at + 1
        return h

    return run(word, 0, x, x)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(WORDS)
def test_random_words_mean_what_a_plain_interpreter_says(word):
    try:
        block = build(word).eval()
    except WordError:
        return
    x = torch.randn(3, WIDTH)
    torch.testing.assert_close(block(x), interpret(word, block, x), rtol=0, atol=0, equal_nan=True)
    assert residual_branches(word) <= sum(letter.isupper() for letter in word)
    ElementTree.fromstring(draw(word))


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(WORDS)
def test_random_valid_words_compile_whole(word):
    try:
        block = build(word).eval()
    except WordError:
        return
    x = torch.randn(4, WIDTH)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="eager")(x), block(x))


def test_blocks_are_drawn_below_their_names():
    blocks = {"Pre & Post": Block("nFan", 4, F=lambda width: nn.Linear(width, width), n="layer")}
    shown = draw_blocks(blocks | {"other": Block("F", 4, F=lambda width: nn.Linear(width, width))})
    assert shown.count("<svg") == 2 and shown.index("Pre &amp; Post") < shown.index("<b>other</b>")
    assert f"<code>nFan</code> y = {blocks['Pre & Post'].equation()}<br>" in shown
