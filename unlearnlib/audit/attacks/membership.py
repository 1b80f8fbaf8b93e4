"""Population membership attacks: one model, one threshold for all examples. Baselines only.

They ask whether the model's losses on the forget set look like its losses on pictures that it never saw. Three traps
of the released codes are closed here. Unequal sides make "always the larger side" score above one half, so sides are
balanced by default and the constant attacker's accuracy is reported next to the attack's. Losses pushed *above* those
of unseen pictures betray membership as well as losses below, so there is a two-sided attack. And thresholds are never
fitted on the examples they score.

The ideal is the retrained model's value, which is not 1/2 where forget set and unseen pictures differ in kind.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t
from sklearn.svm import SVC

from unlearnlib.audit.attacks.logistic import logistic_1d
from unlearnlib.audit.statistics.intervals import on_logit_scale
from unlearnlib.audit.statistics.roc import Roc, as_array, clopper_pearson, finite, roc
from unlearnlib.seeding import numpy_generator

FENCE = 50.0  # times the distance from the median to its 5% or 95% quantile, beyond which a loss is drawn in
CONSTANT = "the attacker gives one answer for every example: its accuracy is the majority rate and says nothing"


@dataclass(frozen=True)
class Attack:
    """Accuracy of an attack on held-out examples, with what a constant answer would score on them."""

    accuracy: float
    low: float
    high: float
    majority: float  # accuracy of the better constant answer on the same held-out examples
    n_members: int
    n_nonmembers: int
    valid: bool
    reason: str  # why not valid, or empty

    @property
    def forgetting_score(self) -> float:
        """|1/2 - accuracy|, 0 at best."""
        return abs(0.5 - self.accuracy)


def _vector(values, name: str) -> np.ndarray:
    v = as_array(values, np.float64)
    if v.ndim != 1 or len(v) < 2 or np.isnan(v).any():
        raise ValueError(f"{name} must be a vector of two values or more, without NaN")
    return v


def balanced(members: np.ndarray, nonmembers: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sides at the size of the smaller one; the larger is subsampled at random, in its own order."""
    size = min(len(members), len(nonmembers))

    def take(side: np.ndarray, name: str) -> np.ndarray:
        if len(side) == size:
            return side
        return side[np.sort(numpy_generator(seed, "balance", name).choice(len(side), size, replace=False))]

    return take(members, "members"), take(nonmembers, "nonmembers")


def held_out_sizes(n_members: int, n_nonmembers: int, test_size: float = 0.1) -> tuple[int, int]:
    """Members and non-members among ceil(test_size * n) held-out examples, stratified (one more if that keeps 1:1)."""
    total = n_members + n_nonmembers
    n_test = math.ceil(total * test_size - 1e-9)
    n_test += n_test % 2 if n_members == n_nonmembers else 0
    members = math.floor(n_test * n_members / total + 0.5)
    return members, n_test - members


def majority_accuracy(n_members: int, n_nonmembers: int, test_size: float = 0.1) -> float:
    """Accuracy on the held-out share of an attacker that always names the larger side. 3314 : 3068 gives 332/639."""
    sizes = held_out_sizes(n_members, n_nonmembers, test_size)
    return max(sizes) / sum(sizes)


def majority_check(accuracy: float, n_members: int, n_nonmembers: int, test_size: float = 0.1) -> str:
    """Why a published cross-validated accuracy carries no information, or an empty string.

    For use where the predictions are not to be had: equality to all digits with the majority rate of the held-out
    examples gives the constant attacker away.
    """
    majority = majority_accuracy(n_members, n_nonmembers, test_size)
    return CONSTANT if abs(accuracy - majority) < 1e-12 else ""


