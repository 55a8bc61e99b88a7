"""The composition root: objects are opened and started in order, and all are closed."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import httpx2
import pytest

from forwarder import services as services_module
from forwarder.config.settings import Settings
from forwarder.context.capture_recorder import RequestHead
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.errors import Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.models.registry import DatabaseModelRegistry, NullModelRegistry
from forwarder.observability.capture import CaptureObserver
from forwarder.observability.metrics import MetricsObserver
from forwarder.pipeline.gateway import Gateway
from forwarder.services import ReplayOverrides, Services, build_tracing
from forwarder.storage import DatabaseConversationStore, NullConversationStore
from tests.fake_provider import ScriptedUpstream
from tests.helpers.loopback import find_unused_port

ROOT = Path(__file__).parent.parent


def make_settings(directory: Path, **environment: str) -> Settings:
    """Settings with all loops: captures, pruning and health checks."""
    return Settings.from_env(
        {
            "FORWARDER_DATABASE_URL": f"sqlite:///{directory}/state.db",
            "FORWARDER_CAPTURE": "memory",
            "FORWARDER_HEALTH_INTERVAL": "600",
            "CHAT_BASE_URL": "http://up.test/v1",
            **environment,
        }
    )


def list_open_files() -> list[str]:
    """List the targets of the open descriptors."""
    files: list[str] = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself is closed by now
            files.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(files)


def list_threads() -> set[threading.Thread]:
    """The threads, without those in which the test's own upstream answers."""
    return {each for each in threading.enumerate() if "process_request" not in each.name}


def wait_for_new_threads(before: set[threading.Thread], count: int) -> None:
    """Wait until exactly ``count`` threads beside ``before`` run.

    A thread ends some time after it is stopped, and those of earlier tests may still end.
    """
    deadline = time.monotonic() + 5
    while len(new := list_threads() - before) != count:
        assert time.monotonic() < deadline, new
        time.sleep(0.01)


def test_build_opens_the_database_and_starts_no_thread(tmp_path: Path) -> None:
    threads = list_threads()
    settings = make_settings(tmp_path)
    assert not (tmp_path / "state.db").exists()
    with Services.build(settings) as services:
        assert (tmp_path / "state.db").exists()
        assert isinstance(services.store, DatabaseConversationStore)
        assert isinstance(services.registry, DatabaseModelRegistry)
        assert isinstance(services.capture, CaptureObserver)
        wait_for_new_threads(threads, 0)


def test_constructors_open_no_database_and_start_no_thread(tmp_path: Path) -> None:
    with Services.build(make_settings(tmp_path)) as services:
        parts = {f.name: getattr(services, f.name) for f in fields(services) if f.init}
        threads, files = list_threads(), list_open_files()

        Gateway(Services(**parts))

        assert list_threads() <= threads
        assert list_open_files() == files


