"""Closed-form learners against refits, against scikit-learn, and against planted rounding errors."""

import copy

import numpy as np
import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import kernel_ridge, naive_bayes, neighbors
from sklearn.datasets import load_digits

from unlearnlib.exact.kernel import KernelRidge
from unlearnlib.exact.naive_bayes import NaiveBayes, NearestMean
from unlearnlib.exact.neighbours import NearestNeighbours
from unlearnlib.exact.ridge import LinearHead, Ridge
from unlearnlib.training import models


def problem(seed: int, n: int = 60, d: int = 8, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.integers(0, classes, n)


def deletions(seed: int, n: int, leave: int):
    """Random requests until `leave` rows are left; yields (request, rows that remain)."""
    rng, left = np.random.default_rng(seed), np.arange(n)
    while len(left) > leave:
        gone = rng.choice(left, min(int(rng.integers(1, 6)), len(left) - leave), replace=False)
        left = np.setdiff1d(left, gone)
        yield gone, left


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(2, 12),
    st.sampled_from([1e-2, 1.0, 30.0]),
    st.booleans(),
    st.sampled_from([0, 3]),
)
def test_ridge_equals_a_refit_after_every_request(seed, d, lam, intercept, shift):
    x, y = problem(seed, 80, d)
    x = x + shift
    options = dict(lam=lam, intercept=intercept, n_classes=3)
    learner = Ridge(**options).fit_arrays(x, y)
    for gone, left in deletions(seed, 80, d + 5):
        learner.forget(gone)
        fresh = Ridge(**options).fit_arrays(x[left], y[left])
        assert distance(learner.theta, fresh.theta) < 1e-10
        assert learner.drift < 1e-9


def test_ridge_solves_the_stated_problem():
    x, y = problem(0)
    theta = Ridge(lam=2.5).fit_arrays(x, y).theta
    rows = np.column_stack([x, np.ones(60)])
    penalty = np.sqrt(2.5) * np.eye(9)[:8]  # not on the intercept
    expected = np.linalg.lstsq(np.vstack([rows, penalty]), np.vstack([np.eye(3)[y], np.zeros((8, 3))]), rcond=None)[0]
    assert distance(theta, expected) < 1e-12
    signed = Ridge(lam=2.5, targets="signed").fit_arrays(x, y).theta
    assert distance(signed, 2 * expected - np.eye(9)[8][:, None]) < 1e-12


def test_leave_out_formulas():
    x, y = problem(1)
    learner = Ridge(lam=0.7).fit_arrays(x, y)
    group = [3, 17, 40]
    left = np.delete(np.arange(60), group)
    assert distance(learner.leave_out(group), Ridge(lam=0.7).fit_arrays(x[left], y[left]).theta) < 1e-12
    one = Ridge(lam=0.7).fit_arrays(np.delete(x, 5, 0), np.delete(y, 5))
    np.testing.assert_allclose(
        learner.leave_one_out_residuals()[5], np.eye(3)[y[5]] - one.predict(x[5:6])[0], atol=1e-12
    )
    np.testing.assert_allclose(learner.hat(group).diagonal(), learner.leverages()[group], atol=1e-14)
    first_order = np.linalg.solve(learner.gram, np.append(x[5], 1)[:, None] * learner.residuals()[5])
    actual = learner.theta - learner.leave_out([5])
    np.testing.assert_allclose(first_order, (1 - learner.leverages()[5]) * actual, atol=1e-14)  # the 1 - h law


def test_least_squares_and_its_limits():
    x, y = problem(2, 12, 4)
    learner = Ridge(lam=0).fit_arrays(x, y)
    expected = np.linalg.lstsq(np.column_stack([x, np.ones(12)]), np.eye(3)[y], rcond=None)[0]
    assert distance(learner.theta, expected) < 1e-11
    with pytest.raises(ValueError, match="raise lam"):
        Ridge(lam=0).fit_arrays(np.column_stack([x, x[:, 0]]), y)
    x[0] = 0
    x[:, 3] = np.eye(12)[0]  # row 0 alone determines the last weight: h = 1
    learner = Ridge(lam=0).fit_arrays(x, y)
    before = copy.deepcopy(learner)
    with pytest.raises(ValueError, match="raise lam"):
        learner.forget([0])
    np.testing.assert_array_equal(learner.theta, before.theta)
    learner.forget([1])
    assert np.isnan(learner.leverages()[1]) and learner.leverages()[0] == pytest.approx(1)


