"""The response headers that Codex reads, and the equivalent events over a WebSocket.

- ``X-Reasoning-Included``: the reported usage counts the reasoning of earlier turns. Without this
  header Codex adds its own estimate and compacts too early.
- ``X-Models-Etag``: the version of the model catalog.
- ``OpenAI-Model``: the model that answered.
- ``X-Codex-…``: the user's remaining limits.

Over a WebSocket Codex reads ``X-Reasoning-Included`` in the handshake, ``OpenAI-Model`` in the
``headers`` of any event, and the others in dedicated events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import Route
from forwarder.core.errors import ForwarderError
from forwarder.core.types import Event, Json
from forwarder.models.codex import CODEX_PROTOCOL
from forwarder.models.router import Router
from forwarder.upstream.client import REASONING_INCLUDED_HEADER

MODEL_HEADER = "openai-model"
MODELS_ETAG_HEADER = "x-models-etag"

TURN_STATE_HEADER = "x-codex-turn-state"

TURN_METADATA_HEADER = "X-Codex-Turn-Metadata"
"""A request header of Codex: a JSON object whose ``model`` is the session's model."""

_LIMIT_HEADER = re.compile(r"x-(.+)-primary-used-percent")
"""A header that each family of limits has. The common family is ``codex``."""

_CREDIT_FIELDS = ("has_credits", "unlimited", "balance")
_FLAG_VALUES = {"true": True, "1": True, "false": False, "0": False}
_MAX_JSON_NUMBER = 2**53
"""Larger numbers lose precision in JSON parsers that use doubles."""


def make_response_headers(
    upstream_headers: Mapping[str, str], model: str, route: Route, etag: str
) -> dict[str, str]:
    """Return the headers for a Responses client that requested ``model``.

    A Chat upstream always counts the reasoning that it receives. A Responses upstream reports this
    itself in ``upstream_headers``.

    Codex shows its user a security notice if ``OpenAI-Model`` differs from the requested model. So
    the header has the client's own name for the model, unless a Responses upstream reports that it
    used a different model.
    """
    headers = {**upstream_headers, MODELS_ETAG_HEADER: etag}
    if route.protocol != CODEX_PROTOCOL:
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
    """Return the response headers of a WebSocket handshake.

    ``header`` looks up a request header by name. One connection serves one Codex session, and the
    handshake names its model. ``includes_reasoning`` returns whether the latest response of a
    Responses upstream had ``X-Reasoning-Included``.
    """
    headers = {MODELS_ETAG_HEADER: etag}
    try:
        route = router.resolve(
            read_session_model(header(TURN_METADATA_HEADER)), CODEX_PROTOCOL, client_key
        )
    except ForwarderError:
        route = router.get_default_route(CODEX_PROTOCOL)
    if route.protocol != CODEX_PROTOCOL or includes_reasoning(route.upstream):
        headers[REASONING_INCLUDED_HEADER] = "true"
    return headers


def make_turn_events(headers: Mapping[str, str]) -> list[Event]:
    """Return the WebSocket events that carry the information of these headers.

    ``headers`` are the headers of the equivalent HTTP response, with lower-case names.
    """
    events: list[Event] = []
    if MODELS_ETAG_HEADER in headers:
        values = {MODELS_ETAG_HEADER: headers[MODELS_ETAG_HEADER]}
        events.append({"type": "codex.response.metadata", "headers": values})
    if TURN_STATE_HEADER in headers:
        values = {TURN_STATE_HEADER: headers[TURN_STATE_HEADER]}
        events.append({"type": "response.metadata", "headers": values})
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
    texts = {
        name: headers.get(f"x-codex-credits-{name.replace('_', '-')}") for name in _CREDIT_FIELDS
    }
    flags = {name: _FLAG_VALUES.get((texts[name] or "").lower()) for name in _CREDIT_FIELDS[:2]}
    return None if None in flags.values() else {**texts, **flags}


def describe_window(prefix: str, headers: Mapping[str, str]) -> Json | None:
    """Return one window of a limit: usage in percent, length in minutes, reset in Unix seconds."""
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
