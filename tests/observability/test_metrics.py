"""Request metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import (
    ClientDisconnected,
    ForwarderError,
    InternalError,
    InvalidRequest,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from forwarder.core.translation_context import LossReport
from forwarder.observability.metrics import MetricsObserver, ProcessState, read_resident_memory
from tests.observability.counted import parse_samples

Json = dict[str, Any]
USAGE = {"usage": {"prompt_tokens": 21, "completion_tokens": 9}}
LABELS = ("m", "chat", "up")  # model, route, upstream: sorted by label name


@pytest.fixture
def metrics() -> MetricsObserver:
    return MetricsObserver(
        Settings.from_env({"FORWARDER_UPSTREAMS": "up,spare", "UP_BASE_URL": "http://x/v1",
                           "SPARE_BASE_URL": "http://y/v1", "UP_MODELS": "known"})
    )  # fmt: skip


def make_context(metrics: MetricsObserver, **more: Any) -> RequestContext:
    fields: Json = {"id": "req_1", "route": "chat", "upstream": "up", "model": "m", **more}
    return RequestContext(loss_report=LossReport(), observers=[metrics], **fields)


def meter_answer(context: RequestContext, *batches: list[Json]) -> RequestContext:
    for _ in context.with_metering(lambda request: iter(batches))({}):
        pass
    return context


def read_samples(metrics: MetricsObserver) -> dict[str, dict[tuple[str, ...], float]]:
    return parse_samples(metrics.render_text().decode())


def test_an_answer_is_counted_once_it_is_over(metrics: MetricsObserver) -> None:
    done = meter_answer(make_context(metrics), [{"a": 1}, {"b": 2}], [], [USAGE])
    assert "requests_total" not in read_samples(metrics)

    done.close()

    samples = read_samples(metrics)
    assert samples["requests_total"] == {("m", "chat", "200", "up"): 1}
    assert samples["input_tokens_total"] == {LABELS: 21}
    assert samples["output_tokens_total"] == {LABELS: 9}
    assert samples["events_total"] == {LABELS: 3}
    assert samples["first_event_seconds_count"] == {LABELS: 1}
    assert "stream_seconds_count" not in samples
    assert "upstream_errors_total" not in samples


def test_client_has_counters_of_its_own(metrics: MetricsObserver) -> None:
    meter_answer(make_context(metrics, client_name="alice"), [USAGE]).close()
    meter_answer(make_context(metrics, client_name="alice"), [{"a": 1}]).close()
    make_context(metrics, status=401).close()

    samples = read_samples(metrics)
    assert samples["client_requests_total"] == {("alice",): 2, ("none",): 1}
    assert samples["client_input_tokens_total"] == {("alice",): 21}
    assert samples["client_output_tokens_total"] == {("alice",): 9}


def test_open_streams_gauge_counts_running_streams(metrics: MetricsObserver) -> None:
    streaming = make_context(metrics, model="known")

    streaming.notify_stream_start()
    assert read_samples(metrics)["open_streams"] == {("chat",): 1}

    streaming.close()
    samples = read_samples(metrics)
    assert samples["open_streams"] == {("chat",): 0}
    assert samples["stream_seconds_count"] == {("known", "chat", "up"): 1}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UpstreamRefused(429, {}), "rate_limited"),
        (UpstreamRefused(400, {"code": "the upstream's own"}), "refused"),
        (UpstreamRefused(503, {}), "server_error"),
        (UpstreamKeyRefused("x"), "key_refused"),
        (UpstreamMisconfigured("x"), "misconfigured"),
        (UpstreamUnreachable("x", code="upstream_disconnected"), "unreachable"),
        (UpstreamProtocolError("x"), "protocol"),
        (UpstreamTimeout("x"), "timeout"),
        (UpstreamError("x"), "other"),
    ],
)
def test_upstream_errors_are_counted_by_kind(
    error: ForwarderError, kind: str, metrics: MetricsObserver
) -> None:
    failed = make_context(metrics)
    failed.record_failure(error)
    failed.close()

    assert read_samples(metrics)["upstream_errors_total"] == {(kind, "up"): 1}


def test_failure_before_a_successful_fallback_is_counted(metrics: MetricsObserver) -> None:
    metrics.on_failure("up", UpstreamRefused(503, {}))
    metrics.on_failure("spare", UpstreamTimeout("x"))
    metrics.on_failure("spare", InvalidRequest("x"))

    samples = read_samples(metrics)["upstream_errors_total"]
    assert samples == {("server_error", "up"): 1, ("timeout", "spare"): 1}


def test_invalid_usage_does_not_leave_a_stream_open(metrics: MetricsObserver) -> None:
    context = meter_answer(
        make_context(metrics), [{"usage": {"prompt_tokens": -1, "completion_tokens": "3"}}]
    )
    context.notify_stream_start()
    context.close()

    samples = read_samples(metrics)
    assert samples["open_streams"] == {("chat",): 0}
    assert [*samples["requests_total"].values()] == [1]
    assert "input_tokens_total" not in samples


def test_error_in_a_streamed_answer_is_a_failure(
    metrics: MetricsObserver,
) -> None:
    meter_answer(make_context(metrics), [{"error": {"message": "full"}}]).close()

    assert read_samples(metrics)["upstream_errors_total"] == {("failed", "up"): 1}


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("x"), InternalError("x"), ClientDisconnected(), UpstreamUnavailable("x", 1)],
)
def test_other_failures_are_not_upstream_errors(
    error: ForwarderError, metrics: MetricsObserver
) -> None:
    failed = make_context(metrics)
    failed.record_failure(error)
    failed.close()

    samples = read_samples(metrics)
    assert "upstream_errors_total" not in samples
    assert [*samples["requests_total"]] == [("other", "chat", str(error.status), "up")]


def test_model_label_is_learned_after_an_answer(metrics: MetricsObserver) -> None:
    for model in ("typo", "known"):
        failed = make_context(metrics, model=model)
        failed.record_failure(UpstreamRefused(404, {}))
        failed.close()
    meter_answer(make_context(metrics, model="typo"), [USAGE]).close()

    model_labels = [labels[0] for labels in read_samples(metrics)["requests_total"]]
    assert model_labels == ["other", "known", "typo"]


def test_label_values_of_clients_are_limited(metrics: MetricsObserver) -> None:
    for i in range(300):
        made_up = make_context(metrics, model=f"made-up-{i}")
        made_up.loss_report.drop(f"made-up-{i}", "why")
        meter_answer(made_up, [USAGE]).close()

    samples = read_samples(metrics)
    assert len(samples["requests_total"]) == 65
    assert sum(samples["requests_total"].values()) == 300
    assert samples["dropped_parameters_total"] == {("other",): 300}


def test_drops_are_counted_by_parameter(metrics: MetricsObserver) -> None:
    lossy = make_context(metrics)
    for name in ("seed", "tools.mcp", "tools.computer"):
        lossy.loss_report.drop(name, "why")
    lossy.close()

    assert read_samples(metrics)["dropped_parameters_total"] == {("seed",): 1, ("tools",): 2}


def test_rejected_request_is_counted(metrics: MetricsObserver) -> None:
    refused = make_context(metrics, upstream=None, model=None)
    refused.record_failure(InvalidRequest("x"))
    refused.close()

    assert read_samples(metrics)["requests_total"] == {("none", "chat", "400", "none"): 1}


def test_retries_fallbacks_and_refusals_are_counted(metrics: MetricsObserver) -> None:
    metrics.on_retry("up", "timeout")
    metrics.on_retry("up", "timeout")
    metrics.on_fallback("up", "spare", "503")
    metrics.on_rejection("overloaded")
    for state in ("open", "half_open"):
        metrics.on_breaker_change("up", state)

    samples = read_samples(metrics)
    assert samples["retries_total"] == {("timeout", "up"): 2}
    assert samples["fallbacks_total"] == {("spare", "up"): 1}
    assert samples["refusals_total"] == {("overloaded",): 1}
    assert samples["breaker_state"] == {("up",): 1}


def test_two_applications_in_a_process_count_for_themselves(metrics: MetricsObserver) -> None:
    other = MetricsObserver(Settings.from_env({}))

    metrics.on_rejection("requests")

    assert read_samples(other).get("refusals_total", {}) == {}


def test_health_check_metrics(metrics: MetricsObserver) -> None:
    metrics.on_health_check("up", True, 0.2)
    metrics.on_health_check("mine:latest", True, 0.1)
    metrics.on_health_check("mine:latest", False, 20.0)

    samples = read_samples(metrics)
    assert samples["upstream_up"] == {("up",): 1, ("mine:latest",): 0}
    assert samples["upstream_check_seconds_count"] == {("up",): 1, ("mine:latest",): 2}


def test_tool_calls_are_counted_by_outcome(metrics: MetricsObserver) -> None:
    context = make_context(metrics)
    context.notify_tool_call({"type": "web_search_call", "status": "completed"})
    context.notify_tool_call({"type": "web_search_call", "status": "failed"})
    context.notify_tool_call({"type": "mcp_call", "status": "completed", "error": {"code": 1}})

    assert read_samples(metrics)["tool_calls_total"] == {
        ("completed", "web_search_call"): 1,
        ("failed", "web_search_call"): 1,
        ("failed", "mcp_call"): 1,
    }


def test_process_state_is_exported(metrics: MetricsObserver) -> None:
    assert "store_up" not in read_samples(metrics)

    metrics.record_process(ProcessState(1000, 3, 2, "sqlite", is_store_up=False))
    samples = read_samples(metrics)

    assert samples["workers"] == {(): 1}
    assert samples["worker_memory_bytes"] == {(): 1000}
    assert samples["running_requests"] == {(): 3}
    assert samples["background_jobs"] == {(): 2}
    assert samples["store_up"] == {("sqlite",): 0}


def test_process_state_without_store_and_memory_is_exported(metrics: MetricsObserver) -> None:
    metrics.record_process(ProcessState(None, 0, 0, None, is_store_up=False))

    samples = read_samples(metrics)
    assert samples["workers"] == {(): 1}
    assert "store_up" not in samples


def test_resident_memory_is_that_of_this_process() -> None:
    memory = read_resident_memory()

    assert memory is not None
    assert 10 * 2**20 < memory < 100 * 2**30


def test_resident_memory_is_unknown_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError))

    assert read_resident_memory() is None


def test_endpoints_are_labelled_by_their_positions(metrics: MetricsObserver) -> None:
    endpoints = (
        Settings.from_env(
            {"CHAT_BASE_URL": "http://a/v1,http://b/v1", "CHAT_API_KEY": "hidden-1,hidden-2"}
        )
        .upstreams[0]
        .endpoints
    )
    for endpoint, condition in zip(
        endpoints, ("usable", "cooling_down", "broken", "usable"), strict=True
    ):
        metrics.record_endpoint(endpoint, condition)
    metrics.on_endpoint_answer(endpoints[3], has_failed=False)
    metrics.on_endpoint_answer(endpoints[3], has_failed=True)

    samples = read_samples(metrics)

    assert samples["endpoint_state"] == {
        ("1", "1", "chat"): 0, ("1", "2", "chat"): 1, ("2", "1", "chat"): 2, ("2", "2", "chat"): 0,
    }  # fmt: skip
    assert samples["endpoint_answers_total"] == {
        ("2", "2", "answered", "chat"): 1,
        ("2", "2", "failed", "chat"): 1,
    }
    assert "hidden" not in metrics.render_text().decode()
