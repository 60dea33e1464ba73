"""What training and other libraries leave around weights: all of it is understood, or named."""

import json
import logging
from collections import OrderedDict

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from benchmarks.load_weights import shaken
from resnorm import load_weights, resnet
from resnorm.models.weights.source import read
from tests.weights import same


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return shaken(torchvision.models.resnet18(num_classes=5))


def prefixed(prefix, state):
    return OrderedDict((prefix + name, value) for name, value in state.items())


def old(state):
    """As files before counters of batches, and in another order."""
    return {name: value for name, value in reversed(state.items()) if "num_batches" not in name}


WRAPPED = {
    "another order, no counters": old,
    "timm": lambda state: {"epoch": 3, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}}},
    "torchvision": lambda state: {"model": state, "epoch": 3, "args": None},
    "tutorial": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": []}, "loss": 0.1},
    "within two": lambda state: {"model": {"state_dict": state}},
    "parallel": lambda state: prefixed("module.", state),
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "compiled in parallel": lambda state: prefixed("module._orig_mod.", state),
    "parallel in compiled": lambda state: {"state_dict": prefixed("_orig_mod.module.", state)},
    "Lightning": lambda state: {"state_dict": prefixed("model.", state), "pytorch-lightning_version": "2.5", "loops": {}},
    "Lightning, compiled": lambda state: {"state_dict": prefixed("model._orig_mod.", state)},
    "compiled layers": lambda state: {name.replace("layer1.0.", "layer1.0._orig_mod."): value for name, value in state.items()},
    "sharded": lambda state: prefixed("_fsdp_wrapped_module.", state),
    "averaged": lambda state: prefixed("module.", state) | {"n_averaged": torch.tensor(7)},
    "old norms": lambda state: {
        name.replace("bn1.weight", "bn1.gamma").replace("bn1.bias", "bn1.beta"): value for name, value in state.items()
    },
    "a network in a checkpoint": lambda state: {"model": filled(state), "epoch": 1},
}


def filled(state):
    network = torchvision.models.resnet18(num_classes=5)
    network.load_state_dict(state)
    return network


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=list(WRAPPED))
def test_what_wraps_weights_is_taken_off(theirs, wrap):
    ours = load_weights(resnet(depth=18, classes=5), wrap(theirs.state_dict()))
    assert torch.equal(ours.head.weight, theirs.fc.weight)
    assert torch.equal(ours.stack.blocks[7].get_submodule("4_n").running_var, theirs.layer4[1].bn2.running_var)
    assert torch.equal(ours.stem[1].bias, theirs.bn1.bias)


def test_what_wraps_a_network_is_taken_off(theirs):
    averaged = torch.optim.swa_utils.AveragedModel(theirs)
    for wrapped in (nn.DataParallel(theirs), averaged, torch.compile(theirs)):
        same(load_weights(resnet(depth=18, classes=5), wrapped), theirs)


def test_averaged_weights_beside_the_others_are_named(theirs, caplog):
    caplog.set_level(logging.WARNING, "resnorm")
    other = {name: value + 1 for name, value in theirs.state_dict().items()}
    ours = load_weights(resnet(depth=18, classes=5), {"model": theirs.state_dict(), "model_ema": other})
    assert torch.equal(ours.head.weight, theirs.fc.weight)
    assert "took 'model' of the checkpoint; 'model_ema' is there too" in caplog.text
    assert torch.equal(load_weights(ours, {"model_ema": other}).head.weight, theirs.fc.weight + 1)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt"])
def test_a_path_is_read(theirs, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        save_file(theirs.state_dict(), path)
    else:
        torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, path)
    for given in (path, str(path)):
        assert torch.equal(load_weights(resnet(depth=18, classes=5), given).head.weight, theirs.fc.weight)


def test_a_folder_and_an_index_of_parts_are_read(theirs, tmp_path):
    names = list(theirs.state_dict())
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, own in halves.items():
        save_file({name: theirs.state_dict()[name] for name in own}, tmp_path / part)
    index = {"weight_map": {name: part for part, own in halves.items() for name in own}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}), encoding="utf-8")
    for given in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert torch.equal(load_weights(resnet(depth=18, classes=5), given).head.weight, theirs.fc.weight)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetblur18"}), encoding="utf-8")
    with pytest.raises(ValueError, match="antialias='blur'"):
        load_weights(resnet(depth=18, classes=5), tmp_path)


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_file_runs_no_code(theirs, tmp_path, capsys):
    torch.save({"state_dict": theirs.state_dict(), "other": Evil()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="cannot be read as weights without running its code"):
        load_weights(resnet(depth=18, classes=5), tmp_path / "model.pt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the weights are empty"),
        ({"epoch": 3, "lr": 0.1}, "hold 'epoch', 'lr', and no tensors by name"),
        ({"best": 0.3, "weights_of_net": {}}, "give the state dict that is in there, as checkpoint"),
        (3, "the weights are int; give a state dict, a network, or the path"),
        ("nowhere.pt", "there is no file nowhere.pt"),
        ("timm/resnet18", "what lies on a server, download first"),
    ],
)
def test_what_holds_no_weights_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        load_weights(resnet(depth=18), given)


def test_a_file_of_another_kind_and_an_empty_folder_are_named(tmp_path):
    (tmp_path / "model.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="model.npz is no .safetensors, .pt, .pth, .bin or .ckpt file"):
        load_weights(resnet(depth=18), tmp_path / "model.npz")
    with pytest.raises(ValueError, match="has none of model.safetensors"):
        load_weights(resnet(depth=18), tmp_path)
    with pytest.raises(ValueError, match="config is int"):
        load_weights(resnet(depth=18), {"a": torch.ones(1)}, config=3)


def test_what_a_loss_left_beside_the_network_is_named(theirs):
    state = prefixed("model.", theirs.state_dict()) | {"criterion.weight": torch.ones(5)}
    with pytest.raises(ValueError, match="'criterion.weight', of shape .5,., has no place in this model"):
        load_weights(resnet(depth=18, classes=5), {"state_dict": state})


def test_a_state_dict_tells_its_modules_and_a_copy_does_not(theirs):
    assert "layer1.0.relu" in read(theirs.state_dict()).modules
    assert not read(dict(theirs.state_dict())).modules
    _, plain = read(nn.DataParallel(theirs).state_dict()).spellings()
    assert "layer1.0.relu" in plain.modules
