"""The Fisher diagonal: closed forms, layer rules = vmap = a loop over examples, and nothing that is touched."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import dataset, examples, same, state, stranger
from torch import nn

from unlearnlib import seeding
from unlearnlib.approximate import fisher, gradients
from unlearnlib.data.examples import Examples
from unlearnlib.training import models
from unlearnlib.training.loop import Tally


def drawn(build) -> nn.Module:
    with seeding.isolated(0, "test"):
        return build().double()


class Attention(nn.Module):
    """Layers over positions: linear layers on [B, T, F], layer norm, and in one variant sequences first."""

    def __init__(self, sequences_first: bool = False):
        super().__init__()
        self.sequences_first = sequences_first
        self.embed, self.norm, self.head = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        rows = x[:, 0]  # eight rows of eight pixels
        rows = rows.transpose(0, 1) if self.sequences_first else rows
        rows = torch.tanh(self.norm(self.embed(rows)))
        return self.head(rows.mean(0 if self.sequences_first else 1))


class Reused(nn.Module):
    """A layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.head = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.again(torch.tanh(self.again(self.first(x.flatten(1)))))))


def in_place() -> nn.Module:
    """Activations in place, groups, strides, dilation, no biases, group norm, batch norm of vectors."""
    return nn.Sequential(
        nn.Conv2d(1, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1)),
        nn.ReLU(inplace=True),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 6, 2, groups=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.LazyLinear(5, bias=False),
        nn.BatchNorm1d(5),
        nn.Linear(5, 3),
    )


NETWORKS = {
    "mlp": (lambda: models.build("mlp", dataset(), hidden=(16,)), True),
    "cnn": (lambda: models.build("cnn", dataset(side=16), width=4, hidden=8), True),
    "resnet_bn": (lambda: models.build("resnet_bn", dataset(), width=4), True),
    "resnet_gn": (lambda: models.build("resnet_gn", dataset(), width=4), True),
    "attention": (Attention, True),
    "stranger": (stranger, False),  # tied weights
    "reused": (Reused, False),
    "sequences first": (lambda: Attention(True), False),
    "padded with copies": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="replicate"), nn.Flatten(), nn.Linear(128, 3)),
        False,
    ),
    "in place": (in_place, True),
}


def network(name: str) -> tuple[nn.Module, Examples]:
    part = examples(n=10, side=16 if name == "cnn" else 8, seed=4)
    model = drawn(lambda: NETWORKS[name][0]())
    if name == "in place":
        model(part.pixels(dtype=torch.float64))  # gives the lazy layer its size
    for module in model.modules():  # statistics and scales that are not the trivial ones
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2, generator=seeding.generator(0, "mean"))
            module.running_var.uniform_(0.5, 2, generator=seeding.generator(0, "variance"))
    return model, part


def by_loop(model: nn.Module, part: Examples, kind: str) -> torch.Tensor:
    """The definition: one example, one label, one backward pass at a time, in eval mode."""
    parameters, total = list(gradients.trainable(model).values()), 0.0
    with models.evaluating(model):
        for i in range(len(part)):
            logs = model(part.pixels([i], dtype=torch.float64))[0].log_softmax(0)
            classes = range(len(logs)) if kind == "true" else [int(part.labels[i])]
            for y in classes:
                slope = torch.autograd.grad(logs[y], parameters, retain_graph=True, materialize_grads=True)
                weight = logs[y].detach().exp() if kind == "true" else 1.0
                total = total + weight * gradients.flat(slope).square() / len(part)
    return total


@pytest.mark.parametrize("kind", fisher.KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_rules_vmap_and_a_loop_over_examples_agree(name, kind, monkeypatch):
    model, part = network(name)
    exact = by_loop(model, part, kind)
    tally = Tally()
    found = fisher.fisher_diagonal(model, part, kind, tally=tally)
    assert torch.allclose(found, exact, rtol=1e-10, atol=1e-10 * exact.max())
    assert tally == Tally(10, 0, {"vjp": 20} if kind == "true" else {})  # a backward pass for each class
    monkeypatch.setattr(fisher, "_rules_of", lambda _: None)
    assert torch.allclose(fisher.fisher_diagonal(model, part, kind), exact, rtol=1e-10, atol=1e-10 * exact.max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_fast_way_is_taken_where_it_holds_and_only_there(name):
    model, part = network(name)
    rules = fisher._rules_of(model)
    fit = None if rules is None else fisher._trial(model, part.pixels([0, 1], dtype=torch.float64), rules)
    assert (fit is not None) == NETWORKS[name][1]


def test_a_wrong_rule_is_found_by_the_trial(monkeypatch):
    model, part = network("cnn")
    exact = by_loop(model, part, "empirical")
    right = fisher._RULES[nn.Conv2d]

    def wrong(layer, a, gs, power):
        sums = right(layer, a, gs, power)
        return {**sums, "weight": sums["weight"].flip(2)}

    monkeypatch.setitem(fisher._RULES, nn.Conv2d, wrong)
    assert torch.allclose(fisher.fisher_diagonal(model, part, "empirical"), exact, rtol=1e-10, atol=1e-12)


def test_the_softmax_linear_model_in_closed_form():
    model, part = drawn(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3))), examples(n=30)
    x = part.pixels(dtype=torch.float64).flatten(1)
    p = model(x.unflatten(1, (1, 8, 8))).softmax(1).detach()
    # The Fisher matrix of softmax(Wx + b) is E (diag p - p p^T) (x) x x^T, so its diagonal is E p (1 - p) x^2.
    weight, bias = (p * (1 - p)).T @ x.square() / 30, (p * (1 - p)).mean(0)
    found = fisher.fisher_diagonal(model, part, "true")
    assert torch.allclose(found, torch.cat([weight.flatten(), bias]), rtol=1e-12, atol=1e-15)
    residual = p - F.one_hot(part.labels, 3)
    empirical = torch.cat([(residual.square().T @ x.square() / 30).flatten(), residual.square().mean(0)])
    assert torch.allclose(fisher.fisher_diagonal(model, part, "empirical"), empirical, rtol=1e-12, atol=1e-15)


