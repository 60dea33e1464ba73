"""What each technique of the training engine gains: the whole engine with it and without it, step by step in turn.

    python -m benchmarks.engine [--quick]

Writes results/benchmarks/engine.json. A technique is switched off by putting back what PyTorch does by default; the
rest of the engine stays. Data are random pixels and letters of the size of CIFAR-10 and of a small language model: no
download, and the time of a step does not depend on what it learns.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter
from unittest.mock import patch

import torch
import torch._inductor.config
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import interleaved, spread, write
from resnorm import norms
from resnorm.data import DataSet
from resnorm.letters import ZeroPad
from resnorm.models import cifar_resnet, transformer_lm
from resnorm.models.mlp import mlp_stack
from resnorm.training import Recipe, loop
from resnorm.training.batches import Order
from resnorm.training.memory import keep_freed_memory

BATCH, CONTEXT, VOCABULARY = 128, 128, 65
CPU = torch.device("cpu")
# glibc's own switch: 2 MiB pages where the kernel leaves the choice to the program.
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def pictures(examples: int = 20 * BATCH, size: int = 32) -> DataSet:
    split = lambda count: (torch.randint(256, (count, 3, size, size), dtype=torch.uint8), torch.randint(10, (count,)))  # noqa: E731
    spec = dict(inputs=3, size=size, classes=10)
    return DataSet(
        "random pictures",
        "images",
        split(examples),
        split(BATCH),
        split(BATCH),
        spec=spec,
        mean=(0.5, 0.5, 0.5),
        std=(0.3, 0.3, 0.3),
    )


def letters(examples: int = 320, context: int = CONTEXT) -> DataSet:
    def split(count):
        tokens = torch.randint(VOCABULARY, (count, context + 1))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    spec = dict(vocabulary=VOCABULARY, context=context, symbols="x" * VOCABULARY)
    return DataSet("random letters", "sequences", split(examples), split(32), split(32), spec=spec)


class Engine:
    """The training loop of `fit`, one call a step, over and over through one epoch."""

    def __init__(self, model: nn.Module, data: DataSet, device: torch.device = CPU, **recipe) -> None:
        recipe = dict(epochs=1, batch_size=BATCH, weight_decay=1e-4) | recipe
        self.loop = loop._Loop(model, data, Recipe(**recipe), 0, device, None, False)
        self.loop.model.train()

    def __call__(self) -> None:
        self.loop._one_step()
        if self.loop._ends_epoch():
            self.loop.step = 0
            # The loop has a place for the norm of the gradient of every step of a run, and no more.
            self.loop.norm_at.zero_()


def resnet(**options) -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(**(dict(depth=20) | options))


def image_engine(precision: str = "bf16", model: dict | None = None, **recipe) -> Engine:
    return Engine(resnet(**model or {}), pictures(), precision=precision, augment="crop_flip", **recipe)


# ------------------------------------------------------------------------------- with, without: functions of one step


def layout(precision: str) -> dict[str, Callable]:
    return {"with": image_engine(precision), "without": image_engine(precision, channels_last=False)}


def shortcut(precision: str) -> dict[str, Callable]:
    def sliced(self: ZeroPad, x: Tensor) -> Tensor:
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0) * (x.dim() - 2) + (0, self.extra))

    def without() -> None:
        with patch.object(ZeroPad, "forward", sliced):
            engine()

    engine = image_engine(precision)
    return {"with": image_engine(precision), "without": without}


def bf16() -> dict[str, Callable]:
    return {"with": image_engine("bf16"), "without": image_engine("fp32")}


class OneByOne(Dataset):
    """The pictures as a tutorial reads them: one PIL image at a time, transformed one at a time."""

    def __init__(self, data: DataSet) -> None:
        from torchvision import transforms

        self.inputs, self.targets = data.train
        steps = [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        return self.transform(self.inputs[index]), self.targets[index]


def endless(loader: DataLoader):
    while True:
        yield from loader


def batches(precision: str) -> dict[str, Callable]:
    """The same step, fed by a DataLoader of two workers."""
    engine, data = image_engine(precision), pictures()
    source = endless(DataLoader(OneByOne(data), BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True))

    def without() -> None:
        inputs, targets = next(source)
        engine.loop._train_on(inputs.contiguous(memory_format=torch.channels_last), targets)

    return {"with": image_engine(precision), "without": without}


def optimiser() -> dict[str, Callable]:
    model = resnet(depth=110)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    make = lambda **options: torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, **options)  # noqa: E731
    return {"with": make(fused=True).step, "without": make().step}


def attention() -> dict[str, Callable]:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return transformer_lm(vocabulary=VOCABULARY, context=CONTEXT, depth=6, width=128, heads=4)

    def without() -> None:
        fused = functional.scaled_dot_product_attention
        with patch.object(sys.modules["resnorm.branches.attention"], "_written_out", fused):
            engine()

    make = partial(Engine, data=letters(), optimizer="adamw", lr=1e-3, batch_size=32, precision="bf16")
    engine = make(model())
    return {"with": make(model()), "without": without}


def tiny() -> Engine:
    torch.manual_seed(0)
    data = pictures(examples=2000, size=8)
    return Engine(mlp_stack(inputs=192, width=64, depth=2, classes=10), data, batch_size=32, precision="fp32")


def synchronisation() -> dict[str, Callable]:
    """What a tutorial does in every step: ask for the loss and the accuracy as Python numbers."""
    engine, losses = tiny(), []

    def add(self, loss, logits, targets):
        losses.append(loss.item())
        losses.append((logits.argmax(-1) == targets).float().mean().item())
        losses.clear()

    def without() -> None:
        with patch.object(loop.Scores, "add", add):
            engine()

    return {"with": tiny(), "without": without}


def fetching() -> dict[str, Callable]:
    engine = tiny()
    engine.loop.fetch = 32
    return {"with": tiny(), "without": engine}


def group_norm() -> dict[str, Callable]:
    engine = image_engine(model=dict(norm="group"))

    def without() -> None:
        with patch.object(norms, "_in_layout", lambda group_norm, x, groups: group_norm(x)):
            engine()

    return {"with": image_engine(model=dict(norm="group")), "without": without}


def layer_norm_of_channels() -> dict[str, Callable]:
    def mixed(self: norms.LayerNorm2d, x: Tensor) -> Tensor:
        return nn.LayerNorm.forward(self, x.movedim(1, -1)).movedim(-1, 1)

    engine = image_engine(model=dict(norm="layer2d"))

    def without() -> None:
        with patch.object(norms.LayerNorm2d, "forward", mixed):
            engine()

    return {"with": image_engine(model=dict(norm="layer2d")), "without": without}


def in_place() -> dict[str, Callable]:
    engine = image_engine()
    for module in engine.loop.model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return {"with": engine, "without": image_engine()}


def compiled(precision: str) -> dict[str, Callable]:
    return {"with": image_engine(precision, compile=True), "without": image_engine(precision)}


def vmapped() -> dict[str, Callable]:
    """Three seeds in one call of vmap, against three steps in turn."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    models = [resnet(norm="group").to(memory_format=torch.channels_last) for _ in range(3)]
    parameters, _ = stack_module_state(models)
    data = pictures()
    engine = image_engine(model=dict(norm="group"))
    (x,), y = engine.loop.train.batch(Order(len(data.train[0]), 0, 0, CPU, engine.loop.train.shift), slice(0, BATCH))

    def loss(one):
        with torch.autocast("cpu", torch.bfloat16):
            logits = functional_call(models[0], one, (x,))
        return functional.cross_entropy(logits.float(), y)

    def with_() -> None:
        vmap(grad(loss))(parameters)

    def without() -> None:
        for model in models:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x)
            functional.cross_entropy(logits.float(), y).backward()
            model.zero_grad()

    return {"with": with_, "without": without}


