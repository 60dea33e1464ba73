"""What every norm and every placement costs: time and memory, forward and backward, eager.

    python -m benchmarks.costs            the costs table of the gallery: results/benchmarks/costs.json, three minutes
    python -m benchmarks.costs --quick    the same calls, fewer of them: prints and writes nothing

A norm is measured against one copy of its input: a forward pass cannot do less. A placement is measured against the
plain skip around the same branches. What is compared takes turns in the same rounds, and the ratio is formed in each.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import interleaved, spread, write
from resnorm.catalog import VARIANTS
from resnorm.norms import norm
from resnorm.probes import stored_bytes
from resnorm.recursion import fuse
from resnorm.training.memory import keep_freed_memory
from resnorm.words import BRANCHES, Block

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROUNDS, REPEAT = 11, 2
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# What each norm is asked to work on: the layouts of a convolutional network, and tokens.
INPUTS = {"channels_last": (64, 64, 32, 32), "contiguous": (64, 64, 32, 32), "tokens": (64, 128, 256)}
ON_IMAGES = ("batch", "layer2d", "group", "group(groups=1)", "instance", "rms2d", "dyt2d")
ON_TOKENS = ("batch(dim=-1)", "layer", "rms", "dyt", "derf", "seed")
SHAPES = {"generic": (16, 128, 256), "image": (64, 64, 16, 16), "transformer": (16, 128, 256)}


class Cost:
    """One module on one input: a call of its forward pass, one of its backward pass, and what it saves between them."""

    def __init__(self, module: nn.Module, x: Tensor, precision: str, **inputs: Any):
        self.module, self.x, self.precision, self.inputs = module.to(x.device), x, precision, inputs
        with autocast(precision):
            self.saved_bytes = stored_bytes(module, x, **self.inputs)
        y = self.forward()
        wanted = [x, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
        self.backward = partial(torch.autograd.grad, y, wanted, torch.randn_like(y), retain_graph=True)

    def forward(self) -> Tensor:
        with autocast(self.precision):
            return self.module(self.x, **self.inputs)


def autocast(precision: str):
    return nullcontext() if precision == "fp32" else torch.autocast(DEVICE.type, PRECISIONS[precision])


def plain_skip(word: str) -> str:
    """The word of the same branches with a plain skip: `Fa` for `nFan`, `CrCa` for `CnrCnar`, `Aa Ma` for `Aan Man`.

    ReLUs stay between convolutions, for without them two would be one; a word that concatenates still does. What stands side
    by side stays there: `[A,M]a` for `n[A,M]a`.
    """
    return " ".join(_plain_skip(sub_word) for sub_word in word.split(" ") if set(sub_word) & set(BRANCHES))


def _plain_skip(sub_word: str) -> str:
    if "[" in sub_word:
        return "".join(letter for letter in sub_word if letter in BRANCHES or letter in "[,]") + "a"
    branches = [letter for letter in sub_word if letter in BRANCHES]
    between = "r" if branches[0] == "C" else ""
    after = "r" if branches == ["C"] else ""
    return between.join(branches) + after + ("c" if "c" in sub_word else "a")


def branches(block: Block) -> dict[str, list[Callable[[int], nn.Module]]]:
    """The branches of a block as settings of another block, which then has the same weights."""
    found: dict[str, list[Callable[[int], nn.Module]]] = {}
    for name, module in block.named_children():
        if (letter := name.partition("_")[2]) in BRANCHES:
            found.setdefault(letter, []).append(lambda width, module=module: module)
    return found


def tensor(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    x = torch.randn(shape, device=DEVICE, dtype=dtype)
    return (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()


def measured(costs: dict[str, Cost], rounds: int, repeat: int, **others: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of "NAME forward" and "NAME backward" of each cost, and of the other calls, taking turns."""
    calls = {f"{name} {part}": getattr(cost, part) for name, cost in costs.items() for part in ("forward", "backward")}
    # Whatever runs first in a round runs on colder caches than the rest: a call that is not counted.
    return interleaved(dict(settle=next(reversed(calls.values()))) | others | calls, rounds, repeat)


