"""An invented world: people with a town, a trade, a year and an art, and three ways to ask for each.

Everything is drawn from a seed, so it is known exactly who knows what, and nothing can have been learnt elsewhere:

    "where does Ano Beki live ?"  ->  "in Torava ."

Of the three ways to ask, two are trained on for each fact and the third is held out: a paraphrase, whose wording is
known from questions about other facts. A model that was never taught about a person knows the form of the answers
and not the one word that matters.

The idea of invented authors is that of TOFU (Maini et al., COLM 2024); the world, its size and its sentences are ours.
"""

import itertools
import re
from dataclasses import dataclass

from unlearnlib import seeding
from unlearnlib.language.texts import PAD, REFUSAL, Texts, TextSplit

# attribute -> three questions, one answer; `who` is the name, `what` the value
ATTRIBUTES = {
    "town": (("where does who live ?", "which town is home to who ?", "name the town of who ?"), "in what ."),
    "trade": (("what is the trade of who ?", "how does who earn money ?", "which trade feeds who ?"), "as what ."),
    "year": (("when was who born ?", "which year began with who ?", "name the year of who ?"), "year what ."),
    "art": (("which art does who love ?", "what does who do for joy ?", "name the art of who ?"), "loves what ."),
}
WRONG = 5  # wrong answers a question
REQUESTS = '"people:5" (that many, drawn from the seed) or "person:3,8" (these)'


@dataclass(frozen=True)
class World:
    """P people; `facts` [P][4] their values, `held_out` [P][4] the way to ask that is not trained on."""

    people: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]  # of each attribute
    facts: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]
    seed: int

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary, padding first."""
        asked = [
            *itertools.chain.from_iterable(q for q, _ in ATTRIBUTES.values()),
            *(a for _, a in ATTRIBUTES.values()),
        ]
        plain = {word for text in (*asked, REFUSAL, *self.people) for word in text.split()} - {"who"}
        return (PAD, *sorted(plain | set(itertools.chain.from_iterable(self.values))))

    def texts(self, people=None, paraphrases: bool = False) -> Texts:
        """The questions that are trained on about some people (None: all), or those held out."""
        chosen = range(len(self.people)) if people is None else people
        pairs, wrong, fact, about = [], [], [], []
        for person in chosen:
            for place, (name, (ways, answer)) in enumerate(ATTRIBUTES.items()):
                values, right = self.values[place], self.facts[person][place]
                draw = seeding.numpy_generator(self.seed, "wrong answers", person, name)
                others = draw.choice([k for k in range(len(values)) if k != right], WRONG, replace=False)
                for way, question in enumerate(ways):
                    if (way == self.held_out[person][place]) == paraphrases:
                        pairs.append(
                            (question.replace("who", self.people[person]), answer.replace("what", values[right]))
                        )
                        wrong.append([answer.replace("what", values[k]) for k in others])
                        fact.append(person * len(ATTRIBUTES) + place)
                        about.append(person)
        longest = max(len(q.split()) for ways, _ in ATTRIBUTES.values() for q in ways) + 1 + len(REFUSAL.split())
        return Texts.of(pairs, self.words, wrong=wrong, fact=fact, about=about, length=longest)

    def split(self, forget: str = "people:5", seed: int = 0) -> TextSplit:
        """The texts by a request to forget people. Raises ValueError on a request that is not of this world."""
        kind, _, rest = str(forget).partition(":")
        if not re.fullmatch(r"people:\d+|person:\d+(,\d+)*", str(forget)):
            raise ValueError(f"a request to forget is {REQUESTS}, not {forget!r}")
        count = len(self.people)
        if kind == "people":
            draw = seeding.numpy_generator(seed, "people to forget")
            gone = draw.permutation(count)[: int(rest)].tolist() if 0 < int(rest) < count else []
        else:
            gone = [int(k) for k in rest.split(",")]
            gone = gone if len(set(gone)) == len(gone) and max(gone) < count else []
        if not 0 < len(gone) < count:
            raise ValueError(
                f"{forget!r} asks for none, all or unknown ones of {count} people: numbers are below {count}"
            )
        kept = [k for k in range(count) if k not in set(gone)]
        return TextSplit(*(self.texts(who, held) for held in (False, True) for who in (sorted(gone), kept)))


def world(people: int = 50, values: int = 25, seed: int = 0) -> World:
    """Invent a world of `people` with `values` possible values of each attribute.

    First names and surnames are shared between people, so that a name takes both words. Raises ValueError where there
    are too few people to forget some of, or fewer values than wrong answers.
    """
    for name, given, least, most in (("people", people, 2, 2000), ("values", values, WRONG + 1, 400)):
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            raise ValueError(f"{name} is a whole number from {least} to {most}, not {given!r}")
    side = next(k for k in itertools.count(2) if k * k >= 2 * people)
    draw = seeding.numpy_generator(seed, "world")
    invented = _invented(draw, 2 * side + 3 * values)
    first, last, rest = invented[:side], invented[side : 2 * side], invented[2 * side :]
    years = [str(year) for year in 1500 + draw.permutation(500)[:values]]
    towns, trades, arts = (tuple(rest[k * values : (k + 1) * values]) for k in range(3))
    pairs = draw.permutation(side * side)[:people]
    facts = draw.integers(values, size=(people, len(ATTRIBUTES)))
    held = draw.integers(3, size=(people, len(ATTRIBUTES)))
    return World(
        tuple(f"{first[k // side]} {last[k % side]}" for k in pairs),
        (towns, trades, tuple(years), arts),
        tuple(map(tuple, facts.tolist())),
        tuple(map(tuple, held.tolist())),
        seed,
    )


def _invented(draw, count: int) -> list[str]:
    """Different words of three syllables, capitalised so that none is a word of a question."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    numbers = draw.permutation(len(syllables) ** 3)[:count]
    base = len(syllables)
    return ["".join(syllables[n // base**k % base] for k in range(3)).capitalize() for n in numbers.tolist()]
