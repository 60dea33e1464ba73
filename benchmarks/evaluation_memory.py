"""What evaluation adds to the memory of a training run: the peak of a process with 512 validation rows, beside one with 2.

    python -m benchmarks.evaluation_memory

Every run is a process of its own on the CPU, one epoch of four steps, of which the operating system says how large it was at
its largest. The goal is a ratio of at most 1.1.
"""

import json
import subprocess
import sys

from benchmarks import measure

FEW, MANY, ROUNDS = 2, 512, 3
CASES = {
    "language model, 2 rows of 64 tokens, 10,000 words": dict(model="language", recipe=dict(batch_size=2)),
    "the same, 16 rows in 8 parts": dict(model="language", recipe=dict(batch_size=16, accumulate=8)),
    "the same, with probes": dict(model="language", recipe=dict(batch_size=2, probe_every=2)),
    "translation, batches of 200 tokens, 10,000 words": dict(model="translation", recipe=dict(batch_tokens=200)),
    "images of 64 x 64, 4 a batch": dict(model="images", recipe=dict(batch_size=4, lr=0.01, optimizer="sgd")),
}
RUN = """
import json, resource, sys, torch
from resnorm import DataSet, Recipe, cifar_resnet, fit, seq2seq, transformer_lm
case, rows = json.loads(sys.argv[1]), int(sys.argv[2])
draw, words, size = torch.Generator().manual_seed(0), 10_000, 64
recipe = Recipe(**dict(epochs=1, lr=1e-3, optimizer="adamw") | case["recipe"])
examples = 4 * (recipe.batch_size if recipe.batch_tokens is None else 4)
tokens = lambda count: torch.randint(4, words, (count, size // 2 if case["model"] == "translation" else size), generator=draw)
pictures = lambda count: (torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=draw), torch.arange(count) % 10)
split = pictures if case["model"] == "images" else lambda count: (tokens(count), tokens(count))
kind = {"language": "sequences", "translation": "pairs", "images": "images"}[case["model"]]
data = DataSet("random", kind, split(examples), split(rows), split(2))
model = {
    "language": lambda: transformer_lm(vocabulary=words, context=size, depth=2, width=32, heads=2),
    "translation": lambda: seq2seq(vocabulary=words, context=size, depth=1, width=32, heads=2, dropout=0.0),
    "images": lambda: cifar_resnet(depth=8, classes=10),
}[case["model"]]()
fit(model, data, recipe, device="cpu", progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
"""


def peak(case: dict, rows: int) -> float:
    """The largest size of a run's process, in MiB."""
    words = [sys.executable, "-c", RUN, json.dumps(case), str(rows)]
    return float(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    rows = []
    for name, case in CASES.items():
        few, many = (min(peak(case, count) for _ in range(ROUNDS)) for count in (FEW, MANY))
        rows.append(dict(case=name, few_mib=round(few), many_mib=round(many), ratio=round(many / few, 3)))
        print(f"{many / few:.3f}  {few:6.0f} -> {many:6.0f} MiB  {name}", flush=True)
    measure.write("evaluation_memory", dict(few=FEW, many=MANY, rounds=ROUNDS), rows)


if __name__ == "__main__":
    main()
