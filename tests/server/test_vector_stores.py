"""Routes of vector stores: objects by the SDK's types, and errors that name the parameter."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient
from openai.types import (
    VectorStore,
    VectorStoreDeleted,
    VectorStoreSearchResponse,
)
from openai.types.vector_stores import (
    FileContentResponse,
    VectorStoreFile,
    VectorStoreFileBatch,
    VectorStoreFileDeleted,
)

from forwarder.demo.embeddings import make_vector
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve

ENVIRONMENT = {
    "FORWARDER_FILES": "store",
    "FORWARDER_API_KEYS": "sk-one,sk-two",
    "FORWARDER_EMBEDDING_MODEL": "chat/embedder",
    "CHAT_API_KEY": "sk-up",
}
ONE, TWO = ({"Authorization": f"Bearer sk-{name}"} for name in ("one", "two"))


class Embedder:
    """An upstream with embeddings; ``answer`` replaces them."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answer: httpx2.Response | None = None

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/v1/embeddings"
        body = json.loads(request.read())
        self.requests.append(body)
        if self.answer is not None:
            return self.answer
        entries = [
            {"object": "embedding", "index": i, "embedding": make_vector(text, 16)}
            for i, text in enumerate(body["input"])
        ]
        return httpx2.Response(200, json={"object": "list", "model": "e", "data": entries})


class Api:
    """A client with a key."""

    def __init__(self, client: FlaskClient, headers: dict[str, str] = ONE) -> None:
        self.client, self.headers = client, headers

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.client.open(f"/v1{path}", method=method, json=body, headers=self.headers)
        assert answer.status_code == 200, answer.get_data()
        return answer.get_json()

    def fail(self, method: str, path: str, body: Any = None) -> tuple[int, str | None]:
        answer = self.client.open(f"/v1{path}", method=method, json=body, headers=self.headers)
        return answer.status_code, answer.get_json()["error"]["param"]

    def upload(self, text: str | bytes, name: str = "a.txt") -> str:
        data = text.encode() if isinstance(text, str) else text
        form = {"purpose": "assistants", "file": (io.BytesIO(data), name)}
        answer = self.client.post("/v1/files", data=form, headers=self.headers)
        return str(answer.get_json()["id"])

    def create_store(self, **body: Any) -> str:
        return str(self.call("POST", "/vector_stores", body)["id"])

    def wait(self, store: str) -> Any:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            store_object = self.call("GET", f"/vector_stores/{store}")
            if store_object["status"] != "in_progress":
                return store_object
            time.sleep(0.02)
        raise AssertionError("the files were not processed in time")


@pytest.fixture
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def api(serve: Serve, embedder: Embedder, tmp_path: Path) -> Api:
    url = f"sqlite:///{tmp_path}/state.db"
    return Api(serve(embedder, **ENVIRONMENT, FORWARDER_DATABASE_URL=url))


def test_stores_are_created_changed_listed_and_deleted(api: Api) -> None:
    body = {
        "name": "docs",
        "description": "All of them.",
        "metadata": {"team": "a"},
        "expires_after": {"anchor": "last_active_at", "days": 7},
    }
    created = api.call("POST", "/vector_stores", body)
    store = VectorStore.model_validate(created, strict=True)
    assert (store.name, store.metadata, store.status) == ("docs", {"team": "a"}, "completed")
    assert store.expires_at == store.last_active_at + 7 * 86400  # type: ignore[operator]
    assert store.file_counts.total == 0
    assert created["description"] == "All of them."

    changed = api.call("POST", f"/vector_stores/{store.id}", {"name": "new", "expires_after": None})
    assert (changed["name"], changed["expires_at"]) == ("new", None)
    assert changed["metadata"] == {"team": "a"}
    assert api.call("POST", f"/vector_stores/{store.id}", {"metadata": None})["metadata"] == {}
    others = [api.create_store() for _ in range(3)]

    def list_stores(query: str) -> list[str]:
        return [each["id"] for each in api.call("GET", f"/vector_stores?{query}")["data"]]

    assert list_stores("") == [*others[::-1], store.id]
    assert list_stores("order=asc&limit=2") == [store.id, others[0]]
    assert list_stores(f"order=asc&before={others[1]}&limit=1") == [others[0]]
    assert list_stores(f"after={others[1]}") == [others[0], store.id]
    deletion = api.call("DELETE", f"/vector_stores/{others[0]}")
    assert VectorStoreDeleted.model_validate(deletion, strict=True).deleted
    assert list_stores("order=asc") == [store.id, *others[1:]]
    assert list_stores(f"order=asc&after={others[0]}") == others[1:]


