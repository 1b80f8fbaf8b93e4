"""DP-SGD: the accounted sampler is the one that draws, noise has the stated size, forgetting is by group privacy."""

import math

import pytest
import torch
from torch import nn

from unlearnlib import seeding
from unlearnlib.private import accounting
from unlearnlib.private.accounting import Phase
from unlearnlib.private.dpsgd import AdaptiveClip, DpSgd, PoissonSampler, magnitude_mask
from unlearnlib.private.learner import BudgetExhausted
from unlearnlib.training.loop import Diverged


def cnn():
    with seeding.isolated(0, "cnn"):
        return nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(288, 10))


def linear():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    return model


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_poisson_sampler_draws_each_example_independently():
    sampler, rng = PoissonSampler(400, 0.05), seeding.generator(0, "sampler")
    batches = [sampler.draw(rng) for _ in range(2000)]
    sizes = torch.tensor([len(b) for b in batches], dtype=torch.float64)
    assert float(sizes.mean()) == pytest.approx(20, abs=4 * math.sqrt(19 / 2000))
    assert float(sizes.var()) == pytest.approx(19, rel=0.15)  # a fixed batch size would have variance 0
    hits = torch.bincount(torch.cat(batches), minlength=400).double()
    assert float(hits.var()) == pytest.approx(2000 * 0.05 * 0.95, rel=0.3)
    assert any(len(PoissonSampler(5, 0.01).draw(rng)) == 0 for _ in range(20))


def test_the_accountant_is_told_what_the_sampler_does(threes_eights, monkeypatch):
    """Every batch is drawn at the rate, and every step noised at the multiplier, that the accountant sees."""
    rates, steps = [], []
    draw, step = PoissonSampler.draw, DpSgd._step
    monkeypatch.setattr(PoissonSampler, "draw", lambda self, rng: rates.append(self.rate) or draw(self, rng))
    monkeypatch.setattr(DpSgd, "_step", lambda self, *a: steps.append(a[5]) or step(self, *a))
    learner = DpSgd(linear(), epochs=2, expected_batch=30, noise_multiplier=1.4, noise_decay=0.5, accountant="rdp")
    learner.fit(threes_eights[0][:300])
    assert sum(p.steps for p in learner.state.phases) == len(rates) == len(steps) == 20
    assert {p.sample_rate for p in learner.state.phases} == set(rates) == {0.1}
    told = [p.noise_multiplier for p in learner.state.phases for _ in range(p.steps)]
    assert steps == told and told[0] == 1.4 and told[-1] == pytest.approx(0.7)
    assert learner.spent() == accounting.spent(learner.state.phases, 1e-5, "rdp")
    assert learner.spent().sampling == "Poisson"


def test_noise_is_calibrated_to_the_target(threes_eights):
    learner = DpSgd(linear(), epochs=1, expected_batch=50, epsilon=3.0, accountant="rdp")
    phases = learner.phases(500)
    assert phases[0].sample_rate == 0.1 and phases[0].steps == 10
    assert 2.99 < accounting.spent(phases, 1e-5, "rdp").epsilon <= 3.0
    falling = DpSgd(linear(), epochs=2, expected_batch=25, epsilon=3.0, accountant="rdp", noise_decay=0.5).phases(500)
    assert [p.noise_multiplier / falling[0].noise_multiplier for p in falling] == pytest.approx([1, 0.5])
    assert 2.99 < accounting.spent(falling, 1e-5, "rdp").epsilon <= 3.0


@pytest.mark.parametrize("batch", [[], [0, 1, 2]])
def test_a_step_adds_noise_of_std_z_c_over_expected_batch(threes_eights, batch):
    """Also for an empty batch: skipping it would tell the adversary that nobody was drawn."""
    train = threes_eights[0]
    learner = DpSgd(linear(), expected_batch=25, lr=0.3, clip=1e-6, noise_multiplier=2.0)
    model, velocity = linear(), {k: torch.zeros_like(p) for k, p in linear().named_parameters()}
    learner._step(model, velocity, train, torch.tensor(batch, dtype=torch.long), 1e-6, 2.0, seeding.generator(0))
    moved = weights(model)
    assert float(moved.std()) == pytest.approx(0.3 * 2.0 * 1e-6 / 25, rel=0.05)  # 1,570 coordinates


def test_the_divisor_is_the_expected_batch_size(threes_eights):
    train = threes_eights[0]
    learner = DpSgd(linear(), expected_batch=50, lr=1.0, clip=0.5, noise_multiplier=1e-9)
    model, velocity = linear(), {k: torch.zeros_like(p) for k, p in linear().named_parameters()}
    learner._step(model, velocity, train, torch.tensor([4]), 0.5, 1e-9, seeding.generator(0))
    assert float(weights(model).norm()) == pytest.approx(0.5 / 50, rel=1e-5)  # one clipped gradient over 50, not over 1


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_adaptive_clip_converges_to_the_quantile(quantile):
    rng = seeding.generator(0, "norms")
    adaptive, clip, tail = AdaptiveClip(quantile, rate=0.2), 20.0, []
    for step in range(600):
        norms = torch.exp(torch.randn(100, generator=rng))  # log-normal with median 1
        clip = adaptive.update(clip, norms, 100, 5.0, rng)
        tail += [math.log(clip)] if step >= 300 else []
    expected = float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(quantile)))
    assert sum(tail) / 300 == pytest.approx(expected, abs=0.05)


