"""Changing the norms of models that are not ours: every place is found, nothing else moves, and errors change nothing."""

import copy
import math
import warnings
from functools import partial

import numpy
import pytest
import timm
import timm.layers
import torch
import torchvision
from torch import nn

from resnorm import check_conversion, cifar_resnet, convert_norm
from resnorm.norms import GroupNorm, InstanceNorm


def kinds(model, of):
    return [module for module in model.modules() if isinstance(module, of)]


def moved(model):
    """Gains and biases away from 1 and 0, where a lost one would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


TAKES_A_NORM = ("resnet18", "resnet50", "mobilenet_v3_small")


@pytest.mark.parametrize("name", [*TAKES_A_NORM, "densenet121", "googlenet"])
def test_group_norm_as_torchvision_builds_it(name):
    """Converted from batch norm, or built by torchvision with group norm: one function, and the same weights."""
    options = dict(aux_logits=False, init_weights=False) if name == "googlenet" else {}
    model = moved(getattr(torchvision.models, name)(num_classes=7, **options)).eval()
    count = len(kinds(model, nn.BatchNorm2d))
    parameters = {key: value.clone() for key, value in model.named_parameters()}
    assert convert_norm(model, "group(groups=8)") is model
    assert not kinds(model, nn.BatchNorm2d) and len(kinds(model, nn.GroupNorm)) == count
    assert all(torch.equal(value, parameters[key]) for key, value in model.named_parameters())
    x = torch.randn(2, 3, 64, 64)
    if name in TAKES_A_NORM:
        theirs = getattr(torchvision.models, name)(norm_layer=partial(nn.GroupNorm, 8), num_classes=7)
        theirs.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(x), theirs.eval()(x))
    # No sample depends on another one any more, and every gain is trained.
    model.train()
    model.apply(lambda module: module.eval() if isinstance(module, nn.Dropout) else None)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-4)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_layer_norms_of_a_vision_transformer_become_rms_norms():
    model = moved(torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=5))
    gains = [module.weight.clone() for module in kinds(model, nn.LayerNorm)]
    convert_norm(model, "rms", of="layer")
    assert [torch.equal(one.weight, gain) for one, gain in zip(kinds(model, nn.RMSNorm), gains, strict=True)] == [True] * 5
    assert not kinds(model, nn.LayerNorm) and model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_a_fused_norm_keeps_its_activation():
    theirs = timm.create_model(
        "resnetv2_50", num_classes=4, norm_layer=partial(timm.layers.GroupNormAct, num_groups=8), layers=[1, 1, 1, 1]
    )
    model = moved(timm.create_model("resnetv2_50", num_classes=4, layers=[1, 1, 1, 1]))
    convert_norm(model, "group(groups=8)")
    for mine, its in zip(model.parameters(), theirs.parameters(), strict=True):
        its.data.copy_(mine)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(x), theirs.eval()(x))


def test_our_own_blocks_take_it_too():
    model = cifar_resnet(variant="rskip_norm", merge_norm="layer2d", depth=8, width=8)
    convert_norm(model, "group(groups=2)")
    x = torch.randn(2, 3, 16, 16)
    model.train()
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-5)
    convert_norm(model, "none", of="layer")  # also the ones that the closed form would skip
    assert not kinds(model, nn.LayerNorm) and torch.isfinite(model(x)).all()


def test_a_function_of_the_width_mode_dtype_and_frozen_gains():
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), nn.BatchNorm2d(12).eval()).double()
    model[1].weight.requires_grad_(False)
    convert_norm(model, lambda width: nn.GroupNorm(math.gcd(8, width), width))
    first, second = model[1], model[2]
    assert first.num_groups == 4 and first.weight.dtype == torch.float64
    assert not first.weight.requires_grad and first.bias.requires_grad
    assert first.training and not second.training


def test_a_shared_norm_stays_shared_and_a_norm_alone_is_returned():
    shared = nn.BatchNorm1d(4)
    model = nn.ModuleDict(dict(a=nn.Sequential(shared), b=shared, c=nn.BatchNorm1d(4)))
    convert_norm(model, "layer")
    assert model["a"][0] is model["b"] and model["c"] is not model["b"]
    assert isinstance(convert_norm(nn.BatchNorm2d(8), "group"), GroupNorm)


def test_frozen_batch_norms_by_class_and_several_kinds_at_once():
    frozen = torchvision.ops.FrozenBatchNorm2d(8)
    frozen.weight.fill_(3)
    model = nn.Sequential(frozen, nn.BatchNorm2d(8), nn.InstanceNorm2d(8), InstanceNorm(8), GroupNorm(8))
    convert_norm(model, "instance", of=(torchvision.ops.FrozenBatchNorm2d, "batch"))
    assert [type(module) for module in model[:2]] == [InstanceNorm] * 2 and (model[0].weight == 3).all()
    convert_norm(model, "layer2d", of="instance")
    assert [type(module).__name__ for module in model] == ["LayerNorm2d"] * 4 + ["GroupNorm"]


@pytest.mark.parametrize(
    ("model", "to", "of", "message"),
    [
        (nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(12)), "group(groups=8)", "batch", "'1' cannot .* groups=8 .* width=12"),
        (nn.Sequential(nn.LayerNorm(8)), "rms", "batch", "no norm of='batch'; its norms are LayerNorm"),
        (nn.Sequential(nn.Linear(8, 8)), "rms", "batch", "its norms are none"),
        (nn.Sequential(nn.BatchNorm2d(8)), "group", "bn", "of='bn'; allowed: batch, group, instance, layer, rms"),
        (nn.Sequential(nn.BatchNorm2d(8)), "grupo", "batch", "'0' cannot be converted: unknown normaliser 'grupo'"),
        (nn.Sequential(nn.LayerNorm((8, 4))), "rms", "layer", r"over \(8, 4\) has no single width"),
    ],
)
def test_what_cannot_be_converted_is_named_and_nothing_changes(model, to, of, message):
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        convert_norm(model, to, of)
    assert str(model) == str(before)


# --- kept: type, device, mode, hooks, statistics, absent gains


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("norm", "of"),
    [
        (partial(nn.InstanceNorm2d, 8), "instance"),
        (partial(nn.BatchNorm2d, 8, affine=False, track_running_stats=False), "batch"),
        (partial(nn.LayerNorm, 8, elementwise_affine=False), "layer"),
        (partial(nn.LayerNorm, 8), "layer"),
        (partial(nn.LayerNorm, 8, bias=False), "layer"),
        (partial(nn.RMSNorm, 8), "rms"),
        (partial(nn.GroupNorm, 2, 8), "group"),
    ],
)
@pytest.mark.parametrize("to", ["layer", "rms", "batch", "dyt", "none", "scalar_bias"])
def test_type_device_and_absent_gains_are_kept(norm, of, to, device):
    old = norm(dtype=torch.float64).to(device)
    model = nn.Sequential(nn.Conv2d(3, 8, 1).double().to(device), old)
    names = {name for name, value in old.named_parameters() if to not in ("rms", "none", "scalar_bias") or name == "weight"}
    convert_norm(model, to, of)
    new = model[1]
    for tensor in (*new.parameters(), *new.buffers()):
        assert tensor.device.type == device and tensor.dtype in (torch.float64, torch.int64)
    if to in ("layer", "rms", "batch"):
        assert {name for name, _ in new.named_parameters()} == names
    if device == "cpu":
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        assert model(x).dtype == torch.float64


def test_parameters_stay_the_same_objects():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    gain, bias = model[0].weight, model[0].bias
    convert_norm(model, "group")
    assert model[0].weight is gain and model[1].weight is gain and model[0].bias is bias and not bias.requires_grad


def test_frozen_norms_stay_frozen_whatever_they_become():
    model = nn.Sequential(nn.BatchNorm2d(8)).requires_grad_(False).eval()
    convert_norm(model, "dyt")
    assert not any(parameter.requires_grad for parameter in model.parameters()) and not model[0].training


def test_batch_norm_keeps_its_statistics_and_their_momentum():
    old = nn.SyncBatchNorm(8, momentum=0.3)
    old.running_mean.copy_(torch.arange(8.0))
    made = convert_norm(nn.Sequential(old), "batch")[0]
    assert made.momentum == 0.3 and torch.equal(made.running_mean, torch.arange(8.0)) and made.num_batches_tracked == 0
    assert convert_norm(nn.BatchNorm2d(8, momentum=0.3), "batch(momentum=0.5)").momentum == 0.5
    made = convert_norm(nn.Sequential(nn.BatchNorm2d(8, track_running_stats=False)), "batch")[0].eval()
    x = 3 + torch.randn(4, 8, 5, 5)
    assert not list(made.buffers()) and made(x).mean().abs() < 1e-5
    for momentum, of, to, says in ((None, "batch", "batch", "momentum=None"), (0.1, "instance", "instance", "running statistics")):
        norm = (nn.BatchNorm2d if of == "batch" else nn.InstanceNorm2d)(8, momentum=momentum, track_running_stats=True)
        with pytest.raises(ValueError, match=says):
            convert_norm(nn.Sequential(norm), to, of)


def test_a_batch_norm_without_bias_gets_none():
    norm = nn.BatchNorm2d(8)
    norm.register_parameter("bias", None)  # nn.BatchNorm2d(8, bias=False) of torch 2.15
    for to in ("group", "batch", "layer", lambda width: nn.GroupNorm(4, width), "dyt"):
        model = convert_norm(nn.Sequential(copy.deepcopy(norm)), to)
        assert model[0].bias is None and model[0].weight is not None
        assert torch.isfinite(model(torch.randn(2, 8, 3, 3))).all()
    assert convert_norm(nn.BatchNorm2d(8, affine=False), "group(affine=True)").bias is not None


def test_hooks_move_and_their_handles_still_remove_them():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    old, seen = model[1], []
    handles = [
        old.register_forward_hook(lambda module, inputs, output: seen.append(("after", type(module).__name__))),
        old.register_forward_pre_hook(lambda module, inputs, options: seen.append(("before", len(options))), with_kwargs=True),
        old.register_full_backward_hook(lambda module, inputs, outputs: seen.append(("backward", len(outputs)))),
        old.register_state_dict_post_hook(lambda module, state, prefix, local: seen.append(("saved", prefix))),
        old.register_load_state_dict_pre_hook(lambda module, *rest: seen.append(("loaded", type(module).__name__))),
    ]
    convert_norm(model, "group")
    del old
    model(torch.randn(2, 3, 4, 4, requires_grad=True)).sum().backward()
    model.load_state_dict(model.state_dict())
    assert seen == [("before", 0), ("after", "GroupNorm"), ("backward", 1), ("saved", "1."), ("loaded", "GroupNorm")]
    for handle in handles:
        handle.remove()
    model(torch.randn(2, 3, 4, 4))
    assert len(seen) == 5


# --- the axis


def test_the_axis_is_the_old_norm_s():
    image, tokens = torch.randn(2, 8, 5, 8), torch.randn(2, 5, 8)
    for to, name in (("rms", "RMSNorm2d"), ("layer", "LayerNorm2d"), ("dyt", "DynamicTanh2d"), ("layer2d", "LayerNorm2d")):
        model = convert_norm(nn.Sequential(nn.BatchNorm2d(8)), to)
        assert type(model[0]).__name__ == name and model(image).shape == image.shape
    for to, name in (("rms2d", "RMSNorm"), ("layer2d", "LayerNorm"), ("batch", "BatchNorm"), ("seed", "SeeDNorm")):
        model = convert_norm(nn.Sequential(nn.LayerNorm(8)), to, of="layer")
        assert type(model[0]).__name__ == name
    batch = convert_norm(nn.Sequential(nn.LayerNorm(8)), "batch", of="layer")(tokens)
    torch.testing.assert_close(batch.mean((0, 1)), torch.zeros(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("norm", "to", "of", "says"),
    [
        (nn.LayerNorm(8), "group", "layer", "'0' .*LayerNorm works along the last axis .* 'group' along axis 1"),
        (nn.LayerNorm(8), "batch(dim=1)", "layer", "works along axis -1, and 'batch.dim=1.' along axis 1"),
        (nn.BatchNorm2d(8), "seed", "batch", "works along axis 1 .* 'seed' along the last axis"),
        (nn.BatchNorm2d(8), lambda width: nn.RMSNorm(width), "batch", "BatchNorm2d works along axis 1, and RMSNorm"),
        (nn.LayerNorm(8), lambda width: nn.GroupNorm(2, width), "layer", "LayerNorm works along axis -1, and GroupNorm"),
        (nn.BatchNorm2d(1), "layer", "batch", "layer norm of one feature"),
        (nn.LazyBatchNorm2d(), "group", "batch", "'0' .*lazy"),
    ],
)
def test_a_norm_along_another_axis_is_refused(norm, to, of, says):
    model = nn.Sequential(norm)
    with pytest.raises(ValueError, match=says):
        convert_norm(model, to, of)
    assert model[0] is norm


def test_widths_of_numpy_are_widths():
    model = nn.Sequential(nn.BatchNorm2d(numpy.int64(8)))
    assert convert_norm(model, "group")[0].num_channels == 8


class TwoLayouts(nn.LayerNorm):
    """A layer norm of images in one class with one of tokens, as in the ConvNeXt of its authors."""

    def __init__(self, width, first):
        super().__init__(width)
        self.first = first

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.first else super().forward(x)


@pytest.mark.parametrize("to", ["rms", "batch", "layer"])
@pytest.mark.parametrize("of", ["layer", TwoLayouts])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_layouts_in_one_class(to, of, device):
    model = moved(nn.ModuleList([TwoLayouts(8, True), TwoLayouts(8, False), timm.layers.LayerNorm2d(8)])).to(device)
    if of is not TwoLayouts or to != "layer":
        convert_norm(model, to, of)
    convert_norm(model, to, nn.LayerNorm) if to == "layer" else None
    image = torch.randn(2, 8, 5, 3, device=device)
    for norm, x in ((model[0], image), (model[1], image.movedim(1, -1)), (model[2], image)):
        assert norm(x).shape == x.shape
    if to == "layer" and device == "cpu":
        torch.testing.assert_close(model[0](image), model[2](image), atol=2, rtol=1)  # both along the channels


@pytest.mark.parametrize("to", ["rms", "batch", "none"])
def test_convnext_of_three_libraries(to):
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32])
    settings = [torchvision.models.convnext.CNBlockConfig(*sizes) for sizes in ((8, 16, 1), (16, 24, 1), (24, None, 1))]
    for model in (
        torchvision.models.ConvNeXt(settings, num_classes=3),
        timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=3),
        transformers.ConvNextForImageClassification(config),
    ):
        x = torch.randn(2, 3, 64, 64)
        convert_norm(model, to, of="layer", example=x)
        assert not kinds(model, nn.LayerNorm)


# --- what a norm computes is tried out


class OffsetRMSNorm(nn.Module):
    """RMS norm whose gain is 1 + weight, as in Gemma, or with a factor that nobody else has."""

    def __init__(self, width, factor=1.0):
        super().__init__()
        self.weight, self.factor = nn.Parameter(0.3 * torch.randn(width)), factor

    def forward(self, x):
        return self.factor * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class NormOfTwo(nn.LayerNorm):
    def forward(self, x, batch=None):
        return super().forward(x)


class NormThatCounts(nn.BatchNorm2d):
    """More in training than a batch norm."""

    def forward(self, x):
        return super().forward(x) * (2 if self.training else 1)


def test_gains_that_are_offsets_from_one():
    model, x = nn.Sequential(OffsetRMSNorm(8)), torch.randn(2, 5, 8)
    expected, state = model(x), torch.get_rng_state()
    convert_norm(model, "rms", of="rms")
    torch.testing.assert_close(model(x), expected)
    assert torch.equal(torch.get_rng_state(), state) and isinstance(model[0], nn.RMSNorm)
    convert_norm(model, lambda width: OffsetRMSNorm(width), of="rms")  # and back
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(ValueError, match="'0' .*OffsetRMSNorm was tried on random inputs and computes none of batch"):
        convert_norm(nn.Sequential(OffsetRMSNorm(8, factor=2.0)), "rms", of="rms")
    # Named by its class it may compute what it likes, as long as the gain comes last.
    made = convert_norm(nn.Sequential(OffsetRMSNorm(8, factor=2.0)), "layer", of=OffsetRMSNorm)
    assert (made[0].weight - 1).abs().mean() < 0.5


@pytest.mark.parametrize("name", ["Gemma", "Gemma2", "Nemotron", "Llama", "Cohere", "T5", "Olmo"])
def test_language_models_of_hugging_face(name):
    """To the same kind of norm: the same function, whatever the class stores; to another kind: it runs."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
    sizes |= dict(head_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2) if name == "T5" else sizes
    config = getattr(transformers, f"{name}Config")(vocab_size=20, **sizes)
    model = moved(getattr(transformers, "T5EncoderModel" if name == "T5" else f"{name}Model")(config)).eval()
    of = "layer" if name in ("Nemotron", "Cohere", "Olmo") else "rms"
    eps = {"Gemma": 1e-6, "Gemma2": 1e-6, "Llama": 1e-6, "T5": 1e-6}.get(name, 1e-5)
    tokens = torch.arange(12).view(2, 6)
    expected = model(tokens).last_hidden_state
    bias = [parameter for key, parameter in model.named_parameters() if key.endswith("norm.bias")]
    convert_norm(model, f"{of}(eps={eps})", of)
    classes = {type(one).__name__ for one in model.modules() if "Norm" in type(one).__name__}
    assert classes == {"LayerNorm" if of == "layer" else "RMSNorm"}
    torch.testing.assert_close(model(tokens).last_hidden_state, expected, rtol=1e-4, atol=1e-4)
    convert_norm(model, "rms" if of == "layer" else "layer", of, example=tokens)
    assert name != "Nemotron" or bias


