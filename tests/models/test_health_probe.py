"""Probe results for the answers of a remote."""

from __future__ import annotations

import json

import httpx2

from forwarder.config.settings import make_upstream_settings
from forwarder.context.request_context import Route
from forwarder.core.errors import InvalidRequest, UpstreamProtocolError
from forwarder.models.health_probe import (
    ProbeResult,
    classify_failure,
    probe_model,
    probe_model_list,
)
from tests.helpers.check_cases import check_each
from tests.models.remotes import (
    Answer,
    answer_normally,
    connect_upstream,
    refuse_connection,
    refusing,
)


def probe_remote(answer: Answer, protocol: str = "chat") -> ProbeResult:
    upstream = connect_upstream(answer)
    return probe_model(upstream, Route(upstream.settings, protocol, "m"))


@check_each("protocol", ["chat", "responses"])
def test_probe_of_a_healthy_upstream_succeeds(protocol: str) -> None:
    check = probe_remote(answer_normally, protocol)

    assert (check.is_reachable, check.is_key_accepted, check.is_model_known, check.is_healthy) == (
        True,
        True,
        True,
        True,
    )
    assert check.latency > 0
    assert check.checked_at > 0


def test_probe_request_is_small_and_closes_its_stream() -> None:
    request_bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        request_bodies.append(request.read())
        return answer_normally(request)

    probe_remote(answer)

    [body] = map(json.loads, request_bodies)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 16,
        "stream": True,
    }


@check_each(
    ("status", "message", "code", "fault"),
    [
        (401, "bad key", None, "key"),
        (403, "forbidden", None, "key"),
        (403, "Project does not have access to model m", "model_not_found", "model"),
        (404, "The model `m` does not exist", "model_not_found", "model"),
        (404, "model 'm' not found, try pulling it first", None, "model"),
        (404, "Not Found", None, "host"),
        (405, "Method Not Allowed", None, "host"),
        (400, "Model Not Exist", None, "model"),
        (400, "m is not a valid model ID", None, "model"),
        (400, "invalid model: m", None, "model"),
        (422, "Unknown model m", None, "model"),
        (400, "messages: too short", None, "request"),
        (402, "Insufficient balance", None, None),
        (429, "slow down", "rate_limit_exceeded", None),
        (500, "oops", None, "host"),
        (503, "overloaded", None, "host"),
        (307, "elsewhere", None, "host"),
    ],
)
def test_refused_requests_name_the_fault(
    status: int, message: str, code: str | None, fault: str | None
) -> None:
    check = probe_remote(refusing(status, message, code))

    assert check.fault == fault
    assert check.is_reachable
    assert check.is_healthy is (fault is None)
    assert (check.is_key_accepted, check.is_model_known) == {
        "key": (False, None),
        "model": (True, False),
        "host": (None, None),
        "request": (True, None),
        None: (True, None),
    }[fault]


def test_probe_of_an_unreachable_upstream_fails() -> None:
    check = probe_remote(refuse_connection)

    assert (check.is_reachable, check.fault) == (False, "host")
    assert "cannot be reached" in str(check.error)


def test_probe_failures_are_classified() -> None:
    assert classify_failure(UpstreamProtocolError("odd"), "m").fault == "host"
    assert classify_failure(InvalidRequest("odd"), "m").fault == "request"


# -- the list ---------------------------------------------------------------------------------


@check_each(("model", "is_known"), [("m", True), ("other", None), (None, None)])
def test_model_list_shows_whether_the_model_is_known(
    model: str | None, is_known: bool | None
) -> None:
    check = probe_model_list(connect_upstream(answer_normally), model)

    assert (check.is_reachable, check.is_key_accepted, check.is_model_known) == (
        True,
        True,
        is_known,
    )


@check_each(
    ("answer", "expected"),
    [
        (refusing(404), (True, None, None)),
        (refusing(401), (True, False, "key")),
        (refusing(403), (True, False, "key")),
        (refusing(500), (True, None, "host")),
        (refuse_connection, (False, None, "host")),
    ],
)
def test_refused_model_list_names_the_fault(answer: Answer, expected: tuple[object, ...]) -> None:
    check = probe_model_list(connect_upstream(answer), "m")

    assert (check.is_reachable, check.is_key_accepted, check.fault) == expected


def test_passthrough_upstream_has_no_key_fault() -> None:
    settings = make_upstream_settings("up", base_url="https://remote.test/v1", passthrough_key=True)

    check = probe_model_list(connect_upstream(refusing(401), settings))

    assert (check.is_healthy, check.is_key_accepted, check.error) == (True, None, None)


def test_probe_result_is_converted_to_json() -> None:
    healthy = ProbeResult(True, True, None, latency=0.0123, checked_at=5.0).to_json()
    assert healthy == {
        "reachable": True,
        "key_accepted": True,
        "model_known": None,
        "latency_ms": 12.3,
        "checked_at": 5.0,
    }
    assert ProbeResult(False, fault="host", error="gone").to_json()["error"] == "gone"
