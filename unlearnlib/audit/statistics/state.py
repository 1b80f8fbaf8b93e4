"""The state matrix: which model was trained on which example, and which it then forgot; fixed before training.

    state[m, i] in {retain, forget, never}

Every example is in every state equally often, so that what makes an example easy or hard cannot tell members from
non-members: each serves as its own control. One matrix drives all originals, retrains and unlearned models of a study.
RULI, arXiv 2506.13009, balances the three states per example in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.seeding import numpy_generator

RETAIN, FORGET, NEVER = 0, 1, 2
STATES = ("retain", "forget", "never")


@dataclass(frozen=True, eq=False)
class StateMatrix:
    """The design of an audit: `state` [models, examples] of int8 codes and `parents` [models].

    Models that share a parent are siblings: they were unlearned from one original, trained on the same examples, and
    differ in their forget sets. They must leave the shadow models together.
    """

    state: np.ndarray
    parents: np.ndarray

    @property
    def trained(self) -> np.ndarray:
        """Bool [models, examples]: what the original of each model was trained on (retain and forget)."""
        return self.state != NEVER

    def forget_set(self, model: int) -> np.ndarray:
        """Positions [n] of the examples which this model unlearns."""
        return np.flatnonzero(self.state[model] == FORGET)

    def retain_set(self, model: int) -> np.ndarray:
        """Positions [n] of the examples which this model keeps, and its retrained counterpart is trained on."""
        return np.flatnonzero(self.state[model] == RETAIN)


def state_matrix(
    models: int, examples: int, *, states: Sequence[str] = STATES, siblings: int = 1, seed: int
) -> StateMatrix:
    """A random state matrix, balanced for each example.

    Within each column the counts of the states differ by at most one (by at most `siblings` for those that share an
    original); which models get which state is uniform and independent between examples. Forget sets therefore vary in
    size around models' share of the examples. `states` names two or three of retain, forget and never: all three for a
    study of unlearning, ("retain", "never") for attacks on originals, ("forget", "never") for the cheapest game B.
    `siblings` consecutive models share one original.

    Raises ValueError for unknown states, for fewer models than states, and if `siblings` does not divide `models`.
    """
    codes = np.array([STATES.index(s) for s in states if s in STATES])
    if len(codes) != len(states) or len(set(states)) != len(states) or len(states) < 2:
        raise ValueError(f"states must be two or three different ones of {', '.join(STATES)}, not {tuple(states)}")
    if siblings < 1 or models % siblings or models // siblings < len(states) or examples < 1:
        raise ValueError(
            f"need a multiple of {siblings} siblings with {len(states)} originals or more, not {models} models"
        )
    rng = numpy_generator(seed, "state-matrix")
    originals = models // siblings

    # Slots 0, 1, 2, 0, 1, 2, ... of a column, their labels permuted and then their order: counts differ by one at most.
    def balanced(rows: int, labels: np.ndarray) -> np.ndarray:
        names = rng.permuted(np.tile(labels[:, None], (1, examples)), axis=0)
        return rng.permuted(names[np.arange(rows) % len(labels)], axis=0)

    never = np.repeat(balanced(originals, codes) == NEVER, siblings, axis=0)
    trained = codes[codes != NEVER]
    order = np.argsort(rng.random((models, examples)) + 2 * never, axis=0)  # a column's trained models first, shuffled
    names = rng.permuted(np.tile(trained[:, None], (1, examples)), axis=0)
    state = np.empty((models, examples), np.int8)
    np.put_along_axis(state, order, names[np.arange(models) % len(trained)].astype(np.int8), axis=0)
    state[never] = NEVER
    return StateMatrix(state, np.repeat(np.arange(originals), siblings))


def imbalance(state, first: int = FORGET, second: int = NEVER) -> np.ndarray:
    """Per example, |n_first - n_second| / (n_first + n_second) [examples]: 0 when balanced, NaN when neither occurs.

    Where this depends on the example, attacks that pool scores over examples find members without any leakage.
    """
    s = check_state(state)
    a, b = (s == first).sum(0), (s == second).sum(0)
    with np.errstate(invalid="ignore"):
        return np.abs(a - b) / (a + b)


def check_state(state) -> np.ndarray:
    """`state` as an integer matrix [models, examples], or ValueError."""
    s = as_array(state.state if isinstance(state, StateMatrix) else state)
    if s.ndim != 2 or not np.isin(s, (RETAIN, FORGET, NEVER)).all():
        raise ValueError("state must be [models, examples] with codes 0 (retain), 1 (forget) and 2 (never)")
    return s.astype(np.int8)
