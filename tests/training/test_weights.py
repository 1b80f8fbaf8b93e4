"""Weights on disk: what comes back is what went in, and what cannot be right is refused in one line."""

import pytest
import torch
from small import same, state, stranger

from unlearnlib.training import weights


def test_weights_come_back_and_nothing_else_is_left(tmp_path):
    model = stranger(1)
    weights.save(model, tmp_path / "model.safetensors")
    assert same(state(weights.load(stranger(2), tmp_path / "model.safetensors")), state(model))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder: make it first"):
        weights.save(stranger(), tmp_path / "nowhere" / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["head.weight", "norm.running_var"])
def test_weights_that_are_not_finite_are_refused(tmp_path, name, value):
    broken = stranger()
    with torch.no_grad():
        broken.state_dict()[name].view(-1)[0] = value
    weights.save(broken, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"model.safetensors holds values of {name} that are not finite"):
        weights.load(stranger(), tmp_path / "model.safetensors")
