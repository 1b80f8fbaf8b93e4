"""One training loop for one model or for many at once, and prediction.

Everything that descends on a cross-entropy (training, retraining and most unlearning methods) is a stream of
weighted mini-batches:

    theta <- theta - lr(t) * grad sum_i w_i CE(f_theta(x_i), y_i)        (SGD with momentum, or AdamW)

`descend` runs one such stream for one model, `descend_many` runs K streams for K models in one batched program;
both are the same loop, so model m of K equals the same model trained alone.
"""

import copy
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from unlearnlib import seeding
from unlearnlib.models import device_of, evaluating
from unlearnlib.stacking import Stack, Unstackable

AUGMENTATIONS = ("none", "shift", "crop", "flip", "flip-crop")
OPTIMISERS = ("sgd", "adamw")
SCHEDULES = ("constant", "cosine", "one-cycle")
PRECISIONS = ("auto", "float32", "bfloat16")
_BLOCK = 256  # pictures whose activations fit the cache of a processor


class Diverged(ArithmeticError):
    """Training produced weights that are not finite numbers."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Raises ValueError on a value out of range."""

    epochs: int = 10
    batch_size: int = 64
    optimiser: str = "adamw"  # "sgd" (Nesterov momentum) or "adamw"
    lr: float = 2e-3  # peak learning rate
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-4
    schedule: str = "one-cycle"  # linear rise over the first 20 %, then linear fall to 0; "cosine"; "constant"
    label_smoothing: float = 0.0
    augment: str = "none"  # "shift" 1 pixel, "crop" (reflect-pad an eighth), "flip", "flip-crop"
    precision: str = "auto"  # "float32"; "bfloat16" (mixed); "auto": in the fast mode the faster one, else float32
    channels_last: bool = False  # memory layout of the weights; bfloat16 always takes it

    def __post_init__(self):
        for field, known in (
            ("optimiser", OPTIMISERS),
            ("schedule", SCHEDULES),
            ("augment", AUGMENTATIONS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"Recipe.{field} must be one of {', '.join(known)}, not {getattr(self, field)!r}")
        if self.epochs < 0 or self.batch_size < 1 or self.lr < 0 or self.weight_decay < 0:
            raise ValueError("Recipe needs epochs >= 0, batch_size >= 1, lr >= 0 and weight_decay >= 0")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0 <= `step` < `steps`."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        peak = max(1, round(0.2 * steps))
        return self.lr * (step + 1) / peak if step < peak else self.lr * (steps - step) / (steps - peak + 1)


@dataclass(frozen=True)
class Batch:
    """One step's examples and what is asked of them.

    loss = sum_i weights_i CE(z_i, labels_i) + sum_i soft_weights_i T^2 CE(softmax(z_i / T), soft_i)

    index    positions [B] in the examples that are trained on
    labels   [B] int64
    weights  [B]; None is the mean, 1 / B each
    soft     [B, classes] probabilities of a teacher at temperature T, None without one; then `soft_weights` [B] and
             `temperature` = T count. Up to a constant the second term is T^2 KL(soft || softmax(z / T)).
    """

    index: Tensor
    labels: Tensor
    weights: Tensor | None = None
    soft: Tensor | None = None
    soft_weights: Tensor | None = None
    temperature: float = 1.0


class Part:
    """What a descent on one model takes along: a penalty, a projection, a mask, a stop. Here all do nothing."""

    def instead(self, model: nn.Module, split, run):
        """A program to run in place of the method's, or None; a part may also refuse the split (ValueError)."""
        return None

    def applied(self, program, split, run):
        """The registry's `program` with this part on board; what needs the start, data or draws gets them here."""
        return replace(program, parts=(*program.parts, self))

    def reweighted(self, losses: Tensor, weights: Tensor) -> Tensor:
        """May change the weights [B] of this step's cross-entropies [B], which come without gradient."""
        return weights

    def penalty(self, model: nn.Module) -> Tensor | float:
        """Added to the loss of every step."""
        return 0.0

    def after_gradient(self, model: nn.Module, step: int) -> None:
        """May change the gradients before the optimiser uses them."""

    def after_step(self, model: nn.Module, step: int) -> bool:
        """May change the weights after the optimiser did; returns True to end the descent here."""
        return False


@dataclass
class Tally:
    """Counts the work of a run: examples that went forward and backward, and examples that went forward only."""

    gradient_evaluations: int = 0
    forward_evaluations: int = 0


def minibatches(n: int, batch_size: int, epochs: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Positions [batch_size] of `epochs` shuffled passes over n examples; the incomplete last batch is dropped.

    Batches of equal size let models be stacked and keep batch norm from ever seeing a single example. A set
    smaller than one batch is one batch.
    """
    if n < 1:
        raise ValueError("no examples to train on: the set is empty")
    size = min(n, batch_size)
    for _ in range(epochs):
        order = torch.randperm(n, generator=rng)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]


def steps_of(n: int, recipe: Recipe) -> int:
    """The number of optimiser steps that `recipe` takes on n examples."""
    return recipe.epochs * (n // min(n, recipe.batch_size))


def augmented(pixels: Tensor, kind: str, draws: Tensor) -> Tensor:
    """Pixels [N, C, H, W] moved by `draws` [N, 3]: row and column offset of the crop, and whether to flip."""
    if kind == "none":
        return pixels
    height, width = pixels.shape[2:]
    rows, columns, flip = draws.to(pixels.device).unbind(1)
    pad = _padding(kind, height)
    if pad:
        padded = F.pad(pixels, (pad,) * 4, mode="constant" if kind == "shift" else "reflect")
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [N, C, row, column, H, W], a view
        pixels = windows[torch.arange(len(pixels), device=pixels.device), :, rows, columns]
    if "flip" in kind:
        pixels = torch.where(flip.bool()[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def _padding(kind: str, height: int) -> int:
    if kind == "shift":
        return 1
    return height // 8 if "crop" in kind else 0


def _draws(n: int, kind: str, height: int, rng: torch.Generator) -> Tensor:
    offsets = torch.randint(0, 2 * _padding(kind, height) + 1, (n, 2), generator=rng)
    return torch.cat([offsets, torch.randint(0, 2, (n, 1), generator=rng)], dim=1)


def fit(model: nn.Module, examples, recipe: Recipe, seed: int = 0, *, tally: Tally | None = None, progress=True):
    """A copy of `model` trained on `examples` by `recipe`; the given model is left as it was.

    The order of the examples and the augmentation depend on `seed` alone. Raises Diverged where the weights end
    as NaN or infinite, ValueError on an empty set.
    """
    trained = copy.deepcopy(model)
    rng = seeding.generator(seed, "order")
    batches = (Batch(i, examples.labels[i]) for i in minibatches(len(examples), recipe.batch_size, recipe.epochs, rng))
    steps = steps_of(len(examples), recipe)
    return descend(trained, examples, batches, recipe, steps, seed=seed, tally=tally, progress=progress)


def descend(
    model: nn.Module,
    examples,
    batches: Iterable[Batch],
    recipe: Recipe,
    steps: int,
    *,
    seed: int,
    tally: Tally | None = None,
    progress: bool = False,
    parts: Sequence[Part] = (),
    optimiser: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Train `model` in place on a stream of `steps` batches of `examples`, and return it.

    The model trains in train mode (a batch norm whose parameters are all frozen keeps its statistics) and is
    returned in the mode it came in. `recipe.epochs` and `recipe.batch_size` are not read: the stream decides. An
    `optimiser` over the model's parameters goes on from its own state; by default a new one is made.
    """

    def alone(pixels: Tensor) -> Tensor:
        return model(pixels[:, 0])[:, None]

    with training_mode(model):
        _loop(alone, model, examples, [batches], recipe, steps, [seed], tally, progress, parts, optimiser)
    check_finite(model)
    return model


def descend_many(
    models: Sequence[nn.Module],
    examples,
    streams: Sequence[Iterable[Batch]],
    recipe: Recipe,
    steps: int,
    *,
    seeds: Sequence[int],
    tally: Tally | None = None,
    progress: bool = False,
) -> list[nn.Module]:
    """K models, each on its own stream of equally large batches, in one batched program; returns K new models.

    Raises stacking.Unstackable where the architecture cannot be stacked.
    """
    first = next(models[0].parameters())
    stack = Stack(list(models), examples.pixels([0], device=first.device, dtype=first.dtype))
    with training_mode(stack.module):
        _loop(stack.logits, stack.module, examples, streams, recipe, steps, seeds, tally, progress)
    result = stack.unstacked()
    for model in result:
        check_finite(model)
    return result


def _loop(
    logits_of, module, examples, streams, recipe, steps, seeds, tally, progress, parts=(), optimiser=None
) -> None:
    device = device_of(module)
    images = examples.images.to(device)
    resident = replace(examples, images=images) if images is not examples.images else examples
    augmenters = [seeding.generator(seed, "augmentation") for seed in seeds]
    height = examples.shape[1]
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    optimiser = optimiser or optimiser_of(parameters, recipe)
    if recipe.channels_last:
        module.to(memory_format=torch.channels_last)
    lower = None
    with seeding.isolated(seeds[0], "dropout"), progress_bar(steps, progress) as bar:
        for step, batches in enumerate(zip(*streams, strict=True)):
            if len({(len(b.index), b.soft is None, b.temperature) for b in batches}) > 1:
                raise Unstackable("the models' batches differ in size or kind")
            index = torch.stack([b.index for b in batches], dim=1)  # [B, K]
            pixels = resident.pixels(index.flatten().to(device), dtype=parameters[0].dtype)
            if recipe.augment != "none":
                draws = torch.stack([_draws(len(index), recipe.augment, height, g) for g in augmenters], dim=1)
                pixels = augmented(pixels, recipe.augment, draws.flatten(0, 1))
            pixels = pixels.unflatten(0, index.shape)
            labels = torch.stack([b.labels for b in batches], dim=1).flatten().to(device)
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step, steps)
            if lower is None:
                lower = _lowered(recipe.precision, module, pixels.flatten(1, 2), backward=True)
                if lower:
                    module.to(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower):
                logits = logits_of(pixels)
            loss = _loss(logits.to(parameters[0].dtype), labels.unflatten(0, index.shape), batches, recipe, parts)
            loss = loss + sum(part.penalty(module) for part in parts)
            optimiser.zero_grad()
            loss.backward()
            for part in parts:
                part.after_gradient(module, step)
            optimiser.step()
            if tally is not None:
                tally.gradient_evaluations += index.numel()
            bar.update()
            if any([part.after_step(module, step) for part in parts]):  # all of them, then decide
                break


def _lowered(wanted: str, module: nn.Module, pixels: Tensor, *, backward: bool) -> bool:
    """Whether `module` computes in bfloat16: because it is asked to, or it is faster and any digits will do."""
    if wanted != "auto" or os.environ.get("UNLEARN_FAST") != "1" or pixels.dtype != torch.float32:
        return wanted == "bfloat16"
    from unlearnlib import precision  # here, so that pages with pinned numerics do not depend on it

    return precision.faster(module, pixels, backward=backward) == "bfloat16"


def _loss(logits: Tensor, labels: Tensor, batches: Sequence[Batch], recipe: Recipe, parts: Sequence[Part]) -> Tensor:
    """The summed loss of K models: logits [B, K, classes], labels [B, K]; with parts K = 1."""
    size, smoothing = len(labels), recipe.label_smoothing
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing
    ).unflatten(0, labels.shape)
    even = torch.full((size,), 1 / size)
    weights = torch.stack([even if b.weights is None else b.weights for b in batches], dim=1).to(losses)
    for part in parts:
        weights = part.reweighted(losses.detach()[:, 0], weights[:, 0])[:, None]
    loss = (losses * weights).sum()
    if batches[0].soft is None:
        return loss
    temperature = batches[0].temperature
    soft = torch.stack([b.soft for b in batches], dim=1).to(logits)
    soft_weights = torch.stack([b.soft_weights for b in batches], dim=1).to(logits)
    cross = -(soft * torch.log_softmax(logits / temperature, dim=2)).sum(2)
    return loss + temperature**2 * (soft_weights * cross).sum()


