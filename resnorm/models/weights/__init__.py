"""Weights of torchvision, timm and Hugging Face in our networks, matched by name.

A family of weights is one entry, a `Family`, in a module of this package and in `FAMILIES` below. Its table goes from
their names to ours, and is meant to be read:

```python
table = {
    "conv1": "stem.0",                                      # a module: all of its tensors, under their own last names
    "layer{stage}.{block}.conv1": "stack.blocks.{index}.C1",  # numbers in braces; {index} counts all blocks through
    "h.{layer}.attn.c_attn": "stack.blocks.{index}.A1.query_key_value.T",       # .T: their matrix is ours transposed
    "layer.{layer}.self.query": "stack.blocks.{index}.A1.query_key_value[0]",   # [0], [1], ...: the pieces of one tensor
    "cls_token": "class_token",                             # a tensor that is in no module of its own
    "bn1": ("stem.7", "stem.1"),                            # the first of these that our network has
}
```

`C2` is the second `C` of a block's word, wherever it stands in it, so that a row holds with dropout, `|` and other words.
A vector with axes of length 1 in front, and a 1x1 convolution in the place of a matrix, are taken as what they are. Every
tensor of the file must be in the table or in `ignored`, and every tensor of ours must be filled; what is left over means
another function, and is refused. What no tensor tells (`eps`, activation, the scale of attention, pooling, the order of
norm and merge) is checked in `differences` from the other library's configuration, and named by `unchecked` where there
is none. `call` is the text of the call that builds our network for these weights, as far as their shapes tell.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resnorm.models.weights import bert, check, densenet, gpt2, gpt_neox, llama, resnet, strangers, vit
from resnorm.models.weights.family import Family, meaning, our_names
from resnorm.models.weights.source import Source, log, read

FAMILIES = tuple(family for part in (resnet, densenet, vit, gpt2, llama, gpt_neox, bert) for family in part.FAMILIES)
HEADS = ("load", "skip")


def load_weights(
    model: nn.Module, weights: Mapping[str, Any] | nn.Module | str | os.PathLike, *, config: Any = None, head: str = "load"
) -> nn.Module:
    """Load weights of torchvision, timm or Hugging Face into our network, which then computes the same; return it.

    | our network                                         | whose weights                                             |
    |-----------------------------------------------------|-----------------------------------------------------------|
    | `resnet(depth=50)`, and its options                 | ResNets and ResNeXts of torchvision, timm, Hugging Face   |
    | `resnet(depth=50, version=2)`, and its options      | timm's `resnetv2` and BiT                                 |
    | `densenet(depth=121)`                               | DenseNet of torchvision and timm                          |
    | `vit()`                                             | ViT of torchvision, timm, Hugging Face; DeiT undistilled  |
    | `transformer_lm(..., activation="gelu_tanh")`       | Hugging Face's `GPT2LMHeadModel`                          |
    | `transformer_lm(..., positions="rotary")`           | Hugging Face's Llama, Mistral, Qwen2, Qwen3, OLMo 2, GPT-NeoX |
    | `bert()`                                            | Hugging Face's `BertForMaskedLM`                          |

    ```python
    load_weights(resnet(depth=50), torchvision.models.resnet50(weights="DEFAULT"))
    load_weights(resnet(depth=50), "resnet50.safetensors")
    load_weights(bert(), "bert.pt", config="config.json")
    ```

    `model`: of the same sizes; an error names the call that builds it. `weights`: the other network itself, its state dict,
    a checkpoint that holds one (what DDP, torch.compile, Lightning and averaging write around it is taken off), or the path
    of a .safetensors, .pt, .pth, .bin or .ckpt file (read without running code), of a sharded file's index, or of a folder
    of Hugging Face. Tensors are matched by name; other types of numbers become the model's.
    `config`: the other library's configuration, `model.config` of transformers, `model.pretrained_cfg` of timm, or the path
    of its file. A network's own is taken. `head="skip"`: leave our head as it was drawn, for another number of classes.

    What the tensors do not tell is checked: with the network itself, the settings of all its modules, its configuration,
    and the outputs of both for one random input; with a configuration, what it says. With neither, the log `resnorm` says
    what could not be checked.
    Raises `ValueError`, and loads nothing, where a tensor has no place, is missing or has another shape, and where the other
    network computes something else; it names the first reason.
    Citation: he2016deep, he2016identity, huang2017densely, dosovitskiy2021image, touvron2021training, devlin2019bert,
    radford2019language, touvron2023llama.
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r}; allowed: {', '.join(HEADS)}")
    source = read(weights, config)
    own = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    for whose, values in (("this model", own), ("the weights' network", source.tensors)):
        if any(value.is_meta for value in values.values()):
            raise ValueError(f"{whose} is on the meta device and has no values; give it memory, with to_empty(device=...)")
    for one in source.spellings():
        if set(one.tensors) == set(own):  # our own weights
            _fit(one.tensors, own, "")
            model.load_state_dict(one.tensors, strict=False)
            return model
    family, source = _family(model, source)
    advice = f"; the nearest network here is {family.call_for(source)}"
    loaded = _matched(family, model, source, own, head, advice)
    for reason in family.differences(model, source):
        raise ValueError(f"{reason}: the two would not compute the same{advice}")
    if source.module is not None:
        _prove(family, model, source, loaded, head)
    elif source.config is None and (unchecked := family.unchecked(model, source)):
        log.warning("load_weights: tensors alone do not tell %s; give the network itself or its config to check it", unchecked)
    model.load_state_dict(loaded, strict=False)
    return model


