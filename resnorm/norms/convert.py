"""Another normaliser in the place of every norm of one kind, in any model of torch."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import nn

from resnorm.norms.checking import compare, passes
from resnorm.norms.modules import DynamicTanh, LayerNorm, NoNorm
from resnorm.norms.names import NORMS, norm
from resnorm.norms.readers import readers
from resnorm.norms.reading import KINDS, STATISTICS, OldNorm, is_norm, puts_out_its_input, read_norm
from resnorm.norms.settings import call_form, options_of

# One kind of norm by the axis that it works along: of a token, and of an image.
_BY_AXIS = {"layer": "layer2d", "rms": "rms2d", "dyt": "dyt2d"}
_IMAGES_ONLY, _TOKENS_ONLY = ("group", "instance"), ("derf", "seed")
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)
_STATE_HOOKS = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")


def convert_norm(
    model: nn.Module, to: str | Callable[[int], nn.Module], of: str | type[nn.Module] | tuple = "batch", example: Any = None
) -> nn.Module:
    r"""Put another normaliser in the place of every norm of one kind, in any model of torch; return the model.

    $$x \mapsto \gamma\, \mathrm{old}(x) + \beta \quad\text{becomes}\quad x \mapsto \gamma\, \mathrm{new}(x) + \beta$$

    `convert_norm(torchvision.models.resnet50(), "group(groups=32)")` makes its batch norms into group norms.
    `to`: a name with options as for `norm`, or a function of the width that returns a module, such as
    `lambda width: nn.GroupNorm(math.gcd(32, width), width)`. `of`: which norms are replaced: a kind ("batch", "group",
    "instance", "layer", "rms"), a class of modules, or a tuple of them. Subclasses count, and so do classes of other
    libraries that call themselves norms and compute the kind's equation, such as Hugging Face's LlamaRMSNorm: every class
    that is not torch's is tried out on random inputs. It is another function: a trained model has to be trained further.

    Kept are gain and bias, as the same parameters, and their absence (a gain that is stored as an offset from 1 becomes a
    new one); dtype and device, meta too; the training flag and `requires_grad`; hooks, whose handles still remove them; a norm
    that stands in several places as one; the modules that a fused norm calls after itself (the activation of timm's
    BatchNormAct2d); and the axis: for a norm along axis 1 (batch, group, instance, the layer norms of images) "layer",
    "rms" and "dyt" are built as "layer2d", "rms2d" and "dyt2d", for one along the last axis these as those, and "batch" with
    `dim=-1`. From batch norm to batch norm `momentum` and the running statistics, or their absence, are kept too.
    Not kept are `eps`, running statistics in a norm that has none, and a gain or bias that the new norm has no place for
    (a bias in "rms", both in "none"). "none" returns a copy of its input, and a copy follows what else would put out its input
    itself, so that an activation in place cannot reach the skip. In `nn.TransformerEncoderLayer` the fused path, which computes
    a layer norm with the norms' parameters, and in `nn.TransformerEncoder` the nested tensors are switched off
    (`activation_relu_or_gelu`, `use_nested_tensor`).

    `example`: an input of the model, a tuple of inputs, or a dict of keywords: then the model is called before and after, as
    in `check_conversion`.
    Shapes: the new norm takes the batches that the old one took. torch's instance norm takes a sample without one as well; in
    its place that is a `ValueError`.
    Raises `ValueError`, and changes nothing, where the model has no such norm or the kind is unknown; with the layer's name
    where a norm cannot be built for a width or an axis, where the old one is lazy, has no single width, takes more than its
    input or computes something else, and where another module reads its parameters or holds it in a plain list; and where
    the check of the example fails. `TypeError` for an option that the normaliser lacks. Citation: wu2018group.
    """
    kinds = of if isinstance(of, tuple) else (of,)
    classes = tuple(kind for kind in kinds if isinstance(kind, type))
    places = _places(model, kinds)
    if not places:
        present = sorted({type(module).__name__ for module in model.modules() if "Norm" in type(module).__name__})
        raise ValueError(f"{type(model).__name__} has no norm of={of!r}; its norms are {', '.join(present) or 'none'}")
    inputs, options = (), {}
    if isinstance(example, dict):
        options = example
    elif example is not None:
        inputs = example if isinstance(example, tuple) else (example,)
    before = None if example is None else passes(model, inputs, options)

    new: dict[nn.Module, nn.Module] = {}
    for name, parent, _, module in places:
        try:
            if module not in new:
                new[module] = _converted(module, to, model, name, any_function=isinstance(module, classes))
            if parent is not None and (reads := list(dict.fromkeys(readers(model, name, new[module])))):
                raise ValueError(f"{'; '.join(reads)}, so that a norm in its place would not be called, or not as it is")
        except ValueError as error:
            raise ValueError(f"the norm {name or type(module).__name__!r} cannot be converted: {error}") from None
    _not_held_elsewhere(model, {module: name for name, _, _, module in reversed(places)})

    changes = [(parent, child, new[module]) for _, parent, child, module in places if parent is not None]
    changes += _switches(model, changes)
    undo = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    _make(changes, new)
    guards = [
        one.register_forward_pre_hook(_Batched(old._get_no_batch_dim()))
        for old, one in new.items()
        if isinstance(old, nn.modules.instancenorm._InstanceNorm) and not isinstance(one, nn.modules.instancenorm._InstanceNorm)
    ]
    converted = new.get(model, model)
    if before is not None:
        try:
            compare(passes(converted, inputs, options), before)
        except ValueError as error:
            for guard in guards:
                guard.remove()
            _make(undo, {one: old for old, one in new.items()})
            raise ValueError(f"{type(model).__name__} is left as it was, for converted {error}") from error
    return converted


class _Batched:
    """Refuse one sample without a batch: to torch's instance norms its first axis is the channels, to any other norm the batch."""

    def __init__(self, dims: int):
        self.dims = dims

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        if inputs and getattr(inputs[0], "ndim", None) == self.dims:
            raise ValueError(
                f"{type(module).__name__} stands where an instance norm took one sample without a batch, and got the shape "
                f"{tuple(inputs[0].shape)}: give a batch of one, x.unsqueeze(0), and take [0] of the output"
            )


