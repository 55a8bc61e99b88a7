"""Dispositions of all typed objects in a request: items, messages, parts, calls and tools.

The kinds of disposition are those of parameters (`parameters.py`).  The key of a row is a type, or
a type, a comma and a special case.  The rows describe the whole forwarder with an unknown provider;
a provider profile may support more.
"""

from __future__ import annotations

from collections.abc import Mapping

from forwarder.protocols import unread_fields
from forwarder.protocols.parameters import Disposition

DispositionTable = Mapping[str, Disposition]


def remap_item(reason: str) -> Disposition:
    return Disposition("mapped", reason=reason)


def drop_item(reason: str) -> Disposition:
    return Disposition("dropped", reason=reason)


def note_item(reason: str) -> Disposition:
    return Disposition("noted", reason=reason)


def refuse_item(reason: str) -> Disposition:
    return Disposition("refused", reason=reason)


def emulate_item(reason: str) -> Disposition:
    return Disposition("emulated", reason=reason)


_CARRIED_ITEM = Disposition("carried")

# -- Responses -> Chat --------------------------------------------------------------------------

_HOSTED_TOOL_RECORD = drop_item("Chat Completions has no form for hosted tool calls")
_FUNCTION_CALL = remap_item("becomes a call of the function that stands for the tool")
_HOSTED_CALL = remap_item("becomes a function call and its output")
_TOOL_RESULT = remap_item("becomes the tool message of its call")

INPUT_ITEMS: DispositionTable = {
    "message": remap_item("becomes a message; the assistant's text and calls become one message"),
    "message, with a phase": note_item(unread_fields.PHASE_LOSS),
    "function_call": remap_item("becomes one of the assistant message's tool_calls"),
    "function_call_output": _TOOL_RESULT,
    "custom_tool_call": _FUNCTION_CALL,
    "custom_tool_call_output": _TOOL_RESULT,
    "local_shell_call": _FUNCTION_CALL,
    "local_shell_call_output": _TOOL_RESULT,
    "shell_call": _FUNCTION_CALL,
    "shell_call_output": _TOOL_RESULT,
    "apply_patch_call": _FUNCTION_CALL,
    "apply_patch_call_output": _TOOL_RESULT,
    "tool_search_call": _FUNCTION_CALL,
    "tool_search_output": remap_item("becomes a tool message, and the tools in it are offered"),
    "additional_tools": remap_item("its tools are offered"),
    "configuration_update": remap_item("becomes the parameters that it sets; the last one counts"),
    "reasoning": remap_item("sent back on the message it belongs to, decrypted or as text"),
    "reasoning, encrypted elsewhere": drop_item("only the server that made it can decrypt it"),
    "item_reference, stored": emulate_item("replaced by the item"),
    "item_reference, unknown": refuse_item("no such item is stored here"),
    "compaction": emulate_item("decrypted, and replaces the turns that it summarizes"),
    "compaction, made elsewhere": drop_item("only the server that made it can decrypt it"),
    "compaction_trigger": emulate_item("the model summarizes the conversation, without tools"),
    "web_search_call": _HOSTED_CALL,
    "file_search_call": _HOSTED_CALL,
    "code_interpreter_call": _HOSTED_TOOL_RECORD,
    "image_generation_call": remap_item("becomes an image of the user after its turn"),
    "computer_call": _HOSTED_TOOL_RECORD,
    "computer_call_output": _HOSTED_TOOL_RECORD,
    "mcp_list_tools": emulate_item("its tools are offered as functions, if `tools` has the server"),
    "mcp_call": _HOSTED_CALL,
    "mcp_approval_request": _HOSTED_CALL,
    "mcp_approval_response": emulate_item("an approved call is run, a refusal becomes its output"),
    "program": _HOSTED_TOOL_RECORD,
    "program_output": _HOSTED_TOOL_RECORD,
}
"""A Responses client's ``input``."""

_MEDIA_BY_URL = emulate_item("fetched for clients with keys (`FORWARDER_FETCH`), otherwise refused")
_MEDIA_BY_FILE_ID = emulate_item(
    "the upstream's file is downloaded; refused if the upstream does not give it out"
)

INPUT_PARTS: DispositionTable = {
    "input_text": remap_item("becomes a text part"),
    "input_text, with a prompt_cache_breakpoint": drop_item(unread_fields.BREAKPOINT_LOSS),
    "input_image": remap_item("becomes an image_url part"),
    "input_image, by file id": _MEDIA_BY_FILE_ID,
    "input_image, of a system message": refuse_item("Chat Completions allows only text there"),
    "input_file": remap_item("becomes a file part"),
    "input_file, with a detail": drop_item(unread_fields.FILE_DETAIL_LOSS),
    "input_file, by URL": _MEDIA_BY_URL,
    "input_audio": _CARRIED_ITEM,
}
"""The parts of a Responses client's messages."""

OUTPUT_PARTS: DispositionTable = {
    "output_text": remap_item("texts of the message are joined into its content"),
    "output_text, with annotations": note_item(unread_fields.ANNOTATIONS_LOSS),
    "output_text, with logprobs": note_item(unread_fields.LOGPROBS_LOSS),
    "refusal": remap_item("becomes the message's refusal"),
}
"""The parts of the assistant's messages that a Responses client sends back."""

_RESULT_MEDIA = remap_item(
    "stays there or moves into a user message after it, depending on the provider profile"
)

