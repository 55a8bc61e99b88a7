"""Requests and errors of an upstream's client, over a transport without sockets."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import (
    NotFound,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.translation_context import LossReport
from forwarder.upstream.client import Upstream

KEY = "sk-secret"
ENVIRONMENT = {"UP_BASE_URL": "http://up.test/v1", "UP_API_KEY": KEY, "UP_API": "both"}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True}

Handler = Callable[[httpx2.Request], httpx2.Response]


class Provider:
    """Records its requests and answers all of them alike."""

    def __init__(self, answer: Handler | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer or (lambda _: make_stream(CHUNK))

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return self._answer(request)

    @property
    def body(self) -> Any:
        return json.loads(self.requests[-1].content)


def make_stream(*events: Any) -> httpx2.Response:
    frames = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return httpx2.Response(200, text=frames + "data: [DONE]\n\n")


def make_refusing_provider(status: int, **answer: Any) -> Provider:
    return Provider(lambda _: httpx2.Response(status, **answer))


def make_upstream(provider: Provider, **environment: str) -> Upstream:
    given = {"FORWARDER_UPSTREAMS": "up", **ENVIRONMENT, **environment}
    [settings] = Settings.from_env(given).upstreams
    return Upstream(settings, httpx2.MockTransport(provider), heartbeat=5)


def send_request(
    upstream: Upstream,
    request: dict[str, Any] | None = None,
    protocol: str = "chat",
    client: str = "chat",
    key: str | None = None,
) -> tuple[list[Any], RequestContext]:
    """Send a request; return the events of its answer, and its context."""
    context = RequestContext(id="req_1", route=client, loss_report=LossReport(), client_key=key)
    route = Route(upstream.settings, protocol, "their-model")
    stream = upstream.make_handler(route, client, context)({"model": "ours", **(request or CHAT)})
    return [event for batch in stream for event in batch], context


# -- what is sent ---------------------------------------------------------------------------------


def test_a_request_goes_out_under_the_upstream_s_own_name_for_the_model() -> None:
    provider = Provider()

    events, _ = send_request(make_upstream(provider))

    assert events == [CHUNK]
    assert str(provider.requests[0].url) == "http://up.test/v1/chat/completions"
    assert provider.body == {**CHAT, "model": "their-model"}


def test_request_reveals_nothing_about_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-openai")
    provider = Provider()

    send_request(make_upstream(provider))

    told = ("x-stainless", "openai-")
    headers = provider.requests[0].headers
    assert [name for name in headers if name.startswith(told)] == []
    assert headers["user-agent"].startswith("OpenAI/Python ")


def send_for_headers(
    given: dict[str, str], *bodies: dict[str, Any], **environment: str
) -> list[httpx2.Headers]:
    """Send these bodies in one context; return the headers of the requests."""
    provider = Provider()
    upstream = make_upstream(provider, **environment)
    context = RequestContext(
        id="req_1", route="chat", loss_report=LossReport(), client_headers=given
    )
    route = Route(upstream.settings, "chat", "their-model")
    for body in bodies:
        list(upstream.make_handler(route, "chat", context)(body))
    return [request.headers for request in provider.requests]


def test_headers_of_the_client_are_sent_on() -> None:
    given = {"Openai-Beta": "a=1", "Http-Referer": "https://a.example", "X-Title": "A"}

    [sent] = send_for_headers(given, CHAT)

    assert given.items() <= {name.title(): value for name, value in sent.items()}.items()


def test_headers_that_the_operator_has_set_are_not_replaced() -> None:
    given = {"Openai-Organization": "theirs", "X-Title": "theirs"}

    [sent] = send_for_headers(given, CHAT, UP_HEADERS="openai-organization: ours; X-Other: b")

    assert sent.get_list("openai-organization") == ["ours"]
    assert sent["x-title"] == "theirs"


def test_an_idempotency_key_is_for_one_body_and_its_repeats() -> None:
    key, other = {"Idempotency-Key": "one"}, {**CHAT, "temperature": 0}

    sent = send_for_headers(key, CHAT, other, CHAT)

    assert [headers.get("idempotency-key") for headers in sent] == ["one", None, "one"]


@pytest.mark.parametrize(
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
def test_an_upstream_gets_the_key_that_is_meant_for_it(
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


@pytest.mark.parametrize(
    ("environment", "client", "role"),
    [
        ({}, "chat", "developer"),
        ({}, "responses", "system"),
        ({"UP_PROVIDER": "deepseek"}, "chat", "system"),
        ({"UP_QUIRKS": '{"join_text_parts": false}'}, "chat", "system"),
    ],
)
def test_own_chat_body_is_adapted_only_by_known_quirks(
    environment: dict[str, str], client: str, role: str
) -> None:
    provider = Provider()
    message = {"role": "developer", "content": "hi"}

    send_request(
        make_upstream(provider, **environment), {**CHAT, "messages": [message]}, client=client
    )

    assert provider.body["messages"][0]["role"] == role


def test_seals_are_not_sent_to_a_responses_upstream() -> None:
    provider = Provider(lambda _: make_stream({"type": "response.completed",
                                            "response": {"output": [{}]}}))  # fmt: skip
    said = {"role": "user", "content": "hi"}
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": "fwd1.x"}

    send_request(
        make_upstream(provider), {"input": [said, sealed], "stream": True}, "responses", "responses"
    )

    assert provider.body["input"] == [said]


def test_an_answer_s_headers_reach_the_exchange() -> None:
    headers = {"x-request-id": "up-1", "x-ratelimit-limit-tokens": "9", "server": "nginx"}
    provider = make_refusing_provider(200, text='data: {"choices": []}\n\n', headers=headers)
    context = RequestContext(id="req_1", route="chat", loss_report=LossReport())
    upstream = make_upstream(provider)

    upstream.make_handler(Route(upstream.settings, "chat", "m"), "chat", context)(CHAT)

    assert context.reply_headers == {
        "x-upstream-request-id": "up-1",
        "x-ratelimit-limit-tokens": "9",
    }


# -- failures -------------------------------------------------------------------------------------


def failure(upstream: Upstream) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        send_request(upstream)
    return caught.value


@pytest.mark.parametrize("status", [400, 403, 404, 408, 409, 422, 429, 500, 503])
def test_a_refusal_keeps_its_status_error_and_headers(status: int) -> None:
    error = {"message": "no", "type": "t", "code": 1210, "param": "messages", "more": [1]}
    provider = make_refusing_provider(status, json={"error": error}, headers={"retry-after": "3"})

    raised = failure(make_upstream(provider))

    assert isinstance(raised, UpstreamRefused)
    assert (raised.status, raised.headers) == (status, {"retry-after": "3"})
    assert raised.make_body() == {"error": {**error, "code": "1210"}}
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"json": {"error": "plain"}}, "plain"),
        ({"json": {"detail": "not here"}}, "not here"),
        ({"json": {"msg": "later"}}, "later"),
        ({"json": {}}, "400"),
        ({"text": "  plain  "}, "plain"),
        ({"text": "<html>"}, "The upstream answered 400 without a JSON body."),
        ({"text": ""}, "The upstream answered 400 without a JSON body."),
        ({"json": ["x"]}, "['x']"),
    ],
)
def test_errors_are_read_in_every_shape(answer: dict[str, Any], message: str) -> None:
    assert failure(make_upstream(make_refusing_provider(400, **answer))).message == message


def test_refused_key_is_reported_as_the_forwarders_unless_passed_through() -> None:
    provider = make_refusing_provider(401, json={"error": {"message": "bad key"}})

    assert isinstance(failure(make_upstream(provider)), UpstreamKeyRefused)
    theirs = failure(make_upstream(provider, UP_API_KEY="passthrough"))
    assert (theirs.status, theirs.message) == (401, "bad key")


REFUSED_KEYS = [
    httpx2.Response(401, json={"error": {"message": "bad key"}}),
    httpx2.Response(400, json={"error": "Incorrect API key provided."}),
    make_stream({"error": {"message": "bad key", "code": 401}}),
]


@pytest.mark.parametrize("answer", REFUSED_KEYS, ids=["401", "400", "in a 200"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_key_is_remembered_until_a_request_succeeds(
    answer: httpx2.Response, stream: bool
) -> None:
    answers = [answer, answer, make_stream(CHUNK)]
    upstream = make_upstream(Provider(lambda _: answers.pop(0)))
    request = {**CHAT, "stream": stream}
    for _ in range(2):
        with pytest.raises(UpstreamKeyRefused, match="UP_API_KEY") as raised:
            send_request(upstream, request)
        assert upstream.key_refusal == raised.value.message
        assert (raised.value.status, raised.value.code) == (403, "upstream_authentication")

    send_request(upstream, request)

    assert upstream.key_refusal is None


SAID = {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}
BAD_KEY = {"message": "bad key", "code": "invalid_api_key"}
RESPONSE = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
DELTA = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "delta": "Hi"}
REFUSED_LATE = {
    "chat": ("chat", [SAID], {"error": BAD_KEY}),
    "chat, bare": ("chat", [SAID], {"object": "error", **BAD_KEY}),
    "responses, error": ("responses", [DELTA], {"type": "error", "error": BAD_KEY}),
    "responses, failed": (
        "responses",
        [{"type": "response.created", "response": RESPONSE}, DELTA],
        {"type": "response.failed", "response": {**RESPONSE, "error": BAD_KEY}},
    ),
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("case", REFUSED_LATE)
def test_key_refused_in_midstream_is_reported_as_the_forwarders(case: str, together: bool) -> None:
    protocol, before, last = REFUSED_LATE[case]
    frames = [f"data: {json.dumps(event)}\n\n".encode() for event in [*before, last]]

    def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        pieces = [b"".join(frames)] if together else frames
        return httpx2.Response(200, headers=headers, content=iter(pieces))

    def told(upstream: Upstream) -> tuple[list[Any], UpstreamError]:
        context = RequestContext(id="req_1", route=protocol, loss_report=LossReport())
        route = Route(upstream.settings, protocol, "their-model")
        stream = upstream.make_handler(route, protocol, context)({**CHAT, "model": "ours"})
        events: list[Any] = []
        with pytest.raises(UpstreamError) as raised:
            events.extend(event for batch in stream for event in batch)
        return events, raised.value

    upstream = make_upstream(Provider(answer))
    events, error = told(upstream)
    assert events == before
    assert isinstance(error, UpstreamKeyRefused)
    assert upstream.key_refusal == error.message

    theirs = told(make_upstream(Provider(answer), UP_API_KEY="passthrough"))[1]
    assert (theirs.status, theirs.code) == (401, "invalid_api_key")


def send_compaction(upstream: Upstream) -> list[Any]:
    context = RequestContext(id="req_1", route="responses", loss_report=LossReport())
    route = Route(upstream.settings, "responses", "their-model")
    try:
        return list(
            upstream.make_compaction_handler(route, context)({"model": "ours", "input": "hi"})
        )
    finally:
        context.cleanup.close()


def send_embedding(upstream: Upstream) -> list[Any]:
    context = RequestContext(id="req_1", route="embeddings", loss_report=LossReport())
    route = Route(upstream.settings, "chat", "their-model")
    call = upstream.make_embeddings_handler(route, context)
    try:
        return list(call({"model": "ours", "input": ["a"], "vendor": {"x": 1}}))
    finally:
        context.cleanup.close()


@pytest.mark.parametrize("ask", [send_compaction, send_embedding])
@pytest.mark.parametrize("status", [401, 200])
def test_a_key_that_is_refused_for_a_whole_answer_is_remembered_too(
    ask: Callable[[Upstream], list[Any]], status: int
) -> None:
    error = {"error": {"message": "bad key", "code": "invalid_api_key"}}
    upstream = make_upstream(make_refusing_provider(status, json=error))

    with pytest.raises(UpstreamKeyRefused, match="UP_API_KEY") as raised:
        ask(upstream)

    assert upstream.key_refusal == raised.value.message


def key_refusals(caplog: pytest.LogCaptureFixture) -> list[Any]:
    told = [record.msg for record in caplog.records if record.name == "forwarder.upstream"]
    return [msg for msg in told if msg["event"] == "upstream_key_refused"]


def test_refused_key_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    upstream = make_upstream(
        make_refusing_provider(401, json={"error": {"message": f"bad key {KEY}"}})
    )
    for _ in range(3):
        failure(upstream)
        with pytest.raises(UpstreamKeyRefused):
            upstream.list_models(1)

    [told] = key_refusals(caplog)
    assert told["upstream"] == "up"
    assert "UP_API_KEY" in told["detail"]
    assert KEY not in told["detail"]


def test_refused_key_is_not_logged_again_soon(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = httpx2.Response(401, json={"error": {"message": "bad key"}})
    turns = itertools.cycle([refused, make_stream(CHUNK)])
    upstream = make_upstream(Provider(lambda _: next(turns)))
    for _ in range(5):
        failure(upstream)
        send_request(upstream)
    assert len(key_refusals(caplog)) == 1

    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 601)
    failure(upstream)

    assert len(key_refusals(caplog)) == 2


def test_own_check_does_not_log_a_refused_key(caplog: pytest.LogCaptureFixture) -> None:
    upstream = make_upstream(make_refusing_provider(401))
    upstream.logs_key_refusal = False

    failure(upstream)

    assert key_refusals(caplog) == []


# -- a base URL without its /v1 --------------------------------------------------------------------

LIST = {"object": "list", "data": [{"id": "m"}]}


def below_v1(request: httpx2.Request) -> httpx2.Response:
    """A server with its API below ``/v1`` only."""
    if request.url.path == "/v1/models":
        return httpx2.Response(200, json=LIST)
    if request.url.path == "/v1/chat/completions":
        return make_stream(CHUNK)
    return httpx2.Response(404, json={"detail": "Not Found"})


def answer_with_page(request: httpx2.Request) -> httpx2.Response:
    """The same, with a web page for all other paths."""
    found = below_v1(request)
    return found if found.status_code == 200 else httpx2.Response(200, html="<!doctype html>")


@pytest.mark.parametrize("answer", [below_v1, answer_with_page])
@pytest.mark.parametrize("stream", [False, True])
def test_a_base_url_without_its_version_is_named(answer: Handler, stream: bool) -> None:
    provider = Provider(answer)
    upstream = make_upstream(provider, UP_BASE_URL="http://up.test")

    for protocol in ("chat", "responses"):
        body = {**CHAT, "stream": stream}
        with pytest.raises(UpstreamMisconfigured) as raised:
            send_request(upstream, body, protocol)
        assert raised.value.message == (
            "The upstream 'up' on up.test has no API at its base URL (UP_BASE_URL): "
            "the base URL lacks '/v1' at its end."
        )
    with pytest.raises(UpstreamMisconfigured):
        upstream.list_models(1)
    probes = [r for r in provider.requests if r.url.path == "/v1/models"]
    assert len(probes) == 1


def test_base_url_is_hidden_because_it_may_contain_a_key() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/secret-of-the-path")
        return below_v1(
            httpx2.Request(request.method, f"http://up.test{path}", content=request.content)
        )

    base = "http://up.test:8080/secret-of-the-path"
    error = failure(make_upstream(Provider(answer), UP_BASE_URL=base))

    assert isinstance(error, UpstreamMisconfigured)
    assert "secret" not in error.message
    assert "on up.test:8080 " in error.message
    assert "lacks '/v1'" in error.message


@pytest.mark.parametrize("ask", [send_compaction, send_embedding])
def test_a_base_url_without_its_version_is_named_for_a_whole_answer_too(
    ask: Callable[[Upstream], list[Any]],
) -> None:
    upstream = make_upstream(Provider(below_v1), UP_BASE_URL="http://up.test")

    with pytest.raises(UpstreamMisconfigured, match="lacks '/v1'"):
        ask(upstream)


def test_unknown_model_does_not_mean_a_wrong_base_url() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json=LIST)
        if request.content == b"{}":
            return httpx2.Response(400, json={"error": {"message": "no model"}})
        return httpx2.Response(404, json={"error": {"message": "no such model"}})

    provider = Provider(answer)
    upstream = make_upstream(provider, UP_BASE_URL="http://up.test")

    for _ in range(3):
        raised = failure(upstream)
        assert (type(raised), raised.message) == (UpstreamRefused, "no such model")
    assert len(provider.requests) == 3 + 2, "what was found is remembered for a while"


def test_base_url_of_a_provider_with_own_paths_is_accepted() -> None:
    """Azure lists models below ``/openai/v1`` whatever its deployments are called."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/openai/v1/models"):
            return httpx2.Response(200, json=LIST)
        known = request.url.path == "/their/chat"
        return httpx2.Response(400 if known else 404, json={"error": {"message": "no"}})

    upstream = make_upstream(
        Provider(answer),
        UP_BASE_URL="http://up.test",
        UP_API="chat",
        UP_QUIRKS='{"chat_path": "/their/chat"}',
    )

    with pytest.raises(UpstreamRefused):
        upstream.list_models(1)


