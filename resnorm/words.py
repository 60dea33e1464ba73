r"""A block is a word: one letter per operation, run from left to right.

| letter    | operation                | letter | operation                                                  |
|-----------|--------------------------|--------|------------------------------------------------------------|
| `F`       | any branch               | `n`    | normalise                                                  |
| `C`       | convolution              | `r`    | activation                                                 |
| `A` / `X` | self / cross attention   | `a`    | add the skip: $\lambda\, S(x) + g\, h$                     |
| `M`       | feed-forward (MLP)       | `c`    | concatenate the skip: $[x \Vert h]$                        |
| `R`       | recurrent layer          | `b`    | add the first input of the word                            |
| `G`       | graph convolution        | `l`    | interpolate towards h: $x + \alpha (h - x)$                |
| `K`       | convolution module       | `d` `p` `s` `h` | dropout, drop path, LayerScale, half-step         |
| `\|`      | take the skip here       | blank  | next sub-block: the skip starts again                      |

Two values run through a word: the current value $h$, and the skip $x$, which every sub-block takes at its start.
`nFa` is Pre-Norm, $x + F(n(x))$. `Fan` is Post-Norm, $n(x + F(x))$. `Fanan` is the recursive skip of order 2,
$n(x + n(x + F(x)))$: a merge leaves the skip as it was, so a second `an` adds it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnorm import drawing
from resnorm.norms import _call, call_form, norm

BRANCHES = {
    "F": "branch",
    "C": "convolution",
    "A": "self-attention",
    "X": "cross-attention",
    "M": "feed-forward (MLP)",
    "R": "recurrent layer",
    "G": "graph convolution",
    "K": "convolution module",
}
MERGES = {"a": "add the skip", "c": "concatenate the skip", "l": "interpolate towards h", "b": "add the first input"}
GLUE = {"n": "normalise", "r": "activation", "d": "dropout", "p": "drop path", "s": "LayerScale", "h": "half-step"}
MARKS = {"|": "take the skip here", " ": "next sub-block"}
LETTERS = BRANCHES | MERGES | GLUE | MARKS


class WordError(ValueError):
    """A word or a setting that makes no block; the message names the letter, its position and the repair."""


class Scalar(float):
    """A number with a symbol for equations: `add(skip=Scalar("λ", 2.0))` prints `λ·x + F(x)` and computes with 2.0."""

    symbol: str

    def __new__(cls, symbol: str, value: float) -> Scalar:
        self = super().__new__(cls, value)
        self.symbol = symbol
        return self

    def __getnewargs__(self) -> tuple[str, float]:
        return self.symbol, float(self)


@dataclass(frozen=True)
class Tied:
    """A setting whose occurrences in one block share their learned parameters; running statistics stay their own.

    `Block("Fanan", 64, F=mlp(), n=Tied("layer"))` is the recursive skip with one affine map for every step.
    """

    setting: Any


# ---------------------------------------------------------------------------------------------------- the grammar


def parse(word: str) -> list[list[tuple[int, str]]]:
    """Split a word into its sub-blocks, each a list of (position in the word, letter), and check that it means something.

    Raises `WordError` for an unknown letter, an empty sub-block, a merge before any branch, or a `|` that no merge uses.
    """
    if not isinstance(word, str) or not word.strip():
        raise WordError(f"a word needs at least one letter, got {word!r}; for example 'nFa' (Pre-Norm) or 'Fan' (Post-Norm)")
    blocks: list[list[tuple[int, str]]] = [[]]
    branched = anywhere = False
    bar: int | None = None
    for position, letter in enumerate(word):
        if letter not in LETTERS:
            known = " ".join(letter for letter in LETTERS if letter != " ")
            raise _error(word, position, f"is unknown; the letters are {known} and the blank")
        if letter == " ":
            if not blocks[-1] or position == len(word) - 1:
                raise _error(word, position, "starts an empty sub-block; write one blank between two sub-blocks")
            _unused_bar(word, bar)
            blocks.append([])
            branched, bar = False, None
            continue
        if letter == "|":
            _unused_bar(word, bar)
            branched, bar = False, position
        elif letter in BRANCHES:
            branched = anywhere = True
        elif letter == "b" and not anywhere:
            raise _error(word, position, "merges before any branch has run; put a branch (upper case) before it")
        elif letter in "acl":
            if not branched:
                raise _error(word, position, "merges before any branch has run since the skip was taken; put a branch "
                                             "(upper case) before it")
            bar = None
        blocks[-1].append((position, letter))
    _unused_bar(word, bar)
    return blocks


def ends_in_merge(word: str) -> bool:
    """Say whether the word leaves an unnormalised sum behind, so that a stack of it needs a last norm: `nFa` does, `Fan` does not."""
    for letter in reversed(word):
        if letter in MERGES:
            return True
        if letter not in "dpsh":
            return False
    return False


def _unused_bar(word: str, bar: int | None) -> None:
    if bar is not None:
        raise _error(word, bar, "takes a skip that no merge uses; put 'a', 'c' or 'l' after it, or leave it out")


def _error(word: str, position: int, what: str) -> WordError:
    return WordError(f"letter {word[position]!r} at position {position} of {word!r} {what}")


# ---------------------------------------------------------------------------------------------------- merges and glue


class Add(nn.Module):
    r"""Add the skip to the branch: $y = \lambda\, S(x) + g\, h$.

    `skip` is $\lambda$, `gain` is $g$, and S is the shortcut. `learn` names the scalars that are trained: "gain" (ReZero,
    SkipInit), "skip" or "both".
    Shapes: h and x of the same shape, or of shapes that the shortcut makes the same; output as h.
    Raises `ValueError` where the widths differ and the shortcut is the identity. Citations: he2016deep, liu2020rethinking.
    """

    def __init__(self, width: int, skip_width: int, skip: float, gain: float, learn: str | None, shortcut: Any, stride: int):
        super().__init__()
        self.notation = {
            "skip": _symbol(skip, "λ" if learn in ("skip", "both") else None),
            "gain": _symbol(gain, "g" if learn in ("gain", "both") else None),
            "shortcut": "" if shortcut == "identity" else "S",
        }
        self.skip = nn.Parameter(torch.tensor(float(skip))) if learn in ("skip", "both") else float(skip)
        self.gain = nn.Parameter(torch.tensor(float(gain))) if learn in ("gain", "both") else float(gain)
        self.shortcut = None
        if shortcut == "identity":
            if stride != 1:
                raise ValueError(f"an identity shortcut cannot take stride {stride}; use shortcut='zero_pad' or 'projection'")
            if width != skip_width:
                raise ValueError(
                    f"cannot add a branch of width {width} to a skip of width {skip_width}; give the branch width {skip_width}, "
                    "or use add(shortcut='projection') or add(shortcut='zero_pad')"
                )
        else:
            self.shortcut = _shortcut(shortcut, skip_width, width, stride)
        self.plain = self.shortcut is None and not learn and self.skip == 1 and self.gain == 1
        self.out_width = width

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            x = self.shortcut(x)
        if not isinstance(self.gain, float) or self.gain != 1:
            h = self.gain * h
        if isinstance(self.skip, float):
            return torch.add(h, x, alpha=self.skip)
        return h + self.skip * x

    def extra_repr(self) -> str:
        return f"{self.notation['skip'] or 1}·x + {self.notation['gain'] or 1}·h"


class ZeroPad(nn.Module):
    r"""Subsample the skip and fill its new channels with zeros: $S(x) = [x_{::s,\,::s} \Vert 0]$, a shortcut without parameters.

    Shapes: (batch, channels, height, width) to (batch, wider, height / stride, width / stride); vectors with stride 1.
    Raises `ValueError` where the output would be narrower. Citation: he2016deep (option A).
    """

    def __init__(self, skip_width: int, width: int, stride: int):
        super().__init__()
        if width < skip_width:
            raise ValueError(f"zero_pad cannot narrow a skip of width {skip_width} to {width}; use shortcut='projection'")
        self.stride, self.extra = stride, width - skip_width

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0) * (x.dim() - 2) + (0, self.extra)) if self.extra else x


def _projection(skip_width: int, width: int, stride: int, norm: str = "none") -> nn.Module:
    """A 1x1 convolution on the skip, with a norm where one is named. Citation: he2016deep (option B)."""
    convolution = nn.Conv2d(skip_width, width, 1, stride, bias=False)
    return convolution if norm == "none" else nn.Sequential(convolution, _setting("n", norm)(width))


def _linear_shortcut(skip_width: int, width: int, stride: int) -> nn.Module:
    """A matrix on the skip, for vectors and tokens."""
    if stride != 1:
        raise ValueError(f"a linear shortcut has no positions to stride over, got stride {stride}; use 'projection' on images")
    return nn.Linear(skip_width, width, bias=False)


SHORTCUTS = {"zero_pad": ZeroPad, "projection": _projection, "linear": _linear_shortcut}


def _shortcut(shortcut: Any, skip_width: int, width: int, stride: int) -> nn.Module:
    if not isinstance(shortcut, str):
        return shortcut(skip_width, width, stride)
    name, options = call_form(shortcut)
    if name not in SHORTCUTS:
        raise ValueError(f"unknown shortcut {shortcut!r}; allowed: identity, {', '.join(SHORTCUTS)}, or a factory "
                         "(skip_width, width, stride) -> module")
    return _call(name, partial(SHORTCUTS[name], width=width, stride=stride), skip_width, options)


class Concat(nn.Module):
    r"""Concatenate the skip and the branch along the features: $y = [x \Vert h]$.

    Shapes: (batch, features, ...) twice, output (batch, sum of both, ...); `dim=-1` for tokens. Citation: huang2017densely.
    """

    def __init__(self, width: int, skip_width: int, dim: int = 1):
        super().__init__()
        self.dim, self.out_width = dim, width + skip_width

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return torch.cat([x, h], self.dim)


class Lerp(nn.Module):
    r"""Interpolate from the skip towards the branch: $y = x + \alpha \odot (h - x)$, one $\alpha$ a feature.

    Shapes: h and x (..., features) with `dim=-1`, (batch, features, ...) with `dim=1`; output the same. Citation: loshchilov2024ngpt.
    Raises `ValueError` where the widths differ.
    """

    def __init__(self, width: int, skip_width: int, alpha: float = 0.05, learn: bool = True, dim: int = -1):
        super().__init__()
        if width != skip_width:
            raise ValueError(f"cannot interpolate between widths {skip_width} and {width}; give the branch width {skip_width}")
        self.dim, self.out_width = dim, width
        self.alpha = nn.Parameter(torch.full((width,), float(alpha))) if learn else float(alpha)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        alpha = self.alpha if isinstance(self.alpha, float) else _along(self.alpha, self.dim, x)
        return x + alpha * (h - x)


class DropPath(nn.Module):
    r"""Drop the branch of a whole sample: $y = \frac{m}{1 - p} h$ with $m \sim \text{Bernoulli}(1 - p)$ in training, $y = h$ in eval.

    The division keeps the expectation, so training and eval agree in the mean. Shapes: any, samples first. Citation: huang2016deep.
    """

    def __init__(self, width: int, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate {rate!r}; allowed: 0 <= rate < 1")
        self.rate = rate

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return h
        keep = h.new_empty((h.shape[0],) + (1,) * (h.dim() - 1)).bernoulli_(1 - self.rate)
        return h * (keep / (1 - self.rate))


class LayerScale(nn.Module):
    r"""Scale every feature of the branch by a learned gain that starts small: $y = \operatorname{diag}(\lambda)\, h$.

    Shapes: (..., features) with `dim=-1`, (batch, features, ...) with `dim=1`; output the same. Citation: touvron2021going.
    """

    def __init__(self, width: int, init: float = 1e-5, dim: int = -1):
        super().__init__()
        self.dim = dim
        self.gain = nn.Parameter(torch.full((width,), float(init)))

    def forward(self, h: Tensor) -> Tensor:
        return h * _along(self.gain, self.dim, h)


class Dropout(nn.Dropout):
    r"""Zero single values with probability `rate` in training and rescale the rest by $1 / (1 - \text{rate})$. Shapes: any."""

    def __init__(self, width: int, rate: float = 0.5):
        super().__init__(rate)


def _along(vector: Tensor, dim: int, x: Tensor) -> Tensor:
    """Shape a vector of features so that it broadcasts along one axis of x."""
    return vector if dim in (-1, x.dim() - 1) else vector.view((-1,) + (1,) * (x.dim() - 1 - dim))


# ---------------------------------------------------------------------------------------------------- settings of letters

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "identity": nn.Identity}


def add(skip: float = 1.0, gain: float = 1.0, learn: str | bool | None = None, shortcut: Any = "identity", stride: int = 1):
    r"""Set the letter `a`: $y = \lambda\, S(x) + g\, h$ with $\lambda$ = `skip` and g = `gain`; see `Add` for shapes.

    `learn`: "gain" (or True), "skip", "both", or None. `shortcut`: "identity", "zero_pad", "projection",
    "projection(norm='batch')", "linear", or a factory (skip_width, width, stride) -> module.
    Raises `ValueError` for another `learn`. Citations: he2016deep, liu2020rethinking, bachlechner2021rezero.
    """
    learn = {True: "gain", False: None}.get(learn, learn) if isinstance(learn, bool) else learn
    if learn not in (None, "gain", "skip", "both"):
        raise ValueError(f"learn={learn!r}; allowed: None, 'gain' (or True), 'skip', 'both'")
    return partial(Add, skip=skip, gain=gain, learn=learn, shortcut=shortcut, stride=stride)


def concat(dim: int = 1):
    r"""Set the letter `c`: $y = [x \Vert h]$ along axis `dim`; 1 for images and vectors, -1 for tokens. See `Concat`."""
    return partial(Concat, dim=dim)


def lerp(alpha: float = 0.05, learn: bool = True, dim: int = -1):
    r"""Set the letter `l`: $y = x + \alpha (h - x)$, one learned $\alpha$ a feature. See `Lerp`."""
    return partial(Lerp, alpha=alpha, learn=learn, dim=dim)


def dropout(rate: float):
    """Set the letter `d`: dropout of single values. See `Dropout`."""
    return partial(Dropout, rate=rate)


def drop_path(rate: float):
    """Set the letter `p`: dropout of whole branches, sample by sample. See `DropPath`."""
    return partial(DropPath, rate=rate)


def layer_scale(init: float = 1e-5, dim: int = -1):
    """Set the letter `s`: a learned gain for every feature; `dim=1` for images. See `LayerScale`."""
    return partial(LayerScale, init=init, dim=dim)


NAMED: dict[str, dict[str, Callable[..., Any]]] = {
    "a": {"add": add},
    "c": {"concat": concat},
    "l": {"lerp": lerp},
    "d": {"dropout": dropout},
    "p": {"drop_path": drop_path},
    "s": {"layer_scale": layer_scale},
    "r": {name: partial(lambda activation: lambda width: activation(), activation) for name, activation in ACTIVATIONS.items()},
}
DEFAULTS = {"a": "add", "c": "concat", "l": "lerp", "r": "relu"}


def _setting(letter: str, setting: Any) -> Callable[..., nn.Module]:
    """Turn what a caller wrote for a letter into a factory."""
    if letter == "n" and (setting is None or isinstance(setting, str)):
        return partial(norm, setting or "none")
    if isinstance(setting, str):
        named = NAMED.get(letter, {})
        name, options = call_form(setting)
        if name not in named:
            allowed = f"allowed: {', '.join(named)}" if named else "a branch has no registered names: give a factory width -> module"
            raise ValueError(f"unknown setting {setting!r}; {allowed}")
        return named[name](**options)
    if isinstance(setting, nn.Module):
        raise TypeError(f"got the module {type(setting).__name__}, whose parameters two occurrences would share; give a factory, "
                        "for example F=lambda width: module")
    if not callable(setting):
        raise TypeError(f"got {setting!r}; give a factory width -> module, a list of them, or a registered name")
    return setting


def _out_width(module: nn.Module, width: int) -> int:
    """The width after a module: what it says itself, what torch's own layers say, or the width that came in."""
    for attribute in ("out_width", "out_features", "out_channels"):
        if isinstance(value := getattr(module, attribute, None), int):
            return value
    if isinstance(module, nn.Sequential):
        for child in module:
            width = _out_width(child, width)
    return width


