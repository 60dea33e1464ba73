"""The experiments of the book: one plan a question, sized by a preset that never changes its meaning."""

from resnorm.lab.plans import images, placements, sequences, transformers, translation
from resnorm.lab.plans.registry import PLANS, PRESETS, check_lambdas, check_orders, check_preset, check_seeds, plan

__all__ = [
    "PLANS",
    "PRESETS",
    "check_lambdas",
    "check_orders",
    "check_preset",
    "check_seeds",
    "images",
    "placements",
    "plan",
    "sequences",
    "transformers",
    "translation",
]
