"""Whole networks: sizes that were published, what follows from the word, and a step of training for every variant."""

import copy
import dataclasses
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from resnorm import init
from resnorm.branches import Cache, Convolution, SelfAttention
from resnorm.catalog import VARIANTS, Variant
from resnorm.letters import Add, DropPath, LayerScale, add
from resnorm.models import (
    MODELS,
    alike_positions,
    bert,
    build,
    cifar_resnet,
    generate,
    mlp_stack,
    resnet,
    seq2seq,
    simple_transformer,
    transformer_lm,
    vit,
)
from resnorm.norms import RMSNorm
from resnorm.words import Block

IMAGES, SEQUENCES = dict(inputs=1, size=8, classes=10), dict(vocabulary=11, context=6, symbols="0123456789 ")
GENERIC = [name for name, one in VARIANTS.items() if "generic" in one.tags]
CONVOLUTIONAL = [name for name, one in VARIANTS.items() if "image" in one.tags and name != "densenet"]
STREAMS = [name for name, one in VARIANTS.items() if "stream" in one.tags]
LAYERS = [name for name, one in VARIANTS.items() if "transformer" in one.tags and "X" not in one.spell()]
TRANSFORMERS = [name for name in GENERIC + LAYERS + STREAMS if name != "fixup"]  # fixup is for ReLU alone
SPHERE = {"ngpt_weights": dict(norm="rms(affine=False)")}
BUILDS = (
    [("mlp_stack", name, dict(depth=3, width=16)) for name in GENERIC + STREAMS]
    + [("cifar_resnet", name, dict(depth=8, width=8)) for name in GENERIC]
    + [("cifar_resnet", name, dict(depth=3 * VARIANTS[name].word.count("C") + 2, width=8)) for name in CONVOLUTIONAL]
    + [
        (model, name, dict(depth=2, width=16, heads=4, dropout=dropout, **options, **SPHERE.get(name, {})))
        for model, options in (("transformer_lm", {}), ("bert", {}), ("vit", dict(patch=4)))
        for name in TRANSFORMERS
        for dropout in ((0.0, 0.1) if model == "transformer_lm" else (0.1,))
    ]
)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def example(name):
    if name in ("transformer_lm", "bert"):
        return torch.randint(11, (4, 6)), (4, 6, 11)
    return torch.randn(4, 1, 8, 8), (4, 10)


def layers_of_its_own(variant):
    """Whether a stack has a block for every branch of a layer, as those of most streams have."""
    return variant in STREAMS and variant != "denseformer"


