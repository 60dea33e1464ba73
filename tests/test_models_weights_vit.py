"""Vision Transformers of torchvision, timm and Hugging Face in `vit`."""

import re

import pytest
import timm
import torch
import torchvision
import transformers

from benchmarks.load_weights import shaken
from resnorm import load_weights, vit
from tests.weights import same

SMALL = dict(size=32, patch=8, classes=5, depth=2, width=48, heads=4)


def torchvisions():
    torch.manual_seed(0)
    return shaken(torchvision.models.VisionTransformer(32, 8, 2, 4, 48, 192, num_classes=5))


def timms(**options):
    torch.manual_seed(0)
    kind = timm.models.vision_transformer.VisionTransformer
    return shaken(kind(**dict(img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=4, num_classes=5) | options))


def hugging_faces(**options):
    torch.manual_seed(0)
    sizes = dict(image_size=32, patch_size=8, num_hidden_layers=2, hidden_size=48, num_attention_heads=4, intermediate_size=192)
    return shaken(transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=5, **sizes | options)))


def first_names(state):
    """As the files that torchvision published first."""
    return {name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value for name, value in state.items()}


def names_before_5(state):
    """As transformers 4 and the published files have them."""
    pairs = {
        r"vit\.layers\.": "vit.encoder.layer.",
        r"attention\.q_proj": "attention.attention.query",
        r"attention\.k_proj": "attention.attention.key",
        r"attention\.v_proj": "attention.attention.value",
        r"attention\.o_proj": "attention.output.dense",
        r"mlp\.fc1": "intermediate.dense",
        r"mlp\.fc2": "output.dense",
    }
    renamed = {}
    for name, value in state.items():
        for pattern, other in pairs.items():
            name = re.sub(pattern, other, name)
        renamed[name] = value
    return renamed


@pytest.mark.parametrize(
    ("network", "names", "norm"),
    [
        (torchvisions, first_names, "layer(eps=1e-6)"),
        (timms, dict, "layer(eps=1e-6)"),
        (hugging_faces, names_before_5, "layer(eps=1e-12)"),
    ],
)
def test_every_librarys_transformer(network, names, norm):
    theirs = network()
    for given in (theirs, theirs.state_dict(), dict(reversed(names(theirs.state_dict()).items()))):
        same(load_weights(vit(**SMALL, norm=norm), given), theirs, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_heads=6), "outputs differ"),
        (dict(act_layer="relu"), "outputs differ"),
        (dict(norm_layer=lambda width, **given: torch.nn.LayerNorm(width, eps=1e-3)), "has eps=0.001"),
        (dict(qkv_bias=False), "fills 'stack.blocks.0.1_A.query_key_value.bias'"),
        (dict(init_values=1e-2), "LayerScale"),
        (dict(qk_norm=True), "has no place"),
        (dict(pre_norm=True), "a norm before the first layer"),
        (dict(global_pool="avg"), "a norm after the mean over all tokens"),
        (dict(class_token=False, global_pool="avg"), "a norm after the mean over all tokens"),
        (dict(reg_tokens=1), "register tokens"),
        (dict(block_fn=timm.models.vision_transformer.ResPostBlock), "outputs differ"),
    ],
)
def test_timms_other_transformers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_weights(vit(**SMALL), timms(**options))


def test_timms_configuration_names_the_activation():
    with pytest.raises(ValueError, match="quick GELU"):
        load_weights(vit(**SMALL), timms().state_dict(), config={"architecture": "vit_base_patch16_clip_quickgelu_224"})


def test_deit_is_timms_transformer_and_distilled_it_is_refused():
    small = dict(img_size=32, patch_size=8, num_classes=5, depth=1)
    torch.manual_seed(0)
    network = shaken(timm.create_model("deit_tiny_patch16_224", **small))
    ours = vit(size=32, patch=8, classes=5, depth=1, width=192, heads=3)
    same(load_weights(ours, network), network, 32)
    for theirs in (
        timm.create_model("deit_tiny_distilled_patch16_224", **small),
        transformers.DeiTForImageClassification(transformers.DeiTConfig(image_size=32, num_hidden_layers=1)),
    ):
        with pytest.raises(ValueError, match="the second token of a distilled DeiT"):
            load_weights(ours, theirs.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(hidden_act="relu"), "hidden_act='relu' in the configuration, and 'gelu'"),
        (dict(layer_norm_eps=1e-6), "layer_norm_eps=1e-06 in the configuration, and 1e-12"),
        (dict(num_attention_heads=6), "num_attention_heads=6 in the configuration, and 4"),
        (dict(qkv_bias=False), "fills 'stack.blocks.0.1_A.query_key_value.bias'|qkv_bias"),
    ],
)
def test_hugging_faces_configuration_is_checked(options, message):
    theirs = hugging_faces(**options)
    for given, config in ((theirs, None), (theirs.state_dict(), theirs.config), (theirs.state_dict(), theirs.config.to_dict())):
        with pytest.raises(ValueError, match=message):
            load_weights(vit(**SMALL, norm="layer(eps=1e-12)"), given, config=config)


def test_the_call_of_the_error_builds_the_network():
    theirs = hugging_faces(hidden_act="relu", layer_norm_eps=1e-3, intermediate_size=100)
    with pytest.raises(ValueError, match=r"nearest network here is vit\(") as refusal:
        load_weights(vit(**SMALL), theirs)
    ours = eval(re.search(r"vit\(.*\)", str(refusal.value))[0], dict(vit=vit))
    same(load_weights(ours, theirs), theirs, 32)


def test_the_bodys_weights_alone_load_without_a_head():
    theirs = hugging_faces()
    state = {name.removeprefix("vit."): value for name, value in theirs.state_dict().items() if "classifier" not in name}
    ours = vit(**SMALL | dict(classes=3), norm="layer(eps=1e-12)").eval()
    load_weights(ours, state, head="skip")
    assert torch.equal(ours.stack.last.weight, theirs.vit.layernorm.weight)