@pytest.mark.parametrize(
    ("norm", "of", "says"),
    [
        (NormOfTwo(8), "layer", r"NormOfTwo is called with more than its input \(x, batch\)"),
        (NormThatCounts(8), "batch", "computes more in training than batch norm does"),
        (timm.layers.SplitBatchNorm2d(8), "batch", "holds modules that it does not simply call after itself: aux_bn"),
        (timm.layers.EvoNorm2dB0(8), timm.layers.EvoNorm2dB0, "EvoNorm2dB0 has parameters beside gain and bias.*: v"),
        (timm.layers.FilterResponseNormTlu2d(8), timm.layers.FilterResponseNormTlu2d, "parameters beside gain and bias.*tau"),
        (nn.utils.parametrizations.weight_norm(nn.LayerNorm(8), dim=0), "layer", "has been replaced"),
    ],
)
def test_a_norm_that_cannot_be_read_is_refused(norm, of, says):
    model = nn.Sequential(norm)
    with pytest.raises(ValueError, match=f"'0' cannot be converted: .*{says}"):
        convert_norm(model, "group", of)
    assert model[0] is norm


@pytest.mark.parametrize(
    "name",
    [
        "BatchNormAct2d",
        "GroupNormAct",
        "GroupNorm1Act",
        "LayerNormAct",
        "LayerNormAct2d",
        "RmsNormAct2d",
        "FrozenBatchNormAct2d",
        "LayerNorm2d",
        "RmsNorm",
        "RmsNorm2d",
        "LayerNormFp32",
        "GroupNorm1",
    ],
)
def test_norms_of_timm_keep_activation_axis_and_gain(name):
    cls = getattr(timm.layers, name, None) or getattr(timm.layers.norm_act, name)
    options = dict(act_layer=nn.Tanh) if "Act" in name else {}
    old = moved(cls(8, **options, **(dict(num_groups=2) if name == "GroupNormAct" else {})))
    kind = next(kind for kind in ("batch", "group", "layer", "rms") if kind in name.lower())
    x = torch.randn((2, 5, 8) if name in ("LayerNormAct", "RmsNorm", "LayerNormFp32") else (2, 8, 5, 3))
    to = f"group(groups={old.num_groups}, eps={old.eps})" if kind == "group" else f"{kind}(eps={old.eps})"
    expected = old.eval()(x)
    model = convert_norm(nn.Sequential(old), to, of=cls if "Frozen" in name else kind).eval()
    assert not kinds(model, cls)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    if "Act" in name:
        assert model[0].act is old.act and next(iter(model[0].state_dict())) == "norm.weight"


