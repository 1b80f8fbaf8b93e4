"""OrthoGrad: forget only in directions that no retained example notices.

With g_F the gradient of a forget batch and g_1 .. g_m those of each example of a retain batch,

    g_perp = g_F - (projection of g_F on span(g_1 .. g_m))
    theta <- theta - lr [ alpha mean_i g_i - (1 - alpha) g_perp ]

so that to first order no loss of that retain batch changes by forgetting. Shamsian et al. 2025, arXiv 2503.02312.
Limits: without projection, this is NegGrad+; with alpha = 1 fine-tuning. Deviations: the whole gradient vector is
projected, not each layer's part by itself; retain gradients are taken in eval mode. The defaults are ours: the authors
have released neither code nor values that could be found. Momentum and weight decay are off by default: they would step
in directions that the projection excludes.
"""

from dataclasses import dataclass

from unlearnlib.approximate.dose.bounds import bounded
from unlearnlib.approximate.dose.directions import Span
from unlearnlib.approximate.steps import Steps, even, passes
from unlearnlib.methods.registry import Program, method
from unlearnlib.training.batches import Batch


@dataclass(frozen=True)
class OrthoGrad(Steps):
    epochs: int = 5  # passes over the forget set
    lr: float = 0.02
    momentum: float = 0.0
    weight_decay: float = 0.0
    alpha: float = 0.5  # weight of the retain gradient; 1 - alpha is that of forgetting
    retain_batch_size: int = 32  # m, directions that are excluded in each step

    def __post_init__(self):
        if not 0 <= self.alpha <= 1 or self.retain_batch_size < 1:
            raise ValueError("orthograd needs 0 <= alpha <= 1 and retain_batch_size >= 1")


@method(
    "orthograd",
    OrthoGrad,
    family="gradient",
    reads="retain, forget",
    paper="shamsian2025",
    cost=(
        "epochs * (gradient * seen(F, batch_size)"
        " + steps(F, batch_size) * (lambda m: example_gradient * m + algebra * 2 * m * (m + 1) * P / M)"
        "(min(R, retain_batch_size)))"
    ),
    fails=(
        "Where the forget gradient lies in the span of the retain gradients: nothing is left of it; and on large "
        "networks, since it holds one gradient for each example of a retain batch."
    ),
    origin="the defaults are ours",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 10), "alpha": (0.1, 0.9)},
)
def orthograd(model, split, config: OrthoGrad, run) -> Program:
    forget, steps = passes(split.forget_index, split.train.labels, config, run.generator("order"))
    ascent = (Batch(b.index, b.labels, even(b.index, config.alpha - 1)) for b in forget)
    noticed = Span(split, run, config.retain_batch_size, per_example=True, climb_only=True, repair=config.alpha)
    return bounded(Program(model, ascent, config.recipe(), steps), spans=(noticed,))
