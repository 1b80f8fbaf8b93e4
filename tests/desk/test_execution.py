"""Deletions end to end, by the command line: exact where they say so, resumed bit for bit, never twice."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import small
import torch
from requesting import PEOPLE, RECIPE, forget, told

from unlearnlib.desk import commands, execution
from unlearnlib.desk.cases import Policy, parsed
from unlearnlib.desk.execution import Desk
from unlearnlib.desk.recording import Recorder
from unlearnlib.desk.verifying import verify
from unlearnlib.methods import registry
from unlearnlib.training import models, weights
from unlearnlib.training.loop import fit


def digest(path: Path) -> str:
    return execution.receipt.file_digest(path)


def test_batches_follow_each_other_and_what_is_gone_stays_gone(capsys, pipeline, tmp_path):
    place, _ = pipeline
    before = digest(place / "w.safetensors")
    for name in "abc":
        status, out, err = forget(capsys, place, tmp_path / "desk", "--request", str(place / f"{name}.txt"))
        assert status == 0 and not err and "done: " in out, err
    receipts = [json.loads((tmp_path / f"desk/000{k}/receipt.json").read_text()) for k in (1, 2, 3)]
    assert [r["examples"]["deleted"] for r in receipts] == [2, 1, 1]  # jane-4 was deleted before
    assert [r["examples"]["retained"] for r in receipts] == [58, 57, 56]
    assert receipts[1]["previous"] == receipts[0]["digest"] and receipts[2]["previous"] == receipts[1]["digest"]
    assert receipts[1]["model"]["before"] == receipts[0]["model"]["after"] and receipts[0]["model"]["before"] == before
    assert digest(place / "w.safetensors") == before
    for path in (tmp_path / "desk").glob("000*/receipt.*"):
        assert b"jane" not in path.read_bytes() and str(tmp_path).encode() not in path.read_bytes()
    status, out, _ = forget(capsys, place, tmp_path / "desk", "--request", str(place / "a.txt"))
    assert status == 0 and "nothing is due" in out and not (tmp_path / "desk/0004").exists()
    for k in (1, 2, 3):
        status, out, _ = told(capsys, "verify", str(tmp_path / f"desk/000{k}/receipt.json"))
        assert status == 0 and "FAILS" not in out and "unchecked" not in out, out
    status, out, _ = told(capsys, "queue", str(tmp_path / "desk"))
    assert status == 0 and out.count("done") == 3


def test_retraining_is_training_without_the_examples_bit_for_bit(pipeline, desk):
    _, case = pipeline
    desk.queue.add("x", [PEOPLE[3], PEOPLE[17]])
    place = desk.forget(Policy("retrain", seed=5))
    source = case.source()
    kept = torch.ones(60, dtype=torch.bool)
    kept[[3, 17]] = False
    start = models.build("mlp", source.dataset(), seed=5)
    wanted = fit(start, source.examples[kept], RECIPE, seed=5, progress=False)
    made = weights.load(wanted, place / "model.safetensors")
    assert small.same(small.state(made), small.state(wanted))
    told = json.loads((place / "receipt.json").read_text())
    assert told["guarantee"]["kind"] == "exact" and told["cost"]["share"] == 1.0


class Killed(BaseException):
    """What no handler catches, as a kill."""


@pytest.mark.parametrize("moment", range(6))
def test_a_run_that_is_killed_goes_on_to_the_same_weights(pipeline, tmp_path, monkeypatch, moment):
    """Killed before the k-th file of the batch is written: nothing is half there, and the end is the same."""
    _, case = pipeline
    policy, ends = Policy("finetune", seed=1), []
    for name in ("whole", "killed"):
        desk = Desk(tmp_path / name, case)
        desk.queue.add("x", PEOPLE[:3])
        if name == "killed":
            write, left = execution.files.write, iter([*range(moment), None])

            def killed(path, content, write=write, left=left):
                if next(left) is None:
                    raise Killed
                write(path, content)

            with monkeypatch.context() as patch:
                patch.setattr(execution.files, "write", killed)
                with pytest.raises(Killed):
                    desk.forget(policy)
            assert desk.queue.gone() == set()
        place = Desk(tmp_path / name, case).forget(policy)
        assert Desk(tmp_path / name, case).forget(policy) is None  # and it is done once
        ends.append(digest(place / "model.safetensors"))
        assert all(check.state == "holds" for check in verify(place / "receipt.json")), verify(place / "receipt.json")
    assert ends[0] == ends[1]


def test_a_batch_cannot_end_by_another_method_than_made_its_weights(pipeline, desk, monkeypatch):
    desk.queue.add("x", PEOPLE[:3])

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(execution.audits, "audited", killed)
        with pytest.raises(Killed):
            desk.forget(Policy("finetune"))
    with pytest.raises(ValueError, match="carried out by finetune with other settings"):
        desk.forget(Policy("finetune", {"epochs": 1}))
    assert desk.forget(Policy("finetune")) is not None


def test_a_request_that_cannot_be_carried_out_waits(pipeline, desk):
    desk.queue.add("x", ["people/joe"])
    with pytest.raises(ValueError, match="1 of 1 ids are not in the data"):
        desk.forget(Policy("finetune"))
    assert [r.state for r in desk.queue.requests()] == ["waiting"] and not desk.place(1).exists()
    desk = Desk(desk.folder.with_name("other"), pipeline[1])
    desk.queue.add("y", PEOPLE[:2])
    with pytest.raises(ValueError, match="lower the learning rate|not finite"):
        desk.forget(Policy("neggrad", {"lr": 1e30}))
    assert [r.state for r in desk.queue.requests()] == ["waiting"] and not desk.place(1).exists()
    assert desk.forget(Policy("finetune")) is not None
    desk.queue.add("z", PEOPLE[:1])
    with pytest.raises(ValueError, match="deleted before: nothing is left to do"):
        desk.forget(Policy("finetune"))
    assert desk.queue.requests()[-1].state == "done"


def test_a_plan_does_nothing(capsys, pipeline, tmp_path):
    status, out, _ = forget(capsys, pipeline[0], tmp_path / "desk", "--request", str(pipeline[0] / "a.txt"), "--plan")
    assert status == 0 and "2 examples to delete, 58 stay" in out and "of retraining" in out
    assert {p.name for p in (tmp_path / "desk").iterdir()} == {"queue.sqlite"}
    assert "waiting" in told(capsys, "queue", str(tmp_path / "desk"))[1]


def test_a_model_that_knows_nothing_of_its_data_is_refused(pipeline, tmp_path):
    """As one is that was given other pixels than in its own pipeline."""
    _, case = pipeline
    model = models.build("mlp", case.source().dataset())
    for p in model.parameters():
        p.data.zero_()
    weights.save(model, tmp_path / "untrained.safetensors")  # it always answers the first class
    desk = Desk(tmp_path / "desk", execution.dataclasses.replace(case, weights=str(tmp_path / "untrained.safetensors")))
    desk.queue.add("x", PEOPLE[:2])
    with pytest.raises(ValueError, match="no better than the largest class: check mean, std, size"):
        desk.forget(Policy("finetune"))
    assert [r.state for r in desk.queue.requests()] == ["waiting"]
    assert desk.forget(Policy("finetune"), anyway=True) is not None


def test_a_desk_is_about_one_model(pipeline, desk):
    desk.queue.add("x", PEOPLE[:2])
    desk.forget(Policy("finetune"))
    with pytest.raises(ValueError, match="answers for another size"):
        Desk(desk.folder, execution.dataclasses.replace(pipeline[1], size=9))


def test_a_process_of_its_own_makes_the_same_weights(pipeline, tmp_path):
    ends = []
    for workers in (0, 1):
        desk = Desk(tmp_path / str(workers), pipeline[1])
        desk.queue.add("x", PEOPLE[:3])
        ends.append(digest(desk.forget(Policy("finetune"), workers=workers) / "model.safetensors"))
    assert ends[0] == ends[1]


# --- with a record


@pytest.fixture
def recorded(pipeline, tmp_path):
    """The same model with a record of its importances."""
    _, case = pipeline
    source = case.source()
    opened = case.opened(source, case.weights)
    recorder = Recorder(tmp_path / "record", source.ids, updates=PEOPLE[:5], budget=10**7)
    recorder.begin(opened.model)
    recorder.step(opened.model, range(10, 20))
    recorder.end(opened.model, source.examples)
    return execution.dataclasses.replace(case, record=str(tmp_path / "record"))


def test_ssd_with_recorded_importances_is_ssd(recorded, tmp_path):
    """Without reading a retained example; on the weights at which they were recorded, the same to rounding."""
    made = []
    for access in ("retain, forget", "forget"):
        desk = Desk(tmp_path / access, recorded)
        desk.queue.add("x", PEOPLE[:6])
        place = desk.forget(Policy("ssd", {"power": 0.1, "dampening": 0.5}, access=access))
        made.append(safetensors.torch.load_file(place / "model.safetensors"))
    old = safetensors.torch.load_file(recorded.weights)
    assert any(not torch.equal(old[name], made[0][name]) for name in old)
    for name in old:
        assert torch.allclose(made[0][name], made[1][name], rtol=1e-4, atol=1e-7), name


def test_amnesiac_takes_the_record_of_the_case(recorded, tmp_path):
    desk = Desk(tmp_path / "desk", recorded)
    desk.queue.add("x", PEOPLE[:2])
    assert desk.forget(Policy("amnesiac", access="retain")) is not None
    desk.queue.add("y", PEOPLE[7:8])
    with pytest.raises(ValueError, match="lacks some of the forget set"):
        desk.forget(Policy("amnesiac"))


# --- refusals and the command line


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--policy", "scrubb"], "did you mean 'scrub'"),
        (["-p", "lr"], "'lr' is no setting: write name=value"),
        (["-p", "rate=1"], "has no hyper-parameter 'rate'"),
        (["--policy", "scrub", "--access", "forget"], "scrub reads the retain set"),
        (["--recipe", "epoch=3"], "a recipe has no 'epoch'"),
        (["--recipe", "epochs=three"], "epochs"),
        (["--request", "nowhere.csv"], "No such file"),
        (["--data", "npz:nowhere.npz"], "No such file"),
        (["--weights", "nowhere.safetensors"], "no such file of weights"),
        (["--policy", "amnesiac"], "amnesiac needs the record"),
        (["--policy", "auto"], "auto needs a measured quality"),
        (["--policy", "auto", "--quality", "x.csv"], "--quality is FILE.csv:COLUMN"),
        (["--policy", "auto", "--guarantee", "exact", "--budget", "0.1"], "no method is admissible"),
        (["--seed", "-1"], "seed must be a non-negative integer"),
        (["--wait-for", "0"], "Batching needs"),
    ],
)
def test_a_wrong_command_is_one_line(capsys, pipeline, tmp_path, more, said):
    place = pipeline[0]
    status, out, err = forget(capsys, place, tmp_path / "desk", "--request", str(place / "a.txt"), *more)
    assert status == 2 and said in err and err.count("\n") == 1 and "Traceback" not in err, err


def test_auto_is_retraining_where_exact_is_wanted(capsys, pipeline, tmp_path):
    place = pipeline[0]
    request = ["--request", str(place / "a.txt")]
    status, out, err = forget(capsys, place, tmp_path / "a", *request, "--guarantee", "exact", policy="auto")
    assert status == 0 and "auto: retrain" in out, err
    (tmp_path / "board.csv").write_text("method,gap\nscrub,0.2\nfinetune,0.1\n")
    wanted = ["--quality", f"{tmp_path / 'board.csv'}:gap", "--budget", "50"]
    status, out, err = forget(capsys, place, tmp_path / "b", *request, *wanted, policy="auto")
    assert status == 0 and "auto: finetune" in out, err


def test_settings_are_read_by_the_types_of_their_defaults():
    kind = registry.find("finetune").config
    assert parsed(kind, ["lr=1", "epochs=2", "schedule=cosine"]) == {"lr": 1.0, "epochs": 2, "schedule": "cosine"}
    assert isinstance(parsed(kind, ["lr=1"])["lr"], float)


@pytest.mark.parametrize("words", commands.examples(), ids=lambda words: " ".join(words[1:4]))
def test_the_examples_of_the_help_are_valid(words):
    if words[1] == "forget":
        args = commands.forget_parser().parse_args(words[2:])
        kind = registry.find(args.policy).config
        registry.configure(args.policy, **parsed(kind, args.parameter))
        assert args.request
