"""Embedding of texts for vector stores."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from forwarder.config.settings import Settings
from forwarder.core.errors import UpstreamProtocolError, UpstreamRefused
from forwarder.pipeline.text_embedder import TextEmbedder, build_vector_stores
from forwarder.pipeline.upstream_calls import UpstreamCalls
from forwarder.services import ReplayOverrides, Services
from tests.helpers.check_cases import check_each


def make_embedder(answer: httpx2.Response, requests: list[Any]) -> tuple[Services, TextEmbedder]:
    def handle(request: httpx2.Request) -> httpx2.Response:
        requests.append((str(request.url), json.loads(request.read())))
        return answer

    environment = {
        "CHAT_BASE_URL": "http://up.test/v1",
        "CHAT_API_KEY": "sk-up",
        "FORWARDER_DATABASE_URL": "none",
    }
    services = Services.build(
        Settings.from_env(environment), ReplayOverrides(httpx2.MockTransport(handle))
    )
    return services, TextEmbedder(services, UpstreamCalls(services))


def test_texts_are_embedded_in_their_order() -> None:
    entries = [{"index": 1, "embedding": [2, 0.5]}, {"index": 0, "embedding": [1.0, 0.5]}]
    requests: list[Any] = []
    services, embedder = make_embedder(httpx2.Response(200, json={"data": entries}), requests)

    with services:
        vectors = embedder.embed("chat/e", ["a", "b"], "payer")

    assert [list(vector) for vector in vectors] == [[1.0, 0.5], [2.0, 0.5]]
    [(url, body)] = requests
    assert url == "http://up.test/v1/embeddings"
    assert (body["model"], body["input"]) == ("e", ["a", "b"])


@check_each(
    "data", [[], [{"index": 0, "embedding": [1.0]}], [{"embedding": ["x"]}] * 2, None, [1, 2]]
)
def test_unreadable_answers_are_errors_of_the_upstream(data: Any) -> None:
    services, embedder = make_embedder(httpx2.Response(200, json={"data": data}), [])

    with services, pytest.raises(UpstreamProtocolError):
        embedder.embed("chat/e", ["a", "b"], "payer")


def test_refusal_is_passed_on() -> None:
    answer = httpx2.Response(400, json={"error": {"message": "too long"}})
    services, embedder = make_embedder(answer, [])

    with services, pytest.raises(UpstreamRefused, match="too long"):
        embedder.embed("chat/e", ["a"], "payer")


def test_no_vector_stores_without_a_database() -> None:
    services, _ = make_embedder(httpx2.Response(500), [])
    with services:
        assert build_vector_stores(services, UpstreamCalls(services)) is None
