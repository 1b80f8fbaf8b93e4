"""Networks of somebody else's pipeline by name, and their weights as they were saved there.

    resnet18             a name of `models.build`: takes pixels as they are
    torchvision:NAME     a plain torchvision classifier
    timm:NAME            a plain timm classifier
    hf:FOLDER            an image classifier of Hugging Face, as `save_pretrained` wrote it
    package.module:NAME  a class or function of your own that makes the network when it is called without arguments

Those with a colon take normalised pictures: give the `mean` and `std` of their pipeline. Weights are safetensors files,
whose names of tensors stay as they were, so that the pipeline can load what comes out.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torchvision
from torch import Tensor, nn

from unlearnlib import seeding
from unlearnlib._extras import optional
from unlearnlib.desk.sources import Source
from unlearnlib.store.places import expanded
from unlearnlib.training import models, weights
from unlearnlib.training.doors import check_model


class Outside(nn.Module):
    """A network from elsewhere that takes pixels as the library has them and answers logits alone."""

    def __init__(self, inner: nn.Module, mean: Sequence[float] = (), std: Sequence[float] = ()):
        super().__init__()
        self.inner, self.mean, self.std = inner, tuple(mean), tuple(std)

    def forward(self, pixels: Tensor) -> Tensor:
        if self.mean:
            mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
            pixels = (pixels - mean) / std
        answer = self.inner(pixels)
        return getattr(answer, "logits", answer)


def inside(model: nn.Module) -> nn.Module:
    """The network as its own pipeline has it: what is saved."""
    return model.inner if isinstance(model, Outside) else model


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers that the pipeline's own file has, by its names; of tied ones, one."""
    found, seen = {}, set()
    for name, value in inside(model).state_dict().items():
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), tuple(value.shape))
        if value.numel() and place in seen:
            continue
        seen.add(place)
        found[name] = value.detach().cpu().contiguous()
    return found


@dataclass(frozen=True)
class Opened:
    """A trained network, and `build(seed)`: an untrained one of the same architecture, drawn from the seed."""

    model: nn.Module
    build: Callable[[int], nn.Module]


def opened(
    spec: str, path: str | Path | None, source: Source, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> Opened:
    """The network `spec` with the weights of the file `path` (None: those of a Hugging Face folder).

    Raises ValueError in one line where the name, the weights or the shape of the pictures do not fit.
    """
    kind, _, name = spec.partition(":")
    if kind == "hf" and not mean:
        mean, std = _preprocessing(expanded(name, spec))
    channels = source.examples.shape[0]
    if len(mean) != len(std) or (mean and len(mean) != channels) or any(s <= 0 for s in std):
        raise ValueError(f"mean and std need {channels} numbers each, one a channel, and std above 0")
    if mean and not name:
        raise ValueError(f"{spec} normalises by itself: leave mean and std out, or write torchvision:{spec}")

    def bare() -> nn.Module:
        if not name:
            return models.build(spec, source.dataset(), seed=0)
        return _maker(kind, name, spec, source)()

    def build(seed: int) -> nn.Module:
        if not name:
            return models.build(spec, source.dataset(), seed=seed)
        with seeding.isolated(seed, "initialisation"):
            return Outside(bare(), mean, std)

    with seeding.isolated(0, "placeholder"):
        model = bare()
    if path is None and kind != "hf":
        raise ValueError(f"{spec} needs weights: a safetensors file, as training.save or safetensors.torch writes")
    file = expanded(name, spec) / "model.safetensors" if path is None else expanded(str(path), "weights")
    if not file.is_file():
        raise ValueError(f"{file}: no such file of weights")
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is no safetensors file: save with safetensors.torch.save_model(model, path)")
    model = _pretrained(model, file) if kind == "hf" else weights.load(model, file)
    model = Outside(model, mean, std) if name else model
    check_model(model, source.examples)
    return Opened(model.eval(), build)


def _maker(kind: str, name: str, spec: str, source: Source) -> Callable[[], nn.Module]:
    """What makes the untrained network."""
    classes, channels = len(source.class_names), source.examples.shape[0]
    try:
        if kind == "torchvision":
            return lambda: torchvision.models.get_model(name, weights=None, num_classes=classes)
        if kind == "timm":
            timm = optional("timm")
            if name not in timm.list_models():
                raise ValueError(f"timm has no model {name!r:.60}: timm.list_models() lists them")
            return lambda: timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
        if kind == "hf":
            transformers = optional("transformers")
            config = transformers.AutoConfig.from_pretrained(
                str(expanded(name, spec)), local_files_only=True, trust_remote_code=False
            )
            return lambda: transformers.AutoModelForImageClassification.from_config(config)
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # a module of the pipeline's own folder, as `python -m` finds it
        made = getattr(importlib.import_module(kind), name)
        if not callable(made):
            raise ValueError(f"{spec} cannot be called: name a class or a function that makes the network")
        return made
    except (ImportError, AttributeError, OSError, TypeError) as error:
        if isinstance(error, ModuleNotFoundError) and "pip install" in str(error):
            raise
        raise ValueError(f"{spec}: {' '.join(str(error).split())[:300]}") from None


def _pretrained(model: nn.Module, file: Path) -> nn.Module:
    """The network with the weights of a file of `save_pretrained`, whose tensors may have names of earlier versions."""
    try:
        held = safetensors.torch.load_file(file)
        found, told = type(model).from_pretrained(None, config=model.config, state_dict=held, output_loading_info=True)
    except (RuntimeError, ValueError, OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{file} does not hold weights of this architecture: {str(error).splitlines()[0]}") from None
    wrong = sorted(str(name) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in told[kind])
    if wrong:  # what is missing would be drawn at random without a word
        raise ValueError(f"{file} does not hold weights of this architecture: {wrong[0]} does not fit")
    return found


def _preprocessing(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`image_mean` and `image_std` of a Hugging Face folder, where it says that pictures are normalised."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return (), ()
    told = json.loads(file.read_text(encoding="utf-8"))
    if not told.get("do_normalize", True):
        return (), ()
    return tuple(told.get("image_mean", ())), tuple(told.get("image_std", ()))
