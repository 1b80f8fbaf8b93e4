"""LiRA against tf-privacy's values, scipy, a direct leave-one-out loop, the power table, the null, and planted bugs."""

import warnings

import numpy as np
import pytest
from lira_game import TWO, attack
from scipy.stats import norm

from unlearnlib.audit.attacks.lira import Lira, gaussian_log_density, lira, shadow_attack
from unlearnlib.audit.statistics.roc import roc
from unlearnlib.audit.statistics.state import FORGET, NEVER, RETAIN, state_matrix
from unlearnlib.seeding import numpy_generator

# fits


def ragged(samples):
    """[[-1, 1], [0, 2], ...] of any lengths as a matrix [models, examples] and its mask."""
    height = max(map(len, samples))
    values, mask = np.zeros((height, len(samples))), np.zeros((height, len(samples)), bool)
    for i, column in enumerate(samples):
        values[: len(column), i], mask[: len(column), i] = column, True
    return values, mask


def test_values_of_the_tensorflow_privacy_tests():
    shadow, inside = ragged([[-1, 1], [0, 2], [0, 20], []])
    target = [1, 0, 0, 0]
    expected = [1.41893853, 1.41893853, 3.72152363, 2.72537178]
    np.testing.assert_allclose(-gaussian_log_density(target, shadow, inside), expected, atol=1e-8)
    expected = [2.69682468, 2.69682468, 4.15270703, 2.87983121]
    np.testing.assert_allclose(-gaussian_log_density(target, shadow, inside, "pooled"), expected, atol=1e-8)
    # two queries of one example are averaged
    shadow, inside = ragged([[-1, 1], [0, 20]])
    assert -gaussian_log_density([1, 0], shadow, inside).mean() == pytest.approx(2.57023108, abs=1e-8)


def test_online_attack_of_mirrored_sides_is_zero_as_in_their_tests():
    shadow = np.array([[-1, 0, 0], [1, 2, 20], [1, 0, 0], [-1, -2, -20]], float)
    trained = np.array([[True] * 3] * 2 + [[False] * 3] * 2)
    for variance in ("example", "pooled"):
        np.testing.assert_allclose(shadow_attack([1, 0, 0], shadow, trained, variance), 0, atol=1e-12)


@pytest.mark.parametrize("variance", ["example", "pooled"])
def test_online_attack_equals_a_scipy_loop(variance):
    rng = numpy_generator(0, "lira-scipy")
    shadow = rng.normal(50, 3, (40, 700))  # two blocks of columns, far from zero
    trained, targets = rng.random((40, 700)) < 0.4, rng.normal(50, 3, (3, 700))
    columns = [(shadow[trained[:, i], i], shadow[~trained[:, i], i]) for i in range(700)]
    pools = [np.sqrt(np.mean(np.concatenate([(c[j] - c[j].mean()) ** 2 for c in columns]))) for j in (0, 1)]
    for t, got in zip(targets, shadow_attack(targets, shadow, trained, variance), strict=True):
        loop = [
            norm.logpdf(t[i], a.mean(), a.std() if variance == "example" else pools[0])
            - norm.logpdf(t[i], b.mean(), b.std() if variance == "example" else pools[1])
            for i, (a, b) in enumerate(columns)
        ]
        np.testing.assert_allclose(got, loop, atol=1e-9)


def direct(x, member, other, clusters, variance):
    """The same scores by refitting for each target, without any algebra of sums."""
    out = np.full(x.shape, np.nan)
    for m in range(len(x)):
        keep = clusters != clusters[m]
        a, b = (x * np.where(side & keep[:, None], 1, np.nan) for side in (member, other))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            m_a, m_b, n_a, n_b = np.nanmean(a, 0), np.nanmean(b, 0), (~np.isnan(a)).sum(0), (~np.isnan(b)).sum(0)
            q_a, q_b = np.nansum((a - m_a) ** 2, 0), np.nansum((b - m_b) ** 2, 0)
        with np.errstate(all="ignore"):
            if variance == "example":
                row = norm.logpdf(x[m], m_a, np.sqrt(q_a / n_a)) - norm.logpdf(x[m], m_b, np.sqrt(q_b / n_b))
            else:
                v = (q_a + q_b).sum() / (np.maximum(n_a - 1, 0) + np.maximum(n_b - 1, 0)).sum()
                row = 0.5 * ((x[m] - m_b) ** 2 * n_b / (n_b + 1) - (x[m] - m_a) ** 2 * n_a / (n_a + 1)) / v
        ok = (member[m] | other[m]) & (np.minimum(n_a, n_b) >= 2)
        out[m, ok] = row[ok]
    return out