RESULT_PARTS: DispositionTable = {
    "input_text": remap_item("texts of the result are joined into the tool message"),
    "input_image": _RESULT_MEDIA,
    "input_image, by file id": _MEDIA_BY_FILE_ID,
    "input_file": _RESULT_MEDIA,
    "input_file, by URL": _MEDIA_BY_URL,
}
"""The parts of tool results of a Responses client."""

_HOSTED_TOOL = drop_item("the upstream cannot run this tool")
_MCP_TOOL = emulate_item(
    "run by the forwarder: by URL for clients with keys (`FORWARDER_MCP_URLS`), by the label of a "
    "configured server (`FORWARDER_MCP_SERVERS`); otherwise dropped"
)
_WEB_SEARCH_TOOL = emulate_item(
    "run by the forwarder if `FORWARDER_WEB_SEARCH` names an engine, otherwise dropped"
)
_FILE_SEARCH_TOOL = emulate_item(
    "run by the forwarder if files are in its database (`FORWARDER_FILES`), otherwise dropped"
)
_IMAGE_TOOL = emulate_item(
    "run by the forwarder if `FORWARDER_IMAGE_GENERATION` is set, otherwise dropped"
)
_WRAPPED_TOOL = remap_item("becomes a function; its calls are converted back")

RESPONSES_TOOLS: DispositionTable = {
    "function": remap_item("converted from the flat to the nested shape"),
    "custom": _WRAPPED_TOOL,
    "local_shell": _WRAPPED_TOOL,
    "shell": _WRAPPED_TOOL,
    "shell, in a container": _HOSTED_TOOL,
    "apply_patch": _WRAPPED_TOOL,
    "tool_search, run by the client": _WRAPPED_TOOL,
    "tool_search": _HOSTED_TOOL,
    "namespace": remap_item("its tools are offered under joined names"),
    "web_search": _WEB_SEARCH_TOOL,
    "web_search_2025_08_26": _WEB_SEARCH_TOOL,
    "web_search_preview": _WEB_SEARCH_TOOL,
    "web_search_preview_2025_03_11": _WEB_SEARCH_TOOL,
    "file_search": _FILE_SEARCH_TOOL,
    "code_interpreter": _HOSTED_TOOL,
    "image_generation": _IMAGE_TOOL,
    "mcp": _MCP_TOOL,
    "computer": _HOSTED_TOOL,
    "computer_use_preview": _HOSTED_TOOL,
    "programmatic_tool_calling": _HOSTED_TOOL,
}
"""A Responses client's ``tools``."""

# -- Chat -> Responses --------------------------------------------------------------------------

_MESSAGE_ITEM = remap_item("becomes a message item")

CHAT_MESSAGES: DispositionTable = {
    "developer": _MESSAGE_ITEM,
    "system": _MESSAGE_ITEM,
    "user": _MESSAGE_ITEM,
    "user, with a name": drop_item("Responses messages have no names"),
    "assistant": remap_item("becomes a message item, and an item for each call"),
    "assistant, with reasoning": note_item(unread_fields.REASONING_LOSS),
    "assistant, with annotations": note_item(unread_fields.ANNOTATIONS_LOSS),
    "assistant, with audio": drop_item("the Responses API has no earlier audio"),
    "tool": remap_item("becomes the output item of its call"),
    "function": remap_item("becomes the output item of the call before it"),
}
"""A Chat client's ``messages``, by role."""

CHAT_USER_PARTS: DispositionTable = {
    "text": remap_item("becomes an input_text part"),
    "image_url": remap_item("becomes an input_image part"),
    "file": remap_item("becomes an input_file part"),
    "input_audio": refuse_item("the Responses API accepts no audio input"),
}
"""The parts of a Chat client's user messages."""

CHAT_ASSISTANT_PARTS: DispositionTable = {
    "text": remap_item("becomes an output_text part"),
    "refusal": _CARRIED_ITEM,
}
"""The parts of the assistant's messages that a Chat client sends back."""

CHAT_TOOL_CALLS: DispositionTable = {
    "function": remap_item("becomes a function_call item"),
    "custom": remap_item("becomes a custom_tool_call item"),
}
"""A Chat client's ``tool_calls``."""

CHAT_TOOLS: DispositionTable = {
    "function": remap_item("converted from the nested to the flat shape"),
    "custom": remap_item("converted from the nested to the flat shape"),
}
"""A Chat client's ``tools``."""

RESPONSES_ITEM_TABLES: dict[str, DispositionTable] = {
    "input items": INPUT_ITEMS,
    "parts of messages": INPUT_PARTS,
    "parts of the assistant's messages": OUTPUT_PARTS,
    "parts of tools' results": RESULT_PARTS,
    "tools": RESPONSES_TOOLS,
}
"""The title of a table -> the table, for Responses clients."""

CHAT_ITEM_TABLES: dict[str, DispositionTable] = {
    "messages": CHAT_MESSAGES,
    "parts of messages": CHAT_USER_PARTS,
    "parts of the assistant's messages": CHAT_ASSISTANT_PARTS,
    "tool calls": CHAT_TOOL_CALLS,
    "tools": CHAT_TOOLS,
}
"""The title of a table -> the table, for Chat clients."""


def parse_row_type(row: str) -> str:
    """Return the type in the key of a row, without the special case."""
    return row.partition(",")[0]