def test_base_url_with_a_version_is_accepted() -> None:
    provider = make_refusing_provider(404)
    upstream = make_upstream(provider)

    assert type(failure(upstream)) is UpstreamRefused
    with pytest.raises(UpstreamRefused):
        upstream.list_models(1)
    assert len(provider.requests) == 2


def test_plain_http_to_a_port_for_tls_is_named() -> None:
    said = "<center>The plain HTTP request was sent to HTTPS port</center>"

    raised = failure(make_upstream(make_refusing_provider(400, html=said)))

    assert isinstance(raised, UpstreamMisconfigured)
    assert "(UP_BASE_URL) must begin with https://" in raised.message


# -- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx2.ConnectTimeout("x"), "could not be connected to within 7 seconds."),
        (httpx2.ReadTimeout("x"), "did not answer within 9 seconds."),
        (httpx2.PoolTimeout("x"), "are in use."),
        (ConnectionRefusedError(111, "x"), "cannot be reached: up.test:80 refused the connection."),
    ],
)
def test_a_failed_connection_says_why(error: Exception, words: str) -> None:
    limits = {"UP_CONNECT_TIMEOUT": "7", "UP_FIRST_BYTE_TIMEOUT": "9"}

    assert failure(make_upstream(raising(error), **limits)).message.endswith(words)