def test_store_needs_no_body(api: Api) -> None:
    answer = api.client.post("/v1/vector_stores", headers=ONE)
    assert answer.get_json()["name"] == ""


def test_files_are_searched(api: Api, embedder: Embedder) -> None:
    refunds = api.upload("Refunds are paid within thirty days.", "refunds.txt")
    cats = api.upload("Cats sleep all day.", "cats.txt")
    store = api.create_store(file_ids=[refunds, cats])
    assert api.wait(store)["file_counts"]["completed"] == 2
    assert all(body["model"] == "embedder" for body in embedder.requests)

    page = api.call(
        "POST", f"/vector_stores/{store}/search", {"query": "refund days", "max_num_results": 1}
    )

    [entry] = page["data"]
    result = VectorStoreSearchResponse.model_validate(entry, strict=True)
    assert (result.file_id, result.filename) == (refunds, "refunds.txt")
    assert result.content[0].text == "Refunds are paid within thirty days."
    assert (page["search_query"], page["has_more"]) == (["refund days"], False)
    assert embedder.requests[-1]["input"] == ["refund days"]


def test_rewrite_query_is_reported_as_dropped(api: Api) -> None:
    store = api.create_store()
    body = {"query": ["a", "b"], "rewrite_query": True}
    answer = api.client.post(f"/v1/vector_stores/{store}/search", json=body, headers=ONE)

    assert answer.get_json()["search_query"] == ["a", "b"]
    assert answer.headers["X-Forwarder-Dropped"] == "rewrite_query"
    strict = {**ONE, "X-Forwarder-Strict": "true"}
    refused = api.client.post(f"/v1/vector_stores/{store}/search", json=body, headers=strict)
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "rewrite_query")


def test_files_of_a_store(api: Api) -> None:
    store = api.create_store()
    names = [api.upload(f"text {n}") for n in range(3)]
    strategy = {
        "type": "static",
        "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50},
    }
    for number, name in enumerate(names):
        body = {
            "file_id": name,
            "attributes": {"number": number, "ok": True},
            "chunking_strategy": strategy,
        }
        created = api.call("POST", f"/vector_stores/{store}/files", body)
        file = VectorStoreFile.model_validate(created, strict=True)
        assert (file.id, file.status, file.attributes) == (
            name,
            "in_progress",
            {"number": number, "ok": True},
        )
        assert created["chunking_strategy"] == strategy
    api.wait(store)
    at = f"/vector_stores/{store}/files"

    def list_files(query: str) -> list[str]:
        return [each["id"] for each in api.call("GET", f"{at}?{query}")["data"]]

    assert list_files("order=asc&filter=completed&limit=2") == names[:2]
    assert list_files(f"order=asc&after={names[1]}") == names[2:]
    assert list_files("filter=failed") == []
    changed = api.call("POST", f"{at}/{names[0]}", {"attributes": {"number": 9}})
    assert changed["attributes"] == {"number": 9}
    content = api.call("GET", f"{at}/{names[0]}/content")
    assert [FileContentResponse.model_validate(each).text for each in content["data"]] == ["text 0"]
    results = api.call(
        "POST",
        f"/vector_stores/{store}/search",
        {"query": "text", "filters": {"type": "eq", "key": "number", "value": 9}},
    )
    assert [entry["file_id"] for entry in results["data"]] == names[:1]
    deletion = api.call("DELETE", f"{at}/{names[0]}")
    assert VectorStoreFileDeleted.model_validate(deletion, strict=True).deleted
    assert list_files("order=asc") == names[1:]
    assert api.call("GET", f"/files/{names[0]}")["id"] == names[0]


