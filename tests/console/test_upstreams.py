"""The page of the upstreams, their states, and the probe of their quirks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from html import unescape
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.console import upstreams
from forwarder.console.upstreams import draw_history, format_duration
from forwarder.models.health_probe import ProbeResult
from forwarder.server.extension import get_extension
from forwarder.upstream.client import Upstream
from forwarder.upstream.resilience.concurrency_limit import ConcurrencyLimit
from tests.fake_provider import vendors
from tests.fake_provider.strict import check_chat
from tests.helpers.check_cases import check_each
from tests.models.remotes import Answer, answer_normally, refuse_connection, refusing
from tests.server.conftest import Serve

HOSTILE = "<script>alert(1)</script>\x1b[2J" + "x" * 5000

STATE = "/console/upstreams/states/chat"
PROBE = "/console/upstreams/probes/chat"


def make_provider(*refused: str) -> Answer:
    """Return a provider that is as strict as OpenAI and also refuses these features."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        request.read()
        if request.method == "POST":
            body = json.loads(request.content)
            wrong = check_chat(body) or vendors.list_refusals("chat", body, refused)
            if wrong:
                error = {"message": str(wrong[0]), "param": wrong[0].param, "code": wrong[0].code}
                return httpx2.Response(400, json={"error": error})
        return answer_normally(request)

    return answer


@pytest.fixture
def make_registered_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Answer], FlaskClient]:
    """Make a client of an application with a registered model ``mine`` and one upstream."""

    def make(answer: Answer) -> FlaskClient:
        transport = httpx2.MockTransport(answer)
        monkeypatch.setattr(services, "select_transport", lambda *args: transport)
        settings = {
            "CHAT_BASE_URL": "http://up.test/v1",
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
            "FORWARDER_REMOTE_ALLOW": "127.0.0.1",
        }
        client = create_app(Settings.from_env(settings)).test_client()
        body = {"model": "mine", "from": "m", "remote_host": "http://127.0.0.1:9/v1"}
        assert client.post("/api/create", json={**body, "verify": False}).status_code == 200
        return client

    return make


# -- states ---------------------------------------------------------------------------------------


def test_page_shows_settings_without_secrets_and_calls_no_upstream(serve: Serve) -> None:
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return answer_normally(request)

    client = serve(
        answer,
        CHAT_BASE_URL="http://up.test/abc123def456ghi789jkl012/v1",
        CHAT_API_KEY="sk-chat-secret",
        CHAT_QUERY="api-version=query-secret",
        CHAT_FALLBACK="responses/other",
        CHAT_PROVIDER="deepseek",
        RESPONSES_API_KEY="passthrough",
    )
    page = client.get("/console/upstreams").text

    assert requests == []
    assert "not checked yet" in page
    assert "<code>http://up.test/…/v1</code>" in page
    assert "<dd>CHAT_API_KEY</dd>" in page
    assert "<dd>the clients&#39; own keys</dd>" in page
    assert "<dd>responses/other</dd>" in page
    assert "<dd>deepseek</dd>" in page
    assert "secret" not in page
    assert "abc123" not in page
    assert f'hx-get="{STATE}"' in page


def test_reachable_upstream_has_models_latency_and_a_chart(serve: Serve) -> None:
    client = serve(answer_normally, FORWARDER_READY_TTL="0", CHAT_MAX_CONCURRENT="7")
    client.get(STATE)
    part = client.get(STATE).text

    assert '<span class="tag good">reachable</span>' in part
    assert re.search(r"since \d\d:\d\d:\d\d UTC, \d s ago", part)
    assert "<dt>Models</dt><dd>1</dd>" in part
    assert "<dd>0 of 7</dd>" in part
    assert "2 checks since" in part
    assert "<polyline" in part
    assert "failure" not in part


def test_demo_is_an_upstream_like_others(demo: FlaskClient) -> None:
    page = demo.get("/console/upstreams?check=1").text

    assert page.count('<span class="tag good">reachable</span>') >= 1
    assert "<dd>demo</dd>" in page


def test_recent_check_is_not_repeated(serve: Serve) -> None:
    client = serve(answer_normally, FORWARDER_READY_TTL="60")
    client.get(STATE)

    assert "1 check since" in client.get(STATE).text


@check_each(
    ("answer", "state", "reason"),
    [
        (refuse_connection, "unreachable", "cannot be reached"),
        (refusing(401, "bad key"), "key refused", "refuses the forwarder&#39;s key (CHAT_API_KEY)"),
        (refusing(500, "oops"), "does not work", "oops"),
    ],
)
def test_failing_upstream_has_a_readable_reason(
    serve: Serve, answer: Answer, state: str, reason: str
) -> None:
    part = serve(answer, CHAT_API_KEY="sk-secret").get(STATE).text

    assert f'<span class="tag bad">{state}</span>' in part
    assert reason in part
    assert 'class="failure"' in part
    assert "sk-secret" not in part


