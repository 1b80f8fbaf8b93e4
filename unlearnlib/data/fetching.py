"""Files of other hosts, checked by their published hash on every use.

They are kept as they came and read in memory: nothing is unpacked, so nothing can be unpacked to another place, in
part, or replaced afterwards. A download is bounded in size, and one that is too slow to end is given up.
"""

import hashlib
import io
import logging
import tarfile
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unlearnlib.store import files

PATIENCE = 30.0  # seconds in which at least SLOWEST bytes a second must come
SLOWEST = 5_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """A file on other hosts: its place below the folder for downloads, where it is, and what it must be."""

    place: str
    addresses: tuple[str, ...]  # tried one after the other
    published: str  # SHA-256 (or MD5, where its author gives no other) in hex digits
    megabytes: int  # it has fewer; no more are read

    def is_published(self, content: bytes) -> bool:
        return hashlib.new("md5" if len(self.published) == 32 else "sha256", content).hexdigest() == self.published


def fetched(remote: Remote, home: Path) -> bytes:
    """The content of a file: of the copy in `home` if that is the published one, else downloaded. Raises OSError."""
    path, most = home / remote.place, remote.megabytes * 10**6
    if path.is_file() and path.stat().st_size <= most:
        content = path.read_bytes()
        if remote.is_published(content):
            return content
    if path.exists():
        _log.warning("%s is not the published file: it is downloaded again", path)
    reasons = []
    for address in remote.addresses:
        try:
            content = _downloaded(address, most)
        except Exception as error:  # of any layer below: the next host may have it
            reasons.append(f"{address}: {type(error).__name__} {error}")
            continue
        if not remote.is_published(content):
            reasons.append(f"{address}: what came ({len(content)} bytes) is not the published file")
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.sweep(path.parent.glob("*.partial"))
            files.write(path, content)
        except OSError as error:
            _log.warning("%s cannot be written (%s): it is downloaded anew next time", path, error.strerror or error)
        return content
    raise OSError("; ".join(reasons))


def _downloaded(address: str, most: int) -> bytes:
    """What an address gives, read by a thread that is left alone where it hangs, in whatever layer."""
    got, failed, given_up = bytearray(), [], threading.Event()

    def read() -> None:
        try:
            request = urllib.request.Request(address, headers={"User-Agent": "unlearnlib"})
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                while not given_up.is_set() and len(got) <= most:
                    piece = answer.read1(1 << 18)
                    if not piece:
                        return
                    got.extend(piece)
        except Exception as error:  # told to the thread that waits
            failed.append(error)

    reader, before = threading.Thread(target=read, daemon=True), 0
    reader.start()
    try:
        while reader.is_alive():
            reader.join(PATIENCE)
            if reader.is_alive() and len(got) - before < SLOWEST * PATIENCE:
                raise TimeoutError(f"fewer than {SLOWEST} bytes a second came")
            before = len(got)
    finally:
        given_up.set()
    if failed:
        raise failed[0]
    if len(got) > most:
        raise OSError(f"it is larger than {most // 10**6} MB")
    return bytes(got)


def members(archive: bytes, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Name -> content of the plain files of a .tar.gz whose name is wanted. Links and devices are not read."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile() and wanted(m.name)}
