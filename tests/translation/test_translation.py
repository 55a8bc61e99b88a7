from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, UpstreamRefused
from forwarder.core.types import Batch, EventStream
from forwarder.translation import FOLDS, translate_handler
from tests.helpers.cases import Case
from tests.helpers.translating import as_sent, terms

Json = dict[str, Any]

PAIRS = [
    (Case("text", "responses_over_chat"), "responses", "chat"),
    (Case("text", "chat_over_responses"), "chat", "responses"),
]
both_ways = pytest.mark.parametrize(("case", "client", "upstream"), PAIRS)


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_with_one_protocol_on_both_sides_the_call_is_the_very_same(protocol: str) -> None:
    def call(request: Json) -> EventStream:
        raise AssertionError("nobody calls")

    assert translate_handler(call, protocol, protocol, terms()) is call


@both_ways
def test_a_call_is_worn_over_one_of_the_other_protocol(
    case: Case, client: str, upstream: str
) -> None:
    asked: list[Json] = []

    def call(request: Json) -> EventStream:
        asked.append(request)
        return iter(as_sent(case.read("upstream.jsonl")))

    answer = FOLDS[client](
        translate_handler(call, client, upstream, terms())(case.read("request.json"))
    )
    assert asked == [case.read("upstream.request.json")]
    expected = case.read("answer.json")
    assert {key: answer[key] for key in expected} == expected


@both_ways
def test_a_request_that_is_refused_never_reaches_the_upstream(
    case: Case, client: str, upstream: str
) -> None:
    def call(request: Json) -> EventStream:
        raise AssertionError("nobody calls")

    with pytest.raises(InvalidRequest):
        translate_handler(call, client, upstream, terms())({"model": 1})


@both_ways
def test_a_call_fails_before_it_returns(case: Case, client: str, upstream: str) -> None:
    def call(request: Json) -> EventStream:
        raise UpstreamRefused(429, {"message": "Slow down."})

    with pytest.raises(UpstreamRefused):
        translate_handler(call, client, upstream, terms())(case.read("request.json"))


@both_ways
def test_what_is_ready_is_not_held_back(case: Case, client: str, upstream: str) -> None:
    """Every text delta comes out before the next one is asked for."""
    taken: list[int] = []

    def slow() -> Iterator[Batch]:
        for i, batch in enumerate(as_sent(case.read("upstream.jsonl"))):
            taken.append(i)
            yield batch

    stream = translate_handler(lambda request: slow(), client, upstream, terms())(
        case.read("request.json")
    )
    said = {str(batch): len(taken) for batch in stream if "'lo, '" in str(batch)}
    [when] = said.values()
    assert when < len(taken)
    assert "'lo, '" in str(as_sent(case.read("upstream.jsonl"))[when - 1])


def test_an_ollama_client_is_served_over_chat_and_that_over_responses() -> None:
    case = Case("text", "chat_over_responses")
    asked: list[Json] = []

    def call(request: Json) -> EventStream:
        asked.append(request)
        return iter(as_sent(case.read("upstream.jsonl")))

    chat = translate_handler(call, "chat", "responses", terms())
    its_terms = terms()
    ollama = translate_handler(chat, "ollama", "chat", its_terms)
    request = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi."}],
        "options": {"seed": 1},
    }
    answer = FOLDS["ollama"](ollama(request))

    assert asked[0]["input"][0]["content"] == [{"type": "input_text", "text": "Hi."}]
    assert (
        answer["message"]["content"] == case.read("answer.json")["choices"][0]["message"]["content"]
    )
    assert answer["done"]


def test_an_ollama_client_that_asks_nothing_is_answered_by_nobody() -> None:
    def call(request: Json) -> EventStream:
        raise AssertionError("nobody calls")

    for client, said in (("ollama", "message"), ("ollama_generate", "response")):
        [[line]] = translate_handler(call, client, "chat", terms())({"model": "m"})
        assert said in line
        assert line["done_reason"] == "load"


def test_what_is_lost_beneath_is_named_in_ollama_s_words() -> None:
    """Even when the call fails, as that of a dry run does."""
    its_terms = terms()

    def call(request: Json) -> EventStream:
        its_terms.loss_report.drop("seed", "why")
        raise UpstreamRefused(400, {"message": "no", "param": "max_tokens"})

    request = {"model": "m", "prompt": "Hi.", "options": {"seed": 1, "num_predict": 9}}
    with pytest.raises(UpstreamRefused) as caught:
        translate_handler(call, "ollama_generate", "chat", its_terms)(request)
    assert caught.value.param == "options.num_predict"
    assert its_terms.loss_report.losses == {"options.seed": "why"}
