"""Keys of an API: read from a file, compared in constant time."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from unclip.checks import printable
from unclip.files import read_text

_MOST = 2**20  # bytes of the file
_SHORTEST = 16  # characters
COOKIE = "unclip_session"
"""Of a browser whose person has shown a key on the page."""
_SESSIONS = 10_000  # at once, at most


class Keys:
    """Keys and whose they are.

    Args:
        keys: name of the client by key; none: everyone is served.
    """

    def __init__(self, keys: dict[str, str] | None = None) -> None:
        self._digests = {_digest(key): name for key, name in (keys or {}).items()}
        self._sessions: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    SESSION = 7 * 86_400
    """Seconds that a browser's session lasts, until the server ends at most."""

    def __bool__(self) -> bool:
        return bool(self._digests)

    def client(self, authorization: str) -> str | None:
        """Whose key an Authorization header holds; every key is compared, whichever it is."""
        scheme, _, key = authorization.partition(" ")
        found = self._named(key.strip())
        return found if scheme.lower() == "bearer" else None

    def _named(self, key: str) -> str | None:
        given, found = _digest(key), None
        for digest, name in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found

    def opened(self, key: str) -> str | None:
        """What a browser shows from now on in the key's place; None if the key is wrong."""
        name = self._named(key)
        if name is None:
            return None
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = (time.monotonic(), name)
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return token

    def session(self, token: str) -> str | None:
        """Whose session it is, if it is one that lasts; found by a hash of what was given."""
        since, name = self._sessions.get(_digest(token), (0.0, ""))
        return name if name and time.monotonic() - since < self.SESSION else None


def cookie_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The session that a browser's cookies hold, or nothing."""
    given = b";".join(value for name, value in headers if name == b"cookie").decode("latin-1")
    pairs = (one.strip().partition("=") for one in given.split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


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
