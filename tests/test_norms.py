"""Each normaliser against its definition: the axes it averages over, in training and in eval, and what it refuses."""

import copy
import platform
import shutil

import numpy
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from resnorm import compiled
from resnorm.norms import (
    LAST_AXIS,
    NORMS,
    adaptive_instance_norm,
    call_form,
    channels_last,
    norm,
    weight_norm,
    weight_standardisation,
)

AXES = {"batch": (0, 2, 3), "layer": (3,), "layer2d": (1,), "instance": (2, 3), "rms": (3,), "rms2d": (1,)}
SHAPE = (4, 8, 6, 8)


def standardised(x, axes, mean=True):
    mu = x.mean(axes, keepdim=True) if mean else 0.0
    return (x - mu) / ((x - mu).square().mean(axes, keepdim=True) + 1e-12).sqrt()


@pytest.mark.parametrize("name", AXES)
def test_averages_over_its_axes_and_no_others(name):
    x = 3 * torch.randn(SHAPE) + 2
    y = norm(name, 8, eps=1e-12)(x)
    torch.testing.assert_close(y, standardised(x, AXES[name], mean=not name.startswith("rms")), atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("name", [name for name in NORMS if name not in ("none", "scalar_bias", "noisy_batch")])
def test_the_affine_map_is_one_gain_and_one_bias_a_channel(name):
    module = norm(name, 8)
    shape = (8,) if name in LAST_AXIS else (8, 1, 1)
    x, gain = torch.randn(SHAPE), torch.arange(1.0, 9.0)
    expected = module(x) * gain.view(shape)
    with torch.no_grad():
        module.weight.copy_(gain)
        if not name.startswith("rms") and name != "seed":
            module.bias.copy_(-gain)
            expected = expected - gain.view(shape)
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)
    left = [key for key, _ in norm(name, 8, affine=False).named_parameters()]
    assert left == {"dyt": ["alpha"], "dyt2d": ["alpha"], "derf": ["alpha", "shift"]}.get(name, [])


def test_what_stands_in_a_norms_place():
    x = torch.randn(SHAPE)
    assert torch.equal(norm("none", 8)(x), x) and not list(norm("none", 8).parameters())
    shift = norm("scalar_bias", 8)
    torch.nn.init.constant_(shift.bias, 0.7)
    torch.testing.assert_close(shift(x), x + 0.7)
    torch.testing.assert_close(norm("dyt", 8, alpha=0.3)(x), torch.tanh(0.3 * x))
    torch.testing.assert_close(norm("dyt2d(alpha=2.0)", 8)(x), torch.tanh(2 * x))
    derf = norm("derf", 8, alpha=0.3)
    torch.nn.init.constant_(derf.shift, 0.2)
    torch.testing.assert_close(derf(x), torch.erf(0.3 * x + 0.2))
    for name in ("dyt", "derf"):
        with pytest.raises(ValueError, match="alpha=0; .* give a number above 0"):
            norm(name, 8, alpha=0)


def test_seednorm_is_the_rms_norm_with_a_gain_that_sees_the_input():
    x = 3 * torch.randn(4, 5, 8)
    module = norm("seed", 8)
    torch.testing.assert_close(module(x), norm("rms", 8)(x))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    gain = module.alpha * torch.tanh((x * module.beta).sum(-1, keepdim=True)) + module.weight
    torch.testing.assert_close(module(x), gain * norm("rms", 8)(x))
    assert not torch.allclose(module(2 * x), module(x))


def test_batch_norm_uses_running_statistics_in_eval_only():
    module = norm("batch", 3, momentum=0.5)
    x = 5 + 2 * torch.randn(16, 3)
    module(x)
    torch.testing.assert_close(module.running_mean, 0.5 * x.mean(0))
    torch.testing.assert_close(module.running_var, 0.5 + 0.5 * x.var(0))
    y = module.eval()(x[:1])
    torch.testing.assert_close(y, (x[:1] - module.running_mean) / (module.running_var + 1e-5).sqrt())