def test_labels_with_the_law_of_the_model_make_the_two_kinds_one():
    model, part = network("mlp")
    many = part[torch.arange(10).repeat(4000)]
    p = model(part.pixels(dtype=torch.float64)).softmax(1).detach()
    labels = torch.multinomial(p, 4000, replacement=True, generator=seeding.generator(0, "labels")).T.flatten()
    drawn_labels = Examples(many.images, labels)
    true, empirical = fisher.fisher_diagonal(model, part), fisher.fisher_diagonal(model, drawn_labels, "empirical")
    assert (true - empirical).norm() < 0.01 * true.norm()
    assert (true - fisher.fisher_diagonal(model, part, "empirical")).norm() > 0.1 * true.norm()


def test_sampled_labels_are_unbiased_and_repeat():
    model, part = network("mlp")
    exact = fisher.fisher_diagonal(model, part)
    one, two = (fisher.fisher_diagonal(model, part, samples=2, rng=seeding.generator(1, "labels")) for _ in range(2))
    assert torch.equal(one, two) and not torch.allclose(one, exact, rtol=1e-3)
    many = fisher.fisher_diagonal(model, part, samples=4000, rng=seeding.generator(2, "labels"))
    assert (many - exact).norm() < 0.02 * exact.norm()


def test_the_square_of_a_mean_gradient_is_another_thing():
    # Released code squares the gradient of a batch's mean loss: on two opposite examples it is zero.
    model = drawn(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    image = examples(n=1).images.repeat(2, 1, 1, 1)
    part = Examples(image, torch.tensor([0, 1]))
    released = gradients.mean_gradient(model, part).square()
    right = fisher.fisher_diagonal(model, part, "empirical")
    assert released.max() < 1e-30 and torch.allclose(right[-2:], torch.full((2,), 0.25, dtype=torch.float64))
    for size in (1, 3, 10):  # nor do we depend on batches
        model, part = network("resnet_bn")
        parts = [part[i : i + size] for i in range(0, 10, size)]
        pieces = sum(len(p) * fisher.fisher_diagonal(model, p, "empirical") for p in parts) / 10
        assert torch.allclose(pieces, fisher.fisher_diagonal(model, part, "empirical"), rtol=1e-10)


@pytest.mark.parametrize("name", ["resnet_bn", "stranger"])
def test_nothing_of_the_model_is_touched(name):
    model, part = network(name)
    model.train()
    next(iter(model.modules())).eval()
    model.zero_grad()
    before, modes, rng = state(model), [m.training for m in model.modules()], torch.get_rng_state()
    for kind in fisher.KINDS:
        fisher.fisher_diagonal(model, part, kind)
    fisher.per_example_gradients(model, part)
    assert same(before, state(model)) and modes == [m.training for m in model.modules()]
    assert all(p.grad is None for p in model.parameters()) and torch.equal(rng, torch.get_rng_state())
    assert not any(m._forward_hooks for m in model.modules())


def test_example_gradients_are_pulled_back_residuals():
    model, part = network("cnn")
    rows = fisher.per_example_gradients(model, part)
    pixels = part.pixels(dtype=torch.float64)
    residual = (model(pixels).softmax(1) - F.one_hot(part.labels, 3)).detach()
    assert torch.allclose(rows, fisher.pulled_back(model, pixels, residual), atol=1e-12)
    assert torch.allclose(rows.mean(0), gradients.mean_gradient(model, part), atol=1e-12)
    assert torch.allclose(rows.square().mean(0), fisher.fisher_diagonal(model, part, "empirical"), atol=1e-12)


def test_curvature_offers_the_same_functions():
    from unlearnlib.approximate import curvature

    assert curvature.fisher_diagonal is fisher.fisher_diagonal
    assert curvature.per_example_gradients is fisher.per_example_gradients


def test_the_true_diagonal_is_that_of_the_gauss_newton_matrix():
    from unlearnlib.approximate import curvature

    model, part = network("mlp")
    found = fisher.fisher_diagonal(model, part)
    for j in np.linspace(0, len(found) - 1, 12).astype(int):
        unit = torch.zeros_like(found)
        unit[j] = 1
        assert float(curvature.ggn_vp(model, part, unit)[j]) == pytest.approx(float(found[j]), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "fisher"}, "kind must be one of true, empirical"),
        ({"samples": 2}, "together with rng"),
        ({"kind": "empirical", "samples": 2, "rng": torch.Generator()}, 'samples is for kind="true"'),
    ],
)
def test_errors_at_the_door(arguments, message):
    model, part = network("mlp")
    with pytest.raises(ValueError, match=message):
        fisher.fisher_diagonal(model, part, **arguments)
    with pytest.raises(ValueError, match="more than 268435456 numbers: give fewer examples"):
        fisher.check_size(2**20, 2**9, "give fewer examples")
