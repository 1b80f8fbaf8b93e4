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

*Direction*: two-sided. *Units*: nats of log-odds. *Null*: one more retrained model; level and power are those of
`against_null`. *Cost*: forward passes on inputs of one class, and K >= 2 retrained models (8 for a useful power).
*Blind to* everything but the profile of class c: how far the class itself was pushed down (doing nothing passes,
accuracy sees that), a retained class that is damaged, single examples.

"Unlearning Isn't Forgetting", Ebrahimpour-Boroojeny, Wang and Sundaram, ICML 2026 (PMLR 306), arXiv 2506.20893.
**Reconstruction**: built from the abstract's idea, the probabilities that neighbouring classes get. See
`discriminators` for the attack by classifiers.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from unlearnlib.audit.statistics.against_null import AgainstNull, against_null
from unlearnlib.audit.statistics.roc import as_array


@dataclass(frozen=True, eq=False)
class NeighbourAttack:
    """`neighbour`: the class that retrained models name instead; `comparison`: of the score of that class, in nats.

    `profile` and `null_profile` [classes]: mean probability of each class, the forgotten one left out and 0; averaged
    over candidates and over retrained models. `distance`: half the sum of their absolute differences (total variation).
    """

    forgotten: int
    neighbour: int
    comparison: AgainstNull
    profile: np.ndarray
    null_profile: np.ndarray

    @property
    def p_value(self) -> float:
        return self.comparison.p_value

    @property
    def distance(self) -> float:
        return float(np.abs(self.profile - self.null_profile).sum() / 2)


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
    profiles = [_without(z, forgotten).mean((0, 1)) for z in (u, r)]
    neighbour = int(profiles[1].argmax())
    scores = (neighbour_score(z, forgotten, neighbour) for z in (u, r))
    return NeighbourAttack(forgotten, neighbour, against_null(*scores, level), *profiles)


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
