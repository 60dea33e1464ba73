"""The recursive skip beside one layer norm: forward and backward, by order, as written and in closed form.

    python -m benchmarks.recursive_skip [--quick] [--eager]

Writes results/benchmarks/recursive_skip.json, on a GPU recursive_skip_gpu.json. All forms of one size take turns in
every round. "compiled" is torch.compile; the closed form is an operator of its own, which torch.compile takes as it is.
On a GPU every form is measured twice: called from Python, and as a CUDA graph of twenty calls, where only the device's
own time is left.
"""

import argparse
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import resnorm.recursion as module
from benchmarks.measure import interleaved, ratios, spread, write
from resnorm.recursion import recursion, recursive_skip, recursive_skip_steps
from resnorm.training.memory import keep_freed_memory

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = ((64, 128, 256), (8192, 1024)) + (((65536, 1024),) if DEVICE.type == "cuda" else ())
CALLS = 20  # of one CUDA graph
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
        found |= {
            (f"{form} compiled", order): torch.compile(function, dynamic=False)
            for (form, order), function in list(found.items())
            if form != "affine map per step"
        }
    return found


def both_ways(function: Callable, tensors: list[Tensor], gradient: Tensor) -> Callable[[], None]:
    def call() -> None:
        torch.autograd.grad(function(*tensors), tensors, gradient)

    return call


def replayed(call: Callable[[], None]) -> Callable[[], None]:
    """The call as a CUDA graph of CALLS of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # a first call outside: kernels are compiled, libraries choose theirs
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CALLS):
            call()
    return graph.replay


@functools.cache
def bandwidth() -> float:
    """Bytes a second that a copy of 1 GiB reads and writes on the GPU."""
    source, target = (torch.empty(2**28, device=DEVICE) for _ in range(2))
    seconds = interleaved({"copy": lambda: target.copy_(source)}, 9)["copy"]
    return 2 * source.nbytes / min(seconds)


def rows_of(size: tuple[int, ...], dtype: torch.dtype, rounds: int, compiled: bool) -> list[dict]:
    x, h = (torch.randn(size, device=DEVICE).to(dtype).requires_grad_() for _ in range(2))
    gradient = torch.randn(size, device=DEVICE).to(dtype)
    weight, bias = (torch.ones(size[-1], device=DEVICE, dtype=dtype).requires_grad_() for _ in range(2))
    functions = {
        f"{form} {order}": both_ways(function, [x, h, weight, bias], gradient)
        for (form, order), function in forms(compiled).items()
    }
    rows = _rows(interleaved(functions, rounds, repeat=3), compiled, x, "called from Python")
    if DEVICE.type == "cuda":
        graphs = {name: replayed(function) for name, function in functions.items()}
        seconds = {name: [one / CALLS for one in values] for name, values in interleaved(graphs, rounds).items()}
        rows += _rows(seconds, compiled, x, "in a CUDA graph")
    return rows


def _rows(seconds: dict[str, list[float]], compiled: bool, x: Tensor, launch: str) -> list[dict]:
    # The peer is whichever is the fastest in that round.
    peers = [f"{peer} 1" for peer in PEERS if f"{peer} 1" in seconds]
    best = [min(values) for values in zip(*(seconds[peer] for peer in peers), strict=True)]
    rows = []
    for form, order in forms(compiled):
        measured = seconds[f"{form} {order}"]
        row = dict(
            size=list(x.shape),
            dtype=str(x.dtype).removeprefix("torch."),
            order=order,
            form=form,
            seconds=spread(measured),
            ratio_to_layer_norm=spread([a / b for a, b in zip(measured, best, strict=True)]),
            ratio_to_order_1=ratios({"one": seconds[f"{form} 1"], "k": measured}, "one")["k"],
        )
        if DEVICE.type == "cuda":
            row["launch"] = launch
        if DEVICE.type == "cuda" and "closed form" in form:
            # Forward reads x and h and writes y; backward reads x, h and the gradient and writes two gradients.
            row["share_of_copy_bandwidth"] = 8 * x.nbytes / row["seconds"]["median"] / bandwidth()
        rows.append(row)
        ratio = row["ratio_to_layer_norm"]
        print(
            f"{tuple(x.shape)!s:16s} {row['dtype']:9s} {row.get('launch', '')} {form:22s} order {order}: "
            f"{1e3 * row['seconds']['median']:8.3f} ms, {ratio['median']:5.2f} ({ratio['low']:.2f} to "
            f"{ratio['high']:.2f}) of a layer norm, {row['ratio_to_order_1']['median']:.2f} of order 1",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recursive_skip", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, nothing compiled, nothing written")
    parser.add_argument("--eager", action="store_true", help="nothing compiled, which takes minutes")
    options = parser.parse_args()
    quick, compiled = options.quick, not (options.quick or options.eager)
    if DEVICE.type == "cpu":
        keep_freed_memory()
    module.SMALL_ON_GPU = 0  # the kernels themselves, at every size
    rounds, rows = (1 if quick else 15), []
    for size in ((64, 300),) if quick else SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            torch.compiler.reset()
            rows += rows_of(size, dtype, rounds, compiled)
    if not quick:
        name = "recursive_skip_gpu" if DEVICE.type == "cuda" else "recursive_skip"
        print(write(name, dict(rounds=rounds, measured="forward and backward"), rows))


if __name__ == "__main__":
    main()
