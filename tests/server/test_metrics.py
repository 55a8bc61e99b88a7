"""Access to the metrics, and their values."""

from __future__ import annotations

import httpx2
from flask.testing import FlaskClient

from tests.helpers.check_cases import check_each
from tests.observability.counted import parse_samples
from tests.server.conftest import Serve


def test_requests_are_counted(demo: FlaskClient) -> None:
    body = {"model": "demo", "input": "hi"}
    whole_answer = demo.post("/v1/responses", json=body, buffered=True)
    demo.post("/v1/responses", json={**body, "stream": True}, buffered=True)

    got = demo.get("/metrics")

    assert got.content_type.startswith("text/plain; version=0.0.4")
    samples = parse_samples(got.text)
    assert samples["requests_total"] == {("demo", "responses", "200", "chat"): 2}
    used = whole_answer.get_json()["usage"]["input_tokens"]
    assert samples["input_tokens_total"] == {("demo", "responses", "chat"): 2 * used}
    assert samples["stream_seconds_count"] == {("demo", "responses", "chat"): 1}
    assert samples["open_streams"] == {("responses",): 0}


def test_files_are_counted_without_a_model(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200, json={"data": []}))
    client.get("/v1/files", buffered=True)

    samples = parse_samples(client.get("/metrics").text)
    assert samples["requests_total"] == {("none", "files", "200", "responses"): 1}


def test_probes_and_unknown_paths_are_not_counted(demo: FlaskClient) -> None:
    for path in ("/health", "/ready", "/metrics", "/no/such/thing"):
        demo.get(path, buffered=True)

    assert parse_samples(demo.get("/metrics").text).get("requests_total", {}) == {}


def test_disabled_metrics_are_not_found(serve: Serve) -> None:
    got = serve(lambda _: httpx2.Response(200), FORWARDER_METRICS="false").get("/metrics")

    assert (got.status_code, got.get_json()["error"]["code"]) == (404, "not_found")


@check_each(
    ("authorization", "status"),
    [("Bearer right", 200), ("bearer  right", 200), ("Bearer wrong", 401), ("Basic right", 401),
     ("", 401), ("Bearer richtig-ü", 401)],
)  # fmt: skip
def test_metrics_key_is_required(authorization: str, status: int, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200), FORWARDER_METRICS_KEY="right")

    got = client.get("/metrics", headers={"Authorization": authorization} if authorization else {})

    assert got.status_code == status


def test_client_keys_do_not_give_access_to_metrics(serve: Serve) -> None:
    client = serve(
        lambda _: httpx2.Response(200), FORWARDER_METRICS_KEY="m", FORWARDER_API_KEYS="c"
    )

    assert client.get("/metrics", headers={"Authorization": "Bearer c"}).status_code == 401
