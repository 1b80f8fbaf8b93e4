"""The audits of whole-class requests that can be put on a single candidate: `panel` continued, for worlds of one class.

Each reduces a model to one number on pictures that no model saw; the candidate's number is compared with those of
retrained models as in `panel`, on both sides where the audit is two-sided. The definitions are in the files of the
instruments: `attacks.neighbours`, `attacks.discriminators`, `evidence.prototypes`, `evidence.over_unlearning`,
`evidence.inversion` and `distances.transfer`.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from unlearnlib.audit.attacks.discriminators import discriminate
from unlearnlib.audit.attacks.neighbours import neighbour_score
from unlearnlib.audit.batteries.panel import PANEL
from unlearnlib.audit.batteries.seen import Instrument, Seen
from unlearnlib.audit.distances.outputs import softmax
from unlearnlib.audit.evidence.inversion import drawn, likeness
from unlearnlib.audit.evidence.over_unlearning import nearby, ou
from unlearnlib.audit.evidence.prototypes import prototype_head, relearned_auc
from unlearnlib.audit.known_answers.residuals import World
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.training.models import features, head_name
from unlearnlib.training.prediction import predict

SHOTS, NEAREST = 5, 20
GENERAL = ("forget accuracy", "output distance", "alignment with the original", "LiRA", "two-sided margin", "KLoM")


def _once(number):
    """A number of one model, which is computed once for each `Seen` and further arguments."""

    @functools.wraps(number)
    def found(one: Seen, *more):
        kept = one.__dict__.setdefault(f"once {number.__name__}", {})
        if more not in kept:
            kept[more] = number(one, *more)
        return kept[more]

    return found


@_once
def _profile(one: Seen) -> np.ndarray:
    """Probabilities on unseen pictures of the class, the class itself left out."""
    z = one.answers.test[one.world.labels["test"] == one.world.label].astype(np.float64)
    z[:, one.world.label] = -np.inf
    return softmax(z)


def _neighbour(references: Sequence[Seen]) -> int:
    """The class that retrained models name instead."""
    return int(np.mean([_profile(r).mean(0) for r in references], axis=0).argmax())


def _score(one: Seen, references: Sequence[Seen]) -> float:
    z = one.answers.test[one.world.labels["test"] == one.world.label]
    return float(neighbour_score(z, one.world.label, _neighbour(references))[0])


def _away(one: Seen, references: Sequence[Seen]) -> float:
    mean = np.mean([_profile(r) for r in references], axis=0)
    return float(np.abs(_profile(one) - mean).sum(-1).mean() / 2)


@_once
def _discriminated(one: Seen, neighbour: int) -> float:
    found = discriminate(one.answers.test, one.world.labels["test"], one.world.label, neighbour)
    return float(np.nanmean(found))


@_once
def _relearnt(one: Seen) -> float:
    """AUC of the class after its row of the head was written from five forgotten pictures."""
    world, model = one.world, one.answers.network
    head = dict(model.named_modules())[head_name(model, world.test.pixels()[:1])]
    weight, bias = (as_array(p.detach(), np.float64) for p in (head.weight, head.bias))
    few = features(model, world.forget.pixels()[:SHOTS]).numpy()
    w, b = prototype_head(weight, bias, few, world.labels["forget"][:SHOTS])
    return relearned_auc(_features(one) @ w.T + b, world.labels["test"] == world.label, [world.label])


@_once
def _features(one: Seen) -> np.ndarray:
    return features(one.answers.network, one.world.test.pixels()).numpy().astype(np.float64)


@_once
def _transferred(one: Seen) -> float:
    """Every second unseen picture votes for the others, by the features."""
    phi, y = _features(one), one.world.labels["test"]
    vote = KNeighborsClassifier(NEAREST, metric="cosine", algorithm="brute").fit(phi[::2], y[::2])
    return float((vote.predict(phi[1::2]) == y[1::2]).mean())


@_once
def _inverted(one: Seen) -> float:
    truth, start, limits = _means(one.world)
    options = {"steps": 100, "lr": 0.1, "decay": 0.1, "limits": limits}
    return likeness(drawn(one.answers.network, one.world.label, start, **options), truth, start)


@functools.lru_cache(maxsize=8)
def _means(world: World) -> tuple[torch.Tensor, torch.Tensor, tuple]:
    pixels, y = world.test.pixels(), world.test.labels
    means = torch.stack([pixels[y == c].mean(0) for c in torch.unique(y)])
    limits = world.test.limits or (-torch.inf, torch.inf)
    return pixels[y == world.label].mean(0), means.mean(0), limits


@_once
def _over(one: Seen) -> float:
    made, said = _nearby(one.world, one.original % len(one.world.originals))
    return ou(said, predict(one.answers.network, made), [one.world.label])


@functools.lru_cache(maxsize=32)
def _nearby(world: World, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures made near the forgotten ones with one of the originals, and what it says to them."""
    network: nn.Module = world.originals[number].network
    made = nearby(network, world.forget, epsilon=0.03, step=0.01, steps=3, seed=0)
    return made, predict(network, made)


def _class(name: str, several, **more) -> Instrument:
    return Instrument(name, (16, 64), several=several, needs="class", **more)


CLASS_PANEL = (
    *(one for one in PANEL if one.name in GENERAL),
    _class("class neighbour", _score, two_sided=True),
    _class("class profile", _away),
    _class("MIA-NN", lambda m, r: _discriminated(m, _neighbour(r)), two_sided=True),
    _class("prototypical relearning", lambda m, r: _relearnt(m)),
    _class("k-NN of features", lambda m, r: _transferred(m), two_sided=True),
    _class("inversion", lambda m, r: _inverted(m)),
    _class("over-unlearning", lambda m, r: _over(m), two_sided=True),
)
