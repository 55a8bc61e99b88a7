"""Rate limits, with a manual clock."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient
from limits.errors import StorageError
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.errors import ForwarderError, RateLimited, RateLimitsUnavailable
from forwarder.core.translation_context import LossReport
from forwarder.server.rate_limit import RateLimitObserver, format_duration
from tests.helpers.check_cases import check_each
from tests.server.conftest import make_stream_response

CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 60, "completion_tokens": 30}}
START = 1_700_000_000.0


class Clock:
    """Wall clock and monotonic clock that tests advance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now - START)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Watching(RequestObserver):
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def on_rejection(self, reason: str) -> None:
        self.reasons.append(reason)


class Failing(MemoryStorage):
    """A storage that can go down."""

    STORAGE_SCHEME = ["failing"]
    call_count = 0
    is_down = False

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        self.call_count += 1
        if self.is_down:
            raise StorageError(ConnectionError("redis://:password@host"))
        return int(super().incr(key, expiry, amount))

    def check(self) -> bool:
        return not self.is_down


def make_settings(**rates: str) -> Settings:
    settings = {f"FORWARDER_RATE_LIMIT_{name}": value for name, value in rates.items()}
    return Settings.from_env({"FORWARDER_API_KEYS": "a,b", **settings})


def make_limits(
    storage: MemoryStorage | None = None, watching: RequestObserver | None = None, **rates: str
) -> RateLimitObserver:
    limiter = FixedWindowRateLimiter(storage or MemoryStorage())
    return RateLimitObserver(make_settings(**rates), watching or RequestObserver(), limiter)


def admit_request(limits: RateLimitObserver, key: str = "a") -> RequestContext:
    context = RequestContext("req_1", "chat", LossReport(), client_key=key, observers=[limits])
    context.authorize("192.0.2.1")
    return context


def get_refusal(limits: RateLimitObserver, key: str = "a") -> tuple[ForwarderError, RequestContext]:
    context = RequestContext("req_1", "chat", LossReport(), client_key=key, observers=[limits])
    with pytest.raises(ForwarderError) as raised:
        context.authorize("192.0.2.1")
    return raised.value, context


def finish_request(
    limits: RateLimitObserver, usage: dict[str, int] | None, events: int = 0
) -> None:
    context = admit_request(limits)
    context.usage, context.event_count = usage, events
    context.close()