def _first_leaf(module: nn.Module) -> nn.Module:
    """The operation that a module runs first, as far as its structure tells."""
    while children := list(module.children()):
        module = children[0]
    return module


# ---------------------------------------------------------------------------------------------------- the block

_RUN, _NORMAL_ADD, _MERGE, _BAR, _BLANK, _HALF, _FIRST = range(7)


class Block(nn.Module):
    r"""A residual block, spelled: `Block("nFa", 64, n="layer", F=mlp())` computes $x + F(n(x))$.

    `word`: one letter per operation, see the table of this module; `width`: the width of the input.
    `letters`: what each letter stands for, one of
    a registered name (`n="layer"`, `n="group(groups=4)"`, `r="gelu"`, `a="add(skip=2.0)"`),
    a factory `width -> module` (a merge's takes `(width, skip_width)`),
    a list of either, one for each occurrence, or `Tied(setting)`. `a`, `c`, `l` and `r` have defaults; the others must be set.

    Every occurrence is a module of its own, named by its position and its letter (`2_n.weight` in the state dict).
    Shapes: input (batch, ...) as the branches take it; output the same with width `out_width`.
    Raises `WordError` where the word or a setting makes no block: the message names the letter, its position and the repair.
    """

    def __init__(self, word: str, width: int, **letters: Any):
        super().__init__()
        self.word, self.width = word, width
        sub_blocks = parse(word)
        factories = _factories(word, letters)
        plan: list[tuple[int, str, str]] = []
        first_width, skip_fresh = width, True
        for index, sub_block in enumerate(sub_blocks):
            if index:
                plan.append((_BLANK, "", " "))
            skip_width, skip_fresh = width, True
            for position, letter in sub_block:
                name = f"{position}_{letter}"
                if letter == "|":
                    plan.append((_BAR, name, letter))
                    skip_width, skip_fresh = width, True
                    continue
                if letter == "h":
                    plan.append((_HALF, name, letter))
                    skip_fresh = False
                    continue
                if letter == "b":
                    if width != first_width:
                        raise _error(word, position, f"adds the first input of width {first_width} to a value of width {width}; "
                                                     "keep the width through the word")
                    plan.append((_FIRST, name, letter))
                    continue
                merges = letter in MERGES
                try:
                    module = factories[position](width, skip_width) if merges else factories[position](width)
                except (ValueError, TypeError, RuntimeError) as error:
                    raise _error(word, position, f"cannot be built at width {width}: {error}") from error
                if not isinstance(module, nn.Module):
                    raise _error(word, position, f"got a factory that returned {module!r}; it must return an nn.Module")
                if skip_fresh and getattr(_first_leaf(module), "inplace", False):
                    raise _error(word, position, "would write in place into the skip; build its first operation with inplace=False")
                self.add_module(name, module)
                plain = letter == "a" and getattr(module, "plain", False)
                plan.append((_NORMAL_ADD if plain else _MERGE if merges else _RUN, name, letter))
                width, skip_fresh = _out_width(module, width), isinstance(module, nn.Identity) and skip_fresh
        self.plan = tuple(plan)
        self.out_width = width
        self._tie(letters)

    def _tie(self, letters: dict[str, Any]) -> None:
        for letter, setting in letters.items():
            if not isinstance(setting, Tied):
                continue
            first, *others = [(name, self._modules[name]) for _, name, of in self.plan if of == letter]
            for name, module in others:
                for parameter_name, parameter in first[1].named_parameters():
                    if module.get_parameter(parameter_name).shape != parameter.shape:
                        raise WordError(f"letter {letter!r} of {self.word!r}: {first[0]} and {name} have different shapes and "
                                        "cannot be tied; give each occurrence its own setting")
                    owner, _, leaf = parameter_name.rpartition(".")
                    setattr(module.get_submodule(owner), leaf, parameter)

    @property
    def ends_in_merge(self) -> bool:
        """Whether a stack of this block ends in an unnormalised sum and needs a last norm."""
        return ends_in_merge(self.word)

    def forward(self, x: Tensor, **inputs: dict[str, Any]) -> Tensor:
        """Run the word on x, (batch, ...) to (batch, ...); `inputs` are extra arguments for a letter: `X=dict(memory=m)`."""
        if inputs:
            for letter in inputs:
                if letter not in self.word or letter not in BRANCHES:
                    raise ValueError(f"the word {self.word!r} has no branch {letter!r} to take an input; its branches are "
                                     f"{', '.join(sorted(set(self.word) & set(BRANCHES)))}")
        modules = self._modules
        first = skip = h = x
        for code, name, letter in self.plan:
            if code == _RUN:
                h = modules[name](h, **inputs[letter]) if letter in inputs else modules[name](h)
            elif code == _NORMAL_ADD:
                h = skip + h
            elif code == _MERGE:
                h = modules[name](h, skip)
            elif code == _HALF:
                h = 0.5 * h
            elif code == _FIRST:
                h = h + first
            else:
                skip = h
        return h

    def equation(self, latex: bool = False) -> str:
        r"""Write the block as a formula, `n(x + F(x))`, or in LaTeX; sub-blocks and `|` give one line each."""
        notation = {int(name.split("_")[0]): module.notation for name, module in self._modules.items() if isinstance(module, Add)}
        return equation(self.word, latex, notation)

    def draw(self) -> drawing.Svg:
        """Draw the block as an SVG diagram: boxes from left to right, each skip an arc over what it passes."""
        return draw(self.word)

    def extra_repr(self) -> str:
        return f"{self.word!r}, {self.width} -> {self.out_width}: {self.equation().replace(chr(10), '; ')}"


