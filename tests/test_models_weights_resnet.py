"""ResNets of torchvision, timm and Hugging Face in `resnet`: equal logits, or a refusal that names the reason."""

import json

import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file

from benchmarks.load_weights import shaken
from resnorm import load_weights, resnet
from tests.weights import same

DEEP = dict(stem=(32, 32, 64), shortcut="average")
BIT = dict(version=2, norm="group(groups=32)", weight="standard(eps=1e-8)", stem_pool="zero_padded_max")
# One block a stage, which is depth 10 here with two convolutions a block and 14 with three.
SHORT = dict(layers=(1, 1, 1, 1))
SAME = {
    "resnet10t": dict(depth=10, stem=(24, 32, 64), shortcut="average"),
    "resnet26d": dict(depth=14, **DEEP),
    "resnet50s": dict(depth=14, stem=(64, 64, 128)),
    "resnet50_gn": dict(depth=14, norm="group(groups=32)"),
    "resnetblur18": dict(depth=10, antialias="blur"),
    "resnetaa34d": dict(depth=10, antialias="average", **DEEP),
    "resnext50_32x4d": dict(depth=14, groups=32, width_per_group=4),
    "wide_resnet50_2": dict(depth=14, width_per_group=128),
    "resnetv2_18d": dict(depth=10, version=2, **DEEP),
    "resnetv2_50": dict(depth=14, version=2),
    "resnetv2_50d_gn": dict(depth=14, version=2, norm="group(groups=32)", **DEEP),
    "resnetv2_50x1_bit": dict(depth=50, **BIT),
}


def theirs(name, **options):
    torch.manual_seed(0)
    return shaken(timm.create_model(name, num_classes=5, **options))


def ours(**options):
    return resnet(classes=5, **options)


@pytest.mark.parametrize("name", list(SAME))
def test_timms_networks_have_a_network_here(name, tmp_path):
    network, options = theirs(name, **({} if "bit" in name else SHORT)), SAME[name]
    same(load_weights(ours(**options), network), network)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name}), encoding="utf-8")
    same(load_weights(ours(**options), tmp_path), network)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_networks(depth):
    torch.manual_seed(0)
    network = shaken(torchvision.models.get_model(f"resnet{depth}", num_classes=5))
    for given in (network, network.state_dict(), dict(reversed(network.state_dict().items()))):
        same(load_weights(ours(depth=depth), given), network)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnetblur18", dict(depth=18), "has antialias='blur', and this model None"),
        ("resnetaa50", dict(depth=50), "antialias='average'|resnet50 and resnetaa50 have the same tensors"),
        ("resnet50", dict(depth=50, antialias="blur"), "antialias=.*None, and this model 'blur'"),
        ("resnetv2_50x1_bit", dict(depth=50, version=2, norm="group(groups=32)"), "timm's BiT, whose convolutions are stand"),
        ("resnetv2_50", dict(depth=50, version=2, norm="layer2d"), "has no place"),
        ("resnet50_gn", dict(depth=50, norm="instance"), "InstanceNorm, and in the network of these weights GroupNorm"),
        ("resnetv2_50d_evos", dict(depth=50, version=2, norm="group(groups=32)", **DEEP), "filter response norm or EvoNorm"),
        ("resnetrs50", dict(depth=50, **DEEP), "squeeze-and-excitation"),
        ("resnet33ts", dict(depth=34), "names of no network that is known here"),
    ],
)
def test_what_is_another_function_is_refused(name, options, message):
    network = theirs(name)
    for given, config in ((network, None), (network.state_dict(), None), (dict(network.state_dict()), network.pretrained_cfg)):
        if name == "resnet50" and given is not network and config is None:
            continue  # tensors and modules of timm's resnet50 are those of an averaging one
        with pytest.raises(ValueError, match=message):
            load_weights(ours(**options), given, config=config)


@pytest.mark.parametrize("name", ["resnetblur18", "resnetaa34d"])
def test_the_call_that_an_error_names_has_the_anti_aliasing(name):
    network = theirs(name, **SHORT)
    with pytest.raises(ValueError) as error:
        load_weights(resnet(depth=10, classes=3), network)
    call = str(error.value).rpartition("the nearest network here is ")[2]
    same(load_weights(eval(call, {"resnet": resnet}), network), network)


def test_parameters_without_statistics_are_not_taken_for_another_norm():
    parameters = dict(theirs("resnet18", **SHORT).named_parameters())
    with pytest.raises(ValueError, match=r"fills 'stem.1.running_mean' .*give the whole state dict, which has the statistics"):
        load_weights(ours(depth=10), parameters)


def test_bits_tensors_alone_are_taken_as_bits():
    """No plain network with that stem and group norms is published."""
    state = dict(theirs("resnetv2_50x1_bit").state_dict())
    load_weights(ours(depth=50, **BIT), state)
    with pytest.raises(ValueError, match=r'BiT.*resnet\(.*version=2, .*weight="standard\(eps=1e-8\)", stem_pool="zero_padded_max"'):
        load_weights(ours(depth=50, version=2, norm="group(groups=32)"), state)
    plain = theirs("resnetv2_50d_gn", stem_type="", avg_down=False, **SHORT)  # which its state dict tells
    same(load_weights(ours(depth=14, version=2, norm="group(groups=32)"), plain.state_dict()), plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(act_layer="gelu"), "outputs differ"),
        (dict(output_stride=16), "'layer4.0.conv2' has stride"),
        (dict(global_pool="max"), "outputs differ"),
        (dict(norm_layer=lambda width, **options: torch.nn.BatchNorm2d(width, eps=1e-3)), "'bn1' has eps=0.001"),
        (dict(norm_layer=lambda width, **options: torch.nn.GroupNorm(8, width)), "num_groups|has shape|fills"),
    ],
)
def test_the_network_itself_tells_what_no_tensor_does(changes, message):
    if "output_stride" in changes:
        network, options = theirs("resnet26", **changes), dict(depth=26)
    else:
        network, options = theirs("resnet18", **changes), dict(depth=18)
    with pytest.raises(ValueError, match=message):
        load_weights(ours(**options), network)


def test_hugging_faces_networks_with_their_configuration():
    config = transformers.ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=5)
    torch.manual_seed(0)
    network = shaken(transformers.ResNetForImageClassification(config))
    same(load_weights(ours(depth=18), network), network)
    same(load_weights(ours(depth=18), network.state_dict(), config=config), network)
    for name, value in (("hidden_act", "gelu"), ("downsample_in_first_stage", True), ("downsample_in_bottleneck", True)):
        with pytest.raises(ValueError, match=f"{name}={value!r} in the configuration"):
            load_weights(ours(depth=18), network.state_dict(), config=config.to_dict() | {name: value})
    with pytest.raises(ValueError, match="antialias='blur'"):
        load_weights(ours(depth=18, antialias="blur"), network.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=18, groups=32), "groups=32, width_per_group=64 with depth=18: .*use a depth with three, such as 50"),
        (dict(depth=50, shortcut="zero_pad"), "shortcut='zero_pad'; allowed: 'projection', 'average'"),
        (dict(depth=50, antialias="mean"), "antialias='mean'; allowed: None, 'blur', 'average'"),
        (dict(depth=50, antialias="blur", version=2), "antialias='blur' is for version=1"),
        (dict(depth=50, stem=(32, 64)), "give the widths of three convolutions"),
        (dict(depth=50, stem_pool="mean"), "stem_pool='mean'; allowed: 'max', 'zero_padded_max'"),
        (dict(depth=50, weight="standard(epsilon=1)"), "standard"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        resnet(**options)
