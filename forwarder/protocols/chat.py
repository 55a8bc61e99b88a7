"""The Chat Completions API."""

from __future__ import annotations

from forwarder.protocols import framing
from forwarder.protocols.chat_responses_mappings import SCHEMA_FORMAT_FIELDS
from forwarder.protocols.fold import fold_chat
from forwarder.protocols.item_dispositions import CHAT_ITEM_TABLES
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, list_client_names
from forwarder.protocols.protocol import AUTO_STYLE, ConversationFields, Framing, UpstreamProtocol
from forwarder.protocols.stream_end import append_chat_error, require_complete_chat_stream

CHAT_REASONING_STYLES = ("thinking", "think", "reasoning_content", "reasoning", "parts", "none")
"""The reasoning styles that a chat client can choose from, besides ``auto``."""

_PARAMETER_NAMES = {
    **list_client_names(CHAT_OVER_RESPONSES),
    "input.reasoning": ("messages.reasoning_content",),
    "input.reasoning.content": ("messages.reasoning_content",),
    "reasoning.effort": ("reasoning_effort",),
    "text.format.type": ("response_format.type",),
    **{
        f"text.format.{name}": (f"response_format.json_schema.{name}",)
        for name in SCHEMA_FORMAT_FIELDS
    },
    "tools.image_generation": ("modalities",),
    "tools.web_search": ("web_search_options",),
}

CHAT = UpstreamProtocol(
    "chat",
    upstream_api="chat",
    paths=("/v1/chat/completions",),
    parameters=CHAT_OVER_RESPONSES,
    parameter_names=_PARAMETER_NAMES,
    framing=Framing(framing.encode_chat, framing.KEEP_ALIVE, end=framing.DONE),
    fold=fold_chat,
    append_error=append_chat_error,
    stored_object="chat.completion",
    reasoning_styles=(AUTO_STYLE, *CHAT_REASONING_STYLES),
    conversation=ConversationFields("messages", ("content", "images")),
    item_tables=CHAT_ITEM_TABLES,
    require_complete=require_complete_chat_stream,
    has_media_ids=False,
    passes_unadapted=True,
)
