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
        require_complete_chat_stream(iter([[each] for each in chunks]), lambda: done)
    )


SAID = make_chunk({"content": "a"})


@check_each(
    "sent",
    [{"content": "a"}, {"refusal": "a"}, {"tool_calls": [{}]}, {"function_call": {}, "content": "a"},
     {"reasoning_content": "a"}, {"reasoning": "a"}, {"reasoning_details": [{}]}, {"images": [{}]}],
)  # fmt: skip
def test_complete_chat_stream_is_unchanged(sent: Json) -> None:
    chunks = [
        make_chunk({"role": "assistant"}),
        make_chunk(sent),
        make_chunk(finish="stop"),
        {"choices": [], "usage": {}},
    ]
    assert check_chat_stream(*chunks) == chunks


def test_truncated_chat_stream_raises() -> None:
    with pytest.raises(UpstreamProtocolError, match="ended before its answer was finished"):
        check_chat_stream(SAID, done=False)


@check_each(("sent", "finish"), [({"content": "a"}, "stop"), ({"tool_calls": [{}]}, "tool_calls")])
def test_done_marker_replaces_finish_reason(sent: Json, finish: str) -> None:
    chunks = check_chat_stream(make_chunk(sent), {"choices": [], "usage": {}}, done=True)
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
    stream = require_complete_chat_stream(iter([[SAID, error, SAID], [SAID]]), lambda: True)
    assert collect_events(stream) == [SAID, error]


# -- Responses ----------------------------------------------------------------------------------


def make_event(kind: str, **more: Any) -> Json:
    return {"type": kind, **more}


@check_each("ending", ["response.completed", "response.incomplete", "response.failed"])
def test_responses_stream_ends_with_terminal_event(ending: str) -> None:
    events = [make_event("response.created"), make_event(ending), make_event("response.completed")]
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
    "sent",
    [
        [make_event("response.incomplete", response={"output": []})],
        [make_event("response.completed", response={"output": [{}]})],
        [make_event("response.output_text.delta", delta="a"), make_event("response.completed", response={"output": []})],
    ],
)  # fmt: skip
def test_response_with_text_in_one_place_is_complete(sent: list[Json]) -> None:
    assert collect_events(require_complete_responses_stream(iter([sent]), lambda: False)) == sent


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
    last = make_event("error", error=error) if nested else make_event("error", **error)
    with pytest.raises(UpstreamRefused, match=r"Full\.") as caught:
        collect_events(require_complete_responses_stream(iter([[last], []]), lambda: False))
    assert caught.value.status == 429


# -- errors in client streams -------------------------------------------------------------------


def failing(*batches: Batch) -> EventStream:
    yield from batches
    raise UpstreamTimeout("Too slow.")


def test_append_chat_error() -> None:
    chunks = collect_events(append_chat_error(failing([SAID], [])))
    assert chunks == [
        SAID,
        {"error": {"message": "Too slow.", "type": "upstream_error", "param": None, "code": "upstream_timeout"}},
    ]  # fmt: skip


def test_append_chat_error_after_upstream_error() -> None:
    error = {"error": {"message": "Full."}}

    def upstream() -> Iterator[Batch]:
        yield [SAID, error]
        raise AssertionError("nobody may ask for more")

    assert collect_events(append_chat_error(upstream())) == [SAID, error]


def test_append_responses_error() -> None:
    response = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [],
                "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}  # fmt: skip
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    first_events = [
        make_event("response.created", response=response, sequence_number=0),
        make_event("response.output_item.done", output_index=0, item=item, sequence_number=1),
    ]
    [*passed, error, failed] = collect_events(append_responses_error(failing(first_events, [])))
    assert passed == first_events
    assert [error["sequence_number"], failed["sequence_number"]] == [2, 3]
    assert (error["message"], error["code"]) == ("Too slow.", "upstream_timeout")
    assert error["error"]["type"] == "upstream_error"
    assert failed["response"] == {
        **response,
        "status": "failed",
        "output": [item],
        "error": {"code": "server_error", "message": "Too slow."},
    }


def test_append_responses_error_before_first_event() -> None:
    events = collect_events(append_responses_error(failing([])))
    assert [e["type"] for e in events] == ["error", "response.failed"]
    assert [e["sequence_number"] for e in events] == [0, 1]
    assert [m for e in events for m in sdk.event_mistakes(e)] == []


def test_append_responses_error_after_upstream_error_event() -> None:
    first = make_event("error", message="Full.", sequence_number=7)
    events = collect_events(append_responses_error(failing([first])))
    assert [(e["type"], e["sequence_number"]) for e in events] == [
        ("error", 7),
        ("response.failed", 8),
    ]


@check_each("append_error", [append_chat_error, append_responses_error])
def test_append_error_passes_successful_stream(append_error: Any) -> None:
    batches: list[Batch] = [[SAID], [], [make_chunk(finish="stop")]]
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
    def breaking() -> EventStream:
        yield [{"done": False}]
        raise UpstreamTimeout("Too late.")

    assert collect_events(append_ollama_error(breaking())) == [
        {"done": False},
        {"error": "Too late."},
    ]


