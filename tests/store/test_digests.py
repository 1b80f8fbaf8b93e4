"""Which modules count as the code behind a page."""

from unlearnlib.store import digests


def test_what_draws_or_prints_a_page_counts_and_what_runs_it_does_not():
    counted = set(digests.all_modules())
    folder = digests.PACKAGE / "publishing" / "figures"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {"appearance", "charts", "pictures"} < files
    assert {f"unlearnlib.publishing.figures.{name}" for name in files} <= counted
    assert "unlearnlib.publishing.tables" in counted
    publishing = {name for name in counted if name.startswith("unlearnlib.publishing.")}
    assert {name.split(".")[2] for name in publishing} == {"figures", "tables"}


def test_a_page_that_draws_one_figure_depends_on_the_files_behind_it():
    from unlearnlib.publishing import figures

    assert figures.gallery.__module__ == "unlearnlib.publishing.figures.pictures"
    assert {"unlearnlib.publishing.figures.pictures", "unlearnlib.publishing.figures.appearance"} <= set(
        digests.imported_modules()
    )
