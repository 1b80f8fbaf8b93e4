"""The audit of audits: how good each audit is, on models whose residual is known by construction.

Every instrument of the `panel` is put on every candidate of several *worlds* (`known_answers.residuals`), with 0, 1,
16 and 64 extra models. An audit rejects where its own p-value is `level` at most. From the rejections come

    level         share of retrained models that it rejects: `level` is right, more is an audit that cries wolf
    power         share of the models of a case with a residual that it rejects
    order         Spearman's correlation of its statistic with the known residual over retrained, partly retrained and
                  original models: 1 is a perfect order
    false alarms  level on retrained models that were quantised, pruned, cooled
    kept power    power on half-retrained and original models after the same
    relearnt      share of rejections after five relearning steps on the forget set: all models then know something

Candidates of one world share its data and references, so they are no independent draws: each number is a mean over
worlds with Student's interval (logit scale for shares).

An extra model is one that the auditor trains or unlearns beside the candidate. References serve all candidates: 64 are
one pool, 16 are one of its four quarters. U-LiRA and KLoM spend half of 16, or 48 of 64, on retrained references and
the others on siblings of the candidate. KLoM speaks of the whole group, so that all candidates of a case and world are
nearly one test; where all worlds agree, the audits with siblings are counted as one test a world.
"""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from unlearnlib.audit.batteries.panel import PANEL
from unlearnlib.audit.batteries.seen import Instrument, Seen
from unlearnlib.audit.known_answers.residuals import Case, World
from unlearnlib.audit.statistics.intervals import t_interval

BUDGETS = (0, 1, 16, 64)
REFERENCES = {16: 8, 64: 48}  # of audits with siblings
TRANSFORMED = ("8 bits", "4 bits", "half pruned", "temperature 2")
WORTH = 0.01  # gain in power below which no second audit is recommended
NAN = float("nan")


def meta_evaluation(
    worlds: Sequence[World], *, budgets: Sequence[int] = BUDGETS, first: int = 0, panel: Sequence[Instrument] = PANEL
) -> pd.DataFrame:
    """Every audit on every candidate: one row each, with statistic, p-value and CPU seconds.

    `first` is the number of the first world, where worlds are evaluated in several calls whose rows are joined.
    Seconds are those of the audit alone on answers that are there, references and candidate read for the first time;
    they are measured on the first candidate of a world and NaN elsewhere. Raises ValueError for no world, a budget that
    is not in BUDGETS, and a world with fewer references than a budget needs.
    """
    if not worlds or set(budgets) - set(BUDGETS) or not budgets:
        raise ValueError(f"needs a world or more and budgets of {BUDGETS}, not {len(worlds)} and {tuple(budgets)}")
    short = [len(w.references) for w in worlds if len(w.references) < max(budgets)]
    if short:
        raise ValueError(f"a budget of {max(budgets)} models needs as many references; a world has {short[0]}")
    rows = []
    for number, world in enumerate(worlds, first):
        references = [Seen(a, world, i) for i, a in enumerate(world.references)]
        cases = [(case, [Seen(a, world, m) for m, a in enumerate(case.candidates)]) for case in world.cases]
        for one in panel:
            for extra in one.extra if one.fits(world) else ():
                if extra in budgets:
                    rows += [{"world": number, **r} for r in _evaluated(one, extra, cases, references)]
    return pd.DataFrame(rows)


def _evaluated(one: Instrument, extra: int, cases: list[tuple[Case, list[Seen]]], references: list[Seen]) -> list[dict]:
    kept = REFERENCES[extra] if one.grouped is not None else extra
    groups = [references[i : i + kept] for i in range(0, len(references) - kept + 1, kept)] if kept else [[]]
    nulls: dict[int, np.ndarray] = {}
    rows = []
    for case, seen in cases:
        for m, candidate in enumerate(seen):
            g = m % len(groups)
            siblings = [s for s in seen if s is not candidate][: extra - kept]
            seconds = NAN if rows else _seconds(one, candidate, groups[g], siblings)
            if g not in nulls:
                nulls[g] = one.null(groups[g])
            statistic, p = one.found(candidate, groups[g], siblings, nulls[g])
            known = {
                "grouped": one.grouped is not None,
                "case": case.name,
                "family": case.family,
                "residual": case.residual,
                "null": case.null,
            }
            rows.append(
                {"audit": one.name, "extra": extra, **known, "statistic": statistic, "p": p, "seconds": seconds}
            )
    return rows


def _seconds(one: Instrument, candidate: Seen, references: Sequence[Seen], siblings: Sequence[Seen]) -> float:
    """CPU seconds of one audit from answers alone: nothing is remembered from other audits."""
    new = [[Seen(s.answers, s.world, s.original) for s in group] for group in ([candidate], references, siblings)]
    start = time.process_time()
    one.found(new[0][0], new[1], new[2], one.null(new[1]))
    return time.process_time() - start


