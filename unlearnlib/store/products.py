"""Matrix products, square roots and logarithms of pinned mode: the same bits everywhere, at full AVX2 speed.

    products.use()     before or after the first tensor; a second call does nothing

*Products.* Pinned mode makes MKL compute the same bits on every processor, at a third of its speed. numpy's OpenBLAS
with its Haswell kernels computes the same bits on every x86-64 processor with AVX2 too, and fast. `use` sends torch's
dense products of float32 and float64 on the CPU there, on the same memory; every other call (other dtypes, nothing or
little to compute, an `out` laid out oddly, wrong arguments) goes on to torch's own kernel.

*Square roots.* MKL's compatible path starts from an estimate that each maker of processors defines for itself
(`rsqrtps`), so `torch.sqrt` differs in its last bit between makers. numpy's is the correctly rounded one of IEEE 754.
The natural logarithm of float64 goes the same way; that of float32 is torch's own and the same everywhere.

*What still depends on the maker*, and what this library therefore keeps away from: asin, acos and atan, float64 tan,
`cdist`, and powers of one half, which take the root inside their own kernel.

*numpy itself* computes exp, log and others by wider instructions where a processor has them, with other last bits:
`NPY_DISABLE_CPU_FEATURES` in the environment of its import prevents that, and `use` refuses a numpy without it.

The override lies below autograd, `torch.func`, autocast and fake tensors, so those see nothing of it. Products inside
other kernels (convolutions, attention, decompositions, matrix times vector) stay where they were.
"""

import math

import numpy
import torch
from threadpoolctl import ThreadpoolController

__all__ = ["use", "used"]

WANTED = "UNLEARN_PRODUCTS"  # set to 1 where worker processes are to call `use` too
KERNELS = "Haswell"  # OpenBLAS's name of its kernels for AVX2 and FMA
LEAST = 2**18  # multiplications in a call: below it the way through Python (5 microseconds) costs more than it saves
LEAST_EACH = 2**7  # and in each matrix of a batch: below it calling BLAS for each costs more than it saves
_FLOATS = (torch.float32, torch.float64)
_library: torch.library.Library | None = None  # holds the registration: torch undoes it when this is collected


def use() -> None:
    """Let numpy's OpenBLAS, in one thread, compute torch's matrix products for the rest of this process.

    Raises RuntimeError if numpy was imported with other kernels: it and OpenBLAS choose them once, by
    `NPY_DISABLE_CPU_FEATURES` and `OPENBLAS_CORETYPE=Haswell` in the environment of the import.
    """
    global _library
    if _library is not None:
        return
    _check_numpy()
    _claim_openblas()
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in {**_kernels(), **_functions()}.items():
        library.impl(name, kernel, "CPU", with_keyset=True)
    _library = library


def used() -> bool:
    """Whether this process computes its products so."""
    return _library is not None


def wider() -> list[str]:
    """numpy's names of the instructions beyond AVX2 that its own functions use in this process."""
    umath = numpy._core._multiarray_umath  # numpy tells it nowhere else but in print
    used = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
    return [name for name in used if name.startswith(("AVX512", "X86_V4"))]


def _check_numpy() -> None:
    if wider():
        setting = f'NPY_DISABLE_CPU_FEATURES="{" ".join(wider())}"'
        raise RuntimeError(f"numpy uses AVX-512: restart with {setting} set before its first import")


def _claim_openblas() -> None:
    """Refuse kernels other than Haswell's, and set one thread: how work is shared out changes the last bits."""
    blas = ThreadpoolController().select(internal_api="openblas")
    found = sorted({library["architecture"] for library in blas.info()})
    if found != [KERNELS]:
        what = f"OpenBLAS kernels for {' and '.join(found)}" if found else "another library than OpenBLAS"
        raise RuntimeError(f"numpy uses {what}: restart with OPENBLAS_CORETYPE={KERNELS} set before its first import")
    blas.limit(limits=1)
    if any(library["num_threads"] != 1 for library in blas.info()):
        raise RuntimeError("another thread of this process holds OpenBLAS's number of threads (threadpoolctl)")


def _kernels() -> dict:
    """The overrides by the operator's name, each made around torch's own kernel."""
    kernels = {}
    for product, total, rank in (("mm", "addmm", 2), ("bmm", "baddbmm", 3)):
        names = {product: _product, f"{product}.out": _product_out}
        names |= {total: _sum, f"{total}.out": _sum_out, f"{total}_": _sum_in_place}
        for name, make in names.items():
            kernels[name] = make(torch.library.get_kernel(f"aten::{name}", "CPU"), rank)
    return kernels


def _functions() -> dict:
    """The overrides of functions of one number, made likewise."""
    kernels = {}
    for function, dtypes in ((numpy.sqrt, _FLOATS), (numpy.log, (torch.float64,))):
        name = function.__name__
        for variant, make in ((name, _new), (f"{name}_", _in_place), (f"{name}.out", _out)):
            kernels[variant] = make(torch.library.get_kernel(f"aten::{variant}", "CPU"), function, dtypes)
    return kernels


