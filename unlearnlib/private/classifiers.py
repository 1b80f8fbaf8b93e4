"""DP-SGD classifiers from a plain configuration, kept in the cache: a killed page resumes where it stopped.

    training = PrivateTraining(network="cnn", noise_multiplier=1.5, epochs=8, expected_batch=512, lr=1.0)
    done = train(training, ds.train, ds.n_classes, seed=0)
    done.logits(images), done.spent(1e-5)

The networks are small, have bounded activations, which keeps gradients small (Papernot et al. 2020, key papernot2020),
and centre pixels by a constant: the mean and deviation of the private pictures would be a release without noise.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib.data.examples import Examples
from unlearnlib.private import accounting
from unlearnlib.private.accounting import Phase, Spent
from unlearnlib.private.checks import check_choice
from unlearnlib.private.dpsgd import DpSgd
from unlearnlib.store import addresses, cache
from unlearnlib.training.models import Normalise
from unlearnlib.training.prediction import predict

NETWORKS = ("linear", "cnn")


@dataclass(frozen=True)
class PrivateTraining:
    """Everything that decides a DP-SGD training, but for the data and the seed; see `DpSgd` for the meanings."""

    network: str = "linear"
    noise_multiplier: float = 1.0
    epochs: float = 15
    expected_batch: float = 500
    lr: float = 1.0
    clip: float = 0.1
    momentum: float = 0.9

    def __post_init__(self):
        check_choice("network", self.network, NETWORKS)

    def learner(self, shape: tuple[int, int, int], classes: int, seed: int) -> DpSgd:
        """The learner, not yet fitted."""
        options = asdict(self)
        start = private_network(options.pop("network"), shape, classes, seed)
        return DpSgd(start, **options, accountant="rdp", chunk=256, seed=seed)


@dataclass(frozen=True, eq=False)
class PrivateClassifier:
    """A trained network with what the accountant was told."""

    model: nn.Module
    phases: Sequence[Phase]

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] float32 of images [n, C, H, W], uint8 or in [0, 1]."""
        return predict(self.model, images)

    def spent(self, delta: float, accountant: str = "pld", conversion: str = "improved") -> Spent:
        """The guarantee for one example."""
        return accounting.spent(self.phases, delta, accountant, conversion)


def private_network(name: str, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """Softmax regression ("linear"); or two convolutions (5x5 of stride 2, 3x3) and two linear layers, tanh ("cnn")."""
    check_choice("network", name, NETWORKS)
    channels, height, width = shape
    centre = Normalise(torch.full((channels,), 0.5), torch.full((channels,), 0.5))
    with seeding.isolated(seed, "private network"):
        if name == "linear":
            return nn.Sequential(centre, nn.Flatten(), nn.Linear(channels * height * width, classes))
        trunk = nn.Sequential(
            nn.Conv2d(channels, 16, 5, stride=2),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        features = trunk(torch.zeros(1, *shape)).shape[1]
        return nn.Sequential(centre, *trunk, nn.Linear(features, 32), nn.Tanh(), nn.Linear(32, classes))


def train(training: PrivateTraining, examples: Examples, classes: int, seed: int) -> PrivateClassifier:
    """Train, or find the training of the same configuration, data, seed, code and numerics in the cache."""
    learner = training.learner(examples.shape, classes, seed)

    def make() -> cache.Entry:
        return cache.Entry(learner.fit(examples).state.model.state_dict(), {"what": "dp-sgd", **asdict(training)})

    address = addresses.key(
        what="dp-sgd",
        training=training,
        examples=examples.checksum(),
        classes=classes,
        seed=seed,
        code=addresses.code(__name__),
        versions=addresses.versions(),
        numerics=addresses.numerics(),
    )
    model = private_network(training.network, examples.shape, classes, seed)
    model.load_state_dict(dict(cache.remember(address, make).value))
    return PrivateClassifier(model.eval(), learner.phases(len(examples)))
