"""State dicts of torchvision, timm and Hugging Face in our networks: one call, and the same logits."""

import copy

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from resnorm import bert, densenet, load_weights, resnet, transformer_lm, vit

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


def shaken(model):
    """Every parameter away from its start, so that no gain of 1 and no bias of 0 hides a wrong place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def test_torchvisions_vision_transformer():
    torch.manual_seed(0)
    theirs = shaken(torchvision.models.vit_b_16(image_size=32, num_classes=10))
    ours = load_weights(vit(size=32, classes=10), theirs.state_dict()).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_hugging_faces_gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=101, n_positions=16, n_embd=32, n_layer=3, n_head=4)
    theirs = shaken(transformers.GPT2LMHeadModel(config))
    ours = transformer_lm(vocabulary=101, context=16, depth=3, width=32, heads=4, activation="gelu_tanh").eval()
    load_weights(ours, theirs.state_dict())
    tokens = torch.randint(101, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_hugging_faces_bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=101, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=16,
    )  # fmt: skip
    theirs = shaken(transformers.BertForMaskedLM(config))
    ours = bert(vocabulary=101, context=16, depth=3, width=32, heads=4).eval()
    load_weights(ours, theirs.state_dict())
    tokens, segments, mask = torch.randint(101, (2, 12)), torch.arange(12).ge(5).long().repeat(2, 1), torch.ones(2, 12)
    mask[1, 7:] = 0
    with torch.no_grad():
        for given in (dict(), dict(segments=segments), dict(segments=segments, mask=mask)):
            its = theirs(tokens, token_type_ids=given.get("segments"), attention_mask=given.get("mask")).logits
            mine = ours(tokens, **given)
            seen = given.get("mask", torch.ones(2, 12)).bool()
            torch.testing.assert_close(mine[seen], its[seen], rtol=1e-4, atol=1e-4)


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
        (lambda: resnet(depth=18, classes=4), lambda: nn.Sequential(torchvision.models.resnet18().conv1), "the 1 tensors, '0.weight'"),
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
