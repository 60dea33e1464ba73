"""nGPT with normalised weights: the paper's equations on unit vectors, and weights that stay of length 1."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnorm import init
from resnorm.branches import Cache, attention, mlp
from resnorm.branches.attention import rotate
from resnorm.catalog import variant
from resnorm.data import DataSet, characters
from resnorm.letters import lerp
from resnorm.models import generate, transformer_lm, vit
from resnorm.training import Recipe, fit, loop
from resnorm.words import Block

WIDTH, HEADS, VOCABULARY = 16, 2, 11
SMALL = dict(vocabulary=VOCABULARY, context=8, depth=2, width=WIDTH, heads=HEADS, variant="ngpt_weights")
SMALL_IMAGE = dict(inputs=1, size=8, classes=3, patch=4, depth=1, width=WIDTH, heads=HEADS, variant="ngpt_weights")
TOKENS = torch.randint(VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(3))
# No weight decay and no warm-up, as in the paper.
ADAMW = Recipe(epochs=1, batch_size=16, optimizer="adamw", lr=0.01, precision="fp32")


def made(**options):
    """A model whose learned scales are away from their start, so that one that is lost shows."""
    torch.manual_seed(0)
    model = transformer_lm(**SMALL | options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    return model


def counting(examples=64):
    """Count upwards modulo the vocabulary."""
    tokens = (torch.arange(examples)[:, None] + torch.arange(9)) % VOCABULARY
    split = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return DataSet("counting", "sequences", split, split, split, spec=dict(vocabulary=VOCABULARY, context=8))


def named_vectors(model):
    """The vectors of every named weight as rows, written out."""
    vectors = {"token": model.token.weight, "head": model.head.weight}
    if model.position is not None:
        vectors["position"] = model.position.weight
    for i, block in enumerate(model.stack.blocks):
        attention, mlp = block.get_submodule("0_A"), block.get_submodule("5_M")
        for name, weight in zip(("query", "key", "value"), attention.query_key_value.weight.chunk(3), strict=True):
            vectors[f"{i} {name}"] = weight
        vectors |= {
            f"{i} attention's output": attention.output.weight.T,
            f"{i} hidden": mlp.hidden.weight,
            f"{i} MLP's output": mlp.output.weight.T,
        }
    return vectors


def check_lengths(model):
    for name, rows in named_vectors(model).items():
        assert rows.shape[1] == model.stack.out_width, name
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows), dtype=rows.dtype), msg=name)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def scale(learned, start):
    """The paper's form of a learned scale: the parameter times start over the parameter's own start."""
    return learned.weight * (start / WIDTH**-0.5)


def paper(model, tokens, rotary, activation):
    """The paper's network on unit vectors, with the weights of the model."""
    count = tokens.shape[1]
    h = model.token(tokens)
    h = unit(h if rotary else h + model.position.weight[:count])
    past = torch.ones(count, count, dtype=torch.bool).tril()
    for block in model.stack.blocks:
        A, first, M, second = (block.get_submodule(name) for name in ("0_A", "2_l", "5_M", "7_l"))
        query, key, value = (
            (h @ weight.T).unflatten(-1, (HEADS, -1)).transpose(1, 2) for weight in A.query_key_value.weight.chunk(3)
        )
        if rotary:
            query, key = rotate(query), rotate(key)
        s = scale(A.query_key_scale, 1.0).view(HEADS, 1, -1)
        scores = (WIDTH / HEADS) ** 0.5 * (s * unit(query)) @ (s * unit(key)).transpose(-1, -2)
        out = scores.masked_fill(~past, float("-inf")).softmax(-1) @ value
        branch = unit(out.transpose(1, 2).flatten(-2) @ A.output.weight.T)
        h = unit(h + scale(first.alpha, 0.05).abs() * (branch - h))
        hidden = M.hidden_scale * WIDTH**0.5 * (h @ M.hidden.weight.T)
        if activation == "swiglu":
            gate, hidden = hidden.chunk(2, -1)
            hidden = F.silu(gate) * hidden
        else:
            hidden = F.gelu(hidden)
        h = unit(h + scale(second.alpha, 0.05).abs() * (unit(hidden @ M.output.weight.T) - h))
    return scale(model.logit_scale, 1.0) * (h @ model.head.weight.T)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_the_model_is_the_papers_on_unit_vectors(positions, activation):
    model = made(positions=positions, activation=activation).double()
    expected = paper(model, TOKENS, positions == "rotary", activation)
    # The norms have an eps of 1e-6 beside a mean square of about 1, or less where attention averages.
    torch.testing.assert_close(model(TOKENS), expected, rtol=0, atol=2e-5)
    grown = torch.autograd.grad(model(TOKENS).square().sum(), model.parameters())
    for ours, its in zip(grown, torch.autograd.grad(expected.square().sum(), model.parameters()), strict=True):
        torch.testing.assert_close(ours, its, rtol=1e-3, atol=1e-4 * its.abs().max().item())


