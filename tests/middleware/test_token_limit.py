"""Token limits below the upstream's minimum."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Event
from forwarder.middleware.token_limit import with_token_limit
from tests.helpers.check_cases import check_each
from tests.helpers.sdk import chunk_mistakes
from tests.helpers.translating import collect_events
from tests.middleware.chatting import (
    REQUEST,
    USAGE,
    Scripted,
    make_chunk,
    make_text_chunks,
    one_by_one,
)
from tests.middleware.test_stop_sequences import CALL, join_text, list_finish_reasons


def apply_limit(limit: int, script: Any, name: str = "max_completion_tokens") -> list[Event]:
    return collect_events(with_token_limit(Scripted(script))({**REQUEST, name: limit}))


@check_each(
    ("limit", "expected"),
    [
        (1, "One"),
        (2, "One two"),
        (3, "One two,"),
        (4, "One two, extrao"),
        (15, "One two, extraordinary 1234 日本"),
    ],
)
def test_text_is_cut_at_the_limit(limit: int, expected: str) -> None:
    text = "One two, extraordinary 1234 日本"
    answer = apply_limit(limit, one_by_one(make_text_chunks(text)))
    assert join_text(answer) == expected
    assert list_finish_reasons(answer) == ["stop" if expected == text else "length"]


@given(st.text(alphabet="aB 1.日\n", max_size=60), st.integers(1, 15), st.data())
def test_cut_does_not_depend_on_chunking(text: str, limit: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    texts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    unsplit, split = (
        apply_limit(limit, [make_text_chunks(text)]),
        apply_limit(limit, one_by_one(make_text_chunks(*texts))),
    )
    assert join_text(split) == join_text(unsplit)
    assert list_finish_reasons(split) == list_finish_reasons(unsplit)
    assert text.startswith(join_text(unsplit))


def test_usage_is_capped() -> None:
    usage = apply_limit(5, one_by_one(make_text_chunks("word " * 30)))[-1]["usage"]
    assert usage == {
        **USAGE,
        "completion_tokens": 5,
        "total_tokens": 15,
        "completion_tokens_details": {"reasoning_tokens": 5},
    }


def test_reasoning_counts_towards_the_limit() -> None:
    script = [
        [make_chunk({"reasoning_content": "I think therefore"})],
        *one_by_one(make_text_chunks("yes")),
    ]
    answer = apply_limit(2, script)
    assert answer[0]["choices"][0]["delta"] == {"reasoning_content": "I think"}
    assert join_text(answer) == ""
    assert list_finish_reasons(answer) == ["length"]


def test_token_does_not_span_reasoning_and_text() -> None:
    reasoning, text = (
        make_chunk({"reasoning_content": "Let me think"}),
        make_chunk({"content": "One two"}),
    )
    answer = apply_limit(3, [[reasoning], [text], [make_chunk({}, finish="stop")]])
    assert join_text(answer) == ""
    assert list_finish_reasons(answer) == ["length"]
    answer = apply_limit(4, [[reasoning], [text], [make_chunk({}, finish="stop")]])
    assert join_text(answer) == "One"


def test_call_is_sent_completely_or_not_at_all() -> None:
    call = [[make_chunk({"tool_calls": [CALL]})], [make_chunk({}, "tool_calls")]]
    assert apply_limit(1, call) == collect_events(iter(call))
    answer = apply_limit(1, [[make_chunk({"content": "Let me see"})], *call])
    assert list_finish_reasons(answer) == ["length"]
    assert all("tool_calls" not in c["delta"] for e in answer for c in e["choices"])


def test_logprobs_of_cut_text_are_dropped() -> None:
    entries = [{"token": "One"}, {"token": " two"}, {"token": " three"}]
    script = [
        [make_chunk({"content": "One two three"}, logprobs={"content": entries, "refusal": None})]
    ]
    assert apply_limit(2, script)[0]["choices"][0]["logprobs"]["content"] == entries[:2]


def test_logprobs_may_follow_the_cut() -> None:
    entries = [{"token": "One"}, {"token": " two"}, {"token": " three"}]
    late_chunk = make_chunk({}, logprobs={"content": entries, "refusal": None})
    script = [
        [make_chunk({"content": "One two three"})],
        [make_chunk({"content": " four"})],
        [late_chunk],
    ]
    answer = apply_limit(2, [*script, [make_chunk({}, "stop")]])
    assert [c["logprobs"]["content"] for e in answer for c in e["choices"] if c["logprobs"]] == [
        entries[:2]
    ]


def test_logprobs_of_an_uncut_answer_are_all_sent() -> None:
    logprobs = {"content": [{"token": "▁One▁"}], "refusal": None}
    answer = apply_limit(
        5, [[make_chunk({"content": "One"}, logprobs=logprobs)], [make_chunk({}, "stop")]]
    )
    assert [c["logprobs"] for e in answer for c in e["choices"] if c["logprobs"]] == [logprobs]


def test_empty_batches_and_side_data_are_passed_on() -> None:
    script = [
        [],
        *one_by_one(make_text_chunks("a b c")[:-2]),
        [make_chunk({"metadata": {"x": 1}}, "stop")],
    ]
    batches = list(with_token_limit(Scripted(script))({**REQUEST, "max_tokens": 1}))
    assert [] in batches
    assert batches[-1][0]["choices"][0]["delta"] == {"metadata": {"x": 1}}
    assert batches[-1][0]["choices"][0]["finish_reason"] == "length"


def test_sdk_accepts_every_chunk() -> None:
    answer = apply_limit(3, one_by_one(make_text_chunks("one ", "two three", "four five")))
    assert [mistake for event in answer for mistake in chunk_mistakes(event)] == []


@check_each(
    "parameters", [{}, {"max_tokens": None}, {"max_tokens": 16}, {"max_tokens": "x"},
                  {"max_completion_tokens": 99, "max_tokens": 1}]
)  # fmt: skip
def test_other_requests_get_the_inner_stream(parameters: dict[str, Any]) -> None:
    stream = iter([[]])
    assert with_token_limit(lambda request: stream)({**REQUEST, **parameters}) is stream


@check_each("name", ["max_tokens", "max_completion_tokens"])
def test_limit_below_one_is_rejected(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        apply_limit(0, [], name)
    assert caught.value.param == name
