"""`convert_norm` on the models of torchvision and timm: what converts and runs, and what is refused with which reason.

    python -m benchmarks.convert_norm              results/benchmarks/convert_norm.json; goes on where it was stopped
    python -m benchmarks.convert_norm --quick      two small models: prints and writes nothing
    python -m benchmarks.convert_norm --only resnet --folder here

Every model of torchvision, and of every family of timm three models that are called small and those that are named after
their norm. Weights are random, images small. A conversion is **converted** where the model then passes `check_conversion` beside
the model as it was, in training and in eval; **refused** where `convert_norm` raises `ValueError`; **refused on the example**
where only a forward pass shows what is wrong, and says so in an error, which `convert_norm(..., example=x)` turns into a
refusal; and **silently wrong** where it runs and eval differs from a pass of its modules one by one.
"""

import argparse
import contextlib
import copy
import gc
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from benchmarks.measure import RESULTS, write
from resnorm import convert_norm
from resnorm.norms.checking import compare, passes
from resnorm.norms.modules import GroupNorm

NAME = "convert_norm"
CONVERSIONS: dict[str, tuple[Any, str]] = {
    "batch to group": (lambda width: GroupNorm(width, math.gcd(8, width)), "batch"),
    "batch to layer": ("layer", "batch"),
    "batch to none": ("none", "batch"),
    "layer to rms": ("rms", "layer"),
    "layer to batch": ("batch", "layer"),
    "group to layer": ("layer", "group"),
    "instance to group": ("group(groups=8)", "instance"),
    "rms to layer": ("layer", "rms"),
}
# Smaller than published where the sizes are free: what is tried is the norms.
TORCHVISION: dict[str, dict[str, Any]] = {
    r"^vit_[bl]": dict(image_size=64),
    r"^vit_h": dict(image_size=56),
    r"rcnn|retinanet|fcos|ssd": dict(num_classes=3),
    r"rcnn|retinanet|fcos": dict(min_size=64, max_size=96),
    r"googlenet|inception_v3": dict(init_weights=False),
    r"inception_v3": dict(aux_logits=False),
    r"quantized_": dict(quantize=False),
}


SMALL = (
    "test",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxt",
    "xxs",
    "tiny",
    "_xs",
    "mini",
    "micro",
    "small",
    "_s",
    "lite",
    "_t",
    "_0",
    "18",
    "26",
    "50",
)
# Above the first number a model is tried with one conversion of each kind of norm, above the second one of timm not at all.
BIG, LARGE = 20_000_000, 120_000_000
OTHER_TASKS = ("detection", "segmentation", "video", "optical_flow", "quantization")
NAMED_AFTER_A_NORM = r"_gn|_ln|_rms|_bn|_frn|_evo|norm|_abn|_iabn"


def torchvision_models() -> Iterator[tuple[str, str, Callable[[], nn.Module], list[tuple]]]:
    """Family, name, model and inputs to try in turn, of every model of torchvision."""
    import torchvision

    for name in torchvision.models.list_models():
        options = {key: value for pattern, more in TORCHVISION.items() if re.search(pattern, name) for key, value in more.items()}
        module = torchvision.models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
        kind = module.split(".")[0] if module.startswith(OTHER_TASKS) else "classification"
        if kind in ("detection", "segmentation"):
            options |= dict(weights_backbone=None)

        def build(name: str = name, options: dict = options) -> nn.Module:
            return torchvision.models.get_model(name, weights=None, **options)

        if kind == "detection":
            size = 300 if name == "ssd300_vgg16" else 96
            target = dict(boxes=torch.tensor([[8.0, 8.0, 56.0, 56.0]]), labels=torch.tensor([1]))
            target |= dict(masks=torch.ones(1, size, size, dtype=torch.uint8)) if "maskrcnn" in name else {}
            target |= dict(keypoints=torch.tensor([[[20.0, 20.0, 1.0]] * 17])) if "keypoint" in name else {}
            inputs = [([image(0, size)[0], image(1, size)[0]], [dict(target), dict(target)])]
        elif kind == "video":
            sizes = ((8, 64), (16, 64), (16, 224))
            inputs = [(torch.stack([image(frame, size) for frame in range(frames)], 2),) for frames, size in sizes]
        elif kind == "optical_flow":
            inputs = [(image(0, 128), image(1, 128))]
        else:
            inputs = [(image(0, size),) for size in (options.get("image_size", 32), 64, 96, 224)]
        yield kind, name, build, inputs


def timm_models() -> Iterator[tuple[str, str, Callable[[], nn.Module], list[tuple]]]:
    """The same of timm: of every family three models that are called small, and every one that is named after its norm."""
    import timm
    from timm.models._registry import _model_to_module

    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(_model_to_module[name], []).append(name)
    for family, names in sorted(families.items()):
        names.sort(key=lambda name: (next((i for i, size in enumerate(SMALL) if size in name), len(SMALL)), len(name), name))
        for name in names[:3] + [name for name in names[3:] if re.search(NAMED_AFTER_A_NORM, name)][:4]:
            yield family, name, *_timm_model(name)


