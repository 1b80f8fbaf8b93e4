"""What becomes of chapter 15 on a larger sampler: its claims put to the rows of `book/benchmarks/generative.json`.

`benchmarks/generative.py` writes the rows. The claims are those of the chapter, in its words and with its thresholds;
whether they hold there is read from the chapter as it was last run. Every number here is computed from the rows.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from PIL import Image

from unlearnlib._extras import optional
from unlearnlib.audit.statistics.intervals import paired_t_interval, t_interval
from unlearnlib.publishing import notebooks
from unlearnlib.publishing.board_pages import drawing
from unlearnlib.publishing.figures import appearance, pictures, samplers
from unlearnlib.publishing.markup import UNMEASURED, grid_table, plain
from unlearnlib.publishing.tables import estimate

plt = optional("matplotlib.pyplot")
COLUMN = 3.25  # inches: a phone shows a figure of that width as it is drawn
SHOWN = 6  # of the ten pictures of a sampler
NULL, HELD = "retrain, other seed", "redirect + distil"
CHAPTER = "15-generative-models"
FRAGMENTS = ("sizes", "pictures", "crowds", "table", "claims")
BEGINNINGS = (  # of the chapter's claims, in its order
    "The Fréchet distance does not see",
    "Integrity does",
    "A retrained sampler draws retained",
    "A retrained sampler, of another seed",
    "Self-distillation lowers",
    "With it the pictures stay",
    "Fine-tuning, which forgets nothing",
    "Ascent alone",
    "What no longer shows",
)
HOLDS, FAILS = "holds", "fails"
NEWS = {
    (HOLDS, HOLDS): "survives",
    (HOLDS, FAILS): "does not survive",
    (FAILS, FAILS): "fails again",
    (FAILS, HOLDS): "holds only here",
}


def texts(told: Mapping | None, chapter: Mapping | None) -> dict[str, str]:
    """File name -> Markdown fragment or drawing, from the results and the notebook of the chapter."""
    if told is None:
        return {f"samplers-{name}.md": UNMEASURED for name in FRAGMENTS}
    rows = pd.DataFrame(told["rows"])
    verdicts = {} if chapter is None else {c["text"]: c["verdict"] for c in notebooks.noted(chapter, "claim")}
    appearance.style()
    made = {
        "samplers-sizes.md": sizes(told),
        "samplers-table.md": table(rows),
        "samplers-claims.md": claims(rows, verdicts),
        "samplers.csv": rows.drop(columns="pictures").to_csv(index=False),
    }
    for name, (figure, alt, caption) in {"pictures": strips(rows), "crowds": crowds(rows)}.items():
        made[f"samplers-{name}.svg"] = drawing(figure, alt)
        lines = f"```{{figure}} generated/samplers-{name}.svg\n:name: samplers-{name}\n:alt: {plain(alt)}"
        made[f"samplers-{name}.md"] = f"{lines}\n\n{caption}\n```\n"
    return made


# --- claims


def column(rows: pd.DataFrame, name: str, what: str) -> pd.Series:
    """The values of a sampler by seed."""
    return rows[rows["method"] == name].set_index("seed")[what].astype(float).sort_index()


def ratio(over: pd.Series, under: pd.Series) -> tuple[float, float, float]:
    """A ratio and its 95 % interval over seeds, by that of its logarithm."""
    return tuple(float(np.exp(end)) for end in t_interval(np.log(over / under)).ends)


def judged(rows: pd.DataFrame) -> list[tuple[str, bool, str]]:
    """(how the chapter's claim begins, whether it holds here, evidence), by the chapter's thresholds."""

    def of(name: str, what: str) -> pd.Series:
        return column(rows, name, what)

    start, null = of("original", "FD"), of(NULL, "I")
    mirror, crowd = ratio(of("original at -z", "FD"), start), ratio(of(NULL, "FD"), start)
    far, near = ratio(of("original at -z", "I"), null), ratio(null, of("original", "apart"))
    less, risen = ratio(of("redirect", "I"), of(HELD, "I")), ratio(of("ascent", "FD"), start)
    gone = [t_interval(of(name, "still shown")) for name in ("redirect", HELD)]
    closer, tuned = (paired_t_interval(other, of(HELD, "I")) for other in (null, of("finetune", "I")))
    ways = [m for m in dict.fromkeys(rows["method"]) if not m.startswith(("original", "retrain"))]
    quiet = [name for name in ways if of(name, "still shown").mean() < 0.05]
    again = {name: paired_t_interval(of(name, "relearned"), of(NULL, "relearned")) for name in quiet}
    found = [
        (0.75 < mirror[1] and mirror[2] < 1.25, f"{_said(mirror)} times"),
        (far[1] > 3, f"{_said(far)} times"),
        (0.75 < crowd[1] and crowd[2] < 1.25, f"{_said(crowd)} times"),
        (near[2] < 0.25, f"{_said(near)} times"),
        (
            less[1] >= 5 and all(interval.high < 0.05 for interval in gone),
            f"{_said(less)} times; still shown {' and '.join(_said(interval.ends) for interval in gone)}",
        ),
        (closer.low > 0, f"{_said(closer.ends)} nearer"),
        (tuned.low > 0, f"{_said(tuned.ends)} farther"),
        (risen[1] >= 2, f"{_said(risen)} times"),
        (
            bool(again) and all(interval.low > 0 for interval in again.values()),
            "; ".join(f"{name} {_said(interval.ends)}" for name, interval in again.items()) or "no method is that far",
        ),
    ]
    return [(beginning, *verdict) for beginning, verdict in zip(BEGINNINGS, found, strict=True)]


def _said(ends: Sequence[float]) -> str:
    value, low, high = (f"{round(end, 2) + 0.0:.2f}" for end in ends)  # without a sign before 0.00
    return f"{value} [{low}, {high}]"


def claims(rows: pd.DataFrame, verdicts: Mapping[str, str]) -> str:
    """The chapter's claims, their verdicts there and here; `verdicts` are the chapter's, by the text of the claim.

    Raises ValueError where the chapter makes no such claim any more.
    """
    lines, counts = [], dict.fromkeys(NEWS.values(), 0)
    for beginning, holds, evidence in judged(rows):
        text = next((text for text in verdicts if text.startswith(beginning)), None)
        if text is None:
            raise ValueError(
                f"{CHAPTER} has no claim that begins {beginning!r}: write it anew in publishing/sampled.py"
            )
        there, here = verdicts[text], HOLDS if holds else FAILS
        counts[NEWS.get((there, here), here)] += 1
        lines.append([plain(text), there, here, plain(evidence)])
    told = "; ".join(f"{what}: {count}" for what, count in counts.items() if count)
    head = ["Claim of the chapter", "14 by 14", "28 by 28", "Measured here"]
    return f"Claims: {len(lines)}; {told}.\n\n{grid_table(head, lines)}\n"


# --- numbers and figures


def sizes(told: Mapping) -> str:
    """What was taught, in a sentence or two."""
    rows = pd.DataFrame(told["rows"])
    minutes = (rows["seconds"].sum() + told["seeds"] * told["teaching seconds"]) / 60
    agreement = t_interval(column(rows, "original", "agreement"), bounds=(0, 1)).ends
    return (
        f"Each sampler is taught {told['steps']:,} steps of {told['batch']} out of {told['pictures']:,} pictures, about"
        f" {told['teaching seconds']} CPU seconds; teaching and unlearning took {minutes:.0f} core-minutes. Of the"
        f" retained digits that the originals draw, the judge reads a share of {estimate(*agreement)} as what was asked"
        " for.\n"
    )


def table(rows: pd.DataFrame) -> str:
    """One line a sampler: means over seeds with 95 % intervals, and its cost."""
    lines = []
    for name in dict.fromkeys(rows["method"]):
        shares = t_interval(column(rows, name, "still shown")).ends
        found = [t_interval(column(rows, name, what)).ends for what in ("I", "FD")]
        cost = column(rows, name, "cost").mean()
        lines.append([plain(name), *(estimate(*ends) for ends in (shares, *found)), f"{cost:.2f}"])
    return grid_table(["Sampler", "Still shown", "I", "FD", "Cost"], lines) + "\n"


def strips(rows: pd.DataFrame):
    """(figure, alternative text, caption): the first seed's pictures of the same noises, one row a sampler."""
    first = rows[rows["pictures"].notna()]
    sheets = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) / 255 for text in first["pictures"]]
    side = sheets[0].shape[0]
    shown = np.concatenate([sheet.reshape(side, -1, side).transpose(1, 0, 2)[:SHOWN] for sheet in sheets])[:, None]
    figure, axes = plt.subplots(figsize=(COLUMN, 0.37 * len(sheets) + 0.1))
    pictures.gallery(shown, list(first["method"]), columns=SHOWN, axes=axes)
    alt = f"Handwritten digits in {len(sheets)} rows, one a sampler: {', '.join(first['method'])}."
    caption = "Each column is one noise. The first asks for the forgotten digit, the others for retained ones."
    return figure, alt, caption


def crowds(rows: pd.DataFrame):
    """(figure, alternative text, caption): Frechet distance over integrity."""
    null, start = column(rows, NULL, "I"), column(rows, "original", "FD").mean()
    size = (COLUMN, 5.2)
    figure = samplers.crowds_over_pictures(rows, (null.min(), null.max()), start, size=size, legend="lower center")
    figure.axes[0].set_xlabel("integrity I: how far the picture\nof one noise has moved")
    ends = [
        f"{name} at I {column(rows, name, 'I').mean():.1f} and FD {column(rows, name, 'FD').mean():.1f}"
        for name in dict.fromkeys(rows["method"])
    ]
    caption = (
        "To the right, single pictures have moved; up, the crowd has become worse. Points are means over the seeds,"
        " bars their extremes; the band is where retraining from another start falls, the dotted line the original."
    )
    return figure, f"Fréchet distance over integrity: {'; '.join(ends)}.", caption
