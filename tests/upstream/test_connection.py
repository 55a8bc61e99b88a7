"""Headers, time-outs and keys of the requests to an upstream."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.translation_context import LossReport
from forwarder.upstream.client import Upstream
from tests.helpers.check_cases import check_each
from tests.upstream.sending import (
    CHAT,
    KEY,
    Provider,
    get_failure,
    make_refusing_provider,
    make_upstream,
    send_request,
)


def test_request_reveals_nothing_about_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-openai")
    provider = Provider()

    send_request(make_upstream(provider))

    prefixes = ("x-stainless", "openai-")
    headers = provider.requests[0].headers
    assert [name for name in headers if name.startswith(prefixes)] == []
    assert headers["user-agent"].startswith("OpenAI/Python ")


def send_for_headers(
    client_headers: dict[str, str], *bodies: dict[str, Any], **environment: str
) -> list[httpx2.Headers]:
    """Send these bodies in one context; return the headers of the requests."""
    provider = Provider()
    upstream = make_upstream(provider, **environment)
    context = RequestContext(
        id="req_1", route="chat", loss_report=LossReport(), client_headers=client_headers
    )
    route = Route(upstream.settings, "chat", "their-model")
    for body in bodies:
        list(upstream.make_handler(route, "chat", context)(body))
    return [request.headers for request in provider.requests]


def test_client_headers_are_forwarded() -> None:
    client_headers = {"Openai-Beta": "a=1", "Http-Referer": "https://a.example", "X-Title": "A"}

    [sent] = send_for_headers(client_headers, CHAT)

    assert client_headers.items() <= {name.title(): value for name, value in sent.items()}.items()


def test_headers_that_the_operator_has_set_are_not_replaced() -> None:
    client_headers = {"Openai-Organization": "theirs", "X-Title": "theirs"}

    [sent] = send_for_headers(
        client_headers, CHAT, UP_HEADERS="openai-organization: ours; X-Other: b"
    )

    assert sent.get_list("openai-organization") == ["ours"]
    assert sent["x-title"] == "theirs"


def test_an_idempotency_key_is_for_one_body_and_its_repeats() -> None:
    key, other = {"Idempotency-Key": "one"}, {**CHAT, "temperature": 0}

    sent = send_for_headers(key, CHAT, other, CHAT)

    assert [headers.get("idempotency-key") for headers in sent] == ["one", None, "one"]


@check_each(
    ("environment", "client_key", "sent"),
    [
        ({}, "theirs", {"authorization": f"Bearer {KEY}"}),
        ({"UP_API_KEY": ""}, "theirs", {}),
        ({"UP_API_KEY": "passthrough"}, "theirs", {"authorization": "Bearer theirs"}),
        ({"UP_API_KEY": "passthrough"}, None, {}),
        ({"UP_PROVIDER": "azure"}, "theirs", {"api-key": KEY}),
        (
            {"UP_PROVIDER": "azure", "UP_API_KEY": "passthrough"},
            "theirs",
            {"api-key": "theirs"},
        ),
        ({"UP_HEADERS": "authorization: Basic x"}, "theirs", {"authorization": "Basic x"}),
    ],
)
def test_each_upstream_gets_its_own_key(
    environment: dict[str, str], client_key: str | None, sent: dict[str, str]
) -> None:
    provider = Provider()
    upstream = make_upstream(provider, **environment)

    send_request(upstream, key=client_key)

    headers = provider.requests[0].headers
    assert {k: headers[k] for k in ("authorization", "api-key") if k in headers} == sent


def test_headers_and_query_of_the_operator_are_sent() -> None:
    provider = Provider()

    send_request(make_upstream(provider, UP_HEADERS="X-Team: red", UP_QUERY="api-version=1"))

    assert provider.requests[0].headers["x-team"] == "red"
    assert dict(provider.requests[0].url.params) == {"api-version": "1"}


def test_the_sdk_does_not_retry() -> None:
    provider = make_refusing_provider(
        503, headers={"retry-after-ms": "1", "x-should-retry": "true"}
    )

    get_failure(make_upstream(provider, UP_MAX_RETRIES="1"))

    assert len(provider.requests) == 1


def test_a_response_that_the_upstream_makes_is_followed_and_cancelled_by_its_id() -> None:
    done = {"type": "response.completed", "response": {"id": "resp/1", "output": [{}]}}
    data = f"data: {json.dumps(done)}\n\n"
    provider = Provider(lambda _: httpx2.Response(200, text=data))
    upstream = make_upstream(provider, UP_API="responses", UP_QUERY="api-version=1")
    context = RequestContext(
        id="req_1", route="background", loss_report=LossReport(), followed_response_id="resp/1"
    )
    route = Route(upstream.settings, "responses", "their-model")

    batches = list(upstream.make_handler(route, "responses", context)({"model": "m", "input": []}))
    upstream.cancel_response("resp/1", context)

    assert [event for batch in batches for event in batch] == [done]
    follow, cancel = provider.requests
    assert (follow.method, cancel.method) == ("GET", "POST")
    assert follow.url.raw_path == b"/v1/responses/resp%2F1?api-version=1&stream=true"
    assert cancel.url.raw_path == b"/v1/responses/resp%2F1/cancel?api-version=1"
    assert follow.headers["authorization"] == cancel.headers["authorization"]


@check_each(("stream", "seconds"), [(True, 300.0), (False, 600.0), (None, 600.0)])
def test_a_whole_answer_has_more_time_than_a_stream_to_begin(
    stream: bool | None, seconds: float
) -> None:
    provider = Provider()
    send_request(make_upstream(provider), {**CHAT, "stream": stream})
    timeout = provider.requests[0].extensions["timeout"]
    assert (timeout["read"], timeout["connect"]) == (seconds, 10.0)


def test_a_list_of_models_has_a_limit() -> None:
    provider = Provider(lambda _: httpx2.Response(200, stream=httpx2.ByteStream(b" " * 2000)))
    settings = make_upstream(provider).settings
    upstream = Upstream(settings, httpx2.MockTransport(provider), 1.0, max_answer=1000)
    with pytest.raises(UpstreamProtocolError, match="1000 bytes .limit: FORWARDER_MAX_ANSWER"):
        upstream.list_models(1.0)
