"""How a setting is written, `"group(groups=4)"`, how a factory is called with it, and which values it may have."""

from __future__ import annotations

import ast
import inspect
import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

from torch import nn


def call_form(text: str) -> tuple[str, dict]:
    """Split a setting's string form, `"group(groups=4)"`, into its name and its options, `("group", {"groups": 4})`.

    Raises `ValueError` where the text is neither a name nor a call with literal keyword options, each of them once.
    """
    if not isinstance(text, str):
        raise ValueError(f"cannot read {text!r}; give a name, or a call with keyword options, as 'group(groups=4)'")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if isinstance(tree, ast.Constant) and tree.value is None:
            return "none", {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            options = [(keyword.arg, ast.literal_eval(keyword.value)) for keyword in tree.keywords]
            if None not in dict(options) and len(dict(options)) == len(options):
                return tree.func.id, dict(options)
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f'cannot read {text!r}; write a name, "group", or a name with options, "group(groups=4)"')


def call_factory(name: str, factory: Callable[..., nn.Module], width: int, options: dict) -> nn.Module:
    """Call a factory; Python's complaint about a keyword becomes a `TypeError` that names the setting and what is allowed."""
    try:
        return factory(width, **options)
    except TypeError as error:
        known = options_of(factory)
        allowed = f"; options: {', '.join(known) or 'none'}" if known is not None and set(options) - set(known) else ""
        raise TypeError(f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())}): {error}{allowed}") from None


def options_of(factory: Callable[..., nn.Module]) -> list[str] | None:
    """The keywords of a factory beside the width, those of its base class included; None where it takes any."""
    names: list[str] = []
    for one in inspect.getmro(factory) if isinstance(factory, type) else (factory,):
        parameters = list(inspect.signature(one).parameters.values())
        names += [p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in names]
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            return names
    return None


def number(kind: str, name: str, value: Any, above: float | None = None, most: float = math.inf, why: str = "") -> float:
    """A finite number, 0 or more, or more than `above`; `ValueError` names the setting and what is allowed."""
    wrong = isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value)
    if wrong or value < 0 or value > most or (above is not None and value <= above):
        allowed = "0 or more" if above is None else f"above {above}"
        end = f"up to {most}" if most < math.inf else "finite"
        raise ValueError(f"{kind}: {name}={value!r}; {why}give a number {allowed}, {end}")
    return float(value)


def whole(kind: str, name: str, value: Any) -> int:
    """A whole number, 1 or more, of Python or NumPy; `ValueError` names the setting and what is allowed."""
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1 or isinstance(value, bool):
        raise ValueError(f"{kind}: {name}={value!r}; give a whole number, 1 or more")
    return size


def switch(kind: str, name: str, value: Any) -> bool:
    """True or False; `ValueError` names the setting for anything else, such as the text "no"."""
    if not isinstance(value, bool):
        raise ValueError(f"{kind}: {name}={value!r}; allowed: True, False")
    return value
