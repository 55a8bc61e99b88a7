"""The response headers that Codex reads, and the events that say the same over a WebSocket.

``X-Reasoning-Included`` says that the reported usage counts the reasoning of earlier turns.
Without it Codex adds an estimate of its own and compacts too early.  ``X-Models-Etag`` tells it
that the catalog has changed, ``OpenAI-Model`` which model has answered, and ``X-Codex-…`` what is
left of the user's limits.

Over a WebSocket Codex reads the first of them in the handshake.  ``OpenAI-Model`` it reads in the
``headers`` of any event, the others in events of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from forwarder.config.settings import UpstreamSettings
from forwarder.context.route import Route
from forwarder.core.errors import ForwarderError
from forwarder.core.types import Event, Json
from forwarder.models.router import Router
from forwarder.upstream.client import REASONING_INCLUDED_HEADER

MODEL_HEADER = "openai-model"
MODELS_ETAG_HEADER = "x-models-etag"

TURN_STATE_HEADER = "x-codex-turn-state"

TURN_METADATA_HEADER = "X-Codex-Turn-Metadata"
"""A request header of Codex: a JSON object that names the session's model, among others."""

_LIMIT_HEADER = re.compile(r"x-(.+)-primary-used-percent")
"""A header of each family of limits; the usual one is ``codex``."""

_CREDIT_FIELDS = ("has_credits", "unlimited", "balance")
_FLAG_VALUES = {"true": True, "1": True, "false": False, "0": False}
_MAX_JSON_NUMBER = 2**53
"""A larger number could not be written as JSON."""


def make_response_headers(
    upstream_headers: Mapping[str, str], model: str, route: Route, etag: str
) -> dict[str, str]:
    """The headers of an answer to a Responses client that asked for ``model``.

    A Chat upstream counts all that it is sent.  A Responses upstream says itself whether it does.

    Codex tells its user of a security measure if the model is not the one it asked for.  So the
    client's own name is given, unless a Responses upstream reports that it has taken another model.
    """
    headers = {**upstream_headers, MODELS_ETAG_HEADER: etag}
    if route.protocol != "responses":
        headers |= {MODEL_HEADER: model, REASONING_INCLUDED_HEADER: "true"}
    elif headers.get(MODEL_HEADER, route.model).lower() == route.model.lower():
        headers[MODEL_HEADER] = model
    if not (headers[MODEL_HEADER].isascii() and headers[MODEL_HEADER].isprintable()):
        del headers[MODEL_HEADER]
    return headers


def make_handshake_headers(
    header: Callable[[str], str | None],
    router: Router,
    includes_reasoning: Callable[[UpstreamSettings], bool],
    etag: str,
    client_key: str | None,
) -> dict[str, str]:
    """The headers with which a WebSocket is accepted; ``header`` gives the request's by name.

    One connection serves one session of Codex, which names its model in the handshake.
    ``includes_reasoning`` tells of a Responses upstream whether its latest answer said so.
    """
    headers = {MODELS_ETAG_HEADER: etag}
    try:
        route = router.resolve(
            read_session_model(header(TURN_METADATA_HEADER)), "responses", client_key
        )
    except ForwarderError:
        route = router.get_default_route("responses")
    if route.protocol != "responses" or includes_reasoning(route.upstream):
        headers[REASONING_INCLUDED_HEADER] = "true"
    return headers


def make_turn_events(headers: Mapping[str, str]) -> list[Event]:
    """The events with which a turn over a WebSocket tells Codex what these headers say.

    ``headers`` are those that an answer to a POST would have, under lower-case names.
    """
    events: list[Event] = []
    if MODELS_ETAG_HEADER in headers:
        told = {MODELS_ETAG_HEADER: headers[MODELS_ETAG_HEADER]}
        events.append({"type": "codex.response.metadata", "headers": told})
    if TURN_STATE_HEADER in headers:
        told = {TURN_STATE_HEADER: headers[TURN_STATE_HEADER]}
        events.append({"type": "response.metadata", "headers": told})
    families = (match[1] for match in map(_LIMIT_HEADER.fullmatch, headers) if match)
    return [*events, *(describe_limit(family, headers) for family in families)]


def describe_limit(family: str, headers: Mapping[str, str]) -> Event:
    windows = {n: describe_window(f"x-{family}-{n}", headers) for n in ("primary", "secondary")}
    return {
        "type": "codex.rate_limits",
        "metered_limit_name": family.replace("-", "_"),
        "limit_name": headers.get(f"x-{family}-limit-name"),
        "rate_limits": windows,
        "credits": describe_credits(headers),
    }


def describe_credits(headers: Mapping[str, str]) -> Json | None:
    found = {
        name: headers.get(f"x-codex-credits-{name.replace('_', '-')}") for name in _CREDIT_FIELDS
    }
    flags = {name: _FLAG_VALUES.get((found[name] or "").lower()) for name in _CREDIT_FIELDS[:2]}
    return None if None in flags.values() else {**found, **flags}


def describe_window(prefix: str, headers: Mapping[str, str]) -> Json | None:
    """One window of a limit: in percent, minutes, and seconds since 1970."""
    used = read_number(float, headers.get(f"{prefix}-used-percent"))
    if used is None:
        return None
    return {
        "used_percent": used,
        "window_minutes": read_number(int, headers.get(f"{prefix}-window-minutes")),
        "reset_at": read_number(int, headers.get(f"{prefix}-reset-at")),
    }


def read_number(kind: Callable[[str], float], text: str | None) -> float | None:
    try:
        number = kind(text or "")
    except ValueError:
        return None
    return number if abs(number) < _MAX_JSON_NUMBER else None


def read_session_model(metadata: str | None) -> str | None:
    try:
        value = json.loads(metadata or "{}")
    except (ValueError, RecursionError):
        return None
    model = value.get("model") if isinstance(value, dict) else None
    return model if isinstance(model, str) else None