def _new(own, function, dtypes):
    def kernel(keys, x):
        return own.call_boxed(keys, x) if x.dtype not in dtypes else _apply(function, x, x.new_empty(x.shape))

    return kernel


def _in_place(own, function, dtypes):
    def kernel(keys, x):
        return own.call_boxed(keys, x) if x.dtype not in dtypes else _apply(function, x, x)

    return kernel


def _out(own, function, dtypes):
    def kernel(keys, x, *, out):
        if x.dtype not in dtypes or out.dtype not in _FLOATS or (out.numel() and out.shape != x.shape):
            return own.call_boxed(keys, x, out=out)
        if out.shape != x.shape:
            out.resize_(x.shape)
        return out.copy_(_apply(function, x, x.new_empty(x.shape)))

    return kernel


def _apply(function, x, out):
    with numpy.errstate(all="ignore"):
        function(x.numpy(force=True), out=out.detach().numpy())
    return out


def _product(own, rank: int):
    def kernel(keys, a, b):
        shape = _shape(a, b, rank)
        return own.call_boxed(keys, a, b) if shape is None else _multiply(a, b, shape)

    return kernel


def _product_out(own, rank: int):
    def kernel(keys, a, b, *, out):
        shape = _shape(a, b, rank)
        if shape is None or not _make_room(out, shape, a.dtype):
            return own.call_boxed(keys, a, b, out=out)
        return _multiply(a, b, shape, out)

    return kernel


def _sum(own, rank: int):
    def kernel(keys, c, a, b, *, beta=1, alpha=1):
        shape = _shape(a, b, rank)
        if shape is None or not _adds(c, shape, a.dtype, beta, alpha):
            return own.call_boxed(keys, c, a, b, beta=beta, alpha=alpha)
        return _add(_multiply(a, b, shape), c, beta, alpha)

    return kernel


def _sum_out(own, rank: int):
    def kernel(keys, c, a, b, *, beta=1, alpha=1, out):
        shape = _shape(a, b, rank)
        if shape is None or not (_adds(c, shape, a.dtype, beta, alpha) and _make_room(out, shape, a.dtype)):
            return own.call_boxed(keys, c, a, b, beta=beta, alpha=alpha, out=out)
        return out.copy_(_add(_multiply(a, b, shape), c, beta, alpha))

    return kernel


def _sum_in_place(own, rank: int):
    def kernel(keys, c, a, b, *, beta=1, alpha=1):
        shape = _shape(a, b, rank)
        if shape is None or c.shape != shape or not _adds(c, shape, a.dtype, beta, alpha):
            return own.call_boxed(keys, c, a, b, beta=beta, alpha=alpha)
        return c.copy_(_add(_multiply(a, b, shape), c, beta, alpha))

    return kernel


def _shape(a, b, rank: int) -> tuple | None:
    """The shape of a @ b, or None where the product is torch's: by type and shape alone, never by the machine.

    Outer products (one inner index) are torch's because numpy has no fast kernel for them.
    """
    dtype, left, right = a.dtype, a.shape, b.shape
    if dtype not in _FLOATS or b.dtype is not dtype or len(left) != rank or len(right) != rank:
        return None
    rows, (inner, columns) = left[-2], right[-2:]
    if left[-1] != inner or left[:-2] != right[:-2] or inner < 2:
        return None
    if math.prod(left) * columns < LEAST or rows * inner * columns < LEAST_EACH:
        return None
    return (*left[:-1], columns)


def _make_room(out, shape: tuple, dtype) -> bool:
    """Give an empty `out` the shape, as torch does; False where torch has to write, convert, warn or refuse."""
    if out.dtype is not dtype or not out.is_contiguous():
        return False
    if out.numel() == 0:
        out.resize_(shape)
    return out.shape == shape


def _adds(c, shape: tuple, dtype, beta, alpha) -> bool:
    """Whether `alpha` times the product plus `beta` times `c` is plain: BLAS's rule for alpha = 0 is left to torch."""
    if c.dtype is not dtype or not alpha or isinstance(alpha, complex) or isinstance(beta, complex):
        return False
    return c.shape == shape[-1:] or c.shape == shape or _expands(c.shape, shape)


def _expands(small: tuple, large: tuple) -> bool:
    return len(small) <= len(large) and all(s in (1, t) for s, t in zip(small[::-1], large[::-1], strict=False))


def _multiply(a, b, shape: tuple, out=None):
    """a @ b by numpy, without its warnings about infinities, into new memory or into that of `out`."""
    if out is None:
        out = a.new_empty(shape)
    with numpy.errstate(all="ignore"):
        numpy.matmul(a.numpy(force=True), b.numpy(force=True), out=out.detach().numpy())
    return out


def _add(product, c, beta, alpha):
    """alpha * product + beta * c in the memory of `product`; with beta = 0 whatever `c` holds, NaN too, is ignored."""
    if alpha != 1:
        product.mul_(alpha)
    return product.add_(c, alpha=float(beta)) if beta else product
