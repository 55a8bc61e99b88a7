"""Records: content, redaction, size limit."""

from __future__ import annotations

import json

import httpx2
import pytest

from forwarder.context.redaction import Redactor
from forwarder.observability.capture.record import encode_record, parse_summary
from tests.helpers.check_cases import check_each
from tests.observability.capture.taping import (
    UPSTREAM,
    URL,
    make_context,
    make_record,
    make_recorder,
)


def test_record_has_all_parts() -> None:
    taken = make_recorder()
    taken.record_body(b'{"model":"a","input":"hi","previous_response_id":"r"}')
    taken.record_resumed_body({"model": "a", "input": ["before", "hi"]})
    attempt = taken.record_attempt(UPSTREAM, "generic", "chat", URL, b'{"model":"b"}')
    attempt.record_head(httpx2.Response(200, headers={"x-request-id": "u", "Set-Cookie": "c"}))
    list(attempt.tap(iter([b'data: {"a":1}\n\n', b"data: [DONE]\n\n"])))
    taken.record_answer_head(200, [("X-Request-Id", "req_1")]).add(b'{"id":"resp_1"}')
    done = make_context(
        upstream="chat",
        model="b",
        client_name="alice",
        retries=1,
        failed_upstreams=["spare"],
        usage={"t": 1},
    )
    done.loss_report.note("seed", "not known there")

    said = encode_record("ex_1", taken, done, 0.25, Redactor(()), 10_000)

    made = json.loads(said)
    assert made["exchange"] == parse_summary(said)
    assert made["exchange"] | {"time": ""} == {
        "id": "ex_1",
        "request_id": "req_1",
        "time": "",
        "route": "responses",
        "client": "alice",
        "model": "b",
        "upstream": "chat",
        "status": 200,
        "duration_ms": 250.0,
        "whole": True,
        "redacted": True,
    }
    client = made["client"]
    assert client["request"] == {
        "method": "POST",
        "path": "/v1/responses",
        "query": [["key", "***"]],
        "headers": [["Authorization", "***"]],
        "body": {"model": "a", "input": "hi", "previous_response_id": "r"},
    }
    assert client["resumed"] == {"body": {"model": "a", "input": ["before", "hi"]}}
    assert client["answer"]["status"] == 200
    assert client["answer"]["body"] == {"id": "resp_1"}
    (asked,) = made["upstream"]
    assert (asked["upstream"], asked["protocol"], asked["model"]) == ("chat", "chat", "b")
    assert asked["request"] == {"body": {"model": "b"}}
    assert asked["answer"]["headers"] == [["x-request-id", "u"], ["set-cookie", "***"]]
    assert [event.get("data") for event in asked["answer"]["events"]] == [{"a": 1}, None]
    assert made["dropped"] == {"seed": "not known there"}
    assert (made["failed"], made["retries"], made["usage"]) == (["spare"], 1, {"t": 1})


def test_record_of_a_rejected_request() -> None:
    made = make_record(make_recorder(), 10_000, status=429, error="rate_limit_exceeded")

    assert made["exchange"]["error"] == "rate_limit_exceeded"
    assert "body" not in made["client"]["request"]
    assert "answer" not in made["client"]
    assert made["upstream"] == []


def test_record_keeps_non_json_body_as_text() -> None:
    taken = make_recorder()
    taken.record_body(b'{"api_key": "s3cret-value')

    made = make_record(taken, 10_000, status=400)

    assert made["client"]["request"]["text"] == '{"api_key": "***'
    assert made["exchange"]["redacted"]


@check_each(
    "said",
    [
        b'data: {"error":{"message":"bad key sk-upstream of sk-client"}}\n\n',
        b'{"error":{"message":"bad key sk-upstream of sk-client"}}',
        b"<p>bad key sk-upstream of sk-client</p>",
        b"bad key sk-upstream \xff of sk-client",
        b': bad key sk-upstream of sk-client\n\ndata: {"sk-upstream":1}\n\n',
    ],
)
def test_record_contains_no_keys(said: bytes) -> None:
    taken = make_recorder()
    taken.record_body(b'{"input":"my key is sk-client"}')
    attempt = taken.record_attempt(
        UPSTREAM, "generic", "chat", URL, b'{"input":"my key is sk-client"}'
    )
    attempt.record_head(httpx2.Response(400))
    attempt.answer.add(said)
    taken.record_answer_head(400, []).add(said)

    found = encode_record(
        "n", taken, make_context(client_key="sk-client"), 0.1, Redactor(()), 10_000
    )

    assert b"sk-upstream" not in found
    assert b"sk-client" not in found
    assert found.count(b"***") >= 6


