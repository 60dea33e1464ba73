"""The branches against torch's own layers, forward and gradients, and what their roles promise."""

import copy
import importlib
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from resnorm.branches import Blur, Cache, Damped, FirstValues, attention, conv, conv1x1, conv3x3, cross_attention, linear, mlp
from resnorm.branches.attention import rotate

torch.manual_seed(0)
FACTORIES = {
    "conv": conv3x3(6, bias=True),
    "conv norm": conv3x3(6, weight="norm"),
    "conv standard": conv1x1(6, weight="standard"),
    "attention": attention(2),
    "cross_attention": cross_attention(2, memory_width=5),
    "attention with norms": attention(2, query_key_norm="rms", value_norm="rms", inner_norm="layer", head_scale=True),
    "attention with a value residual": attention(2, value_residual=True),
    "attention in groups": attention(4, key_value_heads=2, head_width=2, rotary=True, bias="qkv"),
    "mlp": mlp(2),
    "mlp with a norm": mlp(2, inner_norm="layer"),
    "swiglu": mlp(2, "swiglu"),
    "linear": linear(6),
}
PAST = torch.ones(5, 5, dtype=torch.bool).tril()


def arguments(name, width=4):
    if name.startswith("conv"):
        return (torch.randn(2, width, 5, 7),)
    return (torch.randn(2, 5, width), torch.randn(2, 3, 5)) if name == "cross_attention" else (torch.randn(2, 5, width),)


