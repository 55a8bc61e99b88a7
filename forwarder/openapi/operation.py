"""`Operation`: what the document says of a route in addition to its path and docstring."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from forwarder.core.errors import (
    BodyTimeout,
    ForwarderError,
    InvalidRequest,
    NotFound,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    RateLimitsUnavailable,
    ShuttingDown,
    StoreUnavailable,
    TooLarge,
    Unauthorized,
    Unsupported,
    UnsupportedEncoding,
    UpstreamKeyRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from forwarder.core.types import Json
from forwarder.openapi.schemas import refer

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
TEXT = "text/plain"
CSV = "text/csv"
HTML = "text/html"
STREAMS = (EVENTS, LINES)
ANYTHING = "*/*"
FORM = "multipart/form-data"

ErrorTypes = tuple[type[ForwarderError], ...]

BODY: ErrorTypes = (InvalidRequest, BodyTimeout, TooLarge, UnsupportedEncoding, Overloaded)
"""Errors of routes that read a body."""

ADMITTED: ErrorTypes = (
    *BODY,
    Unauthorized,
    RateLimited,
    QuotaExceeded,
    RateLimitsUnavailable,
    ShuttingDown,
)
"""Errors of routes that authenticate the client, limit its requests and read its body."""

STORED: ErrorTypes = (*ADMITTED, StoreUnavailable, Unsupported, NotFound)
"""Errors of routes for stored objects."""

UPSTREAM: ErrorTypes = (
    *ADMITTED,
    NotFound,
    UpstreamKeyRefused,
    UpstreamUnreachable,
    UpstreamTimeout,
    UpstreamUnavailable,
)
"""Errors of routes that call an upstream, which may also answer with a status of its own."""

GENERATION: ErrorTypes = (*UPSTREAM, StoreUnavailable)
"""Errors of routes that call a model, and read and write the history."""


class Access(Enum):
    """The keys with which a route can be used; each value names the security schemes."""

    CLIENT = ("clientKey", "clientKeyHeader")
    ADMINISTRATOR = ("administratorKey",)
    READER = ("clientKey", "clientKeyHeader", "administratorKey")
    METRICS = ("metricsKey",)
    EVERYBODY = ()


class Answer(NamedTuple):
    """A successful answer: media type -> schema.

    The schemas of `STREAMS` describe the data of one event, or one line.
    """

    content: Mapping[str, Json]
    description: str = "Success."
    status: int = 200
    headers: tuple[str, ...] = ()
    """Names of headers of the document that the answer may have, besides those of all answers."""


class Operation(NamedTuple):
    """A method of a path. ``summary`` replaces the docstring of the view.

    ``parameters`` are those of the query and of headers; `document.py` finds those of the path.
    """

    answers: tuple[Answer, ...]
    errors: ErrorTypes = ()
    access: Access = Access.CLIENT
    body: Mapping[str, Json] | None = None
    """Media type -> schema of the request body."""
    is_body_required: bool = True
    parameters: tuple[Json, ...] = ()
    is_relayed: bool = False
    """The upstream may answer with an error of its own."""
    has_error_pages: bool = False
    """Errors are HTML pages."""
    summary: str = ""
    example: Json | None = None


def answer_json(schema: Json | str, **more: object) -> tuple[Answer, ...]:
    """Return the answer of a route that always answers with JSON of this schema."""
    return (Answer({JSON: refer(schema) if isinstance(schema, str) else schema}, **more),)  # type: ignore[arg-type]


# -- parameters -----------------------------------------------------------------------------------


def make_query(name: str, schema: Json, description: str, **more: object) -> Json:
    """Return a parameter of the query."""
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}


def refer_to_parameter(name: str) -> Json:
    """Return a reference to a parameter that several operations have."""
    return {"$ref": f"#/components/parameters/{name}"}


UPSTREAM_CHOICE = (refer_to_parameter("FileUpstream"), refer_to_parameter("FileUpstreamQuery"))
"""The parameters by which a client chooses the upstream for files and images."""
