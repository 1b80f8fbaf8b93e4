"""CF-k and EU-k: unlearn in the last k layers only.

    CF-k   fine-tune the last k layers on the retain set ("catastrophically forget")
    EU-k   draw the last k layers anew, then train them on the retain set ("exactly unlearn")

All layers before them stay bit-identical, their batch-norm statistics included: what they hold about the forget set
they keep. k counts convolutional and linear layers from the output, in the order in which data pass them; the norms
between them go along. Goel et al. 2022, arXiv 2201.06640. Deviations: none in substance; the defaults are ours.
With k = all layers CF-k is fine-tuning and EU-k is retraining with the fine-tuning recipe.
"""

from dataclasses import dataclass

from unlearnlib.approximate.steps import Steps, passes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training import models


@dataclass(frozen=True)
class LastLayers(Steps):
    k: int = 2  # convolutional and linear layers, counted from the output


def _only_tail(model, split, config: LastLayers) -> set[str]:
    """Freeze all but the last k layers; returns the names of the modules that may change."""
    chosen = models.tail(model, split.train.pixels([0]), config.k)
    for name, p in model.named_parameters():
        p.requires_grad_(p.requires_grad and name.rpartition(".")[0] in chosen)
    return chosen


@method(
    "cf_k",
    LastLayers,
    family="gradient",
    reads="retain",
    paper="goel2022",
    cost="epochs * R",
    fails=(
        "Where the layers before the last k hold what is to be forgotten: they stay bit-identical, and any probe "
        "of them finds it."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "k": (1, 2)},
)
def cf_k(model, split, config: LastLayers, run) -> Program:
    _only_tail(model, split, config)
    batches, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps)


@method(
    "eu_k",
    LastLayers,
    family="gradient",
    reads="retain",
    paper="goel2022",
    cost="epochs * R",
    fails="As CF-k; and with too few epochs the new layers are worse than those they replace.",
    origin="the defaults are ours",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5), "k": (1, 2)},
)
def eu_k(model, split, config: LastLayers, run) -> Program:
    chosen = _only_tail(model, split, config)
    batches, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    return Program(models.reinitialised(model, run.seed, only=chosen), batches, config.recipe(), steps)