def same_with_gradients(ours, theirs, parameters, *inputs):
    """Outputs and every gradient agree; `parameters` pairs ours with theirs."""
    inputs = [x.requires_grad_() for x in inputs]
    a, b = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    direction = torch.randn_like(a)
    grads_a = torch.autograd.grad(a, [*inputs, *(p for p, _ in parameters)], direction)
    grads_b = torch.autograd.grad(b, [*inputs, *(q for _, q in parameters)], direction)
    for ga, gb in zip(grads_a, grads_b, strict=True):
        torch.testing.assert_close(ga, gb.reshape(ga.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_branch_tells_its_width_and_survives_pickle_and_deepcopy(name):
    branch, inputs = FACTORIES[name](4), arguments(name)
    out = branch(*inputs)
    assert out.shape[1 if name.startswith("conv") else -1] == branch.out_width
    for copied in (copy.deepcopy(branch), pickle.loads(pickle.dumps(branch))):
        assert torch.equal(copied(*inputs), out)


@pytest.mark.parametrize("name", FACTORIES)
def test_roles_are_views_that_cover_every_parameter(name):
    branch = FACTORIES[name](4)
    with torch.no_grad():
        for _, tensor in branch.roles():
            tensor.fill_(7.0)
    untouched = {key for key, parameter in branch.named_parameters() if not (parameter == 7).all()}
    gains = {key for key in untouched if "norm" in key or key in ("head_scale", "value_mix")}  # whatever the rule
    assert bool(gains) == ("with" in name)
    assert untouched - gains == ({"gain"} if name == "conv norm" else set())


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 2), (3, 2, 1), (7, 2, 4)])
def test_a_convolution_keeps_the_size_up_to_its_stride(kernel, stride, groups):
    ours = conv(8, kernel, stride, groups)(4)
    assert ours(torch.randn(2, 4, 9, 6)).shape == (2, 8, -(-9 // stride), -(-6 // stride))
    assert ours.bias is None and ours.weight.shape == (8, 4 // groups, kernel, kernel)


def test_weight_norm_equals_torch():
    ours = conv3x3(6, weight="norm")(4)
    theirs = parametrizations.weight_norm(nn.Conv2d(4, 6, 3, padding=1, bias=False))
    with torch.no_grad():
        ours.gain.uniform_(0.5, 2)
        theirs.parametrizations.weight.original0.copy_(ours.gain.view(6, 1, 1, 1))
        theirs.parametrizations.weight.original1.copy_(ours.weight)
    pairs = [(ours.gain, theirs.parametrizations.weight.original0), (ours.weight, theirs.parametrizations.weight.original1)]
    same_with_gradients(ours, theirs, pairs, torch.randn(2, 4, 5, 5))


def test_weight_norm_starts_as_the_plain_convolution():
    ours = conv3x3(6, weight="norm")(4)
    torch.testing.assert_close(ours.filters(), ours.weight)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_a_standardised_filter_has_mean_0_and_variance_1_at_any_scale(scale):
    ours = conv3x3(6, weight="standard")(64)
    with torch.no_grad():
        ours.weight.mul_(scale).add_(scale)
    filters = ours.filters().flatten(1)
    torch.testing.assert_close(filters.mean(1), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(filters.var(1, correction=0), torch.ones(6), atol=1e-3, rtol=0)


def test_filters_are_standardised_as_in_timm_with_the_same_eps():
    timm = pytest.importorskip("timm")
    ours, theirs = conv3x3(6, weight="standard(eps=1e-3)")(4), timm.layers.StdConv2d(4, 6, 3, eps=1e-3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x))
    assert "weight='standard(eps=0.001)'" in repr(ours) and "eps" not in repr(conv3x3(6, weight="standard")(4))


@pytest.mark.parametrize("size", [8, 9])
def test_blur_is_timms(size):
    timm = pytest.importorskip("timm")
    ours, theirs = Blur(4), timm.layers.BlurPool2d(4)
    x = torch.randn(2, 4, size, size, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x))
    ours_gradient, its_gradient = (torch.autograd.grad(blur(x).square().sum(), x)[0] for blur in (ours, theirs))
    torch.testing.assert_close(ours_gradient, its_gradient)
    assert not ours.state_dict() and ours.double()(x.double()).dtype == torch.float64


def torch_attention(ours, width, memory_width=None):
    """An nn.MultiheadAttention with the weights of ours, and the pairs of parameters."""
    theirs = nn.MultiheadAttention(width, ours.heads, batch_first=True, kdim=memory_width, vdim=memory_width)
    pairs = [(ours.output.weight, theirs.out_proj.weight), (ours.output.bias, theirs.out_proj.bias)]
    with torch.no_grad():
        for mine, its in pairs:
            its.copy_(mine)
        if memory_width is None:
            pairs += [(ours.query_key_value.weight, theirs.in_proj_weight), (ours.query_key_value.bias, theirs.in_proj_bias)]
            for mine, its in pairs[2:]:
                its.copy_(mine)
        else:
            for role, tensor in ours.roles():
                if role in ("query", "key", "value"):
                    getattr(theirs, f"{role[0]}_proj_weight").copy_(tensor)
            theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
            pairs.append((ours.query.weight, theirs.q_proj_weight))
    return theirs, pairs


@pytest.mark.parametrize("mask", [None, PAST, torch.randn(5, 5), torch.rand(2, 1, 1, 5) < 0.7])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_equals_torch(mask, causal):
    if mask is not None and mask.dim() == 4:
        mask[..., 0] = True  # a token that may attend to nothing has no defined output
    ours = attention(2, causal=causal)(8)
    theirs, pairs = torch_attention(ours, 8)
    padding = mask[:, 0, 0] if mask is not None and mask.dim() == 4 else None
    square = mask if mask is not None and mask.dim() == 2 else None
    if causal:
        square = (
            PAST if square is None else (square & PAST if square.dtype == torch.bool else square.masked_fill(~PAST, -torch.inf))
        )
    if square is not None and square.dtype == torch.bool:
        square = ~square  # nn.MultiheadAttention says True = may NOT attend
    if padding is not None:
        padding = ~padding

    def reference(x):
        return theirs(x, x, x, attn_mask=square, key_padding_mask=padding, need_weights=False)[0]

    same_with_gradients(lambda x: ours(x, mask), reference, pairs, torch.randn(2, 5, 8))


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, True, False]] * 5), torch.randn(5, 3)])
def test_cross_attention_equals_torch(mask):
    ours = cross_attention(2, memory_width=6)(8)
    theirs, pairs = torch_attention(ours, 8, 6)
    square = ~mask if mask is not None and mask.dtype == torch.bool else mask
    reference = lambda x, z: theirs(x, z, z, attn_mask=square, need_weights=False)[0]  # noqa: E731
    same_with_gradients(lambda x, z: ours(x, z, mask), reference, pairs, torch.randn(2, 5, 8), torch.randn(2, 3, 6))