def test_adaptive_clipping_raises_the_gradient_noise(threes_eights, monkeypatch):
    seen = []
    from unlearnlib.private import dpsgd

    original = dpsgd.gaussian
    monkeypatch.setattr(dpsgd, "gaussian", lambda v, s, rng: seen.append((v.ndim, s)) or original(v, s, rng))
    options = dict(epochs=1, expected_batch=20, clip=0.1, noise_multiplier=1.5)
    learner = DpSgd(linear(), adaptive=AdaptiveClip(0.5), **options).fit(threes_eights[0][:200])
    counts = {s for ndim, s in seen if ndim == 0}
    gradients = [s for ndim, s in seen if ndim == 2]
    assert counts == {1.0}  # expected batch / 20
    expected = accounting.clipping_noise_split(1.5, 1.0)
    assert gradients == pytest.approx([expected * c for c in learner.state.clips])
    assert learner.state.clips[-1] > learner.state.clips[0] == 0.1  # the norms are larger than that
    assert learner.state.phases == [Phase(1.5, 0.1, 10)]  # the pair spends what one Gaussian does


def test_mask_shrinks_the_noise_like_the_square_root_of_what_is_kept(threes_eights):
    """Exact: with one stream of draws the masked noise is the full noise on the kept entries and zero elsewhere."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 2, bias=False))
    keep = {"1.weight": torch.zeros(2, 784, dtype=torch.bool)}
    keep["1.weight"].view(-1)[::7] = True
    moved = []
    for mask in (None, keep):
        learner = DpSgd(model, expected_batch=10, lr=1.0, clip=1e-5, noise_multiplier=1.0, keep=mask)
        copy, velocity = nn.Sequential(nn.Flatten(), nn.Linear(784, 2, bias=False)), {"1.weight": torch.zeros(2, 784)}
        nn.init.zeros_(copy[1].weight)
        empty = torch.tensor([], dtype=torch.long)
        learner._step(copy, velocity, threes_eights[0], empty, 1e-5, 1.0, seeding.generator(0))
        moved.append(copy[1].weight.detach())
    assert torch.equal(moved[1], moved[0] * keep["1.weight"])
    assert float(moved[1].norm() / moved[0].norm()) == pytest.approx(math.sqrt(1 / 7), rel=0.1)


def test_pruned_entries_never_move(threes_eights):
    start = cnn()
    keep = magnitude_mask(start, 0.25)
    assert sum(int(m.sum()) for m in keep.values()) == round(0.25 * sum(m.numel() for m in keep.values()))
    learner = DpSgd(start, epochs=1, expected_batch=40, noise_multiplier=1.0, keep=keep, momentum=0.9)
    learner.fit(threes_eights[0][:200])
    for name, p in learner.state.model.named_parameters():
        original = start.get_parameter(name)
        if name in keep:
            assert torch.equal(p[~keep[name]], original[~keep[name]])
            assert not torch.equal(p[keep[name]], original[keep[name]])


def test_it_trains_a_small_cnn_quickly(mnist, accuracy):
    train, test = mnist[:1000], mnist[1000:2000]
    options = dict(epochs=12, expected_batch=100, lr=0.5, clip=1.0, seed=1)
    learner = DpSgd(cnn(), noise_multiplier=0.6, **options).fit(train)
    assert accuracy(learner, test) > 0.7
    noisier = DpSgd(cnn(), noise_multiplier=30.0, **{**options, "epochs": 3}).fit(train)
    assert accuracy(noisier, test) < 0.5  # planted: with 50 times the noise nothing is learned


def test_training_is_reproducible_and_leaves_everything_alone(threes_eights):
    train, start = threes_eights[0][:100], cnn()
    before, state = weights(start).clone(), torch.get_rng_state()
    options = dict(epochs=1, expected_batch=20, noise_multiplier=1.0)
    first, second = (DpSgd(start, **options).fit(train) for _ in range(2))
    other = DpSgd(start, **options, seed=1).fit(train)
    chunked = DpSgd(start, **options, chunk=7).fit(train)
    assert torch.equal(weights(first.state.model), weights(second.state.model))
    assert torch.allclose(weights(first.state.model), weights(chunked.state.model), atol=1e-6)
    assert not torch.equal(weights(first.state.model), weights(other.state.model))
    assert torch.equal(weights(start), before) and start.training
    assert torch.equal(torch.get_rng_state(), state)


def test_forgetting_is_certified_for_the_group(threes_eights):
    train, test = threes_eights
    learner = DpSgd(linear(), epochs=1, expected_batch=30, noise_multiplier=4.0).fit(train[:300])
    before = learner.logits(test.images)
    first, second = learner.forget([9]), learner.forget([1, 2])
    assert torch.equal(learner.logits(test.images), before)
    assert first.certificate.epsilon == learner.spent().epsilon and first.touched == {"weights": 0}
    assert second.certificate.epsilon == accounting.group_epsilon(learner.state.phases, 1e-5, 3)
    assert second.certificate.epsilon > 3 * first.certificate.epsilon  # superlinear at fixed delta
    assert "same sample rate" in second.certificate.compared_with and second.cost.gradient_evaluations == 0


def test_no_certificate_from_an_approximation(threes_eights):
    """Certified .753 where the truth is in [4.70, 4.82]; the noise for a target was as wrong."""
    data = threes_eights[0][:300]
    told = dict(expected_batch=0.3, epochs=0.5, noise_multiplier=0.5, delta=1e-7)  # q .001, 500 steps
    learner = DpSgd(linear(), accountant="gdp", **told).fit(data)
    assert learner.phases(300) == [Phase(0.5, 0.001, 500)]
    assert 4.70 <= learner.forget([0]).certificate.epsilon <= 4.821
    assert learner.spent().bound and learner.spent().accountant == "pld"
    for accountant in accounting.ACCOUNTANTS:
        aimed = DpSgd(linear(), epochs=2, expected_batch=60, epsilon=1.0, accountant=accountant).fit(data)
        certified = aimed.forget([0]).certificate.epsilon
        assert certified <= 1.0 and accounting.spent(aimed.state.phases, 1e-5).epsilon <= 1.0
    whole = DpSgd(linear(), epochs=2, expected_batch=300, noise_multiplier=4.0, accountant="gdp").fit(data)
    assert whole.spent().accountant == "gdp"  # without sampling it is exact
    assert whole.forget([0]).certificate.epsilon == pytest.approx(accounting.gdp_epsilon(math.sqrt(2) / 4, 1e-5))
    assert whole.forget([1]).certificate.epsilon == pytest.approx(accounting.gdp_epsilon(math.sqrt(2) / 2, 1e-5))


@pytest.mark.parametrize("adaptive", [None, AdaptiveClip(0.5)])
def test_the_reference_is_the_mechanism_that_the_certificate_names(threes_eights, adaptive):
    """On neighbouring data divisor, rate, noise and the noise of the count stay; only the examples differ."""
    learner = DpSgd(
        linear(), epochs=2, expected_batch=30, noise_multiplier=2.0, adaptive=adaptive, lr=0.3, momentum=0.5
    )
    learner.fit(threes_eights[0][:300]).forget(range(60))
    other = learner.reference(5)
    assert other.state.phases == learner.state.phases and len(other.state.examples) == 240
    same = ("lr", "expected_batch", "clip", "momentum", "adaptive")
    assert all(getattr(other, name) == getattr(learner, name) for name in same)


def test_what_is_not_a_number_is_not_released(threes_eights):
    with pytest.raises(Diverged, match="not finite"):
        DpSgd(linear(), epochs=2, expected_batch=50, noise_multiplier=1.0, lr=1e38, clip=1e30).fit(
            threes_eights[0][:100]
        )
    with pytest.raises(ValueError, match="float32 or float64"):
        DpSgd(linear().half(), noise_multiplier=1.0)
    with pytest.raises(ValueError, match="keeps statistics"):
        DpSgd(nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), cnn()), noise_multiplier=1.0)
    with pytest.raises(ValueError, match="lr above 0"):
        DpSgd(linear(), noise_multiplier=1.0, lr=math.nan)


def test_exhaustion(threes_eights):
    train, test = threes_eights
    options = dict(epochs=1, expected_batch=30, noise_multiplier=4.0, max_epsilon=0.5)
    learner = DpSgd(linear(), **options).fit(train[:300])
    with pytest.raises(BudgetExhausted, match="max_epsilon"):
        learner.forget(range(5))
    assert len(learner.retained()) == 300
    willing = DpSgd(linear(), on_exhausted="retrain", **options).fit(train[:300])
    before = willing.logits(test.images)
    receipt = willing.forget(range(5))
    assert receipt.certificate.kind == "exact" and receipt.cost.gradient_evaluations > 200
    assert willing.state.trained_on == 295 and not torch.equal(willing.logits(test.images), before)


def test_refusals(threes_eights):
    with pytest.raises(ValueError, match="either noise_multiplier or epsilon"):
        DpSgd(linear())
    with pytest.raises(ValueError, match="BatchNorm"):
        DpSgd(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 2)), noise_multiplier=1.0)
    with pytest.raises(ValueError, match="exceeds the 50 examples"):
        DpSgd(linear(), noise_multiplier=1.0).fit(threes_eights[0][:50])
    with pytest.raises(ValueError, match="keep"):
        DpSgd(linear(), noise_multiplier=1.0, keep={"1.weight": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="quantile"):
        AdaptiveClip(1.5)
    with pytest.raises(ValueError, match="kept"):
        magnitude_mask(linear(), 0.0)
