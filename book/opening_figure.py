"""The figure of the landing page: how large the signal is after each block, predicted from the word and measured."""

from pathlib import Path

DEPTH, WIDTH, SEEDS = 24, 256, 5
STACKS = [("Fa", 2.0, "scaled skip"), ("Fa", 1.0, "residual"), ("nFa", 1.0, "Pre-Norm"), ("Fan", 1.0, "Post-Norm")]


def measured(word: str, skip: float) -> list[list[float]]:
    """The RMS of the stream after each block of an untrained stack, one list a seed."""
    import torch

    from resnorm import Block, Stack, add, mlp, probes
    from resnorm.init import unit_gain

    # Matrices this small are slower on several threads than on one.
    torch.set_num_threads(1)
    runs = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        letters = {"F": mlp(expansion=1, bias=False), "a": add(skip=skip)} | ({"n": "layer"} if "n" in word else {})
        stack = Stack([Block(word, WIDTH, **letters) for _ in range(DEPTH)])
        unit_gain(stack)
        runs.append([row["forward_rms"] for row in probes.measure(stack, torch.randn(64, WIDTH), lambda y: y.sum())])
    return runs


def draw(path: Path) -> str:
    """Write the figure as SVG; return its alt text, with the numbers that it shows."""
    from matplotlib.figure import Figure

    from resnorm import plots, theory

    with plots.style():
        figure = Figure(figsize=(7.6, 4.1), layout="constrained")
        axes = figure.add_subplot()
        ends = []
        for (word, skip, name), colour, marker in zip(STACKS, plots.COLOURS, "os^D", strict=False):
            law = [row["forward_rms"] for row in theory.predict(word, DEPTH, skip=skip)]
            runs = measured(word, skip)
            axes.plot(range(DEPTH + 1), law, color=colour, lw=1.6)
            for run in runs:
                axes.plot(range(DEPTH + 1), run, marker, color=colour, ms=4, mec="none", alpha=0.55)
            mean = sum(run[-1] for run in runs) / SEEDS
            scaled = f", skip × {skip:.0f}" if skip != 1 else ""
            axes.annotate(f"{name}: {word}{scaled}", (DEPTH, law[-1]), (8, 0), textcoords="offset points", va="center", color=colour)
            ends.append(f"{name} ({word}{scaled}) {mean:.3g}")
        axes.set(yscale="log", xlabel="block", ylabel="RMS of the stream", xlim=(0, DEPTH + 8.5), xticks=range(0, DEPTH + 1, 4))
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
    return (f"Root mean square of the stream after each of {DEPTH} untrained blocks, on a logarithmic axis. Lines: predicted from the word; "
            f"dots: measured, {SEEDS} seeds. After the last block: {', '.join(ends)}.")  # fmt: skip
