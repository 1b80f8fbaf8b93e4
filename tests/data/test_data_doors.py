"""One door for positions and one for pixels, and every learner behind them."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import small
import torch
from torch import nn

from unlearnlib import seeding
from unlearnlib.data import doors
from unlearnlib.data.examples import Examples
from unlearnlib.exact.forest import DareForest
from unlearnlib.exact.kernel import KernelRidge
from unlearnlib.exact.modules import ClassModules
from unlearnlib.exact.naive_bayes import NaiveBayes, NearestMean
from unlearnlib.exact.neighbours import NearestNeighbours
from unlearnlib.exact.ridge import LinearHead, Ridge
from unlearnlib.exact.sisa import Sisa
from unlearnlib.private.certified import CertifiedNewton
from unlearnlib.private.descent import DescentToDelete
from unlearnlib.private.dpsgd import DpSgd
from unlearnlib.private.langevin import Langevin
from unlearnlib.private.noisy_finetuning import NoisyFineTuning
from unlearnlib.private.perturbation import ObjectivePerturbation, OutputPerturbation
from unlearnlib.private.rewind import RewindToDelete
from unlearnlib.training.loop import Diverged
from unlearnlib.training.prediction import predict
from unlearnlib.training.recipe import Recipe

N = 48
DATA, QUERIES = small.examples(N, classes=2), small.examples(30, classes=2, seed=4)


def network(seed: int = 0) -> nn.Module:
    with seeding.isolated(seed, "doors"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 2))


RECIPE = Recipe(epochs=2, batch_size=8, lr=5e-3, schedule="constant")
EXACT = {
    "sisa": lambda: Sisa(network, RECIPE, shards=2, slices=2),
    "modules": lambda: ClassModules(hidden=4, steps=5),
    "forest": lambda: DareForest(n_trees=5),
    "ridge": Ridge,
    "kernel ridge": KernelRidge,
    "naive bayes": NaiveBayes,
    "means": NearestMean,
    "neighbours": NearestNeighbours,
    "head": lambda: LinearHead(network()),
}
PRIVATE = {
    "output": lambda: OutputPerturbation(lam=0.1),
    "objective": lambda: ObjectivePerturbation(lam=0.1),
    "newton": lambda: CertifiedNewton(lam=0.1),
    "descent": lambda: DescentToDelete(lam=0.1),
    "langevin": lambda: Langevin(lam=0.1, burn_in=20),
    "dp-sgd": lambda: DpSgd(network(), epochs=1, expected_batch=12, noise_multiplier=4.0, accountant="rdp"),
    "fine-tuning": lambda: NoisyFineTuning(lambda examples: network(), steps=2),
    "rewind": lambda: RewindToDelete(network(), steps=3, rewound=2, smoothness=50.0, gradient_bound=50.0, capacity=4),
}
LEARNERS = EXACT | PRIVATE


@pytest.fixture(scope="module")
def fitted():
    kept = {}

    def make(name: str):
        if name not in kept:
            kept[name] = LEARNERS[name]().fit(DATA)
        return copy.deepcopy(kept[name])

    return make


NOT_POSITIONS = {
    "whole floats": [1.0, 2.0],
    "a float": [1.7],
    "a float tensor": torch.tensor([1.7]),
    "half": torch.tensor([1.0], dtype=torch.bfloat16),
    "complex": np.array([1 + 0j]),
    "two booleans": [False, True],
    "one boolean": True,
    "a mixture": [True, 3],
    "a long mask": torch.ones(N + 1, dtype=torch.bool),
    "twice": [2, 2],
    "twice, from a tensor": torch.tensor([5, 1, 5]),
    "negative": [-1],
    "too far": [N],
    "far too far": [2**70],
    "unsigned": np.array([2**64 - 1], dtype=np.uint64),
    "empty": [],
    "an empty mask": torch.zeros(N, dtype=torch.bool),
    "two dimensions": torch.tensor([[1], [2]]),
    "ragged": [[1], [2, 3]],
    "text": "3",
    "texts": ["3"],
    "nothing": None,
    "a set": {1, 2},
    "everything": range(N),
    "everything, as a mask": np.ones(N, dtype=bool),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_no_learner_takes_what_is_no_position(name, fitted):
    learner = fitted(name)
    before = learner.logits(QUERIES.images)
    for case, indices in NOT_POSITIONS.items():
        with pytest.raises(ValueError) as error:
            learner.forget(indices)
        assert "\n" not in str(error.value) and len(str(error.value)) < 200, case
    assert torch.equal(learner.logits(QUERIES.images), before)


POSITIONS = [3, 11, 20]
MASK = torch.zeros(N, dtype=torch.bool)
MASK[POSITIONS] = True


@pytest.mark.parametrize("name", LEARNERS)
def test_all_ways_to_name_the_same_positions_do_the_same(name, fitted):
    answers = []
    ways = (POSITIONS, POSITIONS[::-1], np.array(POSITIONS, dtype=np.uint8), pd.Series(POSITIONS), MASK, MASK.tolist())
    for indices in ways:
        learner = fitted(name)
        learner.forget(indices)
        answers.append(learner.logits(QUERIES.images))
        with pytest.raises(ValueError, match="already forgotten"):
            learner.forget(POSITIONS[:1])
    assert all(torch.equal(answers[0], other) for other in answers)


@pytest.mark.parametrize("name", ["sisa", "modules"])
def test_leaving_out_is_checked_like_forgetting(name):
    never = LEARNERS[name]().fit(DATA, without=POSITIONS).logits(QUERIES.images)
    assert torch.equal(LEARNERS[name]().fit(DATA, without=MASK).logits(QUERIES.images), never)
    for case in set(NOT_POSITIONS) - {"empty", "an empty mask"}:
        with pytest.raises(ValueError) as error:
            LEARNERS[name]().fit(DATA, without=NOT_POSITIONS[case])
        assert "\n" not in str(error.value), case


def kinds(examples: Examples) -> dict[str, torch.Tensor]:
    floats = examples.pixels()
    return {"uint8": examples.images, "float32": floats, "float64": floats.double(), "array": floats.numpy()}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_pixels_give_the_same_answer_in_every_type(name, fitted):
    learner = fitted(name)
    expected = learner.logits(QUERIES.images)
    for kind, images in kinds(QUERIES).items():
        assert torch.equal(learner.logits(images), expected), kind
    for kind in (torch.float16, torch.bfloat16):
        low = QUERIES.pixels().to(kind)
        assert torch.equal(learner.logits(low), learner.logits(low.float())), kind


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_pixels_train_the_same_learner_in_every_type(name):
    answers = {}
    for kind in ("uint8", "float32", "float64"):
        learner = LEARNERS[name]().fit(Examples(kinds(DATA)[kind], DATA.labels))
        learner.forget(POSITIONS)
        answers[kind] = learner.logits(QUERIES.images)
    assert torch.equal(answers["uint8"], answers["float32"]) and torch.equal(answers["uint8"], answers["float64"])
    low = DATA.pixels().half()
    half, up = (LEARNERS[name]().fit(Examples(x, DATA.labels)).logits(QUERIES.images) for x in (low, low.float()))
    assert torch.equal(half, up)


NOT_PIXELS = {
    "wide integers": QUERIES.images.long(),
    "booleans": QUERIES.images > 9,
    "complex": QUERIES.pixels() + 0j,
    "nan": torch.full_like(QUERIES.pixels(), torch.nan),
    "infinite": QUERIES.pixels() / 0,
    "another size": QUERIES.images[..., :7],
    "one picture": QUERIES.images[0, 0, 0],
    "text": "cat.png",
    "objects": [None, None],
}
ARE_FEATURES = ("wide integers",)  # exact learners of features take numbers as they are


@pytest.mark.parametrize("name", LEARNERS)
def test_no_learner_answers_for_what_is_no_picture(name, fitted):
    learner = fitted(name)
    for case, images in NOT_PIXELS.items():
        if case in ARE_FEATURES and name in set(EXACT) - {"sisa", "modules", "head"}:
            continue
        with pytest.raises(ValueError) as error:
            learner.logits(images)
        assert "\n" not in str(error.value), case


@pytest.mark.parametrize("name", LEARNERS)
def test_no_pictures_have_no_answers(name, fitted):
    for images in (QUERIES.images[:0], QUERIES.pixels()[:0]):
        answer = fitted(name).logits(images)
        assert answer.shape == (0, 2) and answer.dtype == torch.float32


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_that_is_not_fitted_says_so(name):
    learner = LEARNERS[name]()
    for call in (lambda: learner.forget([0]), lambda: learner.logits(QUERIES.images)):
        with pytest.raises(ValueError, match=r"call fit\(examples\) first"):
            call()
    assert not hasattr(learner, "_networks") and copy.deepcopy(learner) is not learner


@pytest.mark.parametrize("name", LEARNERS)
def test_no_learner_fits_what_are_no_examples(name):
    for bad in (DATA[:0], None, 5, "digits"):
        with pytest.raises(ValueError) as error:
            LEARNERS[name]().fit(bad)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_does_not_touch_the_examples_it_was_given(name):
    given = Examples(DATA.pixels(dtype=torch.float64), DATA.labels)
    before = given.checksum()
    LEARNERS[name]().fit(given).forget(POSITIONS)
    assert given.checksum() == before


PARAMETERS = [
    (Ridge, dict(lam=[math.nan, -1, "a", math.inf, 1e300], n_classes=[0, 1, 2.5], targets=[3])),
    (KernelRidge, dict(lam=[math.nan, 0, "a", math.inf], gamma=[-1, math.nan], kernel=["x"])),
    (NaiveBayes, dict(floor=[0, -1, math.nan, "a"], n_classes=[1, True])),
    (NearestMean, dict(n_classes=["a"])),
    (NearestNeighbours, dict(k=[0, 1.5, "a"], smoothing=[0, -1, math.nan])),
    (DareForest, dict(n_trees=[0, 1.5], n_thresholds=[256, 2.5], max_depth=[25, 2.5], min_leaf=[math.nan, 0])),
    (DareForest, dict(smoothing=[0, math.nan], occurrence=[0, math.nan, 2], max_features=[True, math.nan, 0])),
    (ClassModules, dict(hidden=[1.5], lr=[math.nan, 0], steps=["a"], batch_size=[0])),
    (lambda **o: Sisa(network, RECIPE, **o), dict(shards=[0, 1.5, 1000], slices=["a"], workers=[-1])),
    (OutputPerturbation, dict(lam=[0, math.nan, "a"], epsilon=[math.nan, -1, "a"], delta=[1.0, math.nan, -1])),
    (CertifiedNewton, dict(sigma=[0, math.nan], epsilon=[20.0], residual_constant=[0.01, math.nan])),
    (DescentToDelete, dict(iterations=[0, math.nan], delta=[0, 1])),
    (Langevin, dict(step_size=[100.0, math.nan], sigma=[0], burn_in=[0])),
    (lambda **o: DpSgd(network(), **o), dict(noise_multiplier=[0, math.nan, "a"], epsilon=[0], sample_rate=[0.5])),
    (lambda **o: NoisyFineTuning(lambda e: network(), **o), dict(gradient_clip=[0, math.nan], decay=[-1, 1000])),
    (lambda **o: RewindToDelete(network(), **o), dict(rewound=[-1, 1000], smoothness=[0, math.nan], capacity=[0])),
]


@pytest.mark.parametrize(("make", "options"), PARAMETERS)
def test_parameters_out_of_their_range_are_refused(make, options):
    for name, values in options.items():
        for value in values:
            with pytest.raises(ValueError) as error:
                make(**{name: value}).fit(DATA)
            assert "\n" not in str(error.value), (name, value)


ONE_CLASS = Examples(DATA.images, torch.zeros_like(DATA.labels))
EMPTY_PICTURES = Examples(torch.zeros_like(DATA.images), DATA.labels)


@pytest.mark.parametrize("name", LEARNERS)
def test_degenerate_data_have_finite_answers_or_a_refusal(name, fitted):
    cases = {
        "one class": lambda: LEARNERS[name]().fit(ONE_CLASS),
        "one example": lambda: LEARNERS[name]().fit(DATA[:1]),
        "empty pictures": lambda: LEARNERS[name]().fit(EMPTY_PICTURES),
        "huge": lambda: LEARNERS[name]().fit(Examples(1e30 * DATA.pixels(), DATA.labels)),
        "one class left": lambda: forgotten(DATA.labels == 1),
        "one example left": lambda: forgotten(range(1, N)),
    }

    def forgotten(request):
        learner = fitted(name)
        learner.forget(request)
        return learner

    for case, make in cases.items():
        try:
            answer = make().logits(QUERIES.images)
        except (ValueError, Diverged) as error:
            assert "\n" not in str(error), case
            continue
        assert not torch.isnan(answer).any() and len(answer) == 30, case
        if case == "one class left" and name in EXACT:
            assert not answer.argmax(1).any(), case  # nobody says the class that is gone


@pytest.mark.parametrize("name", EXACT)
def test_deletions_add_up(name, fitted):
    """Two requests, in another order, are one request; and again on the same position is none."""
    at_once, in_turn = fitted(name), fitted(name)
    at_once.forget([1, 7, 9, 30])
    in_turn.forget([30, 9])
    in_turn.forget([7, 1])
    found = [learner.logits(QUERIES.images) for learner in (at_once, in_turn)]
    assert torch.equal(*found) if "ridge" not in name and name != "head" else torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize("name", ["sisa", "dp-sgd", "rewind", "fine-tuning"])
def test_labels_beyond_the_outputs_are_refused(name):
    with pytest.raises(ValueError, match="2 classes, but there is a label 6"):
        LEARNERS[name]().fit(Examples(DATA.images, DATA.labels + 5))


def test_predict_reads_bytes_as_the_learners_do():
    model = network()
    expected = predict(model, QUERIES)
    for kind, images in kinds(QUERIES).items():
        assert torch.equal(predict(model, images), expected), kind
    assert predict(model, QUERIES[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="not finite"):
        predict(model, NOT_PIXELS["nan"])
    half = copy.deepcopy(model).half()
    assert torch.equal(predict(half, QUERIES), predict(half, QUERIES.images))


def test_positions_on_their_own():
    assert doors.positions([4, 0], 5).tolist() == [4, 0]
    assert doors.positions(np.int16(3), 5).tolist() == [3]
    assert doors.positions([-1, -1], 5, distinct=False, from_end=True).tolist() == [4, 4]
    assert doors.positions([], 5, empty=True).dtype == torch.int64
    with pytest.raises(ValueError, match="twice"):
        doors.positions([-1, 4], 5, from_end=True)
    with pytest.raises(ValueError, match="0 to 4"):
        doors.positions([-6], 5, from_end=True)
    assert doors.deletion([3, 1], np.array([True] * 5)).tolist() == [1, 3]
    assert doors.present(3, [1]).tolist() == [True, False, True] and doors.present(2, ()).all()


def test_a_boolean_is_no_number_and_float64_pixels_keep_their_precision():
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, not True"):
        doors.whole(n=True)
    assert doors.pixels(torch.rand(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert doors.pixels(torch.rand(2, 3, dtype=torch.float16)).dtype == torch.float32
