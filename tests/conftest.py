"""Where the tests run: on the CPU, those marked `gpu` on a GPU."""

import pytest
import torch

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _device(request, monkeypatch):
    # The same everywhere: most tests compare with what plain PyTorch computes on the CPU, to the last bit where they can.
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for processes that a test starts
    elif not HAS_GPU:
        pytest.skip("needs a GPU")
