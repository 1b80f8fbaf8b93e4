"""The door for models: what is no classifier of such pictures is refused in one line, everywhere alike."""

import copy
from types import SimpleNamespace

import pytest
import torch
from small import dataset, examples, same, split, state, stranger
from torch import nn

import unlearnlib as ul
from unlearnlib import training
from unlearnlib.training import models
from unlearnlib.training.doors import check_model
from unlearnlib.training.recipe import Recipe


class Answering(nn.Module):
    """A linear classifier that wraps its logits."""

    def __init__(self, wrap, classes: int = 3):
        super().__init__()
        self.linear, self.wrap = nn.Linear(64, classes), wrap

    def forward(self, x):
        return self.wrap(self.linear(x.flatten(1)))


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


def meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


BAD = {
    "dict": (lambda: Answering(lambda z: {"logits": z}), "answers a dict, not logits"),
    "tuple": (lambda: Answering(lambda z: (z, z)), "answers a tuple, not logits"),
    "output": (lambda: Answering(lambda z: SimpleNamespace(logits=z)), "answers a SimpleNamespace, not logits"),
    "flat": (lambda: Answering(lambda z: z.flatten()), r"answers torch.float32 \[6\] for 2 pictures"),
    "maps": (lambda: Answering(lambda z: z[:, :, None]), r"answers torch.float32 \[2, 3, 1\]"),
    "integers": (lambda: Answering(lambda z: z.argmax(1, keepdim=True)), "answers torch.int64"),
    "few": (lambda: Answering(lambda z: z, 2), "answers 2 classes, but there is a label 2"),
    "nan": (lambda: Answering(lambda z: z * torch.nan), "answers NaN or infinite logits"),
    "infinite": (lambda: Answering(lambda z: z / 0), "answers NaN or infinite logits"),
    "size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(63, 3)), "cannot take pictures 1x8x8"),
    "channels": (lambda: nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()), "cannot take pictures 1x8x8"),
    "lazy": (lazy, "is lazy and has no shape yet"),
    "meta": (meta, "is on the meta device and has no values"),
}
ENTRANCES = {
    "fit": lambda model, parts: training.fit(model, parts.train, Recipe(epochs=1)),
    "fit_many": lambda model, parts: training.fit_many(
        lambda seed: model, parts.train, torch.ones(2, len(parts.train), dtype=torch.bool), Recipe(epochs=1), [0, 1]
    ),
    "unlearn": lambda model, parts: ul.unlearn("finetune", model, parts, seed=0, epochs=1),
    "unlearn_many": lambda model, parts: ul.unlearn_many("ssd", [model], [parts], seeds=[0]),
    "check": lambda model, parts: check_model(model, parts.train),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_classifier_is_refused_in_one_line(kind, entrance):
    make, message = BAD[kind]
    with pytest.raises(ValueError, match=message) as refused:
        ENTRANCES[entrance](make(), split())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", sorted(set(BAD) - {"few", "size", "channels"}))
def test_predictions_have_the_same_door(kind):
    make, message = BAD[kind]
    with pytest.raises(
        ValueError,
        match=message.replace("for 2 pictures", "for 5 pictures")
        .replace(r"\[6\]", r"\[15\]")
        .replace(r"\[2, 3", r"\[5, 3"),
    ):
        training.predict(make(), examples(n=5))


def test_nothing_and_nobody_are_refused():
    with pytest.raises(ValueError, match="torch.nn.Module, not function"):
        check_model(lambda x: x, examples())
    assert training.predict(stranger(), examples()[:0]).shape == (0, 3)  # no pictures have no answers


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("name, size", [("googlenet", 96), ("inception_v3", 299)])
def test_auxiliary_outputs_are_refused_when_the_network_is_built(name, size):
    with pytest.raises(ValueError, match=f"{name} on pictures .*not logits"):
        models.build(name, dataset(n=6, side=32, channels=3), size=size)


@pytest.mark.parametrize("name", ["fastnet", "cnn", "resnet_bn", "mlp"])
@pytest.mark.parametrize("size", [(4, 40), (40, 4), (2, 2), (1, 9)])
def test_own_networks_take_a_size_or_refuse_it_when_they_are_built(name, size):
    from unlearnlib.data.examples import Dataset, Examples

    ds = Examples(torch.rand(24, 1, *size), torch.arange(24) % 3)
    try:
        model = models.build(name, Dataset("oblong", ds, ds, ("a", "b", "c"), "tests"))
    except ValueError as refused:
        assert name in str(refused) and f"1x{size[0]}x{size[1]}" in str(refused) and "\n" not in str(refused)
    else:
        assert training.predict(training.fit(model, ds, Recipe(epochs=1, batch_size=8)), ds).shape == (24, 3)


def test_the_door_disturbs_nothing():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = stranger()

        def forward(self, x):
            return self.net(x) + 0.01 * torch.rand(1)

    model = Noisy().train()
    model.net.norm.eval()
    before, modes, rng = state(model), [m.training for m in model.modules()], torch.get_rng_state()
    assert check_model(model, examples(), training=True) == 3 == check_model(model, (1, 8, 8))
    assert same(state(model), before) and [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)


def test_doors_take_half_and_double():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert check_model(copy.deepcopy(stranger()).to(dtype), examples()) == 3
