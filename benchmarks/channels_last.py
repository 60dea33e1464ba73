"""Group and instance norm of images in channels_last on CPU: how far from exact, and how long beside torch's own kernel.

    python -m benchmarks.channels_last            results/benchmarks/channels_last.json
    python -m benchmarks.channels_last --quick    the same calls, fewer of them: prints and writes nothing

torch's kernel takes the variance in one pass, as E[x^2] - E[x]^2. Each row has one shape and one input: random numbers with a
mean, in deviations, or an image that is a constant but for one pixel in 500. The errors are the largest of an output, beside
the same in 64 bits; times are ratios to torch's kernel, the fastest of many calls over the fastest of its calls, in turn, for
a call without gradients and for a call with its backward pass.
"""

import argparse
import gc
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.measure import interleaved, write
from resnorm import norm

SHAPES = [(32, 16, 32, 32), (8, 64, 56, 56)]
NORMS = {"group(groups=8)": 8, "instance": None}
MEANS = {"mean 0": 0, "mean 3": 3, "mean 1,000": 1000, "mostly constant": 10}
ROUNDS, REPEAT = 60, 1


def row(name: str, shape: tuple[int, ...], values: str, rounds: int, repeat: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    groups, width = NORMS[name] or shape[1], shape[1]
    module = norm(name, width)
    with torch.no_grad():
        module.weight.copy_(0.5 + torch.rand(width, generator=generator))
    x = torch.randn(shape, generator=generator) + MEANS[values]
    if values == "mostly constant":
        x[torch.rand(shape, generator=generator) > 0.002] = MEANS[values]
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
    tensors = [last, module.weight, module.bias]

    def torch_s(x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, groups, module.weight, module.bias, module.eps)

    with torch.no_grad():
        exact = F.group_norm(x.double(), groups, module.weight.double(), module.bias.double(), module.eps)
        errors = {
            key: (y - exact).abs().max().item()
            for key, y in (("error", module(last)), ("torch_error", torch_s(last)), ("contiguous_error", torch_s(x)))
        }
        forward = interleaved(dict(ours=lambda: module(last), torch=lambda: torch_s(last)), rounds, repeat)
    both = interleaved(
        dict(
            ours=lambda: torch.autograd.grad(module(last), tensors, gradient),
            torch=lambda: torch.autograd.grad(torch_s(last), tensors, gradient),
        ),
        rounds,
        repeat,
    )
    return dict(
        norm=name,
        shape=list(shape),
        input=values,
        **errors,
        time=min(forward["ours"]) / min(forward["torch"]),
        time_and_backward=min(both["ours"]) / min(both["torch"]),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is not looked through after every round
    rounds, repeat = (3, 1) if options.quick else (ROUNDS, REPEAT)
    rows = []
    for name in NORMS:
        for shape in SHAPES[:1] if options.quick else SHAPES:
            for values in MEANS:
                rows.append(row(name, shape, values, rounds, repeat))
                print(rows[-1], flush=True)
    if not options.quick or options.folder:
        write("channels_last", dict(rounds=rounds, repeat=repeat), rows, options.folder)


if __name__ == "__main__":
    main()