def read_limit_headers(context: RequestContext, kind: str) -> list[str]:
    names = (f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset"))
    return [context.rate_limit_headers[name] for name in names]


def test_requests_are_charged_at_start(clock: Clock) -> None:
    limits = make_limits(REQUESTS="2/minute")

    assert read_limit_headers(admit_request(limits), "requests") == ["2", "1", "1m0s"]
    clock.now += 10
    second = admit_request(limits)
    assert read_limit_headers(second, "requests") == ["2", "0", "50s"]
    assert not any("tokens" in name for name in second.rate_limit_headers)


def test_exceeded_limit_has_openais_error(clock: Clock) -> None:
    watching = Watching()
    limits = make_limits(watching=watching, REQUESTS="1/minute")
    admit_request(limits)
    clock.now += 12.5

    error, context = get_refusal(limits)

    assert isinstance(error, RateLimited)
    assert error.status == 429
    assert error.make_error_object() == {
        "message": "Rate limit reached on requests per minute: Limit 1. Please try again in 48s.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert error.headers == {"Retry-After": "48"}
    assert read_limit_headers(context, "requests") == ["1", "0", "48s"]
    assert watching.reasons == ["requests"]


def test_limit_resets_after_the_window(clock: Clock) -> None:
    limits = make_limits(REQUESTS="1/minute")
    admit_request(limits)
    for _ in range(5):
        get_refusal(limits)

    clock.now += 60

    assert read_limit_headers(admit_request(limits), "requests") == ["1", "0", "1m0s"]


def test_each_key_has_its_own_limit(clock: Clock) -> None:
    limits = make_limits(REQUESTS="1/minute")
    admit_request(limits, "a")
    get_refusal(limits, "a")

    admit_request(limits, "b")


def test_tokens_are_charged_at_the_end(clock: Clock) -> None:
    limits = make_limits(TOKENS="100/minute")

    finish_request(limits, {"prompt_tokens": 50, "completion_tokens": 30})

    assert read_limit_headers(admit_request(limits), "tokens") == ["100", "20", "1m0s"]


def test_client_over_its_token_limit_is_refused(clock: Clock) -> None:
    watching = Watching()
    limits = make_limits(watching=watching, REQUESTS="9/minute", TOKENS="100/minute")
    finish_request(limits, {"input_tokens": 60, "output_tokens": 30})
    finish_request(limits, {"input_tokens": 60, "output_tokens": 30})

    clock.now += 59.5
    error, context = get_refusal(limits)

    assert (error.type, error.headers) == ("tokens", {"Retry-After": "1"})
    assert read_limit_headers(context, "tokens") == ["100", "0", "500ms"]
    assert read_limit_headers(context, "requests") == ["9", "6", "500ms"]
    assert watching.reasons == ["tokens"]
    clock.now += 0.5
    assert read_limit_headers(admit_request(limits), "tokens") == ["100", "100", "0s"]


def test_aborted_response_costs_its_events(clock: Clock) -> None:
    limits = make_limits(TOKENS="100/minute")

    finish_request(limits, None, events=7)
    finish_request(limits, None)

    assert read_limit_headers(admit_request(limits), "tokens")[1] == "93"


def test_request_without_admission_is_not_charged(clock: Clock) -> None:
    limits = make_limits(TOKENS="100/minute")
    context = RequestContext("req_1", "chat", LossReport(), client_key="a", observers=[limits])
    context.usage = {"input_tokens": 60, "output_tokens": 30}

    context.close()

    assert read_limit_headers(admit_request(limits), "tokens")[1] == "100"


# -- storage outages ------------------------------------------------------------------------------


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    lines: list[str] = []

    class RecordingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, handler = logging.getLogger("forwarder.ratelimit"), RecordingHandler()
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)  # independent of earlier applications
    yield lines
    log.setLevel(before)
    log.removeHandler(handler)


def test_storage_outage_allows_requests_by_default(clock: Clock, log_lines: list[str]) -> None:
    storage = Failing()
    limits = make_limits(storage, REQUESTS="1/minute", TOKENS="1/minute")
    storage.is_down = True

    for _ in range(5):
        assert admit_request(limits).rate_limit_headers == {}

    assert storage.call_count == 1, "each request waits for a storage that is down"
    [line] = log_lines
    assert "pass unlimited" in line
    assert "password" not in line


def test_limits_apply_again_after_a_storage_outage(log_lines: list[str]) -> None:
    storage = Failing()
    limits = make_limits(storage, REQUESTS="1/hour")
    limits._bounded_storage._breaker._pause = 0.05
    storage.is_down = True
    admit_request(limits)
    storage.is_down = False

    deadline = time.monotonic() + 10
    while not admit_request(limits).rate_limit_headers:
        assert time.monotonic() < deadline, "the storage is not called again"
        time.sleep(0.01)

    get_refusal(limits)
    assert "answers again" in log_lines[-1]


def test_closed_limits_stop_calling_a_storage_that_is_down(log_lines: list[str]) -> None:
    storage = Failing()
    limits = make_limits(storage, REQUESTS="1/hour")
    before = set(threading.enumerate())
    storage.is_down = True
    admit_request(limits)
    started = set(threading.enumerate()) - before
    assert started

    limits.close()

    for thread in started:
        thread.join(5)
        assert not thread.is_alive(), "a call of the storage still runs"


def test_storage_outage_can_refuse_requests(clock: Clock, log_lines: list[str]) -> None:
    storage, watching = Failing(), Watching()
    limits = make_limits(storage, watching, REQUESTS="1/minute", WHEN_DOWN="refuse")
    storage.is_down = True

    for _ in range(2):
        error, _ = get_refusal(limits)
        assert isinstance(error, RateLimitsUnavailable)
        assert error.status == 503
    assert watching.reasons == ["limits_unknown"] * 2
    assert "are refused" in log_lines[0]


class Hanging(MemoryStorage):
    """A storage that does not answer until ``go`` is set."""

    STORAGE_SCHEME = ["hanging"]

    def __init__(self) -> None:
        self.proceed = threading.Event()
        super().__init__()

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        assert self.proceed.wait(20)
        return int(super().incr(key, expiry, amount))


@check_each("seconds", ["0.05", "20"])
def test_request_waits_for_a_slow_storage_until_the_timeout(seconds: str) -> None:
    storage = Hanging()
    limits = make_limits(storage, REQUESTS="1/hour", TIMEOUT=seconds)
    waiting = seconds == "20"
    if waiting:
        threading.Timer(0.2, storage.proceed.set).start()  # several times the default

    assert bool(admit_request(limits).rate_limit_headers) is waiting
    storage.proceed.set()


def test_failed_charge_does_not_break_the_response(clock: Clock, log_lines: list[str]) -> None:
    storage = Failing()
    limits = make_limits(storage, TOKENS="100/minute")
    context = admit_request(limits)
    context.usage = {"input_tokens": 1, "output_tokens": 1}
    storage.is_down = True

    context.close()

    assert len(log_lines) == 1


# -- headers and metrics --------------------------------------------------------------------------

URL = {"CHAT_BASE_URL": "http://up.test/v1"}


def test_storage_contains_no_client_keys() -> None:
    storage = MemoryStorage()
    admit_request(make_limits(storage, REQUESTS="1/minute"), key="a-secret-key")

    [name] = storage.storage
    assert "secret" not in name


@check_each(
    ("seconds", "text"),
    [(0, "0s"), (0.0174, "18ms"), (0.5, "500ms"), (1, "1s"), (5.1, "6s"), (59.5, "1m0s"),
     (360, "6m0s"), (3599.2, "1h0m0s"), (86400, "24h0m0s")],
)  # fmt: skip
def test_durations_have_the_format_of_openai(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


# -- the whole application ------------------------------------------------------------------------


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlaskClient]:
    def make_client(**environment: str) -> FlaskClient:
        def answer(request: httpx2.Request) -> httpx2.Response:
            response = make_stream_response(CHUNK, USAGE)
            response.headers["x-ratelimit-limit-requests"] = "10000"
            response.headers["x-ratelimit-reset-project-tokens"] = "1s"
            return response

        transport = httpx2.MockTransport(answer)
        monkeypatch.setattr(services, "select_transport", lambda settings, heartbeat: transport)
        return create_app(Settings.from_env({**URL, **environment})).test_client()

    return make_client


def send_request(client: FlaskClient, **headers: str) -> Any:
    body = {"model": "m", "input": "hi", "stream": True}
    renamed = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/responses", json=body, headers=renamed, buffered=True)


def test_streamed_usage_is_charged_exactly(serve: Callable[..., FlaskClient]) -> None:
    client = serve(FORWARDER_RATE_LIMIT_TOKENS="150/hour", FORWARDER_RATE_LIMIT_REQUESTS="9/hour")

    remaining = [send_request(client).headers["x-ratelimit-remaining-tokens"] for _ in range(2)]
    refused = send_request(client)

    assert remaining == ["150", "60"]
    assert refused.status_code == 429
    assert refused.get_json()["error"]["type"] == "tokens"
    assert 3590 < int(refused.headers["Retry-After"]) <= 3600
    assert refused.headers["x-ratelimit-remaining-requests"] == "6"
    assert refused.headers["x-request-id"]
    metrics = client.get("/metrics").text
    assert 'forwarder_refusals_total{reason="tokens"} 1.0' in metrics


def test_client_sees_only_own_rate_limit_headers(serve: Callable[..., FlaskClient]) -> None:
    unlimited = send_request(serve())
    limited = send_request(serve(FORWARDER_RATE_LIMIT_REQUESTS="9/hour"))

    assert unlimited.headers["x-ratelimit-limit-requests"] == "10000"
    names = {name.lower() for name, _ in limited.headers if name.lower().startswith("x-rate")}
    assert names == {f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")}
    assert limited.headers["x-ratelimit-limit-requests"] == "9"


def test_file_requests_are_limited(serve: Callable[..., FlaskClient]) -> None:
    client = serve(FORWARDER_RATE_LIMIT_REQUESTS="1/hour", RESPONSES_BASE_URL="http://up.test/v1")

    codes = [client.get("/v1/files", buffered=True).status_code for _ in range(2)]

    assert codes == [200, 429]


def test_requests_without_upstream_are_not_limited(serve: Callable[..., FlaskClient]) -> None:
    client = serve(FORWARDER_RATE_LIMIT_REQUESTS="1/hour", FORWARDER_API_KEYS="k")

    assert [send_request(client).status_code for _ in range(3)] == [401] * 3
    assert [client.get("/health").status_code for _ in range(3)] == [200] * 3
    assert send_request(client, Authorization="Bearer k").status_code == 200
    assert send_request(client, Authorization="Bearer k").status_code == 429


@check_each(("proxies", "codes"), [("0", [200, 429]), ("1", [200, 200])])
def test_forwarded_address_needs_a_trusted_proxy(
    proxies: str, codes: list[int], serve: Callable[..., FlaskClient]
) -> None:
    client = serve(FORWARDER_RATE_LIMIT_REQUESTS="1/hour", FORWARDER_TRUSTED_PROXIES=proxies)

    addresses = ["192.0.2.1", "192.0.2.2"]
    assert [
        send_request(client, X_Forwarded_For=address).status_code for address in addresses
    ] == codes


def test_forged_forwarded_addresses_are_ignored(
    serve: Callable[..., FlaskClient],
) -> None:
    client = serve(FORWARDER_RATE_LIMIT_REQUESTS="1/hour", FORWARDER_TRUSTED_PROXIES="1")

    forwarded = [f"198.51.100.{i}, 192.0.2.1" for i in range(2)]
    codes = [send_request(client, X_Forwarded_For=address).status_code for address in forwarded]
    assert codes == [200, 429]


def test_without_limits_there_are_no_headers(serve: Callable[..., FlaskClient]) -> None:
    client = serve()
    assert not any("remaining" in name for name, _ in send_request(client).headers)
