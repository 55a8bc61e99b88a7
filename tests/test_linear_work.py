"""The cost of a request grows linearly with its size: in calls, and in allocated memory.

Both are counted rather than timed, over everything between the body and the request that would be
sent.  Work inside of a single C function is in neither count, unless it allocates; the expressions
that run over clients' texts have tests of their own beside them.
"""

from __future__ import annotations

import sys
import tracemalloc
from base64 import b64encode
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import orjson
import pytest

from forwarder.config.settings import Settings
from forwarder.context.client_identity import ANONYMOUS
from forwarder.context.request_context import RequestContext
from forwarder.core.translation_context import LossReport
from forwarder.middleware import json_schema_validation
from forwarder.middleware.media.locations import find_media, replace_media
from forwarder.pipeline.gateway import Gateway
from forwarder.providers import schemas
from forwarder.server.json_body import read_body
from forwarder.services import Services
from forwarder.storage.db import responses
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.items import derive_id

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

Json = dict[str, Any]

SMALL, FACTOR = 100, 4
"""How many of something the smaller request has, and how many times as many the larger one."""

SLACK = 1.5
"""Lists and buffers grow in steps, and a number may take a digit more."""


@pytest.fixture(autouse=True)
def _without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result for a small schema is cached, so that the next time costs nothing."""
    monkeypatch.setattr(schemas, "_MAX_CACHED_BYTES", 0)


class Cost(NamedTuple):
    """Calls of functions, Python's and C's, and bytes allocated, also those that are freed again."""

    calls: int
    allocated: int


def measure(work: Callable[[], Any]) -> Cost:
    """The cost of a piece of work in this thread."""
    calls = allocated = before = 0

    def count(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal calls, allocated, before
        if event in ("call", "c_call"):
            calls += 1
        now, peak = tracemalloc.get_traced_memory()
        allocated += peak - before
        before = now
        tracemalloc.reset_peak()

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        tracemalloc.stop()
    return Cost(calls, allocated)


def assert_linear(make_work: Callable[[int], Callable[[], Any]]) -> None:
    """Raise AssertionError if four times as many cost far more than four times as much."""
    for size in (5, SMALL):
        make_work(size)()  # excludes one-time costs
    small, large = measure(make_work(SMALL)), measure(make_work(SMALL * FACTOR))
    assert small.calls > SMALL, "it has not looked at them"
    assert large.calls <= small.calls * FACTOR * SLACK, (small, large)
    assert large.allocated <= small.allocated * FACTOR * SLACK, (small, large)


# -- the request path -------------------------------------------------------------------------------


def services_of(**environment: str) -> Services:
    upstreams = {
        "CHAT_BASE_URL": "http://chat.test/v1",
        "RESPONSES_BASE_URL": "http://responses.test/v1",
    }
    return Services.build(Settings.from_env({**upstreams, **environment}))


def assert_path_is_linear(
    client: str, upstream_api: str, make: Callable[[int], Json], **environment: str
) -> None:
    """The same for the path of a request from its body to its upstream's request."""
    gateway = Gateway(services_of(**environment))

    def make_work(size: int) -> Callable[[], Any]:
        body = orjson.dumps({"model": f"{upstream_api}/m", **make(size)})

        def work() -> Json:
            request = read_body(body, 10**6, lambda text: None)
            return gateway.preview(
                client, request, None, RequestContext("req", client, LossReport())
            )

        return work

    assert_linear(make_work)


PICKY = {
    "CHAT_PROVIDER": "generic",
    "CHAT_QUIRKS": '{"merge_neighbours": true, "system_at_head": true, "schema_dialect": "gemini"}',
}
TEXT = "Let me see what there is to see here. " * 10
PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


def chat(message: Json, size: int, **more: Any) -> Json:
    """A chat with so many messages of one kind."""
    return {"messages": [{"role": "user", "content": "hi"}, *[message] * size], **more}


def chat_tool(schema: Json, name: str = "f") -> Json:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


