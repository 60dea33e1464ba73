"""Read what each layer of a densely connected network takes from every layer before it."""

from typing import Any

from torch import Tensor, nn

from resnorm.branches import Convolution
from resnorm.streams import Dense, Stack
from resnorm.words import Block


def reads(model: nn.Module) -> list[dict[str, Any]]:
    r"""Return how large the weights are that connect each layer to each source before it: one row a pair, tidy.

    `weight`: $\operatorname{mean} \lvert w \rvert$ over the entries of the layer's first convolution, or of the
    classifier, that meet the source's features; `scaled`: $\operatorname{mean} \lvert \gamma_c w_c \rvert$, with the
    gains of the norm through which it reads them, the weights on features of size 1.
    `stage`: the dense block, from 1 on; `block`: the layer's place in it, from 1 on, and one more for what reads the
    whole dense block, a transition or the classifier; `source`: 0 for what entered the dense block, j for its layer j.
    Raises `ValueError` for a model without a `Stack` over the stream `Dense`. Citation: huang2017densely.
    """
    modules = list(model.modules())
    stacks = [module for module in modules if isinstance(module, Stack) and isinstance(module.stream, Dense)]
    if not stacks:
        raise ValueError(f"{type(model).__name__} has no dense block; build one with Stack(blocks, Dense())")
    rows = []
    for stage, stack in enumerate(stacks, start=1):
        sizes = [stack.blocks[0].width, *(block.out_width for block in stack.blocks)]
        behind = modules[modules.index(list(stack.modules())[-1]) + 1 :]
        after = next((module for module in behind if isinstance(module, (Block, nn.Linear))), None)
        readers: list[tuple[nn.Module, nn.Module | None]] = [(block, block) for block in stack.blocks]
        if after is not None:
            readers.append((after, after if isinstance(after, Block) else stack.last))
        for block, (reader, normed) in enumerate(readers, start=1):
            weight = _first_weight(reader)
            scaled = weight * _gains(normed)
            parts = zip(weight.split(sizes[:block]), scaled.split(sizes[:block]), strict=True)
            rows += [
                {"stage": stage, "block": block, "source": source, "weight": w.mean().item(), "scaled": s.mean().item()}
                for source, (w, s) in enumerate(parts)
            ]
    return rows


def _first_weight(reader: nn.Module) -> Tensor:
    """The mean size of the first matrix or convolution's entries, for each feature that it reads: (features,)."""
    first = next(module for module in reader.modules() if isinstance(module, (Convolution, nn.Linear)))
    weight = first.filters() if isinstance(first, Convolution) else first.weight
    return weight.detach().float().abs().transpose(0, 1).flatten(1).mean(1)


def _gains(module: nn.Module | None) -> Tensor | float:
    """The size of the gains of a norm, or of the norm that a block starts with: (features,), or 1 without one."""
    first = None if module is None else next(module.parameters(), None)
    return first.detach().float().abs() if first is not None and first.dim() == 1 else 1.0