def optimiser_of(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser that `recipe` names, over `parameters`."""
    parameters = list(parameters)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov)


class training_mode:
    """Train mode inside the block, but eval mode for norms whose parameters are all frozen; modes restored after."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __enter__(self):
        self._modes = [(m, m.training) for m in self.model.modules()]
        self.model.train()
        for module in self.model.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and own and not any(p.requires_grad for p in own):
                module.eval()

    def __exit__(self, *_):
        for module, training in self._modes:
            module.training = training


def check_finite(model: nn.Module) -> None:
    """Raise Diverged where a parameter or buffer is NaN or infinite."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise Diverged(f"{name} is not finite: lower the learning rate or the dose")


def fit_many(
    build: Callable[[int], nn.Module],
    examples,
    masks: Tensor,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    chunk: int = 16,
    tally: Tally | None = None,
    progress: bool = True,
) -> list[nn.Module]:
    """K models, model m on the examples where `masks[m]` is true, all by `recipe`.

    build   the seed -> an untrained model; called with each of `seeds`
    masks   bool [K, N]
    chunk   how many models are stacked at once (memory grows with it; speed saturates near 16)

    Model m equals `fit(build(seeds[m]), examples[masks[m]], recipe, seeds[m])` to rounding. Models whose subsets
    take equally many steps are stacked; an architecture that cannot be stacked is trained one model at a time.
    """
    if masks.shape != (len(seeds), len(examples)) or masks.dtype != torch.bool:
        raise ValueError(f"masks must be bool [{len(seeds)}, {len(examples)}], not {masks.dtype} {tuple(masks.shape)}")
    positions = [mask.nonzero().flatten() for mask in masks]
    groups: dict[tuple[int, int], list[int]] = {}
    for m, where in enumerate(positions):
        if not len(where):
            raise ValueError(f"model {m} has no examples: row {m} of masks is all false")
        groups.setdefault((steps_of(len(where), recipe), min(len(where), recipe.batch_size)), []).append(m)
    result: dict[int, nn.Module] = {}
    pieces = [(steps, g[i : i + chunk]) for (steps, _), g in groups.items() for i in range(0, len(g), chunk)]
    with progress_bar(len(seeds), progress, unit="model") as bar:
        for steps, members in pieces:
            untrained = [build(seeds[m]) for m in members]
            streams = [_stream(examples, positions[m], recipe, seeds[m]) for m in members]
            chosen = [seeds[m] for m in members]
            try:
                if len(members) == 1:
                    raise Unstackable("one model needs no stack")
                trained = descend_many(untrained, examples, streams, recipe, steps, seeds=chosen, tally=tally)
            except Unstackable:
                trained = [
                    descend(copy.deepcopy(model), examples, stream, recipe, steps, seed=seed, tally=tally)
                    for model, stream, seed in zip(untrained, streams, chosen, strict=True)
                ]
            result.update(zip(members, trained, strict=True))
            bar.update(len(members))
    return [result[m] for m in range(len(seeds))]


def _stream(examples, positions: Tensor, recipe: Recipe, seed: int) -> Iterator[Batch]:
    rng = seeding.generator(seed, "order")
    for inside in minibatches(len(positions), recipe.batch_size, recipe.epochs, rng):
        index = positions[inside]
        yield Batch(index, examples.labels[index])


def predict(model: nn.Module, examples, *, batch_size: int = 1024, tally: Tally | None = None) -> Tensor:
    """Logits float32 [N, classes] on the CPU, in eval mode; the model is left in the mode it was in.

    `examples` is an Examples, or pixels [N, C, H, W]. A model in half precision is given half-precision pixels. In the
    fast mode a float32 model computes in mixed precision where that is faster.
    """
    device = device_of(model)
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    images = examples if isinstance(examples, Tensor) else None
    n = len(examples)

    def pixels(start: int, stop: int) -> Tensor:
        index = torch.arange(start, min(stop, n))
        found = images[index] if images is not None else examples.pixels(index)
        return found.to(device=device, dtype=dtype)

    parts = []
    with torch.no_grad(), evaluating(model):
        lower = n >= _BLOCK and _lowered("auto", model, pixels(0, _BLOCK), backward=False)
        size, layout = (_BLOCK, torch.channels_last) if lower else (batch_size, torch.contiguous_format)
        for start in range(0, n, size):
            block = pixels(start, start + size).to(memory_format=layout)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower):
                parts.append(model(block).float().cpu())
    if tally is not None:
        tally.forward_evaluations += n
    return torch.cat(parts)


def accuracy(model: nn.Module, examples) -> float:
    """The share of `examples` whose largest logit is at their label."""
    return (predict(model, examples).argmax(1) == examples.labels).float().mean().item()


def progress_bar(total: int, wanted: bool = True, unit: str = "step"):
    """A bar on a terminal; silent in notebooks, in logs and where TQDM_DISABLE is set: nothing to compare, no rates."""
    silent = not wanted or not sys.stderr.isatty() or bool(os.environ.get("TQDM_DISABLE"))
    return tqdm(total=total, disable=silent, unit=unit, leave=False)


def save(model: nn.Module, path: str | Path) -> None:
    """Write the weights and buffers to `path` (safetensors: nothing in it can run), all or nothing."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    safetensors.torch.save_model(model, str(partial))
    os.replace(partial, path)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """A copy of `model` with the weights of `path`. Raises ValueError where they do not fit or the file is damaged."""
    loaded = copy.deepcopy(model)
    try:
        safetensors.torch.load_model(loaded, str(path))
    except (RuntimeError, safetensors.SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} does not hold weights of this architecture: {reason}") from None
    return loaded
