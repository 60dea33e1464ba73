"""Random weights of every timm `resnet*`, every torchvision network of our kinds and Hugging Face's: equal logits, or refused.

Our network is built by the call that the error message advises. The weights are given in five ways: the network itself, its
state dict, that as a plain dictionary in another order, as a .safetensors file, and the last with the configuration.

    python -m benchmarks.load_weights [--only PATTERN] [--quick]
"""

import argparse
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.measure import RESULTS, write
from resnorm import densenet, load_weights, resnet, vit
from resnorm.models.weights import FAMILIES
from resnorm.models.weights.source import read

CLASSES = 7
WAYS = ("network", "state dict", "shuffled", "safetensors", "safetensors, config")
TOLERANCE = 1e-4
# timm's networks beside `resnet*` and Vision Transformers.
OTHERS = (
    "resnext50_32x4d",
    "resnext50d_32x4d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "seresnet50",
    "ecaresnet50d",
    "densenet121",
    "densenetblur121d",
)
MODELS = dict(resnet=resnet, densenet=densenet, vit=vit)


def networks() -> Iterator[tuple[str, str, Callable[[], nn.Module], int]]:
    """Library, name, the network and a size of its images."""
    import timm
    import torchvision
    import transformers

    for name in timm.list_models("resnet*"):
        yield "timm", name, lambda name=name: timm.create_model(name, num_classes=CLASSES), 64
    for name in OTHERS:
        yield "timm", name, lambda name=name: timm.create_model(name, num_classes=CLASSES), 64
    for name in timm.list_models(["vit_tiny*", "vit_small*", "vit_base*", "deit*tiny*", "deit*small*", "deit*base*"]):
        if not re.search(r"_r\d\d|_r_s|resnet|18x2|36x1", name):  # hybrids, and those whose depth is in the name
            yield "timm", name, lambda name=name: short(name), 0
    kinds = r"(resnet|resnext|wide_resnet|densenet)\d+.*"
    for name in torchvision.models.list_models(torchvision.models):
        if re.fullmatch(kinds, name):
            yield "torchvision", name, lambda name=name: torchvision.models.get_model(name, num_classes=CLASSES), 64
        elif re.fullmatch(r"vit_.*", name):
            size = 28 if "14" in name else 64
            given = dict(num_classes=CLASSES, image_size=size)
            yield "torchvision", name, lambda name=name, given=given: torchvision.models.get_model(name, **given), size
    settings = {
        "": {},
        ", basic": dict(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2]),
        ", gelu": dict(hidden_act="gelu"),
        ", stride in the 1x1": dict(downsample_in_bottleneck=True),
        ", stride in the first stage": dict(downsample_in_first_stage=True),
    }
    for name, given in settings.items():
        config = transformers.ResNetConfig(num_labels=CLASSES, **given)
        yield "Hugging Face", f"ResNet{name}", lambda config=config: transformers.ResNetForImageClassification(config), 64
    settings = {
        "": {},
        ", eps": dict(layer_norm_eps=1e-3),
        ", relu": dict(hidden_act="relu"),
        ", 4 heads": dict(num_attention_heads=4),
        ", no bias": dict(qkv_bias=False),
        ", narrow": dict(intermediate_size=100),
        ", patch 8": dict(patch_size=8),
    }
    for name, given in settings.items():
        small = dict(image_size=32, num_labels=CLASSES, num_hidden_layers=2, hidden_size=96, num_attention_heads=12)
        config = transformers.ViTConfig(**small | given)
        yield "Hugging Face", f"ViT{name}", lambda config=config: transformers.ViTForImageClassification(config), 32
    config = transformers.DeiTConfig(image_size=32, num_labels=CLASSES, num_hidden_layers=1)
    yield "Hugging Face", "DeiT, distilled", lambda: transformers.DeiTForImageClassification(config), 32


def short(name: str) -> nn.Module:
    """A Vision Transformer of timm with one layer, where its settings do not list every layer."""
    import timm

    try:
        return timm.create_model(name, num_classes=CLASSES, depth=1)
    except AssertionError:
        return timm.create_model(name, num_classes=CLASSES)


@torch.no_grad()
def shaken(network: nn.Module) -> nn.Module:
    """Every parameter and running statistic away from its start, so that no gain of 0 or 1 hides a wrong place."""
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1 if parameter.dim() < 2 else 0.02)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.8, 1.6)
    return network.eval()


