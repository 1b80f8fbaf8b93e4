"""What the methods of the NeurIPS 2023 unlearning competition share: which layers they touch.

The competition asked 512 networks to forget faces; its published solutions are kept as FCS, MSG, CFW, PRMQ, CT, KDE
and RNI in the benchmark of Cadet et al. 2024, arXiv 2410.01276, whose code is the source of the loops here. The
numbers there (`kgltop1` to `kgltop7`) are an order of that benchmark and no places in the competition, whose first
place has no code among them. All but FCS and MSG never read the forget set: they damage the network in some way and
let the retain set repair it. Their values were chosen for that task, residual networks of 18 layers and batches of
64.

CT is one stream of batches and nothing else, so that its models run stacked. CFW and MSG carry a part (noise between
epochs, factors of gradients) and run one model at a time; the others have loops of their own: three optimisers (FCS),
two recipes (KDE), an optimiser for each epoch (RNI), a loss that asks the original about each batch (PRMQ).
"""

from torch import Tensor, nn

from unlearnlib.training import models
from unlearnlib.training.renewal import hooked


def convolutions(name: str, model: nn.Module, example: Tensor, *, or_linear: bool = True) -> dict[str, nn.Module]:
    """The two-dimensional convolutions with trainable weights, by name, in the order in which data pass them.

    In a network that has none: its linear layers but the last, which stand in their place. Raises ValueError where
    there are none of these either, or `or_linear` is false.
    """
    modules = dict(model.named_modules())

    def usable(module: nn.Module) -> bool:
        own = module._parameters.get("weight")  # a weight that is computed from others is nobody's to change
        return own is not None and own.requires_grad and not hooked(module)

    order = models.layers(model, example)
    found = {n: modules[n] for n in order if isinstance(modules[n], nn.Conv2d) and usable(modules[n])}
    if not found and or_linear:
        found = {n: modules[n] for n in order[:-1] if isinstance(modules[n], nn.Linear) and usable(modules[n])}
    if not found:
        kind = "convolution or inner linear layer" if or_linear else "convolution"
        raise ValueError(f"{name} needs a {kind} whose weights may change: this network has none")
    return found
