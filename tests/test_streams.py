"""Streams: the four verbs, each stream against its equation written out, and against the plain residual at the start."""

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm, rms_norm

from resnorm.branches import mlp
from resnorm.letters import concat
from resnorm.streams import Attend, Dense, Depth, Dual, Hyper, Jump, Plain, Stack, Stream, Sum, sinkhorn
from resnorm.words import Block


def linear(width):
    return nn.Linear(width, 3)


def square(width):
    return nn.Linear(width, width)


def test_a_stream_takes_the_sum_of_branches_side_by_side():
    torch.manual_seed(0)
    branches = dict(n="layer", F=mlp())
    summed = Stack([Block("[nF,nF]", 8, **branches) for _ in range(3)], Sum())
    plain = Stack([Block("[nF,nF]a", 8, **branches) for _ in range(3)])
    plain.load_state_dict(summed.state_dict())
    x = torch.randn(4, 8)
    torch.testing.assert_close(summed(x), plain(x))


def test_a_sum_stream_of_branches_is_a_plain_stream_of_residual_words():
    branches = Stack([Block("nF", 6, n="layer", F=square) for _ in range(4)], Sum(), last="layer")
    words = Stack([Block("nFa", 6, n="layer", F=square) for _ in range(4)], last="layer")
    words.load_state_dict(branches.state_dict())
    x = torch.randn(5, 6)
    torch.testing.assert_close(branches(x), words(x))


def test_a_dense_stream_is_a_plain_stream_of_concatenating_words():
    branches = Stack([Block("nF", 6 + 3 * i, n="layer", F=linear) for i in range(4)], Dense(dim=-1), last="layer")
    words = Stack([Block("nFc", 6 + 3 * i, n="layer", F=linear, c=concat(dim=-1)) for i in range(4)], last="layer")
    assert branches.out_width == words.out_width == 18
    words.load_state_dict(branches.state_dict())
    x = torch.randn(5, 6)
    torch.testing.assert_close(branches(x), words(x))


def test_a_skip_after_the_norm_is_post_norm_on_a_normalised_input():
    torch.manual_seed(0)
    skip_after_norm = Stack([Block("n|Fa", 16, n="layer", F=mlp()) for _ in range(4)], last="layer")
    post = Stack([Block("Fan", 16, n="layer", F=mlp()) for _ in range(4)], last="layer")
    assert post.last is None
    norms = [*skip_after_norm.parts("n"), skip_after_norm.last]
    with torch.no_grad():
        for norm in norms:  # norms start at gain 1 and bias 0, where taking the wrong one would not show
            norm.weight.add_(torch.randn(16), alpha=0.3)
            norm.bias.add_(torch.randn(16), alpha=0.3)
    for letter, modules in (("F", skip_after_norm.parts("F")), ("n", norms[1:])):
        for ours, other in zip(post.parts(letter), modules, strict=True):
            ours.load_state_dict(other.state_dict())
    x = torch.randn(5, 3, 16)
    assert torch.equal(skip_after_norm(x), post(norms[0](x)))
    assert not torch.allclose(skip_after_norm(x), post(x), atol=1e-3)


@pytest.mark.parametrize(("word", "needs"), [("nFa", True), ("Fan", False), ("nFna", True), ("nFan", False)])
def test_the_last_norm_follows_from_the_word(word, needs):
    stack = Stack([Block(word, 6, n="layer", F=square)], last="layer")
    assert (stack.last is not None) is needs
    assert Stack([Block(word, 6, n="layer", F=square)]).last is None


def test_extra_inputs_reach_every_block():
    class Shift(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x, by=0.0):
            return torch.full_like(x, by)

    stack = Stack([Block("Fa", 2, F=Shift) for _ in range(3)])
    assert torch.equal(stack(torch.zeros(1, 2), F=dict(by=2.0)), torch.full((1, 2), 6.0))


def test_an_input_reaches_the_blocks_that_have_its_letter_and_no_letter_is_lost():
    class Shift(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x, by=0.0):
            return torch.full_like(x, by)

    stack = Stack([Block("A", 2, A=Shift), Block("M", 2, M=Shift), Block("A", 2, A=Shift)], Sum())
    assert torch.equal(stack(torch.zeros(1, 2), A=dict(by=2.0)), torch.full((1, 2), 4.0))
    with pytest.raises(ValueError, match="has no branch 'X' to take an input"):
        stack(torch.zeros(1, 2), X=dict(by=2.0))


