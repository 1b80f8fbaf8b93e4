"""Streams of deletion requests, their replay, and two attacks that exact unlearning does not stop.

The attack on a trained `Sisa` is in `shard_attack`; here is its smallest model, with shards that are tables.

A stream is an iterable of requests; a request is an array of positions in the fitted examples. Streams that react to
the learner are generators: `replay` asks for the next request only after it has carried out the last one.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from unlearnlib.data import doors
from unlearnlib.methods.records import Receipt
from unlearnlib.seeding import numpy_generator


def uniform(n: int, requests: int, size: int = 1, seed: int = 0) -> list[np.ndarray]:
    """`requests` disjoint requests of `size` positions, drawn uniformly from `n` examples."""
    doors.whole(n=n, requests=requests, size=size)
    if requests * size >= n:
        raise ValueError(f"{requests} requests of {size} would take all {n} examples: ask for fewer")
    order = numpy_generator(seed, "uniform deletions").permutation(n)[: requests * size]
    return list(order.reshape(requests, size))


def by_class(labels, chosen: int, size: int = 1, seed: int = 0) -> list[np.ndarray]:
    """The whole class `chosen` in random order, `size` positions a request (the last may be smaller)."""
    doors.whole(size=size)
    members = np.flatnonzero(np.asarray(labels) == chosen)
    if not len(members):
        raise ValueError(f"no example has label {chosen}; labels are {np.unique(np.asarray(labels)).tolist()}")
    order = numpy_generator(seed, "class deletions", chosen).permutation(members)
    return [order[start : start + size] for start in range(0, len(order), size)]


def adversarial(
    learner,
    n: int,
    requests: int,
    cost: Callable[[Receipt], float] | None = None,
    candidates: int = 50,
    seed: int = 0,
    foreseen: Callable[[int], float] | None = None,
) -> Iterator[np.ndarray]:
    """Single deletions, each the most costly of `candidates` random ones.

    Every candidate is tried out on a copy of the learner; `cost` reads a number from the receipt, for example
    `lambda r: r.touched["examples_retrained"]`. Where the cost of a deletion is known beforehand, give `foreseen`
    instead, a function of the position: `lambda i: sisa.plan([i])["gradient evaluations"].sum()`. The worst-of-c
    adversary of Brophy & Lowd (brophy2021).
    """
    if (cost is None) == (foreseen is None):
        raise ValueError("give cost=, which reads a receipt, or foreseen=, which knows the cost of a position")
    doors.whole(n=n, candidates=candidates)
    rng, present = numpy_generator(seed, "adversarial deletions"), np.arange(n)
    for _ in range(requests):
        tried = rng.choice(present, min(candidates, len(present)), replace=False)
        costs = [foreseen(int(i)) if foreseen else cost(copy.deepcopy(learner).forget([i])) for i in tried]
        worst = tried[int(np.argmax(costs))]
        present = present[present != worst]
        yield np.array([worst])


def adaptive(
    learner, examples, requests: int, choose: Callable[[np.ndarray, np.ndarray], np.ndarray], size: int = 1
) -> Iterator[np.ndarray]:
    """Deletions chosen from the published predictions.

    Before each request the learner's logits on the examples still present are published; the `size` examples with
    the largest `choose(logits [m, classes], labels [m])` [m] ask to be deleted, the first of equal ones.
    """
    labels, present = examples.labels.numpy(), np.arange(len(examples))
    for _ in range(requests):
        scores = choose(learner.logits(examples[present].pixels()).numpy(), labels[present])
        chosen = np.argsort(-np.asarray(scores), kind="stable")[:size]
        request, present = present[chosen], np.delete(present, chosen)
        yield request


def replay(learner, stream: Iterable) -> pd.DataFrame:
    """Carry out a stream; one row a request.

    Columns: request, size, seconds, gradient_evaluations, forward_evaluations, and the counts in `Receipt.touched`.
    """
    rows = []
    for number, request in enumerate(stream):
        receipt, named = learner.forget(request), np.atleast_1d(request)
        cost = receipt.cost
        rows.append(
            {
                "request": number,
                "size": int(named.sum()) if named.dtype == bool else len(named),
                "seconds": cost.seconds,
                "gradient_evaluations": cost.gradient_evaluations,
                "forward_evaluations": cost.forward_evaluations,
                **receipt.touched,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Recovered:
    """What two releases reveal about one deleted row.

    direction  [d] the row of X, of unit length and unknown sign
    row        the row itself, if its last entry is known to be 1 (an intercept), else None
    label      the class of one-hot or signed targets, if `row` is known and there are several targets, else None
    rank_one   share of the squared singular values in the first: 1 if exactly one row was deleted
    """

    direction: np.ndarray
    row: np.ndarray | None
    label: int | None
    rank_one: float


def two_release_attack(before: np.ndarray, after: np.ndarray, gram: np.ndarray, intercept: bool = True) -> Recovered:
    """Recover the deleted row from the ridge solutions before and after, both exact.

        A (theta - theta_-i) = x_i e_i' / (1 - h_ii)

    has rank one: left singular vector the deleted row, up to sign and length; and e_i / (1 - h_ii) is the error of the
    later model at that row, so x_i theta_-i plus it is the target. `before`
    and `after` are [d, m]; `gram` is A = X'X + lam D [d, d] before the deletion, or after it: both give the same
    direction, because A_-i = A - x_i x_i'. An attacker who has the other rows knows the latter. With an intercept the
    last entry of a row is 1, which fixes sign and length. Unlearning here is perfect: the leak is in the difference of
    two releases (Chourasia & Shah 2023).
    """
    change = gram @ (np.asarray(before) - np.asarray(after))
    change = change[:, None] if change.ndim == 1 else change
    left, values, _ = np.linalg.svd(change, full_matrices=False)
    if not values[0] > 0:
        raise ValueError("the two releases are equal: nothing was deleted between them")
    direction = left[:, 0]
    row = direction / direction[-1] if intercept else None
    label = None
    if row is not None and change.shape[1] > 1:  # the target is what the later model says plus its error there
        label = int(np.argmax(row @ np.asarray(after) + change.T @ row / (row @ row)))
    return Recovered(direction, row, label, float(values[0] ** 2 / (values**2).sum()))


def adaptive_shard_attack(
    pairs: int = 200, epsilon: float = math.inf, adaptive: bool = True, repeats: int = 200, seed: int = 0
) -> pd.DataFrame:
    """A deleter who reads the published votes breaks a guarantee that holds for sharding against a blind one.

    Our minimal construction after Gupta et al. 2021, who prove that sharded unlearning fails against adaptive
    deletions. Each of `pairs` distinct points is held twice. Three shards; every example is assigned to one at random,
    once and for all. A shard's model is a table: it votes 1 on the points that it holds and 0 on all others. The
    majority is published; on a point it is 1 exactly if its two copies are in different shards, with probability 2/3.

    The adaptive deleter has both copies of every point deleted whose published vote is 1; the blind one deletes as
    many points, chosen beforehand without looking (those of an independent assignment). Deletion in a sharded learner
    empties tables, and the other assignments stay. The retrained learner draws assignments for the remaining points
    anew. Compared is the rate of votes 1 on the remaining points: 2/3 after retraining, 0 in the attacked learner.

    With finite `epsilon` each published vote is flipped with probability q = 1 / (1 + e^epsilon) (randomised response,
    epsilon-differentially private in the assignments of each pair). The attacked rate is then

        P(different | published 0) = 2 q / (2 q + (1 - q)),

    which rises to 2/3 as epsilon falls to 0. Drawing all assignments again after each deletion also repairs it, and is
    retraining. Returns a row a repeat: repeat, deleted, unlearned_rate, retrained_rate.
    """
    if epsilon < 0 or pairs < 1 or repeats < 1:
        raise ValueError("epsilon must be at least 0, pairs and repeats at least 1")
    flip = 1 / (1 + math.exp(epsilon)) if epsilon < 700 else 0.0
    rows = []
    for repeat in range(repeats):
        rng = numpy_generator(seed, "adaptive shard attack", repeat)

        def votes(n: int, rng=rng) -> np.ndarray:
            shards = rng.integers(3, size=(2, n))
            return shards[0] != shards[1]

        inside = votes(pairs)
        published = inside ^ (rng.random(pairs) < flip)
        blind = votes(pairs) ^ (rng.random(pairs) < flip)
        deleted = published if adaptive else blind
        left = int((~deleted).sum())
        if left:
            rows.append((repeat, pairs - left, inside[~deleted].mean(), votes(left).mean()))
    return pd.DataFrame(rows, columns=["repeat", "deleted", "unlearned_rate", "retrained_rate"])
