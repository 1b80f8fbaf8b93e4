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


class Whitening(nn.Module):
    """A fixed first layer: 2x2 patches on their principal axes, each axis at variance one, with both signs.

        filters_k = +- v_k / sqrt(lambda_k + 5e-4),   sum_k lambda_k v_k v_k^T = second moments of the patches

    [B, C, H, W] -> [B, 8C, H - 1, W - 1]. The filters are a buffer: no optimiser and no unlearning method moves them.

    *Whose pictures they come from.* A network that was just built has the filters of white noise. The first batch that
    passes in train mode sets them, once: so a retraining takes them from retained pictures alone, and what a trained
    network keeps of its first batch stays through unlearning. `whitened` sets them from pictures of your choice, which
    should be public ones; these then stay in `fresh` copies too.
    """

    UNSET, TRAINING, GIVEN = 0, 1, 2

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("weight", torch.empty(8 * channels, channels, 2, 2))
        self.register_buffer("source", torch.tensor(self.UNSET))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget all pictures: the filters of white noise, each a single pixel."""
        axes = torch.eye(self.weight[0].numel(), device=self.weight.device)
        self.weight.copy_(torch.cat([axes, -axes]).reshape(self.weight.shape))
        self.source.fill_(self.UNSET)

    @torch.no_grad()
    def learn(self, x: Tensor, source: int) -> None:
        """Set the filters from `x` [B, C, H, W]."""
        patches = nn.functional.unfold(x.detach().float(), 2).transpose(1, 2).flatten(0, 1).double()
        with torch.autocast(x.device.type, enabled=False):
            values, axes = torch.linalg.eigh(patches.T @ patches / len(patches))
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # a sign of no library's choosing
        scaled = (axes / (values.clamp_min(0) + 5e-4).sqrt()).T.flip(0)
        self.weight.copy_(torch.cat([scaled, -scaled]).reshape(self.weight.shape))
        self.source.fill_(source)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.source:
            self.learn(x, self.TRAINING)
        return nn.functional.conv2d(x, self.weight)


class Scale(nn.Module):
    """x times a fixed number."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


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


def _whitened(shape, n_classes, normalise, *, widths: tuple[int, ...] = (64, 256, 256)) -> nn.Module:
    """A strong network in few passes, after Jordan (2024, arXiv:2404.00498).

    Whitened 2x2 stem, then for each width a block of conv3x3-maxpool-norm-relu-conv3x3-norm-relu, largest value of each
    channel, linear head without bias.

    Convolutions begin as the identity on as many channels as come in. Norms have a bias and no scale.
    """
    _check_left((min(shape[1:]) - 1) >> len(widths))
    layers, inside = [normalise, Whitening(shape[0]), nn.ReLU()], 8 * shape[0]
    for outside in widths:
        layers += [_dirac(inside, outside), nn.MaxPool2d(2), _shift(outside), nn.ReLU()]
        layers += [_dirac(outside, outside), _shift(outside), nn.ReLU()]
        inside = outside
    head = [nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scale(1 / 9), nn.Linear(inside, n_classes, bias=False)]
    return nn.Sequential(*layers, *head)


def _dirac(inside: int, outside: int) -> nn.Conv2d:
    conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:inside])
    return conv


def _shift(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


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


OWN = {
    "mlp": _mlp,
    "cnn": _cnn,
    "fastnet": _fastnet,
    "whitened": _whitened,
    "resnet_bn": _resnet_bn,
    "resnet_gn": _resnet_gn,
}
