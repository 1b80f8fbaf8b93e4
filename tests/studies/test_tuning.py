"""Tuning: what it may see, a planted optimum that is found, equal trials, costs that add up, the same result again."""

import dataclasses
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from unlearnlib import data, training
from unlearnlib.data.examples import Examples, Split
from unlearnlib.methods import registry
from unlearnlib.methods.catalogue import HOMES
from unlearnlib.studies import settings, tuning
from unlearnlib.studies.runs import Grid, run
from unlearnlib.studies.settings import Setting
from unlearnlib.studies.tuning import Bench, Score, objective, tuned
from unlearnlib.training.loop import Diverged, Tally
from unlearnlib.training.recipe import Recipe

SETTING = Setting("digits", "mlp", recipe=Recipe(epochs=1, lr=5e-3), model_options={"hidden": (8,)}, label_noise=0.2)
BENCH = Bench(SETTING)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path))
    for remembered in (tuning._development, tuning._original):
        remembered.cache_clear()


@dataclass(frozen=True)
class Dial:
    dial: float = 0.9
    whole: int = 1


@pytest.fixture
def dialled(monkeypatch):
    """A method whose objective is known: (dial - 0.3)^2."""

    def dialling(model, split, config, run):
        run.tally.gradient_evaluations += 100 * config.whole
        model.dial = config.dial
        return model

    search = {"dial": (0.0, 1.0), "whole": (1, 3)}
    made = registry.Method(
        "dialled", "toy", "retain", "none", "none", dialling, Dial, cost="100 * whole", search=search
    )
    monkeypatch.setitem(registry._registered, "dialled", made)
    monkeypatch.setattr(tuning, "objective", lambda model, *_: Score((getattr(model, "dial", 0.3) - 0.3) ** 2, 0.0))


def test_a_planted_optimum_is_found_and_the_defaults_come_first(dialled):
    found = tuned(BENCH, "dialled", trials=24)
    assert abs(found.hyperparameters["dial"] - 0.3) < 0.05 and found.best.value < 0.0025
    assert dict(found.trials[0].hyperparameters) == {"dial": 0.9, "whole": 1}
    assert found.trials[0].value == pytest.approx(0.36)
    assert found.best.value == min(trial.value for trial in found.trials)


