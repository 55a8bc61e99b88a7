"""Identifiers derived from a client's API key. No other module derives one.

- `hash_client_key`: for in-memory maps and inside encrypted values.
- `make_account_id`: for rate limits, and for identifiers sent to upstreams and Redis.
- `derive_owner`: for the owners of stored data.
- `make_key_identity`: stands for a key that was made at run time, which can be rotated.
- `ClientNames`: for people, in logs, metrics and reports of usage.

A reader of a plain hash can test guessed keys against it. `make_account_id` and `derive_owner`
therefore use an HMAC where all workers share a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from ipaddress import IPv6Address, ip_address

from forwarder.config.parsers import ANONYMOUS_CLIENT, UNKNOWN_CLIENT
from forwarder.config.settings import Settings
from forwarder.core.encryption import derive_key

log = logging.getLogger("forwarder.auth")

_MAX_CACHED_ADDRESSES = 1024
"""How many normalized addresses are cached: parsing one takes longer than hashing it."""

_MAX_CACHED_OWNERS = 1024
"""How many owners are cached: each request derives its owner up to three times."""

KEY_LABEL_LENGTH = 6
"""Hexadecimal digits in the label of a key without a name; more if two labels would be the same."""

IDENTITY_PREFIX = "§"
"""Beginning of the identity of a key made at run time. No client can send it: keys are ASCII."""

OWNER_PREFIX = "hmac-"
"""Prefix of owners that are an HMAC rather than a plain hash."""


@dataclass(frozen=True)
class Budget:
    """A limit of ``usd`` or ``tokens`` for a key in a ``period`` (``day`` or ``month``, UTC)."""

    amount: float
    unit: str
    period: str

    def __str__(self) -> str:
        amount = f"{self.amount:.6f}".rstrip("0").rstrip(".")  # without an exponent
        return f"{amount} {self.unit}/{self.period}"


@dataclass(frozen=True)
class ClientGrants:
    """The permissions of a key made at run time. Empty and None mean no restriction.

    ``models`` are names and patterns of models, ``reasoning`` are styles that override the
    settings'.
    """

    name: str
    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    budget: Budget | None = None
    reasoning: tuple[str, ...] = ()

    def allows_model(self, model: str) -> bool:
        """Return whether the client may use a model by this name; a tag ``:latest`` is ignored."""
        if not self.models:
            return True
        names = {model, model.removesuffix(":latest")}
        return any(fnmatchcase(name, pattern) for name in names for pattern in self.models)


def make_key_identity(key_id: str) -> str:
    """Return the stand-in for a key made at run time, used instead of the key that clients send.

    It names the client across rotations of the key, and is not secret. It is never sent upstream.
    """
    return IDENTITY_PREFIX + key_id


def is_key_identity(client_key: str | None) -> bool:
    """Return whether a client's key is the identity of a key that was made at run time."""
    return client_key is not None and client_key.startswith(IDENTITY_PREFIX)


def hash_client_key(client_key: str | None) -> str:
    """Return the SHA-256 of a client's key as 64 hexadecimal digits; ``None`` hashes as empty."""
    return hashlib.sha256((client_key or "").encode()).hexdigest()


ANONYMOUS = hash_client_key(None)
"""The owner of everything that is stored by clients without a key."""


@lru_cache(maxsize=_MAX_CACHED_OWNERS)  # it keeps digests, not keys
def derive_owner(owner_key: bytes, key_digest: str) -> str:
    """Return the database owner of a client: the HMAC of its key's digest.

    The HMAC is computed from the digest because a migration must convert rows that are owned by
    the plain digest without knowing the key.
    """
    return OWNER_PREFIX + hmac.digest(owner_key, key_digest.encode(), "sha256").hex()


def is_guessable(owner: str) -> bool:
    """Return whether an owner is the plain digest of a key, which allows guessing the key."""
    return owner != ANONYMOUS and not owner.startswith(OWNER_PREFIX)


def strip_client_name(key: str, names: Mapping[str, str | None]) -> str:
    """Return the part after the colon of a ``NAME:KEY`` that a client sent as a whole.

    ``names`` contains such a key with and without its name, as `Settings.client_names` does.
    """
    name = names.get(key)
    short = key.removeprefix(f"{name}:")
    return short if name and names.get(short) == name else key


def make_account_id(key: str | None, address: str | None, settings: Settings) -> str:
    """Return the account that a request is charged to, as 64 hexadecimal digits.

    The key identifies the account only if it is verified; otherwise every invented key would be
    a new account. Both forms of a key with a name are one account, and so are all addresses of an
    IPv6 /64 network. Without FORWARDER_SECRET_KEY the result is a plain hash, because workers share
    the rate-limit storage but no secret.
    """
    checked = (
        settings.api_keys
        or is_key_identity(key)
        or all(u.passthrough_key for u in settings.upstreams)
    )
    if key and checked:
        text = f"key {strip_client_name(key, settings.client_names)}"
    else:
        text = f"address {normalize_address(address)}"
    if not settings.secret_keys:
        return hashlib.sha256(text.encode()).hexdigest()
    return hmac.digest(derive_key(settings.secret_keys[0], "payer"), text.encode(), "sha256").hex()


@lru_cache(maxsize=_MAX_CACHED_ADDRESSES)
def normalize_address(address: str | None) -> str:
    try:
        parsed = ip_address(address or "")
    except ValueError:  # a Unix socket has none
        return ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


class ClientNames:
    """The names of clients by account. Their number is bounded by the configuration.

    A key without a configured name has the label ``key-`` and the first digits of its account id.
    Clients without keys are all ``anonymous``. ``find_key_name`` returns the name of a key made at
    run time by its account id, or None.
    """

    def __init__(
        self,
        settings: Settings,
        find_key_name: Callable[[str], str | None] = lambda account_id: None,
    ) -> None:
        self._find_key_name = find_key_name
        self._names: dict[str, str] = {}
        taken = {name for name in settings.client_names.values() if name}
        for key, name in settings.client_names.items():
            account = make_account_id(key, None, settings)
            self._names[account] = name or make_key_label(account, taken)
            taken.add(self._names[account])
        self._default = UNKNOWN_CLIENT if settings.api_keys else ANONYMOUS_CLIENT

    def find_name(self, account_id: str | None) -> str:
        """Return the name of the client with this account, which `make_account_id` returned."""
        account = account_id or ""
        return self._names.get(account) or self._find_key_name(account) or self._default


def make_key_label(account_id: str, taken: set[str]) -> str:
    """Return the label of a key without a name, different from the names in ``taken``."""
    length = KEY_LABEL_LENGTH
    while (label := f"key-{account_id[:length]}") in taken and length < len(account_id):
        length += 1
    return label


def warn_of_whole_key(client_key: str | None, name: str) -> None:
    """Log once per client that it sends ``NAME:KEY``, which is accepted for one release."""
    if client_key and ":" in client_key and client_key.startswith(f"{name}:"):
        log_whole_key(name)


@cache  # names are bounded by the configuration
def log_whole_key(name: str) -> None:
    log.warning(
        "client '%s' sends its key together with the name before the colon; the next version "
        "accepts only the part after the colon",
        name,
        extra={"event": "client_key_with_name"},
    )