@pytest.mark.parametrize("kernel", [1, 3])
def test_scaled_standardised_filters_keep_the_variance_of_what_came_before_relu(kernel):
    torch.manual_seed(0)
    branch = conv(256, kernel=kernel, weight="scaled_standard")(64)
    x = torch.randn(4, 64, 20, 20) * torch.tensor([1.0, 3.0]).repeat(32).view(-1, 1, 1)
    y = branch(x.relu())[:, :, 1:-1, 1:-1]
    # over the channels: each filter has its own mean, which is what the norm would have taken out
    assert (y.var() / x.var()).item() == pytest.approx(1, rel=0.15)
    standard = conv(256, kernel=kernel, weight="standard")(64)
    standard.load_state_dict(branch.state_dict())
    ratio = branch.filters() / standard.filters()
    torch.testing.assert_close(ratio, torch.full_like(ratio, (2 / (1 - 1 / torch.pi) / 64 / kernel**2) ** 0.5))


def test_causal_attention_does_not_see_later_tokens():
    branch, x = attention(2, causal=True)(8), torch.randn(1, 5, 8)
    changed = x.clone()
    changed[:, 3] += 1
    assert torch.equal(branch(x)[:, :3], branch(changed)[:, :3])
    assert not torch.allclose(branch(x)[:, 3:], branch(changed)[:, 3:])


def test_cross_attention_without_a_memory_says_how_to_give_one():
    with pytest.raises(ValueError, match=r"needs a memory .* block\(x, X=dict\(memory=z\)\)"):
        cross_attention(2)(8)(torch.randn(1, 5, 8))


def test_attention_drops_only_in_training():
    branch, x = attention(2, dropout=0.5)(8), torch.randn(1, 5, 8)
    assert not torch.equal(branch(x), branch(x))
    branch.eval()
    assert torch.equal(branch(x), branch(x))


@pytest.mark.parametrize(("activation", "phi"), [("relu", F.relu), ("gelu", F.gelu), ("gelu_tanh", nn.GELU(approximate="tanh"))])
def test_mlp_is_two_matrices_around_an_activation(activation, phi):
    branch, x = mlp(1.5, activation, out=3)(4), 3 * torch.randn(50, 4)  # where the two forms of GELU differ most
    assert branch.hidden.out_features == 6
    torch.testing.assert_close(branch(x), branch.output(phi(branch.hidden(x))))


def test_swiglu_gates_with_its_first_matrix():
    branch, x = mlp(2, "swiglu", bias=False)(4), torch.randn(5, 4)
    gate, value, out = (tensor for _, tensor in branch.roles())
    torch.testing.assert_close(branch(x), ((x @ gate.T) * torch.sigmoid(x @ gate.T) * (x @ value.T)) @ out.T)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (conv(kernel=2), "kernel=2 is even"),
        (conv(groups=3), "groups=3 does not divide the widths 4 and 4"),
        (conv(6, groups=4), "groups=4"),
        (conv(weight="norm(from_data=2)"), "conv: from_data=2; allowed: True, False"),
        (conv(weight="spectral"), "'spectral' is unknown; use None, 'norm', .*, 'standard' or 'scaled_standard'"),
        (attention(3), "heads=3 does not divide the width 4"),
        (attention(2, dropout=1.0), "dropout=1.0 is not a rate"),
        (cross_attention(0), "heads=0"),
        (attention(2, key_value_heads=3), "key_value_heads=3 does not divide heads=2; use a divisor of 2"),
        (attention(2, key_value_heads=0), "key_value_heads=0 does not divide"),
        (attention(3, head_width=0), "head_width=0; use 1 or more"),
        (attention(3, head_width=3, rotary=True), "a head has 3; use a width that 6 divides, or an even head_width"),
        (attention(1, rotary=True, rotary_width=6), "rotary_width=6; use an even number of the 4 features"),
        (attention(1, rotary=True, rotary_width=3), "rotary_width=3; use an even number"),
        (attention(2, bias="keys"), "bias='keys'; allowed: True, False, 'qkv'"),
        (attention(2, key_value_heads=1, normalised=True, bias=False), "leave out key_value_heads and head_width"),
        (mlp(activation="tanh"), "'tanh' is unknown; use one of relu, gelu, gelu_tanh, swiglu"),
        (mlp(0.1), "leaves no hidden unit"),
    ],
)
def test_impossible_settings_are_refused_with_the_repair(factory, message):
    with pytest.raises(ValueError, match=message):
        factory(4)


