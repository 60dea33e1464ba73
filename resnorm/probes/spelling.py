"""Find the word of a layer that somebody else wrote: its own parts, put into every word that they can form."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnorm.norms.checking import evaluating
from resnorm.streams import Stack
from resnorm.words import Block


def spelling(model: nn.Module, path: str, parts: Mapping[str, str], **inputs: Any) -> dict[str, float]:
    r"""Return how far each word is from a layer, the nearest first: $\lVert y_{word} - y \rVert / \lVert y \rVert$.

    The model runs once, and its layer's input and output, y, are kept, with all further arguments with which each of the
    layer's parts was called. Then these very parts form a `Block` in every word.
    `path`: of the layer in the model; `parts`: of the letters `A`, `X` and `M` and of `n` the names below it, in the order
    of the layer; several names of a branch follow one another. With one norm a branch the words are `nFa`, `Fan` and `Fna` of
    each, and `[nA,nM]a`; with two norms `nFna` and `nFan`. `inputs`: of the model. In eval mode; the model is left as it was.
    Raises `ValueError` for another number of norms.
    """
    layer = model.get_submodule(path)
    found = {letter: [layer.get_submodule(name) for name in names.split()] for letter, names in parts.items()}
    with torch.no_grad(), evaluating(model):
        whole = _Replayed(layer)
        replayed = {letter: [_Replayed(module) for module in modules] for letter, modules in found.items()}
        try:
            model(**inputs)
        finally:
            for module in (whole, *(module for modules in replayed.values() for module in modules)):
                module.hook.remove()
        args, kwargs, output = whole.calls[0]
        x, y = args[0] if args else kwargs["hidden_states"], _tensor(output)
        branches: dict[str, Sequence[nn.Module]] = {}
        branches |= {letter: [nn.Sequential(*modules)] for letter, modules in replayed.items() if letter != "n"}
        gaps = {}
        for word in _words(list(branches), len(found["n"])):
            block = respelled_block(branches | {"n": replayed["n"]}, word, x.shape[-1])
            gaps[word] = ((block(x) - y).norm() / y.norm()).item()
    return dict(sorted(gaps.items(), key=lambda item: item[1]))


def respelled(stack: Stack, word: str) -> Stack:
    """Return the same branches and norms in another word, block by block, with a last norm of their kind where it needs one.

    `word`: with the letters `A`, `M` and `n` as often as the blocks of the stack have them.
    """
    blocks: list[Any] = list(stack.blocks)
    same = [respelled_block({letter: block.parts(letter) for letter in "AMn"}, word, block.width) for block in blocks]
    return Stack(same, last=type(blocks[0].parts("n")[0]))


def respelled_block(parts: Mapping[str, Sequence[nn.Module]], word: str, width: int) -> Block:
    """Return a block of these modules, by the letters of the word and in their order; they are taken, not copied."""
    return Block(word, width, **{letter: [_given(module) for module in modules] for letter, modules in parts.items()})


def last_norm(model: nn.Module, path: str) -> str:
    """Return the type of the norm that stands behind the list of layers to which ``path`` belongs, or "none"."""
    parent, _, layers = path.rpartition(".")[0].rpartition(".")
    children = dict(model.get_submodule(parent).named_children())
    behind = list(children.values())[list(children).index(layers) :]
    return next((name for module in behind if "Norm" in (name := type(module).__name__)), "none")


def _words(branches: list[str], norms: int) -> list[str]:
    if norms == len(branches):
        parallel = "[" + ",".join(f"n{branch}" for branch in branches) + "]a"
        return [*_rows(("nFa", "Fan", "Fna"), branches), parallel]
    if norms == 2 * len(branches):
        return _rows(("nFna", "nFan"), branches)
    raise ValueError(f"{norms} norms for the branches {', '.join(branches)}; give one or two a branch")


def _rows(forms: tuple[str, ...], branches: list[str]) -> list[str]:
    return [" ".join(form.replace("F", branch) for branch in branches) for form in forms]


def _given(module: nn.Module) -> Callable[[int], nn.Module]:
    return lambda width: module


def _tensor(output: Any) -> Tensor:
    # Attention also returns its weights.
    return output[0] if isinstance(output, (tuple, list)) else output


class _Replayed(nn.Module):
    """A module of another library, called again as that library called it, with another input."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.calls: list[tuple[tuple, dict[str, Any], Any]] = []
        self.hook = module.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, module: nn.Module, *call: Any) -> None:
        self.calls.append(call)

    def forward(self, h: Tensor) -> Tensor:
        args, kwargs, _ = self.calls[0]
        return _tensor(self.module(h, *args[1:], **{name: kwargs[name] for name in kwargs if name != "hidden_states"}))
