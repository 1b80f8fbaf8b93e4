"""How a model is trained, as data: optimiser, learning rates, clipping, augmentation, precision."""

import bisect
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

AUGMENTATIONS = ("none", "shift", "crop", "flip", "flip-crop", "flip-crop-zero", "alternate")
OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "one-cycle", "step-decay", "restarts")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Raises ValueError on a value out of range or of the wrong type."""

    epochs: int = 10
    batch_size: int = 64
    optimiser: str = "adamw"  # "sgd"; "adam" (weight decay is part of the gradient); "adamw" (it is not)
    lr: float = 2e-3  # peak learning rate
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-4
    schedule: str = "one-cycle"  # linear rise over the first 20 %, then linear fall to 0; or another of SCHEDULES
    label_smoothing: float = 0.0
    augment: str = "none"  # "shift" 1 pixel, "crop" (an eighth of each side, reflected), "flip", "flip-crop", or
    # "flip-crop-zero", whose borders are black, or "alternate": crop by a sixteenth, flipped every other time it comes
    precision: str = "auto"  # "float32"; "bfloat16" (mixed); "auto": in the fast mode the faster one, else float32
    channels_last: bool = False  # memory layout of the weights; bfloat16 always takes it
    nesterov: bool = True  # of sgd with momentum; False is heavy ball
    milestones: tuple[int, ...] = ()  # of step-decay: after so many epochs the rate is multiplied by `factor`
    factor: float = 0.1  # of step-decay
    lowest: float = 0.0  # of restarts: cosines from lr to this rate, over 1, 2, 4, ... epochs, moved after each epoch
    per_epoch: bool = False  # cosine and one-cycle move after each epoch, not after each step
    clip_norm: float | None = None  # the gradient of a step is shortened to this length
    clip_value: float | None = None  # each entry of the gradient is clamped to +- this
    keep_last: bool = False  # the incomplete last batch of an epoch is a step too
    vector_rate: float = (
        1.0  # parameters with one dimension (biases) learn at so many times the rate; decay as the rest
    )
    lookahead: bool = False  # every fifth step goes back to an average of such steps, see `lookahead.Lookahead`

    def __post_init__(self):
        _check_choices(self)
        _check_types(self)
        if isinstance(self.milestones, list):
            object.__setattr__(self, "milestones", tuple(self.milestones))
        if self.epochs < 0 or self.batch_size < 1 or self.lr < 0 or self.weight_decay < 0:
            raise ValueError("Recipe needs epochs >= 0, batch_size >= 1, lr >= 0 and weight_decay >= 0")
        if not (0 <= self.momentum < 1 and 0 <= self.label_smoothing <= 1 and self.factor >= 0 and self.lowest >= 0):
            raise ValueError("Recipe needs 0 <= momentum < 1, 0 <= label_smoothing <= 1, factor >= 0 and lowest >= 0")
        if self.vector_rate <= 0:
            raise ValueError("Recipe.vector_rate must be above 0: 1 for the rate of all other parameters")
        if any(clip is not None and clip <= 0 for clip in (self.clip_norm, self.clip_value)):
            raise ValueError("Recipe.clip_norm and clip_value must be above 0, or None for no clipping")
        if bool(self.milestones) != (self.schedule == "step-decay"):
            raise ValueError('Recipe.milestones and schedule="step-decay" belong together: give both or neither')

    def rate(self, step: int, steps: int | Sequence[int]) -> float:
        """The learning rate of step 0 <= `step` < `steps`.

        steps   how many there are, in `epochs` equally long epochs; or the number done at the end of each epoch

        By epochs, cosine, step decay and restarts are `torch.optim.lr_scheduler`'s CosineAnnealingLR, MultiStepLR and
        CosineAnnealingWarmRestarts (T_0 = 1, T_mult = 2) stepped after each epoch, bit for bit. Raises ValueError where
        epochs count and do not divide the steps.
        """
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "step-decay":
            return _decayed(self.lr, self.milestones, self.factor, self._epoch(step, steps)[0])
        if self.schedule == "restarts":
            return _restarted(self.lr, self.lowest, self._epoch(step, steps)[0])
        if self.per_epoch:
            step, steps = self._epoch(step, steps)
            if self.schedule == "cosine":
                return _annealed(self.lr, step, steps)
        steps = steps if isinstance(steps, int) else steps[-1]
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        peak = max(1, round(0.2 * steps))
        return self.lr * (step + 1) / peak if step < peak else self.lr * (steps - step) / (steps - peak + 1)

    def _epoch(self, step: int, steps: int | Sequence[int]) -> tuple[int, int]:
        """The number of epochs done before `step`, and of all."""
        if not isinstance(steps, int):
            return bisect.bisect_right(steps, step), len(steps)
        if not self.epochs or steps % self.epochs:
            raise ValueError(f"{steps} steps are not {self.epochs} equal epochs: give the steps done after each epoch")
        return step // (steps // self.epochs), self.epochs


def _annealed(lr: float, epoch: int, epochs: int) -> float:
    """CosineAnnealingLR by its own recurrence, whose rounding is not that of the closed form."""
    for e in range(1, epoch + 1):
        lr = (1 + math.cos(math.pi * e / epochs)) / (1 + math.cos(math.pi * (e - 1) / epochs)) * lr
    return lr


def _restarted(lr: float, lowest: float, epoch: int) -> float:
    length = 1
    while epoch >= length:
        epoch, length = epoch - length, 2 * length
    return lowest + (lr - lowest) * (1 + math.cos(math.pi * epoch / length)) / 2


def _decayed(lr: float, milestones: tuple[int, ...], factor: float, epoch: int) -> float:
    """MultiStepLR by its own recurrence; a milestone that is named twice counts twice."""
    for milestone, count in sorted(Counter(milestones).items()):
        if milestone <= epoch:
            lr = lr * factor**count
    return lr


def _check_choices(recipe: Recipe) -> None:
    for field, known in (
        ("optimiser", OPTIMISERS),
        ("schedule", SCHEDULES),
        ("augment", AUGMENTATIONS),
        ("precision", PRECISIONS),
    ):
        if getattr(recipe, field) not in known:
            raise ValueError(f"Recipe.{field} must be one of {', '.join(known)}, not {getattr(recipe, field)!r}")


def _whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_types(recipe: Recipe) -> None:
    def epochs(value):
        return isinstance(value, (tuple, list)) and all(_whole(e) and e >= 1 for e in value)

    for kind, fits, fields in (
        ("a whole number", _whole, "epochs batch_size"),
        ("a finite number", _real, "lr momentum weight_decay label_smoothing factor lowest vector_rate"),
        ("a finite number or None", lambda value: value is None or _real(value), "clip_norm clip_value"),
        (
            "True or False",
            lambda value: isinstance(value, bool),
            "channels_last nesterov per_epoch keep_last lookahead",
        ),
        ("a tuple of epochs, each at least 1", epochs, "milestones"),
    ):
        for field in fields.split():
            if not fits(getattr(recipe, field)):
                raise ValueError(f"Recipe.{field} must be {kind}, not {getattr(recipe, field)!r}")


def optimiser_of(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser that `recipe` names, over `parameters`; `set_rate` gives it the rate of a step."""
    parameters, decay, times = list(parameters), recipe.weight_decay, recipe.vector_rate
    vectors = [p for p in parameters if p.dim() == 1]
    if times != 1 and vectors:
        rest = {"params": [p for p in parameters if p.dim() != 1]}
        quick = {"params": vectors, "lr": times * recipe.lr, "weight_decay": decay / times, "times": times}
        parameters = [rest, quick] if rest["params"] else [quick]
    if recipe.optimiser in ("adamw", "adam"):
        kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
        made = kind(parameters, lr=recipe.lr, weight_decay=decay, fused=True)
        made.register_step_pre_hook(_lay_out_alike)
        return made
    # not fused: torch 2.14's kernel for SGD crashes on some (emulated) processors, and there is less to save
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=decay, nesterov=nesterov)


