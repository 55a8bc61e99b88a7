"""Replay requests, replay settings, comparison of answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forwarder.config.settings import Settings
from forwarder.context.redaction import Redactor
from forwarder.core.errors import InvalidRequest
from forwarder.models.router import Router
from forwarder.observability.capture.replay import (
    ReplayAnswer,
    diff_answers,
    list_caveats,
    make_playback_settings,
    make_replay_answer,
    make_replay_request,
    make_replay_settings,
    read_recorded_answer,
)
from tests.helpers.check_cases import check_each

DEMO = Settings.from_env({})
URL = "http://up.test/v1/chat/completions"


def make_record(route: str = "chat", **request: Any) -> dict[str, Any]:
    client_request = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "query": [],
        "headers": [],
        **request,
    }
    return {"exchange": {"route": route}, "client": {"request": client_request}, "upstream": []}


def make_attempt(upstream: str = "far", protocol: str = "chat", url: str = URL) -> dict[str, Any]:
    return {"upstream": upstream, "protocol": protocol, "url": url, "model": "m-1",
            "provider": "deepseek"}  # fmt: skip


def test_replay_request_has_the_new_key() -> None:
    headers = [["X-Forwarder-Strict", "true"], ["Authorization", "***"], ["Host", "h"]]

    request = make_replay_request(
        make_record(body={"a": 1}, query=[["b", "c d"]], headers=headers), "sk-1"
    )

    assert request.path == "/v1/chat/completions?b=c+d"
    assert json.loads(request.body) == {"a": 1}
    assert request.headers == {
        "X-Forwarder-Strict": "true",
        "Content-Type": "application/json",
        "Authorization": "Bearer sk-1",
    }


def test_replay_keeps_headers_of_the_reasoning_style() -> None:
    headers = [["User-Agent", "opencode/1.18"], ["X-Title", "Cline"], ["X-Other", "1"]]
    path = "/think/v1/chat/completions"

    request = make_replay_request(make_record(body={"a": 1}, path=path, headers=headers), None)

    assert request.path == path
    assert request.headers == {
        "User-Agent": "opencode/1.18",
        "X-Title": "Cline",
        "Content-Type": "application/json",
    }
    turn = make_record("responses", method="GET", path="/both/v1/responses", body={"input": "hi"})
    assert make_replay_request(turn, None).path == "/both/v1/responses"
    with pytest.raises(InvalidRequest):
        make_replay_request(make_record(body={}, path="/think/v1/files"), None)


@check_each(
    ("recorded", "body"),
    [({"text": "{"}, b"{"), ({"body": [1]}, b"[1]"), ({"body": "x"}, b'"x"')],
)
def test_replay_sends_an_invalid_body_unchanged(recorded: dict[str, Any], body: bytes) -> None:
    assert make_replay_request(make_record(**recorded), None).body == body


def test_replay_includes_the_resumed_history() -> None:
    record = make_record(body={"input": "hi", "previous_response_id": "r"})
    record["client"]["resumed"] = {"body": {"input": ["before", "hi"]}}

    assert json.loads(make_replay_request(record, None).body) == {"input": ["before", "hi"]}


@check_each(
    ("route", "method", "body"),
    [
        ("responses", "GET", {"type": "response.create", "input": "hi"}),
        ("background", "POST", {"background": True, "input": "hi", "stream": False}),
        ("responses", "POST", {"background": True, "input": "hi"}),
    ],
)
def test_turns_and_background_work_are_replayed_as_streams(
    route: str, method: str, body: dict[str, Any]
) -> None:
    request = make_replay_request(make_record(route, method=method, body=body), None)

    assert request.path == "/v1/responses"
    assert json.loads(request.body) == {"input": "hi", "stream": True}


def test_queued_background_request_is_not_replayed() -> None:
    record = make_record("responses", body={"background": True, "input": "hi"})
    record["client"]["answer"] = {"status": 200, "body": {"status": "queued"}}

    with pytest.raises(InvalidRequest, match="'background'"):
        make_replay_request(record, None)


@check_each(
    "record", [{}, {"exchange": {}}, {"exchange": {}, "client": {"request": []}}, make_record()]
)
def test_record_without_a_request_cannot_be_replayed(record: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        make_replay_request(record, None)


@check_each("path", ["/api/create", "/v1/files", "http://h/v1/responses", "", "/v1"])
def test_only_model_requests_are_replayed(path: str) -> None:
    with pytest.raises(InvalidRequest, match="Only model requests"):
        make_replay_request(make_record(body={}, path=path), None)


def test_caveats_report_missing_parts() -> None:
    record = make_record(body={})
    assert list(list_caveats(record)) == []

    record["exchange"] |= {"whole": False, "redacted": True}
    record["client"]["request"]["headers"] = [["Authorization", "***"]]
    assert len(list(list_caveats(record))) == 1
    record["client"]["request"]["body"] = {"user": "***"}
    assert [note.partition(":")[0] for note in list_caveats(record)] == [
        "the exchange exceeded the capture limit", "secrets are redacted",
    ]  # fmt: skip

    record["client"]["request"]["left_out"] = 5
    assert next(list_caveats(record)).startswith("the request exceeded the capture limit")


# -- settings -------------------------------------------------------------------------------------


def test_replay_settings_disable_observers_and_limits() -> None:
    settings = make_replay_settings(
        Settings.from_env({"FORWARDER_CAPTURE": "memory", "FORWARDER_RATE_LIMIT_REQUESTS": "1/day"})
    )

    assert (settings.capture, settings.metrics, settings.rate_requests) == ("off", False, None)


def test_playback_adds_unconfigured_upstreams() -> None:
    record = make_record(body={"model": "fast"})
    record["upstream"] = [make_attempt(), make_attempt()]

    settings = make_playback_settings(DEMO, record)

    (upstream,) = settings.upstreams
    assert not settings.demo
    assert (upstream.name, upstream.base_url, upstream.provider) == (
        "far", "http://up.test/v1", "deepseek",
    )  # fmt: skip
    assert upstream.max_retries == 1
    (route,) = Router(settings).list_routes("fast", "responses")
    assert (route.upstream.name, route.protocol, route.model) == ("far", "chat", "m-1")


def test_configured_upstream_overrides_the_recorded_one() -> None:
    current_settings = Settings.from_env({"FORWARDER_UPSTREAMS": "near,far", "NEAR_BASE_URL": "http://n/v1",
                               "FAR_BASE_URL": "http://f/v1", "FAR_MODELS": "m-*"})  # fmt: skip
    record = make_record(body={"model": "m-1"})
    record["upstream"] = [make_attempt()]

    upstreams = make_playback_settings(current_settings, record).upstreams

    assert [(u.name, u.base_url) for u in upstreams] == [
        ("far", "http://f/v1"),
        ("near", "http://n/v1"),
    ]
    record["upstream"] = [
        make_attempt(protocol="compact", url="http://up.test/v1/responses/compact")
    ]
    assert (
        make_playback_settings(current_settings, record).upstreams[0].base_url
        == "http://up.test/v1"
    )


def test_playback_restores_fallbacks() -> None:
    record = make_record(body={"model": "fast"})
    record["upstream"] = [make_attempt(), make_attempt("spare")]

    routes = Router(make_playback_settings(DEMO, record)).list_routes("fast", "chat")

    assert [(route.upstream.name, route.model) for route in routes] == [
        ("far", "m-1"),
        ("spare", "m-1"),
    ]


def test_record_without_upstreams_uses_configured_ones() -> None:
    assert make_playback_settings(DEMO, make_record(body={})).upstreams == DEMO.upstreams


# -- answers --------------------------------------------------------------------------------------


def make_stream_answer(*events: Any) -> ReplayAnswer:
    return ReplayAnswer(200, {"events": [{"at": 1, "data": event} for event in events]})


def test_comparison_ignores_ids_times_and_storage_fields() -> None:
    def make_answer(name: str, at: int, encrypted: str, **more: Any) -> ReplayAnswer:
        response = {"id": f"resp_{name}", "created_at": at, "encrypted_content": encrypted, **more}
        return make_stream_answer({"response": response}, {"item_id": f"msg_{name}", "delta": "x"})

    one = make_answer("0123456789", 1, "fwd1.a", store=True)

    assert diff_answers(one, make_answer("9876543210", 2, "fwd1.b", store=False)) == []


@check_each(
    "other",
    [
        ReplayAnswer(500, {"events": [{"at": 1, "data": {"a": "x"}}]}),
        make_stream_answer({"a": "y"}),
        make_stream_answer({"a": "x"}, {"a": "x"}),
        make_stream_answer(),
        ReplayAnswer(200, {"body": {"b": "x"}}),
        ReplayAnswer(200, {"text": "x"}),
    ],
)
def test_comparison_detects_other_differences(other: ReplayAnswer) -> None:
    assert diff_answers(make_stream_answer({"a": "x"}), other)


def test_comparison_detects_inconsistent_ids() -> None:
    one, two = "msg_0123456789", "msg_9876543210"

    assert diff_answers(
        make_stream_answer({"a": one, "b": one}), make_stream_answer({"a": one, "b": two})
    )
    assert not diff_answers(
        make_stream_answer({"a": one, "b": two}), make_stream_answer({"a": two, "b": one})
    )


def test_an_answer_without_a_status_is_compared_by_its_events() -> None:
    assert (
        diff_answers(ReplayAnswer(None, make_stream_answer(1).content), make_stream_answer(1)) == []
    )


FAILED = {"type": "response.failed", "response": {"id": "resp_1", "error": {"message": "no"}}}
ERROR = {"type": "error", "error": {"message": "no"}}


@check_each(
    "turn",
    [
        make_stream_answer({"a": 1}, FAILED),
        make_stream_answer(FAILED),
        make_stream_answer({**ERROR, "status": 400}),
    ],
)
def test_failed_turn_compares_with_http_error(turn: ReplayAnswer) -> None:
    before = ReplayAnswer(None, turn.content)

    assert not diff_answers(before, ReplayAnswer(400, {"body": {"error": {"message": "no"}}}))
    assert diff_answers(before, ReplayAnswer(400, {"body": {"error": {"message": "other"}}}))
    assert diff_answers(before, make_stream_answer({"a": 2}, ERROR, FAILED))


def test_broken_turn_compares_with_broken_stream() -> None:
    before = ReplayAnswer(None, make_stream_answer({"a": 1}, FAILED).content)

    assert not diff_answers(before, make_stream_answer({"a": 1}, ERROR, FAILED))
    assert diff_answers(before, make_stream_answer({"a": 1}))


def test_replay_answer_is_redacted() -> None:
    redaction = Redactor(["user"], ["sk-client"])
    now = make_replay_answer(200, b'{"a":"sk-client","user":"u"}', redaction)

    assert now.content["body"] == {"a": "***", "user": "***"}
    assert list(now.format_lines()) == ["status 200", '{"a": "***", "user": "***"}']


def test_recorded_answer_is_that_of_the_client() -> None:
    record = make_record()
    assert read_recorded_answer(record) == ReplayAnswer(None, {})

    record["client"]["answer"] = {"status": 200, "body": {}}
    assert read_recorded_answer(record).status == 200
