"""The cost of an answer grows linearly with its size, however an upstream cuts it up.

As in `test_linear_work`, calls and allocated bytes are counted, and nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch
from forwarder.hosted_tools.chat_loop import with_hosted_chat_tools
from forwarder.middleware.reasoning_cache.signatures import ChoiceReader
from forwarder.protocols.fold import fold_chat
from forwarder.protocols.messages import fold_messages
from forwarder.protocols.ollama import fold_ollama
from tests.helpers.messages import REQUEST
from tests.helpers.ollama import translate_lines
from tests.helpers.translating import collect_events, make_translator_context, translate
from tests.hosted_tools.test_chat_loop import make_context
from tests.test_linear_work import assert_linear

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

Json = dict[str, Any]

TEXT = "Let me see what there is to see here. " * 10


def make_chunk(delta: Json, finish: str | None = None) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}  # fmt: skip


CHUNKS: dict[str, Callable[[int], Json]] = {
    "one detail": lambda i: {"reasoning_details": [{"type": "reasoning.text", "text": TEXT}]},
    "details": lambda i: {"reasoning_details": [{"type": "reasoning.text", "id": i, "text": TEXT}]},
    "one block": lambda i: {"thinking_blocks": [{"type": "thinking", "thinking": TEXT}]},
    "signed blocks": lambda i: {
        "thinking_blocks": [{"type": "thinking", "thinking": TEXT, "signature": "s" * 40}]
    },
    "fields of signatures": lambda i: {"extra_content": {f"signature_{i}": TEXT}},
    "a list of signatures": lambda i: {"extra_content": {"signatures": [f"{i} {TEXT}"]}},
    "blank content": lambda i: {"content": " \n" * 100},
    "content": lambda i: {"content": TEXT},
    "blank thoughts": lambda i: {"reasoning_content": " \n" * 100},
    "thoughts in tags": lambda i: {"content": f"<think>{TEXT}" if i == 0 else TEXT},
    "images": lambda i: {"images": [{"index": i, "url": TEXT}, {"url": TEXT}]},
    "annotations": lambda i: {
        "annotations": [{"type": "url_citation", "url_citation": {"url": f"http://a.test/{i}"}}]
    },
    "arguments": lambda i: {
        "tool_calls": [
            {"index": 0, "id": "c", "function": {"name": "" if i else "f", "arguments": TEXT}}
        ]
    },
}


@pytest.fixture(params=CHUNKS.values(), ids=CHUNKS)
def make_delta(request: pytest.FixtureRequest) -> Callable[[int], Json]:
    factory: Callable[[int], Json] = request.param
    return factory


def chunks_of(make: Callable[[int], Json], size: int) -> list[Batch]:
    deltas = [[make_chunk(make(i))] for i in range(size)]
    return [*deltas, [make_chunk({"content": "."}, "stop")]]


def test_costs_of_folding_an_answer_grow_linearly(make_delta: Callable[[int], Json]) -> None:
    assert_linear(lambda size: lambda: fold_chat(iter(chunks_of(make_delta, size))))


@pytest.mark.parametrize("include", [[], ["reasoning.encrypted_content"]], ids=["", "sealed"])
def test_costs_of_an_answer_over_chat_grow_linearly(
    make_delta: Callable[[int], Json], include: list[str]
) -> None:
    def make_work(size: int) -> Callable[[], Any]:
        body = {"model": "m", "input": "Hi.", "include": include}

        def work() -> Any:
            answer = translate("responses_over_chat", dict(body), make_translator_context()).answer
            return collect_events(answer(iter(chunks_of(make_delta, size))))

        return work

    assert_linear(make_work)


def test_costs_of_a_message_over_chat_grow_linearly(make_delta: Callable[[int], Json]) -> None:
    assert_message_is_linear("chat", lambda size: chunks_of(make_delta, size))


def test_costs_of_ollama_lines_grow_linearly(make_delta: Callable[[int], Json]) -> None:
    def make_work(size: int) -> Callable[[], Any]:
        chunks = chunks_of(make_delta, size)
        chunks[-1] = [make_chunk({"content": "."}, "length")]  # the arguments are not JSON
        return lambda: fold_ollama(iter([translate_lines(chunks)]))

    assert_linear(make_work)


def assert_message_is_linear(upstream_api: str, make_batches: Callable[[int], list[Batch]]) -> None:
    """Of a stream as it is sent to a client of the Messages API, and of its fold."""

    def make_work(size: int) -> Callable[[], Any]:
        def work() -> Any:
            answer = translate(
                f"messages_over_{upstream_api}", dict(REQUEST), make_translator_context()
            ).answer
            return fold_messages(answer(iter(make_batches(size))))

        return work

    assert_linear(make_work)


def test_costs_of_an_answer_with_hosted_tools_grow_linearly(
    make_delta: Callable[[int], Json],
) -> None:
    def make_work(size: int) -> Callable[[], Any]:
        def work() -> Any:
            answer = with_hosted_chat_tools(
                lambda request: iter(chunks_of(make_delta, size)),
                [{"type": "web_search"}],
                make_context(),
                LossReport(),
            )
            return collect_events(answer({"messages": [{"role": "user", "content": "Hi."}]}))

        return work

    assert_linear(make_work)


def test_costs_of_remembering_signatures_grow_linearly(make_delta: Callable[[int], Json]) -> None:
    def make_work(size: int) -> Callable[[], Any]:
        def work() -> Any:
            reader = ChoiceReader()
            for [chunk] in chunks_of(make_delta, size):
                reader.add_choice(chunk["choices"][0])
            return reader.has_signatures, reader.make_entries(b"")

        return work

    assert_linear(make_work)


EVENTS: dict[str, Callable[[int], Json]] = {
    "one summary": lambda i: {
        "type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0,
        "delta": TEXT,
    },
    "summaries": lambda i: {
        "type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": i,
        "delta": TEXT,
    },
    "thoughts": lambda i: {
        "type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0,
        "delta": TEXT,
    },
    "text": lambda i: {
        "type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": TEXT,
    },
}  # fmt: skip


@pytest.mark.parametrize("make", EVENTS.values(), ids=EVENTS)
def test_costs_of_an_answer_over_responses_grow_linearly(make: Callable[[int], Json]) -> None:
    def make_work(size: int) -> Callable[[], Any]:
        thought = {
            "type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0,
            "delta": "Hm.",
        }  # fmt: skip
        done = {"type": "response.completed", "response": {"id": "resp_1", "output": []}}

        def work() -> Any:
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
            answer = translate("chat_over_responses", body, make_translator_context()).answer
            return collect_events(
                answer(iter([[thought], *([make(i)] for i in range(size)), [done]]))
            )

        return work

    assert_linear(make_work)


@pytest.mark.parametrize("make", EVENTS.values(), ids=EVENTS)
def test_costs_of_a_message_over_responses_grow_linearly(make: Callable[[int], Json]) -> None:
    end = {"type": "response.completed", "response": {"output": []}}
    assert_message_is_linear("responses", lambda size: [*([make(i)] for i in range(size)), [end]])