def _family(model: nn.Module, source: Source) -> tuple[Family, Source]:
    """The family of the weights, and the weights under its own names."""
    known = [(family, named) for family in FAMILIES if (named := family.recognise(source))]
    for family, named in known:
        if type(model) is family.ours:
            return family, named
    for family, named in known:
        raise ValueError(
            f"these are weights of {family.name}, and this model is {type(model).__name__}; build {family.call_for(named)}"
        )
    for one in source.spellings():
        if why := strangers.reason(one.tensors):
            raise ValueError(f"{why}: there is no such network here, and the weights are not loaded")
    names = [family.name for family in FAMILIES if type(model) is family.ours]
    strange = next((name for name in source.tensors if meaning(name)), None)
    first = f"{strange!r}{meaning(strange)}" if strange else ", ".join(map(repr, list(source.tensors)[:3]))
    raise ValueError(
        f"the {len(source.tensors)} tensors, {first} and so on, have the names of no network that is known here; for this "
        f"{type(model).__name__} they must be those of {', or '.join(names) or 'a network of its own class'}"
    )


def _matched(family: Family, model: nn.Module, source: Source, own: dict[str, Tensor], head: str, advice: str) -> dict[str, Tensor]:
    """Their tensors under our names, in our shapes."""
    short = our_names(model)
    slots = {name: path for name, path in short.items() if head == "load" or not name.startswith(family.head)}
    tensors = dict(family.prepare(source, model) if family.prepare else source.tensors)
    wanted = dict(_places_of(family, tensors, short))
    for name in tensors:
        if name not in wanted and not family.ignores(name) and meaning(name):
            ours = family.ours.__name__
            raise ValueError(f"{name!r}{meaning(name)} has no place in {ours}: the two would not compute the same")
    for copy, original in (family.tied(source) if callable(family.tied) else family.tied).items():
        if original not in tensors:
            continue
        if copy not in tensors:
            place = family.ours_of(copy, tensors, short)
            if place is not None and place[0] in slots:
                tensors[copy], wanted[copy] = tensors[original], place
        elif copy not in wanted:
            if not torch.equal(tensors[copy], tensors[original]):
                raise ValueError(f"{copy!r} is not {original!r}, whose copy it is in the network that is known here{advice}")
            wanted[copy] = None
    pieces: dict[str, dict[int, tuple[str, Tensor]]] = {}
    for name, place in wanted.items():
        if place is not None:
            slot, piece, transposed = place
            value = tensors[name]
            if piece in pieces.get(slot, {}):
                other = pieces[slot][piece][0]
                raise ValueError(f"{other!r} and {name!r} are both what {short.get(slot, slot)!r} of this model is{advice}")
            pieces.setdefault(slot, {})[piece] = (name, value.T if transposed and value.dim() == 2 else value)
    loaded = {}
    for slot, path in slots.items():
        if slot not in pieces:
            hint = ', or load with head="skip"' if slot.startswith(family.head) else ""
            if "running_" in slot:
                hint = "; named_parameters() leaves it out: give the whole state dict, which has the statistics"
            shape = tuple(own[path].shape)
            raise ValueError(f"no tensor of the weights fills {path!r} of this model, of shape {shape}{hint}{advice}")
        parts = [pieces[slot][piece] for piece in sorted(pieces[slot])]
        value = parts[0][1] if len(parts) == 1 else torch.cat([part for _, part in parts])
        loaded[path] = _shaped(" with ".join(repr(name) for name, _ in parts), value, path, own[path], advice)
    left = [name for name in tensors if name not in wanted and not family.ignores(name, head)]
    left += [name for name, place in wanted.items() if place is not None and place[0] not in short]
    for name in sorted(left, key=_natural):
        raise ValueError(
            f"{name!r}, of shape {tuple(tensors[name].shape)}, has no place in this model{meaning(name)}: a network that has it "
            f"computes something else ({len(left)} such tensor{'s' * (len(left) > 1)}){advice}"
        )
    return loaded


