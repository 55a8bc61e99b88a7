"""Traces as a collector gets them, and the message if they cannot be made."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.helpers.tracing import need_opentelemetry
from tests.live.conftest import make_settings
from tests.live.server import ROOT, run_forwarder
from tests.live.talk import make_body, send_request


class Collector(ThreadingHTTPServer):
    """Keeps the posted bodies."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.received: list[tuple[str, bytes]] = []


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_collector_receives_every_span_including_the_last(
    collector: Collector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    need_opentelemetry()
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    endpoint = f"http://127.0.0.1:{collector.server_port}"
    settings = make_settings(upstream, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    with run_forwarder(settings, tmp_path) as server:
        for stream in (False, True):
            send_request(server, "responses", make_body("responses", model="chat/m", stream=stream))

    assert "Traceback" not in server.log
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    spans, services = [], set()
    for _, body in collector.received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            services.add(names["service.name"])
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    assert services == {"forwarder"}
    assert sorted(span.name for span in spans) == ["chat m"] * 4
    sent_span_ids = {request.headers["traceparent"].split("-")[2] for request in upstream.requests}
    assert sent_span_ids < {span.span_id.hex() for span in spans}


def test_traceparent_is_not_forwarded_without_tracing(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with run_forwarder(make_settings(upstream), tmp_path) as server:
        send_request(server, "chat", make_body("chat"), traceparent=f"00-{'a' * 32}-{'b' * 16}-01")

    assert "traceparent" not in upstream.requests[0].headers


def test_missing_packages_are_logged_and_do_not_prevent_the_start() -> None:
    """In a process where they cannot be imported."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from forwarder.app import create_app\n"
        "print(create_app().test_client().get('/health').status_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"FORWARDER_DOTENV": "", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stdout == "200\n"
    [line] = [line for line in done.stderr.splitlines() if '"error"' in line]
    assert "requirements-otel.txt" in line
    assert "Traceback" not in done.stderr
