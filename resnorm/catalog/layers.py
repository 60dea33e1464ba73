"""A word as the layer of a Transformer: a copy for each branch, and a place for the cross-attention of a decoder."""

import re
from typing import Any

from resnorm.catalog.definition import Variant
from resnorm.words import BRANCHES, MERGES


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
