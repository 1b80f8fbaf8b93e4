"""Datamodels out of curvature: what removing an example does to every output, to first order, out of a few models.

    beta_xi = -(1/n) J_x A^-1 grad l_i,      A = K + damping I

J_x [C, P] is the derivative of the logits at x, l_i the loss of training example i, K the EK-FAC approximation of the
Gauss-Newton matrix over the n training examples. It is the influence function (koh2017) of all n examples on all
logits, taken as a datamodel and averaged over models. TRAK (park2023) has the same form: random projections of
gradients in place of K, and an average over models; this is no rendering of it.

Limit: for one model `effect(F)` is what the step of `influence` with the solver "ekfac" changes at x to first order.
Cheap beside the hundreds of models of `Datamodel.fit`, and a derivative at the end of one training run: what examples
do on the way there, and how they act in groups, it does not see.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unlearnlib.approximate.curvature import kronecker
from unlearnlib.approximate.curvature.products import jacobians
from unlearnlib.approximate.gradients import example_gradients, pixel_batches
from unlearnlib.attribution.datamodels import Datamodel
from unlearnlib.data.tensors import check
from unlearnlib.training.doors import check_model
from unlearnlib.training.prediction import predict
from unlearnlib.training.renewal import copied
from unlearnlib.training.work import Tally

_BATCH = 64  # examples whose Jacobians are held at once


def influence_datamodel(
    models: Sequence[nn.Module],
    examples,
    queries=None,
    *,
    damping: float = 1e-2,
    seed: int = 0,
    work: float = 0.0,
) -> Datamodel:
    """A datamodel of the logits at `queries` (None: at the examples themselves), averaged over `models`.

    models     trained on all of `examples`; they are not changed. One is enough, more are better
    damping    of the curvature. Not chosen here: it has to be set where the truth is not looked at
    work       of training the models, where it has to be counted; that of the attribution is added

    The intercept is such that the whole training set gives the models' mean logits. Memory: n x P for each model.
    Raises ValueError without a model, for damping not above 0, and as `curvature.ekfac` for a network without a layer
    that it knows.
    """
    check(len(models) >= 1, "an influence datamodel needs at least one model that was trained on the examples")
    tally, total, level = Tally(), 0, 0
    for place, given in enumerate(models):
        check_model(given, examples)
        model = copied(given)
        inverse = kronecker.ekfac(model, examples, seed=seed + place, tally=tally).inverse(damping)
        found = _effects(model, examples, examples if queries is None else queries, inverse, tally)
        total = total + found.double() / len(models)
        logits = predict(model, examples if queries is None else queries, tally=tally)
        level = level + logits.double() / len(models)
    dtype = logits.dtype
    return Datamodel(
        total.to(dtype),
        (level - total.sum(0)).to(dtype),
        f"damping {damping:.3g}",
        len(models),
        examples.checksum(),
        work + tally.work,
    )


def _effects(model: nn.Module, examples, queries, inverse, tally: Tally) -> Tensor:
    """-(1/n) J_x A^-1 grad l_i for all examples i and queries x: [n, queries, C]."""
    rows = [example_gradients(model, pixels, labels) for pixels, labels in pixel_batches(model, examples, _BATCH)]
    tally.count("example_gradient", len(examples))
    steps = inverse(torch.cat(rows)) / -len(examples)
    found = [
        torch.einsum("bcp,np->nbc", jacobians(model, pixels, tally=tally), steps).cpu()
        for pixels, _ in pixel_batches(model, queries, _BATCH)
    ]
    return torch.cat(found, dim=1)
