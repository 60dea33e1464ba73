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
from typing import Any

import torch
from torch import Tensor, nn

from resnorm import drawing
from resnorm.letters import DEFAULTS, Add, setting_of
from resnorm.norms import LayerNorm, LayerNorm2d
from resnorm.recursion import recursive_skip, recursive_skip_steps

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


@dataclass(frozen=True)
class Tied:
    """A setting whose occurrences in one sub-block share their learned parameters; running statistics stay their own.

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


# ---------------------------------------------------------------------------------------------------- the block


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

_RUN, _PLAIN_ADD, _MERGE, _BAR, _BLANK, _HALF, _FIRST, _RECURSION = range(8)


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
        first_width = width
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
                plan.append((_PLAIN_ADD if plain else _MERGE if merges else _RUN, name, letter))
                width, skip_fresh = _out_width(module, width), isinstance(module, nn.Identity) and skip_fresh
        self.plan = _with_recursions(plan, self._modules)
        self.out_width = width
        self._tie(letters)

    def _tie(self, letters: dict[str, Any]) -> None:
        for letter, setting in letters.items():
            if not isinstance(setting, Tied):
                continue
            for sub_block in parse(self.word):
                names = [f"{position}_{letter}" for position, of in sub_block if of == letter]
                for name in names[1:]:
                    self._share(names[0], name)

    def _share(self, first: str, other: str) -> None:
        for name, parameter in self._modules[first].named_parameters():
            if self._modules[other].get_parameter(name).shape != parameter.shape:
                raise WordError(f"{first} and {other} of {self.word!r} have different shapes and cannot be tied; give each "
                                "occurrence its own setting")
            owner, _, leaf = name.rpartition(".")
            setattr(self._modules[other].get_submodule(owner), leaf, parameter)

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
            elif code == _PLAIN_ADD:
                h = skip + h
            elif code == _MERGE:
                h = modules[name](h, skip)
            elif code == _HALF:
                h = 0.5 * h
            elif code == _FIRST:
                h = h + first
            elif code == _RECURSION:
                h = self._recursion(name, skip, h)
            else:
                skip = h
        return h

    def _recursion(self, names: tuple[str, ...], x: Tensor, h: Tensor) -> Tensor:
        """The steps `an`, in one kernel where the norms, as they are now, allow it, else one by one."""
        norms = [self._modules[name] for name in names]
        last = norms[-1]
        # A module that was put in place of a norm, or a hook on one, is to be called.
        plain = type(last) in (LayerNorm, LayerNorm2d) and all(
            type(n) is type(last) and n.eps == last.eps and not _hooked(n) for n in norms
        )
        affine_last = plain and all(n.weight is None for n in norms[:-1])
        affine_steps = plain and x.device.type == "cuda" and all(n.bias is not None for n in norms)
        pixels = type(last) is LayerNorm2d
        # A branch whose output is broadcast, or too wide, meets the norms themselves.
        fits = plain and x.shape == h.shape and (x.shape[1 if pixels else -1],) == last.normalized_shape
        if not (fits and (affine_last or affine_steps)) or (pixels and not _channels_last(x, h)):
            for n in norms:
                h = n(x + h)
            return h
        if pixels:
            x, h = x.movedim(1, -1), h.movedim(1, -1)
        if affine_last:
            h = recursive_skip(x, h, len(norms), last.weight, last.bias, last.eps)
        else:
            h = recursive_skip_steps(x, h, [n.weight for n in norms], [n.bias for n in norms], last.eps)
        return h.movedim(-1, 1) if pixels else h

    def equation(self, latex: bool = False) -> str:
        r"""Write the block as a formula, `n(x + F(x))`, or in LaTeX; sub-blocks and `|` give one line each."""
        return equation(self.word, latex, self._notation())

    def draw(self) -> drawing.Svg:
        """Draw the block as an SVG diagram: boxes from left to right, each skip an arc over what it passes."""
        return draw(self.word, self._notation())

    def _notation(self) -> dict[int, dict[str, str]]:
        return {int(name.split("_")[0]): module.notation for name, module in self._modules.items() if isinstance(module, Add)}

    def extra_repr(self) -> str:
        return f"{self.word!r}, {self.width} -> {self.out_width}: {self.equation().replace(chr(10), '; ')}"


def _with_recursions(plan: list[tuple], modules: dict[str, nn.Module]) -> tuple[tuple, ...]:
    """The plan with every recursive skip, two or more steps `an` with a layer norm, as one entry."""
    found: list[tuple] = []
    start = 0
    while start < len(plan):
        end, names = start, []
        while (
            end + 1 < len(plan)
            and plan[end][0] == _PLAIN_ADD
            and plan[end + 1][2] == "n"
            and type(modules[plan[end + 1][1]]) in (LayerNorm, LayerNorm2d)
        ):
            names.append(plan[end + 1][1])
            end += 2
        if len(names) > 1:
            found.append((_RECURSION, tuple(names), "n"))
            start = end
        else:
            found.append(plan[start])
            start += 1
    return tuple(found)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def _channels_last(*tensors: Tensor) -> bool:
    return all(one.dim() == 4 and one.is_contiguous(memory_format=torch.channels_last) for one in tensors)


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
                factories[position] = setting_of(letter, one)
            except (ValueError, TypeError) as error:
                raise _error(word, position, f"has no such setting: {error}") from error
    return factories


# ---------------------------------------------------------------------------------------------------- equation and drawing

NO_SIGNS = {"skip": "", "gain": "", "shortcut": "", "gate": ""}


def equation(word: str, latex: bool = False, notation: dict[int, dict[str, str]] | None = None) -> str:
    r"""Write a word as a formula: `equation("Fanan")` is `n(x + n(x + F(x)))`.

    Sub-blocks and `|` name their value and give a line each. `notation` maps the position of an `a` to the symbols of its
    scalars and of its shortcut (`skip`, `gain`, `shortcut`, `gate`). With `latex` the result goes between dollar signs.
    """
    times, named = (r"\, ", lambda f, h: rf"{f}\!\left({h}\right)") if latex else ("·", lambda f, h: f"{f}({h})")
    greek = {"λ": r"\lambda", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "ω": r"\omega"}

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
                signs = (notation or {}).get(position, NO_SIGNS)
                term = skip
                for function in reversed(signs["shortcut"]):
                    term = named(function, term)
                skip_sign, gain_sign = signs["skip"], signs["gain"]
                if signs["gate"]:
                    gate = named("g", skip)
                    skip_sign = rf"\left(1 - {gate}\right)" if latex else f"(1 - {gate})"
                    gain_sign = gate if signs["gate"] == "exclusive" else ""
                h, is_sum = f"{scaled(skip_sign, term, False)} + {scaled(gain_sign, h, is_sum)}", True
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


def draw(word: str, notation: dict[int, dict[str, str]] | None = None) -> drawing.Svg:
    """Draw a word as an SVG diagram: boxes from left to right, each skip an arc over what it passes; reads in light and dark.

    `notation` as in `equation`: what stands on a skip is written over its arc, a branch's factor before its merge.
    """
    formula = equation(word, notation=notation)
    return drawing.diagram(list(_elements(word, notation or {})), description=f"Block diagram of the word {word}: {formula}")


def _elements(word: str, notation: dict[int, dict[str, str]]) -> Iterator[drawing.Element]:
    """What the drawing shows: boxes, marks where a skip is taken, and merges with the mark that each one reads."""
    mark = first = 0
    yield drawing.Element("fork", "x", "input")
    count = 1
    for index, sub_block in enumerate(parse(word)):
        if index:
            mark = count
            yield drawing.Element("fork", "", "next sub-block")
            count += 1
        for position, letter in sub_block:
            if letter == "|":
                mark = count
                yield drawing.Element("fork", "", LETTERS[letter])
            elif letter in MERGES:
                sign = {"a": "+", "b": "+", "c": "‖", "l": "↗"}[letter]
                signs = notation.get(position, NO_SIGNS)
                skip = "1 - g" if signs["gate"] else "·".join(filter(None, (signs["skip"], *signs["shortcut"])))
                gain = "g" if signs["gate"] == "exclusive" else signs["gain"]
                source = first if letter == "b" else mark
                yield drawing.Element("merge", sign, LETTERS[letter], source, on_skip=skip, on_branch=gain)
            else:
                kind = "branch" if letter in BRANCHES else {"n": "norm", "r": "activation"}.get(letter, "glue")
                yield drawing.Element(kind, "½" if letter == "h" else letter, LETTERS[letter])
            count += 1
