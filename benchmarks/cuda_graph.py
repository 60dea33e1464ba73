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
from resnorm import fit, lab, load, variant
from resnorm.training import Recipe

PLACEMENTS = ("pre", "post", "rskip_norm")
CHANGES = dict(lr=1e-2, precision="bf16", probe_every=0)


def rows_of(placement: str) -> list[dict[str, Any]]:
    """Two rows of the model: tokens a second and validation loss, kernel by kernel and in a CUDA graph."""
    experiment = lab.plan("placements", "colab", seeds=[0], placements=placement)[0]
    data = load(**experiment.task)
    rows: list[dict[str, Any]] = []
    for steps, cuda_graph in (("kernel by kernel", False), ("CUDA graph", True)):
        torch.manual_seed(0)
        model = experiment.build(data.spec)
        run = fit(model, data, Recipe(**experiment.recipe | CHANGES), cuda_graph=cuda_graph, progress=False)
        rate = run.metrics["tokens_per_second"]
        rows.append(
            dict(
                model=variant(placement).title,
                layers=experiment.model["depth"],
                steps=steps,
                tokens_per_second=rate,
                ratio=rate / rows[0]["tokens_per_second"] if rows else 1.0,
                validation_loss=run.metrics["validation_loss"],
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_graph", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one model; nothing is written")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        print("a CUDA graph needs a GPU, and here is none: nothing measured, nothing written")
        return
    rows = [row for placement in PLACEMENTS[: 1 if quick else None] for row in rows_of(placement)]
    for row in rows:
        print(f"{row['model']:20s} {row['steps']:20s} {row['tokens_per_second']:10,.0f} tokens/s, ratio {row['ratio']:.1f}")
    if not quick:
        print(write("cuda_graph", dict(precision=CHANGES["precision"]), rows))


if __name__ == "__main__":
    main()