@pytest.mark.parametrize("name", [n for n in NORMS if n not in ("batch", "noisy_batch")])
def test_every_other_norm_treats_samples_alone_and_eval_as_training(name):
    module = norm(name, 8)
    x = torch.randn(SHAPE)
    torch.testing.assert_close(module(x)[:1], module(x[:1]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(module(x), module.eval()(x))


def test_batch_norm_on_tokens():
    x = torch.randn(4, 5, 8) * 3 + 1
    y = norm("batch", 8, dim=-1, eps=1e-12)(x)
    torch.testing.assert_close(y, standardised(x, (0, 1)), atol=1e-4, rtol=1e-4)
    assert y.is_contiguous()  # so that GPT-2's `x.view` takes it
    with pytest.raises(ValueError, match="batch of 1"):
        norm("batch", 8, dim=-1)(x[:1])


@pytest.mark.parametrize(
    ("name", "options", "x", "says"),
    [
        ("batch", {}, torch.randn(1, 8, 4, 4), "batch of 1"),
        ("instance", {}, torch.randn(4, 8), "spatial positions"),
        ("instance", {}, torch.randn(4, 8, 1, 1), "spatial positions"),
    ],
)
def test_impossible_inputs_are_refused(name, options, x, says):
    with pytest.raises(ValueError, match=says):
        norm(name, 8, **options)(x)


def test_batch_norm_takes_one_sample_in_eval():
    assert norm("batch", 8).eval()(torch.randn(1, 8, 4, 4)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("group", {"groups": 3}, ValueError, r"groups=3 does not divide width=8; allowed: \[1, 2, 4, 8\]"),
        ("bacth", {}, ValueError, "unknown normaliser 'bacth'; allowed: batch"),
        ("layer", {"groups": 3}, TypeError, r"layer\(groups=3\).*unexpected keyword"),
        ("batch", {"momentum": None}, ValueError, "momentum=None"),
        ("batch", {"dim": 2}, ValueError, "dim=2"),
        ("group(groups", {}, ValueError, "cannot read"),
        ("group(4)", {}, ValueError, "cannot read"),
    ],
)
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
    torch.testing.assert_close(
        weight_standardisation(7 * weight + 3, eps=1e-12), weight_standardisation(weight, eps=1e-12), atol=1e-4, rtol=1e-3
    )


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


def gradients(module, x, gradient):
    """Output, gradient of the input, and gradients of the parameters."""
    x = x.detach().requires_grad_()
    y = module(x)
    return y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], gradient)


def random_affine(name, width=16):
    module, generator = norm(name, width), torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module


LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture
def always(monkeypatch):
    """The kernel also where copies would be faster."""
    if compiled.library(channels_last.SOURCE) is None:
        pytest.skip("no C++ compiler makes the kernel here")
    monkeypatch.setattr(channels_last, "SMALL", 0)


def test_a_compiler_makes_the_kernel():
    if platform.system() == "Linux" and shutil.which("g++"):
        assert compiled.library(channels_last.SOURCE) is not None


@pytest.mark.parametrize("name", ["group(groups=8)", "group(groups=1)", "instance"])
@pytest.mark.parametrize("ratio", [0, 1, 3, 30, 1000])
@pytest.mark.parametrize("space", [(12, 10), (3, 6, 8), (56, 56)])
@pytest.mark.parametrize("kernel", [True, False])
def test_norms_in_channels_last_are_as_exact_as_contiguous(name, ratio, space, kernel, always, monkeypatch):
    """torch's kernel for channels_last on CPU takes E[x^2] - E[x]^2, and is off by 0.65 where the mean is 1,000 deviations."""
    if not kernel:
        monkeypatch.setattr(compiled, "library", lambda source: None)
    torch.manual_seed(0)
    module, last = random_affine(name), LAST[2 + len(space)]
    x, gradient = torch.randn(3, 16, *space) + ratio, torch.randn(3, 16, *space)
    exact = gradients(copy.deepcopy(module).double(), x.double(), gradient.double())
    contiguous = gradients(module, x, gradient)
    ours = gradients(module, x.contiguous(memory_format=last), gradient.contiguous(memory_format=last))
    assert all(one.is_contiguous(memory_format=last) for one in ours[:2])
    for a, b, c in zip(ours, contiguous, exact, strict=True):
        assert (a - c).abs().max() <= 1.5 * (b - c).abs().max() + 2e-7 * c.abs().max()


