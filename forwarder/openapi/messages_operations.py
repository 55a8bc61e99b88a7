"""The operations and schemas of Anthropic's Messages API."""

from __future__ import annotations

from forwarder.core.errors import Unauthorized
from forwarder.core.types import Json
from forwarder.openapi.operation import (
    BODY,
    EVENTS,
    JSON,
    UPSTREAM,
    Answer,
    Operation,
    answer_json,
    make_query,
    refer_to_parameter,
)
from forwarder.openapi.schemas import (
    COUNT,
    OBJECT,
    TEXT,
    accept_types,
    add_properties,
    describe_items,
    make_object,
    make_request,
    refer,
)
from forwarder.protocols.messages import VERSION_HEADER
from forwarder.protocols.messages_dispositions import MESSAGES_ITEM_TABLES, MESSAGES_PARAMETERS

_HI: Json = {"role": "user", "content": "Say hi."}

_VERSION: Json = {
    "name": VERSION_HEADER,
    "in": "header",
    "description": "The version of the API. At `/v1/models` it selects Anthropic's form.",
    "schema": {"const": "2023-06-01"},
}
_BETA = make_query("beta", {"const": "true"}, "Has no effect.")

MESSAGES: dict[str, Operation] = {
    "POST /v1/messages": Operation(
        answers=(
            Answer(
                {JSON: refer("Message"), EVENTS: refer("MessageEvent")},
                "With `stream`, server-sent events; `x-itemSchema` has the type of their `data`. "
                "The last event is `message_stop` or `error`.",
                headers=("request-id", "X-Forwarder-Upstream", "X-Forwarder-Dropped"),
            ),
        ),
        errors=UPSTREAM,
        body={JSON: refer("MessageRequest")},
        parameters=(_VERSION, _BETA, refer_to_parameter("Strict")),
        is_relayed=True,
        example={"model": "demo", "max_tokens": 100, "messages": [_HI]},
    ),
    "POST /v1/messages/count_tokens": Operation(
        answers=answer_json("MessageTokens", headers=("request-id", "X-Forwarder-Estimated")),
        errors=(*BODY, Unauthorized),
        body={JSON: refer("MessageTokensRequest")},
        parameters=(_VERSION, _BETA),
        example={"model": "demo", "messages": [_HI]},
    ),
}

_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_CONTENT: Json = {"type": "array", "items": refer("MessageBlock")}

_USAGE = make_object(
    {
        "input_tokens": COUNT,
        "cache_creation_input_tokens": COUNT,
        "cache_read_input_tokens": COUNT,
        "output_tokens": COUNT,
        "output_tokens_details": make_object({"thinking_tokens": COUNT}),
        "server_tool_use": make_object({"web_search_requests": COUNT}),
        "service_tier": {"enum": ["standard", "priority"]},
    },
    ("output_tokens",),
)

_STOP_REASONS = (
    *("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"),
    "model_context_window_exceeded",
)


def make_messages_schemas() -> dict[str, Json]:
    """Return the schemas of the Messages API."""
    required = ("model", "messages", "max_tokens")
    request = make_request(MESSAGES_PARAMETERS, "Over both APIs", required=required)
    blocks, tools = MESSAGES_ITEM_TABLES.items()
    properties = request["properties"]
    properties["messages"] |= accept_types("array", items=refer("MessageParam"))
    for name, table in (("messages", blocks), ("tools", tools)):
        properties[name]["description"] += describe_items(*table)
    return {
        "MessageRequest": request,
        "MessageTokensRequest": {**request, "required": list(required[:2])},
        "MessageParam": make_object(
            {
                "role": {"enum": ["user", "assistant", "system"]},
                "content": {"type": ["string", "array"], "items": OBJECT},
            },
            ("role", "content"),
        ),
        "MessageTokens": make_object({"input_tokens": COUNT}, ("input_tokens",)),
        "MessageBlock": make_object({"type": TEXT}, ("type",)),
        "Message": make_object(
            {
                "id": TEXT,
                "type": {"const": "message"},
                "role": {"const": "assistant"},
                "model": TEXT,
                "content": _CONTENT,
                "stop_reason": {"enum": [*_STOP_REASONS, None]},
                "stop_sequence": _TEXT_OR_NULL,
                "usage": _USAGE,
            },
            ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"),
        ),
        "MessageEvent": make_event_schema(),
    }


def make_event_schema() -> Json:
    """Return the schema of the events of a stream."""
    index = {"index": COUNT}
    events = {
        "message_start": {"message": refer("Message")},
        "content_block_start": {**index, "content_block": refer("MessageBlock")},
        "content_block_delta": {**index, "delta": refer("MessageBlock")},
        "content_block_stop": index,
        "message_delta": {"delta": OBJECT, "usage": _USAGE},
        "message_stop": {},
        "ping": {},
        "error": {"error": OBJECT},
    }
    return {
        "oneOf": [
            add_properties(make_object(fields, ("type", *fields)), type={"const": kind})
            for kind, fields in events.items()
        ]
    }
