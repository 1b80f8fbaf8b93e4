"""One door to the unlearning of language models: `unlearn(name, model, texts, seed=...)`, `methods()`.

All descend by Adam on a forget and a retain batch a step, loss = forget loss + `retain` * mean answer loss of retained
texts. The forget losses stand in `losses`; RMU (Li et al., ICML 2024) steers what leaves a block instead,

    || h(x_F) - c u ||^2 + alpha || h(x_R) - h_0(x_R) ||^2,     u a random direction of length 1,

and moves only the blocks up to it. Defaults were chosen on worlds that no page shows.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from unlearnlib import _names, seeding
from unlearnlib.language import losses
from unlearnlib.language.model import answer_nll, batches, check_texts
from unlearnlib.language.texts import Texts, TextSplit
from unlearnlib.methods.records import Cost
from unlearnlib.methods.registry import Run, Unlearned
from unlearnlib.training.loop import check_finite
from unlearnlib.training.renewal import copied, restore


@dataclass(frozen=True)
class Descent:
    """What all methods take."""

    steps: int = 60  # optimiser steps
    lr: float = 1e-3  # of Adam, constant
    batch_size: int = 32  # texts of the forget set in a step, and as many of the retain set
    retain: float = 1.0  # weight of the loss on retained texts

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value, whole = getattr(self, f.name), f.type in (int, "int")
            kinds = int if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < float("inf"):
                raise ValueError(f"{f.name} is a {'whole number' if whole else 'number'} of 0 or more, not {value!r}")
            if not value and f.name in ("steps", "batch_size", "lr", "beta"):
                raise ValueError(f"{f.name} must be above 0")


@dataclass(frozen=True)
class Ascent(Descent):
    steps: int = 20
    retain: float = 0.0


@dataclass(frozen=True)
class NPO(Descent):
    beta: float = 0.1  # how fast the push fades; 0 would be ascent


@dataclass(frozen=True)
class SimNPO(Descent):
    beta: float = 4.5  # how fast the push fades
    gamma: float = 0.0  # the log-probability a word, times beta, at which half the push has gone


@dataclass(frozen=True)
class DPO(Descent):
    beta: float = 0.1  # how fast the push fades


@dataclass(frozen=True)
class RMU(Descent):
    steps: int = 200
    layer: int = 1  # the block whose output is steered
    c: float = 5.0  # length of the vector that it is steered to
    alpha: float = 10.0  # weight of staying where it was on retained texts
    retain: float = 0.0


@dataclass(frozen=True)
class TaskVector(Descent):
    scale: float = 1.0  # how much of the step from the original to the fine-tuned model is subtracted
    retain: float = 0.0


@dataclass(frozen=True)
class Method:
    """One entry: its configuration, what it is, its source in references.bib, and the function."""

    config: type
    idea: str
    paper: str
    function: Callable[[nn.Module, TextSplit, object, Run], nn.Module]


def _descended(model: nn.Module, texts: TextSplit, config: Descent, run: Run, forget: Callable | None, trained=None):
    """Adam on forget(batch of forgotten, batch of retained) + retain * answer loss; `forget` None: the latter alone."""
    optimiser = torch.optim.Adam(list(trained or model.parameters()), lr=config.lr)
    n, steps = config.batch_size, config.steps
    gone = batches(len(texts.forget), n, steps, run.generator("forget batches"))
    kept = batches(len(texts.retain), n, steps, run.generator("retain batches"))
    for a, b in zip(gone, kept, strict=True):
        lost, known = texts.forget[a], texts.retain[b]
        loss = torch.zeros(())
        if forget is not None:
            loss = loss + forget(lost, known)
            run.tally.count("gradient", len(a))
        if config.retain:
            loss = loss + config.retain * answer_nll(model, known).sum() / known.answer.sum()
            run.tally.count("gradient", len(b))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def _reference(run: Run, texts: Texts, *other: Tensor) -> Tensor:
    """l of the original on these texts."""
    run.tally.count("forward", len(texts))
    with torch.no_grad():
        return answer_nll(run.given, texts, *other)


def _ascent(model, texts, config, run):
    return _descended(model, texts, config, run, lambda f, r: -answer_nll(model, f).sum() / f.answer.sum())


def _finetune(model, texts, config, run):
    return _descended(model, texts, config, run, None)


def _npo(model, texts, config, run):
    def loss(f, r):
        return losses.npo(answer_nll(model, f), _reference(run, f), config.beta)

    return _descended(model, texts, config, run, loss)


def _simnpo(model, texts, config, run):
    def loss(f, r):
        return losses.simnpo(answer_nll(model, f), f.lengths(), config.beta, config.gamma)

    return _descended(model, texts, config, run, loss)


def _dpo(model, texts, config, run):
    def loss(f, r):
        instead = f.refusal, f.refused
        run.tally.count("gradient", len(f))  # the refusals are as many texts again
        said = answer_nll(model, f), _reference(run, f), answer_nll(model, f, *instead), _reference(run, f, *instead)
        return losses.dpo(*said, config.beta)

    return _descended(model, texts, config, run, loss)


def _rmu(model, texts, config, run):
    blocks = getattr(model, "blocks", ())
    if not callable(getattr(model, "hidden", None)) or not 1 <= config.layer <= len(blocks):
        raise ValueError(f"rmu needs a model with hidden(tokens, layer) and at least layer={config.layer} blocks")
    width = model.hidden(texts.forget.tokens[:1], config.layer).shape[-1]
    u = torch.rand(width, generator=run.generator("direction"))
    target = config.c * u / u.norm()

    def loss(f, r):
        run.tally.count("gradient", len(r))
        run.tally.count("forward", len(r))
        with torch.no_grad():
            before = run.given.hidden(r.tokens, config.layer)
        steer = _over(model.hidden(f.tokens, config.layer) - target, f)
        return steer + config.alpha * _over(model.hidden(r.tokens, config.layer) - before, r)

    trained = [p for block in blocks[: config.layer] for p in block.parameters()]
    return _descended(model, texts, config, run, loss, trained)


def _over(difference: Tensor, texts: Texts) -> Tensor:
    """The mean square over words that are not padding, and over the width."""
    words = texts.tokens > 0
    return (difference.square().mean(-1) * words).sum() / words.sum()


@torch.no_grad()
def _subtracted(model, start, scale):
    for p, p0 in zip(model.parameters(), start.parameters(), strict=True):
        p.copy_(p0 - scale * (p - p0))
    return model


def _task_vector(model, texts, config, run):
    with torch.enable_grad():
        _descended(model, texts, config, run, lambda f, r: answer_nll(model, f).sum() / f.answer.sum())
    return _subtracted(model, run.given, config.scale)


METHODS = {
    "ascent": Method(Ascent, "raise the loss of the answers", "jang2023", _ascent),
    "finetune": Method(Descent, "go on training on what is retained: the control", "maini2024", _finetune),
    "graddiff": Method(Descent, "ascent, and descent on what is retained", "maini2024", _ascent),
    "npo": Method(NPO, "ascent that fades below the original's probability", "zhang2024npo", _npo),
    "simnpo": Method(SimNPO, "ascent that fades with the probability a word", "fan2024simnpo", _simnpo),
    "dpo": Method(DPO, "prefer a refusal to the answer", "rafailov2023", _dpo),
    "rmu": Method(RMU, "steer hidden states to a random direction", "li2024", _rmu),
    "task_vector": Method(TaskVector, "subtract what fine-tuning on the forget set adds", "ilharco2023", _task_vector),
}


def configure(name: str, **hyperparameters):
    """The hyper-parameters of a method. Raises ValueError naming the nearest method or hyper-parameter."""
    method = _names.entry(name, METHODS, "unlearning method", "for language models")
    return _names.configured(name, method.config, hyperparameters)


def unlearn(name: str, model: nn.Module, texts: TextSplit, *, seed: int, **hyperparameters) -> Unlearned:
    """Make a language model that should behave as if it had never been taught `texts.forget`.

    model   word numbers [B, T] -> logits [B, T, V], taught `texts.forget` and `texts.retain`; it is not changed
    texts   a `TextSplit`; its paraphrases are withheld from the method
    seed    of all random draws of the method

    The result has the trainable flags and the modes of `model`; methods run in eval mode. No method here has a
    guarantee: the certificate is None. Work is counted in texts. Raises ValueError on an unknown name or
    hyper-parameter, an empty forget or retain set and a model that does not read such texts, and training.Diverged
    where the result is not finite.
    """
    config = configure(name, **hyperparameters)
    if not isinstance(texts, TextSplit):
        raise ValueError(f"texts must be a language.TextSplit(forget, retain), not {type(texts).__name__}")
    for part in ("forget", "retain"):
        given = getattr(texts, part)
        if not isinstance(given, Texts) or not len(given):
            raise ValueError(
                f"the {part} set is empty: " + ("nothing to unlearn" if part == "forget" else "build anew")
            )
    if texts.forget.words != texts.retain.words:
        raise ValueError("the forget and the retain set must have one vocabulary: give words= to Texts.of")
    for part in (texts.forget, texts.retain):
        check_texts(model, part)
    started, working = time.perf_counter(), copied(model)
    for p in working.parameters():
        p.requires_grad_(True)
    run = Run(seed, given=copied(model).eval())
    with seeding.isolated(seed, "method"):
        made = METHODS[name].function(working.eval(), TextSplit(texts.forget, texts.retain), config, run)
    check_finite(restore(made, model))
    return Unlearned(made, Cost.of(run.tally, time.perf_counter() - started), None, name, config, seed)


def methods() -> pd.DataFrame:
    """All methods: name, idea, paper, and the defaults of their hyper-parameters."""
    rows = []
    for name, found in METHODS.items():
        shown = ", ".join(f"{f.name}={getattr(found.config(), f.name)}" for f in dataclasses.fields(found.config))
        rows.append((name, found.idea, found.paper, shown))
    return pd.DataFrame(rows, columns=["name", "idea", "paper", "defaults"])
