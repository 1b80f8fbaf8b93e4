"""ROC plumbing against closed forms, the Gaussian model, scikit-learn, and simulated coverage."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from unlearnlib.audit.statistics.roc import as_array, clopper_pearson, finite, margin, roc
from unlearnlib.seeding import numpy_generator


def two_sides(members, nonmembers):
    return roc(np.concatenate([members, nonmembers]), np.arange(len(members) + len(nonmembers)) < len(members))


def gaussian_quantiles(n, shift=0.0, scale=1.0):
    return shift + scale * norm.ppf((np.arange(n) + 0.5) / n)


# margin


def test_margin_is_the_log_odds_of_the_labelled_class():
    logits = numpy_generator(0, "margin").normal(size=(50, 7))
    labels = numpy_generator(1, "margin").integers(0, 7, 50)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p_y = p[np.arange(50), labels]
    np.testing.assert_allclose(margin(logits, labels), np.log(p_y) - np.log(1 - p_y), atol=1e-12)


def test_margin_with_two_classes_is_the_difference_and_survives_saturation():
    np.testing.assert_allclose(margin([[3.0, 1.0], [3.0, 1.0]], [0, 1]), [2.0, -2.0])
    # float32 probabilities would be exactly 1 here, and the log-odds infinite
    np.testing.assert_allclose(margin(torch.tensor([[200.0, -150.0]]), torch.tensor([0])), [350.0])
    np.testing.assert_allclose(margin([[1000.0, 0.0, 0.0]], [0]), [1000 - np.log(2)])


def test_margin_ignores_a_shift_of_all_logits_and_takes_leading_axes():
    logits = numpy_generator(2, "margin").normal(size=(3, 5, 4))
    labels = np.array([0, 1, 2, 3, 0])
    s = margin(logits, labels)
    assert s.shape == (3, 5) and s.dtype == np.float64
    np.testing.assert_allclose(margin(logits + 17.0, labels), s, atol=1e-12)
    np.testing.assert_array_equal(s[1], margin(logits[1], labels))


def test_margin_does_not_write_to_its_input():
    logits = np.ones((2, 3))
    margin(logits, [0, 1])
    assert (logits == 1).all()


@pytest.mark.parametrize(
    "logits, labels",
    [
        ([[1.0]], [0]),
        ([[1.0, np.nan]], [0]),
        ([[1.0, 2.0]], [2]),
        ([[1.0, 2.0]], [0, 1]),
        ([[1.0, 2.0]], [0.5]),
        ([[1.0, 2.0]], [np.nan]),
        ([[np.inf, np.inf]], [0]),
        ([[-np.inf, -np.inf]], [0]),
    ],
)
def test_margin_refuses(logits, labels):
    with pytest.raises(ValueError):
        margin(logits, labels)


# areas and points


def test_hull_and_empirical_area_of_the_known_examples():
    r = two_sides([1, 3], [0, 2])
    assert [r.hull_tpr_at(a) for a in (0, 0.25, 0.5)] == [0.5, 0.75, 1.0]
    r = two_sides([0, 4, 6, 7], [1, 2, 3, 5])
    assert r.hull_auc == pytest.approx(13 / 16)
    assert r.auc == 11 / 16 == roc_auc_score([1] * 4 + [0] * 4, [0, 4, 6, 7, 1, 2, 3, 5])


def test_ties_count_half_and_the_order_of_tied_examples_does_not_matter():
    scores = numpy_generator(0, "ties").integers(0, 4, 200)
    truth = numpy_generator(1, "ties").random(200) < 0.4
    r = roc(scores, truth)
    assert r.auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert np.trapezoid(r.tpr, r.fpr) == pytest.approx(r.auc, abs=1e-12)
    shuffle = numpy_generator(2, "ties").permutation(200)
    np.testing.assert_array_equal(roc(scores[shuffle], truth[shuffle]).tpr, r.tpr)
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(r.fpr, fpr)
    np.testing.assert_allclose(r.tpr, tpr)
    assert roc(np.zeros(20), np.arange(20) < 8).auc == 0.5


def test_infinite_scores_are_ordered_and_nan_is_refused():
    assert two_sides([np.inf, np.inf, 1.0], [-np.inf, 1.0, np.inf]).auc == pytest.approx((2 * 2.5 + 1.5) / 9)
    with pytest.raises(ValueError, match="NaN"):
        two_sides([1.0, np.nan], [0.0, 0.0])
    with pytest.raises(ValueError, match="two members"):
        two_sides([1.0], [0.0, 0.0])


@pytest.mark.parametrize(
    "shift, auc, at_1, at_tenth, accuracy", [(1, 0.7602, 0.0924, 0.0183, 0.6915), (2, 0.9214, 0.3721, 0.1378, 0.8413)]
)
def test_equal_variance_gaussians(shift, auc, at_1, at_tenth, accuracy):
    n = 400_000  # quantiles instead of draws: the only error is the grid's
    r = two_sides(gaussian_quantiles(n, shift), gaussian_quantiles(n))
    assert r.auc == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=1e-5)
    assert r.auc == pytest.approx(auc, abs=5e-5) and r.balanced_accuracy == pytest.approx(accuracy, abs=5e-5)
    for alpha, published in ((0.01, at_1), (0.001, at_tenth)):
        assert norm.cdf(shift - norm.ppf(1 - alpha)) == pytest.approx(published, abs=5e-5)
        # one step of the grid at the threshold: (1/n) x (density of members / density of non-members)
        step = np.exp(shift * norm.ppf(1 - alpha) - shift**2 / 2) / n
        assert r.tpr_at(alpha) == pytest.approx(norm.cdf(shift - norm.ppf(1 - alpha)), abs=step)


def test_tpr_at_never_exceeds_the_false_positive_rate_asked_for():
    r = two_sides(np.arange(40) + 0.5, np.repeat([0.0, 30.0], [79, 21]))  # FPR can be 0, .21 or 1 only
    assert r.tpr_at(0.2) == 10 / 40  # the nearest point, which some codes take, has FPR .21 and TPR 1
    assert r.tpr_at(0.21) == 1.0
    assert r.hull_tpr_at(0.105) == pytest.approx((10 / 40 + 1) / 2)
    low, high = r.interval_at(0.2)
    assert low < 10 / 40 < high


def test_tpr_at_is_refused_where_a_few_non_members_decide_it():
    r = two_sides(np.arange(50.0), np.arange(300.0))
    assert r.tpr_at(10 / 300) == 0.0
    with pytest.raises(ValueError, match="1000 non-members"):
        r.tpr_at(0.01)


def test_swapping_the_sides_mirrors_the_area():
    a, b = numpy_generator(0, "swap").normal(1, 1, 70), numpy_generator(1, "swap").normal(0, 1, 90)
    assert two_sides(a, b).auc + two_sides(b, a).auc == pytest.approx(1, abs=1e-12)
    assert two_sides(a, b).auc > 0.6  # so a swapped label cannot pass for the right one


def test_best_in_sample_threshold_is_optimistic_under_the_null():
    for n, published in ((50, 0.562), (100, 0.541), (250, 0.528)):
        draws = numpy_generator(n, "optimism").normal(size=(300, 2, n))
        mean = np.mean([two_sides(a, b).balanced_accuracy for a, b in draws])
        assert mean == pytest.approx(published, abs=0.006)


# intervals


def test_standard_error_under_the_null():
    for n, published in ((50, 0.058), (100, 0.041), (250, 0.026), (1000, 0.013)):
        a, b = numpy_generator(n, "se").normal(size=(2, n))
        assert two_sides(a, b).standard_error == pytest.approx(published, rel=0.08)
        assert np.sqrt((2 * n + 1) / (12 * n * n)) == pytest.approx(published, abs=6e-4)  # Mann-Whitney


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("shift, scale", [(0, 1), (1, 1), (2, 1), (1, 3), (4, 1)])
def test_interval_covers(n, shift, scale):
    truth = norm.cdf(shift / np.sqrt(1 + scale**2))
    draws = numpy_generator(n, "coverage", shift, scale).normal(size=(400, 2, n))
    intervals = np.array([two_sides(shift + scale * a, b).interval() for a, b in draws])
    covered = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
    # 400 repetitions: a true coverage of .95 gives .95 +- .022 (2 SE); conservative at the boundary is allowed
    assert 0.92 <= covered <= 1.0


def test_interval_does_not_collapse_at_perfect_separation():
    low, high = two_sides(np.arange(10, 30.0), np.arange(10.0)).interval()
    assert high == 1.0 and 0.7 < low < 0.99
    low, high = two_sides(np.arange(10.0), np.arange(10, 30.0)).interval()
    assert low == 0.0 and 0.01 < high < 0.3


def test_clopper_pearson_known_values():
    assert clopper_pearson(0, 100, 0.95, sides=1)[1] == pytest.approx(0.0295130, abs=1e-7)
    assert clopper_pearson(0, 100, 0.95, sides=1)[1] == pytest.approx(1 - 0.05**0.01, abs=1e-12)
    assert clopper_pearson(0, 100) == (0.0, pytest.approx(1 - 0.025**0.01))
    assert clopper_pearson(100, 100)[1] == 1.0
    low, high = clopper_pearson(51, 512)
    assert clopper_pearson(461, 512) == (pytest.approx(1 - high), pytest.approx(1 - low))
    low, high = clopper_pearson(np.array([0, 5, 10]), 10)
    assert low.shape == (3,) and low[0] == 0 and high[2] == 1
    with pytest.raises(ValueError):
        clopper_pearson(3, 2)


def test_clopper_pearson_covers_exactly():
    from scipy.stats import binom

    n, k = 40, np.arange(41)
    low, high = clopper_pearson(k, n)
    for p in (0.01, 0.1, 0.37, 0.5):
        assert binom.pmf(k[(low <= p) & (p <= high)], n, p).sum() >= 0.95


# half precision, infinity, thresholds, few examples


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_cast_up_at_the_door(dtype):
    z = torch.tensor([[3.0, 1.0, -2.5], [60000.0, 0.25, 7.0]], dtype=dtype, requires_grad=True)
    np.testing.assert_array_equal(margin(z, torch.tensor([0, 2])), margin(z.detach().double(), [0, 2]))
    assert as_array(z).dtype == np.float32 == as_array(np.ones(3, np.float16)).dtype
    scores = torch.randn(40, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert roc(scores, torch.arange(40) < 20).auc == roc(scores.float(), np.arange(40) < 20).auc


def test_infinite_logits_give_margins_that_rank():
    z = [[np.inf, 0.0, 0.0], [0.0, np.inf, 0.0], [-np.inf, 0.0, 0.0], [1.0, -np.inf, -np.inf]]
    np.testing.assert_array_equal(margin(z, [0, 0, 0, 0]), [np.inf, -np.inf, -np.inf, np.inf])
    np.testing.assert_allclose(margin([[1.0, -np.inf, 0.5]], [0]), [0.5])


def test_infinite_entries_move_just_beyond_the_finite_ones():
    a, b = finite(np.array([1.0, np.inf, -np.inf]), np.array([3.0, np.inf]))
    np.testing.assert_array_equal(a, [1, 5, -1])
    np.testing.assert_array_equal(b, [3, 5])
    (same,) = finite(np.full(3, np.inf))
    assert np.ptp(same) == 0 and np.isfinite(same).all()


@pytest.mark.parametrize(
    "members, nonmembers, fpr, shift",
    [(1000, 100, 0.1, 1.0), (1000, 1000, 0.01, 1.0), (60, 1000, 0.01, 3.0), (200, 100, 0.1, 0.0), (50, 100, 0.2, 4.0)],
)
def test_interval_of_a_tpr_covers_with_its_threshold(members, nonmembers, fpr, shift):
    truth = norm.sf(norm.isf(fpr) - shift)
    covered = given = 0
    for i in range(200):
        rng = numpy_generator(i, "interval-at", members, nonmembers)
        r = two_sides(rng.normal(shift, 1, members), rng.normal(size=nonmembers))
        low, high = r.interval_at(fpr)
        assert 0 <= low <= r.tpr_at(fpr) <= high <= 1 and low < high
        covered += low <= truth <= high
        low, high = clopper_pearson(round(r.tpr_at(fpr) * members), members)
        given += low <= truth <= high
    assert covered >= 182  # 190 of 200 allowed; P[fewer than 182] < .01
    if members == 1000:
        assert given < 150  # the threshold taken as given


def test_interval_of_a_tpr_covers_with_ties_and_is_clopper_pearsons_when_the_threshold_is_known():
    steps = np.arange(-10, 12) / 2
    limit = min(q for q in steps if norm.sf(q + 0.25) <= 0.1)  # "above q" has the largest FPR that is allowed
    truth, covered = norm.sf(limit + 0.25 - 1), 0
    for i in range(200):
        rng = numpy_generator(i, "interval-ties")
        low, high = two_sides(
            np.round(2 * rng.normal(1, 1, 300)) / 2, np.round(2 * rng.normal(size=100)) / 2
        ).interval_at(0.1)
        covered += low <= truth <= high
    assert covered >= 182
    r = two_sides(gaussian_quantiles(40, 1.0), gaussian_quantiles(400_000))
    k = round(r.tpr_at(0.1) * 40)
    assert r.interval_at(0.1) == pytest.approx(clopper_pearson(k, 40), abs=0.02)


@pytest.mark.parametrize("m, n, level", [(3, 3, 0.95), (3, 30, 0.935), (10, 10, 0.95)])
def test_interval_covers_with_few_examples_and_never_claims_certainty(m, n, level):
    for shift in (0, 1, 3):
        draws = numpy_generator(m, "few", n, shift).normal(size=(800, m + n))
        intervals = np.array([two_sides(shift + d[:m], d[m:]).interval() for d in draws])
        covered = (intervals[:, 0] <= norm.cdf(shift / np.sqrt(2))) & (norm.cdf(shift / np.sqrt(2)) <= intervals[:, 1])
        assert covered.mean() > level - 0.025 and (intervals[:, 0] < intervals[:, 1]).all()  # 3 SE of 800
        assert (intervals >= 0).all() and (intervals <= 1).all()


@pytest.mark.parametrize("m, n, scale, area", [(30, 100, 3.0, 0.983), (50, 50, 1.0, 0.983), (100, 30, 0.3, 0.983)])
def test_interval_covers_near_the_end_of_its_range(m, n, scale, area):
    shift = norm.ppf(area) * np.sqrt(1 + scale**2)
    draws = numpy_generator(m, "end", n).normal(size=(300, m + n))
    intervals = np.array([two_sides(shift + scale * d[:m], d[m:]).interval() for d in draws])
    assert ((intervals[:, 0] <= area) & (area <= intervals[:, 1])).mean() > 0.925  # .95 less 2 SE of 300 repetitions
    assert (intervals >= 0).all() and (intervals <= 1).all() and (intervals[:, 0] < intervals[:, 1]).all()


def test_the_band_holds_for_all_thresholds_at_once():
    """Searching for a threshold where the curve beats chance finds none without an effect, and one with it."""
    at = np.linspace(0, 1, 41)
    truth, held, found, false = norm.cdf(1 - norm.isf(at)), 0, 0, 0
    for i in range(200):
        rng = numpy_generator(i, "band")
        low, high = two_sides(rng.normal(1, 1, 200), rng.normal(size=200)).band_at(at)
        held += bool(((low <= truth) & (truth <= high)).all())
        found += bool((low > at).any())
        low, high = two_sides(rng.normal(size=200), rng.normal(size=200)).band_at(at)
        false += bool(((low > at) | (high < at)).any())
    assert held >= 181  # 190 of 200 are promised; fewer than 181 has probability .004
    assert false <= 19 and found == 200
    with pytest.raises(ValueError, match="FPRs"):
        two_sides([1.0, 2.0], [0.0, 0.0]).band_at([1.1])