@pytest.mark.parametrize(("name", "variant", "options"), BUILDS)
def test_every_variant_trains_a_step_of_every_model_that_takes_it(name, variant, options):
    torch.manual_seed(0)
    model = build(name, SEQUENCES if name in ("transformer_lm", "bert") else IMAGES, variant=variant, **options)
    x, shape = example(name)
    y = model(x)
    assert y.shape == shape
    y.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{key} has no finite gradient"
    branches = 2 if "heads" in options and layers_of_its_own(variant) else 1
    assert len(model.stack.blocks) == (branches * options["depth"] if name != "cifar_resnet" else 3)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model.eval())))
    assert torch.equal(copied(x), model(x))


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_dropout_follows_every_branch_and_is_still_in_eval(variant):
    torch.manual_seed(0)
    with_dropout, without = (
        transformer_lm(vocabulary=11, context=6, depth=1, width=16, variant=variant, dropout=dropout) for dropout in (0.5, 0.0)
    )
    words = [block.word for block in with_dropout.stack.blocks]
    assert [word.replace("Ad", "A").replace("Md", "M") for word in words] == [block.word for block in without.stack.blocks]
    every = " ".join(words)
    assert every.count("d") == every.count("Ad") + every.count("Md") == every.count("A") + every.count("M")
    assert not {part.p for part in with_dropout.stack.modules() if isinstance(part, nn.Dropout)} - {0.5}
    tokens = torch.randint(11, (2, 6))
    assert not torch.equal(with_dropout(tokens), with_dropout(tokens))
    assert torch.equal(with_dropout.eval()(tokens), with_dropout(tokens))


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_a_cache_gives_the_logits_and_the_text_of_full_passes(variant):
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=11, context=9, depth=2, width=16, variant=variant).eval()
    tokens, cache = torch.randint(11, (2, 9)), Cache()
    steps = [model(part, cache) for part in tokens.split([3, 1, 5], 1)]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens), rtol=1e-4, atol=1e-5)
    written = generate(model, tokens[:, :4], 5, temperature=0)
    for end in range(4, 9):
        with torch.no_grad():
            assert torch.equal(model(written[:, :end])[:, -1].argmax(-1), written[:, end])


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_a_masked_token_is_not_attended_to_and_the_others_are(variant):
    torch.manual_seed(0)
    model = bert(vocabulary=11, context=8, depth=2, width=16, heads=4, **{"variant": variant, **SPHERE.get(variant, {})}).eval()
    if variant in ("rezero", "skipinit", "layerscale"):  # whose branches start at 0, or close to it
        with torch.no_grad():
            for name, parameter in model.stack.named_parameters():
                if name.endswith("gain"):
                    parameter.fill_(1.0)
    tokens = torch.randint(11, (2, 6))
    changed, mask = tokens.clone(), torch.tensor([1, 1, 1, 1, 1, 0]).expand(2, 6)
    changed[:, 5] = (tokens[:, 5] + 1) % 11
    torch.testing.assert_close(model(changed, mask=mask)[:, :5], model(tokens, mask=mask)[:, :5], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(changed)[:, 0], model(tokens)[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (dict(depth=20, variant="resnet_v1"), 0.27),
        (dict(depth=32, variant="resnet_v1"), 0.46),
        (dict(depth=44), 0.66),
        (dict(depth=56), 0.85),
        (dict(depth=110, variant="resnet_v1"), 1.7),
        (dict(depth=110), 1.7),
        (dict(depth=164, variant="bottleneck_v2"), 1.7),
        (dict(depth=1001, variant="bottleneck_v2"), 10.2),
        (dict(depth=38, widen=4, shortcut="projection"), 8.9),  # WRN-40-4
        (dict(depth=26, widen=10, shortcut="projection"), 36.5),  # WRN-28-10
    ],
)
def test_cifar_resnets_have_the_published_size(model, millions):
    with torch.device("meta"):
        built = cifar_resnet(**model)
    assert parameters(built) / 1e6 == pytest.approx(millions, abs=0.1 if millions > 2 else 0.05 if millions > 1 else 0.006)


def test_a_wide_resnet_keeps_its_stem():
    model = cifar_resnet(depth=8, width=8, widen=3, variant="resnet_v1")
    assert model.stem[0].out_channels == 8 and [block.out_width for block in model.stack.blocks] == [24, 48, 96]
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_a_thousand_and_one_layers_run_forward_and_backward():
    torch.manual_seed(0)
    model = cifar_resnet(depth=1001, width=2, variant="bottleneck_v2")
    assert len(model.stack.blocks) == 333
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert 0 < model.stem[0].weight.grad.norm() < math.inf


@pytest.mark.parametrize("variant", ["residual", "resnet_v1", "bottleneck_v2"])
@pytest.mark.parametrize("weight", ["norm", "standard", "scaled_standard"])
def test_the_form_of_the_filters_is_that_of_every_convolution_in_a_block(variant, weight):
    model = cifar_resnet(depth=20, width=8, variant=variant, weight=weight)
    forms = [child.form for child in model.stack.modules() if isinstance(child, Convolution)]
    assert set(forms) == {weight} and len(forms) == 18 and model.stem[0].form is None


def test_filters_without_a_norm_keep_the_stream_at_the_size_of_its_law():
    torch.manual_seed(0)
    model = cifar_resnet(depth=56, width=32, variant="depth_scaled", norm="none", weight="scaled_standard")
    x = model.stem(torch.randn(8, 3, 16, 16))
    first, *_, last = [x := block(x) for block in model.stack.blocks[:9]]
    assert (last.var() / first.var()).item() == pytest.approx((1 + 9 / 27) / (1 + 1 / 27), rel=0.15)


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        (cifar_resnet(depth=20, variant="stochastic_depth"), [i / 18 for i in range(1, 10)]),
        (mlp_stack(inputs=4, classes=2, depth=4, variant="stochastic_depth"), [0.125, 0.25, 0.375, 0.5]),
        (transformer_lm(vocabulary=5, depth=2, width=16, variant="stochastic_depth"), [0.25, 0.25, 0.5, 0.5]),
    ],
)
def test_the_rate_of_stochastic_depth_grows_along_the_network(model, rates):
    found = [part.rate for part in model.stack.modules() if isinstance(part, DropPath)]
    assert found == pytest.approx(rates)


