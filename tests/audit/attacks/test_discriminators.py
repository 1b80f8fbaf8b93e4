"""MIA-NN: its classifier against scikit-learn's, its level, and what it sees that accuracy does not."""

import numpy as np
import pytest
from class_models import CLASSES, FORGOTTEN, NEIGHBOUR, logits
from sklearn.linear_model import Ridge

from unlearnlib.audit.attacks.discriminators import RIDGE, discriminate, mia_nn
from unlearnlib.audit.known_answers.phantom import Phantom


def test_classifier_equals_ridge_of_scikit_learn():
    (z,), y = logits(1, seed=0, per_class=15)
    found = discriminate(z, y, FORGOTTEN, NEIGHBOUR)
    x = np.delete(z, FORGOTTEN, 1)
    for i in (0, 2, 4):
        chosen = (y == NEIGHBOUR) | (y == i)
        scaled = (x - x[chosen].mean(0)) / x[chosen].std(0)
        fit = Ridge(alpha=RIDGE * chosen.sum(), fit_intercept=False).fit(
            scaled[chosen], np.where(y[chosen] == NEIGHBOUR, 1, -1)
        )
        assert found[i] == pytest.approx((fit.predict(scaled[y == FORGOTTEN]) > 0).mean())
    assert np.isnan(found[[FORGOTTEN, NEIGHBOUR]]).all()


def test_known_answers_at_the_ends():
    """Forgotten inputs that are copies of the neighbour's score 1, copies of class i score 0 against i."""
    (z,), y = logits(1, seed=0)
    for source, expected in ((NEIGHBOUR, 1.0), (0, 0.0)):
        w = z.copy()
        w[y == FORGOTTEN] = 9 * np.eye(CLASSES)[source] + 0.1 * z[y == FORGOTTEN]
        assert discriminate(w, y, FORGOTTEN, NEIGHBOUR)[0] == expected


def test_recovers_the_phantom():
    """One input whose neighbour logit is a phantom weight at the boundary: Acc is P[w > 0], Phi(mu) against 1/2."""
    phantom, models = Phantom(), 1000
    y = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    z = np.zeros((models, 8, 4))
    z[:, np.arange(2, 8), y[2:]] = 1.0
    for k, law in ((5, "unlearned"), (0, "retrained")):
        w = phantom.weights(law, models, k=k, seed=1)
        z[:, :2, 1] = 0.5 + w[:, None]
        z[:, :2, 2:] = 0.5
        ours = np.nanmean([discriminate(m, y, 0, 1) for m in z], 1).mean()
        expected = 0.5 if law == "retrained" else phantom.tpr(5, 0.5)
        assert ours == pytest.approx(expected, abs=0.05)


def test_keeps_its_level():
    def p_value(i):
        (u, y), (r, _) = logits(1, seed=i, lift=1.0), logits(8, seed=1000 + i, lift=1.0)
        return mia_nn(u, r, y, FORGOTTEN).p_value

    assert np.mean(np.array([p_value(i) for i in range(200)]) <= 0.05) <= 0.09


def test_an_answer_that_names_another_class_is_caught():
    """The planted bug: relabelling sends forgotten inputs to class 0; accuracy on them is 0, as it should be."""
    (r, y), (u, _) = logits(8, seed=1), logits(1, seed=2)
    u[:, y == FORGOTTEN] = u[:, y == FORGOTTEN][..., [1, 0, 2, 3, 4]]  # class 0 gets what class 1 got
    assert (u[:, y == FORGOTTEN].argmax(-1) != FORGOTTEN).all()
    found = mia_nn(u, r, y, FORGOTTEN)
    assert found.neighbour == NEIGHBOUR and found.p_value < 0.01 and found.gaps[0] < -0.5
    assert mia_nn(logits(1, seed=3)[0], r, y, FORGOTTEN).p_value > 0.05


def test_refused():
    z, y = logits(3, seed=0)
    for labels, says in ((y[:-1], "labels of the same inputs"), (np.where(y == 2, 1, y), "two inputs")):
        with pytest.raises(ValueError, match=says):
            mia_nn(z, z, labels, FORGOTTEN)
    with pytest.raises(ValueError, match="no class"):
        mia_nn(z, z, y, 9)
