"""Weights of other libraries by name: one call and the same logits, or an error that names what differs."""

import copy
import logging

import pytest
import torch
import torchvision
from torch import nn

from benchmarks.load_weights import shaken
from resnorm import densenet, load_weights, resnet, transformer_lm, vit
from tests.weights import same


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return shaken(torchvision.models.resnet18(num_classes=10))


def test_the_model_itself_comes_back_and_its_mode_stays(resnet18):
    ours = resnet(depth=18, classes=10).train()
    assert load_weights(ours, resnet18) is ours
    assert ours.training and not resnet18.training
    same(ours, resnet18)


@pytest.mark.parametrize(
    ("model", "state", "message"),
    [
        (
            lambda: resnet(depth=18),
            lambda: torchvision.models.resnet18(num_classes=10),
            r"'fc.weight' has shape .10, 512.*1000.*nearest network here is resnet\(depth=18, classes=10\)",
        ),
        (
            lambda: resnet(depth=34),
            lambda: torchvision.models.resnet50(),
            r"'layer1.0.conv1.weight' has shape \(64, 64, 1, 1\).*nearest network here is resnet\(depth=50, classes=1000\)",
        ),
        (
            lambda: resnet(depth=18, classes=4),
            lambda: nn.Sequential(torchvision.models.resnet18().conv1),
            "the 1 tensors, '0.weight' .*must be those of torchvision's or timm's ResNet",
        ),
        (
            lambda: resnet(depth=50, classes=4),
            lambda: torchvision.models.resnext50_32x4d(num_classes=4),
            r"resnet\(depth=50, groups=32, width_per_group=4, classes=4\)",
        ),
        (
            lambda: resnet(depth=18),
            lambda: torchvision.models.densenet121(num_classes=4),
            r"weights of torchvision's or timm's DenseNet, and this model is ResNet; build densenet\(depth=121, classes=4\)",
        ),
        (lambda: densenet(), lambda: torchvision.models.densenet169(), r"densenet\(depth=169"),
        (
            lambda: resnet(depth=18, classes=10, norm="group(groups=4)"),
            lambda: torchvision.models.resnet18(num_classes=10),
            "'bn1.running_mean'.* has no place in this model.*computes something else .40 such tensors.*classes=10",
        ),
        (
            lambda: resnet(depth=18, classes=10, version=2),
            lambda: torchvision.models.resnet18(num_classes=10),
            "nearest network here is resnet.depth=18, classes=10",
        ),
        (lambda: transformer_lm(vocabulary=9), lambda: torchvision.models.resnet18(), "this model is TransformerLM; build resnet"),
    ],
)
def test_weights_of_another_network_are_named_and_nothing_is_loaded(model, state, message):
    ours = model()
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=message):
        load_weights(ours, state().state_dict())
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_the_head_can_be_left_as_it_was_drawn(resnet18):
    body = {name: value for name, value in resnet18.state_dict().items() if "fc." not in name}
    for given in (resnet18, resnet18.state_dict(), body):
        ours = resnet(depth=18, classes=3).eval()
        drawn = ours.head.weight.clone()
        load_weights(ours, given, head="skip")
        assert torch.equal(ours.head.weight, drawn)
        x, features = torch.randn(2, 3, 64, 64), copy.deepcopy(resnet18)
        features.fc = nn.Identity()
        with torch.no_grad():
            torch.testing.assert_close(ours.tail(ours.stack(ours.stem(x))).mean((2, 3)), features(x))
    with pytest.raises(ValueError, match="no tensor of the weights fills 'head.weight'.*load with head=\"skip\""):
        load_weights(resnet(depth=18, classes=10), given)
    with pytest.raises(ValueError, match="head='drop'; allowed: load, skip"):
        load_weights(resnet(depth=18, classes=10), given, head="drop")


def test_with_tensors_alone_it_says_what_it_could_not_check(resnet18, caplog):
    caplog.set_level(logging.WARNING, "resnorm")
    load_weights(resnet(depth=18, classes=10), resnet18)
    assert not caplog.records
    load_weights(resnet(depth=18, classes=10), dict(resnet18.state_dict()))
    assert "anti-aliasing" in caplog.text and "eps" in caplog.text