def test_trials_are_equal_and_all_of_them_are_charged(dialled):
    found = [tuned(BENCH, name, trials=3) for name in ("dialled", "finetune", "neggrad")]
    assert [len(f.trials) for f in found] == [3, 3, 3] == [len(f.table()) for f in found]
    split, recipe = BENCH.split(0), SETTING.recipe
    train, retain = (64 * (len(part) // 64) * recipe.epochs for part in (split.train, split.retain_index))
    tally = Tally()
    training.fit(SETTING.network(), split.train, recipe, tally=tally)
    assert BENCH.original_cost() == 3 * train == tally.work and BENCH.retrain_cost() == 3 * retain
    spent = 100 * sum(dict(t.hyperparameters)["whole"] for t in found[0].trials)
    assert found[0].cost == (3 * spent + 3 * train) / (3 * retain)
    passes = sum(dict(t.hyperparameters)["epochs"] for t in found[1].trials)
    assert found[1].cost == pytest.approx((passes * 64 * (len(split.retain_index) // 64) + train) / retain)
    assert found[1].row() == ("finetune, tuned", "finetune", found[1].hyperparameters, 3)


def test_several_development_splits_are_averaged_and_charged():
    bench = Bench(SETTING, seeds=2)
    trial = tuning.tried(bench, "finetune", epochs=1)
    alone = [tuning._one(bench, k, "finetune", {"epochs": 1}) for k in (0, 1)]
    assert trial.value == pytest.approx(sum(a["unlike"] + a["damage"] for a in alone) / 2)
    assert alone[0]["unlike"] != alone[1]["unlike"]
    assert trial.work == sum(a["work"] for a in alone)


class Guarded:
    """A split of which only the retained pictures may be read."""

    def __init__(self, split: Split, images: torch.Tensor):
        self.train = replace(split.train, images=images)
        self.retain_index = split.retain_index

    def __getattr__(self, name):
        raise AssertionError(f"tuning looked at {name}")


def test_the_unit_of_cost_is_one_retraining_on_one_development_split():
    costs = [Bench(SETTING, seeds=n).retrain_cost() for n in (1, 3)]
    assert costs[0] == 3 * training.steps_of(len(BENCH.split(0).retain_index), SETTING.recipe) * 64 == costs[1]


def test_a_search_space_says_which_numbers_are_on_a_logarithmic_scale():
    space = tuning.distributions("scrub")
    assert space["lr"].log and not space["alpha"].log and (space["lr"].low, space["lr"].high) == (1e-3, 1e-1)


def test_only_the_retained_pictures_are_read(monkeypatch):
    """The test, validation and forget parts raise where they are touched; other forgotten pictures change nothing."""
    split, found = SETTING.split(), []
    monkeypatch.setattr(settings, "retraining", lambda *_: pytest.fail("tuning retrained a reported model"))
    monkeypatch.setattr(settings, "original", lambda *_: pytest.fail("tuning used a reported original"))
    for fill in (0, 255):
        images = split.train.images.clone()
        images[split.forget_index] = fill
        monkeypatch.setattr(Setting, "split", lambda self, images=images: Guarded(split, images))
        for remembered in (tuning._development, tuning._original):
            remembered.cache_clear()
        found.append(tuned(BENCH, "neggrad_plus", trials=2))
        inside = {row.numpy().tobytes() for row in split.train.images[split.retain_index]}
        mine = BENCH.split(0)
        assert mine.test is None
        assert all(row.numpy().tobytes() in inside for part in (mine.train, mine.validation) for row in part.images)
    assert found[0] == found[1]


def test_no_development_seed_is_a_seed_of_a_reported_model(monkeypatch):
    seeds, run = [], registry.unlearn
    monkeypatch.setattr(registry, "unlearn", lambda *a, seed, **o: seeds.append(seed) or run(*a, seed=seed, **o))
    fit = tuning.fit
    monkeypatch.setattr(tuning, "fit", lambda m, e, r, seed, **o: seeds.append(seed) or fit(m, e, r, seed, **o))
    tuning.tried(Bench(SETTING, seeds=2), "finetune", epochs=1)
    reported = [settings.seed_of(role, seed) for role in settings.ROLES for seed in (0, settings._RANGE - 1)]
    assert len(seeds) == 4 and min(seeds) > max(reported)


def test_settings_that_are_fixed_hold_in_every_trial():
    found = tuned(BENCH, "unsir", trials=2, fixed={"whole_classes": False, "lr": 0.005})
    tried = [dict(trial.hyperparameters) for trial in found.trials]
    assert [(t["whole_classes"], t["lr"]) for t in tried] == [(False, 0.005)] * 2
    assert tried[0]["repair_lr"] == registry.configure("unsir").repair_lr != tried[1]["repair_lr"]
    with pytest.raises(ValueError, match="did you mean 'noise_lr'"):
        tuned(BENCH, "unsir", trials=1, fixed={"noise_rl": 1.0})


def test_the_same_again_and_nothing_is_made_twice(monkeypatch):
    first = tuned(BENCH, "random_labels", trials=4)
    assert tuned(BENCH, "random_labels", trials=4, seed=1) != first
    monkeypatch.setattr(registry, "unlearn", lambda *_, **__: pytest.fail("made twice"))
    assert tuned(BENCH, "random_labels", trials=4) == first
    monkeypatch.undo()
    monkeypatch.setenv("UNLEARN_CACHE", "off")
    assert tuned(BENCH, "random_labels", trials=4) == first


class Table(nn.Module):
    """Answers with row `pixel` of a table of logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float32))

    def forward(self, x):
        return self.logits[x.flatten().long()]


def part(rows, labels) -> Examples:
    return Examples(torch.tensor(rows, dtype=torch.float32)[:, None, None, None], torch.tensor(labels))


def test_the_objective_in_closed_form():
    odds = torch.tensor([3.0, 1.0]).log()  # probabilities 3/4 and 1/4
    original, candidate = Table([odds.tolist()] * 3), Table([odds.tolist(), odds.flip(0).tolist(), [0.1, 0.0]])
    split = Split.of(retain=part([0, 1], [0, 1]), forget=part([0, 0], [0, 0]), validation=part([0, 1, 0], [0, 0, 1]))
    score = objective(candidate, original, split)
    # Of validation only class 0 counts, as in F: one right at 3/4, one wrong at 1/4. F is right, at 3/4.
    assert score.unlike == pytest.approx((0.5 + 0.25) / 2)
    assert score.damage == pytest.approx((1 / 2 + 0) / 2)  # of class 0 one of two is lost; class 1 never was right
    assert objective(original, original, split) == Score(pytest.approx(0.0), 0.0)
    assert objective(original, candidate, split).damage == 0  # what is mended is no credit
    worse = Table([odds.flip(0).tolist(), odds.tolist(), odds.tolist()])  # F is known less well than V
    assert objective(worse, original, split).unlike == pytest.approx((0.5 + 0.25) / 2)


def test_a_constant_answer_pays_for_the_rare_class():
    """Nine pictures of ten show class 0: to answer 0 always loses a tenth of accuracy, but one of two classes."""
    original, constant = Table([[9.0, 0.0], [0.0, 9.0]]), Table([[9.0, 0.0], [9.0, 0.0]])
    some = part([0] * 9 + [1], [0] * 9 + [1])
    score = objective(constant, original, Split.of(retain=some, forget=some, validation=some))
    assert score.unlike == pytest.approx(0.0) and score.damage == pytest.approx(0.5)


def test_retraining_scores_better_than_the_original():
    """To a model that never saw F, F and V differ by chance only: about 0.04 with 116 pictures in F."""
    setting = replace(SETTING, recipe=Recipe(epochs=30, lr=1e-2), model_options={"hidden": (256,)})
    bench, before, after = Bench(setting, seeds=2), [], []
    for k in range(bench.seeds):
        split, original = bench.split(k), bench.original(k)
        retrained = training.fit(setting.network(5), split.retain, setting.recipe, 5)
        before.append(objective(original, original, bench.judged(k)).unlike)
        after.append(objective(retrained, original, bench.judged(k)).unlike)
    assert min(before) > 0.1 and sum(after) < sum(before) / 3


def test_a_run_that_diverges_is_the_worst_and_is_paid(dialled, monkeypatch):
    def diverging(*_):
        raise Diverged("head.weight is not finite")

    made = replace(registry.find("dialled"), function=diverging)
    monkeypatch.setitem(registry._registered, "dialled", made)
    trial = tuning.tried(BENCH, "dialled", whole=2)
    assert trial.value == tuning.WORST and trial.work == 200 and "not finite" in trial.reason


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, torch.linalg.LinAlgError])
def test_numbers_that_allow_no_result_are_the_worst_trial_and_tuning_goes_on(dialled, monkeypatch, error):
    def failing(model, split, config, run):
        if config.dial > 0.5:
            raise error("the Hessian is not positive:\n raise damping")
        model.dial = config.dial
        return model

    monkeypatch.setitem(registry._registered, "dialled", replace(registry.find("dialled"), function=failing))
    found = tuned(BENCH, "dialled", trials=8)
    failed = [trial for trial in found.trials if trial.reason]
    assert failed[0] is found.trials[0] and len(failed) < 8, "the default fails, some other does not"
    assert all(trial.value == tuning.WORST for trial in failed) and found.best.value < 0.05
    assert failed[0].reason.endswith("the Hessian is not positive: raise damping")


def test_newton_and_influence_by_the_whole_hessian_are_tuned():
    hessian = {"kind": "hessian", "iterations": 3}
    for name, fixed in (("newton", hessian), ("influence", hessian), ("influence", {**hessian, "solver": "dense"})):
        found = tuned(BENCH, name, trials=2, fixed=fixed)
        assert len(found.trials) == 2
        assert all(trial.value < tuning.WORST or trial.reason for trial in found.trials)


def test_what_a_method_reads_and_what_the_objective_scores_are_disjoint(dialled, monkeypatch):
    read, scored = [], []

    def reading(model, split, config, run):
        read.append(split)
        return model

    monkeypatch.setitem(registry._registered, "dialled", replace(registry.find("dialled"), function=reading))
    monkeypatch.setattr(tuning, "objective", lambda model, original, split: scored.append(split) or Score(0.0, 0.0))
    tuning.tried(Bench(SETTING, seeds=2), "dialled")

    def rows(part):
        return [image.numpy().tobytes() for image in part.images]

    assert len(read) == len(scored) == 2
    for given, judged in zip(read, scored, strict=True):
        seen = {*rows(given.train), *rows(given.validation)}
        assert len(given.validation) and not seen & set(rows(judged.validation)) and given.test is judged.test is None
        assert rows(judged.forget) == rows(given.forget)
        assert len(judged.validation) == pytest.approx(2 * len(given.validation), abs=6)
        assert set(given.validation.labels.tolist()) == set(judged.validation.labels.tolist()) == set(range(10))


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(ValueError, match="not for whole classes"):
        tuned(Bench(SETTING, request="class:3"), "finetune")
    with pytest.raises(ValueError, match="amnesiac declares nothing to search"):
        tuned(BENCH, "amnesiac")
    with pytest.raises(ValueError, match="at least one trial"):
        tuned(BENCH, "finetune", trials=0)
    with pytest.raises(ValueError, match="at least one development split"):
        Bench(SETTING, seeds=0)


@pytest.mark.parametrize("name", HOMES)
def test_search_spaces_hold_the_defaults_and_published_values_are_valid(name):
    found = registry.find(name)
    registry.configure(name, **found.published)
    if found.search:
        defaults = registry.configure(name)
        for knob, distribution in tuning.distributions(name).items():
            assert distribution._contains(getattr(defaults, knob)), knob
        assert {f.name for f in dataclasses.fields(found.config)} >= set(found.search)


def test_a_study_names_tuned_rows():
    found = tuned(BENCH, "finetune", trials=2)
    rows = run(Grid(SETTING, ["finetune", found.row()], seeds=(0, 1), rungs=("utility", "cost")))
    assert set(rows[rows["method"] == "finetune, tuned"]["tuned_trials"]) == {2.0}
    assert rows[rows["method"] != "finetune, tuned"]["tuned_trials"].isna().all()


def test_a_subset_is_stratified_and_the_same_for_all():
    ds, again, whole = data.load("digits", n=300, n_test=100), data.load("digits", n=300), data.load("digits")
    assert (len(ds.train), len(ds.test), len(again.test)) == (300, 100, len(whole.test))
    assert ds.train.checksum() == again.train.checksum()
    shares = whole.train.labels.bincount() * 300 / len(whole.train)
    assert ((ds.train.labels.bincount() - shares).abs() < 1).all()
    with pytest.raises(ValueError, match="ask for between 1 and that, not 99999"):
        data.load("digits", n=99999)


def test_of_equal_trials_the_first_is_best():
    trials = tuple(tuning.Trial((("lr", lr),), 0.5, 0.5, 0.0, 1.0) for lr in (3.0, 1.0, 2.0))
    assert tuning.Tuned("finetune", trials, 1.0, 1.0).hyperparameters == {"lr": 3.0}


def test_trials_are_taught_as_the_original_was(monkeypatch):
    seen, unlearn = [], registry.unlearn
    monkeypatch.setattr(registry, "unlearn", lambda *args, **more: seen.append(more) or unlearn(*args, **more))
    bench = Bench(replace(SETTING, recipe=Recipe(epochs=1, lr=5e-3, label_smoothing=0.1)))
    tuning.tried(bench, "finetune", epochs=1)
    tuning.tried(bench, "finetune", epochs=1, label_smoothing=0.2)
    assert [more["label_smoothing"] for more in seen] == [0.1, 0.2]
