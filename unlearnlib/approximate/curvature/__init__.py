"""Curvature: Hessian, Gauss-Newton and Fisher matrices of a network, their products, approximations and inverses.

hvp, ggn_vp, Curvature      products with the Hessian and the Gauss-Newton matrix            products.py
solve                       (C + damping I)^-1 b by cg, lissa, dense, kfac or ekfac          solvers.py
kfac, ekfac                 Kronecker-factored approximations, with inverse                  kronecker.py
fisher_diagonal             the diagonal of the true or the empirical Fisher matrix          ../fisher.py
per_example_gradients       the gradient of every example                                    ../fisher.py
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        "products": "Curvature ggn_vp hvp",
        "solvers": "Solution solve",
        "kronecker": "Kronecker ekfac kfac",
        "unlearnlib.approximate.fisher": "fisher_diagonal per_example_gradients",
    },
)