def test_configured_fields_are_redacted_everywhere() -> None:
    taken = make_recorder()
    taken.record_body(b'{"user":"jane.doe@example.com","input":"hi"}')
    taken.record_attempt(UPSTREAM, "generic", "chat", URL, b'{"end_user":"jane.doe@example.com"}')
    taken.record_answer_head(400, []).add(b'{"error":{"message":"jane.doe@example.com may not"}}')

    made = make_record(taken, 10_000, "user")

    assert "jane" not in json.dumps(made)
    assert made["client"]["request"]["body"]["input"] == "hi"


@check_each("limit", [1500, 3000, 6000])
def test_record_fits_the_limit_and_reports_omitted_bytes(limit: int) -> None:
    taken = make_recorder(limit)
    taken.record_body(b'{"input":"' + b"x" * (limit // 3) + b'"}')
    attempt = taken.record_attempt(
        UPSTREAM, "generic", "chat", URL, b'{"input":"' + b"y" * 200 + b'"}'
    )
    attempt.record_head(httpx2.Response(200))
    for _ in range(limit // 50):
        list(attempt.tap(iter([b'data: {"text":"\\u0000\\u0000"}\n\n'])))
    taken.record_answer_head(200, []).add(b"\x00" * (limit // 8))

    made = make_record(taken, limit)

    assert not made["exchange"]["whole"]
    assert "left_out" in json.dumps(made)


def test_record_reports_bytes_of_omitted_bodies() -> None:
    taken = make_recorder(limit=3000)
    taken.record_body(b'{"input":"%s","model":"m"}' % (b"x" * 5000))
    taken.record_answer_head(200, []).add(b"z" * 5000)

    made = make_record(taken, 3000)

    body = made["client"]["request"]
    assert body["body"] == {"input": "[5000 characters left out]", "model": "m"}
    assert body["left_out"] > 4900
    assert made["client"]["answer"]["left_out"] == 5000


@check_each("said", [b"", b"{}", b'{"exchange":{}', b"not,"])
def test_parse_summary_rejects_other_data(said: bytes) -> None:
    with pytest.raises(ValueError, match="not a record"):
        parse_summary(said)


DEEP = b'{"password":"hidden","a":' + b"[" * 900 + b"]" * 900 + b"}"


def test_json_that_is_too_deep_to_be_written_is_left_out() -> None:
    taken = make_recorder()
    taken.record_body(DEEP)
    attempt = taken.record_attempt(UPSTREAM, "generic", "chat", URL, b'{"model":"b"}')
    attempt.record_head(httpx2.Response(200))
    list(attempt.tap(iter([b"data: " + DEEP + b"\n\n", b"data: [DONE]\n\n"])))
    taken.record_answer_head(400, []).add(b'{"error":"deep"}')
    done = make_context(usage={"details": json.loads(DEEP)})

    encoded = encode_record("ex_1", taken, done, 0.25, Redactor(("password",)), 100_000)

    made = json.loads(encoded)
    (asked,) = made["upstream"]
    assert made["exchange"]["whole"] is False
    assert made["client"]["request"]["left_out"] == len(DEEP)
    assert made["client"]["answer"]["body"] == {"error": "deep"}
    assert asked["request"] == {"body": {"model": "b"}}
    assert asked["answer"]["left_out"] == len(b"data: " + DEEP + b"\n\ndata: [DONE]\n\n")
    assert "usage" not in made
    assert b"hidden" not in encoded


@check_each("depth", range(235, 262))
def test_json_of_any_depth_is_recorded(depth: int) -> None:
    taken = make_recorder()
    taken.record_body(b"[" * depth + b"]" * depth)
    attempt = taken.record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    attempt.record_head(httpx2.Response(200))
    list(attempt.tap(iter([b"data: " + b"[" * depth + b"]" * depth + b"\n\n"])))

    encoded = encode_record("ex_1", taken, make_context(), 0.25, Redactor(()), 100_000)

    assert encoded.startswith(b'{"exchange":')
