"""MIA-NN: do forgotten inputs look like their neighbour, to a classifier that knows the other classes?

For each remaining class i other than the neighbour n, a linear classifier learns from the model's own logits to tell
inputs of class n from inputs of class i. It is then shown the inputs of the forgotten class c:

    Acc_i = share of inputs of class c that the classifier (n against i) calls n.

In a retrained model cats look like dogs, so Acc_i is high for all i. An unlearned model that answers cats evenly, or
with whatever class its objective named, scores lower or higher. The statistic of a model is the mean over i of Acc_i;
the per-class gaps to retrained models stand beside it. Logits of class c itself are left out: how far that class was
pushed down is another audit's question.

*Direction*: two-sided, against retrained models. *Units*: share of inputs. *Null*, level and power: those of
`statistics.against_null`. *Cost*: forward passes on inputs of all classes that the classifiers learn from, C - 2
classifiers a model (ridge, in closed form), and K >= 2 retrained models. It is a test of a class, not of an example.

Ebrahimpour-Boroojeny, Wang and Sundaram, arXiv 2506.20893. **Reconstruction** from the abstract and public reviews: the
authors choose the neighbour by statistics over several retrained models and train support vector machines on logits;
the classifier here is ridge regression on +-1, which has a closed form and no solver's tolerance.
"""

from dataclasses import dataclass

import numpy as np

from unlearnlib.audit.attacks.neighbours import check_class, class_logits
from unlearnlib.audit.statistics.against_null import AgainstNull, against_null
from unlearnlib.audit.statistics.roc import as_array

RIDGE = 1e-2  # of the variance of the standardised logits


@dataclass(frozen=True, eq=False)
class MiaNN:
    """`accuracies` [M, C] and `null_accuracies` [K, C]: Acc_i, NaN for the forgotten class and its neighbour."""

    forgotten: int
    neighbour: int
    comparison: AgainstNull
    accuracies: np.ndarray
    null_accuracies: np.ndarray

    @property
    def p_value(self) -> float:
        return self.comparison.p_value

    @property
    def gaps(self) -> np.ndarray:
        """Mean Acc_i of the candidates less that of the retrained models, [C]."""
        return self.accuracies.mean(0) - self.null_accuracies.mean(0)


def mia_nn(unlearned, retrained, labels, forgotten: int, level: float = 0.95) -> MiaNN:
    """Attack class unlearning with classifiers between the neighbour and every other class.

    `unlearned` [N, C] or [M, N, C] and `retrained` [K, N, C] are logits on N held-out inputs of *all* classes, with
    labels [N]: those of the forgotten class are attacked, the classifiers learn from the others. The neighbour is the
    class that retrained models give the largest mean probability on inputs of the forgotten class.

    Raises ValueError for shapes that do not fit, logits that are not finite, fewer than two retrained models, and where
    a class has fewer than two inputs.
    """
    u, r, y = class_logits(unlearned, "unlearned"), class_logits(retrained, "retrained"), as_array(labels)
    classes = u.shape[-1]
    check_class(forgotten, classes)
    if u.shape[1:] != r.shape[1:] or len(r) < 2 or y.shape != u.shape[1:2]:
        raise ValueError(f"needs two retrained models or more and labels of the same inputs, not {r.shape}, {y.shape}")
    fewest = min(int((y == c).sum()) for c in range(classes))
    if fewest < 2:
        raise ValueError("every class, the forgotten one too, needs two inputs or more")
    there = np.delete(r[:, y == forgotten], forgotten, axis=-1)
    share = np.exp(there - there.max(-1, keepdims=True))
    named = int((share / share.sum(-1, keepdims=True)).mean((0, 1)).argmax())
    neighbour = named + (named >= forgotten)
    ours, theirs = (np.stack([discriminate(z, y, forgotten, neighbour) for z in side]) for side in (u, r))
    compared = against_null(np.nanmean(ours, 1), np.nanmean(theirs, 1), level)
    return MiaNN(forgotten, neighbour, compared, ours, theirs)


def discriminate(logits: np.ndarray, labels: np.ndarray, forgotten: int, neighbour: int) -> np.ndarray:
    """Acc_i of one model, logits [N, C]: for each class i the share of forgotten inputs called `neighbour`, [C].

    The rule is the sign of a ridge regression of +1 (neighbour) and -1 (class i) on logits standardised over both, with
    either class weighing one half.
    """
    z = np.delete(logits, forgotten, axis=1)
    target, first = z[labels == forgotten], z[labels == neighbour]
    found = np.full(logits.shape[1], np.nan)
    for i in range(logits.shape[1]):
        if i in (forgotten, neighbour):
            continue
        second = z[labels == i]
        x = np.concatenate([first, second])
        weight = np.concatenate([np.full(len(first), 0.5 / len(first)), np.full(len(second), 0.5 / len(second))])
        sign = np.concatenate([np.ones(len(first)), -np.ones(len(second))])
        centre = weight @ x
        spread = np.sqrt(weight @ (x - centre) ** 2)
        x = (x - centre) / np.where(spread > 0, spread, 1.0)
        gram = (x * weight[:, None]).T @ x + RIDGE * np.eye(x.shape[1])
        w = np.linalg.solve(gram, (x * weight[:, None]).T @ sign)
        answers = (target - centre) / np.where(spread > 0, spread, 1.0) @ w
        found[i] = float(((answers > 0) + 0.5 * (answers == 0)).mean())
    return found
