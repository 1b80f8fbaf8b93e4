"""Who looks at samples: a small classifier, for what is in a picture and for features to measure distances in."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.training.batches import minibatches
from unlearnlib.training.loop import check_finite


class Judge(nn.Module):
    """Pictures [n, C, H, W] -> logits [n, classes]; `features` [n, 64] come before the last layer.

    It is the auditor's: taught on all training pictures, forgotten ones too, and never seen by a method.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 64):
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, classes)

    def features(self, pictures: Tensor) -> Tensor:
        return F.relu(self.body(pictures))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.features(pictures))

    @staticmethod
    def fit(examples: Examples, classes: int, seed: int = 0, epochs: int = 30, noise: float = 0.1) -> "Judge":
        """Adam on pictures with a little noise, so that the features do not hang on single pixels."""
        with seeding.isolated(seed, "judge"):
            judge = Judge(examples.shape, classes)
        rng = seeding.generator(seed, "judge", "teaching")
        optimiser = torch.optim.Adam(judge.parameters(), lr=1e-3, weight_decay=1e-4)
        for index in minibatches(len(examples), 64, epochs, rng):
            pictures = examples.pixels(index)
            pictures = pictures + noise * torch.randn(pictures.shape, generator=rng)
            optimiser.zero_grad()
            F.cross_entropy(judge(pictures), examples.labels[index]).backward()
            optimiser.step()
        check_finite(judge)
        return judge.requires_grad_(False).eval()
