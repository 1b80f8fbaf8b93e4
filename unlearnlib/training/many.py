"""Many models at once: K trainings on K subsets of one data set, stacked where the architecture allows it."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.training.at_once import at_once
from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import descend, descend_many
from unlearnlib.training.progress import progress_bar
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied
from unlearnlib.training.stacking import Unstackable
from unlearnlib.training.work import Tally


def fit_many(
    build: Callable[[int], nn.Module],
    examples,
    masks: Tensor,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    chunk: int | None = None,
    tally: Tally | None = None,
    progress: bool = True,
) -> list[nn.Module]:
    """K models, model m on the examples where `masks[m]` is true, all by `recipe`.

    build   the seed -> an untrained model; called with each of `seeds`
    masks   bool [K, N]
    chunk   how many models are stacked at once, 1 for one by one; None: 16 in pinned mode, and in the fast mode as
            many as train fastest on this machine (`at_once`). Memory grows with it

    Model m equals `fit(build(seeds[m]), examples[masks[m]], recipe, seeds[m])` to rounding. Models whose subsets
    take equally many steps are stacked; an architecture that cannot be stacked is trained one model at a time.
    Raises ValueError for masks of another kind or shape, an empty row, and a chunk below 1.
    """
    wanted = f"masks must be bool [{len(seeds)}, {len(examples)}]"
    try:
        masks = torch.as_tensor(masks)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{wanted}, not {type(masks).__name__}") from None
    if masks.shape != (len(seeds), len(examples)) or masks.dtype != torch.bool:
        raise ValueError(f"{wanted}, not {masks.dtype} {tuple(masks.shape)}")
    positions = [mask.nonzero().flatten() for mask in masks]
    groups: dict[tuple[int, ...], list[int]] = {}
    for m, where in enumerate(positions):
        if not len(where):
            raise ValueError(f"model {m} has no examples: row {m} of masks is all false")
        size = min(len(where), recipe.batch_size)
        rest = len(where) % size if recipe.keep_last else 0
        groups.setdefault((steps_of(len(where), recipe), size, rest), []).append(m)
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1):
        raise ValueError(f"chunk must be 1 or more models, or None, not {chunk!r}")
    if chunk is None and len(seeds):
        chunk = at_once(build, examples, recipe, seeds, min(size for _, size, _ in groups))
    result: dict[int, nn.Module] = {}
    pieces = [(steps, g[i : i + chunk]) for (steps, *_), g in groups.items() for i in range(0, len(g), chunk)]
    with progress_bar(len(seeds), progress, unit="model") as bar:
        for steps, members in pieces:
            untrained = [build(seeds[m]) for m in members]
            check_model(untrained[0], examples)
            settings = [(_stream(examples, positions[m], recipe, seeds[m]), seeds[m]) for m in members]
            streams, chosen = zip(*settings, strict=True)
            try:
                if len(members) == 1:
                    raise Unstackable("one model needs no stack")
                trained = descend_many(untrained, examples, streams, recipe, steps, seeds=chosen, tally=tally)
            except Unstackable:  # which a stack is before its first step: the streams are untouched
                trained = [
                    descend(copied(model), examples, stream, recipe, steps, seed=seed, tally=tally)
                    for model, (stream, seed) in zip(untrained, settings, strict=True)
                ]
            result.update(zip(members, trained, strict=True))
            bar.update(len(members))
    return [result[m] for m in range(len(seeds))]


def _stream(examples, positions: Tensor, recipe: Recipe, seed: int) -> Iterator[Batch]:
    rng = seeding.generator(seed, "order")
    for inside in minibatches(len(positions), recipe.batch_size, recipe.epochs, rng, keep_last=recipe.keep_last):
        index = positions[inside]
        yield Batch(index, examples.labels[index])
