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
| `[A,M]`   | side by side, and summed |        |                                                            |

Two values run through a word: the current value $h$, and the skip $x$, which every sub-block takes at its start.
`nFa` is Pre-Norm, $x + F(n(x))$. `Fan` is Post-Norm, $n(x + F(x))$. `Fanan` is the recursive skip of order 2,
$n(x + n(x + F(x)))$: a merge leaves the skip as it was, so a second `an` adds it again.

Square brackets hold branches side by side: every part is a word of its own that reads the value before the bracket, and the
parts are summed. `n[A,M]a` is $x + A(n(x)) + M(n(x))$ with one norm, `[nA,nM]a` has a norm each, and `[Cn,Cn,n]r` also keeps
the value itself, through a norm. A merge inside a part merges with the skip from outside: `[Aa,M]n` is $n(x + A(x) + M(x))$.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from torch import Tensor, nn

from resnorm import drawing
from resnorm.letters import LETTERS, Add, Bracket, DropPath, Formula, Letter, Writer, setting_of


def _titles(role: str) -> dict[str, str]:
    return {symbol: letter.title for symbol, letter in LETTERS.items() if letter.role == role}


BRANCHES, MERGES, GLUE, MARKS = (_titles(role) for role in ("branch", "merge", "glue", "mark"))


class WordError(ValueError):
    """A word or a setting that makes no block; the message names the letter, its position and the repair."""


@dataclass(frozen=True)
class Tied:
    """A setting whose occurrences in one sub-block share their learned parameters; running statistics stay their own.

    `Block("Fanan", 64, F=mlp(), n=Tied("layer"))` is the recursive skip with one affine map for every step.
    """

    setting: Any


# ---------------------------------------------------------------------------------------------------- the grammar


class Segment(NamedTuple):
    """A stretch of a word with one skip, which its mark takes: a blank (the start of the word too), or `|`."""

    mark: Letter
    steps: list[Letter | Bracket]


def parse(word: str) -> list[Segment]:
    """Split a word into its segments, whose steps are letters and brackets at their positions, and check that it means something.

    Raises `WordError` for an unknown letter, an empty sub-block, a merge before any branch, a `|` that no merge uses, and for
    brackets that are not closed, not opened, nested, or without two parts and a branch.
    """
    if not isinstance(word, str) or not word.strip():
        raise WordError(f"a word needs at least one letter, got {word!r}; for example 'nFa' (Pre-Norm) or 'Fan' (Post-Norm)")
    return _Parser(word).segments


