"""One training loop for one model or for many at once, and prediction.

Everything that descends on a cross-entropy (training, retraining and most unlearning methods) is a stream of
weighted mini-batches:

    theta <- theta - lr(t) * grad sum_i w_i CE(f_theta(x_i), y_i)        (SGD with momentum, or AdamW)

`descend` runs one such stream for one model, `descend_many` runs K streams for K models in one batched program;
both are the same loop, so model m of K equals the same model trained alone.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.training.batches import Batch, Draws, augmented, minibatches, steps_of
from unlearnlib.training.doors import Diverged, answer, check_model
from unlearnlib.training.lookahead import Lookahead
from unlearnlib.training.modes import device_of, norms_are_frozen, norms_frozen, training_mode
from unlearnlib.training.precision import lowered
from unlearnlib.training.progress import progress_bar
from unlearnlib.training.recipe import Recipe, clip, optimiser_of, set_rate
from unlearnlib.training.renewal import copied, without_graphs
from unlearnlib.training.stacking import Stack, Unstackable
from unlearnlib.training.work import Tally


class Stage(enum.IntEnum):
    """When a part has its turn; within a stage parts act in the order given."""

    CHANGE = 0  # changes losses, gradients or weights, and promises nothing of where they end
    BOUND = 1  # holds what came of it within bounds: after it no weight moves
    WATCH = 2  # reads the weights as the step leaves them: keeps a copy, ends the descent


class Part:
    """What a descent on one model takes along: a penalty, a projection, a mask, a stop. Here all do nothing.

    At every hook parts act by their `stage`, so that no order in which they are given lets one undo another's bound.
    """

    stage = Stage.CHANGE
    holds_statistics = False  # True: norms use their running statistics all along, and keep them

    def instead(self, model: nn.Module, split, run):
        """A program to run in place of the method's, or None; a part may also refuse the split (ValueError)."""
        return None

    def applied(self, program, split, run):
        """The registry's `program` with this part on board; what needs the start, data or draws gets them here."""
        return replace(program, parts=(*program.parts, self))

    def reweighted(self, losses: Tensor, weights: Tensor) -> Tensor:
        """May change the weights [B] of this step's terms, with its cross-entropies [B] before it, without gradient.

        Where a batch has a teacher, the weights of its answers or logits come here as well, in a call of their own.
        """
        return weights

    def penalty(self, model: nn.Module) -> Tensor | float:
        """Added to the loss of every step."""
        return 0.0

    def after_gradient(self, model: nn.Module, step: int) -> None:
        """May change the gradients before the optimiser uses them."""

    def stepped(self, model: nn.Module, step: int) -> bool:
        """May move the weights in the optimiser's place, and returns True where it did."""
        return False

    def after_step(self, model: nn.Module, step: int) -> bool:
        """May change the weights after the optimiser did; returns True to end the descent here."""
        return False

    def settle(self, given: nn.Module, returned: nn.Module) -> None:
        """May change what will be returned, so that a bound still holds when it is cast to the precision of `given`."""


def fit(model: nn.Module, examples, recipe: Recipe, seed: int = 0, *, tally: Tally | None = None, progress=True):
    """A copy of `model` trained on `examples` by `recipe`; the given model is left as it was.

    The order of the examples and the augmentation depend on `seed` alone. Raises Diverged where the weights end
    as NaN or infinite, ValueError on an empty set and on a model that is no classifier of such pictures.
    """
    check_model(model, examples)
    trained = copied(model)
    order = minibatches(
        len(examples), recipe.batch_size, recipe.epochs, seeding.generator(seed, "order"), keep_last=recipe.keep_last
    )
    batches, steps = (Batch(i, examples.labels[i]) for i in order), steps_of(len(examples), recipe)
    return descend(trained, examples, batches, recipe, steps, seed=seed, tally=tally, progress=progress)