def _factories(word: str, letters: dict[str, Any]) -> dict[int, Callable[..., nn.Module]]:
    """One factory for each position of the word, from the settings of its letters."""
    for letter in letters:
        if letter not in LETTERS or letter in "| ":
            raise WordError(f"unknown letter {letter!r} for the word {word!r}; the letters are {' '.join(BRANCHES | MERGES | GLUE)}")
        if letter not in word:
            raise WordError(f"letter {letter!r} is set but does not occur in {word!r}; leave it out, or add it to the word")
        if letter in "hb":
            raise WordError(f"letter {letter!r} of {word!r} takes no setting: it {MERGES.get(letter, 'halves the value')}")
    factories: dict[int, Callable[..., nn.Module]] = {}
    for letter in dict.fromkeys(word):
        if letter in "hb| ":
            continue
        positions = [position for position, other in enumerate(word) if other == letter]
        if (letter not in letters) and letter not in DEFAULTS:
            example = {"n": 'n="layer"', "d": "d=dropout(0.1)", "p": "p=drop_path(0.1)", "s": "s=layer_scale(1e-5)"}
            raise _error(word, positions[0], f"has no setting; give one, for example {example.get(letter, f'{letter}=mlp()')}")
        setting = letters.get(letter, DEFAULTS.get(letter))
        if isinstance(setting, Tied):
            setting = setting.setting
        settings = setting if isinstance(setting, (list, tuple)) else [setting] * len(positions)
        if len(settings) != len(positions):
            raise _error(word, positions[0], f"occurs {len(positions)} times and got a list of {len(settings)}; give one for each")
        for position, one in zip(positions, settings, strict=True):
            try:
                factories[position] = _setting(letter, one)
            except (ValueError, TypeError) as error:
                raise _error(word, position, f"has no such setting: {error}") from error
    return factories


