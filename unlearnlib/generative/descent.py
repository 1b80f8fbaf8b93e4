"""Descent on retained pictures, ascent on forgotten ones, both: two of the simplest methods and the control of all.

    finetune         min  E_R loss
    ascent           max  E_F loss                               unbounded
    ascent_descent   min  retain E_R loss - push E_F loss      unbounded, held by the retained pictures

loss is the one that the sampler was trained by, so any sampler will do. Golatkar et al. (CVPR 2020) for fine-tuning
and ascent of classifiers, and the loss of NegGrad+ of Kurmanji et al. (NeurIPS 2023); no deviations but the sampler.
"""

from dataclasses import dataclass

from unlearnlib.generative.steps import Descent, batches, stepper, told, two_batches


@dataclass(frozen=True)
class Ascent(Descent):
    steps: int = 30
    retain: float = 0.0


@dataclass(frozen=True)
class AscentDescent(Descent):
    push: float = 0.03  # weight of the ascent


def finetune(sampler, parts, config: Descent, run):
    step, rng = stepper(sampler, config), run.generator("draws")
    for x, c in batches(sampler, parts.retain, config, run, "retain batches"):
        step(config.retain * sampler.loss(x, c, rng).mean())
        told(run, "gradient", x)
    return sampler


def ascent(sampler, parts, config: Ascent, run):
    step, rng = stepper(sampler, config), run.generator("draws")
    for x, c in batches(sampler, parts.forget, config, run, "forget batches"):
        step(-sampler.loss(x, c, rng).mean())
        told(run, "gradient", x)
    return sampler


def ascent_descent(sampler, parts, config: AscentDescent, run):
    def loss(x, c, y, d, rng):
        told(run, "gradient", x, y)
        return config.retain * sampler.loss(y, d, rng).mean() - config.push * sampler.loss(x, c, rng).mean()

    return two_batches(sampler, parts, config, run, loss)
