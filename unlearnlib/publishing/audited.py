"""The audit of audits as Markdown: the matrices, what each audit missed, and what to run with how many models.

From `book/benchmarks/audits.csv`, `audits-classes.csv` (`audit.meta_matrix`) and `audits.json` (sizes, recommendation),
which `benchmarks/audits.py` writes, and `audits-cifar10.json` of `benchmarks/audits_cifar.py`. Every number of
the text is one of these.
"""

from collections.abc import Mapping

import pandas as pd

from unlearnlib.publishing.markup import UNMEASURED, grid_table, plain
from unlearnlib.publishing.tables import estimate

ORDER = ("level", "power", "false alarms", "relearnt")
# heads of the matrix -> (measure, case); the worst case is shown of false alarms
SHOWN = {
    "level": ("level", "retrained"),
    "3 % left": ("power", "partly retrained 0.03"),
    "10 %": ("power", "partly retrained 0.1"),
    "25 %": ("power", "partly retrained 0.25"),
    "50 %": ("power", "partly retrained 0.5"),
    "original": ("power", "identity"),
    "canaries": ("power", "canaries kept"),
    "quarter way": ("power", "interpolated 0.25"),
    "refusal": ("power", "refusal"),
    "noise": ("power", "noise on outputs"),
    "new head": ("power", "distilled head"),
    "8 bits": ("false alarms", "retrained, 8 bits"),
    "4 bits": ("false alarms", "retrained, 4 bits"),
    "half pruned": ("false alarms", "retrained, half pruned"),
    "temperature": ("false alarms", "retrained, temperature 2"),
    "relearnt": ("relearnt", "retrained, five relearning steps"),
}
OF_CLASSES = {head: where for head, where in SHOWN.items() if head != "canaries"}
OF_CLASSES["lowered bias"] = ("power", "lowered bias")
OF_CLASSES = dict(sorted(OF_CLASSES.items(), key=lambda one: ORDER.index(one[1][0])))
PRINTED = ("level", "3 % left", "10 %", "25 %", "50 %")  # with their intervals


def texts(matrix: pd.DataFrame, told: Mapping) -> dict[str, str]:
    """File name -> Markdown fragment."""
    return {
        "audits-sizes.md": sizes(told),
        "audits-table.md": table(matrix),
        "audits-missed.md": missed(matrix, SHOWN),
        "audits-advice.md": advice(told),
    }


def found(matrix: pd.DataFrame, heads: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """The matrix as audits and their extra models by `heads`: values."""
    wide = matrix.pivot_table(index=["audit", "extra"], columns=["measure", "case"], values="value", sort=False)
    return pd.DataFrame({head: wide[where] for head, where in heads.items()})


def sizes(told: Mapping) -> str:
    """How much was trained and audited."""
    return (
        f"{told['worlds']} forget sets of {told['forgotten']} digits, with {told['trained']:,} networks trained and"
        f" {told['audited']:,} models audited, phantoms and edited models among them, in"
        f" {told['seconds'] / 60:.1f} core-minutes. A network took {told['training_seconds_a_model']:.2f} CPU seconds."
        f" Every audit tests at an error of {told['level']:.0%}.\n"
    )


def table(matrix: pd.DataFrame) -> str:
    """Level, power at each share left, order and seconds of each audit, with intervals over forget sets."""
    lines = []
    for (audit, extra), part in matrix.groupby(["audit", "extra"], sort=False):
        part = part.assign(case=part["case"].fillna("")).set_index(["measure", "case"])
        ends = [part.loc[SHOWN[head], ["value", "low", "high"]] for head in PRINTED]
        order = part.loc[("order", ""), ["value", "low", "high"]]
        seconds = float(part.loc[("seconds", ""), "value"])
        short = "under 0.01" if seconds < 0.01 else f"{seconds:.2f}"
        lines.append([plain(audit), str(extra), *(estimate(*e) for e in (*ends, order)), short])
    return grid_table(["Audit", "Extra models", *PRINTED, "order", "seconds"], lines) + "\n"


def missed(matrix: pd.DataFrame, heads: Mapping[str, tuple[str, str]]) -> str:
    """For each audit at its largest number of models: residuals it finds less than half of the time, false alarms."""
    lines = []
    values = found(matrix, heads)
    for audit, part in values.groupby(level=0, sort=False):
        last = part.iloc[-1]
        deaf = [h for h, (kind, _) in heads.items() if kind == "power" and last[h] < 0.5]
        loud = [h for h, (kind, _) in heads.items() if kind == "false alarms" and last[h] > 0.2]
        lines.append([plain(audit), str(part.index[-1][1]), ", ".join(deaf) or "none", ", ".join(loud) or "none"])
    return grid_table(["Audit", "Extra models", "Missed more often than not", "False alarms above 20 %"], lines) + "\n"


def advice(told: Mapping) -> str:
    """One line a budget: what to run, what beside it, what both miss, and what it takes for residual."""
    lines = []
    for line in told["recommended"]:
        beside = f"; beside it {line['beside']} ({line['beside_extra']})" if line["beside"] else ""
        lines.append(
            [
                str(line["budget"]),
                f"{line['audit']} ({line['extra']}){beside}",
                estimate(line["power"], line["low"], line["high"]),
                f"{line['level']:.2f}",
                line["missed"] or "nothing of what was planted",
                line["false_alarms"] or "none",
            ]
        )
    head = [
        "If you can train",
        "run (with so many extra models)",
        "power of the first",
        "its level",
        "both miss",
        "it also rejects, retrained and then",
    ]
    return grid_table(head, lines) + "\n"


def of_classes(matrix: pd.DataFrame | None, told: Mapping | None) -> dict[str, str]:
    """The fragments of the audits of class requests."""
    if matrix is None:
        return dict.fromkeys(
            ("audits-classes-sizes.md", "audits-classes-table.md", "audits-classes-missed.md"), UNMEASURED
        )
    made = (told or {}).get("classes")
    cost = f"{made['trained']:,} networks trained, {made['audited']:,} models audited, " if made else ""
    minutes = f"{made['seconds'] / 60:.1f} core-minutes." if made else ""
    return {
        "audits-classes-sizes.md": f"{cost}{minutes}\n",
        "audits-classes-table.md": table(matrix),
        "audits-classes-missed.md": missed(matrix, OF_CLASSES),
    }


def of_pool(told: Mapping | None) -> str:
    """The audits on phantoms of a pool: sizes, and rejections by share left, in percent."""
    if told is None:
        return UNMEASURED
    low, high = told["test_accuracy"]
    lines = []
    for line in told["audits"]:
        shown = [
            f"{100 * value:.0f}" if low is None else estimate(100 * value, 100 * low, 100 * high)
            for value, low, high in line["rejected"]
        ]
        lines.append([plain(line["audit"]), line["of"], *shown, f"{line['order']:.2f}"])
    shares = [f"{100 * share:g} % left" if share else "level" for share in told["shares"]]
    return (
        f"{told['models']} networks of test accuracy {low:.3f} to {high:.3f}, {told['targets']:,} targets,"
        f" {told['splits']} splits at each share, {told['splits_of_klom']} for KLoM. Between targets"
        f" that a network saw and that it never saw, the margin has an area of {told['exposure']:.3f}: that is all that"
        f" there is to find. {told['seconds']} CPU seconds."
        f"\n\n{grid_table(['Audit', 'Judges', *shares, 'order'], lines)}\n"
    )