@pytest.mark.parametrize("variance", ["example", "pooled"])
@pytest.mark.parametrize("siblings", [1, 2])
def test_leaving_out_by_sums_equals_refitting(variance, siblings):
    design = state_matrix(48, 60, siblings=siblings, seed=0)
    rng = numpy_generator(0, "lira-direct")
    s = rng.normal(20, 4, 60) + rng.normal(size=(48, 60))
    got = lira(s, design, game="B", variance=variance)
    expected = direct(s, design.state == FORGET, design.state == NEVER, design.parents, variance)
    np.testing.assert_allclose(got.scores, expected, atol=1e-8)
    retrained = s + rng.normal(size=s.shape)
    got = lira(s, design, game="A", variance=variance, retrained=retrained)
    forgotten, none = design.state == FORGET, np.zeros(s.shape, bool)
    both = [np.concatenate(pair) for pair in ((s, retrained), (forgotten, none), (none, forgotten))]
    np.testing.assert_allclose(got.scores, direct(*both, np.tile(design.parents, 2), variance), atol=1e-8)


def test_shared_variance_lies_between_the_pool_and_each_examples_own():
    """With equal variances everywhere the prior is as good as certain, with very different ones it yields."""
    flat = attack(32, 2000, seed=0, gain=1.0)
    pooled = attack(32, 2000, seed=0, gain=1.0, variance="pooled")
    assert np.corrcoef(flat.scores[flat.used], pooled.scores[flat.used])[0, 1] > 0.99
    sd = np.exp(numpy_generator(0, "sd").normal(0, 1, 2000))
    own = attack(32, 2000, seed=0, gain=1.0, sd=sd)
    pooled = attack(32, 2000, seed=0, gain=1.0, sd=sd, variance="pooled")
    assert np.corrcoef(own.scores[own.used], pooled.scores[own.used])[0, 1] < 0.9
    assert own.interval(0.999).low > pooled.interval(0.999).high


def test_four_models_a_side_are_pooled():
    few, pooled = attack(8, 300, seed=1), attack(8, 300, seed=1, variance="pooled")
    assert few.variance == "pooled" and attack(10, 300, seed=1).variance == "shared"
    np.testing.assert_array_equal(few.scores, pooled.scores)


# power


def exactly(k, examples, *, seed, sd, variance):
    """Rows paired by parents, so that k models a side stay once a target and its sibling have left."""
    state = np.repeat([FORGET, NEVER], k + 1)[:, None] * np.ones((1, examples), int)
    rng = numpy_generator(seed, "power-table", k)
    s = 10 * rng.normal(size=examples) + sd * ((state == FORGET) + rng.normal(size=state.shape))
    return lira(s, state, game="B", parents=np.tile(np.arange(k + 1), 2), variance=variance).auc


# auc .762 if the law were known; margins whose sd is lognormal(0, 1/2) in the heteroscedastic column
TABLE = [
    (4, False, dict(pooled=0.712)),
    (8, False, dict(pooled=0.738, shared=0.734)),
    (16, False, dict(example=0.738, pooled=0.750, shared=0.748)),
    (8, True, dict(pooled=0.724, shared=0.736)),
    (16, True, dict(pooled=0.734, shared=0.750)),
    (64, True, dict(pooled=0.738, shared=0.758)),
]


@pytest.mark.parametrize("k, uneven, row", TABLE)
def test_power_with_few_models(k, uneven, row):
    examples = 40_000 // k
    sd = np.exp(numpy_generator(1, "power-sd").normal(0, 0.5, examples)) if uneven else 1.0
    found = {v: exactly(k, examples, seed=0, sd=sd, variance=v) for v in row}
    # 5,000 examples and more: four standard errors of a cell of ours and of the table's
    assert found == pytest.approx(row, abs=0.01)
    assert max(found.values()) < norm.cdf(1 / np.sqrt(2)) + 0.01
    if "example" in row:
        assert found["example"] < found["pooled"] - 0.008
    if uneven:
        assert found["shared"] > found["pooled"] + 0.006


def test_difficulty_hides_membership_from_a_global_threshold_and_not_from_lira():
    design = state_matrix(128, 400, states=TWO, seed=0)
    rng = numpy_generator(0, "difficulty")
    s = 10 * rng.normal(size=400) + (design.state == FORGET) + rng.normal(size=(128, 400))
    known = norm.cdf(1 / np.sqrt(2))
    assert roc(s.ravel(), (design.state == FORGET).ravel()).auc == pytest.approx(0.528, abs=0.006)
    assert lira(s, design, game="B").auc == pytest.approx(known, abs=0.008)
    assert known == pytest.approx(0.760, abs=5e-4)