class _Parser:
    """One pass over a word. `branched`: a branch has run since the skip was taken; `anywhere`: since the word began."""

    def __init__(self, word: str):
        self.word = word
        self.segments = [Segment(LETTERS[" "], [])]
        self.branched = self.anywhere = False
        self.bar: int | None = None
        self.bracket: int | None = None
        for position, symbol in enumerate(word):
            if symbol in "[,]":
                {"[": self._open, ",": self._next, "]": self._close}[symbol](position)
            elif symbol not in LETTERS:
                known = " ".join(letter for letter in LETTERS if letter != " ")
                raise _error(word, position, f"is unknown; the letters are {known}, the blank and the brackets [ , ]")
            elif symbol in MARKS:
                self._mark(position, symbol)
            else:
                self._letter(position, symbol)
        if self.bracket is not None:
            raise _error(word, self.bracket, "is never closed; put ']' behind its last part")
        self._unused_bar()

    def _letter(self, position: int, symbol: str) -> None:
        if symbol in BRANCHES:
            self.branched = self.anywhere = True
        elif symbol == "b" and not self.anywhere:
            raise _error(self.word, position, "merges before any branch has run; put a branch (upper case) before it")
        elif symbol in MERGES and symbol != "b":
            if not self.branched:
                raise _error(
                    self.word,
                    position,
                    "merges before any branch has run since the skip was taken; put a branch (upper case) before it",
                )
            self.bar = None
        (self.segments[-1].steps if self.bracket is None else self.part).append(LETTERS[symbol].at(position))

    def _mark(self, position: int, symbol: str) -> None:
        if self.bracket is not None:
            raise _error(
                self.word,
                position,
                f"stands inside the bracket of position {self.bracket}, whose parts share the skip "
                "from outside; close the bracket before it",
            )
        if symbol == " ":
            if self.word[:position].endswith(" ") or position in (0, len(self.word) - 1):
                raise _error(self.word, position, "starts an empty sub-block; write one blank between two sub-blocks")
        self._unused_bar()
        self.branched, self.bar = False, position if symbol == "|" else None
        self.segments.append(Segment(LETTERS[symbol].at(position), []))

    def _open(self, position: int) -> None:
        if self.bracket is not None:
            raise _error(
                self.word,
                position,
                f"opens inside the bracket of position {self.bracket}; brackets do not nest: put all "
                "branches side by side in one, as in '[A,X,M]'",
            )
        self.bracket = position
        self.part: list[Letter] = []
        self.parts: list[tuple[Letter, ...]] = []
        self.before = self.branched, self.anywhere

    def _next(self, position: int) -> None:
        if self.bracket is None:
            raise _error(self.word, position, "stands outside brackets; put branches side by side into brackets, as in 'n[A,M]a'")
        if not self.part:
            raise _error(self.word, position, "follows an empty part; put an operation on both sides of the comma")
        self.parts.append(tuple(self.part))
        # Every part starts where the bracket does.
        self.part, (self.branched, self.anywhere) = [], self.before

    def _close(self, position: int) -> None:
        if self.bracket is None:
            raise _error(self.word, position, "closes no bracket; put '[' before the first of the branches side by side")
        if not self.part:
            raise _error(self.word, position, "follows an empty part; put an operation before it, or leave the bracket out")
        bracket = Bracket(self.bracket, (*self.parts, tuple(self.part)))
        if len(bracket.parts) < 2:
            raise _error(self.word, self.bracket, "has one part; put a second behind a comma, or leave the bracket out")
        if not any(letter.symbol in BRANCHES for part in bracket.parts for letter in part):
            raise _error(self.word, self.bracket, "has no branch; put a branch (upper case) into one of its parts")
        self.segments[-1].steps.append(bracket)
        self.branched = self.anywhere = True
        self.bracket = None

    def _unused_bar(self) -> None:
        if self.bar is not None:
            raise _error(self.word, self.bar, "takes a skip that no merge uses; put 'a', 'c' or 'l' after it, or leave it out")


def _error(word: str, position: int, what: str) -> WordError:
    kind = {"[": "bracket", "]": "bracket", ",": "comma"}.get(word[position], "letter")
    return WordError(f"{kind} {word[position]!r} at position {position} of {word!r} {what}")


def letters_of(steps: Iterable[Letter | Bracket]) -> Iterator[Letter]:
    """Yield the letters of steps in the order of the word, those inside brackets too."""
    for step in steps:
        yield from (letter for part in step.parts for letter in part) if isinstance(step, Bracket) else (step,)


def ends_in_merge(word: str) -> bool:
    """Say whether the word leaves an unnormalised sum behind, so that a stack of it needs a last norm: `nFa` does, `Fan` does not.

    A bracket leaves one where a part ends in a merge, or hands the value before the bracket on without norm or branch:
    `[Aa,M]` and `[A,s]` do, `[An,Mn]` and `[A,M]` do not, which are sums of branches alone.
    """
    return _leaves_sum((step for segment in parse(word) for step in segment.steps), False)


def _leaves_sum(steps: Iterable[Letter | Bracket], is_sum: bool) -> bool:
    """Whether steps leave an unnormalised sum behind; `is_sum`: whether they begin with one."""
    for step in steps:
        if isinstance(step, Bracket):
            is_sum = any(_leaves_sum(part, True) for part in step.parts)
        elif step.sums is not None:
            is_sum = step.sums
    return is_sum


def residual_paths(word: str) -> list[tuple[Letter, ...]]:
    """Return every residual branch as the letters, branches and glue, that it runs through up to its merge.

    Parts of a bracket are paths of their own: `n[A,Mn]a` has the paths n A and n M n. Where one part carries the skip, as in
    `[Aa,M]n`, the sum of the parts is a merge. What no merge adds is none: `nF` has no path.
    """
    return [path for path, merged in _paths(word) if merged]


def residual_branches(word: str) -> int:
    """Count the residual branches: what depth-dependent rules such as DeepNorm's count, layer by layer.

    A branch counts where a merge adds it, also from a bracket: `nMha nAa nKa nMha n` has 4, `nAa nMa` and `n[A,M]a` have 2,
    `CnrCnar` has 1 of two convolutions in a row, and `Fanan` 1 that is added once. A branch that no merge adds counts once
    as well, because a stream, or the next sub-block, takes it: `nF` has 1.
    """
    return len({next(letter.name for letter in reversed(path) if letter.symbol in BRANCHES) for path, _ in _paths(word)})