@pytest.mark.parametrize("build_model", [cifar_resnet, partial(mlp_stack, inputs=4)])
def test_fixup_starts_with_a_classifier_of_zeros_and_identities(build_model):
    model = build_model(classes=3, variant="fixup", norm="none")
    assert all((parameter == 0).all() for parameter in model.head.parameters())
    assert (build_model(classes=3, variant="skipinit", norm="none").head.weight != 0).any()
    block, gain = model.stack.blocks[0], model.stack.blocks[0].get_parameter("1_a.gain")
    x = torch.randn(2, *(16, 4, 4) if "cifar" in str(build_model) else (64,))
    assert torch.equal(block(x), x) and gain == 1


@pytest.mark.parametrize("variant", ["post", "dual", "hyper_connections"])
def test_bert_sees_both_sides_and_only_what_the_mask_allows(variant):
    torch.manual_seed(0)
    model = bert(vocabulary=11, context=8, depth=2, width=16, heads=4, variant=variant).eval()
    tokens = torch.randint(11, (2, 6))
    logits, changed = model(tokens), tokens.clone()
    assert logits.shape == (2, 6, 11)
    changed[:, 5] = (tokens[:, 5] + 1) % 11
    assert not torch.allclose(model(changed)[:, 0], logits[:, 0])
    mask = torch.tensor([1, 1, 1, 1, 1, 0]).expand(2, 6)
    torch.testing.assert_close(model(changed, mask=mask)[:, :5], model(tokens, mask=mask)[:, :5])
    assert not torch.allclose(model(tokens, segments=torch.ones_like(tokens)), logits)
    with pytest.raises(ValueError, match="got 9 tokens, but the model's context is 8"):
        model(torch.zeros(1, 9, dtype=torch.int64))
    logits.sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters())


def test_a_vision_transformer_knows_where_a_patch_lies():
    torch.manual_seed(0)
    model = vit(inputs=1, size=8, patch=4, classes=3, depth=2, width=16, heads=4).eval()
    x = torch.randn(2, 1, 8, 8)
    swapped = torch.cat((x[..., 4:], x[..., :4]), -1)  # two patches change places
    assert (model(x) - model(swapped)).abs().max() > 1e-3
    torch.nn.init.zeros_(model.position.weight)  # and now nothing tells them apart
    torch.testing.assert_close(model(x), model(swapped))
    with pytest.raises(ValueError, match=r"got an image of \(9, 8\) pixels, and this model is for 8"):
        model(torch.randn(1, 1, 9, 8))
    with pytest.raises(ValueError, match="patches of 3 pixels do not tile an image of 8"):
        vit(size=8, patch=3)


@pytest.mark.parametrize("variant", [name for name, one in VARIANTS.items() if "[" in one.spell()])
def test_parallel_branches_export_compile_and_have_the_stream_s_gradient(variant):
    torch.manual_seed(0)
    model, tokens = transformer_lm(vocabulary=5, context=6, depth=1, width=16, variant=variant).eval(), torch.randint(5, (2, 6))
    logits = model(tokens)
    torch.testing.assert_close(torch.export.export(model, (tokens,)).module()(tokens), logits)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(tokens), logits)
    seen = []
    for part in model.stack.parts("A") + model.stack.parts("M"):
        part.register_full_backward_hook(lambda module, given, back: seen.append(back[0]))
    model(tokens).square().sum().backward()
    assert torch.equal(*seen)  # a sum hands the same gradient to every branch


