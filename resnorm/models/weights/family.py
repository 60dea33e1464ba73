"""One family of published weights: how its names are recognised, and the table from its names to ours."""

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from torch import Tensor, nn

from resnorm.models.weights.source import Source

# What a tensor belongs to that has no place in our networks: parts of others, and what was put around weights.
MEANINGS = {
    r"\.se\.": "squeeze-and-excitation, or another attention over channels",
    r"dist_token|distillation_token|head_dist": "the second token of a distilled DeiT",
    r"\.ls\d\.|lambda_?\d": "LayerScale",
    r"fc_norm": "a norm after the mean over all tokens",
    r"norm_pre|pre_layrnorm": "a norm before the first layer",
    r"reg_token|register_tokens": "register tokens",
    r"norm\d?\.(tau|v)$": "filter response norm or EvoNorm",
    r"lora_": "LoRA: merge the adapters into the weights first",
    r"parametrizations|weight_[gv]$": "weight norm: remove the parametrization first",
    r"qweight|\.SCB$|\.quant": "quantised weights: dequantise them first",
}
FIELD = re.compile(r"\{(\w+)\}")
SLOT = re.compile(r"(.*?)(?:\[(\d+)\])?(\.T)?")


@dataclass(frozen=True)
class Family:
    """Weights of one kind of network, and our network that computes the same.

    `name`: whose weights, as an error says it. `ours`: the class of our network. `signature`: names that every file of the
    family has, and that no other family of the same class has. `table`: from the names of their modules, or of single
    tensors, to those of ours; see the package's docstring for how it is written.
    `call(tensors)`: the call that builds our network for these tensors, as text for an error; with `configured` it is
    `call(tensors, config)`.
    `told(source)`: options of that call that no tensor tells, from the network, its configuration or the names of its modules.
    `inputs(model)`: arguments on which both networks can be run.
    `ignored`: regular expressions of tensors that do not change the function. `heads`: those of other heads that the network
    is published with, which `head="skip"` leaves out. `tied`: from a tensor that is a copy to its
    original, or a function of the source that gives this; a copy that is not in the file is taken from the original, and one
    that is there and has no place of its own must be equal.
    `base`: a prefix that files of the network without its head lack. `head`: the prefix of the head in our names.
    `place(fields, names)`: the numbers that our templates use, from those in their name; by default `index`, which counts
    the blocks through. `prepare(source, model)`: the tensors in another form, where a table cannot say it.
    `differences(model, source)`: reasons why our model computes something else, from `source.config`, `source.modules` or
    the tensors; `unchecked(model, source)`: what tensors alone cannot tell, as text.
    """

    name: str
    ours: type[nn.Module]
    signature: tuple[str, ...]
    table: Mapping[str, str | tuple[str, ...]]
    call: Callable[..., str]
    inputs: Callable[[Any], tuple[Tensor, ...]]
    configured: bool = False
    told: Callable[[Source], Iterable[str]] = lambda source: ()
    ignored: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    tied: Mapping[str, str] | Callable[[Source], Mapping[str, str]] = field(default_factory=dict)
    base: str = ""
    head: str = "head."
    place: Callable[[dict[str, int], Iterable[str]], dict[str, int]] | None = None
    prepare: Callable[[Source, Any], dict[str, Tensor]] | None = None
    differences: Callable[[Any, Source], Iterable[str]] = lambda model, source: ()
    unchecked: Callable[[Any, Source], str] = lambda model, source: ""

    def recognise(self, source: Source) -> Source | None:
        """The source under the family's own names, or None where it is of another family."""
        for one in source.spellings():
            if all(name in one.tensors for name in self.signature):
                return one
            if self.base:
                based = one.renamed(lambda name: name if name.startswith(self.base) else self.base + name)
                if all(name in based.tensors for name in self.signature):
                    return based
        return None

    def call_for(self, source: Source) -> str:
        """The call that builds our network for these weights."""
        call = self.call(source.tensors, source.config) if self.configured else self.call(source.tensors)
        return ", ".join([call.removesuffix(")"), *self.told(source)]) + ")"

    @cached_property
    def rows(self) -> list[tuple[re.Pattern, tuple[str, ...]]]:
        rows = []
        for theirs, ours in self.table.items():
            pattern = "".join(f"(?P<{part}>\\d+)" if i % 2 else re.escape(part) for i, part in enumerate(FIELD.split(theirs)))
            rows.append((re.compile(rf"{pattern}(?P<tensor>\.\w+)?"), (ours,) if isinstance(ours, str) else ours))
        return rows

    def ours_of(self, name: str, names: Iterable[str], known: Container[str]) -> tuple[str, int, bool] | None:
        """Where a tensor goes: our name, which piece of that tensor it is, and whether it is transposed.

        `names`: all of theirs; `known`: all of ours, of which the row's first alternative that is there is taken.
        """
        for pattern, ours in self.rows:
            found = pattern.fullmatch(name)
            if found:
                tensor = found["tensor"] or ""
                fields = {key: int(value) for key, value in found.groupdict().items() if key != "tensor"}
                if fields:
                    fields |= self.place(fields, names) if self.place else {"index": _index(pattern, fields, names)}
                slots = [SLOT.fullmatch(one.format(**fields)).groups() for one in ours]
                slot, piece, transposed = next((one for one in slots if one[0] + tensor in known), slots[0])
                return slot + tensor, int(piece or 0), bool(transposed)
        return None

    def ignores(self, name: str, head: str = "load") -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.ignored + (self.heads if head == "skip" else ()))


