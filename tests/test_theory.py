"""The laws: theory against its closed forms, and against real networks measured by the probes."""

import math

import pytest
import torch

from resnorm import init, probes, theory
from resnorm.branches import attention, mlp
from resnorm.catalog import VARIANTS
from resnorm.init import unit_gain
from resnorm.letters import add, layer_scale, lerp
from resnorm.streams import Stack
from resnorm.words import Block

DEPTH, WIDTH, SEEDS = 24, 256, 5
LAWS = [
    ("Fa", {}, 2 ** (DEPTH / 2)),
    ("Fa", {"skip": 2.0}, 5 ** (DEPTH / 2)),
    ("nFa", {}, math.sqrt(1 + DEPTH)),
    ("Fna", {}, math.sqrt(1 + DEPTH)),
    ("nFna", {}, math.sqrt(1 + DEPTH)),
    ("nFa", {"gain": DEPTH**-0.5}, math.sqrt(2)),
    ("Fan", {}, 1.0),
    ("nFan", {}, 1.0),
    ("Fanan", {}, 1.0),
]


def stack(word, scalars, seed):
    torch.manual_seed(seed)
    letters = {"F": mlp(expansion=1, activation="relu", bias=False), "n": "layer", "a": add(**scalars)}
    built = Stack([Block(word, WIDTH, **{k: v for k, v in letters.items() if k in word}) for _ in range(DEPTH)])
    unit_gain(built)
    return built


def measured(word, scalars, seeds=SEEDS):
    """Mean over seeds of the forward RMS, the gradient ratio input / output, and the skip share over all blocks."""
    rows = []
    for seed in range(seeds):
        model = stack(word, scalars, seed)
        direction = torch.randn(64, WIDTH)
        rows.append(probes.measure(model, torch.randn(64, WIDTH), lambda y, d=direction: (y * d).sum()))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    return (
        mean([r[-1]["forward_rms"] for r in rows]),
        mean([r[0]["gradient_norm"] / r[-1]["gradient_norm"] for r in rows]),
        mean([b["skip_share"] for r in rows for b in r[1:]]),
    )


@pytest.mark.parametrize(("word", "scalars", "law"), LAWS)
def test_forward_law(word, scalars, law):
    assert theory.forward_rms(word, DEPTH, **scalars) == pytest.approx(law, rel=1e-9)
    rms, gradient, _ = measured(word, scalars)
    assert rms == pytest.approx(law, rel=0.05)
    # One direction of the gradient varies more from seed to seed than the RMS of a batch: about 10 % at 24 blocks.
    assert gradient == pytest.approx(theory.predict(word, DEPTH, **scalars)[0]["gradient"], rel=0.1)


BESIDE = [
    # word, scalars of the theory, the letters' settings that they stand for, blocks, growth of the stream
    ("n[F,F]a", {}, {}, 16, math.sqrt(1 + 2 * 16)),
    ("[nF,nF]a", {"gain": 0.5}, {"a": add(gain=0.5)}, 16, math.sqrt(1 + 0.5 * 16)),
    ("n[F,F,F]a", {}, {}, 8, math.sqrt(1 + 3 * 8)),
    ("[nFs,nFs]a", {"scale": 0.3}, {"s": layer_scale(0.3)}, 16, math.sqrt(1 + 2 * 0.09 * 16)),
    ("[F,F]an", {}, {}, 8, 1.0),
    ("[Fa,F]n", {"skip": 2.0}, {"a": add(skip=2.0)}, 8, 1.0),
    ("[FF,Fh]a", {}, {}, 3, 2.25**1.5),
    ("[Fn,nF,n]", {}, {}, 3, math.sqrt(3)),
    ("Fl", {}, {"l": lerp(learn=False)}, 12, (0.95**2 + 0.05**2) ** 6),
    ("Fnln", {"alpha": 0.3}, {"l": lerp(alpha=0.3, learn=False)}, 8, 1.0),
    ("nFa nFab", {}, {}, 4, None),
    ("[F,Fb]l", {"alpha": 0.4}, {"l": lerp(alpha=0.4, learn=False)}, 6, (1 + 2 * 0.4**2) ** 3),
]


