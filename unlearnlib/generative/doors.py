"""What the doors of this room refuse: configurations that are no numbers, and samplers that do not fit pictures."""

import dataclasses

import torch
from torch import Tensor, nn

from unlearnlib.data.examples import Examples
from unlearnlib.seeding import generator
from unlearnlib.training.modes import evaluating


def check_numbers(config, positive: tuple[str, ...]) -> None:
    """Refuse a field that is not a number of 0 or more (whole, where it is an int), or is 0 and named in `positive`."""
    for f in dataclasses.fields(config):
        value, whole = getattr(config, f.name), f.type in (int, "int")
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < float("inf"):
            raise ValueError(f"{f.name} is a {'whole number' if whole else 'number'} of 0 or more, not {value!r}")
        if not value and f.name in positive:
            raise ValueError(f"{f.name} must be above 0")


def kind_of(sampler: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and the precision in which a sampler works."""
    first = next(sampler.parameters(), None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)


@torch.no_grad()
def check_pictures(sampler: nn.Module, examples: Examples) -> None:
    """Refuse a sampler that has no finite loss [n] on such pictures. Raises ValueError in one line."""
    if not isinstance(sampler, nn.Module) or not callable(getattr(sampler, "loss", None)):
        raise ValueError(
            "the sampler must be a torch module with loss(pictures, labels, rng), as generative.build makes"
        )
    if not isinstance(examples, Examples) or not len(examples):
        raise ValueError("there are no pictures: give data.Examples, see data.load and data.split")
    classes, shape = getattr(sampler, "classes", None), getattr(sampler, "shape", None)
    if not isinstance(classes, int) or shape is None:
        raise ValueError("the sampler must say what it draws: classes (a number) and shape (C, H, W)")
    if tuple(shape) != examples.shape:
        raise ValueError(f"the sampler draws pictures {tuple(shape)}, these are {examples.shape}")
    if int(examples.labels.max()) >= classes:
        raise ValueError(f"the sampler knows {classes} classes, the labels go up to {int(examples.labels.max())}")
    few = examples[: min(2, len(examples))]
    try:
        with evaluating(sampler):
            loss = sampler.loss(few.pixels(None, *kind_of(sampler)), few.labels, generator(0, "door"))
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"the sampler does not take pictures {examples.shape}: {said}") from None
    if not isinstance(loss, Tensor) or tuple(loss.shape) != (len(few),):
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the sampler's loss must have one value a picture, here {(len(few),)}, not {got}")
    if not loss.isfinite().all():
        raise ValueError("the sampler's loss is not finite: train it again before it is asked to forget")
