"""Data sets of one's own: pictures sorted into folders.

Classes come from pictures: what is hidden, or what an operating system or an editor keeps beside them, is not there.
"""

import os
import re
from pathlib import Path

from unlearnlib.data.examples import Dataset, Examples
from unlearnlib.data.pictures import check_size, read_pictures
from unlearnlib.data.strata import stratified
from unlearnlib.data.tensors import check_fraction, integers
from unlearnlib.seeding import generator
from unlearnlib.store.places import expanded

# Suffixes of pictures. What this installation cannot read is then refused by name, and not left out without a word.
SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif .heic .heif".split()
)
_KEPT_BY_SYSTEMS = frozenset(
    "__macosx __pycache__ @eadir #recycle #snapshot ~snapshot $recycle.bin lost+found".split()
    + ["system volume information"]
)
_PARTS = frozenset("train training test testing val valid validation".split())


def folder(path: str, size: int = 64, test: float | None = None) -> Dataset:
    """Pictures sorted into folders, <path>/<class>/<picture>, as RGB squares of size x size (centre crop).

    If <path>/train and <path>/test (or else val) exist they are the two parts; otherwise a fixed stratified fraction
    `test` (default 0.2) is held out. Pictures are in the order of their names, classes too, but for numbers in them,
    which count as numbers: 2 comes before 10. Hidden files and folders are not read. A class without pictures, a
    picture that cannot be read (`read_pictures` says what is scaled and what refused) and a test part that would be
    empty are ValueErrors.
    """
    check_size(size)
    asked = f"folder:{path}"[:300]
    root = expanded(path, asked)
    try:
        return _read(root, asked, size, test)
    except OSError as error:
        raise ValueError(f"{asked}: {error.filename or root} cannot be read ({error.strerror})") from error


def natural(name: str) -> tuple[list[str | int], str]:
    """A key of sorting in which numbers are numbers: 2 before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _read(root: Path, asked: str, size: int, test: float | None) -> Dataset:
    if not root.is_dir():
        raise ValueError(f"{asked}: no such folder")
    name, parts = f"folder:{root.resolve().name}", _subfolders(root)
    held_out = next((part for part in ("test", "val") if part in parts and "train" in parts), None)
    if held_out is None:
        classes = _classes(root, asked)
        return _divided(name, asked, classes, _image_folder(root, asked, size, classes, classes), test)
    if test is not None:
        raise ValueError(f"{asked}: it has train and {held_out} folders, so leave out test={test}")
    classes, found = (_classes(root / part, asked, least) for part, least in (("train", 2), (held_out, 1)))
    unknown = set(found) - set(classes)
    if unknown:
        raise ValueError(f"{asked}: {held_out} has classes that train has not: {', '.join(sorted(unknown))}")
    train = _image_folder(root / "train", asked, size, classes, classes)
    held = _image_folder(root / held_out, asked, size, found, classes)
    return Dataset(name, train, held, classes, f"{len(train) + len(held)} picture files")


def _divided(name: str, asked: str, classes: tuple[str, ...], examples: Examples, test: float | None) -> Dataset:
    """The pictures with a fixed stratified test part, the same for everybody."""
    fraction = 0.2 if test is None else test
    check_fraction(f"{asked}: test", fraction)
    held = stratified(examples.labels, fraction, generator(0, name, "test"))
    if fraction > 0 and not held.any():
        few = f"{len(examples)} pictures in {len(classes)} classes are too few to hold out {fraction:g} of"
        raise ValueError(f"{asked}: {few}: add pictures, raise test=, or make train and test folders")
    return Dataset(name, examples[~held], examples[held], classes, f"{len(examples)} picture files")


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _KEPT_BY_SYSTEMS


def _subfolders(path: Path) -> tuple[str, ...]:
    return tuple(sorted((f.name for f in path.iterdir() if f.is_dir() and not _ignored(f.name)), key=natural))


def _classes(path: Path, asked: str, least: int = 2) -> tuple[str, ...]:
    """The class folders of a part. A folder `train` that holds folders alone is a part under another name."""
    found = _subfolders(path)
    for name in found:
        if name.lower() in _PARTS and _subfolders(path / name) and not _pictures_in(path / name):
            raise ValueError(f"{asked}: {name} holds folders and no pictures: call the parts train and test (or val)")
    if len(found) < least:
        wanted = "two folders" if least == 2 else "one folder"
        raise ValueError(f"{asked}: need at least {wanted}, one a class, not {len(found)}")
    return found


def _pictures_in(path: Path) -> list[Path]:
    """The files of one folder that are called a picture; not those of folders in it."""
    return [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not _ignored(f.name) and not f.is_dir()]


def _pictures_below(path: Path) -> list[Path]:
    """All pictures of a class, in the order of their paths."""

    def refuse(error: OSError) -> None:
        raise error  # a folder that cannot be listed is not an empty one

    found: list[Path] = []
    for place, inner, _ in os.walk(path, onerror=refuse):
        inner[:] = [name for name in inner if not _ignored(name)]
        linked = [name for name in inner if os.path.islink(os.path.join(place, name))]
        if linked:  # followed it could lead anywhere, passed over its pictures would be missing
            raise ValueError(f"{os.path.join(place, linked[0])} is a link to a folder: put the pictures there")
        found += _pictures_in(Path(place))
    return sorted(found)


def _image_folder(path: Path, asked: str, size: int, found: tuple[str, ...], classes: tuple[str, ...]) -> Examples:
    """All pictures of `path/<class>/` for the classes `found` there, class after class; labels number `classes`."""
    files = {name: _pictures_below(path / name) for name in found}
    empty = [name for name, pictures in files.items() if not pictures]
    if empty:
        some = f"{', '.join(empty[:5])}: add some ({' '.join(sorted(SUFFIXES))}) or remove the folder"
        raise ValueError(f"{asked}: no pictures in {some}")
    rows = [(file, classes.index(name)) for name, pictures in files.items() for file in pictures]
    return Examples(read_pictures([file for file, _ in rows], size), integers([label for _, label in rows]))