def _places(model: nn.Module, kinds: tuple) -> list[tuple[str, nn.Module | None, str, nn.Module]]:
    """Name, parent, name within the parent, and norm, of every place of a norm of these kinds; the model itself has no parent."""
    if any(is_norm(model, kind) for kind in kinds):
        return [("", None, "", model)]
    return [
        (f"{name}.{child}".lstrip("."), parent, child, module)
        for name, parent in model.named_modules(remove_duplicate=False)
        for child, module in parent._modules.items()
        if any(is_norm(module, kind) for kind in kinds)
    ]


def _converted(
    module: nn.Module, to: str | Callable[[int], nn.Module], model: nn.Module, name: str, any_function: bool
) -> nn.Module:
    """The new norm for the place of an old one, with all that is kept of it."""
    old = read_norm(module, any_function)
    if isinstance(to, str):
        (new, fixed), offset = _by_name(to, old), 0
    else:
        (new, offset), fixed = _by_function(to, old), False
    if isinstance(new, nn.modules.batchnorm._BatchNorm) and not isinstance(new, nn.SyncBatchNorm) and _in_many_processes(module):
        raise ValueError("nn.SyncBatchNorm takes its statistics over all processes, and the new norm over those of its own")
    like = next((tensor for tensor in _tensors_nearby(model, name, module) if tensor.is_floating_point()), None)
    if like is not None:
        new.to(like.device, like.dtype)
    _carry(old, new, fixed, offset)
    if old.kind == "batch" and isinstance(new, nn.modules.batchnorm._BatchNorm):
        for statistic in STATISTICS:
            value = module._buffers.get(statistic)
            if value is not None and new._buffers.get(statistic) is not None:
                new._buffers[statistic] = value.clone()
    new.train(module.training)
    if not old.after:
        return new
    if any(vars(module).get(hooks) for hooks in _STATE_HOOKS):
        raise ValueError(f"{type(module).__name__} has state-dict hooks, and holds modules that will stand beside the new norm")
    fused = nn.Sequential(OrderedDict({"norm": new, **old.after}))
    fused.training = module.training
    return fused


def _by_name(to: str, old: OldNorm) -> tuple[nn.Module, bool]:
    """A norm of ours along the axis of the old one, and whether its gain and bias were asked for in so many words."""
    name, options = call_form(to)
    name = (_BY_AXIS if old.axis == 1 else {image: token for token, image in _BY_AXIS.items()}).get(name, name)
    if (old.axis == -1 and name in _IMAGES_ONLY) or (old.axis == 1 and name in _TOKENS_ONLY):
        along = {1: "axis 1 (channels of images)", -1: "the last axis (features of tokens)"}
        raise ValueError(f"{type(old.module).__name__} works along {along[old.axis]}, and {name!r} along {along[-old.axis]}")
    if name in NORMS:
        known, fixed = options_of(NORMS[name]) or [], "affine" in options
        if "affine" in known:
            options = {"affine": old.gain is not None or old.bias is not None} | options
        if "dim" in known:
            options = {"dim": old.axis} | options
            if options["dim"] != old.axis:
                raise ValueError(f"{type(old.module).__name__} works along axis {old.axis}, and {to!r} along axis {options['dim']}")
        if "momentum" in known and old.kind == "batch":
            momentum, tracks = getattr(old.module, "momentum", 0.1), old.module._buffers.get("running_mean") is not None
            if momentum is None and "momentum" not in options:
                raise ValueError(f"its momentum=None is a cumulative average; name another: '{name}(momentum=0.1)'")
            options = dict(momentum=momentum, track_running_stats=tracks) | options
        if name == "none":
            options = {"copy": True} | options
        if name in ("layer", "layer2d") and old.width == 1:
            raise ValueError("a layer norm of one feature puts out its bias and nothing else")
        if old.kind == name == "instance" and getattr(old.module, "track_running_stats", False):
            raise ValueError("it tracks running statistics, which 'instance' does not")
        return norm(name, old.width, **options), fixed
    return norm(name, old.width, **options), False


