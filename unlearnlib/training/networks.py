"""The small networks that fit each data set, as functions of the shape of a picture and the number of classes.

Every network takes pixels [B, C, H, W] in the units of the data set (normalisation is its first layer, so that
perturbations and clamps act on true pixel values) and returns logits [B, classes].
"""

import torch
from torch import Tensor, nn


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


class Pretreated(nn.Module):
    """A torchvision classifier on pixels of this library: normalise, resize where asked, repeat grey to RGB."""

    def __init__(self, normalise: nn.Module, backbone: nn.Module, size: int | None):
        super().__init__()
        self.normalise, self.backbone, self.size = normalise, backbone, size

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalise(x)
        if self.size is not None:
            x = nn.functional.interpolate(x, size=self.size, mode="bilinear", antialias=True)
        return self.backbone(x.expand(-1, 3, -1, -1))


def _check_left(pixels: int) -> None:
    if not pixels:
        raise ValueError("pooling leaves no pixel of pictures this small")


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
    _check_left(flat)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))


def _fastnet(shape, n_classes, normalise, *, width: int = 64, hidden: int = 256) -> nn.Module:
    """A network for processors: a strided stem, two of conv3x3-maxpool-norm-relu (w, 2w), then two linear layers.

    Whatever is not a matrix product (norms, activations) works on few pixels: the stem halves the side, from 48 pixels
    on it quarters it, and pooling comes before the norm. Channels in multiples of 32 fill the tiles of AMX.
    """
    stride = 4 if min(shape[1:]) >= 48 else 2
    stem, first, second = width // 2, width, 2 * width
    rows, columns = (((side - 1) // stride + 1) // 4 for side in shape[1:])
    _check_left(rows * columns)
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


OWN = {"mlp": _mlp, "cnn": _cnn, "fastnet": _fastnet, "resnet_bn": _resnet_bn, "resnet_gn": _resnet_gn}
