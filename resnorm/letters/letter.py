"""What every letter of a word is: one object that runs, writes, draws and predicts its operation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from resnorm.drawing import Element

# The symbols of a merge's scalars, shortcut and gate, by its position in the word.
Notation = dict[int, dict[str, str]]


@dataclass(frozen=True)
class Formula:
    """A written value; `is_sum` says that a factor before it needs brackets."""

    text: str
    is_sum: bool = False


class Writer:
    r"""How formulas are written: `Writer()` writes `n(x + F(x))`, `Writer(latex=True)` writes LaTeX without dollar signs."""

    SYMBOLS = {"λ": r"\lambda", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "ω": r"\omega", "½": r"\tfrac{1}{2}"}

    def __init__(self, latex: bool = False):
        self.latex = latex

    def name(self, number: int) -> Formula:
        """The name of a value that later lines read: `x1`."""
        return Formula(f"x_{{{number}}}" if self.latex else f"x{number}")

    def call(self, function: str, value: Formula) -> Formula:
        """`F(x)`."""
        return Formula(rf"{function}\!\left({value.text}\right)" if self.latex else f"{function}({value.text})")

    def scale(self, factor: str, value: Formula) -> Formula:
        """`λ·x`, with brackets round a sum; the value as it is where there is no factor."""
        if not factor:
            return value
        text = self.bracketed(value.text) if value.is_sum else value.text
        return Formula(f"{self.SYMBOLS.get(factor, factor)}\\, {text}" if self.latex else f"{factor}·{text}")

    def plus(self, *values: Formula) -> Formula:
        """`x + F(x)`."""
        return Formula(" + ".join(value.text for value in values), is_sum=True)

    def minus(self, value: Formula, other: Formula) -> Formula:
        """`F(x) - x`."""
        return Formula(f"{value.text} - {self.bracketed(other.text) if other.is_sum else other.text}", is_sum=True)

    def beside(self, value: Formula, other: Formula) -> Formula:
        """The concatenation `[x ‖ F(x)]`."""
        separator = r" \,\Vert\, " if self.latex else " ‖ "
        text = value.text + separator + other.text
        return Formula(rf"\left[{text}\right]" if self.latex else f"[{text}]")

    def bracketed(self, text: str) -> str:
        """The text in round brackets."""
        return rf"\left({text}\right)" if self.latex else f"({text})"

    def lines(self, named: list[tuple[Formula, Formula]], value: Formula) -> str:
        """The named values, a line each, and the last one, y; the last alone where none is named."""
        if not named:
            return value.text
        pairs = [*((name.text, one.text) for name, one in named), ("y", value.text)]
        if self.latex:
            return r"\begin{aligned} " + r" \\ ".join(f"{name} &= {text}" for name, text in pairs) + r" \end{aligned}"
        return "\n".join(f"{name} = {text}" for name, text in pairs)


class Letter:
    """One operation of a word, at one place in it; a kind of letter is a subclass, and says here all that it means.

    A word runs over four values: the current value h, the skip x of its sub-block, the word's `first` input, and what its
    modules hold, by name. The same four, written, drawn or as variances, go through the other methods.
    """

    role: str  # "branch", "merge", "glue" or "mark": what the grammar asks of it
    shape = "glue"  # of its box in a drawing
    takes_setting = True  # whether a module stands behind it
    default: str | None = None  # the setting where none is given
    example: str | None = None  # a setting, for an error that misses one
    named: dict[str, Callable[..., Any]] = {}  # its registered settings, each a function of its options
    # What it makes of an unnormalised sum of the stream: True makes one, False ends it, None hands it on.
    sums: bool | None = False

    def __init__(self, symbol: str, title: str):
        self.symbol, self.title = symbol, title
        self.position, self.name = 0, ""

    def at(self, position: int) -> Letter:
        """This letter at a place of a word; its module is named `POSITION_LETTER`."""
        placed = copy.copy(self)
        placed.position, placed.name = position, f"{position}_{self.symbol}"
        return placed

    def __repr__(self) -> str:
        return f"{self.symbol!r} at {self.position}"

    def build(self, factory: Callable[..., nn.Module] | None, width: int, skip_width: int, first_width: int) -> nn.Module | None:
        """Build its module at the width of h; raises `ValueError` where the widths do not fit."""
        return factory(width)

    def apply(self, modules: dict[str, nn.Module], h: Tensor, x: Tensor, first: Tensor, inputs: dict[str, dict]) -> Tensor:
        """Run it: the next h. `inputs` are further arguments, by letter."""
        return modules[self.name](h)

    def equation(self, write: Writer, h: Formula, x: Formula, first: Formula, notation: Notation) -> Formula:
        """Write it: the next h."""
        return write.call(self.symbol, h)

    def draw(self, x: Element, first: Element, notation: Notation) -> Element:
        """Draw it; x and `first` are the marks where those values are taken."""
        return Element(self.shape, self.symbol, self.title)

    def predict(self, h: Any, x: Any, first: Any, scalars: Any) -> Any:
        """The next h of `resnorm.theory`: a combination of uncorrelated sources.

        Raises `NotImplementedError(letter)` for a letter without a law.
        """
        raise NotImplementedError(self)


class Branch(Letter):
    """A learned branch. At initialisation it returns a fresh direction of the size that it reads."""

    role, shape = "branch", "branch"

    def __init__(self, symbol: str, title: str):
        super().__init__(symbol, title)
        self.example = f"{symbol}=mlp()"

    def apply(self, modules, h, x, first, inputs):
        return modules[self.name](h, **inputs[self.symbol]) if self.symbol in inputs else modules[self.name](h)

    def predict(self, h, x, first, scalars):
        return h.branch(scalars.backward)


class Mark(Letter):
    """Where the skip is taken: `|`, and the blank, which also begins a new sub-block."""

    role, takes_setting, sums = "mark", False, None

    def draw(self, x, first, notation):
        return Element("fork", "", self.title)


class Bracket:
    """Branches side by side, `[A,M]`: every part reads the value before the bracket, and the parts are summed in order.

    A merge inside a part merges with the skip from outside.
    """

    symbol = "["

    def __init__(self, position: int, parts: tuple[tuple[Letter, ...], ...]):
        self.position, self.parts = position, parts

    def with_parts(self, parts: Iterable[tuple]) -> Bracket:
        """This bracket with other steps in its parts."""
        return Bracket(self.position, tuple(parts))

    def apply(self, modules, h, x, first, inputs):
        """Run the parts: the sum of what they return."""
        total = None
        for part in self.parts:
            value = h
            for step in part:
                value = step.apply(modules, value, x, first, inputs)
            total = value if total is None else total + value
        return total

    def equation(self, write: Writer, h: Formula, x: Formula, first: Formula, notation: Notation) -> Formula:
        """Write the parts as a sum."""
        return write.plus(
            *(_through(part, h, lambda step, value: step.equation(write, value, x, first, notation)) for part in self.parts)
        )

    def draw(self, x: Element, first: Element, notation: Notation) -> Element:
        """Draw a row for each part."""
        return Element(
            "rows",
            "+",
            "branches side by side",
            rows=tuple(tuple(step.draw(x, first, notation) for step in part) for part in self.parts),
        )

    def predict(self, h, x, first, scalars):
        """The sum of what the parts predict."""
        first_part, *others = (_through(part, h, lambda step, value: step.predict(value, x, first, scalars)) for part in self.parts)
        return sum(others, first_part)


def _through(part: tuple[Letter, ...], h: Any, run: Callable[[Letter, Any], Any]) -> Any:
    for step in part:
        h = run(step, h)
    return h
