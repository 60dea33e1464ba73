"""Words against independent implementations: torchvision, torch.nn and timm; forward and every gradient, in fp32 and
bf16.

The reference's weights are copied into ours, both run on the same input, and every tensor is compared by its relative
error ||ours - theirs|| / ||theirs||.
"""

from functools import partial

import pytest
import timm.layers
import timm.models.resnetv2
import timm.models.vision_transformer
import torch
import torchvision
from torch import nn
from torchvision.models.densenet import _DenseBlock, _DenseLayer
from torchvision.models.resnet import BasicBlock, Bottleneck

from resnorm.branches import attention, conv1x1, conv3x3, cross_attention, mlp
from resnorm.letters import add, layer_scale
from resnorm.models import densenet, resnet
from resnorm.streams import Dense, Stack
from resnorm.words import Block

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def reference_without_fast_path():
    """The fast path of nn.TransformerEncoderLayer is another implementation, with known faults."""
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def relative(tensor, reference):
    return ((tensor.float() - reference.float()).norm() / reference.float().norm()).item()


def move_off_the_start(module):
    """Norms start at gain 1 and bias 0, where a lost gain would not show."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)


def copy_in_order(ours, theirs):
    """Copy a reference's state into ours, where both name it in the same order; return the pairs of parameters."""
    mine, its = ours.state_dict(), theirs.state_dict()
    assert [v.shape for v in mine.values()] == [v.shape for v in its.values()]
    ours.load_state_dict(dict(zip(mine, its.values(), strict=True)))
    return list(zip(ours.parameters(), theirs.parameters(), strict=True))


def run_once(module, run, inputs, dtype):
    """Output, gradients of the inputs, and running statistics, which are then put back."""
    module.to(dtype).zero_grad()
    before = [buffer.clone() for buffer in module.buffers()]
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    y = run(*leaves)
    torch.manual_seed(1)
    y.backward(torch.randn_like(y, dtype=torch.float32).to(dtype))
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient for {missing}"
    after = [buffer.clone() for buffer in module.buffers()]
    for buffer, value in zip(module.buffers(), before, strict=True):
        buffer.copy_(value)
    return [y, *(x.grad for x in leaves)], after


def check_parity(ours, theirs, pairs, inputs, dtype, run_ours=None, run_theirs=None):
    """Same output, same gradient of every input and parameter, same running statistics.

    `pairs` are parameters: ours, or a tuple of ours that the reference keeps in one tensor, and the reference's.
    In fp32 the relative error is at most 1e-5. In bf16 both round, each at its own places: we may be at most four times
    as far from the reference's fp32 result as the reference in bf16, plus a rounding of 1 / 64.
    """
    covered = [id(p) for mine, _ in pairs for p in (mine if isinstance(mine, tuple) else (mine,))]
    assert sorted(covered) == sorted(id(p) for p in ours.parameters()), "a parameter of ours is not compared"
    assert len(pairs) == len(list(theirs.parameters())), "a parameter of the reference is not compared"
    theirs.to(dtype).float()  # the same rounded weights in every run
    with torch.no_grad():
        for mine, its in pairs:
            parts = mine if isinstance(mine, tuple) else (mine,)
            for part, value in zip(parts, its.split([len(p) for p in parts]), strict=True):
                part.copy_(value)
    inputs = [x.to(dtype).float() for x in inputs]

    def everything(module, run, parameters, dtype):
        tensors, statistics = run_once(module, run or module, inputs, dtype)
        return [*tensors, *(torch.cat([q.grad for q in p]) if isinstance(p, tuple) else p.grad for p in parameters), *statistics]

    expected = everything(theirs, run_theirs, [its for _, its in pairs], dtype)
    results = everything(ours, run_ours, [mine for mine, _ in pairs], dtype)
    different = [i for i, (mine, its) in enumerate(zip(results, expected, strict=True)) if not torch.equal(mine, its)]
    if not different:
        return
    exact = everything(theirs, run_theirs, [its for _, its in pairs], torch.float32) if dtype != torch.float32 else expected
    for i in different:
        error = relative(results[i], exact[i])
        allowed = 1e-5 if dtype == torch.float32 else 4 * relative(expected[i], exact[i]) + 2**-6
        assert error <= allowed, f"tensor {i} of output, inputs, parameters, statistics: relative error {error:.1e} > {allowed:.1e}"