class Changed(nn.Module):
    """A network that has the tensors and the settings of resnet18, and is another function."""

    def __init__(self, network):
        super().__init__()
        self.__dict__["network"] = network
        for name, child in network.named_children():
            self.add_module(name, child)

    def forward(self, x):
        return self.network(x.abs())


def test_a_network_with_the_same_tensors_and_other_outputs_is_refused(resnet18):
    with pytest.raises(ValueError, match="with the same tensors the outputs differ by .*Changed computes something else"):
        load_weights(resnet(depth=18, classes=10), Changed(resnet18))
    with pytest.raises(ValueError, match="outputs differ"):
        load_weights(resnet(depth=18, classes=3), Changed(resnet18), head="skip")


class Through(Changed):
    """The same network, with this around its input and its output."""

    def __init__(self, network, before=lambda x: x, after=lambda y: y):
        super().__init__(network)
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self.network(self.before(x)))


def test_half_a_thousandth_is_another_function(resnet18):
    with pytest.raises(ValueError, match="the outputs differ by 0.0005 of the largest"):
        load_weights(resnet(depth=18, classes=10), Through(resnet18, after=lambda y: 1.0005 * y))


def test_what_rounding_adds_up_to_is_no_other_function(resnet18):
    # Exact but for its rounding, which in 32 bits is far more than that of any deep network.
    rounded = Through(resnet18, before=lambda x: x + 200_000 - 200_000)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert (rounded(x) - resnet18(x)).abs().max() > 3e-4 * resnet18(x).abs().max()
    same(load_weights(resnet(depth=18, classes=10), rounded), resnet18)


def test_a_network_that_computes_in_32_bits_alone_is_compared_in_them(resnet18):
    single = Through(resnet18, before=lambda x: x.float(), after=lambda y: 1.01 * y)
    with pytest.raises(ValueError, match="the outputs differ by 0.0099 of the largest"):
        load_weights(resnet(depth=18, classes=10), single)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(norm="batch(eps=1e-3)"), "'bn1' has eps=1e-05, and 'stem.1' of this model 0.001"),
        (dict(antialias="blur"), "antialias=None, and this model 'blur'"),
        (dict(weight="standard"), "standard.*the network of these weights does not"),
    ],
)
def test_our_own_options_are_checked_against_the_network(resnet18, options, message):
    with pytest.raises(ValueError, match=message):
        load_weights(resnet(depth=18, classes=10, **options), resnet18)


def test_words_that_have_the_same_tensors_are_told_apart():
    theirs = shaken(torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 128, num_classes=10))
    sizes = dict(size=32, classes=10, patch=8, depth=2, width=32, heads=4)
    load_weights(vit(**sizes), theirs)
    with pytest.raises(ValueError, match="this model has the word 'Ana Mna', and the weights 'nAa nMa'"):
        load_weights(vit(**sizes, variant="res_post"), theirs.state_dict())


def test_numbers_are_copied_into_the_types_of_our_model(resnet18):
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        ours = load_weights(
            resnet(depth=18, classes=10),
            {name: value.to(kind) if value.is_floating_point() else value for name, value in resnet18.state_dict().items()},
        )
        assert ours.head.weight.dtype == torch.float32
        torch.testing.assert_close(ours.head.weight, resnet18.fc.weight.to(kind).float())
    half = copy.deepcopy(resnet18).bfloat16()
    load_weights(resnet(depth=18, classes=10), half)
    load_weights(resnet(depth=18, classes=10).bfloat16(), half)
    codes = dict(resnet18.state_dict())
    codes["conv1.weight"] = codes["conv1.weight"].to(torch.int8)
    with pytest.raises(ValueError, match="'conv1.weight' is stored as torch.int8"):
        load_weights(resnet(depth=18, classes=10), codes)


def test_the_meta_device_has_no_values(resnet18):
    with torch.device("meta"):
        ours = resnet(depth=18, classes=10)
    with pytest.raises(ValueError, match="this model is on the meta device.*to_empty"):
        load_weights(ours, resnet18)


def test_our_own_weights_load_too(resnet18):
    ours = load_weights(resnet(depth=18, classes=10), resnet18).eval()
    again = load_weights(resnet(depth=18, classes=10), {"epoch": 3, "model": ours.state_dict(), "identity": {"seed": 0}})
    same(again, ours)


def test_an_unknown_version_is_refused():
    with pytest.raises(ValueError, match="version=3; allowed: 1 .* 2"):
        resnet(version=3)
