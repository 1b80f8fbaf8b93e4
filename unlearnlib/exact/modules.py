"""One module a class: a deletion retrains the module of its own class and nothing else.

Each class c has a one-class model that sees examples of class c only: an autoencoder a_c, trained on the squared error
of its reconstruction. Errors of different modules are not comparable, so each is calibrated on its own training errors
before the classes are compared:

    e_c(x) = mean (x - a_c(x))^2
    score_c(x) = - (log e_c(x) - m_c) / s_c,     m_c, s_c: median and spread of log e_c over class c
    prediction = argmax_c score_c(x)

Nothing of class c depends on an example of another class, so retraining one module is exact. The design follows the
idea of ARCANE (Yan et al., IJCAI 2022), for which no official code exists: this is a reconstruction, with an
autoencoder as the one-class model. Exactness is bit for bit, as in `sisa`.
"""

import time

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.exact._inputs import Fitted
from unlearnlib.exact.sisa import EXACT
from unlearnlib.methods.records import Cost, Receipt
from unlearnlib.training.loop import Diverged


class ClassModules(Fitted):
    """`fit(examples)`, `forget(indices) -> Receipt`, `logits(images)` with one autoencoder a class.

    hidden   units of the autoencoder's one hidden layer
    steps    optimiser steps (Adam) of each module on batches of `batch_size`
    """

    _ledger = "_present"

    def __init__(self, *, hidden: int = 32, steps: int = 400, batch_size: int = 64, lr: float = 2e-3, seed: int = 0):
        doors.whole(hidden=hidden, steps=steps, batch_size=batch_size)
        if not (doors.real(lr) and lr > 0):
            raise ValueError(f"lr must be a finite number above 0, not {lr!r}")
        self.hidden, self.steps, self.batch_size, self.lr, self.seed = hidden, steps, batch_size, lr, seed

    def fit(self, examples, without=()) -> "ClassModules":
        """Train a module for every class, without the positions in `without`."""
        examples = Examples.of(examples)
        self._present = doors.present(len(examples), without)
        self._examples = examples
        self._classes = int(examples.labels.max()) + 1
        started = time.perf_counter()
        self._modules: list = [None] * self._classes
        work = sum(self._train(c) for c in range(self._classes))
        self.cost = Cost(time.perf_counter() - started, work)
        return self

    def forget(self, indices) -> Receipt:
        """Delete the points at `indices` and retrain the modules of their classes. Raises as `doors.deletion` does."""
        index = doors.deletion(indices, self._present)
        started, before = time.perf_counter(), list(self._modules)
        self._present[index] = False
        hit = self._examples.labels[index].unique().tolist()
        try:
            work = sum(self._train(c) for c in hit)
        except Exception:
            self._present[index], self._modules = True, before
            raise
        touched = {"modules": len(hit), "points": len(index)}
        return Receipt(Cost(time.perf_counter() - started, work), touched, EXACT)

    def logits(self, images: Tensor) -> Tensor:
        """Calibrated scores float32 [n, classes]; a class whose points are all deleted scores -1e4."""
        flat = doors.pixels(images, shape=self._examples.shape, device="cpu", dtype=torch.float32).flatten(1)
        columns = []
        for module in self._modules:
            if module is None:
                columns.append(torch.full((len(flat),), -1e4))
                continue
            network, middle, spread = module
            columns.append(-(_log_error(network, flat) - middle) / spread)
        return torch.stack(columns, 1)

    def _train(self, c: int) -> int:
        """Train the module of class c from scratch; returns its gradient evaluations."""
        members = (self._present & (self._examples.labels == c)).nonzero().flatten()
        if not len(members):
            self._modules[c] = None
            return 0
        flat = self._examples.pixels(members).flatten(1)
        with seeding.isolated(self.seed, "module", c):
            width = flat.shape[1]
            network = nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, width))
        rng = seeding.generator(self.seed, "order", c)
        optimiser = torch.optim.Adam(network.parameters(), self.lr)
        size = min(self.batch_size, len(members))
        for _ in range(self.steps):
            # A key for every position, present or not: who else is there does not change an example's key.
            keys = torch.rand(len(self._present), generator=rng)[members]
            batch = flat[keys.argsort(stable=True)[:size]]
            loss = (network(batch) - batch).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        errors = _log_error(network, flat)
        if not torch.isfinite(errors).all():
            raise Diverged("the module's errors are not finite: lower lr")
        middle = errors.median()
        spread = (errors - middle).abs().median().clamp_min(1e-3) * 1.4826  # the standard deviation of a Gaussian
        self._modules[c] = (network, middle, spread)
        return self.steps * size


@torch.no_grad()
def _log_error(network: nn.Module, flat: Tensor) -> Tensor:
    return (network(flat) - flat).square().mean(1).clamp_min(1e-12).log()