def _paths(word: str) -> Iterator[tuple[tuple[Letter, ...], bool]]:
    """Every way through the branches of a word from where the skip is taken to a merge, and whether there is a merge."""

    def through(steps: Iterable[Letter | Bracket], paths: list[tuple[Letter, ...]]):
        for step in steps:
            if isinstance(step, Bracket):
                ends: list[tuple[Letter, ...]] = []
                for part in step.parts:
                    ends += yield from through(part, paths)
                ends = list(dict.fromkeys(ends))
                carried = any(_leaves_sum(part, True) or {letter.symbol for letter in part} & set(MERGES) for part in step.parts)
                if carried:
                    yield from ((path, True) for path in ends if branches(path))
                paths = [()] if carried else ends
            elif step.symbol in MERGES:
                yield from ((path, True) for path in paths if branches(path))
                paths = [()]
            else:
                paths = [(*path, step) for path in paths]
        return paths

    def branches(path: tuple[Letter, ...]) -> bool:
        return any(letter.symbol in BRANCHES for letter in path)

    for segment in parse(word):
        left = yield from through(segment.steps, [()])
        yield from ((path, False) for path in left if branches(path))


def with_dropout(word: str, branches: Iterable[str] = tuple(BRANCHES)) -> str:
    """Put a dropout `d` behind each of these branch letters, which a `d` does not follow yet: `n[A,M]a` becomes `n[Ad,Md]a`.

    Raises `WordError` for a word that makes no block, and `ValueError` for a letter that is no branch.
    """
    branches = tuple(branches)
    if unknown := [letter for letter in branches if letter not in BRANCHES]:
        raise ValueError(f"with_dropout: {unknown[0]!r} is no branch; the branches are {', '.join(BRANCHES)}")
    letters = {letter.position for segment in parse(word) for letter in letters_of(segment.steps) if letter.symbol in branches}
    return "".join(
        symbol + ("d" if position in letters and word[position + 1 : position + 2] != "d" else "")
        for position, symbol in enumerate(word)
    )


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


def _hands_on(module: nn.Module) -> bool:
    """Whether a module may return the very tensor that it was given, in eval at least."""
    if isinstance(module, nn.Sequential):
        return all(map(_hands_on, module))
    return isinstance(module, (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd, DropPath))


def _writes_in_place(module: nn.Module) -> bool:
    """Whether a module writes into its input, as far as its structure tells: its leaves, in their order."""
    for leaf in module.modules():
        if next(leaf.children(), None) is None:
            if getattr(leaf, "inplace", False):
                return True
            if not _hands_on(leaf):
                return False
    return False


class _Builder:
    """Builds the modules of a word while the width goes through it."""

    def __init__(self, word: str, width: int, letters: dict[str, Any]):
        self.word, self.first_width = word, width
        self.factories = _factories(word, letters)
        self.modules: dict[str, nn.Module] = {}

    def build(self, steps: Iterable[Letter | Bracket], width: int, skip_width: int, shared: bool) -> tuple[int, bool]:
        """Build the modules of steps; return the width behind them, and whether h may still be the tensor of the skip, or of
        the parts beside, which no operation may write into."""
        for step in steps:
            if isinstance(step, Bracket):
                widths = [self.build(part, width, skip_width, shared=True)[0] for part in step.parts]
                if len(set(widths)) > 1:
                    raise _error(
                        self.word,
                        step.position,
                        f"has parts of the widths {', '.join(map(str, widths))}, which cannot "
                        "be summed; give every part the same width",
                    )
                width, shared = widths[0], False
                continue
            module = self._module(step, width, skip_width)
            if module is None:
                shared = False
                continue
            if shared and _writes_in_place(module):
                raise _error(
                    self.word,
                    step.position,
                    "would write in place into the skip, or into what the parts beside it read; "
                    "build its first operation with inplace=False",
                )
            self.modules[step.name] = module
            width, shared = _out_width(module, width), shared and _hands_on(module)
        return width, shared

    def _module(self, letter: Letter, width: int, skip_width: int) -> nn.Module | None:
        try:
            module = letter.build(self.factories.get(letter.position), width, skip_width, self.first_width)
        except (ValueError, TypeError, RuntimeError) as error:
            raise _error(self.word, letter.position, f"cannot be built at width {width}: {error}") from error
        if letter.takes_setting and not isinstance(module, nn.Module):
            raise _error(self.word, letter.position, f"got a factory that returned {module!r}; it must return an nn.Module")
        return module


