"""The errors of an upstream, as the forwarder reports them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from forwarder.core.errors import (
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.helpers.check_cases import check_each
from tests.upstream.sending import (
    CHUNK,
    KEY,
    Provider,
    get_failure,
    make_refusing_provider,
    make_stream,
    make_upstream,
    raising,
    send_request,
)


@check_each("status", [400, 403, 404, 408, 409, 422, 429, 500, 503])
def test_a_refusal_keeps_its_status_error_and_headers(status: int) -> None:
    error = {"message": "no", "type": "t", "code": 1210, "param": "messages", "more": [1]}
    provider = make_refusing_provider(status, json={"error": error}, headers={"retry-after": "3"})

    raised = get_failure(make_upstream(provider))

    assert isinstance(raised, UpstreamRefused)
    assert (raised.status, raised.headers) == (status, {"retry-after": "3"})
    assert raised.make_body() == {"error": {**error, "code": "1210"}}
    assert len(provider.requests) == 1


@check_each(
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
    assert get_failure(make_upstream(make_refusing_provider(400, **answer))).message == message


def test_refused_key_is_an_error_of_the_forwarder_unless_passed_through() -> None:
    provider = make_refusing_provider(401, json={"error": {"message": "bad key"}})

    assert isinstance(get_failure(make_upstream(provider)), UpstreamKeyRefused)
    passthrough_error = get_failure(make_upstream(provider, UP_API_KEY="passthrough"))
    assert (passthrough_error.status, passthrough_error.message) == (401, "bad key")


def list_key_refusals(caplog: pytest.LogCaptureFixture) -> list[Any]:
    records = [record.msg for record in caplog.records if record.name == "forwarder.upstream"]
    return [msg for msg in records if msg["event"] == "upstream_key_refused"]


def test_refused_key_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    upstream = make_upstream(
        make_refusing_provider(401, json={"error": {"message": f"bad key {KEY}"}})
    )
    for _ in range(3):
        get_failure(upstream)
        with pytest.raises(UpstreamKeyRefused):
            upstream.list_models(1)

    [record] = list_key_refusals(caplog)
    assert record["upstream"] == "up"
    assert "UP_API_KEY" in record["detail"]
    assert KEY not in record["detail"]


def test_refused_key_is_not_logged_again_soon(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = httpx2.Response(401, json={"error": {"message": "bad key"}})
    turns = itertools.cycle([refused, make_stream(CHUNK)])
    upstream = make_upstream(Provider(lambda _: next(turns)))
    for _ in range(5):
        get_failure(upstream)
        send_request(upstream)
    assert len(list_key_refusals(caplog)) == 1

    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 601)
    get_failure(upstream)

    assert len(list_key_refusals(caplog)) == 2


def test_own_check_does_not_log_a_refused_key(caplog: pytest.LogCaptureFixture) -> None:
    upstream = make_upstream(make_refusing_provider(401))
    upstream.errors.logs_key_refusal = False

    get_failure(upstream)

    assert list_key_refusals(caplog) == []


def test_plain_http_to_a_tls_port_is_reported() -> None:
    page = "<center>The plain HTTP request was sent to HTTPS port</center>"

    raised = get_failure(make_upstream(make_refusing_provider(400, html=page)))

    assert isinstance(raised, UpstreamMisconfigured)
    assert "(UP_BASE_URL) must begin with https://" in raised.message


@check_each(
    ("error", "reason"),
    [
        (httpx2.ConnectTimeout("x"), "could not be connected to within 7 seconds."),
        (httpx2.ReadTimeout("x"), "did not answer within 9 seconds."),
        (httpx2.PoolTimeout("x"), "are in use."),
        (ConnectionRefusedError(111, "x"), "cannot be reached: up.test:80 refused the connection."),
    ],
)
def test_failed_connection_error_has_the_reason(error: Exception, reason: str) -> None:
    limits = {"UP_CONNECT_TIMEOUT": "7", "UP_FIRST_BYTE_TIMEOUT": "9"}

    assert get_failure(make_upstream(raising(error), **limits)).message.endswith(reason)


def test_a_failed_connection_names_the_proxy_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:pass@proxy.test:3128")
    refused = httpx2.ConnectError("x")
    refused.__cause__ = ConnectionRefusedError(111, "x")

    messages = [
        get_failure(make_upstream(raising(refused))).message,
        get_failure(make_upstream(raising(httpx2.ConnectTimeout("x")))).message,
        get_failure(make_upstream(make_refusing_provider(407))).message,
    ]

    assert all("the proxy http://proxy.test:3128" in message for message in messages)
    assert not any("pass@" in message for message in messages)
    assert "wants a user and password (407)" in messages[2]


@check_each(
    ("status", "body"),
    [
        (400, {"code": "invalid-argument", "error": "Incorrect API key provided."}),
        (403, {"message": "The security token included in the request is invalid."}),
        (200, {"error": {"message": "bad key", "code": "invalid_api_key"}}),
        (200, {"object": "error", "message": "bad key", "code": 401}),
    ],
)
def test_key_refusals_of_all_shapes_are_recognised(status: int, body: dict[str, Any]) -> None:
    provider = make_refusing_provider(status, json=body)

    assert isinstance(get_failure(make_upstream(provider)), UpstreamKeyRefused)
    passthrough_error = get_failure(make_upstream(provider, UP_API_KEY="passthrough"))
    assert passthrough_error.code == "invalid_api_key"
    assert passthrough_error.status in (401, 403)


def test_code_beside_the_error_object_is_read() -> None:
    provider = make_refusing_provider(400, json={"code": "the_code", "error": "plain"})

    assert get_failure(make_upstream(provider)).make_body() == {
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
    assert get_failure(make_upstream(provider)).code == "rate_limit_exceeded"

    headers = {"x-amzn-errortype": "ValidationException"}
    provider = make_refusing_provider(400, json={"message": "No."}, headers=headers)
    assert get_failure(make_upstream(provider)).code == "ValidationException"


def test_key_is_redacted_in_every_field_of_an_error() -> None:
    error = {"message": f"bad {KEY}", "metadata": {"raw": [f"Bearer {KEY}"]}}

    raised = get_failure(make_upstream(make_refusing_provider(400, json={"error": error})))

    assert KEY not in json.dumps(raised.make_body())
    assert raised.message == "bad ***"


def test_long_error_is_cut_after_redaction() -> None:
    provider = make_refusing_provider(400, text=f"{'x' * 497}{KEY}")

    assert get_failure(make_upstream(provider)).message == "x" * 497 + "***"


def test_secret_header_is_redacted() -> None:
    provider = make_refusing_provider(400, json={"error": {"message": "who is gate-secret-1?"}})

    raised = get_failure(make_upstream(provider, UP_HEADERS="X-Gateway-Token: gate-secret-1"))

    assert raised.message == "who is ***?"


@check_each(
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
    raised = get_failure(make_upstream(raising(error)))

    assert isinstance(raised, kind)
    assert raised.status == status
    assert "'up'" in raised.message


@check_each(
    ("error", "kind"),
    [(httpx2.ReadTimeout("x"), UpstreamTimeout), (httpx2.ReadError("x"), UpstreamUnreachable)],
)
def test_stalled_error_body_becomes_an_upstream_error(
    error: Exception, kind: type[UpstreamError]
) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"error"'
        raise error

    assert isinstance(get_failure(make_upstream(make_refusing_provider(500, content=body()))), kind)


@check_each(
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
    assert type(get_failure(make_upstream(raising(error)))) is kind
