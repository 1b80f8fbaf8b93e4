"""Distances between the outputs, the features or the weights of two models.

A distance to one retrained model means nothing without the distance between two retrained models: training noise alone
separates them. `relative` divides by it. All output distances take probabilities [examples, classes].
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from scipy.special import softmax as _softmax

from unlearnlib.audit.statistics.roc import as_array


def softmax(logits) -> np.ndarray:
    """Probabilities in float64 from logits [..., C]; infinite logits share all of the mass."""
    z = as_array(logits, np.float64)
    infinite = np.isposinf(z)
    if infinite.any():
        z = np.where(infinite.any(-1, keepdims=True), np.where(infinite, 0.0, -np.inf), z)
    return _softmax(z, axis=-1)


def _pair(p, q) -> tuple[np.ndarray, np.ndarray]:
    p, q = as_array(p, np.float64), as_array(q, np.float64)
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"two matrices [examples, classes] of one shape are needed, not {p.shape} and {q.shape}")
    for side in (p, q):
        if not (side.min(initial=0) >= 0 and np.abs(side.sum(1) - 1).max(initial=0) < 1e-4):  # NaN fails, too
            raise ValueError("give probabilities whose rows sum to one: softmax(logits), not logits")
    return p, q


def activation_distance(p, q, norm: str = "l2") -> float:
    """Mean over examples of ||p(x) - q(x)||.

    "l1" is the norm of Golatkar et al. (arXiv 1911.04933), "l2" that of the bad-teacher and SSD codes.
    """
    p, q = _pair(p, q)
    if norm not in ("l1", "l2"):
        raise ValueError(f'norm must be "l1" or "l2", not {norm!r}')
    return float(np.linalg.norm(p - q, ord=1 if norm == "l1" else 2, axis=1).mean())


def jensen_shannon(p, q) -> np.ndarray:
    """JS(p, q) = KL(p || m)/2 + KL(q || m)/2 with m = (p + q)/2, in nats, [N]. Symmetric, between 0 and log 2."""
    p, q = _pair(p, q)
    m = (p + q) / 2

    def kl(a: np.ndarray) -> np.ndarray:
        return (a * np.log(np.where(a > 0, a / np.where(m > 0, m, 1.0), 1.0))).sum(1)

    return np.clip((kl(p) + kl(q)) / 2, 0.0, np.log(2))  # rounding may leave -1e-17


def js_divergence(p, q) -> float:
    """Mean of `jensen_shannon` over the examples, in nats."""
    return float(jensen_shannon(p, q).mean())


def zrf(p, random_p) -> float:
    """Zero-retrain forgetting, 1 - mean JS to a randomly initialised model, here in nats: between 1 - log 2 and 1.

    A high value rewards random answers on the forget set, which a retrained model does not give: read `zrf_gap`.
    Chundawat et al., AAAI 2023, arXiv 2205.08096.
    """
    return 1 - js_divergence(p, random_p)


def zrf_gap(p, retrained_p, random_p) -> float:
    """ZRF of the unlearned model less that of the retrained one, 0 at best."""
    return zrf(p, random_p) - zrf(retrained_p, random_p)


def completeness(p, q) -> float:
    """Share of examples on which both models name the same class. Takes probabilities or logits."""
    p, q = as_array(p), as_array(q)
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"two matrices [examples, classes] of one shape are needed, not {p.shape} and {q.shape}")
    return float((p.argmax(1) == q.argmax(1)).mean())


def layer_distances(model, other) -> dict[str, float]:
    """||theta - theta'||_2 for each parameter of two modules of one architecture.

    Weak evidence: hidden units can be permuted, so two retrained models are far apart, and weights can be forged.
    """
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    if ours.keys() != theirs.keys() or any(ours[k].shape != theirs[k].shape for k in ours):
        raise ValueError("layer_distances needs two models of one architecture")
    return {k: float(np.linalg.norm(as_array(ours[k], np.float64) - as_array(theirs[k], np.float64))) for k in ours}


def weight_distance(model, other) -> float:
    """||theta - theta'||_2 over all parameters."""
    return float(np.sqrt(sum(d * d for d in layer_distances(model, other).values())))


