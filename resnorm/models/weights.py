"""Weights of other libraries for our networks: the same tensors in the same order under other names."""

from collections.abc import Mapping

from torch import Tensor, nn


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a state dict of torchvision's ResNet or DenseNet, or of timm's ResNetV2, into our network; return it.

    `load_weights(resnet(depth=50), torchvision.models.resnet50(weights="DEFAULT").state_dict())`
    `load_weights(resnet(depth=50, version=2), timm.create_model("resnetv2_50", pretrained=True).state_dict())`

    `model`: from `resnet` or `densenet`, of the same depth, number of classes and norm. Both libraries define their
    layers in the order in which they run, as ours do, so the tensors are matched by their order and checked by their
    shapes; timm alone puts a block's projection first. A classifier that is a 1x1 convolution is taken as the matrix that it is.
    Afterwards both networks give the same logits for an image (batch, inputs, height, image width).
    Raises `ValueError`, and loads nothing, where a tensor is missing or has another shape; it names the first.
    Citation: he2016deep, he2016identity, huang2017densely.
    """
    mine = {name: value for name, value in model.state_dict().items() if not _counter(name)}
    # Old files have no counters of batches, and nothing is computed from them.
    names = [name for name in state if not _counter(name)]
    order = {name: place for place, name in enumerate(names)}

    def place(name: str) -> float:
        block, projection, _ = name.partition(".downsample.")
        return max(order[one] for one in names if one.startswith(f"{block}.")) + 0.5 if projection else order[name]

    theirs = [(name, state[name]) for name in sorted(names, key=place)]
    loaded = {}
    for (name, value), (its_name, its) in zip(mine.items(), theirs, strict=False):
        if its.dim() == 4 and value.dim() == 2 and its.shape[2:] == (1, 1):
            its = its.flatten(1)
        if its.shape != value.shape:
            raise ValueError(
                f"{its_name!r} has shape {tuple(its.shape)}, and {name!r} of this model {tuple(value.shape)}: build the model "
                "with the depth, classes, norm and version of the weights"
            )
        loaded[name] = its
    if len(mine) != len(theirs):
        raise ValueError(
            f"the weights have {len(theirs)} tensors, and this model has {len(mine)}: build it with the depth, norm and "
            "version of the weights"
        )
    model.load_state_dict(loaded, strict=False)
    return model


def _counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")