# --- modules that read their norm


MODES = {
    "train": lambda model, *a, **k: model.train()(*a, **k),
    "eval": lambda model, *a, **k: model.eval()(*a, **k),
    "no_grad": torch.no_grad()(lambda model, *a, **k: model.eval()(*a, **k)),
    "inference": torch.inference_mode()(lambda model, *a, **k: model.eval()(*a, **k)),
    "compiled": torch.no_grad()(lambda model, *a, **k: torch.compile(model.eval(), backend="eager")(*a, **k)),
}


@pytest.mark.parametrize("to", ["batch(dim=-1)", "rms", "none", "dyt", "layer(affine=False)", lambda width: nn.RMSNorm(width)])
@pytest.mark.parametrize("first", [False, True])
def test_an_encoder_s_fused_path_does_not_take_the_new_norm_for_a_layer_norm(to, first):
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about nested tensors, before anything of ours
        model = moved(nn.TransformerEncoder(layer, 2))
    convert_norm(model, to, of="layer")
    x = 3 + 2 * torch.randn(4, 5, 16)
    model.train()(x)  # running statistics of their own
    padding = torch.arange(5).expand(4, 5) >= torch.tensor([[5], [3], [4], [5]])
    for options in ({}, dict(src_key_padding_mask=padding), dict(mask=nn.Transformer.generate_square_subsequent_mask(5))):
        with torch.no_grad():
            expected = x
            for one in model.eval().layers:
                mask = dict(attn_mask=options.get("mask"), key_padding_mask=options.get("src_key_padding_mask"), need_weights=True)
                attend = lambda y, one=one, mask=mask: one.self_attn(y, y, y, **mask)[0]  # noqa: E731
                feed = lambda y, one=one: one.linear2(torch.relu(one.linear1(y)))  # noqa: E731
                expected = expected + attend(one.norm1(expected)) if first else one.norm1(expected + attend(expected))
                expected = expected + feed(one.norm2(expected)) if first else one.norm2(expected + feed(expected))
        for mode in ("eval", "no_grad", "inference", "compiled"):
            made = MODES[mode](model, x, **options)
            kept = ~padding if "src_key_padding_mask" in options else torch.ones(4, 5, dtype=torch.bool)
            torch.testing.assert_close(made[kept], expected[kept], rtol=1e-4, atol=1e-4)
    check_conversion(model, x)


