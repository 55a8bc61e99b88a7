"""Which client a request comes from: its key where keys are checked, its address otherwise."""

from __future__ import annotations

import hashlib
from ipaddress import IPv6Address, ip_address

from forwarder.config import Settings


def payer(key: str | None, address: str | None, settings: Settings) -> str:
    """Whose account a request is charged to, as a hash: no storage needs to know keys.

    A key counts only where somebody checks it, or whoever makes one up would have a new account.
    An IPv6 client has a whole network of addresses, which is one account.
    """
    checked = settings.api_keys or all(u.passthrough_key for u in settings.upstreams)
    who = f"key {key}" if key and checked else f"address {_network(address)}"
    return hashlib.sha256(who.encode()).hexdigest()


def digest_key(client_key: str | None) -> str:
    """A client's key, or that it has none, as a hash."""
    return hashlib.sha256((client_key or "").encode()).hexdigest()


def _network(address: str | None) -> str:
    try:
        parsed = ip_address(address or "")
    except ValueError:  # a Unix socket has none
        return ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