PARALLEL = [one.spell() for one in VARIANTS.values() if "[" in one.spell()]


@pytest.mark.parametrize(("word", "scalars", "settings", "depth", "law"), BESIDE + [(word, {}, {}, 12, 5.0) for word in PARALLEL])
def test_laws_of_branches_side_by_side_and_of_every_letter(word, scalars, settings, depth, law):
    predicted = theory.predict(word, depth, **scalars)
    if law is not None:
        assert predicted[-1]["forward_rms"] == pytest.approx(law, rel=1e-9)
    letters = {letter: mlp(expansion=1, activation="relu", bias=False) for letter in "FAM"} | {"n": "layer"} | settings
    squares, gradients, seeds = 0.0, 0.0, 4
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = Stack([Block(word, 256, **{k: v for k, v in letters.items() if k in word}) for _ in range(depth)])
        unit_gain(model)
        x, direction = torch.randn(128, 256, requires_grad=True), torch.randn(128, 256)
        y = model(x)
        (gradient,) = torch.autograd.grad((y * direction).sum(), x)
        squares += (y.square().mean() / x.square().mean()).item() / seeds
        gradients += (gradient.square().mean() / direction.square().mean()).item() / seeds
    assert math.sqrt(squares) == pytest.approx(predicted[-1]["forward_rms"], rel=0.05)
    assert math.sqrt(gradients) == pytest.approx(predicted[0]["gradient"], rel=0.05)


@pytest.mark.parametrize(("order", "share"), [(1, 1.0), (2, 2.414), (3, 5.027), (4, 10.153)])
def test_the_angle_to_the_skip_halves_at_each_order(order, share):
    assert theory.skip_share(order) == pytest.approx(share, rel=1e-3)
    word = "F" + "an" * order
    assert theory.through_block(word)["skip_share"] == pytest.approx(share, rel=1e-3)
    assert first_block_share(word) == pytest.approx(share, rel=0.02)


def first_block_share(word, width=1024, samples=256):
    """The skip share of one block on a normalised input, in float64 so that the angle is exact."""
    shares = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        block = Block(word, width, F=mlp(expansion=1, activation="relu", bias=False), n="layer").double()
        unit_gain(block)
        x = torch.nn.functional.layer_norm(torch.randn(samples, width, dtype=torch.float64), (width,))
        shares.append(probes.skip_share(x, block(x).detach()))
    return sum(shares) / SEEDS


def test_post_norm_vanishes_only_where_the_branch_passes_little_back():
    assert theory.predict("Fan", DEPTH)[0]["gradient"] == pytest.approx(1.0)
    assert theory.predict("Fan", DEPTH, backward=0.0)[0]["gradient"] == pytest.approx(2 ** (-DEPTH / 2))


def test_skip_scalars_multiply():
    rows = theory.predict("Fa", 10, skip=0.5, backward=0.0)
    assert rows[0]["gradient"] == pytest.approx(0.5**10)


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.skip_share(0),
        lambda: theory.predict("Fa", -1),
        lambda: theory.through_block("Fra"),
        lambda: theory.through_block("Fc"),
        lambda: theory.through_block("[F,Fr]a"),
        lambda: theory.through_block("Fsa"),
    ],
)
def test_outside_the_algebra_is_refused(call):
    with pytest.raises(ValueError, match="order=0|depth=-1|letter '[rc]' at position [14]|letter 's' .* with scale"):
        call()


