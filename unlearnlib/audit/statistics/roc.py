"""Margins and receiver operating characteristics: the plumbing under every membership attack.

An attack gives each example a score, high for "member". Its ROC is the curve of the true positive rate over the false
positive rate as one threshold sweeps the scores. Two areas go by the name of AUC and differ on small samples: the
*empirical* area P[s_in > s_out] + P[s_in = s_out]/2, and the area under the *concave hull* of the curve, which an
attacker who may mix thresholds at random attains. Both are here, under different names.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, expit, logit, logsumexp
from scipy.stats import binom, norm, rankdata, t


def as_array(values, dtype=None) -> np.ndarray:
    """A numpy view of an array, a list or a torch tensor (detached, on the CPU).

    The one door for half precision: float16, bfloat16 and narrower are cast up to float32, exactly. numpy knows no
    bfloat16, and sums of halves overflow.
    """
    if hasattr(values, "detach"):
        values = values.detach()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        values = values.cpu().numpy()
    array = np.asarray(values, dtype=dtype)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def finite(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays with infinite entries put one range beyond the finite ones of all of them: order and ties stay.

    For statistics that take means or differences, where one infinite loss would turn all others into NaN.
    """
    together = np.concatenate([a.ravel() for a in arrays])
    known = together[np.isfinite(together)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    reach = (high - low) or 1.0
    return [np.where(np.isinf(a), np.where(a > 0, high + reach, low - reach), a) for a in arrays]


def margin(logits, labels) -> np.ndarray:
    """The logit of the probability of the labelled class, which is also the margin of KLoM.

        s(x) = z_y - log sum_{j != y} exp z_j = log p_y - log(1 - p_y)

    `logits` is [..., N, C] (any leading axes, say models), `labels` [..., N] or broadcastable to it. Returns float64
    [..., N]. Computed from the logits: through the probabilities it would be infinite once p_y rounds to 1.

    An infinite logit gives an infinite margin, which ranks. Raises ValueError for fewer than two classes, for NaN
    logits, for infinite logits that leave the margin undefined, and for labels that are not integers in 0..C-1.
    Carlini et al., arXiv 2112.03570, section IV.
    """
    z, y = as_array(logits), as_array(labels)
    if z.ndim < 2 or z.shape[-1] < 2:
        raise ValueError(f"logits must be [..., examples, classes] with two classes or more, not {z.shape}")
    if y.ndim < 1 or y.shape[-1] != z.shape[-2] or not np.isin(y, np.arange(z.shape[-1])).all():
        raise ValueError(f"labels must be integers in 0..{z.shape[-1] - 1}, one for each of {z.shape[-2]} examples")
    if z.ndim > 2:  # one model at a time keeps the float64 copy small
        y = np.broadcast_to(y, z.shape[:-1])
        return np.stack([margin(zm, ym) for zm, ym in zip(z, y, strict=True)])
    z = z.astype(np.float64)  # a copy: the labelled entry is overwritten below
    if np.isnan(z).any():
        raise ValueError("logits contain NaN: drop or repair the model before auditing it")
    rows = np.arange(len(z))
    labelled = z[rows, y.astype(np.int64)]
    z[rows, y.astype(np.int64)] = -np.inf
    others = logsumexp(z, axis=-1)
    if (np.isinf(labelled) & (labelled == others)).any():
        raise ValueError("logits are infinite on both sides of a margin: drop or repair the model before auditing it")
    return labelled - others


def clopper_pearson(k, n, level: float = 0.95, sides: int = 2):
    """Exact binomial interval for a proportion seen `k` times in `n`: (low, high), floats or arrays.

    `k` and `n` need not be whole: an effective number of independent examples has the limits of the beta law between.

    With `sides=2` both bounds hold together with probability `level` or more. With `sides=1` each bound on its own
    does, so that `clopper_pearson(0, n, 0.95, sides=1)[1] = 1 - 0.05**(1/n)`.

    Clopper and Pearson, Biometrika 1934.
    """
    k, n = np.asarray(k, float), np.asarray(n, float)
    if not np.all((k >= 0) & (k <= n) & (n > 0)):  # NaN fails, too
        raise ValueError("clopper_pearson needs 0 <= k <= n and n > 0")
    if not 0 < level < 1 or sides not in (1, 2):
        raise ValueError(f"level must lie in (0, 1) and sides be 1 or 2, not {level} and {sides}")
    tail = (1 - level) / sides
    low = np.where(k == 0, 0.0, betaincinv(np.maximum(k, 1e-300), n - k + 1, tail))
    high = np.where(k == n, 1.0, betaincinv(k + 1, np.maximum(n - k, 1e-300), 1 - tail))
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


@dataclass(frozen=True, eq=False)
class Roc:
    """One attack's ROC: `fpr`, `tpr` [points], ascending from (0, 0) to (1, 1), one point for each distinct score."""

    fpr: np.ndarray
    tpr: np.ndarray
    n_members: int
    n_nonmembers: int
    member_placements: np.ndarray  # for each member, the share of non-members below it (ties count half)
    nonmember_placements: np.ndarray  # for each non-member, the share of members above it

    @property
    def auc(self) -> float:
        """Empirical area: P[s_in > s_out] + P[s_in = s_out] / 2."""
        return float(self.member_placements.mean())

    @cached_property
    def hull(self) -> tuple[np.ndarray, np.ndarray]:
        """The vertices (fpr, tpr) of the smallest concave curve above the ROC."""
        chain: list[tuple[float, float]] = []
        for x, y in zip(self.fpr.tolist(), self.tpr.tolist(), strict=True):
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (y - ay) < (by - ay) * (x - ax):  # a right turn: b stays above the line from a to here
                    break
                chain.pop()
            chain.append((x, y))
        if chain[1][0] == 0:  # a wall at fpr = 0: its top alone, so that the hull is a function of fpr
            chain = chain[1:]
        x, y = np.array(chain).T
        return x, y

    @property
    def hull_auc(self) -> float:
        """Area under the concave hull, never below `auc`."""
        return float(np.trapezoid(self.hull[1], self.hull[0]))

    def tpr_at(self, fpr: float) -> float:
        """TPR at the last point of the curve whose FPR does not exceed `fpr`.

        Never the nearest point: that one may lie above `fpr`. Refused (ValueError) when n_nonmembers * fpr < 10,
        where a handful of examples would decide the value; `interval_at` gives its Clopper-Pearson interval.
        """
        if not 0 < fpr <= 1:
            raise ValueError(f"fpr must lie in (0, 1], not {fpr}")
        if self.n_nonmembers * fpr < 10 - 1e-9:
            need = math.ceil(10 / fpr - 1e-9)
            raise ValueError(f"TPR at FPR {fpr:g} needs {need} non-members or more; there are {self.n_nonmembers}")
        return float(self.tpr[np.searchsorted(self.fpr, fpr + 1e-12, side="right") - 1])

    def interval_at(self, fpr: float, level: float = 0.95) -> tuple[float, float]:
        """Interval of the true TPR at the true threshold for `fpr`: both samples may err. Refused as `tpr_at` is.

        Let q be the score that a share `fpr` of all non-members exceeds. The number J of the n sampled ones above q is
        Binomial(n, fpr), whatever their law, and if J = j then q lies between their order statistics j and j + 1
        from the top. Between those, K of the m members lie above q, with #{s > s_(j)} <= K <= #{s > s_(j+1)}; and K
        given q is Binomial(m, TPR). Averaging the Clopper-Pearson (beta) limits of K over the law of J,

            low:  sum_j P[J = j] I_x(k_j, m - k_j + 1) = (1 - level) / 2,        k_j = #{s > s_(j)}
            high: sum_j P[J = j] I_x(k_{j+1} + 1, m - k_{j+1}) = (1 + level) / 2,

        gives the limits; with many non-members they are Clopper-Pearson's. With ties q has a smaller FPR than asked
        for, and the strict inequalities keep the limits on their sides.
        """
        self.tpr_at(fpr)
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), not {level}")
        m, n, tail = self.n_members, self.n_nonmembers, (1 - level) / 2
        alarms, hits = np.rint(self.fpr * n), np.rint(self.tpr * m)
        j = np.arange(int(binom.ppf(1e-12, n, fpr)), int(binom.isf(1e-12, n, fpr)) + 1)
        chance = binom.pmf(j, n, fpr)
        at = hits[np.maximum(np.searchsorted(alarms, np.minimum(j[0] + np.arange(len(j) + 1), n)) - 1, 0)]
        fewest, most = at[:-1], np.where(j < n, at[1:], m)

        def below(x: float, k: np.ndarray, rest: np.ndarray) -> float:
            law = np.where(k <= 0, 1.0, np.where(rest <= 0, 0.0, betainc(np.maximum(k, 1), np.maximum(rest, 1), x)))
            return float(chance @ law / chance.sum())

        def limit(k: np.ndarray, rest: np.ndarray, part: float) -> float:
            if below(0.0, k, rest) >= part or below(1.0, k, rest) <= part:
                return 0.0 if below(0.0, k, rest) >= part else 1.0
            return float(brentq(lambda x: below(x, k, rest) - part, 0.0, 1.0, xtol=1e-12))

        return limit(fewest, m - fewest + 1, tail), limit(most + 1, m - most, 1 - tail)

    def band_at(self, fpr, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Limits of the true TPR at every FPR in `fpr` [k], all of them at once: for thresholds that were searched.

        Both distribution functions lie within sqrt(log(4 / (1 - level)) / (2 n)) of the sampled ones everywhere, with
        probability (1 + level) / 2 each (Dvoretzky, Kiefer and Wolfowitz with Massart's constant), so that

            TPR_sampled(fpr - e_n) - e_m  <=  TPR(fpr)  <=  TPR_sampled(fpr + e_n) + e_m

        holds for all fpr together, for any law and any number of examples. With 1,000 a side e = .047: wider than it
        need be, and most in the corner of low FPR, where `interval_at` is for one FPR that was fixed before.
        """
        fpr = np.atleast_1d(np.asarray(fpr, float))
        if fpr.ndim != 1 or not ((fpr >= 0) & (fpr <= 1)).all() or not 0 < level < 1:
            raise ValueError("give FPRs in [0, 1] and a level in (0, 1)")
        e_m, e_n = (math.sqrt(math.log(4 / (1 - level)) / (2 * n)) for n in (self.n_members, self.n_nonmembers))

        def sampled(at: np.ndarray) -> np.ndarray:
            return self.tpr[np.maximum(np.searchsorted(self.fpr, at + 1e-12, side="right") - 1, 0)]

        low = np.where(fpr < e_n, 0.0, np.maximum(sampled(np.maximum(fpr - e_n, 0)) - e_m, 0.0))
        above = np.minimum(np.searchsorted(self.fpr, fpr + e_n, side="right"), len(self.tpr) - 1)
        return low, np.where(fpr + e_n >= 1, 1.0, np.minimum(self.tpr[above] + e_m, 1.0))

    def hull_tpr_at(self, fpr: float) -> float:
        """TPR of the concave hull at `fpr`: a random mixture of two thresholds attains it."""
        if not 0 <= fpr <= 1:
            raise ValueError(f"fpr must lie in [0, 1], not {fpr}")
        return float(np.interp(fpr, *self.hull))

    @property
    def balanced_accuracy(self) -> float:
        """max over thresholds of (1 + TPR - FPR) / 2, in sample: above 1/2 even for a useless attack.

        Under the null it averages .562/.541/.528/.514 at 50/100/250/1000 a side, so it bounds what an attacker could
        do and is no estimate of it.
        """
        return float((1 + (self.tpr - self.fpr).max()) / 2)

    @property
    def standard_error(self) -> float:
        """DeLong's standard error of `auc`, for independent scores.

        Scores that share a model are not independent: resample models instead (`intervals.cluster_bootstrap`).
        """
        return math.sqrt(sum(self._variances))

    @property
    def _variances(self) -> tuple[float, float]:
        parts = ((self.member_placements, self.n_members), (self.nonmember_placements, self.n_nonmembers))
        return tuple(float(np.var(placements, ddof=1)) / n for placements, n in parts)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of `auc`: the wider limits of DeLong's, on the logit scale, and of an inverted test; inside [0, 1].

        DeLong's variance is the sum of two sample variances, over members and over non-members, so its quantile is
        Student's with Welch's degrees of freedom: with z, 3 against 30 examples would cover .88. Near the ends of the
        range that variance rests on the few examples that are out of order, and is too small where there happen to be
        none of the rarer ones: alone it covers .80 at an AUC of .98 if the laws differ in width. So neither limit lies
        within that of Newcombe's method 5, all theta that differ from `auc` by no more than z standard errors of
        Hanley and McNeil *at theta*; where all pairs are in order, or all tied, that is the interval. Separation of
        k = min(m, n) disjoint pairs has probability auc^k at most, so no limit is claimed beyond (1 - level)^(1/k).
        With three examples on a side against 30 it covers .935, with two against 50 .88.

        DeLong et al., Biometrics 1988; Newcombe, Statistics in Medicine 2006.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), not {level}")
        auc, sizes, parts = self.auc, (self.n_members, self.n_nonmembers), self._variances
        least = inverted_hanley_mcneil(auc, *sizes, level)
        if sum(parts) == 0 or not 0 < auc < 1:
            return least
        freedom = sum(parts) ** 2 / sum(v**2 / (n - 1) for v, n in zip(parts, sizes, strict=True))
        half = t.ppf(0.5 + level / 2, freedom) * math.sqrt(sum(parts)) / (auc * (1 - auc))
        low, high = (float(end) for end in expit(logit(auc) + np.array([-half, half])))
        return min(low, least[0]), max(high, least[1])


def inverted_hanley_mcneil(auc: float, m: int, n: int, level: float) -> tuple[float, float]:
    """All theta with |theta - auc| <= z sqrt(V(theta)), V the variance of Hanley and McNeil with balanced sizes.

    At auc 0 and 1 at least what min(m, n) disjoint pairs cannot exclude.
    """
    theta, z = np.linspace(0, 1, 20_001), norm.ppf(0.5 + level / 2)
    spread = (1 - theta) / (2 - theta) + theta / (1 + theta)
    variance = theta * (1 - theta) * (1 + ((m + n) / 2 - 1) * spread) / (m * n)
    inside = theta[np.abs(theta - auc) <= z * np.sqrt(variance) + 1e-12]
    pairs = (1 - level) ** (1 / min(m, n))
    low, high = (min(inside.min(), pairs) if auc == 1 else inside.min(), inside.max())
    return float(low), float(max(high, 1 - pairs) if auc == 0 else high)


def roc(scores, is_member) -> Roc:
    """The ROC of `scores` [N] (high means member) against the truth `is_member` [N] (bool).

    Raises ValueError for NaN scores, for shapes that differ, and unless there are two members and two non-members.
    """
    s, truth = as_array(scores, np.float64), as_array(is_member)
    if s.ndim != 1 or s.shape != truth.shape:
        raise ValueError(f"scores and is_member must be vectors of one length, not {s.shape} and {truth.shape}")
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise ValueError("is_member must be boolean, or 0 and 1")
        truth = truth.astype(bool)
    if np.isnan(s).any():
        raise ValueError("scores contain NaN: drop those examples from both sides first")
    m, n = int(truth.sum()), int((~truth).sum())
    if min(m, n) < 2:
        raise ValueError(f"a ROC needs two members and two non-members or more, not {m} and {n}")

    order = np.argsort(-s, kind="stable")
    ends = np.flatnonzero(np.append(s[order][1:] != s[order][:-1], True))  # the last of each run of ties
    hits = np.cumsum(truth[order])[ends]
    alarms = (ends + 1) - hits
    ranks = rankdata(s)
    placed = (ranks[truth] - rankdata(s[truth])) / n
    return Roc(
        fpr=np.concatenate([[0.0], alarms / n]),
        tpr=np.concatenate([[0.0], hits / m]),
        n_members=m,
        n_nonmembers=n,
        member_placements=placed,
        nonmember_placements=1 - (ranks[~truth] - rankdata(s[~truth])) / m,
    )
