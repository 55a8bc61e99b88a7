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
from tests.live.talk import PAIRINGS, PATHS, ClientAnswer, Json, ask, http, make_body
from tests.live.test_websocket import talking

every_pairing = check_each(("client", "over"), PAIRINGS)
every_upstream = check_each("over", PATHS)
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
"""An error, and the status and code that it means."""

KEPT = ["insufficient_quota", "server_is_overloaded", "slow_down", "cyber_policy",
        "rate_limit_exceeded", "context_length_exceeded", "invalid_prompt"]  # fmt: skip


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    return serve(make_settings(upstream))


def refusing(error: Any, status: int = 400) -> Raw:
    body = json.dumps({"error": error}).encode()
    return Raw(body=body, status=status, headers={"content-type": "application/json"})


def saying(*events: Json) -> Raw:
    """A stream of these events, and no ``[DONE]``."""
    return Raw(events=events, framing=Framing(done=False))


def event_with(error: Json, over: str, shape: str) -> Json:
    """How an upstream tells an error as the only event of a stream."""
    if over == "chat":
        return {"error": error} if shape != "flat" else {"object": "error", **error}
    if shape == "failed":
        response = {"id": "resp_1", "object": "response", "status": "failed", "error": error,
                    "output": []}  # fmt: skip
        return {"type": "response.failed", "sequence_number": 0, "response": response}
    named = {"error": error} if shape == "nested" else {**error, "code": error.get("code")}
    return {**named, "type": "error", "sequence_number": 0}


def breaking(error: Json, after: int = 6) -> Stream:
    """An answer that breaks with ``error`` instead of an event."""

    def change(events: list[Json], ask_: Any) -> list[Json]:
        last = [event_with(error, ask_.protocol, "nested")]
        if ask_.protocol == "responses":
            last.append(event_with(error, "responses", "failed"))
        numbered = [{**e, "sequence_number": after + i} if "type" in e else e
                    for i, e in enumerate(last)]  # fmt: skip
        return [*events[:after], *numbered]

    return Stream(Answer(text="It begins well.", pieces=4), [change], framing=Framing(done=False))


def error_of(answered: ClientAnswer) -> Json:
    """The error that a client program reads, wherever it stands."""
    if not answered.is_streamed or answered.status >= 400:
        return answered.error
    last = answered.events[-1]
    error: Json = last["error"] if answered.client == "chat" else last["response"]["error"]
    return error


# -- too long -------------------------------------------------------------------------------------


@every_pairing
@either
@every_wording
def test_a_context_that_is_too_long_is_a_400(
    client: str, over: str, stream: bool, error: Json, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(refusing(error))

    answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=stream))

    assert answered.status == 400
    assert answered.error["code"] == "context_length_exceeded"
    assert answered.error["type"] == "invalid_request_error"
    assert answered.error["message"] == error["message"]
    assert len(upstream.requests) == 1, "nothing is tried again"


@every_pairing
@every_wording
def test_error_within_a_stream_has_its_code(
    client: str, over: str, error: Json, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(breaking(error))

    answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=True))

    assert (answered.status, answered.ending) == (200, "failed")
    assert error_of(answered)["code"] == "context_length_exceeded"
    assert error_of(answered)["message"] == error["message"]
    if client == "responses":
        [told] = [event for event in answered.events if event["type"] == "error"]
        assert told["code"] == told["error"]["code"] == "context_length_exceeded"
        numbers = [event["sequence_number"] for event in answered.events]
        assert numbers == sorted(set(numbers))


