"""DP-SGD: per-example gradients, clipped and noised, so that no example matters much and forgetting costs nothing.

    B_t      every example independently with probability q (Poisson sampling)
    g~_t     = ( sum_{i in B_t} g_i min(1, C_t/||g_i||) + N(0, (z C_t)^2 I) ) / (q n)
    w        <- w - lr (momentum) g~_t

Abadi et al. 2016, key abadi2016. The divisor is the expected batch size, never the size drawn, and an empty batch still
takes its noisy step: both are what the accountant assumes. n, and with it q = expected_batch/n, counts as public.

Adaptive clipping (Andrew et al. 2021, key andrew2021) follows a quantile g of the gradient norms: with
b~ = 1/2 + (sum (1[||g_i|| <= C] - 1/2) + N(0, sigma_b^2))/(q n), C <- C exp(-eta_C (b~ - g)); the gradient noise is
raised by `accounting.clipping_noise_split` so that both releases together spend what z does. A falling noise
multiplier (`noise_decay`) is a schedule fixed in advance, and is accounted step by step.

The draws come from seeded torch generators: reproducible, and for that reason not cryptographically secure; neither
are they hardened against attacks on floating-point noise. Do not release such a model as protected against an
adversary who may know the seed.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.methods.records import Certificate
from unlearnlib.private import accounting
from unlearnlib.private.accounting import Phase, Spent
from unlearnlib.private.checks import check_choice, check_positive
from unlearnlib.private.learner import BudgetExhausted, Learner
from unlearnlib.private.mechanisms import gaussian
from unlearnlib.private.networks import check_gradients, check_separable, clipped_gradients
from unlearnlib.training.doors import check_model
from unlearnlib.training.loop import Diverged


@dataclass(frozen=True)
class PoissonSampler:
    """Batches that hold each of `n` examples independently with probability `rate`."""

    n: int
    rate: float

    def draw(self, rng: torch.Generator) -> Tensor:
        """Positions of one batch, int64, ascending; may be empty."""
        return (torch.rand(self.n, generator=rng, dtype=torch.float64) < self.rate).nonzero().flatten()


@dataclass(frozen=True)
class AdaptiveClip:
    """Follow the `quantile` of the gradient norms: C <- C exp(-rate (b~ - quantile)), key andrew2021."""

    quantile: float = 0.5
    rate: float = 0.2
    count_std: float | None = None  # sigma_b, noise on the count; None: expected batch/20

    def __post_init__(self):
        check_positive(rate=self.rate)
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must lie strictly between 0 and 1, not {self.quantile!r}")

    def update(self, clip: float, norms: Tensor, expected: float, count_std: float, rng: torch.Generator) -> float:
        """The next clip norm, from the norms [B] of one batch."""
        centred = (norms <= clip).double().sum() - len(norms) / 2
        noisy = gaussian(centred, count_std, rng)
        return clip * math.exp(-self.rate * (0.5 + float(noisy) / expected - self.quantile))


@dataclass(frozen=True, eq=False)
class DpSgd(Learner):
    """DP-SGD on any network without BatchNorm; `forget` changes nothing and certifies by group privacy.

    model              starting weights; copied, and started from again on retraining. They must not depend on the data
    noise_multiplier   z; or None, and `epsilon` says what training may spend
    accountant         of `accounting`; "gdp", which is no upper bound under sampling, counts as "pld" there
    sample_rate        q; or None, and it is expected_batch/n
    keep               name -> bool tensor: a pruning mask. Only these entries are trained and noised, so the noise
                       shrinks like sqrt(kept/all). It must come from public or already private information
    max_epsilon        a group guarantee above it is BudgetExhausted

    After `fit`: `spent()` is the guarantee for one example, `state.clips` the clip norm of every step.
    """

    model: nn.Module
    epochs: float = 15
    expected_batch: float = 256
    lr: float = 0.5
    clip: float = 1.0  # C, of the first step if `adaptive`
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float = 1e-5
    accountant: str = "pld"
    momentum: float = 0.0
    noise_decay: float = 1.0  # noise multiplier of the last epoch over that of the first, geometric in between
    adaptive: AdaptiveClip | None = None
    keep: Mapping[str, Tensor] | None = None
    sample_rate: float | None = None
    max_epsilon: float = math.inf
    chunk: int = 64  # examples whose gradients are handled at once; no effect on the result

    def __post_init__(self):
        super().__post_init__()
        check_separable(self.model)
        check_positive(
            epochs=self.epochs, expected_batch=self.expected_batch, clip=self.clip, noise_decay=self.noise_decay
        )
        check_choice("accountant", self.accountant, accounting.ACCOUNTANTS)
        if self.sample_rate is not None and not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must lie in (0, 1], not {self.sample_rate!r}")
        if not (0 < self.lr < math.inf and 0 <= self.momentum < 1):
            raise ValueError(f"need lr above 0 and momentum in [0, 1), not {self.lr!r} and {self.momentum!r}")
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise ValueError("give either noise_multiplier or epsilon, the other follows")
        shapes = {name: p.shape for name, p in self.model.named_parameters()}
        for name, mask in (self.keep or {}).items():
            if name not in shapes or mask.shape != shapes[name] or mask.dtype != torch.bool:
                raise ValueError(f"keep[{name!r}] must be a bool tensor of the shape of that parameter")

    def phases(self, n: int) -> list[Phase]:
        """What the accountant is told: the sampler's own rate, and the noise of each stretch of steps."""
        rate = self.sampler(n).rate
        steps = max(1, round(self.epochs / rate))
        shape = self._noise_shape(rate, steps)
        if self.noise_multiplier is not None:
            first = self.noise_multiplier
        else:
            first = accounting.calibrate(
                lambda z: [Phase(z * factor, rate, count) for factor, count in shape],
                self.epsilon,
                self.delta,
                self._valid_accountant(rate),
            )
        return [Phase(first * factor, rate, count) for factor, count in shape]

    def sampler(self, n: int) -> PoissonSampler:
        """The sampler that training draws from."""
        if self.sample_rate is not None:
            return PoissonSampler(n, self.sample_rate)
        if self.expected_batch > n:
            raise ValueError(f"expected_batch {self.expected_batch:g} exceeds the {n} examples: lower it")
        return PoissonSampler(n, self.expected_batch / n)

    def reference(self, seed: int) -> "DpSgd":
        """DP-SGD on the retained examples with this learner's sample rate, noise, steps and divisor."""
        kept, first = self.retained(), self._fitted().phases[0]
        same = dict(sample_rate=first.sample_rate, noise_multiplier=first.noise_multiplier, epsilon=None)
        return replace(self, seed=seed, **same).fit(kept)

    def spent(self) -> Spent:
        """The guarantee for adding or removing one example of the last training."""
        phases = self._fitted().phases
        return accounting.spent(phases, self.delta, self._valid_accountant(phases[0].sample_rate))

    def _valid_accountant(self, rate: float) -> str:
        return "pld" if self.accountant == "gdp" and rate < 1 else self.accountant

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] float32."""
        return self._answer(self._fitted().model, images)

    def _noise_shape(self, rate: float, steps: int) -> list[tuple[float, int]]:
        """(factor on the noise multiplier, steps) of each stretch: one stretch, or one an epoch if it decays."""
        if self.noise_decay == 1:
            return [(1.0, steps)]
        stretches = max(2, round(steps * rate))
        edges = [round(i * steps / stretches) for i in range(stretches + 1)]
        return [
            (self.noise_decay ** (i / (stretches - 1)), edges[i + 1] - edges[i])
            for i in range(stretches)
            if edges[i + 1] > edges[i]
        ]

    def _train(self, keep: Tensor) -> int:
        state = self.state
        examples = state.examples[keep]
        sampler = self.sampler(len(examples))
        phases = self.phases(len(examples))
        draw, noise = self._rng("batches"), self._rng("noise")
        model = copy.deepcopy(self.model).train()
        check_model(model, examples)
        like = next(model.parameters())
        door = torch.arange(min(2, len(examples)))
        images = examples.pixels(door, like.device, like.dtype)
        rules = check_gradients(model, images, examples.labels[door].to(like.device))
        velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
        clip, clips, seen = self.clip, [], 0
        with seeding.isolated(self.seed, "dropout", state.trainings):
            for phase in phases:
                for _ in range(phase.steps):
                    batch = sampler.draw(draw)
                    clips.append(clip)
                    clip = self._step(model, velocity, examples, batch, clip, phase.noise_multiplier, noise, rules)
                    seen += len(batch)
        state.model, state.phases, state.clips, state.trained_on = model.eval(), phases, clips, len(examples)
        return seen

    def _step(
        self,
        model: nn.Module,
        velocity: dict[str, Tensor],
        examples: Examples,
        batch: Tensor,
        clip: float,
        multiplier: float,
        rng: torch.Generator,
        rules: bool | None = None,
    ) -> float:
        """One noisy step in place; returns the next clip norm."""
        parameters = dict(model.named_parameters())
        like = next(iter(parameters.values()))
        images, labels = examples.pixels(batch, like.device, like.dtype), examples.labels[batch].to(like.device)
        sums, norms = clipped_gradients(model, images, labels, clip, keep=self.keep, chunk=self.chunk, rules=rules)
        if not bool(torch.isfinite(norms).all()):
            raise Diverged("an example's gradient is not finite: lower lr, or keep activations bounded")
        next_clip = clip
        if self.adaptive is not None:
            count_std = self.adaptive.count_std or self.expected_batch / 20
            multiplier = accounting.clipping_noise_split(multiplier, count_std)
            next_clip = self.adaptive.update(clip, norms, self.expected_batch, count_std, rng)
        with torch.no_grad():
            for name, total in sums.items():
                noisy = gaussian(total, multiplier * clip, rng) / self.expected_batch
                if self.keep is not None and name in self.keep:
                    noisy = noisy * self.keep[name]
                velocity[name].mul_(self.momentum).add_(noisy)
                parameters[name].sub_(self.lr * velocity[name])
        return next_clip

    def _unlearn(self, index: Tensor, keep: Tensor) -> tuple[dict[str, int], int, Certificate]:
        size = self.state.trained_on - int(keep.sum())
        if size == 1:
            epsilon = self.spent().certified()
        else:
            epsilon = accounting.group_epsilon(self.state.phases, self.delta, size)
        if not epsilon <= self.max_epsilon:
            raise BudgetExhausted(
                f"{size} deletions cost epsilon {epsilon:.3g}, above max_epsilon {self.max_epsilon:g}: retrain"
            )
        reference = "DP-SGD on the retained examples with the same sample rate, noise and number of steps"
        return {"weights": 0}, 0, Certificate("approximate", reference, epsilon, self.delta)


def magnitude_mask(model: nn.Module, kept: float) -> dict[str, Tensor]:
    """The largest `kept` share of the weights of a network, as `keep` of DpSgd; biases and norms are kept whole.

    `model` must not have seen the private data: fresh, or trained on public or private-by-DP information.
    """
    if not 0 < kept <= 1:
        raise ValueError(f"kept must lie in (0, 1], not {kept!r}")
    weights = {name: p.detach().abs() for name, p in model.named_parameters() if p.ndim > 1}
    everything = torch.cat([w.flatten() for w in weights.values()])
    threshold = everything.sort(descending=True).values[max(1, round(kept * len(everything))) - 1]
    return {name: w >= threshold for name, w in weights.items()}
