"""Ends of upstream streams, and errors in client streams; see also `test_laws.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import (
    ShuttingDown,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.types import Batch, EventStream
from forwarder.protocols.stream_end import (
    append_chat_error,
    append_follower_error,
    append_ollama_error,
    append_responses_error,
    require_complete_chat_stream,
    require_complete_responses_stream,
)
from tests.helpers import sdk
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events

Json = dict[str, Any]


def make_chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> Json:
    return {
        "id": "1",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}],
        **more,
    }


def check_chat_stream(*chunks: Json, done: bool = False) -> list[Json]:
    return collect_events(
        require_complete_chat_stream(iter([[chunk] for chunk in chunks]), lambda: done)
    )


TEXT_CHUNK = make_chunk({"content": "a"})


@check_each(
    "delta",
    [{"content": "a"}, {"refusal": "a"}, {"tool_calls": [{}]}, {"function_call": {}, "content": "a"},
     {"reasoning_content": "a"}, {"reasoning": "a"}, {"reasoning_details": [{}]}, {"images": [{}]}],
)  # fmt: skip
def test_complete_chat_stream_is_unchanged(delta: Json) -> None:
    chunks = [
        make_chunk({"role": "assistant"}),
        make_chunk(delta),
        make_chunk(finish="stop"),
        {"choices": [], "usage": {}},
    ]
    assert check_chat_stream(*chunks) == chunks


def test_truncated_chat_stream_raises() -> None:
    with pytest.raises(UpstreamProtocolError, match="ended before its answer was finished"):
        check_chat_stream(TEXT_CHUNK, done=False)


@check_each(("delta", "finish"), [({"content": "a"}, "stop"), ({"tool_calls": [{}]}, "tool_calls")])
def test_done_marker_replaces_finish_reason(delta: Json, finish: str) -> None:
    chunks = check_chat_stream(make_chunk(delta), {"choices": [], "usage": {}}, done=True)
    assert chunks[-1] == make_chunk(finish=finish)


@check_each("chunks", [[], [make_chunk()], [make_chunk({"content": ""})], [{"choices": []}]])
def test_done_marker_without_content_raises(chunks: list[Json]) -> None:
    with pytest.raises(UpstreamProtocolError):
        check_chat_stream(*chunks, done=True)


@check_each("finish", ["stop", "tool_calls", "length", "content_filter"])
def test_empty_chat_answer_with_finish_reason_is_complete(finish: str) -> None:
    chunks = [make_chunk({"role": "assistant", "content": ""}), make_chunk(finish=finish)]
    assert check_chat_stream(*chunks) == chunks


def test_complete_message_counts_as_content() -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}
    assert check_chat_stream(body) == [body]


def test_empty_complete_message_is_an_answer() -> None:
    body = {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}
    assert check_chat_stream(body) == [body]


def test_chat_stream_ends_with_error() -> None:
    error = {"error": {"message": "Full."}}
    stream = require_complete_chat_stream(
        iter([[TEXT_CHUNK, error, TEXT_CHUNK], [TEXT_CHUNK]]), lambda: True
    )
    assert collect_events(stream) == [TEXT_CHUNK, error]


# -- Responses ----------------------------------------------------------------------------------


def make_event(kind: str, **more: Any) -> Json:
    return {"type": kind, **more}


@check_each("event_type", ["response.completed", "response.incomplete", "response.failed"])
def test_responses_stream_ends_with_terminal_event(event_type: str) -> None:
    events = [
        make_event("response.created"),
        make_event(event_type),
        make_event("response.completed"),
    ]
    assert (
        collect_events(require_complete_responses_stream(iter([events, events]), lambda: False))
        == events[:2]
    )


def test_completed_empty_response_is_complete() -> None:
    created = make_event("response.created", response={})
    for response in ({"output": []}, {}):
        events = [created, make_event("response.completed", response=response)]
        assert (
            collect_events(require_complete_responses_stream(iter([events]), lambda: False))
            == events
        )


@check_each(
    "events",
    [
        [make_event("response.incomplete", response={"output": []})],
        [make_event("response.completed", response={"output": [{}]})],
        [make_event("response.output_text.delta", delta="a"), make_event("response.completed", response={"output": []})],
    ],
)  # fmt: skip
def test_response_with_text_in_one_place_is_complete(events: list[Json]) -> None:
    assert (
        collect_events(require_complete_responses_stream(iter([events]), lambda: False)) == events
    )


@check_each("ending", ["response.completed", "response.incomplete", "response.failed"])
@check_each("sent", [{"output": []}, {"output": None}, {}])
def test_empty_output_of_terminal_event_gets_the_finished_items(ending: str, sent: Json) -> None:
    items = [{"type": "reasoning", "id": "rs_1"}, {"type": "message", "id": "msg_1"}]
    events = [
        make_event("response.output_item.done", output_index=1, item=items[1]),
        make_event("response.output_item.done", output_index=0, item=items[0]),
        make_event(ending, response={"id": "resp_1", **sent}),
    ]
    *passed, last = collect_events(
        require_complete_responses_stream(iter([[each] for each in events]), lambda: False)
    )
    assert passed == events[:2]
    assert last["response"] == {"id": "resp_1", "output": items}


@check_each("indexes", [(1,), (0, 2), (0, 0), (None,), ("0",)])
def test_finished_items_are_no_output_unless_their_places_are_known(
    indexes: tuple[Any, ...],
) -> None:
    events = [
        *(make_event("response.output_item.done", output_index=i, item={}) for i in indexes),
        make_event("response.completed", response={"output": []}),
    ]
    assert (
        collect_events(require_complete_responses_stream(iter([events]), lambda: False)) == events
    )


def test_output_of_terminal_event_is_not_replaced_by_finished_items() -> None:
    events = [
        make_event("response.output_item.done", item={"id": "msg_1"}),
        make_event("response.completed", response={"output": [{"id": "msg_2"}]}),
    ]
    assert (
        collect_events(require_complete_responses_stream(iter([events]), lambda: False)) == events
    )


@check_each("done", [True, False])
def test_responses_stream_without_terminal_event_raises(done: bool) -> None:
    with pytest.raises(UpstreamProtocolError, match="ended before its response was finished"):
        collect_events(
            require_complete_responses_stream(
                iter([[make_event("response.created")]]), lambda: done
            )
        )


@check_each("nested", [True, False])
def test_error_event_without_terminal_event_is_raised(nested: bool) -> None:
    error = {"message": "Full.", "code": "rate_limit_exceeded"}
    error_event = make_event("error", error=error) if nested else make_event("error", **error)
    with pytest.raises(UpstreamRefused, match=r"Full\.") as caught:
        collect_events(require_complete_responses_stream(iter([[error_event], []]), lambda: False))
    assert caught.value.status == 429


# -- errors in client streams -------------------------------------------------------------------


def fail_after(*batches: Batch) -> EventStream:
    yield from batches
    raise UpstreamTimeout("Too slow.")


def test_append_chat_error() -> None:
    chunks = collect_events(append_chat_error(fail_after([TEXT_CHUNK], [])))
    assert chunks == [
        TEXT_CHUNK,
        {"error": {"message": "Too slow.", "type": "upstream_error", "param": None, "code": "upstream_timeout"}},
    ]  # fmt: skip


def test_append_chat_error_after_upstream_error() -> None:
    error = {"error": {"message": "Full."}}

    def upstream() -> Iterator[Batch]:
        yield [TEXT_CHUNK, error]
        raise AssertionError("the stream was read after the error")

    assert collect_events(append_chat_error(upstream())) == [TEXT_CHUNK, error]


def test_append_responses_error() -> None:
    response = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [],
                "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}  # fmt: skip
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    first_events = [
        make_event("response.created", response=response, sequence_number=0),
        make_event("response.output_item.done", output_index=0, item=item, sequence_number=1),
    ]
    [*passed_events, error, failed_event] = collect_events(
        append_responses_error(fail_after(first_events, []))
    )
    assert passed_events == first_events
    assert [error["sequence_number"], failed_event["sequence_number"]] == [2, 3]
    assert (error["message"], error["code"]) == ("Too slow.", "upstream_timeout")
    assert error["error"]["type"] == "upstream_error"
    assert failed_event["response"] == {
        **response,
        "status": "failed",
        "output": [item],
        "error": {"code": "server_error", "message": "Too slow."},
    }


def test_append_responses_error_before_first_event() -> None:
    events = collect_events(append_responses_error(fail_after([])))
    assert [e["type"] for e in events] == ["error", "response.failed"]
    assert [e["sequence_number"] for e in events] == [0, 1]
    assert [m for e in events for m in sdk.event_mistakes(e)] == []


def test_append_responses_error_after_upstream_error_event() -> None:
    error_event = make_event("error", message="Full.", sequence_number=7)
    events = collect_events(append_responses_error(fail_after([error_event])))
    assert [(e["type"], e["sequence_number"]) for e in events] == [
        ("error", 7),
        ("response.failed", 8),
    ]


@check_each("append_error", [append_chat_error, append_responses_error])
def test_append_error_passes_successful_stream_unchanged(append_error: Any) -> None:
    batches: list[Batch] = [[TEXT_CHUNK], [], [make_chunk(finish="stop")]]
    assert list(append_error(iter(batches))) == batches


@check_each("ending", ["cut", "broken"])
def test_finished_choice_does_not_finish_others(ending: str) -> None:
    def upstream() -> EventStream:
        yield [{"choices": [{"index": i, "delta": {"content": "a"}} for i in (0, 1)]}]
        yield [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
        if ending == "broken":
            raise UpstreamUnreachable("gone")

    with pytest.raises(UpstreamError):
        list(require_complete_chat_stream(upstream(), lambda: False))


@check_each("error", [UpstreamUnreachable("gone"), ShuttingDown()])
def test_failure_after_last_finish_reason_is_ignored(error: Exception) -> None:
    def upstream() -> EventStream:
        yield [{"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}]
        yield [{"choices": [{"index": 0, "delta": {}}]}]
        raise error

    assert len(list(require_complete_chat_stream(upstream(), lambda: False))) == 2


def test_append_ollama_error() -> None:
    def break_stream() -> EventStream:
        yield [{"done": False}]
        raise UpstreamTimeout("Too late.")

    assert collect_events(append_ollama_error(break_stream())) == [
        {"done": False},
        {"error": "Too late."},
    ]


# -- errors of a known kind -----------------------------------------------------------------------

LONG = {"message": "The prompt is too long.", "type": "x", "code": 7, "more": 1}
KNOWN_ERROR_FIELDS = {"type": "invalid_request_error", "code": "context_length_exceeded"}


@check_each(
    ("chunk_", "status", "code"),
    [
        ({"error": {"message": "m", "code": "insufficient_quota"}}, 429, "insufficient_quota"),
        ({"error": {"message": "m", "type": "overloaded_error"}}, 503, "server_is_overloaded"),
        ({"error": {"message": "m", "code": 401}}, 401, "invalid_api_key"),
        ({"error": {"message": "m", "code": "permission_denied"}}, 403, "permission_denied"),
        ({"error": {"message": "Model Not Exist"}}, 404, "model_not_found"),
        ({"error": LONG}, 400, "context_length_exceeded"),
        ({"error": "The prompt is too long."}, 400, "context_length_exceeded"),
        ({"object": "error", **LONG}, 400, "context_length_exceeded"),
        ({"code": "Throttling", "message": "m"}, 429, "rate_limit_exceeded"),
        ({"base_resp": {"status_code": 2013, "status_msg": "context window exceeds limit"}},
         400, "context_length_exceeded"),
        ({"choices": [{"finish_reason": "error", "error": LONG, "delta": {}}]},
         400, "context_length_exceeded"),
    ],
)  # fmt: skip
@check_each("has_first_chunk", [True, False])
def test_first_error_is_raised_with_its_status(
    chunk_: Json, status: int, code: str, has_first_chunk: bool
) -> None:
    batch = (
        [make_chunk({"role": "assistant", "content": ""}), chunk_] if has_first_chunk else [chunk_]
    )
    with pytest.raises(UpstreamRefused) as caught:
        collect_events(require_complete_chat_stream(iter([batch]), lambda: False))
    assert (caught.value.status, caught.value.code) == (status, code)


@check_each(
    "error_chunk",
    [
        {"error": LONG},
        {"object": "error", **LONG},
        {"choices": [{"finish_reason": "error", "error": LONG, "delta": {}}]},
    ],
)
def test_later_error_of_known_kind_gets_its_code(error_chunk: Json) -> None:
    [first_chunk, received_error] = check_chat_stream(TEXT_CHUNK, error_chunk)
    assert first_chunk == TEXT_CHUNK
    assert received_error["error"] | {**LONG, **KNOWN_ERROR_FIELDS} == received_error["error"]


def test_error_of_unknown_kind_is_unchanged() -> None:
    error_chunk = {"id": "1", "error": {"message": "Full.", "code": 7}, "choices": []}
    assert check_chat_stream(TEXT_CHUNK, error_chunk) == [TEXT_CHUNK, error_chunk]
    assert (
        check_chat_stream(TEXT_CHUNK, {"object": "error", "message": "m"})[1]["error"]["message"]
        == "m"
    )


def make_failed_event(error: Any, **more: Any) -> Json:
    return make_event("response.failed", response={"status": "failed", "error": error, **more})


CREATED = make_event("response.created", response={"status": "in_progress"})
DELTA = make_event("response.output_text.delta", delta="a")


@check_each("first_events", [[], [CREATED]])
@check_each("shape", ["failed", "nested", "flat"])
@check_each(
    ("error", "status", "code"),
    [
        ({"code": "insufficient_quota", "message": "m"}, 429, "insufficient_quota"),
        ({"code": "slow_down", "message": "m"}, 503, "slow_down"),
        ({"code": "invalid_api_key", "message": "m"}, 401, "invalid_api_key"),
        ({"code": "invalid_prompt", "message": "m"}, 400, "invalid_prompt"),
        ({"code": "unknown_model", "message": "m"}, 404, "model_not_found"),
        ({"code": None, "message": "The prompt is too long."}, 400, "context_length_exceeded"),
    ],
)
def test_early_failed_response_is_raised_with_status(
    first_events: list[Json], shape: str, error: Json, status: int, code: str
) -> None:
    shapes = {
        "failed": make_failed_event(error),
        "nested": make_event("error", error=error, sequence_number=1),
        "flat": make_event("error", **error, sequence_number=1),
    }
    with pytest.raises(UpstreamRefused) as caught:
        collect_events(
            require_complete_responses_stream(iter([[*first_events, shapes[shape]]]), lambda: False)
        )
    assert (caught.value.status, caught.value.code) == (status, code)
    assert "sequence_number" not in caught.value.make_body()["error"]
    assert caught.value.type != "error"


@check_each("batches", [[[CREATED], [0]], [[CREATED, DELTA, 0]], [[CREATED, DELTA], [0]]])
def test_later_failed_response_keeps_its_code(batches: list[Any]) -> None:
    codes = ["insufficient_quota", "server_is_overloaded", "slow_down", "cyber_policy",
             "rate_limit_exceeded", "invalid_prompt", "a_code_of_its_own"]  # fmt: skip
    for code in codes:
        failed_event = make_failed_event({"code": code, "message": "m"})
        stream = iter([[failed_event if e == 0 else e for e in batch] for batch in batches])
        assert (
            collect_events(require_complete_responses_stream(stream, lambda: False))[-1]
            == failed_event
        )


def test_later_context_length_failure_has_its_code() -> None:
    error = make_event("error", message=LONG["message"], code=7, error=LONG, sequence_number=2)
    failed_event = make_failed_event({"code": "server_error", "message": LONG["message"]})
    stream = require_complete_responses_stream(
        iter([[CREATED], [DELTA, error, failed_event]]), lambda: False
    )
    [*_, error, received_event] = collect_events(stream)
    assert (error["code"], error["sequence_number"]) == ("context_length_exceeded", 2)
    assert error["error"] | {**LONG, **KNOWN_ERROR_FIELDS} == error["error"]
    assert received_event["response"]["error"]["code"] == "context_length_exceeded"


def test_failed_response_with_output_is_passed_on() -> None:
    failed_event = make_failed_event({"code": "server_error", "message": "m"}, output=[{}])
    assert collect_events(
        require_complete_responses_stream(iter([[failed_event]]), lambda: False)
    ) == [failed_event]


def test_failed_response_keeps_limit_reset_fields() -> None:
    def upstream() -> EventStream:
        yield []
        error = {"message": "m", "type": "usage_limit_reached", "resets_at": 7, "plan_type": "p"}
        raise UpstreamRefused(429, error)

    [error, failed_event] = collect_events(append_responses_error(upstream()))
    assert error["error"]["resets_at"] == 7
    assert failed_event["response"]["error"] == {
        "code": "usage_limit_reached",
        "message": "m",
        "plan_type": "p",
        "resets_at": 7,
    }


def test_append_follower_error_repeats_sequence_number() -> None:
    first_events = [{"type": "response.created", "sequence_number": 7, "response": {}}]
    [first_event, error] = collect_events(append_follower_error(fail_after(first_events, [])))

    assert first_event == first_events[0]
    assert (error["type"], error["sequence_number"]) == ("error", 7)
    assert error["message"] == error["error"]["message"]


def test_append_follower_error_raises_before_first_event() -> None:
    with pytest.raises(UpstreamTimeout):
        list(append_follower_error(fail_after([])))
