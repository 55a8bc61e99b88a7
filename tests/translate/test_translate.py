from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.errors import InvalidRequest, UpstreamRefused
from forwarder.translate import FOLDS, adapt
from forwarder.translate.call import Batch, Stream
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
    def call(request: Json) -> Stream:
        raise AssertionError("nobody calls")

    assert adapt(call, protocol, protocol, terms()) is call


@both_ways
def test_a_call_is_worn_over_one_of_the_other_protocol(
    case: Case, client: str, upstream: str
) -> None:
    asked: list[Json] = []

    def call(request: Json) -> Stream:
        asked.append(request)
        return iter(as_sent(case.read("upstream.jsonl")))

    answer = FOLDS[client](adapt(call, client, upstream, terms())(case.read("request.json")))
    assert asked == [case.read("upstream.request.json")]
    expected = case.read("answer.json")
    assert {key: answer[key] for key in expected} == expected


@both_ways
def test_a_request_that_is_refused_never_reaches_the_upstream(
    case: Case, client: str, upstream: str
) -> None:
    def call(request: Json) -> Stream:
        raise AssertionError("nobody calls")

    with pytest.raises(InvalidRequest):
        adapt(call, client, upstream, terms())({"model": 1})


@both_ways
def test_a_call_fails_before_it_returns(case: Case, client: str, upstream: str) -> None:
    def call(request: Json) -> Stream:
        raise UpstreamRefused(429, {"message": "Slow down."})

    with pytest.raises(UpstreamRefused):
        adapt(call, client, upstream, terms())(case.read("request.json"))


@both_ways
def test_what_is_ready_is_not_held_back(case: Case, client: str, upstream: str) -> None:
    """Every text delta comes out before the next one is asked for."""
    taken: list[int] = []

    def slow() -> Iterator[Batch]:
        for i, batch in enumerate(as_sent(case.read("upstream.jsonl"))):
            taken.append(i)
            yield batch

    stream = adapt(lambda request: slow(), client, upstream, terms())(case.read("request.json"))
    said = {str(batch): len(taken) for batch in stream if "'lo, '" in str(batch)}
    [when] = said.values()
    assert when < len(taken)
    assert "'lo, '" in str(as_sent(case.read("upstream.jsonl"))[when - 1])