# technique -> title, what it is, functions, items of one call, unit, precision, kept
IMAGES, TOKENS, SECONDS = "images/s", "tokens/s", "us/step"
IN_PROCESS = {
    "batches": (
        "Resident data, batched augmentation",
        "The training split lies in memory as one tensor, and a batch is "
        "one indexing of windows, instead of a DataLoader with two workers.",
        partial(batches, "bf16"),
        BATCH,
        IMAGES,
        "bf16",
        True,
    ),
    "channels_last": (
        "channels_last",
        "The channels of a pixel lie side by side in memory.",
        partial(layout, "bf16"),
        BATCH,
        IMAGES,
        "bf16",
        True,
    ),
    "channels_last_fp32": ("channels_last, fp32", "The same in 32 bits.", partial(layout, "fp32"), BATCH, IMAGES, "fp32", True),
    "shortcut": (
        "A shortcut that stays in channels_last",
        "The zero-padding shortcut subsamples by average pooling with a window of one pixel instead of a strided slice.",
        partial(shortcut, "bf16"),
        BATCH,
        IMAGES,
        "bf16",
        True,
    ),
    "shortcut_fp32": (
        "A shortcut that stays in channels_last, fp32",
        "The same in 32 bits.",
        partial(shortcut, "fp32"),
        BATCH,
        IMAGES,
        "fp32",
        True,
    ),
    "bf16": (
        "bf16 by autocast",
        "Convolutions and matrix products in bfloat16, weights and sums in float32.",
        bf16,
        BATCH,
        IMAGES,
        "bf16",
        True,
    ),
    "fused_optimiser": (
        "Fused optimiser",
        "One kernel for all tensors: the SGD step of a ResNet-110 alone.",
        optimiser,
        None,
        SECONDS,
        "fp32",
        True,
    ),
    "attention": (
        "Attention written out in 16 bits",
        "Two matrix products and a softmax instead of the fused kernel, on CPU in bf16.",
        attention,
        32 * CONTEXT,
        TOKENS,
        "bf16",
        True,
    ),
    "no_synchronisation": (
        "Loss and accuracy stay tensors",
        "Summed where they are, read once every 50 steps; a model of two small blocks.",
        synchronisation,
        None,
        SECONDS,
        "fp32",
        True,
    ),
    "fetching": (
        "Small batches fetched together",
        "As many as a core's cache holds; a model of two small blocks.",
        fetching,
        None,
        SECONDS,
        "fp32",
        True,
    ),
    "group_norm": (
        "GroupNorm beside channels_last",
        "The 16-bit CPU kernel works on a contiguous copy.",
        group_norm,
        BATCH,
        IMAGES,
        "bf16",
        True,
    ),
    "layer_norm_of_channels": (
        "LayerNorm over few channels in float32",
        "Below 64 channels the 16-bit CPU kernel is left out.",
        layer_norm_of_channels,
        BATCH,
        IMAGES,
        "bf16",
        True,
    ),
    "in_place": ("ReLU in place", "The activation overwrites its input.", in_place, BATCH, IMAGES, "bf16", False),
    "vmapped_seeds": (
        "Three seeds in one vmap",
        "Stacked parameters, one call; group norm, forward and backward.",
        vmapped,
        3 * BATCH,
        IMAGES,
        "bf16",
        False,
    ),
    "compile": (
        "torch.compile of the whole network",
        "`Recipe(compile=True)`, without the time that compiling takes.",
        partial(compiled, "bf16"),
        BATCH,
        IMAGES,
        "bf16",
        True,
    ),
    "compile_fp32": (
        "torch.compile of the whole network, fp32",
        "The same in 32 bits.",
        partial(compiled, "fp32"),
        BATCH,
        IMAGES,
        "fp32",
        True,
    ),
}
# These change the process itself: each side is a process of its own.
OWN_PROCESS = {
    "allocator": (
        "An allocator that keeps memory",
        "glibc gives back to the kernel nothing that the next step needs again.",
        "bf16",
        True,
    ),
    "allocator_fp32": ("An allocator that keeps memory, fp32", "The same in 32 bits.", "fp32", True),
    "large_pages": ("Pages of 2 MiB", "glibc's tunable hugetlb=1, set in the environment before Python starts.", "bf16", False),
    "seeds": ("Two seeds as two processes", "One thread each, against one process with two threads; images of both.", "bf16", True),
}