def _lay_out_alike(optimiser: torch.optim.Optimizer, *_) -> None:
    """Gradients and moments laid out in memory as their parameters: a fused step walks through all by address."""
    for group in optimiser.param_groups:
        for p in group["params"]:
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)
            state = optimiser.state.get(p, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                    state[name] = torch.empty_like(p).copy_(value)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters the learning rate `rate`, times its own factor where it has one."""
    for group in optimiser.param_groups:
        group["lr"] = group.get("times", 1) * rate


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], recipe: Recipe, models: int = 1) -> None:
    """Clip the gradients in `parameters` as `recipe` says: g <- g min(1, clip_norm / ||g||), then entry by entry.

    models   how many stacked models the parameters hold, side by side in their first dimension; each has its own norm
    """
    if recipe.clip_norm is None and recipe.clip_value is None:
        return
    parameters = [p for p in parameters if p.grad is not None]
    if recipe.clip_norm is not None and models == 1:
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
    elif recipe.clip_norm is not None:
        norms = _norms(parameters, models)
        factors = (recipe.clip_norm / (norms + 1e-6)).clamp(max=1.0)  # as torch clips
        for p in parameters:
            by_model = factors.repeat_interleave(len(p) // models)
            p.grad.mul_(by_model.reshape(-1, *[1] * (p.dim() - 1)).to(p.grad))
    if recipe.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, recipe.clip_value)


def _norms(parameters: list[nn.Parameter], models: int) -> Tensor:
    squares = [p.grad.reshape(models, -1).square().sum(1) for p in parameters]
    return torch.stack(squares).sum(0).sqrt()
