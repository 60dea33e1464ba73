"""What `load_weights` is given: a file, a folder, a checkpoint, a state dict or a network, as tensors by name."""

import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from resnorm.extras import needed_for

log = logging.getLogger("resnorm.load_weights")

# Where training scripts put the weights in what they save; with averaged weights beside them, the first is taken.
KEYS = ("state_dict", "model", "model_state_dict", "module", "net", "network", "weights", "params")
AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict")
# What wraps a network writes its own name in front of every tensor, or within: DDP, averages, torch.compile, FSDP, Lightning.
WITHIN = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PREFIXES = ("module.", "model.", "network.", "net.", "_forward_module.")
OLD_NAMES = {"gamma": "weight", "beta": "bias"}
OLD_NORM = re.compile(r"((?:^|[._])(?:\w*norm\w*|ln_?\w*|bn\d*))\.(gamma|beta)$", re.IGNORECASE)
# Counters from which nothing is computed in eval.
COUNTERS = ("num_batches_tracked", "n_averaged")


@dataclass(frozen=True)
class Source:
    """Weights by name, with what else is known of the network they come from.

    `tensors`: by their own names. `modules`: the names of all modules, those without tensors too, as far as the state
    dict still tells them (`nn.Module.state_dict()` and `.pt` files do, `.safetensors` files and copies do not).
    `config`: the other library's configuration, as a dictionary. `module`: the network itself.
    """

    tensors: dict[str, Tensor]
    modules: frozenset[str] = frozenset()
    config: Mapping[str, Any] | None = None
    module: nn.Module | None = None
    names: dict[str, str] = field(default_factory=dict)  # from ours to those of `module`, where a prefix was taken off

    def renamed(self, rename) -> "Source":
        """The same under other names."""
        return replace(
            self,
            tensors={rename(name): value for name, value in self.tensors.items()},
            modules=frozenset(rename(f"{name}.")[:-1] for name in self.modules),
            names={rename(name): self.names.get(name, name) for name in self.tensors},
        )

    def spellings(self) -> Iterator["Source"]:
        """Itself, and then itself without one prefix of a wrapper after the other, where most of the names have it."""
        source = self
        yield source
        while prefix := next((one for one in PREFIXES if _most(one, source.tensors)), None):
            source = source.renamed(lambda name, prefix=prefix: name.removeprefix(prefix))
            yield source


def _most(prefix: str, names: Collection[str]) -> bool:
    return 2 * sum(name.startswith(prefix) for name in names) > len(names)


def read(weights: Any, config: Any = None) -> Source:
    """Understand what `load_weights` is given; raise `ValueError` where no tensors by name are in it."""
    module = None
    if isinstance(weights, str | os.PathLike):
        path = Path(weights)
        if path.is_dir() and config is None and (path / "config.json").exists():
            config = path / "config.json"
        weights = _file(path)
    if isinstance(weights, nn.Module):
        module = _inner(weights)
        configs = (config, getattr(module, "config", None), getattr(module, "pretrained_cfg", None))
        config = next((one for one in configs if one), None)
        weights = module.state_dict()
    elif isinstance(weights, Mapping) and not weights:
        raise ValueError("the weights are empty")
    state = _state_dict(weights)
    tensors = {name: value for name, value in state.items() if not name.endswith(COUNTERS)}
    modules = frozenset(getattr(state, "_metadata", {}))
    names = {}
    if module is not None:
        modules = frozenset(name for name, _ in module.named_modules())
        names = {name: name for name in tensors}
    return Source(tensors, modules, _config(config), module, names).renamed(_plain)


def _inner(network: nn.Module) -> nn.Module:
    """The network within DataParallel, DistributedDataParallel, AveragedModel and torch.compile."""
    while True:
        if isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        elif isinstance(network, nn.DataParallel | DistributedDataParallel | AveragedModel):
            network = network.module
        else:
            return network


def _plain(name: str) -> str:
    name = WITHIN.sub("", name)
    return OLD_NORM.sub(lambda found: f"{found[1]}.{OLD_NAMES[found[2].lower()]}", name)


def _state_dict(weights: Any, place: str = "the weights") -> Mapping[str, Tensor]:
    """The state dict within what a training script saved."""
    if isinstance(weights, nn.Module):
        return weights.state_dict()
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"{place} are {type(weights).__name__}; give a state dict, a network, or the path of a .safetensors or .pt file"
        )
    if weights and all(isinstance(value, Tensor) for value in weights.values()):
        return weights
    within = {key: value for key, value in weights.items() if isinstance(value, Mapping | nn.Module)}
    found = [key for key in (*KEYS, *AVERAGED) if key in within]
    if found:
        others = [key for key in found[1:] if key in AVERAGED]
        if others:
            text = "load_weights: took %r of the checkpoint; %r is there too, give checkpoint[%r] for it"
            log.warning(text, found[0], others[0], others[0])
        return _state_dict(within[found[0]], f"{place}[{found[0]!r}]")
    if weights and all(isinstance(value, Tensor) or name.endswith("_extra_state") for name, value in weights.items()):
        return {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    raise ValueError(
        f"{place} hold {', '.join(map(repr, list(weights)[:8])) or 'nothing'}, and no tensors by name; "
        "give the state dict that is in there, as checkpoint['...']"
    )


def _file(path: Path) -> Any:
    """What is in a file, or in a folder as Hugging Face's libraries save one; no code of the file is run."""
    if path.is_dir():
        names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
        found = next((path / name for name in names if (path / name).exists()), None)
        if found is None:
            raise ValueError(f"{path} has none of {', '.join(names)}; give the path of the file with the weights")
        path = found
    if not path.exists():
        raise ValueError(f"there is no file {path}; what lies on a server, download first, and give the path")
    if path.name.endswith(".index.json"):
        parts = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        return {name: value for part in parts for name, value in _file(path.with_name(part)).items()}
    if path.suffix == ".safetensors":
        with needed_for("files of the type .safetensors"):
            from safetensors.torch import load_file
        return load_file(path)
    if path.suffix not in (".pt", ".pth", ".bin", ".ckpt", ".tar"):
        raise ValueError(f"{path.name} is no .safetensors, .pt, .pth, .bin or .ckpt file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights without running its code ({error})") from error


def _config(config: Any) -> Mapping[str, Any] | None:
    """A configuration as a dictionary: an object of transformers or timm, a dictionary, or a path to config.json."""
    if config is None or isinstance(config, Mapping):
        return config
    if isinstance(config, str | os.PathLike):
        return json.loads(Path(config).read_text(encoding="utf-8"))
    if hasattr(config, "to_dict"):
        return config.to_dict()
    raise ValueError(
        f"config is {type(config).__name__}; give model.config (transformers), model.pretrained_cfg (timm), a dictionary or a path"
    )
