"""What somebody can do who trains on protected pictures: compress, blur, grey, mix, or train adversarially.

Compression, blur and grey give the pictures back as uint8; do the same to the pictures that are asked about later.
That such simple means undo much of the noise: Liu et al. (ICML 2023, arXiv:2301.13838) for JPEG and grey, Tao et al.
(NeurIPS 2021, arXiv:2102.04716) for adversarial training.
"""

import io
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.data.strata import stratified
from unlearnlib.data.tensors import check_fraction, check_whole
from unlearnlib.prevention.error_minimising import signed_steps
from unlearnlib.prevention.protected import check_budget, check_pictures
from unlearnlib.training.batches import minibatches, steps_of
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import check_finite
from unlearnlib.training.modes import evaluating, training_mode
from unlearnlib.training.recipe import Recipe, clip, optimiser_of, set_rate
from unlearnlib.training.renewal import copied
from unlearnlib.training.work import Tally


def jpeg(examples: Examples, quality: int = 30) -> Examples:
    """The pictures after JPEG compression of `quality` 1 to 95 (uint8; grey or RGB)."""
    check_pictures(examples)
    check_whole("quality", quality, 1, 96)
    channels = examples.shape[0]
    if channels not in (1, 3):
        raise ValueError(f"JPEG takes grey or RGB pictures, not {channels} channels")
    made = [_compressed(picture, quality) for picture in examples.images.permute(0, 2, 3, 1).cpu().numpy()]
    pixels = torch.from_numpy(np.stack(made)).reshape(len(examples), *examples.shape[1:], channels)
    return replace(examples, images=pixels.permute(0, 3, 1, 2).contiguous().to(examples.images.device))


def _compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def blur(examples: Examples, size: int = 3) -> Examples:
    """Each pixel the mean of the `size` x `size` square about it; pictures are mirrored at their borders."""
    check_pictures(examples)
    check_whole("size", size, 1, min(examples.shape[1:]))
    if size % 2 == 0:
        raise ValueError(f"size must be odd, so that a square has a middle, not {size}")
    return _as_uint8(examples, box(examples.pixels(), size))


def box(pixels: Tensor, size: int) -> Tensor:
    """Means over squares of odd side: pixels [B, C, H, W] -> the same shape."""
    half = size // 2
    return F.avg_pool2d(F.pad(pixels, (half,) * 4, mode="reflect"), size, stride=1) if half else pixels


def grey(examples: Examples) -> Examples:
    """All channels of a picture at its luminance, .299 R + .587 G + .114 B; grey pictures stay as they are."""
    check_pictures(examples)
    channels = examples.shape[0]
    if channels == 1:
        return examples
    if channels != 3:
        raise ValueError(f"luminance is defined for RGB pictures, not for {channels} channels")
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return _as_uint8(examples, (examples.pixels() * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1))


def _as_uint8(examples: Examples, pixels: Tensor) -> Examples:
    return replace(examples, images=(255 * pixels).round().clamp(0, 255).to(torch.uint8))


def mixed(protected: Examples, originals: Examples, share: float, seed: int) -> tuple[Examples, Tensor]:
    """Protected pictures of which a share, alike in every class, is unprotected; and which these are: bool [N].

    The control of a mixture is training on `originals[mask]` alone: only what a mixture adds to that was learnt from
    protected pictures.
    """
    check_pictures(protected, "protected")
    check_pictures(originals, "originals")
    check_fraction("share", share)
    if protected.images.shape != originals.images.shape or not torch.equal(protected.labels, originals.labels):
        raise ValueError("protected and originals must be the same pictures in the same order: labels or shapes differ")
    mask = stratified(originals.labels, share, seeding.generator(seed, "mixture"))
    images = torch.where(mask[:, None, None, None], originals.images, protected.images)
    return replace(protected, images=images), mask


def adversarial(
    model: nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    radius: float,
    seed: int,
    steps: int = 2,
    tally: Tally | None = None,
) -> nn.Module:
    """A copy of `model` trained by `recipe` on the worst pictures near the given ones,

        min_theta sum_i max_(|rho_i| <= radius) CE(f_theta(x_i + rho_i), y_i),

    where rho is found by `steps` signed steps up from 0, in eval mode. radius=0 is `training.fit`. Augmentation,
    label smoothing and mixed precision of the recipe are refused, look-ahead too: this loop has none.
    """
    check_pictures(examples)
    check_model(model, examples)
    check_budget(radius, "radius")
    check_whole("steps", steps, 1)
    plain = recipe.augment == "none" and not recipe.label_smoothing and not recipe.lookahead
    if not plain or recipe.precision == "bfloat16":
        raise ValueError("adversarial training takes a recipe without augmentation, smoothing, look-ahead and bfloat16")
    model, total = copied(model), steps_of(len(examples), recipe)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser, order = optimiser_of(parameters, recipe), seeding.generator(seed, "order")
    batches = minibatches(len(examples), recipe.batch_size, recipe.epochs, order, keep_last=recipe.keep_last)
    with seeding.isolated(seed, "dropout"):
        for step, index in enumerate(batches):
            x, y = examples.pixels(index), examples.labels[index]
            if radius:

                def loss(rho, x=x, y=y):
                    return F.cross_entropy(model((x + rho).clamp(0, 1)), y, reduction="sum")

                with evaluating(model):
                    size = radius / max(1, steps - 1)
                    x = (x + signed_steps(loss, torch.zeros_like(x), radius, size, steps, 1)).clamp(0, 1)
            set_rate(optimiser, recipe.rate(step, total))
            with training_mode(model, x[:1]):
                optimiser.zero_grad()
                F.cross_entropy(model(x), y).backward()
            clip(parameters, recipe)
            optimiser.step()
            if tally is not None:
                tally.count("gradient", len(index) * (1 + steps * bool(radius)))
    optimiser.zero_grad()
    check_finite(model)
    return model
