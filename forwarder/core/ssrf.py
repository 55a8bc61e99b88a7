"""SSRF guard: hosts from client requests may resolve to public or allowed addresses only.

This module looks each name up once, and the caller connects to the returned addresses without
another look-up.  So a name cannot resolve to one host when it is checked and another when it is
used (DNS rebinding).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
ResolvedAddress = tuple[int, Any]
"""Socket family and socket address."""
Resolve = Callable[..., Iterable[tuple[Any, ...]]]
"""As ``socket.getaddrinfo``."""

_UNICAST = ip_network("2000::/3")
"""The public range of IPv6."""
_NAT64 = ip_network("64:ff9b::/96")
"""IPv4 addresses in networks without IPv4; the last four bytes are the address."""
_FORBIDDEN_NETWORKS = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocol assignments, including a provider's metadata service
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # Azure's metadata service has a public address
            "2002::/16",  # 6to4, which embeds IPv4 addresses
            "3fff::/20",  # documentation
        ),
    )
)
"""Non-public networks that `ipaddress` of some Python versions considers public."""

_NUMBER = re.compile(r"(\d+|0x[0-9a-f]*)\.?", re.IGNORECASE)


class AddressGuard:
    """Checks hosts.  ``allow`` has host names, addresses and networks that may be private."""

    def __init__(self, allow: Iterable[str] = (), resolve: Resolve | None = None) -> None:
        self._names = frozenset(name.lower() for name in allow)
        self._networks = tuple(network for name in allow for network in parse_networks(name))
        self._resolve = resolve

    def find_allowed(self, host: str, port: int) -> list[ResolvedAddress]:
        """Return the allowed addresses of ``host``, preferred ones first; empty without any.

        ``host`` is ASCII; IPv6 addresses have no brackets.
        """
        try:
            return self.look_up(host, port)
        except (OSError, UnicodeError):
            return []

    def look_up(self, host: str, port: int) -> list[ResolvedAddress]:
        """Like `find_allowed`, but raises OSError or UnicodeError for unknown hosts."""
        if is_ambiguous_address(host):
            return []
        resolve = self._resolve or socket.getaddrinfo
        entries = resolve(host, port, type=socket.SOCK_STREAM)
        is_named = host.lower() in self._names
        return [
            (entry[0], entry[4])
            for entry in entries
            if is_named or self._is_allowed(ip_address(entry[4][0]))
        ]

    def needs_allow_list(self, host: str, port: int) -> bool:
        """Return whether ``host`` is allowed only because of the operator's allow list."""
        addresses = self.find_allowed(host, port)
        is_named = host.lower() in self._names
        return bool(addresses) and (
            is_named or all(self._is_on_allow_list(ip_address(each[1][0])) for each in addresses)
        )

    def _is_on_allow_list(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _is_allowed(self, address: Address) -> bool:
        return is_public(address) or self._is_on_allow_list(address)


def is_public(address: Address) -> bool:
    """Return whether ``address`` is a public unicast address of the Internet."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[-4:]))
        if address not in _UNICAST:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _FORBIDDEN_NETWORKS)
    )


def is_ambiguous_address(host: str) -> bool:
    """Return whether ``host`` is an IPv4 address in decimal, octal or short form.

    Programs disagree about these forms, so a check could read another address than the connection.
    """
    try:
        ip_address(host)
    except ValueError:
        return _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None
    return False


def parse_networks(text: str) -> Iterator[Any]:
    try:
        yield ip_network(text, strict=False)
    except ValueError:  # a name
        return