@pytest.mark.parametrize("mask", [None, "some", "float"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_written_out_equals_the_fused_one(mask, causal):
    torch.manual_seed(0)
    branch, x = attention(2, causal=causal)(8).bfloat16(), torch.randn(3, 5, 8)
    some = torch.rand(3, 1, 5, 5) > 0.4
    some[0, 0, 2] = False  # a token that may attend to nothing
    given = {None: None, "some": some, "float": torch.randn(5, 5).bfloat16()}[mask]
    outputs = {}
    for dtype in (torch.bfloat16, torch.float32):
        given_x = x.to(dtype).requires_grad_()
        same = given if given is None or given.dtype == torch.bool else given.to(dtype)
        y = branch.to(dtype)(given_x, mask=same)
        outputs[dtype] = y, *torch.autograd.grad(y.float().square().sum(), given_x)
    for ours, exact in zip(outputs[torch.bfloat16], outputs[torch.float32], strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.float(), exact, rtol=0.1, atol=0.05)


def test_attention_is_written_out_only_where_that_is_faster(monkeypatch):
    calls = []
    # The package's name `attention` is the function, which hides the module from a dotted path.
    module = sys.modules["resnorm.branches.attention"]
    monkeypatch.setattr(module, "_written_out", lambda *given, **named: calls.append(1) or given[2])
    branch, x = attention(2)(8), torch.randn(1, 5, 8)
    branch(x)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            branch(x)
        assert not calls
        branch(x)
    assert calls


def test_the_norms_inside_a_branch_are_their_equation():
    """Queries, keys and values over their whole width, the heads' scales and the inner norm before the output matrix."""
    torch.manual_seed(0)
    branch = attention(2, causal=True, query_key_norm="rms", value_norm="layer", inner_norm="layer", head_scale=True)(6)
    hidden = mlp(2, inner_norm="layer")(6)
    with torch.no_grad():
        for parameter in (*branch.parameters(), *hidden.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    x = torch.randn(3, 5, 6)
    query, key, value = branch.query_key_value(x).chunk(3, -1)
    query = F.rms_norm(query, (6,), branch.query_norm.weight, 1e-6)
    key = F.rms_norm(key, (6,), branch.key_norm.weight, 1e-6)
    value = F.layer_norm(value, (6,), branch.value_norm.weight, branch.value_norm.bias)
    heads = []
    for i, scale in enumerate(branch.head_scale.flatten()):
        own = slice(3 * i, 3 * i + 3)
        scores = query[..., own] @ key[..., own].mT / 3**0.5
        heads.append(scale * scores.masked_fill(~PAST, float("-inf")).softmax(-1) @ value[..., own])
    h = F.layer_norm(torch.cat(heads, -1), (6,), branch.inner_norm.weight, branch.inner_norm.bias)
    torch.testing.assert_close(branch(x), branch.output(h))
    h = F.layer_norm(F.relu(hidden.hidden(x)), (12,), hidden.inner_norm.weight, hidden.inner_norm.bias)
    torch.testing.assert_close(hidden(x), hidden.output(h))
    crossed = cross_attention(2, query_key_norm="rms", value_norm="layer", inner_norm="layer", head_scale=True)(6)
    z = torch.randn(3, 4, 6)
    before = crossed(x, z)
    crossed.value_norm.weight.data.mul_(2)
    assert before.shape == x.shape and not torch.allclose(before, crossed(x, z)), "the values have no norm"


def test_a_value_residual_mixes_the_values_of_the_first_attention_of_the_pass():
    torch.manual_seed(0)
    branches = [attention(2, causal=True, value_residual=True)(6) for _ in range(3)]
    plain = [attention(2, causal=True)(6) for _ in branches]
    x, first, heads = torch.randn(3, 5, 6), FirstValues(), []
    for branch, twin in zip(branches, plain, strict=True):
        twin.load_state_dict(branch.state_dict(), strict=False)
        assert branch.value_mix.tolist() == [0.5, 0.5]
        branch.value_mix.data.copy_(torch.tensor([0.7, -0.4]))
        heads.append(branch.query_key_value(x).chunk(3, -1)[2])
        query_key = twin.query_key_value.weight[:12] @ x.mT + twin.query_key_value.bias[:12, None]
        mixed = torch.cat((query_key.mT, 0.7 * heads[-1] - 0.4 * heads[0]), -1)
        twin.query_key_value = nn.Identity()
        torch.testing.assert_close(branch(x, first=first), twin(mixed))
    assert not torch.allclose(branches[1](x), branches[1](x, first=first)), "alone, an attention is its own first"

    cache, steps = Cache(), []
    for part in x.split([2, 1, 2], 1):
        first = FirstValues()
        steps.append([branch(part, cache=cache, first=first) for branch in branches])
    whole = FirstValues()
    for i, branch in enumerate(branches):
        torch.testing.assert_close(torch.cat([step[i] for step in steps], 1), branch(x, first=whole))


def test_the_score_of_rotary_positions_depends_on_their_difference_only():
    torch.manual_seed(0)
    query, key = torch.randn(2, 6)
    row = lambda vector: rotate(vector.expand(20, 6))  # noqa: E731
    scores = row(query) @ row(key).T
    for difference in (-7, 0, 1, 12):
        same = scores.diagonal(difference)
        torch.testing.assert_close(same, same[:1].expand(len(same)), rtol=1e-4, atol=1e-5)
    assert scores[0].std() > 0.1 and not torch.allclose(scores, scores.T)
    torch.testing.assert_close(scores[0, 0], query @ key)
    torch.testing.assert_close(rotate(query.expand(3, 6), start=5), row(query)[5:8])


def test_rotary_attention_turns_queries_and_keys_as_complex_numbers():
    torch.manual_seed(0)
    plain, branch = attention(2, causal=True)(16), attention(2, causal=True, rotary=True)(16)
    branch.load_state_dict(plain.state_dict())
    x = torch.randn(3, 9, 16)
    turn = torch.exp(1j * torch.arange(9)[:, None] * torch.tensor([1, 1e-1, 1e-2, 1e-3]))
    heads = [t.unflatten(-1, (2, 8)).transpose(1, 2) for t in plain.query_key_value(x).chunk(3, -1)]
    query, key = (torch.view_as_complex(t.unflatten(-1, (4, 2)).contiguous()) * turn for t in heads[:2])
    query, key = (torch.view_as_real(t).flatten(-2) for t in (query, key))
    h = F.scaled_dot_product_attention(query, key, heads[2], is_causal=True)
    torch.testing.assert_close(branch(x), branch.output(h.transpose(1, 2).flatten(2)))
    assert not torch.allclose(branch(x), plain(x), atol=1e-3)


@pytest.mark.parametrize("options", [dict(), dict(rotary=True), dict(rotary=True, theta=50, key_value_heads=1, head_width=6)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_attention_with_a_cache_is_that_of_the_whole_sequence(options, dtype, error):
    """One token at a time and several; in 16 bits on CPU with a gradient it is written out."""
    torch.manual_seed(0)
    branch = attention(2, causal=True, query_key_norm="rms", **options)(8).to(dtype)
    x = torch.randn(3, 7, 8, dtype=dtype)
    seen = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    seen[1, ..., 0] = seen[2, ..., 2:4] = False
    for mask in (None, seen):
        cache, steps, end = Cache(), [], 0
        for part in x.split([2, 1, 3, 1], 1):
            end += part.shape[1]
            steps.append(branch(part, mask if mask is None else mask[..., :end], cache))
            assert cache.tokens == cache.length(branch) == end
        torch.testing.assert_close(torch.cat(steps, 1), branch(x, mask), rtol=error, atol=error)


@pytest.mark.parametrize("made", [attention, cross_attention])
@pytest.mark.parametrize("per_head", [False, True])
def test_grouped_heads_are_all_heads_with_the_keys_and_values_of_a_group_repeated(made, per_head):
    torch.manual_seed(0)
    settings = dict(head_width=3, bias="qkv", query_key_norm="rms" if per_head else None, per_head=per_head)
    grouped, full = (made(6, key_value_heads=heads, **settings)(8) for heads in (2, 6))
    state = grouped.state_dict()
    assert "output.bias" not in state and any(name.endswith(".bias") for name in state)
    for name, value in state.items():
        if "key_value" in name:
            queries, *keys_and_values = value.split([18, 6, 6] if name.startswith("query") else [0, 6, 6])
            repeated = [part.unflatten(0, (2, 1, 3)).expand(2, 3, 3, *part.shape[1:]).flatten(0, 2) for part in keys_and_values]
            state[name] = torch.cat([queries, *repeated])
    full.load_state_dict(state)
    x = torch.randn(2, 5, 8)
    given = (x,) if made is attention else (x, torch.randn(2, 4, 8))
    mask = torch.rand(2, 6, 5, 5 if made is attention else 4) > 0.3
    for options in (dict(), dict(mask=mask)):
        torch.testing.assert_close(grouped(*given, **options), full(*given, **options))


def test_theta_is_the_base_of_the_rotary_angles():
    x = torch.ones(5, 4)
    slow = rotate(x, theta=25.0)
    angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.2])
    turned = torch.view_as_real(torch.polar(torch.ones(5, 2), angles) * (1 + 1j)).flatten(-2)
    torch.testing.assert_close(slow, turned)


def test_a_cache_computes_the_keys_of_a_memory_once_and_its_rows_can_go_on_from_others():
    branch, x, z = cross_attention(2)(8), torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    cache, calls = Cache(), []
    branch.key_value.register_forward_hook(lambda *given: calls.append(1))
    mask = torch.rand(3, 1, 1, 5) > 0.3
    steps = [branch(part, z, mask, cache) for part in x.split(1, 1)]
    assert len(calls) == 1 and cache.tokens == 0
    torch.testing.assert_close(torch.cat(steps, 1), branch(x, z, mask))

    branch, cache = attention(2, causal=True)(8), Cache()
    branch(x[:, :3], cache=cache)
    rows = torch.tensor([2, 2, 0])
    cache.reorder(rows)
    torch.testing.assert_close(branch(x[:, 3:], cache=cache), branch(torch.cat((x[rows, :3], x[:, 3:]), 1))[:, 3:])


@pytest.mark.parametrize(("kind", "per_head"), [("olmoe", False), ("qwen3", True)])
def test_queries_and_keys_are_normalised_as_in_the_models_that_are_cited(kind, per_head):
    torch.manual_seed(0)
    transformers = pytest.importorskip("transformers")
    modeling = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    name = {"olmoe": "Olmoe", "qwen3": "Qwen3"}[kind]
    config = getattr(transformers, f"{name}Config")(
        hidden_size=12, num_attention_heads=3, num_key_value_heads=3, rms_norm_eps=1e-6, head_dim=4, attn_implementation="eager"
    )
    theirs = getattr(modeling, f"{name}Attention")(config, layer_idx=0).eval()
    ours = attention(3, bias=False, query_key_norm="rms(eps=1e-6)", per_head=per_head)(12)
    for norm in (theirs.q_norm, theirs.k_norm):
        norm.weight.data.uniform_(0.5, 2)
    with torch.no_grad():
        ours.query_key_value.weight.copy_(torch.cat([part.weight for part in (theirs.q_proj, theirs.k_proj, theirs.v_proj)]))
        ours.output.weight.copy_(theirs.o_proj.weight)
        ours.query_norm.weight.copy_(theirs.q_norm.weight)
        ours.key_norm.weight.copy_(theirs.k_norm.weight)
    x, unturned = torch.randn(2, 5, 12), (torch.ones(1, 5, 4), torch.zeros(1, 5, 4))
    torch.testing.assert_close(ours(x), theirs(x, position_embeddings=unturned, attention_mask=None)[0], rtol=1e-5, atol=1e-6)


def test_a_damped_branch_computes_the_same_and_returns_less_gradient():
    branch, x = mlp(2)(6), torch.randn(3, 6, requires_grad=True)
    (whole,) = torch.autograd.grad(branch(x).sum(), x)
    for beta in (0.0, 0.25, 4.0):
        y = Damped(branch, beta)(x)
        (given,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(y, branch(x)) and torch.allclose(given, beta**0.5 * whole)
    with pytest.raises(ValueError, match="beta is -1: give a number of 0 or more"):
        Damped(branch, -1)