# ---------------------------------------------------------------------------------------------------- torchvision


@DTYPES
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_basic_block(stride, train, dtype):
    width = 16 * stride
    downsample = nn.Sequential(nn.Conv2d(16, width, 1, stride, bias=False), nn.BatchNorm2d(width)) if stride > 1 else None
    theirs = BasicBlock(16, width, stride, downsample)
    shortcut = add(shortcut="projection(norm='batch')", stride=2) if stride > 1 else "add"
    ours = Block("CnrCnar", 16, C=[conv3x3(width, stride), conv3x3(width)], n="batch", a=shortcut)
    move_off_the_start(theirs)
    check_parity(ours.train(train), theirs.train(train), copy_in_order(ours, theirs), [torch.randn(3, 16, 9, 7)], dtype)


@DTYPES
@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck(stride, dtype):
    downsample = nn.Sequential(nn.Conv2d(32, 64, 1, stride, bias=False), nn.BatchNorm2d(64))
    theirs = Bottleneck(32, 16, stride, downsample)
    convolutions = [conv1x1(16), conv3x3(16, stride), conv1x1(64)]
    ours = Block("CnrCnrCnar", 32, C=convolutions, n="batch", a=add(shortcut="projection(norm='batch')", stride=stride))
    move_off_the_start(theirs)
    check_parity(ours, theirs, copy_in_order(ours, theirs), [torch.randn(3, 32, 9, 7)], dtype)


@DTYPES
def test_dense_layer(dtype):
    theirs = _DenseLayer(num_input_features=10, growth_rate=6, bn_size=4, drop_rate=0.0)
    ours = Block("nrCnrCc", 10, C=[conv1x1(24), conv3x3(6)], n="batch")
    move_off_the_start(theirs)
    reference = lambda x: torch.cat([x, theirs(x)], 1)  # noqa: E731
    check_parity(ours, theirs, copy_in_order(ours, theirs), [torch.randn(3, 10, 8, 8)], dtype, run_theirs=reference)


def test_dense_stream_is_a_dense_block():
    theirs = _DenseBlock(num_layers=3, num_input_features=10, bn_size=4, growth_rate=6, drop_rate=0.0)
    ours = Stack([Block("nrCnrC", 10 + 6 * i, C=[conv1x1(24), conv3x3(6)], n="batch") for i in range(3)], Dense())
    move_off_the_start(theirs)
    check_parity(ours, theirs, copy_in_order(ours, theirs), [torch.randn(3, 10, 8, 8)], torch.float32)


@DTYPES
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_whole_resnet_in_train_and_eval(depth, dtype):
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    theirs(torch.randn(4, 3, 48, 48))  # running statistics away from 0 and 1
    ours = resnet(depth=depth, classes=10)
    move_off_the_start(theirs)
    pairs = copy_in_order(ours, theirs)
    x = torch.randn(2, 3, 48, 48)
    check_parity(ours.train(), theirs.train(), pairs, [x], dtype)
    check_parity(ours.eval(), theirs.eval(), pairs, [x], dtype)


@pytest.mark.parametrize("depth", [101, 152])
def test_the_deepest_resnets_have_torchvisions_weights(depth):
    with torch.device("meta"):
        copy_in_order(resnet(depth=depth), getattr(torchvision.models, f"resnet{depth}")())


@DTYPES
def test_whole_densenet_in_train_and_eval(dtype):
    theirs = torchvision.models.densenet121(num_classes=10)
    theirs(torch.randn(4, 3, 64, 64))  # running statistics away from 0 and 1
    ours = densenet(depth=121, classes=10)
    move_off_the_start(theirs)
    pairs = copy_in_order(ours, theirs)
    x = torch.randn(3, 3, 64, 64)
    check_parity(ours.train(), theirs.train(), pairs, [x], dtype)
    check_parity(ours.eval(), theirs.eval(), pairs, [x], dtype)