def _places_of(family: Family, tensors: dict[str, Tensor], short: dict[str, str]) -> Iterator[tuple[str, Any]]:
    names = tuple(tensors)
    for name in names:
        if not family.ignores(name):
            place = family.ours_of(name, names, short)
            if place is not None:
                yield name, place


def _shaped(name: str, its: Tensor, path: str, value: Tensor, advice: str) -> Tensor:
    """A tensor in our shape, where only axes of length 1 at its ends tell it from ours."""
    if its.shape != value.shape and _bare(its.shape) == _bare(value.shape):
        its = its.reshape(value.shape)
    if its.shape != value.shape:
        raise ValueError(f"{name} has shape {tuple(its.shape)}, and {path!r} of this model {tuple(value.shape)}{advice}")
    if value.is_floating_point() and not its.is_floating_point():
        raise ValueError(f"{name} is stored as {its.dtype}, without the factors of its numbers; dequantise it first")
    return its


def _bare(shape: Iterable[int]) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _fit(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], advice: str) -> None:
    for name, value in own.items():
        if tensors[name].shape != value.shape:
            raise ValueError(f"{name!r} has shape {tuple(tensors[name].shape)}, and in this model {tuple(value.shape)}{advice}")


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _prove(family: Family, model: nn.Module, source: Source, loaded: dict[str, Tensor], head: str) -> None:
    """Raise `ValueError` where the other network, with its settings and on a random input, computes something else."""
    short = our_names(model)
    pairs, heads = {}, None
    for name, (slot, _, _) in _places_of(family, source.tensors, short):
        mine, its = short.get(slot, "").rpartition(".")[0], source.names.get(name, name).rpartition(".")[0]
        if mine and its:
            pairs[mine] = its
        if slot.startswith(family.head) and heads is None:
            heads = (mine, its)
    for reason in check.settings(pairs, model, source.module):
        raise ValueError(f"{reason}: the two would not compute the same")
    if head == "load" and heads is not None:
        heads = None  # the outputs themselves
    elif heads is None:
        heads = (family.head.rstrip("."), None)
    difference = check.outputs(model, source.module, loaded, family.inputs(model), heads)
    if not difference <= check.TOLERANCE:
        raise ValueError(
            f"with the same tensors the outputs differ by {difference:.2g} of the largest: {type(source.module).__name__} "
            "computes something else (another activation, pooling, order of norm and merge, or scale)"
        )


__all__ = ["FAMILIES", "Family", "load_weights"]
