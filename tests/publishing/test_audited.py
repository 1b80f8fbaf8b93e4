"""The tables of the audit of audits say what the matrix says."""

import pandas as pd

from unlearnlib.publishing import audited
from unlearnlib.publishing.markup import UNMEASURED


def matrix() -> pd.DataFrame:
    lines = []
    for audit, power in (("sharp", 1.0), ("deaf", 0.0)):
        for measure, case in (*audited.SHOWN.values(), ("order", ""), ("seconds", "")):
            value = {"level": 0.05, "power": power, "false alarms": 0.4 * power}.get(measure, 0.5)
            line = {"audit": audit, "extra": 16, "measure": measure, "case": case, "value": value}
            lines.append({**line, "low": value - 0.01, "high": value + 0.01, "worlds": 8})
    return pd.DataFrame(lines)


def test_what_was_missed_and_where_it_cried_wolf():
    sharp, deaf = audited.missed(matrix(), audited.SHOWN).splitlines()[2:]
    assert sharp.endswith("| none | 8 bits, 4 bits, half pruned, temperature |")
    assert "3 % left" in deaf and "new head" in deaf and deaf.endswith("| none |")


def test_matrix_sizes_and_advice():
    rows = audited.table(matrix()).splitlines()
    assert len(rows) == 4 and "0.050 ± 0.010" in rows[2] and rows[2].startswith("| sharp | 16 |")
    best = {"budget": 16, "audit": "sharp", "extra": 16, "power": 0.9, "low": 0.8, "high": 0.95, "level": 0.05}
    told = {"recommended": [best | {"beside": "deaf", "beside_extra": 1, "missed": "", "false_alarms": "4 bits"}]}
    line = "| 16 | sharp (16); beside it deaf (1) | 0.90 +0.05 -0.10 | 0.05 | nothing of what was planted | 4 bits |"
    assert line in audited.advice(told)
    sizes = {"worlds": 8, "forgotten": 120, "trained": 1664, "audited": 4000, "seconds": 360.0, "level": 0.05}
    assert "1,664 networks" in audited.sizes(sizes | {"training_seconds_a_model": 0.1})
    assert list(audited.found(matrix(), audited.SHOWN).columns) == list(audited.SHOWN)


def test_audits_of_a_pool_show_limits_where_they_have_any_and_no_file_says_so():
    one = {"audit": "RMIA", "of": "one network", "rejected": [[0.05, 0.03, 0.07], [1.0, 0.9, 1.0]], "order": 0.5}
    two = {"audit": "KLoM", "of": "the pool", "rejected": [[0.04, None, None], [1.0, None, None]], "order": 1.0}
    told = {
        "models": 8,
        "test_accuracy": [0.9, 0.91],
        "targets": 8910,
        "splits": 25,
        "splits_of_klom": 99,
        "exposure": 0.55,
        "seconds": 40,
    }
    text = audited.of_pool(told | {"shares": [0.0, 0.5], "audits": [one, two]})
    assert "8 networks of test accuracy 0.900 to 0.910" in text
    assert "| RMIA | one network | 5.0 ± 2.0 |" in text and "| KLoM | the pool | 4 | 100 | 1.00 |" in text
    assert audited.of_pool(None) == UNMEASURED == audited.of_classes(None, None)["audits-classes-table.md"]