def test_mix_ln_is_post_norm_first_and_pre_norm_after():
    stack = transformer_lm(vocabulary=5, depth=8, width=16, variant="mix_ln").stack
    assert [block.word for block in stack.blocks] == ["Aan Man"] * 2 + ["nAa nMa"] * 6 and stack.last is not None
    half = transformer_lm(vocabulary=5, depth=8, width=16, variant="mix_ln", share=0.5).stack
    assert [block.word for block in half.blocks].count("Aan Man") == 4


def test_layernorm_scaling_counts_layers_and_not_branches():
    model = transformer_lm(vocabulary=5, depth=4, width=16, variant="layernorm_scaling")
    found = [part.gain for part in model.stack.modules() if isinstance(part, LayerScale)]
    assert found == pytest.approx([layer**-0.5 for layer in (1, 1, 2, 2, 3, 3, 4, 4)])


def test_variants_with_norms_inside_their_branches_have_the_model_s_norm_there():
    for variant, inside in (
        ("sub_ln", ["inner_norm"]),
        ("normformer", ["inner_norm"]),
        ("olmo2", ["query_norm", "key_norm"]),
        ("qk_norm", ["query_norm", "key_norm"]),
        ("qk_norm_per_head", ["query_norm", "key_norm"]),
        ("hybridnorm", ["query_norm", "key_norm", "value_norm"]),
    ):
        model = transformer_lm(vocabulary=5, depth=2, width=16, variant=variant, norm="rms")
        named = [(name.rpartition(".")[2], part) for name, part in model.stack.named_modules()]
        named = [(name, part) for name, part in named if name in inside and part is not None]
        assert {name for name, _ in named} == set(inside), variant
        assert all(type(part) is RMSNorm for _, part in named), variant


def test_one_query_norm_is_as_wide_as_the_stream_and_the_other_as_a_head():
    for variant, wide in (("qk_norm", 16), ("olmo2", 16), ("qk_norm_per_head", 4)):
        model = transformer_lm(vocabulary=5, depth=1, width=16, heads=4, variant=variant)
        found = [part for part in model.modules() if isinstance(part, SelfAttention)]
        assert [(one.query_norm.weight.shape, one.key_norm.weight.shape) for one in found] == [((wide,), (wide,))], variant


def test_all_layers_of_a_value_residual_mix_in_the_values_of_the_first():
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=5, context=6, depth=3, width=16, variant="value_residual").eval()
    tokens = torch.randint(5, (2, 6))
    attentions = [part for part in model.modules() if isinstance(part, SelfAttention)]
    plain = transformer_lm(vocabulary=5, context=6, depth=3, width=16, variant="pre").eval()
    plain.load_state_dict(model.state_dict(), strict=False)

    def mixed(own, first):
        for one in attentions:
            one.value_mix.data.copy_(torch.tensor([own, first]))
        return model(tokens)

    torch.testing.assert_close(mixed(1.0, 0.0), plain(tokens))
    shared = mixed(0.0, 1.0)
    assert not torch.allclose(shared, plain(tokens))
    attentions[1].query_key_value.weight.data[32:] *= 2  # its own values are not used
    torch.testing.assert_close(model(tokens), shared)
    attentions[0].query_key_value.weight.data[32:] *= 2
    assert not torch.allclose(model(tokens), shared)
    cache = Cache()
    steps = [model(part, cache) for part in tokens.split([3, 1, 2], 1)]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens))


def test_a_shortcut_that_changes_shape_is_padded_and_then_scaled_gated_or_dropped():
    for variant, parameters_of_merge in (
        ("constant_scaling", 0),
        ("dropout_shortcut", 0),
        ("exclusive_gating", 8 * 16 + 16),
        ("convolution_shortcut", 8 * 16),
    ):
        block = cifar_resnet(depth=14, width=8, variant=variant).eval().stack.blocks[2]
        nn.init.zeros_(block.get_parameter("4_n.weight"))
        merge, x = block.get_submodule("5_a"), torch.rand(2, 8, 6, 6)
        assert parameters(merge) == parameters_of_merge
        if variant in ("constant_scaling", "dropout_shortcut"):
            torch.testing.assert_close(block(x)[:, :8], x[:, :, ::2, ::2] / 2)
            assert not block(x)[:, 8:].any()
        assert block(x).shape == (2, 16, 3, 3)


