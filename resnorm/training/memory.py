"""Memory: what a run took at most, and an allocator that keeps what a step frees for the next step."""

import ctypes
import platform
import sys

import torch

# The names that glibc's mallopt gives them.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees; return whether its C library can be told so (glibc can).

    By default glibc takes large blocks from the kernel and gives them back at once. A training step frees and takes
    the same gigabyte again, and the kernel fills every page of it with zeros each time. From this call on large blocks
    come from the heap, and the heap's end is given back only above 2 GiB: a process that has trained stays as large
    as its largest moment was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def peak_memory(device: torch.device) -> int:
    """The largest number of bytes so far: of tensors on a GPU, or of the whole process on CPU (0 on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows has no such count
        return 0
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
