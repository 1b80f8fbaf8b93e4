"""The claims of a chapter on rows whose verdicts are known, and the fragments that the page includes."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unlearnlib.publishing import sampled
from unlearnlib.publishing.markup import UNMEASURED

VALUES = {  # method -> I, FD, still shown, relearned: each claim of the chapter holds by a wide margin
    "original": (0.0, 4.0, 0.95, 1.0),
    "original at -z": (10.0, 4.0, 0.95, None),
    "retrain": (2.0, 4.0, 0.0, 0.5),
    "retrain, other seed": (2.0, 4.0, 0.0, 0.5),
    "finetune": (1.5, 4.0, 0.95, 1.0),
    "ascent": (6.0, 12.0, 0.5, 0.9),
    "redirect": (5.0, 8.0, 0.01, 0.9),
    "redirect + distil": (0.5, 4.0, 0.01, 0.9),
}


def strip():
    raw = io.BytesIO()
    Image.fromarray(np.arange(8 * 80, dtype=np.int64).reshape(8, 80).astype(np.uint8)).save(raw, format="png")
    return base64.b64encode(raw.getvalue()).decode()


def rows(**changed):
    """Three seeds that differ by a percent."""
    lines = []
    for seed in range(3):
        for method, values in (VALUES | changed).items():
            by = 1 + 0.01 * seed
            i, fd, shown, again = (None if v is None else v * by for v in values)
            line = {"method": method, "seed": seed, "I": i, "FD": fd, "still shown": shown, "relearned": again}
            line |= {"apart": 10.0, "agreement": 0.9 + 0.01 * seed, "cost": 0.1, "seconds": 60.0}
            lines.append(line | ({"pictures": strip()} if seed == 0 else {}))
    return lines


def verdicts(**changed):
    return {beginning: holds for beginning, holds, _ in sampled.judged(pd.DataFrame(rows(**changed)))}


def test_every_claim_holds_where_it_is_planted_and_each_falls_by_its_own_number():
    assert all(verdicts().values()) and len(verdicts()) == 9
    planted = {
        "The Fréchet distance does not see": {"original at -z": (10.0, 6.0, 0.95, None)},
        "Integrity does": {"original at -z": (5.0, 4.0, 0.95, None)},
        "A retrained sampler draws retained": {"retrain, other seed": (2.0, 6.0, 0.0, 0.5)},
        "A retrained sampler, of another seed": {"retrain, other seed": (3.0, 4.0, 0.0, 0.5)},
        "Self-distillation lowers": {"redirect": (2.0, 8.0, 0.01, 0.9)},
        "With it the pictures stay": {"redirect + distil": (2.5, 4.0, 0.01, 0.9), "redirect": (20.0, 8.0, 0.01, 0.9)},
        "Fine-tuning, which forgets nothing": {"finetune": (0.4, 4.0, 0.95, 1.0)},
        "Ascent alone": {"ascent": (6.0, 7.0, 0.5, 0.9)},
        "What no longer shows": {"redirect": (5.0, 8.0, 0.01, 0.5)},
    }
    assert set(planted) == set(verdicts())
    for beginning, changed in planted.items():
        found = verdicts(**changed)
        assert not found[beginning], beginning
        others = [b for b in found if not found[b] and b != beginning]
        assert len(others) <= 1, (beginning, others)  # one number may serve two claims


def test_redirection_that_still_shows_the_class_does_not_count_as_equal_forgetting():
    assert not verdicts(redirect=(5.0, 8.0, 0.2, 0.9))["Self-distillation lowers"]


def test_a_ratio_is_that_of_geometric_means():
    over, under = pd.Series([2.0, 8.0]), pd.Series([1.0, 1.0])
    value, low, high = sampled.ratio(over, under)
    assert value == pytest.approx(4.0) and low * high == pytest.approx(16.0)


def test_verdicts_of_the_chapter_and_of_the_page_stand_side_by_side():
    chapter = {f"{beginning} and so on": "holds" for beginning in verdicts()}
    text = sampled.claims(pd.DataFrame(rows(ascent=(6.0, 7.0, 0.5, 0.9))), chapter)
    assert text.startswith("Claims: 9; survives: 8; does not survive: 1.")
    assert "| Ascent alone and so on | holds | fails | 1.75 \\[1.75, 1.75\\] times |" in text
    chapter["Ascent alone and so on"] = "fails"
    assert sampled.claims(pd.DataFrame(rows()), chapter).startswith("Claims: 9; survives: 8; holds only here: 1.")
    with pytest.raises(ValueError, match="no claim that begins"):
        sampled.claims(pd.DataFrame(rows()), {})


def chapter_of(texts):
    outputs = [{"metadata": {"unlearnlib": {"claim": {"text": t, "verdict": "holds"}}}} for t in texts]
    return {"cells": [{"outputs": outputs}]}


def test_fragments_tables_and_figures_come_from_the_rows():
    told = {"rows": rows(), "seeds": 3, "steps": 1600, "batch": 32, "pictures": 10_000, "teaching seconds": 60}
    made = sampled.texts(told, chapter_of(verdicts()))
    assert set(made) == {
        *(f"samplers-{name}.md" for name in sampled.FRAGMENTS),
        *("samplers-pictures.svg", "samplers-crowds.svg", "samplers.csv"),
    }
    table = made["samplers-table.md"].splitlines()
    assert len(table) == 2 + len(VALUES) and table[2].startswith("| original | 0.959 ± 0.024 |")
    assert "1,600 steps of 32 out of 10,000 pictures" in made["samplers-sizes.md"]
    assert "27 core-minutes" in made["samplers-sizes.md"]  # 24 rows of a minute, and three originals
    assert made["samplers-crowds.svg"].startswith('<svg role="img" aria-label="Fréchet')
    assert "retrain, other seed at I 2.0 and FD 4.0" in made["samplers-crowds.md"]
    assert made["samplers.csv"].count("\n") == 1 + 3 * len(VALUES) and "pictures" not in made["samplers.csv"]
    assert made == sampled.texts(told, chapter_of(verdicts()))


def test_strips_keep_the_pictures_in_their_order():
    figure, alt, _ = sampled.strips(pd.DataFrame(rows()))
    sheet = figure.axes[0].images[0].get_array()
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip())))) / 255
    np.testing.assert_allclose(sheet[:8, :8], first[:, :8])
    np.testing.assert_allclose(sheet[-8:, -8:], first[:, 40:48])
    assert alt.startswith(f"Handwritten digits in {len(VALUES)} rows")


def test_without_results_the_page_says_so():
    assert set(sampled.texts(None, None).values()) == {UNMEASURED}
