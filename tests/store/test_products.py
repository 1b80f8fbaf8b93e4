"""The products of pinned mode: right for every shape, layout and variant, and numpy's to the last bit."""

import gc
import hashlib
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap

from unlearnlib.store import products

NAMES = ("mm", "mm.out", "bmm", "bmm.out", "addmm", "addmm.out", "addmm_", "baddbmm", "baddbmm.out", "baddbmm_")
OWN = {name: torch.library.get_kernel(f"aten::{name}", "CPU") for name in NAMES}
CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

DTYPES = (torch.float32, torch.float64)
OTHERS = (torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.complex64, torch.complex128)
LAYOUTS = ("plain", "transposed", "every other", "a part", "one row again", "one column again", "reversed twice")
layouts = st.sampled_from(LAYOUTS)
sides = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 33, 64, 100, 130]))


def own(name, *args, **kwargs):
    """What torch's own kernel gives."""
    return OWN[name].call_boxed(CPU, *args, **kwargs)


@pytest.fixture
def count(monkeypatch):
    """A list that grows with every product that numpy computes; the size rule is off."""
    calls, multiply = [], products._multiply

    def counted(a, b, shape, out=None):
        calls.append(shape)
        return multiply(a, b, shape, out)

    monkeypatch.setattr(products, "_multiply", counted)
    monkeypatch.setattr(products, "LEAST", 0)
    monkeypatch.setattr(products, "LEAST_EACH", 0)
    return calls


@pytest.fixture(scope="module", autouse=True)
def every_size():
    """All sizes go to numpy, unless a test says otherwise."""
    before = products.LEAST, products.LEAST_EACH
    products.LEAST = products.LEAST_EACH = 0
    products.use()
    yield
    products.LEAST, products.LEAST_EACH = before
    products._library._destroy()  # other tests go on with torch's own
    products._library = None


def filled(shape, dtype, seed, layout="plain"):
    """Numbers between -1 and 1 in the given layout of memory."""
    numbers = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).sub(1)
    plain = numbers.to(dtype)
    if layout == "transposed":
        return plain.mT.contiguous().mT
    if layout == "every other":
        return plain.repeat_interleave(2, -1)[..., ::2]
    if layout == "a part":
        return F.pad(plain, (3, 4, 1, 2))[..., 1 : 1 + shape[-2], 3 : 3 + shape[-1]]
    if layout == "one row again":
        return plain[..., :1, :].expand(shape)
    if layout == "one column again":
        return plain[..., :1].expand(shape)
    if layout == "reversed twice":
        return plain.transpose(0, -1).contiguous().transpose(0, -1)
    return plain


def bound(a, b, scale=1.0):
    """The rounding error that a sum of products may show, entry by entry."""
    unit = torch.finfo(a.dtype).eps
    return scale * unit * (a.shape[-1] + 4) * (a.double().abs() @ b.double().abs() + 1)


def check(result, reference, limit):
    assert result.shape == reference.shape
    assert ((result.double() - reference).abs() <= limit).all()


def bits(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()


@settings(max_examples=300, deadline=None)
@given(sides, sides, sides, layouts, layouts, st.sampled_from(DTYPES), st.integers(0, 99))
def test_mm_of_any_shape_and_layout(m, k, n, left, right, dtype, seed):
    a, b = filled((m, k), dtype, seed, left), filled((k, n), dtype, seed + 1, right)
    result = torch.mm(a, b)
    assert result.dtype is dtype and result.is_contiguous()
    check(result, a.double() @ b.double(), bound(a, b))
    check(result, own("mm", a, b).double(), 2 * bound(a, b))
    assert bits(result) == bits(torch.mm(a, b))
    out = torch.full((m, n), torch.nan, dtype=dtype)
    assert torch.mm(a, b, out=out) is out and bits(out) == bits(result)
    check(torch.mm(a, b, out=torch.empty(n, m, dtype=dtype).mT), a.double() @ b.double(), bound(a, b))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7), sides, sides, sides, layouts, layouts, st.sampled_from(DTYPES), st.integers(0, 99))
