"""Changing the norms of models that are not ours: every place is found, nothing else moves, and errors change nothing."""

import copy
import math
from functools import partial

import pytest
import timm
import timm.layers
import torch
import torchvision
from torch import nn

from resnorm import cifar_resnet, convert_norm
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
