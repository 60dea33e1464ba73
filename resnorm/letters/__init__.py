r"""What the letters of a word stand for: one object a letter, and how a setting is read.

| letter | module | equation | set by |
|---|---|---|---|
| `a` | `Add` | $\lambda\, S(x) + g\, h$ | `add(skip, gain, learn, shortcut, stride, gate, dropout, dim)` |
| `c` | `Concat` | $[x \Vert h]$ | `concat(dim)` |
| `l` | `Lerp` | $x + \alpha \odot (h - x)$ | `lerp(alpha, learn, dim)` |
| `d` | `Dropout` | single values set to zero | `dropout(rate)` |
| `p` | `DropPath` | whole branches set to zero | `drop_path(rate)` |
| `s` | `LayerScale` | $\operatorname{diag}(\lambda)\, h$ | `layer_scale(init, dim, learn)` |
| `n` | see `resnorm.norms` | | `"layer"`, `"group(groups=4)"` |
| `r` | an activation | | `"relu"`, `"gelu"`, `"silu"`, `"tanh"`, `"identity"` |

A letter is a `Letter`, which runs (`apply`), writes (`equation`), draws (`draw`) and predicts (`predict`) its operation, and says
what the grammar asks of it. A new letter is one entry of `LETTERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from resnorm.letters.glue import (
    ACTIVATIONS,
    Activation,
    Drop,
    Dropout,
    DropPath,
    Half,
    LayerScale,
    Norm,
    Scale,
    drop_path,
    dropout,
    layer_scale,
)
from resnorm.letters.letter import Bracket, Branch, Formula, Letter, Mark, Writer
from resnorm.letters.merges import (
    NO_SIGNS,
    SHORTCUTS,
    Add,
    AddFirst,
    AddSkip,
    Concat,
    ConcatenateSkip,
    Interpolate,
    LearnedScale,
    Lerp,
    Scalar,
    ZeroPad,
    add,
    concat,
    lerp,
)
from resnorm.norms import call_form, norm

__all__ = [
    "ACTIVATIONS",
    "LETTERS",
    "NO_SIGNS",
    "SHORTCUTS",
    "Add",
    "Bracket",
    "Concat",
    "DropPath",
    "Dropout",
    "Formula",
    "LayerScale",
    "LearnedScale",
    "Lerp",
    "Letter",
    "Scalar",
    "Writer",
    "ZeroPad",
    "add",
    "concat",
    "drop_path",
    "dropout",
    "layer_scale",
    "lerp",
    "setting_of",
]

LETTERS: dict[str, Letter] = {
    letter.symbol: letter
    for letter in (
        Branch("F", "branch"),
        Branch("C", "convolution"),
        Branch("A", "self-attention"),
        Branch("X", "cross-attention"),
        Branch("M", "feed-forward (MLP)"),
        Branch("R", "recurrent layer"),
        Branch("G", "graph convolution"),
        Branch("K", "convolution module"),
        AddSkip("a", "add the skip"),
        ConcatenateSkip("c", "concatenate the skip"),
        Interpolate("l", "interpolate towards h"),
        AddFirst("b", "add the first input"),
        Norm("n", "normalise"),
        Activation("r", "activation"),
        Drop("d", "dropout", dropout),
        Drop("p", "drop path", drop_path),
        Scale("s", "LayerScale"),
        Half("h", "half-step"),
        Mark("|", "take the skip here"),
        Mark(" ", "next sub-block"),
    )
}


def setting_of(letter: str, setting: Any) -> Callable[..., nn.Module]:
    """Turn what a caller wrote for a letter into a factory; raises `ValueError` or `TypeError` for what makes none."""
    if letter == "n" and (setting is None or isinstance(setting, str)):
        return partial(norm, setting or "none")
    if isinstance(setting, str):
        named = LETTERS[letter].named
        name, options = call_form(setting)
        if name not in named:
            allowed = f"allowed: {', '.join(named)}"
            if not named:
                allowed = "a branch has no registered names: give a factory width -> module"
            raise ValueError(f"unknown setting {setting!r}; {allowed}")
        return named[name](**options)
    if isinstance(setting, nn.Module):
        raise TypeError(
            f"got the module {type(setting).__name__}, whose parameters two occurrences would share; give a factory, "
            "for example F=lambda width: module"
        )
    if not callable(setting):
        raise TypeError(f"got {setting!r}; give a factory width -> module, a list of them, or a registered name")
    return setting