def test_drift_is_seen_and_repaired():
    x, y = problem(3)
    learner = Ridge(lam=1.0).fit_arrays(x, y)
    assert learner.forget([0]).touched == {"rows": 1, "refreshes": 0}
    learner._inverse[2, 3] += 1e-5  # planted: as if by rounding
    assert learner.forget([1]).touched == {"rows": 1, "refreshes": 1}
    assert distance(learner.theta, Ridge(lam=1.0).fit_arrays(x[2:], y[2:]).theta) < 1e-13
    assert Ridge(tolerance=0).fit_arrays(x, y).forget([4]).touched["refreshes"] == 1
    assert learner.forget(np.arange(2, 40)).touched["refreshes"] == 1  # a large group costs less afresh


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["rbf", "linear"]))
def test_kernel_ridge_equals_a_refit(seed, kernel):
    x, y = problem(seed, 50, 4)
    options = dict(lam=0.3, kernel=kernel, gamma=0.2, n_classes=3)
    learner = KernelRidge(**options).fit_arrays(x, y)
    for gone, left in deletions(seed, 50, 10):  # noqa: B007
        learner.forget(gone)
    fresh = KernelRidge(**options).fit_arrays(x[left], y[left])
    assert distance(learner.alpha, fresh.alpha) < 1e-10
    theirs = kernel_ridge.KernelRidge(alpha=0.3, kernel=kernel, gamma=0.2).fit(x[left], np.eye(3)[y[left]])
    np.testing.assert_allclose(learner.predict(x), theirs.predict(x), atol=1e-9)


def test_kernel_ridge_leave_one_out_and_drift():
    x, y = problem(4, 40, 5)
    learner = KernelRidge(kernel="linear", lam=2.0).fit_arrays(x, y)
    ridge = Ridge(lam=2.0, intercept=False).fit_arrays(x, y)
    np.testing.assert_allclose(learner.predict(x), ridge.predict(x), atol=1e-12)
    np.testing.assert_allclose(learner.leave_one_out_residuals(), ridge.leave_one_out_residuals(), atol=1e-12)
    learner._inverse[2, 3] += 1e-5
    assert learner.forget([2]).touched["refreshes"] == 1
    with pytest.raises(ValueError, match="lam"):
        KernelRidge(lam=0).fit_arrays(x, y)


SUMS = [NaiveBayes, NearestMean, NearestNeighbours]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(SUMS), st.booleans(), st.integers(1, 5), st.integers(1, 4))
def test_any_deletions_leave_the_bits_of_a_fresh_fit(seed, learner, bytes_, features, classes):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.integers(0, 256, (40, features)), dtype=torch.uint8)
    if not bytes_:
        x = torch.tensor(rng.normal(size=(40, features)) * 7)
    y = rng.integers(0, classes, 40)
    ours = learner(n_classes=classes).fit_arrays(x, y)
    for gone, left in deletions(seed, 40, 1):
        ours.forget(gone)
        fresh = learner(n_classes=classes).fit_arrays(x[left], y[left])
        assert torch.equal(ours.logits(x), fresh.logits(x))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 10.0]))
def test_any_deletions_leave_the_head_of_a_fresh_fit(seed, lam):
    """Frozen random features: deletions, one request after the other, against a head that never saw the rows."""
    examples, model = small.examples(80), small.stranger(seed % 100)
    head = LinearHead(model, Ridge(lam=lam, n_classes=3)).fit(examples)
    for gone, left in deletions(seed, 80, 30):  # noqa: B007
        head.forget(gone)
    fresh = LinearHead(model, Ridge(lam=lam, n_classes=3)).fit(examples[left])
    assert distance(head.ridge.theta, fresh.ridge.theta) < 1e-6  # features are float32, batched with other rows
    features = head.features(examples.images)[left]
    assert distance(head.ridge.theta, Ridge(lam=lam).fit_arrays(features, examples.labels[left]).theta) < 1e-10


