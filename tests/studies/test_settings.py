"""Models by name: what the cache returns is what the library would compute, and only equal things share an address."""

from dataclasses import dataclass, replace

import pytest
import torch
from small import same, state

from unlearnlib import training, unlearn
from unlearnlib.approximate import dose
from unlearnlib.methods import registry
from unlearnlib.methods.registry import method
from unlearnlib.store import addresses
from unlearnlib.studies import settings
from unlearnlib.studies.settings import (
    NULL,
    RETRAIN,
    Setting,
    original,
    originals,
    retrained,
    retraineds,
    seed_of,
    unlearned,
)
from unlearnlib.training.recipe import Recipe

TINY = Recipe(epochs=1, batch_size=64, lr=5e-3)
SETTING = Setting("digits", "mlp", recipe=TINY, model_options={"hidden": [16]})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "cache"))


def test_each_model_is_the_library_call_of_the_same_name():
    split = SETTING.split()
    for _ in ("made", "read again"):
        by_hand = training.fit(SETTING.network(3), split.train, TINY, seed=3)
        assert same(state(original(SETTING, 3)), state(by_hand))
        done = unlearn("finetune", by_hand, split, seed=seed_of("unlearning", 3), epochs=1)
        found = unlearned(SETTING, "finetune", 3, epochs=1)
        assert same(state(found.model), state(done.model)) and found.model.training == done.model.training
        assert (found.config, found.method, found.seed) == (done.config, "finetune", done.seed)
        assert found.cost.gradient_evaluations == done.cost.gradient_evaluations > 0
        oracle = unlearn("retrain", SETTING.network(), split, seed=seed_of(RETRAIN, 3), recipe=TINY)
        assert same(state(retrained(SETTING, 3)), state(oracle.model))
        found = unlearned(SETTING, "retrain", 3)
        assert same(state(found.model), state(oracle.model)) and found.certificate == oracle.certificate
        assert found.cost.gradient_evaluations == oracle.cost.gradient_evaluations


def test_methods_teach_with_the_augmentation_and_labels_of_the_originals_recipe():
    setting = replace(SETTING, recipe=replace(TINY, augment="shift", label_smoothing=0.1))
    asked = {"augment": "shift", "label_smoothing": 0.1}
    found = unlearned(setting, "finetune", 0, epochs=1)
    start = {"model": original(setting, 0), "split": setting.split(), "seed": seed_of("unlearning", 0)}
    assert same(state(found.model), state(unlearn("finetune", **start, epochs=1, **asked).model))
    assert (found.config.augment, found.config.label_smoothing) == ("shift", 0.1)
    plain = unlearned(setting, "finetune", 0, epochs=1, augment="none")  # what is said counts
    expected = unlearn("finetune", **start, epochs=1, label_smoothing=0.1)
    assert same(state(plain.model), state(expected.model)) and not same(state(plain.model), state(found.model))
    published = registry.find("scrub").published  # authors' values stay the authors'
    assert settings.taught(setting, "scrub", published) == published
    assert settings.taught(setting, "ssd", {"alpha": 3.0}) == {"alpha": 3.0}
    with_, without = ({"augment": kind, "label_smoothing": 0.1, "epochs": 1} for kind in ("shift", "none"))
    addresses_of = [settings.address_of_unlearned(setting, "finetune", 0, **h) for h in (with_, without, {"epochs": 1})]
    assert addresses_of[0] == addresses_of[2] != addresses_of[1]


def test_a_model_that_is_handed_out_is_the_callers_own():
    first = original(SETTING, 0)
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert not same(state(first), state(original(SETTING, 0)))


