"""Random labels: relearn the forget set with wrong labels, beside the retain set with its own.

    y'_i ~ uniform over the classes other than y_i, drawn once for each i in F
    min_theta  mean over F and R of CE(f_theta(x_i), y'_i or y_i)

Graves et al. 2021, arXiv 2010.10981 (there "unlearning", beside the amnesiac method proper). Both sets are shuffled
together in every pass, and a label is never the true one. Deviations: none in the published row, which is the
comparison of foster2024; the authors' own run goes on with the state that Adam had at the end of training (rate 1e-3,
10 epochs, batches of 64), which nobody keeps. The defaults are ours.
"""

from dataclasses import dataclass

import torch

from unlearnlib.approximate.steps import Steps, passes
from unlearnlib.methods.registry import Program, method


@dataclass(frozen=True)
class RandomLabels(Steps):
    pass


def wrong_labels(labels: torch.Tensor, n_classes: int, rng: torch.Generator) -> torch.Tensor:
    """For each label another one, uniform over the n_classes - 1 others."""
    shift = torch.randint(1, n_classes, labels.shape, generator=rng)
    return (labels + shift) % n_classes


@method(
    "random_labels",
    RandomLabels,
    family="gradient",
    reads="retain, forget",
    paper="graves2021",
    cost="gradient * epochs * seen(F + R, batch_size)",
    fails=(
        "Where the retrained model would still get forgotten pictures right: a wrong label teaches something "
        "false, and an attack that looks at both ends of the loss sees it."
    ),
    published={
        "epochs": 3,
        "optimiser": "adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "batch_size": 128,
        "keep_last": True,
    },
    origin="the code of foster2024, which compares with it",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5)},
)
def random_labels(model, split, config: RandomLabels, run) -> Program:
    labels = split.train.labels.clone()
    n_classes = int(labels.max()) + 1
    if n_classes < 2:
        raise ValueError("random_labels needs at least two classes")
    forget = split.forget_index
    labels[forget] = wrong_labels(labels[forget], n_classes, run.generator("labels"))
    everything = torch.arange(len(labels))
    batches, steps = passes(everything, labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps)