@pytest.mark.parametrize("learner", SUMS)
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_forgetting_is_bit_identical_to_a_fresh_fit(learner, kind):
    rng = np.random.default_rng(5)
    x = torch.tensor(rng.integers(0, 256, (200, 6)), dtype=torch.uint8)
    if kind == "floats":
        x = torch.tensor(rng.normal(size=(200, 6)) * 7)
    y = rng.integers(0, 4, 200)
    ours = learner(n_classes=4).fit_arrays(x, y)
    for gone, left in deletions(6, 200, 20):
        ours.forget(gone)
        assert torch.equal(ours.logits(x), learner(n_classes=4).fit_arrays(x[left], y[left]).logits(x))
    ours.forget(left[y[left] == 1])  # a class may vanish
    left = left[y[left] != 1]
    fresh = learner(n_classes=4).fit_arrays(x[left], y[left])
    assert torch.equal(ours.logits(x), fresh.logits(x))
    assert not (ours.logits(x).argmax(1) == 1).any()


def test_floating_sums_would_leave_a_trace():
    """The defect that fixed point avoids: (a + b) - a is not b in floating point."""
    values = np.random.default_rng(0).normal(size=200).astype(np.float32)
    total = np.float32(0)
    for v in values:
        total += v
    for v in values[:-1]:
        total -= v
    assert total != values[-1]


def test_naive_bayes_and_means_agree_with_scikit_learn():
    rng = np.random.default_rng(7)
    x, y = rng.integers(-64, 64, (150, 5)) / 16, rng.integers(0, 3, 150)  # on the grid: no rounding
    theirs = naive_bayes.GaussianNB(var_smoothing=1e-12).fit(x, y)
    ours = NaiveBayes(floor=theirs.epsilon_).fit_arrays(x, y)
    np.testing.assert_allclose(ours.variances(), theirs.var_, rtol=1e-12)
    log_p = torch.log_softmax(ours.logits(torch.tensor(x)).double(), 1)
    np.testing.assert_allclose(log_p, theirs.predict_log_proba(x), atol=1e-5)
    means = neighbors.NearestCentroid().fit(x, y)
    np.testing.assert_allclose(NearestMean().fit_arrays(x, y).means(), means.centroids_, atol=1e-12)


def test_neighbours_agree_with_scikit_learn_and_break_ties_by_position():
    rng = np.random.default_rng(8)
    x, queries = rng.integers(0, 4096, (2, 300, 20)) / 4096
    y = rng.integers(0, 3, 300)
    ours = NearestNeighbours(k=7).fit_arrays(x, y)
    theirs = neighbors.NearestNeighbors(n_neighbors=7, algorithm="brute").fit(x).kneighbors(queries)[1]
    np.testing.assert_array_equal(ours.neighbours(queries), theirs)
    tied = NearestNeighbours(k=3).fit_arrays(np.zeros((9, 2)), np.arange(9) % 3)
    tied.forget([1])
    np.testing.assert_array_equal(tied.neighbours(np.ones((1, 2))), [[0, 2, 3]])
    np.testing.assert_array_equal(
        NearestNeighbours(k=7).fit_arrays(x * 2.0**40, y).neighbours(queries * 2.0**40), theirs
    )
    far = np.vstack([queries[:3], 1e6 * queries[3:6]])  # beyond all examples: the rest of the batch answers as before
    np.testing.assert_array_equal(ours.neighbours(far)[:3], theirs[:3])
    assert [ours.neighbours(q[None]).tolist() for q in far] == [[row] for row in ours.neighbours(far).tolist()]


SCALES = [1e-4, 1.0, 1e4]


@pytest.mark.parametrize("learner", [NaiveBayes, NearestMean, NearestNeighbours])
def test_the_answers_do_not_depend_on_the_scale_of_the_data(learner):
    """Units of 2^-12 gave .099 on digits scaled by 1e-4, where the share of the largest class is .1."""
    digits = load_digits()
    x, y = digits.data / 16, digits.target
    answers = [learner().fit_arrays(s * x[:1000], y[:1000]).logits(s * x[1000:]).argmax(1) for s in SCALES]
    right = [(answer.numpy() == y[1000:]).mean() for answer in answers]
    assert min(right) > {NaiveBayes: 0.87, NearestMean: 0.86, NearestNeighbours: 0.95}[learner]
    assert max(right) - min(right) < 0.003
    binary = [learner().fit_arrays(s * x[:1000], y[:1000]).logits(s * x[1000:]) for s in (1.0, 2.0**-30)]
    assert torch.equal(binary[0].argmax(1), binary[1].argmax(1))  # powers of two change no code at all