def test_seeds_of_different_roles_never_meet():
    seen = {seed_of(role, seed) for role in settings.ROLES for seed in (0, 1, 999_999)}
    assert len(seen) == 12 and seed_of("original", 5) == 5
    for seed in (-1, 1_000_000, True):
        with pytest.raises(ValueError, match="between 0 and 999999"):
            seed_of("original", seed)
    with pytest.raises(ValueError, match="unknown role"):
        seed_of("dress", 0)
    models = [original(SETTING, 0), retrained(SETTING, 0), retrained(SETTING, 0, other=True), retrained(SETTING, 1)]
    first = [next(p for p in model.parameters() if p.dim() == 2) for model in models]
    for i, a in enumerate(first):
        for b in first[:i]:
            assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 0.5  # another initialisation


def test_equal_settings_are_equal_however_they_are_written():
    again = Setting("digits", "mlp", recipe=TINY, model_options=(("hidden", (16,)),))
    assert again == SETTING and hash(again) == hash(SETTING) and again.split() is SETTING.split()
    assert Setting("digits", "mlp").recipe.epochs > 0


def test_addresses_follow_what_a_model_depends_on_and_nothing_else(monkeypatch):
    def three(setting, seed=0):
        return (
            settings.address_of_original(setting, seed),
            settings.address_of_retrained(setting, seed),
            settings.address_of_unlearned(setting, "finetune", seed),
        )

    base = three(SETTING)
    assert base == three(replace(SETTING))
    # Another request, the same validation set: the original is shared, nothing else is.
    other = three(replace(SETTING, forget="random:0.2"))
    assert other[0] == base[0] and other[1] != base[1] and other[2] != base[2]
    changes = {
        "recipe": replace(TINY, lr=1e-3),
        "label_noise": 0.1,
        "split_seed": 1,
        "model_options": {"hidden": (17,)},
        "forget": "mislabelled:0.1",
    }
    for name, value in changes.items():
        changed = three(replace(SETTING, **{name: value}))
        assert all(new != old for new, old in zip(changed, base, strict=True)), name
    assert all(new != old for new, old in zip(three(SETTING, seed=1), base, strict=True))
    assert base[1] != settings.address_of_retrained(SETTING, 0, NULL)
    # Writing a default out changes nothing; another value does, and so does another method of equal values.
    epochs = registry.configure("finetune").epochs
    assert settings.address_of_unlearned(SETTING, "finetune", 0, epochs=epochs) == base[2]
    assert settings.address_of_unlearned(SETTING, "finetune", 0, epochs=epochs + 1) != base[2]
    assert settings.address_of_unlearned(SETTING, "random_labels", 0) != base[2]
    for name, value in (("numerics", {"device": "another"}), ("versions", {"torch": "0"}), ("code", {"a": "0"})):
        with monkeypatch.context() as patch:
            patch.setattr(addresses, name, lambda *_, value=value: value)
            assert all(new != old for new, old in zip(three(SETTING), base, strict=True)), name


def test_an_address_follows_the_code_of_the_parts_that_a_method_takes_along(monkeypatch):
    plain = settings.address_of_unlearned(SETTING, "finetune", 0)
    dosed = settings.address_of_unlearned(SETTING, "finetune", 0, parts=(dose.L2SP(0.1),))
    assert plain != dosed != settings.address_of_unlearned(SETTING, "finetune", 0, parts=(dose.L2SP(0.2),))
    code = addresses.code

    def edited(*modules):
        return {
            name: "edited" if name == "unlearnlib.approximate.dose.losses" else d for name, d in code(*modules).items()
        }

    monkeypatch.setattr(addresses, "code", edited)
    assert settings.address_of_unlearned(SETTING, "finetune", 0) == plain
    assert settings.address_of_unlearned(SETTING, "finetune", 0, parts=(dose.L2SP(0.1),)) != dosed

    class Homemade(training.Part):
        __module__ = "__main__"

    with pytest.raises(addresses.Unkeyable):
        settings.address_of_unlearned(SETTING, "finetune", 0, parts=(Homemade(),))


