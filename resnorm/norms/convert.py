"""Another normaliser in the place of every norm of one kind, in any model of torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from resnorm.norms.modules import InstanceNorm
from resnorm.norms.names import norm


def convert_norm(
    model: nn.Module, to: str | Callable[[int], nn.Module], of: str | type[nn.Module] | tuple = "batch"
) -> nn.Module:
    r"""Put another normaliser in the place of every norm of one kind, in any model of torch; return the model.

    $$x \mapsto \gamma\, \mathrm{old}(x) + \beta \quad\text{becomes}\quad x \mapsto \gamma\, \mathrm{new}(x) + \beta$$

    `convert_norm(torchvision.models.resnet50(), "group(groups=32)")` makes its batch norms into group norms.
    `to`: a name with options as for `norm`, or a function of the width that returns a module, such as
    `lambda width: nn.GroupNorm(math.gcd(32, width), width)`. `of`: which norms are replaced: a kind ("batch", "group",
    "instance", "layer", "rms"), a class of modules, or a tuple of them; subclasses count.
    The model is changed in place; only where it is itself such a norm is the returned module another one. A norm that
    stands in several places stays one. Gain and bias are copied where old and new have one of the same shape; device,
    dtype and mode are kept, running statistics and `eps` are not. What a fused norm holds beside (the
    activation in timm's BatchNormAct2d) follows the new one. It is another function: a trained model has to be trained further.
    Shapes: the new norm works along its own axis, whatever the old one's was: "layer2d" or "group" along channels (axis 1),
    "layer" or "rms" along the last axis.
    Raises `ValueError`, and changes nothing, where the model has no such norm, the kind is unknown, or a norm cannot be
    built for a width; it names the layer. Citation: wu2018group.
    """
    kinds = of if isinstance(of, tuple) else (of,)
    if any(_is_norm(model, kind) for kind in kinds):
        return _converted(model, to)
    places = [
        (f"{name}.{child}".lstrip("."), parent, child, module)
        for name, parent in model.named_modules(remove_duplicate=False)
        for child, module in parent._modules.items()
        if any(_is_norm(module, kind) for kind in kinds)
    ]
    if not places:
        found = sorted({type(module).__name__ for module in model.modules() if "Norm" in type(module).__name__})
        raise ValueError(f"{type(model).__name__} has no norm of={of!r}; its norms are {', '.join(found) or 'none'}")
    new: dict[nn.Module, nn.Module] = {}
    for name, _, _, module in places:
        try:
            new[module] = new.get(module) or _converted(module, to)
        except ValueError as error:
            raise ValueError(f"the norm {name!r} cannot be converted: {error}") from None
    for _, parent, child, module in places:
        setattr(parent, child, new[module])
    return model


# The classes of torch, of which ours are subclasses; instance norm here is a group norm of one channel a group.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "batch": nn.modules.batchnorm._BatchNorm,
    "group": nn.GroupNorm,
    "instance": (nn.modules.instancenorm._InstanceNorm, InstanceNorm),
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}


def _is_norm(module: nn.Module | None, kind: str | type[nn.Module]) -> bool:
    if isinstance(kind, type):
        return isinstance(module, kind)
    if kind not in _KINDS:
        raise ValueError(f"of={kind!r}; allowed: {', '.join(_KINDS)}, or a class of modules")
    return isinstance(module, _KINDS[kind]) and not (kind == "group" and isinstance(module, InstanceNorm))


def _converted(old: nn.Module, to: str | Callable[[int], nn.Module]) -> nn.Module:
    """The new norm for the place of the old one, with its gain and bias, and with what else the old one holds."""
    gain = getattr(old, "weight", None)
    sizes = (getattr(old, name, None) for name in ("num_features", "num_channels", "normalized_shape"))
    size = next((size for size in sizes if size is not None), None if gain is None else gain.shape)
    width = size if isinstance(size, int) else size[0] if size is not None and len(size) == 1 else 0
    if width < 1:
        raise ValueError(f"{type(old).__name__} over {size} has no single width; leave it out with a class as `of`")
    new = norm(to, width) if isinstance(to, str) else to(width)
    with torch.no_grad():
        for name in ("weight", "bias"):
            its, mine = getattr(old, name, None), getattr(new, name, None)
            if its is not None and mine is not None and its.shape == mine.shape:
                mine.copy_(its).requires_grad_(its.requires_grad)
    like = gain if gain is not None else getattr(old, "running_mean", None)
    if like is not None:
        new.to(like.device, like.dtype)
    beside = [child for child in old.children() if not isinstance(child, nn.Identity)]
    return (nn.Sequential(new, *beside) if beside else new).train(old.training)
