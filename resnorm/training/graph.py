"""A whole training step as one CUDA graph: recorded once, then launched as one piece instead of kernel by kernel."""

from collections.abc import Callable

import torch
from torch import Tensor

# So many steps run as they are, on a stream of their own: libraries choose their kernels, optimisers make their state.
WARM_STEPS = 3


class CapturedStep:
    """Call ``step(part)`` as a CUDA graph; ``part`` is the tensor of positions that the batch takes in the order.

    What changes from step to step reaches the graph through two tensors of fixed address: the positions and the
    learning rate, which the optimiser reads from the device. The step may not wait for the device, nor branch on what
    is computed there.
    """

    def __init__(
        self, step: Callable[[Tensor], None], batch_size: int, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        self.step, self.optimizer = step, optimizer
        self.first = torch.arange(batch_size, device=device)
        self.part = self.first.clone()
        self.rate = torch.zeros((), device=device)
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm = 0

    def __call__(self, start: int, rate: float) -> None:
        """Take the step on the batch that starts at position ``start``, with this learning rate."""
        torch.add(self.first, start, out=self.part)
        self.rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        if self.warm < WARM_STEPS:
            self.warm += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step(self.part)
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.graph is None:
            self._capture()
        self.graph.replay()

    def _capture(self) -> None:
        for group in self.optimizer.param_groups:
            if "capturable" in group:  # Adam asks to be told
                group["capturable"] = True
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.step(self.part)
