"""What to run: a task, a model, a recipe and a seed, as plain data whose hash is its name."""

import functools
import hashlib
import inspect
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

# Where the data lie is a fact of the machine: in the description it would give one experiment two names.
_OF_THE_MACHINE = {"root", "path", "download"}


# An epoch's order is drawn from a million times the seed, and torch takes 64 bits.
SEEDS = 2**40
# Settings of models that are whole numbers, and those of them that no model takes below 1.
SIZES = ("width", "heads", "patch", "growth", "context", "segments", "hidden", "key_value_heads", "head_width")
COUNTS = (*SIZES, "depth", "order")
# Settings of models that are texts though their default is None, and those that may be a list of texts as well.
TEXTS = ("weight", "initialisation")
NORMS = ("norm", "merge_norm")


@dataclass(frozen=True)
class Experiment:
    """Describe one training run completely, as JSON: equal descriptions have equal names.

    ``task``: ``dict(name=..., **options)`` for `resnorm.data.load`; ``model``: ``dict(name=..., **options)`` for
    `resnorm.models.build`; ``recipe``: the fields of `resnorm.training.Recipe`; ``seed``: an integer >= 0;
    ``measure``: names from `resnorm.lab.MEASUREMENTS`, taken on the trained model.
    Raises ValueError or TypeError that names an unknown key and the allowed ones.
    """

    task: dict[str, Any]
    model: dict[str, Any]
    recipe: dict[str, Any]
    seed: int = 0
    measure: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("task", "model", "recipe"):
            if not isinstance(getattr(self, part), dict):
                raise TypeError(f"{part} is {getattr(self, part)!r}; give a dictionary of settings")
            object.__setattr__(self, part, _plain(getattr(self, part), part))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed is {self.seed!r}; give an integer of 0 or more, below {SEEDS:,}")
        for part in ("task", "model", "recipe"):
            _check_part(part, json.dumps(getattr(self, part), sort_keys=True))
        object.__setattr__(self, "measure", _measurements(self.measure))

    def __hash__(self) -> int:
        return hash(self.name)

    @functools.cached_property
    def name(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The description in JSON's types: keys task, model, recipe, seed, and measure where something is measured."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        measure = list(content.pop("measure"))
        return content | ({"measure": measure} if measure else {})

    def to_json(self) -> str:
        """The canonical JSON: sorted keys, no blanks."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def build(self, spec: dict[str, Any]) -> Any:
        """The model, untrained, for data of this ``spec``, as `resnorm.models.build` makes it."""
        from resnorm.models import build

        return build(self.model["name"], spec, **{key: value for key, value in self.model.items() if key != "name"})

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Experiment":
        """Build from plain dictionaries; raises ValueError for a key that is no part of an experiment."""
        if not isinstance(content, dict):
            raise TypeError(f"an experiment is a dictionary, not {type(content).__name__}")
        allowed = [field.name for field in fields(cls)]
        _check_keys("an experiment", content, allowed)
        for part in allowed[:3]:
            if part not in content:
                raise ValueError(f"the experiment has no {part!r}; it needs {', '.join(allowed)}")
        return cls(**content)

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    def replace(self, path: str, value: Any) -> "Experiment":
        """Return a copy with one setting changed: ``replace("model.depth", 20)``, ``replace("seed", 1)``.

        A part alone takes a dictionary of settings that are changed together: ``replace("model", {...})``.
        Raises ValueError for a path that does not start with a part of an experiment.
        """
        part, _, key = path.partition(".")
        content = self.to_dict()
        alone = part in ("seed", "measure")
        if (not alone and part not in content) or (alone and key):
            raise ValueError(f"{path!r} is no setting; write task.KEY, model.KEY, recipe.KEY, seed or measure")
        if alone:
            content[part] = value
        elif key:
            content[part] = {**content[part], key: value}
        elif isinstance(value, dict):
            content[part] = {**content[part], **value}
        else:
            raise TypeError(f"{path!r} alone takes a dictionary of settings, not {value!r}")
        return Experiment(**content)


def sweep(base: Experiment, grid: dict[str, list]) -> list[Experiment]:
    """Vary ``base`` over every combination of the settings in ``grid``; the last one varies fastest.

    Keys are paths as in `Experiment.replace`: ``{"seed": [0, 1, 2], "model.depth": [20, 56]}``.
    Raises ValueError for a value that is there twice, where one run would count as two, and for a setting without any.
    """
    for path, values in grid.items():
        if not values:
            raise ValueError(f"{path} has no value to take; give at least one")
        shown = [json.dumps(_plain(value, path), sort_keys=True) for value in values]
        twice = [value for value in shown if shown.count(value) > 1]
        if twice:
            raise ValueError(f"{path} takes {twice[0]} twice; give every value once")
    experiments = []
    for values in itertools.product(*grid.values()):
        experiment = base
        for path, value in zip(grid, values, strict=True):
            experiment = experiment.replace(path, value)
        experiments.append(experiment)
    return experiments


def _plain(value: Any, where: str) -> Any:
    """Copy into JSON's own types, so that nobody changes it later and ``1.0`` and ``1`` give one name."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; keys are strings")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{where} is {value}; give a finite number")
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; use numbers, strings, booleans, lists and dictionaries")


def _check_keys(what: str, given: Any, allowed: Iterable[str]) -> None:
    unknown = [key for key in given if key not in allowed]
    if unknown:
        raise ValueError(f"{what} has no {unknown[0]!r}; allowed: {', '.join(sorted(allowed))}")


def _options(function: Any) -> tuple[list[str], bool]:
    """The names of a function's parameters, and whether it takes any other keyword as well."""
    parameters = inspect.signature(function).parameters.values()
    names = [item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    return names, any(item.kind is item.VAR_KEYWORD for item in parameters)


def _check_types(what: str, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    """What stands where a number, a truth value or a text stands by default is one too, and a size is a size."""
    kinds = ((bool, (bool,), "true or false"), ((int, float), (int, float), "a number"), (str, (str,), "a text"))
    for name, value in given.items():
        default = defaults.get(name)
        allowed, words = next(((types, words) for kind, types, words in kinds if isinstance(default, kind)), (None, ""))
        if name in COUNTS and name in defaults:
            allowed, words = (int,), "a whole number" + (" above 0" if name in SIZES else "")
        if allowed is None and name in (*TEXTS, *NORMS) and name in defaults:
            allowed, words = ((str, list), "a name, or a list of names") if name in NORMS else ((str,), "a name")
        if allowed is None or (value is None and default is None):
            continue
        if type(value) not in allowed or (name in SIZES and value < 1):
            example = "" if default is None or default is inspect.Parameter.empty else f", such as {json.dumps(default)}"
            raise ValueError(f"{what} has {name}={value!r}; give {words}{example}")


def _named(registry: dict[str, Any], settings: dict[str, Any], what: str) -> Any:
    if not isinstance(settings.get("name"), str) or settings["name"] not in registry:
        raise ValueError(f"there is no {what} {settings.get('name')!r}; allowed: {', '.join(registry)}")
    return registry[settings["name"]]


@functools.lru_cache(maxsize=4096)
def _check_part(part: str, settings: str) -> None:
    """Check a part once: the experiments of a study share most of theirs."""
    {"task": _check_task, "model": _check_model, "recipe": _check_recipe}[part](json.loads(settings))


def _check_task(task: dict[str, Any]) -> None:
    from resnorm.data import DATA_SETS

    function = _named(DATA_SETS, task, "task")
    names, anything = _options(function)
    machine = _OF_THE_MACHINE & set(task)
    if machine:
        raise ValueError(f"the task has {machine.pop()!r}, which differs by machine: set RESNORM_DATA instead")
    if not anything:
        _check_keys(f"the task {task['name']!r}", task, {"name", *names} - _OF_THE_MACHINE)
    defaults = {name: item.default for name, item in inspect.signature(function).parameters.items()}
    _check_types(f"the task {task['name']!r}", task, defaults)


def _check_model(model: dict[str, Any]) -> None:
    from resnorm.catalog import VARIANTS
    from resnorm.models import MODELS, allowed_options

    _named(MODELS, model, "model")
    variant = model.get("variant")
    if "variant" in model and not (isinstance(variant, str) and variant in VARIANTS):
        raise ValueError(f"there is no variant {variant!r}; allowed: {', '.join(sorted(VARIANTS))}")
    what = f"the model {model['name']!r}"
    _check_keys(what, model, {"name", *allowed_options(model["name"], variant)})
    parameters = inspect.signature(MODELS[model["name"]]).parameters
    variant = VARIANTS.get(variant or getattr(parameters.get("variant"), "default", None))
    _check_types(what, model, {name: item.default for name, item in parameters.items()} | (variant.options if variant else {}))


def _measurements(names: Any) -> tuple[str, ...]:
    """Each name once, in alphabetical order: the order of measurements means nothing."""
    if names == ():  # the usual case, which needs no import
        return ()
    from resnorm.lab.measurements import MEASUREMENTS

    if not isinstance(names, (list, tuple)):
        raise TypeError(f"measure is {names!r}; give a list of names from {', '.join(MEASUREMENTS)}")
    for name in names:
        if name not in MEASUREMENTS:
            raise ValueError(f"there is no measurement {name!r}; allowed: {', '.join(MEASUREMENTS)}")
    return tuple(sorted(set(names)))


def _check_recipe(recipe: dict[str, Any]) -> None:
    from resnorm.training import Recipe

    _check_keys("the recipe", recipe, [field.name for field in fields(Recipe)])
    Recipe(**recipe)
