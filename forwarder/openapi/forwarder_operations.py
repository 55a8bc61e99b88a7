"""The operations of the forwarder's own routes: diagnostics, usage, keys, probes, documentation."""

from __future__ import annotations

from forwarder.core.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    Unauthorized,
    UpstreamKeyRefused,
)
from forwarder.core.types import Json
from forwarder.openapi.operation import (
    ADMITTED,
    ANYTHING,
    BODY,
    CSV,
    HTML,
    JSON,
    TEXT,
    Access,
    Answer,
    Operation,
    answer_json,
    make_query,
    refer_to_parameter,
)
from forwarder.openapi.schemas import make_object, refer
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.server.diagnostics import MAX_LISTED_CAPTURES
from forwarder.server.usage import BUCKET_WIDTHS, OPENAI_GROUPS
from forwarder.usage.report import NAME_GROUPS, TIME_GROUPS

_HI: Json = {"role": "user", "content": "Say hi."}


DIAGNOSTICS: dict[str, Operation] = {
    "POST /forwarder/translate": Operation(
        answers=answer_json("DryRunReport"),
        errors=(*BODY, Unauthorized, NotFound, UpstreamKeyRefused, StoreUnavailable),
        body={
            JSON: {
                "anyOf": [
                    refer("ChatCompletionRequest"),
                    refer("ResponseRequest"),
                    refer("MessageRequest"),
                    refer("OllamaChatRequest"),
                    refer("OllamaGenerateRequest"),
                ]
            }
        },
        parameters=(
            refer_to_parameter("Strict"),
            make_query(
                "from",
                {"type": "string", "enum": list(CLIENT_PROTOCOLS)},
                "The API of the request.",
            ),
        ),
        example={"model": "demo", "messages": [_HI]},
    ),
    "GET /forwarder/exchanges": Operation(
        answers=answer_json(
            make_object(
                {
                    "object": {"const": "list"},
                    "shared": {"type": "boolean"},
                    "data": {"type": "array", "items": {"type": "object"}},
                },
                ("object", "shared", "data"),
            )
        ),
        errors=(InvalidRequest, Unauthorized, NotFound),
        access=Access.ADMINISTRATOR,
        parameters=(
            make_query(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": MAX_LISTED_CAPTURES, "default": 20},
                "The number of captures.",
            ),
        ),
    ),
    "GET /forwarder/exchanges/{name}": Operation(
        answers=answer_json(
            make_object(
                {
                    "exchange": {"type": "object"},
                    "client": {"type": "object"},
                    "upstream": {"type": "array", "items": {"type": "object"}},
                },
                ("exchange", "client", "upstream"),
            )
        ),
        errors=(Unauthorized, NotFound),
        access=Access.ADMINISTRATOR,
    ),
}

_TIME = "A date, a time such as `2026-01-31T12:00Z`, or Unix seconds."
_SECONDS = {"type": "integer", "minimum": 0}

USAGE: dict[str, Operation] = {
    "GET /forwarder/usage": Operation(
        answers=(Answer({JSON: refer("UsageReport"), CSV: {"type": "string"}}),),
        errors=(*ADMITTED, StoreUnavailable),
        access=Access.READER,
        parameters=(
            make_query("from", {"type": "string"}, _TIME),
            make_query("to", {"type": "string"}, _TIME),
            make_query(
                "group",
                {"type": "string", "default": "day"},
                f"Names of {', '.join((*TIME_GROUPS, *NAME_GROUPS))}, separated by commas.",
            ),
            make_query("format", {"type": "string", "enum": ["json", "csv"]}, "Of the answer."),
        ),
    ),
    "GET /v1/organization/usage/completions": Operation(
        answers=answer_json("UsagePage"),
        errors=(InvalidRequest, Unauthorized, StoreUnavailable),
        access=Access.ADMINISTRATOR,
        parameters=(
            make_query("start_time", _SECONDS, "Unix seconds.", required=True),
            make_query("end_time", _SECONDS, "Unix seconds; by default, now."),
            make_query(
                "bucket_width", {"type": "string", "enum": [*BUCKET_WIDTHS]}, "Of a bucket."
            ),
            make_query("limit", {"type": "integer", "minimum": 1}, "The number of buckets."),
            make_query("page", {"type": "string"}, "`next_page` of an earlier page."),
            make_query(
                "group_by",
                {"type": "array", "items": {"type": "string", "enum": [*OPENAI_GROUPS]}},
                "Separate results. `group_by[]` is accepted too.",
            ),
        ),
    ),
}

