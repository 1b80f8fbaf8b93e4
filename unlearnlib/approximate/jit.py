"""JiT: make the network flat around the forgotten pictures, without any other data.

    min_theta  E_F (1/N) sum_j ||f(x) - f(x + xi_j)|| / ||xi_j||,     xi_j ~ N(0, sigma^2 I),   j = 1 .. N

Foster et al., TMLR 2025, arXiv 2402.01401. Limits: for a linear f = Wx + b the loss is at most the largest singular
value of W and b has no gradient; a constant f is the minimum. Deviations: the loss is a mean over the pictures of a
batch (the released code sums, so its lr scales with the batch), gradients are cleared before every step and flow
through both terms, the noise is not clamped, f is the network in eval mode, as deployed; the defaults are ours. The
authors use N = 25, one pass of SGD, and (sigma, lr) chosen for each network and request: sigma 0.5, lr 3e-4 for a class
on a VGG.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.approximate.steps import Descent
from unlearnlib.methods.registry import method
from unlearnlib.training import models
from unlearnlib.training.batches import minibatches, steps_of
from unlearnlib.training.progress import progress_bar
from unlearnlib.training.recipe import optimiser_of


@dataclass(frozen=True)
class JiT(Descent):
    epochs: int = 1
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    samples: int = 25  # N
    sigma: float = 0.5  # in pixel units

    def __post_init__(self):
        if self.samples < 1 or self.sigma <= 0:
            raise ValueError("jit needs samples >= 1 and sigma > 0")


def steepness(model: nn.Module, pixels: Tensor, noise: Tensor) -> Tensor:
    """mean_ij ||f(x_i) - f(x_i + xi_ij)|| / ||xi_ij||: pixels [B, C, H, W], noise [B, N, C, H, W] -> scalar."""
    moved = model((pixels[:, None] + noise).flatten(0, 1)).unflatten(0, noise.shape[:2])
    change = torch.linalg.vector_norm(model(pixels)[:, None] - moved, dim=2)
    return (change / torch.linalg.vector_norm(noise, dim=(2, 3, 4))).mean()


@method(
    "jit",
    JiT,
    family="gradient",
    reads="forget",
    paper="foster2025",
    cost="epochs * F * (samples + 1)",
    fails=(
        "Where rate or sigma are not chosen anew for network and request: it flattens the function, and so its "
        "answers, everywhere near the forgotten pictures."
    ),
    published={"epochs": 1, "lr": 3e-4, "sigma": 0.5, "samples": 25},
    origin="the authors' values for a class on a VGG",
    search={"lr": (1e-3, 1.0, "log"), "sigma": (0.05, 1.0, "log")},
    taught=False,  # its pictures come with noise of their own, and it reads no label
)
def jit(model, split, config: JiT, run) -> nn.Module:
    device, recipe, forget = models.device_of(model), config.recipe(), split.forget
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those that may change")
    optimiser, rng = optimiser_of(parameters, recipe), run.generator("noise")
    steps = steps_of(len(forget), recipe)
    order = minibatches(len(forget), recipe.batch_size, recipe.epochs, run.generator("order"))
    with models.evaluating(model), torch.enable_grad(), progress_bar(steps, run.progress) as bar:
        for step, index in enumerate(order):
            pixels = forget.pixels(index, device=device)
            noise = config.sigma * torch.randn(len(index), config.samples, *forget.shape, generator=rng)
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step, steps)
            optimiser.zero_grad()
            steepness(model, pixels, noise.to(device)).backward()
            optimiser.step()
            run.tally.gradient_evaluations += len(index) * (config.samples + 1)
            bar.update()
    return model
