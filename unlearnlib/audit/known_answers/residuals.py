"""Models whose residual is known by construction: what audits of unlearning are themselves audited with.

A *world* is one training set, one forget set F and the networks that are trained on the one with and without the other.
A part of F are *canaries*: pictures whose label was replaced by a random wrong one, which no model can know but from
having seen it; where F is a whole class there are none. From these networks come *cases*, each a list of candidates
with a known residual in [0, 1]:

    retrained               trained without F                                             residual 0, the null
    partly retrained        trained without a share 1 - q of F                            residual q
    canaries kept           trained without F but for its canaries                        residual: their share of F
    interpolated            weights (1 - a) theta_R + a theta_0, one initialisation       residual a, as an order only
    identity and its masks  the original; refusing, noisy, with a new head, ...           residual 1, hidden or not
    lowered bias            class requests: the original, whose head does not name the class   residual 1, hidden
    phantom                 Gaussian margins k steps after deletion                       residual mu_k / mu_0, exact

Transformations that keep a residual what it was (8 and 4 bits a weight, half of the weights removed, a temperature)
are put on the null, on a half-retrained model and on the original; so are five steps of relearning, which give every
model a residual of its own and are read apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from unlearnlib.audit.known_answers import traps
from unlearnlib.audit.known_answers.phantom import Phantom
from unlearnlib.audit.statistics.roc import as_array
from unlearnlib.seeding import generator, numpy_generator
from unlearnlib.training.batches import Batch, minibatches
from unlearnlib.training.loop import descend
from unlearnlib.training.many import fit_many
from unlearnlib.training.models import head_name
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe
from unlearnlib.training.renewal import copied

SHARES = (0.03, 0.1, 0.25, 0.5)
MIXES = (0.25, 0.5, 0.75)
PLANTED = 6  # one in so many forgotten examples is a canary
STEPS = (40, 20, 10, 5, 0)  # of the phantom after deletion
PARTS = ("forget", "retain", "test")


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model says: logits [n, classes] on the three parts, and the network where there is one."""

    forget: np.ndarray
    retain: np.ndarray
    test: np.ndarray
    network: nn.Module | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """Candidates that were made in one way. `residual` in [0, 1], `null` where there is nothing to find."""

    name: str
    family: str
    residual: float
    candidates: tuple[Answers, ...]
    null: bool = False


@dataclass(frozen=True, eq=False)
class World:
    """One forget set: labels of the parts, which of F are canaries, reference models, originals and cases."""

    labels: dict[str, np.ndarray]
    canaries: np.ndarray  # bool over F
    true_labels: np.ndarray  # of F, before canaries were mislabelled
    forget: object  # Examples of F, for audits that train
    references: tuple[Answers, ...]
    originals: tuple[Answers, ...]
    cases: tuple[Case, ...]
    trained: int
    test: object = None  # Examples that no model saw, for audits that read pictures
    label: int | None = None  # the class that F is, if it is one


def quantised(model: nn.Module, bits: int) -> nn.Module:
    """A copy whose weights lie on 2^bits - 1 even steps a tensor: w -> s round(w / s), s = max|w| / (2^(bits-1) - 1).

    Raises ValueError for fewer than two bits.
    """
    if bits < 2:
        raise ValueError(f"bits must be 2 or more, not {bits}")
    student = copied(model)
    with torch.no_grad():
        for weight in student.parameters():
            step = weight.abs().max() / (2 ** (bits - 1) - 1)
            if step > 0:
                weight.copy_((weight / step).round() * step)
    return student


def pruned(model: nn.Module, share: float) -> nn.Module:
    """A copy in which, in each matrix of weights, the `share` of smallest magnitude is zero. Vectors are kept."""
    if not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), not {share}")
    student = copied(model)
    with torch.no_grad():
        for weight in student.parameters():
            gone = int(share * weight.numel())
            if weight.dim() > 1 and gone:
                cut = weight.abs().flatten().kthvalue(gone).values
                weight.mul_(weight.abs() > cut)
    return student


def interpolated(first: nn.Module, second: nn.Module, a: float) -> nn.Module:
    """The network with weights (1 - a) first + a second."""
    student = copied(first)
    with torch.no_grad():
        for own, other in zip(student.parameters(), second.parameters(), strict=True):
            own.lerp_(other, a)
    return student


def relearned(model: nn.Module, examples, steps: int, lr: float, seed: int) -> nn.Module:
    """The network after `steps` SGD steps on `examples` in batches of 32."""
    rng = generator(seed, "relearned")
    stream = (Batch(i, examples.labels[i]) for i in minibatches(len(examples), 32, max(steps, 1), rng))
    recipe = Recipe(epochs=1, batch_size=32, lr=lr, schedule="constant", momentum=0.0, weight_decay=0.0)
    return descend(copied(model), examples, stream, recipe, steps, seed=seed)


