"""What every model does with a variant: complete its options, name a wrong one."""

from typing import Any

from resnorm.catalog import Variant


def complete(variant: Variant, model: str, known: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the variant's options: the caller's, and those that the model knows itself (`depth`, `dim`).

    Raises `ValueError` for an option that neither the model nor the variant has.
    """
    allowed = [name for name in variant.options if name not in known]
    for name in options:
        if name not in allowed:
            own = f"its options are {', '.join(allowed)}" if allowed else "it has no options"
            raise ValueError(f"{model} with variant {variant.name!r} got an unknown option {name!r}; beside the model's own, {own}")
    return {**{name: value for name, value in known.items() if name in variant.options}, **options}
