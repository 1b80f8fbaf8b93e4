"""Names that are not known are refused in the same words by every registry."""

from dataclasses import dataclass

import pytest

from unlearnlib import _names
from unlearnlib.federated import unlearning as federated
from unlearnlib.generative import unlearning as generative
from unlearnlib.language import unlearning as language
from unlearnlib.methods import registry
from unlearnlib.prevention import protection

# registry -> a method of it, with one letter less
MISSPELT = {registry: "finetun", language: "nop", generative: "finetun", federated: "erase", protection: "random_nois"}


@dataclass(frozen=True)
class Steps:
    lr: float = 0.1
    epochs: int = 1


def test_hint_names_the_nearest_or_all():
    assert _names.hint("epoch", ["lr", "epochs"]) == "did you mean 'epochs'?"
    assert _names.hint("zzzz", ["lr", "epochs"], "it takes") == "it takes lr, epochs"
    assert _names.hint("zzzz", [], "it takes") == "it takes none"


def test_fields_are_set_or_refused():
    assert _names.configured("ascent", Steps, {"epochs": 3}) == Steps(epochs=3)
    with pytest.raises(ValueError, match="^ascent has no hyper-parameter 'epoch': did you mean 'epochs'\\?$"):
        _names.configured("ascent", Steps, {"epoch": 3})


@pytest.mark.parametrize("given", ["x" * 5000, 3, None, ["a"], ("lr",)])
def test_what_is_no_name_is_refused_in_one_short_line(given):
    with pytest.raises(ValueError, match="^unknown method ") as refused:
        _names.entry(given, {"ascent": 1}, "method")
    assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)


@pytest.mark.parametrize("home", MISSPELT, ids=lambda home: home.__name__.rpartition("unlearnlib.")[2])
def test_every_registry_refuses_alike(home):
    with pytest.raises(ValueError, match="^unknown .*: (did you mean|known are) "):
        home.configure(MISSPELT[home])
    name = next(iter(home.METHODS)) if hasattr(home, "METHODS") else "finetune"
    with pytest.raises(ValueError, match=f"^{name} has no hyper-parameter 'no_such_thing': it takes "):
        home.configure(name, no_such_thing=1)