@pytest.mark.parametrize("depth", [161, 169, 201])
def test_the_larger_densenets_have_torchvisions_weights(depth):
    with torch.device("meta"):
        copy_in_order(densenet(depth=depth), getattr(torchvision.models, f"densenet{depth}")())


# ---------------------------------------------------------------------------------------------------- torch.nn

WIDTH, HEADS = 32, 4


def may_attend(kind, queries=12, keys=12):
    """A mask in our convention (True = may attend) and its two halves in torch's (True = may NOT attend)."""
    square = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries) if "causal" in kind else None
    padding = torch.arange(keys) < torch.randint(1, keys + 1, (24, 1)) if "padding" in kind else None
    ours = square
    if padding is not None:
        ours = padding[:, None, None] if square is None else padding[:, None, None] & square
    return ours, None if square is None else ~square, None if padding is None else ~padding


def parameters_of(ours, theirs):
    return [(getattr(ours, key), getattr(theirs, key)) for key in ("weight", "bias")]


def self_attention_pairs(ours, theirs):
    packed = [(ours.query_key_value.weight, theirs.in_proj_weight), (ours.query_key_value.bias, theirs.in_proj_bias)]
    return packed + parameters_of(ours.output, theirs.out_proj)


def mlp_pairs(ours, layer):
    return parameters_of(ours.hidden, layer.linear1) + parameters_of(ours.output, layer.linear2)


@DTYPES
@pytest.mark.parametrize("mask", ["none", "causal", "padding", "causal padding"])
@pytest.mark.parametrize(("word", "activation"), [("nAa nMa", "relu"), ("Aan Man", "gelu")])
def test_encoder_layer(word, activation, mask, dtype):
    pre = word.startswith("n")
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, dropout=0.0, activation=activation, batch_first=True, norm_first=pre)
    ours = Block(word, WIDTH, n="layer", A=attention(HEADS), M=mlp(2, activation))
    move_off_the_start(theirs)
    modules = dict(ours.named_children())
    norms = [module for name, module in modules.items() if name.endswith("n")]
    pairs = self_attention_pairs(*(modules[f"{word.index('A')}_A"], theirs.self_attn)) + mlp_pairs(
        modules[f"{word.index('M')}_M"], theirs
    )
    pairs += parameters_of(norms[0], theirs.norm1) + parameters_of(norms[1], theirs.norm2)
    allowed, square, padding = may_attend(mask)
    check_parity(
        ours,
        theirs,
        pairs,
        [torch.randn(24, 12, WIDTH)],
        dtype,
        run_ours=lambda x: ours(x, A=dict(mask=allowed)),
        run_theirs=lambda x: theirs(x, src_mask=square, src_key_padding_mask=padding),
    )


@DTYPES
@pytest.mark.parametrize("memory", ["none", "padding"])
@pytest.mark.parametrize("word", ["nAa nXa nMa", "Aan Xan Man"])
def test_decoder_layer(word, memory, dtype):
    pre = word.startswith("n")
    theirs = nn.TransformerDecoderLayer(WIDTH, HEADS, 64, dropout=0.0, batch_first=True, norm_first=pre)
    ours = Block(word, WIDTH, n="layer", A=attention(HEADS, causal=True), X=cross_attention(HEADS), M=mlp(2))
    move_off_the_start(theirs)
    modules = dict(ours.named_children())
    self_attention, cross, feed_forward = (modules[f"{word.index(letter)}_{letter}"] for letter in "AXM")
    norms = [module for name, module in modules.items() if name.endswith("n")]
    pairs = self_attention_pairs(self_attention, theirs.self_attn) + mlp_pairs(feed_forward, theirs)
    pairs += parameters_of(cross.output, theirs.multihead_attn.out_proj)
    for kind in ("weight", "bias"):
        pairs.append(
            ((getattr(cross.query, kind), getattr(cross.key_value, kind)), getattr(theirs.multihead_attn, f"in_proj_{kind}"))
        )
    for norm, its in zip(norms, (theirs.norm1, theirs.norm2, theirs.norm3), strict=True):
        pairs += parameters_of(norm, its)
    allowed, _, padding = may_attend(memory, keys=9)
    later = ~torch.ones(12, 12, dtype=torch.bool).tril()
    check_parity(
        ours,
        theirs,
        pairs,
        [torch.randn(24, 12, WIDTH), torch.randn(24, 9, WIDTH)],
        dtype,
        run_ours=lambda x, z: ours(x, X=dict(memory=z, mask=allowed)),
        run_theirs=lambda x, z: theirs(x, z, tgt_mask=later, memory_key_padding_mask=padding),
    )


