"""How a setting is written, `"group(groups=4)"`, and how a factory is called with it."""

from __future__ import annotations

import ast
from collections.abc import Callable

from torch import nn


def call_form(text: str) -> tuple[str, dict]:
    """Split a setting's string form, `"group(groups=4)"`, into its name and its options, `("group", {"groups": 4})`.

    Raises `ValueError` where the text is neither a name nor a call with literal keyword options.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if isinstance(tree, ast.Constant) and tree.value is None:
            return "none", {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            return tree.func.id, {k.arg: ast.literal_eval(k.value) for k in tree.keywords if k.arg}
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"cannot read {text!r}; write a name, \"group\", or a name with options, \"group(groups=4)\"")


def call_factory(name: str, factory: Callable[..., nn.Module], width: int, options: dict) -> nn.Module:
    """Call a factory and turn Python's complaint about a keyword into one that names the setting."""
    try:
        return factory(width, **options)
    except TypeError as error:
        raise TypeError(f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())}): {error}") from None
