"""The stack: blocks in a row, and the stream that carries them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from resnorm.letters import setting_of
from resnorm.streams.stream import Plain, Stream
from resnorm.words import Block


class Stack(nn.Module):
    r"""Run blocks over a stream: $x_{i+1} = B_i(x_i)$ for the plain stream.

    `blocks`: modules in order; `stream`: how their outputs combine; `last`: the last norm, a registered name or a factory
    `width -> module`. It is built only where the stack needs one: when the stream is a sum or when the last word ends in a
    merge (`nFa` does, `Fan` does not). `width` is asked for only where the blocks do not tell theirs. `each_pass`: what
    the branches of a letter share within one pass, by the name that they take it by, as `{"A": {"first": FirstValues}}`.
    Shapes: (batch, ...) to (batch, ...). Raises `ValueError` for no blocks, for a stream that was built for another number
    of them, or a last norm of unknown width.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        stream: Stream | None = None,
        last: str | Callable[[int], nn.Module] | None = None,
        width: int | None = None,
        each_pass: dict[str, dict[str, Callable[[], Any]]] | None = None,
    ):
        super().__init__()
        self.each_pass = each_pass or {}
        self.blocks = nn.ModuleList(blocks)
        if not self.blocks:
            raise ValueError("a stack needs at least one block, got none")
        self.stream = Plain() if stream is None else stream
        if self.stream.count not in (None, len(self.blocks)):
            raise ValueError(
                f"the stream {type(self.stream).__name__} was built for {self.stream.count} blocks, and the stack has "
                f"{len(self.blocks)}; build it for {len(self.blocks)}"
            )
        end = self.blocks[-1]
        self.out_width = width if width is not None else self._width()
        self.last = None
        if last is not None and (self.stream.sums or (_is_block(end) and end.ends_in_merge)):
            if self.out_width is None:
                raise ValueError("the blocks do not tell their width, which the last norm needs; give Stack(..., width=...)")
            self.last = setting_of("n", last)(self.out_width)

    def _width(self) -> int | None:
        widths = [getattr(block, "out_width", None) for block in self.blocks]
        return self.stream.out_width(getattr(self.blocks[0], "width", None), widths)

    def _inputs_of(self, block: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
        """Leave out what other blocks take: in a stream, attention and MLP are blocks of their own."""
        others = {letter for one in self.blocks if _is_block(one) for letter in one.word} if inputs else set()
        return {
            letter: given
            for letter, given in inputs.items()
            if not _is_block(block) or letter in block.word or letter not in others  # the block names a wrong one
        }

    def parts(self, letter: str) -> list[nn.Module]:
        """Return the modules of a letter from every block whose word has it, in order: `stack.parts("M")` are all its MLPs.

        Raises `ValueError` for what is no letter, and for a letter that no block has.
        """
        blocks = [block for block in self.blocks if isinstance(block, Stack) or _is_block(block)]
        found, errors = [], []
        for block in blocks:
            try:
                found += block.parts(letter)
            except ValueError as error:
                errors.append(error)
        if not found:
            raise errors[0] if errors else ValueError(f"no block of this stack is a Block that could have a letter {letter!r}")
        return found

    def forward(self, x: Tensor, **inputs: dict[str, Any]) -> Tensor:
        """Run every block; `inputs` go by letter, as in `Block`, to each block whose word has the letter."""
        for letter, shared in self.each_pass.items():
            inputs[letter] = {name: make() for name, make in shared.items()} | inputs.get(letter, {})
        S = self.stream.open(x)
        for i, block in enumerate(self.blocks):
            S = self.stream.write(S, block(self.stream.read(S, i), **self._inputs_of(block, inputs)), i)
        y = self.stream.close(S)
        return y if self.last is None else self.last(y)


def _is_block(module: nn.Module) -> bool:
    """Whether a module is a `Block`, also behind a wrapper that hands on its attributes, as torch.compile's."""
    return isinstance(module, Block) or isinstance(getattr(module, "word", None), str)