# ---------------------------------------------------------------------------------------------------- timm


@DTYPES
@pytest.mark.parametrize("norm", ["batch", "group(groups=8)"])
@pytest.mark.parametrize("stride", [1, 2])
def test_pre_activation_bottleneck(stride, norm, dtype):
    layer = timm.layers.BatchNormAct2d if norm == "batch" else partial(timm.layers.GroupNormAct, num_groups=8)
    project = timm.models.resnetv2.DownsampleConv if stride > 1 else None
    theirs = timm.models.resnetv2.PreActBottleneck(
        64, 64 * stride, stride=stride, conv_layer=timm.layers.create_conv2d, norm_layer=layer, proj_layer=project
    )
    narrow, word = 16 * stride, "nr|CnrCnrCa" if stride > 1 else "nrCnrCnrCa"
    convolutions = [conv1x1(narrow), conv3x3(narrow, stride), conv1x1(64 * stride)]
    merge = add(shortcut="projection", stride=2) if stride > 1 else "add"
    ours = Block(word, 64, C=convolutions, n=norm, a=merge)
    move_off_the_start(theirs)
    its = list(theirs.parameters())
    pairs = list(zip(ours.parameters(), its[1:] + its[:1] if stride > 1 else its, strict=True))  # theirs has the projection first
    check_parity(ours, theirs, pairs, [torch.randn(8, 64, 9, 7)], dtype)


@DTYPES
def test_weight_standardisation(dtype):
    layer = partial(timm.layers.StdConv2d, eps=1e-10)
    theirs = timm.models.resnetv2.PreActBottleneck(64, conv_layer=layer, norm_layer=partial(timm.layers.GroupNormAct, num_groups=8))
    kernels = [conv1x1(16, weight="standard"), conv3x3(16, weight="standard"), conv1x1(64, weight="standard")]
    ours = Block("nrCnrCnrCa", 64, C=kernels, n="group(groups=8)")
    check_parity(ours, theirs, copy_in_order(ours, theirs), [torch.randn(8, 64, 8, 8)], dtype)


@DTYPES
@pytest.mark.parametrize(
    ("word", "reference", "scale"), [("nAa nMa", "Block", None), ("nAsa nMsa", "Block", 0.5), ("Ana Mna", "ResPostBlock", None)]
)
def test_vision_transformer_block(word, reference, scale, dtype):
    options = dict(norm_layer=partial(nn.LayerNorm, eps=1e-6), qkv_bias=True, init_values=scale)
    theirs = getattr(timm.models.vision_transformer, reference)(WIDTH, HEADS, mlp_ratio=3, **options)
    letters = dict(s=layer_scale(scale)) if scale else {}
    ours = Block(word, WIDTH, n="layer(eps=1e-6)", A=attention(HEADS), M=mlp(3, "gelu"), **letters)
    move_off_the_start(theirs)
    modules, pairs = dict(ours.named_children()), []
    order = {"A": iter([theirs.attn]), "M": iter([theirs.mlp]), "n": iter([theirs.norm1, theirs.norm2])}
    order["s"] = iter([theirs.ls1, theirs.ls2]) if scale else iter(())
    for name, module in modules.items():
        its = next(order.get(name[-1], iter(())), None)
        if name[-1] == "A":
            pairs += parameters_of(module.query_key_value, its.qkv) + parameters_of(module.output, its.proj)
        elif name[-1] == "M":
            pairs += parameters_of(module.hidden, its.fc1) + parameters_of(module.output, its.fc2)
        elif name[-1] == "n":
            pairs += parameters_of(module, its)
        elif name[-1] == "s":
            pairs.append((module.gain, its.gamma))
    check_parity(ours, theirs, pairs, [torch.randn(24, 12, WIDTH)], dtype)
