"""Endpoints of an upstream and groups of models: their text in the environment, and their values.

An endpoint is one key at one host of an upstream. An upstream with several keys or hosts has an
endpoint for each combination. A group is a model name that stands for models of several upstreams.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from forwarder.config.parsers import (
    PASSTHROUGH_KEY,
    is_pattern,
    parse_http_url,
    parse_key,
    parse_required_url,
    require,
    split_commas,
    with_error_message,
)

MAX_ENDPOINTS = 64
"""Endpoints of one upstream: each has connections of its own, and series in the metrics."""

ORIGIN_SIGN = "~"
"""Separates the name of an upstream from the digest of an endpoint; no name contains it."""


class Endpoint(NamedTuple):
    """One key at one host of an upstream that has several.

    ``host`` and ``key`` are positions in the settings, from 1. ``origin`` names the endpoint in
    stored data, so it depends on the address and the key and not on their positions.
    """

    host: int
    key: int
    weight: float
    origin: str

    @property
    def label(self) -> str:
        """The positions as text, for logs."""
        return f"{self.host}.{self.key}"


class EndpointParts(NamedTuple):
    """An endpoint with its address and its key."""

    endpoint: Endpoint
    base_url: str
    api_key: str | None


def list_endpoints(
    name: str, base_urls: Sequence[str], api_keys: Sequence[str], weights: Sequence[float]
) -> list[EndpointParts]:
    """Return the endpoints of an upstream, host by host; empty if it has only one."""
    keys: Sequence[str | None] = api_keys or (None,)
    if len(base_urls) * len(keys) < 2:
        return []
    return [
        EndpointParts(
            Endpoint(
                host,
                key,
                weights[host - 1] if weights else 1.0,
                make_origin(name, base_url, api_key),
            ),
            base_url,
            api_key,
        )
        for host, base_url in enumerate(base_urls, 1)
        for key, api_key in enumerate(keys, 1)
    ]


def make_origin(name: str, base_url: str, api_key: str | None) -> str:
    """Return the name of an endpoint in stored data."""
    return f"{name}{ORIGIN_SIGN}{digest_endpoint(base_url, api_key)}"


def digest_endpoint(base_url: str, api_key: str | None) -> str:
    """Return a short digest of an address and a key, from which neither can be derived."""
    return hashlib.sha256(f"{base_url} {api_key or ''}".encode()).hexdigest()[:12]


@with_error_message(
    "one http:// or https:// address, or different ones separated by commas, without user, query or"
    " fragment, and without the final /chat/completions or /responses"
)
def parse_several_urls(text: str) -> tuple[str, ...]:
    urls = tuple(map(parse_http_url, split_commas(text)))
    require(urls and len(set(urls)) == len(urls))
    return urls


def parse_base_urls(text: str) -> tuple[str, ...]:
    """Parse the addresses of an upstream, of which there must be at least one."""
    return parse_several_urls(text) if "," in text else (parse_required_url(text),)


@with_error_message(
    "one key or different keys separated by commas, without spaces, in plain ASCII, and without the"
    " word Bearer"
)
def parse_several_keys(text: str) -> tuple[str, ...]:
    keys = tuple(split_commas(text))
    require(keys and all(re.fullmatch(r"[!-~]+", key) and key != PASSTHROUGH_KEY for key in keys))
    require(len(set(keys)) == len(keys))
    return keys


def parse_upstream_keys(text: str) -> tuple[str, ...]:
    """Parse the keys of an upstream; empty if it has none or gets the clients' keys."""
    if "," in text:
        return parse_several_keys(text)
    key = parse_key(text)
    return () if key is None else (key,)


@with_error_message("numbers above 0 separated by commas")
def parse_weights(text: str) -> tuple[float, ...]:
    return tuple(map(parse_weight, split_commas(text)))


def parse_weight(text: str) -> float:
    weight = float(text)
    require(0 < weight <= 1000 and math.isfinite(weight))
    return weight


class GroupMember(NamedTuple):
    """A model of an upstream in a group; members of a higher ``order`` wait until lower ones fail.

    ``model`` is the name that clients would use at this upstream.
    """

    upstream: str
    model: str
    weight: float
    order: int


GROUPS_MESSAGE = (
    "groups such as fast=chat/qwen-plus*3,spare/qwen-max>other/gpt-5 separated by semicolons: a"
    " name, and members as UPSTREAM/MODEL with an optional *WEIGHT, where > begins the members that"
    " are used when all before fail"
)


@with_error_message(GROUPS_MESSAGE)
def parse_groups(text: str) -> Mapping[str, tuple[GroupMember, ...]]:
    groups: dict[str, tuple[GroupMember, ...]] = {}
    for piece in filter(str.strip, text.split(";")):
        name, _, members = piece.partition("=")
        name = name.strip()
        require(name and name not in groups and not is_pattern(name) and "," not in name)
        tiers = [split_commas(tier) for tier in members.split(">")]
        require(all(tiers))
        groups[name] = tuple(
            parse_member(member, order) for order, tier in enumerate(tiers) for member in tier
        )
        require(len({member[:2] for member in groups[name]}) == len(groups[name]))
    return MappingProxyType(groups)


def parse_member(text: str, order: int) -> GroupMember:
    target, star, weight = text.partition("*")
    upstream, _, model = target.strip().partition("/")
    require(upstream and model and not is_pattern(model))
    return GroupMember(upstream, model, parse_weight(weight) if star else 1.0, order)