def test_a_failed_connection_names_the_proxy_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:pass@proxy.test:3128")
    refused = httpx2.ConnectError("x")
    refused.__cause__ = ConnectionRefusedError(111, "x")

    messages = [
        failure(make_upstream(raising(refused))).message,
        failure(make_upstream(raising(httpx2.ConnectTimeout("x")))).message,
        failure(make_upstream(make_refusing_provider(407))).message,
    ]

    assert all("the proxy http://proxy.test:3128" in message for message in messages)
    assert not any("pass@" in message for message in messages)
    assert "wants a user and password (407)" in messages[2]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"code": "invalid-argument", "error": "Incorrect API key provided."}),
        (403, {"message": "The security token included in the request is invalid."}),
        (200, {"error": {"message": "bad key", "code": "invalid_api_key"}}),
        (200, {"object": "error", "message": "bad key", "code": 401}),
    ],
)
def test_a_key_is_refused_in_many_ways(status: int, body: dict[str, Any]) -> None:
    provider = make_refusing_provider(status, json=body)

    assert isinstance(failure(make_upstream(provider)), UpstreamKeyRefused)
    theirs = failure(make_upstream(provider, UP_API_KEY="passthrough"))
    assert theirs.code == "invalid_api_key"
    assert theirs.status in (401, 403)


