"""Weights on disk: safetensors, in which nothing can run, written all or nothing."""

import os
from pathlib import Path

import safetensors.torch
from torch import nn

from unlearnlib.training.renewal import copied


def save(model: nn.Module, path: str | Path) -> None:
    """Write the weights and buffers to `path` (safetensors: nothing in it can run), all or nothing."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder: make it first")
    partial = path.with_name(f".{path.name}.partial")
    safetensors.torch.save_model(model, str(partial))
    os.replace(partial, path)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """A copy of `model` with the weights of `path`.

    Raises ValueError where they do not fit, are not finite, or the file is damaged.
    """
    loaded = copied(model)
    try:
        safetensors.torch.load_model(loaded, str(path))
    except (RuntimeError, safetensors.SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} does not hold weights of this architecture: {reason}") from None
    for name, value in loaded.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{path} holds values of {name} that are not finite: it was saved by a run that diverged")
    return loaded