def test_key_that_a_request_had_refused_is_shown_beside_a_public_model_list(serve: Serve) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return refusing(401)(request) if request.method == "POST" else answer_normally(request)

    client = serve(answer, CHAT_API_KEY="sk-secret")
    body = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}]}
    client.post("/v1/chat/completions", json=body)
    part = client.get(STATE).text

    assert '<span class="tag bad">key refused</span>' in part
    assert "1 call, 0 failed" in part


def test_open_breaker_and_counts_are_shown(serve: Serve) -> None:
    client = serve(refuse_connection, CHAT_BREAKER_FAILURES="2")
    body = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(3):
        client.post("/v1/chat/completions", json=body)
    part = client.get(STATE).text

    assert re.search(r'<span class="bad">open, tries again in \d+ s</span>', part)
    assert "2 calls, 2 failed, 1 refused here, 1 breaker opening" in part


def test_endpoints_are_listed_by_their_positions(serve: Serve) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST" and request.headers["authorization"] == "Bearer hidden-key-1":
            error = {"error": {"message": "slow down"}}
            return httpx2.Response(429, headers={"retry-after": "30"}, json=error)
        return answer_normally(request)

    client = serve(answer, CHAT_API_KEY="hidden-key-1,hidden-key-2")
    body = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}]}
    for number in range(10):
        client.post("/v1/chat/completions", json={**body, "prompt_cache_key": str(number)})
    part = client.get(STATE).text

    assert re.search(
        r'<span class="bad">host 1, key 1</span>: cooling down \d+ s for m after a 429, 0 requests now, '
        "1 call",
        part,
    )
    assert re.search(r'<span class="good">host 1, key 2</span>: 0 requests now, 10 calls', part)
    assert "11 calls" in part
    assert "hidden-key" not in part


def test_texts_of_upstreams_and_clients_are_escaped_and_shortened(serve: Serve) -> None:
    client = serve(refusing(400, f"Unsupported parameter: 'seed' {HOSTILE}"))
    learned = get_extension(client.application).services.upstreams["chat"].learned_quirks
    learned.remember(HOSTILE, {"stream_options": False})
    for number in range(upstreams.MAX_LEARNED_MODELS + 2):
        learned.remember(f"m{number}", {"drop": frozenset({"b", HOSTILE})})
    state = client.get(STATE).text
    probe = run_probe(client, HOSTILE)

    for text in (state, probe):
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text
    assert "x" * 1000 not in state
    assert "and 3 more models" in state
    assert max(map(len, re.findall(r"<td.*?</td>", probe))) < 1000


def test_state_of_an_unknown_upstream_is_not_found(demo: FlaskClient) -> None:
    part = demo.get("/console/upstreams/states/none", headers={"HX-Request": "true"})

    assert part.status_code == 404
    assert part.text.startswith('<p class="notice bad"')


def test_page_without_scripts_checks_all_on_request(serve: Serve) -> None:
    page = serve(answer_normally).get("/console/upstreams?check=1").text

    assert page.count('<span class="tag good">reachable</span>') == 2


def test_pages_need_a_session(serve: Serve) -> None:
    client = serve(answer_normally, FORWARDER_ADMIN_KEYS="adm-one")

    for path in ("/console/upstreams", STATE, PROBE):
        assert client.get(path).status_code == 302, path
    for path in (PROBE, "/console/upstreams/quirks/chat"):
        assert client.post(path).status_code == 401, path


def test_other_pages_cannot_start_a_probe(serve: Serve) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"}

    assert serve(answer_normally).post(PROBE, headers=headers).status_code == 403


def test_chart_has_lines_between_failures() -> None:
    def make(latency: float | None) -> ProbeResult:
        fault = "host" if latency is None else None
        return ProbeResult(latency is not None, fault=fault, latency=latency or 9.0)

    chart = draw_history([make(0.1), make(0.2), make(None), make(0.2)])

    assert [len(line.split()) for line in chart.lines] == [2, 2]
    assert chart.lines[0].split()[0].endswith(",24.0")
    assert chart.lines[1].split() == ["358.0,2.0"] * 2
    assert len(chart.failures) == 1
    assert chart.summary == "4 checks since 00:00:00 UTC: median 200 ms, at most 200 ms, 1 failed"
    assert draw_history([make(None)]).lines == []


