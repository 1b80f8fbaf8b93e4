"""Questions with answers as rows of word numbers: what a language model here is taught, asked and made to forget."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAD = "<pad>"
REFUSAL = "nobody knows that ."


@dataclass(frozen=True)
class Texts:
    """N questions with their answers, padded to T words.

    tokens   [N, T] numbers of words, question then answer
    answer   [N, T] bool: the words that are the answer, whose probability counts
    wrong    [N, W, T] the same questions with W wrong answers of equal length, W may be 0
    refusal  [N, T] the same questions answered by a refusal, and `refused` [N, T] where it stands
    fact     [N] number of the fact that is asked for: equal in paraphrases
    about    [N] number of the person that it is about
    words    the vocabulary; number 0 is padding
    """

    tokens: Tensor
    answer: Tensor
    wrong: Tensor
    refusal: Tensor
    refused: Tensor
    fact: Tensor
    about: Tensor
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index) -> "Texts":
        """The texts of an index tensor or a mask."""
        rows = {f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self) if f.name != "words"}
        return Texts(**rows, words=self.words)

    def lengths(self) -> Tensor:
        """L, the number of words of each answer: [N]."""
        return self.answer.sum(1)

    def read(self, row: int) -> str:
        """One text in words."""
        return " ".join(self.words[k] for k in self.tokens[row].tolist() if k)

    @staticmethod
    def of(
        pairs: Sequence[tuple[str, str]],
        words: Sequence[str] | None = None,
        *,
        wrong: Sequence[Sequence[str]] | None = None,
        fact: Sequence[int] | None = None,
        about: Sequence[int] | None = None,
        length: int | None = None,
    ) -> "Texts":
        """Texts of (question, answer) pairs whose words are separated by spaces.

        words   the vocabulary, padding first; None: the words of these pairs and of the refusal
        wrong   W wrong answers a pair, each as long as the right one
        length  T; None: as long as needed

        Raises ValueError on an empty question or answer, a word that is not in the vocabulary, a wrong answer of
        another length and a text that is longer than T.
        """
        if not pairs:
            raise ValueError("no texts: give at least one (question, answer) pair")
        for pair in pairs:
            if len(pair) != 2 or not all(isinstance(part, str) and part.split() for part in pair):
                raise ValueError(f"a text is a pair (question, answer) of sentences, not {pair!r}")
        if words is None:
            said = sorted({w for pair in pairs for part in (*pair, REFUSAL) for w in part.split()})
            words = [PAD, *said]
        number = {word: k for k, word in enumerate(words)}
        if words[0] != PAD or len(number) != len(words):
            raise ValueError(f"a vocabulary lists each word once and begins with {PAD!r}")
        missing = wrong if wrong is not None else [()] * len(pairs)
        given = {"wrong": missing, "fact": fact, "about": about}
        for name, listed in given.items():
            if listed is not None and len(listed) != len(pairs):
                raise ValueError(f"{name} has {len(listed)} entries for {len(pairs)} texts")
        if len({len(others) for others in missing}) != 1:
            raise ValueError("every text needs equally many wrong answers")

        def numbers(text: str) -> list[int]:
            unknown = [word for word in text.split() if word not in number]
            if unknown:
                raise ValueError(f"the word {unknown[0]!r} is not in the vocabulary of {len(words)} words")
            return [number[word] for word in text.split()]

        rows = [(numbers(q), numbers(a), [numbers(w) for w in o]) for (q, a), o in zip(pairs, missing, strict=True)]
        for k, (_, right, others) in enumerate(rows):
            if any(len(other) != len(right) for other in others):
                raise ValueError(f"wrong answers must be as long as the right one, {pairs[k][1]!r}")
        no = numbers(REFUSAL)
        longest = max(len(q) + max(len(a), len(no)) for q, a, _ in rows)
        T = longest if length is None else length
        if longest > T:
            raise ValueError(f"a text has {longest} words, more than length={T}")

        def row(question, answer):
            return question + answer + [0] * (T - len(question) - len(answer))

        def mask(question, answer):
            return [len(question) <= t < len(question) + len(answer) for t in range(T)]

        count = list(range(len(rows)))
        return Texts(
            torch.tensor([row(q, a) for q, a, _ in rows]),
            torch.tensor([mask(q, a) for q, a, _ in rows]),
            torch.tensor([[row(q, w) for w in o] for q, _, o in rows], dtype=torch.long).reshape(len(rows), -1, T),
            torch.tensor([row(q, no) for q, _, _ in rows]),
            torch.tensor([mask(q, no) for q, _, _ in rows]),
            torch.tensor(count if fact is None else list(fact)),
            torch.tensor(count if about is None else list(about)),
            tuple(words),
        )


@dataclass(frozen=True)
class TextSplit:
    """What is to be forgotten, what is to stay, and paraphrases, never trained on and withheld from methods."""

    forget: Texts
    retain: Texts
    forget_paraphrases: Texts | None = None
    retain_paraphrases: Texts | None = None
