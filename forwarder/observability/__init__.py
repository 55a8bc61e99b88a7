"""Observability: JSON logs, Prometheus metrics, OpenTelemetry traces, captured requests.

Metrics, traces and captures are observers (`RequestObserver` in `context/request_context.py`). Not
here: the record of a request in the log (`RequestContext.close` writes it), redaction
(`context/redaction.py`), the bytes of a capture while they pass (`context/capture_recorder.py`),
the log record of the start (`server/startup_log.py`), and the other observers: usage
(`usage/counter.py`), budgets (`client_keys/budgets.py`) and rate limits (`server/rate_limit.py`).

**Which events reach which observer.** `Services.build` makes the list of observers, in this order:
metrics, usage, budgets (they must come after usage), capture. `make_app` puts the rate limiter in
front if there can be limits, and `Services.start` appends traces, because their exporter starts a
thread. The observers in this list see the events of requests: start, authorization, calls of
upstreams, start of a stream, tool calls, end. The events of upstreams (retries, fallbacks,
breakers, endpoints, health checks) and rejections reach only the metrics, which `Resilience`,
`HealthMonitor`, the budgets and the rate limiter get as their observer. Probes, pages and unknown
paths have no observers (`is_observed_route` in `server/request_hooks.py`).

**Logs.** `configure_logging` replaces the handler of the logger ``forwarder``. The formatters are
in `log_formats.py`: JSON, or text by default on a terminal. A record is a message with
``extra={"event": …}``, or a dict with an event as the message, which becomes fields.

**Metrics.** `MetricsObserver` reads the numbers of a request from its context when the request
ends; only open streams and tool calls are counted earlier. A task (`build_process_sampler` in
`services.py`) sets the gauges of the process and of endpoints every `PROCESS_SAMPLE_SECONDS`.
`metric_labels.py` bounds the values of labels. Each worker writes files to a directory that
`config/gunicorn_conf.py` creates, and `render_text` merges them for ``GET /metrics``
(`server/metrics.py`).

**Traces.** `tracing.py` makes a span per request, and `instrument` a child span per call of an
upstream. It wraps the handler inside of the retries, so each retry has its own span.

**Captures** (`capture`; its guide describes the modules). Authentication gives the context a
`Recorder`. The server, the metering stage and `upstream/connection.py` record bytes in it. At the
end, a native thread makes a redacted JSON record of it and stores it. The console and
`server/diagnostics.py` read the store; `server/replay_application.py` repeats a record against its
upstream or against the recorded answers.

**Rules:**

- No output may contain a key. Prompts and answers may be in captures, and in the log with
  ``FORWARDER_LOG_BODIES``, but not in traces and metrics. The message of an error may quote a
  prompt: of the records of a request, only the text format shows it. Spans have the code of the
  error, the JSON log its ``detail``.
- Clients must not create time series: a model becomes a label after an upstream has answered for
  it, and beyond a maximum all new values are ``other``.
- The formatters cut the values of clients to a length, except in `UNSHORTENED_FIELDS`, and the text
  format escapes control characters.
- `on_breaker_change` is called under the lock of the breaker and must not block.
- ``on_complete`` of the capture returns when the record is stored. Encoding and files run in native
  threads; `copy_recorder` runs in the thread of the requests, before the work is handed over.
- `tracing.py` is imported only if an endpoint of OpenTelemetry is set. If its library is missing,
  an error is logged and the forwarder runs without traces.

**To add a metric:** create it in `MetricsObserver` as an attribute (a gauge with its
``multiprocess_mode``), set it in one of the methods, show it in ``deploy/grafana/dashboard.json``
or use it in ``deploy/prometheus/alerts.yml``, and run ``python -m tools.docgen --write``.
`tests/docgen/test_metrics.py` fails for a metric that is no attribute,
`tests/docgen/test_blocks.py` for an old page, `tests/test_deploy.py` for a metric that is not used.
**To add a log event:** give it a name in ``event`` and describe it in `docs/reference/logs.md`
(`tests/test_docs.py`). **To add an observer:** a subclass of `RequestObserver` in `Services.build`;
its ``close`` is called by `Services.close`.
"""