def stratified_splits(
    n_members: int, n_nonmembers: int, *, splits: int = 10, test_size: float = 0.1, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Independent stratified shuffle splits of 0..n-1, members first: (train, test) indices [splits, ...]."""
    test_members, test_nonmembers = held_out_sizes(n_members, n_nonmembers, test_size)
    if min(test_members, test_nonmembers, n_members - test_members, n_nonmembers - test_nonmembers) < 1:
        raise ValueError(f"too few examples to hold out {test_size:g} of {n_members} members and {n_nonmembers} others")
    rng = numpy_generator(seed, "stratified-splits")
    a = rng.random((splits, n_members)).argsort(axis=1)
    b = rng.random((splits, n_nonmembers)).argsort(axis=1) + n_members
    train = np.concatenate([a[:, test_members:], b[:, test_nonmembers:]], axis=1)
    return train, np.concatenate([a[:, :test_members], b[:, :test_nonmembers]], axis=1)


def loss_attack(
    member_losses,
    nonmember_losses,
    *,
    seed: int,
    balance: bool = True,
    standardise: bool = True,
    splits: int = 10,
    test_size: float = 0.1,
    level: float = 0.95,
) -> Attack:
    """Cross-validated logistic regression on the scalar loss, the attack of the NeurIPS 2023 starting kit and of DLFD.

    Mean accuracy over `splits` stratified shuffle splits, 1/2 for an attacker who learns nothing. The splits overlap,
    so a plain interval over them is far too narrow. The one given takes the wider limits of two: Student's with the
    variance (1/splits + n_test/n_train) s^2 (Nadeau and Bengio, Machine Learning 2003) on the logit scale, and
    Clopper-Pearson's for n / w independent examples, where w = 1 + (n / n_test - 1) / splits allows for the unequal
    number of times that the n examples are tested. Either alone misses its level under the null, where the splits share
    the direction that they happened to learn.

    Two departures from the released code, both reversible: sides are balanced (`balance`), and losses are scaled to
    unit variance on the training part (`standardise`), since the unit L2 penalty otherwise flattens the attack where
    losses are small. A cross-validated accuracy dips below 1/2 under the null by less than its interval.

    An infinite loss is the largest one, no more (`roc.finite`), and with `standardise` losses very far out are drawn in
    to `FENCE`: a single enormous one would otherwise press all others into one point.
    """
    if splits < 2 or not 0 < test_size < 1 or not 0 < level < 1:
        raise ValueError(f"needs two splits or more, test_size and level in (0, 1), not {splits}, {test_size}, {level}")
    a, b = finite(_vector(member_losses, "member_losses"), _vector(nonmember_losses, "nonmember_losses"))
    if balance:
        a, b = balanced(a, b, seed=seed)
    x, y = np.concatenate([a, b]), np.arange(len(a) + len(b)) < len(a)
    train, test = stratified_splits(len(a), len(b), splits=splits, test_size=test_size, seed=seed)
    x_train, x_test, y_test = x[train], x[test], y[test]
    if standardise:
        x_train, x_test = _standardised(x_train, x_test)
    w, intercept = logistic_1d(x_train, y[train])
    answers = w[:, None] * x_test + intercept[:, None] > 0
    right = answers == y_test
    accuracy = float(right.mean())
    low, high = _accuracy_interval(right, len(x), level)
    share = y_test[0].mean()
    constant = bool((answers == answers[:, :1]).all())  # within each split; the side may differ between splits
    return Attack(
        accuracy=accuracy,
        low=low,
        high=high,
        majority=float(max(share, 1 - share)),
        n_members=len(a),
        n_nonmembers=len(b),
        valid=not constant,
        reason=CONSTANT if constant else "",
    )


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [splits, n] at mean 0 and variance 1 on the training part, outliers drawn in first."""
    low, middle, high = (np.quantile(train, q, axis=1, keepdims=True) for q in (0.05, 0.5, 0.95))
    reach = FENCE * np.maximum(high - middle, middle - low)
    reach = np.where(reach > 0, reach, np.inf)  # nearly all are equal: nothing says what far is
    train, test = (np.clip(x, middle - reach, middle + reach) for x in (train, test))
    centre, scale = train.mean(1, keepdims=True), train.std(1, keepdims=True)
    scale = np.where(scale > 0, scale, 1.0)
    return (train - centre) / scale, (test - centre) / scale


def _accuracy_interval(right: np.ndarray, n: int, level: float) -> tuple[float, float]:
    """Interval of the mean of `right` [splits, tested], held-out answers for `n` examples; see `loss_attack`."""
    splits, tested = right.shape
    accuracy = float(right.mean())
    independent = n / (1 + (n / tested - 1) / splits)
    low, high = clopper_pearson(accuracy * independent, independent, level)
    spread = math.sqrt((1 / splits + tested / (n - tested)) * right.mean(1).var(ddof=1))
    if spread > 0:
        ends = on_logit_scale(accuracy, float(t.ppf(0.5 + level / 2, splits - 1)) * spread)
        low, high = min(low, ends[0]), max(high, ends[1])
    return low, high


def rank_attack(member_losses, nonmember_losses) -> Roc:
    """ROC of "the smaller the loss, the likelier a member": AUC 1/2 if the two laws are equal, below 1/2 if forgetting
    went too far. Needs no balancing: the AUC does not depend on the sizes."""
    a, b = _vector(member_losses, "member_losses"), _vector(nonmember_losses, "nonmember_losses")
    return roc(np.concatenate([-a, -b]), np.arange(len(a) + len(b)) < len(a))


def two_sided_attack(member_losses, nonmember_losses, *, seed: int) -> Roc:
    """ROC of "the farther the loss from the median of unseen losses, the likelier a member".

    Sees a forget set whose losses were pushed up for some and left down for others, which leaves the AUC of the plain
    loss at 1/2. The median comes from a random half of the non-members and the other half is scored, so that under
    the null the AUC is exactly 1/2 in expectation.
    """
    a, b = finite(_vector(member_losses, "member_losses"), _vector(nonmember_losses, "nonmember_losses"))
    if len(b) < 4:
        raise ValueError(f"the two-sided attack halves the non-members: give four or more, not {len(b)}")
    order = numpy_generator(seed, "two-sided").permutation(len(b))
    median = np.median(b[order[: len(b) // 2]])
    scored = b[order[len(b) // 2 :]]
    return roc(np.abs(np.concatenate([a, scored]) - median), np.arange(len(a) + len(scored)) < len(a))


def _distributions(probabilities) -> np.ndarray:
    p = as_array(probabilities, np.float64)
    if p.ndim != 2 or not (p.min(initial=0) >= 0 and np.abs(p.sum(1) - 1).max(initial=0) < 1e-4):
        raise ValueError("give probabilities [examples, classes] whose rows sum to one: softmax(logits), not logits")
    return p


def entropy(probabilities) -> np.ndarray:
    """-sum_j p_j log p_j in nats, [N]."""
    p = _distributions(probabilities)
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(1)


def modified_entropy(probabilities, labels) -> np.ndarray:
    """-(1 - p_y) log p_y - sum_{j != y} p_j log(1 - p_j) in nats, [N]: an entropy which knows the label.

    0 for a sure and right prediction, infinite for a sure and wrong one. Song and Mittal, USENIX Security 2021.
    """
    p, y = _distributions(probabilities), as_array(labels)
    rows = np.arange(len(p))
    p_y = p[rows, y].copy()
    others = p.copy()
    others[rows, y] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        labelled = np.where(p_y < 1, -(1 - p_y) * np.log(p_y), 0.0)
        return labelled - np.where(others > 0, others * np.log1p(-others), 0.0).sum(1)


@dataclass(frozen=True)
class Efficacy:
    """Answers of an attacker trained on retained against unseen pictures, put to the forget set."""

    nonmember_share: float  # share of the forget set called "never seen"; compare with the retrained model's
    accuracy: float  # of the attacker on held-out retained and unseen pictures, chance 1/2
    n_train: int
    valid: bool
    reason: str


def svc_efficacy(retain, unseen, forget, *, seed: int, c: float = 3.0, max_train: int = 2000) -> Efficacy:
    """SalUn's "MIA-efficacy": an RBF support vector machine tells retained from unseen, then judges the forget set.

    Inputs are features [n] or [n, d], usually the probability of the labelled class. The target is the retrained
    model's share, not a high one. Where the released code takes the *first* retained items against the whole test
    set, both sides are drawn at random here and of one size (at most `max_train` together); a fifth is held out.

    Fan et al., arXiv 2310.12508; kernel width `gamma="auto"` and C = 3 as released.
    """
    return _retain_attack(SVC(C=c, gamma="auto", kernel="rbf"), retain, unseen, forget, seed=seed, max_train=max_train)


def entropy_attack(retain_probabilities, unseen_probabilities, forget_probabilities, *, seed: int) -> Efficacy:
    """Logistic regression on the entropy of the prediction, retained against unseen, put to the forget set.

    The attack of the bad-teacher and SSD codes, with equal sides and a held-out fifth, which those lack.
    """
    sides = (entropy(p) for p in (retain_probabilities, unseen_probabilities, forget_probabilities))
    return _retain_attack(_Logistic(), *sides, seed=seed, max_train=100_000)


class _Logistic:
    """`logistic_1d` on the standardised feature, with the two verbs that `_retain_attack` needs."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> None:
        self.centre, self.scale = x.mean(), x.std() or 1.0
        self.w, self.b = logistic_1d((x.T - self.centre) / self.scale, y[None])

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.w * (x[:, 0] - self.centre) / self.scale + self.b > 0


def _retain_attack(classifier, retain, unseen, forget, *, seed: int, max_train: int) -> Efficacy:
    sides = [as_array(v, np.float64) for v in (retain, unseen, forget)]
    if any(np.isnan(side).any() for side in sides):
        raise ValueError("the features contain NaN: drop those examples, or repair the model before auditing it")
    retain, unseen, forget = (v.reshape(len(v), -1) for v in finite(*sides))
    rng = numpy_generator(seed, "retain-attack")
    size = min(len(retain), len(unseen), max_train // 2)
    if size < 10 or len(forget) < 1:
        raise ValueError(f"needs ten retained and ten unseen pictures or more, not {len(retain)} and {len(unseen)}")
    seen = retain[rng.choice(len(retain), size, replace=False)]
    new = unseen[rng.choice(len(unseen), size, replace=False)]
    held = size // 5
    x = np.concatenate([seen[held:], new[held:]])
    y = np.arange(len(x)) < size - held
    classifier.fit(x, y)
    truth = np.arange(2 * held) < held
    held_answers = classifier.predict(np.concatenate([seen[:held], new[:held]])).astype(bool)
    answers = classifier.predict(forget).astype(bool)
    constant = len(np.unique(np.concatenate([held_answers, answers]))) == 1
    return Efficacy(
        nonmember_share=float(1 - answers.mean()),
        accuracy=float((held_answers == truth).mean()),
        n_train=len(x),
        valid=not constant,
        reason=CONSTANT if constant else "",
    )


def swap_advantage(scores_forget, scores_unseen, swapped_forget, swapped_unseen) -> float:
    """Advantage of one threshold over two games in which forget set and unseen set exchange roles.

        max_t | (TPR_1 - FPR_1 + TPR_2 - FPR_2)(t) | / 2

    `scores_forget` and `scores_unseen` come from the model that forgot A and never saw B, the swapped ones from the
    model that forgot B and never saw A. A function of the example alone, which knows nothing of the model, gets
    exactly 0: what A and B differ in cancels. Tu et al., arXiv 2404.11577.
    """
    sides = [np.sort(_vector(s, "scores")) for s in (scores_forget, scores_unseen, swapped_forget, swapped_unseen)]
    thresholds = np.unique(np.concatenate(sides))
    above = [1 - np.searchsorted(s, thresholds, side="left") / len(s) for s in sides]
    # sums before the difference: equal multisets on the two sides cancel to an exact zero
    return float(np.abs((above[0] + above[2]) - (above[1] + above[3])).max() / 2)