def meta_matrix(rows: pd.DataFrame, *, level: float = 0.05) -> pd.DataFrame:
    """The rows of `meta_evaluation` as one line a number: audit, extra, measure, case, value, low, high, worlds.

    `case` is empty for the order; the measure "seconds" is the mean over worlds. Raises ValueError for rows without
    the columns of `meta_evaluation` and for a level outside (0, 1).
    """
    needed = ("world", "audit", "extra", "grouped", "case", "family", "residual", "null", "statistic", "p", "seconds")
    if missing := [c for c in needed if c not in rows]:
        raise ValueError(f"rows lack {', '.join(missing)}: make them with audit.meta_evaluation")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), not {level}")
    found = []
    for (audit, extra), part in rows.groupby(["audit", "extra"], sort=False):
        line = {"audit": audit, "extra": int(extra)}
        for case, some in part.groupby("case", sort=False):
            shares = (some["p"] <= level).groupby(some["world"]).mean()
            count = 1.0 if some["grouped"].iloc[0] else len(some) / len(shares)
            found.append({**line, "measure": _measure(some.iloc[0]), "case": case, **_mean(shares, (0, 1), count)})
        dosed = part[part["family"].isin(["null", "dose"])]
        if len(dosed):
            orders = [spearmanr(w["residual"], w["statistic"])[0] for _, w in dosed.groupby("world")]
            found.append({**line, "measure": "order", "case": "", **_mean(pd.Series(orders), (-1, 1))})
        found.append({**line, "measure": "seconds", "case": "", **_mean(part["seconds"].dropna(), None)})
    return pd.DataFrame(found)


def _measure(line: pd.Series) -> str:
    if line["null"]:
        return "level"
    if line["family"] == "five relearning steps":
        return "relearnt"
    if line["family"] in TRANSFORMED:
        return "kept power" if line["residual"] > 0 else "false alarms"
    return "power"


def _mean(values: pd.Series, bounds, count: float = NAN) -> dict:
    v = values.to_numpy(float)
    if len(v) == 0 or not np.isfinite(v).all():
        return {"value": NAN, "low": NAN, "high": NAN, "worlds": len(v)}
    i = t_interval(v, bounds=bounds, count=count)
    return {"value": i.value, "low": i.low, "high": i.high, "worlds": len(v)}


def recommended(rows: pd.DataFrame, *, level: float = 0.05) -> pd.DataFrame:
    """For each budget the audit to run, and the one to run beside it for what the first misses.

    Audits whose level on retrained models is proved to be above `level` (its interval lies above it) are left out. Of
    the others, the first has the highest mean power over all cases with a residual of networks (before any
    transformation); the second adds most where the larger power of the two counts, if that is WORTH it. Both are
    *chosen* on worlds of even number and *reported* on those of odd number, since the best of many on the same worlds
    looks better than it is. Columns: budget, audit, extra, power, low, high, level, beside, beside_extra, missed (cases
    that both find less than half of the time) and false_alarms (transformed null cases that the first rejects more than
    a fifth of the time). Raises ValueError for fewer than four worlds.
    """
    networks = rows[~rows["case"].str.startswith("phantom")]
    if networks["world"].nunique() < 4:
        raise ValueError("a recommendation needs four worlds or more: two to choose on, two to report on")
    chosen_on = meta_matrix(networks[networks["world"] % 2 == 0], level=level)
    reported_on = networks[networks["world"] % 2 == 1]
    reported = meta_matrix(reported_on, level=level)
    null = chosen_on[chosen_on["measure"] == "level"].set_index(["audit", "extra"])
    sound = null.index[null["low"] <= level]
    power = chosen_on[chosen_on["measure"] == "power"].pivot_table(
        index=["audit", "extra"], columns="case", values="value"
    )
    power = power.loc[[i for i in sound if i in power.index]]
    result = []
    for budget in sorted(rows["extra"].unique()):
        some = power[power.index.get_level_values("extra") <= budget]
        first = some.mean(axis=1).idxmax()
        gains = some.clip(lower=some.loc[first], axis=1).mean(axis=1).drop(first) - some.loc[first].mean()
        second = gains.idxmax() if gains.max() >= WORTH else None
        of_first = reported_on[(reported_on["audit"] == first[0]) & (reported_on["extra"] == first[1])]
        count = 1.0 if of_first["grouped"].iloc[0] else len(of_first) / of_first.groupby(["world", "case"]).ngroups
        worlds = [_mean_power(w, level) for _, w in of_first.groupby("world")]
        loud = reported[(reported["measure"] == "false alarms") & (reported["value"] > 0.2)]
        loud = loud[(loud["audit"] == first[0]) & (loud["extra"] == first[1])]["case"].str.removeprefix("retrained, ")
        held = reported[reported["measure"].isin(["power", "level"])]
        held = held.set_index(["audit", "extra", "case"])["value"].sort_index()
        both = pd.concat([held[i] for i in (first, second) if i], axis=1).max(axis=1).drop("retrained")
        result.append(
            {
                "budget": int(budget),
                "audit": first[0],
                "extra": int(first[1]),
                **{
                    k: v
                    for k, v in zip(
                        ("power", "low", "high"), t_interval(worlds, bounds=(0, 1), count=count).ends, strict=True
                    )
                },
                "level": held[(*first, "retrained")],
                "beside": second[0] if second else "",
                "beside_extra": int(second[1]) if second else 0,
                "missed": ", ".join(both.index[both < 0.5]),
                "false_alarms": ", ".join(loud),
            }
        )
    return pd.DataFrame(result)


def _mean_power(world: pd.DataFrame, level: float) -> float:
    some = world[[_measure(line) == "power" for _, line in world.iterrows()]]
    return float((some["p"] <= level).groupby(some["case"]).mean().mean())