def test_advantage_of_single_examples():
    """2 Phi(d'/2) - 1, cross-fitted; the rates in sample would promise an advantage under the null."""
    for gain, known in ((0.0, 0.0), (1.0, 0.382925), (2.0, 0.682689)):
        r = attack(400, 300, seed=2, gain=gain)
        assert known == pytest.approx(2 * norm.cdf(gain / 2) - 1, abs=1e-6)
        error = np.std(r.example_advantage) / np.sqrt(300)
        assert abs(r.example_advantage.mean() - known) < 4 * error + 0.005  # .005: the fits have 100 models a side
        assert r.example_auc.mean() == pytest.approx(norm.cdf(gain / np.sqrt(2)), abs=0.01)
    null = attack(64, 300, seed=3)
    in_sample = [roc(null.scores[:, i], null.is_member[:, i]).balanced_accuracy * 2 - 1 for i in range(300)]
    assert np.mean(in_sample) > 0.1 and abs(null.example_advantage.mean()) < 0.03


def test_a_pure_change_of_variance_needs_the_unequal_mode():
    design = state_matrix(256, 150, states=TWO, seed=0)
    rng = numpy_generator(0, "variance")
    s = rng.normal(size=(256, 150)) * np.where(design.state == FORGET, 2.0, 1.0) + 5 * rng.normal(size=150)
    shared, unequal = lira(s, design, game="B"), lira(s, design, game="B", variance="unequal")
    assert abs(shared.auc - 0.5) < 0.03
    assert unequal.auc == pytest.approx(2 / np.pi * np.arctan(2), abs=0.015)  # P[|2 Z| > |Z'|] = .7048
    assert np.median(shared.sigma_ratio) == pytest.approx(2, abs=0.05)
    with pytest.raises(ValueError, match="32 models a side"):
        attack(62, 50, seed=0, variance="unequal")


# null


@pytest.mark.parametrize("game", ["A", "B"])
def test_retrained_models_as_candidates_hold_their_level(game):
    """200 repetitions; models differ by an offset of their own, as real ones do. An interval by pairs is too narrow."""
    aucs, two_way, naive = [], 0, 0
    for rep in range(200):
        design = state_matrix(18, 60, seed=rep)
        rng = numpy_generator(rep, "lira-null", game)
        common = 3 * rng.normal(size=60) + 0.5 * rng.normal(size=(18, 1))
        s, retrained = common + rng.normal(size=(18, 60)), common + rng.normal(size=(18, 60))
        r = lira(s, design, game=game, retrained=retrained if game == "A" else None)
        interval, by_pairs = r.interval(), r.roc.interval()
        aucs.append(r.auc)
        two_way += interval.low <= 0.5 <= interval.high
        naive += by_pairs[0] <= 0.5 <= by_pairs[1]
    assert abs(np.mean(aucs) - 0.5) < 4 * np.std(aucs) / np.sqrt(200)
    assert two_way >= 180  # 190 expected; P[fewer than 180] < .002
    assert naive < two_way


def test_a_target_among_its_own_shadow_models_is_a_bug_that_shows_on_noise():
    for k, faked in ((8, 0.68), (16, 0.62), (32, 0.59), (64, 0.56)):
        design = state_matrix(2 * k, 20_000 // k, states=TWO, seed=k)
        s = numpy_generator(k, "own-shadow").normal(size=design.state.shape)
        member = design.state == FORGET
        buggy = roc(shadow_attack(s, s, member).ravel(), member.ravel()).auc
        assert buggy == pytest.approx(faked, abs=0.01)
        assert abs(lira(s, design, game="B").auc - 0.5) < 0.012


def test_siblings_left_among_the_shadow_models_are_the_same_bug():
    design = state_matrix(32, 1000, siblings=2, seed=0)
    rng = numpy_generator(0, "siblings")
    s = np.repeat(rng.normal(size=(16, 1000)), 2, axis=0) + 0.1 * rng.normal(size=(32, 1000))
    alone = lira(s, design, game="B")
    assert abs(alone.auc - 0.5) < 0.015
    stranger = lira(s, design.state, game="B")  # without parents each model takes its twin for one
    assert stranger.auc > 0.55 and stranger.interval(0.999).low > 0.5


def test_damage_alone_is_seen_by_game_a_and_not_by_game_b():
    design = state_matrix(48, 200, seed=0)
    rng = numpy_generator(0, "damage")
    difficulty = 3 * rng.normal(size=200)
    damaged, retrained = (difficulty + rng.normal(size=(48, 200)) - d for d in (2.0, 0.0))
    assert lira(damaged, design, game="A", retrained=retrained).interval(0.999).low > 0.85
    low_high = lira(damaged, design, game="B").interval(0.999)
    assert low_high.low < 0.5 < low_high.high


def test_the_retain_game_sees_what_the_models_keep():
    design = state_matrix(48, 200, seed=0)
    rng = numpy_generator(0, "retain")
    s = 3 * rng.normal(size=200) + rng.normal(size=(48, 200)) + 1.5 * (design.state == RETAIN)
    kept, forgotten = lira(s, design, game="retain"), lira(s, design, game="B")
    assert kept.auc == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.03)
    assert abs(forgotten.auc - 0.5) < 0.03
    np.testing.assert_array_equal(kept.used, design.state != FORGET)


