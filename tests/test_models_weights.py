"""State dicts of torchvision and timm in our networks: one call, and the same logits."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from resnorm import densenet, load_weights, resnet

TORCHVISION = [("resnet", depth) for depth in (18, 34, 50, 101, 152)] + [("densenet", 121)]


def trained(model):
    """Running statistics, gains and biases as training would leave them: away from 0 and 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        model.train()(torch.randn(8, 3, 64, 64))
    return model.eval()


def same_logits(ours, theirs):
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        mine, its = ours.eval()(x), theirs(x)
    # Logits of an untrained network may be large or small: to 1e-4 of their own size.
    assert (mine - its).abs().max() <= 1e-4 * its.abs().max().clamp(min=1)
    assert its.std() > 1e-3, "logits that do not depend on anything would agree as well"


@pytest.mark.parametrize(("family", "depth"), TORCHVISION)
def test_torchvisions_weights(family, depth):
    torch.manual_seed(depth)
    theirs = trained(getattr(torchvision.models, f"{family}{depth}")(num_classes=10))
    build = dict(resnet=resnet, densenet=densenet)[family]
    ours = build(depth=depth, classes=10)
    assert load_weights(ours, theirs.state_dict()) is ours
    same_logits(ours, theirs)


@pytest.mark.parametrize(
    ("name", "depth", "norm"), [("resnetv2_18", 18, "batch"), ("resnetv2_50", 50, "batch"), ("resnetv2_50d_gn", 50, None)]
)
def test_timms_pre_activation_weights(name, depth, norm):
    torch.manual_seed(0)
    if norm is None:  # group norms in the plain network: timm has them with a deep stem only
        theirs = timm.create_model(name, num_classes=10, stem_type="", avg_down=False)
        norm = "group(groups=32)"
    else:
        theirs = timm.create_model(name, num_classes=10)
    theirs = trained(theirs)
    same_logits(load_weights(resnet(depth=depth, classes=10, version=2, norm=norm), theirs.state_dict()), theirs)


def test_old_files_without_counters_load():
    torch.manual_seed(0)
    theirs = trained(torchvision.models.resnet18(num_classes=10))
    state = {name: value for name, value in theirs.state_dict().items() if "num_batches" not in name}
    same_logits(load_weights(resnet(depth=18, classes=10), state), theirs)


@pytest.mark.parametrize(
    ("model", "state", "message"),
    [
        (lambda: resnet(depth=18), lambda: torchvision.models.resnet18(num_classes=10), "'fc.weight' has shape .10, 512.*1000"),
        (lambda: resnet(depth=34), lambda: torchvision.models.resnet50(), r"'layer1.0.conv1.weight' has shape \(64, 64, 1, 1\)"),
        (lambda: resnet(depth=18, classes=4), lambda: nn.Sequential(torchvision.models.resnet18().conv1), "have 1 tensors"),
    ],
)
def test_weights_of_another_network_are_named_and_nothing_is_loaded(model, state, message):
    ours = model()
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=message):
        load_weights(ours, state().state_dict())
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_an_unknown_version_is_refused():
    with pytest.raises(ValueError, match="version=3; allowed: 1 .* 2"):
        resnet(version=3)