def _index(pattern: re.Pattern, fields: dict[str, int], names: Iterable[str]) -> int:
    """Which block it is when all are counted through: the stages before it may have different numbers of blocks."""
    return _order(pattern, tuple(names))[tuple(fields.values())]


@lru_cache(maxsize=64)
def _order(pattern: re.Pattern, names: tuple[str, ...]) -> dict[tuple[int, ...], int]:
    """From the numbers of each block to its place."""
    # The row's text up to its last number, whatever follows: not every block has every tensor (a projection).
    keys = list(pattern.groupindex)[:-1]
    start = re.compile(pattern.pattern[: pattern.pattern.index(")", pattern.pattern.index(f"(?P<{keys[-1]}>")) + 1] + r"(?=\.)")
    places = {tuple(int(found[key]) for key in keys) for name in names if (found := start.match(name))}
    return {place: index for index, place in enumerate(sorted(places))}


def meaning(name: str) -> str:
    """What a tensor without a place belongs to, in brackets, where its name tells."""
    return next((f" ({text})" for pattern, text in MEANINGS.items() if re.search(pattern, name)), "")


def our_names(model: nn.Module) -> dict[str, str]:
    """From the names that the tables use to those of `model.state_dict()`: `C2` for the second convolution of a block."""
    short = {}
    for path, module in model.named_modules():
        seen: dict[str, int] = {}
        for child, _ in module.named_children():
            found = re.fullmatch(r"\d+_([A-Za-z])", child)
            if found:
                seen[found[1]] = seen.get(found[1], 0) + 1
                short[f"{path}.{child}"] = f"{found[1]}{seen[found[1]]}"

    def shorten(name: str) -> str:
        parts = name.split(".")
        return ".".join(short.get(".".join(parts[: end + 1]), part) for end, part in enumerate(parts))

    return {shorten(name): name for name in model.state_dict() if not name.endswith("num_batches_tracked")}


def blocks(tensors: Iterable[str], pattern: str) -> tuple[int, ...]:
    """How many blocks each stage has: `pattern` has the number of the stage and that of the block in brackets."""
    places = {tuple(map(int, found.groups())) for name in tensors if (found := re.match(pattern, name))}
    return tuple(sum(place[0] == stage for place in places) for stage in sorted({place[0] for place in places}))


def count(tensors: Iterable[str], pattern: str) -> int:
    """How many layers there are: `pattern` has the number of the layer in brackets."""
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})