class Child:
    """A process that takes steps when it is told to, so that two settings of a process can take turns."""

    def __init__(self, precision: str, keep: bool = True, threads: int | None = None, environment: dict | None = None):
        words = [sys.executable, "-m", "benchmarks.engine", "--child", json.dumps([precision, keep, threads])]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(words, env=os.environ | (environment or {}), **pipes)
        self.wait()

    def start(self) -> None:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        if self.process.stdout.readline() != "done\n":
            raise RuntimeError("a process of the benchmark ended early; its own message stands above")

    def __call__(self) -> None:
        self.start()
        self.wait()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def child(setting: str, repeat: int = 5) -> None:
    precision, keep, threads = json.loads(setting)
    if threads:
        torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    engine = image_engine(precision)
    for _ in range(3):
        engine()
    print("done", flush=True)
    for _ in sys.stdin:
        for _ in range(repeat):
            engine()
        print("done", flush=True)


def in_processes(technique: str, precision: str, rounds: int) -> tuple[dict, int]:
    """The seconds of each side, and the images of one call; a call is five steps.

    Three times with new processes: where in its heap a process lies decides how much the C library gives back.
    """
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(3 if rounds > 1 else 1):
        found, images = in_new_processes(technique, precision, -(-rounds // 3))
        for side, values in found.items():
            seconds[side] += values
    return seconds, images


def in_new_processes(technique: str, precision: str, rounds: int) -> tuple[dict, int]:
    if technique == "seeds":
        alone, pair = Child(precision), [Child(precision, threads=1) for _ in range(2)]

        def together() -> None:
            for one in pair:
                one.start()
            for one in pair:
                one.wait()

        def in_turn() -> None:
            alone()
            alone()

        children, sides, images = [alone, *pair], {"with": together, "without": in_turn}, 10 * BATCH
    else:
        large = technique == "large_pages"
        sides = {"with": Child(precision, environment=LARGE_PAGES if large else None), "without": Child(precision, keep=large)}
        children, images = list(sides.values()), 5 * BATCH
    try:
        return interleaved(sides, rounds), images
    finally:
        for one in children:
            one.close()


def row(technique, title, what, seconds, items, unit, precision, kept) -> dict:
    """``items`` of one call are None where the seconds of a call are what counts."""
    values = {side: [1e6 * value if items is None else items / value for value in measured] for side, measured in seconds.items()}
    pairs = zip(seconds["without"], seconds["with"], strict=True)
    return dict(
        technique=technique,
        title=title,
        what=what,
        device=torch.get_default_device().type,
        precision=precision,
        unit=unit,
        ratio=spread([without / with_ for without, with_ in pairs]),
        kept=kept,
        note="",
        **{side: spread(measured) for side, measured in values.items()},
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round of each, nothing compiled, nothing written")
    parser.add_argument("--only", action="append", metavar="TECHNIQUE", help="measure this technique; repeatable")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        return child(chosen.child)
    names = chosen.only or [*IN_PROCESS, *OWN_PROCESS]
    if unknown := set(names) - {*IN_PROCESS, *OWN_PROCESS}:
        parser.error(f"no technique {', '.join(sorted(unknown))}; allowed: {', '.join([*IN_PROCESS, *OWN_PROCESS])}")
    keep_freed_memory()
    torch._inductor.config.force_disable_caches = True  # what compiling costs a machine that has not done it before
    rounds, rows = (1 if chosen.quick else 9), []
    for name in names:
        if name in OWN_PROCESS:
            title, what, precision, kept = OWN_PROCESS[name]
            seconds, items = in_processes(name, precision, rounds)
            found = row(name, title, what, seconds, items, IMAGES, precision, kept)
        elif chosen.quick and name.startswith("compile"):
            continue
        else:
            title, what, build, items, unit, precision, kept = IN_PROCESS[name]
            sides = build()
            repeat = 3 if items else 200
            start = perf_counter()
            sides["with"]()
            first = perf_counter() - start
            seconds = interleaved(sides, rounds, repeat)
            found = row(name, title, what, seconds, items, unit, precision, kept)
            if name.startswith("compile"):
                found["note"] = f"The first step, which compiles, took {first:.0f} s."
            del sides
        rows.append(found)
        ratio = found["ratio"]
        print(
            f"{name:24s} {found['without']['median']:12.1f} -> {found['with']['median']:12.1f} {found['unit']:9s} "
            f"{ratio['median']:5.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
            flush=True,
        )
    if not chosen.quick and not chosen.only:
        print(write("engine", dict(batch=BATCH, context=CONTEXT, rounds=rounds, model="ResNet-20"), rows))


if __name__ == "__main__":
    main()
