"""OrthoGrad: a projected climb and a repair."""

import torch
import torch.nn.functional as F
from dosing import PLAIN, vector
from small import split
from torch import nn

import unlearnlib as ul
from unlearnlib.approximate import gradients
from unlearnlib.approximate.dose import SaliencyMask


def test_orthograd_is_a_projected_climb_and_a_repair():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    parts = split(n=28, forget=20)
    settings = {"epochs": 1, "batch_size": 20, "lr": 0.1}
    after = ul.unlearn("orthograd", model, parts, seed=0, retain_batch_size=8, alpha=0.3, **settings)
    rows = gradients.example_gradients(model, parts.retain.pixels(), parts.retain.labels)
    climb = gradients.mean_gradient(model, parts.forget)
    basis = torch.linalg.qr(rows.T).Q
    climb = climb - basis @ (basis.T @ climb)
    assert torch.allclose(vector(after.model), vector(model) - 0.1 * (0.3 * rows.mean(0) - 0.7 * climb), atol=1e-6)
    assert after.cost.gradient_evaluations == 20 and after.cost.products == {
        "example_gradient": 8,
        "algebra": 2 * 8 * 9,
    }
    # To first order nobody in the retain batch notices: the climb alone changes each of its losses by O(lr^2).
    each, before = [], F.cross_entropy(model(parts.retain.pixels()), parts.retain.labels, reduction="none")
    for lr in (0.02, 0.01):
        settings["lr"] = lr
        moved = ul.unlearn("orthograd", model, parts, seed=0, retain_batch_size=8, alpha=0.0, **settings).model
        now = F.cross_entropy(moved(parts.retain.pixels()), parts.retain.labels, reduction="none")
        each.append((now - before).abs().max().item())
    assert each[0] < 1e-4 and each[0] / each[1] > 3.5


def test_orthograd_with_all_weight_on_the_retain_set_is_fine_tuning():
    model, parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), split(n=40, forget=20)
    settings = {"seed": 0, "epochs": 1, "batch_size": 20, "lr": 0.1, **PLAIN}
    both = [
        ul.unlearn(name, model, parts, **kw, **settings).model
        for name, kw in (("orthograd", {"alpha": 1.0, "retain_batch_size": 20}), ("finetune", {}))
    ]
    assert torch.allclose(*map(vector, both), atol=1e-6)


def test_under_a_mask_the_climb_is_still_unnoticed():
    # Both orders of masking and projecting one after the other leave a change of O(lr).
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    parts, each = split(n=28, forget=20), []
    before = F.cross_entropy(model(parts.retain.pixels(dtype=torch.float64)), parts.retain.labels, reduction="none")
    for lr in (0.02, 0.002):
        settings = {"epochs": 1, "batch_size": 20, "retain_batch_size": 8, "alpha": 0.0, "lr": lr}
        settings["parts"] = (SaliencyMask(0.5),)
        moved = ul.unlearn("orthograd", model, parts, seed=0, **settings).model
        now = F.cross_entropy(moved(parts.retain.pixels(dtype=torch.float64)), parts.retain.labels, reduction="none")
        each.append((now - before).abs().max().item())
    assert each[0] / each[1] > 70
