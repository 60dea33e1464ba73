"""What can be measured on a trained model besides its accuracy, by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from resnorm import probes
from resnorm.data import DataSet

# Each takes the trained model in eval mode, its data and the experiment, leaves the model as it was and returns tidy rows.
MEASUREMENTS: dict[str, Callable[[nn.Module, DataSet, Any], list[dict[str, Any]]]] = {
    "affine_maps": lambda model, data, experiment: probes.affine_maps(model),
}
