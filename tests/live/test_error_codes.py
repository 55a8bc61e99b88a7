"""An upstream's errors over real HTTP: every client gets the status and code that programs act on.

As an HTTP error, as the first event of a 200, in the midst of a stream, over a WebSocket, and as
the stored error of background work.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.fake_provider import Answer, Framing, Raw, ScriptedUpstream, Stream
from tests.helpers.check_cases import check_each
from tests.live.conftest import Serve, make_settings
from tests.live.server import Server
from tests.live.talk import PAIRINGS, PATHS, ClientAnswer, Json, http, make_body, send_request
from tests.live.test_websocket import open_session

every_pairing = check_each(("client", "upstream_api"), PAIRINGS)
every_upstream = check_each("upstream_api", PATHS)
either = check_each("stream", [False, True], ids=["whole", "streamed"])

VLLM = "This model's maximum context length is 100 tokens. However, your request has 120 tokens."
DEEPSEEK = (
    "This model's maximum context length is 100 tokens. However, you requested 120 tokens "
    "(120 in the messages, 0 in the completion)."
)
TOO_LONG: dict[str, Json] = {
    "vllm": {"message": VLLM, "type": "BadRequestError", "param": None, "code": 400},
    "deepseek": {"message": DEEPSEEK, "type": "invalid_request_error", "param": None,
                 "code": "invalid_request_error"},
    "perplexity": {"message": "The total length of all messages is too long.",
                   "type": "too_many_prompt_tokens", "code": 400},
    "openai": {"message": "Too much.", "type": "invalid_request_error", "param": "input",
               "code": "context_length_exceeded"},
}  # fmt: skip
every_wording = check_each("error", TOO_LONG.values(), ids=TOO_LONG)

FIRST = [
    ({"message": "No money.", "type": "insufficient_quota", "code": "insufficient_quota"},
     429, "insufficient_quota"),
    ({"message": "Wait.", "type": "requests", "code": "rate_limit_exceeded"},
     429, "rate_limit_exceeded"),
    ({"message": "Overloaded", "type": "overloaded_error"}, 503, "server_is_overloaded"),
    ({"message": "Slow down.", "type": "server_error", "code": "slow_down"}, 503, "slow_down"),
    ({"message": "Model Not Exist", "type": "invalid_request_error", "code": "x"},
     404, "model_not_found"),
    ({"message": "Not for you.", "type": "x", "code": "permission_denied"},
     403, "permission_denied"),
    (TOO_LONG["vllm"], 400, "context_length_exceeded"),
]  # fmt: skip
"""An error, and its expected status and code."""

UNCHANGED_CODES = ["insufficient_quota", "server_is_overloaded", "slow_down", "cyber_policy",
        "rate_limit_exceeded", "context_length_exceeded", "invalid_prompt"]  # fmt: skip


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    return serve(make_settings(upstream))


def make_refusal(error: Any, status: int = 400) -> Raw:
    body = json.dumps({"error": error}).encode()
    return Raw(body=body, status=status, headers={"content-type": "application/json"})


def make_event_stream(*events: Json) -> Raw:
    """A stream of these events, and no ``[DONE]``."""
    return Raw(events=events, framing=Framing(done=False))


def make_error_event(error: Json, upstream_api: str, shape: str) -> Json:
    """The only event of a stream in which an upstream reports an error."""
    if upstream_api == "chat":
        return {"error": error} if shape != "flat" else {"object": "error", **error}
    if shape == "failed":
        response = {"id": "resp_1", "object": "response", "status": "failed", "error": error,
                    "output": []}  # fmt: skip
        return {"type": "response.failed", "sequence_number": 0, "response": response}
    fields = {"error": error} if shape == "nested" else {**error, "code": error.get("code")}
    return {**fields, "type": "error", "sequence_number": 0}


def make_broken_stream(error: Json, after: int = 6) -> Stream:
    """An answer that breaks with ``error`` instead of an event."""

    def change(events: list[Json], request: Any) -> list[Json]:
        endings = [make_error_event(error, request.protocol, "nested")]
        if request.protocol == "responses":
            endings.append(make_error_event(error, "responses", "failed"))
        numbered = [{**e, "sequence_number": after + i} if "type" in e else e
                    for i, e in enumerate(endings)]  # fmt: skip
        return [*events[:after], *numbered]

    return Stream(Answer(text="It begins well.", pieces=4), [change], framing=Framing(done=False))


def read_error(response: ClientAnswer) -> Json:
    """The error that a client reads: of an error response, or of the last event."""
    if not response.is_streamed or response.status >= 400:
        return response.error
    last = response.events[-1]
    error: Json = last["error"] if response.client == "chat" else last["response"]["error"]
    return error


# -- too long -------------------------------------------------------------------------------------


@every_pairing
@either
@every_wording
def test_a_context_that_is_too_long_is_a_400(
    client: str,
    upstream_api: str,
    stream: bool,
    error: Json,
    forwarder: Server,
    upstream: ScriptedUpstream,
) -> None:
    upstream.forget()
    upstream.script(make_refusal(error))

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert response.status == 400
    assert response.error["code"] == "context_length_exceeded"
    assert response.error["type"] == "invalid_request_error"
    assert response.error["message"] == error["message"]
    assert len(upstream.requests) == 1, "nothing is tried again"


@every_pairing
@every_wording
def test_error_within_a_stream_has_its_code(
    client: str, upstream_api: str, error: Json, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(make_broken_stream(error))

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
    )

    assert (response.status, response.ending) == (200, "failed")
    assert read_error(response)["code"] == "context_length_exceeded"
    assert read_error(response)["message"] == error["message"]
    if client == "responses":
        [error_event] = [event for event in response.events if event["type"] == "error"]
        assert error_event["code"] == error_event["error"]["code"] == "context_length_exceeded"
        numbers = [event["sequence_number"] for event in response.events]
        assert numbers == sorted(set(numbers))


@every_upstream
@every_wording
def test_error_over_a_websocket_has_its_code(
    upstream_api: str, error: Json, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(
        make_refusal(error),
        make_event_stream(make_error_event(error, upstream_api, "nested")),
        make_broken_stream(error),
    )
    with open_session(forwarder) as session:
        for _ in range(2):
            [event] = session.run_turn("hi", model=f"{upstream_api}/m")
            assert (event["type"], event["status"]) == ("error", 400)
            assert event["error"]["code"] == "context_length_exceeded"
        last_event = session.run_turn("hi", model=f"{upstream_api}/m")[-1]

    assert last_event["type"] == "response.failed"
    assert last_event["response"]["error"]["code"] == "context_length_exceeded"


@every_upstream
def test_background_work_stores_its_code(
    upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    error = TOO_LONG["deepseek"]
    for answer in (
        make_refusal(error),
        make_event_stream(make_error_event(error, upstream_api, "nested")),
        make_broken_stream(error),
    ):
        upstream.script(answer)
        body = make_body("responses", model=f"{upstream_api}/m", background=True)
        queued_response = http.post(f"{forwarder.v1}/responses", json=body).json()
        deadline = time.monotonic() + 10
        while (result := get(forwarder, queued_response["id"]))["status"] in (
            "queued",
            "in_progress",
        ):
            assert time.monotonic() < deadline, result
            time.sleep(0.05)
        assert result["error"]["code"] == "context_length_exceeded"
        assert result["error"]["message"] == DEEPSEEK


def get(forwarder: Server, name: str) -> Json:
    response: Json = http.get(f"{forwarder.v1}/responses/{name}").json()
    return response


# -- an error that comes first in a 200 ------------------------------------------------------------


@every_pairing
@either
@check_each("shape", ["nested", "flat", "failed"])
@check_each(("error", "status", "code"), FIRST, parts=3)
def test_error_as_the_first_event_has_the_status_of_its_code(
    client: str, upstream_api: str, stream: bool, shape: str, error: Json, status: int, code: str,
    forwarder: Server, upstream: ScriptedUpstream,
) -> None:  # fmt: skip
    upstream.forget()
    upstream.script(make_event_stream(make_error_event(error, upstream_api, shape)))

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert response.status == status
    assert response.error["message"] == error["message"]
    assert response.error["code"] == code
    assert response.error.keys() <= {"message", "type", "param", "code", "object"}
    assert response.error["type"] != "error"


@every_pairing
@either
@check_each("shape", ["nested", "flat"])
@check_each(("error", "status", "code"), FIRST, parts=3)
def test_error_as_the_only_answer_has_the_status_of_its_code(
    client: str, upstream_api: str, stream: bool, shape: str, error: Json, status: int, code: str,
    forwarder: Server, upstream: ScriptedUpstream,
) -> None:  # fmt: skip
    upstream.forget()
    body = {"error": error} if shape == "nested" else {"object": "error", **error}
    upstream.script(
        Raw(body=json.dumps(body).encode(), headers={"content-type": "application/json"})
    )

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert (response.status, response.error["message"]) == (status, error["message"])
    assert response.error["code"] == code


@every_pairing
@check_each("shape", ["nested", "flat"])
def test_a_refused_key_in_a_200_response_is_a_forwarder_error(
    client: str, upstream_api: str, shape: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    error = {"message": "Bad key.", "type": "authentication_error", "code": "invalid_api_key"}
    upstream.script(
        make_event_stream(make_error_event(error, upstream_api, shape)), make_refusal(error, 400)
    )

    for _ in range(2):
        response = send_request(
            forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
        )
        assert (response.status, response.error["code"]) == (403, "upstream_authentication")


# -- codes ----------------------------------------------------------------------------------------


@every_pairing
@check_each("code", UNCHANGED_CODES)
def test_a_code_is_kept_within_a_stream(
    client: str, upstream_api: str, code: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(make_broken_stream({"message": "No.", "code": code, "type": "t"}))

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
    )

    assert (response.status, read_error(response)["code"]) == (200, code)


@every_upstream
def test_a_usage_limit_says_when_it_resets(
    upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    error = {"message": "Enough.", "type": "usage_limit_reached", "plan_type": "p", "resets_at": 7}
    upstream.script(make_broken_stream(error), make_refusal(error, 429))
    body = make_body("responses", model=f"{upstream_api}/m", stream=True)

    stream_error = read_error(send_request(forwarder, "responses", body))
    refusal = send_request(forwarder, "responses", body)

    assert (stream_error["code"], stream_error["resets_at"]) == ("usage_limit_reached", 7)
    assert (refusal.status, refusal.error["type"]) == (429, "usage_limit_reached")
    assert refusal.error["resets_at"] == 7


@every_pairing
def test_a_model_that_the_upstream_does_not_know_is_a_404(
    client: str, upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    for error in (
        {"message": "Model Not Exist", "type": "invalid_request_error",
         "code": "invalid_request_error"},
        {"message": "Unknown model: m", "code": "unknown_model"},
    ):  # fmt: skip
        upstream.script(make_refusal(error))
        response = send_request(forwarder, client, make_body(client, model=f"{upstream_api}/m"))
        assert (response.status, response.error["code"]) == (404, "model_not_found")
        assert response.error["message"] == error["message"]


# -- retries --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def retrying_forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """A forwarder that tries again."""
    retries = {f"{name}_MAX_RETRIES": "2" for name in ("CHAT", "RESPONSES")}
    waits = {f"{name}_RETRY_WAIT": "5" for name in ("CHAT", "RESPONSES")}
    return serve(make_settings(upstream, **retries, **waits))


@every_pairing
@check_each("in_stream", [True, False])
@check_each(
    ("error", "status", "requests"),
    [
        ({"message": "No.", "type": "overloaded_error"}, 529, 2),
        ({"message": "No.", "code": "rate_limit_exceeded"}, 429, 2),
        ({"message": "No.", "code": "insufficient_quota"}, 429, 1),
        ({"message": "The prompt is too long."}, 500, 1),
        ({"message": "No.", "code": "model_not_found"}, 503, 1),
    ],
)
def test_only_temporary_errors_are_retried(
    client: str, upstream_api: str, in_stream: bool, error: Json, status: int, requests: int,
    retrying_forwarder: Server, upstream: ScriptedUpstream,
) -> None:  # fmt: skip
    upstream.forget()
    failing = (
        make_event_stream(make_error_event(error, upstream_api, "nested"))
        if in_stream
        else make_refusal(error, status)
    )
    upstream.script(failing, *([Answer(text="Well.")] if requests > 1 else []))

    response = send_request(
        retrying_forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
    )

    assert (response.status == 200) is (requests > 1)
    assert len(upstream.requests) == requests
