"""Checkpoints: written whole or not at all, read without running code, refused by any other run."""

import os
import re
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

from resnorm.data import DataSet
from resnorm.training.recipe import Recipe


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state, and how often: every ``epochs`` epochs, or every ``steps`` steps where that is set.

    Raises ValueError where an interval is not a whole number above 0.
    """

    path: str | os.PathLike
    steps: int | None = None
    epochs: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "epochs"):
            value = getattr(self, name)
            if not (type(value) is int and value > 0) and not (name == "steps" and value is None):
                raise ValueError(f"checkpoint: {name}={value!r}, but it must be a whole number above 0")

    def due(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the state after ``step`` steps is to be saved."""
        return step % (self.steps or self.epochs * steps_per_epoch) == 0

    def save(self, state: dict) -> None:
        """Write the state; a reader or a kill at any moment finds the old file or the new one."""
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def load(self, identity: dict, device: torch.device) -> dict | None:
        """The saved state, or None where there is none yet.

        Raises ValueError where the file is no checkpoint, or is one of another run: then it names what differs.
        """
        if not Path(self.path).exists():
            return None
        advice = f"Delete {self.path} to start anew, or give this run another checkpoint path."
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
            saved = state["identity"]
        except Exception as error:
            raise ValueError(f"{self.path} cannot be read as a checkpoint ({error}). {advice}") from error
        differences = [
            f"{key} is {_short(saved.get(key))} there and {_short(identity.get(key))} here"
            for key in sorted({*saved, *identity})
            if saved.get(key) != identity.get(key)
        ]
        if differences:
            raise ValueError(f"{self.path} belongs to another run: {'; '.join(differences[:5])}. {advice}")
        return state


def identity(model: nn.Module, data: DataSet, recipe: Recipe, seed: int, device: torch.device, precision: str) -> dict:
    """What two runs must share for one to go on where the other stopped: flat, so that differences can be named."""
    # An address in a repr changes from process to process; the rest of it tells apart models whose tensors look alike.
    shown = re.sub(r"0x[0-9a-f]+", "", repr(model))
    tensors = {f"model tensor {name}": list(tensor.shape) for name, tensor in model.state_dict().items()}
    targets = zlib.crc32(data.train[1].numpy().tobytes())
    return {
        **{f"recipe.{key}": value for key, value in recipe.to_dict().items()},
        **tensors,
        "fingerprint of the modules": sha256(shown.encode()).hexdigest()[:16],
        "data": f"{data.name} ({len(data.train[0])} training examples, targets {targets:08x})",
        "seed": seed,
        "device": device.type,
        "precision": precision,
    }


def _short(value) -> str:
    return "absent" if value is None else repr(value)
