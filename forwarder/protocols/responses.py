"""The Responses API."""

from __future__ import annotations

from forwarder.protocols import framing
from forwarder.protocols.fold import fold_responses
from forwarder.protocols.item_dispositions import RESPONSES_ITEM_TABLES
from forwarder.protocols.parameters import RESPONSES_OVER_CHAT, list_client_names
from forwarder.protocols.protocol import AUTO_STYLE, ConversationFields, Framing, UpstreamProtocol
from forwarder.protocols.stream_end import append_responses_error, require_complete_responses_stream

RESPONSES = UpstreamProtocol(
    "responses",
    upstream_api="responses",
    paths=("/v1/responses", "/v1/responses/compact"),
    parameters=RESPONSES_OVER_CHAT,
    parameter_names=list_client_names(RESPONSES_OVER_CHAT),
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