def test_bmm_of_any_shape_and_layout(batch, m, k, n, left, right, dtype, seed):
    a, b = filled((batch, m, k), dtype, seed, left), filled((batch, k, n), dtype, seed + 1, right)
    result = torch.bmm(a, b)
    assert result.dtype is dtype and result.is_contiguous()
    check(result, a.double() @ b.double(), bound(a, b))
    check(result, own("bmm", a, b).double(), 2 * bound(a, b))
    assert bits(result) == bits(torch.bmm(a, b))
    out = torch.full((batch, m, n), torch.nan, dtype=dtype)
    assert torch.bmm(a, b, out=out) is out and bits(out) == bits(result)
    shared = b[:1].expand(batch, k, n)
    check(torch.bmm(a, shared), a.double() @ shared.double(), bound(a, shared))


factors = st.sampled_from([0, 1, -1, 2, 0.5, -1.25, 1.0, 0.0, True])


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([None, 1, 3]), sides, sides, sides, layouts, layouts, st.sampled_from(DTYPES),
    factors, factors, st.sampled_from(["whole", "row", "column", "one", "scalar", "batch"]), st.integers(0, 99),
)  # fmt: skip
def test_sums_with_alpha_and_beta(batch, m, k, n, left, right, dtype, beta, alpha, kind, seed):
    lead = () if batch is None else (batch,)
    name = "addmm" if batch is None else "baddbmm"
    call = getattr(torch, name)
    a, b = filled((*lead, m, k), dtype, seed, left), filled((*lead, k, n), dtype, seed + 1, right)
    shapes = {
        "whole": (*lead, m, n),
        "row": (n,),
        "column": (m, 1),
        "one": (1, 1),
        "scalar": (),
        "batch": (*lead[:1], m, n),
    }
    c = filled(shapes[kind], dtype, seed + 2)
    reference = (float(beta) * c.double() + float(alpha) * (a.double() @ b.double())).expand(*lead, m, n)
    limit = 4 * bound(a, b)
    result = call(c, a, b, beta=beta, alpha=alpha)
    assert result.dtype is dtype and result.is_contiguous()
    check(result, reference, limit)
    if alpha:  # with alpha = 0 the own kernels differ among themselves
        check(result, own(name, c, a, b, beta=beta, alpha=alpha).double(), 2 * limit)
    out = torch.full(reference.shape, torch.nan, dtype=dtype)
    assert call(c, a, b, beta=beta, alpha=alpha, out=out) is out and bits(out) == bits(result)
    check(call(c, a, b, beta=beta, alpha=alpha, out=out.mT.clone().mT), reference, limit)
    if c.shape == reference.shape:
        for changed in (c.clone(), c.mT.clone().mT, F.pad(c, (1, 2))[..., 1:-2]):
            version = changed._version
            assert getattr(changed, f"{name}_")(a, b, beta=beta, alpha=alpha) is changed
            assert changed._version > version
            check(changed, reference, limit)
        assert call(c, a, b, beta=beta, alpha=alpha, out=c) is c  # `out` is the summand
        check(c, reference, limit)


def test_all_ten_operators_reach_numpy(count):
    a, b, c = filled((5, 6), torch.float32, 0), filled((6, 7), torch.float32, 1), filled((5, 7), torch.float32, 2)
    torch.mm(a, b)
    torch.mm(a, b, out=torch.empty(0))
    torch.addmm(c, a, b)
    torch.addmm(c, a, b, out=torch.empty(0))
    c.addmm_(a, b)
    torch.bmm(a[None], b[None])
    torch.bmm(a[None], b[None], out=torch.empty(0))
    torch.baddbmm(c[None], a[None], b[None])
    torch.baddbmm(c[None], a[None], b[None], out=torch.empty(0))
    c[None].baddbmm_(a[None], b[None])
    assert len(count) == 10