def test_what_the_branches_share_in_a_pass_is_made_anew_for_every_pass():
    class Count(nn.Module):
        def __init__(self, width):
            super().__init__()

        def forward(self, x, seen):
            seen.append(len(seen))
            return torch.full_like(x, float(seen[-1]))

    stack = Stack([Block("F", 2, F=Count) for _ in range(3)], Sum(), each_pass={"F": {"seen": list}})
    for _ in range(2):
        assert torch.equal(stack(torch.zeros(1, 2)), torch.full((1, 2), 3.0))  # 0 + 1 + 2
    assert torch.equal(stack(torch.zeros(1, 2), F=dict(seen=[7])), torch.full((1, 2), 6.0)), "the caller's comes first"


def test_a_stream_may_learn_and_may_hold_any_state():
    class Average(Stream):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5))

        def open(self, x):
            return [x]

        def read(self, S, i):
            return self.weight * torch.stack(S).mean(0)

        def write(self, S, h, i):
            return [*S, h]

        def close(self, S):
            return S[-1]

    stack = Stack([square(4) for _ in range(2)], Average(), width=4)
    stack(torch.randn(2, 4)).sum().backward()
    assert stack.stream.weight.grad is not None


def stack(stream, word="nF", count=5, width=6):
    """A stack whose learned parts are away from their start, and its blocks."""
    torch.manual_seed(0)
    settings = dict(n="layer") if "n" in word else {}
    made = Stack([Block(word, width, F=square, **settings) for _ in range(count)], stream).double()
    return made, made.blocks


def moved(module):
    """Move every parameter away from where it starts."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def norm(x):
    return layer_norm(x, x.shape[-1:])


TOKENS = torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", ["static", "dynamic", "manifold"])
@pytest.mark.parametrize("rows", [2, 4])
def test_hyper_connections_start_as_the_residual_stream(form, rows):
    hyper, _ = stack(Hyper(6, 5, rows, form))
    plain, _ = stack(Sum())
    torch.testing.assert_close(hyper(TOKENS), plain(TOKENS), rtol=1e-6, atol=1e-6)


def test_denseformer_starts_as_the_plain_stack_exactly():
    depth, _ = stack(Depth(5), "nFa")
    plain, _ = stack(Plain(), "nFa")
    assert torch.equal(depth(TOKENS), plain(TOKENS))


def test_attention_residuals_start_as_the_mean_which_a_norm_does_not_tell_from_the_sum():
    attend, _ = stack(Attend(6, 5))
    plain, _ = stack(Sum())
    # The norm of a branch divides by a root that holds eps, beside which a mean is smaller than a sum.
    torch.testing.assert_close(6 * attend(TOKENS), plain(TOKENS), rtol=0, atol=1e-3)


def test_the_normalised_part_of_the_dual_stream_is_post_norm():
    dual, _ = stack(Dual(6, 5), "F")
    post, _ = stack(Plain(), "Fan")
    torch.manual_seed(0)
    for ours, theirs in zip(dual.blocks, post.blocks, strict=True):
        theirs.get_submodule("0_F").load_state_dict(ours.get_submodule("0_F").state_dict())
    total = TOKENS + sum(h for _, h in walk(dual))
    torch.testing.assert_close(dual(TOKENS) - norm(total), post(TOKENS))


def walk(made):
    """Yield (what the block read, what it returned), block by block."""
    S = made.stream.open(TOKENS)
    for i, block in enumerate(made.blocks):
        x = made.stream.read(S, i)
        h = block(x)
        yield x, h
        S = made.stream.write(S, h, i)


def test_the_dual_stream_is_its_equation():
    made, blocks = stack(moved(Dual(6, 5)), "F")
    n = d = TOKENS
    for block, own in zip(blocks, made.stream.norms, strict=True):
        h = block(n)
        n, d = own(n + h), d + h
    torch.testing.assert_close(made(TOKENS), n + made.stream.last(d))


def test_denseformer_is_its_equation():
    made, blocks = stack(moved(Depth(5)), "nFa")
    values, x = [TOKENS], TOKENS
    for block, weights in zip(blocks, made.stream.weights, strict=True):
        values.append(block(x))
        x = torch.einsum("j,jbtf->btf", weights, torch.stack(values))
    torch.testing.assert_close(made(TOKENS), x)


@pytest.mark.parametrize("group", [1, 2, 3])
def test_attention_residuals_are_their_equation(group):
    made, blocks = stack(moved(Attend(6, 5, group)))
    outputs = [TOKENS]

    def reading(query):
        # the input by itself, then the outputs in groups, the last of them not yet full
        values = [TOKENS, *(sum(outputs[i : i + group]) for i in range(1, len(outputs), group))]
        scores = torch.stack([(rms_norm(value, (6,), eps=1e-6) * query).sum(-1) for value in values])
        return sum(share.unsqueeze(-1) * value for share, value in zip(scores.softmax(0), values, strict=True))

    for block, query in zip(blocks, made.stream.queries[:-1], strict=True):
        outputs.append(block(reading(query)))
    torch.testing.assert_close(made(TOKENS), reading(made.stream.queries[-1]))


@pytest.mark.parametrize("dynamic", [False, True])
def test_hyper_connections_are_the_matrices_of_the_paper(dynamic):
    """The network's matrix [[0, B], [A_m, A_r]], with rows added up at the end. zhu2025hyper."""
    made, blocks = stack(moved(Hyper(6, 5, 3, "dynamic" if dynamic else "static")))
    out = torch.empty_like(TOKENS)
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        H = TOKENS[tuple(place)].expand(3, 6)
        for block, own in zip(blocks, made.stream.connections, strict=True):
            A_m, B, A_r = own.read.view(3, 1), own.write.view(1, 3), own.mix
            if dynamic:
                N = own.norm(H)
                A_m = A_m + own.scale_in * (N @ own.to_read.view(6, 1)).tanh()
                A_r = A_r + own.scale_in * (N @ own.to_mix).tanh()
                B = B + own.scale_out * (N @ own.to_write.view(6, 1)).tanh().T
            H = B.T @ block(A_m.T @ H) + A_r.T @ H
        out[tuple(place)] = H.sum(0) / 3
    torch.testing.assert_close(made(TOKENS), out)


