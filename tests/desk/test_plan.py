"""What may answer a request, and what it would touch: pure functions over facts, with planted copies found."""

from dataclasses import replace

import numpy as np
import pytest
import small
import torch

from unlearnlib.desk import plan
from unlearnlib.desk.admission import Sizes, admissible, read_quality
from unlearnlib.desk.sources import Source
from unlearnlib.methods import registry
from unlearnlib.training.recipe import Recipe

SIZES = Sizes(100, 900, 10, 1000, 100)
WHOLE = registry.work("retrain", 100, 900, recipe=Recipe(epochs=10))


def verdicts(**wanted):
    return {v.method: v for v in admissible(**{"request": SIZES, "retraining": WHOLE, **wanted})}


def test_every_method_gets_a_verdict_and_only_exact_ones_an_exact_request():
    found = verdicts(guarantee="exact")
    assert set(found) == set(registry.HOMES)
    good = {name for name, v in found.items() if v.admissible}
    assert good == {name for name in found if registry.find(name).guarantee == "exact"} == {"retrain"}
    assert found["scrub"].reason == "it guarantees nothing"


@pytest.mark.parametrize("access", ["retain", "forget", "none", "forget, retain"])
def test_a_method_reads_no_more_than_is_there(access):
    sets = {part.strip() for part in access.split(",")}
    for name, verdict in verdicts(access=access, budget=1e9, given=("record", "datamodel")).items():
        reads = {part.strip() for part in registry.find(name).reads.split(",")} - {"none"}
        assert verdict.admissible == (reads <= sets and verdict.share is not None), name


def test_the_budget_is_a_share_of_retraining():
    found = verdicts(budget=0.5)
    for name, verdict in found.items():
        if verdict.share is not None and name != "retrain":
            assert verdict.work == registry.work(name, 100, 900, validation=100, classes=10, weights=1000)
            assert verdict.share == verdict.work / WHOLE
        assert not verdict.admissible or verdict.share <= 0.5
    assert found["retrain"].share == 1.0 and not found["retrain"].admissible
    dearer = verdicts(budget=0.5, parameters={"finetune": {"epochs": 50}})["finetune"]
    assert found["finetune"].admissible and not dearer.admissible and dearer.share == 10 * found["finetune"].share


def test_what_training_did_not_leave_behind_is_missing():
    assert "record" in verdicts()["amnesiac"].reason and verdicts(given=("record",))["amnesiac"].admissible


def test_the_best_comes_first_and_without_a_measurement_the_cheapest():
    order = [v for v in admissible(request=SIZES, retraining=WHOLE) if v.admissible]
    assert [v.share for v in order] == sorted(v.share for v in order) and len(order) > 10
    measured = admissible(request=SIZES, retraining=WHOLE, quality={"scrub": 0.2, "finetune": 0.1, "amnesiac": 0.0})
    assert [v.method for v in measured[:2]] == ["finetune", "scrub"]  # amnesiac is the best, and may not


@pytest.mark.parametrize(
    "wrong",
    [{"guarantee": "certified"}, {"access": "test"}, {"budget": -1.0}, {"budget": float("nan")}, {"retraining": 0}],
)
def test_a_wrong_wish_is_one_line(wrong):
    with pytest.raises(ValueError, match='must be|is "retain"'):
        verdicts(**wrong)


def test_quality_is_read_from_a_table(tmp_path):
    path = tmp_path / "board.csv"
    path.write_text("method,klom,note\nscrub,0.2,a\nscrub,0.4,b\nfinetune,,c\n")
    assert read_quality(path, "klom") == pytest.approx({"scrub": 0.3})
    for column, said in (("none", "has no column 'none'"), ("note", "no number")):
        with pytest.raises(ValueError, match=said):
            read_quality(path, column)
    with pytest.raises(ValueError, match="No such file"):
        read_quality(tmp_path / "none.csv", "klom")


# --- plans


def source(n: int = 40) -> Source:
    return Source(
        "tests", tuple(f"e{k}" for k in range(n)), small.examples(n), small.examples(20, seed=1), ("a", "b", "c")
    )


def test_a_split_has_what_is_left_and_halves_what_was_held_out():
    split = plan.split_of(source(), torch.tensor([3, 7]), torch.tensor([0, 39]), seed=0)
    assert split.index.tolist() == list(range(1, 39)) and split.index[split.forget_index].tolist() == [3, 7]
    assert len(split.validation) == len(split.test) == 10
    both = torch.cat([split.validation.images, split.test.images]).flatten(1)
    assert len(both.unique(dim=0)) == 20
    assert plan.by_class(split, ("a", "b", "c")) == {"a": 1, "b": 1}


def test_planted_copies_and_near_copies_are_found_and_nothing_else():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32), dtype=np.uint8))
    images[20] = images[3]
    images[21] = (images[4].int() + 2).clamp(0, 255).to(torch.uint8)  # a touch brighter
    images[22] = images[3].flip(-1)  # a mirror image: said not to be found
    examples = replace(small.examples(30, side=32, channels=3), images=images)
    split = plan.split_of(
        Source("tests", tuple(map(str, range(30))), examples, None, ("a", "b", "c")),
        torch.tensor([3, 4]),
        torch.tensor([], dtype=torch.long),
        0,
    )
    found = plan.twins(split, [str(i) for i in split.index.tolist()])
    assert [(t.forgotten, t.retained) for t in found] == [("3", "20"), ("4", "21")]
    assert found[0].distance == 0 < found[1].distance < plan.NEAR
    assert found[1].distance == pytest.approx(2 / 255, rel=0.15)
    assert plan.twins(split, [str(i) for i in split.index.tolist()], block=1) == found


def test_a_plan_is_doubtful_where_the_model_is_no_better_than_its_largest_class():
    made = plan.Plan(1, "finetune", 2, 3, 97, 1, {"a": 3}, (), 10.0, 0.5, 0.35, 0.34)
    assert "check mean, std, size" in made.doubtful and "deleted before: 1" in made.lines()
    assert replace(made, accuracy=0.9).doubtful == ""