def test_durations_are_short() -> None:
    durations = (-1.0, 59.4, 60.0, 3600.0, 200_000.0)

    assert [*map(format_duration, durations)] == ["0 s", "59 s", "1 min", "1 h", "2 d"]


# -- the probe ------------------------------------------------------------------------------------


def run_probe(client: FlaskClient, model: str = "m", name: str = "chat") -> str:
    """Run a probe to its end; return its page."""
    with client.post(f"/console/upstreams/probes/{name}", data={"model": model}) as response:
        return response.text


def read_setting(page: str) -> tuple[str, dict[str, object]]:
    match = re.search(r'<pre class="wrap" id="setting"[^>]*>(.*?)</pre>', page)
    assert match is not None
    name, _, quirks = unescape(match[1]).rpartition("=")
    return name, json.loads(quirks)


def read_quirks(page: str) -> str:
    match = re.search(r'name="quirks" value="(.*?)"', page)
    assert match is not None
    return unescape(match[1])


def test_probe_sends_each_verdict_as_it_comes(serve: Serve) -> None:
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.method)
        return make_provider("stream_options")(request)

    response = serve(answer).post(PROBE, data={"model": "m"})
    pieces = iter(response.response)
    text, counts = b"", {}
    for feature in ("a token limit", "stream_options", "seed"):
        while f">{feature}</th>".encode() not in text:
            piece = next(pieces)
            text += piece if isinstance(piece, bytes) else piece.encode()
        counts[feature] = len(sent)
    response.close()

    assert counts["a token limit"] < counts["stream_options"] < counts["seed"]


def test_probe_of_a_strict_upstream_ends_with_its_setting(serve: Serve) -> None:
    client = serve(make_provider("stream_options", "json_schema", "metadata"))
    page = run_probe(client)
    name, quirks = read_setting(page)

    verdicts = dict(re.findall(r'<th scope="row">(.*?)</th>.*?<span class="(.*?)">', page))
    assert len(verdicts) == len(upstreams.PROBES)
    assert set(verdicts.values()) == {"good"}
    assert "accepted with quirks" in page
    assert name == "CHAT_QUIRKS"
    assert quirks["stream_options"] is False
    assert quirks["drop"] == ["metadata"]
    assert quirks["response_format"] == "json_object"
    assert "Workers do not share what they learn" in page


def test_probed_quirks_of_a_configured_upstream_apply_in_this_worker(serve: Serve) -> None:
    sent: list[dict[str, object]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            sent.append(json.loads(request.read()))
        return make_provider("metadata")(request)

    client = serve(answer)
    quirks = read_quirks(run_probe(client))
    used = client.post("/console/upstreams/quirks/chat", data={"model": "m", "quirks": quirks})
    sent.clear()
    body = {"messages": [{"role": "user", "content": "a"}], "metadata": {"a": "b"}}
    with client.post("/v1/chat/completions", json={"model": "chat/m", **body}) as response:
        assert response.status_code == 200

    assert re.search(r"Process \d+ adapts requests for <code>m</code>.*for 1 hour", used.text, re.S)
    assert len(sent) == 1
    assert "metadata" not in sent[0]
    state = client.get(STATE).text
    assert "<strong>m</strong>" in state
    assert "for 1 h more" in state


def test_probed_quirks_of_a_registered_model_are_stored_with_it(
    make_registered_client: Callable[[Answer], FlaskClient],
) -> None:
    sent: list[dict[str, object]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            sent.append(json.loads(request.read()))
        return make_provider("metadata")(request)

    client = make_registered_client(answer)
    page = run_probe(client, "", "mine:latest")
    assert "Store with the model" in page
    assert "restart" not in page
    data = {"quirks": read_quirks(page)}
    stored = client.post("/console/upstreams/quirks/mine:latest", data=data)
    sent.clear()
    body = {"messages": [{"role": "user", "content": "a"}], "metadata": {"a": "b"}}
    with client.post("/v1/chat/completions", json={"model": "mine", **body}) as response:
        assert response.status_code == 200

    assert stored.status_code == 303
    assert "Saved: <code>mine:latest</code>" in client.get(stored.headers["Location"]).text
    assert len(sent) == 1
    assert "metadata" not in sent[0]
    second_page = run_probe(client, "", "mine:latest")
    assert "already fits: no quirks to set" in second_page


def test_probe_of_a_broken_upstream_ends_with_the_error(serve: Serve) -> None:
    for answer, reason in (
        (refuse_connection, "cannot be reached"),
        (refusing(401, "no"), "CHAT_API_KEY"),
    ):
        client = serve(answer, CHAT_API_KEY="sk-secret")
        page = run_probe(client)
        assert "The probe ended early" in page
        assert reason in page
        assert "sk-secret" not in page
        assert "Use in this worker" not in page
        assert page.rstrip().endswith("</html>")


def test_probe_without_a_model_takes_one_of_the_list(serve: Serve) -> None:
    def list_none(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"data": []})

    assert "Verdicts for m</h2>" in run_probe(serve(answer_normally), "")
    assert "Verdicts for quick</h2>" in run_probe(
        serve(answer_normally, CHAT_MODELS="fast=quick"), ""
    )
    failed = serve(list_none).post(PROBE)
    assert failed.status_code == 400
    assert re.search(
        r'aria-invalid="true".*id="model-error">The upstream .* lists no', failed.text, re.S
    )


def test_upstream_without_chat_has_no_probe(serve: Serve) -> None:
    client = serve(answer_normally)
    path = "/console/upstreams/probes/responses"

    assert path not in client.get("/console/upstreams").text
    assert "does not speak Chat Completions" in client.get(path).text
    assert client.post(path, data={"model": "m"}).status_code == 400


def test_long_probe_is_stopped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "MAX_PROBE_SECONDS", 0.0)
    page = run_probe(serve(answer_normally))

    assert "Stopped after 0 seconds" in page
    assert page.count('<th scope="row">') == 1


