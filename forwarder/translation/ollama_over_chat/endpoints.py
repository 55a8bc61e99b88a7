"""The differences between ``/api/chat``, which takes messages, and ``/api/generate``.

They differ in their parameters and input, and in the field for the text in an answer's lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import LIST, STR, read_field
from forwarder.protocols.ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from forwarder.protocols.parameters import Disposition
from forwarder.translation.ollama_over_chat.history import OllamaHistoryReader, make_content


class OllamaEndpoint(NamedTuple):
    """One of the two endpoints.

    ``read_messages`` returns the chat messages of a request, an empty list if it only loads or
    unloads the model.  ``make_line_body`` converts a delta with ``content``, ``thinking`` or
    ``tool_calls`` to the fields of an answer's line.
    """

    parameters: dict[str, Disposition]
    read_messages: Callable[[Json, LossReport], list[Json]]
    make_line_body: Callable[[Json], Json]


def read_chat_messages(request: Json, loss_report: LossReport) -> list[Json]:
    messages = read_field(request, "messages", LIST, "messages") or []
    return OllamaHistoryReader(loss_report).read_messages(messages)


def make_chat_line(delta: Json) -> Json:
    return {"message": {"role": "assistant", "content": "", **delta}}


def read_generate_messages(request: Json, loss_report: LossReport) -> list[Json]:
    prompt = read_field(request, "prompt", STR, "prompt")
    system = read_field(request, "system", STR, "system")
    images = read_field(request, "images", LIST, "images") or []
    user = {"role": "user", "content": make_content(prompt or "", images, "images")}
    if not prompt:
        return []
    return [{"role": "system", "content": system}, user] if system else [user]


def make_generate_line(delta: Json) -> Json:
    rest = {name: value for name, value in delta.items() if name != "content"}
    return {"response": delta.get("content", ""), **rest}


CHAT_ENDPOINT = OllamaEndpoint(OLLAMA_CHAT, read_chat_messages, make_chat_line)
GENERATE_ENDPOINT = OllamaEndpoint(OLLAMA_GENERATE, read_generate_messages, make_generate_line)
