"""Networks: small ones that fit each data set, torchvision's by name, and what the methods need to know of any network.

Every network takes pixels [B, C, H, W] in the units of the data set (normalisation is its first layer, so that
perturbations and clamps act on true pixel values) and returns logits [B, classes].
"""

import contextlib
import copy
import difflib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from unlearnlib import seeding


class Normalise(nn.Module):
    """(x - mean) / std per channel; `mean` and `std` are buffers [1, C, 1, 1]."""

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1).float())
        self.register_buffer("std", std.reshape(1, -1, 1, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class _Residual(nn.Module):
    """relu(F(x) + skip(x)), F = conv-norm-relu-conv-norm; the skip is a 1x1 convolution where shapes differ."""

    def __init__(self, inside: int, outside: int, stride: int, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = norm(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = norm(outside)
        same = stride == 1 and inside == outside
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(inside, outside, 1, stride), norm(outside))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(inner + self.skip(x))


class _Pretreated(nn.Module):
    """A torchvision classifier on pixels of this library: normalise, resize where asked, repeat grey to RGB."""

    def __init__(self, normalise: nn.Module, backbone: nn.Module, size: int | None):
        super().__init__()
        self.normalise, self.backbone, self.size = normalise, backbone, size

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalise(x)
        if self.size is not None:
            x = nn.functional.interpolate(x, size=self.size, mode="bilinear", antialias=True)
        return self.backbone(x.expand(-1, 3, -1, -1))


def _mlp(shape, n_classes, normalise, *, hidden: tuple[int, ...] = (128,)) -> nn.Module:
    sizes = [shape[0] * shape[1] * shape[2], *hidden]
    layers = [normalise, nn.Flatten()]
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_classes))


def _cnn(shape, n_classes, normalise, *, width: int = 16, hidden: int = 128) -> nn.Module:
    """Stages of conv3x3-relu-maxpool, the width doubling, until the side is at most 8; then two linear layers."""
    channels, side, layers, outside = shape[0], min(shape[1:]), [normalise], width
    while True:
        layers += [nn.Conv2d(channels, outside, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels, side, outside = outside, side // 2, min(2 * outside, 4 * width)
        if side <= 8:
            break
    stages = (len(layers) - 1) // 3
    flat = channels * (shape[1] >> stages) * (shape[2] >> stages)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))


def _fastnet(shape, n_classes, normalise, *, width: int = 64, hidden: int = 256) -> nn.Module:
    """A network for processors: a strided stem, two of conv3x3-maxpool-norm-relu (w, 2w), then two linear layers.

    Whatever is not a matrix product (norms, activations) works on few pixels: the stem halves the side, from 48 pixels
    on it quarters it, and pooling comes before the norm. Channels in multiples of 32 fill the tiles of AMX.
    """
    stride = 4 if min(shape[1:]) >= 48 else 2
    stem, first, second = width // 2, width, 2 * width
    rows, columns = (((side - 1) // stride + 1) // 4 for side in shape[1:])
    return nn.Sequential(
        normalise,
        nn.Conv2d(shape[0], stem, stride + 1, stride, stride // 2),
        nn.ReLU(),
        *_pooled(stem, first),
        *_pooled(first, second),
        nn.Flatten(),
        nn.Linear(second * rows * columns, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_classes),
    )


def _pooled(inside: int, outside: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, 1, 1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(outside), nn.ReLU()]


def _resnet(shape, n_classes, normalise, norm, width: int, blocks: int) -> nn.Module:
    """Stem, three stages of `blocks` residual blocks (widths w, 2w, 4w), mean pooling, linear head.

    Pictures of 48 pixels and more are halved by the stem, so that 64x64 costs what 32x32 does.
    """
    stride = 2 if min(shape[1:]) >= 48 else 1
    layers = [normalise, nn.Conv2d(shape[0], width, 3, stride, 1, bias=False), norm(width), nn.ReLU()]
    inside = width
    for stage, outside in enumerate((width, 2 * width, 4 * width)):
        for block in range(blocks):
            layers.append(_Residual(inside, outside, 2 if stage and not block else 1, norm))
            inside = outside
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, n_classes))


def _resnet_bn(shape, n_classes, normalise, *, width: int = 16, blocks: int = 1) -> nn.Module:
    return _resnet(shape, n_classes, normalise, nn.BatchNorm2d, width, blocks)


def _resnet_gn(shape, n_classes, normalise, *, width: int = 16, blocks: int = 1, groups: int = 4) -> nn.Module:
    return _resnet(shape, n_classes, normalise, lambda channels: nn.GroupNorm(groups, channels), width, blocks)


_OWN = {"mlp": _mlp, "cnn": _cnn, "fastnet": _fastnet, "resnet_bn": _resnet_bn, "resnet_gn": _resnet_gn}


def names() -> list[str]:
    """All names that `build` knows: our own first, then torchvision's classifiers."""
    return [*_OWN, *torchvision.models.list_models(module=torchvision.models)]


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
            if self.name in _OWN:
                model = _OWN[self.name](self.shape, self.n_classes, normalise, **options)
            else:
                backbone = torchvision.models.get_model(self.name, weights=None, num_classes=self.n_classes)
                model = _Pretreated(normalise, backbone, options.get("size"))
        model.architecture = self
        return model


def build(name: str, dataset, *, seed: int = 0, **options) -> nn.Module:
    """A freshly initialised network for a data set.

    name      "mlp", "cnn", "fastnet", "resnet_bn", "resnet_gn", or any torchvision classifier ("resnet18", ...)
    dataset   a `data.Dataset`, whose `shape`, `n_classes` and training pixels (for the normalisation) are read
    options   of the network: `hidden` (mlp, cnn, fastnet), `width` (all but mlp), `blocks` (resnets), `groups`
              (resnet_gn); for torchvision `size`: the side to which pictures are resized first (default: as they are)

    The initialisation depends on `seed` alone. Raises ValueError on an unknown name or option, or where a
    torchvision network cannot take pictures this small.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1) or ["cnn"]
        raise ValueError(f"unknown model {name!r}: did you mean {near[0]!r}? models.names() lists all")
    known = _options(name)
    for option in options:
        if option not in known:
            raise ValueError(f"models.build({name!r}): unknown option {option!r}; it takes: {', '.join(known)}")
    mean, std = pixel_statistics(dataset.train)
    shape = tuple(dataset.shape)
    architecture = Architecture(
        name, shape, dataset.n_classes, tuple(mean.tolist()), tuple(std.tolist()), tuple(sorted(options.items()))
    )
    model = architecture.initialised(seed)
    if name not in _OWN:
        try:
            with evaluating(model), torch.no_grad():
                model(torch.zeros(1, *shape))
        except (RuntimeError, AssertionError):
            side = min(shape[1:])
            raise ValueError(f"{name} cannot take pictures of {side} pixels: give a size, as size=224") from None
    return model


def _options(name: str) -> list[str]:
    if name not in _OWN:
        return ["size"]
    return [p.name for p in inspect.signature(_OWN[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]


def pixel_statistics(examples) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel [C], over at most 10,000 evenly spaced pictures."""
    step = max(1, len(examples) // 10_000)
    pixels = examples.pixels(torch.arange(0, len(examples), step))
    std, mean = torch.std_mean(pixels.double(), dim=(0, 2, 3))
    return mean.float(), std.clamp_min(1e-3).float()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode inside the block; afterwards every module is in the mode it was found in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lives (the CPU for a model without parameters)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def layers(model: nn.Module, example: Tensor) -> list[str]:
    """Names of the convolutional and linear layers in the order in which `example` [1, C, H, W] passes them."""
    modules = dict(model.named_modules())
    return [n for n in passed(model, example) if isinstance(modules[n], (nn.Linear, nn.modules.conv._ConvNd))]


def passed(model: nn.Module, example: Tensor) -> list[str]:
    """Names of all modules that own parameters (norms too), in the order in which `example` first passes them."""
    order, handles = [], []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(lambda *_, name=name: order.append(name)))
    first = next(model.parameters(), example)
    try:
        with evaluating(model), torch.no_grad():
            model(example.to(device=first.device, dtype=first.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(order))


def tail(model: nn.Module, example: Tensor, k: int) -> set[str]:
    """The modules from the k-th last convolutional or linear layer to the output, with the norms between them."""
    main = layers(model, example)
    if not 1 <= k <= len(main):
        raise ValueError(f"k must be between 1 and {len(main)}, the number of layers of this model, not {k}")
    order = passed(model, example)
    return set(order[order.index(main[-k]) :])


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
    """Penultimate features [N, F] of pixels [N, C, H, W], in eval mode: the input of the head, or of `layer`."""
    device = device_of(model)
    with evaluating(model), torch.no_grad(), FeatureTap(model, images[:1], layer) as tap:
        return torch.cat([tap(part.to(device))[1].float().cpu() for part in images.split(batch_size)])


def fresh(model: nn.Module, seed: int) -> nn.Module:
    """An untrained network with the architecture of `model`: the start of a retraining.

    A model made by `build` is built again (the same initialisation law). Any other is copied and each of its
    layers reset. Frozen parameters (`requires_grad=False`) keep their values: they were not learnt from the data
    at hand. Raises ValueError as `reinitialised` does.
    """
    architecture = getattr(model, "architecture", None)
    if architecture is None:
        return reinitialised(model, seed)
    rebuilt = architecture.initialised(seed).to(device_of(model))
    with torch.no_grad():
        for old, new in zip(model.parameters(), rebuilt.parameters(), strict=True):
            new.requires_grad_(old.requires_grad)
            if not old.requires_grad:
                new.copy_(old)
    for old, new in zip(model.modules(), rebuilt.modules(), strict=True):
        new.training = old.training
    return rebuilt


def reinitialised(model: nn.Module, seed: int, *, only: set[str] | None = None) -> nn.Module:
    """A copy of `model` whose trainable parameters are drawn anew and whose running statistics are reset.

    `only` restricts this to the named modules (and those inside them). Frozen parameters keep their values.
    Raises ValueError where a trainable parameter belongs to a module without `reset_parameters`: silently keeping
    it would leave trained weights in a "retrained" model.
    """
    copied = copy.deepcopy(model)
    frozen = {name: p.detach().clone() for name, p in copied.named_parameters() if not p.requires_grad}
    reached: set[int] = set()
    with seeding.isolated(seed, "initialisation"), torch.no_grad():
        for name, module in copied.named_modules():
            own = list(module.parameters(recurse=False))
            if only is not None and not any(name == top or name.startswith(f"{top}.") for top in only):
                continue
            if own and not any(p.requires_grad for p in own):
                continue  # a frozen layer keeps its running statistics too
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
                reached.update(map(id, own))
            elif any(p.requires_grad and id(p) not in reached for p in own):
                kind = type(module).__name__
                raise ValueError(f"{kind} has parameters but no reset_parameters: give build=, a function of the seed")
        for name, p in copied.named_parameters():
            if name in frozen:
                p.copy_(frozen[name])
    return copied
