"""Names of examples: ids as the pipeline writes them, and the pseudonyms that stand for them in receipts.

    pseudonym(id) = the first 32 hex digits of HMAC-SHA256(salt, id)

The salt is secret and stays in the queue. With a public one, whoever guesses an id (a number, an address) could look it
up in a receipt; so a receipt tells strangers how many examples were deleted, and its owner, who has the salt, which.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from unlearnlib.store.addresses import canonical


def new_salt() -> str:
    """A secret of 256 bits. The one draw that no seed may repeat."""
    return secrets.token_hex(32)


def pseudonym(salt: str, name: str) -> str:
    """What stands for an id, or for the key of a request, in a receipt."""
    return _keyed(salt, name)[:32]


def pseudonyms(salt: str, names: Iterable[str]) -> list[str]:
    """Those of many, sorted: the order in which they were asked for is not told."""
    return sorted(pseudonym(salt, name) for name in names)


def seal(salt: str, content: object) -> str:
    """HMAC-SHA256 of plain data: only who has the salt can make it anew after a change."""
    return _keyed(salt, f"seal {canonical(content)}")


def _keyed(salt: str, text: str) -> str:
    return hmac.new(salt.encode(), text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
