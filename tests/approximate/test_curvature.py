"""Curvature products against finite differences and dense matrices, solvers against one another, K-FAC against G."""

import copy

import pytest
import torch
from small import dataset, examples, state, stranger
from torch import nn

from unlearnlib.approximate import curvature
from unlearnlib.approximate.curvature import kronecker, solvers
from unlearnlib.approximate.curvature.products import jacobians, jvp
from unlearnlib.approximate.gradients import mean_gradient, shaped, trainable
from unlearnlib.data.examples import Examples
from unlearnlib.training import models
from unlearnlib.training.loop import Diverged, Tally


class Attention(nn.Module):
    """A layer without rules of its own, whose fused kernels have no second derivative."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = x.flatten(1).unflatten(1, (8, 8))
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class InPlace(nn.Sequential):
    def __init__(self):
        layers = [nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(27, 3)]
        super().__init__(*layers)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def network(name: str) -> nn.Module:
    options = {"mlp": {"hidden": (6,)}, "cnn": {"width": 2, "hidden": 5}, "resnet_bn": {"width": 2}}
    if name in options:
        return models.build(name, dataset(n=60), **options[name]).double()
    own = {"stranger": lambda: stranger(), "attention": Attention, "in place": InPlace}
    return seeded(own[name])


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in trainable(model).values())


def vector(model: nn.Module, seed: int = 0) -> torch.Tensor:
    return torch.randn(size(model), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(model: nn.Module, step: torch.Tensor) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, piece in shaped(step, trainable(other)).items():
            trainable(other)[name].add_(piece)
    return other


TRAIN = examples(n=24)
ALL = ["mlp", "cnn", "resnet_bn", "stranger", "attention", "in place"]


@pytest.mark.parametrize("name", ALL)
def test_hvp_is_the_derivative_of_the_gradient(name):
    model = at(network(name), 0.01 * vector(network(name), 5))  # fresh biases of 0 leave activations on the kink
    v, eps = vector(model), 1e-7
    slopes = [mean_gradient(at(model, sign * eps * v), TRAIN) for sign in (1, -1)]
    expected = (slopes[0] - slopes[1]) / (2 * eps)
    found = curvature.hvp(model, TRAIN, v)
    assert (found - expected).norm() < 1e-6 * expected.norm()
    assert torch.allclose(curvature.hvp(model, TRAIN, v, batch_size=7), found, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_ggn_vp_is_its_definition(name):
    """J by one backward pass a logit, H by its formula: nothing of the code under test."""
    model = network(name)
    v, total = vector(model), 0
    before, modes = state(model), [m.training for m in model.modules()]
    copied = copy.deepcopy(model).eval()
    pixels = TRAIN.pixels(dtype=torch.float64)
    for x in pixels:
        logits = copied(x[None])[0]
        rows = [torch.autograd.grad(z, list(trainable(copied).values()), retain_graph=True) for z in logits]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        p = torch.softmax(logits, 0).detach()
        total = total + jacobian.T @ ((torch.diag(p) - torch.outer(p, p)) @ (jacobian @ v)) / len(TRAIN)
    found = curvature.ggn_vp(model, TRAIN, v)
    assert (found - total).norm() < 1e-12 * total.norm()
    assert torch.allclose(curvature.ggn_vp(model, TRAIN, v, batch_size=7), found, atol=1e-13)
    assert torch.allclose(curvature.Curvature(model, TRAIN).dense() @ v, found, atol=1e-12)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())
    assert all(p.grad is None for p in model.parameters())


def test_products_are_repeatable_and_the_hessian_is_symmetric():
    model = network("cnn")
    product = curvature.Curvature(model, TRAIN, "hessian")
    v, w = vector(model, 1), vector(model, 2)
    assert torch.equal(product(v), product(v))
    assert float(w @ product(v)) == pytest.approx(float(v @ product(w)), rel=1e-10)
    dense = product.dense()
    assert torch.allclose(dense, dense.T, atol=1e-12) and torch.allclose(dense @ v, product(v), atol=1e-12)


def test_for_a_linear_model_the_hessian_is_the_gauss_newton_matrix():
    model = models.build("mlp", dataset(n=60), hidden=()).double()
    v = vector(model)
    assert torch.allclose(curvature.hvp(model, TRAIN, v), curvature.ggn_vp(model, TRAIN, v), atol=1e-14)
    deep = network("mlp")
    assert not torch.allclose(curvature.hvp(deep, TRAIN, vector(deep)), curvature.ggn_vp(deep, TRAIN, vector(deep)))


def test_jvp_is_the_jacobian_times_v():
    model = network("cnn")
    expected = jacobians(model, TRAIN.pixels(dtype=torch.float64)) @ vector(model)
    assert torch.allclose(jvp(model, TRAIN, vector(model), batch_size=7), expected, atol=1e-13)


def test_the_cost_is_counted():
    model, tally = network("mlp"), Tally()
    product = curvature.Curvature(model, TRAIN, tally=tally)
    product(vector(model)), product(vector(model))
    assert tally.products == {"linearise": len(TRAIN), "ggn": 2 * len(TRAIN)}
    curvature.ggn_vp(model, TRAIN, vector(model), batch_size=7, tally=tally)
    curvature.hvp(model, TRAIN, vector(model), tally=tally)
    assert tally.products == {"linearise": 3 * len(TRAIN), "ggn": 3 * len(TRAIN), "hvp": len(TRAIN)}


def matrix(n: int = 12, worst: float = 1e3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64)).Q
    return (basis * torch.logspace(0, torch.tensor(worst).log10().item(), n, dtype=torch.float64)) @ basis.T


@pytest.mark.parametrize("solver", ["cg", "lissa", "dense"])
def test_solvers_agree_with_a_dense_solution(solver):
    a, b = matrix(worst=30.0), torch.linspace(-1, 1, 12, dtype=torch.float64)
    expected = torch.linalg.solve(a + 0.5 * torch.eye(12), b)
    options = {"damping": 0.5, "solver": solver, "iterations": 50_000, "tolerance": 1e-11}
    for c in (a, a.mv):
        found = curvature.solve(c, b, **options)
        assert (found.x - expected).norm() < 1e-9 * expected.norm() and found.converged
        true = (b - a @ found.x - 0.5 * found.x).norm() / b.norm()
        assert found.residuals[0] == 1 and found.residuals[-1] == pytest.approx(float(true), abs=1e-10)


@pytest.mark.parametrize("solver", ["cg", "lissa", "dense"])
def test_solvers_agree_on_a_network(solver):
    model = network("mlp")
    b = vector(model)
    dense = curvature.Curvature(model, TRAIN).dense()
    expected = torch.linalg.solve(dense + 0.1 * torch.eye(len(b), dtype=b.dtype), b)
    options = {"iterations": 2000, "tolerance": 1e-10}
    found = curvature.solve(model, b, TRAIN, damping=0.1, solver=solver, **options)
    assert (found.x - expected).norm() < 1e-8 * expected.norm()


def test_conjugate_gradients_need_no_more_products_than_dimensions_and_fewer_with_a_good_preconditioner():
    a, b = matrix(worst=100.0), torch.ones(12, dtype=torch.float64)
    plain = curvature.solve(a, b, damping=0.0, tolerance=1e-9)
    assert plain.converged and plain.products <= 14
    inverse = torch.linalg.inv(a)
    assert curvature.solve(a, b, damping=0.0, preconditioner=inverse.mv, tolerance=1e-9).products <= 2
    none = curvature.solve(a, 0 * b, damping=0.0)
    assert torch.equal(none.x, 0 * b) and none.converged and none.products == 0


def test_kfac_preconditions():
    """Inputs of very different sizes, which the factor of the inputs undoes."""
    rng = torch.Generator().manual_seed(0)
    scales = torch.logspace(-1, 1, 16).reshape(1, 1, 4, 4)
    data = Examples(torch.randn(200, 1, 4, 4, generator=rng) * scales, torch.arange(200) % 3)
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with torch.no_grad():
        model[1].weight.mul_(0.01)
    b = mean_gradient(model, data)
    options = {"damping": 1e-4, "tolerance": 1e-8, "iterations": 500}
    plain = curvature.solve(model, b, data, **options)
    better = curvature.solve(model, b, data, **options, preconditioner=curvature.kfac(model, data).inverse(1e-4))
    assert plain.converged and better.converged and better.products < plain.products / 2
    assert torch.allclose(plain.x, better.x, atol=1e-5)


def test_lissa_converges_at_its_rate_and_says_when_it_diverges():
    a = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    b = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = curvature.solve(a, b, damping=0.0, solver="lissa", scale=4.0, iterations=10, tolerance=0.0)
    assert found.residuals == pytest.approx([0.75**k for k in range(11)])
    with pytest.raises(Diverged, match="raise scale"):
        curvature.solve(a, b + 1, damping=0.0, solver="lissa", scale=1.5, iterations=1000)


def test_lissa_on_random_batches_is_right_on_average_and_repeats():
    model = models.build("mlp", dataset(n=60), hidden=()).double()
    b = mean_gradient(model, TRAIN)
    options = {"damping": 0.5, "solver": "lissa", "iterations": 150, "tolerance": 0.0, "scale": 20.0}
    found = curvature.solve(model, b, TRAIN, draw=6, seed=1, **options)
    assert found.residuals[-1] < 0.3
    assert torch.equal(found.x, curvature.solve(model, b, TRAIN, draw=6, seed=1, **options).x)
    assert not torch.equal(found.x, curvature.solve(model, b, TRAIN, draw=6, seed=2, **options).x)
    true = (b - curvature.ggn_vp(model, TRAIN, found.x) - 0.5 * found.x).norm() / b.norm()
    assert found.residuals[-1] == pytest.approx(float(true))


def test_an_indefinite_matrix_is_refused():
    a = torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64))
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for solver in ("cg", "dense"):
        with pytest.raises(ValueError, match="raise damping, or take the ggn"):
            curvature.solve(a, b, damping=0.5, solver=solver)
        assert curvature.solve(a, b, damping=3.0, solver=solver, tolerance=1e-9).converged


def test_requests_that_cannot_be_served():
    model, b = network("mlp"), torch.ones(3)
    for given, message in (
        ({"solver": "gmres"}, "solver is one of"),
        ({"solver": "ekfac"}, "needs a model and examples"),
        ({"damping": -1.0}, "damping >= 0"),
        ({"solver": "lissa", "draw": 3}, "give a model and examples"),
    ):
        with pytest.raises(ValueError, match=message):
            curvature.solve(torch.eye(3), b, **{"damping": 0.1, **given})
    with pytest.raises(ValueError, match="give the examples"):
        curvature.solve(model, b, damping=0.1)
    with pytest.raises(ValueError, match="one entry a trainable weight"):
        curvature.ggn_vp(model, TRAIN, b)
    with pytest.raises(ValueError, match="curvature is one of"):
        curvature.Curvature(model, TRAIN, "fisher")
    with pytest.raises(ValueError, match="too many for a dense matrix"):
        curvature.Curvature(models.build("mlp", dataset(n=60), hidden=(200,)), TRAIN).dense()
    with pytest.raises(ValueError, match="damping > 0"):
        curvature.kfac(model, TRAIN).inverse(0.0)


def blocks(model: nn.Module, approximation) -> list[torch.Tensor]:
    """Positions in a vector [P] of each block of the approximation."""
    places = shaped(torch.arange(size(model)), trainable(model))
    return [
        torch.cat([places[name].flatten() for name in (b.weight, b.bias) if name is not None])
        for b in approximation.blocks
    ]


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet_bn", "in place"])
def test_ekfac_is_no_worse_than_kfac_block_by_block(name):
    model = network(name)
    exact = curvature.Curvature(model, TRAIN).dense()
    first, second = curvature.kfac(model, TRAIN), curvature.ekfac(model, TRAIN)
    dense = [first.dense(), second.dense()]
    for where in blocks(model, first):
        errors = [(exact - d)[where][:, where].norm() for d in dense]
        assert errors[1] <= errors[0] * (1 + 1e-12)
    held = torch.zeros(size(model), dtype=torch.bool)
    held[torch.cat(blocks(model, first))] = True
    assert torch.allclose(dense[1].diagonal()[~held], exact.diagonal()[~held], atol=1e-12)
    # the trace of each block is kept by the corrected eigenvalues
    assert float(dense[1].trace()) == pytest.approx(float(exact.trace()), rel=1e-10)
    assert set(approximated_layers(second)) == EXPECTED[name]


EXPECTED = {
    "mlp": {"2", "4"},
    "cnn": {"1", "5", "7"},
    "resnet_bn": None,
    "in place": {"0", "3"},
}
EXPECTED["resnet_bn"] = {
    name
    for name, module in network("resnet_bn").named_modules()
    if isinstance(module, nn.Conv2d) or isinstance(module, nn.Linear)
}


def approximated_layers(approximation) -> list[str]:
    return [block.layer for block in approximation.blocks]


def test_shared_and_frozen_weights_are_in_no_block():
    model = network("stranger")
    found = curvature.ekfac(model, TRAIN)
    assert set(approximated_layers(found)) == {"first", "head"}
    exact = shaped(curvature.fisher_diagonal(model, TRAIN), trainable(model))
    assert set(found.diagonal) == {"norm.weight", "norm.bias", "second.weight", "second.bias", "third.bias"}
    assert all(torch.equal(found.diagonal[name], exact[name]) for name in found.diagonal)


def test_kfac_and_ekfac_are_exact_where_inputs_and_output_gradients_are_independent():
    """With a zero weight every picture gets the same answer, so g does not depend on a."""
    model = models.build("mlp", dataset(n=60), hidden=()).double()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([0.3, -1.0, 0.5]))
    exact = curvature.Curvature(model, TRAIN).dense()
    for make in (curvature.kfac, curvature.ekfac):
        assert (make(model, TRAIN).dense() - exact).norm() < 1e-12 * exact.norm()


def test_kfac_of_a_convolution_is_exact_where_one_place_is_read_and_all_look_alike():
    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(2, 3, 1, dtype=torch.float64)

        def forward(self, x):
            return self.convolution(x)[:, :, 0, 0]

    torch.manual_seed(0)
    net, picture = Corner(), torch.tensor([0.3, -1.2], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    one = Examples(picture.clone(), torch.tensor([1]))
    exact = curvature.Curvature(net, one).dense()  # 20 places: a sum over them for inputs, a mean for gradients
    assert exact.abs().max() > 0.01 and torch.allclose(curvature.kfac(net, one).dense(), exact, atol=1e-12)


def test_ekfac_is_exact_for_one_example():
    """For one picture E[a a^T] has one direction, and a layer's block is a Kronecker product."""
    model, one = models.build("mlp", dataset(n=60), hidden=()).double(), TRAIN[:1]
    exact = curvature.Curvature(model, one).dense()
    assert torch.allclose(curvature.ekfac(model, one).dense(), exact, atol=1e-13)


