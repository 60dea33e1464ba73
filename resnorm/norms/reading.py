"""What a norm of any library computes: its kind, its axis, its gain and its bias, tried out where the class does not say."""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from resnorm.norms import modules
from resnorm.norms.settings import whole

# The classes of torch, of which ours are subclasses; instance norm here is a group norm of one channel a group.
KINDS: dict[str, tuple[type, ...]] = {
    "batch": (nn.modules.batchnorm._BatchNorm,),
    "group": (nn.GroupNorm,),
    "instance": (nn.modules.instancenorm._InstanceNorm, modules.InstanceNorm),
    "layer": (nn.LayerNorm,),
    "rms": (nn.RMSNorm,),
}
# What these compute is known; a subclass that somebody else wrote is tried out.
_KNOWN = {
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
}
_GAINS, _BIASES = ("weight", "gamma", "scale"), ("bias", "beta", "shift")
_WIDTHS = ("num_features", "num_channels", "normalized_shape")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass
class OldNorm:
    """What is kept of a norm: the axis of its features, their number, the gain and the bias (that they are multiplied by
    offset + gain), and the modules that it calls after that."""

    module: nn.Module
    kind: str | None
    axis: int
    width: int
    gain: Tensor | None
    bias: Tensor | None
    offset: int = 0
    after: dict[str, nn.Module] = field(default_factory=dict)


def is_norm(module: nn.Module | None, kind: str | type[nn.Module]) -> bool:
    """Whether a module is of a class, or a norm of a kind: a subclass of torch's, or a module that computes the same."""
    if isinstance(kind, type):
        return isinstance(module, kind)
    if kind not in KINDS:
        raise ValueError(f"of={kind!r}; allowed: {', '.join(KINDS)}, or a class of modules")
    if any(isinstance(module, classes) for classes in KINDS.values()):
        return isinstance(module, KINDS[kind]) and not (kind == "group" and isinstance(module, modules.InstanceNorm))
    if module is None or not _resembles_a_norm(module):
        return False
    try:
        return read_norm(module).kind == kind
    except ValueError:
        # One that calls itself so and cannot be read is refused by name, rather than left out without a word.
        return f"{kind}norm" in type(module).__name__.lower().replace("_", "")


def _resembles_a_norm(module: nn.Module) -> bool:
    """A module of another class than torch's and ours that calls itself a norm, has a width and holds no other norm.

    One with running statistics that is no batch norm of torch is frozen, or another thing: it is converted by its class only.
    """
    held = any(module._parameters.get(name) is not None for name in _GAINS)
    named = "norm" in type(module).__name__.lower() and not _ours(module) and "running_mean" not in module._buffers
    around = any("norm" in type(child).__name__.lower() for child in module.children())
    return named and not around and (held or (not module._modules and any(hasattr(module, name) for name in _WIDTHS)))


def _ours(module: nn.Module) -> bool:
    return type(module).__module__ == modules.__name__


