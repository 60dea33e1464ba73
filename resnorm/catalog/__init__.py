"""The one list of named variants: word, settings, initialisation, citation and one plain sentence for each."""

from resnorm.catalog.definition import GIVEN_BY_MODEL, Variant
from resnorm.catalog.layers import transformer_word, transformer_words
from resnorm.catalog.variants import NOT_BUILT, VARIANTS

__all__ = ["GIVEN_BY_MODEL", "NOT_BUILT", "VARIANTS", "Variant", "transformer_word", "transformer_words", "variant"]


def variant(name: str) -> Variant:
    """Return the variant of this name; raises `ValueError` that lists the names."""
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}; allowed: {', '.join(VARIANTS)}")
    return VARIANTS[name]