def test_manifold_hyper_connections_are_their_equation():
    made, blocks = stack(moved(Hyper(6, 5, 3, "manifold")))
    H = TOKENS.unsqueeze(-2).expand(2, 3, 3, 6)
    for block, own in zip(blocks, made.stream.connections, strict=True):
        N = rms_norm(H.reshape(2, 3, 18), (18,), eps=1e-6)
        scales = own.scales
        read = torch.sigmoid(scales[0] * N @ own.to_read + own.read)
        write = 2 * torch.sigmoid(scales[1] * N @ own.to_write + own.write)
        mix = (scales[2] * (N @ own.to_mix).view(2, 3, 3, 3) + own.mix).exp()
        for _ in range(20):
            mix = mix / mix.sum(-2, keepdim=True)
            mix = mix / mix.sum(-1, keepdim=True)
        h = block(torch.einsum("btk,btkf->btf", read, H))
        H = torch.einsum("btjk,btkf->btjf", mix, H) + torch.einsum("btj,btf->btjf", write, h)
    torch.testing.assert_close(made(TOKENS), H.mean(-2))


@pytest.mark.parametrize("form", ["static", "dynamic", "manifold"])
def test_the_rows_of_hyper_connections_come_apart(form):
    """Rows that are equal in every gradient would be one row; training must tell them apart."""
    torch.manual_seed(0)
    stream = Hyper(6, 5, 4, form)
    made = Stack([Block("nF", 6, n="layer", F=square) for _ in range(5)], stream)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (made(TOKENS.float()) - 1).square().mean().backward()
        optimizer.step()
    S = stream.open(TOKENS.float())
    for i, block in enumerate(made.blocks):
        S = stream.write(S, block(stream.read(S, i)), i)
    rows = S[0]
    assert min((rows[..., j, :] - rows[..., k, :]).norm() for j in range(4) for k in range(j)) > 1e-3


def test_sinkhorn_is_doubly_stochastic_and_so_is_a_product():
    torch.manual_seed(0)
    matrices = sinkhorn(2 * torch.randn(30, 4, 4, dtype=torch.float64), 50)
    assert (matrices > 0).all()
    product = torch.linalg.multi_dot(tuple(matrices))
    for matrix in (*matrices, product):
        torch.testing.assert_close(matrix.sum(0), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-3)
        torch.testing.assert_close(matrix.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(sinkhorn(torch.full((3, 3), 1000.0)), torch.full((3, 3), 1 / 3))
    with pytest.raises(ValueError, match="iterations=0"):
        sinkhorn(torch.zeros(2, 2), 0)


def test_jump_reads_every_block():
    made, _ = stack(Jump(), "nFa")
    values = [h for _, h in walk(made)]
    assert made.out_width == 30
    assert torch.equal(made(TOKENS), torch.cat(values, -1))
    images = Stack([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1)], Jump(dim=1), width=8)
    assert images(torch.randn(2, 3, 4, 4)).shape == (2, 8, 4, 4)
    made, _ = stack(Jump("max"), "nFa")
    assert made.out_width == 6
    assert torch.equal(made(TOKENS), torch.stack(values).amax(0))


