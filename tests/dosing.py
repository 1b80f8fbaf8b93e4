"""What the tests of dose control share: vectors of weights, losses, and a plain descent with parts on board."""

import copy

import torch
import torch.nn.functional as F

from unlearnlib import training
from unlearnlib.approximate import gradients
from unlearnlib.methods import registry
from unlearnlib.training.batches import Batch
from unlearnlib.training.loop import Part
from unlearnlib.training.recipe import Recipe

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}


def vector(model) -> torch.Tensor:
    return gradients.flat(p.detach() for p in model.parameters())


def loss(model, part) -> torch.Tensor:
    return F.cross_entropy(model(part.pixels(dtype=next(model.parameters()).dtype)), part.labels)


def log_answers(model, part) -> torch.Tensor:
    """log p [n, classes] in eval mode and in the model's own precision, then in float64."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return torch.log_softmax(model(part.pixels(dtype=next(model.parameters()).dtype)).double(), 1)


def divergence(old, new, part) -> float:
    """E KL(p_old || p_new), by its definition."""
    before, after = log_answers(old, part), log_answers(new, part)
    return (before.exp() * (before - after)).sum(1).mean().item()


def step(model, parts, part: Part, lr: float, number: int = 1, ascend: bool = True):
    """`number` plain steps up (or down) the whole forget loss with `part` on board; returns a new model."""
    where, moved = parts.forget_index, copy.deepcopy(model)
    weights = torch.full((len(where),), (-1 if ascend else 1) / len(where))
    recipe = Recipe(optimiser="sgd", lr=lr, momentum=0.0, weight_decay=0.0, schedule="constant")
    stream = (Batch(where, parts.train.labels[where], weights) for _ in range(number))
    program = part.applied(registry.Program(moved, stream, recipe, number), parts, registry.Run(0))
    return training.descend(moved, parts.train, program.batches, recipe, number, seed=0, parts=program.parts)
