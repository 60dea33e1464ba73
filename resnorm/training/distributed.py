"""Several processes that train one model: started by torchrun, each takes its share of every batch."""

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

# What torchrun tells each process, and what `init_process_group` reads.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """Whether this process is one of several that torchrun, or who sets the same variables, has started together."""
    return all(name in os.environ for name in VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def is_first() -> bool:
    """Whether this process is the one that writes and reports; a process alone is."""
    return not launched() or os.environ["RANK"] == "0"


def meet() -> None:
    """Wait until all processes that torchrun started are here; one alone does not."""
    if launched():
        processes, _ = Processes.join(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        processes.gathered(None)


@dataclass(frozen=True)
class Processes:
    """The processes of one run: how many, and which of them this is. With one, nothing here does anything.

    Of every batch each takes every ``count``-th example, the first being that number ``rank``. Gradients are summed
    once a step in one piece, when the last of them is there: simple, and not hidden behind the backward pass.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: torch.device) -> "tuple[Processes, torch.device]":
        """Meet the other processes, if there are any, and say which device is this one's: gloo on CPU, nccl on GPUs."""
        if not launched():
            return cls(), device
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            # Not where a run ends: the next run of this process goes on with the same group.
            atexit.register(distributed.destroy_process_group)
        return cls(distributed.get_rank(), distributed.get_world_size()), device

    def check(self, model: nn.Module, batch_size: int | None) -> None:
        """Raise ValueError where the processes cannot take the steps that one would take."""
        if self.count == 1:
            return
        if batch_size is not None and batch_size % self.count:
            raise ValueError(
                f"recipe: batch_size={batch_size} cannot be shared by {self.count} processes: take a multiple of {self.count}"
            )
        norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        if any(norm.training or norm.running_mean is None for norm in norms):
            raise ValueError(
                f"the model has a batch norm, which in {self.count} processes would take the statistics of a share of each "
                "batch: train it in one process, or take a norm without statistics over the batch, such as norm='group'"
            )

    def share(self, start: int, stop: int) -> slice:
        """This process's part of the positions from start to stop."""
        return slice(start + self.rank, stop, self.count)

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of the gradients; a parameter that none has used gets 0 where it had none."""
        if self.count == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = self.sum_(torch.cat([parameter.grad.flatten() for parameter in trained]))
        for parameter, part in zip(trained, flat.split([parameter.numel() for parameter in trained]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))

    def same_start(self, model: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.count > 1:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, src=0)

    def gathered(self, value: Any) -> list:
        """The value of every process, in order of rank; by pickle."""
        values = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value)
        return values
