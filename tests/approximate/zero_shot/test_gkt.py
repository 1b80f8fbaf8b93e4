"""GKT: the authors' loop rendered beside ours, the filter, both losses at zero, and who is moved by which step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small import examples, same, state
from torch import nn

import unlearnlib as ul
from unlearnlib import seeding
from unlearnlib.approximate.zero_shot import GKT, Canvas, generators, gkt, students
from unlearnlib.approximate.zero_shot.gkt import attention_loss, maps, passing, transfer
from unlearnlib.data.examples import Examples, Split
from unlearnlib.methods import registry
from unlearnlib.training.renewal import fresh

GONE = torch.tensor([1])


def network(seed: int = 0) -> nn.Module:
    """Two convolutions with batch norm, each followed by a ReLU: two maps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        second = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(96, 3))


def one_class() -> Split:
    """Class 1 is to be forgotten; pixels are normalised numbers, of no known limits."""
    every = examples(60)
    plain = Examples((every.pixels() - 0.4) / 0.3, every.labels)
    gone = plain.labels == 1
    return Split.of(retain=plain[~gone], forget=plain[gone], validation=plain[:20], test=plain)


QUICK = {"rounds": 5, "batch_size": 16, "codes": 6, "width": 8, "threshold": 0.34, "retries": 50}


def taught() -> nn.Module:
    """A network that has statistics of its own in its norms."""
    model = network()
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(one_class().train.pixels())
    return model.eval()


def released(teacher, config: GKT, seed: int, every: int):
    """The authors' loop in a few lines: two counters, a mask, two Adams, a scheduler that is fed a constant."""
    rng, run = seeding.generator(seed, "codes"), registry.Run(seed)
    canvas = Canvas.of(teacher, (1, 8, 8))
    student = fresh(teacher, seed, canvas.noise(4, run.generator("example"))).eval()
    with seeding.isolated(seed, "generator"):
        maker = generators.convolutional(config.codes, (1, 8, 8), config.width)
    grown = torch.optim.Adam(maker.parameters(), lr=0.001)
    slower = torch.optim.lr_scheduler.ReduceLROnPlateau(grown, mode="min", factor=0.5, patience=2)
    learn = torch.optim.Adam(student.parameters(), lr=0.001)

    def forward(net, x):
        found = []
        for layer in net:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return x, found

    def attention(x):
        return F.normalize(x.pow(2).mean(1).view(x.size(0), -1))

    z, used, index, rounds, dropped = torch.randn(config.batch_size, config.codes, generator=rng), 0, 0, 0, 0
    while rounds < config.rounds:
        if used == 11:
            z, used = torch.randn(config.batch_size, config.codes, generator=rng), 0
        x, used = maker(z), used + 1
        mask = torch.softmax(teacher(x).detach(), 1)[:, 1] <= config.threshold
        dropped += int((~mask).sum())
        x = x[mask]
        if len(x) == 0:
            continue
        if index % 11 < 1:
            loss = -F.kl_div(F.log_softmax(student(x), 1), F.softmax(teacher(x), 1), reduction="mean")
            grown.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(maker.parameters(), 5)
            grown.step()
        else:
            with torch.no_grad():
                answer, theirs = forward(teacher, x)
            reply, ours = forward(student, x)
            loss = F.kl_div(F.log_softmax(reply, 1), F.softmax(answer, 1), reduction="mean")
            loss = loss + sum(
                250 * (attention(a) - attention(b)).pow(2).mean() for a, b in zip(ours, theirs, strict=True)
            )
            learn.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5)
            learn.step()
        if (index + 1) % 11 == 0:
            if rounds % every == 0:
                slower.step(1.0)
            rounds += 1
        index += 1
    return student, dropped, grown.param_groups[0]["lr"]


@pytest.mark.filterwarnings("ignore:reduction")  # the rendering divides as the authors do
def test_published_is_the_authors_loop():
    settings = {**registry.find("gkt").published, **QUICK, "rounds": 8, "halve_every": 3}
    teacher, parts = taught(), one_class()
    ours = ul.unlearn("gkt", teacher, parts, seed=3, **settings).model
    config = registry.configure("gkt", **settings)
    theirs, dropped, rate = released(copy.deepcopy(teacher), config, seed=3, every=1)
    assert 0 < dropped < 8 * 11 * 16 and rate == 0.001 / 4  # the filter and the schedule have had their say
    for name, value in state(theirs).items():
        assert torch.allclose(state(ours)[name], value, atol=1e-5), name
    assert torch.equal(ours[1].running_mean, torch.zeros(4))  # in eval mode from the start: norms learn nothing
    planted = {**settings, "as_released": False}
    other = ul.unlearn("gkt", teacher, parts, seed=3, **planted).model
    assert not torch.allclose(other[7].weight, theirs[7].weight, atol=1e-3)
    assert other[1].running_mean.abs().min() > 0


