"""Keys of an API: read from a file, compared in constant time."""

import hashlib
import hmac
from pathlib import Path

from unclip.checks import printable
from unclip.files import read_text

_MOST = 2**20  # bytes of the file
_SHORTEST = 16  # characters


class Keys:
    """Keys and whose they are.

    Args:
        keys: name of the client by key; none: everyone is served.
    """

    def __init__(self, keys: dict[str, str] | None = None) -> None:
        self._digests = {_digest(key): name for key, name in (keys or {}).items()}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def client(self, authorization: str) -> str | None:
        """Whose key an Authorization header holds; every key is compared, whichever it is."""
        scheme, _, key = authorization.partition(" ")
        given, found = _digest(key.strip()), None
        for digest, name in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found if scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: Path) -> Keys:
    """Keys of a file: one a line, with a name before it if it shall have one; # begins a comment.

    Raises:
        ValueError: it cannot be read, or holds no key, a short one, or the same one twice.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(read_text(path, _MOST).splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        key, name = words[-1], words[0] if len(words) == 2 else f"key-{number}"
        if len(words) > 2 or len(key) < _SHORTEST or not key.isascii():
            raise ValueError(
                f"{printable(str(path))}, line {number}: give a key of at least {_SHORTEST} "
                "characters, or a name and a key"
            )
        if key in keys:
            raise ValueError(f"{printable(str(path))}, line {number}: the key was given before")
        keys[key] = name
    if not keys:
        raise ValueError(f"{printable(str(path))} holds no key")
    return Keys(keys)
