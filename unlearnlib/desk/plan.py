"""What a deletion will touch and cost, said before anything runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearnlib.data.examples import Split
from unlearnlib.desk.sources import Source
from unlearnlib.seeding import generator

THUMBNAIL = 16  # side of the pictures that are compared
NEAR = 0.03  # root mean square difference of pixels in [0, 1] below which two pictures count as near-duplicates


@dataclass(frozen=True)
class Twin:
    """A retained example that shows the same as one which is to be deleted: `distance` 0 is an exact copy."""

    forgotten: str
    retained: str
    distance: float


@dataclass(frozen=True)
class Plan:
    """What is to be deleted in batch `number`, by which method, and what that touches.

    classes     label -> how many of its examples go
    already     ids that earlier batches have deleted, and which are left out here
    work        of the method, in forward passes of one example, and as a share of retraining; None: not known
    accuracy    share of the training data that the model answers as labelled: the check that the pipeline was
                understood. A model that is no better than its largest class was given other pixels than it was
                trained on
    """

    number: int
    method: str
    requests: int
    forget: int
    retain: int
    already: int
    classes: dict[str, int]
    twins: tuple[Twin, ...]
    work: float | None
    share: float | None
    accuracy: float
    largest_class: float

    def lines(self) -> list[str]:
        """What a person reads before saying yes."""
        classes = ", ".join(f"{name}: {count}" for name, count in self.classes.items())
        exact = len({twin.retained for twin in self.twins if twin.distance == 0})
        near = len({twin.retained for twin in self.twins}) - exact
        passes = "not known beforehand" if self.work is None else f"{self.work:,.0f} forward passes of one example"
        cost = passes if self.share is None else f"{self.share:.3g} of retraining"
        said = [
            f"batch {self.number}: {self.requests} requests, {self.forget} examples to delete, {self.retain} stay",
            f"by class: {classes}",
            f"copies that stay: {exact} exact, {near} near (a model still learns from them)",
            f"method: {self.method}; work: {cost}",
            f"the model answers {self.accuracy:.3g} of its training data as labelled",
        ]
        if self.already:
            said.insert(1, f"deleted before: {self.already}")
        return said

    @property
    def doubtful(self) -> str:
        """Why this may be another model or other pixels than the pipeline has; empty where nothing says so."""
        if self.accuracy > self.largest_class + 0.02:
            return ""
        return (
            f"the model answers {self.accuracy:.3g} of its training data as labelled, no better than the largest "
            "class: check mean, std, size and the order of classes"
        )


def split_of(source: Source, forget: Tensor, gone: Tensor, seed: int) -> Split:
    """What a method is given: the examples that are left, those to be deleted marked, half of the held-out ones.

    The other half is the `test` part, which methods never see and audits use.
    """
    kept = torch.ones(len(source.ids), dtype=torch.bool)
    kept[gone] = False
    index = kept.nonzero().flatten()
    marked = torch.zeros(len(source.ids), dtype=torch.bool)
    marked[forget] = True
    held_out = source.examples[:0] if source.held_out is None else source.held_out
    order = torch.randperm(len(held_out), generator=generator(seed, "held out"))
    half = len(order) // 2
    return Split(
        source.examples[index],
        marked[index],
        held_out[order[:half].sort().values],
        held_out[order[half:].sort().values],
        "request",
        seed,
        index,
    )


def by_class(split: Split, class_names: Sequence[str]) -> dict[str, int]:
    counts = Counter(split.forget.labels.tolist())
    return {class_names[label]: counts[label] for label in sorted(counts)}


def twins(split: Split, ids: Sequence[str], near: float = NEAR, block: int = 256) -> tuple[Twin, ...]:
    """Retained examples that show the same as a forgotten one, by rising distance.

        d(a, b) = sqrt(mean (a - b)^2)    over pixels of thumbnails, in units of the range of pixels

    Equal pictures have d = 0. A brightness, a compression or a few retouched pixels are found; a crop, a shift by
    pixels or a mirror image are not. `ids` are those of `split.train`.
    """
    small = _thumbnails(split)
    forgotten, retained = small[split.forget_index], small[split.retain_index]
    found = []
    for start in range(0, len(forgotten), block):
        part = forgotten[start : start + block]
        distances = torch.cdist(part, retained, compute_mode="donot_use_mm_for_euclid_dist") / small.shape[1] ** 0.5
        for i, j in (distances < near).nonzero().tolist():
            a, b = int(split.forget_index[start + i]), int(split.retain_index[j])
            same = torch.equal(split.train.images[a], split.train.images[b])
            distance = 0.0 if same else max(float(distances[i, j]), 1e-9)
            found.append(Twin(ids[a], ids[b], distance))
    return tuple(sorted(found, key=lambda twin: (twin.distance, twin.forgotten, twin.retained)))


def _thumbnails(split: Split) -> Tensor:
    """Pictures at most THUMBNAIL pixels wide as rows, their values in units of the range of pixels."""
    pixels = split.train.pixels()
    if max(pixels.shape[2:]) > THUMBNAIL:
        pixels = F.adaptive_avg_pool2d(pixels, THUMBNAIL)
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low).clamp_min(1e-12)).flatten(1)
