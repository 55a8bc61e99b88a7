"""Hosts to which the forwarder may connect."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from forwarder.core.ssrf import AddressGuard, is_public
from tests.helpers.check_cases import check_each

PRIVATE = (
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "100.64.0.1", "100.100.100.200", "169.254.169.254", "168.63.129.16", "192.0.0.192",
    "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255", "192.88.99.1",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "fe80::1", "fc00::1",
    "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "2002:7f00:1::", "2001:0:1::1",
    "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "3fff::1", "100::1",
)  # fmt: skip
PUBLIC = ("8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::8.8.8.8")


def resolving(**names: str) -> Any:
    """A lookup with these names; addresses resolve as in the system's lookup."""

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if host not in names:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        texts = names[host].split()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)) for text in texts]

    return resolve


def find_addresses(host: str, *allow: str, **names: str) -> list[str]:
    """Return the allowed addresses of a host."""
    addresses = AddressGuard(allow, resolving(**names)).find_allowed(host, 80)
    return [address[0] for _, address in addresses]


@check_each("address", PRIVATE)
def test_special_use_addresses_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@check_each("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@check_each(
    "host",
    [
        "127.0.0.1", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "169.254.169.254", "10.1.2.3",
        "localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1",
        "0", "0x", "127.0.0.1.", "fe80::1%lo", "134744072", "010.8.8.8",
    ],
)  # fmt: skip
def test_private_host_is_refused_in_every_spelling(host: str) -> None:
    assert find_addresses(host) == []


def test_ambiguous_address_is_not_looked_up() -> None:
    assert find_addresses("134744072", **{"134744072": "8.8.8.8"}) == []


@check_each("address", PRIVATE)
def test_name_with_a_private_address_is_refused(address: str) -> None:
    assert find_addresses("evil.test", **{"evil.test": address}) == []


def test_only_public_addresses_of_a_name_are_used() -> None:
    assert find_addresses("mixed.test", **{"mixed.test": "10.0.0.1 8.8.8.8 ::1"}) == ["8.8.8.8"]


@check_each("resolve_error", [socket.gaierror("no such name"), UnicodeError("long")])
def test_unknown_name_has_no_addresses(resolve_error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise resolve_error

    assert AddressGuard((), fail).find_allowed("gone.test", 80) == []
    with pytest.raises(type(resolve_error)):
        AddressGuard((), fail).look_up("gone.test", 80)


def test_lookup_distinguishes_forbidden_and_unknown_names() -> None:
    assert AddressGuard((), resolving(**{"inner.test": "10.0.0.1"})).look_up("inner.test", 80) == []


@check_each("allow", ["10.1.0.0/16", "10.1.2.3", "files.test", "FILES.test"])
def test_allowed_private_host_is_reached(allow: str) -> None:
    assert find_addresses("files.test", allow, **{"files.test": "10.1.2.3"}) == ["10.1.2.3"]


@check_each("allow", ["10.2.0.0/16", "10.1.2.4", "other.test", "test", "fd00::/8"])
def test_allow_list_permits_only_its_entries(allow: str) -> None:
    assert find_addresses("files.test", allow, **{"files.test": "10.1.2.3"}) == []


@check_each(
    ("host", "allow", "expected"),
    [
        ("gpu", ("gpu",), True),
        ("GPU", ("gpu",), True),
        ("gpu", ("10.0.0.0/8",), True),
        ("mixed", ("10.0.0.0/8",), False),
        ("public", (), False),
        ("public", ("public",), True),
        ("gpu", (), False),
        ("127.0.0.1", ("127.0.0.1",), True),
    ],
)
def test_needs_allow_list_is_false_for_public_hosts(
    host: str, allow: tuple[str, ...], expected: bool
) -> None:
    names = {"gpu": "10.1.1.1", "GPU": "10.1.1.1", "mixed": "10.1.1.1 8.8.8.8", "public": "8.8.8.8"}
    assert AddressGuard(allow, resolving(**names)).needs_allow_list(host, 80) is expected
