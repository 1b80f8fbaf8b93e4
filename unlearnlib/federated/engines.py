"""Where clients train: stacked here, each in a process of its own, or on machines of theirs.

An engine has `updates(model, federation, tasks) -> [U, ...]`: for each task the client's change U = w_k - w, [P]. All
engines draw the same batches, so they differ by rounding alone:

    Stacked     clients whose rounds take equally many steps, as one network (the default)
    Processes   each client alone, in worker processes or on a dask cluster, which gets that client's examples only
    flower      real clients of a Flower federation: see `flower.Flower`
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.federated.federation import Federation
from unlearnlib.federated.vectors import vector
from unlearnlib.training import cluster as machines
from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.loop import descend, descend_many
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied
from unlearnlib.training.stacking import Unstackable

NAMES = ("stacked", "processes")


@dataclass(frozen=True)
class Task:
    """One client's part of a round: `recipe.epochs` passes over its examples at `within`, drawn from `number`."""

    client: int
    within: Tensor  # positions among the client's own examples
    recipe: Recipe
    number: int

    @property
    def steps(self) -> int:
        return steps_of(len(self.within), self.recipe)


def trained_alone(model: nn.Module, own: Examples, task: Task) -> Tensor:
    """U of one client with the examples `own`; the model is left as it was."""
    stream = _stream(own.labels, task.within, task)
    trained = descend(copied(model), own, stream, task.recipe, task.steps, seed=task.number)
    return vector(trained) - vector(model)


def _stream(labels: Tensor, positions: Tensor, task: Task) -> Iterator[Batch]:
    recipe, rng = task.recipe, seeding.generator(task.number, "order")
    for inside in minibatches(len(positions), recipe.batch_size, recipe.epochs, rng, keep_last=recipe.keep_last):
        yield Batch(positions[inside], labels[positions[inside]])


class Stacked:
    """Clients side by side in one network; those that differ in the number or size of their steps in several."""

    def updates(self, model: nn.Module, federation: Federation, tasks: Sequence[Task]) -> list[Tensor]:
        groups: dict[tuple, list[int]] = {}
        for place, task in enumerate(tasks):
            n, size = len(task.within), min(len(task.within), task.recipe.batch_size)
            rest = n % size if task.recipe.keep_last else 0
            groups.setdefault((task.steps, size, rest, task.recipe), []).append(place)
        found: dict[int, Tensor] = {}
        for (steps, _, _, recipe), places in groups.items():
            chosen = [tasks[place] for place in places]
            try:
                if len(chosen) == 1:
                    raise Unstackable("one client needs no stack")
                held = [federation.members[task.client][task.within] for task in chosen]
                labels = federation.examples.labels
                streams = [_stream(labels, index, task) for index, task in zip(held, chosen, strict=True)]
                seeds = [task.number for task in chosen]
                made = descend_many([model] * len(chosen), federation.examples, streams, recipe, steps, seeds=seeds)
                ends = [vector(one) - vector(model) for one in made]
            except Unstackable:
                ends = [trained_alone(model, federation.own(task.client), task) for task in chosen]
            found.update(zip(places, ends, strict=True))
        return [found[place] for place in range(len(tasks))]


@dataclass(frozen=True)
class Processes:
    """Every client by itself, in `workers` processes of one thread, or on the dask cluster at `cluster`."""

    workers: int = 2
    cluster: str | None = None

    def updates(self, model: nn.Module, federation: Federation, tasks: Sequence[Task]) -> list[Tensor]:
        jobs = [
            machines.Job(str(place), _job, (model, federation.own(task.client), task), kept=True)
            for place, task in enumerate(tasks)
        ]
        where = {"cluster": self.cluster} if self.cluster is not None else {"workers": self.workers}
        ended = dict(machines.execute(jobs, **where))
        for place, task in enumerate(tasks):
            result = ended[str(place)]
            if isinstance(result, machines.Failed):
                raise RuntimeError(f"client {task.client} was not trained: {result.reason}")
        return [ended[str(place)] for place in range(len(tasks))]


def _job(argument: tuple[nn.Module, Examples, Task], _needs: Mapping) -> Tensor:
    return trained_alone(*argument)


def engine_of(engine, workers: int = 2, cluster: str | None = None):
    """The engine by its name, or the one that is given. Raises ValueError on anything else."""
    if engine == "flower":
        raise ValueError("inside a Flower ServerApp give engine=federated.flower.Flower(grid)")
    if isinstance(engine, str):
        if engine not in NAMES:
            raise ValueError(f"engine must be one of {', '.join(NAMES)}, or have updates(), not {engine!r}")
        if engine == "stacked" and cluster is not None:
            raise ValueError('cluster= is where engine="processes" trains: give both')
        doors.whole(workers=workers)
        return Stacked() if engine == "stacked" else Processes(workers, cluster)
    if not callable(getattr(engine, "updates", None)):
        raise ValueError(f"engine must be one of {', '.join(NAMES)}, or have updates(), not {type(engine).__name__}")
    return engine
