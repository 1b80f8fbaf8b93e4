"""What the private learners share: hyper-parameters frozen in the constructor, and a ledger of what is retained.

    learner = SomeLearner(hyper-parameters)
    learner.fit(examples)              train; indices below are positions in these examples, for good
    learner.forget(indices)            -> Receipt with a Certificate
    learner.logits(images)             -> [n, classes] float32 from the published weights

A guarantee is bought in advance: the noise allows so many deletions. Once they are used up, `on_exhausted` says what
happens: "refuse" raises BudgetExhausted and changes nothing, "retrain" trains afresh on the retained examples.
"""

import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
from torch import Tensor

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.methods.records import Certificate, Cost, Receipt
from unlearnlib.private.checks import check_choice
from unlearnlib.training.prediction import predict

ON_EXHAUSTED = ("refuse", "retrain")


class BudgetExhausted(ValueError):
    """The noise that was added at training time does not cover this deletion."""


@dataclass(frozen=True, eq=False)
class Learner:
    """Base of the learners. Hyper-parameters never change.

    `state` is empty before `fit`; `state.training_cost` is the Cost of the last training from scratch.
    """

    state: SimpleNamespace = field(init=False, repr=False, default_factory=SimpleNamespace)
    seed: int = field(default=0, kw_only=True)
    on_exhausted: str = field(default="refuse", kw_only=True)  # or "retrain"

    def __post_init__(self):
        check_choice("on_exhausted", self.on_exhausted, ON_EXHAUSTED)

    def fit(self, examples: Examples) -> "Learner":
        """Train on `examples`, forgetting any earlier fit. Returns the learner itself."""
        examples = Examples.of(examples)
        if len(examples) == 0:
            raise ValueError("fit needs at least one example")
        self.state.__dict__.clear()
        self.state.examples = examples
        self.state.alive = torch.ones(len(examples), dtype=torch.bool)
        self.state.trainings = 0
        self._retrain(self.state.alive)
        return self

    def forget(self, indices) -> Receipt:
        """Forget the examples at these positions; returns cost, what was touched and what is certified.

        Raises ValueError as `doors.deletion` does, and BudgetExhausted.
        """
        start = time.perf_counter()
        index = doors.deletion(indices, self._fitted().alive)
        keep = self.state.alive.clone()
        keep[index] = False
        try:
            touched, gradients, certificate = self._unlearn(index, keep)
        except BudgetExhausted:
            if self.on_exhausted != "retrain":
                raise
            gradients = self._retrain(keep)
            touched, certificate = {"retrained": 1}, self._exact()
        self.state.alive = keep
        return Receipt(Cost(time.perf_counter() - start, gradients), touched, certificate)

    def retained(self) -> Examples:
        """The examples that were fitted and not forgotten."""
        return self._fitted().examples[self.state.alive]

    def reference(self, seed: int) -> "Learner":
        """A new learner from the law that the last certificate compares with, on the retained examples.

        Every certificate names its reference in words; this runs it, so that an audit can compare the two.
        """
        return replace(self, seed=seed).fit(self.retained())

    def _answer(self, model: torch.nn.Module, images) -> Tensor:
        """Logits [n, classes] float32 of a network for images of the fitted shape."""
        return predict(model, doors.pixels(images, shape=self._fitted().examples.shape))

    def _retrain(self, keep: Tensor) -> int:
        start = time.perf_counter()
        self.state.trainings += 1
        gradients = self._train(keep)
        self.state.training_cost = Cost(time.perf_counter() - start, gradients)
        return gradients

    def _train(self, keep: Tensor) -> int:
        """Train on the examples marked by `keep` with fresh randomness; returns gradient evaluations."""
        raise NotImplementedError

    def _unlearn(self, index: Tensor, keep: Tensor) -> tuple[dict[str, int], int, Certificate]:
        """Remove the examples at `index`, leaving those marked by `keep`.

        Returns what was touched, gradient evaluations and the certificate; or raises BudgetExhausted and leaves
        everything as it was.
        """
        raise NotImplementedError

    @staticmethod
    def _exact() -> Certificate:
        """After retraining: the law of the weights is that of training on the retained examples."""
        return Certificate("exact", "training on the retained examples only, with fresh randomness")

    def _rng(self, name: str) -> torch.Generator:
        """A generator that is fresh for every call: the count of calls since `fit` is part of its name."""
        self.state.draws = getattr(self.state, "draws", 0) + 1
        return seeding.generator(self.seed, type(self).__name__, name, self.state.draws)

    def _fitted(self) -> SimpleNamespace:
        if not hasattr(self.state, "examples"):
            raise ValueError(f"{type(self).__name__} is not trained yet: call fit(examples) first")
        return self.state