_KEY_ERRORS = (InvalidRequest, Unauthorized, Forbidden, StoreUnavailable)

CLIENT_KEYS: dict[str, Operation] = {
    "POST /forwarder/keys": Operation(
        answers=answer_json("CreatedClientKey"),
        errors=(*BODY, *_KEY_ERRORS),
        access=Access.ADMINISTRATOR,
        body={JSON: refer("ClientKeyCreation")},
        example={"name": "alice", "models": ["gpt-*"], "budget": "5 usd/month"},
    ),
    "GET /forwarder/keys": Operation(
        answers=answer_json("ClientKeyList"),
        errors=_KEY_ERRORS,
        access=Access.ADMINISTRATOR,
    ),
    "GET /forwarder/keys/{name}": Operation(
        answers=answer_json("ClientKey"),
        errors=(*_KEY_ERRORS, NotFound),
        access=Access.ADMINISTRATOR,
    ),
    "PATCH /forwarder/keys/{name}": Operation(
        answers=answer_json("ClientKey"),
        errors=(*BODY, *_KEY_ERRORS, NotFound),
        access=Access.ADMINISTRATOR,
        body={JSON: refer("ClientKeyLimits")},
        example={"tokens_per_minute": 100_000, "budget": None},
    ),
    "DELETE /forwarder/keys/{name}": Operation(
        answers=answer_json("ClientKey"),
        errors=(*_KEY_ERRORS, NotFound),
        access=Access.ADMINISTRATOR,
    ),
    "POST /forwarder/keys/{name}/rotate": Operation(
        answers=answer_json("CreatedClientKey"),
        errors=(*BODY, *_KEY_ERRORS, NotFound),
        access=Access.ADMINISTRATOR,
        body={JSON: make_object({"grace": {"type": ["string", "null"]}})},
        is_body_required=False,
        example={"grace": "24h"},
    ),
}

PROBES: dict[str, Operation] = {
    "GET /health": Operation(
        answers=answer_json(make_object({"status": {"const": "ok"}}, ("status",))),
        access=Access.EVERYBODY,
    ),
    "GET /ready": Operation(
        answers=(
            Answer({JSON: refer("Readiness")}, "At least one upstream is reachable."),
            Answer({JSON: refer("Readiness")}, "No upstream is reachable.", 503),
        ),
        errors=(Unauthorized,),
        access=Access.EVERYBODY,
        parameters=(
            make_query(
                "verbose",
                {"type": "string"},
                "Show more of each upstream. Needs a client's or an administrator's key.",
                allowEmptyValue=True,
            ),
        ),
    ),
    "GET /metrics": Operation(
        answers=(Answer({TEXT: {"type": "string"}}, "Prometheus' text format."),),
        errors=(Unauthorized, NotFound),
        access=Access.METRICS,
    ),
}

_UNCHANGED = Answer({}, "Unchanged since the client got it.", 304)

DOCUMENTATION: dict[str, Operation] = {
    "GET /openapi.json": Operation(
        answers=answer_json(
            make_object({"openapi": {"type": "string"}}, ("openapi", "info", "paths"))
        ),
        access=Access.EVERYBODY,
    ),
    "GET /docs": Operation(
        answers=(
            Answer({HTML: {"type": "string"}}, "The first page is elsewhere.", 302, ("Location",)),
        ),
        errors=(NotFound,),
        access=Access.EVERYBODY,
    ),
    "GET /docs/{path}": Operation(
        answers=(Answer({ANYTHING: {}}), _UNCHANGED), errors=(NotFound,), access=Access.EVERYBODY
    ),
    "GET /landing/upstreams": Operation(
        answers=(Answer({HTML: {"type": "string"}}),),
        access=Access.EVERYBODY,
        has_error_pages=True,
    ),
    "GET /docs/api": Operation(
        answers=(Answer({HTML: {"type": "string"}}), _UNCHANGED), access=Access.EVERYBODY
    ),
    "GET /docs/api/{name}": Operation(
        answers=(Answer({ANYTHING: {}}), _UNCHANGED), errors=(NotFound,), access=Access.EVERYBODY
    ),
}