def read_norm(old: nn.Module, any_function: bool = False) -> OldNorm:
    """What a norm computes.

    Classes of torch and of this package are known. Any other is called once more, as a copy without hooks, with random gains,
    biases and inputs of its width, and compared with the equations: so a gain that is stored as an offset from 1, an image's
    channels under the name of a layer norm or an activation that follows are seen. The norm itself, its statistics and the
    random numbers of the caller stay as they are. With `any_function` it is enough that gain and bias are applied last.
    Raises `ValueError` with the reason where it cannot be told what the norm computes.
    """
    if any(is_lazy(tensor) for tensor in (*old._parameters.values(), *old._buffers.values())):
        raise ValueError("its width is not known before its first forward pass (it is lazy): call the model once, then convert")
    if "forward" in vars(old) or is_parametrized(old):
        raise ValueError(f"the forward or a parameter of this {type(old).__name__} has been replaced; undo that, then convert")
    arguments = [
        parameter.name
        for parameter in list(inspect.signature(type(old).forward).parameters.values())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(arguments) > 1:
        more = ", ".join(arguments)
        raise ValueError(f"{type(old).__name__} is called with more than its input ({more}), which no other norm takes")
    tensors = {name: tensor for name, tensor in (old._parameters | old._buffers).items() if tensor is not None}
    gain, bias = (next((name for name in names if name in tensors), None) for names in (_GAINS, _BIASES))
    for name in ("weight", "bias"):
        if isinstance(getattr(old, name, None), Tensor) and name not in tensors:
            raise ValueError(f"the {name} of this {type(old).__name__} is computed before each call, as by weight norm or pruning")
    known = type(old) in _KNOWN or _ours(old)
    extra = [name for name in old._parameters if old._parameters[name] is not None and name not in (gain, bias)]
    if extra and not known:
        raise ValueError(f"{type(old).__name__} has parameters beside gain and bias, which no other norm takes: {', '.join(extra)}")
    width = _width(old, tensors.get(gain) if gain else None)
    if known:
        kind = next((kind for kind, classes in KINDS.items() if isinstance(old, classes)), None)
        kind = "instance" if isinstance(old, modules.InstanceNorm) else kind
        last = isinstance(old, nn.LayerNorm | nn.RMSNorm | modules.SeeDNorm) and not isinstance(
            old, modules.LayerNorm2d | modules.RMSNorm2d
        )
        axis = getattr(old, "dim", getattr(old, "axis", -1 if last else 1))
        return OldNorm(old, kind, axis, width, tensors.get("weight"), tensors.get("bias"))
    trial = _Trial(old, width, gain, bias)
    kind, axis, offset = trial.equation(any_function)
    return OldNorm(old, kind, axis, width, tensors[gain] if gain else None, tensors[bias] if bias else None, offset, trial.after())


def puts_out_its_input(module: nn.Module, width: int, axis: int) -> bool:
    """Whether a copy of a module, in training or in eval, returns the tensor that it was given, or a view of it."""
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    twin, device = _twin(module, lambda name, tensor: tensor.detach().clone()), devices.pop() if devices else None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for space in ((3, 3), (3,), ()):
            x = torch.ones(2, width, *space, device=device).movedim(1, axis)
            for training in (True, False):
                try:
                    y = twin.train(training)(x)
                except Exception:  # whatever a module says to an input of another shape
                    continue
                if y is x or (isinstance(y, Tensor) and y.device.type != "meta" and y.data_ptr() == x.data_ptr()):
                    return True
    return False


def _width(old: nn.Module, gain: Tensor | None) -> int:
    sizes = (getattr(old, name, None) for name in _WIDTHS)
    size = next((size for size in sizes if size is not None), None if gain is None else tuple(gain.shape))
    try:
        width = whole("norm", "width", size if not isinstance(size, tuple | list) or len(size) != 1 else size[0])
    except ValueError:
        raise ValueError(f"{type(old).__name__} over {size} has no single width; leave it out with a class as `of`") from None
    if gain is not None and tuple(gain.shape) != (width,):
        shape = tuple(gain.shape)
        raise ValueError(f"{type(old).__name__} of width {width} has a gain of shape {shape}, which no other norm takes")
    return width


class _Trial:
    """A norm that is called on random inputs, in place of reading its code."""

    def __init__(self, old: nn.Module, width: int, gain: str | None, bias: str | None):
        self.old, self.width, self.gain, self.bias = old, width, gain, bias
        devices = {tensor.device for tensor in (*old._parameters.values(), *old._buffers.values()) if tensor is not None}
        device = devices.pop() if devices else torch.device("cpu")
        self.device = torch.device("cpu") if device.type == "meta" else device
        self.generator = torch.Generator("cpu").manual_seed(0)
        self.values = {gain: 0.5 + self._uniform(width), bias: self._uniform(width) - 0.5}
        self.values |= dict(running_mean=10 * self._uniform(width), running_var=400 * (0.5 + self._uniform(width)))
        self.children = {name: _twin(child, self._tensor) for name, child in old._modules.items() if child is not None}
        self.error: Exception | None = None

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device="cpu").to(self.device)

    def _tensor(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.device.type == "meta":
            return self._uniform(*tensor.shape).to(tensor.dtype)
        return tensor.detach().clone().float() if tensor.is_floating_point() else tensor.detach().clone()

    def call(self, x: Tensor, training: bool = False, after: bool = False, **values: Tensor | None) -> Tensor:
        """The norm's output with its own tensors in the place of `values`, with or without the modules that it holds."""
        values = self.values | values
        twin = _twin(
            self.old,
            lambda name, tensor: values[name].clone() if name in values else self._tensor(name, tensor),
            self.children if after else {name: nn.Identity() for name in self.children},
        )
        twin.train(training)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return twin(x.clone())

    def inputs(self) -> Iterator[tuple[int, Tensor]]:
        """Axes, and inputs whose features lie along them."""
        a, b, c = [size for size in (5, 3, 7, 2) if size != self.width][:3]
        shapes = [(1, (4, self.width, a, b)), (1, (4, self.width, a)), (1, (4, self.width, a, b, c))]
        shapes += [(-1, (4, a, self.width)), (-1, (4, a, b, self.width)), (-1, (4, self.width)), (1, (4, self.width))]
        for axis, shape in shapes:
            yield axis, 60 * self._uniform(*shape) - 20

    def equation(self, any_function: bool) -> tuple[str | None, int, int]:
        """Kind, axis, and the offset of the gain: 0, or 1 where gain 0 means 1; `ValueError` where no equation holds."""
        for axis, x in self.inputs():
            try:
                y = self.call(x)
            except Exception as error:  # whatever a norm says to an input of another shape
                self.error = error
                continue
            if not isinstance(y, Tensor) or y.shape != x.shape:
                continue
            self.x, self.y = x, y
            for offset in (0, 1) if self.gain else (0,):
                for kind in KINDS:
                    if self._near(self._affine(self._standard(kind, x, axis), axis, offset), y):
                        self._same_in_training(kind, axis, offset)
                        return kind, axis, offset
            if any_function and self.gain and (self.width > 1):
                for offset in (0, 1):
                    bare = {self.gain: torch.full_like(self.values[self.gain], 1.0 - offset)}
                    bare |= {self.bias: torch.zeros_like(self.values[self.bias])} if self.bias else {}
                    if self._near(self._affine(self.call(x, **bare), axis, offset), y):
                        return None, axis, offset
        failed = self.error is not None and not hasattr(self, "x")
        reason = f"; the last call ended with {type(self.error).__name__}: {self.error}" if failed else ""
        raise ValueError(
            f"{type(self.old).__name__} was tried on random inputs and computes none of {', '.join(KINDS)}, with gains as they "
            f"are or as offsets from 1: what its gain means cannot be told{reason}"
        )

    def _same_in_training(self, kind: str, axis: int, offset: int) -> None:
        try:
            y = self.call(self.x, training=True)
        except Exception as error:
            if isinstance(self.old, nn.SyncBatchNorm):  # in training it asks for a GPU
                return
            if self.children:
                raise ValueError(self._holds_more(self.children)) from None
            raise ValueError(f"{type(self.old).__name__} in training ends with {type(error).__name__}: {error}") from None
        of_batch = self._affine(self._standard(kind, self.x, axis, training=True), axis, offset)
        if not (self._near(y, self.y) or self._near(of_batch, y)):
            raise ValueError(f"{type(self.old).__name__} computes more in training than {kind} norm does")

    def after(self) -> dict[str, nn.Module]:
        """The modules that the norm calls after gain and bias, by their names; `ValueError` where it does more with them."""
        after = {
            name: child for name, child in self.old._modules.items() if child is not None and not isinstance(child, nn.Identity)
        }
        if after:
            try:
                expected = self.y.clone()
                with torch.no_grad():
                    for name in after:
                        expected = self.children[name](expected)
                same = self._near(self.call(self.x, after=True), expected)
            except Exception:
                same = False
            if not same:
                raise ValueError(self._holds_more(after))
        return after

    def _holds_more(self, names) -> str:
        return f"{type(self.old).__name__} holds modules that it does not simply call after itself: {', '.join(names)}"

    def _affine(self, x: Tensor | None, axis: int, offset: int) -> Tensor | None:
        if x is None:
            return None
        shape = [1] * x.dim()
        shape[axis] = self.width
        if self.gain:
            x = x * (offset + self.values[self.gain].view(shape))
        return x + self.values[self.bias].view(shape) if self.bias else x

    def _standard(self, kind: str, x: Tensor, axis: int, training: bool = False) -> Tensor | None:
        """The equation of a kind without gain and bias; None where it says nothing of this norm or this input."""
        x, groups = x.double().movedim(axis, 1), getattr(self.old, "num_groups", None)
        space = tuple(range(2, x.dim()))
        if kind == "batch":
            if training or self.old._buffers.get("running_mean") is None:
                if not isinstance(self.old, KINDS["batch"]):
                    return None
                y = _standardised(x, (0, *space))
            else:
                shape = (-1,) + (1,) * len(space)
                mean, variance = (self.values[name].double().view(shape) for name in ("running_mean", "running_var"))
                y = (x - mean) / variance.sqrt()
        elif kind == "instance" or (kind == "group" and groups == self.width):
            if not space or (kind == "group") != isinstance(self.old, nn.GroupNorm):
                return None
            y = _standardised(x, space)
        elif kind == "group":
            if not isinstance(groups, int) or groups < 1 or self.width % groups:
                return None
            y = _standardised(x.unflatten(1, (groups, -1)), (2, *(axis + 1 for axis in space))).flatten(1, 2)
        else:
            if self.width == 1 and kind == "layer":
                return None
            y = _standardised(x, (1,), mean=kind == "layer")
        return y.movedim(1, axis)

    @staticmethod
    def _near(a: Tensor | None, b: Tensor) -> bool:
        return a is not None and torch.allclose(a.double(), b.double(), rtol=2e-3, atol=2e-3)


def _standardised(x: Tensor, axes: tuple[int, ...], mean: bool = True) -> Tensor:
    x = x - x.mean(axes, keepdim=True) if mean else x
    return x / x.square().mean(axes, keepdim=True).sqrt()


def _twin(module: nn.Module, tensor_of, children: dict[str, nn.Module] | None = None) -> nn.Module:
    """A copy of a module that shares nothing with it that a call could change, and that has no hooks."""
    twin = object.__new__(type(module))
    empty = {name: OrderedDict() for name, value in vars(module).items() if name.endswith(("hooks", "hooks_with_kwargs"))}
    twin.__dict__ = (
        vars(module)
        | empty
        | dict(
            _is_full_backward_hook=None,
            _forward_hooks_always_called=OrderedDict(),
            _parameters={
                name: value if value is None else nn.Parameter(tensor_of(name, value), requires_grad=False)
                for name, value in module._parameters.items()
            },
            _buffers={name: value if value is None else tensor_of(name, value) for name, value in module._buffers.items()},
            _modules={
                name: value if value is None else _twin(value, tensor_of) if children is None else children[name]
                for name, value in module._modules.items()
            },
        )
    )
    return twin