def test_jump_with_an_lstm_weights_the_blocks_position_by_position():
    made, _ = stack(Jump("lstm", 6), "nFa")
    values = torch.stack([h for _, h in walk(made)], -2)
    out = torch.empty_like(TOKENS)
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        own = values[tuple(place)]
        hidden, _ = made.stream.lstm(own)
        out[tuple(place)] = made.stream.score(hidden).softmax(0).T @ own
    torch.testing.assert_close(made(TOKENS), out)


@pytest.mark.parametrize(
    "stream",
    [Dual(6, 5), Depth(5), Attend(6, 5, 2), *(Hyper(6, 5, 4, form) for form in ("static", "dynamic", "manifold")), Jump("lstm", 6)],
    ids=lambda stream: type(stream).__name__,
)
def test_every_learned_part_of_a_stream_gets_a_gradient(stream):
    made, _ = stack(moved(stream), "F" if isinstance(stream, Dual) else "nFa" if isinstance(stream, (Depth, Jump)) else "nF")
    (made(TOKENS) - 1).square().sum().backward()
    for name, parameter in made.stream.named_parameters():
        if name != "queries":
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    if isinstance(stream, Attend):
        # the first block has one value to read, whatever its query
        assert (made.stream.queries.grad[1:].abs().sum(-1) > 0).all() and not made.stream.queries.grad[0].any()


def test_stream_errors():
    with pytest.raises(ValueError, match="built for 4 blocks, and the stack has 5"):
        stack(Depth(4), "nFa")
    for make, message in (
        (lambda: Depth(0), "Depth: count=0"),
        (lambda: Dual(6, True), "Dual: count=True"),
        (lambda: Attend(6, 5, 0), "Attend: group=0"),
        (lambda: Hyper(6, 5, 1), "Hyper: rows=1"),
        (lambda: Hyper(6, 5, form="loose"), "form='loose'; allowed"),
        (lambda: Jump("mean"), "mode='mean'; allowed"),
        (lambda: Jump("lstm"), "give width"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_errors():
    with pytest.raises(ValueError, match="at least one block"):
        Stack([])
    with pytest.raises(ValueError, match="do not tell their width"):
        Stack([nn.ReLU()], Sum(), last="layer")
    with pytest.raises(NotImplementedError):
        Stack([nn.ReLU()], Stream())(torch.zeros(1))
    assert Plain().close(3) == 3


def test_the_parts_of_a_stack_are_those_of_its_blocks_and_inputs_go_into_brackets():
    linear = lambda width: nn.Linear(width, width)  # noqa: E731
    branch = lambda letter: Block(f"n{letter}", 8, n="layer", **{letter: linear})  # noqa: E731
    stack = Stack([branch("A"), nn.Identity(), Stack([branch("M"), branch("A")])], Sum())
    assert stack.parts("A") == [stack.blocks[0].get_submodule("1_A"), stack.blocks[2].blocks[1].get_submodule("1_A")]
    assert len(stack.parts("n")) == 3
    with pytest.raises(ValueError, match="no letter 'X' in 'nA'; there are n, A"):
        stack.parts("X")
    with pytest.raises(ValueError, match="no block of this stack is a Block"):
        Stack([nn.Identity()]).parts("n")

    class Plus(nn.Linear):
        def forward(self, x, more=0.0):
            return super().forward(x) + more

    plus = lambda width: Plus(width, width)  # noqa: E731
    beside = Stack([Block("n[A,M]a", 8, n="layer", A=plus, M=plus), Block("nMa", 8, n="layer", M=plus)], last="layer")
    assert beside.last is not None and Stack([Block("[A,M]an", 8, n="layer", A=plus, M=plus)], last="layer").last is None
    x = torch.randn(3, 8)
    assert not torch.equal(beside(x, A={"more": 1.0}), beside(x))
    with pytest.raises(ValueError, match="no branch 'X'"):
        beside(x, X={})


def test_blocks_that_are_compiled_one_by_one_are_blocks_of_the_stack():
    class Plus(nn.Linear):
        def forward(self, x, more=0.0):
            return super().forward(x) + more

    blocks = [Block(f"n{letter}a", 8, n="layer", **{letter: lambda width: Plus(width, width)}) for letter in "AM"]
    plain, compiled = Stack(blocks, last="layer"), Stack([torch.compile(block, backend="eager") for block in blocks], last="layer")
    x = torch.randn(3, 8)
    with torch.no_grad():
        assert torch.equal(plain(x, A={"more": 1.0}), compiled(x, A={"more": 1.0}))
    assert plain.parts("n") == compiled.parts("n")
