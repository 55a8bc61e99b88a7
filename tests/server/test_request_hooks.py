"""Creation of the request context, response headers, errors."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from typing import Any

import pytest
from flask import Flask, Response
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, abort

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.body_memory import BodyReservation
from forwarder.core.translation_context import LossReport
from forwarder.server import request_hooks
from forwarder.server.extension import get_extension
from tests.helpers.check_cases import check_each

KEYS = ("key-one", "key-two")


@pytest.fixture
def app() -> Flask:
    return create_app(Settings.from_env({}))


def make_context(app: Flask, **headers: str) -> RequestContext:
    renamed = {k.replace("_", "-"): v for k, v in headers.items()}
    with app.test_request_context(headers=renamed) as context:
        return request_hooks.create_context(context.request, get_extension(app).services, "test")


@pytest.mark.parametrize("request_id", ["a", "my-id-42", "x" * 128, "!~"])
def test_a_client_s_id_is_kept(request_id: str, app: Flask) -> None:
    assert make_context(app, X_Request_Id=request_id).id == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 129, "two words", "ümlaut", "a\tb"])
def test_unsafe_request_id_is_replaced(request_id: str, app: Flask) -> None:
    assert make_context(app, X_Request_Id=request_id).id.startswith("req_")


def test_generated_request_ids_differ(app: Flask) -> None:
    assert make_context(app).id != make_context(app).id


@pytest.mark.parametrize(
    ("headers", "strict"),
    [({}, False), ({"X_Forwarder_Strict": "TRUE"}, True), ({"X_Forwarder_Strict": "no"}, False)],
)
def test_strict_header_makes_a_request_strict(
    headers: dict[str, str], strict: bool, app: Flask
) -> None:
    assert make_context(app, **headers).loss_report.strict is strict


def test_strict_setting_overrides_the_header() -> None:
    app = create_app(Settings.from_env({"FORWARDER_STRICT": "true"}))

    assert make_context(app, X_Forwarder_Strict="false").loss_report.strict


def test_killed_request_releases_its_slot_and_is_logged(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SystemExit, as at process exit: neither the application nor Flask answers."""
    forwarder = get_extension(app)
    monkeypatch.setattr(forwarder.gateway, "stream", lambda *args: sys.exit(1))

    with caplog.at_level("INFO", "forwarder.exchange"), pytest.raises(SystemExit):
        app.test_client().post("/v1/responses", json={"model": "m", "input": "hi"})

    assert len(forwarder.running) == 0
    (line,) = [record.msg for record in caplog.records if record.name == "forwarder.exchange"]
    assert (line["status"], line["error"]) == (503, "shutting_down")


