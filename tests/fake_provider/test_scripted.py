"""The upstream as a provider: paths, keys, scripts, refusals, and records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.fake_provider import Answer, Call, Raw, ScriptedUpstream, faults

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES: dict[str, Any] = {"model": "m", "input": "hi"}


Post = Callable[..., httpx2.Response]


@pytest.fixture
def post(http: httpx2.Client) -> Post:
    """A plain POST below the base URL."""

    def post(upstream: ScriptedUpstream, path: str, body: Any, **headers: str) -> httpx2.Response:
        return http.post(f"{upstream.url}{path}", json=body, headers=headers)

    return post


def test_answers_are_used_in_order_on_either_protocol(
    upstream: ScriptedUpstream, post: Post
) -> None:
    """When no answer is left, the prompt decides."""
    upstream.script(Answer(text="one"), Answer(text="two"))

    assert "one" in post(upstream, "/chat/completions", CHAT).text
    assert upstream.unused_count == 1
    assert "two" in post(upstream, "/responses", RESPONSES).text
    assert "scripted upstream" in post(upstream, "/responses", RESPONSES).text


def test_request_is_recorded_unchanged(upstream: ScriptedUpstream, post: Post) -> None:
    post(upstream, "/chat/completions?api-version=1", CHAT, **{"X-Mine": "yes"})

    request = upstream.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.query == {"api-version": "1"}
    assert request.headers["x-mine"] == "yes"
    assert request.body == CHAT
    assert request.status == 200
    assert request.finished.wait(1)


def test_a_wrong_request_is_refused_and_leaves_the_script_alone(
    upstream: ScriptedUpstream, sdk: OpenAI
) -> None:
    """The error has OpenAI's format and names the parameter."""
    upstream.script(Answer(text="one"))

    with pytest.raises(openai.BadRequestError) as excinfo:
        sdk.responses.create(model="m", input="hi", extra_body={"stop": ["x"]})

    assert excinfo.value.param == "stop"
    assert excinfo.value.code == "unknown_parameter"
    assert [str(v) for v in upstream.requests[0].violations] == ["Unknown parameter: 'stop'."]
    assert upstream.unused_count == 1


def test_strictness_can_be_switched_off(post: Post) -> None:
    with ScriptedUpstream(strict=False) as upstream:
        assert post(upstream, "/responses", {**RESPONSES, "stop": "x"}).status_code == 200


def test_additional_parameters_can_be_accepted(post: Post) -> None:
    with ScriptedUpstream(extra_params={"enable_thinking"}) as upstream:
        body = {**CHAT, "enable_thinking": True}
        assert post(upstream, "/chat/completions", body).status_code == 200
        assert post(upstream, "/chat/completions", {**body, "other": 1}).status_code == 400


def test_refuse_option_rejects_parameters(post: Post) -> None:
    with ScriptedUpstream(refuse={"stream_options"}) as upstream:
        body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        assert (
            post(upstream, "/chat/completions", body).json()["error"]["param"] == "stream_options"
        )
        assert post(upstream, "/chat/completions", CHAT).status_code == 200
    with pytest.raises(ValueError, match="no such rules"):
        ScriptedUpstream(refuse={"nonsense"})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer sk-y"}, 401),
        ({"authorization": "Bearer sk-x"}, 200),
        ({"api-key": "sk-x"}, 200),
    ],
)
def test_requests_with_unknown_keys_are_refused(
    headers: dict[str, str], status: int, post: Post
) -> None:
    with ScriptedUpstream(keys={"sk-x"}) as upstream:
        assert post(upstream, "/chat/completions", CHAT, **headers).status_code == status


def test_models_are_listed(upstream: ScriptedUpstream, sdk: OpenAI) -> None:
    assert "scripted" in [model.id for model in sdk.models.list()]
    assert sdk.models.retrieve("scripted").object == "model"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nothing")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/v1/chat/completions", 404),
        ("POST", "/chat/completions", 404),
        ("POST", "/v1/responses/compact", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/openai/deployments/x/chat/completions", 200),
        ("POST", "/openai/v1/chat/completions", 200),
    ],
)
def test_unknown_paths_and_methods_are_refused(
    upstream: ScriptedUpstream, method: str, path: str, status: int, http: httpx2.Client
) -> None:
    url = upstream.url.removesuffix("/v1") + path

    assert http.request(method, url, json=CHAT).status_code == status


def test_a_body_that_is_not_json_is_refused(
    upstream: ScriptedUpstream, http: httpx2.Client
) -> None:
    """It is recorded as None."""
    response = http.post(f"{upstream.url}/responses", content=b"{")

    assert response.status_code == 400
    assert upstream.requests[0].body is None


def test_stored_response_can_be_continued(upstream: ScriptedUpstream, sdk: OpenAI) -> None:
    """Its calls can be answered. A response that is not stored is unknown."""
    upstream.script(Answer(reasoning="hm", calls=[Call("f", id="call_a")]))
    first = sdk.responses.create(model="m", input="hi")
    result: Any = [{"type": "function_call_output", "call_id": "call_a", "output": "1"}]

    sdk.responses.create(model="m", input=result, previous_response_id=first.id)

    unstored_response = sdk.responses.create(model="m", input="hi", store=False)
    with pytest.raises(openai.BadRequestError, match="Previous response"):
        sdk.responses.create(model="m", input="hi", previous_response_id=unstored_response.id)


def test_raw_answers_are_sent_unchanged(upstream: ScriptedUpstream, post: Post) -> None:
    upstream.script(Raw(events=[{"type": "x", "a": 1}]), Raw(body=b"plain", status=418))

    assert (
        post(upstream, "/responses", RESPONSES).text == 'event: x\ndata: {"type": "x", "a": 1}\n\n'
    )
    response = post(upstream, "/responses", RESPONSES)
    assert (response.status_code, response.text) == (418, "plain")


def test_upstream_without_a_script_follows_the_prompt(sdk: OpenAI) -> None:
    content = "please do [[scenario:refusal]] [[tag:t1]]"

    completion = sdk.chat.completions.create(
        model="m", messages=[{"role": "user", "content": content}]
    )

    assert completion.choices[0].message.refusal


def test_the_sdk_raises_the_error_of_the_status(upstream: ScriptedUpstream, sdk: OpenAI) -> None:
    upstream.script(faults.refuse_with_status(429, retry_after=7))

    with pytest.raises(openai.RateLimitError) as excinfo:
        sdk.responses.create(model="m", input="hi", stream=True)

    assert excinfo.value.response.headers["retry-after"] == "7"
    assert excinfo.value.code == "rate_limit_exceeded"


def test_texts_are_embedded_by_their_length(upstream: ScriptedUpstream, post: Post) -> None:
    answer = post(upstream, "/embeddings", {"model": "m", "input": ["four", "seventy"]}).json()

    assert [entry["embedding"] for entry in answer["data"]] == [[3.0, 4.0], [3.0, 7.0]]
    assert post(upstream, "/embeddings", {"model": "m", "input": [1]}).status_code == 400
    assert post(upstream, "/embeddings", ["m"]).status_code == 400