CHATS: dict[str, Callable[[int], Json]] = {
    "turns": lambda n: {
        "messages": [{"role": role, "content": TEXT} for role in ("user", "assistant") * n]
    },
    "messages of one role": lambda n: chat({"role": "user", "content": TEXT}, n),
    "system messages": lambda n: chat({"role": "system", "content": TEXT}, n),
    "parts of one message": lambda n: chat(
        {"role": "user", "content": [{"type": "text", "text": TEXT}] * n}, 1
    ),
    "thinking blocks": lambda n: chat(
        {"role": "assistant", "content": f"[thinking]{TEXT}[/thinking]\n\n{TEXT}\n\n" * n}, 1
    ),
    "answers to one question": lambda n: {
        "messages": [
            {"role": "user", "content": TEXT * n},
            *[{"role": "assistant", "content": "a"}] * n,
        ]
    },
    "calls to one question": lambda n: {
        "messages": [
            {"role": "user", "content": TEXT * n},
            *(
                message
                for i in range(n)
                for message in (
                    {
                        "role": "assistant",
                        "content": "a",
                        "tool_calls": [
                            {
                                "id": f"c{i}",
                                "type": "function",
                                "function": {"name": "f", "arguments": "{}"},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": f"c{i}", "content": TEXT},
                )
            ),
        ]
    },
    "reasoning": lambda n: chat(
        {"role": "assistant", "content": "a", "reasoning_content": TEXT}, n
    ),
    "images": lambda n: chat(
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": f"data:;base64,{PNG}"}}] * n,
        },
        1,
    ),
    "messages with an image": lambda n: chat(
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": f"data:;base64,{PNG}"}}],
        },
        n,
    ),
    "calls": lambda n: {
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": f"c{i}",
                        "type": "function",
                        "function": {"name": "f", "arguments": "{}"},
                    }
                    for i in range(n)
                ],
            },
            *({"role": "tool", "tool_call_id": f"c{i}", "content": TEXT} for i in range(n)),
        ]
    },
    "tools": lambda n: chat(
        {"role": "user", "content": "hi"},
        1,
        tools=[chat_tool({"type": "object"}, f"f{i}") for i in range(n)],
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "auto",
                "tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(n)],
            },
        },
    ),
    "properties of a schema": lambda n: chat(
        {"role": "user", "content": "hi"},
        1,
        tools=[
            chat_tool({"type": "object", "properties": {f"p{i}": {"const": i} for i in range(n)}})
        ],
    ),
    "references in a schema": lambda n: chat(
        {"role": "user", "content": "hi"},
        1,
        tools=[
            chat_tool(
                {
                    "$defs": {
                        f"d{i}": {"type": "string", "description": TEXT[:40]} for i in range(n)
                    },
                    "type": "object",
                    "properties": {f"p{i}": {"$ref": f"#/$defs/d{i}"} for i in range(n)},
                }
            )
        ],
    ),
}


@pytest.mark.parametrize("make", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("upstream_api", ["chat", "responses"])
def test_chat_request_costs_grow_linearly(make: Callable[[int], Json], upstream_api: str) -> None:
    assert_path_is_linear("chat", upstream_api, make, FORWARDER_CHAT_REASONING="thinking", **PICKY)


def make_conversation(*content: Json, **more: Any) -> Json:
    """A request of the Messages API with this content of one message."""
    return {"max_tokens": 100, "messages": [{"role": "user", "content": [*content]}], **more}


MESSAGES: dict[str, Callable[[int], Json]] = {
    "turns": lambda n: {
        "max_tokens": 100,
        "messages": [{"role": role, "content": TEXT} for role in ("user", "assistant") * n],
    },
    "messages of one role": lambda n: {
        "max_tokens": 100,
        "messages": [{"role": "user", "content": TEXT}] * n,
    },
    "blocks": lambda n: make_conversation(*[{"type": "text", "text": TEXT}] * n),
    "system blocks": lambda n: make_conversation(
        {"type": "text", "text": "hi"}, system=[{"type": "text", "text": TEXT}] * n
    ),
    "images": lambda n: make_conversation(
        *[
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PNG},
            }
        ]
        * n
    ),
    "calls": lambda n: {
        "max_tokens": 100,
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": f"c{i}", "name": "f", "input": {"x": TEXT}}
                    for i in range(n)
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": f"c{i}", "content": TEXT}
                    for i in range(n)
                ],
            },
        ],
    },
    "thinking": lambda n: {
        "max_tokens": 100,
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": TEXT, "signature": "x"}] * n,
            },
            {"role": "user", "content": "go on"},
        ],
    },
    "tools": lambda n: make_conversation(
        {"type": "text", "text": "hi"},
        tools=[
            {"name": f"f{i}", "input_schema": {"type": "object"}, "strict": True} for i in range(n)
        ],
        tool_choice={"type": "tool", "name": "f0"},
    ),
}