def test_request_that_is_killed_while_it_is_closed_is_counted_once(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Observers may wait, for example for a thread, and the process may end meanwhile."""
    completed: list[RequestObserver] = []

    class Observer(RequestObserver):
        def on_complete(self, context: RequestContext, seconds: float) -> None:
            completed.append(self)

    class KilledObserver(Observer):
        def on_complete(self, context: RequestContext, seconds: float) -> None:
            super().on_complete(context, seconds)
            sys.exit(1)

    observers = [Observer(), KilledObserver(), Observer()]
    monkeypatch.setattr(get_extension(app).services, "observers", observers)

    with caplog.at_level("INFO", "forwarder.exchange"), pytest.raises(SystemExit):
        app.test_client().post("/v1/responses", data=b"{")

    assert completed == observers
    (line,) = [record.msg for record in caplog.records if record.name == "forwarder.exchange"]
    assert line["status"] == 400


def test_slot_is_taken_after_the_body_was_read(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    services, order = get_extension(app).services, []
    admit = services.resilience.admit_request

    class Body(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            order.append("body")
            return super().readinto(buffer)

    def record_admission(context: RequestContext) -> None:
        order.append("place")
        admit(context)

    monkeypatch.setattr(services.resilience, "admit_request", record_admission)
    body = json.dumps({"model": "m", "input": "hi"}).encode()
    answer = app.test_client().post(
        "/v1/responses", input_stream=Body(body), content_length=len(body)
    )

    assert answer.status_code == 200
    assert order[-1] == "place"
    assert "body" in order


def test_response_has_the_request_id() -> None:
    context = RequestContext(id="req_1", route="chat", loss_report=LossReport())
    context.loss_report.drop("seed", "why")
    context.loss_report.drop("logit_bias", "why")
    context.reply_headers = {"retry-after": "9", "x-upstream-request-id": "up"}
    answer = Response(headers={"Retry-After": "1"})

    request_hooks.add_headers(answer.headers, context)

    assert answer.headers["X-Request-Id"] == "req_1"
    assert answer.headers["X-Forwarder-Dropped"] == "logit_bias, seed"
    assert answer.headers["X-Upstream-Request-Id"] == "up"
    assert answer.headers["Retry-After"] == "1"


def test_upstream_header_is_set_once_known() -> None:
    before, after = Response(), Response()

    request_hooks.add_headers(
        before.headers, RequestContext(id="req_1", route="chat", loss_report=LossReport())
    )
    request_hooks.add_headers(
        after.headers,
        RequestContext(id="req_1", route="chat", loss_report=LossReport(), upstream="qwen"),
    )

    assert "X-Forwarder-Upstream" not in before.headers
    assert after.headers["X-Forwarder-Upstream"] == "qwen"


def test_own_rate_limit_headers_replace_the_upstreams() -> None:
    context = RequestContext(id="req_1", route="chat", loss_report=LossReport())
    context.reply_headers = {
        "x-ratelimit-limit-requests": "9",
        "x-ratelimit-reset-tokens": "1s",
        "retry-after": "9",
    }
    answer_headers, refusal_headers = Headers(), Headers({"X-RateLimit-Limit-Requests": "9"})

    for headers in (answer_headers, refusal_headers):
        request_hooks.add_headers(headers, context)
        assert headers["x-ratelimit-limit-requests"] == "9"
    context.rate_limit_headers = {"x-ratelimit-limit-requests": "2"}
    for headers in (answer_headers, refusal_headers):
        request_hooks.add_headers(headers, context)
        limits = {k.lower(): v for k, v in headers.items() if k.lower().startswith("x-rate")}
        assert limits == {"x-ratelimit-limit-requests": "2"}
        assert headers["retry-after"] == "9"


def test_dropped_header_is_absent_without_losses() -> None:
    answer = Response()

    request_hooks.add_headers(
        answer.headers, RequestContext(id="req_1", route="chat", loss_report=LossReport())
    )

    assert "X-Forwarder-Dropped" not in answer.headers


@check_each(
    ("status", "code"),
    [
        (400, None),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (413, "request_too_large"),
        (500, "internal_error"),
    ],
)
def test_werkzeug_errors_are_converted(status: int, code: str | None) -> None:
    with pytest.raises(HTTPException) as raised:
        abort(status)

    error = request_hooks.convert_http_error(raised.value)

    assert (error.status, error.code) == (status, code)
    assert error.message


# -- the name of the client -------------------------------------------------------------------


def find_client(records: list[logging.LogRecord], route: str) -> str | None:
    """The client in the log line of a request, once it is there."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for record in records:
            if record.name == "forwarder.exchange" and record.msg["route"] == route:
                name: str | None = record.msg.get("client")
                return name
        time.sleep(0.01)
    raise AssertionError(f"no line about {route}")


def send_logged_request(key: str, caplog: pytest.LogCaptureFixture, **more: object) -> None:
    """Send a request, of which ``caplog`` has the log line."""
    app = create_app(Settings.from_env({"FORWARDER_API_KEYS": "alice:sk-1,sk-2"}))
    logging.getLogger("forwarder").propagate = True
    body = {"model": "demo", "input": "hi", **more}
    with caplog.at_level("INFO", "forwarder.exchange"):
        app.test_client().post(
            "/v1/responses",
            json=body,
            headers={"Authorization": f"Bearer {key}"},
            buffered=True,
        )


@check_each(
    ("key", "name"),
    [("sk-1", "alice"), ("alice:sk-1", "alice"), ("sk-2", "key-"), ("wrong", None)],
)
def test_log_line_names_the_client(
    key: str, name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    send_logged_request(key, caplog)
    client_name = find_client(caplog.records, "responses")

    assert (client_name or "").startswith(name or "")
    assert (client_name is None) is (name is None)


def test_background_work_has_the_name_of_its_client(caplog: pytest.LogCaptureFixture) -> None:
    send_logged_request("sk-1", caplog, background=True)

    assert find_client(caplog.records, "background") == "alice"


# -- the memory of bodies -------------------------------------------------------------------------

LARGE = "x" * 200_000


def test_background_work_that_does_not_start_reserves_nothing(app: Flask) -> None:
    memory, client = get_extension(app).services.body_memory, app.test_client()
    for wrong in ({"input": [LARGE]}, {"temperature": "hot"}, {"tools": 5}):
        body = {"model": "demo", "input": LARGE, "background": True, **wrong}
        with client.post("/v1/responses", json=body) as got:
            assert got.status_code in (400, 404), got.text
        assert memory.used == 0


def test_the_largest_body_is_accepted_as_background_work() -> None:
    limits = {"FORWARDER_MAX_BODY": "300k", "FORWARDER_MAX_BODY_MEMORY": "300k"}
    app = create_app(Settings.from_env(limits))
    body = {"model": "demo", "input": "x" * 300_000, "background": True}
    got = app.test_client().post("/v1/responses", json=body, buffered=True)
    assert got.status_code == 200


def test_history_reserves_memory(app: Flask) -> None:
    memory, client = get_extension(app).services.body_memory, app.test_client()
    first = client.post(
        "/v1/responses", json={"model": "demo", "input": LARGE}, buffered=True
    ).get_json()
    more = {"model": "demo", "input": "more", "previous_response_id": first["id"]}
    other_bodies = BodyReservation(memory)
    other_bodies.hold(memory.max_bytes // 2 - 100_000)
    refused = client.post("/v1/responses", json=more, buffered=True)

    assert refused.status_code == 503
    assert "FORWARDER_MAX_BODY_MEMORY" in refused.get_json()["error"]["message"]
    assert refused.headers["Retry-After"]
    other_bodies.close()
    assert client.post("/v1/responses", json=more, buffered=True).status_code == 200
    assert memory.used == 0


@pytest.mark.parametrize("path", ["", "/input_items"])
def test_reading_stored_data_reserves_memory(path: str, app: Flask) -> None:
    memory, client = get_extension(app).services.body_memory, app.test_client()
    body = {"model": "demo", "input": LARGE, "instructions": LARGE}
    created = client.post("/v1/responses", json=body, buffered=True).get_json()
    url = f"/v1/responses/{created['id']}{path}"
    other_bodies = BodyReservation(memory)
    other_bodies.hold(memory.max_bytes // 2 - 100_000)

    assert client.get(url, buffered=True).status_code == 503
    other_bodies.close()
    assert client.get(url, buffered=True).status_code == 200
    assert memory.used == 0


def test_large_answer_reserves_memory_until_it_is_sent(app: Flask) -> None:
    memory, client = get_extension(app).services.body_memory, app.test_client()
    body = {"model": "demo", "input": "hi", "instructions": LARGE}
    with client.post("/v1/responses", json=body, buffered=False) as got:
        assert memory.used == 2 * int(got.headers["Content-Length"])
        assert memory.used > 2 * len(LARGE)
    assert memory.used == 0
    name = got.get_json()["id"]
    with client.head(f"/v1/responses/{name}"):
        pass
    assert memory.used == 0


def test_data_of_an_earlier_attempt_reserves_no_memory(app: Flask) -> None:
    memory = get_extension(app).services.body_memory
    context = RequestContext("req_1", "chat", LossReport(), body_memory=memory)
    context.added_memory.grow(100_000)
    context.start_attempt("other", "m")
    assert memory.used == 0
    context.added_memory.grow(50_000)
    assert memory.used == 100_000
    context.close()
    context.added_memory.grow(50_000)  # database work that ends later
    assert memory.used == 0


def test_log_has_the_method_and_the_model_that_the_client_asked_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(Settings.from_env({"CHAT_PROVIDER": "demo", "CHAT_MODELS": "fast=demo-1"}))
    monkeypatch.setattr(logging.getLogger("forwarder"), "propagate", True)
    body = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}

    with caplog.at_level("INFO", "forwarder.exchange"):
        app.test_client().post("/v1/chat/completions", json=body)
        app.test_client().get("/v1/models")

    completed, listed = [record.msg for record in caplog.records]
    assert isinstance(completed, dict)
    assert isinstance(listed, dict)
    assert (completed["method"], completed["requested_model"], completed["model"]) == (
        "POST",
        "fast",
        "demo-1",
    )
    assert listed["method"] == "GET"
    assert "requested_model" not in listed
