"""Files in the database instead of an upstream."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient
from openai.types import FileDeleted, FileObject

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.server.extension import get_extension
from forwarder.server.stored_files import clean_filename
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve

STORE = {"FORWARDER_FILES": "store", "FORWARDER_API_KEYS": "sk-one,sk-two"}
ONE, TWO = ({"Authorization": f"Bearer sk-{name}"} for name in ("one", "two"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**STORE, "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db"}


@pytest.fixture
def client(serve: Serve, environment: dict[str, str]) -> FlaskClient:
    return serve(lambda request: httpx2.Response(500), **environment)


def upload(
    client: FlaskClient,
    data: bytes = b"hello",
    filename: str = "a.txt",
    headers: dict[str, str] = ONE,
    **fields: str,
) -> Any:
    form = {"purpose": "assistants", **fields, "file": (io.BytesIO(data), filename)}
    return client.post("/v1/files", data=form, headers=headers)


def require_id(answer: Any) -> str:
    assert answer.status_code == 200, answer.get_data()
    return str(answer.get_json()["id"])


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_file_is_stored_read_and_deleted(client: FlaskClient, prefix: str) -> None:
    uploaded = upload(client, b"<script>", "ä/b.html")
    file = FileObject.model_validate(uploaded.get_json(), strict=True)
    assert (file.bytes, file.filename, file.purpose) == (8, "b.html", "assistants")
    at = f"{prefix}/files/{file.id}"

    assert client.get(at, headers=ONE).get_json() == uploaded.get_json()
    content = client.get(f"{at}/content", headers=ONE)
    assert content.data == b"<script>"
    assert content.headers["Content-Type"] == "application/octet-stream"
    assert content.headers["Content-Length"] == "8"
    assert content.headers["Content-Disposition"] == "attachment; filename=b.html"
    assert content.headers["Content-Security-Policy"] == "sandbox"
    assert content.headers["X-Content-Type-Options"] == "nosniff"
    deletion = client.delete(at, headers=ONE).get_json()
    assert FileDeleted.model_validate(deletion, strict=True).deleted
    assert client.get(at, headers=ONE).status_code == 404


def test_other_clients_cannot_find_files(client: FlaskClient) -> None:
    name = require_id(upload(client))

    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        answer = client.open(f"/v1/files/{name}{path}", method=method, headers=TWO)
        assert (answer.status_code, answer.get_json()["error"]["param"]) == (404, "file_id")
    assert client.get("/v1/files", headers=TWO).get_json()["data"] == []
    assert client.get(f"/v1/files/{name}").status_code == 401


def test_list_is_paged_and_filtered(client: FlaskClient) -> None:
    names = [require_id(upload(client, filename=f"{n}.txt")) for n in range(3)]
    batch = require_id(upload(client, purpose="batch"))

    def list_files(query: str) -> tuple[list[str], bool]:
        listed = client.get(f"/v1/files?{query}", headers=ONE).get_json()
        return [entry["id"] for entry in listed["data"]], listed["has_more"]

    assert list_files("") == ([batch, *names[::-1]], False)
    assert list_files("order=asc&limit=2") == (names[:2], True)
    assert list_files(f"order=asc&limit=2&after={names[1]}") == ([names[2], batch], False)
    assert list_files("purpose=batch") == ([batch], False)
    client.delete(f"/v1/files/{names[1]}", headers=ONE)
    assert list_files(f"order=asc&after={names[1]}") == ([names[2], batch], False)


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=10001", "limit"), ("order=x", "order"), ("after=x", "after"),
     ("purpose=x", "purpose")],
)  # fmt: skip
def test_invalid_lists_are_refused(client: FlaskClient, query: str, param: str) -> None:
    answer = client.get(f"/v1/files?{query}", headers=ONE)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": "assistants"}, "file"),
        ({"file": (b"x", "a.txt")}, "purpose"),
        ({"file": (b"x", "a.txt"), "purpose": "x"}, "purpose"),
        ({"file": (b"x", "a.txt"), "purpose": "batch", "expires_after[seconds]": "3600"},
         "expires_after.anchor"),
        ({"file": (b"x", "a.txt"), "purpose": "batch", "expires_after[anchor]": "created_at"},
         "expires_after.seconds"),
        ({"file": (b"x", "a.txt"), "purpose": "batch", "expires_after[anchor]": "created_at",
          "expires_after[seconds]": "5"}, "expires_after.seconds"),
    ],
)  # fmt: skip
def test_invalid_uploads_are_refused(client: FlaskClient, form: Any, param: str) -> None:
    if "file" in form:
        form = {**form, "file": (io.BytesIO(form["file"][0]), form["file"][1])}
    answer = client.post("/v1/files", data=form, headers=ONE, content_type="multipart/form-data")
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)


def test_limits_of_a_file_and_of_a_client(serve: Serve, environment: dict[str, str]) -> None:
    limits = {"FORWARDER_FILE_MAX": "10", "FORWARDER_FILES_MAX": "15"}
    client = serve(lambda request: httpx2.Response(500), **environment, **limits)

    assert upload(client, b"x" * 11).status_code == 413
    assert upload(client, b"x" * 10).status_code == 200
    full = upload(client, b"x" * 6)
    assert (full.status_code, full.get_json()["error"]["code"]) == (400, "storage_limit_exceeded")
    assert upload(client, b"x" * 10, headers=TWO).status_code == 200


def test_expiry_is_stored(client: FlaskClient) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = upload(client, **fields).get_json()
    assert file["expires_at"] in range(file["created_at"] + 3600, file["created_at"] + 3602)


@check_each(
    ("filename", "name"),
    [
        ("..\\..\\b.txt", "b.txt"),
        ("/etc/b.txt", "b.txt"),
        ("b\r\n\0.txt", "b.txt"),
        ("ä.txt", "ä.txt"),
        ("x" * 300, "x" * 255),
        ("/", "file"),
        (None, "file"),
    ],
)
def test_name_of_a_file_is_the_last_part_of_its_path(filename: str | None, name: str) -> None:
    assert clean_filename(filename) == name


def test_named_upstream_has_its_own_files(serve: Serve) -> None:
    urls: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        urls.append(str(request.url))
        return httpx2.Response(200, json={"id": "file-1"})

    client = serve(answer, FORWARDER_FILES="store")
    client.get("/v1/files/file-1234567890123456789?upstream=responses")
    client.get("/v1/files/file-1", headers={"X-Forwarder-Upstream": "responses"})

    assert [url.rpartition("/")[2] for url in urls] == ["file-1234567890123456789", "file-1"]


@check_each(
    ("environment", "stored"),
    [
        ({}, True),  # the demo
        ({"CHAT_BASE_URL": "http://up.test/v1"}, True),
        ({"RESPONSES_BASE_URL": "http://up.test/v1"}, False),
        ({"RESPONSES_BASE_URL": "http://up.test/v1", "FORWARDER_FILES": "store"}, True),
        ({"CHAT_BASE_URL": "http://up.test/v1", "FORWARDER_FILES": "upstream"}, False),
        ({"CHAT_BASE_URL": "http://up.test/v1", "FORWARDER_DATABASE_URL": "none"}, False),
    ],
)
def test_files_are_stored_without_an_upstream_that_has_files(
    environment: dict[str, str], stored: bool
) -> None:
    app = create_app(Settings.from_env(environment))
    assert get_extension(app).services.stores_files is stored


def test_store_needs_a_database(serve: Serve) -> None:
    client = serve(
        lambda request: httpx2.Response(500), FORWARDER_FILES="store", FORWARDER_DATABASE_URL="none"
    )
    for path in ("/v1/files", "/v1/vector_stores"):
        answer = client.get(path)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "store_disabled")


@pytest.mark.parametrize("upstream", ["chat", "responses"])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_stored_file_is_sent_to_every_upstream(
    serve: Serve, environment: dict[str, str], api: str, upstream: str
) -> None:
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.read().decode())
        return httpx2.Response(500, json={"error": {"message": "enough"}})

    client = serve(answer, **environment)
    name = require_id(upload(client, b"%PDF-1.7 text", "a.pdf", purpose="user_data"))
    model = f"{upstream}/m"
    if api == "chat":
        content = [{"type": "file", "file": {"file_id": name}}]
        path, body = "chat/completions", {"messages": [{"role": "user", "content": content}]}
    else:
        content = [{"type": "input_file", "file_id": name}]
        path, body = "responses", {"input": [{"role": "user", "content": content}]}

    client.post(f"/v1/{path}", json={"model": model, **body}, headers=ONE)
    client.post(f"/v1/{path}", json={"model": model, **body}, headers=TWO)

    data = "data:application/pdf;base64,JVBERi0xLjcgdGV4dA=="
    assert (data in sent[0], name in sent[0]) == (True, False)
    assert not any(data in each for each in sent[1:])
