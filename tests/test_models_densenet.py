"""DenseNets: published sizes, the stream against the word, and the comparison at matched parameters."""

import copy
import pickle

import pytest
import torch

from resnorm import lab, probes
from resnorm.models import build, cifar_densenet, densenet
from resnorm.streams import Stack
from resnorm.words import Block

BC = dict(bottleneck=True, compression=0.5)
IMAGES = dict(inputs=1, size=8, classes=10)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (dict(depth=40), 1.0),
        (dict(depth=100), 7.0),
        (dict(depth=100, **BC), 0.8),
        (dict(depth=250, growth=24, **BC), 15.3),
        (dict(depth=190, growth=40, **BC), 25.6),
    ],
)
def test_cifar_densenets_have_the_published_size(model, millions):
    with torch.device("meta"):
        assert parameters(cifar_densenet(**model)) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_dense_block_is_a_stack_of_concatenating_words(bottleneck):
    torch.manual_seed(0)
    dense = cifar_densenet(depth=22, growth=4, bottleneck=bottleneck).stack.blocks[0]
    word = "nrCnrC" if bottleneck else "nrC"
    assert {block.word for block in dense.blocks} == {word}

    def kernels(block):
        return [lambda width, one=one: copy.deepcopy(one) for one in block.children() if hasattr(one, "kernel_size")]

    words = Stack([Block(word + "c", block.width, n="batch", C=kernels(block)) for block in dense.blocks])
    words.load_state_dict(dense.state_dict())
    x = torch.randn(2, dense.blocks[0].width, 8, 8)
    assert words.out_width == dense.out_width == x.shape[1] + 4 * len(dense.blocks)
    torch.testing.assert_close(words(x), dense(x), rtol=0, atol=0)


def test_a_layer_reads_everything_before_it_and_a_transition_halves():
    model = cifar_densenet(depth=16, growth=6, width=10, compression=0.5).eval()
    blocks = probes.blocks_of(model)
    assert [block.width for block in blocks] == [10, 16, 22, 28, 34, 17, 23, 29, 35, 41, 20, 26, 32, 38]
    assert model.head.in_features == 20 + 4 * 6
    sizes = []
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, y: sizes.append(tuple(y.shape[1:])))
    model(torch.randn(1, 3, 32, 32))
    assert sizes == 4 * [(6, 32, 32)] + [(17, 16, 16)] + 4 * [(6, 16, 16)] + [(20, 8, 8)] + 4 * [(6, 8, 8)]


@pytest.mark.parametrize("norm", ["batch", "layer2d", "group(groups=2)", "instance", "none"])
@pytest.mark.parametrize("options", [dict(depth=13, growth=4), dict(depth=16, growth=4, **BC)])
def test_it_trains_a_step_with_any_norm_of_images(options, norm):
    torch.manual_seed(0)
    model = build("cifar_densenet", IMAGES, norm=norm, width=8, **options)
    x = torch.randn(4, 1, 8, 8)
    model(x).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{key} has no finite gradient"
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model.eval())))
    assert torch.equal(copied(x), model(x))


def test_every_layer_starts_by_writing_features_of_the_same_size():
    torch.manual_seed(0)
    rows = probes.measure(cifar_densenet(), torch.randn(16, 3, 16, 16), lambda logits: logits.logsumexp(1).mean())
    written = [row["forward_rms"] for row in rows[1:] if row["block"] not in (13, 26)]  # not the transitions
    assert len(written) == 36 and all(0.75 < rms < 1.2 for rms in written)


@pytest.mark.parametrize("preset", lab.PRESETS)
def test_the_plan_compares_networks_of_equally_many_parameters(preset):
    planned = lab.plan("concatenation", preset, seeds=[0])
    inputs = 1 if preset == "smoke" else 3
    counts = {"cifar_densenet": [], "cifar_resnet": []}
    for experiment in planned:
        name, options = experiment.model["name"], {k: v for k, v in experiment.model.items() if k != "name"}
        counts[name].append(parameters(build(name, dict(inputs=inputs, size=8, classes=10), **options)))
    assert counts["cifar_densenet"] == pytest.approx(counts["cifar_resnet"], rel=0.05)
    assert {one.model["name"] for one in planned if one.measure == ("reads",)} == {"cifar_densenet"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cifar_densenet(depth=20), r"depth=20 .* allowed: 3n \+ 4, for example 7, 22, 52"),
        (lambda: cifar_densenet(depth=13, bottleneck=True), r"depth=13 .* allowed: 6n \+ 4, for example 10, 40, 100"),
        (lambda: cifar_densenet(growth=0), "growth=0, .* growth >= 1"),
        (lambda: cifar_densenet(compression=1.5), "compression=1.5; allowed"),
        (lambda: cifar_densenet(norm="layer"), "width of an image; use 'layer2d'"),
        (lambda: cifar_densenet(norm="group", growth=12), "groups=8 does not divide width=28"),
        (lambda: densenet(depth=120), "depth=120; allowed: 121, 161, 169, 201"),
        (lambda: densenet(norm="rms"), "width of an image"),
        (lambda: build("cifar_densenet", IMAGES, variant="densenet"), "no option 'variant'; allowed: depth, growth"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
