"""Each normaliser against its definition: the axes it averages over, in training and in eval, and what it refuses."""

import pytest
import torch
from torch import nn

from resnorm.norms import NORMS, call_form, norm, weight_norm, weight_standardisation

AXES = {"batch": (0, 2, 3), "layer": (3,), "layer2d": (1,), "instance": (2, 3), "rms": (3,)}
SHAPE = (4, 8, 6, 8)


def standardised(x, axes, mean=True):
    mu = x.mean(axes, keepdim=True) if mean else 0.0
    return (x - mu) / ((x - mu).square().mean(axes, keepdim=True) + 1e-12).sqrt()


@pytest.mark.parametrize("name", AXES)
def test_averages_over_its_axes_and_no_others(name):
    x = 3 * torch.randn(SHAPE) + 2
    y = norm(name, 8, eps=1e-12)(x)
    torch.testing.assert_close(y, standardised(x, AXES[name], mean=name != "rms"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_group_norm_averages_over_its_group(groups):
    x = 3 * torch.randn(SHAPE) + 2
    y = norm("group", 8, groups=groups, eps=1e-12)(x)
    expected = standardised(x.view(4, groups, -1), (2,)).view(SHAPE)
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)


def test_layer_norm_over_channels_is_not_one_group():
    x = torch.randn(SHAPE)
    a, b = norm("layer2d", 8)(x), norm("group", 8, groups=1)(x)
    assert ((a - b).norm() / b.norm()) > 0.2


@pytest.mark.parametrize("name", NORMS)
def test_the_affine_map_is_one_gain_and_one_bias_a_channel(name):
    module = norm(name, 8)
    axis = -1 if name in ("layer", "rms") else 1
    x = torch.randn(SHAPE)
    plain = module(x)
    if name == "none":
        assert torch.equal(plain, x) and not list(module.parameters())
        return
    gain = torch.arange(1.0, 9.0)
    with torch.no_grad():
        module.weight.copy_(gain)
        if name != "rms":
            module.bias.copy_(-gain)
    shape = (8,) if axis == -1 else (8, 1, 1)
    torch.testing.assert_close(module(x), plain * gain.view(shape) - (0 if name == "rms" else gain.view(shape)), atol=1e-5, rtol=1e-5)
    assert not list(norm(name, 8, affine=False).parameters())


def test_batch_norm_uses_running_statistics_in_eval_only():
    module = norm("batch", 3, momentum=0.5)
    x = 5 + 2 * torch.randn(16, 3)
    module(x)
    torch.testing.assert_close(module.running_mean, 0.5 * x.mean(0))
    torch.testing.assert_close(module.running_var, 0.5 + 0.5 * x.var(0))
    y = module.eval()(x[:1])
    torch.testing.assert_close(y, (x[:1] - module.running_mean) / (module.running_var + 1e-5).sqrt())


@pytest.mark.parametrize("name", [n for n in NORMS if n != "batch"])
def test_every_other_norm_treats_samples_alone_and_eval_as_training(name):
    module = norm(name, 8)
    x = torch.randn(SHAPE)
    torch.testing.assert_close(module(x)[:1], module(x[:1]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(module(x), module.eval()(x))


def test_batch_norm_on_tokens():
    x = torch.randn(4, 5, 8) * 3 + 1
    y = norm("batch", 8, dim=-1, eps=1e-12)(x)
    torch.testing.assert_close(y, standardised(x, (0, 1)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "options", "x", "says"), [
    ("batch", {}, torch.randn(1, 8, 4, 4), "batch of 1"),
    ("instance", {}, torch.randn(4, 8), "spatial positions"),
    ("instance", {}, torch.randn(4, 8, 1, 1), "spatial positions"),
])
def test_impossible_inputs_are_refused(name, options, x, says):
    with pytest.raises(ValueError, match=says):
        norm(name, 8, **options)(x)


def test_batch_norm_takes_one_sample_in_eval():
    assert norm("batch", 8).eval()(torch.randn(1, 8, 4, 4)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize(("name", "options", "error", "says"), [
    ("group", {"groups": 3}, ValueError, r"groups=3 does not divide width=8; allowed: \[1, 2, 4, 8\]"),
    ("bacth", {}, ValueError, "unknown normaliser 'bacth'; allowed: batch"),
    ("layer", {"groups": 3}, TypeError, r"layer\(groups=3\).*unexpected keyword"),
    ("batch", {"momentum": None}, ValueError, "momentum=None"),
    ("batch", {"dim": 2}, ValueError, "dim=2"),
    ("group(groups", {}, ValueError, "cannot read"),
    ("group(4)", {}, ValueError, "cannot read"),
])
def test_impossible_settings_are_refused(name, options, error, says):
    with pytest.raises(error, match=says):
        norm(name, 8, **options)


def test_string_form():
    assert call_form("group(groups=4, affine=False)") == ("group", {"groups": 4, "affine": False})
    assert norm("group(groups=4)", 8).num_groups == 4
    with pytest.raises(ValueError, match="cannot read"):
        call_form("group(groups=__import__('os'))")


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 3, 3)])
def test_weight_norm_and_standardisation(shape):
    weight, gain = 2 * torch.randn(shape) + 1, torch.rand(5) + 0.5
    torch.testing.assert_close(weight_norm(weight, gain).flatten(1).norm(dim=1), gain)
    standard = weight_standardisation(weight, eps=1e-12).flatten(1)
    torch.testing.assert_close(standard.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.var(1, unbiased=False), torch.ones(5), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weight_standardisation(7 * weight + 3, eps=1e-12), weight_standardisation(weight, eps=1e-12),
                               atol=1e-4, rtol=1e-3)


def test_channels_last_is_kept_by_layer_norm_over_channels():
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    assert norm("layer2d", 8)(x).is_contiguous(memory_format=torch.channels_last)


def test_state_dict_names_are_torch_s_own():
    assert list(norm("batch", 4).state_dict()) == list(nn.BatchNorm2d(4).state_dict())
    assert list(norm("layer", 4).state_dict()) == list(nn.LayerNorm(4).state_dict())


@pytest.mark.parametrize(("eps", "expected"), [(1e-5, 0.03), (1e-6, 0.10), (1e-12, 1.0)])
def test_eps_decides_what_becomes_of_a_small_input(eps, expected):
    x = torch.randn(64, 4096)
    x = 1e-4 * x / x.square().mean(1, keepdim=True).sqrt()
    rms = norm("layer", 4096, eps=eps)(x).square().mean().sqrt().item()
    assert rms == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", ["batch", "layer2d", "group", "group(groups=1)", "instance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_on_images_stay_in_channels_last_forward_and_backward(name, dtype):
    module, x = norm(name, 16), torch.randn(3, 16, 5, 4)
    y = module(x)
    gradient = torch.randn_like(y)
    expected = torch.autograd.grad(y, list(module.parameters()), gradient)
    last = x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    made = module(last)
    gradient = gradient.to(dtype).contiguous(memory_format=torch.channels_last)
    of_input, *of_parameters = torch.autograd.grad(made, [last, *module.parameters()], gradient)
    assert made.dtype == dtype
    for tensor in (made, of_input):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    tolerance = dict(rtol=0.05, atol=0.05) if dtype == torch.bfloat16 else dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.float(), y, **tolerance)
    for a, b in zip(of_parameters, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
