"""Every method, audit and learner on every network of the table: it works, or refuses in one line."""

import contextlib
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import ALL, IDS, Case, refused
from small import asked, ingredients, same, state

import unlearnlib as ul
from unlearnlib import audit, private
from unlearnlib.approximate.amnesiac import fit_recording
from unlearnlib.audit.evidence.canaries import input_gradients
from unlearnlib.exact import Sisa
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.training import accuracy, fit, models, predict
from unlearnlib.training.recipe import Recipe

TINY = Recipe(epochs=1, batch_size=16, lr=1e-3)
METHODS = sorted(HOMES)
QUICK = {
    "noise": {"steps": 3, "pictures": 8},
    "inversion": {"steps": 3, "pictures": 2, "inversion_steps": 3},
    "recall": {"rounds": 2, "pictures": 4, "recall_steps": 2, "forget_pictures": 2, "inversion_steps": 2},
    "gkt": {"rounds": 2, "threshold": 1.0, "batch_size": 16},
    "influence": {"iterations": 3},
    "newton": {"iterations": 3},
    "pbrf": {"steps": 3},
    "retrain": {"recipe": TINY},
    "dlfd": {"noise_steps": 2, "batch_size": 16, "patience": 1, "threshold": 0.0},
}


def quick(name: str) -> dict:
    known = {"epochs": 1, "batch_size": 16}
    config = registry.configure(name)
    return QUICK.get(name) or {k: v for k, v in known.items() if hasattr(config, k)}


PARTICULAR = ("ct", "cfw", "msg")  # they change convolutions or inner layers, and say so where there are none


@contextlib.contextmanager
def expected(case: Case, particular: bool = False):
    """Fails where a case that all must take is refused, or one that all must refuse is taken."""
    try:
        yield
    except Exception as error:
        assert case.takes != "all" or particular and "this network has none" in str(error), f"refused: {error}"
        refused(error)
    else:
        assert case.takes != "none", "taken, although its answers are no logits"