def test_a_student_that_is_its_teacher_has_no_loss():
    z = 40 * torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    assert transfer(z, z) == 0 and transfer(z, z.roll(1, 1)) > 0
    model, x = taught(), one_class().test.pixels()
    with maps(model) as found:
        model(x)
        kept = list(found)
    assert [m.shape[1] for m in kept] == [4, 6] and attention_loss(kept, kept) == 0
    # a map counts by its form, not by its size
    assert attention_loss(kept, [3 * m for m in kept]) < 1e-12 < attention_loss(kept, [m.flip(2) for m in kept])
    p, q = torch.softmax(z, 1), torch.softmax(z.roll(1, 0), 1)
    by_hand = torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum(1).mean()
    assert torch.allclose(transfer(z.roll(1, 0), z), by_hand)
    assert torch.allclose(transfer(z.roll(1, 0), z, as_released=True), by_hand / 3)
    sure = torch.tensor([[2000.0, 0.0]]).requires_grad_(True)  # a probability of 0 has a gradient all the same
    assert torch.isfinite(torch.autograd.grad(transfer(torch.zeros(1, 2), sure), sure)[0]).all()


def test_the_filter():
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]).log()
    assert passing(logits, torch.tensor([1]), 0.25).tolist() == [True, False, False]
    assert passing(logits, torch.tensor([1, 2]), 0.35).tolist() == [True, False, False]
    assert passing(logits, torch.tensor([1]), 1.0).all() and not passing(logits, torch.tensor([1]), 0.0).any()


def test_each_step_moves_its_own_network_and_never_the_teacher():
    teacher = taught()
    before = state(teacher)
    run, canvas = registry.Run(0), Canvas.of(teacher, (1, 8, 8))
    config = GKT(**{**QUICK, "student_steps": 0, "as_released": True})
    stages = [state(s) for s in students(teacher, canvas, GONE, config, run)]
    assert len(stages) == 6 and all(same(stage, stages[0]) for stage in stages)  # steps of the generator alone
    assert same(state(teacher), before) and all(p.requires_grad for p in teacher.parameters())
    assert not same(stages[0], before)  # untrained


def test_a_generator_of_which_nothing_passes_is_drawn_anew(monkeypatch):
    asked, true = [], gkt.passing

    def closed_for_a_while(logits, gone, threshold):
        asked.append(logits.clone())
        return true(logits, gone, threshold) & (not 5 <= len(asked) < 5 + gkt._STUCK)

    monkeypatch.setattr(gkt, "passing", closed_for_a_while)
    ul.unlearn("gkt", taught(), one_class(), seed=0, **{**QUICK, "student_steps": 40, "threshold": 1.0})
    stuck, after = asked[4 : 4 + gkt._STUCK], asked[4 + gkt._STUCK]
    assert all(torch.allclose(z, stuck[0], atol=1e-5) for z in stuck)  # no gradient, the same pictures again
    assert not torch.allclose(after, stuck[0], atol=1e-3)


def test_a_filter_that_nothing_passes_ends():
    with pytest.raises(ValueError, match="in 51 batches no picture passed threshold 0: raise it"):
        ul.unlearn("gkt", taught(), one_class(), seed=0, **{**QUICK, "threshold": 0.0})


@pytest.mark.parametrize(
    "shape, kernel, first", [((1, 28, 28), (7, 7), 8), ((3, 32, 32), (3, 3), 8), ((2, 14, 9), (5, 10), 4)]
)
def test_the_convolutional_generator_makes_pictures_of_any_shape(shape, kernel, first):
    maker = generators.convolutional(5, shape, 8)
    assert maker(torch.randn(3, 5)).shape == (3, *shape)
    assert maker[11].kernel_size == kernel and maker[1].shape[1] == first
    assert generators.perceptron(5, shape, 8)(torch.randn(3, 5)).shape == (3, *shape)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 2.0}, {"generator": "mlp"}, {"batch_size": 1}, {"halve_every": 0}, {"clip_norm": 0.0}]
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GKT(**wrong)
    with pytest.raises(ValueError, match="freeze_norms"):
        ul.unlearn("gkt", taught(), one_class(), seed=0, freeze_norms=True, **QUICK)
