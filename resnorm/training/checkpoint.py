"""Checkpoints: written whole or not at all, read without running code, refused by any other run."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from resnorm.data import DataSet
from resnorm.training.files import whole_file
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
        """Write the state; a reader or a kill at any moment finds the old file or the new one, whoever else writes."""
        with whole_file(Path(self.path)) as file, _checksums():
            torch.save(state, file)

    def load(self, identity: dict, device: torch.device) -> dict | None:
        """The saved state, or None where there is none yet.

        Raises ValueError where the file is no checkpoint or is damaged, by one bit even, and where it is one of another
        run: then it names what differs.
        """
        if not Path(self.path).exists():
            return None
        try:
            with open(self.path, "rb") as file:
                # torch reads what it finds; the archive that it writes has a checksum for each of its members.
                with zipfile.ZipFile(file) as archive:
                    damaged = archive.testzip()
                if damaged:
                    raise ValueError(f"it is damaged: the checksum of {damaged} is another one")
                file.seek(0)
                state = torch.load(file, map_location=device, weights_only=True)
            saved = state["identity"]
        except Exception as error:
            raise self.refusal(error) from error
        differences = [
            f"{key} is {_short(saved.get(key))} there and {_short(identity.get(key))} here"
            for key in sorted({*saved, *identity})
            if saved.get(key) != identity.get(key)
        ]
        if differences:
            raise ValueError(f"{self.path} belongs to another run: {'; '.join(differences[:5])}. {self._advice}")
        return state

    def refusal(self, error: Exception) -> ValueError:
        """What to raise where the file turns out to be no checkpoint, because of this error."""
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        return ValueError(f"{self.path} cannot be read as a checkpoint ({reason}). {self._advice}")

    @property
    def _advice(self) -> str:
        return f"Delete {self.path} to start anew, or give this run another checkpoint path."


@contextmanager
def _checksums() -> Iterator[None]:
    """Let torch write its archive's checksums, whatever the caller has chosen."""
    chosen = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(chosen)


def identity(model: nn.Module, data: DataSet, recipe: Recipe, seed: int, device: torch.device, precision: str) -> dict:
    """What two runs must share for one to go on where the other stopped: flat, so that differences can be named."""
    # An address in a repr changes from process to process; the rest of it tells apart models whose tensors look alike.
    shown = re.sub(r"0x[0-9a-f]+", "", repr(model))
    tensors = {f"model tensor {name}": list(tensor.shape) for name, tensor in model.state_dict().items()}
    splits = {f"{split} split": _shown(*getattr(data, split)) for split in ("train", "validation", "test")}
    return {
        **{f"recipe.{key}": value for key, value in recipe.to_dict().items()},
        **tensors,
        "fingerprint of the modules": sha256(shown.encode()).hexdigest()[:16],
        "data": data.name,
        **splits,
        "seed": seed,
        "device": device.type,
        "precision": precision,
    }


def _shown(inputs: Tensor, targets: Tensor) -> str:
    sums = (zlib.crc32(tensor.contiguous().numpy()) for tensor in (inputs, targets))
    return f"{len(inputs)} examples of {list(inputs.shape[1:])}, fingerprints {' '.join(f'{value:08x}' for value in sums)}"


def _short(value) -> str:
    return "absent" if value is None else repr(value)