@pytest.mark.parametrize("case", ALL, ids=IDS)
@pytest.mark.parametrize("name", METHODS)
def test_methods(name, case):
    model, parts, options = case.network(), asked(name, case.split()), quick(name)
    if name == "amnesiac":  # it takes the record of its own training
        try:
            model, options["record"] = fit_recording(model, parts.train, TINY, progress=False)
        except ValueError as error:
            assert case.takes != "all", f"refused: {error}"
            return refused(error)
    before, modes, rng = state(model), [m.training for m in model.modules()], torch.get_rng_state()
    with expected(case, name in PARTICULAR):
        done = ul.unlearn(name, model, parts, seed=0, **options, **ingredients(name, parts))
        after = state(done.model)
        assert after.keys() == before.keys() and {k: v.dtype for k, v in after.items()} == {
            k: v.dtype for k, v in before.items()
        }
        assert all(torch.isfinite(v).all() for v in after.values() if v.is_floating_point())
        assert torch.isfinite(predict(done.model, parts.test)).all()
        assert done.cost.work > 0
    # taken or refused: the model that was given, and the caller's random numbers, are as they were
    assert same(state(model), before) and [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_training_and_prediction(case):
    model, parts = case.network(), case.split()
    before = state(model)
    with expected(case):
        trained = fit(model, parts.train, TINY, seed=0)
        assert predict(trained, parts.test).shape == (len(parts.test), 3)
        again = fit(trained, parts.train, TINY, seed=0)  # a second request, on our own result
        assert torch.isfinite(predict(again, parts.test)).all()
    assert same(state(model), before)


def _rung(name: str, model, parts, other):
    more = {"relearning": audit.Relearning(1e-3, 2, 4, 8)} if name == "relearn" else {}
    rows = audit.battery(model, parts, oracles=[other, model], originals=[other], rungs=[name], **more)
    return rows["value"][rows["valid_flag"]].to_numpy(float)


def _losses(model, parts) -> list[np.ndarray]:
    return [-audit.margin(predict(model, part), part.labels) for part in (parts.train, parts.test)]


@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_the_battery(case):
    model, parts = case.network(), case.split()
    before = state(model)
    with expected(case):
        oracles = [case.network(), case.network()]
        rows = audit.battery(model, parts, oracles=oracles)
        valid = rows[rows["valid_flag"]]
        assert len(valid) and np.isfinite(valid["value"]).all()
    assert same(state(model), before)


# Each audit by itself: of one model, in its ways to be asked, or of its answers.
AUDITS = {
    **{rung: functools.partial(_rung, rung) for rung in audit.RUNGS if rung not in ("cost", "ensemble")},
    "relearn curve": lambda m, p, o: audit.relearn_curve(m, p.forget, 2, lr=1e-3, batch_size=4, seed=0),
    "relearn time": lambda m, p, o: [
        audit.relearn_time(m, p.forget, 0.0, lr=1e-3, batch_size=4, seed=0, max_steps=2).steps
    ],
    "input gradients": lambda m, p, o: input_gradients(m, p.forget.pixels(), p.forget.labels),
    "features": lambda m, p, o: models.features(m, p.forget.pixels()),
    "weight distance": lambda m, p, o: [audit.distances.weight_distance(m, o)],
    "accuracy": lambda m, p, o: [accuracy(m, p.test)],
    "interclass confusion": lambda m, p, o: [
        audit.interclass_confusion(predict(m, p.test), p.test.labels, (0, 1)).rate
    ],
    "mislabelled": lambda m, p, o: [
        audit.mislabelled_exposure(predict(m, p.forget), p.forget.labels, (p.forget.labels + 1) % 3).mean
    ],
    "one run": lambda m, p, o: [
        audit.one_run(audit.margin(predict(m, p.test), p.test.labels), np.arange(60) < 30).epsilon
    ],
    "loss attack": lambda m, p, o: [audit.loss_attack(*_losses(m, p), seed=0).accuracy],
    "two-sided attack": lambda m, p, o: [audit.two_sided_attack(*_losses(m, p), seed=0).auc],
    "epsilon": lambda m, p, o: [audit.epsilon_from_scores(*_losses(m, p))],
}


WITHOUT_LOGITS = {"features", "weight distance"}  # these do not ask what a network answers


@pytest.mark.parametrize("case", ALL, ids=IDS)
@pytest.mark.parametrize("name", AUDITS)
def test_audits(name, case):
    model, parts = case.network(), case.split()
    before, modes, rng = state(model), [m.training for m in model.modules()], torch.get_rng_state()
    with expected(replace(case, takes="some") if name in WITHOUT_LOGITS and case.takes == "none" else case):
        found = AUDITS[name](model, parts, case.network())
        assert np.isfinite(np.asarray(torch.as_tensor(found).detach().cpu().double())).all() and len(found)
    assert same(state(model), before) and [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)


LEARNERS = {
    "sisa": lambda case: Sisa(lambda seed: case.network(), TINY, shards=2, slices=1, seed=0),
    "dpsgd": lambda case: private.DpSgd(case.network(), epochs=1, expected_batch=16, noise_multiplier=1.0),
    "noisy fine-tuning": lambda case: private.NoisyFineTuning(
        lambda examples: fit(case.network(), examples, TINY, seed=0), epsilon=5.0, delta=1e-2, steps=2, batch_size=16
    ),
    "rewind-to-delete": lambda case: private.RewindToDelete(
        case.network(), steps=4, rewound=2, step_size=1e-3, capacity=2, smoothness=50.0, gradient_bound=50.0
    ),
}


@pytest.mark.parametrize("case", ALL, ids=IDS)
@pytest.mark.parametrize("name", LEARNERS)
def test_learners_that_take_a_network(name, case):
    parts = case.split()
    private_learner = name != "sisa"  # examples must not be mixed, so a batch norm is refused
    with expected(replace(case, takes="some") if private_learner and case.takes == "all" else case):
        learner = LEARNERS[name](case)
        learner.fit(parts.train)
        learner.forget([0, 3])
        logits = torch.as_tensor(learner.logits(parts.test.images))
        assert len(logits) == len(parts.test) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", [n for n in LEARNERS if n != "sisa"])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "group norm", "layer norm", "residual"])
def test_private_learners_take_every_network_without_batch_norm(name, kind):
    (case,) = (case for case in ALL if case.name == kind)
    learner = LEARNERS[name](case)
    learner.fit(case.split().train)
    assert torch.isfinite(torch.as_tensor(learner.logits(case.split().test.images))).all()
