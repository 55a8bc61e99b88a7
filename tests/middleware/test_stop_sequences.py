"""``stop``: the answer ends before the first stop sequence, regardless of chunking."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.core.errors import InvalidRequest, UpstreamProtocolError
from forwarder.core.types import Batch, Event
from forwarder.middleware.stop_sequences import StopSequenceFinder, with_stop_sequences
from forwarder.protocols.fold import fold_chat
from tests.helpers.check_cases import check_each
from tests.helpers.sdk import chunk_mistakes, rebuild_completion
from tests.helpers.translating import collect_events
from tests.middleware.chatting import (
    REQUEST,
    USAGE,
    Scripted,
    make_chunk,
    make_text_chunks,
    one_by_one,
)

CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def apply_stops(
    script: list[Batch] | list[Batch | Exception], *stops: str, drain: bool = False
) -> list[Event]:
    """The chunks of an answer to a request with these stop sequences."""
    handler = with_stop_sequences(Scripted(script), drain)
    return collect_events(handler({**REQUEST, "stop": list(stops)}))


def join_text(events: list[Event]) -> str:
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def list_finish_reasons(events: list[Event]) -> list[Any]:
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    return [reason for reason in reasons if reason]


def cut_at_first_stop(text: str, stops: list[str]) -> str:
    """The text before the first stop sequence."""
    positions = [text.find(stop) for stop in stops if stop in text]
    return text[: min(positions)] if positions else text


# -- properties ---------------------------------------------------------------------------------

texts_of_few_letters = st.text(alphabet="abc", max_size=14)
"""Texts of few letters, so that stop sequences occur, overlap and contain each other."""

several_stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


@st.composite
def draw_pieces(draw: st.DrawFn) -> list[str]:
    """A text that is cut into pieces, some of which may be empty."""
    text = draw(texts_of_few_letters)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(draw_pieces(), several_stops)
@example(["a", "b", "c", "d"], ["abcd", "bc"])
@example(["abc", "x"], ["abcd", "bc"])
@example(["ab", "ab", "c"], ["abc"])
def test_answer_ends_before_the_first_stop(texts: list[str], stops: list[str]) -> None:
    text = "".join(texts)

    answer = apply_stops(one_by_one(make_text_chunks(*texts, finish="length")), *stops)

    assert join_text(answer) == cut_at_first_stop(text, stops)
    assert list_finish_reasons(answer) == ["stop" if any(s in text for s in stops) else "length"]
    assert fold_chat(iter([answer]))["choices"][0]["message"]["content"] == cut_at_first_stop(
        text, stops
    )


@given(draw_pieces(), several_stops)
def test_only_possible_stops_are_held_back(texts: list[str], stops: list[str]) -> None:
    finder = StopSequenceFinder(stops)
    sent_text = ""
    for i, text in enumerate(texts):
        sent_text += finder.feed(text)
        if finder.is_hit:
            return
        held_back = "".join(texts[: i + 1])[len(sent_text) :]
        assert any(stop.startswith(held_back) and stop != held_back for stop in stops)


@check_each("cut", range(len("Grüezi END wohl") + 1))
def test_stop_is_found_across_chunk_borders(cut: int) -> None:
    text = "Grüezi END wohl"
    assert (
        join_text(apply_stops(one_by_one(make_text_chunks(text[:cut], text[cut:])), "END"))
        == "Grüezi "
    )


def test_text_is_sent_as_soon_as_possible() -> None:
    handler = with_stop_sequences(
        Scripted(one_by_one(make_text_chunks("one ", "EN", "x", "END"))), drain=False
    )
    texts = [join_text(batch) for batch in handler({**REQUEST, "stop": "END"})]
    assert texts == ["", "one ", "ENx", ""]


# -- content other than text --------------------------------------------------------------------


def test_stop_in_reasoning_is_ignored() -> None:
    script = [
        [make_chunk({"reasoning_content": "think END think"})],
        *one_by_one(make_text_chunks("yes")),
    ]
    answer = apply_stops(script, "END")
    assert join_text(answer) == "yes"
    assert answer[0]["choices"][0]["delta"] == {"reasoning_content": "think END think"}


def test_stop_across_reasoning_and_text_is_ignored() -> None:
    script = [
        [make_chunk({"reasoning_content": "think EN"})],
        *one_by_one(make_text_chunks("D yes")),
    ]
    assert join_text(apply_stops(script, "END")) == "D yes"


def test_stop_in_tool_arguments_is_ignored() -> None:
    call = {**CALL, "function": {"name": "END", "arguments": '{"END":1}'}}
    script = [[make_chunk({"tool_calls": [call]})], [make_chunk({}, "tool_calls")]]
    assert apply_stops(script, "END") == collect_events(iter(script))


def test_calls_follow_held_back_text() -> None:
    script = [
        [make_chunk({"content": "see EN"})],
        [make_chunk({"tool_calls": [CALL]})],
        [make_chunk({}, "tool_calls")],
    ]
    answer = apply_stops(script, "END")
    message = rebuild_completion(answer)["choices"][0]
    assert message["message"]["content"] == "see EN"
    assert message["message"]["tool_calls"][0]["function"]["name"] == "f"
    assert message["finish_reason"] == "tool_calls"
    assert [bool(e["choices"][0]["delta"].get("content")) for e in answer] == [
        True,
        True,
        False,
        False,
    ]


@check_each("is_separate", [True, False])
def test_calls_after_a_stop_are_dropped(is_separate: bool) -> None:
    batches: list[Batch] = [
        [make_chunk({"content": "see END"})],
        [make_chunk({"tool_calls": [CALL]})],
    ]
    if not is_separate:
        batches = [[make_chunk({"content": "see END", "tool_calls": [CALL]})]]
    answer = apply_stops([*batches, [make_chunk({}, "tool_calls")]], "END")
    assert join_text(answer) == "see "
    assert list_finish_reasons(answer) == ["stop"]
    assert all("tool_calls" not in c["delta"] for e in answer for c in e["choices"])


def test_text_in_the_final_chunk_is_searched() -> None:
    assert (
        join_text(
            apply_stops(
                [[make_chunk({"content": "a EN"})], [make_chunk({"content": "D b"}, "stop")]], "END"
            )
        )
        == "a "
    )
    assert join_text(apply_stops([[make_chunk({"content": "a EN"}, "stop")]], "END")) == "a EN"


def test_empty_batches_are_passed_on() -> None:
    handler = with_stop_sequences(Scripted([[], [make_chunk({"content": "a"})], []]), drain=False)
    assert list(handler({**REQUEST, "stop": "b"})).count([]) == 2


def test_logprobs_follow_their_tokens() -> None:
    tokens = ["Hello", " EN", "x", " END", " more"]
    script = [
        [make_chunk({"content": t}, logprobs={"content": [{"token": t}], "refusal": None})]
        for t in tokens
    ]
    logprobs = [
        c["logprobs"] for e in apply_stops(script, "END") for c in e["choices"] if c["logprobs"]
    ]
    assert [entry["token"] for entry_list in logprobs for entry in entry_list["content"]] == [
        "Hello",
        " EN",
        "x",
    ]


def test_late_logprobs_follow_their_text() -> None:
    entries = [{"token": t} for t in ("He", "llo", " EN")]
    late_chunk = make_chunk({}, logprobs={"content": entries, "refusal": None})
    script = one_by_one(
        [*make_text_chunks("Hello", " EN")[:3], late_chunk, *make_text_chunks()[1:]]
    )
    logprobs = [
        c["logprobs"] for e in apply_stops(script, "END") for c in e["choices"] if c["logprobs"]
    ]
    assert [[entry["token"] for entry in entry_list["content"]] for entry_list in logprobs] == [
        ["He", "llo"],
        [" EN"],
    ]


def test_unmatched_logprobs_are_sent_at_the_end() -> None:
    """Some upstreams spell tokens differently from the text."""
    batch = [
        make_chunk({"content": "a"}, logprobs={"content": [{"token": "▁a▁▁"}], "refusal": None})
    ]
    answer = apply_stops([batch, [make_chunk({}, "stop")]], "END")
    assert [c["logprobs"] for e in answer for c in e["choices"]] == [
        None,
        {"content": [{"token": "▁a▁▁"}], "refusal": None},
    ]


# -- the upstream and its usage -----------------------------------------------------------------


def test_upstream_is_closed_before_the_client_gets_the_end() -> None:
    upstream = Scripted(one_by_one(make_text_chunks("a ", "END", *["more"] * 50)))
    stream = with_stop_sequences(upstream, drain=False)({**REQUEST, "stop": "END"})
    while not list_finish_reasons(next(stream)):
        assert upstream.open == 1
    assert upstream.open == 0
    assert upstream.read < 5


def test_usage_is_estimated_when_the_upstream_is_closed() -> None:
    usage = apply_stops(one_by_one(make_text_chunks("x" * 400, "END", "more")), "END")[-1]["usage"]
    assert usage["completion_tokens"] == 101
    assert usage["prompt_tokens"] == 9  # "hi", the role, and the overhead of a message
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_usage_is_exact_when_the_upstream_is_drained() -> None:
    upstream = Scripted(
        [
            *one_by_one(make_text_chunks("a END", "more"))[:-1],
            [],
            *one_by_one(make_text_chunks())[-1:],
        ]
    )
    batches = list(with_stop_sequences(upstream, drain=True)({**REQUEST, "stop": "END"}))
    assert batches[-1][-1]["usage"] == USAGE
    assert batches[-2] == []
    assert list_finish_reasons(collect_events(iter(batches))) == ["stop"]
    assert join_text(collect_events(iter(batches))) == "a "


def test_usage_in_the_batch_of_the_stop_is_exact() -> None:
    answer = apply_stops([make_text_chunks("a END b")], "END")
    assert answer[-1]["usage"] == USAGE
    assert list_finish_reasons(answer) == ["stop"]


def test_upstream_failure_while_draining_is_ignored() -> None:
    answer = apply_stops(
        [[make_chunk({"content": "aEND"})], UpstreamProtocolError("broke")], "END", drain=True
    )
    assert list_finish_reasons(answer) == ["stop"]
    assert answer[-1]["usage"]["completion_tokens"] == 1


def test_held_back_text_is_sent_before_an_upstream_failure() -> None:
    batches = []
    with pytest.raises(UpstreamProtocolError):  # noqa: PT012
        for batch in with_stop_sequences(
            Scripted([[make_chunk({"content": "a EN"})], UpstreamProtocolError("x")]), False
        )({**REQUEST, "stop": "END"}):
            batches.append(batch)
    assert join_text(collect_events(iter(batches))) == "a EN"


def test_sdk_accepts_every_chunk() -> None:
    answer = apply_stops(one_by_one(make_text_chunks("one ", "EN", "D", "two")), "END")
    assert [mistake for event in answer for mistake in chunk_mistakes(event)] == []


# -- the request --------------------------------------------------------------------------------


@check_each("parameters", [{}, {"stop": None}, {"stop": []}])
def test_request_without_stops_gets_the_inner_stream(parameters: dict[str, Any]) -> None:
    stream = iter([[]])
    requests: list[Any] = []
    handler = with_stop_sequences(lambda request: requests.append(request) or stream, drain=False)  # type: ignore[func-returns-value]
    assert handler({**REQUEST, **parameters}) is stream
    assert requests == [REQUEST]


@check_each("drain", [False, True])
def test_answer_that_may_be_cut_is_requested_as_stream(drain: bool) -> None:
    requests: list[Any] = []

    def upstream(request: Any) -> Any:
        requests.append(request)
        return iter([make_text_chunks("a STOP b")])

    events = collect_events(
        with_stop_sequences(upstream, drain)({**REQUEST, "stream": False, "stop": "STOP"})
    )

    assert join_text(events) == "a "
    assert requests == [{**REQUEST, "stream": not drain, "stop": "STOP"}]


def test_stop_may_be_a_string() -> None:
    upstream = Scripted(one_by_one(make_text_chunks("a b")))
    assert (
        join_text(collect_events(with_stop_sequences(upstream, False)({**REQUEST, "stop": " "})))
        == "a"
    )


# -- side data ----------------------------------------------------------------------------------

SIDE_DATA_CHUNK = make_chunk({"notes": {"annotations": [], "files": [], "metadata": {}}})


@check_each("drain", [False, True])
def test_side_data_in_the_batch_of_the_stop_precedes_the_end(drain: bool) -> None:
    batches = [
        [make_chunk({"content": "a END"}), SIDE_DATA_CHUNK, make_chunk({"content": "b"})],
        make_text_chunks("c"),
    ]
    answer = apply_stops(batches, "END", drain=drain)
    assert answer[1:2] == [SIDE_DATA_CHUNK]
    assert list_finish_reasons(answer) == ["stop"]
    assert join_text(answer) == "a "


def test_late_side_data_is_sent_if_the_upstream_is_drained() -> None:
    batches = one_by_one(
        [*make_text_chunks("a END")[:2], SIDE_DATA_CHUNK, *make_text_chunks("more")[1:]]
    )
    answer = apply_stops(batches, "END", drain=True)
    assert answer.index(SIDE_DATA_CHUNK) < next(
        i for i, event in enumerate(answer) if list_finish_reasons([event]) == ["stop"]
    )
    assert SIDE_DATA_CHUNK not in apply_stops(batches, "END")


@check_each("stop", [5, "", [""], [1], {"a": 1}, ["a"] * 5])
def test_malformed_stop_is_rejected_before_the_upstream_call(stop: Any) -> None:
    upstream = Scripted()
    with pytest.raises(InvalidRequest) as caught:
        with_stop_sequences(upstream, False)({**REQUEST, "stop": stop})
    assert caught.value.param == "stop"
    assert upstream.requests == []
