"""Streams do what their names say; the two attacks reach the values that theory gives."""

import copy
import math

import numpy as np
import pytest
import small

from unlearnlib.exact import streams
from unlearnlib.exact.forest import DareForest
from unlearnlib.exact.naive_bayes import NearestMean
from unlearnlib.exact.ridge import Ridge


def test_uniform_and_by_class():
    requests = streams.uniform(50, 8, 5, seed=1)
    assert [len(r) for r in requests] == [5] * 8 and len(np.unique(np.concatenate(requests))) == 40
    assert [r.tolist() for r in requests] == [r.tolist() for r in streams.uniform(50, 8, 5, seed=1)]
    labels = np.arange(50) % 4
    parts = streams.by_class(labels, 2, size=5)
    assert sorted(np.concatenate(parts)) == np.flatnonzero(labels == 2).tolist() and len(parts) == 3
    with pytest.raises(ValueError, match="ask for fewer"):
        streams.uniform(10, 10)
    with pytest.raises(ValueError, match="no example"):
        streams.by_class(labels, 7)


def test_replay_records_every_receipt():
    examples = small.examples(60)
    learner = NearestMean().fit(examples)
    table = streams.replay(learner, streams.by_class(examples.labels, 1, size=8))
    assert table["size"].tolist() == [8, 8, 4] and (table["classes"] == 1).all()
    assert table["request"].tolist() == [0, 1, 2] and (table["gradient_evaluations"] == 0).all()
    assert learner.counts[1] == 0


def test_the_adversary_takes_the_most_costly_first():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6))
    y = (x[:, 0] + rng.normal(size=60) > 0).astype(int)

    def cost(receipt):
        return receipt.touched["examples_retrained"]

    learner = DareForest(n_trees=5, max_depth=5).fit_arrays(x, y)
    before = learner.fingerprint()
    every = [cost(copy.deepcopy(learner).forget([i])) for i in range(60)]
    stream = streams.adversarial(learner, 60, 3, cost, candidates=60)
    worst = next(stream)
    assert learner.fingerprint() == before  # the trials leave it alone
    assert every[worst[0]] == max(every) > np.median(every)
    table = streams.replay(learner, [worst, *stream])
    assert table["examples_retrained"][0] == max(every) and len(table) == 3
    foreseen = streams.adversarial(learner, 60, 2, foreseen=lambda i: float(i != 5), candidates=60, seed=3)
    assert [int(r[0]) for r in foreseen] != [5, 5]
    assert next(streams.adversarial(learner, 60, 1, foreseen=lambda i: float(i == 5), candidates=60)) == [5]
    with pytest.raises(ValueError, match="give cost"):
        next(streams.adversarial(learner, 60, 1))


def test_adaptive_requests_follow_the_published_predictions():
    examples = small.examples(60)
    learner = NearestMean().fit(examples)

    def least_sure(logits, labels):
        return -logits[np.arange(len(labels)), labels]

    seen = []
    for request in streams.adaptive(learner, examples, 3, least_sure, size=4):
        left = np.flatnonzero(learner._alive)
        logits = learner.logits(examples[left].pixels()).numpy()
        scores = least_sure(logits, examples.labels.numpy()[left])
        assert set(request) == set(left[np.argsort(-scores, kind="stable")[:4]])
        learner.forget(request)
        seen += request.tolist()
    assert len(set(seen)) == 12


@pytest.mark.parametrize("release", ["before", "after"])
def test_two_exact_releases_reveal_the_deleted_row(release):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 10)), rng.integers(0, 3, 80)
    learner = Ridge(lam=0.5).fit_arrays(x, y)
    theta, gram = learner.theta, learner.gram
    learner.forget([7])
    found = streams.two_release_attack(theta, learner.theta, gram if release == "before" else learner.gram)
    row = np.append(x[7], 1)
    assert abs(found.direction @ row) / np.linalg.norm(row) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.row, row, atol=1e-9)
    assert found.label == y[7] and found.rank_one == pytest.approx(1, abs=1e-12)
    learner.forget([8, 9, 10])
    assert streams.two_release_attack(theta, learner.theta, gram).rank_one < 0.99
    with pytest.raises(ValueError, match="nothing"):
        streams.two_release_attack(theta, theta, gram)


def test_the_label_is_recovered_where_the_model_errs():
    """Also of rows whose largest residual is not that of their own class."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(120, 6)), rng.integers(0, 4, 120)
    learner = Ridge(lam=0.5).fit_arrays(x, y)
    misled = 0
    for i in range(120):
        after = learner.leave_out([i])
        assert streams.two_release_attack(learner.theta, after, learner.gram).label == y[i]
        misled += int(learner.residuals()[i].argmax() != y[i])
    labels = Ridge(lam=0.5, targets="signed").fit_arrays(x, y)
    assert streams.two_release_attack(labels.theta, labels.leave_out([5]), labels.gram).label == y[5]
    x[:, :4] += 3 * np.eye(4)[y]
    easy = Ridge(lam=0.5).fit_arrays(x, y)
    misled += int((easy.residuals().argmax(1) != y).sum())
    assert misled > 0
    assert all(streams.two_release_attack(easy.theta, easy.leave_out([i]), easy.gram).label == y[i] for i in range(120))


def test_one_target_without_intercept_gives_the_direction_alone():
    rng = np.random.default_rng(2)
    x, t = rng.normal(size=(40, 5)), rng.normal(size=40)
    learner = Ridge(intercept=False).fit_targets(x, t)
    theta, gram = learner.theta[:, 0], learner.gram
    learner.forget([3])
    found = streams.two_release_attack(theta, learner.theta[:, 0], gram, intercept=False)
    assert abs(found.direction @ x[3]) / np.linalg.norm(x[3]) == pytest.approx(1, abs=1e-12)
    assert found.row is None and found.label is None


def test_an_adaptive_deleter_breaks_sharding_and_privacy_of_the_votes_repairs_it():
    def rates(**options):
        table = streams.adaptive_shard_attack(pairs=300, repeats=100, **options)
        return table["unlearned_rate"].mean(), table["retrained_rate"].mean(), table["deleted"].mean() / 300

    attacked, retrained, deleted = rates()
    assert attacked == 0 and retrained == pytest.approx(2 / 3, abs=0.02) and deleted == pytest.approx(2 / 3, abs=0.02)
    blind, retrained, _ = rates(adaptive=False)
    assert blind == pytest.approx(2 / 3, abs=0.02) and retrained == pytest.approx(2 / 3, abs=0.02)
    for epsilon in (0.0, 0.5, 2.0):
        q = 1 / (1 + math.exp(epsilon))
        expected = 2 * q / (2 * q + 1 - q)
        assert rates(epsilon=epsilon)[0] == pytest.approx(expected, abs=0.02)
    assert rates(epsilon=0.0)[0] == pytest.approx(2 / 3, abs=0.02)


def test_streams_refuse_sizes_that_are_none_and_count_masks():
    for bad in ((10, 0), (10, 2, 0), (10, 2.5), (0, 1)):
        with pytest.raises(ValueError):
            streams.uniform(*bad)
    with pytest.raises(ValueError, match="size must be a whole number"):
        streams.by_class([0, 1], 0, size=0)
    learner = NearestMean().fit_arrays(np.eye(6), [0, 1] * 3)
    table = streams.replay(learner, [np.arange(6) < 2, 3])
    assert table["size"].tolist() == [2, 1] == table["rows"].tolist()
