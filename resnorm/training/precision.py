"""Number formats, chosen by device."""

import torch
from torch import nn

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


def precision_for(model: nn.Module, precision: str, device: torch.device) -> str:
    """The format to train this model in; "fp32" leaves each parameter its own type.

    bf16 and fp16 stand beside weights in float32; a model whose weights are in float64, or in float16, computes in them.
    Raises ValueError where the recipe asks for another format than a model with such weights can take.
    """
    chosen = choose_precision(precision, device)
    taken = (torch.float32, torch.bfloat16) if chosen == "bf16" else (torch.float32,)
    others = {p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype not in taken}
    if chosen == "fp32" or not others:
        return chosen
    if precision == "auto":
        return "fp32"
    raise ValueError(
        f"recipe: precision={precision!r} for a {type(model).__name__} with parameters in {min(map(str, others))}: it needs "
        "float32; call model.float(), or take precision='fp32', which leaves the model's own type"
    )


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context that a forward pass runs in."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """A scaler that keeps fp16's small gradients from vanishing; for other formats it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