class Block(nn.Module):
    r"""A residual block, spelled: `Block("nFa", 64, n="layer", F=mlp())` computes $x + F(n(x))$.

    `word`: one letter per operation, see the table of this module; `width`: the width of the input.
    `letters`: what each letter stands for, one of
    a registered name (`n="layer"`, `n="group(groups=4)"`, `r="gelu"`, `a="add(skip=2.0)"`),
    a factory `width -> module` (a merge's takes `(width, skip_width)`),
    a list of either, one for each occurrence, or `Tied(setting)`. `a`, `c`, `l` and `r` have defaults; the others must be set.

    Every occurrence is a module of its own, named by its position and its letter (`2_n.weight` in the state dict), and every
    module is called: hooks fire, and what is put in its place runs.
    Shapes: input (batch, ...) as the branches take it; output the same with width `out_width`.
    Raises `WordError` where the word or a setting makes no block: the message names the letter, its position and the repair.
    """

    def __init__(self, word: str, width: int, **letters: Any):
        super().__init__()
        self.word, self.width = word, width
        segments = parse(word)
        builder = _Builder(word, width, letters)
        for segment in segments:
            width, _ = builder.build(segment.steps, width, width, shared=True)
        for name, module in builder.modules.items():
            self.add_module(name, module)
        self.plan = tuple(tuple(segment.steps) for segment in segments)
        self.out_width = width
        self._tie(letters)

    def _tie(self, letters: dict[str, Any]) -> None:
        for symbol, setting in letters.items():
            if not isinstance(setting, Tied):
                continue
            first: Letter | None = None
            for segment in parse(self.word):
                first = first if segment.mark.symbol == "|" else None
                for letter in letters_of(segment.steps):
                    if letter.symbol != symbol:
                        continue
                    if first is None:
                        first = letter
                    else:
                        self._share(first.name, letter.name)

    def _share(self, first: str, other: str) -> None:
        for name, parameter in self.get_submodule(first).named_parameters():
            if self.get_submodule(other).get_parameter(name).shape != parameter.shape:
                raise WordError(
                    f"{first} and {other} of {self.word!r} have different shapes and cannot be tied; give each "
                    "occurrence its own setting"
                )
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(other).get_submodule(owner), leaf, parameter)

    @property
    def ends_in_merge(self) -> bool:
        """Whether a stack of this block ends in an unnormalised sum and needs a last norm."""
        return ends_in_merge(self.word)

    def forward(self, x: Tensor, **inputs: dict[str, Any]) -> Tensor:
        """Run the word on x, (batch, ...) to (batch, ...); `inputs` are extra arguments for a letter: `X=dict(memory=m)`."""
        for letter, given in inputs.items():
            if letter not in self.word or letter not in BRANCHES:
                raise ValueError(
                    f"the word {self.word!r} has no branch {letter!r} to take an input; its branches are "
                    f"{', '.join(sorted(set(self.word) & set(BRANCHES)))}"
                )
            if not isinstance(given, dict):
                raise TypeError(f"{letter} got a {type(given).__name__}; give its arguments by name, as {letter}=dict(mask=mask)")
        modules, h = self._modules, x
        for steps in self.plan:
            skip = h
            for step in steps:
                h = step.apply(modules, h, skip, x, inputs)  # type: ignore[arg-type]  # none of a block's modules is None
        return h

    def parts(self, letter: str) -> list[nn.Module]:
        """Return the modules of a letter in the order of the word: `block.parts("n")[0]` is the first norm.

        Raises `ValueError` for what is no letter, and for a letter that the word does not have.
        """
        modules = [self.get_submodule(one.name) for one in self._letters() if one.name in self._modules and one.symbol == letter]
        if not modules:
            raise ValueError(_no_parts(letter, repr(self.word), (one.symbol for one in self._letters() if one.takes_setting)))
        return modules

    def _letters(self) -> Iterator[Letter]:
        return (letter for segment in parse(self.word) for letter in letters_of(segment.steps))

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