@every_upstream
@every_wording
def test_error_over_a_websocket_has_its_code(
    over: str, error: Json, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(refusing(error), saying(event_with(error, over, "nested")), breaking(error))
    with talking(forwarder) as talk:
        for _ in range(2):
            [told] = talk.ask("hi", model=f"{over}/m")
            assert (told["type"], told["status"]) == ("error", 400)
            assert told["error"]["code"] == "context_length_exceeded"
        failed = talk.ask("hi", model=f"{over}/m")[-1]

    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["code"] == "context_length_exceeded"


@every_upstream
def test_background_work_stores_its_code(
    over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    error = TOO_LONG["deepseek"]
    for answer in (refusing(error), saying(event_with(error, over, "nested")), breaking(error)):
        upstream.script(answer)
        body = make_body("responses", model=f"{over}/m", background=True)
        queued = http.post(f"{forwarder.v1}/responses", json=body).json()
        deadline = time.monotonic() + 10
        while (found := get(forwarder, queued["id"]))["status"] in ("queued", "in_progress"):
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        assert found["error"]["code"] == "context_length_exceeded"
        assert found["error"]["message"] == DEEPSEEK


def get(forwarder: Server, name: str) -> Json:
    stored: Json = http.get(f"{forwarder.v1}/responses/{name}").json()
    return stored


# -- an error that comes first in a 200 ------------------------------------------------------------


@every_pairing
@either
@check_each("shape", ["nested", "flat", "failed"])
@check_each(("error", "status", "code"), FIRST, parts=3)
def test_error_as_the_first_event_has_the_status_of_its_code(
    client: str, over: str, stream: bool, shape: str, error: Json, status: int, code: str,
    forwarder: Server, upstream: ScriptedUpstream,
) -> None:  # fmt: skip
    upstream.forget()
    upstream.script(saying(event_with(error, over, shape)))

    answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=stream))

    assert answered.status == status
    assert answered.error["message"] == error["message"]
    assert answered.error["code"] == code
    assert answered.error.keys() <= {"message", "type", "param", "code", "object"}
    assert answered.error["type"] != "error"


@every_pairing
@either
@check_each("shape", ["nested", "flat"])
@check_each(("error", "status", "code"), FIRST, parts=3)
def test_error_as_the_only_answer_has_the_status_of_its_code(
    client: str, over: str, stream: bool, shape: str, error: Json, status: int, code: str,
    forwarder: Server, upstream: ScriptedUpstream,
) -> None:  # fmt: skip
    upstream.forget()
    body = {"error": error} if shape == "nested" else {"object": "error", **error}
    upstream.script(
        Raw(body=json.dumps(body).encode(), headers={"content-type": "application/json"})
    )

    answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=stream))

    assert (answered.status, answered.error["message"]) == (status, error["message"])
    assert answered.error["code"] == code


@every_pairing
@check_each("shape", ["nested", "flat"])
def test_a_refused_key_in_a_200_response_is_a_forwarder_error(
    client: str, over: str, shape: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    error = {"message": "Bad key.", "type": "authentication_error", "code": "invalid_api_key"}
    upstream.script(saying(event_with(error, over, shape)), refusing(error, 400))

    for _ in range(2):
        answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=True))
        assert (answered.status, answered.error["code"]) == (403, "upstream_authentication")


# -- codes ----------------------------------------------------------------------------------------


@every_pairing
@check_each("code", KEPT)
def test_a_code_is_kept_within_a_stream(
    client: str, over: str, code: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(breaking({"message": "No.", "code": code, "type": "t"}))

    answered = ask(forwarder, client, make_body(client, model=f"{over}/m", stream=True))

    assert (answered.status, error_of(answered)["code"]) == (200, code)


@every_upstream
def test_a_usage_limit_says_when_it_resets(
    over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    error = {"message": "Enough.", "type": "usage_limit_reached", "plan_type": "p", "resets_at": 7}
    upstream.script(breaking(error), refusing(error, 429))
    body = make_body("responses", model=f"{over}/m", stream=True)

    failed = error_of(ask(forwarder, "responses", body))
    refused = ask(forwarder, "responses", body)

    assert (failed["code"], failed["resets_at"]) == ("usage_limit_reached", 7)
    assert (refused.status, refused.error["type"]) == (429, "usage_limit_reached")
    assert refused.error["resets_at"] == 7


@every_pairing
def test_a_model_that_the_upstream_does_not_know_is_a_404(
    client: str, over: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    for error in (
        {"message": "Model Not Exist", "type": "invalid_request_error",
         "code": "invalid_request_error"},
        {"message": "Unknown model: m", "code": "unknown_model"},
    ):  # fmt: skip
        upstream.script(refusing(error))
        answered = ask(forwarder, client, make_body(client, model=f"{over}/m"))
        assert (answered.status, answered.error["code"]) == (404, "model_not_found")
        assert answered.error["message"] == error["message"]


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
    client: str, over: str, in_stream: bool, error: Json, status: int, requests: int,
    retrying_forwarder: Server, upstream: ScriptedUpstream,
) -> None:  # fmt: skip
    upstream.forget()
    failing = saying(event_with(error, over, "nested")) if in_stream else refusing(error, status)
    upstream.script(failing, *([Answer(text="Well.")] if requests > 1 else []))

    answered = ask(retrying_forwarder, client, make_body(client, model=f"{over}/m", stream=True))

    assert (answered.status == 200) is (requests > 1)
    assert len(upstream.requests) == requests
