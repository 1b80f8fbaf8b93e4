"""Method cards: every method has a full one, out of what is written where the method is."""

import re
from dataclasses import dataclass

import pytest
from test_pages import rendered

from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.publishing import cards
from unlearnlib.publishing.cards import Card, Knob
from unlearnlib.training.recipe import Recipe

ABOUT = """NegGrad: climb the loss.

    min_theta  -L_F(theta)
      + more

It has *no* bound: `lr` matters, L_F * 2 too.
"""


@pytest.mark.parametrize("name", HOMES)
def test_every_method_has_a_full_card(name):
    card = cards._card(registry.find(name))
    assert cards.missing(card) == []
    assert {card.paper, *re.findall(r"[a-z]+(?:19|20)\d\d[a-z]*", card.origin)} <= cards_bibliography()


def cards_bibliography() -> set[str]:
    return set(re.findall(r"^@\w+\{([\w-]+),", cards.BIBLIOGRAPHY.read_text(), re.MULTILINE))


def test_costs_at_the_defaults_are_passes():
    assert cards.passes("retrain") == "30 |R|"  # ten epochs, forward and backward
    assert cards.passes("ntk") == "46 |F| + 46 |R| + algebra"  # ten rows of the Jacobian, 4.5 each, and a forward pass
    with pytest.raises(ValueError, match="epochs"):
        registry.work("finetune", 1, 1, epoch=3)


@dataclass(frozen=True)
class Base:
    steps: int = 3  # of descent
    rate: float = 1e-4  # how far
    # each step goes
    bare: bool = True


@dataclass(frozen=True)
class Derived(Base):
    rate: float = 0.5
    note: str = "# not a comment"  # a "quoted" one
    recipe: Recipe = Recipe(epochs=2)  # of training


def test_knobs_carry_the_comments_of_their_fields():
    assert cards.knobs(Derived) == (
        Knob("steps", "3", "of descent"),
        Knob("rate", "0.5", "how far each step goes"),
        Knob("bare", "True", ""),
        Knob("note", "'# not a comment'", 'a "quoted" one'),
        Knob("recipe", "Recipe(epochs=2)", "of training"),
    )


def test_cards_show_facts_and_keep_equations_as_they_stand():
    fast, slow = (Knob("lr", "0.1", "peak | rate"),), (Knob("lr", "0.2", "other"),)
    module = "unlearnlib.x"
    shown = [
        Card("neggrad", "gradient", "forget", "none", "golatkar2020", module, ABOUT, fast, "epochs * F", "3 |F|"),
        Card(
            "neggrad_plus", "gradient", "retain, forget", "none", "k2023", module, ABOUT, slow, fails="Where it must."
        ),
        Card("retrain", "exact", "retain", "exact", "b2021", "unlearnlib.y", "Retrain."),
    ]
    text = cards.method_cards(shown, {"golatkar2020": "1911.04933"})
    assert text.count("NegGrad: climb") == 1  # two methods of one module share a card
    assert re.findall(r"^\((.+)\)=$", text, re.MULTILINE) == ["method-neggrad", "method-neggrad-plus", "method-retrain"]
    assert "```text\nmin_theta  -L_F(theta)\n  + more\n```" in text
    assert "{cite:t}`golatkar2020`, [arXiv 1911.04933](https://arxiv.org/abs/1911.04933)" in text
    assert "Hyper-parameters of `neggrad`:" in text and "Hyper-parameters of `neggrad_plus`:" in text
    html = rendered(text)
    cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    assert ["Cost", "<code>epochs * F</code>", ""] in cells and ["Cost at the defaults", "3 |F|", ""] in cells
    assert ["When it fails", "", "Where it must."] in cells
    assert ["<code>lr</code>", "<code>0.1</code>", "peak | rate"] in cells


def test_arxiv_identifiers_come_from_the_bibliography():
    text = "@article{a2020,\n  title = {A},\n  eprint = {2001.01234}\n}\n@book{b1999,\n  title = {eprint = {1}}\n}\n"
    assert cards.arxiv(text) == {"a2020": "2001.01234"}


def test_a_card_says_what_it_lacks():
    card = Card("x", "gradient", "retain", "none", "key", "m", "about", (Knob("lr", "1", ""),), cost="R", fails="often")
    assert cards.missing(card) == ["origin", "comment of lr"]
