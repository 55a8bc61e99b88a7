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
    recorder = make_recorder()
    recorder.record_body(b'{"model":"a","input":"hi","previous_response_id":"r"}')
    recorder.record_resumed_body({"model": "a", "input": ["before", "hi"]})
    attempt = recorder.record_attempt(UPSTREAM, "generic", "chat", URL, b'{"model":"b"}')
    attempt.record_head(httpx2.Response(200, headers={"x-request-id": "u", "Set-Cookie": "c"}))
    list(attempt.tap(iter([b'data: {"a":1}\n\n', b"data: [DONE]\n\n"])))
    recorder.record_answer_head(200, [("X-Request-Id", "req_1")]).add(b'{"id":"resp_1"}')
    done = make_context(
        upstream="chat",
        model="b",
        client_name="alice",
        retries=1,
        failed_upstreams=["spare"],
        usage={"t": 1},
    )
    done.loss_report.note("seed", "not known there")

    data = encode_record("ex_1", recorder, done, 0.25, Redactor(()), 10_000)

    record = json.loads(data)
    assert record["exchange"] == parse_summary(data)
    assert record["exchange"] | {"time": ""} == {
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
    client = record["client"]
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
    (upstream_record,) = record["upstream"]
    assert (upstream_record["upstream"], upstream_record["protocol"], upstream_record["model"]) == (
        "chat",
        "chat",
        "b",
    )
    assert upstream_record["request"] == {"body": {"model": "b"}}
    assert upstream_record["answer"]["headers"] == [["x-request-id", "u"], ["set-cookie", "***"]]
    assert [event.get("data") for event in upstream_record["answer"]["events"]] == [{"a": 1}, None]
    assert record["dropped"] == {"seed": "not known there"}
    assert (record["failed"], record["retries"], record["usage"]) == (["spare"], 1, {"t": 1})


def test_record_of_a_rejected_request() -> None:
    record = make_record(make_recorder(), 10_000, status=429, error="rate_limit_exceeded")

    assert record["exchange"]["error"] == "rate_limit_exceeded"
    assert "body" not in record["client"]["request"]
    assert "answer" not in record["client"]
    assert record["upstream"] == []


def test_record_keeps_non_json_body_as_text() -> None:
    recorder = make_recorder()
    recorder.record_body(b'{"api_key": "s3cret-value')

    record = make_record(recorder, 10_000, status=400)

    assert record["client"]["request"]["text"] == '{"api_key": "***'
    assert record["exchange"]["redacted"]


@check_each(
    "answer",
    [
        b'data: {"error":{"message":"bad key sk-upstream of sk-client"}}\n\n',
        b'{"error":{"message":"bad key sk-upstream of sk-client"}}',
        b"<p>bad key sk-upstream of sk-client</p>",
        b"bad key sk-upstream \xff of sk-client",
        b': bad key sk-upstream of sk-client\n\ndata: {"sk-upstream":1}\n\n',
    ],
)
def test_record_contains_no_keys(answer: bytes) -> None:
    recorder = make_recorder()
    recorder.record_body(b'{"input":"my key is sk-client"}')
    attempt = recorder.record_attempt(
        UPSTREAM, "generic", "chat", URL, b'{"input":"my key is sk-client"}'
    )
    attempt.record_head(httpx2.Response(400))
    attempt.answer.add(answer)
    recorder.record_answer_head(400, []).add(answer)

    data = encode_record(
        "n", recorder, make_context(client_key="sk-client"), 0.1, Redactor(()), 10_000
    )

    assert b"sk-upstream" not in data
    assert b"sk-client" not in data
    assert data.count(b"***") >= 6


def test_configured_fields_are_redacted_everywhere() -> None:
    recorder = make_recorder()
    recorder.record_body(b'{"user":"jane.doe@example.com","input":"hi"}')
    recorder.record_attempt(
        UPSTREAM, "generic", "chat", URL, b'{"end_user":"jane.doe@example.com"}'
    )
    recorder.record_answer_head(400, []).add(
        b'{"error":{"message":"jane.doe@example.com may not"}}'
    )

    record = make_record(recorder, 10_000, "user")

    assert "jane" not in json.dumps(record)
    assert record["client"]["request"]["body"]["input"] == "hi"


@check_each("limit", [1500, 3000, 6000])
def test_record_fits_the_limit_and_reports_omitted_bytes(limit: int) -> None:
    recorder = make_recorder(limit)
    recorder.record_body(b'{"input":"' + b"x" * (limit // 3) + b'"}')
    attempt = recorder.record_attempt(
        UPSTREAM, "generic", "chat", URL, b'{"input":"' + b"y" * 200 + b'"}'
    )
    attempt.record_head(httpx2.Response(200))
    for _ in range(limit // 50):
        list(attempt.tap(iter([b'data: {"text":"\\u0000\\u0000"}\n\n'])))
    recorder.record_answer_head(200, []).add(b"\x00" * (limit // 8))

    record = make_record(recorder, limit)

    assert not record["exchange"]["whole"]
    assert "left_out" in json.dumps(record)


def test_record_reports_bytes_of_omitted_bodies() -> None:
    recorder = make_recorder(limit=3000)
    recorder.record_body(b'{"input":"%s","model":"m"}' % (b"x" * 5000))
    recorder.record_answer_head(200, []).add(b"z" * 5000)

    record = make_record(recorder, 3000)

    body = record["client"]["request"]
    assert body["body"] == {"input": "[5000 characters left out]", "model": "m"}
    assert body["left_out"] > 4900
    assert record["client"]["answer"]["left_out"] == 5000


@check_each("data", [b"", b"{}", b'{"exchange":{}', b"not,"])
def test_parse_summary_rejects_other_data(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a record"):
        parse_summary(data)


DEEP = b'{"password":"hidden","a":' + b"[" * 900 + b"]" * 900 + b"}"


def test_json_that_is_too_deep_to_be_written_is_left_out() -> None:
    recorder = make_recorder()
    recorder.record_body(DEEP)
    attempt = recorder.record_attempt(UPSTREAM, "generic", "chat", URL, b'{"model":"b"}')
    attempt.record_head(httpx2.Response(200))
    list(attempt.tap(iter([b"data: " + DEEP + b"\n\n", b"data: [DONE]\n\n"])))
    recorder.record_answer_head(400, []).add(b'{"error":"deep"}')
    done = make_context(usage={"details": json.loads(DEEP)})

    encoded = encode_record("ex_1", recorder, done, 0.25, Redactor(("password",)), 100_000)

    record = json.loads(encoded)
    (upstream_request,) = record["upstream"]
    assert record["exchange"]["whole"] is False
    assert record["client"]["request"]["left_out"] == len(DEEP)
    assert record["client"]["answer"]["body"] == {"error": "deep"}
    assert upstream_request["request"] == {"body": {"model": "b"}}
    assert upstream_request["answer"]["left_out"] == len(b"data: " + DEEP + b"\n\ndata: [DONE]\n\n")
    assert "usage" not in record
    assert b"hidden" not in encoded


@check_each("depth", range(235, 262))
def test_json_of_any_depth_is_recorded(depth: int) -> None:
    recorder = make_recorder()
    recorder.record_body(b"[" * depth + b"]" * depth)
    attempt = recorder.record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    attempt.record_head(httpx2.Response(200))
    list(attempt.tap(iter([b"data: " + b"[" * depth + b"]" * depth + b"\n\n"])))

    encoded = encode_record("ex_1", recorder, make_context(), 0.25, Redactor(()), 100_000)

    assert encoded.startswith(b'{"exchange":')
