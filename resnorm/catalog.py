"""The one list of named variants: word, settings, initialisation, citation and one plain sentence for each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from resnorm.branches import attention, conv1x1, conv3x3, cross_attention, mlp
from resnorm.init import deepnorm_alpha
from resnorm.letters import Scalar, add, drop_path, layer_scale, lerp
from resnorm.norms import norm
from resnorm.streams import Attend, Depth, Dual, Hyper, Plain, Stream
from resnorm.words import BRANCHES, MERGES, Block, Tied

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
                allowed = [option for option in self.options if option not in known]
                allowed = f"its options are {', '.join(allowed)}" if allowed else "it has no options"
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


def _recursive_word(order: int, affine: str) -> str:
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"order={order!r}; the order of a recursive skip is an integer of 1 or more")
    return "F" + "an" * order


def transformer_words(variant: Variant, branches: str = "AM", **options: Any) -> list[str]:
    """Spell the blocks of one Transformer layer: one word with all branches, or a word for each branch of a stream.

    A stream takes every branch by itself, `["nA", "nM"]`, unless the word has its own merge; branches in brackets are one
    block, whose sum it takes. Raises `ValueError` as `transformer_word`.
    """
    word = transformer_word(variant.spell(**options), branches)
    return word.split() if variant.stream and not set(word) & set(MERGES) else [word]


def transformer_word(word: str, branches: str = "AM") -> str:
    """Spell a word for a Transformer layer, a generic one with a copy for each branch: `nFa` becomes `nAa nMa`.

    `branches`: "AM", attention then MLP, or "AXM" for a decoder that also attends to a memory, `nAa nXa nMa`. Where A
    and M stand side by side, X stands beside them, spelled as A is: `[nA,nM]a` becomes `[nA,nX,nM]a`.
    Raises `ValueError` for a word whose branches are neither F nor these, and for brackets that have no place for X.
    """
    own = _branches_of(word)
    if own == {"F"}:
        return " ".join(word.replace("F", branch) for branch in branches)
    if own == set(branches):
        return word
    if own == {"A", "M"} and branches == "AXM" and "[" in word:
        return " ".join(map(_beside_a_memory, word.split()))
    raise ValueError(
        f"the word {word!r} has the branches {', '.join(sorted(own))}; a Transformer layer needs a word of F, "
        f"such as 'nFa', or of {', '.join(branches)}"
    )


def _branches_of(word: str) -> set[str]:
    return {letter for letter in word if letter in BRANCHES}


def _beside_a_memory(sub_block: str) -> str:
    """One sub-block of A and M for a decoder: X after A where A stands alone, beside A in its brackets."""
    own = _branches_of(sub_block)
    if own == {"A"}:
        return f"{sub_block} {sub_block.replace('A', 'X')}"

    def crossed(brackets: re.Match) -> str:
        parts = brackets[1].split(",")
        alone = {part for part in parts if _branches_of(part) == {"A"} and not set(part) & set(MERGES)}
        both = [[part, part.replace("A", "X")] if part in alone else [part] for part in parts]
        return f"[{','.join(part for one in both for part in one)}]"

    spelled = re.sub(r"\[([^\[\]]*)\]", crossed, sub_block)
    if spelled.count("X") < sub_block.count("A"):
        raise ValueError(
            f"the word {sub_block!r} has no place for the cross-attention of a decoder: an A stands neither in a sub-block of its "
            "own nor, without a merge, in a part of brackets of its own; spell the word with X, as in 'n[A,X,M]a'"
        )
    return spelled


IMAGE, TRANSFORMER, STREAM = ("image",), ("transformer",), ("stream",)

_ALL = (
    Variant("plain", "Plain", "F", "The branch alone, without a skip.", "he2016deep"),
    Variant("residual", "Residual", "Fa", "The branch learns what to add to its input.", "he2016deep"),
    Variant(
        "pre", "Pre-Norm", "nFa", "The branch reads a normalised stream; the stream itself is never normalised.", "xiong2020layer"
    ),
    Variant("post", "Post-Norm", "Fan", "Add & Norm: the sum of skip and branch is normalised.", "vaswani2017attention"),
    Variant(
        "skip_after_norm",
        "Skip after the norm",
        "n|Fa",
        "Branch and skip both read the normalised stream: with a last norm, Post-Norm on a normalised input.",
        "lescao2022bloom",
    ),
    Variant("res_post", "Residual post-norm", "Fna", "The branch's output is normalised before the addition.", "liu2021swin2"),
    Variant("sandwich", "Sandwich (Peri-LN)", "nFna", "The branch is normalised on both sides.", "kim2025peri"),
    Variant(
        "keel",
        "Keel",
        "nFan",
        "Post-Norm with a second norm in front of the branch and a skip scaled by the depth.",
        "chen2026keel",
        options={"depth": 12},
        settings=lambda depth: {"a": add(skip=Scalar("α", depth))},
    ),
    Variant(
        "xskip",
        "xSkip",
        "Fa",
        "The skip is multiplied by a fixed scale.",
        "liu2020rethinking",
        options={"skip": 2.0},
        settings=lambda skip: {"a": add(skip=Scalar("λ", skip))},
    ),
    Variant(
        "xskip_norm",
        "xSkip + norm",
        "Fan",
        "The skip is multiplied by a fixed scale, and the sum is normalised.",
        "liu2020rethinking",
        options={"skip": 2.0},
        settings=lambda skip: {"a": add(skip=Scalar("λ", skip))},
    ),
    Variant(
        "rskip_norm",
        "rSkip + norm",
        _recursive_word,
        "The skip is added again and again, with a norm after each addition.",
        "liu2020rethinking",
        options={"order": 2, "affine": "step"},
        settings=lambda order, affine: {},
    ),
    Variant(
        "deepnorm",
        "DeepNorm",
        "Fan",
        "Post-Norm with a larger skip, and smaller weights at initialisation.",
        "wang2022deepnet",
        options={"depth": 12},
        settings=lambda depth: {"a": add(skip=Scalar("α", deepnorm_alpha(depth)))},
        init="deepnorm",
    ),
    Variant(
        "admin",
        "Admin",
        "Fan",
        "Post-Norm whose skip has a learned gain for each feature, set from a batch before training, and else 1.",
        "liu2020understanding",
        options={"dim": -1},
        settings=lambda dim: {"a": add(skip=Scalar("ω", 1.0), learn="skip", dim=dim)},
        profiled=True,
    ),
    Variant(
        "depth_scaled",
        "Depth-scaled branch",
        "nFa",
        "Pre-Norm whose branches are divided by the square root of their number.",
        "marion2025scaling",
        options={"power": 0.5, "depth": 12},
        settings=lambda power, depth: {"a": add(gain=Scalar("γ", depth**-power))},
    ),
    Variant(
        "rezero",
        "ReZero",
        "Fa",
        "The branch is multiplied by a learned scalar that starts at 0.",
        "bachlechner2021rezero",
        settings=lambda: {"a": add(gain=0.0, learn="gain")},
    ),
    Variant(
        "skipinit",
        "SkipInit",
        "Fa",
        "The branch is multiplied by a learned scalar that starts at 0 or at a small value.",
        "de2020batch",
        options={"gain": 0.0},
        settings=lambda gain: {"a": add(gain=gain, learn="gain")},
    ),
    Variant(
        "layerscale",
        "LayerScale",
        "nFsa",
        "Every feature of the branch has a learned gain that starts small.",
        "touvron2021going",
        options={"init": 1e-5, "dim": -1},
        settings=lambda init, dim: {"s": layer_scale(init, dim)},
    ),
    Variant(
        "drop_path",
        "Drop path",
        "nFpa",
        "Whole branches are dropped at random during training.",
        "huang2016deep",
        options={"rate": 0.1},
        settings=lambda rate: {"p": drop_path(rate)},
    ),
    Variant(
        "stochastic_depth",
        "Stochastic depth",
        "Fpa",
        "Whole branches are dropped at random during training, the later ones more often.",
        "huang2016deep",
        options={"last": 0.5, "block": 12, "depth": 12},
        settings=lambda last, block, depth: {"p": drop_path(last * block / depth)},
    ),
    Variant(
        "fixup",
        "Fixup",
        "Fa",
        "An initialisation that shrinks with the depth, and a learned scalar that starts at 1, take the norm's place.",
        "zhang2019fixup",
        settings=lambda: {"a": add(learn="gain")},
        init="fixup",
    ),
    Variant("resnet_v1", "ResNet v1", "CnrCnar", "Two convolutions, and a ReLU after the addition.", "he2016deep", tags=IMAGE),
    Variant(
        "bottleneck_v1",
        "ResNet v1 bottleneck",
        "CnrCnrCnar",
        "A 3x3 convolution between a narrowing and a widening one.",
        "he2016deep",
        tags=IMAGE,
    ),
    Variant(
        "resnet_v2",
        "ResNet v2",
        "nrCnrCa",
        "Norm and ReLU come before each convolution; the stream stays free.",
        "he2016identity",
        tags=IMAGE,
    ),
    Variant(
        "bottleneck_v2",
        "ResNet v2 bottleneck",
        "nrCnrCnrCa",
        "Full pre-activation around a bottleneck.",
        "he2016identity",
        tags=IMAGE,
    ),
    Variant(
        "projection_v2",
        "ResNet v2 projection",
        "nr|CnrCa",
        "Where the width changes, the projection takes the pre-activated input.",
        "he2016identity",
        settings=lambda: {"a": add(shortcut="projection")},
        tags=IMAGE,
    ),
    Variant(
        "norm_after_add",
        "Norm after addition",
        "CnrCanr",
        "ResNet v1 with its last norm moved onto the stream.",
        "he2016identity",
        tags=IMAGE,
    ),
    Variant(
        "relu_before_add",
        "ReLU before addition",
        "CnrCnra",
        "ResNet v1 with its last ReLU moved into the branch, which then only adds.",
        "he2016identity",
        tags=IMAGE,
    ),
    Variant(
        "relu_only_pre",
        "ReLU-only pre-activation",
        "rCnrCna",
        "The ReLU comes before the convolutions, the norm after them.",
        "he2016identity",
        tags=IMAGE,
    ),
    Variant(
        "constant_scaling",
        "Constant scaling",
        "CnrCnar",
        "ResNet v1 with a fixed factor on its shortcut, and one on its branch.",
        "he2016identity",
        options={"skip": 0.5, "gain": 1.0},
        settings=lambda skip, gain: {"a": add(skip=skip, gain=gain)},
        tags=IMAGE,
    ),
    Variant(
        "exclusive_gating",
        "Exclusive gating",
        "CnrCnar",
        "A learned gate shares each value out between shortcut and branch.",
        "he2016identity",
        options={"bias": -6.0},
        settings=lambda bias: {"a": add(gate="exclusive", gate_bias=bias)},
        tags=IMAGE,
    ),
    Variant(
        "shortcut_gating",
        "Shortcut-only gating",
        "CnrCnar",
        "A learned gate closes the shortcut value by value, and leaves the branch as it is.",
        "he2016identity",
        options={"bias": -6.0},
        settings=lambda bias: {"a": add(gate="shortcut_only", gate_bias=bias)},
        tags=IMAGE,
    ),
    Variant(
        "convolution_shortcut",
        "Convolution on the shortcut",
        "CnrCnar",
        "ResNet v1 with a 1x1 convolution on every shortcut.",
        "he2016identity",
        settings=lambda: {"a": add(shortcut="projection")},
        tags=IMAGE,
    ),
    Variant(
        "dropout_shortcut",
        "Dropout on the shortcut",
        "CnrCnar",
        "Values of the shortcut are dropped in training and not rescaled: at the mean a fixed factor.",
        "he2016identity",
        options={"rate": 0.5},
        # `d` divides what it keeps by 1 - rate; the factor takes that back.
        settings=lambda rate: {"a": add(skip=1 - rate, dropout=rate)},
        tags=IMAGE,
    ),
    Variant(
        "pyramid",
        "PyramidNet",
        "nCnrCna",
        "No ReLU before the first convolution, and a norm at the end of the branch.",
        "han2017pyramidal",
        tags=IMAGE,
    ),
    Variant(
        "conv_norm_act_add",
        "Conv-norm-act-add",
        "Cnra",
        "One convolution, with its norm before its activation.",
        "ioffe2015batch",
        tags=IMAGE,
    ),
    Variant(
        "conv_act_norm_add",
        "Conv-act-norm-add",
        "Crna",
        "One convolution, with its norm after its activation.",
        "ioffe2015batch",
        tags=IMAGE,
    ),
    Variant(
        "densenet",
        "DenseNet",
        "nrCnrCc",
        "The branch's features are concatenated to everything before them.",
        "huang2017densely",
        options={"growth": 12},
        settings=lambda growth: {"C": [conv1x1(4 * growth), conv3x3(growth)]},
        tags=IMAGE,
    ),
    Variant(
        "layernorm_scaling",
        "LayerNorm Scaling",
        "nsFa",
        "Pre-Norm whose norms are divided by the square root of the layer's number.",
        "sun2025curse",
        options={"layer": 12, "dim": -1},
        settings=lambda layer, dim: {"s": layer_scale(layer**-0.5, dim, learn=False)},
    ),
    Variant(
        "encoder_pre",
        "Encoder layer, Pre-Norm",
        "nAa nMa",
        "Self-attention and MLP, each with Pre-Norm.",
        "xiong2020layer",
        tags=TRANSFORMER,
    ),
    Variant(
        "encoder_post",
        "Encoder layer, Post-Norm",
        "Aan Man",
        "Self-attention and MLP, each with Add & Norm.",
        "vaswani2017attention",
        tags=TRANSFORMER,
    ),
    Variant(
        "encoder_b2t",
        "Encoder layer, B2T",
        "Aan Mabn",
        "Post-Norm, and the layer's input is added before its last norm.",
        "takase2022b2t",
        tags=TRANSFORMER,
    ),
    Variant(
        "decoder_pre",
        "Decoder layer, Pre-Norm",
        "nAa nXa nMa",
        "Self-attention, attention to a memory and MLP, each with Pre-Norm.",
        "xiong2020layer",
        tags=TRANSFORMER,
    ),
    Variant(
        "decoder_post",
        "Decoder layer, Post-Norm",
        "Aan Xan Man",
        "Self-attention, attention to a memory and MLP, each with Add & Norm.",
        "vaswani2017attention",
        tags=TRANSFORMER,
    ),
    Variant(
        "parallel",
        "Parallel branches, one norm",
        "n[A,M]a",
        "Attention and MLP read the same normalised stream, side by side, and are added at once.",
        "wang2021gptj",
        tags=TRANSFORMER,
    ),
    Variant(
        "parallel_two_norms",
        "Parallel branches, two norms",
        "[nA,nM]a",
        "Attention and MLP read the same stream side by side, each through a norm of its own.",
        "black2022gptneox",
        tags=TRANSFORMER,
    ),
    Variant(
        "ngpt",
        "nGPT",
        "Anln Mnln",
        "The stream moves on a sphere, a learned step towards each normalised branch.",
        "loshchilov2024ngpt",
        settings=lambda: {"l": lerp()},
        tags=TRANSFORMER,
    ),
    Variant(
        "ngpt_weights",
        "nGPT, normalised weights",
        "Anln Mnln",
        "Weights, queries and keys lie on spheres as the stream does, and only learned scales have a size.",
        "loshchilov2024ngpt",
        settings=lambda: {"l": lerp(learn="rescaled")},
        inside=lambda norm: {letter: {"bias": False, "normalised": True} for letter in "AM"},
        normalised=True,
        tags=TRANSFORMER,
    ),
    Variant(
        "mix_ln",
        "Mix-LN",
        lambda share, block, depth: "Aan Man" if block <= share * depth else "nAa nMa",
        "The first quarter of the layers are Post-Norm, the others Pre-Norm.",
        "li2025mix",
        options={"share": 0.25, "block": 12, "depth": 12},
        settings=lambda share, block, depth: {},
        tags=TRANSFORMER,
    ),
    Variant(
        "sub_ln",
        "Sub-LN (Magneto)",
        "nAa nMa",
        "Pre-Norm with a second norm inside each branch, before the matrix that writes into the stream.",
        "wang2022magneto",
        init="magneto",
        inside=lambda norm: {"A": {"inner_norm": norm}, "M": {"inner_norm": norm}},
        tags=TRANSFORMER,
    ),
    Variant(
        "normformer",
        "NormFormer",
        "nAna nMa",
        "Pre-Norm with a norm behind the attention, a learned scale for each head, and a norm inside the MLP.",
        "shleifer2021normformer",
        inside=lambda norm: {"A": {"head_scale": True}, "M": {"inner_norm": norm}},
        tags=TRANSFORMER,
    ),
    Variant(
        "qk_norm",
        "Pre-Norm + QK-norm",
        "nAa nMa",
        "Pre-Norm, and a norm on the queries and the keys, so that the scores of the attention cannot grow.",
        "muennighoff2025olmoe",
        inside=lambda norm: {"A": {"query_key_norm": norm}},
        tags=TRANSFORMER,
    ),
    Variant(
        "qk_norm_per_head",
        "Pre-Norm + QK-norm per head",
        "nAa nMa",
        "Pre-Norm, and a norm on the queries and the keys of each head by itself, so that no head's scores can grow.",
        "yang2025qwen3",
        inside=lambda norm: {"A": {"query_key_norm": norm, "per_head": True}},
        tags=TRANSFORMER,
    ),
    Variant(
        "olmo2",
        "OLMo 2",
        "Ana Mna",
        "Residual post-norm, and a norm on the queries and the keys.",
        "olmo2025two",
        inside=lambda norm: {"A": {"query_key_norm": norm}},
        tags=TRANSFORMER,
    ),
    Variant(
        "hybridnorm",
        "HybridNorm",
        "Aan Ma",
        "The attention normalises its queries, keys and values; the MLP reads a normalised stream, and so does its skip.",
        "zhuo2025hybridnorm",
        inside=lambda norm: {"A": {"query_key_norm": norm, "value_norm": norm}},
        tags=TRANSFORMER,
    ),
    Variant(
        "value_residual",
        "Value residual (ResFormer)",
        "nAa nMa",
        "Pre-Norm whose attentions mix the values of the first layer into their own.",
        "zhou2025value",
        inside=lambda norm: {"A": {"value_residual": True}},
        tags=TRANSFORMER,
    ),
    Variant(
        "dual",
        "ResiDual",
        "F",
        "The branches read a Post-Norm stream; a second stream is never normalised, and joins at the end.",
        "xie2023residual",
        stream=lambda width, count, norm: Dual(width, count, norm),
        tags=STREAM,
    ),
    Variant(
        "denseformer",
        "DenseFormer",
        "nFa",
        "After each block comes a learned mean of everything before it.",
        "pagliardini2024denseformer",
        stream=lambda width, count, norm: Depth(count),
        tags=STREAM,
    ),
    Variant(
        "attention_residuals",
        "Attention Residuals",
        "nF",
        "Every branch reads a mean of the branches before it, weighted by attention over depth.",
        "kimi2026attention",
        options={"group": 1},
        stream=lambda width, count, norm, group: Attend(width, count, group),
        tags=STREAM,
    ),
    Variant(
        "hyper_connections",
        "Hyper-Connections",
        "nF",
        "The stream has several rows, and learned matrices say how each block reads, mixes and writes them.",
        "zhu2025hyper",
        options={"rows": 4, "dynamic": False},
        stream=lambda width, count, norm, rows, dynamic: Hyper(width, count, rows, "dynamic" if dynamic else "static"),
        tags=STREAM,
    ),
    Variant(
        "manifold_hyper_connections",
        "Manifold Hyper-Connections (mHC)",
        "nF",
        "Hyper-Connections whose rows mix by doubly stochastic matrices, so that no product of them can grow.",
        "xie2025mhc",
        options={"rows": 4},
        stream=lambda width, count, norm, rows: Hyper(width, count, rows, "manifold"),
        tags=STREAM,
    ),
)

VARIANTS: dict[str, Variant] = {one.name: one for one in _ALL}

# What the literature has and the catalog has not, each with the reason; the gallery prints it.
NOT_BUILT: dict[str, str] = {
    "NF-ResNet": "the divisor of each branch is predicted for the whole network, across the changes of width.",
    "ProRes": "the factor of a branch grows with the training step, which a block does not know.",
    "SiameseNorm": "we know it from a secondary source only, which leaves open what its factor stands on.",
    "SpanNorm, FuseNorm, MUDDFormer, Frac-Connections, Deep Delta Learning, ANCRe": "we have read about them, but not their "
    "equations in a source that we trust.",
}


def variant(name: str) -> Variant:
    """Return the variant of this name; raises `ValueError` that lists the names."""
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}; allowed: {', '.join(VARIANTS)}")
    return VARIANTS[name]