@pytest.mark.parametrize("provider", ["generic", "minimax"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_in_base_resp_is_found_with_every_profile(provider: str, stream: bool) -> None:
    body = {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "slower"}}
    answer = make_stream(body) if stream else httpx2.Response(200, json=body)
    upstream = make_upstream(Provider(lambda _: answer), UP_PROVIDER=provider)

    with pytest.raises(UpstreamRefused) as raised:
        send_request(upstream, {**CHAT, "stream": stream})

    assert (raised.value.status, raised.value.message) == (429, "slower")


def test_code_beside_the_error_object_is_read() -> None:
    provider = make_refusing_provider(400, json={"code": "the_code", "error": "plain"})

    assert failure(make_upstream(provider)).make_body() == {
        "error": {
            "message": "plain",
            "type": "invalid_request_error",
            "param": None,
            "code": "the_code",
        }
    }


def test_the_name_that_aws_gives_an_error_in_a_header_is_its_code() -> None:
    headers = {"x-amzn-errortype": "ThrottlingException:http://up.test/"}
    provider = make_refusing_provider(400, json={"message": "Wait."}, headers=headers)
    assert failure(make_upstream(provider)).code == "rate_limit_exceeded"

    headers = {"x-amzn-errortype": "ValidationException"}
    provider = make_refusing_provider(400, json={"message": "No."}, headers=headers)
    assert failure(make_upstream(provider)).code == "ValidationException"


def test_key_is_redacted_in_an_error_instead_of_a_chunk() -> None:
    answer = make_stream(CHUNK, {"object": "error", "message": f"bad {KEY}", "code": 500})
    events, _ = send_request(make_upstream(Provider(lambda _: answer)))

    assert events[-1]["error"]["message"] == "bad ***"


def test_key_is_redacted_in_every_field_of_an_error() -> None:
    error = {"message": f"bad {KEY}", "metadata": {"raw": [f"Bearer {KEY}"]}}

    raised = failure(make_upstream(make_refusing_provider(400, json={"error": error})))

    assert KEY not in json.dumps(raised.make_body())
    assert raised.message == "bad ***"


def test_long_error_is_cut_after_redaction() -> None:
    provider = make_refusing_provider(400, text=f"{'x' * 497}{KEY}")

    assert failure(make_upstream(provider)).message == "x" * 497 + "***"


def test_secret_header_is_redacted() -> None:
    provider = make_refusing_provider(400, json={"error": {"message": "who is gate-secret-1?"}})

    raised = failure(make_upstream(provider, UP_HEADERS="X-Gateway-Token: gate-secret-1"))

    assert raised.message == "who is ***?"


def raising(error: Exception) -> Provider:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise error

    return Provider(answer)


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (httpx2.ConnectError("x"), UpstreamUnreachable, 502),
        (httpx2.RemoteProtocolError("x"), UpstreamUnreachable, 502),
        (OSError("x"), UpstreamUnreachable, 502),
        (httpx2.ConnectTimeout("x"), UpstreamTimeout, 504),
        (httpx2.ReadTimeout("x"), UpstreamTimeout, 504),
    ],
)
def test_network_failures_become_upstream_errors(
    error: Exception, kind: type[UpstreamError], status: int
) -> None:
    raised = failure(make_upstream(raising(error)))

    assert isinstance(raised, kind)
    assert raised.status == status
    assert "'up'" in raised.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [(httpx2.ReadTimeout("x"), UpstreamTimeout), (httpx2.ReadError("x"), UpstreamUnreachable)],
)
def test_stalled_error_body_becomes_an_upstream_error(
    error: Exception, kind: type[UpstreamError]
) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"error"'
        raise error

    assert isinstance(failure(make_upstream(make_refusing_provider(500, content=body()))), kind)


