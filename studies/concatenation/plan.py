"""DenseNet against a residual network with as many parameters, with two norms.  [huang2017densely]"""

from typing import Any

from resnorm.lab import Experiment
from resnorm.lab.plans.checks import SEEDS
from resnorm.lab.plans.images import images

# Depth, growth and width of the dense network; depth and width of the residual one; the second norm.
# Thousands of parameters, dense and residual: smoke 70 and 68, cpu and colab 271 and 270, paper 1020 and 1028.
SMALL = ((22, 12, 16), (20, 16), "group(groups=4)")
SIZES = {
    "smoke": ((22, 6, 8), (20, 8), "group(groups=2)"),
    "cpu": SMALL,
    "colab": SMALL,
    "paper": ((40, 12, 16), (44, 20), "group(groups=4)"),
}


def arms(preset: str) -> dict[str, dict[str, Any]]:
    (depth, growth, stem), (residual_depth, width), norm = SIZES[preset]
    dense = dict(name="cifar_densenet", depth=depth, growth=growth, width=stem)
    residual = dict(variant="resnet_v2", depth=residual_depth, width=width)
    models = {"DenseNet": dense, "DenseNet, group norm": dense | dict(norm=norm)}
    models |= {"ResNet v2": residual, "ResNet v2, group norm": residual | dict(norm=norm)}
    if preset == "paper":  # 769 and 756
        bottleneck = dict(depth=100, growth=12, width=24, bottleneck=True, compression=0.5)
        models |= {"DenseNet-BC": dict(name="cifar_densenet", **bottleneck)}
        models |= {"ResNet v2, 50 layers": dict(variant="resnet_v2", depth=50)}
    return models


def experiments(preset: str, arm: dict[str, Any], seeds: Any = SEEDS) -> list[Experiment]:
    return images(preset, arm, seeds, many=True, measure=("reads",) if "growth" in arm else ())
