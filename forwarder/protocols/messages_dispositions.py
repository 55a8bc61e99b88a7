"""Dispositions of the parameters, blocks and tools of Anthropic's Messages API.

One table serves both kinds of upstreams, because OpenAI's two APIs have the same counterparts. It
includes the beta parameters of the Messages API.
"""

from __future__ import annotations

from forwarder.core.validate import ANY, BOOL, DICT, INT, LIST, NUMBER, STR
from forwarder.protocols.item_dispositions import (
    DispositionTable,
    drop_item,
    emulate_item,
    note_item,
    remap_item,
)
from forwarder.protocols.parameters import (
    Disposition,
    carry,
    drop,
    keep_local,
    offer,
    refuse,
    remap,
)

_PROVIDER_REASON = "a setting of Anthropic's platform; the upstream has no counterpart"
_CONTAINER_REASON = "no container runs here"

MESSAGES_PARAMETERS: dict[str, Disposition] = {
    "model": carry(STR),
    "messages": remap(LIST, "become messages or input items", ("messages", "input")),
    "system": remap(
        (str, list),
        "becomes the first message, or the instructions; Claude Code's block with "
        "`x-anthropic-billing-header` is left out",
        ("instructions",),
    ),
    "max_tokens": remap(
        INT,
        "sent as `max_completion_tokens` or `max_output_tokens`; a limit that is too low for the "
        "upstream is applied here",
        ("max_completion_tokens", "max_tokens", "max_output_tokens"),
    ),
    "stream": carry(BOOL),
    "temperature": carry(NUMBER),
    "top_p": carry(NUMBER),
    "top_k": offer(INT, "neither of OpenAI's APIs has it, and this upstream does not accept it"),
    "stop_sequences": remap(
        LIST, "sent as `stop`; over a Responses upstream, the answer is cut here", ("stop",)
    ),
    "tools": remap(LIST, "become functions and hosted tools", ("tools", "web_search_options")),
    "tool_choice": remap(
        DICT,
        "`any` is `required`; `disable_parallel_tool_use` becomes `parallel_tool_calls`",
        ("tool_choice", "parallel_tool_calls"),
    ),
    "thinking": remap(
        DICT,
        "a budget below 4096 tokens is sent as the effort `low`, below 16384 as `medium`, else as "
        "`high`; `disabled` and `between_tools` as `none`; without it, reasoning is not shown",
        ("reasoning_effort", "reasoning.effort", "reasoning"),
    ),
    "output_config": remap(
        DICT,
        "`effort` is the effort of reasoning, `format` the schema of the answer",
        fields={"effort": "", "format": ""},
    ),
    "output_format": remap(
        DICT, "the older name of `output_config.format`", ("response_format", "text.format", "text")
    ),
    "metadata": remap(
        DICT, "`user_id` is sent as `user`, as a hash if it is too long", ("user",), {"user_id": ""}
    ),
    "cache_control": remap(
        DICT,
        "one anywhere in the request adds a `prompt_cache_key`, the same for all requests of the "
        "conversation; OpenAI's caches need no markers",
        ("prompt_cache_key",),
    ),
    "service_tier": remap(STR, "`standard_only` is sent as `default`", ("service_tier",)),
    "speed": remap(STR, "`fast` is sent as the service tier `priority`"),
    "mcp_servers": drop(
        LIST, "the forwarder calls only the servers that the operator configured", []
    ),
    "container": drop((str, dict), _CONTAINER_REASON),
    "context_management": drop(
        DICT,
        "the client's history is sent as it is",
        {"edits": []},
        {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    ),
    "compaction": drop(DICT, "the client's history is sent as it is"),
    "diagnostics": drop(DICT, _PROVIDER_REASON),
    "inference_geo": drop(STR, _PROVIDER_REASON),
    "billing_policy": drop(ANY, _PROVIDER_REASON),
    "fallback_credit_token": drop(ANY, _PROVIDER_REASON),
    "fallbacks": drop(ANY, "fallbacks are configured at the forwarder", [], "none"),
    "betas": keep_local(
        LIST, "the SDK sends them as a header; all features are enabled without it"
    ),
    "thread": refuse(
        DICT,
        "threads are not stored; send the conversation in `messages`, as the SDK's tool runner "
        "does after this error",
    ),
    "user_profile_id": drop(STR, _PROVIDER_REASON),
    "workspace_id": drop(STR, _PROVIDER_REASON),
}
"""The parameters of ``/v1/messages``."""

_SERVER_RECORD = note_item("the upstream has no form for it; the text of the answer stays")
_MEDIA_BY_URL = emulate_item("fetched for clients with keys (`FORWARDER_FETCH`), otherwise refused")

MESSAGES_BLOCKS: DispositionTable = {
    "text": remap_item("becomes the text of the message, or a part of it"),
    "text, with citations": note_item("citations of earlier texts cannot be sent back"),
    "image": remap_item("becomes an image, as a data URL or by its URL"),
    "image, with transformations": drop_item("the upstream scales images itself"),
    "document": remap_item("a PDF becomes a file; texts become text parts, with title and context"),
    "document, by URL": _MEDIA_BY_URL,
    "document, with citations": drop_item("the upstream does not cite documents"),
    "search_result": remap_item("becomes a text part with its title and its source"),
    "search_result, with citations": drop_item("the upstream does not cite search results"),
    "thinking": remap_item("decrypted from its signature, and sent back to the model that made it"),
    "thinking, signed elsewhere": remap_item("sent as text, if the upstream accepts it"),
    "redacted_thinking": remap_item("decrypted, and sent back to the model that made it"),
    "redacted_thinking, made elsewhere": drop_item("only the server that made it can decrypt it"),
    "tool_use": remap_item("becomes a call"),
    "tool_result": remap_item("becomes the result of its call; images stay in it, or follow it"),
    "tool_result, with is_error": remap_item("the result begins with a note that the call failed"),
    "tool_reference": remap_item("becomes a text; all tools are offered from the start"),
    "server_tool_use": _SERVER_RECORD,
    "web_search_tool_result": _SERVER_RECORD,
    "web_fetch_tool_result": _SERVER_RECORD,
    "code_execution_tool_result": _SERVER_RECORD,
    "bash_code_execution_tool_result": _SERVER_RECORD,
    "text_editor_code_execution_tool_result": _SERVER_RECORD,
    "tool_search_tool_result": _SERVER_RECORD,
    "advisor_tool_result": _SERVER_RECORD,
    "mcp_tool_use": _SERVER_RECORD,
    "mcp_tool_result": _SERVER_RECORD,
    "mcp_tool_listing": _SERVER_RECORD,
    "container_upload": drop_item(_CONTAINER_REASON),
    "browser_state": note_item("the upstream has no browser tools"),
    "compaction": remap_item("its summary is sent as text"),
    "tool_addition": note_item("all tools are offered from the start, also those it defines"),
    "tool_removal": drop_item("tools stay available until the end"),
    "fallback": note_item("it only records which model answered"),
}
"""The blocks of messages, by type."""

_SEARCH = emulate_item(
    "run by the upstream, or by the forwarder if `FORWARDER_WEB_SEARCH` names an engine; otherwise "
    "dropped"
)
_SERVER_TOOL = drop_item("the upstream cannot run this tool")
_SCREEN_TOOL = drop_item("the upstream's models are not trained for it")
_KNOWN_TOOL = remap_item("becomes a function with the schema that Anthropic documents")

MESSAGES_TOOLS: DispositionTable = {
    "custom": remap_item("becomes a function"),
    **{f"bash_{each}": _KNOWN_TOOL for each in ("20241022", "20250124")},
    **{
        f"text_editor_{each}": _KNOWN_TOOL
        for each in ("20241022", "20250124", "20250429", "20250728")
    },
    "memory_20250818": _KNOWN_TOOL,
    **{f"web_search_{each}": _SEARCH for each in ("20250305", "20260209", "20260318")},
    **{
        f"web_fetch_{each}": _SERVER_TOOL
        for each in ("20250910", "20260209", "20260309", "20260318")
    },
    **{
        f"code_execution_{each}": _SERVER_TOOL
        for each in ("20250522", "20250825", "20260120", "20260521")
    },
    **{
        f"tool_search_tool_{each}": _SERVER_TOOL
        for each in ("bm25", "bm25_20251119", "regex", "regex_20251119")
    },
    "advisor_20260301": _SERVER_TOOL,
    "mcp_toolset": _SERVER_TOOL,
    **{f"computer_{each}": _SCREEN_TOOL for each in ("20241022", "20250124", "20251124")},
    "computer_toolset_20260801": _SCREEN_TOOL,
    "browser_toolset_20260801": _SCREEN_TOOL,
}
"""The types of ``tools``."""

MESSAGES_ITEM_TABLES: dict[str, DispositionTable] = {
    "blocks of messages": MESSAGES_BLOCKS,
    "tools": MESSAGES_TOOLS,
}
"""The title of a table -> the table."""
