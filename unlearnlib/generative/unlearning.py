"""One door to the unlearning of samplers: `unlearn(name, sampler, split, seed=...)`, `methods()`, `published(name)`.

A method forgets a class: asked for it, the sampler shall draw something else. Each stands in a file of its own, with
its equation, its source and where it departs from it. Defaults were chosen on splits and seeds that no page shows.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import nn

from unlearnlib import _names, seeding
from unlearnlib.data.examples import Split
from unlearnlib.generative import (
    cascade,
    descent,
    erasediff,
    noise_target,
    redirect,
    salun,
    selective_amnesia,
    sfron,
)
from unlearnlib.generative.doors import check_pictures
from unlearnlib.generative.steps import Descent, Parts
from unlearnlib.methods.records import Cost
from unlearnlib.methods.registry import Run, Unlearned
from unlearnlib.training.loop import check_finite
from unlearnlib.training.modes import training_mode
from unlearnlib.training.renewal import copied, restore

LOSS, DENOISER = ("loss",), ("loss", "noised", "predict", "parts")
DRAWS = ("loss", "bound", "noise", "sample")
GAME = ("generator", "discriminator", "noise")


@dataclass(frozen=True)
class Method:
    """One entry: its configuration, what it is, its source in references.bib, what it needs, the function."""

    config: type
    idea: str
    paper: str
    needs: tuple[str, ...]
    function: Callable[[nn.Module, Parts, object, Run], nn.Module]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # kind of sampler -> the authors' values


METHODS = {
    "finetune": Method(
        Descent, "go on training on what is retained: the control", "golatkar2020", LOSS, descent.finetune
    ),
    "ascent": Method(descent.Ascent, "raise the loss of forgotten pictures", "golatkar2020", LOSS, descent.ascent),
    "ascent_descent": Method(
        descent.AscentDescent, "ascent, and descent on what is retained", "kurmanji2023", LOSS, descent.ascent_descent
    ),
    "redirect": Method(redirect.Redirect, "draw another class in its place", "kumari2023", DENOISER, redirect.redirect),
    "noise_target": Method(
        noise_target.NoiseTarget,
        "see other noise in it than was added",
        "wu2025erasediff",
        DENOISER,
        noise_target.noise_target,
    ),
    "erasediff": Method(
        erasediff.EraseDiff,
        "towards a class drawn for each batch, and inner passes that are undone",
        "wu2025erasediff",
        DENOISER,
        erasediff.erasediff,
        erasediff.PUBLISHED,
    ),
    "salun": Method(
        salun.Salun, "redirection of the weights that matter", "fan2024", DENOISER, salun.salun, salun.PUBLISHED
    ),
    "sfron": Method(
        sfron.Sfron, "masked ascent that fades, and repair, in turns", "huang2024", LOSS, sfron.sfron, sfron.PUBLISHED
    ),
    "selective_amnesia": Method(
        selective_amnesia.SelectiveAmnesia,
        "teach noise in its place, replay the rest, hold what matters",
        "heng2023",
        DRAWS,
        selective_amnesia.selective_amnesia,
        selective_amnesia.PUBLISHED,
    ),
    "cascade": Method(
        cascade.Cascade, "of a GAN, reconstructed: substitution and a fake label", "sun2025", GAME, cascade.cascade
    ),
}


def _method(name: str) -> Method:
    return _names.entry(name, METHODS, "unlearning method", "for samplers")


def configure(name: str, **hyperparameters):
    """The hyper-parameters of a method. Raises ValueError naming the nearest method or hyper-parameter."""
    return _names.configured(name, _method(name).config, hyperparameters)


def published(name: str, kind: str = "diffusion") -> dict[str, float]:
    """The authors' hyper-parameters for a kind of sampler, "diffusion" or "cvae". ValueError where there are none."""
    found = _method(name).published
    if kind not in found:
        known = [f"{name}, {kind}" for name, method in METHODS.items() for kind in method.published]
        raise ValueError(f"no published values of {name!r} for {kind!r}: there are those of {'; '.join(known)}")
    return dict(found[kind])


def _parts(sampler: nn.Module, split: Split, forget: int | None) -> Parts:
    """What a method sees of a split whose forget set is one class. Raises ValueError."""
    if not isinstance(split, Split):
        raise ValueError(f"split must be a data.Split with a class to forget, not {type(split).__name__}")
    labels = split.forget.labels.unique().tolist()
    if forget is None and len(labels) == 1:
        forget = labels[0]
    if isinstance(forget, bool) or not isinstance(forget, int) or labels != [forget]:
        shown = ", ".join(map(str, labels[:10]))
        raise ValueError(f'forget={forget!r}, and the forget set has labels {shown}: split the data by "class:3"')
    left = int((split.retain.labels == forget).sum())
    if left:
        raise ValueError(f"{left} retained pictures are of class {forget}: a sampler forgets a class as a whole")
    return Parts(split.forget, split.retain, split.validation, forget)


def _check(name: str, sampler: nn.Module, split: Split) -> None:
    needs = _method(name).needs
    missing = [part for part in needs if not callable(getattr(sampler, part, None))]
    if not isinstance(sampler, nn.Module) or missing:
        can = [m for m, found in METHODS.items() if all(callable(getattr(sampler, p, None)) for p in found.needs)]
        others = f": it can be given to {', '.join(can)}" if can else ""
        raise ValueError(f"{name} needs a sampler, a torch module, with {', '.join(missing or needs)}{others}")
    if "loss" in needs:
        check_pictures(sampler, split.train)
    elif tuple(sampler.shape) != split.train.shape:
        raise ValueError(f"the sampler draws pictures {tuple(sampler.shape)}, these are {split.train.shape}")


def unlearn(
    name: str, sampler: nn.Module, split: Split, *, forget: int | None = None, seed: int, **hyperparameters
) -> Unlearned:
    """Make a sampler that, asked for a class, draws something else.

    sampler   `Diffusion`, `CVAE`, `GAN` or another with what the method needs (see `methods()`); it is not changed
    split     its forget set is that class, and all of it. Validation pictures are seen by `cascade` alone, test
              pictures by none
    forget    the label of that class; None: that of the forget set
    seed      of all random draws of the method

    The result has the trainable flags and the modes of `sampler`; methods train in train mode. No method here has a
    guarantee: the certificate is None. Work is counted in passes of one picture. Raises ValueError on an unknown name
    or hyper-parameter, a split whose forget set is no whole class and a sampler that does not fit, and
    training.Diverged where the result is not finite.
    """
    config = configure(name, **hyperparameters)
    parts = _parts(sampler, split, forget)
    _check(name, sampler, split)
    started, working = time.perf_counter(), copied(sampler)
    for p in working.parameters():
        p.requires_grad_(True)
    given = copied(sampler).eval().requires_grad_(False)
    run = Run(seed, given=given)
    with seeding.isolated(seed, "method"), training_mode(working), torch.enable_grad():
        made = METHODS[name].function(working, parts, config, run)
    check_finite(restore(made, sampler))
    return Unlearned(made, Cost.of(run.tally, time.perf_counter() - started), None, name, config, seed)


def methods() -> pd.DataFrame:
    """All methods: name, idea, paper, what they need of a sampler, and the defaults of their hyper-parameters."""
    rows = []
    for name, found in METHODS.items():
        shown = ", ".join(f"{f.name}={getattr(found.config(), f.name)}" for f in dataclasses.fields(found.config))
        rows.append((name, found.idea, found.paper, ", ".join(found.needs), shown))
    return pd.DataFrame(rows, columns=["name", "idea", "paper", "needs", "defaults"])
