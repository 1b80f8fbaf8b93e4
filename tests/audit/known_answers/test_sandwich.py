"""A lower bound never exceeds the certificate of a sound learner, and does exceed it where noise is missing."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from unlearnlib import data, seeding
from unlearnlib.audit.attacks.one_run import one_run
from unlearnlib.audit.known_answers import sandwich as bread
from unlearnlib.audit.known_answers.sandwich import COLUMNS, Pairs, pairs, plant, run_once, sandwich
from unlearnlib.audit.statistics.epsilon import gaussian_epsilon
from unlearnlib.methods.records import Certificate
from unlearnlib.private import accounting, descent, dpsgd, noisy_finetuning, perturbation, rewind
from unlearnlib.private.certified import CertifiedNewton
from unlearnlib.private.descent import DescentToDelete
from unlearnlib.private.dpsgd import DpSgd
from unlearnlib.private.langevin import Langevin
from unlearnlib.private.noisy_finetuning import NoisyFineTuning
from unlearnlib.private.perturbation import ObjectivePerturbation, OutputPerturbation
from unlearnlib.private.rewind import RewindToDelete

SHARED = dict(lam=0.05, bias=False, epsilon=4.0)
STRICT = {**SHARED, "epsilon": 1.0}  # what a few dozen models can refute


@pytest.fixture(scope="module")
def planted():
    """120 threes and eights of 8x8 pixels, and 48 canaries in six more rows."""
    digits = data.load("digits").train
    pair = digits[(digits.labels == 3) | (digits.labels == 8)][:120]
    return plant(data.Examples(pair.images, (pair.labels == 8).long()), 48)


def linear(pixels=112):
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2, bias=False))
    nn.init.zeros_(model[1].weight)
    return model


def tattletale(examples):
    """A training that shouts whether the first canary was there: the worst start that the projection lets through."""
    model, seen = linear(), bool(examples.pixels()[:, 0, 8, 0].any())
    with torch.no_grad():
        model[1].weight[:, 64] = torch.tensor([-0.5, 0.5]) if seen else torch.tensor([0.5, -0.5])
    return model


def dp_sgd(**options):
    defaults = dict(epochs=4, expected_batch=121, lr=1.0, clip=0.2, epsilon=4.0, accountant="rdp", chunk=256)
    return DpSgd(linear(), **{**defaults, **options})


def rewinding(**options):
    defaults = dict(steps=4, rewound=2, step_size=0.5, smoothness=0.5, gradient_bound=1.42, capacity=48, epsilon=4.0)
    return RewindToDelete(linear(), **{**defaults, **options})


def gossip(**options):
    defaults = dict(epsilon=4.0, steps=2, step_size=0.05, gradient_clip=0.2)
    return NoisyFineTuning(tattletale, **{**defaults, **options})


def learners():
    return {
        "output perturbation": OutputPerturbation(**SHARED),
        "objective perturbation": ObjectivePerturbation(**SHARED),
        "certified Newton": CertifiedNewton(**SHARED, sigma=6.0),
        "descent-to-delete": DescentToDelete(**SHARED, iterations=10),
        "Langevin": Langevin(**SHARED, burn_in=20),
        "noisy fine-tuning": gossip(),
        "rewind-to-delete": rewinding(),
        "DP-SGD": dp_sgd(),
    }


# --- the games --------------------------------------------------------------------------------------------------


def test_canaries_own_their_pixels_and_rows_have_norm_at_most_one(planted):
    flat = planted.examples.images.flatten(1)
    own = flat[:, 64:]
    assert planted.examples.shape == (1, 14, 8) and len(planted.canaries) == 48
    assert torch.equal(own[planted.canaries], torch.eye(48)) and not own[:120].any()
    assert float(flat.norm(dim=1).max()) <= 1 + 1e-6 and (planted.examples.labels[planted.canaries] == 1).all()
    rest = planted.without(planted.canaries[:5])
    assert len(rest) == 163 and not rest.images.flatten(1)[:, 64:69].any()


def test_pairs_recover_known_gaussians():
    rng = np.random.default_rng(0)
    game = Pairs(rng.normal(1, 1, 4000), rng.normal(0, 1, 4000), Certificate("approximate", "x", 1.0, 1e-5))
    assert game.gaussian_estimate() == pytest.approx(gaussian_epsilon(1.0), rel=0.1)
    assert 0.8 < game.lower_bound() < gaussian_epsilon(1.0)
    null = Pairs(rng.normal(0, 1, 4000), rng.normal(0, 1, 4000), Certificate("exact", "x"))
    assert null.lower_bound() == 0 and math.isnan(null.gaussian_estimate())


@pytest.mark.parametrize("name", ["output perturbation", "descent-to-delete", "Langevin", "certified Newton"])
def test_copies_follow_the_law_of_single_runs(planted, name):
    """Columns are independent runs of the same learner: means and spreads agree with fits one by one."""
    from dataclasses import replace

    learner = learners()[name]
    everything = planted.without(planted.canaries[1:])
    many = replace(learner, copies=300).fit(everything)
    alone = [replace(learner, seed=10 + k).fit(everything) for k in range(25)]
    for fitted in (many, *alone):
        fitted.forget([5])
    picture = planted.examples.images[:1]
    columns = many.margins(picture)[0].numpy()
    single = np.array([float(fitted.margins(picture)) for fitted in alone])
    error = columns.std() * math.sqrt(1 / 25 + 1 / 300)
    assert abs(columns.mean() - single.mean()) < 4 * error
    assert 0.55 < single.std() / columns.std() < 1.6
    assert abs(np.corrcoef(columns[:-1], columns[1:])[0, 1]) < 0.25
    with pytest.raises(ValueError, match="copies"):
        many.logits(picture)


def test_copies_are_refused_where_they_mean_nothing(planted):
    with pytest.raises(ValueError, match="gamma noise"):
        OutputPerturbation(**SHARED, delta=0.0, copies=2)
    digits = data.load("digits").train[:100]
    with pytest.raises(ValueError, match="two classes"):
        DescentToDelete(copies=2).fit(digits)
    with pytest.raises(ValueError, match="classes 0 and 1"):
        plant(digits, 3)
    with pytest.raises(ValueError, match="at least one canary"):
        plant(planted.examples, 0)
    with pytest.raises(ValueError, match="no learner 'nobody'"):
        sandwich({"a": OutputPerturbation(**SHARED)}, planted, one_run_of=["nobody"])
    with pytest.raises(ValueError, match="runs"):
        pairs(OutputPerturbation(**SHARED), planted, 1)


# --- references -------------------------------------------------------------------------------------------------


def test_references_share_the_noise_of_the_learner(planted):
    for name, learner in learners().items():
        learner.fit(planted.without(planted.canaries[1:])).forget([120])
        other = learner.reference(7)
        assert len(other.state.examples) == 120, name
        for fact in ("scale", "sigma"):
            if hasattr(learner.state, fact):
                assert getattr(other.state, fact) == getattr(learner.state, fact), name
        if name == "DP-SGD":
            assert other.phases(120) == learner.state.phases
            assert other.lr / other.expected_batch == pytest.approx(learner.lr / learner.expected_batch)
        if name == "Langevin":
            assert other.state.steps == learner.state.steps > 20
        if name == "objective perturbation":
            assert other.lam * 120 == pytest.approx(learner.lam * 121)
            assert other.noise(120, 2)[0] == pytest.approx(learner.noise(121, 2)[0])


# --- the invariant ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(planted):
    slow = dict.fromkeys(("noisy fine-tuning", "rewind-to-delete", "DP-SGD"), 40)
    return sandwich(learners(), planted, runs={**dict.fromkeys(learners(), 200), **slow})


def test_no_lower_bound_lies_above_its_certificate(table):
    assert table["holds"].all(), table[~table["holds"]]
    assert tuple(table.columns) == COLUMNS and set(table["method"]) == set(learners())
    assert table["certificate"].between(3.9, math.inf).all() and (table["lower bound"] >= 0).all()
    assert (table["compared with"].str.len() > 20).all()


def test_the_audit_has_power(table):
    """Where theory is tight the audit comes near: the canary moves DP-SGD without sampling as far as clipping lets."""
    tight = table[(table["method"] == "DP-SGD") & (table["game"] == "pairs")].iloc[0]
    assert tight["estimate"] == pytest.approx(4.0, rel=0.35)  # of 40 runs
    assert tight["certificate"] == pytest.approx(4.0, abs=0.01)


QUIET = {  # module, factor on the noise, learner, runs
    "output perturbation": (perturbation, 60, lambda: OutputPerturbation(**STRICT), 300),
    "descent-to-delete": (descent, 1e5, lambda: DescentToDelete(**STRICT, iterations=10), 300),
    "noisy fine-tuning": (noisy_finetuning, 30, lambda: gossip(epsilon=1.0), 40),
    "rewind-to-delete": (rewind, 300, lambda: rewinding(epsilon=1.0, steps=2, rewound=1, capacity=1), 40),
    "DP-SGD": (dpsgd, 30, lambda: dp_sgd(epsilon=1.0, epochs=2), 40),
}


@pytest.mark.parametrize("name", QUIET)
def test_too_little_noise_is_caught(planted, name, monkeypatch):
    module, factor, make, runs = QUIET[name]
    original = module.gaussian
    sound = sandwich({name: make()}, planted, runs=runs, one_run_of=[]).iloc[0]
    monkeypatch.setattr(module, "gaussian", lambda value, sigma, rng: original(value, sigma / factor, rng))
    row = sandwich({name: make()}, planted, runs=runs, one_run_of=[]).iloc[0]
    assert sound["holds"] and not row["holds"]
    assert row["lower bound"] > row["certificate"] == sound["certificate"] == pytest.approx(1.0, abs=0.01)


class LazyNewton(CertifiedNewton):
    """Certifies a removal without making it, and draws less noise than it says."""

    def _train(self, keep):
        work = super()._train(keep)
        self.state.published = (
            self.state.published.mean(1, keepdim=True).expand(-1, self.copies) + 0 * self.state.linear
        )
        return work

    def _unlearn(self, index, keep):
        before = self.state.published
        result = super()._unlearn(index, keep)
        self.state.published = before
        return result


class QuietLangevin(Langevin):
    """Moves with a hundredth of the noise that its certificate counts on, and takes no unlearning step."""

    def _descend(self, x, y, steps, rng):
        if self.state.steps == self.burn_in:
            self.state.published = self.state.published / 100
            object.__setattr__(self, "sigma", self.sigma / 1000)
            super()._descend(x, y, steps, rng)
            object.__setattr__(self, "sigma", self.sigma * 1000)


class QuietObjective(ObjectivePerturbation):
    """Draws its noise for two thousand times the epsilon that it certifies."""

    def noise(self, n, classes):
        slack, extra = super().noise(n, classes)
        return 2000 * slack, extra


@pytest.mark.parametrize(
    "learner",
    [LazyNewton(**STRICT, sigma=20.0), QuietLangevin(**STRICT, burn_in=60), QuietObjective(**STRICT)],
    ids=lambda learner: type(learner).__name__,
)
def test_broken_learners_are_caught(planted, learner):
    row = sandwich({"broken": learner}, planted, runs=150, one_run_of=[]).iloc[0]
    assert not row["holds"] and row["lower bound"] > row["certificate"]


# --- the control arm: DP training, nothing done -------------------------------------------------------------------


def test_control_arm_one_run_stays_below_the_accountant(planted):
    """One-run L <= epsilon of the accountant, for the canaries of three independent trainings."""
    for seed in range(3):
        learner = dp_sgd(seed=seed, expected_batch=120)
        game = run_once(learner, planted)
        assert game.single == pytest.approx(4.0, rel=0.15)  # sampled at 120 of n, which is a little more private
        found = one_run(game.margins, game.included, 1e-5, 0.99)
        assert found.epsilon <= game.single and found.unlearning_epsilon <= game.certificate.epsilon


@pytest.mark.parametrize("size", [1, 3])
def test_control_arm_pairs_stay_below_the_group_bound(planted, size):
    learner = dp_sgd(expected_batch=120 + size)
    game = pairs(learner, planted, 60, forget=range(size))
    phases = learner.phases(120 + size)
    exact = accounting.group_epsilon(phases, 1e-5, size)
    own = accounting.spent(phases, 1e-5, "rdp").epsilon  # of one example: by the learner's own accountant
    certified = own if size == 1 else exact
    assert game.certificate.epsilon == pytest.approx(certified) and exact <= certified
    assert game.lower_bound(0.99) <= exact
    mu = math.sqrt(phases[0].steps) / phases[0].noise_multiplier  # of one; orthogonal gradients add in quadrature
    assert game.gaussian_estimate() == pytest.approx(accounting.gdp_epsilon(mu * math.sqrt(size), 1e-5), rel=0.35)


def test_control_arm_catches_an_accountant_that_is_told_too_much_noise(planted, monkeypatch):
    """Planted: training at noise multiplier z/20 while the accountant hears z."""
    step = DpSgd._step
    monkeypatch.setattr(DpSgd, "_step", lambda self, *a: step(self, *a[:5], a[5] / 20, a[6]))
    learner = dp_sgd(epsilon=1.0, expected_batch=120)
    game = run_once(learner, planted)
    found = one_run(game.margins, game.included, 1e-5)
    assert found.epsilon > game.single
    assert bread._row("x", "x", game.certificate, found.epsilon, math.nan, 1, 1)[-1]  # a group of 24: no contradiction


def test_games_are_reproducible(planted):
    state = torch.get_rng_state()
    learner = OutputPerturbation(**SHARED)
    first, second = (pairs(learner, planted, 50) for _ in range(2))
    assert np.array_equal(first.forgotten, second.forgotten) and np.array_equal(first.never, second.never)
    assert not np.array_equal(first.forgotten, first.never)
    other = pairs(OutputPerturbation(**SHARED, seed=1), planted, 50)
    assert not np.array_equal(first.forgotten, other.forgotten)
    assert torch.equal(torch.get_rng_state(), state) and not hasattr(learner.state, "examples")
    assert seeding.generator(0, "coins").initial_seed() == seeding.generator(0, "coins").initial_seed()
