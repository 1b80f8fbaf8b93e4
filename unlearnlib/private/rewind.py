"""Rewind-to-delete: go back to a checkpoint of training, descend on what remains, publish with noise.

    train     theta_{t+1} = theta_t - eta grad f_D(theta_t), T steps from theta_0; keep theta_{T-K}
    delete    from theta_{T-K}, K steps on the retained examples
    publish   theta + N(0, sigma^2 I)

f is the mean loss, possibly nonconvex; its gradient is L-Lipschitz, each example's gradient at most G. One step on
data that differ in S of n examples parts two runs by at most (1 + eta L) d + 2 eta S G/n, so the unlearned and the
retrained theta_T are within

    Delta = 2SG/(nL) ((1 + eta L)^{T-K} - 1) (1 + eta L)^K,

and sigma is the (analytic) Gaussian noise for Delta: none for K = T, which is retraining.

arXiv 2409.09778 (NeurIPS 2025), key mu2025. Deviations: the analytic calibration of the noise, and batches of S.

L and G are the caller's assumptions about the loss surface. `fit` and `forget` measure both along their path and raise
ValueError where a measurement exceeds its assumption; a path that respects them is evidence, not proof. theta_{T-K} has
seen the forgotten examples and must stay secret.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnlib.data.examples import Examples
from unlearnlib.methods.records import Certificate
from unlearnlib.private.accounting import gaussian_sigma
from unlearnlib.private.checks import check_budget, check_positive
from unlearnlib.private.learner import BudgetExhausted, Learner
from unlearnlib.private.mechanisms import gaussian
from unlearnlib.private.networks import check_gradients, check_separable, clipped_gradients
from unlearnlib.training.doors import check_model


def rewind_distance(
    n: int, steps: int, rewound: int, step_size: float, smoothness: float, gradient_bound: float, removed: int = 1
) -> float:
    """Delta above: how far the unlearned theta can be from the retrained one, for S = `removed` of n examples."""
    check_positive(n=n, steps=steps, step_size=step_size, smoothness=smoothness, gradient_bound=gradient_bound)
    if not 0 <= rewound <= steps:
        raise ValueError(f"rewound must lie between 0 and steps = {steps}, not {rewound!r}")
    growth = math.log1p(step_size * smoothness)
    apart = math.expm1((steps - rewound) * growth) * math.exp(rewound * growth)
    return 2 * removed * gradient_bound / (n * smoothness) * apart


@dataclass(frozen=True, eq=False)
class RewindToDelete(Learner):
    """Full-batch gradient descent that can be rewound.

    model      starting weights; copied, and started from again on retraining. They must not depend on the data
    capacity   deletions, in total, that the noise covers; more are BudgetExhausted
    """

    model: nn.Module
    steps: int = 60  # T
    rewound: int = 40  # K
    step_size: float = 0.05
    smoothness: float = 1.0  # L, of the mean loss
    gradient_bound: float = 1.0  # G, of one example's gradient
    capacity: int = 1
    epsilon: float = 1.0
    delta: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        check_separable(self.model)
        check_budget(self.epsilon, self.delta)
        check_positive(capacity=self.capacity)
        self.distance(1)

    def distance(self, n: int, removed: int = 1) -> float:
        """`rewind_distance` with these hyper-parameters."""
        return rewind_distance(
            n, self.steps, self.rewound, self.step_size, self.smoothness, self.gradient_bound, removed
        )

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] float32 of the published (noisy) network."""
        return self._answer(self._fitted().published, images)

    def _train(self, keep: Tensor) -> int:
        state, retained = self.state, self.state.examples[keep]
        n = len(retained)
        check_model(self.model, retained)
        distance = self.distance(n, min(self.capacity, n))
        checkpoint = self._descend(self.model, retained, self.steps - self.rewound)
        final = self._descend(checkpoint, retained, self.rewound)
        state.trained_on, state.checkpoint = n, checkpoint
        state.sigma = gaussian_sigma(self.epsilon, self.delta, distance) if distance > 0 else 0.0
        self._publish(final)
        return self.steps * n

    def _unlearn(self, index: Tensor, keep: Tensor) -> tuple[dict[str, int], int, Certificate]:
        state, retained = self.state, self.state.examples[keep]
        if state.trained_on - len(retained) > self.capacity:
            raise BudgetExhausted(f"the noise covers {self.capacity} deletions in total: raise capacity or retrain")
        self._publish(self._descend(state.checkpoint, retained, self.rewound))
        reference = (
            f"{self.steps} steps of gradient descent on the retained examples from the same start, published once "
            f"with the same noise (smoothness {self.smoothness:g} and gradient bound {self.gradient_bound:g} assumed)"
        )
        kind = "approximate" if state.sigma > 0 else "exact"
        budget = (self.epsilon, self.delta) if state.sigma > 0 else (0.0, 0.0)
        certificate = Certificate(kind, reference, *budget)
        return {"gradient steps": self.rewound}, self.rewound * len(retained), certificate

    def reference(self, seed: int) -> "RewindToDelete":
        """Gradient descent on the retained examples from the same start, published with this learner's noise."""
        other = super().reference(seed)
        other.state.sigma = self.state.sigma
        other._publish(other.state.secret)
        return other

    def _publish(self, secret: nn.Module) -> None:
        """Keep the secret weights for inspection and publish a noisy copy."""
        self.state.secret, self.state.published = secret, copy.deepcopy(secret)
        rng = self._rng("publish")
        with torch.no_grad():
            for p in self.state.published.parameters():
                if p.requires_grad:
                    p.copy_(gaussian(p, self.state.sigma, rng))

    def _descend(self, start: nn.Module, examples: Examples, steps: int) -> nn.Module:
        """Steps of full-batch gradient descent on a copy of `start`, holding the path against L and G."""
        model = copy.deepcopy(start).eval()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        like = next(iter(trained.values()))
        images, labels = examples.pixels(None, like.device, like.dtype), examples.labels.to(like.device)
        rules = check_gradients(model, images, labels)
        previous, moved = None, 0.0
        for _ in range(steps):
            sums, norms = clipped_gradients(model, images, labels, math.inf, rules=rules)
            mean = torch.cat([g.flatten() for g in sums.values()]) / len(images)
            if not float(norms.max()) <= self.gradient_bound:
                raise ValueError(f"an example's gradient has norm {float(norms.max()):.3g}: raise gradient_bound")
            if previous is not None and moved > 0:
                measured = float(torch.linalg.vector_norm(mean - previous)) / moved
                if not measured <= self.smoothness * (1 + 1e-3):  # rounding of single precision
                    raise ValueError(f"the gradient changes at a rate of {measured:.3g}: raise smoothness")
            previous, moved = mean, self.step_size * float(torch.linalg.vector_norm(mean))
            with torch.no_grad():
                for name, p in trained.items():
                    p.sub_(self.step_size / len(images) * sums[name])
        return model
