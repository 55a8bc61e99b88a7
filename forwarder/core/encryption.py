"""Encrypted values (seals) that clients and the store hold and only this forwarder can decrypt.

A seal is ``fwd2.`` followed by a Fernet token over compressed JSON: the owner and the value.  The
prefix tells seals from foreign text without a key.  Version 1 seals (``fwd1.``) have no owner, and
their key is a plain hash of the secret.  They can still be decrypted.
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
"""Prefixes of all versions of seals."""

MIN_STRONG_SECRET_LENGTH = 24
"""Shorter secrets may be guessed by brute force; 128 random bits in Base64 have 24 characters."""


class TokenCipher:
    """Encrypts with the first secret and decrypts with any of them.

    Without a secret it generates one; its seals are valid until the process ends.  A seal is bound
    to one ``purpose`` and one owner, so a client cannot use the seal of another client.  The
    operator can disable the check of owners (``accepts_all_owners``).
    """

    def __init__(self, secret_keys: Sequence[str], purpose: str = "seal") -> None:
        self._purpose = purpose
        self._secrets: list[str] = []
        self.accepts_all_owners = False
        self.add_secrets(secret_keys or [secrets.token_urlsafe(32)])

    def add_secrets(self, secret_keys: Sequence[str]) -> None:
        """Encrypt with the first of these from now on; earlier secrets still decrypt."""
        self._secrets = list(dict.fromkeys([*secret_keys, *self._secrets]))
        self._fernets = [make_fernet(each, self._purpose) for each in self._secrets]

    def encrypt(self, value: Any, owner: str = "") -> str:
        """Encrypt a JSON value for ``owner``; return the seal."""
        return self._encrypt_token([owner, value])

    def decrypt(
        self, sealed: str, owner: str = "", spend: Callable[[bytes], None] | None = None
    ) -> Any:
        """Return the value of a seal.

        Returns ``None`` if the text is not a seal, is damaged, belongs to another owner, or was
        encrypted with an unknown secret.  ``spend`` receives the JSON text before it is parsed, and
        may raise to refuse it.
        """
        content = self._decrypt_token(sealed, spend)
        if content is None:
            return None
        sealed_for, value = content
        return value if sealed_for in (owner, None) or self.accepts_all_owners else None

    def reencrypt(self, sealed: str) -> str | None:
        """Re-encrypt a seal with the first secret; ``None`` if it cannot be decrypted."""
        content = self._decrypt_token(sealed)
        return None if content is None else self._encrypt_token(content)

    def _encrypt_token(self, content: list[Any]) -> str:
        return (
            SEAL_PREFIX + self._fernets[0].encrypt(zlib.compress(orjson.dumps(content), 1)).decode()
        )

    def _decrypt_token(
        self, sealed: str, spend: Callable[[bytes], None] | None = None
    ) -> list[Any] | None:
        """Return the owner (``None`` in seals of version 1) and the value."""
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
    """Derive the key (32 bytes) for one purpose.

    Each guess at the secret costs an attacker 16 MiB and about 40 ms.
    """
    root = stretch_secret(secret)
    return hmac.digest(root, f"forwarder {purpose}".encode(), "sha256")


@lru_cache(maxsize=64)
def stretch_secret(secret: str) -> bytes:
    """Stretch the secret.  The salt is fixed: machines with the same secret must share seals."""
    return hashlib.scrypt(secret.encode(), salt=b"forwarder seal 2", n=2**14, r=8, p=1, dklen=32)


@lru_cache(maxsize=64)
def make_fernet(secret: str, purpose: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(derive_key(secret, purpose)))


def derive_key_v1(secret: str, purpose: str) -> bytes:
    text = f"forwarder {purpose}\0{secret}".encode()
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest())
