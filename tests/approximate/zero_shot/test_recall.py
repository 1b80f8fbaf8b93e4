"""Recall: no divergence from oneself, the objective and a step beside an independent rendering, and its bounds."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small import same, state, stranger
from torch import nn

from unlearnlib.approximate.zero_shot import Canvas, Recall, recalled, recalling
from unlearnlib.approximate.zero_shot.recall import divergence, objective
from unlearnlib.training.work import Tally

GONE = torch.tensor([1])
PRIORS = ("notlocal", "notlocal_new", "diversity", "sharpen", "l2", "tv")


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def codes(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)).double()


def alone(**more) -> Recall:
    """Divergence without a prior."""
    return Recall(**{**dict.fromkeys(PRIORS, 0.0), "largest": None, **more})


def test_a_network_does_not_diverge_from_itself():
    z = 20 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    z.requires_grad_(True)
    same_answer = divergence(z, z.detach().clone())
    assert same_answer.abs() < 1e-12
    assert torch.autograd.grad(same_answer, z)[0].abs().max() < 1e-12
    u = codes()
    assert torch.equal(recalled(network(), network(), u, Canvas.of(network(), (1, 4, 4)), GONE, alone()), u)
    other = divergence(z, z.detach().roll(1, 1))
    assert other > 1  # what the objective is after, and no Jensen-Shannon divergence: that ends at log 2


def test_divergence_by_its_definition_and_where_probabilities_are_zero():
    p, q = torch.tensor([[0.7, 0.2, 0.1]]).double(), torch.tensor([[0.1, 0.3, 0.6]]).double()
    a = (p + q) / 2
    by_hand = 0.5 * ((a * (a / p).log()).sum() + (a * (a / q).log()).sum())
    assert torch.allclose(divergence(p.log(), q.log()), by_hand)
    shannon = 0.5 * ((p * (p / a).log()).sum() + (q * (q / a).log()).sum())  # what its name promises is another
    assert abs(shannon - by_hand) > 0.01
    z = torch.tensor([[2000.0, 0.0, 0.0]]).requires_grad_(True)
    assert torch.isfinite(torch.autograd.grad(divergence(z, -z.detach()), z)[0]).all()


def rendered(u, old, new, present, c: Recall):
    """The released objective, in other words: losses of the authors' names, class by class."""
    p, q = torch.softmax(old, 1), torch.softmax(new, 1)
    a = (p + q) / 2
    d = 1 - 0.5 * ((a * (a.log() - p.log())).sum() + (a * (a.log() - q.log())).sum()) / len(u)
    notlocal = notlocal_new = 0.0
    for k in present.tolist():
        target = torch.full((len(u),), k)
        notlocal = notlocal - F.cross_entropy(old, target) / len(present)
        notlocal_new = notlocal_new - F.cross_entropy(new, target) / len(present)
    mean = p.mean(0)
    diversity = (mean * mean.log()).sum()
    sharpen = F.cross_entropy(old, old.argmax(1))
    channels, high, wide = u.shape[1:]
    norm = sum(picture.norm() for picture in u) / (len(u) * channels * high * wide)
    down = (u[:, :, 1:] - u[:, :, : high - 1]).pow(2).sum() / (channels * (high - 1) * wide)
    across = (u[:, :, :, 1:] - u[:, :, :, : wide - 1]).pow(2).sum() / (channels * high * (wide - 1))
    tv = 2 * (down + across) / len(u)
    weighed = (c.divergence, d), (c.notlocal, notlocal), (c.notlocal_new, notlocal_new), (c.diversity, diversity)
    return sum(w * v for w, v in (*weighed, (c.sharpen, sharpen), (c.l2, norm), (c.tv, tv)))


@pytest.mark.parametrize("present", [[1], [0, 3]])
def test_objective_and_steps_are_those_of_an_independent_rendering(present):
    old, new, gone = network(0), network(1), torch.tensor(present)
    canvas, config = Canvas.of(old, (1, 4, 4), (0.0, 1.0)), Recall(recall_steps=5, recall_lr=2.0, largest=None)
    u = codes()
    found = recalled(old, new, u, canvas, gone, config)
    for _ in range(5):
        u = u.detach().requires_grad_(True)
        x = canvas.picture(u)
        loss = rendered(u, old(x), new(x), gone, config)
        assert torch.allclose(loss, objective(u, old(x), new(x), gone, config), atol=1e-12)
        u = u - 2.0 * torch.autograd.grad(loss, u)[0]
    assert torch.allclose(found, u, atol=1e-10)


def test_recall_finds_what_has_changed_and_a_step_has_a_largest_length():
    old, new = network(0), network(0)
    with torch.no_grad():
        new[3].weight[2] += 1.0
    canvas, u = Canvas.of(old, (1, 4, 4)), codes(20)
    found = recalled(old, new, u, canvas, GONE, alone(recall_steps=30, recall_lr=20.0))
    assert divergence(old(found), new(found)) > 2 * divergence(old(u), new(u))
    short = recalled(old, new, u, canvas, GONE, alone(recall_steps=1, recall_lr=1e6, largest=0.25))
    assert torch.allclose((short - u).flatten(1).norm(dim=1), torch.full((20,), 0.25).double())
    assert torch.equal(recalled(old, new, u, canvas, GONE, alone(recall_steps=0)), u)


def test_rounds_are_steps_on_the_answers_less_the_class_and_leave_the_teacher_and_norms():
    teacher, model = network(0), network(1)
    canvas, config, tally = Canvas.of(teacher, (1, 4, 4)), Recall(rounds=3, pictures=5, recall_steps=2), Tally()
    by_hand, before = copy.deepcopy(model), state(teacher)
    drawn = torch.Generator().manual_seed(7)
    for x in recalling(model, teacher, canvas, GONE, config, torch.Generator().manual_seed(7), tally=tally):
        u = recalled(teacher, by_hand, canvas.noise(5, drawn), canvas, GONE, config)
        assert torch.allclose(canvas.picture(u), x, atol=1e-12)
        target = torch.softmax(teacher(x), 1)
        target[:, 1] = 0
        target = (target / target.sum(1, keepdim=True)).detach()
        loss = -(target * torch.log_softmax(by_hand(x), 1)).sum(1).mean()
        slopes = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for p, slope in zip(by_hand.parameters(), slopes, strict=True):
                p.sub_(0.05 * slope)
    assert torch.allclose(model[1].weight, by_hand[1].weight, atol=1e-12) and same(state(teacher), before)
    assert tally == Tally(3 * (2 * 2 * 5 + 5), 3 * 5)
    normed, mean = stranger(0), stranger(0).norm.running_mean.clone()
    rng = torch.Generator().manual_seed(0)
    list(recalling(normed, stranger(1), Canvas.of(normed, (1, 8, 8)), GONE, config, rng))
    assert torch.equal(normed.norm.running_mean, mean)


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"recall_lr": 0.0}, {"largest": 0.0}, {"tv": -1.0}, {"lr": "fast"}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recall(**wrong)