@pytest.mark.parametrize("variance", ["shared", "pooled", "robust", "example"])
def test_a_constant_margin_carries_no_evidence(variance):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        r = lira(np.full((48, 50), 3.3), state_matrix(48, 50, seed=0), game="B", variance=variance)
    assert r.auc == 0.5 and np.allclose(r.scores[r.used], 0, atol=1e-6)
    assert np.nanmin(r.example_auc) == 0.5 == np.nanmax(r.example_auc) and np.nanmax(np.abs(r.example_advantage)) == 0


# the result


def test_queries_are_averaged_and_the_input_is_left_alone():
    design = state_matrix(12, 30, seed=0)
    s = numpy_generator(0, "queries").normal(size=(12, 30, 2))
    before = s.copy()
    both = lira(s, design, game="B")
    one, two = (lira(s[..., q], design, game="B") for q in (0, 1))
    np.testing.assert_allclose(both.scores, (one.scores + two.scores) / 2)
    np.testing.assert_array_equal(s, before)


def test_the_result_says_what_was_used():
    r = attack(30, 40, seed=0, states=("retain", "forget", "never"))
    assert isinstance(r, Lira) and r.game == "B" and r.scores.shape == (30, 40)
    assert r.used.sum() == r.roc.n_members + r.roc.n_nonmembers and r.roc.n_members == r.is_member[r.used].sum()
    assert r.imbalance.max() == 0 and r.interval().n == 30
    assert r.interval().low < r.auc < r.interval().high


GOOD = dict(scores=np.zeros((6, 4)), state=state_matrix(6, 4, seed=0).state, game="B")


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(game="C"), "game is one of"),
        (dict(variance="own"), "variance one of"),
        (dict(game="A"), "retrained"),
        (dict(retrained=np.zeros((6, 4))), "retrained"),
        (dict(scores=np.zeros((5, 4))), "must be"),
        (dict(scores=np.full((6, 4), np.inf)), "not finite"),
        (dict(parents=[0, 1]), "parents"),
        (dict(state=np.full((6, 4), NEVER)), "two models"),
        (dict(state=np.full((6, 4), 7)), "codes"),
        (dict(parents=np.zeros(6)), "siblings"),
    ],
)
def test_refuses_in_one_line(change, says):
    with pytest.raises(ValueError, match=says) as error:
        lira(**(GOOD | change))
    assert "\n" not in str(error.value)


def test_shadow_attack_refuses():
    shadow = np.zeros((4, 3))
    for arguments in (
        (np.zeros(2), shadow, shadow == 0),
        (np.zeros(3), shadow, np.ones((4, 2), bool)),
        (np.zeros(3), shadow, shadow == 0),
        (np.zeros(3), shadow, shadow == 0, "shared"),
    ):
        with pytest.raises(ValueError):
            shadow_attack(*arguments)


def test_a_sigma_of_each_side_needs_models_because_its_null_is_biased():
    for side in (2, 3, 4, 6, 15):
        with pytest.raises(ValueError, match="'example' needs 16 models a side"):
            attack(2 * side, 40, seed=0, variance="example")
    assert abs(attack(32, 2000, seed=4, variance="example").auc - 0.5) < 0.012  # four standard errors


def test_perfect_separation_claims_no_more_than_its_originals_allow():
    design = state_matrix(12, 200, states=TWO, seed=0)
    s = 100.0 * (design.state == FORGET) + numpy_generator(0, "apart").normal(size=(12, 200))
    r = lira(s, design, game="B")
    assert r.auc == 1.0 and r.interval().high == 1.0
    assert 0.5 < r.interval().low < 0.7  # six disjoint pairs of originals: .05^(1/6) = .607, not 1,200 pairs