def last_gradient(word, depth, seed, width=64, count=64, classes=32):
    """The size of the gradient of the last MLP's output matrix, in the stack that Xiong et al. make their proofs for."""
    torch.manual_seed(seed)
    blocks = [Block(word, width, n="layer", A=attention(1), M=mlp(1)) for _ in range(depth)]
    stack, head = Stack(blocks, last="layer"), torch.nn.Linear(width, classes, bias=False)
    init.xavier(stack, query=0.0, key=0.0)
    torch.nn.init.xavier_normal_(head.weight)
    seen = []
    *_, last = stack.parts("M")
    last.output.register_forward_hook(lambda _, given, made: seen.extend((given[0], made)))
    logits = head(stack(torch.nn.functional.layer_norm(torch.randn(count, 1, width), (width,))))[:, 0]
    loss = torch.nn.functional.cross_entropy(logits, torch.randint(classes, (count,)), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, seen[1])
    return (seen[0].norm(dim=-1) * gradient.norm(dim=-1)).mean().item()  # one example at a time: |g h^T| = |g| |h|


@pytest.mark.parametrize(("word", "power"), [("Aan Man", 0.0), ("nAa nMa", -0.5)])
def test_the_gradient_of_the_last_layer_is_flat_in_post_norm_and_falls_in_pre_norm(word, power):
    """Theorem 1 of Xiong et al. (2020): the slope against the depth, in logarithms, of 2 to 64 layers."""
    depths, slopes = [2, 4, 8, 16, 32, 64], []
    x = torch.tensor(depths, dtype=torch.float64).log()
    for seed in range(3):
        y = torch.tensor([last_gradient(word, depth, seed) for depth in depths], dtype=torch.float64).log()
        slopes.append((((x - x.mean()) * y).sum() / (x - x.mean()).square().sum()).item())
    assert max(abs(slope - power) for slope in slopes) < 0.1, slopes


def test_the_turn_of_a_normalised_weight_is_that_of_its_recursion():
    for lr in (0.1, 1.0, 10.0):
        squared, turns = 4.0, []
        for _ in range(400):
            turns.append(lr * 3 / squared)
            squared += (lr * 3) ** 2 / squared
        for step in (1, 2, 10, 400):
            law = theory.normalised_turn(lr, step, length=2.0, gradient=3.0)
            assert law == pytest.approx(turns[step - 1], rel=1e-9 if step < 3 else 0.03)
    with pytest.raises(ValueError, match="step=0"):
        theory.normalised_turn(0.1, 0)
    with pytest.raises(ValueError, match="lr=-1"):
        theory.normalised_turn(-1, 3)


def test_tokens_become_alike_exponentially_or_as_a_power():
    post, pre = ([row["residual"] for row in theory.rank_residual(word, 32, 24)] for word in ("Aan", "nAa"))
    assert post[0] == pre[0] == pytest.approx(math.sqrt(31 / 32))
    assert (post[24] / post[23]) ** 2 == pytest.approx(0.5, abs=1e-5)
    # behind the bend 1 / r² grows by 1 / ρ² a layer
    assert pre[24] ** -2 - pre[23] ** -2 == pytest.approx(32 / 31, rel=0.1)
    with pytest.raises(ValueError, match="word='An'; allowed: Aan"):
        theory.rank_residual("An", 32, 4)
    with pytest.raises(ValueError, match="tokens=1; allowed: 2 or more"):
        theory.rank_residual("Aan", 1, 4)


def test_the_branch_share_of_every_word():
    assert theory.branch_shares("F", 3) == [1, 1, 1]
    assert theory.branch_shares("Fan", 3) == pytest.approx([1 / 2] * 3)
    assert theory.branch_shares("nFa", 3) == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    assert theory.branch_shares("Fa", 2, gain=0.5) == pytest.approx([1 / 5] * 2)