def test_file_batches_are_created_listed_and_cancelled(api: Api) -> None:
    store = api.create_store()
    names = [api.upload(f"text {n}") for n in range(3)]
    at = f"/vector_stores/{store}/file_batches"
    body = {"file_ids": names[:2], "attributes": {"year": 2024}}

    created = api.call("POST", at, body)
    batch = VectorStoreFileBatch.model_validate(created, strict=True)
    assert (batch.vector_store_id, batch.file_counts.total) == (store, 2)
    entries = [{"file_id": names[2], "attributes": {"year": 2025}}]
    other = api.call("POST", at, {"files": entries})
    api.wait(store)

    assert api.call("GET", f"{at}/{batch.id}")["status"] == "completed"
    listed = api.call("GET", f"{at}/{batch.id}/files?order=asc")["data"]
    assert [(each["id"], each["attributes"]) for each in listed] == [
        (name, {"year": 2024}) for name in names[:2]
    ]
    assert api.call("GET", f"{at}/{other['id']}/files")["data"][0]["attributes"] == {"year": 2025}
    assert api.call("POST", f"{at}/{batch.id}/cancel")["status"] == "completed"


def test_failed_embedding_is_the_last_error(api: Api, embedder: Embedder) -> None:
    embedder.answer = httpx2.Response(400, json={"error": {"message": "no such model"}})
    name = api.upload("text")
    store = api.create_store(file_ids=[name])
    assert api.wait(store)["file_counts"]["failed"] == 1

    file = VectorStoreFile.model_validate(
        api.call("GET", f"/vector_stores/{store}/files/{name}"), strict=True
    )
    assert file.last_error is not None
    assert file.last_error.code == "server_error"
    assert "no such model" in file.last_error.message


@pytest.mark.parametrize(
    "entries",
    [[], [{"embedding": "AAAA", "index": 0}], [{"embedding": ["x"], "index": 0}], None, [1]],
)
def test_unreadable_embeddings_are_errors_of_the_upstream(
    api: Api, embedder: Embedder, entries: Any
) -> None:
    name = api.upload("text")
    store = api.create_store(file_ids=[name])
    api.wait(store)
    embedder.answer = httpx2.Response(200, json={"object": "list", "data": entries})

    answer = api.client.post(
        f"/v1/vector_stores/{store}/search", json={"query": "text"}, headers=ONE
    )

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (502, "upstream_protocol")


def test_stores_of_other_clients_are_not_found(api: Api) -> None:
    name = api.upload("text")
    store = api.create_store(file_ids=[name])
    api.wait(store)
    other_client = Api(api.client, TWO)

    for method, path, body in (
        ("GET", "", None),
        ("POST", "", {"name": "x"}),
        ("DELETE", "", None),
        ("POST", "/search", {"query": "text"}),
        ("GET", "/files", None),
        ("GET", f"/files/{name}", None),
        ("GET", f"/files/{name}/content", None),
        ("DELETE", f"/files/{name}", None),
        ("POST", "/files", {"file_id": name}),
        ("POST", "/file_batches", {"file_ids": [name]}),
        ("GET", "/file_batches/vsfb_1", None),
        ("POST", "/file_batches/vsfb_1/cancel", None),
        ("GET", "/file_batches/vsfb_1/files", None),
        ("GET", f"/files?after={name}", None),
        ("GET", f"/file_batches/vsfb_1/files?before={name}", None),
    ):
        assert other_client.fail(method, f"/vector_stores/{store}{path}", body) == (
            404,
            "vector_store_id",
        )
    for path in ("files", "file_batches/vsfb_1/files"):
        path = f"/vector_stores/a%00b/{path}?after={name}"
        assert api.fail("GET", path) == (404, "vector_store_id")
    assert other_client.call("GET", "/vector_stores")["data"] == []
    assert other_client.fail("POST", "/vector_stores", {"file_ids": [name]}) == (404, "file_ids")
    assert api.fail("POST", f"/vector_stores/{store}/files", {"file_id": "x"}) == (404, "file_id")


