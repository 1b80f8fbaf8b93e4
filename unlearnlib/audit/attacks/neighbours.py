"""Class neighbours: where the probability of a forgotten class went.

A model retrained without cats has never been told what a cat is; shown one, it says "dog". Which classes it names
instead, and how surely, is set by the likeness of the classes, and is much the same in every retrained model. An
unlearned model whose answer for the forgotten class was pushed down, or spread evenly, gives another profile: the
accuracy on the forgotten class is right (0), and an observer still sees that a class was removed. With p(x) the answer
to an input of the forgotten class c, renormalised over the others, q_j = p_j / (1 - p_c), and n the neighbour, the
class with the largest mean q over retrained models,

    score of a model = mean over x in c of  log q_n(x) - log (1 - q_n(x)),

which is compared with the same score of retrained models (`statistics.against_null`). In logits it is
z_n - log sum_{j not in {c, n}} exp z_j: the margin of the neighbour with class c left out, so it does not matter how
far down z_c was pushed.

That is one number for a class. The second one looks at each input: the mean distance of its profile from what retrained
models say there,

    distance of a model = mean over x of  1/2 sum_j |q_j(x) - mean over retrained models of q_j(x)|,

where a retrained model is held against the others. The attack takes the better of the two, at twice its p-value.

*Direction*: two-sided for the score; more distance is worse. *Units*: nats of log-odds; total variation. *Null*: one
more retrained model (level measured on 8 x 8 digits: .048 and .028); power: see `against_null`. There, with one
candidate beside 8 retrained networks, the distance finds 3 of 3 unlearnings by random_labels, delete, boundary_shrink,
unsir and neggrad_plus, at an accuracy of 0 on the class for all but unsir; the score alone finds the first and the
last. *Cost*: forward passes on inputs of one class, and K >= 2 retrained models (8 for a useful power). *Blind to* how
far the class itself was pushed down, which accuracy sees, to a retained class that is damaged, and to single examples.

"Unlearning Isn't Forgetting", Ebrahimpour-Boroojeny, Wang and Sundaram, ICML 2026 (PMLR 306), arXiv 2506.20893.
**Reconstruction**: built from the abstract's idea, the probabilities that neighbouring classes get; the distance is
ours. See `discriminators` for the attack by classifiers.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from unlearnlib.audit.statistics.against_null import AgainstNull, against_null
from unlearnlib.audit.statistics.roc import as_array


@dataclass(frozen=True, eq=False)
class NeighbourAttack:
    """`neighbour`: the class that retrained models name instead; `comparison`: of the score of that class, in nats;
    `distances`: of the distance from the profile of retrained models.

    `profile` and `null_profile` [classes]: mean probability of each class, the forgotten one left out and 0; averaged
    over candidates and over retrained models.
    """

    forgotten: int
    neighbour: int
    comparison: AgainstNull
    distances: AgainstNull
    profile: np.ndarray
    null_profile: np.ndarray

    @property
    def p_value(self) -> float:
        """Twice the smaller one of the two, at most 1 (Bonferroni)."""
        return min(2 * self.comparison.p_value, 2 * self.distances.p_value, 1.0)

    def detected(self, level: float = 0.95) -> bool:
        return self.p_value <= 1 - level


def neighbour_attack(unlearned, retrained, forgotten: int, level: float = 0.95) -> NeighbourAttack:
    """Attack class unlearning by the probabilities of the neighbouring classes.

    `unlearned` [N, C] or [M, N, C] and `retrained` [K, N, C] are logits on N inputs *of the forgotten class*, best ones
    that no model has seen. Raises ValueError for fewer than three classes or two retrained models, for shapes that do
    not fit, for logits that are not finite, and for a class that does not exist.
    """
    u, r = class_logits(unlearned, "unlearned"), class_logits(retrained, "retrained")
    if u.shape[1:] != r.shape[1:] or len(r) < 2:
        raise ValueError(
            f"needs logits of two retrained models or more on the same inputs, not {u.shape} and {r.shape}"
        )
    check_class(forgotten, u.shape[-1])
    ours, theirs = _without(u, forgotten), _without(r, forgotten)
    profiles = [q.mean((0, 1)) for q in (ours, theirs)]
    neighbour = int(profiles[1].argmax())
    scores = (neighbour_score(z, forgotten, neighbour) for z in (u, r))
    total, k = theirs.sum(0), len(theirs)
    away = [_distance(q, total / k) for q in ours], [_distance(q, (total - q) / (k - 1)) for q in theirs]
    compared = against_null(*scores, level), against_null(*away, level)
    return NeighbourAttack(forgotten, neighbour, *compared, *profiles)


def neighbour_score(logits, forgotten: int, neighbour: int) -> np.ndarray:
    """Mean log-odds of `neighbour` among all classes but `forgotten`, one for each model of `logits` [M, N, C], [M]."""
    z = class_logits(logits, "logits")
    check_class(forgotten, z.shape[-1])
    check_class(neighbour, z.shape[-1])
    if forgotten == neighbour:
        raise ValueError("a class is not its own neighbour: name two classes")
    rest = np.delete(z, [forgotten, neighbour], axis=-1)
    return (z[..., neighbour] - logsumexp(rest, axis=-1)).mean(-1)


def class_logits(values, name: str) -> np.ndarray:
    """`values` as finite float64 logits [models, inputs, classes], three classes or more."""
    z = as_array(values, np.float64)
    z = z[None] if z.ndim == 2 else z
    if z.ndim != 3 or z.shape[-1] < 3 or 0 in z.shape:
        raise ValueError(f"{name} must be logits [models, inputs, classes] of three classes or more, not {z.shape}")
    if not np.isfinite(z).all():
        raise ValueError(f"{name} are not finite: drop or repair the model before auditing it")
    return z


def check_class(number: int, classes: int) -> None:
    if isinstance(number, bool) or number != int(number) or not 0 <= number < classes:
        raise ValueError(f"there is no class {number}: classes are 0..{classes - 1}")


def _without(z: np.ndarray, forgotten: int) -> np.ndarray:
    """Probabilities over all classes but the forgotten one."""
    z = z.copy()
    z[..., forgotten] = -np.inf
    return np.exp(z - logsumexp(z, axis=-1, keepdims=True))


def _distance(q: np.ndarray, reference: np.ndarray) -> float:
    """Mean total variation between two profiles [inputs, classes]."""
    return float(np.abs(q - reference).sum(-1).mean() / 2)