def test_an_address_follows_what_trains_several_models_where_that_is_done(monkeypatch):
    alone, code = settings.address_of_original(SETTING, 0), addresses.code

    def edited(*modules):
        return {name: "edited" if name == "unlearnlib.training.many" else d for name, d in code(*modules).items()}

    with monkeypatch.context() as patch:
        patch.setattr(addresses, "code", edited)
        assert settings.address_of_original(SETTING, 0) == alone
    monkeypatch.setattr(settings, "stacks", lambda device: True)
    together = settings.address_of_original(SETTING, 0)
    monkeypatch.setattr(addresses, "code", edited)
    assert settings.address_of_original(SETTING, 0) != together


def test_several_models_are_the_same_bits_as_each_alone(monkeypatch):
    alone = [state(original(SETTING, seed)) for seed in (0, 1)]
    assert all(same(a, state(b)) for a, b in zip(alone, originals(SETTING, (0, 1)), strict=True))
    oracles = [state(retrained(SETTING, seed)) for seed in (0, 1)]
    assert all(same(a, state(b)) for a, b in zip(oracles, retraineds(SETTING, (0, 1)), strict=True))
    assert same(state(retraineds(SETTING, (1,), other=True)[0]), state(retrained(SETTING, 1, other=True)))


def test_where_models_are_stacked_they_agree_to_rounding(monkeypatch, tmp_path):
    alone = [*originals(SETTING, (0, 1, 2)), *retraineds(SETTING, (0, 1, 2))]
    cost = unlearned(SETTING, "retrain", 1).cost.gradient_evaluations
    monkeypatch.setattr(settings, "stacks", lambda device: True)
    monkeypatch.setenv("UNLEARN_CACHE", str(tmp_path / "stacked"))
    calls = []
    for module, name in ((settings.many, "fit_many"), (registry, "unlearn_many")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, **k: calls.append(1) or real(*a, **k))
    for _ in ("made", "read again"):
        together = [*originals(SETTING, (0, 1, 2)), *retraineds(SETTING, (0, 1, 2))]
        for a, b in zip(alone, together, strict=True):
            for name, value in a.state_dict().items():
                assert torch.allclose(value, b.state_dict()[name], atol=1e-5), name
    assert len(calls) == 2
    assert unlearned(SETTING, "retrain", 1).cost.gradient_evaluations == cost


def test_without_a_cache_the_models_are_the_same(monkeypatch):
    kept = state(unlearned(SETTING, "finetune", 0, epochs=1).model)
    monkeypatch.setenv("UNLEARN_CACHE", "off")
    assert same(kept, state(unlearned(SETTING, "finetune", 0, epochs=1).model))


@dataclass(frozen=True)
class _Nudge:
    step: float = 0.5


def test_a_method_from_elsewhere_works_and_is_made_anew_each_time():
    # Its code could change without this library knowing.
    calls = []

    @method("nudge", _Nudge, family="test", reads="forget", paper="none")
    def nudge(model, split, config, run):
        calls.append(1)
        with torch.no_grad():
            next(model.parameters()).add_(config.step)
        return model

    try:
        for count in (1, 2):
            done = unlearned(SETTING, "nudge", 0, step=0.25)
            assert len(calls) == count
        assert torch.allclose(next(done.model.parameters()) - 0.25, next(original(SETTING, 0).parameters()))
    finally:
        registry._registered.pop("nudge")


def test_wrong_requests_are_refused_by_name():
    with pytest.raises(ValueError, match="did you mean 'finetune'"):
        unlearned(SETTING, "finetun", 0)
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        unlearned(SETTING, "finetune", 0, epoch=1)
    with pytest.raises(ValueError, match="grammar"):
        replace(SETTING, forget="everything").split()


def test_fast_mode_asks_for_the_accelerator_and_pinned_mode_never(monkeypatch):
    elsewhere = torch.device("meta")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: elsewhere)
    monkeypatch.setenv("UNLEARN_FAST", "1")
    assert settings.device() == elsewhere and settings.stacks(elsewhere)
    monkeypatch.setenv("UNLEARN_FAST", "0")
    assert settings.device() == torch.device("cpu") and not settings.stacks(settings.device())