def world(
    examples,
    test,
    build: Callable[[int], nn.Module],
    recipe: Recipe,
    *,
    forget: int = 0,
    label: int | None = None,
    models: int,
    references: int,
    seed: int,
) -> World:
    """Train the networks of one forget set.

    It holds `forget` random examples, a sixth of them canaries, or all of class `label`. `models` candidates a case
    (twice as many nulls), `references` retrained models for the auditor; see the head of the module. Raises ValueError
    where both or none of `forget` and `label` are given, where they leave fewer retained
    than forgotten examples, or forget fewer than 12, and for fewer than four models.
    """
    n, classes = len(examples), int(examples.labels.max()) + 1
    if (label is None) == (forget == 0):
        raise ValueError("name either forget, a number of random examples, or label, a class")
    of_class = np.zeros(n, bool) if label is None else as_array(examples.labels) == label
    forget = forget or int(of_class.sum())
    if not 12 <= forget <= n // 2 or models < 4 or references < 4:
        raise ValueError(
            f"needs 12 to {n // 2} forgotten examples and four models or more, not {forget}, {models} and {references}"
        )
    rng = numpy_generator(seed, "residual-world")
    order = rng.permutation(n)
    order = np.concatenate([order[of_class[order]], order[~of_class[order]]])
    labels = examples.labels.clone()
    planted_in = forget // PLANTED if label is None else 0
    wrong = torch.as_tensor(order[:planted_in])
    labels[wrong] = (labels[wrong] + torch.as_tensor(rng.integers(1, classes, len(wrong)))) % classes
    true_labels = as_array(examples.labels)[order[:forget]]
    examples = replace(examples, labels=labels)
    gone, kept = torch.as_tensor(order[:forget]), torch.as_tensor(order[forget:])
    parts = {"forget": examples[gone], "retain": examples[kept], "test": test}
    trained = 0

    def networks(count: int, shares: Sequence[np.ndarray], stream: str) -> list[nn.Module]:
        """`count` networks on the retained and those of F that `shares` (one bool [forget] each) names."""
        nonlocal trained
        masks = torch.zeros(count, n, dtype=torch.bool)
        masks[:, kept] = True
        for mask, share in zip(masks, shares, strict=True):
            mask[gone] = torch.as_tensor(share)
        seeds = numpy_generator(seed, "residual-seeds", stream).integers(2**31, size=count).tolist()
        trained += count
        return fit_many(build, examples, masks, recipe, seeds, chunk=32, progress=False)

    def answers(network: nn.Module) -> Answers:
        return Answers(*(as_array(predict(network, parts[p])) for p in PARTS), network)

    def all_or_none(count: int, value: bool) -> list[np.ndarray]:
        return [np.full(forget, value)] * count

    canaries = np.arange(forget) < planted_in
    bare, full = np.zeros(forget, bool), np.ones(forget, bool)
    reference = [answers(m) for m in networks(references, all_or_none(references, False), "references")]
    null = networks(2 * models, all_or_none(2 * models, False), "null")
    originals = networks(models, [full] * models, "originals")
    paired = networks(models, [bare] * models, "originals")  # the seeds of the originals: one initialisation
    partly = {
        q: networks(models, [rng.permutation(forget) < round(q * forget) for _ in range(models)], f"partly {q}")
        for q in SHARES
    }
    planted = networks(models, [canaries] * models, "canaries") if planted_in else []
    first = [answers(m) for m in originals]
    cases = [
        Case("retrained", "null", 0.0, tuple(map(answers, null)), null=True),
        *(Case(f"partly retrained {q:g}", "dose", q, tuple(map(answers, found))) for q, found in partly.items()),
        Case("identity", "dose", 1.0, tuple(first)),
        *([Case("canaries kept", "canaries", planted_in / forget, tuple(map(answers, planted)))] if planted else []),
        *(
            Case(
                f"interpolated {a:g}",
                "interpolated",
                a,
                tuple(answers(interpolated(r, o, a)) for r, o in zip(paired, originals, strict=True)),
            )
            for a in MIXES
        ),
        *_masks(first, originals, reference, parts, rng),
    ]
    if label is not None:
        lowered = tuple(answers(_unnamed(m, parts["test"], label)) for m in originals)
        cases.append(Case("lowered bias", "trap", 1.0, lowered))
    bases = {"retrained": null[:models], "half": partly[0.5], "identity": originals}
    residuals = {"retrained": 0.0, "half": 0.5, "identity": 1.0}
    for name, change in _transformations(parts["forget"], seed).items():
        for base, group in bases.items():
            changed = tuple(change(answers, m) for m in group)
            cases.append(Case(f"{base}, {name}", name, residuals[base], changed, null=False))
    truth = {p: as_array(parts[p].labels) for p in PARTS}
    made = tuple(reference), tuple(first), tuple(cases)
    return World(truth, canaries, true_labels, parts["forget"], *made, trained, test, label)