@check_each(
    ("path", "body", "param"),
    [
        ("", {"name": 1}, "name"),
        ("", {"name": "x" * 257}, "name"),
        ("", {"description": []}, "description"),
        ("", {"metadata": {"a": 1}}, "metadata.a"),
        ("", {"expires_after": {"days": 1}}, "expires_after.anchor"),
        ("", {"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after.anchor"),
        ("", {"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
        ("", {"file_ids": "x"}, "file_ids"),
        ("", {"file_ids": [1]}, "file_ids[0]"),
        ("", {"file_ids": ["x"] * 501}, "file_ids"),
        ("", {"chunking_strategy": {"type": "x"}}, "chunking_strategy.type"),
        ("/{store}/search", {}, "query"),
        ("/{store}/search", {"query": 1}, "query"),
        ("/{store}/search", {"query": " "}, "query"),
        ("/{store}/search", {"query": []}, "query"),
        ("/{store}/search", {"query": ["a", 1]}, "query[1]"),
        ("/{store}/search", {"query": ["a"] * 11}, "query"),
        ("/{store}/search", {"query": "x" * 4097}, "query"),
        ("/{store}/search", {"query": "x", "max_num_results": 51}, "max_num_results"),
        ("/{store}/search", {"query": "x", "max_num_results": 0}, "max_num_results"),
        ("/{store}/search", {"query": "x", "filters": {"type": "eq"}}, "filters.key"),
        ("/{store}/search", {"query": "x", "ranking_options": {"score_threshold": 2}},
         "ranking_options.score_threshold"),
        ("/{store}/search", {"query": "x", "rewrite_query": 1}, "rewrite_query"),
        ("/{store}/files", {}, "file_id"),
        ("/{store}/files", {"file_id": 1}, "file_id"),
        ("/{store}/files", {"file_id": "x", "attributes": {"a": []}}, "attributes.a"),
        ("/{store}/files/x", {}, "attributes"),
        ("/{store}/file_batches", {}, "file_ids"),
        ("/{store}/file_batches", {"file_ids": []}, "file_ids"),
        ("/{store}/file_batches", {"files": []}, "files"),
        ("/{store}/file_batches", {"files": [1]}, "files[0]"),
        ("/{store}/file_batches", {"files": [{"file_id": "x", "attributes": []}]},
         "files[0].attributes"),
        ("/{store}/file_batches", {"files": [{"file_id": "x"}], "file_ids": ["x"]}, "files"),
        ("/{store}/file_batches", {"file_ids": ["x"] * 2001}, "file_ids"),
    ],
)  # fmt: skip
def test_invalid_values_are_refused(api: Api, path: str, body: Any, param: str) -> None:
    store = api.create_store()
    assert api.fail("POST", "/vector_stores" + path.format(store=store), body) == (400, param)


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=101", "limit"), ("order=x", "order"), ("after=x", "after"), ("before=x", "before")],
)
def test_invalid_lists_are_refused(api: Api, query: str, param: str) -> None:
    store = api.create_store()
    for path in ("", f"/{store}/files"):
        assert api.fail("GET", f"/vector_stores{path}?{query}") == (400, param)
    assert api.fail("GET", f"/vector_stores/{store}/files?filter=x") == (400, "filter")


def test_vector_stores_need_stored_files(serve: Serve, embedder: Embedder) -> None:
    client = serve(embedder, FORWARDER_FILES="upstream")
    answer = client.get("/v1/vector_stores")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (400, "vector_stores_disabled")
    assert "FORWARDER_FILES=store" in error["message"]


def test_tokens_of_embeddings_are_charged_to_the_client(
    serve: Serve, embedder: Embedder, tmp_path: Path
) -> None:
    """Each embedding without usage costs one token: one for the file, one for each search."""
    url = f"sqlite:///{tmp_path}/state.db"
    limit = {"FORWARDER_RATE_LIMIT_TOKENS": "3/hour", "FORWARDER_DATABASE_URL": url}
    one = Api(serve(embedder, **ENVIRONMENT, **limit))
    store = one.create_store(file_ids=[one.upload("Cats sleep.")])
    one.wait(store)
    path, query = f"/vector_stores/{store}/search", {"query": "cats"}
    statuses = [
        one.client.post(f"/v1{path}", json=query, headers=ONE).status_code for _ in range(3)
    ]

    assert statuses == [200, 200, 429]
    assert Api(one.client, TWO).call("GET", "/vector_stores")["data"] == []