def _no_parts(letter: str, where: str, there: Iterable[str]) -> str:
    if letter not in LETTERS or not LETTERS[letter].takes_setting:
        return f"{letter!r} is no letter with a module; these are {' '.join(one for one in LETTERS if LETTERS[one].takes_setting)}"
    return f"no letter {letter!r} in {where}; there are {', '.join(dict.fromkeys(there))}"


def _factories(word: str, letters: dict[str, Any]) -> dict[int, Callable[..., nn.Module]]:
    """One factory for each position of the word, from the settings of its letters."""
    for symbol in letters:
        if symbol not in LETTERS or symbol in MARKS:
            known = " ".join(BRANCHES | MERGES | GLUE)
            raise WordError(f"unknown letter {symbol!r} for the word {word!r}; the letters are {known}")
        if symbol not in word:
            raise WordError(f"letter {symbol!r} is set but does not occur in {word!r}; leave it out, or add it to the word")
        if not LETTERS[symbol].takes_setting:
            raise WordError(f"letter {symbol!r} of {word!r} takes no setting; leave it out")
    factories: dict[int, Callable[..., nn.Module]] = {}
    for symbol in dict.fromkeys(word):
        letter = LETTERS.get(symbol)
        if letter is None or not letter.takes_setting:
            continue
        positions = [position for position, other in enumerate(word) if other == symbol]
        setting = letters.get(symbol, letter.default)
        if symbol not in letters and setting is None:
            raise _error(word, positions[0], f"has no setting; give one, for example {letter.example}")
        if isinstance(setting, Tied):
            setting = setting.setting
        settings = setting if isinstance(setting, (list, tuple)) else [setting] * len(positions)
        if len(settings) != len(positions):
            raise _error(word, positions[0], f"occurs {len(positions)} times and got a list of {len(settings)}; give one for each")
        for position, one in zip(positions, settings, strict=True):
            try:
                factories[position] = setting_of(symbol, one)
            except (ValueError, TypeError) as error:
                raise _error(word, position, f"has no such setting: {error}") from error
    return factories


# ---------------------------------------------------------------------------------------------------- equation and drawing


def equation(word: str, latex: bool = False, notation: dict[int, dict[str, str]] | None = None) -> str:
    r"""Write a word as a formula: `equation("Fanan")` is `n(x + n(x + F(x)))`.

    Sub-blocks, `|`, and what a bracket reads, are named values and give a line each. `notation` maps the position of an `a`
    to the symbols of its scalars and of its shortcut (`skip`, `gain`, `shortcut`, `gate`). With `latex` the result goes between
    dollar signs.
    """
    write, first = Writer(latex), Formula("x")
    named: list[tuple[Formula, Formula]] = []

    def name(value: Formula) -> Formula:
        if value == first or any(value == known for known, _ in named):
            return value
        named.append((write.name(len(named) + 1), value))
        return named[-1][0]

    h = first
    for segment in parse(word):
        h = x = name(h)
        for step in segment.steps:
            h = step.equation(write, name(h) if isinstance(step, Bracket) else h, x, first, notation or {})
    return write.lines(named, h)


def draw(word: str, notation: dict[int, dict[str, str]] | None = None) -> drawing.Svg:
    """Draw a word as an SVG diagram: boxes from left to right, each skip an arc over what it passes; reads in light and dark.

    Branches side by side are rows between a fork and their sum. `notation` as in `equation`: what stands on a skip is written
    over its arc, a branch's factor before its merge.
    """
    elements = [drawing.Element("fork", "x", "input")]
    first = x = elements[0]
    for index, segment in enumerate(parse(word)):
        if index:
            elements.append(x := segment.mark.draw(x, first, {}))
        elements += [step.draw(x, first, notation or {}) for step in segment.steps]
    return drawing.diagram(elements, description=f"Block diagram of the word {word}: {equation(word, notation=notation)}")


def draw_blocks(blocks: Mapping[str, Block]) -> drawing.Svg:
    """Draw blocks one below the other, each below its name, its word and its equation."""
    parts = (
        f"<p><b>{escape(name)}</b> <code>{escape(block.word)}</code> y = {escape(block.equation())}<br>{block.draw()}</p>"
        for name, block in blocks.items()
    )
    return drawing.Svg("".join(parts))
