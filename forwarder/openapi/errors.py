"""Error responses, one for each status, from the tree of errors (`core/errors.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from forwarder.core import errors
from forwarder.core.errors import ForwarderError
from forwarder.core.types import Json
from forwarder.openapi.schemas import make_object, refer
from forwarder.protocols.messages import MESSAGES_API, OVERLOADED_STATUS
from forwarder.protocols.ollama import OLLAMA_API
from forwarder.protocols.registry import find_api

OPENAI, OLLAMA, MESSAGES = "Error", "OllamaError", "MessagesError"
"""The error bodies of the APIs: the names of their schemas, and of their responses."""

_ENVELOPES = {OLLAMA_API: OLLAMA, MESSAGES_API: MESSAGES}

RELAYED_STATUSES = ("4XX", "5XX")
"""Statuses that an upstream chooses."""

_TEXT_OR_NULL: Json = {"type": ["string", "null"]}

ERROR_SCHEMAS: dict[str, Json] = {
    OPENAI: make_object(
        {
            "error": make_object(
                {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": _TEXT_OR_NULL,
                    "code": _TEXT_OR_NULL,
                },
                ("message", "type", "param", "code"),
                description="An error of an upstream may have other fields too.",
            )
        },
        ("error",),
    ),
    OLLAMA: make_object({"error": {"type": "string"}}, ("error",)),
    MESSAGES: make_object(
        {
            "type": {"const": "error"},
            "error": make_object(
                {
                    "type": {"type": "string"},
                    "message": {"type": "string"},
                    "details": make_object({"error_code": {"type": "string"}}),
                },
                ("type", "message"),
            ),
            "request_id": {"type": "string"},
        },
        ("type", "error", "request_id"),
    ),
}

_UNDOCUMENTED = (
    errors.ClientError,
    errors.UpstreamError,
    errors.UpstreamRefused,  # has a status of the upstream
    errors.ClientDisconnected,  # only logged
)

_RETRIED = (429, 503, OVERLOADED_STATUS)
"""Statuses whose responses have ``Retry-After``."""


def make_error_responses() -> dict[str, Json]:
    """Return name -> response for all error bodies and every status of an error."""
    responses: dict[str, Json] = {}
    for envelope in (OPENAI, OLLAMA, MESSAGES):
        for status in sorted({each.status for each in iterate_errors(ForwarderError)}):
            shown = map_status(envelope, status)
            text = describe_status(status)
            responses[f"{envelope}{shown}"] = make_response(envelope, text, shown)
        for statuses in RELAYED_STATUSES:
            text = "The upstream's own status and message."
            responses[f"{envelope}{statuses}"] = make_response(envelope, text)
    return responses


def find_envelope(path: str) -> str:
    """Return the name of the error body of a path."""
    return _ENVELOPES.get(find_api(path, lambda header: False), OPENAI)


def map_status(envelope: str, status: int) -> int:
    """Return the status with which an API reports an error of this status."""
    return OVERLOADED_STATUS if envelope == MESSAGES and status == 503 else status


def make_response(envelope: str, description: str, status: int = 0) -> Json:
    headers = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    if status in _RETRIED:
        headers["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    content = {"application/json": {"schema": refer(envelope)}}
    return {"description": description, "headers": headers, "content": content}


def describe_status(status: int) -> str:
    """Return the possible meanings of an error of this status, with its codes."""
    meanings: dict[str, None] = {}
    for each in iterate_errors(ForwarderError):
        if each.status == status:
            summary = (each.__doc__ or "").partition("\n")[0].rstrip(".")
            meanings[f"{summary} (`{each.code}`)." if each.code else f"{summary}."] = None
    return " ".join(meanings)


def iterate_errors(base: type[ForwarderError]) -> Iterator[type[ForwarderError]]:
    """Yield the errors of the forwarder that clients get."""
    for each in base.__subclasses__():
        if each.__module__ == errors.__name__ and each not in _UNDOCUMENTED:
            yield each
        yield from iterate_errors(each)


def refer_to_errors(
    envelope: str, raised: Iterable[type[ForwarderError]], is_relayed: bool
) -> dict[str, Json]:
    """Return status -> reference to its response, for the errors that an operation raises."""
    shown = {map_status(envelope, each.status) for each in raised}
    statuses = list(map(str, sorted(shown)))
    if is_relayed:
        statuses += RELAYED_STATUSES
    return {status: {"$ref": f"#/components/responses/{envelope}{status}"} for status in statuses}