def test_the_sdk_does_not_retry() -> None:
    provider = make_refusing_provider(
        503, headers={"retry-after-ms": "1", "x-should-retry": "true"}
    )

    failure(make_upstream(provider, UP_MAX_RETRIES="1"))

    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx2.ConnectTimeout("x"), UpstreamConnectTimeout),
        (httpx2.PoolTimeout("x"), UpstreamConnectTimeout),
        (httpx2.ReadTimeout("x"), UpstreamTimeout),
        (httpx2.WriteTimeout("x"), UpstreamTimeout),
    ],
)
def test_connect_timeout_differs_from_read_timeout(
    error: Exception, kind: type[UpstreamError]
) -> None:
    assert type(failure(make_upstream(raising(error)))) is kind


class Watched(httpx2.SyncByteStream):
    """A body that records whether it was closed, and does not end before."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
        self.closed.wait(10)

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (Watched(httpx2.ReadError("x")), UpstreamUnreachable),
        (Watched(b": hm\n\n", httpx2.ReadTimeout("x")), UpstreamTimeout),
        (Watched(b'data: {"error": {"message": "no", "code": 503}}\n\n', b"more"), UpstreamRefused),
        (Watched(b"<html>", b"more"), UpstreamProtocolError),
    ],
)
def test_an_answer_that_breaks_before_it_begins_fails_at_once_and_is_closed(
    body: Watched, kind: type[UpstreamError]
) -> None:
    upstream = make_upstream(Provider(lambda _: httpx2.Response(200, stream=body)))
    context = RequestContext(id="req_1", route="chat", loss_report=LossReport())

    with pytest.raises(kind):
        upstream.make_handler(Route(upstream.settings, "chat", "m"), "chat", context)(CHAT)

    assert body.closed.is_set()


# -- models ---------------------------------------------------------------------------------------


def test_models_are_plain_objects_with_an_id() -> None:
    listed = {"data": [{"id": "a", "x": 1}, {"id": ""}, "b", {"name": "c"}]}
    provider = make_refusing_provider(200, json=listed)

    assert make_upstream(provider, UP_API_KEY="").list_models(1.0) == [{"id": "a", "x": 1}]
    assert provider.requests[0].url.path == "/v1/models"


def test_list_of_models_without_a_wrapper_is_read() -> None:
    listed = [{"id": "a", "type": "chat"}, {"id": 7}, "b"]  # as Together AI has it

    assert make_upstream(make_refusing_provider(200, json=listed)).list_models(1.0) == [
        {"id": "a", "type": "chat"}
    ]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"7", b'{"data": null}', b'{"data": 7}'])
def test_invalid_list_of_models_is_empty_or_an_error(body: bytes) -> None:
    upstream = make_upstream(make_refusing_provider(200, content=body))
    try:
        assert upstream.list_models(1.0) == []
    except UpstreamError as error:
        assert error.status == 502


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


def test_an_upstream_that_compacts_is_asked_at_its_own_address() -> None:
    whole = {"object": "response.compaction", "output": [], "usage": {"input_tokens": 1}}
    provider = Provider(lambda _: httpx2.Response(200, json=whole))
    upstream = make_upstream(provider, UP_PROVIDER="openai")
    context = RequestContext(id="req_1", route="responses", loss_report=LossReport())
    route = Route(upstream.settings, "responses", "their-model")

    batches = list(
        upstream.make_compaction_handler(route, context)({"model": "ours", "input": "hi"})
    )

    assert batches == [[whole]]
    assert provider.requests[0].url.path.endswith("/responses/compact")
    assert provider.body == {"model": "their-model", "input": "hi"}


def test_refusal_to_compact_is_passed_on() -> None:
    provider = make_refusing_provider(404, json={"error": {"message": "no such path"}})
    context = RequestContext(id="req_1", route="responses", loss_report=LossReport())
    upstream = make_upstream(provider)
    route = Route(upstream.settings, "responses", "their-model")

    with pytest.raises(UpstreamRefused, match="no such path"):
        upstream.make_compaction_handler(route, context)({"model": "ours", "input": "hi"})


# -- embeddings -----------------------------------------------------------------------------------


def test_embeddings_are_asked_for_as_they_are() -> None:
    answer = {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 1}, "more": 2}
    provider = Provider(lambda _: httpx2.Response(200, json=answer))

    assert send_embedding(make_upstream(provider)) == [[answer]]
    assert str(provider.requests[0].url) == "http://up.test/v1/embeddings"
    assert provider.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert provider.body == {"model": "their-model", "input": ["a"], "vendor": {"x": 1}}


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (404, {"json": {"error": {"message": "Invalid URL (POST /v1/embeddings)"}}}),
        (404, {"json": {"detail": "Not Found"}}),
        (405, {"text": "<html>"}),
        (501, {}),
    ],
)
def test_an_upstream_without_embeddings_is_named(status: int, answer: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match="'up' has no embeddings") as caught:
        send_embedding(make_upstream(make_refusing_provider(status, **answer)))
    assert caught.value.code == "no_embeddings"


@pytest.mark.parametrize(
    ("status", "message"), [(404, "The model 'x' does not exist"), (400, "Too long"), (500, "Oh")]
)
def test_refusal_to_embed_is_passed_on(status: int, message: str) -> None:
    with pytest.raises(UpstreamRefused, match=message) as caught:
        send_embedding(
            make_upstream(make_refusing_provider(status, json={"error": {"message": message}}))
        )
    assert caught.value.status == status


def test_answer_without_embeddings_is_an_upstream_error() -> None:
    with pytest.raises(UpstreamProtocolError):
        send_embedding(
            make_upstream(Provider(lambda _: httpx2.Response(200, json={"object": "list"})))
        )


@pytest.mark.parametrize(("stream", "seconds"), [(True, 300.0), (False, 600.0), (None, 600.0)])
def test_a_whole_answer_has_more_time_than_a_stream_to_begin(
    stream: bool | None, seconds: float
) -> None:
    provider = Provider()
    send_request(make_upstream(provider), {**CHAT, "stream": stream})
    timeout = provider.requests[0].extensions["timeout"]
    assert (timeout["read"], timeout["connect"]) == (seconds, 10.0)


ONLY_STREAMS = {"error": {"message": "This model only support stream mode, please enable it."}}


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_a_whole_answer_that_is_refused_is_put_together_from_a_stream(protocol: str) -> None:
    done = {"type": "response.completed", "response": {"output": [{"type": "message"}]}}

    def answer(request: httpx2.Request) -> httpx2.Response:
        if not json.loads(request.content)["stream"]:
            return httpx2.Response(400, json=ONLY_STREAMS)
        return make_stream(CHUNK if protocol == "chat" else done)

    provider = Provider(answer)
    upstream = make_upstream(provider)
    for _ in range(2):
        body: dict[str, Any] = {"input": "hi"} if protocol == "responses" else CHAT
        events, _ = send_request(upstream, {**body, "stream": False}, protocol, client=protocol)
        assert events == [CHUNK if protocol == "chat" else done]

    streams = [json.loads(request.content)["stream"] for request in provider.requests]
    assert streams == [False, True, True]  # the second time it is known
    assert provider.body.get("stream_options") == (
        {"include_usage": True} if protocol == "chat" else None
    )


def test_compressed_answers_are_refused_and_compressed_errors_keep_their_status() -> None:
    packed = {"Content-Encoding": "br"}

    def answer(status: int) -> Upstream:
        stream = httpx2.ByteStream(b"packed")
        return make_upstream(
            Provider(lambda _: httpx2.Response(status, headers=packed, stream=stream))
        )

    with pytest.raises(UpstreamProtocolError, match="Content-Encoding 'br', though 'identity'"):
        send_request(answer(200))
    with pytest.raises(UpstreamRefused) as refused:
        send_request(answer(429))
    assert refused.value.status == 429


def test_a_list_of_models_has_a_limit() -> None:
    provider = Provider(lambda _: httpx2.Response(200, stream=httpx2.ByteStream(b" " * 2000)))
    settings = make_upstream(provider).settings
    upstream = Upstream(settings, httpx2.MockTransport(provider), 1.0, max_answer=1000)
    with pytest.raises(UpstreamProtocolError, match="1000 bytes .limit: FORWARDER_MAX_ANSWER"):
        upstream.list_models(1.0)


def test_chat_answer_does_not_change_includes_reasoning() -> None:
    completed = {"type": "response.completed", "response": {"id": "r", "status": "completed"}}

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/chat/completions"):
            return make_stream(CHUNK)
        response = make_stream(completed)
        response.headers["x-reasoning-included"] = "true"
        return response

    upstream = make_upstream(Provider(answer))
    send_request(upstream, {"model": "m", "input": "hi"}, "responses", "responses")
    send_request(upstream)

    assert upstream.includes_reasoning
