"""Which network suits a data set, and how it is trained: defaults that were chosen on validation accuracy alone.

A recipe is part of an experiment: the original and the retrained models must share it, or the gap between them
measures the schedule. `recipe_for` is what `studies.Setting` uses where no recipe is given.
"""

from dataclasses import replace

from unlearnlib.training.recipe import Recipe

_MODELS = {
    "digits": "mlp",
    "mnist5k": "mlp",
    "mnist": "cnn",
    "fashion_mnist": "cnn",
    "cifar10": "resnet_bn",
    "cifar100": "resnet_bn",
    "imagenette": "resnet_bn",
    "cartoon_faces": "cnn",
    "lfw": "resnet_bn",
    "olivetti": "cnn",
}

_PICTURES = Recipe(epochs=20, batch_size=128, lr=4e-3, weight_decay=5e-3, augment="flip-crop", channels_last=True)
_FACES = Recipe(epochs=20, batch_size=64, lr=2e-3, weight_decay=5e-3, augment="flip", channels_last=True)

# For `fastnet`, in few passes: two thousand pictures and more a second on one core with AMX, in bfloat16.
_FAST = Recipe(
    epochs=3, batch_size=256, optimiser="sgd", lr=0.2, weight_decay=5e-4, label_smoothing=0.1, augment="flip"
)

# For `whitened`: rates and decay of a summed loss, as its authors give them, are a batch size away from these.
_STRONG = Recipe(
    epochs=10,
    batch_size=512,
    optimiser="sgd",
    lr=0.75,
    momentum=0.85,
    weight_decay=1.33e-3,
    label_smoothing=0.2,
    augment="alternate",
    precision="bfloat16",
    vector_rate=64.0,
    lookahead=True,
)

_RECIPES = {
    ("digits", "mlp"): Recipe(epochs=20, batch_size=64, lr=5e-3),
    ("digits", "cnn"): Recipe(epochs=10, batch_size=64, lr=4e-3, channels_last=True),
    ("mnist5k", "mlp"): Recipe(epochs=30, batch_size=128, lr=2e-3),
    ("mnist5k", "cnn"): Recipe(epochs=4, batch_size=32, lr=4e-3, channels_last=True),
    ("mnist5k", "fastnet"): Recipe(epochs=4, batch_size=64, optimiser="sgd", lr=0.1, weight_decay=5e-4),
    ("mnist", "fastnet"): Recipe(epochs=2, batch_size=256, optimiser="sgd", lr=0.1, weight_decay=5e-4),
    ("mnist", "mlp"): Recipe(epochs=10, batch_size=256, lr=2e-3),
    ("mnist", "cnn"): Recipe(epochs=5, batch_size=256, lr=4e-3, channels_last=True),
    ("cifar10", "fastnet"): _FAST,
    ("cifar10", "whitened"): _STRONG,
    ("cifar100", "fastnet"): _FAST,
    ("imagenette", "fastnet"): replace(_FAST, epochs=8, batch_size=128, lr=0.1, augment="flip-crop"),
    ("fashion_mnist", "mlp"): Recipe(epochs=10, batch_size=256, lr=2e-3),
    ("fashion_mnist", "cnn"): Recipe(epochs=8, batch_size=256, lr=4e-3, augment="flip", channels_last=True),
    ("cartoon_faces", "mlp"): Recipe(epochs=15, batch_size=64, lr=2e-3),
    ("cartoon_faces", "cnn"): Recipe(epochs=20, batch_size=64, lr=3e-3),
    ("olivetti", "cnn"): Recipe(epochs=30, batch_size=32, lr=2e-3, channels_last=True),
}
_FAMILIES = {"cifar10": _PICTURES, "cifar100": _PICTURES, "imagenette": _PICTURES, "lfw": _FACES, "olivetti": _FACES}

# For data and networks that nobody has tried here: short enough to look at, long enough to learn.
_UNKNOWN = Recipe(epochs=15, batch_size=64, lr=2e-3)


def model_for(dataset: str) -> str:
    """The network that suits a data set; "cnn" for data that are not in this file."""
    return _MODELS.get(_kind(dataset), "cnn")


def recipe_for(dataset: str, model: str) -> Recipe:
    """How `model` is trained on `dataset` (their names); a plain default for pairs that are not in this file."""
    kind = _kind(dataset)
    return _RECIPES.get((kind, model), _FAMILIES.get(kind, _UNKNOWN))


def _kind(dataset: str) -> str:
    return str(dataset).partition(":")[0]
