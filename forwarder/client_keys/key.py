"""A client key with its limits, and the parsing of limits in requests, commands and forms.

The key itself is random and only its digest is stored. The client's stored data belongs to the
identity of the key, which stays when the key is rotated.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from forwarder.config.parsers import CLIENT_NAME, RESERVED_CLIENT_NAMES
from forwarder.context.client_identity import Budget, ClientGrants, make_key_identity
from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import check_type, require_field
from forwarder.protocols.registry import ALL_STYLES
from forwarder.storage.db.client_keys import ClientKeyRow

KEY_PREFIX = "sk-fwd-"
"""The prefix of each key. Other texts are not looked up, and secret scanners recognize it."""

KEY_BYTES = 32
HINT_LENGTH = 4

MAX_MODELS = 100
MAX_MODEL_LENGTH = 300
MAX_LIMIT = 10**12
MAX_DAYS = 36_500
MAX_GRACE_SECONDS = 90 * 86_400

NO_BUDGET = Budget(0.0, "tokens", "month")
"""Replaces a stored budget that cannot be read: the key may use nothing."""

LIMIT_FIELDS = ("models", "requests_per_minute", "tokens_per_minute", "budget", "reasoning")
CHANGEABLE_FIELDS = (*LIMIT_FIELDS, "expires")
CREATION_FIELDS = ("name", *CHANGEABLE_FIELDS)

_DURATION_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"(\d{1,6})([mhdw])", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_BUDGET = re.compile(
    r"(\d{1,13}(?:\.\d{1,6})?)\s*(usd|tokens?)\s*(?:/|per\s+)\s*(day|month)", re.ASCII | re.I
)


@dataclass(frozen=True)
class ClientKey:
    """A key without its secret. Times are Unix seconds; None: never.

    ``hint`` are the last characters of the secret. The secret before the last rotation is valid
    until ``previous_until``.
    """

    id: str
    hint: str
    grants: ClientGrants
    created: float
    expires: float | None = None
    revoked: float | None = None
    last_used: float | None = None
    previous_until: float | None = None

    @property
    def name(self) -> str:
        """The name of the client in logs, metrics and usage."""
        return self.grants.name

    @property
    def identity(self) -> str:
        """The value that replaces the key in a request context; a rotation does not change it."""
        return make_key_identity(self.id)

    def get_state(self, now: float) -> str:
        """Return ``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def to_json(self, now: float) -> Json:
        """Return the key as the API shows it."""
        return {
            "object": "client_key",
            "id": self.id,
            "name": self.name,
            "hint": f"{KEY_PREFIX}…{self.hint}",
            "state": self.get_state(now),
            "created": format_moment(self.created),
            "expires": format_moment(self.expires),
            "revoked": format_moment(self.revoked),
            "last_used": format_moment(self.last_used),
            "previous_valid_until": format_moment(
                self.previous_until if (self.previous_until or 0) > now else None
            ),
            **serialize_limits(self.grants),
        }


def generate_secret() -> str:
    """Return a new random key."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_secret(secret: str) -> str:
    """Return the digest of a key. The key has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


# -- storing ---------------------------------------------------------------------------------------


def restore_key(row: ClientKeyRow) -> ClientKey:
    """Return the key of a row."""
    limits = row.limits
    budget = limits.get("budget")
    grants = ClientGrants(
        name=row.name,
        models=tuple(limits.get("models") or ()),
        requests_per_minute=limits.get("requests_per_minute"),
        tokens_per_minute=limits.get("tokens_per_minute"),
        budget=(parse_budget(budget) or NO_BUDGET) if budget else None,
        reasoning=tuple(limits.get("reasoning") or ()),
    )
    return ClientKey(
        id=row.id,
        hint=row.hint,
        grants=grants,
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        last_used=row.last_used,
        previous_until=row.previous_until,
    )


def serialize_limits(grants: ClientGrants) -> Json:
    """Return the limits in the form that `read_limits` parses."""
    return {
        "models": list(grants.models),
        "requests_per_minute": grants.requests_per_minute,
        "tokens_per_minute": grants.tokens_per_minute,
        "budget": None if grants.budget is None else str(grants.budget),
        "reasoning": list(grants.reasoning),
    }


# -- reading an administrator's request -----------------------------------------------------------


def read_name(body: Json) -> str:
    """Return the name of a new key. Raises InvalidRequest."""
    name: str = require_field(body, "name", (str,), "name")
    if not CLIENT_NAME.fullmatch(name) or name in RESERVED_CLIENT_NAMES:
        raise invalid_value(
            "name",
            "up to 64 letters, digits, '.', '_' and '-' "
            f"({', '.join(RESERVED_CLIENT_NAMES)} are reserved)",
        )
    return name


