"""A receipt against what it is about: tampered, other data, alone, and a chain with a gap."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import small
from requesting import PEOPLE, forget, told

from unlearnlib.desk import execution
from unlearnlib.desk.cases import Policy
from unlearnlib.desk.verifying import verify


@pytest.fixture
def done(pipeline, desk):
    desk.queue.add("x", PEOPLE[:3])
    return desk.forget(Policy("finetune"))


def failing(path: Path) -> set[str]:
    return {check.what for check in verify(path) if check.state == "FAILS"}


def test_a_tampered_receipt_weights_page_or_queue_is_found(done):
    path = done / "receipt.json"
    assert failing(path) == set()
    text = path.read_text()
    path.write_text(text.replace('"deleted": 3', '"deleted": 4'))
    assert failing(path) == {"digest", "seal", "page"}
    path.write_text(text)
    told = json.loads(text)
    told["audits"][0]["after"][0] += 0.01  # by somebody who makes the digest and the page anew, without the salt
    forged = execution.receipt.sealed(told, "a guess")
    path.write_bytes(execution.receipt.written(forged))
    (done / "receipt.html").write_text(execution.receipt.page(forged))
    assert failing(path) == {"seal", "audits"}
    path.write_text(text)
    (done / "receipt.html").write_text(execution.receipt.page(told).replace("finetune", "retrain"))
    assert failing(path) == {"page"}
    (done / "receipt.html").write_text(execution.receipt.page(json.loads(text)))
    raw = bytearray((done / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (done / "model.safetensors").write_bytes(raw)
    assert "weights after" in failing(path)


def test_other_data_are_found(done, pipeline, tmp_path):
    desk = done.parent
    case = json.loads((desk / "case.json").read_text())
    other = tmp_path / "other.npz"
    part = small.examples(60, seed=7)
    np.savez(other, images=part.images[:, 0].numpy(), labels=part.labels.numpy(), ids=np.array(PEOPLE))
    (desk / "case.json").write_text(json.dumps({**case, "data": f"npz:{other}"}))
    assert {"data", "audits"} <= failing(done / "receipt.json")
    (desk / "case.json").write_text(json.dumps({**case, "data": "npz:nowhere.npz"}))
    checks = {check.what: check.state for check in verify(done / "receipt.json")}
    assert checks["data, audits"] == "unchecked" and checks["seal"] == "holds"


def test_a_receipt_alone_says_what_it_could_not_check(done, tmp_path):
    shutil.copy(done / "receipt.json", tmp_path / "receipt.json")
    checks = {check.what: check.state for check in verify(tmp_path / "receipt.json")}
    assert checks.pop("digest") == "holds" and set(checks.values()) == {"unchecked"} and len(checks) == 2
    with pytest.raises(ValueError, match="no folder of a desk"):
        verify(tmp_path / "receipt.json", tmp_path)


def test_a_missing_receipt_breaks_the_chain(capsys, pipeline, tmp_path):
    for name in "ab":
        forget(capsys, pipeline[0], tmp_path / "desk", "--request", str(pipeline[0] / f"{name}.txt"))
    first, second = (tmp_path / f"desk/000{k}/receipt.json" for k in (1, 2))
    shutil.copy(second, first)
    assert "receipt before" in failing(second)
    status, out, _ = told(capsys, "verify", str(second))
    assert status == 1 and "FAILS" in out
