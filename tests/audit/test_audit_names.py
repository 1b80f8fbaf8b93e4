"""The public names of `unlearnlib.audit`, and that no module name hides a function of the same name."""

import importlib

import pytest

from unlearnlib import audit


def test_every_public_name_is_there():
    assert all(hasattr(audit, name) for name in audit.__all__) and len(set(audit.__all__)) == len(audit.__all__)
    for name in ("margin", "rmia", "nomus", "tow", "relearn_time", "epsilon_lower_bound", "summarise"):
        assert callable(getattr(audit, name)), name


def test_second_round_of_audits_is_public():
    for name in (
        "at_risk detectable_gap gaussian_one_run inversion kernel_test mia_nn neighbour_attack over_unlearning "
        "prototypical_relearning sequential_audit transfer vulnerable_attack"
    ).split():
        assert callable(getattr(audit, name)), name


@pytest.mark.parametrize(
    "name", ["roc", "lira", "klom", "forgetting_quality", "one_run", "memorisation", "battery", "verdict"]
)
def test_functions_win_over_modules_of_the_same_name(name):
    importlib.import_module(f"unlearnlib.audit.{name}")
    assert callable(getattr(audit, name))
