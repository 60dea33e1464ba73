"""Batches: the order of an epoch, augmentation, data that do not fit, and the layout of images."""

from dataclasses import replace
from functools import partial

import pytest
import small_runs as usual
import torch
from torch import nn

from resnorm import Block
from resnorm.models import cifar_resnet
from resnorm.training import fit, loop
from resnorm.training.batches import Batches, Order

CPU = torch.device("cpu")


def test_order_is_a_function_of_seed_and_epoch():
    order, again = Order(50, 3, 1, CPU, shift=2), Order(50, 3, 1, CPU, shift=2)
    assert sorted(order.index.tolist()) == list(range(50))
    for name in ("index", "corner", "mirror"):
        assert torch.equal(getattr(order, name), getattr(again, name))
    for other in (Order(50, 4, 1, CPU, shift=2), Order(50, 3, 2, CPU, shift=2)):
        assert not torch.equal(order.index, other.index)


def test_a_plain_batch_is_normalised():
    found = usual.images(channels=3)
    batches = Batches(found, "train", CPU)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (found.mean, found.std))
    expected = (found.train[0][5:20] / 255 - mean) / std
    torch.testing.assert_close(batches.plain(slice(5, 20))[0], (expected,))
    (whole,) = batches.plain(slice(None))[0]
    assert whole.mean((0, 2, 3)).abs().max() < 1e-3 and (whole.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_crop_and_flip_equal_the_same_done_image_by_image():
    found = usual.images(40, size=16, channels=3)
    batches = Batches(found, "train", CPU, augment="crop_flip", channels_last=True)
    order = Order(40, 0, 0, CPU, batches.shift)
    (inputs,), targets = batches.batch(order, slice(8, 40))
    assert inputs.is_contiguous(memory_format=torch.channels_last) and inputs.shape == (32, 3, 16, 16)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (found.mean, found.std))
    for position in range(32):
        index, (top, left) = order.index[8 + position], order.corner[:, 8 + position].tolist()
        assert targets[position] == found.train[1][index]
        padded = (255 * mean).round().expand(3, 20, 20).clone()
        padded[:, 2:-2, 2:-2] = found.train[0][index]
        expected = padded[:, top : top + 16, left : left + 16]
        expected = expected.flip(2) if order.mirror[8 + position] else expected
        torch.testing.assert_close(inputs[position], (expected / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    assert order.corner.min() == 0 and order.corner.max() == 4 and 5 < order.mirror.sum() < 35
    torch.testing.assert_close(batches.plain(slice(40))[0], Batches(found, "train", CPU).plain(slice(40))[0])


def test_a_tensor_of_positions_gives_the_batch_of_the_slice():
    for found, augment in (
        (usual.images(40, size=16, channels=3), "crop_flip"),
        (usual.images(40), "none"),
        (usual.sequences(), "none"),
    ):
        batches = Batches(found, "train", CPU, augment=augment)
        order = Order(len(batches), 0, 0, CPU, batches.shift)
        (x, *_), targets = batches.batch(order, slice(8, 24))
        (again, *_), same_targets = batches.batch(order, torch.arange(8, 24))
        assert torch.equal(x, again) and torch.equal(targets, same_targets)


def test_an_order_is_refilled_in_place():
    order, other = Order(50, 0, 0, CPU, shift=2), Order(50, 0, 1, CPU, shift=2)
    addresses = {name: tensor.data_ptr() for name, tensor in vars(order).items()}
    order.refill(other)
    assert addresses == {name: tensor.data_ptr() for name, tensor in vars(order).items()}
    assert all(torch.equal(tensor, getattr(other, name)) for name, tensor in vars(order).items())


def test_a_split_that_does_not_fit_streams_and_says_so(monkeypatch):
    found = usual.images(40, size=16, channels=3)
    resident = Batches(found, "train", CPU, augment="crop_flip")
    assert resident.bytes >= 2 * 40 * 20 * 20 * 3
    monkeypatch.setattr("resnorm.training.batches._fits", lambda size, device: device.type == "cpu")
    with pytest.warns(UserWarning, match="the train split .* stays in the host's memory"):
        streamed = Batches(found, "train", torch.device("meta"), augment="crop_flip")
    assert streamed.home == CPU
    order = Order(40, 0, 0, streamed.home, streamed.shift)
    monkeypatch.setattr(streamed, "device", CPU)  # what the host would send, before it is sent
    for name in ("mean", "scale"):
        monkeypatch.setattr(streamed, name, getattr(resident, name))
    ((x,), targets), ((again,), same_targets) = (one.batch(order, slice(8)) for one in (streamed, resident))
    assert torch.equal(x, again) and torch.equal(targets, same_targets)


def test_small_batches_that_are_fetched_together_are_the_same_batches(monkeypatch):
    found, weights_of = usual.images(96, size=16), []
    for size in (1, 5000, 2**18):  # one at a time, a few, the whole epoch
        monkeypatch.setattr(loop, "FETCH_BYTES", size)
        model = usual.mlp(dropout=0.0, pixels=256)
        fit(model, found, replace(usual.RECIPE, batch_size=20, augment="crop_flip"), progress=False)
        weights_of.append(usual.weights(model))
    assert usual.same(weights_of[0], weights_of[1]) and usual.same(weights_of[0], weights_of[2])


@pytest.mark.parametrize(
    "variant",
    [
        "residual",
        "resnet_v1",
        "resnet_v2",
        "norm_after_add",
        "rskip_norm",
        "exclusive_gating",
        "shortcut_gating",
        "convolution_shortcut",
        "dropout_shortcut",
        "stochastic_depth",
    ],
)
@pytest.mark.parametrize("shortcut", ["zero_pad", "projection"])
def test_every_gradient_of_a_network_in_channels_last_is_channels_last(variant, shortcut):
    model = cifar_resnet(depth=8, width=8, variant=variant, shortcut=shortcut).to(memory_format=torch.channels_last)
    left = []

    def look(name, gradient):
        if not gradient.is_contiguous(memory_format=torch.channels_last):
            left.append(name)

    def follow(name, module, given, made):
        made.register_hook(lambda gradient: look(name, gradient))

    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, Block)):
            module.register_forward_hook(partial(follow, name))
    x = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    model(x).square().sum().backward()
    assert set(left) <= {"stack.blocks.2"}  # the last: its gradient is that of the mean over all pixels