def check_strides(model, size):
    """Each stage after the first halves the image, once, in its first block."""
    sizes = [size]
    hooks = [block.register_forward_hook(lambda module, inputs, y: sizes.append(y.shape[-1])) for block in model.stack.blocks]
    model.eval()(torch.randn(1, model.stem[0].in_channels, 32, 32))
    for hook in hooks:
        hook.remove()
    widths = [block.out_width for block in model.stack.blocks]
    changes = [i for i, width in enumerate(widths) if i and width != widths[i - 1]]
    expected = [size] + [size // 2 ** sum(change <= i for change in changes) for i in range(len(widths))]
    assert sizes == expected, f"the blocks give images of {sizes[1:]}, not {expected[1:]}"


@pytest.mark.parametrize(
    "options", [dict(), dict(variant="residual"), dict(variant="bottleneck_v1", depth=20), dict(shortcut="projection")]
)
def test_every_stage_of_a_cifar_resnet_strides_once(options):
    check_strides(cifar_resnet(**options), 32)


@pytest.mark.parametrize("depth", [18, 50])
def test_every_stage_of_a_resnet_strides_once(depth):
    check_strides(resnet(depth=depth, classes=10, width=8), 8)


def kinds(modules):
    return [type(module).__name__ for module in modules]


@pytest.mark.parametrize(
    ("variant", "stem", "last", "tail"),
    [
        ("resnet_v2", ["Convolution"], "BatchNorm", ["ReLU"]),
        ("pyramid", ["Convolution"], "BatchNorm", ["ReLU"]),
        ("residual", ["Convolution"], "BatchNorm", ["ReLU"]),
        ("post", ["Convolution"], "NoneType", ["ReLU"]),
        ("plain", ["Convolution"], "NoneType", ["BatchNorm", "ReLU"]),
        ("resnet_v1", ["Convolution", "BatchNorm", "ReLU"], "NoneType", []),
        ("norm_after_add", ["Convolution", "BatchNorm", "ReLU"], "NoneType", []),
        ("relu_before_add", ["Convolution", "BatchNorm", "ReLU"], "BatchNorm", ["ReLU"]),
        ("relu_only_pre", ["Convolution", "BatchNorm"], "BatchNorm", ["ReLU"]),
    ],
)
def test_stem_and_tail_follow_from_the_word(variant, stem, last, tail):
    model = cifar_resnet(depth=8, variant=variant)
    assert (kinds(model.stem), type(model.stack.last).__name__, kinds(model.tail)) == (stem, last, tail)


def test_a_v2_projection_takes_the_pre_activated_input_and_a_v1_projection_is_normalised():
    words = [block.word for block in cifar_resnet(shortcut="projection").stack.blocks]
    assert words == ["nrCnrCa"] * 3 + (["nr|CnrCa"] + ["nrCnrCa"] * 2) * 2
    v1 = cifar_resnet(variant="resnet_v1", shortcut="projection").stack.blocks[3].get_submodule("5_a").shortcut
    assert kinds(v1) == ["Conv2d", "BatchNorm"] and v1[0].stride == (2, 2)


def test_shortcuts_without_parameters_are_the_default():
    with_projections = parameters(cifar_resnet(shortcut="projection")) - parameters(cifar_resnet())
    assert with_projections == 16 * 32 + 32 * 64


def test_the_norms_of_the_branch_and_of_the_merge_are_set_apart():
    model = cifar_resnet(depth=8, variant="rskip_norm", order=3, norm="batch", merge_norm="group(groups=1)")
    block = model.stack.blocks[1]
    assert block.word == "Fananan" and kinds(block.get_submodule(f"{i}_n") for i in (2, 4, 6)) == ["GroupNorm"] * 3
    assert kinds(block.get_submodule("0_F").children())[0] == "BatchNorm"


def test_branches_are_independent_modules_with_their_own_weights():
    first, second = cifar_resnet(depth=14).stack.blocks[:2]
    assert not torch.equal(first.get_parameter("2_C.weight"), second.get_parameter("2_C.weight"))


def mlp_classifier(**options):
    return mlp_stack(inputs=4, classes=2, **options)


def language_model(**options):
    return transformer_lm(vocabulary=5, width=32, **options)


@pytest.mark.parametrize(("model", "count"), [(mlp_classifier, 1), (language_model, 2)])
def test_models_tell_the_variant_how_many_residual_branches_there_are(model, count):
    block = model(depth=5, variant="keel").stack.blocks[0]
    assert block.get_submodule("2_a").skip == 5 * count
    deep, shallow = (model(depth=depth, variant="deepnorm").stack.blocks[0] for depth in (64, 4))
    assert deep.get_submodule("1_a").skip / shallow.get_submodule("1_a").skip == pytest.approx(16 ** (1 / 4))

    def spread(block):
        return next(tensor for role, tensor in init.roles(block) if role == "output").std().item()

    assert spread(deep) / spread(shallow) == pytest.approx(16 ** (-1 / 4), rel=0.15)


MACARON = Variant(
    "macaron",
    "Macaron",
    "nMha nAa nMha",
    "Half an MLP on both sides of the attention.",
    "gulati2020conformer",
    options={"depth": 12, "block": 12},
    settings=lambda depth, block: {"a": add(skip=depth, gain=block)},
    init="magneto",
    tags=("transformer",),
)


def test_the_number_of_residual_branches_is_the_word_s(monkeypatch):
    monkeypatch.setitem(VARIANTS, "macaron", MACARON)
    used = []
    monkeypatch.setattr(init, "magneto", lambda module, depth: used.append(depth))
    monkeypatch.setitem(init.RULES, "magneto", init.magneto)
    for build_model in (
        partial(transformer_lm, vocabulary=5),
        partial(bert, vocabulary=5, heads=4),
        partial(vit, size=8, patch=4, classes=3, heads=4),
    ):
        blocks = build_model(depth=4, width=16, variant="macaron").stack.blocks
        merges = [[part for part in block.modules() if isinstance(part, Add)] for block in blocks]
        assert [{(part.skip, part.gain) for part in own} for own in merges] == [{(12, 3 * layer)} for layer in (1, 2, 3, 4)]
    seq2seq(vocabulary=5, depth=4, width=16, heads=4, variant="pre", initialisation="magneto")
    transformer_lm(vocabulary=5, depth=4, width=16, variant="dual", initialisation="magneto")
    assert used == [12, 12, 12, 8, 12, 8]


@pytest.mark.parametrize("build_model", [partial(mlp_stack, inputs=4, classes=2, depth=3), partial(cifar_resnet, depth=20)])
def test_branches_side_by_side_count_one_by_one_in_every_model(monkeypatch, build_model):
    used = []
    beside = dataclasses.replace(MACARON, word="[nF,nF]a", tags=("generic",))
    monkeypatch.setitem(VARIANTS, "beside", beside)
    monkeypatch.setitem(init.RULES, "magneto", lambda module, depth: used.append(depth))
    stack = build_model(variant="beside", width=4).stack
    merges = [block.parts("a")[0] for block in stack.blocks]
    count = 2 * len(stack.blocks)
    assert [(merge.skip, merge.gain) for merge in merges] == [(count, gain) for gain in range(2, count + 1, 2)]
    assert used == [count]


def test_mlp_stack_starts_with_a_stream_of_unit_rms():
    model = mlp_stack(inputs=192, classes=10, width=512)
    assert model.stem(torch.randn(64, 192)).square().mean().sqrt().item() == pytest.approx(1, rel=0.1)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_a_language_model_starts_near_uniform_and_sees_only_the_past():
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=50, context=12, depth=2, width=64).eval()
    tokens = torch.randint(50, (8, 12))
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), torch.randint(50, (96,)))
    assert loss.item() == pytest.approx(math.log(50) + 0.5, abs=0.3)
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    assert torch.equal(model(tokens)[:, :7], model(changed)[:, :7])
    assert model(tokens[:, :5]).shape == (8, 5, 50)


