"""Whole networks from words; `build` makes one for a data set."""

import inspect
from typing import Any

from torch import nn

from resnorm import catalog
from resnorm.models.bert import bert
from resnorm.models.densenet import cifar_densenet, densenet
from resnorm.models.mlp import mlp_stack
from resnorm.models.resnet import cifar_resnet, resnet
from resnorm.models.seq2seq import seq2seq
from resnorm.models.simple import alike_positions, random_stack, simple_transformer
from resnorm.models.transformer import transformer_lm
from resnorm.models.translate import generate, translate
from resnorm.models.vit import vit
from resnorm.models.weights import load_weights

MODELS = {
    "mlp_stack": mlp_stack,
    "cifar_resnet": cifar_resnet,
    "resnet": resnet,
    "cifar_densenet": cifar_densenet,
    "densenet": densenet,
    "transformer_lm": transformer_lm,
    "bert": bert,
    "seq2seq": seq2seq,
    "vit": vit,
}

# What a data set's `spec` says of itself, and a model is told.
OF_THE_DATA = ("inputs", "size", "classes", "vocabulary", "context")


def allowed_options(name: str, variant: str | None = None) -> list[str]:
    """The options that may be chosen for a model of this name: its own, and its variant's (default: the model's).

    What the data set says, `OF_THE_DATA`, and what a model itself tells its variant are not among them.
    Raises `ValueError` for an unknown model or variant.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; allowed: {', '.join(MODELS)}")
    signature = inspect.signature(MODELS[name]).parameters
    own = [key for key in signature if key not in ("options", *OF_THE_DATA)]
    if "options" not in signature:
        return own
    return own + [key for key in catalog.variant(variant or signature["variant"].default).chosen_options if key not in own]


def build(name: str, task: dict[str, Any], **options: Any) -> nn.Module:
    """Build a model for a data set: its inputs, classes, vocabulary and context come from the data set's `spec`.

    `name`: a key of `MODELS`; `task`: `inputs` (channels), `size` (pixels a side) and `classes` for images,
    `vocabulary` and `context` for sequences; `options`: what the model and its variant take.
    Raises `ValueError` for an unknown model or option, and for a data set of the wrong kind.
    """
    allowed = allowed_options(name, options.get("variant"))
    signature = inspect.signature(MODELS[name]).parameters
    needed = ("vocabulary", "context") if "vocabulary" in signature else ("inputs", "classes")
    missing = [key for key in needed if key not in task]
    if missing:
        raise ValueError(
            f"the model {name!r} needs {' and '.join(missing)} of its data set, which has {', '.join(task)}; "
            f"use a data set of {'sequences' if 'vocabulary' in needed else 'images'}"
        )
    for key in options:
        if key not in (*allowed, *needed):
            raise ValueError(f"the model {name!r} has no option {key!r}; allowed: {', '.join(allowed)}")
    given = {key: task[key] for key in needed}
    if "size" in signature:
        given["size"] = task["size"]
    if name == "mlp_stack":
        given["inputs"] *= task["size"] ** 2
    return MODELS[name](**{**given, **options})


__all__ = [
    "MODELS",
    "alike_positions",
    "allowed_options",
    "bert",
    "build",
    "cifar_densenet",
    "cifar_resnet",
    "densenet",
    "generate",
    "load_weights",
    "mlp_stack",
    "random_stack",
    "resnet",
    "seq2seq",
    "simple_transformer",
    "transformer_lm",
    "translate",
    "vit",
]
