"""Pictures, from files or in memory, as arrays of eight bits.

What eight bits cannot say without a choice is chosen here, once: sixteen bits are scaled by their full range, what is
transparent is laid on white, animations give their first picture. What has no known range is refused by name.
"""

import contextlib
import io
import stat
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from unlearnlib.data.tensors import check, check_whole, tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")  # no format that runs a program
PIXELS = 80_000_000  # the largest picture that is decoded; in memory a pixel takes four bytes and more
BYTES = 1 << 33  # the most that all pictures of a part may take together
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}


def check_size(size: int) -> None:
    check_whole("size", size, 8)


def check_room(count: int, size: int) -> None:
    """Refuse more pictures [3, size, size] than fit into BYTES, before the first is made."""
    if 3 * count * size * size > BYTES:
        most = f"more than {BYTES >> 30} GiB"
        raise ValueError(f"{count} pictures of {size}x{size} pixels take {most}: take fewer or smaller ones")


def square(picture: Image.Image, size: int) -> Image.Image:
    """The largest centred square, resized (Lanczos) to size x size."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    middle = picture.crop((left, top, left + side, top + side))  # first, as filters look beyond a resize box
    return middle.resize((size, size), Image.Resampling.LANCZOS)


def eight_bit(picture: Image.Image, top: int | None = None) -> Image.Image:
    """The picture in mode L (of grey ones without transparency) or RGB.

    top     the level of white of pictures with more than eight bits: see `white`
    """
    if picture.mode.startswith("I"):
        if top is None or "transparency" in picture.info:
            raise ValueError(f"its pixels (mode {picture.mode}) have no known range: save it with 8 bits a channel")
        levels = np.asarray(picture).astype(np.float64) * (255 / top)
        return Image.fromarray(np.round(levels).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    if picture.mode not in _MODES:
        raise ValueError(f"its pixels (mode {picture.mode}) have no known range: save it with 8 bits a channel")
    return picture.convert(_MODES[picture.mode])


def white(picture: Image.Image) -> int | None:
    """The level of white in a picture of more than eight bits, None where its file does not say."""
    tags = getattr(picture, "tag_v2", None)
    if tags is not None:
        zero_is_black, bits = tags.get(262, 1) == 1, tags.get(258, (16,))[0]
        return 2**bits - 1 if picture.mode.startswith("I;16") and zero_is_black else None
    if picture.mode == "I":
        return 65535 if picture.format in ("PNG", "PPM") else None
    return 65535


@contextlib.contextmanager
def _opened(file: Path | bytes) -> Iterator[Image.Image]:
    """A picture whose size has been looked at and whose pixels have not."""
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for
        raise ValueError("it is not a plain file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a smaller bound is below
        picture = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)
    with picture:
        if picture.width * picture.height > PIXELS:
            raise ValueError(f"it has {picture.width}x{picture.height} pixels, more than {PIXELS // 10**6} million")
        yield picture


def read_pictures(files: Sequence[tuple[str, Path | bytes] | Path], size: int) -> Tensor:
    """Picture files, or (name, content), as upright RGB squares [N, 3, size, size] uint8.

    What cannot be read is a ValueError that names the file, whatever its decoder makes of it.
    """
    check_size(size)
    check_room(len(files), size)
    squares = np.empty((len(files), size, size, 3), np.uint8)
    for i, given in enumerate(files):
        name, file = given if isinstance(given, tuple) else (given, Path(given))
        try:
            with _opened(file) as picture:
                top = white(picture)
                upright = eight_bit(ImageOps.exif_transpose(picture), top).convert("RGB")
                squares[i] = np.asarray(square(upright, size))
        except Exception as error:  # decoders raise anything: SyntaxError, struct.error, IndexError, ...
            why = " ".join(str(error).split())[:200] if type(error) is ValueError else "damaged, or of another kind"
            raise ValueError(f"{name} is not a readable picture ({why}): mend or remove it") from error
    return tensor(squares)


def image_tensor(image: Any) -> Tensor:
    """A picture, an array [H, W] or [H, W, C] or a tensor [H, W] or [C, H, W], as a tensor [C, H, W]."""
    if hasattr(image, "convert") and hasattr(image, "getbands"):  # PIL
        image = np.array(eight_bit(image, white(image)))
    if isinstance(image, np.ndarray):
        check(image.ndim in (2, 3), f"an array image must be [H, W] or [H, W, C], not {list(image.shape)}")
        if image.ndim == 3:
            channels_last = image.shape[2] in (1, 3, 4)
            check(channels_last, f"an array image is [H, W, C], not {list(image.shape)}: give [C, H, W] as a tensor")
            image = image.transpose(2, 0, 1)
        known = image.dtype == np.uint8 or (image.dtype.kind == "f" and image.dtype.itemsize <= 8)
        check(known, f"images must be uint8 (0..255) or floating point, not {image.dtype}")
        image = torch.from_numpy(np.ascontiguousarray(image.astype(image.dtype.newbyteorder("="))))
    check(isinstance(image, Tensor), f"an image must be a tensor, an array or a PIL image, not {type(image).__name__}")
    check(image.ndim in (2, 3), f"a tensor image must be [C, H, W] or [H, W], not {list(image.shape)}")
    return image if image.ndim == 3 else image[None]
