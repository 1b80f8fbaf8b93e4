"""Dials hold together: every pair of parts with every method that takes parts, and what each promises at the end."""

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from dosing import divergence, log_answers
from small import CONVOLVES, examples, ingredients, same, state
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate import dose
from unlearnlib.approximate.amnesiac import fit_recording
from unlearnlib.approximate.dose.bounds import Bounds
from unlearnlib.approximate.dose.directions import Directions
from unlearnlib.approximate.scrub import _Rewind
from unlearnlib.data.examples import Split
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training.loop import Part, Stage
from unlearnlib.training.recipe import Recipe


def takes(method: str, field: str) -> bool:
    return any(f.name == field for f in dataclasses.fields(registry.find(method).config))


METHODS = [name for name in HOMES if takes(name, "parts") and name not in CONVOLVES]
STARTS_ELSEWHERE = {"eu_k", "amnesiac", "msg", "cfw"}  # they change weights before their first step
WHOLE_CLASSES = {"boundary_shrink", "boundary_expand"}
SHARE, RADIUS, DELTA, TAU, RHO, RATE = 0.3, 0.02, 1e-4, 1.0, 4.0, 0.05
SECOND = 10**1.5  # a tenth of the rate: a tenth of what is of first order, a hundredth of what is of second


@functools.cache
def situation(whole: bool):
    """A network with batch norm that knows 36 pictures, ten or a class of which are to be forgotten."""
    train = examples(n=36, side=4)
    chosen = train.labels == 0 if whole else torch.arange(36) < 10
    split = Split.of(retain=train[~chosen], forget=train[chosen], validation=examples(n=12, side=4, seed=3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    recipe = Recipe(epochs=5, batch_size=12, lr=0.02)
    model, record = fit_recording(network, split.train, recipe, progress=False)
    return model, split, record


def run(method: str, *parts: Part, rate: float = RATE, **settings) -> nn.Module:
    model, split, record = situation(method in WHOLE_CLASSES)
    own = {"record": record} if method == "amnesiac" else {"k": 1} if takes(method, "k") else ingredients(method, split)
    settings = {"epochs": 1, "batch_size": 12, "lr": rate, "weight_decay": 0.05, **own, **settings}
    return ul.unlearn(method, model, split, seed=0, parts=parts, **settings).model


@functools.cache
def started(method: str) -> nn.Module:
    """Where the descent of `method` starts: the original, or what it makes of it before the first step."""
    return run(method, epochs=0)


def mean_loss(model, part) -> float:
    return -log_answers(model, part).gather(1, part.labels[:, None]).mean().item()


class Weighed(Part):
    """Sees the weights of a step's terms after the parts before it, and what these add to the loss a bit elsewhere."""

    def __init__(self):
        self.seen, self.penalty_elsewhere, self.start = [], 0.0, None

    def applied(self, program, split, run):
        self.start = copy.deepcopy(program.model)
        elsewhere = copy.deepcopy(program.model)
        with torch.no_grad():
            for p in elsewhere.parameters():
                p.add_(0.01 * p.requires_grad)
            self.penalty_elsewhere = float(sum(part.penalty(elsewhere) for part in program.parts))
        return super().applied(program, split, run)

    def reweighted(self, losses, weights):
        self.seen.append((losses, weights))
        return weights


class Rested(Part):
    """Sees the weights where a step leaves them."""

    stage = Stage.WATCH

    def __init__(self, split):
        self.split, self.losses = split, []

    def after_step(self, model, step):
        self.losses.append(mean_loss(model, self.split.forget))
        return False


@dataclasses.dataclass
class Ran:
    """A method with a pair of parts on board, each of which can be made again for a share of the rate."""

    method: str
    makers: tuple[Callable[[float], Part], ...]

    def __post_init__(self):
        self.given, self.split, _ = situation(self.method in WHOLE_CLASSES)
        self.parts = tuple(make(1.0) for make in self.makers)
        self.moves = not any(getattr(part, "per_example", False) for part in self.parts)  # these may exclude all steps
        self.first, self.last, self.rested = Weighed(), Weighed(), Rested(self.split)
        self.result = run(self.method, self.first, *self.parts, self.last, self.rested)


def statistics_are_kept(ran: Ran) -> None:
    assert all(torch.equal(a, b) for a, b in zip(started(ran.method).buffers(), ran.result.buffers(), strict=True))


def masked_weights_are_bit_identical(ran: Ran) -> None:
    model, pairs = copy.deepcopy(ran.given).eval(), []
    for (name, p), end in zip(model.named_parameters(), ran.result.parameters(), strict=True):
        if ran.method == "cf_k" and not name.startswith("4"):
            assert torch.equal(p, end)  # frozen
        else:
            loss = F.cross_entropy(model(ran.split.forget.pixels()), ran.split.forget.labels)
            pairs.append((torch.autograd.grad(loss, p)[0].abs().flatten(), (p != end).flatten()))
    size, moved = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
    least = size.sort(descending=True).values[round(SHARE * len(size)) - 1]
    assert moved.any() >= ran.moves and not moved[size < least].any()
    statistics_are_kept(ran)


def the_ball_is_kept(ran: Ran) -> None:
    pairs = zip(ran.given.parameters(), ran.result.parameters(), strict=True)
    distance = math.sqrt(sum((a.double() - b.double()).square().sum().item() for a, b in pairs))
    assert distance <= RADIUS and (distance > 0 or not ran.moves)
    statistics_are_kept(ran)


def answers_are_kept(ran: Ran) -> None:
    changed = divergence(ran.given, ran.result, ran.split.retain)
    assert changed <= DELTA and (changed > 0 or not ran.moves)
    statistics_are_kept(ran)


def the_retain_loss_changes_to_second_order(ran: Ran) -> None:
    before = mean_loss(started(ran.method), ran.split.retain)
    smaller = run(ran.method, *(make(0.1) for make in ran.makers), rate=0.1 * RATE)
    changes = [abs(mean_loss(m, ran.split.retain) - before) for m in (ran.result, smaller)]
    assert changes[1] < max(changes[0] / SECOND, 2e-7), changes
    statistics_are_kept(ran)


def no_retained_loss_changes_to_first_order(ran: Ran) -> None:
    labels = ran.split.retain.labels[:, None]
    # Small shares, since a trust region goes less than its whole share where that does not keep its bound.
    large, small = (run(ran.method, *(make(s) for make in ran.makers), rate=s * RATE) for s in (0.1, 0.01))
    before, after, less = (
        log_answers(model, ran.split.retain).gather(1, labels) for model in (started(ran.method), large, small)
    )
    assert (less - before).abs().max() < max((after - before).abs().max() / SECOND, 1e-6)
    statistics_are_kept(ran)


def nothing_is_climbed_beyond_the_bound(ran: Ran) -> None:
    assert ran.last.seen
    for losses, weights in ran.last.seen:
        climbed = weights < 0
        assert not climbed.any() or losses[climbed].mean() < TAU


def no_step_follows_the_stop(ran: Ran) -> None:
    losses = -log_answers(started(ran.method), ran.split.validation).gather(1, ran.split.validation.labels[:, None])
    target = sum(losses[ran.split.validation.labels == c].mean().item() for c in ran.split.forget.labels) / 10
    assert all(loss < target for loss in ran.rested.losses[:-1])


def the_loss_has_the_pulls(ran: Ran) -> None:
    start, expected = ran.first.start.eval(), 0.0
    weights = [p for p in start.parameters() if p.requires_grad]
    for part in ran.parts:
        if isinstance(part, dose.L2SP):
            expected += part.rho / 2 * 0.01**2 * sum(p.numel() for p in weights)
        if isinstance(part, dose.EWC):
            for i in range(len(ran.split.retain)):
                one = ran.split.retain[[i]]
                slopes = torch.autograd.grad(F.cross_entropy(start(one.pixels()), one.labels), weights)
                expected += part.rho * 0.01**2 * sum(s.square().sum().item() for s in slopes) / len(ran.split.retain)
    assert ran.last.penalty_elsewhere - ran.first.penalty_elsewhere == pytest.approx(expected, rel=1e-4)


def the_cap_changes_nothing_below(ran: Ran) -> None:
    others = [part for part in ran.parts if not isinstance(part, dose.RatioCap)]
    assert same(state(ran.result), state(run(ran.method, *others)))


PARTS = {
    "L2SP": (lambda s: dose.L2SP(RHO), the_loss_has_the_pulls),
    "EWC": (lambda s: dose.EWC(RHO), the_loss_has_the_pulls),
    "BoundedLoss": (lambda s: dose.BoundedLoss(TAU), nothing_is_climbed_beyond_the_bound),
    "GradientProjection": (lambda s: dose.GradientProjection(1000), the_retain_loss_changes_to_second_order),
    "each projected": (lambda s: dose.GradientProjection(1000, True), no_retained_loss_changes_to_first_order),
    "SaliencyMask": (lambda s: dose.SaliencyMask(SHARE), masked_weights_are_bit_identical),
    "BallProjection": (lambda s: dose.BallProjection(s * RADIUS), the_ball_is_kept),
    "KLTrustRegion": (lambda s: dose.KLTrustRegion(s**2 * DELTA, iterations=3), answers_are_kept),
    "EarlyStop": (lambda s: dose.EarlyStop(), no_step_follows_the_stop),
    "RatioCap": (lambda s: dose.RatioCap(0.9), the_cap_changes_nothing_below),
}
BOUNDED = {"SaliencyMask", "BallProjection", "KLTrustRegion"}
PAIRS = list(itertools.combinations_with_replacement(PARTS, 2))


def check(method: str, names) -> None:
    ran = Ran(method, tuple(PARTS[name][0] for name in names))
    for name in dict.fromkeys(names):
        PARTS[name][1](ran)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_both_promises_of_a_pair_hold_or_it_is_refused(pair, method):
    if (method in STARTS_ELSEWHERE and BOUNDED & set(pair)) or (method in WHOLE_CLASSES and "EarlyStop" in pair):
        with pytest.raises(ValueError, match=r"^(\w+ cannot bound a method that changes|EarlyStop compares)[^\n]*$"):
            check(method, pair)
    else:
        check(method, pair)


@pytest.mark.parametrize("method", sorted(set(METHODS) - STARTS_ELSEWHERE - WHOLE_CLASSES))
def test_all_parts_at_once_hold(method):
    check(method, [name for name in PARTS if name != "each projected"])  # that leaves some methods no step at all


def defect(name, monkeypatch) -> tuple[str, tuple[str, str]]:
    """Plant a defect that the library had; returns a method and a pair of parts that must catch it."""

    def left(v, basis):
        return v - basis.T @ (basis @ v)

    nothing = property(lambda self: None, lambda self, value: None)
    if name == "weights are not projected after a step":
        monkeypatch.setattr(Bounds, "after_step", lambda *_: False)
        return "neggrad", ("SaliencyMask", "BallProjection")
    if name == "gradients alone are kept in the plane":
        monkeypatch.setattr(Bounds, "after_step", lambda *_: False)
        return "neggrad", ("GradientProjection", "L2SP")
    if name == "a mask does not narrow the plane":
        monkeypatch.setattr(Directions, "part", lambda self, v: v if self.basis is None else left(v, self.basis))
        return "neggrad", ("GradientProjection", "SaliencyMask")
    if name == "statistics move":
        monkeypatch.setattr(Bounds, "buffers", nothing)
        return "delete", ("KLTrustRegion", "L2SP")
    assert name == "epochs are kept before the bounds act"
    monkeypatch.setattr(_Rewind, "stage", Stage.CHANGE)
    return "scrub_r", ("SaliencyMask", "BallProjection")


@pytest.mark.parametrize(
    "name",
    [
        "weights are not projected after a step",
        "gradients alone are kept in the plane",
        "a mask does not narrow the plane",
        "statistics move",
        "epochs are kept before the bounds act",
    ],
)
def test_a_planted_defect_is_caught(name, monkeypatch):
    method, pair = defect(name, monkeypatch)
    with pytest.raises(AssertionError):
        check(method, pair)
