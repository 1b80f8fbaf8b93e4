"""Fine-tuning on the retain set, and nothing else: catastrophic forgetting as a method.

    theta <- theta - lr grad L_R(theta),   from the original

The baseline that every method must beat at equal cost. It never reads the forget set. Goel et al. 2022 use it as
the limit CF-k of all layers. Deviations: none; the defaults are ours. Published is the baseline of jia2023's code.
"""

from dataclasses import dataclass

from unlearnlib.approximate.steps import HEAVY_BALL, Steps, passes
from unlearnlib.methods.registry import Program, method


@dataclass(frozen=True)
class Finetune(Steps):
    pass


@method(
    "finetune",
    Finetune,
    family="gradient",
    reads="retain",
    paper="goel2022",
    cost="gradient * epochs * seen(R, batch_size)",
    fails=(
        "Where the original has memorised the forget set and still fits it without being shown it: nothing pushes "
        "back, and long runs at a large rate are needed."
    ),
    published=HEAVY_BALL
    | {"epochs": 10, "lr": 0.01, "weight_decay": 5e-4, "batch_size": 256, "augment": "flip-crop-zero"},
    origin="the code of jia2023",
    search={"lr": (1e-3, 1e-1, "log"), "epochs": (1, 5)},
)
def finetune(model, split, config: Finetune, run) -> Program:
    batches, steps = passes(split.retain_index, split.train.labels, config, run.generator("order"))
    return Program(model, batches, config.recipe(), steps)
