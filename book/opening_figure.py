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

    blocks, ends = range(DEPTH + 1), []
    with plots.style():
        figure = Figure(figsize=(7.6, 4.1), layout="constrained")
        axes = figure.add_subplot()
        for index, (word, skip, name) in enumerate(STACKS):
            look = {"color": plots.COLOURS[(1, 4, 0, 2)[index]], "marker": plots.MARKERS[index]}
            law = [row["forward_rms"] for row in theory.predict(word, DEPTH, skip=skip)]
            runs = measured(word, skip)
            axes.plot(blocks, law, color=look["color"], lw=1.6)
            for run in runs:
                axes.plot(blocks, run, ls="", ms=4.5, mec="none", alpha=0.5, **look)
            label = f"{name}: {word}" + (f", skip × {skip:.0f}" if skip != 1 else "")
            place = dict(textcoords="offset points", va="center", color=look["color"])
            axes.annotate(label, (DEPTH, law[-1]), (9, 0), **place)
            ends.append(f"{label}: {sum(run[-1] for run in runs) / SEEDS:.3g}")
        axes.set(yscale="log", xlabel="block", ylabel="RMS of the stream", xticks=blocks[::4], xlim=(-0.5, DEPTH + 8.5))
        path.write_text(plots.svg(figure), encoding="utf-8")
    return (
        f"Root mean square of the stream after each of {DEPTH} untrained blocks, on a logarithmic axis. Lines: predicted "
        f"from the word; markers: measured, {SEEDS} seeds. After the last block: {'; '.join(ends)}."
    )
