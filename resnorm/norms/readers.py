"""Which modules of a model read a norm's tensors or settings themselves, by their source.

A norm in the place of such a one would not be called, or would be taken for what the old one was.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FunctionType

from torch import nn

Path = tuple[str, ...]
# Of a norm: what another norm in its place may lack, or mean differently.
_OWN = {
    "weight",
    "bias",
    "gamma",
    "beta",
    "scale",
    "eps",
    "epsilon",
    "variance_epsilon",
    "running_mean",
    "running_var",
    "momentum",
    "num_batches_tracked",
    "num_features",
    "num_channels",
    "num_groups",
    "normalized_shape",
    "affine",
    "elementwise_affine",
}
# Of its tensors: what says nothing about their values.
_HARMLESS = {"dtype", "device", "shape", "size", "dim", "ndim", "numel", "requires_grad", "is_cuda"}
_TRANSPARENT = {"reversed", "list", "tuple", "iter", "set", "next"}


def readers(model: nn.Module, name: str, new: nn.Module) -> Iterator[str]:
    """What forward passes of the model read of the norm with this dotted name, beside calling it: "Layer.forward reads norm.eps".

    Seen are attributes of `self.norm` in the methods that `forward` reaches, through local names, loops, indices and
    properties too. Reading the type of a tensor, or whether there is one, is harmless where the new norm can answer.
    """
    parts, old = name.split("."), model.get_submodule(name)
    for depth in range(len(parts)):
        owner = model.get_submodule(".".join(parts[:depth]))
        path = tuple(part for part in parts[depth:] if not part.isdigit())
        for method, read, attributes, use in attributes_read(type(owner), vars(owner).get("forward")):
            if path and (read == path or (read is None and path[-1] in attributes) or _by_property(owner, read, old)):
                for one in sorted(attributes & _OWN if read is None else attributes):
                    if _misses(one, use, old, new):
                        yield f"{method} reads {'.'.join(path)}.{one}"


def _misses(attribute: str, use: str, old: nn.Module, new: nn.Module) -> bool:
    """Whether reading an attribute of the new norm ends otherwise than of the old one."""
    if use == "value":
        return attribute in _OWN or not hasattr(new, attribute)
    if use == "type":
        return getattr(old, attribute, None) is not None and getattr(new, attribute, None) is None
    return hasattr(old, attribute) and not hasattr(new, attribute)


def _by_property(owner: nn.Module, read: Path | None, module: nn.Module) -> bool:
    """Whether a path leads to a module through a property of its owner's class."""
    if not read or not isinstance(getattr(type(owner), read[0], None), property):
        return False
    place: object = owner
    try:
        for part in read:
            place = getattr(place, part)
    except Exception:  # whatever a property does before the first forward pass
        return False
    return place is module or (isinstance(place, list | tuple | nn.ModuleList) and any(one is module for one in place))


@lru_cache(maxsize=4096)
def attributes_read(cls: type, forward: Callable | None = None) -> tuple:
    """Method, path, {attribute} and use of every `self.path.attribute` that a class reads on its way from `forward`.

    The use is "value"; "type", as in `self.norm.weight.dtype`; or "presence", as in `self.norm.weight is None`.
    Where there is no source the path is None, and the attributes are all names in the code.
    """
    found, names = [], ["forward"]
    if forward is not None and (function := getattr(forward, "__func__", forward)) and isinstance(function, FunctionType):
        found, names = list(_reads(cls.__name__, function)[0]), [*names, *_reads(cls.__name__, function)[1]]
    for name in names:
        for base in cls.__mro__:
            # The fused paths of torch's encoder are switched off where a norm of it changes.
            if base is nn.Module or base.__module__ == "torch.nn.modules.transformer":
                continue
            member = vars(base).get(name)
            member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if isinstance(member, FunctionType):
                reads, called = _reads(base.__name__, inspect.unwrap(member))
                found += reads
                names += [one for one in called if one not in names and hasattr(cls, one) and not hasattr(nn.Module, one)]
    return tuple(found)


@lru_cache(maxsize=16384)
def _reads(owner: str, function: FunctionType) -> tuple[list, list[str]]:
    """What a method reads of its modules, and the names of `self` that it uses."""
    label = f"{owner}.{function.__name__}"
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        code = getattr(function, "__code__", None)
        used = frozenset(code.co_names if code else ())
        return ([(label, None, used, "value")] if used & _OWN else []), list(used)
    definition = next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), None)
    if definition is None or not definition.args.args:
        return [], []
    known: dict[str, Path] = {definition.args.args[0].arg: ()}
    # Twice: a loop may use a name above the line that sets it.
    for node in [*ast.walk(definition), *ast.walk(definition)]:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                _bind(target, node.value, known)
        elif isinstance(node, ast.For | ast.comprehension):
            _bind(node.target, node.iter, known)
        elif isinstance(node, ast.NamedExpr):
            _bind(node.target, node.value, known)
    uses = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.Attribute) and node.attr in _HARMLESS:
            uses[node.value] = "type"
        elif isinstance(node, ast.Compare) and any(isinstance(one, ast.Constant) and one.value is None for one in node.comparators):
            uses[node.left] = "presence"
    reads, called = [], []
    for node in ast.walk(definition):
        if not isinstance(node, ast.Attribute) or (path := _path(node.value, known)) is None:
            continue
        if not path:
            called.append(node.attr)
        elif isinstance(node.ctx, ast.Load):
            reads.append((label, path, frozenset({node.attr}), uses.get(node, "value")))
    return reads, called


def _path(node: ast.AST, known: dict[str, Path]) -> Path | None:
    """The attributes that lead from `self` to what an expression stands for, indices left out; None where it is another thing."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        base = _path(node.value, known)
        return None if base is None else (*base, node.attr)
    if isinstance(node, ast.Subscript):
        return _path(node.value, known)
    if isinstance(node, ast.IfExp):
        return _path(node.body, known)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in _TRANSPARENT and node.args:
            return _path(node.args[0], known)
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and isinstance(node.args[1], ast.Constant):
            base = _path(node.args[0], known)
            return None if base is None else (*base, str(node.args[1].value))
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("values", "children", "modules"):
            return _path(node.func.value, known)
    return None


def _bind(target: ast.AST, value: ast.AST, known: dict[str, Path]) -> None:
    """Note which local names stand for modules of `self`."""
    if isinstance(target, ast.Name):
        if (path := _path(value, known)) is not None and (path or target.id in known):
            known[target.id] = path
    elif isinstance(target, ast.Tuple):
        called = value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""
        values = value.elts if isinstance(value, ast.Tuple) else value.args if called == "zip" else []
        if called == "enumerate" and len(target.elts) == 2:
            values = [ast.Constant(0), *value.args[:1]]
        for one, its in zip(target.elts, values, strict=False):
            _bind(one, its, known)