@pytest.mark.parametrize(
    "use",
    [
        lambda x, w: F.linear(x, w),
        lambda x, w: F.linear(x[0], w),
        lambda x, w: F.linear(x, w, torch.ones(7)),
        lambda x, w: x @ w.T,
        lambda x, w: torch.einsum("ij,kj->ik", x, w),
        lambda x, w: torch.tensordot(x, w, ([1], [1])),
        lambda x, w: torch.matmul(x[None], w.T),
        lambda x, w: torch.inner(x, w),
        lambda x, w: F.linear(x[None], w, torch.ones(7)),
        lambda x, w: torch.linalg.multi_dot([x, w.T, torch.eye(7)]),
        lambda x, w: torch.cdist(x, w, compute_mode="use_mm_for_euclid_dist"),
        lambda x, w: torch.addbmm(torch.zeros(5, 7), x[None], w.T[None]),
        lambda x, w: torch.einsum("bij,bkj->bik", x[None], w[None]),
        lambda x, w: F.bilinear(x, x, w[:, None].expand(7, 6, 6)),
        lambda x, w: torch.linalg.matrix_power(x[:, :5].clone(), 3),
        lambda x, w: torch.nn.MultiheadAttention(6, 2)(x[None], x[None], x[None])[0],
        lambda x, w: torch.nn.GRU(6, 3)(x[None])[0],
    ],
)
def test_what_is_made_of_products_reaches_numpy(use, count):
    use(filled((5, 6), torch.float32, 0), filled((7, 6), torch.float32, 1))
    assert count


def test_matrix_times_vector_stays_where_it_was(count):
    a, v = filled((5, 6), torch.float32, 0), filled((6,), torch.float32, 1)
    torch.mv(a, v), torch.addmv(torch.ones(5), a, v), torch.dot(v, v), a @ v, F.linear(a, v)
    assert not count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(128, 784, 128), (128, 128, 10), (1, 300, 7), (300, 1, 7), (33, 65, 1), (8, 17, 31, 13)]
)
@pytest.mark.parametrize("left", ["plain", "transposed", "a part"])
@pytest.mark.parametrize("right", ["plain", "transposed", "every other"])
def test_bits_are_those_of_numpy(dtype, shape, left, right):
    *batch, m, k, n = shape
    a, b = filled((*batch, m, k), dtype, 0, left), filled((*batch, k, n), dtype, 1, right)
    multiply = torch.bmm if batch else torch.mm
    if k > 1:
        assert {bits(multiply(a, b)) for _ in range(5)} == {bits(torch.from_numpy(np.matmul(a.numpy(), b.numpy())))}
    else:
        assert {bits(multiply(a, b)) for _ in range(5)} == {bits(own("bmm" if batch else "mm", a, b))}
    if min(m, n) > 1 and k > 1:  # a layout changes no bit, except where BLAS multiplies by a vector
        assert bits(multiply(a, b)) == bits(multiply(a.contiguous(), b.contiguous()))


def test_bits_do_not_depend_on_where_the_memory_begins():
    a, b = filled((37, 150), torch.float32, 0), filled((150, 29), torch.float32, 1)
    for first, second in ((a, b), (a[:1], b), (a, b[:, :1])):
        seen = set()
        for shift in range(16):
            memory = torch.empty(first.numel() + 16)
            moved = memory[shift : shift + first.numel()].view(first.shape).copy_(first)
            seen.add(bits(torch.mm(moved, second.contiguous())))
        assert len(seen) == 1


@pytest.mark.parametrize("dtype", OTHERS)
def test_other_dtypes_are_torchs(dtype, count):
    a, b = (filled((6, 6), torch.float64, seed).mul(9).to(dtype) for seed in (0, 1))
    assert torch.equal(torch.mm(a, b), own("mm", a, b))
    assert torch.equal(torch.bmm(a[None], b[None]), own("bmm", a[None], b[None]))
    assert torch.equal(torch.addmm(a, a, b), own("addmm", a, a, b))
    assert torch.equal(a.clone().addmm_(a, b), own("addmm", a, a, b))
    out = torch.empty_like(a)
    assert torch.equal(torch.mm(a, b, out=out), own("mm", a, b))
    assert torch.equal(torch.baddbmm(a[None], a[None], b[None]), own("baddbmm", a[None], a[None], b[None]))
    assert not count


