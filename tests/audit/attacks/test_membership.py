"""Population attacks: scikit-learn, closed forms, their level under the null, and the published majority artefact."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlearnlib.audit.attacks import membership as mia
from unlearnlib.seeding import numpy_generator


def losses(seed, n_members, n_nonmembers, shift=0.0):
    rng = numpy_generator(seed, "losses")
    return rng.normal(-shift, 1, n_members), rng.normal(0, 1, n_nonmembers)


# logistic regression on the loss


@pytest.mark.parametrize("shift, sizes", [(0.0, (80, 120)), (1.0, (80, 120)), (8.0, (50, 50)), (0.5, (900, 60))])
def test_newton_equals_sklearn(shift, sizes):
    a, b = losses(0, *sizes, shift=shift)
    x = np.exp(np.concatenate([a, b]))  # heavy tail, as losses have
    y = np.arange(len(x)) < len(a)
    rows = np.stack([x, 30 * x, 0.001 * x])
    w, intercept = mia.logistic_1d(rows, np.stack([y] * 3))
    for i, row in enumerate(rows):
        reference = LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(row[:, None], y)
        assert w[i] == pytest.approx(reference.coef_[0, 0], rel=1e-5, abs=1e-7)
        assert intercept[i] == pytest.approx(reference.intercept_[0], rel=1e-5, abs=1e-6)


def test_newton_survives_separable_and_constant_losses():
    x = np.concatenate([np.full(20, 100.0), np.full(20, -100.0)])[None]
    w, b = mia.logistic_1d(x, np.arange(40)[None] < 20)
    assert w[0] > 0 and np.isfinite([w[0], b[0]]).all()
    w, b = mia.logistic_1d(np.zeros((1, 30)), np.arange(30)[None] < 10)
    assert w[0] == 0 and b[0] == pytest.approx(np.log(10 / 20))


def test_attack_agrees_with_the_sklearn_pipeline():
    a, b = losses(1, 1500, 1500, shift=0.7)
    x, y = np.concatenate([a, b])[:, None], np.arange(3000) < 1500
    folds = StratifiedShuffleSplit(10, test_size=0.1, random_state=0).split(x, y)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    reference = np.mean([pipeline.fit(x[i], y[i]).score(x[j], y[j]) for i, j in folds])
    ours = mia.loss_attack(a, b, seed=0)
    assert ours.accuracy == pytest.approx(reference, abs=0.02)  # other random splits: 2 SE of 3000 held-out answers
    assert ours.low < reference < ours.high


def test_two_unit_gaussians_two_apart():
    got = [mia.loss_attack(*losses(i, 4000, 4000, shift=2.0), seed=i) for i in range(5)]
    assert np.mean([g.accuracy for g in got]) == pytest.approx(norm.cdf(1), abs=0.006)
    assert norm.cdf(1) == pytest.approx(0.8413, abs=5e-5)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_interval_covers_the_null_and_a_leak(shift):
    got = [mia.loss_attack(*losses(i, 200, 200, shift=shift), seed=i) for i in range(200)]
    truth = norm.cdf(shift / 2)
    assert np.mean([g.low <= truth <= g.high for g in got]) > 0.92  # .95 less 2 SE of 200 repetitions
    assert np.mean([g.accuracy for g in got]) == pytest.approx(truth, abs=0.01)


# balance


def test_unbalanced_sides_look_like_a_leak_and_balancing_removes_it():
    a, b = losses(2, 4500, 10000)
    unbalanced = mia.loss_attack(a, b, seed=0, balance=False)
    assert unbalanced.accuracy == pytest.approx(10000 / 14500, abs=0.01)  # .69 without any leak
    assert unbalanced.majority == pytest.approx(0.69, abs=0.001)
    fair = mia.loss_attack(a, b, seed=0)
    assert fair.majority == 0.5 and fair.n_members == fair.n_nonmembers == 4500
    assert fair.low < 0.5 < fair.high
    assert abs(unbalanced.forgetting_score - fair.forgetting_score) > 0.15  # the wrong set cannot pass for the right


def test_balancing_is_a_seeded_random_subset():
    b = np.arange(100.0)
    first, again, other = (mia.balanced(np.zeros(10), b, seed=s)[1] for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first)) == 10 and not np.array_equal(first, other)
    assert first.max() > 10  # not merely the first ten


def test_published_scores_which_are_the_majority_rate():
    # RAF-DB: forget 3314, test 3068. Two methods were published with forgetting score .0195618153364632.
    assert mia.majority_accuracy(3314, 3068) == 332 / 639
    assert abs(0.5 - mia.majority_accuracy(3314, 3068)) == pytest.approx(0.0195618153364632, abs=1e-15)
    assert mia.majority_check(0.5195618153364632, 3314, 3068) == mia.CONSTANT
    assert mia.majority_accuracy(3314, 1227) == 332 / 455  # against validation, where the threshold was .23
    assert mia.majority_accuracy(3314, 1227) - 0.5 == pytest.approx(0.22967, abs=5e-6)
    assert mia.majority_check(0.56, 3314, 3068) == ""


def test_the_released_attack_on_small_losses_is_the_constant_attacker():
    a, b = losses(3, 3314, 3068)
    as_released = dict(balance=False, standardise=False, seed=0)
    flat = mia.loss_attack(1e-4 * np.exp(a - 0.1), 1e-4 * np.exp(b), **as_released)
    assert flat.accuracy == 332 / 639 and not flat.valid and flat.reason == mia.CONSTANT
    assert flat.forgetting_score == pytest.approx(0.0195618, abs=1e-7)
    # the same losses leak: the balanced and scaled attack finds them
    leak = mia.loss_attack(1e-4 * np.exp(3 * a - 3), 1e-4 * np.exp(3 * b), seed=0)
    assert leak.valid and leak.low > 0.5


def test_constant_losses_are_flagged():
    flat = mia.loss_attack(np.ones(50), np.ones(50), seed=0)
    assert not flat.valid and flat.accuracy == 0.5


def test_splits_are_stratified_disjoint_and_different():
    train, test = mia.stratified_splits(30, 50, seed=0)
    assert test.shape == (10, 8) and train.shape == (10, 72)
    assert ((test < 30).sum(1) == 3).all()
    assert all(len(np.union1d(i, j)) == 80 for i, j in zip(train, test, strict=True))
    assert len(np.unique(np.sort(test, axis=1), axis=0)) == 10
    with pytest.raises(ValueError, match="too few"):
        mia.stratified_splits(3, 50, seed=0)


# rank attacks


def test_rank_attack_direction():
    low, high = np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])
    assert mia.rank_attack(low, high).auc == 1.0  # small losses betray members
    assert mia.rank_attack(high, low).auc == 0.0  # over-forgotten


def test_rank_attacks_hold_their_level():
    covered = np.zeros(2)
    for i in range(200):
        a, b = (np.exp(v) for v in losses(i, 100, 160))
        for k, r in enumerate((mia.rank_attack(a, b), mia.two_sided_attack(a, b, seed=i))):
            low, high = r.interval()
            covered[k] += low <= 0.5 <= high
    assert (covered / 200 > 0.92).all()


def test_two_sided_attack_sees_what_one_threshold_cannot():
    rng = numpy_generator(4, "streisand")
    a, b = rng.normal(0, 1, 400) + 3 * rng.choice([-1, 1], 400), rng.normal(0, 1, 400)
    low, high = mia.rank_attack(a, b).interval()
    assert low < 0.5 < high
    assert mia.two_sided_attack(a, b, seed=0).interval()[0] > 0.85


def test_two_sided_attack_measures_from_the_unseen_median():
    b = numpy_generator(11, "unseen").normal(size=40)
    for far in (-10.0, 10.0):  # from the members' own median it would be 0
        assert mia.two_sided_attack(np.full(20, far), b, seed=0).auc == 1.0


def test_two_sided_median_is_taken_from_the_unscored_half():
    b = np.concatenate([np.zeros(10), np.full(10, 5.0)])
    r = mia.two_sided_attack(np.zeros(6), b, seed=0)
    assert r.n_nonmembers == 10 and r.n_members == 6


# entropies


def test_modified_entropy_known_values():
    p, y = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]), np.array([0, 1])
    np.testing.assert_allclose(mia.modified_entropy(p, y), [0.162167, 0.065701], atol=5e-7)
    # the released formula flips the columns of all labels in every row, and takes log p where log(1-p) belongs
    wrong = p.copy()
    wrong[:, y] = 1 - p[:, y]
    np.testing.assert_allclose(-(wrong * np.log(p)).sum(1), [1.6248, 2.3472], atol=5e-5)


def test_modified_entropy_equals_a_loop_and_its_limits():
    rng = numpy_generator(5, "entropy")
    p, y = rng.dirichlet(np.ones(6), 40), rng.integers(0, 6, 40)
    loop = [
        -(1 - q[k]) * np.log(q[k]) - sum(q[j] * np.log(1 - q[j]) for j in range(6) if j != k)
        for q, k in zip(p, y, strict=True)
    ]
    np.testing.assert_allclose(mia.modified_entropy(p, y), loop)
    assert mia.modified_entropy([[1.0, 0.0]], [0])[0] == 0.0
    assert mia.modified_entropy([[1.0, 0.0]], [1])[0] == np.inf


def test_entropy_limits_and_logits_refused():
    np.testing.assert_allclose(mia.entropy([[0.25] * 4, [1.0, 0, 0, 0]]), [np.log(4), 0.0])
    with pytest.raises(ValueError, match="softmax"):
        mia.entropy([[2.0, -1.0]])


# attackers trained on retained against unseen


def test_svc_efficacy_reads_the_forget_set_rightly():
    rng = numpy_generator(6, "svc")
    seen, new = rng.beta(8, 1, 3000), rng.beta(2, 2, 900)
    like_new = mia.svc_efficacy(seen, new, rng.beta(2, 2, 300), seed=0)
    like_seen = mia.svc_efficacy(seen, new, rng.beta(8, 1, 300), seed=0)
    assert like_new.n_train == 2 * (900 - 180) and like_new.valid
    assert like_seen.accuracy > 0.75
    assert like_new.nonmember_share > 0.7 > 0.3 > like_seen.nonmember_share


def test_svc_efficacy_shuffles_the_retained_side():
    seen = np.concatenate([np.zeros(1000), np.ones(9000)])  # sorted by class, as a data set on disk often is
    new = numpy_generator(7, "svc").random(1000) < 0.9
    shuffled = mia.svc_efficacy(seen, new, new, seed=0)
    assert shuffled.accuracy < 0.56  # one in ten on either side: nothing to learn
    assert mia.svc_efficacy(seen[:1000], new, new, seed=0).accuracy > 0.9  # the first items, as released


def test_efficacy_of_a_constant_feature_is_flagged():
    assert not mia.svc_efficacy(np.ones(50), np.ones(50), np.ones(20), seed=0).valid


def test_entropy_attack_separates_sure_from_unsure():
    rng = numpy_generator(8, "entropy-attack")
    sure, unsure = rng.dirichlet([20, 1, 1], 300), rng.dirichlet([2, 2, 2], 300)
    assert mia.entropy_attack(sure, unsure, unsure[:100], seed=0).nonmember_share > 0.8
    assert mia.entropy_attack(sure, unsure, sure[:100], seed=0).nonmember_share < 0.2


# roles exchanged


def test_swap_advantage_of_a_score_that_ignores_the_model_is_exactly_zero():
    rng = numpy_generator(9, "swap")
    easy, hard = rng.normal(2, 1, 77), rng.normal(0, 1, 77)
    assert mia.rank_attack(-easy, -hard).auc > 0.85  # one split alone would call this a leak
    assert mia.swap_advantage(easy, hard, hard, easy) == 0.0


def test_swap_advantage_of_a_real_leak():
    rng = numpy_generator(10, "swap")
    easy, hard = rng.normal(0.5, 1, 4000), rng.normal(0, 1, 4000)
    leak = mia.swap_advantage(easy + 2, hard, hard + 2, easy)
    assert leak == pytest.approx(2 * norm.cdf(1) - 1, abs=0.04)


# infinite, enormous and few losses


@pytest.mark.parametrize("far", [np.inf, 1e4, 1e30, 1e300])
def test_one_loss_far_out_changes_nothing(far):
    a, b = losses(5, 100, 100)
    b = b + 10  # separable
    assert mia.loss_attack(a, b, seed=0).accuracy == 1.0
    b[3] = far
    got = mia.loss_attack(a, b, seed=0)
    assert got.accuracy == 1.0 and got.valid and mia.rank_attack(a, b).auc == 1.0
    a[3] = far  # a member at the wrong end costs itself, no more
    assert mia.loss_attack(a, b, seed=0).accuracy > 0.97


def test_infinite_losses_rank_in_every_attack():
    a, b = losses(6, 60, 60)
    for end in (np.inf, -np.inf):
        infinite = np.full(60, end)
        assert mia.rank_attack(infinite, infinite).auc == 0.5 == mia.two_sided_attack(infinite, infinite, seed=0).auc
        flat = mia.loss_attack(infinite, infinite, seed=0)
        assert not flat.valid and flat.low < 0.5 < flat.high
        assert mia.two_sided_attack(infinite, b, seed=0).auc == 1.0
    sides = [np.append(v, np.inf) for v in (a, b, a)]
    assert np.isfinite(mia.svc_efficacy(*sides, seed=0).accuracy)
    with pytest.raises(ValueError, match="NaN"):
        mia.svc_efficacy(np.append(a, np.nan), b, a, seed=0)


def test_four_losses_are_no_certainty():
    got = mia.loss_attack([0.0, 0.1], [3.0, 4.0], seed=0)
    assert got.accuracy == 1.0 and got.high == 1.0 and got.low < 0.5


@pytest.mark.parametrize("n, shift", [(20, 0.0), (20, 5.0), (100, 3.0), (100, 6.0)])
def test_accuracy_interval_covers_near_its_end(n, shift):
    got = [mia.loss_attack(*losses(i, n, n, shift=shift), seed=i) for i in range(150)]
    assert all(0 <= g.low < g.high <= 1 for g in got)
    assert np.mean([g.low <= norm.cdf(shift / 2) <= g.high for g in got]) > 0.914  # .95 less 2 SE of 150 repetitions


def test_settings_that_give_no_interval_are_refused():
    for change in (dict(splits=1), dict(test_size=0.0), dict(level=1.0)):
        with pytest.raises(ValueError, match="two splits or more"):
            mia.loss_attack(*losses(0, 50, 50), seed=0, **change)
