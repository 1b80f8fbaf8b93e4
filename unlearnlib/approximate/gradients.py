"""Gradients of the cross-entropy as vectors, of a set and of each example, and the algebra that parts do with them.

Gradients are taken in eval mode, so that an example's gradient depends on no other example, nor on dropout.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from unlearnlib.training.loop import Tally
from unlearnlib.training.models import device_of, evaluating


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that may change, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def copies(model: nn.Module) -> dict[str, Tensor]:
    """The values of the trainable parameters as they are now."""
    return {name: p.detach().clone() for name, p in trainable(model).items()}


def flat(tensors) -> Tensor:
    """Many tensors as one vector [P]."""
    return torch.cat([t.flatten() for t in tensors])


def weights(model: nn.Module) -> Tensor:
    """The trainable parameters as one vector [P], detached, in their order."""
    return flat(p.detach() for p in trainable(model).values())


def shaped(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vector [P] as named tensors in the order and shapes of `like`."""
    pieces = vector.split([t.numel() for t in like.values()])
    return {name: piece.view_as(t) for (name, t), piece in zip(like.items(), pieces, strict=True)}


def gradient_of(model: nn.Module) -> Tensor:
    """The gradients that a backward pass has left in the trainable parameters, as one vector [P]."""
    return flat(torch.zeros_like(p) if p.grad is None else p.grad for p in trainable(model).values())


@torch.no_grad()
def set_gradient(model: nn.Module, vector: Tensor) -> None:
    """The reverse of `gradient_of`."""
    parameters = trainable(model)
    for name, piece in shaped(vector, parameters).items():
        parameters[name].grad = piece.clone()


def pixel_batches(model: nn.Module, examples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    first = next(model.parameters())
    for start in range(0, len(examples), size):
        where = slice(start, start + size)
        yield examples.pixels(where, device=first.device, dtype=first.dtype), examples.labels[where].to(first.device)


def mean_gradient(model: nn.Module, examples, *, batch_size: int = 512, tally: Tally | None = None) -> Tensor:
    """grad of the mean cross-entropy over `examples`, [P]; whatever the batch size, which only bounds the memory."""
    parameters = list(trainable(model).values())
    total = torch.zeros(sum(p.numel() for p in parameters), device=device_of(model), dtype=parameters[0].dtype)
    with evaluating(model), torch.enable_grad():
        for pixels, labels in pixel_batches(model, examples, batch_size):
            loss = F.cross_entropy(model(pixels), labels, reduction="sum") / len(examples)
            total += flat(torch.autograd.grad(loss, parameters, materialize_grads=True))
    if tally is not None:
        tally.count("gradient", len(examples))
    return total


def batch_gradients(
    model: nn.Module, examples, batches: Iterable[Tensor], *, changed=None, tally: Tally | None = None
) -> Iterator[Tensor]:
    """grad of the mean cross-entropy of each batch of positions, [P]: what released importances square or add up.

    changed   pixels -> pixels, such as an augmentation; None: as they are
    """
    parameters = list(trainable(model).values())
    for index in batches:
        part = examples[index]
        (pixels, labels), *_ = pixel_batches(model, part, len(part))
        with evaluating(model), torch.enable_grad():
            loss = F.cross_entropy(model(pixels if changed is None else changed(pixels)), labels)
            yield flat(torch.autograd.grad(loss, parameters, materialize_grads=True))
        if tally is not None:
            tally.count("gradient", len(part))


def count_pulled(tally: Tally | None, examples: int, cotangents: int) -> None:
    """Count a forward pass of so many examples with a backward pass for each of several gradients in the logits."""
    if tally is not None and cotangents:
        tally.count("gradient", examples)
        if cotangents > 1:
            tally.count("vjp", examples * (cotangents - 1))


def example_gradients(model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """g_i = grad CE(f(x_i), y_i) of each example: pixels [B, C, H, W], labels [B] -> [B, P]."""

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits[None], label[None])

    return _of_each(model, loss, pixels, labels)


def pulled_back(model: nn.Module, pixels: Tensor, cotangent: Tensor) -> Tensor:
    """J(x_i)^T v_i of each example, J the derivative of the logits: pixels [B, C, H, W], v [B, classes] -> [B, P].

    With v = p - e_y this is `example_gradients`.
    """
    return _of_each(model, torch.dot, pixels, cotangent)


def _of_each(model: nn.Module, scalar: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, rows: Tensor) -> Tensor:
    """grad_theta scalar(f(x_i), rows_i) of each example, [B, P]; one after another where a layer cannot be batched."""
    parameters = {name: p.detach() for name, p in trainable(model).items()}

    def value(values, picture, row):
        return scalar(functional_call(model, values, (picture[None],))[0], row)

    with evaluating(model):
        try:
            found = vmap(grad(value), in_dims=(None, 0, 0))(parameters, pixels, rows)
        except RuntimeError:  # a layer that vmap does not know; an error of the network itself comes again below
            each = [grad(value)(parameters, *pair) for pair in zip(pixels, rows, strict=True)]
            found = {name: torch.stack([one[name] for one in each]) for name in parameters}
    return torch.cat([found[name].flatten(1) for name in parameters], dim=1)


@torch.no_grad()
def moved(model: nn.Module, step: Tensor) -> nn.Module:
    """`model`, in place, with theta + step [P]."""
    parameters = trainable(model)
    for name, piece in shaped(step, parameters).items():
        parameters[name].add_(piece)
    return model


def orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis [k, P], float64, of the span of `rows` [m, P].

    Directions in which the rows are smaller than 1e-5 of their largest are rounding, and are left out.
    """
    rows = rows.double()
    values, vectors = torch.linalg.eigh(rows @ rows.T)  # the squared singular values of the rows
    kept = values > 1e-10 * values[-1].clamp_min(torch.finfo(torch.float64).tiny)
    return (vectors[:, kept].T @ rows) / values[kept].sqrt()[:, None]


def without_span(vector: Tensor, rows: Tensor) -> Tensor:
    """The part of `vector` [P] that is orthogonal to every row of `rows` [m, P]."""
    basis, exact = orthonormal(rows), vector.double()
    return (exact - basis.T @ (basis @ exact)).to(vector.dtype)
