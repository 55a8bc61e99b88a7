"""Translations of long requests pause, so that other requests of the worker can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forwarder.core import paced_iteration
from forwarder.core.paced_iteration import ITEMS_PER_SLICE
from forwarder.core.types import EventStream
from forwarder.translation import translate_handler
from forwarder.translation.messages_parameters import iter_markable_objects, iter_tools
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context

Json = dict[str, Any]

SLICES = 3
COUNT = SLICES * ITEMS_PER_SLICE + 1
"""Number of entries of a long list. A loop over them pauses `SLICES` times."""

USER: Json = {"role": "user", "content": "Hi."}
TEXT: Json = {"type": "text", "text": "Hi."}
FUNCTION: Json = {"name": "f"}
ADDITION: Json = {
    "type": "tool_addition",
    "tool": {"type": "tool_definition", "definition": {"name": "f", "input_schema": {}}},
}


def count_pauses(work: Callable[[], object]) -> int:
    pauses: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paced_iteration, "_pause", lambda: pauses.append(1))
        work()
    return len(pauses)


def return_nothing(request: Json) -> EventStream:
    return iter(())


def make_ollama_request(*messages: Json, **more: Any) -> Json:
    return {"model": "m", "messages": list(messages), **more}


def make_messages_request(*messages: Json, **more: Any) -> Json:
    return {"model": "m", "max_tokens": 9, "messages": list(messages), **more}


def make_ollama_calls(count: int) -> Json:
    call = {"function": {**FUNCTION, "arguments": {}}}
    return {"role": "assistant", "tool_calls": [call] * count}


LONG_REQUESTS: dict[str, tuple[str, Callable[[int], Json]]] = {
    "messages of Ollama": ("ollama", lambda count: make_ollama_request(*[USER] * count)),
    "calls of Ollama": ("ollama", lambda count: make_ollama_request(make_ollama_calls(count))),
    "images of Ollama": (
        "ollama",
        lambda count: make_ollama_request({"role": "user", "images": ["AAAA"] * count}),
    ),
    "tools of Ollama": (
        "ollama",
        lambda count: make_ollama_request(USER, tools=[{"function": FUNCTION}] * count),
    ),
    "messages": ("messages", lambda count: make_messages_request(*[USER] * count)),
    "blocks of the user": (
        "messages",
        lambda count: make_messages_request({"role": "user", "content": [TEXT] * count}),
    ),
    "blocks of the assistant": (
        "messages",
        lambda count: make_messages_request(USER, {"role": "assistant", "content": [TEXT] * count}),
    ),
    "blocks of the system prompt": (
        "messages",
        lambda count: make_messages_request(USER, system=[TEXT] * count),
    ),
    "tools": (
        "messages",
        lambda count: make_messages_request(
            USER, tools=[{**FUNCTION, "input_schema": {}} for _ in range(count)]
        ),
    ),
}
"""The client's protocol, and a function that makes a request with a list of a given length."""


@check_each("upstream_api", ["chat", "responses"])
@check_each(("client", "make_request"), LONG_REQUESTS.values(), ids=list(LONG_REQUESTS))
def test_translation_of_a_long_list_pauses(
    client: str, make_request: Callable[[int], Json], upstream_api: str
) -> None:
    upstream = upstream_api if client == "messages" else "chat"
    handler = translate_handler(return_nothing, client, upstream, make_translator_context())

    assert count_pauses(lambda: handler(make_request(COUNT))) >= SLICES
    assert count_pauses(lambda: handler(make_request(10))) == 0


@check_each(
    "request",
    [
        {"tools": [FUNCTION] * COUNT},
        {"messages": [USER] * COUNT},
        {"messages": [{"role": "system", "content": [ADDITION] * COUNT}]},
    ],
    ids=["tools", "messages", "additions"],
)
@check_each("iterate", [iter_tools, iter_markable_objects])
def test_search_in_a_long_list_pauses(request: Json, iterate: Callable[[Json], Any]) -> None:
    assert count_pauses(lambda: list(iterate(request))) == SLICES
