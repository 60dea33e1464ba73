"""Training: a recipe, and the one loop that follows it."""

from resnorm.training.checkpoint import Checkpoint
from resnorm.training.loop import Run, fit
from resnorm.training.recipe import Recipe
from resnorm.training.schedules import learning_rates

__all__ = ["Checkpoint", "Recipe", "Run", "fit", "learning_rates"]