@pytest.mark.parametrize("make", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("upstream_api", ["chat", "responses"])
def test_messages_request_costs_grow_linearly(
    make: Callable[[int], Json], upstream_api: str
) -> None:
    assert_path_is_linear("messages", upstream_api, make, **PICKY)


USER: Json = {"role": "user", "content": TEXT}
OLLAMA_CALL: Json = {"function": {"name": "f", "arguments": {"x": TEXT}}}

OLLAMA: dict[str, Callable[[int], Json]] = {
    "turns": lambda n: {
        "messages": [{"role": role, "content": TEXT} for role in ("user", "assistant") * n]
    },
    "calls": lambda n: {
        "messages": [
            {"role": "assistant", "tool_calls": [OLLAMA_CALL] * n},
            *[{"role": "tool", "tool_name": "f", "content": TEXT}] * n,
        ]
    },
    "calls without results": lambda n: {
        "messages": [{"role": "assistant", "tool_calls": [OLLAMA_CALL]}, USER] * n
    },
    "images": lambda n: {"messages": [{"role": "user", "images": [PNG] * n}]},
    "tools": lambda n: {
        "messages": [USER],
        "tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(n)],
    },
}


@pytest.mark.parametrize("make", OLLAMA.values(), ids=OLLAMA)
@pytest.mark.parametrize("upstream_api", ["chat", "responses"])
def test_ollama_request_costs_grow_linearly(make: Callable[[int], Json], upstream_api: str) -> None:
    assert_path_is_linear("ollama", upstream_api, make, **PICKY)


def make_items(*item: Json, size: int, **more: Any) -> Json:
    return {"input": [{"role": "user", "content": "hi"}, *item * size], **more}


REASONING: Json = {"type": "reasoning", "summary": [{"type": "summary_text", "text": TEXT}]}
RESPONSES: dict[str, Callable[[int], Json]] = {
    "turns": lambda n: make_items(
        {"role": "assistant", "content": TEXT}, {"role": "user", "content": TEXT}, size=n
    ),
    "answers to one question": lambda n: {
        "input": [
            {"role": "user", "content": TEXT * n},
            *[{"role": "assistant", "content": "a"}] * n,
        ]
    },
    "reasoning in a row": lambda n: make_items(REASONING, size=n),
    "parts of reasoning": lambda n: make_items({**REASONING, "summary": REASONING["summary"] * n}, size=1),
    "reasoning before one call": lambda n: {
        "input": [
            *[REASONING] * n,
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": TEXT},
        ]
    },
    "images": lambda n: make_items(
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": f"data:;base64,{PNG}"}] * n,
        },
        size=1,
    ),
    "images that were made": lambda n: make_items(
        {"type": "image_generation_call", "id": "ig_1", "result": PNG}, size=n
    ),
    "calls": lambda n: {
        "input": [
            *(
                {"type": "function_call", "call_id": f"c{i}", "name": "f", "arguments": "{}"}
                for i in range(n)
            ),
            *(
                {"type": "function_call_output", "call_id": f"c{i}", "output": TEXT}
                for i in range(n)
            ),
        ]
    },
    "calls between messages": lambda n: {
        "input": [
            item
            for i in range(n)
            for item in (
                {"type": "function_call", "call_id": f"c{i}", "name": "f", "arguments": "{}"},
                {"role": "user", "content": TEXT},
                {"type": "function_call_output", "call_id": f"c{i}", "output": TEXT},
            )
        ]
    },
    "tools": lambda n: make_items(
        size=0,
        tools=[{"type": "function", "name": f"f{i}", "parameters": {}} for i in range(n)],
    ),
    "schema of an answer": lambda n: make_items(
        size=0,
        text={
            "format": {
                "type": "json_schema",
                "name": "a",
                "schema": {
                    "type": "object",
                    "properties": {f"p{i}": {"anyOf": [{"const": i}]} for i in range(n)},
                },
            }
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", RESPONSES.values(), ids=RESPONSES)
@pytest.mark.parametrize("upstream_api", ["chat", "responses"])
def test_responses_request_costs_grow_linearly(
    make: Callable[[int], Json], upstream_api: str
) -> None:
    assert_path_is_linear("responses", upstream_api, make, **PICKY)


@pytest.mark.parametrize("level", ["json_object", "none"])
def test_costs_of_a_format_that_is_emulated_grow_linearly(level: str) -> None:
    make = RESPONSES["schema of an answer"]
    quirks = {"CHAT_PROVIDER": "generic", "CHAT_QUIRKS": f'{{"response_format": "{level}"}}'}
    assert_path_is_linear("responses", "chat", make, **quirks)


def test_costs_of_references_grow_linearly() -> None:
    """References to all items of a stored response, by their ids."""
    services, owner = services_of(), ANONYMOUS
    gateway, store = Gateway(services), services.require_store()

    def make_work(size: int) -> Callable[[], Any]:
        name = f"resp_{size}"
        items = [{"role": "user", "content": TEXT} for _ in range(size)]
        response = StoredResponse(name, "completed", items, {"output": []}, 1.0)
        store._database.write(lambda c: responses.add(c, owner, response, []))
        references = [
            {"type": "item_reference", "id": derive_id(item, name, i)}
            for i, item in enumerate(items)
        ]
        request = {"model": "chat/m", "input": references}
        return lambda: gateway.preview(
            "responses", dict(request), None, RequestContext("r", "r", LossReport())
        )

    assert_linear(make_work)


# -- media ------------------------------------------------------------------------------------------


def test_costs_of_replacing_images_grow_linearly() -> None:
    """The lists on the way are copied once, not for each image."""

    def make_work(size: int) -> Callable[[], Any]:
        parts = [{"type": "input_image", "image_url": "x"} for _ in range(size)]
        request: Json = {"input": [{"role": "user", "content": parts}]}
        changes = [(place, place.value) for place in find_media(request, "responses")]
        return lambda: replace_media(request, changes)

    assert_linear(make_work)


# -- schemas ----------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[int], tuple[Any, Json]]] = {
    "items": lambda n: (list(range(n)), {"items": {"type": "integer", "minimum": 0}}),
    "unique items": lambda n: ([{"a": i} for i in range(n)], {"uniqueItems": True}),
    "an enum": lambda n: ([*range(n)], {"items": {"enum": [{"a": i} for i in range(n)] + [*range(n)]}}),
    "properties": lambda n: (
        {f"p{i}": i for i in range(n)},
        {"properties": {f"p{i}": {"const": i} for i in range(n)}, "additionalProperties": False},
    ),
    "references": lambda n: (
        [1] * n,
        {
            "$defs": {f"d{i}": {"$anchor": f"a{i}", "type": "integer"} for i in range(n)},
            "prefixItems": [{"$ref": f"#a{i}"} for i in range(n)],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", CHECKS.values(), ids=CHECKS)
def test_costs_of_checking_an_answer_grow_linearly(
    make: Callable[[int], tuple[Any, Json]],
) -> None:
    def make_work(size: int) -> Callable[[], Any]:
        value, schema = make(size)
        text = orjson.dumps(value).decode()

        def work() -> None:
            json_schema_validation.check_schema(schema, "p")
            assert json_schema_validation.find_mistake(text, schema) is None

        return work

    assert_linear(make_work)


def test_costs_of_a_schema_that_grows_exponentially_are_bounded() -> None:
    """Inlined, or followed: the budget ends both, however many levels there are."""

    def make(levels: int) -> Json:
        doubled = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(levels)}
        return {"$ref": "#/$defs/a0", "$defs": {**doubled, f"a{levels}": {"type": "null"}}}

    def inline(levels: int) -> None:
        with pytest.raises(schemas.SchemaTooLarge):
            schemas.rewrite_schema(make(levels), "gemini", 1000)

    def follow(levels: int) -> None:
        with pytest.raises(json_schema_validation.TooManySteps):
            json_schema_validation.find_mistake("1", make(levels), 1000)

    for work in (inline, follow):
        work(20)
        few, many = measure(lambda work=work: work(20)), measure(lambda work=work: work(40))  # type: ignore[misc]
        assert many.calls <= few.calls * 2
        assert many.allocated <= few.allocated * 3
