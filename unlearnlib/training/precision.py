"""Whether bfloat16 trains a network faster than float32 on this machine: measured once, then remembered.

It is where the processor multiplies in bfloat16 (AMX, AVX512-BF16, most accelerators) and the layers are wide; narrow
convolutions are slower in it. Used by `precision = "auto"` in the fast mode alone (UNLEARN_FAST=1): elsewhere "auto" is
float32, and bits stay what they are.
"""

import os
import platform
import time
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.store import addresses, cache
from unlearnlib.training.renewal import copied as copy_of

REPEATS = 3
CLEARLY = 0.9  # how much less time bfloat16 must take


def faster(model: nn.Module, pixels: Tensor, *, backward: bool) -> str:
    """ "float32" or "bfloat16": in which a pass of `model` over `pixels` [B, C, H, W] takes less time.

    bfloat16 means mixed precision and channels-last weights. The model is not changed. The measured seconds are kept
    in the cache; without one they are measured whenever they are needed.
    """
    address = addresses.key(
        what="precision",
        network=str(model),
        pixels=tuple(pixels.shape),
        backward=backward,
        machine=(platform.machine(), platform.node()),
        numerics=addresses.numerics(pixels.device),
        versions=addresses.versions(),
    )

    def measured() -> cache.Entry:
        return cache.Entry(None, {name: seconds(model, pixels, name, backward) for name in ("float32", "bfloat16")})

    told = cache.remember(address, measured).about
    return "bfloat16" if told["bfloat16"] < CLEARLY * told["float32"] else "float32"


def seconds(model: nn.Module, pixels: Tensor, precision: str, backward: bool) -> float:
    """The shortest of a few passes of a copy of `model`, after one to warm up: CPU time, or an accelerator's."""
    copied, lower = copy_of(model), precision == "bfloat16"
    if lower:
        copied, pixels = copied.to(memory_format=torch.channels_last), pixels.to(memory_format=torch.channels_last)

    def step() -> float:
        started = _clock(pixels.device)
        with mixed(pixels.device, lower), nullcontext() if backward else torch.no_grad():
            logits = copied(pixels)
        if backward:
            copied.zero_grad()
            logits.float().logsumexp(-1).mean().backward()
        return _clock(pixels.device) - started

    with seeding.isolated(0, "precision"):
        step()
        return min(step() for _ in range(REPEATS))


def mixed(device: torch.device, lower: bool):
    """Mixed precision inside the block where `lower` is true."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower)


def _clock(device: torch.device) -> float:
    if device.type == torch.device("cpu").type:
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def lowered(wanted: str, module: nn.Module, pixels: Tensor, *, backward: bool) -> bool:
    """Whether `module` computes in bfloat16: because it is asked to, or it is faster and any digits will do."""
    if wanted != "auto" or os.environ.get("UNLEARN_FAST") != "1" or pixels.dtype != torch.float32:
        return wanted == "bfloat16"
    return faster(module, pixels, backward=backward) == "bfloat16"