def relative(distance: Callable, candidate, oracles: Sequence) -> float:
    """Mean distance of `candidate` to the oracles over the mean distance between two oracles: 1 for one more retrain.

    `distance` takes two outputs (or two models) such as `js_divergence`; `oracles` holds two or more of them.
    """
    if len(oracles) < 2:
        raise ValueError(f"the distance between retrained models needs two of them, not {len(oracles)}")
    between = float(np.mean([distance(a, b) for a, b in combinations(oracles, 2)]))
    if between == 0:
        raise ValueError("the retrained models are identical: give models trained from different seeds")
    return float(np.mean([distance(candidate, o) for o in oracles])) / between


def linear_cka(features, other) -> float:
    """Debiased linear centred kernel alignment of features [N, d] and [N, e]: 1 for the same, 0 for unrelated ones.

        HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)),    up to a factor and with centred rows x_i, y_i,
        HSIC(X, Y) = ||X'Y||^2 - n/(n-2) sum_i |x_i|^2 |y_i|^2 + (sum_i |x_i|^2) (sum_i |y_i|^2) / ((n-1) (n-2))

    The three terms take out what an example has in common with itself; without them the value grows with d / n, and
    independent features of 50 examples in 512 dimensions score .91. The estimate of HSIC is unbiased (Song et al., JMLR
    2012), and an inner product, so that the ratio lies in [-1, 1]: slightly negative where there is nothing.

    Blind to rotation and scale, so head edits and permuted units do not move it. Kornblith et al., arXiv 1905.00414.
    Raises ValueError for fewer than four examples and for features that are constant or not finite.
    """
    x, y = as_array(features, np.float64), as_array(other, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"two feature matrices of the same examples are needed, not {x.shape} and {y.shape}")
    if len(x) < 4:
        raise ValueError(f"alignment needs four examples or more, not {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features are not finite: alignment is undefined")
    sides = []
    for side in (x, y):
        centred = side - side.mean(0)
        if np.abs(centred).max(initial=0) <= 1e-12 * np.abs(side).max(initial=0):
            raise ValueError("features are constant: alignment is undefined")
        sides.append(centred / np.abs(centred).max())  # the ratio is blind to scale, and squares of squares may not fit
    x, y = sides
    own = _hsic(x, x), _hsic(y, y)
    if min(own) <= 1e-12:
        raise ValueError("features differ in one example alone: alignment is undefined")
    return float(np.clip(_hsic(x, y) / np.sqrt(own[0] * own[1]), -1, 1))  # rounding may leave 1 + 1e-16


def _hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased, for centred x [N, d] and y [N, e], times n (n - 3)."""
    n, lengths_x, lengths_y = len(x), (x**2).sum(1), (y**2).sum(1)
    wide = min(x.shape[1], y.shape[1]) > n
    together = ((x @ x.T) * (y @ y.T)).sum() if wide else ((x.T @ y) ** 2).sum()
    both = lengths_x.sum() * lengths_y.sum() / ((n - 1) * (n - 2))
    return float(together - n / (n - 2) * (lengths_x @ lengths_y) + both)


def fisher_ratio(features, labels) -> float:
    """tr S_B / tr S_W: spread of the class means over the spread within classes (infinite when that is 0).

    S_B = sum_c (n_c / n) (mu_c - mu)(mu_c - mu)',   S_W = (1/n) sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})'
    """
    x, y = as_array(features, np.float64), as_array(labels)
    if x.ndim != 2 or len(x) != len(y) or len(np.unique(y)) < 2:
        raise ValueError("features [N, d] with labels [N] of two classes or more are needed")
    _, index, counts = np.unique(y, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, index, x)
    means /= counts[:, None]
    between = float((counts[:, None] * (means - x.mean(0)) ** 2).sum() / len(x))
    within = float(((x - means[index]) ** 2).sum() / len(x))
    return between / within if within > 0 else float("inf")