def descend(
    model: nn.Module,
    examples,
    batches: Iterable[Batch],
    recipe: Recipe,
    steps: int | Sequence[int],
    *,
    seed: int,
    tally: Tally | None = None,
    progress: bool = False,
    parts: Sequence[Part] = (),
    optimiser: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Train `model` in place on a stream of `steps` batches of `examples`, and return it.

    steps   how many, or the number done at the end of each epoch, for schedules that move by epochs

    The model trains in `training_mode` and is returned in the mode it came in. `recipe.epochs` is read by schedules
    that move by epochs alone, `recipe.batch_size` not at all: the stream decides. An `optimiser` over the model's
    parameters goes on from its own state; by default a new one is made.
    """

    def alone(pixels: Tensor) -> Tensor:
        return answer(model, pixels[:, 0])[:, None]

    parts = sorted(parts, key=lambda part: part.stage)
    still = norms_are_frozen() or any(part.holds_statistics for part in parts)
    with norms_frozen(still), training_mode(model, examples.pixels([0])):
        _loop(alone, model, examples, [batches], recipe, steps, [seed], tally, progress, parts, optimiser)
    check_finite(model)
    return without_graphs(model)


def descend_many(
    models: Sequence[nn.Module],
    examples,
    streams: Sequence[Iterable[Batch]],
    recipe: Recipe,
    steps: int | Sequence[int],
    *,
    seeds: Sequence[int],
    tally: Tally | None = None,
    progress: bool = False,
) -> list[nn.Module]:
    """K models, each on its own stream of equally large batches, in one batched program; returns K new models.

    Raises stacking.Unstackable where the architecture cannot be stacked.
    """
    first = next(models[0].parameters())
    picture = examples.pixels([0], device=first.device, dtype=first.dtype)
    stack = Stack(list(models), picture)
    with training_mode(stack.module, picture.repeat(1, len(models), 1, 1)):
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
    augmenters = [
        Draws(len(examples), recipe.augment, examples.shape[1:], seeding.generator(seed, "augmentation"))
        for seed in seeds
    ]
    count = steps if isinstance(steps, int) else (steps or (0,))[-1]
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    optimiser = optimiser or optimiser_of(parameters, recipe)
    if recipe.channels_last:
        module.to(memory_format=torch.channels_last)
    if recipe.lookahead and parts:
        raise ValueError("look-ahead averaging moves weights by itself, past every bound: choose lookahead=False")
    ahead, lower = None, None
    with seeding.isolated(seeds[0], "dropout"), progress_bar(count, progress) as bar:
        for step, batches in enumerate(zip(*streams, strict=True)):
            kinds = {(len(b.index), b.soft is None, b.targets is None, b.temperature, b.sections) for b in batches}
            if len(kinds) > 1:
                raise Unstackable("the models' batches differ in size or kind")
            index = torch.stack([b.index for b in batches], dim=1)  # [B, K]
            pixels = resident.pixels(index.flatten().to(device), dtype=parameters[0].dtype)
            if recipe.augment != "none":
                draws = torch.stack([draw(column) for draw, column in zip(augmenters, index.T, strict=True)], dim=1)
                pixels = augmented(pixels, recipe.augment, draws.flatten(0, 1))
            pixels = pixels.unflatten(0, index.shape)
            labels = torch.stack([b.labels for b in batches], dim=1).flatten().to(device)
            set_rate(optimiser, recipe.rate(step, steps))
            if lower is None:
                lower = lowered(recipe.precision, module, pixels.flatten(1, 2), backward=True)
                if lower:
                    module.to(memory_format=torch.channels_last)
                ahead = Lookahead(module, count) if recipe.lookahead else None
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=lower):
                parts_of = pixels.split(batches[0].sections) if batches[0].sections else (pixels,)
                logits = torch.cat([logits_of(part) for part in parts_of])
            batches = [_seen(b, pixels[:, k]) for k, b in enumerate(batches)]
            loss = _loss(logits.to(parameters[0].dtype), labels.unflatten(0, index.shape), batches, recipe, parts)
            loss = loss + sum(part.penalty(module) for part in parts)
            for p in parameters:  # as zero_grad does, at a tenth of its cost
                p.grad = None
            loss.backward()
            for part in parts:
                part.after_gradient(module, step)
            clip(parameters, recipe, len(streams))
            if not any([part.stepped(module, step) for part in parts]):
                optimiser.step()
            if recipe.lookahead:
                ahead.follow(step)
            if tally is not None:
                tally.gradient_evaluations += index.numel()
            bar.update()
            if any([part.after_step(module, step) for part in parts]):  # all of them, then decide
                break


def _seen(batch: Batch, pixels: Tensor) -> Batch:
    """The batch with the soft targets of these pixels, where its teacher is asked for them."""
    return replace(batch, soft=batch.soft(pixels)) if callable(batch.soft) else batch


def _loss(logits: Tensor, labels: Tensor, batches: Sequence[Batch], recipe: Recipe, parts: Sequence[Part]) -> Tensor:
    """The summed loss of K models: logits [B, K, classes], labels [B, K]; with parts K = 1."""
    first, smoothing = batches[0], recipe.label_smoothing

    def stacked(name: str) -> Tensor:
        """A field of the batches side by side; weights that are None are even."""
        even = torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
        values = [getattr(b, name) for b in batches]
        return torch.stack([even if v is None else v for v in values], dim=1).to(logits)

    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=smoothing
    ).unflatten(0, labels.shape)

    def weighed(name: str) -> Tensor:
        weights = stacked(name)
        for part in parts:
            weights = part.reweighted(losses.detach()[:, 0], weights[:, 0])[:, None]
        return weights

    loss = (losses * weighed("weights")).sum()
    if first.soft is not None:
        cross = -(stacked("soft") * torch.log_softmax(logits / first.temperature, dim=2)).sum(2)
        loss = loss + first.temperature**2 * (weighed("soft_weights") * cross).sum()
    if first.targets is not None:
        targets = stacked("targets")
        if targets.shape != logits.shape:
            raise ValueError(f"Batch.targets must be logits [B, {logits.shape[2]}], not {list(first.targets.shape)}")
        loss = loss + (weighed("target_weights") * 0.5 * (logits - targets).square().sum(2)).sum()
    return loss


def check_finite(model: nn.Module) -> None:
    """Raise Diverged where a parameter or buffer is NaN or infinite."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise Diverged(f"{name} is not finite: lower the learning rate or the dose")
