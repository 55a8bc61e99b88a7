"""The two forms of asking: ``/api/chat`` has messages, ``/api/generate`` a prompt.

They differ in what is asked, and in where an answer's lines have its text; all else is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.core.validate import LIST, STR, optional
from forwarder.protocols.ollama_parameters import OLLAMA_CHAT, OLLAMA_GENERATE
from forwarder.protocols.parameters import Fate
from forwarder.translation.ollama_over_chat.messages import History, seen


class Form(NamedTuple):
    """One of them.

    ``messages`` gives the chat messages of a request, none when nothing is asked; ``said`` the
    part of a line that holds ``content``, ``thinking`` and ``tool_calls``.
    """

    fates: dict[str, Fate]
    messages: Callable[[Json, Ledger], list[Json]]
    said: Callable[[Json], Json]


def _conversation(request: Json, ledger: Ledger) -> list[Json]:
    messages = optional(request, "messages", LIST, "messages") or []
    return History(ledger).read(messages)


def _message(said: Json) -> Json:
    return {"message": {"role": "assistant", "content": "", **said}}


def _prompted(request: Json, ledger: Ledger) -> list[Json]:
    prompt = optional(request, "prompt", STR, "prompt")
    system = optional(request, "system", STR, "system")
    images = optional(request, "images", LIST, "images") or []
    user = {"role": "user", "content": seen(prompt or "", images, "images")}
    if not prompt:
        return []
    return [{"role": "system", "content": system}, user] if system else [user]


def _response(said: Json) -> Json:
    rest = {name: value for name, value in said.items() if name != "content"}
    return {"response": said.get("content", ""), **rest}


CHAT = Form(OLLAMA_CHAT, _conversation, _message)
GENERATE = Form(OLLAMA_GENERATE, _prompted, _response)
