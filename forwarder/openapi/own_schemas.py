"""The schemas of Ollama's API, of diagnostics and of probes."""

from __future__ import annotations

from collections.abc import Collection

from forwarder.client_keys.key import MAX_LIMIT
from forwarder.config.parsers import CLIENT_NAME
from forwarder.core.types import Json
from forwarder.models.registered_model import CAPABILITIES, REMOTE_TYPES
from forwarder.openapi.schemas import (
    COUNT,
    FLAG,
    OBJECT,
    TEXT,
    TEXTS,
    accept_types,
    add_properties,
    make_object,
    make_request,
    refer,
)
from forwarder.protocols.model_defaults import MODEL_PARAMETERS
from forwarder.protocols.ollama import (
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_EMBEDDINGS,
    OLLAMA_GENERATE,
)
from forwarder.protocols.registry import ALL_STYLES
from forwarder.server.usage import OPENAI_GROUPS
from forwarder.usage.report import COUNT_COLUMNS, NAME_GROUPS, SUM_COLUMNS

_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_NUMBER_OR_NULL: Json = {"type": ["number", "null"]}

# -- Ollama ---------------------------------------------------------------------------------------

_METRICS = (
    *("total_duration", "load_duration"),
    *("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"),
)
_LINE = {
    "model": TEXT,
    "created_at": {"type": "string", "format": "date-time"},
    "done": FLAG,
    "done_reason": TEXT,
    "logprobs": {"type": "array", "items": OBJECT},
    **dict.fromkeys(_METRICS, COUNT),
}
_LINE_REQUIRED = ("model", "created_at", "done")
_OUTPUT = {"thinking": TEXT, "tool_calls": {"type": "array", "items": OBJECT}}
_MODEL_NAME = {
    "model": accept_types("string"),
    "name": accept_types("string", description="The older form of `model`."),
}
_OVER_CHAT = "Over Chat upstreams"


def make_ollama_message() -> Json:
    return make_object(
        {
            "role": TEXT,
            "content": accept_types("string"),
            "thinking": accept_types("string"),
            "images": accept_types("array", items=TEXT),
            "tool_calls": accept_types("array", items=OBJECT),
            "tool_name": accept_types("string"),
            "tool_call_id": accept_types("string"),
        },
        ("role",),
    )


def make_model_entry(required: Collection[str]) -> Json:
    return make_object(
        {
            "name": TEXT,
            "model": TEXT,
            "remote_model": TEXT,
            "remote_host": TEXT,
            "modified_at": TEXT,
            "size": COUNT,
            "digest": TEXT,
            "details": OBJECT,
            "capabilities": TEXTS,
            "expires_at": TEXT,
            "size_vram": COUNT,
            "context_length": COUNT,
        },
        required,
    )


def make_ollama_schemas() -> dict[str, Json]:
    """Return the schemas of Ollama's API."""
    messages = {"messages": accept_types("array", items=refer("OllamaMessage"))}
    chat = make_request(OLLAMA_CHAT, _OVER_CHAT, required=("model",))
    chat["properties"]["messages"] |= messages["messages"]
    model_request = make_object(_MODEL_NAME, anyOf=[{"required": [name]} for name in _MODEL_NAME])
    return {
        "OllamaMessage": make_ollama_message(),
        "OllamaChatRequest": chat,
        "OllamaGenerateRequest": make_request(OLLAMA_GENERATE, _OVER_CHAT, required=("model",)),
        "OllamaEmbedRequest": make_request(OLLAMA_EMBED, _OVER_CHAT, required=("model",)),
        "OllamaEmbeddingsRequest": make_request(OLLAMA_EMBEDDINGS, _OVER_CHAT, required=("model",)),
        "OllamaModelRequest": model_request,
        "OllamaShowRequest": add_properties(model_request, verbose=accept_types("boolean")),
        "OllamaPullRequest": add_properties(model_request, stream=accept_types("boolean")),
        "OllamaCreateRequest": make_create_request(),
        "OllamaChatLine": make_object(
            {**_LINE, "message": make_object({"role": TEXT, "content": TEXT, **_OUTPUT})},
            (*_LINE_REQUIRED, "message"),
        ),
        "OllamaGenerateLine": make_object(
            {**_LINE, "response": TEXT, **_OUTPUT}, (*_LINE_REQUIRED, "response")
        ),
        "Vector": {"type": "array", "items": {"type": "number"}},
        "OllamaEmbedAnswer": make_object(
            {
                "model": TEXT,
                "embeddings": {"type": "array", "items": refer("Vector")},
                "total_duration": COUNT,
                "load_duration": COUNT,
                "prompt_eval_count": COUNT,
            },
            ("model", "embeddings"),
        ),
        "OllamaModel": make_model_entry(("name", "model", "size", "digest", "details")),
        "OllamaModelDescription": make_object(
            {
                **dict.fromkeys(("license", "modelfile", "parameters", "template", "system"), TEXT),
                "details": OBJECT,
                "model_info": OBJECT,
                "capabilities": TEXTS,
                "modified_at": TEXT,
                "remote_model": TEXT,
                "remote_host": TEXT,
                "health": refer("ProbeResult"),
            },
            ("modelfile", "details", "model_info", "capabilities"),
        ),
        "OllamaStatus": make_object({"status": TEXT, "found": OBJECT}, ("status",)),
    }


def make_create_request() -> Json:
    return make_object(
        {
            **_MODEL_NAME,
            "from": {"type": "string", "minLength": 1, "description": "The remote's model."},
            "stream": accept_types("boolean"),
            "verify": accept_types("boolean", description="Send a test request. Default: true."),
            "remote_host": accept_types("string", description="The remote's base URL."),
            "remote_type": {"enum": [*REMOTE_TYPES, None]},
            "remote_api_key": accept_types("string", writeOnly=True),
            "remote_headers": accept_types("object", additionalProperties=TEXT),
            "remote_query": accept_types("object", additionalProperties=TEXT),
            "provider": accept_types("string"),
            "parameters": accept_types(
                "object",
                properties={
                    name: {"description": f"{parameter.accepted_values}."}
                    for name, parameter in MODEL_PARAMETERS.items()
                },
                additionalProperties=False,
            ),
            "system": accept_types("string"),
            "license": accept_types("string", "array"),
            "info": accept_types(
                "object",
                properties={
                    "capabilities": accept_types("array", items={"enum": list(CAPABILITIES)}),
                    "context_length": accept_types("integer", minimum=1),
                },
            ),
            "requires": {},
        },
        ("from",),
        anyOf=[{"required": [name]} for name in _MODEL_NAME],
        additionalProperties=False,
    )


# -- diagnostics and probes -----------------------------------------------------------------------


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


def make_diagnostic_schemas() -> dict[str, Json]:
    """Return the schemas of diagnostics and probes."""
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
                "fates": {
                    "type": "object",
                    "additionalProperties": make_object({"fate": TEXT, "why": TEXT}, ("fate",)),
                },
                "dropped": {"type": "object", "additionalProperties": TEXT},
                "emulated": {"type": "object", "additionalProperties": TEXT},
                "would_fetch": TEXTS,
                "would_upload": TEXTS,
            },
            ("client", "upstream", "request", "fates", "dropped"),
            description="The upstream request, and the disposition of each parameter.",
        ),
    }
