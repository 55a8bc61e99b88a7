"""Sealed values: what only this forwarder can open, in the hands of clients and in its store.

A seal is ``fwd1.`` and a Fernet token over compressed JSON.  The prefix says whose it is, so that
a foreign blob is recognised without a key.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import zlib
from collections.abc import Sequence
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

PREFIX = "fwd1."


class Sealer:
    """Seals with the first secret and opens with any.

    Without a secret, one is made up: what it seals can be opened until the process ends.  What is
    sealed for one ``purpose`` opens for no other: a client that brings back as its own what it
    found elsewhere is told nothing of it.
    """

    def __init__(self, secret_keys: Sequence[str], purpose: str = "seal") -> None:
        self._purpose = purpose
        self._secrets: list[str] = []
        self.adopt(secret_keys or [secrets.token_urlsafe(32)])

    def adopt(self, secret_keys: Sequence[str]) -> None:
        """Seal with the first of these from now on; the former ones open what they sealed."""
        self._secrets = list(dict.fromkeys([*secret_keys, *self._secrets]))
        self._fernet = MultiFernet([Fernet(_key(each, self._purpose)) for each in self._secrets])

    def seal(self, value: Any) -> str:
        """An opaque text that holds a JSON value."""
        return PREFIX + self._fernet.encrypt(zlib.compress(orjson.dumps(value), 1)).decode()

    def unseal(self, sealed: str) -> Any:
        """The value, or ``None`` when the text is foreign, damaged or of a lost secret."""
        if not sealed.startswith(PREFIX):
            return None
        try:
            return orjson.loads(zlib.decompress(self._fernet.decrypt(sealed[len(PREFIX) :])))
        except (InvalidToken, ValueError, zlib.error):
            return None

    def renewed(self, sealed: str) -> str | None:
        """The same value sealed with the first secret; ``None`` for what cannot be opened."""
        if not sealed.startswith(PREFIX):
            return None
        try:
            return PREFIX + self._fernet.rotate(sealed[len(PREFIX) :]).decode()
        except (InvalidToken, ValueError):
            return None


def _key(secret: str, purpose: str) -> bytes:
    told = f"forwarder {purpose}\0{secret}".encode()
    return base64.urlsafe_b64encode(hashlib.sha256(told).digest())