def test_an_encoder_that_still_has_layer_norms_keeps_its_fused_path():
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.LayerNorm(16))
    convert_norm(model, "layer", of="layer")
    assert model[0].activation_relu_or_gelu == 1
    layers = nn.ModuleList([nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)])
    layers[1].norm1 = nn.RMSNorm(16)
    convert_norm(layers, "rms2d", of="rms")
    assert [layer.activation_relu_or_gelu for layer in layers] == [1, 0]
    assert torch.isfinite(MODES["no_grad"](layers[1], torch.randn(2, 3, 16))).all()


class Reads(nn.Module):
    """A module whose forward computes with its norm's tensors in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.norm, self.norms, self.way = nn.BatchNorm2d(8), nn.ModuleList([nn.BatchNorm2d(8)]), way


class ReadsAtOnce(Reads):
    def forward(self, x):
        return x * self.norm.weight[:, None, None]


class ReadsByAMethod(Reads):
    def scaled(self, x):
        norm = self.norm
        return x / (norm.running_var + norm.eps).sqrt()[:, None, None]

    def forward(self, x):
        return self.scaled(x)


class ReadsInALoop(Reads):
    def forward(self, x):
        for _, norm in enumerate(self.norms):
            x = x + norm.bias[:, None, None]
        return x


class ReadsByAName(Reads):
    def forward(self, x):
        return x + getattr(self, "norm").bias[:, None, None]  # noqa: B009


class ReadsByAProperty(Reads):
    @property
    def last(self):
        return self.norms[-1]

    def forward(self, x):
        return self.last(x) * self.last.weight[:, None, None]


class ReadsWithoutSource(Reads):
    exec("def forward(self, x):\n    return self.norm(x) + self.norm.weight.sum()")


class ReadsHarmlessly(Reads):
    def fuse(self):  # not on the way from forward
        return self.norm.running_var

    def forward(self, x):
        x = self.norm(x.to(self.norm.weight.dtype))
        return self.norms[0](x) if self.norm.bias is not None and self.norm.training else x


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (ReadsAtOnce, "ReadsAtOnce.forward reads norm.weight"),
        (ReadsByAMethod, "ReadsByAMethod.scaled reads norm.(eps|running_var)"),
        (ReadsInALoop, "ReadsInALoop.forward reads norms.bias"),
        (ReadsByAName, "ReadsByAName.forward reads norm.bias"),
        (ReadsByAProperty, "ReadsByAProperty.forward reads norms.weight"),
        (ReadsWithoutSource, "ReadsWithoutSource.forward reads norm.weight"),
    ],
)
def test_a_module_that_computes_with_its_norm_s_tensors_is_refused(cls, says):
    model = nn.Sequential(cls("way"))
    before = str(model)
    with pytest.raises(ValueError, match=says):
        convert_norm(model, "group")
    assert str(model) == before


def test_a_module_that_asks_for_a_type_only_is_converted():
    assert not kinds(convert_norm(nn.Sequential(ReadsHarmlessly("way")), "group"), nn.BatchNorm2d)
    model = nn.Sequential(ReadsHarmlessly("way"))
    with pytest.raises(ValueError, match="'0.norm' .*ReadsHarmlessly.forward reads norm.weight; .*reads norm.bias"):
        convert_norm(model, "none")  # whose type nobody can ask for
    assert len(kinds(model, nn.BatchNorm2d)) == 2


def test_an_owner_further_out_and_a_plain_list_are_seen():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential()
            self.body.add_module("norm", nn.BatchNorm2d(8))

        def forward(self, x):
            return self.body(x) * self.body.norm.weight.sum()

    class Holder(nn.Sequential):
        def __init__(self):
            super().__init__(nn.BatchNorm2d(8))
            self.all_norms = [self[0]]

    with pytest.raises(ValueError, match="'0.body.norm' .*Owner.forward reads body.norm.weight"):
        convert_norm(nn.Sequential(Owner()), "group")
    with pytest.raises(ValueError, match="'0' .*all_norms holds it in a plain Python object"):
        convert_norm(Holder(), "group")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_check_leaves_padding_out_that_nested_tensors_drop():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    padding = torch.arange(5) >= torch.tensor([[3], [5]])
    check_conversion(encoder, torch.randn(2, 5, 8), src_key_padding_mask=padding)
    encoder.layers[1].norm2.forward = lambda x: 2 * x
    with pytest.raises(ValueError, match="a fused path reads a norm that it does not call"):
        check_conversion(encoder, torch.randn(2, 5, 8), src_key_padding_mask=padding)


# --- activations in place, groups of one value


class PreAct(nn.Module):
    def __init__(self, inplace, norm):
        super().__init__()
        self.norm, self.relu, self.conv = norm, nn.ReLU(inplace=inplace), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv(self.relu(self.norm(x)))


class PutsOutItsInput(nn.Module):
    def forward(self, x):
        return x if self.training else x[:]


@pytest.mark.parametrize(
    "to",
    [
        "none",
        lambda width: nn.Identity(),
        lambda width: PutsOutItsInput(),
        lambda width: nn.Sequential(),
        "dyt",
        "scalar_bias",
        "rms",
        "layer",
        "group(groups=2)",
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_an_activation_in_place_leaves_the_skip_alone(to, affine):
    models = [nn.Sequential(*(PreAct(inplace, nn.BatchNorm2d(4, affine=affine)) for _ in range(2))) for inplace in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(2, 4, 8, 8)
    outputs = [convert_norm(model, to)(x.clone()) for model in models]
    torch.testing.assert_close(*outputs)
    outputs[0].sum().backward()


@pytest.mark.parametrize("training", [True, False])
def test_a_group_of_one_value_is_an_error(training):
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)).train(training)
    convert_norm(model, "group(groups=32)")
    with pytest.raises(ValueError, match=r"groups=32 of width=32 leave one value a group .* shape \(64, 32\)"):
        model(torch.randn(64, 10))


# --- the check


def test_an_example_that_does_not_pass_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    x, before, norm, state = torch.randn(6, 10), str(model), model[1], copy.deepcopy(model.state_dict())
    seed = torch.get_rng_state()
    fired = []
    handle = norm.register_forward_hook(lambda *_: fired.append(1))
    with pytest.raises(ValueError, match="Sequential is left as it was, .*pass in training ends with ValueError: group norm"):
        convert_norm(model, "group(groups=32)", example=x)
    fired.clear()
    assert str(model) == before and model[1] is norm and model.training and torch.equal(seed, torch.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model(torch.randn(6, 10))
    handle.remove()
    model(torch.randn(6, 10))
    assert fired == [1]
    convert_norm(model, "group(groups=4)", example=(torch.randn(6, 10),))
    convert_norm(model, "batch", of="group", example=dict(input=torch.randn(6, 10)))


class Wide(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.norm = kind, nn.LayerNorm(4)

    def forward(self, x):
        if self.kind == "infinite":
            return self.norm(x) / 0
        if self.kind == "fused" and not self.norm._forward_hooks and not self.training:
            return x
        y = self.norm(x)
        return y.half() if self.kind == "half" else y[:1] if self.kind == "short" else y


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("infinite", "pass in training is not finite"),
        ("fused", "not what its modules compute one by one"),
        ("half", "the output in training was .*float32.* and is .*float16"),
        ("short", r"was .*\(3, 4\).* and is .*\(1, 4\)"),
    ],
)
def test_the_check_sees(kind, says):
    check_conversion(Wide("fine"), torch.randn(3, 4), like=Wide("fine"))
    with pytest.raises(ValueError, match=says):
        check_conversion(Wide(kind), torch.randn(3, 4), like=Wide("fine"))


@pytest.mark.parametrize("to", ["instance", "group(groups=4)", "layer2d", "rms2d", "none", lambda width: nn.GroupNorm(4, width)])
@pytest.mark.parametrize("old", [nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d])
def test_one_sample_without_a_batch_is_refused_in_the_place_of_an_instance_norm(old, to):
    """As many rows as channels: read as a batch it would come out wrong, in the right shape."""
    model = nn.Sequential(old(8, affine=True))
    calls = []
    model[0].register_forward_pre_hook(lambda *given: calls.append(1))
    sample = torch.randn([8] * (model[0]._get_no_batch_dim()))
    with pytest.raises(ValueError, match="unsqueeze"):
        convert_norm(model, to, of="instance", example=sample)
    assert type(model[0]) is old and model(sample).shape == sample.shape, "a refused model is left as it was"
    copied = copy.deepcopy(convert_norm(model, to, of="instance", example=sample.unsqueeze(0)))
    calls.clear()
    with pytest.raises(ValueError, match=r"got the shape \(8, 8.*\): give a batch of one"):
        copied(sample)
    assert copied(sample.unsqueeze(0)).shape == (1, *sample.shape) and len(calls) == 2
