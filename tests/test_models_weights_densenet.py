"""DenseNets of torchvision and timm in `densenet`."""

import re

import pytest
import timm
import torch
import torchvision

from benchmarks.load_weights import shaken
from resnorm import densenet, load_weights
from tests.weights import same


def test_torchvisions_densenet_and_its_files():
    torch.manual_seed(0)
    network = shaken(torchvision.models.densenet121(num_classes=5))
    same(load_weights(densenet(depth=121, classes=5), network), network)
    # The published files have the names of the first version.
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value for name, value in network.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    same(load_weights(densenet(depth=121, classes=5), dict(reversed(old.items()))), network)


def test_timms_blurred_densenet_is_refused():
    network = timm.create_model("densenetblur121d", num_classes=5)
    with pytest.raises(ValueError, match="'features.conv0.weight' has shape"):
        load_weights(densenet(depth=121, classes=5), network)
    plain = timm.create_model("densenet121", num_classes=5, aa_layer=timm.layers.BlurPool2d, aa_stem_only=False)
    with pytest.raises(ValueError, match="has no place|transitions of these weights' network blur"):
        load_weights(densenet(depth=121, classes=5), plain)