def ratios(forward: list[float], backward: list[float], base: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Forward, backward and both together (`time`), each over its base, round by round."""
    both = [sum(pair) for pair in zip(forward, backward, strict=True)]
    return {
        part: spread([value / one for value, one in zip(values, base[part], strict=True)])
        for part, values in (("forward", forward), ("backward", backward), ("time", both))
    }


def norm_rows(precision: str, rounds: int, repeat: int) -> list[dict[str, Any]]:
    """Each norm on each input, in copies of that input."""
    rows = []
    for layout, shape in INPUTS.items():
        x = tensor(shape, PRECISIONS[precision], layout == "channels_last")
        width = shape[-1] if layout == "tokens" else shape[1]
        names = ON_TOKENS if layout == "tokens" else ON_IMAGES
        costs = {name: Cost(norm(name, width), x, precision) for name in names}
        times = measured(costs, rounds, repeat, copy=x.detach().clone)
        base = dict.fromkeys(("forward", "backward", "time"), times["copy"])
        for name, cost in costs.items():
            found = ratios(times[f"{name} forward"], times[f"{name} backward"], base)
            rows.append(
                dict(
                    kind="norm",
                    norm=name,
                    input=layout,
                    shape=list(shape),
                    precision=precision,
                    **found,
                    memory=cost.saved_bytes / x.nbytes,
                )
            )
    return rows


def variant_rows(group: str, precision: str, rounds: int, repeat: int) -> list[dict[str, Any]]:
    """Each variant of a group beside the plain skip around the same branches."""
    shape = SHAPES[group]
    image = group == "image"
    # Images reach a block as the convolution before it left them; the stream of a Transformer stays in 32 bits.
    x = tensor(shape, PRECISIONS[precision] if image else torch.float32, image)
    memory = dict(memory=tensor(shape, torch.float32))
    variants = [variant for variant in VARIANTS.values() if group in variant.tags]
    layout = torch.channels_last if image else torch.preserve_format
    width = shape[1] if image else shape[-1]
    shared: dict[str, dict[str, list[Callable[[int], nn.Module]]]] = {}
    costs: dict[str, Cost] = {}
    for variant in variants:
        plain = plain_skip(variant.spell())
        # One set of weights for all, and each variant's reference right before it: both find the caches equally warm.
        same = shared.setdefault(plain, branches(variant.block(width)))
        extra = {"X": memory} if "X" in same else {}
        for name, block in ((f"{variant.name} plain", Block(plain, width, **same)), (variant.name, variant.block(width, **same))):
            costs[name] = Cost(fuse(block).to(memory_format=layout), x, precision, **extra)
    times = measured(costs, rounds, repeat)
    rows = []
    for variant in variants:
        own, plain = costs[variant.name], costs[f"{variant.name} plain"]
        forward, backward = times[f"{variant.name} plain forward"], times[f"{variant.name} plain backward"]
        both = [sum(pair) for pair in zip(forward, backward, strict=True)]
        found = ratios(
            times[f"{variant.name} forward"], times[f"{variant.name} backward"], dict(forward=forward, backward=backward, time=both)
        )
        rows.append(
            dict(
                kind="variant",
                variant=variant.name,
                group=group,
                word=own.module.word,
                reference=plain.module.word,
                shape=list(shape),
                precision=precision,
                **found,
                memory=own.saved_bytes / plain.saved_bytes,
            )
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of one call; nothing is written")
    quick = parser.parse_args(arguments).quick
    rounds, repeat = (1, 1) if quick else (ROUNDS, REPEAT)
    torch.manual_seed(0)
    # As in `fit`: otherwise the kernel filling new pages with zeros is the larger half of every norm.
    keeps = keep_freed_memory()
    rows = []
    for precision in PRECISIONS:
        rows += norm_rows(precision, rounds, repeat)
        for group in SHAPES:
            rows += variant_rows(group, precision, rounds, repeat)
    for row in rows:
        name = f"{row.get('norm') or row['variant']} ({row.get('input') or row['group']}, {row['precision']})"
        print(f"{name:45s} time {row['time']['median']:6.2f}   memory {row['memory']:5.2f}")
    if not quick:
        inputs = {name: list(shape) for name, shape in (INPUTS | SHAPES).items()}
        print(write("costs", dict(rounds=rounds, repeat=repeat, keeps_freed_memory=keeps, inputs=inputs), rows))


if __name__ == "__main__":
    main()