def test_start_and_close_are_symmetrical(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream:
        threads, files = list_threads(), list_open_files()
        services = Services.build(make_settings(tmp_path, CHAT_BASE_URL=upstream.url))
        services.start()
        services.start()
        deadline = time.monotonic() + 5
        while services.health.get_last_result("chat", services.upstreams["chat"]) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # pruning of captures and of the database, health checks, metrics of the process, usage,
        # uses of keys
        wait_for_new_threads(threads, 6)
        stream_answer(services)
        opened = set(list_open_files()) - set(files)
        assert any(name.endswith("state.db") for name in opened)
        assert any(name.startswith("socket:") for name in opened)

        services.close()
        services.close()

        wait_for_new_threads(threads, 0)
        deadline = time.monotonic() + 5
        while open_files := set(list_open_files()) - set(files):
            assert time.monotonic() < deadline, open_files
            time.sleep(0.01)


def stream_answer(services: Services) -> None:
    """Stream an answer that is stored, so that all connections are used."""
    context = RequestContext("req_1", "responses", LossReport(), observers=services.observers)
    request = {"model": "m", "input": "hi", "stream": True}
    assert list(Gateway(services).stream("responses", request, None, context))
    context.close()


def test_metrics_contain_the_state_of_the_process(tmp_path: Path) -> None:
    with Services.build(make_settings(tmp_path)) as services:
        assert services.process_sampler is not None
        assert services.database is not None
        services.running.add_request()
        services.process_sampler._work()
        assert isinstance(services.metrics, MetricsObserver)
        assert "forwarder_running_requests 1.0" in services.metrics.render_text().decode()
        assert 'forwarder_store_up{kind="sqlite"} 1.0' in services.metrics.render_text().decode()

        services.database.write_breaker.error = "disk full"  # `trip` would try it again at once
        services.process_sampler._work()

        assert 'forwarder_store_up{kind="sqlite"} 0.0' in services.metrics.render_text().decode()
    with Services.build(make_settings(tmp_path, FORWARDER_METRICS="false")) as services:
        assert services.process_sampler is None


def test_closed_services_cannot_be_started(tmp_path: Path) -> None:
    with Services.build(make_settings(tmp_path)) as services:
        pass
    with pytest.raises(RuntimeError):
        services.start()


def test_other_services_close_if_one_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services.build(make_settings(tmp_path))
    monkeypatch.setattr(services.health, "stop", lambda: 1 / 0)
    services.close()

    assert services.database is not None
    assert services.database.close_event.is_set()


class Traces(RequestObserver):
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_tracing_starts_with_the_background_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = Traces()
    monkeypatch.setattr("forwarder.services.build_tracing", lambda: [traces])
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with Services.build(make_settings(tmp_path, **endpoint)) as services:
        assert traces not in services.observers
        services.start()
        services.start()
        assert services.observers.count(traces) == 1
        assert services.observers[-1] is traces
        assert not traces.is_closed
    assert traces.is_closed


def test_tracing_without_its_library_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "forwarder.observability.tracing", None)

    assert list(build_tracing()) == []
    [record] = caplog.records
    assert vars(record)["event"] == "tracing_unavailable"


def test_nothing_is_stored_without_a_database(tmp_path: Path) -> None:
    with Services.build(make_settings(tmp_path, FORWARDER_DATABASE_URL="none")) as services:
        assert (services.database, services.pruner) == (None, None)
        assert isinstance(services.store, NullConversationStore)
        assert isinstance(services.registry, NullModelRegistry)
        with pytest.raises(Unsupported):
            services.require_store()


def test_each_database_has_a_secret_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services_module, "token_urlsafe", secrets.token_urlsafe)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Services.build(make_settings(tmp_path / name)).close()

    one, other = ((tmp_path / name / "state.db.key").read_text() for name in ("a", "b"))
    assert one != other


def test_replay_stores_nothing_and_uses_its_own_transport(tmp_path: Path) -> None:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json={}))
    overrides = ReplayOverrides(transport, lambda urls: {})
    with Services.build(make_settings(tmp_path), overrides) as services:
        assert isinstance(services.store, NullConversationStore)
        assert isinstance(services.registry, DatabaseModelRegistry)
        assert services.upstreams["chat"]._connection._transport is transport
        assert services.make_fetch(RequestContext("req_1", "chat", LossReport())) is not None
        assert services.cipher.accepts_all_owners
    with Services.build(make_settings(tmp_path)) as services:
        assert not services.cipher.accepts_all_owners
        assert services.make_fetch(RequestContext("req_1", "chat", LossReport())) is None


def test_captures_contain_no_secrets_of_mcp_servers(tmp_path: Path) -> None:
    server = {"url": "http://mcp.test/", "headers": {"Authorization": "Bearer sesame-4711"}}
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"s": server}}))
    settings = make_settings(tmp_path, FORWARDER_MCP_SERVERS=str(path))
    with Services.build(settings) as services:
        assert services.capture is not None
        context = RequestContext("req_1", "chat", LossReport(), observers=[services.capture])
        context.recorder = services.capture.make_recorder(
            context, RequestHead("POST", "/v1/chat/completions", [], [])
        )
        assert context.recorder is not None
        context.recorder.record_body(b'{"prompt": "I use sesame-4711."}')
        context.close()

        (summary,) = services.capture.store.list_newest(1)
        assert b"I use ***." in (services.capture.store.find(summary["id"]) or b"")