def test_number_of_probes_is_limited(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = ConcurrencyLimit(1)
    monkeypatch.setattr(upstreams, "_running_probes", limit)
    client = serve(answer_normally)
    running = client.post(PROBE, data={"model": "m"})

    assert client.post(PROBE, data={"model": "m"}).status_code == 503
    running.close()
    assert client.post(PROBE, data={"model": "m"}, buffered=True).status_code == 200
    assert client.post("/console/upstreams/probes/responses").status_code == 400
    assert limit.in_use == 0


@pytest.mark.parametrize("broken", ["form", "connection", "probe", "page", "closing"])
def test_failed_start_of_a_probe_frees_its_slot(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(broken)

    limit = ConcurrencyLimit(1)
    monkeypatch.setattr(upstreams, "_running_probes", limit)
    client, data = serve(answer_normally), {"model": "m"}
    registration = get_extension(client.application).services.registration
    closed: list[bool] = []
    connect = registration.connect_for_probe

    def connect_and_watch(*arguments: Any) -> Upstream:
        connection = connect(*arguments)
        close = fail if broken == "closing" else connection.close
        connection.close = lambda: (closed.append(True), close())  # type: ignore[method-assign]
        return connection

    monkeypatch.setattr(registration, "connect_for_probe", connect_and_watch)
    if broken == "form":
        data = {f"field{number}": "" for number in range(2000)}
    elif broken == "connection":
        monkeypatch.setattr(registration, "connect_for_probe", fail)
    elif broken == "probe":
        monkeypatch.setattr(upstreams, "QuirkProbe", fail)
    elif broken == "page":
        monkeypatch.setattr(upstreams, "stream_page", fail)

    with suppress(RuntimeError):
        failed = client.post(PROBE, data=data, content_type="multipart/form-data", buffered=True)
        assert failed.status_code >= 400

    assert limit.in_use == 0
    assert closed == ([] if broken in ("form", "connection") else [True])


@check_each(
    ("quirks", "reason"),
    [
        ("{", "JSON object"),
        ("[]", "JSON object"),
        ("{}", "those that a probe reports"),
        ('{"models": {}}', "those that a probe reports"),
        ('{"nonsense": true}', "only the names"),
        ('{"stream_options": 5}', "stream_options"),
    ],
)
def test_only_valid_quirks_are_used(serve: Serve, quirks: str, reason: str) -> None:
    client = serve(answer_normally)
    data = {"model": "m", "quirks": quirks}
    refused = client.post("/console/upstreams/quirks/chat", data=data)

    assert refused.status_code == 400
    assert reason in refused.text
    learned = get_extension(client.application).services.upstreams["chat"].learned_quirks
    assert learned.describe() == {}


def test_quirks_of_a_configured_upstream_need_a_model(serve: Serve) -> None:
    data = {"quirks": '{"stream_options": false}'}

    assert (
        serve(answer_normally).post("/console/upstreams/quirks/chat", data=data).status_code == 400
    )


def test_abandoned_probe_is_logged_as_one_request(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    client = serve(answer_normally, FORWARDER_LOG_LEVEL="DEBUG")
    page = client.post(PROBE, data={"model": "m"})
    next(iter(page.response))
    page.close()

    [line] = re.findall(r'.*"event":"request_done".*', capsys.readouterr().err)
    assert '"status":200' in line
    assert "shutting_down" not in line
