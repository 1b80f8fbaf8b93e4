"""A pipeline of somebody else, small enough for a test."""

import numpy as np
import pytest
import small
from requesting import PEOPLE, RECIPE

from unlearnlib.desk.cases import Case
from unlearnlib.desk.execution import Desk
from unlearnlib.training import models, weights
from unlearnlib.training.loop import fit


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A model that somebody trained, its data with held-out ones, and requests."""
    place = tmp_path_factory.mktemp("pipeline")
    for name, seed in (("train", 0), ("held", 1)):
        part = small.examples(60, seed=seed)
        np.savez(
            place / f"{name}.npz", images=part.images[:, 0].numpy(), labels=part.labels.numpy(), ids=np.array(PEOPLE)
        )
    case = Case(
        "mlp", str(place / "w.safetensors"), f"npz:{place / 'train.npz'}", f"npz:{place / 'held.npz'}", recipe=RECIPE
    )
    source = case.source()
    model = fit(models.build("mlp", source.dataset(), seed=0), source.examples, RECIPE, seed=0, progress=False)
    weights.save(model, place / "w.safetensors")
    for name, who in (("a", (3, 4)), ("b", (17,)), ("c", (4, 30))):
        (place / f"{name}.txt").write_text("".join(f"{PEOPLE[k]}\n" for k in who))
    return place, case


@pytest.fixture
def desk(pipeline, tmp_path):
    return Desk(tmp_path / "desk", pipeline[1])
