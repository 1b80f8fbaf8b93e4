"""Subtract what the client has sent, then learn from the old model again.

    w' = w - sum_t p_u U_u^t
    min_w'  T^2 E_x KL( softmax(f_w(x) / T) || softmax(f_w'(x) / T) )        x from `public` pictures without labels

Wu et al. 2022, key wu2022: their "lazy" rule, in which u counts as if it had sent zero. No client is asked at all. The
old model is the teacher, and what it does on a trigger is not asked for unless public pictures carry it.

Deviations: p_u is the share that u had in each round, which is 1/N for equal clients. What was trained between a
subtracted update and the end stays as it is, as in the paper. Requests for examples or classes are refused, since a
server cannot subtract a part of what a client sent.
"""

from dataclasses import dataclass, field

import torch

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.federated.options import numbers
from unlearnlib.federated.rounds import Case, Outcome, stored
from unlearnlib.federated.vectors import filled, vector
from unlearnlib.training.batches import Batch, minibatches, steps_of
from unlearnlib.training.loop import descend
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe


@dataclass(frozen=True)
class Distil:
    public: object = field(default=None, repr=False)  # pictures that the server may use: Examples, or [n, C, H, W]
    epochs: int = 20  # over them
    lr: float = 0.1  # of SGD without momentum
    batch_size: int = 64
    temperature: float = 3.0  # T

    def __post_init__(self):
        doors.whole(0, epochs=self.epochs)
        doors.whole(batch_size=self.batch_size)
        numbers(above=True, lr=self.lr, temperature=self.temperature)


def distil(case: Case, config: Distil) -> Outcome:
    if set(case.leaving) != set(case.whole):
        raise ValueError("by='distil' subtracts what whole clients sent: ask with clients=, or choose another method")
    if config.public is None and config.epochs:
        raise ValueError("by='distil' needs pictures of the server's own: public=Examples, labels are not read")
    weights = case.weights.double()
    for r in stored(case, case.whole):
        share = sum(r.sizes.values())
        for k in case.whole:
            if k in r.updates:
                weights = weights - (r.sizes[k] / share) * r.updates[k].double()
    student = filled(case.model, weights.to(case.weights.dtype))
    if config.epochs:
        student = _taught(student, case, config)
    return Outcome(vector(student), case.rounds, fresh=False)


def _taught(student, case: Case, config: Distil):
    shape, tally = case.clients.federation.examples.shape, case.clients.ledger.server
    images = doors.pixels(config.public, shape=shape)
    if not len(images):
        raise ValueError("public= holds no pictures: give some, or epochs=0 to subtract alone")
    unlabelled = Examples(images, torch.zeros(len(images), dtype=torch.int64))
    soft = torch.softmax(predict(case.model, unlabelled, tally=tally) / config.temperature, 1)
    recipe = Recipe(config.epochs, config.batch_size, "sgd", config.lr, 0.0, 0.0, "constant", precision="float32")
    rng = seeding.generator(case.seed, "distillation", "order")

    def batch(index):
        nothing = torch.zeros(len(index), dtype=torch.float64)
        return Batch(index, unlabelled.labels[index], nothing, soft[index], temperature=config.temperature)

    stream = map(batch, minibatches(len(images), config.batch_size, config.epochs, rng))
    steps = steps_of(len(images), recipe)
    return descend(student, unlabelled, stream, recipe, steps, seed=case.seed, tally=tally)
