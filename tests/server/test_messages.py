"""The routes of Anthropic's Messages API."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.context.redaction import Redactor
from forwarder.observability.capture.replay import (
    diff_answers,
    make_replay_answer,
    make_replay_request,
    read_recorded_answer,
)
from tests.helpers.check_cases import check_each
from tests.helpers.messages import event_mistakes, message_mistakes, rebuild_message
from tests.server.conftest import Serve, make_stream_response

Json = dict[str, Any]

HEADERS = {"anthropic-version": "2023-06-01"}
BODY: Json = {
    "model": "m",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}
CHAT = {"RESPONSES_BASE_URL": "", "CHAT_BASE_URL": "http://up.test/v1"}
RESPONSES = {"RESPONSES_BASE_URL": "http://up.test/v1", "CHAT_BASE_URL": ""}


def post_message(client: FlaskClient, path: str = "/v1/messages", **change: Any) -> TestResponse:
    headers = {**HEADERS, **change.pop("headers", {})}
    buffered = change.pop("buffered", False)
    return client.post(path, json={**BODY, **change}, headers=headers, buffered=buffered)


def read_events(answer: TestResponse) -> list[Json]:
    blocks = [block.split("\n") for block in answer.text.split("\n\n") if block]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [f"event: {event['type']}" for event in events] == [name for name, _ in blocks]
    return events


@check_each("upstream", ["chat", "responses"])
def test_whole_and_streamed_answers_are_equal(upstream: str, demo: FlaskClient) -> None:
    thinking = {"type": "enabled", "budget_tokens": 2000}
    whole_answer = post_message(demo, model=f"{upstream}/demo", thinking=thinking)
    stream = post_message(demo, model=f"{upstream}/demo", thinking=thinking, stream=True)

    events = read_events(stream)
    assert [mistake for event in events for mistake in event_mistakes(event)] == []
    message, rebuilt = whole_answer.get_json(), rebuild_message(events)
    assert message_mistakes(message) == []
    assert stream.mimetype == "text/event-stream"
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    for each in (rebuilt, message):  # they differ in every answer
        assert each["content"][0].pop("signature")
    assert rebuilt["content"] == message["content"]
    assert rebuilt["stop_reason"] == message["stop_reason"] == "end_turn"
    assert whole_answer.headers["request-id"] == whole_answer.headers["X-Request-Id"]


@check_each("path", ["/v1/messages", "/messages", "/v1/v1/messages", "/v1/messages/?beta=true"])
def test_base_urls_may_have_several_forms(path: str, demo: FlaskClient) -> None:
    assert post_message(demo, path).status_code == 200


def test_thinking_goes_back_to_the_upstream(serve: Serve) -> None:
    """The seal of the first answer can be used only by its client."""
    bodies: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.read()))
        item = {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "so"}],
            "encrypted_content": "gAAA",
        }
        message = {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
        }
        response = {
            "id": "resp_1",
            "object": "response",
            "status": "completed",
            "output": [item, message],
        }
        return httpx2.Response(200, json=response)

    client = serve(answer, **RESPONSES, FORWARDER_API_KEYS="one,two", RESPONSES_PROVIDER="openai")
    thinking = {"type": "adaptive"}
    first = post_message(
        client, headers={"x-api-key": "one"}, thinking=thinking, model="gpt-5"
    ).get_json()
    turn = {"role": "assistant", "content": first["content"]}
    more = [*BODY["messages"], turn, {"role": "user", "content": "More"}]
    for key in ("one", "two"):
        headers = {"x-api-key": key}
        post_message(client, messages=more, headers=headers, thinking=thinking, model="gpt-5")

    own, foreign = ([i for i in body["input"] if i["type"] == "reasoning"] for body in bodies[1:])
    assert [item["encrypted_content"] for item in own] == ["gAAA"]
    assert foreign == []


def answer_one_end_two(request: httpx2.Request) -> httpx2.Response:
    place = {"output_index": 0, "content_index": 0}
    delta = {"type": "response.output_text.delta", **place, "delta": "one END two"}
    return make_stream_response(
        {"type": "response.created", "response": {"id": "resp_1"}},
        delta,
        {"type": "response.completed", "response": {"id": "resp_1", "output": []}},
    )


def test_stop_sequence_over_a_responses_upstream_is_named(serve: Serve) -> None:
    message = post_message(
        serve(answer_one_end_two, **RESPONSES), stop_sequences=["END"]
    ).get_json()

    assert message["content"] == [{"type": "text", "text": "one "}]
    assert message["stop_sequence"] == "END"


def test_cut_answers_count_for_the_clients_limit_of_tokens(serve: Serve) -> None:
    limit = {"FORWARDER_RATE_LIMIT_TOKENS": "50/hour"}
    client = serve(answer_one_end_two, **limit, **RESPONSES)

    cut = post_message(client, stop_sequences=["END"], system="x" * 400)
    assert cut.get_json()["usage"]["input_tokens"] > 50
    assert read_error(post_message(client)) == (429, "rate_limit_error")


# -- errors -------------------------------------------------------------------------------------


def read_error(answer: TestResponse) -> tuple[int, str]:
    body = answer.get_json()
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == answer.headers["request-id"]
    assert body["error"].keys() == {"type", "message"}
    return answer.status_code, body["error"]["type"]


def test_errors_have_anthropics_form_everywhere(serve: Serve) -> None:
    client = serve(lambda request: httpx2.Response(500), FORWARDER_API_KEYS="k", **CHAT)
    key = {"x-api-key": "k"}

    assert read_error(post_message(client)) == (401, "authentication_error")
    assert read_error(post_message(client, headers={"x-api-key": "no"})) == (
        401,
        "authentication_error",
    )
    assert read_error(post_message(client, headers=key, messages=1)) == (
        400,
        "invalid_request_error",
    )
    assert read_error(post_message(client, "/v1/messages/nothing")) == (404, "not_found_error")
    assert read_error(post_message(client, "/nowhere")) == (404, "not_found_error")
    assert read_error(client.get("/v1/messages")) == (405, "invalid_request_error")
    assert read_error(client.post("/v1/messages", data="{", headers=key)) == (
        400,
        "invalid_request_error",
    )
    assert read_error(client.get("/v1/models", headers=HEADERS)) == (401, "authentication_error")
    assert client.post("/v1/chat/completions").get_json()["error"]["code"] == "invalid_api_key"


def test_limits_of_the_forwarder_have_anthropics_form(serve: Serve) -> None:
    done = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    limits = {"FORWARDER_RATE_LIMIT_REQUESTS": "1/hour"}
    client = serve(lambda _: httpx2.Response(200, json=done), **limits, **CHAT)

    assert post_message(client).status_code == 200
    limited = post_message(client)
    assert read_error(limited) == (429, "rate_limit_error")
    assert int(limited.headers["Retry-After"]) > 0


def test_bodies_have_a_limit(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500), FORWARDER_MAX_BODY="1k", **CHAT)
    large = [{"role": "user", "content": "x" * 2000}]

    assert read_error(post_message(client, messages=large)) == (413, "request_too_large")


def test_bearer_keys_are_accepted(serve: Serve) -> None:
    done = {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    client = serve(lambda _: httpx2.Response(200, json=done), FORWARDER_API_KEYS="k", **CHAT)

    assert post_message(client, headers={"Authorization": "Bearer k"}).status_code == 200


@check_each(
    ("status", "expected"),
    [
        (400, (400, "invalid_request_error")),
        (404, (404, "not_found_error")),
        (429, (429, "rate_limit_error")),
        (529, (529, "overloaded_error")),
    ],
)
def test_errors_of_the_upstream_have_anthropics_form(
    status: int, expected: tuple[int, str], serve: Serve
) -> None:
    error = {"error": {"message": "no", "code": "x"}}
    client = serve(
        lambda request: httpx2.Response(status, json=error), CHAT_MAX_RETRIES="0", **CHAT
    )

    assert read_error(post_message(client)) == expected


def test_full_context_is_reported_as_claude_code_expects(serve: Serve) -> None:
    error = {"error": {"message": "too many tokens", "code": "context_length_exceeded"}}
    client = serve(lambda request: httpx2.Response(400, json=error), **CHAT)

    message = post_message(client).get_json()["error"]["message"]
    assert message == "prompt is too long: too many tokens"


def test_failure_in_a_stream_is_its_last_event(serve: Serve) -> None:
    first = {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    client = serve(lambda request: make_stream_response(first, done=False), **CHAT)

    events = read_events(post_message(client, stream=True))

    assert events[-1]["type"] == "error"
    assert [event["type"] for event in events].count("error") == 1


def test_parameters_in_errors_are_the_clients(serve: Serve) -> None:
    error = {"error": {"message": "no", "param": "max_completion_tokens"}}
    client = serve(lambda request: httpx2.Response(400, json=error), **CHAT)
    dropped = post_message(client, top_k=3, thinking={"type": "disabled"})

    assert dropped.status_code == 400
    assert dropped.headers["X-Forwarder-Dropped"] == "top_k"


# -- tokens and models --------------------------------------------------------------------------


def test_tokens_are_counted_without_a_limit(demo: FlaskClient) -> None:
    body = {"model": "demo", "system": "x" * 400, "messages": BODY["messages"]}
    more = {**body, "tools": [{"name": "f", "input_schema": {"type": "object"}}]}
    counts = []
    for each in (body, more):
        answer = demo.post("/v1/messages/count_tokens", json=each, headers=HEADERS)
        assert answer.headers["X-Forwarder-Estimated"] == "input_tokens"
        counts.append(answer.get_json()["input_tokens"])
    assert 100 < counts[0] < counts[1] < 200


def test_counting_tokens_needs_a_key(serve: Serve) -> None:
    client = serve(lambda request: httpx2.Response(500), FORWARDER_API_KEYS="k", **CHAT)

    assert read_error(post_message(client, "/v1/messages/count_tokens")) == (
        401,
        "authentication_error",
    )


def test_models_have_anthropics_form_for_its_clients(demo: FlaskClient) -> None:
    listed = demo.get("/v1/models?limit=1", headers=HEADERS).get_json()
    one = demo.get("/v1/models/demo", headers=HEADERS).get_json()

    assert listed["has_more"] is True
    assert listed["data"][0]["type"] == one["type"] == "model"
    assert one["id"] == "demo"
    assert demo.get("/v1/models").get_json()["object"] == "list"
    assert demo.get("/v1/models/demo").get_json()["object"] == "model"
    assert read_error(demo.get("/v1/models/none", headers=HEADERS))[0] == 404


# -- around -------------------------------------------------------------------------------------


@check_each("streamed", [False, True])
def test_captured_exchanges_can_be_replayed(streamed: bool) -> None:
    settings = Settings.from_env({"FORWARDER_CAPTURE": "memory", "FORWARDER_DATABASE_URL": "none"})
    client = create_app(settings).test_client()
    thinking = {"type": "adaptive"}
    first = post_message(
        client, model="chat/demo", stream=streamed, thinking=thinking, buffered=True
    )
    record = client.get(f"/forwarder/exchanges/{first.headers['request-id']}").get_json()

    replay = make_replay_request(record, None)
    second = client.post(replay.path, data=replay.body, headers=replay.headers)

    now = make_replay_answer(second.status_code, second.get_data(), Redactor(()))
    assert diff_answers(read_recorded_answer(record), now) == []
    assert [attempt["protocol"] for attempt in record["upstream"]] == ["chat"]


@check_each(("upstream", "field"), [("chat", "messages"), ("responses", "input")])
def test_dry_run_shows_the_upstream_request(upstream: str, field: str, demo: FlaskClient) -> None:
    body = {**BODY, "model": f"{upstream}/demo", "top_k": 3, "stop_sequences": ["END"]}

    report = demo.post("/forwarder/translate?from=messages", json=body).get_json()

    assert field in report["request"]
    assert report["client"] == "messages"
    assert report["dispositions"]["max_tokens"]["disposition"] == "mapped"
    assert report["dispositions"]["top_k"]["disposition"] == "dropped"
