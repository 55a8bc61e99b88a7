"""The fate of everything in a request that has a type: items, messages, parts, calls and tools.

The kinds of fate are those of parameters (`fates.py`).  A row is a type, or a type and after a
comma the case of it that the row is about.  What the rows say is what the whole forwarder does
with a provider of which nothing is known; a profile may do better.
"""

from __future__ import annotations

from collections.abc import Mapping

from forwarder.protocols import unread_fields
from forwarder.protocols.parameters import Fate

Rows = Mapping[str, Fate]


def _mapped(why: str) -> Fate:
    return Fate("mapped", why=why)


def _dropped(why: str) -> Fate:
    return Fate("dropped", why=why)


def _noted(why: str) -> Fate:
    return Fate("noted", why=why)


def _refused(why: str) -> Fate:
    return Fate("refused", why=why)


def _emulated(why: str) -> Fate:
    return Fate("emulated", why=why)


_CARRIED = Fate("carried")

# -- Responses -> Chat --------------------------------------------------------------------------

_RECORD = _dropped("a hosted tool's record has no chat form")
_AS_A_FUNCTION = _mapped("becomes a call of the function that the tool is worn as")
_RESULT = _mapped("becomes the tool message of its call")

INPUT_ITEMS: Rows = {
    "message": _mapped("becomes a message; one of the assistant's is joined to its calls"),
    "message, with a phase": _noted(unread_fields.PHASE),
    "function_call": _mapped("becomes one of the assistant message's tool_calls"),
    "function_call_output": _RESULT,
    "custom_tool_call": _AS_A_FUNCTION,
    "custom_tool_call_output": _RESULT,
    "local_shell_call": _AS_A_FUNCTION,
    "local_shell_call_output": _RESULT,
    "shell_call": _AS_A_FUNCTION,
    "shell_call_output": _RESULT,
    "apply_patch_call": _AS_A_FUNCTION,
    "apply_patch_call_output": _RESULT,
    "tool_search_call": _AS_A_FUNCTION,
    "tool_search_output": _mapped("becomes a tool message, and the tools in it are offered"),
    "additional_tools": _mapped("its tools are offered"),
    "configuration_update": _mapped("becomes the parameters that it sets; the last one counts"),
    "reasoning": _mapped("goes back on the message that it led to, unsealed or as it reads"),
    "reasoning, sealed elsewhere": _dropped("what another sealed cannot be opened here"),
    "item_reference, stored": _emulated("the item itself takes its place"),
    "item_reference, unknown": _refused("no such item is stored here"),
    "compaction": _emulated("opened, and in the place of what it stands for"),
    "compaction, made elsewhere": _dropped("what another compacted cannot be opened here"),
    "compaction_trigger": _emulated("the model sums up the conversation, without tools"),
    "web_search_call": _RECORD,
    "file_search_call": _RECORD,
    "code_interpreter_call": _RECORD,
    "image_generation_call": _mapped("becomes an image that the user shows, behind its turn"),
    "computer_call": _RECORD,
    "computer_call_output": _RECORD,
    "mcp_list_tools": _RECORD,
    "mcp_call": _RECORD,
    "mcp_approval_request": _RECORD,
    "mcp_approval_response": _RECORD,
    "program": _RECORD,
    "program_output": _RECORD,
}
"""A Responses client's ``input``."""

_BY_URL = _emulated("fetched and inlined for clients with keys (FORWARDER_FETCH), else refused")
_BY_ID = _emulated("the upstream's own file is inlined, where it gives it out, else refused")

INPUT_PARTS: Rows = {
    "input_text": _mapped("becomes a text part"),
    "input_text, with a prompt_cache_breakpoint": _dropped(unread_fields.BREAKPOINT),
    "input_image": _mapped("becomes an image_url part"),
    "input_image, by file id": _BY_ID,
    "input_image, of a system message": _refused("Chat Completions has system texts alone"),
    "input_file": _mapped("becomes a file part"),
    "input_file, with a detail": _dropped(unread_fields.DETAIL),
    "input_file, by URL": _BY_URL,
    "input_audio": _CARRIED,
}
"""What a Responses client's messages hold."""