# ---------------------------------------------------------------------------------------------------- equation and drawing


def _symbol(value: float, learned: str | None) -> str:
    """How a scalar stands in an equation: its own symbol, a learned scalar's, its value, or nothing for 1."""
    if isinstance(value, Scalar):
        return value.symbol
    return learned or ("" if value == 1 else f"{value:.4g}")


def equation(word: str, latex: bool = False, notation: dict[int, dict[str, str]] | None = None) -> str:
    r"""Write a word as a formula: `equation("Fanan")` is `n(x + n(x + F(x)))`.

    Sub-blocks and `|` name their value and give a line each. `notation` maps the position of an `a` to the symbols of its
    scalars (`skip`, `gain`, `shortcut`). With `latex` the result goes between dollar signs.
    """
    times, named = (r"\, ", lambda f, h: rf"{f}\!\left({h}\right)") if latex else ("·", lambda f, h: f"{f}({h})")
    greek = {"λ": r"\lambda", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma"}

    def scaled(scalar: str, term: str, is_sum: bool) -> str:
        scalar = greek.get(scalar, scalar) if latex else scalar
        inner = (rf"\left({term}\right)" if latex else f"({term})") if is_sum and scalar else term
        return f"{scalar}{times}{inner}" if scalar else term

    lines: list[tuple[str, str]] = []
    h, is_sum, start = "x", False, "x"

    def name_value(value: str) -> str:
        if value in ("x", start):
            return value
        lines.append((f"x_{{{len(lines) + 1}}}" if latex else f"x{len(lines) + 1}", value))
        return lines[-1][0]

    for sub_block in parse(word):
        h = start = skip = name_value(h)
        is_sum = False
        for position, letter in sub_block:
            if letter == "|":
                h = start = skip = name_value(h)
                is_sum = False
            elif letter == "a":
                signs = (notation or {}).get(position, {"skip": "", "gain": "", "shortcut": ""})
                term = named(signs["shortcut"], skip) if signs["shortcut"] else skip
                h, is_sum = f"{scaled(signs['skip'], term, False)} + {scaled(signs['gain'], h, is_sum)}", True
            elif letter == "c":
                h, is_sum = (rf"\left[{skip} \,\Vert\, {h}\right]" if latex else f"[{skip} ‖ {h}]"), False
            elif letter == "l":
                h, is_sum = f"{skip} + {scaled('α', f'{h} - {skip}', True)}", True
            elif letter == "b":
                h, is_sum = f"{h} + x", True
            elif letter == "h":
                h, is_sum = scaled(r"\tfrac{1}{2}" if latex else "½", h, is_sum), False
            else:
                h, is_sum = named(letter, h), False
    if not lines:
        return h
    lines.append(("y", h))
    if latex:
        return r"\begin{aligned} " + r" \\ ".join(f"{name} &= {value}" for name, value in lines) + r" \end{aligned}"
    return "\n".join(f"{name} = {value}" for name, value in lines)


def draw(word: str) -> drawing.Svg:
    """Draw a word as an SVG diagram: boxes from left to right, each skip an arc over what it passes; reads in light and dark."""
    return drawing.diagram(list(_elements(word)), description=f"Block diagram of the word {word}: {equation(word)}")


def _elements(word: str) -> Iterator[drawing.Element]:
    """What the drawing shows: boxes, marks where a skip is taken, and merges with the mark that each one reads."""
    mark = first = 0
    yield drawing.Element("fork", "x", "input")
    count = 1
    for index, sub_block in enumerate(parse(word)):
        if index:
            mark = count
            yield drawing.Element("fork", "", "next sub-block")
            count += 1
        for _, letter in sub_block:
            if letter == "|":
                mark = count
                yield drawing.Element("fork", "", LETTERS[letter])
            elif letter in MERGES:
                sign = {"a": "+", "b": "+", "c": "‖", "l": "↗"}[letter]
                yield drawing.Element("merge", sign, LETTERS[letter], source=first if letter == "b" else mark)
            else:
                kind = "branch" if letter in BRANCHES else {"n": "norm", "r": "activation"}.get(letter, "glue")
                yield drawing.Element(kind, "½" if letter == "h" else letter, LETTERS[letter])
            count += 1