def _timm_model(name: str) -> tuple[Callable[[], nn.Module], list[tuple]]:
    import timm

    configuration = timm.get_pretrained_cfg(name)
    size = configuration.input_size[-1] if configuration else 224
    sizes = sorted({min(64, size), min(128, size), size}) if not (configuration and configuration.fixed_input_size) else [size]

    def build() -> nn.Module:
        if sizes == [size] and size > 64 and "crossvit" not in name:
            with contextlib.suppress(Exception):
                return timm.create_model(name, num_classes=5, img_size=64)  # attention that takes another grid
        return timm.create_model(name, num_classes=5)

    return build, [(image(0, one),) for one in sorted({min(64, size), *sizes})]


def image(seed: int, size: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def built(build: Callable[[], nn.Module]) -> nn.Module:
    """A model with random weights that are cheap to draw; gains and biases of its norms are away from 1 and 0."""
    kept = {name: getattr(torch.Tensor, name) for name in ("normal_", "uniform_", "erfinv_")}
    for name in kept:
        setattr(torch.Tensor, name, lambda tensor, *arguments, **options: tensor.zero_())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build()
    finally:
        for name, method in kept.items():
            setattr(torch.Tensor, name, method)
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                values = noise.repeat(math.ceil(parameter.numel() / len(noise)))[: parameter.numel()].view(parameter.shape)
                if "norm" in type(module).__name__.lower() and parameter.dim() == 1:
                    parameter.copy_((name == "weight") + 0.1 * values)
                elif parameter.dim() > 1:
                    parameter.copy_(values / max(1, parameter[0].numel()) ** 0.5)
                elif name == "bias" or not (parameter.abs() < 1e3).all():
                    parameter.copy_(0.02 * values)
    return model


def outcome(model: nn.Module, conversion: str, inputs: tuple, before: tuple) -> dict[str, Any] | None:
    """What became of one conversion; None where the model has no such norm."""
    to, of = CONVERSIONS[conversion]
    made = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    try:
        made = convert_norm(made, to, of)
    except ValueError as error:
        return None if "has no norm of=" in str(error) else dict(outcome="refused", reason=str(error))
    except Exception as error:
        return dict(outcome="broken", reason=f"{type(error).__name__}: {error}")
    try:
        compare(passes(made, inputs, {}), before)
    except ValueError as error:
        silent = "one by one" in str(error) or "no longer calls" in str(error)
        return dict(outcome="silently wrong" if silent else "refused on the example", reason=str(error))
    except Exception as error:
        return dict(outcome="broken", reason=f"{type(error).__name__}: {error}")
    return dict(outcome="converted")


def rows_of(library: str, family: str, name: str, build: Callable[[], nn.Module], inputs: list[tuple]) -> list[dict[str, Any]]:
    """One row a conversion, or one row that says why the model itself does not run."""
    row = dict(library=library, family=family, model=name)
    try:
        model = built(build)
    except Exception as error:
        return [row | dict(outcome="not built", reason=f"{type(error).__name__}: {error}"[:300])]
    if library == "timm" and sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        return [row | dict(outcome="larger than 120 million parameters")]
    problems = []
    for one in inputs:
        try:
            before = passes(model, one, {})
            compare(before, None)
            break
        except ValueError as error:
            problems.append(str(error))
    else:
        return [row | dict(outcome="does not run itself", reason=problems[-1][:300])]
    size = list(torch.utils._pytree.tree_leaves(one)[0].shape)
    few = sum(parameter.numel() for parameter in model.parameters()) > BIG
    conversions = ("batch to group", "layer to rms", "group to layer") if few else CONVERSIONS
    rows = [(conversion, outcome(model, conversion, one, before)) for conversion in conversions]
    found = [row | dict(conversion=conversion, input=size) | made for conversion, made in rows if made is not None]
    for made in found:
        made.update({key: value[:300] for key, value in made.items() if key == "reason"})
    return found or [row | dict(outcome="no norm of these kinds")]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose name this pattern finds")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--libraries", default="torchvision,timm")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.only = "^resnet18$|^test_vit$"
    torch.set_num_threads(1)
    import timm
    import torchvision

    settings = dict(torchvision=torchvision.__version__, timm=timm.__version__)
    path = options.folder / f"{NAME}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {(row["library"], row["model"]) for row in rows}
    for library, models in (("torchvision", torchvision_models), ("timm", timm_models)):
        if library not in options.libraries:
            continue
        for family, name, build, inputs in models():
            if not re.search(options.only, name) or ((library, name) in done and not options.quick):
                continue
            start = perf_counter()
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                made = rows_of(library, family, name, build, inputs)
            rows += made
            if not options.quick:
                write(NAME, settings, rows, options.folder)
            summary = ", ".join(f"{row.get('conversion', '')} {row['outcome']}" for row in made)
            print(f"{library} {name} ({perf_counter() - start:.0f} s): {summary}", flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