def test_a_tied_head_is_the_embedding_and_starts_near_uniform():
    torch.manual_seed(0)
    for positions in ("learned", "rotary"):
        model = transformer_lm(vocabulary=50, context=12, depth=2, width=64, positions=positions, tie=True).eval()
        assert model.head.weight is model.token.weight and copy.deepcopy(model).head.weight is not model.head.weight
        assert sum(parameter.shape == (50, 64) for parameter in model.parameters()) == 1
        tokens = torch.randint(50, (8, 12))
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), torch.randint(50, (96,)))
        assert loss.item() == pytest.approx(math.log(50) + 0.5, abs=0.4)
        assert model.token.weight.std().item() == pytest.approx(64**-0.5, rel=0.1)


def test_a_decoder_in_groups_exports_compiles_and_runs_in_16_bits():
    torch.manual_seed(0)
    model = transformer_lm(
        vocabulary=11,
        context=8,
        depth=2,
        width=16,
        heads=4,
        key_value_heads=2,
        head_width=6,
        positions="rotary",
        theta=500,
        norm="rms",
        activation="swiglu",
        expansion=40 / 16,
        bias="qkv",
        tie=True,
    ).eval()
    assert model.stack.blocks[0].get_submodule("5_M").output.in_features == 40
    assert {name.split("A.")[-1] for name, _ in model.named_parameters() if "bias" in name} == {"query_key_value.bias"}
    tokens = torch.randint(11, (2, 8))
    with torch.no_grad():
        logits = model(tokens)
        torch.testing.assert_close(torch.export.export(model, (tokens,)).module()(tokens), logits)
        for dynamic in (None, True):  # sizes that are numbers, and sizes that are symbols
            compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
            torch.testing.assert_close(compiled(tokens), logits)
        for dtype in (torch.float16, torch.bfloat16):
            half = copy.deepcopy(model).to(dtype)(tokens)
            assert half.dtype == dtype
            torch.testing.assert_close(half.float(), logits, rtol=0.1, atol=0.1)


