"""The decision guide: every arrow rests on claims that some chapter makes, and a claim that is gone is missed."""

from pathlib import Path

import pytest

from unlearnlib.publishing import bookkeeping, guide, notebooks

ROOT = Path(__file__).resolve().parents[2]


def chapters():
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    return {path: notebooks.read(ROOT / path) for path in paths}


def test_every_arrow_has_its_numbers_and_a_place_in_the_guide():
    texts = guide.texts(chapters(), [])
    page = (ROOT / "book/which-method.md").read_text(encoding="utf-8")
    for arrow, wanted in guide.ARROWS.items():
        text = texts[f"guide-{arrow}.md"]
        assert text.count("\n") == len(wanted) and text.count("#claim-") == len(wanted)
        assert f"generated/guide-{arrow}.md" in page and f"(#numbers-{arrow})" in page and f"(numbers-{arrow})=" in page
    assert "(#numbers-budgets)" in page and "generated/guide-budgets.md" in page


def test_a_claim_is_quoted_with_verdict_evidence_and_place():
    claim = {"text": "Convexity makes certificates cheap: it does", "verdict": "fails", "evidence": "0.9 | 0.8"}
    page = {"cells": [{"outputs": [{"metadata": {"unlearnlib": {"claim": claim}}}], "cell_type": "code"}]}
    text = guide._arrow(
        [("10", "Convexity")], {"10": Path("notebooks/10-x.ipynb")}, {Path("notebooks/10-x.ipynb"): page}
    )
    anchor = bookkeeping.claim_anchor(claim["text"])
    assert text.startswith(f'- **fails**, <a href="../notebooks/10-x.html#{anchor}">chapter 10</a>: *Convexity')
    assert text.rstrip().endswith(": 0.9 \\| 0.8")


def test_a_claim_that_was_reworded_is_missed_with_the_nearest():
    with pytest.raises(ValueError, match="chapter 10 makes no claim that begins 'Convexity makes certificates dear'"):
        guide._arrow([("10", "Convexity makes certificates dear")], {p.stem[:2]: p for p in chapters()}, chapters())
    with pytest.raises(ValueError, match="chapter 99 makes no claim"):
        guide._arrow([("99", "Anything")], {}, {})
