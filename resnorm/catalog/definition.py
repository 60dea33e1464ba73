"""What a named variant is, and what is built from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from resnorm.branches import attention, conv1x1, conv3x3, cross_attention, mlp
from resnorm.norms import norm
from resnorm.streams import Plain, Stream
from resnorm.words import Block, Tied

# Options of variants that a model sets, block by block, because it alone knows them; a caller of a model cannot.
GIVEN_BY_MODEL = ("depth", "dim", "block", "layer")


@dataclass(frozen=True)
class Variant:
    """A named residual block: `variant("pre").block(64)` builds it, `variant("pre").word` spells it.

    `word` is a string, or a function of the options that returns one. `options` are the variant's own options with
    their defaults; `settings` maps them (and `n`, where the variant changes the norms) to the settings of its letters.
    `init` names its rule in `resnorm.init`, `cite` its source in the bibliography, `tags` the groups of the gallery:
    "generic" (a branch F of any kind), "image" (convolutions), "transformer" (attention and MLP), "stream" (a skip
    across blocks). Options named in `GIVEN_BY_MODEL` are the model's to give: `depth` is
    the number of residual branches of the whole stack, see `resnorm.words.residual_branches`; `block` counts them from 1 up to a
    block's own, `layer` the layers; `dim` is the axis of the channels. `inside` gives the branches A and M their own settings, from
    the name of the norm. `stream` carries the skip where it crosses the blocks: a function of the options, and of
    `width`, `count` (blocks) and `norm`, that the blocks of one stack share; those variants have the tag "stream".
    `profiled`: a batch sets its learned skips before training, by `resnorm.init.admin`; `resnorm.lab` does so.
    `normalised`: `transformer_lm` makes the vectors of embeddings and head unit vectors too, and takes a norm without
    gains; the other models have this in the branches only.
    """

    name: str
    title: str
    word: str | Callable[..., str]
    sentence: str
    cite: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: Callable[..., dict[str, Any]] = lambda **options: {}
    init: str | None = None
    inside: Callable[[str], dict[str, dict[str, Any]]] = lambda norm: {}
    stream: Callable[..., Stream] | None = None
    profiled: bool = False
    normalised: bool = False
    tags: tuple[str, ...] = ("generic",)

    @property
    def chosen_options(self) -> tuple[str, ...]:
        """The options that are left to whoever builds a model of this variant: those that no model gives."""
        return tuple(name for name in self.options if name not in GIVEN_BY_MODEL)

    def spell(self, **options: Any) -> str:
        """Return the word; raises `ValueError` for an unknown option or an impossible value."""
        options = self.complete(options)
        return self.word if isinstance(self.word, str) else self.word(**options)

    def settings_for(self, **letters_and_options: Any) -> dict[str, Any]:
        """Return the settings of every glue and merge letter: the variant's own, and what the caller sets on top of
        them.

        Names of one character are letters, the others are options. The norm is "batch" with convolutions and "layer"
        without, unless it is given; for a word without `n` it is left out. Raises `ValueError` for an unknown option or
        an impossible value.
        """
        letters = {name: value for name, value in letters_and_options.items() if len(name) == 1}
        options = self.complete({name: value for name, value in letters_and_options.items() if len(name) > 1})
        word = self.spell(**options)
        if "n" not in word:
            letters.pop("n", None)
        else:
            letters.setdefault("n", "batch" if "C" in word else "rms(affine=False)" if "l" in word else "layer")
        settings = self.settings(**options)
        if "affine" in options:
            letters["n"] = _recursive_norms(letters["n"], options["order"], options["affine"])
        return settings | letters

    def block(self, width: int, **letters_and_options: Any) -> Block:
        """Build the block, with an example branch for every branch letter that the caller leaves out.

        Shapes: as `Block`; (batch, tokens, width) for attention, (batch, width, height, image width) for convolutions.
        Raises `ValueError` for an unknown option or letter.
        """
        letters = {name: value for name, value in letters_and_options.items() if len(name) == 1}
        word = self.spell(**{name: value for name, value in letters_and_options.items() if len(name) > 1})
        settings = self.settings_for(**letters_and_options)
        return Block(word, width, **(_example_branches(word, width, self.inside("layer")) | letters | settings))

    def carry(self, width: int, count: int, norm: str = "layer", **options: Any) -> Stream:
        """Build the stream of a stack of `count` blocks, the plain one where the blocks carry their own skip.

        `norm`: the name of the stream's own norms, where it has any. Raises `ValueError` for an unknown option.
        """
        options = self.complete(options)
        return Plain() if self.stream is None else self.stream(width=width, count=count, norm=norm, **options)

    def complete(self, options: dict[str, Any], **known: Any) -> dict[str, Any]:
        """Return a value for every option: the caller's, else one that is `known` (a model's depth), else the default.

        Raises `ValueError` for an option that the variant does not have, and for one that is both set and known.
        """
        for name in options:
            if name not in self.options or name in known:
                free = [option for option in self.options if option not in known]
                allowed = f"its options are {', '.join(free)}" if free else "it has no options"
                where = " in a model, which gives it" if name in known and name in self.options else ""
                raise ValueError(f"variant {self.name!r} has no option {name!r}{where}; {allowed}")
        return {**self.options, **{name: value for name, value in known.items() if name in self.options}, **options}


def _example_branches(word: str, width: int, inside: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A small branch for every branch letter of a word, with the variant's own settings inside."""
    heads = math.gcd(width, 8)
    kernels = [conv3x3()] * word.count("C")
    if word.count("C") == 3:
        kernels = [conv1x1(width // 4), conv3x3(), conv1x1(width)]
    of = {letter: inside.get(letter, {}) for letter in "AM"}
    examples = {"F": mlp(), "M": mlp(**of["M"]), "A": attention(heads, **of["A"]), "X": cross_attention(heads), "C": kernels}
    return {letter: examples[letter] for letter in examples if letter in word}


def _recursive_norms(setting: Any, order: int, affine: str) -> Any:
    """The norms of a recursive skip: whose gain and bias a step learns is a choice that the paper leaves open."""
    if affine == "shared":
        return Tied(setting)
    if affine == "last":
        without = partial(norm, setting, affine=False) if isinstance(setting, str) else partial(setting, affine=False)
        return [without] * (order - 1) + [setting]
    if affine == "step":
        return setting
    raise ValueError(f"affine={affine!r}; allowed: 'step' (each step its own), 'shared' (one for all steps), 'last'")