def test_the_head_of_bert_has_the_activation_of_its_mlps():
    torch.manual_seed(0)
    model = bert(vocabulary=11, context=8, depth=1, width=16, heads=2, activation="relu")
    h, given = torch.randn(2, 3, 16), []
    model.head.norm.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    model.head(h, model.embedding.token.weight)
    assert torch.equal(given[0], model.head.hidden(h).relu())


def test_dropout_acts_on_every_branch_and_only_in_training():
    model, tokens = transformer_lm(vocabulary=5, depth=1, width=16, dropout=0.5), torch.randint(5, (2, 4))
    assert model.stack.blocks[0].word == "nAda nMda"
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_post_norm_has_no_last_norm_and_pre_norm_has_one():
    assert transformer_lm(vocabulary=5, depth=1, width=16, variant="post").stack.last is None
    assert isinstance(transformer_lm(vocabulary=5, depth=1, width=16, norm="rms").stack.last, nn.RMSNorm)


def test_a_recursive_transformer_shares_affine_maps_inside_a_branch_only():
    block = transformer_lm(vocabulary=5, depth=1, width=16, variant="rskip_norm", affine="shared").stack.blocks[0]
    assert isinstance(block, Block) and block.word == "Aanan Manan"
    gains = [block.get_submodule(name).weight for name in ("2_n", "4_n", "8_n", "10_n")]
    assert gains[0] is gains[1] and gains[2] is gains[3] and gains[0] is not gains[2]
    last = transformer_lm(vocabulary=5, depth=1, width=16, variant="rskip_norm", affine="last").stack.blocks[0]
    assert [last.get_submodule(name).weight is None for name in ("2_n", "4_n", "8_n", "10_n")] == [True, False, True, False]