@pytest.mark.parametrize("options", [{}, dict(positions="rotary", activation="swiglu")])
def test_all_named_vectors_have_length_1_at_the_start_and_after_steps(options):
    model = made(**options)
    check_lengths(model)
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())
    start = [rows.clone() for rows in named_vectors(model).values()]
    fit(model, counting(), ADAMW, progress=False)
    check_lengths(model)
    for (name, rows), before in zip(named_vectors(model).items(), start, strict=True):
        assert (rows - before).abs().max() > 1e-3, f"{name} did not move"


@pytest.mark.parametrize("recipe", [dict(accumulate=2), dict(optimizer="muon"), dict(optimizer="sgd"), dict(weight_decay=0.1)])
def test_lengths_stay_1_whatever_takes_the_step(recipe):
    model = made()
    fit(model, counting(), Recipe(**ADAMW.to_dict() | recipe), progress=False)
    check_lengths(model)


def test_a_compiled_model_is_projected_as_well(monkeypatch):
    # The compiled module shares the parameters; the compiler itself is no part of this.
    monkeypatch.setattr(torch, "compile", lambda model, **options: torch.nn.Sequential(model))
    model = made()
    fit(model, counting(), Recipe(**ADAMW.to_dict() | dict(compile=True)), progress=False)
    check_lengths(model)


def test_the_hook_is_for_models_that_have_unit_weights_alone(monkeypatch):
    calls, ours, other = [], made(), transformer_lm(**SMALL | dict(variant="pre"))
    monkeypatch.setattr(loop.init, "project", lambda weights, of=init.project: (calls.append(1), of(weights)))
    fit(other, counting(), ADAMW, progress=False)
    assert not calls
    fit(ours, counting(), ADAMW, progress=False)
    assert len(calls) == 4  # one a step


@torch.no_grad()
def test_logits_are_cosines_times_their_scales():
    model = made()
    model.logit_scale.weight.mul_(30)
    logits, bound = model(TOKENS), scale(model.logit_scale, 1.0)
    assert (logits.abs() <= bound * (1 + 1e-5)).all() and (logits.abs() / bound).max() > 0.3
    h = unit(model.stack(F.normalize(model.token(TOKENS) + model.position.weight[:8], dim=-1) * WIDTH**0.5))
    torch.testing.assert_close(model(TOKENS) / bound, h @ model.head.weight.T)


@torch.no_grad()
def test_the_size_of_a_weight_before_the_projection_does_not_matter():
    model = made(activation="swiglu").double()
    before = model(TOKENS)
    for weight, _ in init.unit_weights(model):
        weight.mul_(3)
    assert not torch.allclose(model(TOKENS), before)
    init.project(init.unit_weights(model))
    torch.testing.assert_close(model(TOKENS), before)


@pytest.mark.parametrize("rotary", [False, True])
def test_queries_and_keys_of_a_head_have_length_1_before_their_scale(rotary, monkeypatch):
    torch.manual_seed(0)
    branch, seen = attention(HEADS, bias=False, rotary=rotary, normalised=True)(WIDTH), []
    monkeypatch.setattr(branch, "attend", lambda query, key, value, mask: seen.extend((query, key)))
    nn.init.uniform_(branch.query_key_scale.weight, 0.1, 0.9)
    branch(10 * torch.randn(3, 5, WIDTH))
    for found in seen:
        before = found / scale(branch.query_key_scale, 1.0).view(HEADS, 1, -1) / (WIDTH / HEADS) ** 0.5
        torch.testing.assert_close(before.norm(dim=-1), torch.ones(3, HEADS, 5))


