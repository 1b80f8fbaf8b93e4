"""The leaderboard: a planted order is recovered, ties overlap, intervals cover, one seed ranks nothing."""

import numpy as np
import pandas as pd
import pytest

from unlearnlib import audit, studies
from unlearnlib.seeding import numpy_generator

METHODS = ("original", "retrain, other seed", "finetune", "scrub", "salun", "bad")


def rows(leak: dict[str, float], seeds: int, noise: float = 0.01, seed: int = 0, cost=None) -> pd.DataFrame:
    """U-LiRA, KLoM, a proxy that follows the leak and one that does not, and test accuracy."""
    rng = numpy_generator(seed, "board")
    found = []
    for method, size in leak.items():
        for s in range(seeds):
            own = size + noise * rng.normal()
            for name, game, statistic, subset, value, target in (
                ("U-LiRA", "A", "AUC", "forget", 1.0, 0.5),  # the other game, which does not rank
                ("U-LiRA", "B", "AUC", "forget", 0.5 + own, np.nan),
                ("KLoM (gaussian)", "A", "mean", "forget", 1 + 10 * (size + noise * rng.normal()), np.nan),
                ("loss rank", "B", "AUC", "forget", 0.5 + size / 2 + 1e-4 * rng.normal(), 0.5),
                ("accuracy", "util", "TA", "test", 0.9 - (method == "bad") * 0.2 + 1e-3 * rng.normal(), 0.9),
            ):
                line = {
                    "method": method,
                    "audit": name,
                    "game": game,
                    "statistic": statistic,
                    "subset": subset,
                    "value": value,
                }
                line |= {"retrain_value": target, "gap": value - target, "seed_train": s, "valid_flag": True}
                found.append({**line, "cost_frac_retrain": (cost or {}).get(method, 0.1)})
    return pd.DataFrame(found)


PLANTED = dict(zip(METHODS, (0.4, 0.0, 0.3, 0.2, 0.1, 0.25), strict=True))


@pytest.mark.parametrize("seeds", [5, 12])
def test_a_planted_order_is_recovered(seeds):
    table = studies.leaderboard(rows(PLANTED, seeds, 0.002)).table
    assert list(table["method"]) == sorted(PLANTED, key=PLANTED.get)
    assert list(table["rank_low"]) == list(table["rank_high"]) == [1, 2, 3, 4, 5, 6]


def test_ties_overlap_and_one_seed_or_copied_values_rank_nothing():
    tied = PLANTED | {"scrub": 0.1}
    table = studies.leaderboard(rows(tied, 8, 0.005, seed=1)).table.set_index("method")
    assert {tuple(table.loc[m, ["rank_low", "rank_high"]]) for m in ("scrub", "salun")} == {(2, 3)}
    one = studies.leaderboard(rows(PLANTED, 1)).table
    assert one["rank_low"].isna().all() and one["score"].notna().all()
    copied = rows(PLANTED, 5, noise=0.0)
    assert set(studies.leaderboard(copied).table["rank_high"]) == {6.0}


@pytest.mark.parametrize("seeds", [3, 10])
def test_intervals_hold_together_with_the_stated_probability(seeds):
    """Six methods in three pairs of equals: every true rank lies inside all at once in 95 of 100 boards."""
    from unlearnlib.studies.ranking import _order, _ranks

    truth = np.repeat([0.1, 0.2, 0.3], 2)
    lowest, highest = np.array([1, 1, 3, 3, 5, 5]), np.array([2, 2, 4, 4, 6, 6])
    held = []
    for i in range(200):
        scores = truth[:, None] + 0.05 * numpy_generator(i, "coverage").normal(size=(6, seeds))
        low, high = _ranks(_order(scores, 0.95, i))
        held.append(((low <= lowest) & (high >= highest)).all())
    assert np.mean(held) >= 0.91  # 95 % less 2.5 standard errors of 200 boards


def test_damage_duels_and_proxies():
    cost = dict.fromkeys(METHODS, 0.1) | {"salun": 0.5}
    board = studies.leaderboard(rows(PLANTED, 5, 0.002, cost=cost))
    table = board.table.set_index("method")
    assert table.loc["bad", "damage"] == pytest.approx(-0.2, abs=0.01) and table.loc["bad", "damage_high"] < -0.15
    assert abs(table.loc["scrub", "damage"]) < 0.01
    assert table.loc["scrub", "original: duel"] == table.loc["scrub", "fine-tuning: duel"] == "wins"
    assert table.loc["original", "fine-tuning: duel"] == "loses" and table.loc["original", "original: duel"] == ""
    assert table.loc["salun", "fine-tuning: duel"] == ""  # no fine-tuning at five times the cost
    proxies = board.proxies.set_index("audit")
    assert proxies.loc["loss rank", "correlation"] == pytest.approx(1.0) and proxies.loc["loss rank", "high"] <= 1
    assert proxies.loc["accuracy", "low"] < 0 and "U-LiRA" not in proxies.index


def test_a_method_without_a_ranking_audit_is_last_and_unranked():
    given = rows(PLANTED, 5, 0.002)
    given = given[~((given["method"] == "bad") & (given["audit"] == "U-LiRA"))]
    last = studies.leaderboard(given).table.iloc[-1]
    assert last["method"] == "bad" and np.isnan(last["rank_low"])


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda r: r.drop(columns="gap"), "lack gap"),
        (lambda r: r[r["audit"] == "accuracy"], "no valid U-LiRA"),
        (lambda r: r[r["method"] == "bad"], "two methods"),
        (lambda r: r.assign(dataset=r["method"]), "several values of dataset"),
    ],
)
def test_errors_at_the_door(change, says):
    with pytest.raises(ValueError, match=says):
        studies.leaderboard(change(rows(PLANTED, 3)))


def test_it_ranks_what_the_audits_write():
    """Phantoms after 0, 5 and 60 steps of unlearning, each with U-LiRA and KLoM of its own in three seeds."""
    ghost, found = audit.Phantom(), []
    for steps, name in ((0, "original"), (5, "some"), (60, "all")):
        for s in range(3):
            matrix, tags = audit.state_matrix(18, 90, seed=s), {"method": name, "seed_train": s}
            margins, retrained = ghost.margins(matrix.state, k=steps, seed=s)
            found.append(audit.shadow_audit(margins, matrix, retrained=retrained, tags=tags))
            seeds = {"seed": s, "stream": f"{name} {s}"}
            unlearned = ghost.weights("unlearned", (16, 60), k=steps, **seeds)
            found.append(audit.ensemble_audit(unlearned, ghost.weights("retrained", (32, 60), **seeds), tags=tags))
    board = studies.leaderboard(pd.concat(found).assign(cost_frac_retrain=0.1))
    assert list(board.table["method"]) == ["all", "some", "original"] and board.seeds == (0, 1, 2)
    assert {"U-LiRA", "KLoM (gaussian)"} <= set(board.table.columns)