def test_only_configured_and_registered_upstreams_are_found(tmp_path: Path) -> None:
    environment = {"FORWARDER_SECRET_KEY": "s" * 32, "FORWARDER_REMOTE_ALLOW": "127.0.0.1"}
    with (
        ScriptedUpstream() as upstream,
        Services.build(make_settings(tmp_path, **environment)) as services,
    ):
        body = {"model": "mine", "from": "m", "remote_host": upstream.url, "verify": False}
        services.registration.create(body)

        assert services.find_upstream("chat") is services.upstreams["chat"]
        found = services.find_upstream("mine:latest")
        assert found is not None
        assert found.settings.base_url == upstream.url
        assert services.find_upstream("other") is None
        names = [target.name for target in services.health_targets.list_targets()]
        assert names == ["chat", "mine:latest"]

        services.registry.remove("mine")

        assert services.find_upstream("mine:latest") is None
        assert "mine:latest" not in services.upstreams


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gc, gevent, os
from greenlet import greenlet
from forwarder.config.settings import Settings
from forwarder.services import Services

def count():
    gevent.sleep(0.1)
    gc.collect()
    alive = sum(isinstance(o, gevent.Greenlet) and not o.dead for o in gc.get_objects())
    return alive, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

def use(services):  # everything that has a thread of its own
    services.usage_reports.make_report(0, 3600)
    services.capture.feed.read_state()
    services.capture.feed.read_summaries([])
    services.capture.run_blocking(int)

settings = Settings.from_env(dict(os.environ))
with Services.build(settings) as services:  # what is opened once in a process
    services.start()
    gevent.sleep(0.1)
before = count()
services = Services.build(settings)
built = count()
services.start()
started = count()
use(services)
services.close()
for _ in range(50):  # a native thread may take a while to end
    after = count()
    if after[2] <= before[2]:
        break
print(built[0] - before[0], started[0] - built[0], *(a - b for a, b in zip(after, before)))
"""


@pytest.mark.live
def test_loops_and_threads_of_a_gevent_worker_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS],
        cwd=ROOT,
        env={
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
            "FORWARDER_CAPTURE": "memory",
            "FORWARDER_HEALTH_INTERVAL": "600",
            "CHAT_BASE_URL": f"http://127.0.0.1:{find_unused_port()}/v1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.split() == ["0", "6", "0", "0", "0"], done.stderr


TWO_ENDPOINTS = {
    "CHAT_BASE_URL": "http://up.test/v1",
    "CHAT_API_KEY": "sk-key-1,sk-key-2",
    "FORWARDER_DATABASE_URL": "none",
}


def test_upstream_is_found_by_the_origin_of_an_endpoint() -> None:
    services = Services.build(Settings.from_env(TWO_ENDPOINTS))
    first, second = services.settings.upstreams[0].endpoints

    found = [services.find_upstream(name) for name in ("chat", first.origin, second.origin)]

    assert [each and each.settings.api_key for each in found] == [
        "sk-key-1",
        "sk-key-1",
        "sk-key-2",
    ]
    assert services.find_upstream("chat~gone") is None
    assert found[0] is not None
    assert found[0].learned_quirks is found[2].learned_quirks  # type: ignore[union-attr]


def test_services_share_states_only_through_a_configured_redis() -> None:
    assert Services.build(Settings.from_env(TWO_ENDPOINTS)).shared_state is None


def test_services_start_and_close_while_redis_is_away(caplog: pytest.LogCaptureFixture) -> None:
    environment = {**TWO_ENDPOINTS, "FORWARDER_RATE_LIMIT_STORAGE": "redis://:secret@127.0.0.1:1/0"}
    started_at = time.monotonic()
    with Services.build(Settings.from_env(environment)) as services:
        services.start()
        while not any(
            getattr(record, "event", None) == "shared_state_down" for record in caplog.records
        ):
            assert time.monotonic() < started_at + 10
            time.sleep(0.01)

    assert "secret" not in caplog.text
