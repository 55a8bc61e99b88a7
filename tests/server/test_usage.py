"""Which requests count as usage, and the routes that report it."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext
from forwarder.server.extension import get_extension
from forwarder.storage.db.usage import UsageCounts, UsageKey, UsageQuery
from forwarder.storage.repositories.usage import UsageRepository
from forwarder.usage import report
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

Json = dict[str, Any]
ADMIN, ALICE, BOB = ({"Authorization": f"Bearer {key}"} for key in ("sk-admin", "sk-1", "sk-2"))
USAGE = {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30}
CHAT: Json = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES: Json = {"model": "chat/m", "input": "hi"}


def answer(request: httpx2.Request) -> httpx2.Response:
    """A Chat upstream, which has no model "broken"."""
    if b'"broken"' in request.read():
        return httpx2.Response(404, json={"error": {"message": "no such model"}})
    if request.url.path.endswith("/embeddings"):
        vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
        return httpx2.Response(200, json={"data": [vector], "usage": {"prompt_tokens": 4}})
    message = {"role": "assistant", "content": "Hi"}
    choice = {"index": 0, "finish_reason": "stop"}
    if b'"stream":true' in request.read():
        return make_stream_response(
            {"choices": [{**choice, "delta": message}]}, {"choices": [], "usage": USAGE}
        )
    return httpx2.Response(200, json={"choices": [{**choice, "message": message}], "usage": USAGE})


@pytest.fixture
def client(serve: Serve, tmp_path: Path) -> FlaskClient:
    return serve(
        answer,
        FORWARDER_API_KEYS="alice:sk-1,bob:sk-2",
        FORWARDER_ADMIN_KEYS="sk-admin",
        FORWARDER_DATABASE_URL=f"sqlite:///{tmp_path}/state.db",
        FORWARDER_PRICES="m=1000/1000/1000",
        CHAT_MODELS="fast=m,*",
    )


def send(client: FlaskClient, body: Json, headers: Json = ALICE, path: str = "") -> int:
    path = path or ("/v1/responses" if "input" in body else "/v1/chat/completions")
    return client.post(path, json=body, headers=headers, buffered=True).status_code


def read_report(client: FlaskClient, query: str = "", headers: Json = ADMIN) -> Json:
    got = client.get(f"/forwarder/usage{query}", headers=headers)
    assert got.status_code == 200, got.text
    assert got.headers["Cache-Control"] == "no-store"
    report: Json = got.get_json()
    return report


def read_total(client: FlaskClient) -> Json:
    total: Json = read_report(client, "?group=")["total"]
    return total


def test_requests_of_all_kinds_count_once(client: FlaskClient) -> None:
    for stream in (False, True):
        assert send(client, {**CHAT, "stream": stream}) == 200
        assert send(client, {**RESPONSES, "stream": stream}) == 200
    assert send(client, {"model": "chat/m", "input": "hi"}, path="/v1/embeddings") == 200
    assert send(client, {**CHAT, "stream": True}, path="/api/chat") == 200
    assert send(client, {"model": "chat/m", "input": "hi"}, path="/v1/responses/compact") == 200

    [line] = read_report(client, "?group=client,model,upstream")["data"]
    assert (line["client"], line["model"], line["upstream"]) == ("alice", "chat/m", "chat")
    assert (line["requests"], line["errors"], line["cancelled"]) == (7, 0, 0)
    assert (line["input_tokens"], line["output_tokens"]) == (6 * 21 + 4, 6 * 9)
    assert line["mean_duration_ms"] >= line["mean_first_event_ms"] >= 0
    assert line["cost"] == pytest.approx((6 * 30 + 4) / 1000)


def test_background_work_counts_once_and_for_its_client(client: FlaskClient) -> None:
    for stream in (False, True):
        assert send(client, {**RESPONSES, "background": True, "stream": stream}, BOB) == 200
    deadline = time.monotonic() + 10
    while read_total(client)["requests"] < 2 and time.monotonic() < deadline:
        time.sleep(0.02)

    [line] = read_report(client, "?group=client")["data"]
    assert (line["client"], line["requests"], line["input_tokens"]) == ("bob", 2, 42)


@check_each(
    ("body", "status", "model", "upstream"),
    [
        ({**CHAT, "model": "broken"}, 404, "broken", "chat"),
        ({**CHAT, "model": "chat/"}, 404, "unknown", "none"),
        ({**RESPONSES, "model": 5}, 400, "unknown", "none"),
        ({**RESPONSES, "tools": 5}, 400, "chat/m", "chat"),
    ],
)
def test_failed_requests_are_errors(
    body: Json, status: int, model: str, upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = httpx2.MockTransport(answer)
    monkeypatch.setattr(services, "select_transport", lambda settings, heartbeat: transport)
    environment = {
        "CHAT_BASE_URL": "http://up.test/v1",
        "CHAT_BREAKER_FAILURES": "0",
        "FORWARDER_DATABASE_URL": "none",
    }
    client = create_app(Settings.from_env(environment)).test_client()
    assert send(client, body, {}) == status

    report = read_report(client, "?group=client,model,upstream", {})
    [line] = report["data"]
    assert report["shared"] is False
    assert (line["client"], line["model"], line["upstream"]) == ("anonymous", model, upstream)
    assert (line["requests"], line["errors"], line["cost"]) == (1, 1, None)


def test_requests_without_an_upstream_call_do_not_count(client: FlaskClient) -> None:
    assert send(client, CHAT, {"Authorization": "Bearer wrong"}) == 401
    assert client.post("/v1/chat/completions", data="{", headers=ALICE).status_code == 400
    assert client.get("/v1/models", headers=ALICE).status_code == 200
    assert send(client, CHAT, ALICE, "/forwarder/translate") == 200
    assert send(client, {**RESPONSES, "background": True, "tools": 5}) == 400

    assert read_total(client)["requests"] == 0


def test_tokens_of_an_answer_cut_by_the_forwarder_are_estimated(serve: Serve) -> None:
    def stream(request: httpx2.Request) -> httpx2.Response:
        delta = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0}
        return make_stream_response({**delta, "content_index": 0, "delta": "some text STOP more"})

    client = serve(stream, FORWARDER_DATABASE_URL="none")
    body = {**CHAT, "model": "responses/m", "stop": "STOP", "stream": True}
    assert send(client, body, {}) == 200

    total = read_report(client, "?group=", {})["total"]
    assert (total["requests"], total["errors"], total["estimated"]) == (1, 0, 1)
    assert min(total["input_tokens"], total["output_tokens"]) > 0


@check_each(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "web_search_options": {}}),
        ("/v1/responses", {**RESPONSES, "tools": [{"type": "web_search"}]}),
    ],
)
def test_finished_rounds_count_if_the_client_leaves_in_a_later_one(
    path: str, body: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search_first(request: httpx2.Request) -> httpx2.Response:
        choice = {"index": 0, "finish_reason": None}
        if b'"role":"tool"' in request.read():
            texts = [{"choices": [{**choice, "delta": {"content": f"{n} "}}]} for n in range(50)]
            return make_stream_response(*texts, {"choices": [{**choice, "finish_reason": "stop"}]})
        function = {"name": "web_search", "arguments": '{"query": "cats"}'}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        return make_stream_response(
            {"choices": [{**choice, "delta": {"tool_calls": [call]}}]},
            {"choices": [{**choice, "delta": {}, "finish_reason": "tool_calls"}], "usage": USAGE},
        )

    transport = httpx2.MockTransport(search_first)
    monkeypatch.setattr(services, "select_transport", lambda settings, heartbeat: transport)
    environment = {
        "CHAT_BASE_URL": "http://up.test/v1",
        "FORWARDER_DATABASE_URL": "none",
        "FORWARDER_WEB_SEARCH": "searxng",
        "FORWARDER_WEB_SEARCH_URL": "http://127.0.0.1:9",  # the search fails, the round is over
    }
    client = create_app(Settings.from_env(environment)).test_client()
    answer = client.post(path, json={**body, "stream": True}, buffered=False)
    assert next(piece for piece in answer.iter_encoded() if b'"0 "' in piece)
    answer.close()

    total = read_report(client, "?group=", {})["total"]
    assert (total["requests"], total["cancelled"]) == (1, 1)
    assert (total["input_tokens"], total["output_tokens"]) == (21, 9)


def test_model_has_the_name_that_the_client_sent(client: FlaskClient) -> None:
    send(client, {**CHAT, "model": "fast"})

    [line] = read_report(client, "?group=model")["data"]
    assert line["model"] == "fast"
    assert line["cost"] == 0.03  # by the name that it has at the upstream


def test_client_sees_its_own_usage_only(client: FlaskClient) -> None:
    send(client, CHAT, ALICE)
    send(client, CHAT, BOB)
    send(client, CHAT, BOB)

    assert read_report(client, "?group=")["total"]["requests"] == 3
    report = read_report(client, "?group=client", BOB)
    assert [(line["client"], line["requests"]) for line in report["data"]] == [("bob", 2)]
    assert client.get("/forwarder/usage").status_code == 401
    refused = client.get("/forwarder/usage", headers={"Authorization": "Bearer wrong"})
    assert refused.status_code == 401


def test_usage_reports_count_towards_the_rate_limit(serve: Serve) -> None:
    client = serve(answer, FORWARDER_API_KEYS="k", FORWARDER_RATE_LIMIT_REQUESTS="2/hour")
    headers = {"Authorization": "Bearer k"}

    codes = [client.get("/forwarder/usage", headers=headers).status_code for _ in range(3)]
    assert codes == [200, 200, 429]


def test_without_keys_only_local_programs_see_usage(serve: Serve) -> None:
    client = serve(answer)

    assert client.get("/forwarder/usage").status_code == 200
    remote = client.get("/forwarder/usage", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert remote.status_code == 403


def test_csv_is_a_download(client: FlaskClient) -> None:
    send(client, {**CHAT, "model": "=1+1"})
    got = client.get("/forwarder/usage?group=model&format=csv", headers=ADMIN)

    assert got.mimetype == "text/csv"
    assert got.headers["Content-Disposition"] == 'attachment; filename="usage.csv"'
    header, row = csv.reader(io.StringIO(got.text))
    assert (header[0], row[0]) == ("model", "'=1+1")


@check_each(
    ("query", "param"),
    [
        ("?from=soon", "from"),
        ("?to=never", "to"),
        ("?from=2026-01-02&to=2026-01-01", "from"),
        ("?group=week", "group"),
        ("?format=xml", "format"),
    ],
)
def test_bad_parameters_are_named(query: str, param: str, client: FlaskClient) -> None:
    got = client.get(f"/forwarder/usage{query}", headers=ADMIN)

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, param)


def test_usage_is_stored_when_the_process_ends(client: FlaskClient) -> None:
    send(client, CHAT)
    extension = get_extension(client.application)
    extension.save_usage()

    assert extension.services.database is not None
    stored = UsageRepository(extension.services.database)
    [(_, counts)] = stored.sum_counts(UsageQuery(0, 2**40, ()), 9)
    assert (counts.requests, counts.input_tokens, counts.output_tokens) == (1, 21, 9)


# -- in the form of OpenAI's API ------------------------------------------------------------------


def read_page(client: FlaskClient, query: str, headers: Json = ADMIN) -> Json:
    got = client.get(f"/v1/organization/usage/completions{query}", headers=headers)
    assert got.status_code == 200, got.text
    page: Json = got.get_json()
    return page


def test_pages_have_a_bucket_for_each_day(client: FlaskClient) -> None:
    send(client, CHAT, ALICE)
    send(client, {**CHAT, "model": "fast"}, BOB)
    day = int(time.time()) // 86400 * 86400
    start = day - 2 * 86400

    first = read_page(client, f"?start_time={start + 5}&limit=2")
    assert [bucket["start_time"] for bucket in first["data"]] == [start, start + 86400]
    assert [bucket["results"] for bucket in first["data"]] == [[], []]
    assert (first["object"], first["has_more"]) == ("page", True)
    page = first["next_page"]
    query = f"?start_time={start}&limit=2&page={page}&group_by=model&group_by=api_key_id"
    second = read_page(client, query)
    assert (second["has_more"], second["next_page"]) == (False, None)
    [bucket] = second["data"]
    assert (bucket["start_time"], bucket["end_time"]) == (day, day + 86400)
    rows = [(r["model"], r["api_key_id"], r["input_tokens"]) for r in bucket["results"]]
    assert sorted(rows) == [("chat/m", "alice", 21), ("fast", "bob", 21)]
    assert {r["object"] for r in bucket["results"]} == {"organization.usage.completions.result"}


def test_pages_have_the_same_base_urls_as_other_routes_of_the_api(client: FlaskClient) -> None:
    paths = ("/organization", "/v1/v1/organization", "/openai/v1/organization")
    for path in paths:
        got = client.get(f"{path}/usage/completions?start_time=0", headers=ADMIN)
        assert (path, got.status_code) == (path, 200)


def test_truncated_bucket_continues_on_the_next_page(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = int(time.time()) // 86400 * 86400
    start = day - 2 * 86400
    rows = [
        (UsageKey(start + after * 86400, name, "m", "up"), UsageCounts(requests=1))
        for after in (0, 2)
        for name in ("alice", "bob")
    ]
    get_extension(client.application).services.usage_reports._store.add_counts(rows)
    monkeypatch.setattr(report, "MAX_ROWS", 3)
    query = f"?start_time={start}&group_by=api_key_id"
    first = read_page(client, query)
    assert first["has_more"]
    second = read_page(client, f"{query}&page={first['next_page']}")

    buckets = [*first["data"], *second["data"]]
    assert [bucket["start_time"] for bucket in buckets] == [start, start + 86400, day]
    assert [[r["api_key_id"] for r in bucket["results"]] for bucket in buckets] == [
        ["alice", "bob"], [], ["alice", "bob"],
    ]  # fmt: skip
    assert not second["has_more"]
    monkeypatch.setattr(report, "MAX_ROWS", 1)
    assert read_page(client, query)["next_page"] == str(start + 86400)


def test_truncated_csv_has_another_file_name(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(client, CHAT, ALICE)
    send(client, CHAT, BOB)
    monkeypatch.setattr(report, "MAX_ROWS", 1)
    got = client.get("/forwarder/usage?group=client&format=csv", headers=ADMIN)

    assert (got.status_code, len(got.text.splitlines())) == (200, 2)
    assert got.headers["Content-Disposition"] == 'attachment; filename="usage-truncated.csv"'


def test_buckets_can_be_hours(client: FlaskClient) -> None:
    send(client, CHAT)
    hour = int(time.time()) // 3600 * 3600
    page = read_page(client, f"?start_time={hour}&bucket_width=1h&end_time={hour + 3600}")

    [bucket] = page["data"]
    [result] = bucket["results"]
    assert (result["num_model_requests"], result["model"], result["output_tokens"]) == (1, None, 9)


@check_each(
    ("query", "param"),
    [
        ("", "start_time"),
        ("?start_time=x", "start_time"),
        ("?start_time=0&bucket_width=1m", "bucket_width"),
        ("?start_time=0&limit=32", "limit"),
        ("?start_time=0&group_by=user_id", "group_by"),
        ("?start_time=86400&page=5", "page"),
    ],
)
def test_bad_parameters_of_pages_are_named(query: str, param: str, client: FlaskClient) -> None:
    got = client.get(f"/v1/organization/usage/completions{query}", headers=ADMIN)

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, param)


def test_pages_are_for_administrators(client: FlaskClient) -> None:
    got = client.get("/v1/organization/usage/completions?start_time=0", headers=ALICE)

    assert got.status_code == 403


def test_context_without_a_model_request_has_no_requested_model(client: FlaskClient) -> None:
    contexts: list[RequestContext] = []
    services = get_extension(client.application).services
    services.usage.on_complete = lambda context, seconds: contexts.append(context)  # type: ignore[method-assign]
    client.get("/v1/models", headers=ALICE)
    send(client, CHAT)

    assert [context.requested_model for context in contexts] == [None, "chat/m"]