@pytest.mark.parametrize("m, k, n", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (1, 0, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_size_zero(m, k, n, dtype):
    a, b, c = torch.ones(m, k, dtype=dtype), torch.ones(k, n, dtype=dtype), torch.ones(m, n, dtype=dtype)
    assert torch.equal(torch.mm(a, b), torch.zeros(m, n, dtype=dtype))
    assert torch.equal(torch.bmm(a[None], b[None]), torch.zeros(1, m, n, dtype=dtype))
    assert torch.bmm(torch.ones(0, 2, 3), torch.ones(0, 3, 4)).shape == (0, 2, 4)
    assert torch.equal(torch.addmm(c, a, b, beta=2), 2 * c)
    assert torch.equal(torch.baddbmm(c, a[None], b[None], beta=2), 2 * c[None])
    assert torch.equal(c.clone().addmm_(a, b), c)
    assert torch.equal(torch.mm(a, b, out=torch.empty(0, dtype=dtype)), torch.zeros(m, n, dtype=dtype))


def test_conjugate_and_negative_views():
    z = torch.complex(filled((6, 6), torch.float32, 0), filled((6, 6), torch.float32, 1))
    assert z.conj().is_conj() and z.conj().imag.is_neg()
    assert torch.allclose(z.conj() @ z.mH, (z.conj().resolve_conj()) @ (z.mH.resolve_conj()))
    negative = z.conj().imag
    assert torch.equal(negative @ negative.mT.clone(), (-z.imag) @ (-z.imag).mT.clone())
    target = torch.zeros(6, 6, dtype=torch.complex64).conj().imag  # an `out` whose memory holds the opposite
    assert target.is_neg()
    torch.mm(z.real.clone(), z.imag.clone(), out=target)
    assert torch.allclose(target, z.real.clone() @ z.imag.clone())
    other = torch.zeros(6, 6, dtype=torch.complex64).conj().imag
    assert torch.allclose(other.addmm_(z.real, z.imag), z.real.clone() @ z.imag.clone())


def test_beta_zero_ignores_what_was_there_and_alpha_zero_is_torchs(count):
    a, b = filled((5, 6), torch.float32, 0), filled((6, 7), torch.float32, 1)
    nothing = torch.full((5, 7), torch.nan)
    assert torch.equal(torch.addmm(nothing, a, b, beta=0), torch.mm(a, b))
    assert torch.equal(torch.baddbmm(nothing, a[None], b[None], beta=0)[0], torch.bmm(a[None], b[None])[0])
    assert torch.equal(nothing.clone().addmm_(a, b, beta=0), torch.mm(a, b))
    assert torch.equal(torch.addmm(nothing, a, b, beta=0, out=nothing), torch.mm(a, b))
    assert torch.addmm(nothing[0] * torch.nan, a, b).isnan().all()
    before = len(count)
    assert torch.equal(torch.addmm(torch.ones(7), a * torch.nan, b, alpha=0), torch.ones(5, 7))
    assert len(count) == before


def test_infinities_pass_through_without_a_word():
    a, b = torch.full((4, 4), torch.inf), torch.tensor([1.0, 0.0, -1.0, torch.nan]).diag()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(torch.mm(a, b).isnan(), own("mm", a, b).isnan())
        assert torch.mm(torch.full((4, 4), 3e38), torch.full((4, 4), 3e38)).isinf().all()


def test_an_out_that_is_also_a_factor():
    a, b = filled((6, 6), torch.float32, 0), filled((6, 6), torch.float32, 1)
    expected = torch.mm(a, b)
    assert torch.equal(torch.mm(a, b, out=(c := a.clone())), expected) and torch.equal(c, expected)
    c = a.clone()
    assert torch.equal(torch.mm(c, b, out=c), expected)
    c = b.clone()
    assert torch.equal(torch.addmm(torch.zeros(6), a, c, out=c), expected)
    c = a.clone()
    assert torch.allclose(c.addmm_(c, b), a + expected)
    memory = torch.empty(7, 6)
    memory[:6] = a
    assert torch.equal(torch.mm(memory[:6], b, out=memory[1:]), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: torch.mm(a, a[:3]),
        lambda a: torch.mm(a, a.double()),
        lambda a: torch.mm(a, a[0]),
        lambda a: torch.bmm(a, a),
        lambda a: torch.bmm(a[None], a[None].expand(2, 4, 4)),
        lambda a: torch.addmm(torch.ones(3), a, a),
        lambda a: torch.addmm(torch.ones(3), a, a, beta=0),
        lambda a: torch.addmm(torch.ones(1, 4, 4), a, a),
        lambda a: torch.addmm(a.double(), a, a),
        lambda a: torch.addmm(a, a, a, alpha=1j),
        lambda a: torch.ones(4).addmm_(a, a),
        lambda a: a.double().addmm_(a, a),
        lambda a: torch.mm(a, a, out=torch.empty(4, 4, dtype=torch.double)),
        lambda a: torch.mm(a, a, out=torch.empty(1, 4).expand(4, 4)),
        lambda a: torch.ones(4).baddbmm_(a[None], a[None]),
        lambda a: torch.mm(a, a, out=torch.empty(4, 4, requires_grad=True)),
        lambda a: torch.baddbmm(torch.ones(2, 4, 4), a[None], a[None]),
        lambda a: torch.addmm(a, a, a, out=torch.empty(4, 4, dtype=torch.int64)),
    ],
)
def test_wrong_arguments_are_refused_in_torchs_words(wrong, count):
    a = filled((4, 4), torch.float32, 0)
    with pytest.raises(RuntimeError) as patched:
        wrong(a)
    _unpatch()
    try:
        with pytest.raises(RuntimeError) as plain:
            wrong(a)
    finally:
        products.use()
    assert str(patched.value) == str(plain.value)


def _unpatch():
    products._library._destroy()
    products._library = None


def test_an_out_of_another_shape_is_resized_with_torchs_warning():
    a = filled((4, 4), torch.float32, 0)
    with pytest.warns(UserWarning, match="was resized"):
        out = torch.mm(a, a, out=torch.empty(2, 4))
    assert torch.allclose(out, torch.mm(a, a))
    out = torch.empty(0)
    assert torch.mm(a, a, out=out).shape == out.shape == (4, 4)


def test_gradients_of_first_and_second_order(count):
    f64 = torch.float64
    a, b, c = (filled(shape, f64, i).requires_grad_() for i, shape in enumerate([(3, 4), (4, 5), (5,)]))
    assert torch.autograd.gradcheck(torch.mm, (a, b), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(torch.mm, (a, b))

    def total(c, a, b):
        return torch.addmm(c, a, b, beta=0.5, alpha=-2)

    assert torch.autograd.gradcheck(total, (c, a, b), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(total, (c, a, b))
    a3, b3 = (filled(shape, f64, i).requires_grad_() for i, shape in enumerate([(2, 3, 4), (2, 4, 5)]))
    assert torch.autograd.gradcheck(torch.bmm, (a3, b3), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradcheck(torch.baddbmm, (c, a3, b3), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradcheck(lambda c, a, b: (c * torch.ones(3, 5, dtype=f64)).addmm_(a, b), (c, a, b))
    assert count


def test_the_graph_is_torchs():
    a, b = filled((5, 6), torch.float32, 0).requires_grad_(), filled((6, 7), torch.float32, 1).requires_grad_()
    assert torch.mm(a, b).grad_fn.name() == "MmBackward0"
    assert F.linear(a, b.T, torch.ones(7)).grad_fn.name() == "AddmmBackward0"
    with torch.no_grad():
        assert not torch.mm(a, b).requires_grad
        assert torch.equal(torch.mm(a, b, out=torch.empty(5, 7)), torch.mm(a, b))
    with torch.inference_mode():
        assert torch.mm(a, b).is_inference()
        assert torch.ones(5, 7).addmm_(a, b).is_inference()
    result = torch.mm(a, b)
    saved = b.detach()
    saved.addmm_(torch.ones(6, 2), torch.ones(2, 7))  # changes what backward needs: torch must notice
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


class Net(torch.nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(dtype)

    def forward(self, x):
        return self.layers(x)


def test_torch_func(count):
    net, x, y = Net(), filled((10, 6), torch.float64, 3), torch.arange(10) % 3
    params = {k: v.detach() for k, v in net.named_parameters()}

    def loss(params, x, y):
        return F.cross_entropy(functional_call(net, params, (x,)), y)

    def one(params, x, y):
        return loss(params, x[None], y[None])

    def everything():
        each = vmap(grad(one), (None, 0, 0))(params, x, y)
        stacked = {k: torch.stack([v, 2 * v, -v]) for k, v in params.items()}
        many = vmap(grad(loss), (0, None, None))(stacked, x, y)
        nested = vmap(vmap(one, (None, 0, 0)), (0, None, None))(stacked, x, y)
        forward = jvp(lambda p: loss(p, x, y), (params,), (stacked_one(stacked),))
        back, pull = vjp(lambda p: functional_call(net, p, (x,)), params)
        jacobian = jacrev(lambda p: functional_call(net, p, (x,)))(params)
        curvature = hessian(lambda w: loss({**params, "layers.2.bias": w}, x, y))(params["layers.2.bias"])
        return torch.utils._pytree.tree_leaves((each, many, nested, forward, back, pull(back), jacobian, curvature))

    def stacked_one(stacked):
        return {k: v[1] for k, v in stacked.items()}

    patched = everything()
    assert count
    _unpatch()
    try:
        plain = everything()
    finally:
        products.use()
    assert len(patched) == len(plain) > 20
    for got, expected in zip(patched, plain, strict=True):
        assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_hessian_vector_products_by_all_three_orders(count):
    net, x, y = Net(), filled((10, 6), torch.float64, 3), torch.arange(10) % 3
    params = {k: v.detach() for k, v in net.named_parameters()}
    ones = {k: torch.ones_like(v) for k, v in params.items()}

    def loss(params):
        return F.cross_entropy(functional_call(net, params, (x,)), y)

    forward = jvp(grad(loss), (params,), (ones,))[1]
    twice = vjp(grad(loss), params)[1](ones)[0]
    mixed = grad(lambda p: jvp(loss, (p,), (ones,))[1])(params)
    for k in params:
        assert torch.allclose(forward[k], twice[k], rtol=1e-10) and torch.allclose(forward[k], mixed[k], rtol=1e-10)
    assert count


def test_vmap_over_every_combination_of_dimensions():
    a, b, c = (
        filled((3, 4, 5), torch.float64, 0),
        filled((3, 5, 6), torch.float64, 1),
        filled((3, 4, 6), torch.float64, 2),
    )
    assert torch.allclose(vmap(torch.mm)(a, b), a @ b)
    assert torch.allclose(vmap(torch.mm, (0, None))(a, b[0]), a @ b[0])
    assert torch.allclose(vmap(torch.mm, (None, 2), 1)(a[0], b.permute(1, 2, 0)), (a[0] @ b).transpose(0, 1))
    assert torch.allclose(vmap(lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=3))(c, a, b), 2 * c + 3 * (a @ b))
    assert torch.allclose(vmap(lambda a, b: torch.bmm(a, b))(a[None], b[None])[0], a @ b)
    assert torch.allclose(vmap(lambda c, a, b: c.clone().addmm_(a, b))(c, a, b), c + a @ b)
    assert torch.allclose(vmap(torch.baddbmm)(c[None], a[None], b[None])[0], c + a @ b)


def test_autocast_computes_in_bfloat16_as_before(count):
    a, b = filled((5, 6), torch.float32, 0), filled((6, 7), torch.float32, 1)
    with torch.autocast("cpu", torch.bfloat16):
        result = F.linear(a, b.T)
    assert result.dtype is torch.bfloat16 and not count
    assert torch.equal(result, own("mm", a.bfloat16(), b.bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.addmm(torch.ones(7), a, b).dtype is torch.bfloat16 and not count


def test_fake_and_meta_tensors_compute_nothing(count):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with FakeTensorMode():
        assert torch.mm(torch.ones(5, 6), torch.ones(6, 7)).shape == (5, 7)
        assert torch.addmm(torch.ones(7), torch.ones(5, 6), torch.ones(6, 7)).shape == (5, 7)
    assert torch.bmm(torch.ones(2, 5, 6, device="meta"), torch.ones(2, 6, 7, device="meta")).shape == (2, 5, 7)
    assert not count
    graph = make_fx(lambda a, b: torch.mm(a, b), tracing_mode="fake")(torch.ones(5, 6), torch.ones(6, 7))
    assert "aten.mm" in graph.code and not count
    sparse = torch.eye(6).to_sparse()
    assert torch.equal(torch.mm(sparse, torch.ones(6, 7)), torch.ones(6, 7)) and not count


def test_subclasses_modes_and_scripts(count):
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Named(torch.Tensor):
        pass

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    a, b, seen = filled((5, 6), torch.float32, 0), filled((6, 7), torch.float32, 1), []
    named = a.clone().as_subclass(Named).requires_grad_()
    product = torch.mm(named, b.clone().as_subclass(Named))
    product.sum().backward()
    assert type(product) is Named and torch.equal(torch.Tensor(product.detach()), torch.mm(a, b))
    with Seen():
        torch.mm(a, b)
    assert seen == ["aten.mm.default"]
    with FlopCounterMode(display=False) as flops:
        torch.mm(a, b)
    assert flops.get_total_flops() == 2 * 5 * 6 * 7
    assert torch.equal(torch.jit.trace(torch.mm, (a, b))(a, b), torch.mm(a, b))
    with torch.device("meta"):  # a default device for new tensors is not one for results
        assert torch.equal(torch.mm(a, b), own("mm", a, b)) or torch.mm(a, b).device.type == "cpu"
    assert len(count) >= 6


def test_several_threads_at_once():
    a, b = filled((150, 300), torch.float32, 0), filled((300, 100), torch.float32, 1).requires_grad_()
    expected, failures = bits(torch.mm(a, b)), []

    def work():
        for _ in range(100):
            product = torch.mm(a, b)
            (gradient,) = torch.autograd.grad(product.sum(), b)
            if bits(product) != expected or gradient.shape != b.shape:
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures


def test_a_forked_child_computes_the_same():
    a, b = filled((150, 300), torch.float32, 0), filled((300, 100), torch.float32, 1)
    expected = bits(torch.mm(a, b))
    child = os.fork()
    if child == 0:
        os._exit(0 if bits(torch.mm(a, b)) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_no_memory_is_kept():
    a, b = filled((50, 60), torch.float32, 0).requires_grad_(), filled((60, 70), torch.float32, 1)
    counts = []
    for _ in range(3):
        for _ in range(50):
            torch.mm(a, b).sum().backward()
            torch.addmm(torch.ones(70), a, b, out=None)
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[2] - counts[1] < 20


def test_the_rule_of_sizes(monkeypatch, count):
    monkeypatch.setattr(products, "LEAST", 2**18)
    monkeypatch.setattr(products, "LEAST_EACH", 2**7)
    for m, k, n, fast in (
        (64, 64, 64, True),
        (64, 64, 63, False),
        (128, 784, 10, True),
        (128, 128, 10, False),
        (1000, 1, 1000, False),
    ):
        count.clear()
        torch.mm(torch.ones(m, k), torch.ones(k, n))
        assert bool(count) is fast
    for batch, m, k, n, fast in (
        (8, 128, 128, 10, True),
        (4096, 4, 4, 4, False),
        (2048, 8, 8, 8, True),
        (99, 99, 1, 99, False),
    ):
        count.clear()
        torch.bmm(torch.ones(batch, m, k), torch.ones(batch, k, n))
        assert bool(count) is fast


def test_a_second_call_does_nothing():
    library = products._library
    products.use()
    assert products._library is library


def python(code, **env):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")}
    here = Path(products.__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment | env, cwd=here, capture_output=True, text=True
    )


def test_other_kernels_are_refused_in_one_line():
    done = python("from unlearnlib.store import products; products.use()", OPENBLAS_CORETYPE="Sandybridge")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: numpy uses OpenBLAS kernels for Sandybridge: "
        "restart with OPENBLAS_CORETYPE=Haswell set before its first import"
    )
    code = (
        "import torch\nfrom unlearnlib.store import products\ntry: products.use()\n"
        "except RuntimeError: pass\nprint(products._library)"
    )
    assert python(code, OPENBLAS_CORETYPE="Sandybridge").stdout == "None\n"


@pytest.mark.parametrize(
    "libraries, words",
    [
        ([], "numpy uses another library than OpenBLAS: restart"),
        ([("Haswell", 1), ("SkylakeX", 1)], "numpy uses OpenBLAS kernels for Haswell and SkylakeX: restart"),
        ([("Haswell", 2)], "another thread of this process holds"),
    ],
)
def test_every_refusal(libraries, words, monkeypatch):
    class Controller:
        def select(self, internal_api):
            return self

        def info(self):
            return [{"architecture": name, "num_threads": threads} for name, threads in libraries]

        def limit(self, limits):
            assert limits == 1  # as threadpoolctl does while another thread is in control: nothing happens

    monkeypatch.setattr(products, "ThreadpoolController", Controller)
    monkeypatch.setattr(products, "_library", None)
    with pytest.raises(RuntimeError, match=words) as refusal:
        products.use()
    assert "\n" not in str(refusal.value) and products._library is None


def test_use_is_silent_and_sets_one_thread():
    code = (
        "import torch, threadpoolctl; from unlearnlib.store import products; x = torch.ones(99, 99); x @ x; "
        "products.use(); products.use(); x @ x; print("
        "{i['num_threads'] for i in threadpoolctl.threadpool_info() if i['internal_api'] == 'openblas'})"
    )
    done = python(code, OPENBLAS_CORETYPE="Haswell")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{1}\n", "")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layout", [lambda x: x, lambda x: x.T, lambda x: x[::2, 1::3], lambda x: x[:0], lambda x: x[0, 0]]
)
def test_square_roots_are_correctly_rounded(dtype, layout):
    x = layout(torch.rand(40, 50, generator=torch.Generator().manual_seed(0), dtype=dtype) * 1e3)
    wanted = torch.from_numpy(np.sqrt(x.numpy().reshape(-1))).reshape(x.shape)
    assert torch.equal(x.sqrt(), wanted) and torch.equal(x.clone().sqrt_(), wanted)
    assert torch.equal(torch.sqrt(x, out=torch.empty_like(x)), wanted)
    assert x.sqrt().shape == x.shape and torch.isnan(torch.tensor(-1.0, dtype=dtype).sqrt())


def test_logarithms_of_float64_are_numpys_and_of_float32_torchs():
    x = torch.rand(40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9
    for part in (x, x.T, x[::2, 1::3], x[:0]):
        wanted = torch.from_numpy(np.log(part.numpy().reshape(-1))).reshape(part.shape)
        assert torch.equal(part.log(), wanted) and torch.equal(part.clone().log_(), wanted)
        assert torch.equal(torch.log(part, out=torch.empty(0, dtype=part.dtype)), wanted)
    assert torch.equal(torch.log(x, out=torch.empty(40, 50)), x.log().float())
    single = x.float()
    kernel = torch.library.get_kernel("aten::log", "CPU")
    assert torch.equal(single.log(), kernel.call_boxed(CPU, single))
    x = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    x.log().sum().backward()
    assert x.grad.tolist() == [0.5, float("inf"), -1.0] and x.log()[1] == -float("inf") and x.log()[2].isnan()


def test_square_roots_have_gradients_and_leave_other_types_alone():
    x = torch.tensor([4.0, 9.0], requires_grad=True)
    x.sqrt().sum().backward()
    assert torch.equal(x.grad, torch.tensor([0.25, 1 / 6]))
    assert torch.equal(vmap(torch.sqrt)(torch.tensor([[4.0], [9.0]])), torch.tensor([[2.0], [3.0]]))
    assert torch.tensor(4).sqrt() == 2 and torch.tensor(4 + 0j).sqrt() == 2
