"""A language model that forgets exactly: counts of n-grams, from which a document's own are subtracted.

    p(w | context) = (count(context, w) + a) / (count(context) + a V)

The counts are sums over documents of integers, so subtracting those of a document gives bit for bit what counting the
others gives: c(D) - c(F) = c(D \\ F). An oracle that no network has.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from unlearnlib.methods.records import Certificate, Cost, Receipt

BEGIN = "<begin>"


class NGram:
    """An n-gram model of documents whose words are separated by spaces: `fit`, `forget`, `probability`.

    order   n: the last n - 1 words are the context
    add     a, the count that every word is given in advance
    """

    def __init__(self, order: int = 3, add: float = 0.1):
        if isinstance(order, bool) or not isinstance(order, int) or order < 1 or not add > 0:
            raise ValueError(f"an n-gram model needs order 1, 2, ... and add above 0, not {order!r} and {add!r}")
        self.order, self.add = order, add
        self.counts: Counter = Counter()
        self.documents: dict[int, str] = {}

    def fit(self, documents: Sequence[str], vocabulary: Iterable[str] | None = None) -> "NGram":
        """Count the documents. `vocabulary` (None: their words) is public: it stays when they are forgotten."""
        if isinstance(documents, str) or not documents or not all(isinstance(d, str) and d.split() for d in documents):
            raise ValueError("documents are a list of at least one sentence each")
        said = {word for text in documents for word in text.split()}
        self.vocabulary = frozenset(said if vocabulary is None else vocabulary)
        if said - self.vocabulary:
            raise ValueError(f"the word {min(said - self.vocabulary)!r} is not in the vocabulary")
        self.documents = dict(enumerate(documents))
        self.counts = sum((self._of(text) for text in documents), Counter())
        return self

    def forget(self, indices: Sequence[int]) -> Receipt:
        """Subtract the counts of documents. Raises ValueError, and changes nothing, on one that is not there."""
        started = time.perf_counter()
        gone = [int(k) for k in np.atleast_1d(np.asarray(indices))]
        missing = [k for k in gone if k not in self.documents]
        if not gone or missing or len(set(gone)) != len(gone):
            raise ValueError(f"documents to forget are different numbers of counted ones; not there: {missing or gone}")
        touched = sum((self._of(self.documents[k]) for k in gone), Counter())
        self.counts.subtract(touched)
        for gram in touched:
            if not self.counts[gram]:
                del self.counts[gram]
        for k in gone:
            del self.documents[k]
        certificate = Certificate("exact", "counting the other documents alone")
        return Receipt(Cost(time.perf_counter() - started), {"counts": len(touched)}, certificate)

    def probability(self, text: str) -> np.ndarray:
        """p of each word of `text` given those before: [words]. Raises ValueError on a word out of the vocabulary."""
        unknown = [word for word in text.split() if word not in self.vocabulary]
        if unknown or not text.split():
            raise ValueError(f"a text has words of the vocabulary only; not {unknown[:1] or text!r}")
        a, size = self.add, len(self.vocabulary)
        return np.array([(self.counts[g] + a) / (self.counts[(len(g), *g[:-1])] + a * size) for g in self._grams(text)])

    def _grams(self, text: str) -> list[tuple[str, ...]]:
        words = [BEGIN] * (self.order - 1) + text.split()
        return [tuple(words[k : k + self.order]) for k in range(len(words) - self.order + 1)]

    def _of(self, text: str) -> Counter:
        """The counts of one document: n-grams, and contexts (marked by n, for a context could be an n-gram's equal)."""
        grams = self._grams(text)
        return Counter(grams) + Counter((len(g), *g[:-1]) for g in grams)
