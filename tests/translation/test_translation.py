from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, UpstreamRefused
from forwarder.core.types import Batch, EventStream
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.translation import translate_handler
from tests.helpers.cases import Case
from tests.helpers.check_cases import check_each
from tests.helpers.translating import batch_each_event, make_translator_context

Json = dict[str, Any]

PAIRS = [
    (Case("text", "responses_over_chat"), "responses", "chat"),
    (Case("text", "chat_over_responses"), "chat", "responses"),
]
both_directions = check_each(("case", "client", "upstream"), PAIRS)


@check_each("protocol", ["chat", "responses"])
def test_same_protocol_returns_the_same_handler(protocol: str) -> None:
    def handler(request: Json) -> EventStream:
        raise AssertionError("the handler was called")

    assert translate_handler(handler, protocol, protocol, make_translator_context()) is handler


@both_directions
def test_handler_is_translated_to_the_other_protocol(
    case: Case, client: str, upstream: str
) -> None:
    requests: list[Json] = []

    def handler(request: Json) -> EventStream:
        requests.append(request)
        return iter(batch_each_event(case.read("upstream.jsonl")))

    answer = CLIENT_PROTOCOLS[client].fold(
        translate_handler(handler, client, upstream, make_translator_context())(
            case.read("request.json")
        )
    )
    assert requests == [case.read("upstream.request.json")]
    expected = case.read("answer.json")
    assert {key: answer[key] for key in expected} == expected


@both_directions
def test_refused_request_never_reaches_the_upstream(case: Case, client: str, upstream: str) -> None:
    def handler(request: Json) -> EventStream:
        raise AssertionError("the handler was called")

    with pytest.raises(InvalidRequest):
        translate_handler(handler, client, upstream, make_translator_context())({"model": 1})


@both_directions
def test_handler_errors_are_raised_before_the_stream(
    case: Case, client: str, upstream: str
) -> None:
    def handler(request: Json) -> EventStream:
        raise UpstreamRefused(429, {"message": "Slow down."})

    with pytest.raises(UpstreamRefused):
        translate_handler(handler, client, upstream, make_translator_context())(
            case.read("request.json")
        )


@both_directions
def test_deltas_stream_without_delay(case: Case, client: str, upstream: str) -> None:
    """Every text delta is emitted before the next event is read."""
    read_indexes: list[int] = []

    def record_batches() -> Iterator[Batch]:
        for i, batch in enumerate(batch_each_event(case.read("upstream.jsonl"))):
            read_indexes.append(i)
            yield batch

    stream = translate_handler(
        lambda request: record_batches(), client, upstream, make_translator_context()
    )(case.read("request.json"))
    read_counts = {str(batch): len(read_indexes) for batch in stream if "'lo, '" in str(batch)}
    [read_count] = read_counts.values()
    assert read_count < len(read_indexes)
    assert "'lo, '" in str(batch_each_event(case.read("upstream.jsonl"))[read_count - 1])


def test_ollama_client_is_served_over_a_responses_upstream() -> None:
    case = Case("text", "chat_over_responses")
    requests: list[Json] = []

    def handler(request: Json) -> EventStream:
        requests.append(request)
        return iter(batch_each_event(case.read("upstream.jsonl")))

    chat = translate_handler(handler, "chat", "responses", make_translator_context())
    context = make_translator_context()
    ollama = translate_handler(chat, "ollama", "chat", context)
    request = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi."}],
        "options": {"seed": 1},
    }
    answer = CLIENT_PROTOCOLS["ollama"].fold(ollama(request))

    assert requests[0]["input"][0]["content"] == [{"type": "input_text", "text": "Hi."}]
    assert (
        answer["message"]["content"] == case.read("answer.json")["choices"][0]["message"]["content"]
    )
    assert answer["done"]


def test_ollama_call_without_a_result_is_sent_to_a_responses_upstream() -> None:
    requests: list[Json] = []

    def handler(request: Json) -> EventStream:
        requests.append(request)
        return iter(())

    chat = translate_handler(handler, "chat", "responses", make_translator_context())
    call = {"function": {"name": "f", "arguments": {}}}
    messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "Go on."}]
    translate_handler(chat, "ollama", "chat", make_translator_context())(
        {"model": "m", "messages": messages}
    )

    kinds = [item["type"] for item in requests[0]["input"]]
    assert kinds == ["function_call", "function_call_output", "message"]


def test_ollama_load_request_sends_no_upstream_request() -> None:
    def handler(request: Json) -> EventStream:
        raise AssertionError("the handler was called")

    for client, field_name in (("ollama", "message"), ("ollama_generate", "response")):
        [[line]] = translate_handler(handler, client, "chat", make_translator_context())(
            {"model": "m"}
        )
        assert field_name in line
        assert line["done_reason"] == "load"


def test_inner_losses_have_ollama_names() -> None:
    """Losses are renamed even if the handler raises, as in a dry run."""
    context = make_translator_context()

    def handler(request: Json) -> EventStream:
        context.loss_report.drop("seed", "why")
        raise UpstreamRefused(400, {"message": "no", "param": "max_tokens"})

    request = {"model": "m", "prompt": "Hi.", "options": {"seed": 1, "num_predict": 9}}
    with pytest.raises(UpstreamRefused) as caught:
        translate_handler(handler, "ollama_generate", "chat", context)(request)
    assert caught.value.param == "options.num_predict"
    assert context.loss_report.losses == {"options.seed": "why"}
