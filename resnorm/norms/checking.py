"""Whether a model still does what it did: forward passes in training and in eval, and with every module called by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_map

Passes = dict[str, list[tuple[str, Tensor]]]


def check_conversion(model: nn.Module, *inputs: Any, like: nn.Module | None = None, **options: Any) -> None:
    """Run a model on a given input in training and in eval, and see that it is whole; return nothing where it is.

    Every number of the output is finite; eval without gradients is the same as a pass in which every module is called by
    itself, so that no fused path computes something else; and with `like`, the model before the conversion, the outputs have
    its shapes, dtypes and devices, in training and in eval, and no norm that it calls is left out.
    The model's parameters, statistics, modes and gradients and the caller's random numbers stay as they are.
    `inputs` and `options` are those of the model's call. Raises `ValueError` that names the pass and what is wrong.
    """
    expected = None if like is None else passes(like, inputs, options)
    compare(passes(model, inputs, options), expected)


def passes(model: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[Passes, dict[str, bool]]:
    """The tensors that a model puts out, by their place: in training, in eval, and in eval module by module; and what it called."""
    found: Passes = {}
    called = {name: False for name, _ in model.named_modules()}
    for name, training in (("training", True), ("eval", False), ("eval, module by module", False)):
        with _as_it_was(model), torch.set_grad_enabled(training and torch.is_grad_enabled()):
            model.train() if training else model.eval()
            with _each_called(model, called) if "by" in name else contextlib.nullcontext():
                try:
                    found[name] = _tensors(model(*_copies(inputs), **_copies(options)))
                except Exception as error:
                    raise ValueError(f"the forward pass in {name} ends with {type(error).__name__}: {error}") from error
    if any(isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor for module in model.modules()):
        # Nested tensors have zeros in the place of padding, for which the modules compute something that nobody reads.
        pairs = zip(found["eval"], found["eval, module by module"], strict=True)
        found["eval, module by module"] = [
            (place, single.where((fused != 0).any(-1, keepdim=True), fused) if fused.shape == single.shape != () else single)
            for (place, fused), (_, single) in pairs
        ]
    return found, called


def compare(made: tuple[Passes, dict[str, bool]], expected: tuple[Passes, dict[str, bool]] | None) -> None:
    """`ValueError` where a pass is not finite, is not what its modules compute, or differs in form from what is expected."""
    outputs, called = made
    for name, tensors in outputs.items():
        for place, tensor in tensors:
            if tensor.device.type != "meta" and not torch.isfinite(tensor).all():
                raise ValueError(f"the forward pass in {name} is not finite{place and f' at {place}'}")
    for (place, fused), (_, single) in zip(outputs["eval"], outputs["eval, module by module"], strict=True):
        if fused.shape != single.shape or (fused.device.type != "meta" and not _close(fused, single)):
            raise ValueError(
                f"in eval without gradients the output{place and f' at {place}'} is not what its modules compute one by one: "
                "a fused path reads a norm that it does not call"
            )
    if expected is None:
        return
    for name, tensors in outputs.items():
        forms = [[(place, tuple(t.shape), t.dtype, t.device) for place, t in one] for one in (expected[0][name], tensors)]
        if any(place.endswith("['boxes']") for place, _ in tensors):  # a detector puts out as many as it finds
            forms = [[(place, shape[1:], *rest) for place, shape, *rest in one] for one in forms]
        if forms[0] != forms[1]:
            before, after = next((pair for pair in zip(*forms, strict=False) if pair[0] != pair[1]), forms)
            raise ValueError(f"the output in {name} was {before} and is {after}")
    if missing := [name for name, was in expected[1].items() if was and not called.get(name, True)]:
        raise ValueError(f"no longer calls in eval: {', '.join(missing)}")


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-3 if a.dtype.itemsize >= 4 else 3e-2
    scale = b.abs().max().clamp(min=1e-6).item() if b.numel() and b.is_floating_point() else 1.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale) if a.is_floating_point() else a.shape == b.shape


def _tensors(output: Any) -> list[tuple[str, Tensor]]:
    if hasattr(output, "to_tuple"):
        output = dict(output)  # Hugging Face's outputs
    flat, _ = tree_flatten_with_path(output)
    return [("".join(map(str, path)), leaf.detach()) for path, leaf in flat if isinstance(leaf, Tensor)]


def _copies(inputs: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, inputs)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        # By `train`, which a module may have given more to do, from the outside in: it takes the modules inside along.
        for module, training in modes:
            if module.training != training:
                module.train(training)


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Give back modes, statistics and random numbers after a pass."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if buffer.device.type != "meta"]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


@contextlib.contextmanager
def _each_called(model: nn.Module, called: dict[str, bool]) -> Iterator[None]:
    """Note every module that is called; torch's fused paths stand back where a module has a hook, and are switched off besides."""
    fused = torch.backends.mha.get_fastpath_enabled()
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: called.update({name: True}))
        for name, module in model.named_modules()
    ]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()
