"""Networks by name, and what the methods need to know of any network.

Every network takes pixels [B, C, H, W] in the units of the data set and returns logits [B, classes].
"""

import inspect
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from unlearnlib import _names, seeding
from unlearnlib.data.doors import pixels
from unlearnlib.training import doors
from unlearnlib.training.modes import device_of, evaluating, owned, passing, training_mode
from unlearnlib.training.networks import OWN, Normalise, Pretreated, Whitening
from unlearnlib.training.renewal import copied, fresh, reinitialised

__all__ = [
    "Architecture",
    "FeatureTap",
    "Normalise",
    "build",
    "copied",
    "device_of",
    "evaluating",
    "features",
    "fresh",
    "head_name",
    "layers",
    "names",
    "passed",
    "pixel_statistics",
    "reinitialised",
    "tail",
    "training_mode",
    "whitened",
]


def names() -> list[str]:
    """All names that `build` knows: our own first, then torchvision's classifiers."""
    return [*OWN, *torchvision.models.list_models(module=torchvision.models)]


@dataclass(frozen=True)
class Architecture:
    """All that `build` needs to make the network again; the models that it builds carry it as `.architecture`."""

    name: str
    shape: tuple[int, int, int]
    n_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: tuple[tuple[str, object], ...] = ()

    def initialised(self, seed: int) -> nn.Module:
        """A network drawn from `seed` alone."""
        normalise = Normalise(torch.tensor(self.mean), torch.tensor(self.std))
        options = dict(self.options)
        with seeding.isolated(seed, "initialisation"):
            if self.name in OWN:
                model = OWN[self.name](self.shape, self.n_classes, normalise, **options)
            else:
                backbone = torchvision.models.get_model(self.name, weights=None, num_classes=self.n_classes)
                model = Pretreated(normalise, backbone, options.get("size"))
        model.architecture = self
        return model


def build(name: str, dataset, *, seed: int = 0, **options) -> nn.Module:
    """A freshly initialised network for a data set.

    name      "mlp", "cnn", "fastnet", "whitened", "resnet_bn", "resnet_gn", or any torchvision classifier ("resnet18")
    dataset   a `data.Dataset`, whose `shape`, `n_classes` and training pixels (for the normalisation) are read
    options   of the network: `hidden` (mlp, cnn, fastnet), `widths` (whitened), `width` (the others but mlp), `blocks`
              (resnets), `groups` (resnet_gn); for torchvision `size`: the side to which pictures are resized first
              (default: as they are)

    The initialisation depends on `seed` alone. Raises ValueError on an unknown name or option, and where the network
    cannot take pictures of this size or answers more than logits (in train mode too, as googlenet does).
    """
    if name not in names():
        raise ValueError(f"unknown model {name!r:.60}: {_names.hint(name, names())}; models.names() lists all")
    known = _options(name)
    for option in options:
        if option not in known:
            raise ValueError(f"models.build({name!r}): unknown option {option!r}; it takes: {', '.join(known)}")
    mean, std = pixel_statistics(dataset.train)
    shape = tuple(dataset.shape)
    architecture = Architecture(
        name, shape, dataset.n_classes, tuple(mean.tolist()), tuple(std.tolist()), tuple(sorted(options.items()))
    )
    try:
        model = architecture.initialised(seed)
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{name} cannot be built for pictures {_spelt(shape)}: {error}") from None
    try:
        doors.check_model(model, shape, training=True)
    except ValueError as error:
        hint = "" if name in OWN else "; give a size, as size=224, or another network"
        raise ValueError(f"{name} on pictures {_spelt(shape)}: {error}{hint}") from None
    return model


def whitened(model: nn.Module, pixels: Tensor) -> nn.Module:
    """A copy of `model` whose whitened stem comes from `pixels` [B, C, H, W] and stays so, in `fresh` copies too.

    Of use where these are public: with a stem from the first training batch, a retraining computes its own. Raises
    ValueError where the model has no such stem.
    """
    made = copied(model)
    for module in made.modules():
        if isinstance(module, Whitening):
            seen = []
            handle = module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
            doors.asked(made.eval(), pixels)
            handle.remove()
            module.learn(seen[0], Whitening.GIVEN)
            return made
    raise ValueError('the model has no whitened stem: models.build("whitened", ...) has one')


def _spelt(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def _options(name: str) -> list[str]:
    if name not in OWN:
        return ["size"]
    return [p.name for p in inspect.signature(OWN[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]


def pixel_statistics(examples) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel [C], over at most 10,000 evenly spaced pictures."""
    step = max(1, len(examples) // 10_000)
    pixels = examples.pixels(torch.arange(0, len(examples), step))
    std, mean = torch.std_mean(pixels.double(), dim=(0, 2, 3))
    return mean.float(), std.clamp_min(1e-3).float()


def layers(model: nn.Module, example: Tensor) -> list[str]:
    """Names of the convolutional and linear layers in the order in which `example` [1, C, H, W] passes them."""
    modules = dict(model.named_modules())
    return [n for n in passed(model, example) if isinstance(modules[n], (nn.Linear, nn.modules.conv._ConvNd))]


def passed(model: nn.Module, example: Tensor) -> list[str]:
    """Names of all modules that own parameters (norms too), in the order in which `example` first passes them."""
    return passing(model, example, lambda module: bool(owned(module)))


def tail(model: nn.Module, example: Tensor, k: int) -> set[str]:
    """The modules from the k-th last convolutional or linear layer to the output, with the norms between them."""
    main = layers(model, example)
    if not 1 <= k <= len(main):
        raise ValueError(f"k must be between 1 and {len(main)}, the number of layers of this model, not {k}")
    order = passed(model, example)
    chosen = order[order.index(main[-k]) :]
    inner = {name for name in order for top in chosen if name.startswith(f"{top}.parametrizations.")}
    return {*chosen, *inner}


def head_name(model: nn.Module, example: Tensor) -> str:
    """The last linear (or convolutional) layer that `example` passes: the classifier's head."""
    main = layers(model, example)
    if not main:
        raise ValueError("the model has no linear or convolutional layer, so it has no penultimate features")
    return main[-1]


class FeatureTap:
    """Logits and penultimate features (the input of the head) in one forward pass: `logits, features = tap(images)`.

    A context manager, so that the hook is removed again.
    """

    def __init__(self, model: nn.Module, example: Tensor, layer: str | None = None):
        self.model = model
        self.layer = layer or head_name(model, example[:1])
        modules = dict(model.named_modules())
        if self.layer not in modules:
            raise ValueError(f"the model has no layer {self.layer!r}; models.layers(model, images) lists them")
        self._module = modules[self.layer]

    def __enter__(self):
        self._handle = self._module.register_forward_pre_hook(self._keep)
        return self

    def __exit__(self, *_):
        self._handle.remove()

    def _keep(self, _module, inputs):
        self._features = inputs[0]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return logits, self._features.flatten(1)


def features(model: nn.Module, images: Tensor, *, layer: str | None = None, batch_size: int = 1024) -> Tensor:
    """Penultimate features [N, F] of pixels [N, C, H, W], in eval mode: the input of the head, or of `layer`.

    They are float32, of a float64 model float64.
    """
    doors.check_values(model)
    device, dtype = device_of(model), next((p.dtype for p in model.parameters()), torch.float32)
    wide = dtype if dtype == torch.float64 else torch.float32
    images = pixels(images, dtype=dtype)
    with evaluating(model), torch.no_grad(), FeatureTap(model, images[:1], layer) as tap:
        return torch.cat([tap(part.to(device))[1].to(wide).cpu() for part in images.split(batch_size)])