@pytest.mark.parametrize("name", ["group(groups=8)", "instance"])
@pytest.mark.parametrize("kind", ["zero border", "one group", "one sample", "mostly constant", "constant"])
def test_norms_in_channels_last_are_exact_where_means_differ(name, kind, always):
    torch.manual_seed(0)
    module, x = random_affine(name), torch.randn(4, 16, 32, 32)
    if kind == "zero border":
        x = nn.functional.pad(x[..., 2:-2, 2:-2] + 30, (2, 2, 2, 2))
    elif kind == "one group":
        x[2, 4:6] += 300
    elif kind == "one sample":
        x[1] += 3
    else:
        spots = torch.rand_like(x) < (0.002 if kind == "mostly constant" else 0)
        x = torch.where(spots, x, 10.0)
    exact = copy.deepcopy(module).double()(x.double())
    made = module(x.contiguous(memory_format=torch.channels_last))
    assert (made - exact).abs().max() <= 1.5 * (module(x) - exact).abs().max() + 2e-7 * exact.abs().max()


@pytest.mark.parametrize(
    "shape",
    [(1, 3, 9, 7), (2, 24, 5, 4), (5, 2, 130, 3), (2, 33, 8, 8), (1, 16, 40, 41), (7, 100, 1, 3), (2, 6, 3, 4, 5), (3, 2048, 2, 2)],
)
@pytest.mark.parametrize("affine", [True, False])
def test_channels_last_takes_any_channels_groups_and_pixels(shape, affine, always):
    width = shape[1]
    x, gradient = torch.randn(shape) + 2, torch.randn(shape)
    for groups in {1, 2 - width % 2, 4 if width % 4 == 0 else 1, width}:
        module = norm("group", width, groups=groups, affine=affine)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        last = x.contiguous(memory_format=LAST[x.dim()])
        assert channels_last.takes(last, groups, module.weight, module.bias)
        exact = gradients(copy.deepcopy(module).double(), x.double(), gradient.double())
        for a, b in zip(gradients(module, last, gradient), exact, strict=True):
            assert (a - b).abs().max() <= 2e-6 * max(1, b.abs().max())


