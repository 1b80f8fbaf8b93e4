"""The bug ledger: its code is run, its numbers are computed, its tests exist, and our methods lack its defects."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small import dataset, split, state

import unlearnlib as ul
from unlearnlib import data, training
from unlearnlib.approximate import unsir
from unlearnlib.audit.attacks.membership import modified_entropy
from unlearnlib.training import models
from unlearnlib.training.loop import Tally
from unlearnlib.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "bug-ledger.md").read_text()
ENTRIES = [part for part in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]]
EFFECT = re.compile(r"\*\*Effect\.\*\* Released form: ([\d.]+)\. Right form: ([\d.]+)\.")


def title(entry):
    return entry.partition("\n")[0]


def computed(entry):
    """The names that the entry's code defines."""
    (code,) = re.findall(r"```python\n(.*?)```", entry, flags=re.DOTALL)
    space = {}
    with torch.random.fork_rng():
        exec(compile(code, title(entry), "exec"), space)
    return space


def entry(name):
    return next(e for e in ENTRIES if title(e) == name)


def printed(number):
    """A number as it stands on the page, and half a unit of its last digit."""
    return float(number), 0.5 * 10.0 ** -len(number.partition(".")[2])


def test_every_entry_has_its_parts():
    assert len(ENTRIES) >= 18 and len(set(map(title, ENTRIES))) == len(ENTRIES)
    for e in ENTRIES:
        for part in ("**Where.**", "**What.**", "```python", "**Effect.**", "**Our test.**"):
            assert part in e, (title(e), part)


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # the defect itself: torch warns of it
@pytest.mark.parametrize("e", ENTRIES, ids=title)
def test_numbers_on_the_page(e):
    space = computed(e)
    for name, number in zip(("released", "right"), EFFECT.search(e).groups(), strict=True):
        value, unit = printed(number)
        assert abs(float(space[name]) - value) <= unit * 1.0001, f"{name}: {float(space[name])!r} is not {number}"


def test_other_numbers_in_the_text():
    space = computed(entry("Modified entropy"))
    assert -(space["weight"] * space["logs"]).sum(1)[1] == pytest.approx(2.3472, abs=5e-5)
    assert modified_entropy(space["p"], space["y"])[1] == pytest.approx(0.0657, abs=5e-5)
    assert computed(entry("The target among its own shadow models"))["faked"] == pytest.approx(
        [0.68, 0.62, 0.59, 0.56], abs=0.01
    )
    assert 0.5195618153364632 == 332 / 639  # to the last bit
    assert 512 * 10 + 10 == 5130  # the head of a ResNet-18 with ten classes


def test_the_tests_that_the_page_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) == len(ENTRIES)
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), (file, name)


# what our own methods do instead


@pytest.fixture(scope="module")
def trained():
    parts = split()
    return training.fit(
        models.build("mlp", dataset(), hidden=(16,)), parts.train, Recipe(epochs=3, batch_size=16)
    ), parts


def test_scrub_moves_the_student_and_not_the_teacher(trained):
    model, parts = trained
    before = state(model)
    student = ul.unlearn("scrub", model, parts, seed=0, epochs=1, forget_epochs=0).model
    assert all(torch.equal(v, before[k]) for k, v in state(model).items())
    assert all(not torch.equal(p, before[k]) for k, p in student.named_parameters())
    # the teacher's divergence is there: with a heavy weight it holds the student back
    pixels = parts.retain.pixels()
    away = []
    for alpha in (0.0, 20.0):
        student = ul.unlearn("scrub", model, parts, seed=0, epochs=3, forget_epochs=0, alpha=alpha, lr=1e-2).model
        with torch.no_grad():
            logs = [net(pixels).log_softmax(1) for net in (student, model)]
        away.append(float(F.kl_div(*logs, log_target=True, reduction="batchmean")))
    assert 0 < away[1] < 0.5 * away[0]


def test_dlfd_moves_penultimate_features(trained):
    model, parts = trained
    pixels = parts.retain.pixels()
    with models.FeatureTap(model, pixels) as tap, torch.no_grad():
        logits, features = tap(pixels)
    assert logits.shape[1] == 3 and features.shape[1] == 16
    assert torch.allclose(F.linear(features, model[-1].weight, model[-1].bias), logits, atol=1e-6)


def test_salun_leaves_masked_weights_bit_identical(trained):
    model, parts = trained
    fields = ul.registry.find("salun").config.__dataclass_fields__
    decay = {"weight_decay": 0.1} if "weight_decay" in fields else {}
    after = ul.unlearn("salun", model, parts, seed=0, fraction=0.25, epochs=3, **decay).model
    pairs = [(p, after.get_parameter(k)) for k, p in model.named_parameters()]
    moved = sum(int((a != b).sum()) for a, b in pairs)
    total = sum(a.numel() for a, _ in pairs)
    assert 0 < moved <= math.ceil(0.25 * total)


def test_unsir_uses_every_noise_image(trained):
    model, _ = trained
    whole = data.split(dataset(), forget="class:1", seed=0)
    config = unsir.Unsir(noise_images=24, noise_steps=2)
    run = ul.registry.Run(0, tally=Tally())
    kept = whole.retain_index[:10]
    both = unsir.impairing_set(model, whole, kept, config, run)
    noise = both.images[10:]
    assert len(noise) == 24 and len({tuple(x.flatten().tolist()) for x in noise}) == 24
    assert (both.labels[10:] == 1).all() and torch.equal(both.labels[:10], whole.train.labels[kept])


def test_distillation_is_a_sum_over_classes():
    """One step of SGD on the soft loss alone moves a linear model's bias by lr times mean(q - p), not that over C."""
    parts = split()
    model = models.build("mlp", dataset(), hidden=())
    soft = torch.softmax(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), 1)
    index = torch.arange(8)
    batch = training.Batch(index, parts.train.labels[index], torch.zeros(8), soft, torch.full((8,), 1 / 8))
    recipe = Recipe(optimiser="sgd", momentum=0.0, weight_decay=0.0, lr=0.5, schedule="constant")
    before = training.predict(model, parts.train[index]).softmax(1)
    student = training.descend(copy.deepcopy(model), parts.train, [batch], recipe, 1, seed=0)
    step = student[-1].bias - model[-1].bias
    assert torch.allclose(step, 0.5 * (soft - before).mean(0), atol=1e-6)
