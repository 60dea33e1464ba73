"""The encoder-decoder Transformer: its words, what may see what, and torch's own with the same weights."""

import pytest
import torch
from torch import nn

from resnorm.branches import Cache
from resnorm.catalog import VARIANTS
from resnorm.data import dataset
from resnorm.letters import Add
from resnorm.models import build, seq2seq
from resnorm.models.seq2seq import END, PADDING, START, deepnorm_encoder, sinusoids

SMALL = dict(vocabulary=23, context=12, depth=2, width=16, heads=4, dropout=0.0)
GENERIC = [name for name, one in VARIANTS.items() if "generic" in one.tags and one.init != "fixup"]
STREAMS = [name for name, one in VARIANTS.items() if "stream" in one.tags]
PARALLEL = [name for name, one in VARIANTS.items() if "[" in one.spell()]


def pairs(rows=3, source=7, before=6):
    """Sources whose first row ends early, and targets moved right by one."""
    torch.manual_seed(1)
    tokens = torch.randint(END + 1, 23, (rows, source))
    tokens[0, 4], tokens[0, 5:] = END, PADDING
    before = torch.cat((torch.full((rows, 1), START), torch.randint(END + 1, 23, (rows, before - 1))), 1)
    return tokens, before


def small(**options):
    torch.manual_seed(0)
    model = seq2seq(**{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 and parameter.requires_grad:  # norms start at gain 1 and bias 0, and hide what is lost
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.mark.parametrize(
    ("variant", "options", "encoder", "decoder", "last"),
    [
        ("pre", {}, "nAa nMa", "nAa nXa nMa", True),
        ("post", {}, "Aan Man", "Aan Xan Man", False),
        ("rskip_norm", dict(order=2), "Aanan Manan", "Aanan Xanan Manan", False),
        ("sandwich", {}, "nAna nMna", "nAna nXna nMna", True),
        ("post", dict(dropout=0.1), "Adan Mdan", "Adan Xdan Mdan", False),
        ("skip_after_norm", {}, "n|Aa n|Ma", "n|Aa n|Xa n|Ma", True),
        ("parallel", {}, "n[A,M]a", "n[A,X,M]a", True),
        ("parallel", dict(dropout=0.1), "n[Ad,Md]a", "n[Ad,Xd,Md]a", True),
        ("parallel_two_norms", {}, "[nA,nM]a", "[nA,nX,nM]a", True),
    ],
)
def test_one_variant_spells_the_encoder_and_the_decoder(variant, options, encoder, decoder, last):
    model = seq2seq(**{**SMALL, **options}, variant=variant)
    for stack, word in ((model.encoder, encoder), (model.decoder, decoder)):
        assert [block.word for block in stack.blocks] == [word] * 2
        assert (stack.last is not None) == last


@pytest.mark.parametrize("variant", GENERIC + STREAMS + PARALLEL)
def test_every_variant_trains_a_step(variant):
    model = build("seq2seq", dict(vocabulary=23, context=12), variant=variant, depth=2, width=16, heads=4)
    source, before = pairs()
    logits = model(source, before)
    assert logits.shape == (3, 6, 23)
    nn.functional.cross_entropy(logits.flatten(0, 1), before.flatten()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{key} has no finite gradient"
    if variant in STREAMS and variant != "denseformer":
        assert len(model.encoder.blocks) == 4 and len(model.decoder.blocks) == 6


def test_a_variant_counts_the_branches_of_its_own_stack():
    model = seq2seq(**SMALL, variant="keel")
    skips = [{m.skip for m in stack.modules() if isinstance(m, Add)} for stack in (model.encoder, model.decoder)]
    assert skips == [{4.0}, {6.0}]
    affine = seq2seq(**SMALL, variant="rskip_norm", affine="last").decoder.blocks[0]
    with_gain = [name for name, m in affine.named_children() if name.endswith("n") and m.weight is not None]
    assert with_gain == ["4_n", "10_n", "16_n"]


def test_deepnorm_has_its_own_constants_in_the_encoder():
    torch.manual_seed(0)
    model = seq2seq(**{**SMALL, "depth": 6, "width": 64}, variant="deepnorm")
    encoder = 0.81 * (6**4 * 6) ** (1 / 16), 0.87 * (6**4 * 6) ** (-1 / 16)
    assert deepnorm_encoder(6) == pytest.approx(encoder)
    for stack, alpha, beta in ((model.encoder, *encoder), (model.decoder, 18**0.25, 72**-0.25)):
        skips = [m.skip for m in stack.modules() if isinstance(m, Add)]
        assert skips == pytest.approx([alpha] * len(skips))
        for block in stack.blocks:
            for branch in block.children():
                for role, weight in branch.roles() if hasattr(branch, "roles") else ():
                    if role != "bias":
                        gain = 1 if role in ("query", "key") else beta
                        assert weight.std().item() == pytest.approx(gain * (2 / sum(weight.shape)) ** 0.5, rel=0.08)


def test_the_model_and_the_data_agree_on_the_special_tokens():
    assert (PADDING, START, END) == (dataset.PADDING, dataset.START, dataset.END)


def test_padding_of_the_source_does_not_change_a_row():
    model, (source, before) = small(), pairs()
    logits = model(source, before)
    torch.testing.assert_close(model(source[:1, :5], before[:1]), logits[:1])
    assert not torch.allclose(model(source[1:, :5], before[1:]), logits[1:], atol=1e-3)
    changed = source.clone()
    changed[1, 6] = END + 1 + (source[1, 6] - END) % 20
    assert (model(changed, before) - logits).abs().amax((1, 2)).gt(1e-4).tolist() == [False, True, False]


@pytest.mark.parametrize("variant", ["post", "pre", "dual", *PARALLEL])
def test_the_decoder_does_not_see_later_tokens(variant):
    model, (source, before) = small(variant=variant), pairs()
    changed = before.clone()
    changed[:, 4] = END + 1 + (before[:, 4] - END) % 20
    same = (model(source, before) - model(source, changed)).abs().amax((0, 2)) < 1e-6
    assert same.tolist() == [True] * 4 + [False] * 2


def test_one_embedding_and_logits_of_unit_size():
    torch.manual_seed(0)
    model = seq2seq(vocabulary=500, context=64, depth=2, width=128, heads=4, dropout=0.0)
    assert sum(parameter.shape == (500, 128) for parameter in model.parameters()) == 1
    tokens = torch.randint(3, 500, (4, 32))
    logits = model(tokens, tokens)
    assert logits.std().item() == pytest.approx(1, rel=0.15)
    token = model.embed(tokens) - model.position.weight[:32]
    assert token.square().mean().sqrt().item() == pytest.approx(1, rel=0.05)


def test_positions():
    table = sinusoids(50, 6)
    assert table[7, 2].item() == pytest.approx(torch.tensor(7 * 10000 ** (-2 / 6)).sin().item(), abs=1e-6)
    assert table[7, 5].item() == pytest.approx(torch.tensor(7 * 10000 ** (-4 / 6)).cos().item(), abs=1e-6)
    model, learned = seq2seq(**SMALL, positions="sinusoidal"), seq2seq(**SMALL)
    assert torch.equal(model.position.weight, sinusoids(12, 16)) and not model.position.weight.requires_grad
    for weight in (learned.position.weight, model.position.weight):
        assert weight.square().mean().sqrt().item() == pytest.approx(0.5**0.5, rel=0.1)
    source, before = pairs()
    assert not torch.allclose(model(source, before), model(source[:, [1, 0, *range(2, 7)]], before))


@pytest.mark.parametrize("variant", ["post", "pre", "rskip_norm", "hyper_connections", *PARALLEL])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_step_by_step_with_a_cache_is_the_full_pass(variant, positions):
    model, (source, before) = small(variant=variant, positions=positions), pairs()
    cache, (memory, mask) = Cache(), model.encode(source)
    steps = [model.decode(part, memory, mask, cache) for part in before.split([1, 1, 3, 1], 1)]
    assert cache.tokens == 6
    torch.testing.assert_close(torch.cat(steps, 1), model(source, before), rtol=1e-5, atol=1e-5)


def copy(ours, theirs):
    with torch.no_grad():
        for name, value in theirs.items():
            ours.get_parameter(name).copy_(value)


def weights_of(layer, names):
    """The tensors of a torch layer under the names of our block; `names`: ours for norm1, norm2, ... and A, X, M."""
    (self_attention, *cross), feed_forward, norms = names["attention"], names["M"], names["norms"]
    for kind in ("weight", "bias"):
        yield f"{self_attention}.query_key_value.{kind}", getattr(layer.self_attn, f"in_proj_{kind}")
        yield f"{self_attention}.output.{kind}", getattr(layer.self_attn.out_proj, kind)
        for name in cross:
            query, key, value = getattr(layer.multihead_attn, f"in_proj_{kind}").chunk(3)
            yield f"{name}.query.{kind}", query
            yield f"{name}.key_value.{kind}", torch.cat((key, value))
            yield f"{name}.output.{kind}", getattr(layer.multihead_attn.out_proj, kind)
        yield f"{feed_forward}.hidden.{kind}", getattr(layer.linear1, kind)
        yield f"{feed_forward}.output.{kind}", getattr(layer.linear2, kind)
        for i, name in enumerate(norms, 1):
            yield f"{name}.{kind}", getattr(getattr(layer, f"norm{i}"), kind)


@pytest.fixture
def reference_without_fast_path():
    """The fast path of nn.TransformerEncoder is another implementation, with known faults."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("variant", ["pre", "post"])
def test_torchs_transformer_with_the_same_weights(variant, reference_without_fast_path):
    torch.manual_seed(0)
    theirs = nn.Transformer(
        16,
        4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        dim_feedforward=64,
        dropout=0.0,
        batch_first=True,
        norm_first=variant == "pre",
    ).eval()
    if variant == "post":  # torch normalises the output of Post-Norm a second time
        theirs.encoder.norm = theirs.decoder.norm = None
    with torch.no_grad():  # the layers are copies of one, and no norm has a gain or a bias of its own
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = small(variant=variant)
    for stack, its in ((ours.encoder, theirs.encoder), (ours.decoder, theirs.decoder)):
        for block, layer in zip(stack.blocks, its.layers, strict=True):
            names = [name for name, _ in block.named_children()]
            by = dict(
                attention=[name for name in names if name[-1] in "AX"],
                M=next(name for name in names if name.endswith("M")),
                norms=[name for name in names if name.endswith("n")],
            )
            copy(block, dict(weights_of(layer, by)))
        if stack.last is not None:
            stack.last.load_state_dict(its.norm.state_dict())
    source, before = pairs()
    padding, later = source == PADDING, ~torch.ones(6, 6, dtype=torch.bool).tril()
    with torch.no_grad():
        h = theirs(
            ours.embed(source), ours.embed(before), tgt_mask=later, src_key_padding_mask=padding, memory_key_padding_mask=padding
        )
        torch.testing.assert_close(ours(source, before), h @ ours.token.weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", PARALLEL)
def test_a_decoder_of_parallel_branches_is_its_equation(variant):
    model, (source, before) = small(variant=variant, depth=1), pairs()
    (block,), (memory, mask), x = model.decoder.blocks, model.encode(source), model.embed(before)
    norms, (attention,), (cross,), (feed_forward,) = map(block.parts, "nAXM")
    first, second, third = norms * 3 if len(norms) == 1 else norms
    expected = x + attention(first(x)) + cross(second(x), memory=memory, mask=mask) + feed_forward(third(x))
    torch.testing.assert_close(block(x, X=dict(memory=memory, mask=mask)), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seq2seq(**SMALL, variant="encoder_pre"), "needs a word of F, such as 'nFa', or of A, X, M"),
        (lambda: seq2seq(**SMALL, variant="decoder_pre"), "needs a word of F, such as 'nFa', or of A, M"),
        (lambda: seq2seq(**SMALL | dict(depth=0)), "depth=0; give a whole number above 0"),
        (lambda: seq2seq(**SMALL, positions="rotary"), "positions='rotary'; allowed: 'learned', 'sinusoidal'"),
        (lambda: seq2seq(**SMALL)(*pairs(source=13)), "got 13 tokens, but the model's context is 12"),
        (lambda: build("seq2seq", dict(inputs=1, size=8, classes=10)), "needs vocabulary and context"),
    ],
)
def test_what_cannot_be_built_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