def test_channels_last_takes_odd_strides_expanded_gradients_and_some_gradients_only(always):
    image = torch.randn(5, 4, 16).permute(2, 0, 1)[None]  # as it is read from a file
    module = random_affine("group")
    torch.testing.assert_close(module(image), module(image.contiguous()), atol=1e-6, rtol=1e-5)
    for wanted in ("x", "weight", "bias"):
        given = dict(x=image.clone(memory_format=torch.channels_last), weight=module.weight.detach(), bias=module.bias.detach())
        given[wanted] = given[wanted].clone().requires_grad_()
        found = []
        for x in (given["x"], given["x"].contiguous()):
            y = torch.func.functional_call(module, {name: given[name] for name in ("weight", "bias")}, (x,))
            found.append(torch.autograd.grad(y.sum() + y[0, 0, 0, 0], given[wanted])[0])
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    empty = torch.empty(0, 16, 5, 4).contiguous(memory_format=torch.channels_last)
    assert module(empty).shape == empty.shape
    with pytest.raises(RuntimeError):
        module(torch.randn(2, 8, 5, 4).contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("name", ["group(groups=8)", "instance"])
def test_a_gradient_penalty_and_many_gradients_go_through_channels_last(name, always):
    module, x = random_affine(name), torch.randn(3, 16, 5, 4)
    results = []
    for one, given in ((module, x.contiguous(memory_format=torch.channels_last)), (copy.deepcopy(module).double(), x.double())):
        given = given.clone().requires_grad_()
        first = torch.autograd.grad(one(given).pow(3).sum(), [given, *one.parameters()], create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first).sqrt()
        results.append((*first, *torch.autograd.grad(penalty, [given, *one.parameters()])))
    assert results[0][0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(*results, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y, many = module(last), torch.randn(4, *x.shape)
    batched = torch.autograd.grad(y, last, many, is_grads_batched=True, retain_graph=True)[0]
    for one, gradient in zip(batched, many, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(y, last, gradient, retain_graph=True)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # torch's own, of its tracer and of forward derivatives
def test_what_watches_or_transforms_tensors_meets_torchs_own_operators(always, monkeypatch):
    module, x = random_affine("group"), torch.randn(3, 16, 5, 4).contiguous(memory_format=torch.channels_last)
    expected = module(x)
    (slope,) = torch.autograd.grad(module(x.requires_grad_()).pow(3).sum(), x)
    x = x.detach()
    monkeypatch.setattr(channels_last, "group_norm", None)
    close = dict(atol=1e-4, rtol=1e-4)
    of_x = torch.func.grad(lambda x: module(x).pow(3).sum())
    torch.testing.assert_close(of_x(x), slope, **close)
    pixels = torch.randn(2, 3, 5, 4, 16).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(torch.func.vmap(of_x)(pixels)[0], of_x(pixels[0]), **close)
    _, tangent = torch.func.jvp(module, (x,), (torch.ones_like(x),))
    assert tangent.abs().max() < 1e-4, "a constant is taken off"
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected, **close)
    torch.testing.assert_close(torch.jit.trace(module, x, check_trace=False)(x), expected, **close)
    torch.testing.assert_close(make_fx(module)(x)(x), expected, **close)
    with FakeTensorMode():
        assert norm("group", 16)(torch.empty(x.shape, memory_format=torch.channels_last)).shape == x.shape
    assert copy.deepcopy(module).to("meta")(x.to("meta")).shape == x.shape


def test_nan_and_infinity_stay_in_their_group_in_channels_last(always):
    for bad in (float("nan"), float("inf")):
        x = torch.randn(3, 16, 5, 4).contiguous(memory_format=torch.channels_last)
        x[1, 5, 2, 2] = bad
        assert torch.equal(norm("group", 16)(x).isnan(), norm("group", 16)(x.contiguous()).isnan())


@pytest.mark.parametrize("name", ["group(groups=8)", "instance"])
def test_a_sample_in_channels_last_has_the_same_bits_beside_any_neighbour_and_on_any_number_of_threads(name, always):
    module, last = random_affine(name), torch.channels_last
    x = torch.randn(3, 16, 70, 70, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=last)
    gradient = torch.randn(x.shape).contiguous(memory_format=last)
    expected, threads = gradients(module, x, gradient), torch.get_num_threads()
    beside = torch.cat([x[:1], x[1:] + 100]).contiguous(memory_format=last)
    for one in (beside, x[:1].clone(memory_format=last)):
        made = gradients(module, one, gradient[: len(one)])
        assert torch.equal(made[0][0], expected[0][0]) and torch.equal(made[1][0], expected[1][0])
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            assert all(torch.equal(a, b) for a, b in zip(gradients(module, x, gradient), expected, strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "setting",
    [
        "layer(eps=-1)",
        "rms(eps=1e999)",
        "seed(eps=-1)",
        "instance(eps='small')",
        "batch(momentum=2)",
        "batch(momentum=-1)",
        "batch(momentum=0)",
        "batch(dim=True)",
        "batch(track_running_stats=1)",
        "batch(affine=None)",
        "group(affine='no')",
        "layer(affine=0)",
        "group(groups=2.0)",
        "group(groups=0)",
        "dyt(alpha=1e999)",
        "derf(alpha=-1)",
        "none(copy='yes')",
        "noisy_batch(noise=1e999)",
    ],
)
def test_values_that_no_norm_can_have_are_named(setting):
    option, value = setting.split("(")[1].rstrip(")").split("=")
    with pytest.raises(ValueError, match=f"{option}=({value}|inf).*(give|allowed|axis is)"):
        norm(setting, 8)


def test_options_that_are_not_there_are_named_and_none_is_dropped():
    with pytest.raises(TypeError, match=r"noisy_batch\(momemtum=0.1\): .*; options: noise, eps, momentum, affine, dim, track"):
        norm("noisy_batch(momemtum=0.1)", 8)
    for text in ("layer(**{'eps': 1})", "group(groups=2, groups=4)"):
        with pytest.raises(ValueError, match="cannot read"):
            norm(text, 8)
    for width in (0, -1, 8.0, "8", True):
        with pytest.raises(ValueError, match=f"layer norm: width={width!r}"):
            norm("layer", width)
    assert norm("group", numpy.int64(16)).num_channels == 16


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_in_another_type_computes_in_it(name, dtype):
    x = torch.randn(SHAPE, dtype=dtype)
    assert norm(name, 8).to(dtype)(x).dtype == dtype


# --- instruments and styles


def test_noisy_batch_norm_is_batch_norm_in_eval_and_without_noise():
    x = 3 * torch.randn(SHAPE) + 2
    noisy, silent, plain = norm("noisy_batch", 8), norm("noisy_batch(noise=0)", 8), norm("batch", 8)
    torch.testing.assert_close(silent(x), plain(x))
    assert (noisy(x) - plain(x)).abs().mean() > 0.1
    noisy.load_state_dict(plain.state_dict())
    torch.testing.assert_close(noisy.eval()(x), plain.eval()(x))
    with pytest.raises(ValueError, match="noise=-1"):
        norm("noisy_batch(noise=-1)", 8)


def test_the_noise_has_the_mean_and_the_deviation_that_its_equation_says():
    torch.manual_seed(0)
    layer, x = norm("noisy_batch", 400, affine=False), torch.randn(64, 400, 8, 8)
    first, again = (layer(x).transpose(0, 1).flatten(1) for _ in range(2))
    # mu_c ~ U(-0.5, 0.5) has the deviation 12^-1/2; sigma_c ~ U(1, 1.25) the mean 1.125; s ~ N(sigma_c, 0.01), m ~ U(mu_c +- 0.1).
    assert first.mean(1).std().item() == pytest.approx(12**-0.5, rel=0.1)
    power = 1 / 12 * 0.25**2 + 1.125**2 + 0.1**2 + 0.2**2 / 12
    assert first.var(1).mean().item() == pytest.approx(power, rel=0.02)
    assert (first.mean(1) - again.mean(1)).std().item() == pytest.approx((2 / 12) ** 0.5, rel=0.1), "every call draws anew"


def test_adaptive_instance_norm_takes_the_statistics_of_the_style():
    content, style = torch.randn(4, 3, 6, 8), 3 * torch.randn(4, 3, 5, 5) + 2
    y = adaptive_instance_norm(content, style)
    torch.testing.assert_close(y.mean((2, 3)), style.mean((2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(y.std((2, 3), correction=0), style.std((2, 3), correction=0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(adaptive_instance_norm(content, content), content, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(adaptive_instance_norm(2 * content - 1, style), y, atol=1e-3, rtol=1e-3)
    one = adaptive_instance_norm(content, style[:1])
    torch.testing.assert_close(one.mean((2, 3)), style[:1].mean((2, 3)).expand(4, 3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        ((4, 3, 6, 6), (4, 2, 6, 6), "same channels"),
        ((4, 3, 6, 6), (2, 3, 6, 6), "one\\s+style for each"),
        ((4, 3), (4, 3), "content of shape .4, 3. has one or none"),
        ((4, 3, 6, 6), (4, 3, 1, 1), "style of shape"),
    ],
)
def test_adaptive_instance_norm_refuses_what_does_not_match(content, style, message):
    with pytest.raises(ValueError, match=message):
        adaptive_instance_norm(torch.randn(content), torch.randn(style))


@pytest.mark.parametrize("name", ["instance", "group(groups=3)"])
def test_one_image_as_it_is_read_from_a_file(name):
    image = torch.rand(8, 8, 3).permute(2, 0, 1)[None]  # strides that torch before 2.15 refuses
    torch.testing.assert_close(norm(name, 3)(image), norm(name, 3)(image.clone(memory_format=torch.contiguous_format)))
