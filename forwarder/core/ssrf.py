"""Where the forwarder connects on a client's word: to public addresses, and to allowed ones.

A name is looked up once, here; the caller connects to the addresses that come back and asks nobody
again, so that a name cannot mean one host when it is judged and another when it is used.
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
"""All that is public in IPv6."""
_NAT64 = ip_network("64:ff9b::/96")
"""IPv4 as networks without IPv4 see it; the last four bytes are the address."""
_FORBIDDEN_NETWORKS = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # the protocols' own, among them a provider's metadata service
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # Azure's metadata service has a public address
            "2002::/16",  # 6to4: IPv4 in disguise
            "3fff::/20",  # documentation
        ),
    )
)
"""What is not public either, though `ipaddress` of some Python versions takes it for public."""

_NUMBER = re.compile(r"(\d+|0x[0-9a-f]*)\.?", re.IGNORECASE)


class AddressGuard:
    """Judges hosts.  ``allow`` holds host names, addresses and networks that may be private."""

    def __init__(self, allow: Iterable[str] = (), resolve: Resolve | None = None) -> None:
        self._names = frozenset(name.lower() for name in allow)
        self._networks = tuple(network for name in allow for network in parse_networks(name))
        self._resolve = resolve

    def find_allowed(self, host: str, port: int) -> list[ResolvedAddress]:
        """Where ``host`` may be reached, in order of preference; empty when it may not be.

        ``host`` is in ASCII, and an IPv6 address without brackets.
        """
        try:
            return self.look_up(host, port)
        except (OSError, UnicodeError):
            return []

    def look_up(self, host: str, port: int) -> list[ResolvedAddress]:
        """The same; raises OSError or UnicodeError for a name that cannot be resolved."""
        if is_ambiguous_address(host):
            return []
        resolve = self._resolve or socket.getaddrinfo
        found = resolve(host, port, type=socket.SOCK_STREAM)
        known = host.lower() in self._names
        return [(f[0], f[4]) for f in found if known or self._is_allowed(ip_address(f[4][0]))]

    def is_exception(self, host: str, port: int) -> bool:
        """Is it by an exception of the operator's alone that ``host`` may be reached?"""
        found = self.find_allowed(host, port)
        named = host.lower() in self._names
        return bool(found) and (
            named or all(self._is_on_allow_list(ip_address(f[1][0])) for f in found)
        )

    def _is_on_allow_list(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _is_allowed(self, address: Address) -> bool:
        return is_public(address) or self._is_on_allow_list(address)


def is_public(address: Address) -> bool:
    """Does anybody on the Internet reach the same host under this address?"""
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
    """An IPv4 address in a spelling that programs read differently: decimal, octal, short ..."""
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
