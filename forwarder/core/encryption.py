"""Sealed values: what only this forwarder can open, in the hands of clients and in its store.

A seal is ``fwd2.`` and a Fernet token over compressed JSON: the owner and the value.  The prefix
says whose it is, so that a foreign blob is recognised without a key.  Seals of version 1
(``fwd1.``) name no owner, and their keys are a plain hash of the secret; they can still be opened.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

SEAL_PREFIX = "fwd2."
SEAL_PREFIX_V1 = "fwd1."

SEAL_PREFIXES = (SEAL_PREFIX, SEAL_PREFIX_V1)
"""How the seals of every version begin."""

MIN_STRONG_SECRET_LENGTH = 24
"""Characters below which a secret may be guessed by trying; 128 random bits in Base64 have 24."""


class TokenCipher:
    """Seals with the first secret and opens with any.

    Without a secret, one is made up: what it seals can be opened until the process ends.  What is
    sealed for one ``purpose`` or owner opens for no other: a client that brings back as its own
    what it found elsewhere is told nothing of it.  ``accepts_all_owners`` is set where the operator asks.
    """

    def __init__(self, secret_keys: Sequence[str], purpose: str = "seal") -> None:
        self._purpose = purpose
        self._secrets: list[str] = []
        self.accepts_all_owners = False
        self.add_secrets(secret_keys or [secrets.token_urlsafe(32)])

    def add_secrets(self, secret_keys: Sequence[str]) -> None:
        """Seal with the first of these from now on; the former ones open what they sealed."""
        self._secrets = list(dict.fromkeys([*secret_keys, *self._secrets]))
        self._fernets = [make_fernet(each, self._purpose) for each in self._secrets]

    def encrypt(self, value: Any, owner: str = "") -> str:
        """An opaque text that holds a JSON value."""
        return self._encrypt_token([owner, value])

    def decrypt(
        self, sealed: str, owner: str = "", spend: Callable[[bytes], None] | None = None
    ) -> Any:
        """The value; ``None`` when the text is foreign, damaged, another's or of a lost secret.

        ``spend`` is given the JSON text before it is parsed, and may raise an error.
        """
        found = self._decrypt_token(sealed, spend)
        if found is None:
            return None
        sealed_for, value = found
        return value if sealed_for in (owner, None) or self.accepts_all_owners else None

    def reencrypt(self, sealed: str) -> str | None:
        """The same value sealed with the first secret; ``None`` for what cannot be opened."""
        found = self._decrypt_token(sealed)
        return None if found is None else self._encrypt_token(found)

    def _encrypt_token(self, content: list[Any]) -> str:
        return (
            SEAL_PREFIX + self._fernets[0].encrypt(zlib.compress(orjson.dumps(content), 1)).decode()
        )

    def _decrypt_token(
        self, sealed: str, spend: Callable[[bytes], None] | None = None
    ) -> list[Any] | None:
        """The owner, which is ``None`` of a seal of version 1, and the value."""
        try:
            if sealed.startswith(SEAL_PREFIX):
                token = MultiFernet(self._fernets).decrypt(sealed[len(SEAL_PREFIX) :])
            elif sealed.startswith(SEAL_PREFIX_V1):
                fernets = [Fernet(derive_key_v1(each, self._purpose)) for each in self._secrets]
                token = MultiFernet(fernets).decrypt(sealed[len(SEAL_PREFIX_V1) :])
            else:
                return None
            data = zlib.decompress(token)
        except (InvalidToken, ValueError, zlib.error):
            return None
        if spend is not None:
            spend(data)
        try:
            content = orjson.loads(data)
        except ValueError:
            return None
        return list(content) if sealed.startswith(SEAL_PREFIX) else [None, content]


@lru_cache(maxsize=64)
def derive_key(secret: str, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose.

    Each guess at the secret costs its attacker 16 MiB and some 40 ms.
    """
    root = stretch_secret(secret)
    return hmac.digest(root, f"forwarder {purpose}".encode(), "sha256")


@lru_cache(maxsize=64)
def stretch_secret(secret: str) -> bytes:
    """The salt is the same everywhere: machines that share nothing but the secret share seals."""
    return hashlib.scrypt(secret.encode(), salt=b"forwarder seal 2", n=2**14, r=8, p=1, dklen=32)


@lru_cache(maxsize=64)
def make_fernet(secret: str, purpose: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(derive_key(secret, purpose)))


def derive_key_v1(secret: str, purpose: str) -> bytes:
    text = f"forwarder {purpose}\0{secret}".encode()
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest())
