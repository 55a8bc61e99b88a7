"""Everything that is derived from a client's key; nothing else turns a key into a name.

- `hash_client_key`: for maps in memory, and inside of what is encrypted.
- `make_account_id`: for limits, and for what upstreams and Redis are shown.
- `derive_owner`: for the database.

A plain hash lets whoever reads it test guessed keys, so the last two are an HMAC where a secret is
there that every worker has.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import IPv6Address, ip_address

from forwarder.config.settings import Settings
from forwarder.core.encryption import derive_key

OWNER_PREFIX = "hmac-"
"""How owners that are no plain hash begin."""


def hash_client_key(client_key: str | None) -> str:
    """A client's key, or that it has none, as a hash of 64 hexadecimal digits."""
    return hashlib.sha256((client_key or "").encode()).hexdigest()


ANONYMOUS = hash_client_key(None)
"""The owner of everything that clients without a key store."""


def derive_owner(owner_key: bytes, key_digest: str) -> str:
    """The owner of what a client stores: the HMAC of its key's digest.

    It is made of the digest, so that rows which have the digest as their owner can be moved while
    the key is not at hand.
    """
    return OWNER_PREFIX + hmac.digest(owner_key, key_digest.encode(), "sha256").hex()


def is_guessable(owner: str) -> bool:
    """Is an owner the plain digest of a key?"""
    return owner != ANONYMOUS and not owner.startswith(OWNER_PREFIX)


def make_account_id(key: str | None, address: str | None, settings: Settings) -> str:
    """Whose account a request is charged to, as 64 hexadecimal digits.

    A key counts only where it is checked: otherwise every invented key would be a new account.
    An IPv6 client has a whole network of addresses, which is one account.  Without
    FORWARDER_SECRET_KEY it is a plain hash: workers share no secret, but a storage of the limits.
    """
    checked = settings.api_keys or all(u.passthrough_key for u in settings.upstreams)
    text = f"key {key}" if key and checked else f"address {normalize_address(address)}"
    if not settings.secret_keys:
        return hashlib.sha256(text.encode()).hexdigest()
    return hmac.digest(derive_key(settings.secret_keys[0], "payer"), text.encode(), "sha256").hex()


def normalize_address(address: str | None) -> str:
    try:
        parsed = ip_address(address or "")
    except ValueError:  # a Unix socket has none
        return ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
