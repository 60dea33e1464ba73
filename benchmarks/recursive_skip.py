"""The recursive skip beside one layer norm: forward and backward, by order, as written and in closed form.

    python -m benchmarks.recursive_skip [--quick]

Writes results/benchmarks/recursive_skip.json. All forms of one size take turns in every round. "compiled" is
torch.compile; the closed form is an operator of its own, which torch.compile takes as it is.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import interleaved, ratios, spread, write
from resnorm.recursion import recursion, recursive_skip, recursive_skip_steps
from resnorm.training.memory import keep_freed_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = ((64, 128, 256), (8192, 1024))
ORDERS = (1, 2, 3, 4)
# One layer norm of the sum, under four names: the recursion of order 1 is the same computation.
PEERS = ("layer_norm", "layer_norm compiled", "recursion", "recursion compiled")


def layer_norm(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x + h, x.shape[-1:], weight, bias)


def steps(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor, order: int) -> Tensor:
    return recursive_skip_steps(x, h, [weight] * order, [bias] * order)


def of_order(function: Callable, order: int) -> Callable:
    return lambda x, h, weight, bias: function(x, h, order, weight, bias)


def forms(compiled: bool) -> dict[tuple[str, int], Callable]:
    """Every form of every order: function of x, h, weight and bias."""
    found: dict[tuple[str, int], Callable] = {("layer_norm", 1): layer_norm}
    for order in ORDERS:
        found["recursion", order] = of_order(recursion, order)
        found["closed form", order] = of_order(recursive_skip, order)
        if DEVICE.type == "cuda":
            found["affine map per step", order] = lambda x, h, w, b, order=order: steps(x, h, w, b, order)
    if compiled:
        found |= {(f"{form} compiled", order): torch.compile(function, dynamic=False)
                  for (form, order), function in list(found.items()) if form != "affine map per step"}  # fmt: skip
    return found


def both_ways(function: Callable, tensors: list[Tensor], gradient: Tensor) -> Callable[[], None]:
    def call() -> None:
        torch.autograd.grad(function(*tensors), tensors, gradient)

    return call


def bandwidth() -> float:
    """Bytes a second that a copy of 1 GiB reads and writes on the GPU."""
    source, target = (torch.empty(2**28, device=DEVICE) for _ in range(2))
    seconds = interleaved({"copy": lambda: target.copy_(source)}, 9)["copy"]
    return 2 * source.nbytes / min(seconds)


def rows_of(size: tuple[int, ...], dtype: torch.dtype, rounds: int, compiled: bool) -> list[dict]:
    x, h = (torch.randn(size, device=DEVICE).to(dtype).requires_grad_() for _ in range(2))
    gradient = torch.randn(size, device=DEVICE).to(dtype)
    weight, bias = (torch.ones(size[-1], device=DEVICE, dtype=dtype).requires_grad_() for _ in range(2))
    functions = {f"{form} {order}": both_ways(function, [x, h, weight, bias], gradient)
                 for (form, order), function in forms(compiled).items()}  # fmt: skip
    seconds = interleaved(functions, rounds, repeat=3)
    # The peer is whichever is the fastest in that round.
    peers = [f"{peer} 1" for peer in PEERS if f"{peer} 1" in seconds]
    best = [min(values) for values in zip(*(seconds[peer] for peer in peers), strict=True)]
    rows = []
    for form, order in forms(compiled):
        measured = seconds[f"{form} {order}"]
        row = dict(size=list(size), dtype=str(dtype).removeprefix("torch."), order=order, form=form,
                   seconds=spread(measured),
                   ratio_to_layer_norm=spread([a / b for a, b in zip(measured, best, strict=True)]),
                   ratio_to_order_1=ratios({"one": seconds[f"{form} 1"], "k": measured}, "one")["k"])  # fmt: skip
        if DEVICE.type == "cuda" and "closed form" in form:
            # Forward reads x and h and writes y; backward reads x, h and the gradient and writes two gradients.
            row["share_of_copy_bandwidth"] = 8 * x.nbytes / row["seconds"]["median"] / bandwidth()
        rows.append(row)
        ratio = row["ratio_to_layer_norm"]
        print(f"{size!s:16s} {row['dtype']:9s} {form:22s} order {order}: {1e3 * row['seconds']['median']:8.2f} ms, "
              f"{ratio['median']:5.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) of a layer norm, "
              f"{row['ratio_to_order_1']['median']:.2f} of order 1", flush=True)  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recursive_skip", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, nothing compiled, nothing written")
    quick = parser.parse_args().quick
    if DEVICE.type == "cpu":
        keep_freed_memory()
    rounds, rows = (1 if quick else 15), []
    for size in ((64, 300),) if quick else SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            torch.compiler.reset()
            rows += rows_of(size, dtype, rounds, compiled=not quick)
    if not quick:
        print(write("recursive_skip", dict(rounds=rounds, measured="forward and backward"), rows))


if __name__ == "__main__":
    main()