OUTPUT_PARTS: Rows = {
    "output_text": _mapped("the message's texts are joined into its content"),
    "output_text, with annotations": _noted(unread_fields.ANNOTATIONS),
    "output_text, with logprobs": _noted(unread_fields.LOGPROBS),
    "refusal": _mapped("becomes the message's refusal"),
}
"""What the assistant's messages hold that a Responses client gives back."""

_AS_RESULT = _mapped("stays in the tool message, or goes into a user message behind, by profile")

RESULT_PARTS: Rows = {
    "input_text": _mapped("the result's texts are joined into the tool message"),
    "input_image": _AS_RESULT,
    "input_image, by file id": _BY_ID,
    "input_file": _AS_RESULT,
    "input_file, by URL": _BY_URL,
}
"""What a Responses client's tools give back."""

_HOSTED = _dropped("the upstream cannot run this tool")
_WORN = _mapped("is worn as a function, and its calls are unwrapped again")

RESPONSES_TOOLS: Rows = {
    "function": _mapped("between the flat and the nested shape"),
    "custom": _WORN,
    "local_shell": _WORN,
    "shell": _WORN,
    "shell, in a container": _HOSTED,
    "apply_patch": _WORN,
    "tool_search, run by the client": _WORN,
    "tool_search": _HOSTED,
    "namespace": _mapped("its tools are offered under joined names"),
    "web_search": _HOSTED,
    "web_search_2025_08_26": _HOSTED,
    "web_search_preview": _HOSTED,
    "web_search_preview_2025_03_11": _HOSTED,
    "file_search": _HOSTED,
    "code_interpreter": _HOSTED,
    "image_generation": _HOSTED,
    "mcp": _HOSTED,
    "computer": _HOSTED,
    "computer_use_preview": _HOSTED,
    "programmatic_tool_calling": _HOSTED,
}
"""A Responses client's ``tools``."""

# -- Chat -> Responses --------------------------------------------------------------------------

_MESSAGE = _mapped("becomes a message item")

MESSAGES: Rows = {
    "developer": _MESSAGE,
    "system": _MESSAGE,
    "user": _MESSAGE,
    "user, with a name": _dropped("Responses messages have no names"),
    "assistant": _mapped("becomes a message item, and an item for each call"),
    "assistant, with reasoning": _noted(unread_fields.REASONING),
    "assistant, with annotations": _noted(unread_fields.ANNOTATIONS),
    "assistant, with audio": _dropped("the Responses API has no earlier audio"),
    "tool": _mapped("becomes the output item of its call"),
    "function": _mapped("becomes the output item of the call before it"),
}
"""A Chat client's ``messages``, by role."""

USER_PARTS: Rows = {
    "text": _mapped("becomes an input_text part"),
    "image_url": _mapped("becomes an input_image part"),
    "file": _mapped("becomes an input_file part"),
    "input_audio": _refused("the Responses API takes no audio input"),
}
"""What a Chat client's user messages hold."""

ASSISTANT_PARTS: Rows = {
    "text": _mapped("becomes an output_text part"),
    "refusal": _CARRIED,
}
"""What the assistant's messages hold that a Chat client gives back."""

TOOL_CALLS: Rows = {
    "function": _mapped("becomes a function_call item"),
    "custom": _mapped("becomes a custom_tool_call item"),
}
"""A Chat client's ``tool_calls``."""

CHAT_TOOLS: Rows = {
    "function": _mapped("between the nested and the flat shape"),
    "custom": _mapped("between the nested and the flat shape"),
}
"""A Chat client's ``tools``."""

ITEM_TABLES: dict[str, dict[str, Rows]] = {
    "responses": {
        "input items": INPUT_ITEMS,
        "parts of messages": INPUT_PARTS,
        "parts of the assistant's messages": OUTPUT_PARTS,
        "parts of tools' results": RESULT_PARTS,
        "tools": RESPONSES_TOOLS,
    },
    "chat": {
        "messages": MESSAGES,
        "parts of messages": USER_PARTS,
        "parts of the assistant's messages": ASSISTANT_PARTS,
        "tool calls": TOOL_CALLS,
        "tools": CHAT_TOOLS,
    },
}
"""The client's protocol -> what a table is about -> the table."""


def type_of(row: str) -> str:
    """The type that a row is about, without the case."""
    return row.partition(",")[0]
