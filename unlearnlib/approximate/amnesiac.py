"""Amnesiac unlearning: take back every update in which the forgotten examples had a part.

    theta' = theta - sum over training steps t whose batch holds an example of F of  (theta_{t+1} - theta_t)

then `epochs` passes over the retain set repair what was lost. Graves et al., AAAI 2021, arXiv 2010.10981. The updates
must have been recorded in training:

    model, record = fit_recording(network, split.train, recipe, seed=0, candidates=...)
    done = ul.unlearn("amnesiac", model, split, seed=0, record=record)

`fit_recording` trains as `training.fit` does, bit for bit. It stores one update, as large as the model, for each
batch that holds a candidate. Limits: where F is in no batch nothing is taken back; where it is in every batch the
weights return to their initial values; where it is in the last batch only, the result is the model before that batch.
Otherwise it is not the retrained model: later updates depended on the earlier ones. Deviations: running statistics of
batch norm, which are not additive, are left as they are until the repair; the repair's recipe and defaults are ours.
The authors' repair (Adam, rate 1e-3, 10 epochs, batches of 64) goes on with the state of Adam at the end of training,
which the record does not hold, so nothing is published here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.approximate.gradients import copies, flat, shaped, trainable
from unlearnlib.approximate.steps import Steps, passes
from unlearnlib.data.doors import positions
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import Part, Tally, descend
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied


@dataclass(frozen=True, eq=False)
class Record:
    """What training left behind for `amnesiac`.

    batches      the examples [B] of each stored batch, positions in the training set
    updates      the change [P] that each made to the trainable parameters, one after another
    candidates   [N] bool: the examples that can be forgotten
    checksum     of the training set
    """

    batches: tuple[Tensor, ...]
    updates: tuple[Tensor, ...]
    candidates: Tensor
    checksum: str


@dataclass(frozen=True)
class Amnesiac(Steps):
    epochs: int = 1  # passes of repair over the retain set; 0 for none
    record: Record | None = None  # of the training, by `fit_recording`


class _Recorder(Part):
    """Passes batches on and stores what those with a candidate do to the weights."""

    def __init__(self, model: nn.Module, candidates: Tensor):
        self._candidates, self._before = candidates, copies(model)
        self.batches: list[Tensor] = []
        self.updates: list[Tensor] = []

    def watched(self, batches):
        for batch in batches:
            self._index = batch.index
            yield batch

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> bool:
        now = copies(model)
        if self._candidates[self._index].any():
            self.batches.append(self._index)
            self.updates.append(flat(now[name] - before for name, before in self._before.items()).cpu())
        self._before = now
        return False


def fit_recording(
    model: nn.Module,
    examples,
    recipe: Recipe,
    seed: int = 0,
    *,
    candidates: Tensor | None = None,
    tally: Tally | None = None,
    progress: bool = True,
) -> tuple[nn.Module, Record]:
    """`training.fit(model, examples, recipe, seed)` and the record of its updates.

    candidates   the examples that may have to be forgotten: a bool mask [N] or positions; None for all
    """
    check_model(model, examples)
    chosen = torch.ones(len(examples), dtype=torch.bool)
    if candidates is not None:
        chosen = torch.zeros_like(chosen).index_fill(0, positions(candidates, len(examples), distinct=False), True)
    trained, rng = copied(model), seeding.generator(seed, "order")
    recorder = _Recorder(trained, chosen)
    order = minibatches(len(examples), recipe.batch_size, recipe.epochs, rng, keep_last=recipe.keep_last)
    batches = (Batch(i, examples.labels[i]) for i in order)
    settings = {"seed": seed, "tally": tally, "progress": progress, "parts": (recorder,)}
    descend(trained, examples, recorder.watched(batches), recipe, steps_of(len(examples), recipe), **settings)
    return trained, Record(tuple(recorder.batches), tuple(recorder.updates), chosen, examples.checksum())


@torch.no_grad()
def taken_back(model: nn.Module, record: Record, forget: Tensor) -> nn.Module:
    """`model`, in place, without the recorded updates of the batches that hold any of the positions `forget`."""
    parameters, total = trainable(model), None
    for batch, update in zip(record.batches, record.updates, strict=True):
        if torch.isin(batch, forget).any():
            total = update.double() if total is None else total + update
    if total is not None:
        if len(total) != sum(p.numel() for p in parameters.values()):
            raise ValueError("the record is of another network: its updates do not fit the model")
        for name, piece in shaped(total, parameters).items():
            parameters[name].copy_(parameters[name] - piece.to(parameters[name].device))
    return model


@method(
    "amnesiac",
    Amnesiac,
    family="gradient",
    reads="retain",
    paper="graves2021",
    cost="gradient * epochs * seen(R, batch_size)",
    fails=(
        "Where most batches held a forgotten example, as for a random tenth of the data: then nearly all of "
        "training is taken back. The updates have to be stored in training, one as large as the model for each "
        "such batch."
    ),
    origin="the defaults are ours",
)
def amnesiac(model, split, config: Amnesiac, run) -> Program:
    record = config.record
    if record is None:
        raise ValueError("amnesiac needs record=, the updates stored in training: train with amnesiac.fit_recording")
    if record.checksum != split.train.checksum():
        raise ValueError("the record is of other examples than split.train: record the training on split.train")
    if not record.candidates[split.forget_index].all():
        raise ValueError("the record lacks some of the forget set: name them in fit_recording(candidates=...)")
    taken_back(model, record, split.forget_index)
    batches, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps)
