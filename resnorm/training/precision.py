"""Number formats, chosen by device."""

import torch

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)


def choose_precision(precision: str, device: torch.device) -> str:
    """The format to compute in, where "auto" leaves it to the device: "fp32", "bf16" or "fp16".

    auto: bf16 on GPUs of compute capability 8 or more (older ones only emulate it), fp16 on other GPUs, fp32 on CPU.
    """
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context that a forward pass runs in."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """A scaler that keeps fp16's small gradients from vanishing; for other formats it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
