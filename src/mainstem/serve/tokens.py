"""Who may ask: one token, or a file of named ones with their rates.

analytics: {token: "…", rate: 50}            # requests a second, and as many at once
backfill: {sha256: "…", rate: 2, burst: 10}  # the hash stands for the token, so that the file holds no secret
operations: {token: "…", admin: true}        # may load and unload models
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainstem.errors import MainstemError, suggest

FIELDS = ("token", "sha256", "rate", "burst", "admin")
SHORTEST = 8  # characters of a token in a file


@dataclass
class Token:
    """One token by the hash of its secret; the secret itself is not kept. `rate`: requests a second, 0 for any number."""

    name: str
    digest: bytes
    rate: float = 0.0
    burst: float = 0.0
    admin: bool = False
    _left: float = field(default=0.0, repr=False)
    _at: float = field(default=0.0, repr=False)

    def wait(self, now: float | None = None) -> float:
        """Take one request of the rate: 0 where there is one left, else the seconds until there is (a token bucket)."""
        if not self.rate:
            return 0.0
        now = time.monotonic() if now is None else now
        most = max(1.0, self.burst or self.rate)
        self._left = min(most, self._left + (now - self._at) * self.rate) if self._at else most
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self.rate


class Tokens:
    """All tokens of a server; none at all means that it answers its own machine only."""

    def __init__(self, known: Iterable[Token] = ()) -> None:
        self.known = tuple(known)

    def __bool__(self) -> bool:
        return bool(self.known)

    def find(self, authorization: bytes) -> Token | None:
        """The token of an Authorization header, compared with every known one in constant time."""
        given = hashlib.sha256(authorization.removeprefix(b"Bearer ")).digest() if authorization.startswith(b"Bearer ") else b""
        found = None
        for token in self.known:
            if hmac.compare_digest(given, token.digest):
                found = token
        return found


def single(secret: str) -> Tokens:
    """The tokens of `--token T`: one that may do everything, or none where it is empty."""
    return Tokens([Token("token", hashlib.sha256(secret.encode()).digest(), admin=True)] if secret else [])


def read(path: Path) -> Tokens:
    """The tokens of a file. Raises MainstemError that names every entry that makes no sense."""
    import yaml

    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "it is no YAML"
        raise MainstemError(f"the tokens cannot be read: {reason}", where=str(path)) from None
    if not isinstance(listed, dict) or not listed:
        raise MainstemError("this file names no tokens", where=str(path), do='Write lines as: NAME: {token: "…", rate: 50}.')
    wrong = [f"'{name}': {fault}" for name, given in listed.items() for fault in _faults(given)]
    if wrong:
        raise MainstemError("; ".join(wrong), where=str(path))
    made = [_token(str(name), given) for name, given in listed.items()]
    if len({token.digest for token in made}) < len(made):
        raise MainstemError("two names have the same token", where=str(path), do="Give each its own.")
    return Tokens(made)


def _faults(given: Any) -> Iterable[str]:
    if not isinstance(given, Mapping):
        yield 'write {token: "…"}'
        return
    for name in given:
        if name not in FIELDS:
            yield f"unknown field '{name}'. {suggest(str(name), FIELDS)}".rstrip(".")
    secret, digest = given.get("token"), given.get("sha256")
    if (secret is None) == (digest is None):
        yield "give 'token' or 'sha256'"
    elif secret is not None and (not isinstance(secret, str) or len(secret) < SHORTEST):
        yield f"the token is a text of {SHORTEST} characters at least"
    elif digest is not None and not (isinstance(digest, str) and len(digest) == 64 and all(c in "0123456789abcdef" for c in digest)):
        yield "'sha256' is 64 hexadecimal digits"
    for name in ("rate", "burst"):
        value = given.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            yield f"'{name}' is a number above 0"
    if not isinstance(given.get("admin", False), bool):
        yield "'admin' is true or false"


def _token(name: str, given: Mapping[str, Any]) -> Token:
    digest = bytes.fromhex(given["sha256"]) if "sha256" in given else hashlib.sha256(given["token"].encode()).digest()
    return Token(name, digest, float(given.get("rate", 0)), float(given.get("burst", 0)), given.get("admin", False))