def test_the_arc_cosine_kernel_moves_every_pair_together():
    assert theory.arc_cosine(0) == pytest.approx(1 / math.pi)
    assert theory.arc_cosine(1) == pytest.approx(1) and theory.arc_cosine(-1) == pytest.approx(0)
    # rounding may put a cosine of two equal vectors beyond 1
    assert theory.arc_cosine(1 + 1e-12) == pytest.approx(1)
    plain = theory.cosines([1, 1])
    assert plain == pytest.approx([0, 1 / math.pi, theory.arc_cosine(1 / math.pi)])
    assert theory.cosines([0.5], slope=0.8) == pytest.approx([0, 0.5 * (0.8 / math.pi + 0.2)])


def test_a_gradient_passes_as_many_branches_as_shuffled_cards_have_cycles():
    assert theory.path_lengths("Fa", 3) == pytest.approx([1 / 8, 3 / 8, 3 / 8, 1 / 8])
    # of the 24 orders of four cards 6, 11, 6 and 1 have one to four cycles
    assert theory.path_lengths("nFa", 3) == pytest.approx([6 / 24, 11 / 24, 6 / 24, 1 / 24])


def test_relu_keeps_and_returns_half_and_gelu_returns_more_than_it_keeps():
    assert theory.activation_gains(torch.relu, 1.7) == pytest.approx((1.7**2 / 2, 1.7**2 / 2), rel=1e-6)
    assert theory.activation_gains(lambda h: 3 * h, 2.0) == pytest.approx((36, 36), rel=1e-6)
    forward, backward = theory.activation_gains(torch.nn.functional.gelu, math.sqrt(2 / 5))
    assert 1.06 < backward / forward < 1.08
    with pytest.raises(ValueError, match="scale=0; allowed: above 0"):
        theory.activation_gains(torch.relu, 0)


def test_one_more_step_of_a_recursive_skip_weighs_the_stream_by_the_gain_between():
    share = 1.0
    for order in (2, 3, 4):
        share = theory.next_skip_share(share, 1.0)
        assert share == pytest.approx(theory.skip_share(order))
    assert theory.next_skip_share(2.0, 0.0) == 2.0
    # the block itself, of order 2 and with the gain 1/4 between its steps
    block = Block("Fanan", 512, F=mlp(1, bias=False), n="layer")
    unit_gain(block)
    torch.nn.init.constant_(block.parts("n")[0].weight, 0.25)
    x = torch.nn.functional.layer_norm(torch.randn(64, 512), (512,))
    assert probes.skip_share(x, block(x)) == pytest.approx(theory.next_skip_share(1.0, 4.0), rel=0.05)
    with pytest.raises(ValueError, match="weight=-1"):
        theory.next_skip_share(1.0, -1)


def test_the_first_loss_is_linear_below_the_border_and_stays_under_its_bound_beyond():
    torch.manual_seed(0)
    drawn = {square: torch.logsumexp(square**0.5 * torch.randn(4000, 1000), dim=1).mean().item() for square in (1, 9, 49)}
    for square in (1, 9):
        assert theory.first_loss(square, 1000)["loss"] == pytest.approx(drawn[square], rel=0.05)
    law = theory.first_loss(49, 1000)
    assert 0.8 * law["bound"] < drawn[49] < law["bound"] == law["loss"] < 0.85 * law["linear"]
    with pytest.raises(ValueError, match="square=-1"):
        theory.first_loss(-1, 1000)


@pytest.mark.parametrize("word", ["Cnra", "Crna"])
def test_the_order_behind_a_convolution(word):
    torch.manual_seed(0)

    def convolve(width):
        return torch.nn.Conv2d(width, width, 3, 1, 1, padding_mode="circular", bias=False)

    stack = Stack([Block(word, 32, C=convolve, n="batch") for _ in range(8)])
    for convolution in stack.parts("C"):
        torch.nn.init.kaiming_normal_(convolution.weight)
    rows, law = probes.propagation(stack, torch.randn(8, 32, 12, 12)), theory.predict_convolutions(word, 8)
    for name in ("forward_rms", "gradient"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in law], rel=0.1), name
    with pytest.raises(ValueError, match="allowed: Cnra, Crna"):
        theory.predict_convolutions("nCa", 8)
