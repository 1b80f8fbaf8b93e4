"""Boards: what the leaderboard and the explorer show, computed from results files as plain data for JSON.

A board is one data set, network and forget request. Its methods are ranked (`studies.leaderboard`) where the files have
a ranking audit, U-LiRA or KLoM; where they have none it is explored only, and says so. Nothing is measured here.

    line       a method: ranks follow from `scores` (over seeds) and `order`, which tells the pairs apart
    estimate   a statistic of an audit: for each line value, low, high; `null`, where one more retraining would fall
    leakage    a statistic of single examples: for each line its quantiles over the examples
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t

from unlearnlib.audit.statistics.intervals import prediction_interval, t_interval
from unlearnlib.audit.verdicts.tidy import ONE_ESTIMATE, SHARES
from unlearnlib.methods.listing import declared
from unlearnlib.publishing.figures import appearance
from unlearnlib.studies.ranking import leaderboard
from unlearnlib.studies.settings import NULL, ORIGINAL, RETRAIN

QUICK = "quick tier"  # name of the study that tries methods on small pictures
DIGITS = 5  # significant digits of what is sent to the page
QUANTILES = 41
TITLES = {  # (audit, statistic, subset) -> what the page calls it; the order is that of the page
    ("lira", "AUC", "forget"): "U-LiRA: forgotten against never seen (area)",
    ("klom", "mean", "forget"): "KLoM: distance to retraining, example by example",
    ("accuracy", "UA", "forget"): "Error on the forget set",
    ("accuracy", "RA", "retain"): "Accuracy on the retain set",
    ("accuracy", "TA", "test"): "Accuracy on the test set",
    ("loss rank", "AUC", "forget"): "Attack by the loss, forgotten against unseen (area)",
}
PROVEN = ("exact", "certified")  # families of the figures' table whose methods prove something
LEAKS = {
    "shift": "Margin where forgotten, less where never seen (standard deviations)",
    "klom": "KLoM of the example (nats)",
}
KINDS = {"random": "random examples", "class": "one class", "identity": "one person", "memorised": "memorised examples"}


def boards(
    rows: pd.DataFrame,
    examples: pd.DataFrame | None = None,
    *,
    level: float = 0.95,
    notes: Mapping[str, str] | None = None,
) -> list[dict]:
    """All boards in the rows of `archive.results`: ranked ones first, the quick tier last of them, larger ones first.

    `notes`, by file name, are shown with the boards that read the file. Raises ValueError for a line of `examples`
    whose method has no row on its board.
    """
    if not len(rows):
        return []
    rows = labelled(rows)
    request = rows["forget_set_id"].str.partition(", seed")[0]
    found = [
        _board(part, dataset, arch, what, level, notes or {})
        for (dataset, arch, what), part in rows.groupby(["dataset", "arch", request], sort=False)
    ]
    if examples is not None and len(examples):
        _add_leakage(found, examples)
    return sorted(found, key=lambda board: (not board["ranked"], board["trial"], -board["rows"], board["title"]))


def _board(rows: pd.DataFrame, dataset: str, arch: str, request: str, level: float, notes: Mapping[str, str]) -> dict:
    valid = rows[rows["valid_flag"].astype(bool) & (rows["method"] != RETRAIN)]
    try:
        ranking, why = leaderboard(rows, level=level), ""
    except ValueError as error:
        ranking, why = None, str(error)
    methods = list(dict.fromkeys(valid["method"])) if ranking is None else list(ranking.table["method"])
    cost = valid.groupby("method")["cost_frac_retrain"].mean()
    scores = {} if ranking is None else ranking.scores.T.to_dict("list")
    ends = ["damage", "damage_low", "damage_high"]
    damage = {} if ranking is None else ranking.table.set_index("method")[ends].T.to_dict("list")
    lines = [
        {
            **about(method),
            "cost": _number(cost.get(method, math.nan)),
            "scores": _numbers(scores.get(method, [])),
            "damage": _numbers(damage.get(method, [])),
        }
        for method in methods
    ]
    used = [name for name in dict.fromkeys(rows["file"]) if name in notes]
    return {
        "id": re.sub(r"[^a-z0-9]+", "-", f"{dataset} {arch} {request}".lower()).strip("-"),
        "title": f"{dataset}, {arch}: {in_words(request)}",
        "data": f"{dataset}, {arch}",
        "request": in_words(request),
        "files": list(dict.fromkeys(rows["file"])),
        "rows": len(rows),
        "trial": bool((rows["study"] == QUICK).all()),
        "notes": [notes[name] for name in used],
        "ranked": ranking is not None,
        "why": why,
        "level": level,
        "seeds": 0 if ranking is None else len(ranking.seeds),
        "order": [] if ranking is None or ranking.order is None else ranking.order.astype(int).tolist(),
        "quantile": _number(_student(0 if ranking is None else len(ranking.seeds), level)),
        "lines": lines,
        "estimates": _estimates(rows, methods, level),
        "proxies": [] if ranking is None else _proxies(ranking.proxies),
        "leakage": [],
    }


def _proxies(found: pd.DataFrame) -> list[dict]:
    """What each cheaper audit says of the ranking: audit, statistic, subset, correlation with limits, methods."""
    ends = [_numbers(line) for line in found[["correlation", "low", "high"]].to_numpy()]
    named = found[["audit", "statistic", "subset", "methods"]].to_dict("records")
    return [{**name, "correlation": end} for name, end in zip(named, ends, strict=True)]


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, or lines of examples, with the budget in the label of the method; baselines, which need none, once."""
    if "budget" not in rows or rows["budget"].isna().all():
        return rows
    given = rows["budget"].notna() & ~rows["method"].isin((ORIGINAL, RETRAIN, NULL))
    label = rows["method"] + ", " + (100 * rows["budget"]).map("{:g}".format) + " %"
    told = [
        *("file", "dataset", "arch", "forget_set_id", "method"),
        "seed_train",
        "seed_eval",
        *ONE_ESTIMATE,
        "example",
    ]
    made = rows.assign(method=rows["method"].where(~given, label))
    return made.drop_duplicates([name for name in told if name in made], ignore_index=True)


