"""The Responses API."""

from __future__ import annotations

from forwarder.protocols import framing
from forwarder.protocols.chat_reasoning import REASONING_DETAIL_FIELDS, REASONING_FIELDS
from forwarder.protocols.chat_responses_mappings import INCLUDE_LOGPROBS, SCHEMA_FORMAT_FIELDS
from forwarder.protocols.fold import fold_responses
from forwarder.protocols.item_dispositions import RESPONSES_ITEM_TABLES
from forwarder.protocols.parameters import RESPONSES_OVER_CHAT, list_client_names
from forwarder.protocols.protocol import AUTO_STYLE, ConversationFields, Framing, UpstreamProtocol
from forwarder.protocols.stream_end import append_responses_error, require_complete_responses_stream

_PARAMETER_NAMES = {
    **list_client_names(RESPONSES_OVER_CHAT),
    **dict.fromkeys(
        (f"messages.{name}" for name in (*REASONING_FIELDS, *REASONING_DETAIL_FIELDS)),
        ("input.reasoning",),
    ),
    "logprobs": ("top_logprobs", f"include.{INCLUDE_LOGPROBS}"),
    "response_format.type": ("text.format.type",),
    **{
        f"response_format.json_schema.{name}": (f"text.format.{name}",)
        for name in SCHEMA_FORMAT_FIELDS
    },
}

RESPONSES = UpstreamProtocol(
    "responses",
    upstream_api="responses",
    paths=("/v1/responses", "/v1/responses/compact"),
    parameters=RESPONSES_OVER_CHAT,
    parameter_names=_PARAMETER_NAMES,
    framing=Framing(framing.encode_responses, framing.KEEP_ALIVE),
    fold=fold_responses,
    append_error=append_responses_error,
    runs_in_background=True,
    stored_object="response",
    reasoning_styles=(AUTO_STYLE, "summary", "text", "both"),
    conversation=ConversationFields("input", ("content", "output"), instructions="instructions"),
    item_tables=RESPONSES_ITEM_TABLES,
    require_complete=require_complete_responses_stream,
    has_media_ids=True,
    passes_unadapted=False,
)