@torch.no_grad()
def test_learned_scales_start_where_the_paper_starts_them():
    torch.manual_seed(0)
    model = transformer_lm(**SMALL)
    block = model.stack.blocks[0]
    for learned, start in (
        (model.logit_scale, 1.0),
        (block.get_submodule("0_A").query_key_scale, 1.0),
        (block.get_submodule("2_l").alpha, 0.05),
        (block.get_submodule("7_l").alpha, 0.05),
    ):
        torch.testing.assert_close(learned.weight, torch.full_like(learned.weight, WIDTH**-0.5))
        torch.testing.assert_close(learned(), torch.full_like(learned.weight, start))
    assert (block.get_submodule("5_M").hidden_scale == 1).all()
    # a step is taken towards the branch, whatever the sign of its parameter
    merge = lerp(learn="rescaled")(4, 4)
    x, h = torch.randn(2, 4), torch.randn(2, 4)
    before = merge(h, x)
    merge.alpha.weight.neg_()
    assert torch.equal(merge(h, x), before)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_generation_with_a_cache_is_that_of_full_passes(positions):
    model = made(positions=positions).eval()
    model.logit_scale.weight.data.mul_(20)
    cache = Cache()
    with torch.no_grad():
        by_parts = torch.cat([model(part, cache) for part in TOKENS.split((3, 1, 4), 1)], 1)
        torch.testing.assert_close(by_parts, model(TOKENS), rtol=1e-4, atol=1e-4)
    tokens = TOKENS[:, :2]
    written = generate(model, tokens, 6, temperature=0)
    for _ in range(6):
        with torch.no_grad():
            tokens = torch.cat((tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(written, tokens)


def test_a_small_model_learns():
    data = characters(context=32)
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=data.spec["vocabulary"], context=32, depth=2, width=32, heads=2, variant="ngpt_weights")
    run = fit(model, data, Recipe(**ADAMW.to_dict() | dict(batch_size=32, epochs=4)), progress=False)
    assert run.metrics["validation_loss"] < 1.2 < math.log(data.spec["vocabulary"]) / 2
    check_lengths(model)


def test_ngpt_is_the_placement_alone_as_it_was():
    torch.manual_seed(0)
    model = transformer_lm(**SMALL | dict(variant="ngpt"))
    torch.manual_seed(0)
    other = transformer_lm(**SMALL | dict(variant="encoder_post"))
    assert not list(init.unit_weights(model)) and model.logit_scale is None
    ours, its = dict(model.named_parameters()), dict(other.named_parameters())
    for name in ("token.weight", "position.weight", "head.weight"):
        assert torch.equal(ours[name], its[name])
    x = model.token(TOKENS) + model.position.weight[:8]
    for block in model.stack.blocks:
        A, n1, l1, n2, M, n3, l2, n4 = block.children()
        assert type(l1.alpha) is nn.Parameter and (l1.alpha == 0.05).all() and type(n1).__name__ == "LayerNorm"
        x = n2(x + l1.alpha * (n1(A(x)) - x))
        x = n4(x + l2.alpha * (n3(M(x)) - x))
    assert torch.equal(model(TOKENS), model.head(x))
    block = variant("ngpt").block(WIDTH)
    assert block.get_submodule("0_A").output.bias is not None and block.get_submodule("5_M").hidden_scale is None


def test_blocks_and_images_may_take_the_normalised_branches():
    torch.manual_seed(0)
    block = Block(
        "Anln Mnln",
        WIDTH,
        n="rms(affine=False)",
        A=attention(HEADS, bias=False, normalised=True),
        M=mlp(bias=False, normalised=True),
    )
    init.initialise(block, "xavier", 2)
    image = vit(**SMALL_IMAGE, norm="rms(affine=False)")
    for module in (block, image):
        lengths = [weight.norm(dim=axis) for weight, axis in init.unit_weights(module)]
        assert len(lengths) == 4
        torch.testing.assert_close(torch.cat(lengths), torch.ones(sum(map(len, lengths))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transformer_lm(**SMALL, norm="layer"), "norm='layer' leaves the sphere of 'ngpt_weights'; take norm='rms"),
        (lambda: vit(**SMALL_IMAGE), r"norm='layer\(eps=1e-6\)' leaves the sphere of 'ngpt_weights'; take norm='rms"),
        (lambda: attention(2, normalised=True)(WIDTH), "attention: normalised=True with bias=True; .* use bias=False"),
        (lambda: mlp(normalised=True)(WIDTH), "mlp: normalised=True with bias=True; .* use bias=False"),
        (lambda: lerp(learn="scaled"), "learn='scaled'; allowed: True, False, 'rescaled'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
