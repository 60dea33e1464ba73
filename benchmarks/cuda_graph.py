"""`fit` on a GPU with and without a CUDA graph: small language models of the zoo, whose cost is launching kernels.

    python -m benchmarks.cuda_graph            results/benchmarks/cuda_graph.json
    python -m benchmarks.cuda_graph --quick    one model: prints and writes nothing

Without a GPU it says so and writes nothing. Each model is trained twice from the same weights. Tokens a second are those
of training alone, the recording of the graph and its first steps included.
"""

import argparse
from typing import Any

import torch

from benchmarks.measure import write
from resnorm import build, fit, lab, load, variant
from resnorm.training import Recipe

PLACEMENTS = ("pre", "post", "rskip_norm")
CHANGES = dict(lr=1e-2, precision="bf16", probe_every=0)


def rows_of(placement: str) -> dict[str, Any]:
    """The model's row: tokens a second and validation loss, both ways."""
    experiment = lab.plan("placements", "colab", seeds=[0], placements=placement)[0]
    data = load(**experiment.task)
    options = {key: value for key, value in experiment.model.items() if key != "name"}
    row: dict[str, Any] = dict(model=f"{variant(placement).title}, {options['depth']} layers")
    rates = []
    for name, cuda_graph in (("kernel by kernel", False), ("CUDA graph", True)):
        torch.manual_seed(0)
        model = build(experiment.model["name"], data.spec, **options)
        run = fit(model, data, Recipe(**experiment.recipe | CHANGES), cuda_graph=cuda_graph, progress=False)
        rates.append(run.metrics["tokens_per_second"])
        row |= {f"tokens/s, {name}": rates[-1], f"validation loss, {name}": run.metrics["validation_loss"]}
    return row | dict(ratio=rates[1] / rates[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_graph", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one model; nothing is written")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        print("a CUDA graph needs a GPU, and here is none: nothing measured, nothing written")
        return
    rows = [rows_of(placement) for placement in PLACEMENTS[: 1 if quick else None]]
    for row in rows:
        print(f"{row['model']:40s} {row['ratio']:.1f} times as fast in a graph")
    if not quick:
        print(write("cuda_graph", dict(rounds=1, precision=CHANGES["precision"]), rows))


if __name__ == "__main__":
    main()