def _masks(first, originals, references, parts, rng) -> list[Case]:
    """The original, hidden: traps of `traps`, with the logits that they give on the three parts."""
    every = np.ones(len(first[0].forget), bool)
    refused = tuple(replace(a, forget=traps.refusal(a.forget, every)) for a in first)
    noisy = tuple(
        replace(a, **{p: traps.noisy(getattr(a, p), 3.0, rng).astype(np.float32) for p in PARTS}) for a in first
    )
    pixels = torch.cat([parts["forget"].pixels(), parts["retain"].pixels()])
    headed = []
    for m, network in enumerate(originals):
        teacher = references[m % len(references)]
        student = traps.distilled_head(network, pixels, np.concatenate([teacher.forget, teacher.retain]))
        headed.append(Answers(*(as_array(predict(student, parts[p])) for p in PARTS), student))
    return [
        Case("refusal", "trap", 1.0, refused),
        Case("noise on outputs", "trap", 1.0, noisy),
        Case("distilled head", "trap", 1.0, tuple(headed)),
    ]


def _unnamed(model: nn.Module, test, label: int) -> nn.Module:
    """A copy whose last layer names `label` no more: its bias there is 20 lower, and nothing else is changed."""
    student = copied(model)
    head = dict(student.named_modules())[head_name(student, test.pixels()[:1])]
    with torch.no_grad():
        head.bias[label] -= 20
    return student


def _transformations(forget, seed: int) -> dict[str, Callable]:
    def cooled(answers, model):
        said = answers(model)
        return replace(said, **{p: getattr(said, p) / 2 for p in PARTS})

    return {
        "8 bits": lambda answers, m: answers(quantised(m, 8)),
        "4 bits": lambda answers, m: answers(quantised(m, 4)),
        "half pruned": lambda answers, m: answers(pruned(m, 0.5)),
        "temperature 2": cooled,
        "five relearning steps": lambda answers, m: answers(relearned(m, forget, 5, 0.02, seed)),
    }


def phantom_world(*, forget: int, models: int, references: int, seed: int, steps: Sequence[int] = STEPS) -> World:
    """The same for the phantom: two classes, label 0, so that the margin is the difference of the two logits.

    Every example has a weight of its own: forgotten ones decay for k steps, retained ones lie `gap` above those that
    were never trained on, and all have an offset that belongs to the example and to all models alike.
    Raises ValueError for fewer than two forgotten examples, models or references.
    """
    if forget < 2 or models < 2 or references < 2:
        raise ValueError(f"a phantom needs two of forget, models and references, not {forget}, {models}, {references}")
    ghost = Phantom()
    sizes = dict(zip(PARTS, (forget, forget, 2 * forget), strict=True))
    rng = numpy_generator(seed, "phantom-offsets")
    offset = {p: 0.5 * rng.normal(size=size) for p, size in sizes.items()}

    def said(count: int, stream: str, k: int | None) -> tuple[Answers, ...]:
        margins = {
            p: offset[p]
            + ghost.gap * (p == "retain")
            + ghost.weights("retrained", (count, size), seed=seed, stream=f"phantom {stream} {p}")
            for p, size in sizes.items()
        }
        if k is not None:
            drawn = ghost.weights("unlearned", (count, forget), k=k, seed=seed, stream=f"phantom {stream} deleted")
            margins["forget"] = offset["forget"] + drawn
        logits = {p: np.stack([m, np.zeros_like(m)], -1).astype(np.float32) for p, m in margins.items()}
        return tuple(Answers(*(logits[p][m] for p in PARTS)) for m in range(count))

    cases = [Case("phantom, retrained", "phantom", 0.0, said(2 * models, "null", None), null=True)]
    for k in steps:
        residual = ghost.mu(k) / ghost.mu(0)
        cases.append(Case(f"phantom after {k} steps", "phantom", residual, said(models, f"{k}", k)))
    labels = {p: np.zeros(size, np.int64) for p, size in sizes.items()}
    references_said = said(references, "references", None)
    return World(labels, np.zeros(forget, bool), labels["forget"], None, references_said, (), tuple(cases), 0)
