"""The schemas of the forwarder's own routes: diagnostics, usage, keys, probes."""

from __future__ import annotations

from forwarder.client_keys.key import MAX_LIMIT
from forwarder.config.parsers import CLIENT_NAME
from forwarder.core.types import Json
from forwarder.openapi.schemas import (
    COUNT,
    FLAG,
    OBJECT,
    TEXT,
    TEXTS,
    accept_types,
    add_properties,
    make_object,
    refer,
)
from forwarder.protocols.registry import ALL_STYLES
from forwarder.server.usage import OPENAI_GROUPS
from forwarder.usage.report import COUNT_COLUMNS, NAME_GROUPS, SUM_COLUMNS

_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_NUMBER_OR_NULL: Json = {"type": ["number", "null"]}


def make_usage_report() -> Json:
    counts: dict[str, Json] = dict.fromkeys(SUM_COLUMNS, COUNT)
    means = dict.fromkeys(COUNT_COLUMNS[len(SUM_COLUMNS) :], _NUMBER_OR_NULL)
    names = {"start": {"type": "string", "format": "date-time"}, **dict.fromkeys(NAME_GROUPS, TEXT)}
    line = make_object({**names, **counts, **means}, COUNT_COLUMNS)
    return make_object(
        {
            "object": {"const": "usage"},
            "from": {"type": "string", "format": "date-time"},
            "to": {"type": "string", "format": "date-time"},
            "group": TEXTS,
            "shared": FLAG,
            "currency": TEXT,
            "truncated": FLAG,
            "data": {"type": "array", "items": line},
            "total": line,
        },
        ("object", "from", "to", "group", "shared", "currency", "truncated", "data", "total"),
    )


def make_client_key_schemas() -> dict[str, Json]:
    """Return the schemas of client keys, their limits and lists."""
    number = accept_types("integer", minimum=1, maximum=MAX_LIMIT)
    limits: dict[str, Json] = {
        "models": accept_types("array", "string", items=TEXT, description="Names and patterns."),
        "requests_per_minute": number,
        "tokens_per_minute": number,
        "budget": accept_types("string", description="`5 usd/month` or `1000000 tokens/day`."),
        "reasoning": accept_types("array", "string", items={"enum": list(ALL_STYLES)}),
        "expires": accept_types("string", description="A date, a time or a duration (`30d`)."),
    }
    name: Json = {"type": "string", "pattern": f"^{CLIENT_NAME.pattern}$"}
    times = ("expires", "revoked", "last_used", "previous_valid_until")
    key = make_object(
        {
            "object": {"const": "client_key"},
            "id": TEXT,
            "name": TEXT,
            "hint": TEXT,
            "state": {"enum": ["active", "expired", "revoked"]},
            "created": {"type": "string", "format": "date-time"},
            **dict.fromkeys(times, _TEXT_OR_NULL),
            "models": TEXTS,
            "requests_per_minute": _NUMBER_OR_NULL,
            "tokens_per_minute": _NUMBER_OR_NULL,
            "budget": _TEXT_OR_NULL,
            "budget_used": _NUMBER_OR_NULL,
            "reasoning": TEXTS,
        },
        ("object", "id", "name", "hint", "state", "created", *times, "models", "budget"),
    )
    created = add_properties(
        key,
        key={"type": "string", "description": "The key, which is shown only now."},
        required={"type": "boolean", "description": "Whether every client needs a key."},
    )
    return {
        "ClientKey": key,
        "CreatedClientKey": {**created, "required": [*key["required"], "key", "required"]},
        "ClientKeyLimits": make_object(limits, additionalProperties=False),
        "ClientKeyCreation": make_object(
            {"name": name, **limits}, ("name",), additionalProperties=False
        ),
        "ClientKeyList": make_object(
            {
                "object": {"const": "list"},
                "required": FLAG,
                "data": {"type": "array", "items": refer("ClientKey")},
            },
            ("object", "required", "data"),
        ),
    }


def make_usage_bucket() -> Json:
    counts = ("input_tokens", "output_tokens", "input_cached_tokens", "num_model_requests")
    result = make_object(
        {
            "object": {"const": "organization.usage.completions.result"},
            **dict.fromkeys(counts, COUNT),
            **dict.fromkeys(OPENAI_GROUPS, _TEXT_OR_NULL),
        },
        ("object", *counts),
    )
    return make_object(
        {
            "object": {"const": "bucket"},
            "start_time": COUNT,
            "end_time": COUNT,
            "results": {"type": "array", "items": result},
        },
        ("object", "start_time", "end_time", "results"),
    )


def make_forwarder_schemas() -> dict[str, Json]:
    """Return the schemas of the forwarder's own routes."""
    flag_or_null = {"type": ["boolean", "null"]}
    return {
        "ProbeResult": make_object(
            {
                "reachable": flag_or_null,
                "key_accepted": flag_or_null,
                "model_known": flag_or_null,
                "error": TEXT,
                "latency_ms": {"type": "number"},
                "checked_at": {"type": "number"},
            },
            ("reachable",),
        ),
        "Readiness": make_object(
            {
                "status": {"enum": ["ok", "degraded", "unavailable"]},
                "upstreams": {
                    "type": "object",
                    "additionalProperties": make_object({"reachable": FLAG}, ("reachable",)),
                },
                "store": make_object({"kind": TEXT, "reachable": FLAG}, ("kind",)),
                "models": OBJECT,
            },
            ("status", "upstreams", "store"),
        ),
        "UsageReport": make_usage_report(),
        **make_client_key_schemas(),
        "UsagePage": make_object(
            {
                "object": {"const": "page"},
                "data": {"type": "array", "items": make_usage_bucket()},
                "has_more": FLAG,
                "next_page": _TEXT_OR_NULL,
            },
            ("object", "data", "has_more", "next_page"),
        ),
        "DryRunReport": make_object(
            {
                "client": TEXT,
                "upstream": make_object(
                    dict.fromkeys(("name", "protocol", "model", "profile", "url"), TEXT),
                    ("name", "protocol", "model", "profile", "url"),
                ),
                "request": OBJECT,
                "dispositions": {
                    "type": "object",
                    "additionalProperties": make_object(
                        {"disposition": TEXT, "reason": TEXT}, ("disposition",)
                    ),
                },
                "fates": {
                    "type": "object",
                    "additionalProperties": make_object({"fate": TEXT, "why": TEXT}, ("fate",)),
                    "description": "The dispositions under the names of version 0.1.",
                    "deprecated": True,
                },
                "dropped": {"type": "object", "additionalProperties": TEXT},
                "emulated": {"type": "object", "additionalProperties": TEXT},
                "would_fetch": TEXTS,
                "would_upload": TEXTS,
            },
            ("client", "upstream", "request", "dispositions", "dropped"),
            description="The upstream request, and the disposition of each parameter.",
        ),
    }