@pytest.mark.parametrize("name", ["cnn", "stranger"])
def test_inverse_and_product_of_an_approximation_are_inverse(name):
    model = network(name)
    approximation = curvature.ekfac(model, TRAIN)
    v = vector(model)
    assert torch.allclose(approximation.inverse(0.1)(approximation(v) + 0.1 * v), v, atol=1e-9)
    rows = torch.stack([v, 2 * v])
    assert torch.allclose(approximation(rows)[1], 2 * approximation(v), atol=1e-12)
    w = vector(model, 1)
    assert float(w @ approximation(v)) == pytest.approx(float(v @ approximation(w))) and float(v @ approximation(v)) > 0
    found = curvature.solve(model, v, TRAIN, damping=0.1, solver="ekfac")
    assert torch.allclose(found.x, approximation.inverse(0.1)(v), atol=1e-12) and len(found.residuals) == 2


def test_drawn_answers_give_the_exact_factors_on_average():
    model = network("mlp")
    exact = curvature.kfac(model, TRAIN).dense()
    few, many = (curvature.kfac(model, TRAIN, samples=m, seed=3).dense() for m in (1, 400))
    assert (many - exact).norm() < 0.1 * exact.norm() and (many - exact).norm() < 0.4 * (few - exact).norm()
    assert torch.equal(few, curvature.kfac(model, TRAIN, samples=1, seed=3).dense())


@pytest.mark.parametrize("name", ["cnn", "stranger"])
def test_spread_is_the_jacobian_through_the_inverse(name):
    model = network(name)
    approximation = curvature.ekfac(model, TRAIN)
    rows = jacobians(model, TRAIN.pixels(dtype=torch.float64))
    through = torch.stack([approximation.inverse(0.05)(row) for row in rows])
    found = kronecker.spread(approximation, model, TRAIN, 0.05)
    assert torch.allclose(found, through @ rows.mT, atol=1e-9)


def test_the_largest_eigenvalue_is_found():
    assert solvers.largest_eigenvalue(matrix().mv, torch.ones(12, dtype=torch.float64), 200) == pytest.approx(1e3)


def test_a_frozen_layer_and_a_convolution_with_stride_padding_and_dilation():
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, 2, 2, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    )
    net[3].bias.requires_grad_(False)
    data = Examples(torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3)
    exact, found = curvature.Curvature(net, data).dense(), curvature.ekfac(net, data)
    assert len(found.blocks) == 2 and {b.bias for b in found.blocks} == {None}
    assert float(found.dense().trace()) == pytest.approx(float(exact.trace()), rel=1e-10)