def in_words(request: str) -> str:
    """A forget request for readers: `random:0.1` is "random 10 %"."""
    share = re.fullmatch(r"(.*?)(random|mislabelled):(0?\.\d+)(.*)", request)
    if share:
        return f"{share[1]}{share[2]} {100 * float(share[3]):g} %{share[4]}"
    kind, mark, which = re.fullmatch(r"(\w*)([:,]?)(.*)", request, re.DOTALL).groups()
    if kind not in KINDS or not mark:
        return request
    return f"{KINDS[kind]} ({which})" if mark == ":" else f"{KINDS[kind]},{which}"


@functools.cache
def _facts() -> dict[str, dict[str, str]]:
    known = {line["name"]: {"reads": line["reads"], "guarantee": line["guarantee"]} for line in declared()}
    for family in PROVEN:
        for name in appearance.names_of(family):
            known.setdefault(name, {"reads": "own training", "guarantee": family})
    return known


def about(label: str) -> dict[str, str]:
    """What is known of a method by its label, which is its name or begins with it: "scrub, tuned", "scrub (5 %)"."""
    known = _facts()
    fits = [name for name in known if label == name or re.match(re.escape(name) + r"[^\w]", label)]
    base = max(fits, key=len, default="")
    facts = known.get(base, {"reads": "unknown", "guarantee": "unknown"})
    if label == ORIGINAL:
        base, facts = ORIGINAL, {"reads": "none", "guarantee": "none"}
    if label == NULL:
        base, facts = NULL, {"reads": "retain", "guarantee": "exact"}
    colour, marker = appearance.look(base or label)
    return {"method": label, "base": base, **facts, "colour": colour, "marker": marker}


def _student(seeds: int, level: float) -> float:
    return float(t.ppf(0.5 + level / 2, seeds - 1)) if seeds > 1 else math.nan