def call_for(network: nn.Module) -> str:
    """The call that the message advises for these weights, with what only the network tells."""
    source = read(network)
    for family in FAMILIES:
        named = family.recognise(source)
        if named is not None:
            call = family.call_for(named)
            break
    else:
        call = "resnet()"
    heads = next((module.num_heads for module in network.modules() if hasattr(module, "num_heads")), None)
    config = getattr(network, "config", None)
    call = call.replace("heads=...", f"heads={heads or getattr(config, 'num_attention_heads', 12)}")
    kinds = {type(module).__name__ for module in network.modules()}
    average = isinstance(getattr(network, "maxpool", None), nn.AvgPool2d)
    pool = "blur" if "BlurPool2d" in kinds else "average" if average else None
    if pool and call.startswith("resnet(") and "antialias" not in call:
        call = f'{call[:-1]}, antialias="{pool}")'
    return "resnet()" if "does not build" in call else call  # no network of ours has these stages


def plain(call: str) -> str:
    """The call without what leaves no tensor: the pooling against aliasing, standardised filters, the stem's padding."""
    return re.sub(r', (antialias|weight|stem_pool)="[^"]*"', "", call)


def outcomes(network: nn.Module, size: int, call: str, ways: tuple[str, ...] = WAYS) -> dict[str, Any]:
    """For each way "equal", "refused", "unchecked" (other logits, and the log named what was not checked) or "wrong", with
    the largest difference where they are equal, as a share of the largest logit.
    """
    size = size or network.patch_embed.img_size[0]
    channels = next(module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
    images = torch.randn(2, channels, size, size)
    with torch.no_grad():
        theirs = network(images)
        theirs = getattr(theirs, "logits", theirs)
    row: dict[str, Any] = dict(ours=call, outcomes={})
    ours = eval(call, dict(MODELS)).eval()
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    log = logging.getLogger("resnorm")
    log.addHandler(handler)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        state = network.state_dict()
        if any("safetensors" in way for way in ways):
            save_file({name: value.contiguous() for name, value in state.items()}, path)
        config = getattr(network, "config", None) or getattr(network, "pretrained_cfg", None)
        for way in ways:
            if way.endswith("config") and config is None:
                continue
            given = {"network": network, "state dict": state, "shuffled": shuffled(state)}.get(way, path)
            heard.clear()
            try:
                for value in ours.state_dict().values():
                    value.fill_(0.5)  # so that nothing is left of the way before
                load_weights(ours, given, config=config if way.endswith("config") else None)
            except ValueError as error:
                row["outcomes"][way], row["reason"] = "refused", str(error)
                continue
            with torch.no_grad():
                mine = ours(images)
            difference = ((mine - theirs).abs().max() / theirs.abs().max()).item()
            row["outcomes"][way] = "equal" if difference <= TOLERANCE else "unchecked" if heard else "wrong"
            row["difference"] = max(difference, row.get("difference", 0.0))
            if heard:
                row["said"] = heard[-1]
    log.removeHandler(handler)
    return row


def shuffled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    order = torch.randperm(len(state)).tolist()
    names = list(state)
    return {names[index]: state[names[index]] for index in order}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a regular expression of library and name; other rows of the file stay")
    parser.add_argument("--quick", action="store_true", help="nothing is written")
    given = parser.parse_args(arguments)
    logging.getLogger("resnorm").propagate = False
    path = RESULTS / "load_weights.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if given.only and path.exists() else []
    rows = []
    for library, name, create, size in networks():
        if not re.search(given.only, f"{library} {name}"):
            continue
        torch.manual_seed(0)
        network = shaken(create())
        call = call_for(network)
        for ours in dict.fromkeys((call, plain(call))):
            row = dict(library=library, network=name, **outcomes(network, size, ours))
            rows.append(row)
            shown = ", ".join(f"{way}: {outcome}" for way, outcome in row["outcomes"].items())
            print(f"{library:12s} {name:36s} {row.get('difference', float('nan')):8.1e}  {shown}", flush=True)
            print(f"    {row['ours']}   {row.get('reason', row.get('said', ''))[:200]}", flush=True)
    if not given.quick:
        measured = {(row["library"], row["network"]) for row in rows}
        rows = [row for row in kept if (row["library"], row["network"]) not in measured] + rows
        order = {"timm": 0, "torchvision": 1, "Hugging Face": 2}
        rows.sort(key=lambda row: order[row["library"]])
        print(write("load_weights", dict(classes=CLASSES, tolerance=TOLERANCE), rows))


if __name__ == "__main__":
    main()