def read_limits(body: Json, before: ClientGrants) -> ClientGrants:
    """Return ``before`` with the limits that ``body`` names; null removes one.

    Raises InvalidRequest.
    """
    readers: dict[str, Callable[[Any, str], Any]] = {
        "models": read_models,
        "requests_per_minute": read_limit,
        "tokens_per_minute": read_limit,
        "budget": read_budget,
        "reasoning": read_styles,
    }
    changes = {name: read(body[name], name) for name, read in readers.items() if name in body}
    return replace(before, **changes)


def check_fields(body: Json, allowed: tuple[str, ...]) -> None:
    """Raise InvalidRequest for a field that is not one of ``allowed``."""
    for name in body:
        if name not in allowed:
            raise InvalidRequest(
                f"Unknown parameter: '{shorten_value(name)}'. Supported are: {', '.join(allowed)}.",
                param=str(name),
                code="unknown_parameter",
            )


def read_models(value: Any, param: str) -> tuple[str, ...]:
    """Return patterns of models, from an array of strings or one string with commas."""
    patterns = read_words(value, param)
    if len(patterns) > MAX_MODELS or any(
        len(each) > MAX_MODEL_LENGTH or not each.isprintable() for each in patterns
    ):
        raise invalid_value(
            param,
            f"up to {MAX_MODELS} names or patterns of models, each up to {MAX_MODEL_LENGTH} "
            "characters",
        )
    return patterns


def read_styles(value: Any, param: str) -> tuple[str, ...]:
    """Return reasoning styles, with the names of FORWARDER_KEY_REASONING."""
    styles = tuple(style.lower() for style in read_words(value, param))
    if not set(styles) <= set(ALL_STYLES):
        raise invalid_value(param, f"styles of {', '.join(ALL_STYLES)}")
    return styles


def read_words(value: Any, param: str) -> tuple[str, ...]:
    if value is None:
        return ()
    given = check_type(value, (str, list), param)
    texts = given.split(",") if isinstance(given, str) else given
    words = [check_type(text, (str,), param).strip() for text in texts]
    return tuple(dict.fromkeys(word for word in words if word))


def read_limit(value: Any, param: str) -> int | None:
    """Return a limit per minute, or None."""
    if value is None:
        return None
    number: int = check_type(value, (int,), param)
    if not 1 <= number <= MAX_LIMIT:
        raise invalid_value(param, f"a number from 1 to {MAX_LIMIT}, or null")
    return number


def read_budget(value: Any, param: str) -> Budget | None:
    """Return a budget: ``5 usd/month``, ``1000000 tokens/day``."""
    if value is None or value == "":
        return None
    budget = parse_budget(check_type(value, (str,), param))
    if budget is None:
        raise invalid_value(param, "an amount such as '5 usd/month' or '1000000 tokens/day'")
    return budget


def parse_budget(text: str) -> Budget | None:
    """Return the budget in a text such as ``5 usd/month``; None if the text is not a budget."""
    match = _BUDGET.fullmatch(text.strip())
    if match is None:
        return None
    amount, unit = float(match[1]), match[2].lower()
    unit = "usd" if unit == "usd" else "tokens"
    if not 0 < amount <= MAX_LIMIT or (unit == "tokens" and amount % 1):
        return None
    return Budget(amount, unit, match[3].lower())


def read_expiry(value: Any, now: float) -> float | None:
    """Return when a key expires: after a time such as ``30d``, or at a date or time (ISO 8601).

    With a date the key is valid until the end of that day, UTC. Raises InvalidRequest for a time
    that is not in the future.
    """
    if value is None or value == "":
        return None
    text = check_type(value, (str,), "expires").strip()
    seconds = parse_duration(text)
    moment = parse_moment(text) if seconds is None else now + seconds
    if moment is None or not now < moment <= now + MAX_DAYS * 86_400:
        raise invalid_value(
            "expires",
            "a date such as 2030-01-31, a time such as 2030-01-31T12:00Z or a duration such as "
            "30d, in the future",
        )
    return moment


def read_grace(value: Any) -> float:
    """Return for how many seconds the previous secret stays valid: ``10m``, ``24h``, ``7d``."""
    if value in (None, "", "0"):
        return 0.0
    seconds = parse_duration(check_type(value, (str,), "grace").strip())
    if seconds is None or seconds > MAX_GRACE_SECONDS:
        raise invalid_value("grace", "a duration such as 10m, 24h or 7d, of at most 90 days")
    return seconds


def parse_duration(text: str) -> float | None:
    """Return the seconds of a text such as ``30d``; None if the text is not a duration."""
    match = _DURATION.fullmatch(text)
    return None if match is None else float(int(match[1]) * _DURATION_SECONDS[match[2]])


def parse_moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds + 86_400 if _DATE.fullmatch(text) else seconds


def format_moment(seconds: float | None) -> str | None:
    """Return a time in UTC to the second, None for None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def invalid_value(param: str, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for '{param}': expected {expected}.", param=param, code="invalid_value"
    )
