"""Repair: targets without a class, no movement where nothing is to learn, a linear network repaired to its teacher."""

import copy

import pytest
import torch
from small import same, split, state, stranger
from torch import nn

from unlearnlib.approximate import zero_shot
from unlearnlib.approximate.zero_shot import Canvas, Distilled, Repair, distilled, repair, without
from unlearnlib.training import Diverged, predict
from unlearnlib.training.networks import Normalise
from unlearnlib.training.work import Tally


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(seed: int = 0, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, classes))


def pictures(n: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 3, 3, generator=rng(seed))


@pytest.mark.parametrize("gone", [[], [0], [1, 3]])
def test_targets_are_the_answer_given_that_it_is_none_of_the_gone_classes(gone):
    logits = 30 * torch.randn(50, 4, generator=rng()).double()
    found, plain = without(logits, gone), torch.softmax(logits, 1)
    kept = [c for c in range(4) if c not in gone]
    assert torch.allclose(found.sum(1), torch.ones(50).double()) and (found[:, gone] == 0).all()
    enough = plain[:, kept].sum(1) > 1e-6
    assert torch.allclose(found[enough][:, kept], (plain[:, kept] / plain[:, kept].sum(1, keepdim=True))[enough])
    # also where the gone class has all of the answer and a division would be 0 / 0
    sure = without(torch.tensor([[1000.0, 0.0, 0.0, -1.0]]), [0])
    assert torch.allclose(sure, torch.softmax(torch.tensor([[-torch.inf, 0.0, 0.0, -1.0]]), 1)) and sure.sum() == 1


@pytest.mark.parametrize("gone", [[0, 1, 2, 3], [4], [-1]])
def test_classes_that_cannot_be_removed_are_refused(gone):
    with pytest.raises(ValueError, match="nothing is left|classes run from 0 to 3"):
        without(torch.zeros(2, 4), gone)


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    model = linear().double()
    after = state(repair(model, model, pictures(), seed=0))
    before = state(model)
    assert all(torch.allclose(after[k], before[k], atol=1e-12, rtol=0) for k in before)
    moved = state(repair(model, model, pictures(), gone=[2], seed=0))
    assert not torch.allclose(moved["1.weight"], before["1.weight"], atol=1e-2)


def test_a_damaged_linear_network_is_repaired_to_its_teachers_answers_and_too_few_pictures_do_not():
    teacher, damaged = linear(0).double(), linear(1).double()
    config, fresh = Repair(steps=3000, lr=0.3, batch_size=40), pictures(100, seed=5)
    answers = torch.softmax(predict(teacher, fresh), 1)

    def gap(n: int) -> float:
        done = repair(damaged, teacher, pictures(n), config=config, seed=0)
        return (torch.softmax(predict(done, fresh), 1) - answers).abs().max().item()

    assert gap(40) < 1e-2 < 0.2 < gap(3)  # nine pixels and a bias: 40 pictures span them, three do not


def test_hard_targets_are_the_likeliest_kept_class():
    teacher, x = linear().double(), pictures().double()
    soft = repair(linear(1).double(), teacher, x, [0], Repair(steps=400, lr=0.3, batch_size=40), seed=0)
    hard = repair(linear(1).double(), teacher, x, [0], Repair(steps=400, lr=0.3, batch_size=40, hard=True), seed=0)
    wanted = without(teacher(x), [0]).argmax(1)
    entropy = [-(p * p.log()).sum(1).mean() for p in (torch.softmax(m(x), 1) for m in (soft, hard))]
    assert (hard(x).argmax(1) == wanted).double().mean() > 0.9 and entropy[1] < entropy[0] / 2


def test_models_norms_and_random_numbers_are_left_as_they_were_and_work_is_counted():
    model, teacher, tally = stranger(0), stranger(1), Tally()
    before, drawn = (state(model), state(teacher)), torch.get_rng_state()
    x = torch.rand(30, 1, 8, 8, generator=rng())
    done = repair(model, teacher, x, config=Repair(steps=7, batch_size=16), seed=0, tally=tally)
    assert same(state(model), before[0]) and same(state(teacher), before[1])
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(done.norm.running_mean, model.norm.running_mean)  # noise must not become its statistics
    assert not torch.equal(done.head.weight, model.head.weight)
    assert tally == Tally(7 * 16, 30)


@pytest.mark.parametrize(
    "wrong, error",
    [({"steps": -1}, "steps"), ({"batch_size": 0}, "batch_size"), ({"lr": float("nan")}, "lr"), ({"hard": 1}, "hard")],
)
def test_bad_settings_are_refused(wrong, error):
    with pytest.raises(ValueError, match=error):
        Repair(**wrong)


def test_bad_pictures_are_refused():
    for bad in (torch.full((2, 1, 3, 3), torch.nan), pictures(0), torch.zeros(2, 1, 4, 4)):
        with pytest.raises(ValueError) as error:
            repair(linear(), linear(1), bad, seed=0)
        assert "\n" not in str(error.value)
    with pytest.raises(Diverged):
        repair(linear(), linear(1), 1e30 * pictures(), config=Repair(lr=1e10), seed=0)


def test_a_canvas_takes_its_units_from_the_network_then_from_the_limits():
    layer = Normalise(torch.tensor([0.2, 0.4]), torch.tensor([2.0, 3.0]))
    canvas = Canvas.of(nn.Sequential(layer, nn.Flatten(), nn.Linear(18, 3)), (2, 3, 3))
    assert torch.allclose(canvas.mean.flatten(), torch.tensor([0.2, 0.4])) and canvas.std.flatten().tolist() == [2, 3]
    x = canvas.picture(canvas.noise(4000, rng()))
    assert torch.allclose(x.mean((0, 2, 3)), torch.tensor([0.2, 0.4]), atol=0.1)
    assert torch.allclose(x.std((0, 2, 3)), torch.tensor([2.0, 3.0]), atol=0.1)
    uniform = 4 + 2 * torch.rand(100_000, generator=rng())
    plain = Canvas.of(linear(), (1, 3, 3), (4.0, 6.0))
    assert abs(plain.mean - uniform.mean()) < 0.01 and abs(plain.std - uniform.std()) < 0.01
    unknown = Canvas.of(linear(), (1, 3, 3))
    assert unknown.mean == 0 and abs(unknown.std - 1) < 1e-6


def test_pictures_are_distilled_so_that_one_step_on_them_teaches_more_than_one_on_the_means():
    parts, model = split(), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    start, _ = distilled(model, parts.retain, Distilled(per_class=1, steps=0), seed=0)
    made, labels = distilled(model, parts.retain, Distilled(per_class=1, steps=30, inner_lr=0.05), seed=0)

    def after_a_step(x) -> float:
        losses = []
        for seed in range(5):
            net = copy.deepcopy(model)
            with torch.random.fork_rng():
                torch.manual_seed(100 + seed)
                net[1].reset_parameters()
            loss = nn.functional.cross_entropy(net(x), labels)
            slopes = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for p, slope in zip(net.parameters(), slopes, strict=True):
                    p.sub_(0.05 * slope)
            losses.append(nn.functional.cross_entropy(net(parts.test.pixels()), parts.test.labels).item())
        return sum(losses) / len(losses)

    assert labels.tolist() == [0, 1, 2] and made.shape == (3, 1, 8, 8)
    assert after_a_step(made) < after_a_step(start) - 0.02
    assert "repair" in zero_shot.__all__
