"""What can be measured on a trained model besides its accuracy, by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from resnorm import probes
from resnorm.data import DataSet
from resnorm.training.batches import Batches

# Each takes the trained model in eval mode, its data and the experiment, leaves the model as it was and returns tidy rows.
MEASUREMENTS: dict[str, Callable[[nn.Module, DataSet, Any], list[dict[str, Any]]]] = {
    "affine_maps": lambda model, data, experiment: probes.affine_maps(model),
    "landscape": lambda model, data, experiment: probes.landscape(model, *_validation_images(model, data, 400)),
    "lesions": lambda model, data, experiment: probes.lesions(model, *_validation_images(model, data, 1000)),
    "reads": lambda model, data, experiment: probes.reads(model),
}


def _validation_images(model: nn.Module, data: DataSet, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` validation images as in training, unaugmented, and their classes: a measurement is no test result."""
    if data.kind != "images":
        raise ValueError(f"the data set {data.name!r} holds {data.kind}; this measurement takes images")
    return Batches(data, "validation", next(model.parameters()).device, channels_last=True).plain(slice(0, count))