def test_the_initialisation_can_be_chosen():
    model = mlp_stack(inputs=4, classes=2, variant="res_post", initialisation="zero_last_gain")
    x = torch.randn(3, 64)
    assert torch.equal(model.stack.blocks[0](x), x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("vgg", IMAGES), "unknown model 'vgg'; allowed: mlp_stack, cifar_resnet"),
        (lambda: build("mlp_stack", IMAGES, heads=4), "'mlp_stack' has no option 'heads'; allowed: depth, width, variant"),
        (lambda: build("cifar_resnet", IMAGES, variant="pre", order=2), "no option 'order'"),
        (lambda: build("resnet", IMAGES, variant="pre"), "no option 'variant'; allowed: depth, norm, width"),
        (
            lambda: build("transformer_lm", IMAGES),
            "needs vocabulary and context .* has inputs, size, classes; use a data set of sequences",
        ),
        (lambda: build("cifar_resnet", SEQUENCES), "needs inputs and classes .* use a data set of images"),
        (lambda: mlp_stack(inputs=4, classes=2, variant="resnet_v1"), "takes a generic variant"),
        (lambda: mlp_stack(inputs=4, classes=2, depth=0), "depth=0"),
        (lambda: cifar_resnet(depth=21), r"depth=21 .* allowed: 6n \+ 2, for example 8, 20, 56, 110"),
        (lambda: cifar_resnet(depth=20.0), "depth=20.0"),
        (lambda: cifar_resnet(variant="densenet"), "that are added; 'densenet'"),
        (lambda: cifar_resnet(variant="encoder_pre"), "that are added; 'encoder_pre'"),
        (lambda: cifar_resnet(norm="layer"), "width of an image; use 'layer2d'"),
        (lambda: cifar_resnet(variant="dual"), "the stream of 'dual' has one width; take mlp_stack"),
        (lambda: cifar_resnet(variant="post", merge_norm="rms"), "width of an image"),
        (lambda: cifar_resnet(merge_norm="layer2d"), "no norm to set in 'resnet_v2'"),
        (lambda: cifar_resnet(variant="residual", merge_norm="batch"), "no norm to set in 'residual'"),
        (lambda: cifar_resnet(bottleneck=True), "needs three convolutions a block"),
        (lambda: cifar_resnet(shortcut="identity"), "identity shortcut"),
        (lambda: cifar_resnet(weight="unit"), "'unit' is unknown"),
        (lambda: cifar_resnet(variant="fixup", weight="norm"), "which weight norm and weight standardisation cannot"),
        (lambda: transformer_lm(vocabulary=5, width=16, variant="fixup"), "fixup is derived for ReLU"),
        (lambda: build("cifar_resnet", IMAGES, variant="stochastic_depth", block=3), "no option 'block'"),
        (lambda: resnet(depth=20), "depth=20; allowed: 10, 14, 18, 26, 34, 50, 101, 152, 200"),
        (lambda: transformer_lm(vocabulary=5, variant="decoder_pre"), "needs a word of F"),
        (lambda: transformer_lm(vocabulary=5, width=16, norm="batch"), r"norm='batch' .* positions of tokens; .* batch\(dim=-1\)"),
        (lambda: vit(norm="group(groups=4)"), r"norm='group\(groups=4\)' works along axis 1, .* allowed: layer, rms, "),
        (lambda: transformer_lm(vocabulary=5, bias="qk"), "bias='qk'; allowed: True, False, 'attention', 'mlp', 'qkv'"),
        (lambda: transformer_lm(vocabulary=5, heads=...), "heads=...; no tensor tells the number of heads"),
        (
            lambda: transformer_lm(vocabulary=5, context=3, width=16)(torch.zeros(1, 4, dtype=torch.long)),
            "got 4 tokens.*context is 3",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_model_can_be_built_by_name():
    language = {"transformer_lm", "bert", "seq2seq"}
    assert set(MODELS) == {"mlp_stack", "cifar_resnet", "resnet", "cifar_densenet", "densenet", "vit"} | language
    assert build("resnet", IMAGES, width=8)(torch.randn(2, 1, 32, 32)).shape == (2, 10)


def test_the_simple_transformer_averages_and_its_positions_are_as_alike_as_asked():
    torch.manual_seed(0)
    stack = simple_transformer("nAa nMa", 2, 16)
    attend = stack.blocks[0].parts("A")[0]
    x = alike_positions(0.3, 256, positions=40)
    mean = torch.einsum("btd,bsd->bts", x, x)[:, 0, 1:].mean() / 256
    assert x.shape == (8, 40, 256) and mean.item() == pytest.approx(0.3, abs=0.06)
    y = attend(torch.randn(1, 5, 16))
    assert torch.allclose(y, y.mean(1, keepdim=True).expand_as(y), atol=1e-6)
    assert stack.last is not None and simple_transformer("nAa nMa", 1, 16, last=None).last is None
    with pytest.raises(ValueError, match="cosine is 2: give a number from 0"):
        alike_positions(2, 16)
