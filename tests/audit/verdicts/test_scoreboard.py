"""The book's table: estimates land in the right cells, turned around where asked."""

import numpy as np
import pandas as pd
import pytest

from unlearnlib.audit.verdicts.scoreboard import line, scoreboard


def summary() -> pd.DataFrame:
    rows = []
    for method, ua, cost in (("scrub", 0.2, 0.1), ("retrain", 0.5, 1.0), ("original", 0.0, np.nan)):
        shared = {"method": method, "audit": "accuracy", "cost_frac_retrain": cost}
        rows.append(
            {**shared, "subset": "forget", "statistic": "UA", "value": ua, "value_lo": ua - 0.1, "value_hi": ua}
        )
        rows.append({**shared, "subset": "test", "statistic": "TA", "value": 0.9, "value_lo": 0.8, "value_hi": 0.95})
    frame = pd.DataFrame(rows)
    return frame.assign(gap=frame.value - 0.5, gap_lo=frame.value - 0.6, gap_hi=frame.value - 0.4)


def test_values_their_order_and_the_turned_interval():
    wanted = {"forget": ("accuracy", "forget", "1 - UA"), "gap": ("accuracy", "forget", "gap UA")}
    table = scoreboard(summary(), wanted).set_index("method")
    assert list(table.index) == ["original", "retrain", "scrub"]
    assert table.loc["scrub", ["forget", "forget_low", "forget_high"]].tolist() == pytest.approx([0.8, 0.8, 0.9])
    assert table.loc["scrub", ["gap", "gap_low", "gap_high"]].tolist() == pytest.approx([-0.3, -0.4, -0.2])
    assert table.loc["scrub", "cost"] == 0.1 and np.isnan(table.loc["original", "cost"])


def test_refusals():
    with pytest.raises(ValueError, match="was that rung"):
        scoreboard(summary(), {"x": ("lira", "forget", "AUC")})
    with pytest.raises(ValueError, match="several estimates"):
        scoreboard(pd.concat([summary(), summary()]), {"x": ("accuracy", "test", "TA")})


def test_one_line_of_a_summary():
    found = line(summary(), "scrub", "UA", "forget")
    assert (found.value, found.method, found.subset) == (0.2, "scrub", "forget")
    with pytest.raises(ValueError, match="no estimate 'AUC' of 'loss rank' on 'forget' for 'scrub'"):
        line(summary(), "scrub", "AUC", "forget", "loss rank")
    with pytest.raises(ValueError, match="2 estimates .* choose one setting"):
        line(pd.concat([summary(), summary()]), "scrub", "UA", "forget")