def _estimates(rows: pd.DataFrame, methods: Sequence[str], level: float) -> list[dict]:
    rows = rows[rows["valid_flag"].astype(bool) & (rows["audit"] != "cost") & np.isfinite(rows["value"])]
    keys = list(ONE_ESTIMATE)
    found = []
    for key, part in rows.groupby(keys, dropna=False, sort=False):
        audit, game, subset, statistic, alpha = key[:5]
        by_seed = part.groupby(["method", "seed_train"], sort=False)["value"].mean()
        values = {m: v.to_numpy() for m, v in by_seed.groupby(level=0, sort=False)}
        own = {m: line for m, line in part.groupby("method", sort=False) if len(values[m]) == 1}
        bounds = (0.0, 1.0) if statistic in SHARES and _inside(part["value"]) else None
        count = _count(part) if bounds else math.nan
        points = [_point(values.get(m), own.get(m), level, bounds=bounds, count=count) for m in methods]
        if sum(point is not None for point in points) < 2:
            continue
        null = values.get(NULL, ())
        kept = [float(part[name].mean()) for name in ("null_lo", "null_hi")]
        band = prediction_interval(null, level, bounds=bounds, count=count).ends[1:] if len(null) > 1 else kept
        retrained = values[RETRAIN].mean() if RETRAIN in values else part["retrain_value"].mean()
        found.append(
            {
                "title": _title(audit, statistic, subset, game, alpha),
                "place": _place(audit, statistic, subset, game),
                "points": points,
                "null": _numbers(band),
                "retrained": _number(retrained),
            }
        )
    return [{k: v for k, v in e.items() if k != "place"} for e in sorted(found, key=lambda e: e["place"])]


def _inside(values: pd.Series) -> bool:
    return bool(values.between(0, 1).all())


def _count(part: pd.DataFrame) -> float:
    """Of how many independent trials a share is: disjoint pairs for an area, else examples."""
    pairs = part[["n_pos", "n_neg"]].min().min()
    return float(part["n_examples"].min() if math.isnan(pairs) else pairs)


def _point(values, own, level: float, **bounds) -> list | None:
    """Value, low, high over seeds; one seed keeps the interval that its audit gave it."""
    if values is None:
        return None
    if len(values) > 1:
        return _numbers(t_interval(values, level, **bounds).ends)
    return _numbers([values[0], own["ci_lo"].iloc[0], own["ci_hi"].iloc[0]])


def _plain(audit: str) -> str:
    kind = audit.lower().replace("-", "")
    return next((name for name in ("lira", "klom") if name in kind), audit)


def _place(audit: str, statistic: str, subset: str, game: str) -> tuple:
    """Where the page lists an estimate: the known ones first."""
    key = (_plain(audit), statistic, subset)
    known = key in TITLES and game != "retain" and not (key[0] == "lira" and game != "B")
    return (0, list(TITLES).index(key)) if known else (1, 0)


def _title(audit: str, statistic: str, subset: str, game: str, alpha: float) -> str:
    if _place(audit, statistic, subset, game)[0] == 0:
        title = TITLES[_plain(audit), statistic, subset]
        return f"{title}, {audit}" if _plain(audit) == "klom" else title
    at = "" if alpha != alpha else f" at {alpha:g}"
    where = "" if subset == "all" else f", {subset} set"
    return f"{audit}: {statistic}{at}{where}" + (f", game {game}" if game in ("A", "B") else "")


def _add_leakage(found: Sequence[dict], examples: pd.DataFrame) -> None:
    examples = labelled(examples)
    by_place = {(b["data"], b["request"]): b for b in found}
    request = examples["forget_set_id"].str.partition(", seed")[0].map(in_words)
    data = examples["dataset"] + ", " + examples["arch"]
    named = {"file", "dataset", "arch", "forget_set_id", "method", "budget", "example", "label"}
    for place, part in examples.groupby([data, request], sort=False):
        board = by_place.get(place)
        known = {line["method"] for line in board["lines"]} | {RETRAIN} if board else set()
        if unknown := sorted(set(part["method"]) - known):
            raise ValueError(f"{part['file'].iloc[0]}: no results file has rows of {unknown[0]} on {' '.join(place)}")
        for statistic in [c for c in part if c not in named and part[c].notna().any()]:
            wide = part.pivot(index="example", columns="method", values=statistic)
            at = np.linspace(0, 1, QUANTILES)
            curves = [
                _numbers(np.nanquantile(wide[m], at)) if m in wide and wide[m].notna().any() else None
                for m in (line["method"] for line in board["lines"])
            ]
            title = LEAKS.get(statistic, statistic)
            board["leakage"].append({"title": title, "examples": len(wide), "quantiles": curves})


def _number(value: float) -> float | None:
    """For JSON: a few significant digits, None for what is no number."""
    value = float(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _numbers(values) -> list[float | None]:
    return [_number(v) for v in values]