@pytest.mark.parametrize("learner", [NaiveBayes, NearestMean, NearestNeighbours])
@pytest.mark.parametrize("scale", [1e-4, 1e4, 2.0**-40])
def test_the_unit_forgets_too(learner, scale):
    """A deletion of the largest values lowers the unit: the grid of a fresh fit, to the bit."""
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(60, 5)) * scale, rng.integers(0, 3, 60)
    x[7], x[11, 2], x[20:24, 4] = 1e3 * x[7], 0.0, 50 * x[20:24, 4]
    ours, left = learner(n_classes=3).fit_arrays(x, y), np.arange(60)
    for gone in ([7], [20, 21, 22, 23], [11], np.arange(30, 60)):
        receipt = ours.forget(gone)
        left = np.setdiff1d(left, gone)
        fresh = learner(n_classes=3).fit_arrays(x[left], y[left])
        assert torch.equal(ours.logits(x), fresh.logits(x))
        if isinstance(ours, NearestMean):
            assert (ours._sums == fresh._sums).all() and (ours._top == fresh._top).all()
            assert (ours._held == fresh._held).all()
            if len(gone) == 1 and gone[0] == 7:
                assert receipt.touched["features measured anew"] > 0


def test_features_of_very_different_scales_keep_their_digits():
    rng = np.random.default_rng(10)
    x, y = rng.normal(size=(200, 4)) + 2, rng.integers(0, 2, 200)
    x[:, 0] += 2 * y
    scales = np.array([1e-6, 1.0, 1e6, 1e12])
    ours = NaiveBayes(floor=1e-30).fit_arrays(x * scales, y)
    theirs = naive_bayes.GaussianNB(var_smoothing=0).fit(x * scales, y)
    np.testing.assert_allclose(ours.variances(), theirs.var_, rtol=1e-7)
    assert (ours.logits(x * scales).argmax(1).numpy() == theirs.predict(x * scales)).all()


def test_linear_head_is_ridge_on_the_features_of_a_frozen_network():
    examples, model = small.examples(60), small.stranger()
    before = small.state(model)
    head = LinearHead(model, Ridge(lam=0.5)).fit(examples)
    features = models.features(model, examples.pixels()).double().numpy()
    expected = Ridge(lam=0.5).fit_arrays(features, examples.labels)
    np.testing.assert_allclose(head.ridge.theta, expected.theta, atol=1e-9)
    head.forget([0, 5])
    expected.forget([0, 5])
    np.testing.assert_allclose(head.ridge.theta, expected.theta, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    by_hand = LinearHead(lambda images: models.features(model, images), Ridge(lam=0.5)).fit(examples)
    by_hand.forget([0, 5])
    assert torch.equal(by_hand.logits(examples.images), head.logits(examples.pixels()))


@pytest.mark.parametrize("learner", [Ridge, KernelRidge, *SUMS])
def test_learners_take_examples_and_refuse_bad_requests(learner):
    examples = small.examples(90)
    ours = learner().fit(examples)
    assert ours.logits(examples.pixels()).shape == (90, 3)
    assert (ours.logits(examples.images).argmax(1) == examples.labels).float().mean() > 0.9
    receipt = ours.forget(torch.tensor([2, 1]))
    assert receipt.certificate.kind == "exact" and receipt.touched["rows"] == 2
    with pytest.raises(ValueError, match="already"):
        ours.forget([2])
    with pytest.raises(ValueError, match="for each row"):
        learner().fit_arrays(np.zeros((3, 2)), [0, 1])


@pytest.mark.parametrize("make", [Ridge, KernelRidge, NaiveBayes, NearestNeighbours])
def test_integers_that_may_or_may_not_be_bytes_are_no_pictures(make):
    """Read as features they would be 255 times what the learner was fitted to."""
    ds = small.dataset()
    learner = make().fit(ds.train)
    with pytest.raises(ValueError, match="convert them first"):
        learner.logits(ds.test.images.int())
    with pytest.raises(ValueError, match="convert them first"):
        make().fit_arrays(ds.train.images.long(), ds.train.labels)
