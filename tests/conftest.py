"""Where the tests run: on the CPU, those marked `gpu` on a GPU; what needs a package that is not installed is skipped."""

import re

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
# What the tests compare with, and what builds the book. `make test` installs all of it; beside the lowest versions of the
# package's own requirements it is left out.
PEERS = {"IPython", "accelerate", "lightning", "nbformat", "papermill", "timm", "transformers"}


@pytest.fixture(autouse=True)
def _device(request, monkeypatch):
    # The same everywhere: most tests compare with what plain PyTorch computes on the CPU, to the last bit where they can.
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for processes that a test starts
    elif not HAS_GPU:
        pytest.skip("needs a GPU")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    missing = re.search(r"No module named '(\w+)", str(report.longrepr or ""))
    if report.failed and missing and missing[1] in PEERS:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {missing[1]} is not installed")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PEERS:
            raise
        pytest.skip(f"{error.name} is not installed")
