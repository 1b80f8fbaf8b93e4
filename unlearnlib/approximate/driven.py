"""The loop of methods whose step is not the gradient of one loss over one batch, so that no `Program` says it."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib.approximate.gradients import flat, trainable
from unlearnlib.training.batches import augmented, draws_for
from unlearnlib.training.progress import progress_bar
from unlearnlib.training.recipe import Recipe, clip, optimiser_of, set_rate


class Pictures:
    """positions [B] -> pixels [B, C, H, W] as the model takes them, augmented as was asked for; and labels [B]."""

    def __init__(self, model: nn.Module, examples, run):
        self._examples, self._like, self._augment = examples, next(model.parameters()), run.augment
        self._draws = run.generator("augmentation")

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self._examples.pixels(index, device=self._like.device, dtype=self._like.dtype)
        if self._augment != "none":
            size = tuple(pixels.shape[2:])
            pixels = augmented(pixels, self._augment, draws_for(len(pixels), self._augment, size, self._draws))
        return pixels, self._examples.labels[index].to(pixels.device)


def slope(model: nn.Module, pixels: Tensor, labels: Tensor, smoothing: float, tally) -> Tensor:
    """grad of the mean cross-entropy of a batch [P], in the mode that the model is in."""
    loss = F.cross_entropy(model(pixels), labels, label_smoothing=smoothing)
    tally.count("gradient", len(labels))
    return flat(torch.autograd.grad(loss, list(trainable(model).values()), materialize_grads=True))


def driven(model: nn.Module, turns: Iterable[Callable[[], None]], recipe: Recipe, steps: int, run, mode) -> nn.Module:
    """`model`, in place, after the optimiser of `recipe` has made a step for each of at most `steps` turns.

    turns   each leaves its gradient in the trainable parameters, which have none before it
    mode    the context in which turns are fetched and taken: `training_mode(...)` or `evaluating(...)`

    Raises ValueError where no parameter is trainable.
    """
    parameters = list(trainable(model).values())
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    optimiser = optimiser_of(parameters, recipe)
    with mode, torch.enable_grad(), progress_bar(steps, run.progress) as bar:
        for step, turn in enumerate(turns):
            set_rate(optimiser, recipe.rate(step, steps))
            optimiser.zero_grad()
            turn()
            clip(parameters, recipe)
            optimiser.step()
            bar.update()
    return model