# -- errors of a known kind -----------------------------------------------------------------------

LONG = {"message": "The prompt is too long.", "type": "x", "code": 7, "more": 1}
KNOWN = {"type": "invalid_request_error", "code": "context_length_exceeded"}


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
@check_each("greeted", [True, False])
def test_first_error_is_raised_with_its_status(
    chunk_: Json, status: int, code: str, greeted: bool
) -> None:
    batch = [make_chunk({"role": "assistant", "content": ""}), chunk_] if greeted else [chunk_]
    with pytest.raises(UpstreamRefused) as caught:
        collect_events(require_complete_chat_stream(iter([batch]), lambda: False))
    assert (caught.value.status, caught.value.code) == (status, code)


@check_each(
    "last",
    [
        {"error": LONG},
        {"object": "error", **LONG},
        {"choices": [{"finish_reason": "error", "error": LONG, "delta": {}}]},
    ],
)
def test_later_error_of_known_kind_gets_its_code(last: Json) -> None:
    [first, failed] = check_chat_stream(SAID, last)
    assert first == SAID
    assert failed["error"] | {**LONG, **KNOWN} == failed["error"]


def test_error_of_unknown_kind_is_unchanged() -> None:
    last = {"id": "1", "error": {"message": "Full.", "code": 7}, "choices": []}
    assert check_chat_stream(SAID, last) == [SAID, last]
    assert (
        check_chat_stream(SAID, {"object": "error", "message": "m"})[1]["error"]["message"] == "m"
    )


def make_failed_event(error: Any, **more: Any) -> Json:
    return make_event("response.failed", response={"status": "failed", "error": error, **more})


BEGUN = make_event("response.created", response={"status": "in_progress"})
DELTA = make_event("response.output_text.delta", delta="a")


@check_each("before", [[], [BEGUN]])
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
    before: list[Json], shape: str, error: Json, status: int, code: str
) -> None:
    shapes = {
        "failed": make_failed_event(error),
        "nested": make_event("error", error=error, sequence_number=1),
        "flat": make_event("error", **error, sequence_number=1),
    }
    with pytest.raises(UpstreamRefused) as caught:
        collect_events(
            require_complete_responses_stream(iter([[*before, shapes[shape]]]), lambda: False)
        )
    assert (caught.value.status, caught.value.code) == (status, code)
    assert "sequence_number" not in caught.value.make_body()["error"]
    assert caught.value.type != "error"


@check_each("batches", [[[BEGUN], [0]], [[BEGUN, DELTA, 0]], [[BEGUN, DELTA], [0]]])
def test_later_failed_response_keeps_its_code(batches: list[Any]) -> None:
    codes = ["insufficient_quota", "server_is_overloaded", "slow_down", "cyber_policy",
             "rate_limit_exceeded", "invalid_prompt", "a_code_of_its_own"]  # fmt: skip
    for code in codes:
        last = make_failed_event({"code": code, "message": "m"})
        stream = iter([[last if e == 0 else e for e in batch] for batch in batches])
        assert collect_events(require_complete_responses_stream(stream, lambda: False))[-1] == last


def test_later_context_length_failure_has_its_code() -> None:
    error = make_event("error", message=LONG["message"], code=7, error=LONG, sequence_number=2)
    last = make_failed_event({"code": "server_error", "message": LONG["message"]})
    stream = require_complete_responses_stream(iter([[BEGUN], [DELTA, error, last]]), lambda: False)
    [*_, error, failed] = collect_events(stream)
    assert (error["code"], error["sequence_number"]) == ("context_length_exceeded", 2)
    assert error["error"] | {**LONG, **KNOWN} == error["error"]
    assert failed["response"]["error"]["code"] == "context_length_exceeded"


def test_failed_response_with_output_is_passed_on() -> None:
    last = make_failed_event({"code": "server_error", "message": "m"}, output=[{}])
    assert collect_events(require_complete_responses_stream(iter([[last]]), lambda: False)) == [
        last
    ]


def test_failed_response_keeps_limit_reset_fields() -> None:
    def upstream() -> EventStream:
        yield []
        error = {"message": "m", "type": "usage_limit_reached", "resets_at": 7, "plan_type": "p"}
        raise UpstreamRefused(429, error)

    [error, failed] = collect_events(append_responses_error(upstream()))
    assert error["error"]["resets_at"] == 7
    assert failed["response"]["error"] == {
        "code": "usage_limit_reached",
        "message": "m",
        "plan_type": "p",
        "resets_at": 7,
    }


def test_append_follower_error_repeats_sequence_number() -> None:
    first_events = [{"type": "response.created", "sequence_number": 7, "response": {}}]
    [first, error] = collect_events(append_follower_error(failing(first_events, [])))

    assert first == first_events[0]
    assert (error["type"], error["sequence_number"]) == ("error", 7)
    assert error["message"] == error["error"]["message"]


def test_append_follower_error_raises_before_first_event() -> None:
    with pytest.raises(UpstreamTimeout):
        list(append_follower_error(failing([])))