def _by_function(to: Callable[[int], nn.Module], old: OldNorm) -> tuple[nn.Module, int]:
    """What a function of the caller makes, along the old norm's axis as far as that can be told, and the offset of its gain."""
    new = to(old.width)
    if not isinstance(new, nn.Module):
        raise TypeError(f"to={to!r} returned {new!r} for a width of {old.width}; it must return a module")
    if type(new) is nn.Identity or (type(new) is NoNorm and not new.copy):
        return NoNorm(old.width, copy=True), 0
    try:
        made = read_norm(new)
    except ValueError:  # a norm of the caller's own making, whose axis cannot be told
        return (nn.Sequential(new, NoNorm(old.width, copy=True)) if puts_out_its_input(new, old.width, old.axis) else new), 0
    # On features without positions the two axes are one.
    if made.axis != old.axis and not isinstance(old.module, nn.BatchNorm1d) and not isinstance(new, NoNorm):
        raise ValueError(
            f"{type(old.module).__name__} works along axis {old.axis}, and {type(new).__name__}, which `to` returned, along "
            f"axis {made.axis}"
        )
    return new, made.offset


def _carry(old: OldNorm, new: nn.Module, fixed: bool, offset: int) -> None:
    """Put the old gain and bias into the new norm, and take away from it what the old one has not."""
    carried = []
    for name, value, shift in (("weight", old.gain, old.offset - offset), ("bias", old.bias, 0)):
        mine = new._parameters.get(name)
        if mine is None or mine.shape != (old.width,):
            continue
        if value is None:
            if not fixed and isinstance(new, (DynamicTanh, *(one for classes in KINDS.values() for one in classes))):
                new.register_parameter(name, None)
        elif value.shape == mine.shape:
            if shift or not isinstance(value, nn.Parameter):
                value = nn.Parameter(value.detach() + shift, requires_grad=value.requires_grad)
            new.register_parameter(name, value)
            carried.append(value)
    if (theirs := list(old.module.parameters(recurse=False))) and not any(one.requires_grad for one in theirs):
        for parameter in new.parameters():
            if all(parameter is not one for one in carried):
                parameter.requires_grad_(False)


def _in_many_processes(module: nn.Module) -> bool:
    import torch.distributed as processes

    several = processes.is_available() and processes.is_initialized() and processes.get_world_size() > 1
    return several and isinstance(module, nn.SyncBatchNorm)


def _tensors_nearby(model: nn.Module, name: str, module: nn.Module):
    """The tensors of a norm, and where it has none those of the smallest part of the model around it that has any."""
    yield from (*module.parameters(), *module.buffers())
    while name:
        name = name.rpartition(".")[0]
        part = model.get_submodule(name)
        yield from (*part.parameters(), *part.buffers())


def _not_held_elsewhere(model: nn.Module, names: dict[nn.Module, str]) -> None:
    """`ValueError` where a module holds a norm in a plain list or attribute, in which nothing would be replaced."""
    for where, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_modules", "_parameters", "_buffers") or isinstance(value, str):
                continue
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else (value,)
            for one in held:
                if isinstance(one, nn.Module) and one in names:
                    raise ValueError(
                        f"the norm {names[one]!r} cannot be converted: {f'{where}.{attribute}'.lstrip('.')} holds it in a plain "
                        "Python object, where it would stay; use nn.ModuleList or nn.ModuleDict"
                    )


def _switches(model: nn.Module, changes: list) -> list[tuple[nn.Module, str, Any]]:
    """What switches off the fused paths of torch's encoder where they would compute a layer norm in the place of a new norm."""
    layers = [
        parent
        for parent, child, new in changes
        if isinstance(parent, nn.TransformerEncoderLayer) and child in ("norm1", "norm2") and not _fusable(new)
    ]
    encoders = [
        module
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoder) and any(layer is one for layer in module.layers for one in layers)
    ]
    return [(one, "activation_relu_or_gelu", 0) for one in layers] + [(one, "use_nested_tensor", False) for one in encoders]


def _fusable(new: nn.Module) -> bool:
    return type(new) in (nn.LayerNorm, LayerNorm) and new.weight is not None and new.bias is not None


def _make(changes: list[tuple[nn.Module, str, Any]], places: dict[nn.Module, nn.Module]) -> None:
    """Set attributes, and hand the hooks of each module over to the one that takes its place."""
    for owner, name, value in changes:
        setattr(owner, name, value)
    for old, new in places.items():
        for attribute in _HOOKS + _STATE_HOOKS:
            if vars(old).get(attribute):
                vars(new)[attribute] = vars(old)[attribute]  # the same mapping, from which handles remove their hook
        for attribute in _STATE_HOOKS:
            for hook in vars(new)[attribute].values():
                if getattr(hook, "with_module", False):
                    hook.module = weakref.ref(new)
