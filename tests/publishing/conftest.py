"""The project in which pages are executed by the tests of this folder."""

import pytest
import small_book

from unlearnlib.store import digests


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one page, which is the current folder."""
    package = small_book.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digests, "PACKAGE", package)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("MPLBACKEND", "agg")  # a habit of test runs that must not cost a page its figures
    return tmp_path
