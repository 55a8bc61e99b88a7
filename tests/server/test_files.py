"""Files passed through to an upstream."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import httpx2
from flask.testing import FlaskClient

from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

KEYS = {"RESPONSES_API_KEY": "sk-up", "CHAT_API_KEY": "sk-chat"}


class Upstream:
    """A mock upstream that records requests and always answers the same."""

    def __init__(self, *answer: object, **more: object) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = (answer or (200,), more or {"json": {"id": "file-1"}})

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        args, more = self._answer
        return httpx2.Response(*args, **more)  # type: ignore[arg-type]


def make_client(serve: Serve, upstream: Upstream, **environment: str) -> FlaskClient:
    return serve(upstream, **{**KEYS, **environment})


@check_each(
    ("method", "path"),
    [
        ("GET", "/files"),
        ("GET", "/files/file-1"),
        ("DELETE", "/files/file-1"),
        ("GET", "/files/file-1/content"),
        ("GET", "/containers/cntr_1/files/cfile_1/content"),
    ],
)
@check_each("prefix", ["", "/v1"])
def test_each_request_goes_to_the_upstream_that_speaks_responses(
    serve: Serve, method: str, path: str, prefix: str
) -> None:
    upstream = Upstream()

    got = make_client(serve, upstream).open(f"{prefix}{path}?limit=2&after=a%20b", method=method)

    assert (got.status_code, got.get_json()) == (200, {"id": "file-1"})
    [request] = upstream.requests
    assert (request.method, str(request.url)) == (
        method,
        f"http://up.test/v1{path}?limit=2&after=a+b",
    )
    assert request.headers["authorization"] == "Bearer sk-up"


@check_each("size", [3, 2**20])
def test_upload_keeps_all_form_fields(serve: Serve, size: int) -> None:
    upstream = Upstream()
    form = httpx2.Request(
        "POST",
        "http://client.test",
        data={"purpose": "user_data", "expires_after[seconds]": "3600"},
        files={"file": ("ä b.pdf", b"x" * size, "application/pdf")},
    )
    kind = {"Content-Type": form.headers["content-type"]}

    got = make_client(serve, upstream).post("/v1/files", data=form.read(), headers=kind)

    assert got.get_json() == {"id": "file-1"}
    [request] = upstream.requests
    assert str(request.url) == "http://up.test/v1/files"
    parts = request.content.split(
        request.headers["content-type"].partition("boundary=")[2].encode()
    )
    assert [part.partition(b"\r\n\r\n")[2].rstrip(b"\r\n-") for part in parts[1:4]] == [
        b"user_data",
        b"3600",
        b"x" * size,
    ]
    assert b'name="expires_after[seconds]"' in parts[2]
    assert 'name="file"; filename="ä b.pdf"'.encode() in parts[3]
    assert b"Content-Type: application/pdf" in parts[3]


@check_each("how", ["header", "query"])
def test_a_request_may_name_the_upstream(serve: Serve, how: str) -> None:
    upstream = Upstream()
    headers = {"X-Forwarder-Upstream": "chat"} if how == "header" else {}
    query = "?upstream=chat" if how == "query" else ""

    make_client(serve, upstream).get(f"/v1/files{query}", headers=headers)

    [request] = upstream.requests
    assert request.headers["authorization"] == "Bearer sk-chat"
    assert str(request.url) == "http://up.test/v1/files"


CITED = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "content": [
                {
                    "type": "output_text",
                    "text": "Your table and its source.",
                    "annotations": [
                        {"type": "container_file_citation", "container_id": "cntr_1",
                         "file_id": "cfile_1", "filename": "table.csv",
                         "start_index": 0, "end_index": 10},
                        {"type": "file_citation", "file_id": "file-1", "filename": "a.pdf", "index": 9},
                    ],
                }
            ],
        }
    ],
}  # fmt: skip


@check_each("stream", [False, True])
@check_each("upstream", ["one", "two"])
@check_each("public", ["", "https://f.example/llm/"])
def test_a_file_in_an_answer_has_a_link_to_the_upstream_that_made_it(
    serve: Serve, stream: bool, upstream: str, public: str
) -> None:
    urls: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        urls.append(str(request.url))
        if request.method == "GET":
            return httpx2.Response(200, content=b"a,b")
        return make_stream_response({"type": "response.completed", "response": CITED})

    app = serve(
        answer, FORWARDER_UPSTREAMS="one,two", FORWARDER_PUBLIC_URL=public,
        FORWARDER_HOSTS="near.test",
        ONE_BASE_URL="http://one.test/v1", ONE_API="responses",
        TWO_BASE_URL="http://two.test/v1", TWO_API="responses",
    )  # fmt: skip
    body = {
        "model": f"{upstream}/m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": stream,
    }
    got = app.post("/v1/chat/completions", json=body, base_url="http://near.test:8000/")

    answer_text = got.get_data(as_text=True)
    if stream:
        answer_text = next(
            line for line in answer_text.splitlines() if '"files"' in line
        ).removeprefix("data: ")
    choice = json.loads(answer_text)["choices"][0]
    table, source = (choice.get("delta") or choice["message"])["metadata"]["files"]
    assert (table["filename"], source["filename"]) == ("table.csv", "a.pdf")
    base_url = public.rstrip("/") or "http://near.test:8000"
    for file, path in (
        (table, "/v1/containers/cntr_1/files/cfile_1/content"),
        (source, "/v1/files/file-1/content"),
    ):
        assert file["url"].startswith(f"{base_url}{path}?")
        link = file["url"].removeprefix(base_url)
        assert app.get(link).data == b"a,b"
        assert urls[-1] == f"http://{upstream}.test{path}"


def test_content_is_streamed_and_the_upstream_closed(serve: Serve) -> None:
    sent_parts: list[int] = []
    closed: list[bool] = []

    class Body(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for i in range(100):
                sent_parts.append(i)
                yield bytes(1000)

        def close(self) -> None:
            closed.append(True)

    headers = {
        "content-type": "application/pdf",
        "content-disposition": 'attachment; filename="日本.pdf"'.encode().decode("latin-1"),
        "content-length": "100000",
        "x-request-id": "req_up",
        "set-cookie": "secret=1",
    }
    upstream = Upstream(200, headers=httpx2.Headers(headers, encoding="latin-1"), stream=Body())
    got = make_client(serve, upstream).get("/v1/files/file-1/content", buffered=False)

    next(got.iter_encoded())
    assert len(sent_parts) < 10
    assert {k: got.headers[k] for k in list(headers)[:3]} == dict(list(headers.items())[:3])
    assert got.headers["x-upstream-request-id"] == "req_up"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert "set-cookie" not in got.headers
    got.close()
    assert closed


def test_upstream_error_is_passed_on(serve: Serve) -> None:
    error = {"error": {"message": "No such File object: x", "type": "invalid_request_error"}}

    got = make_client(serve, Upstream(404, json=error)).get("/v1/files/x")

    assert got.status_code == 404
    assert got.get_json()["error"]["message"] == "No such File object: x"


@check_each(
    "path",
    [
        "/v1/files/..", "/v1/files/%2e%2e/content", "/v1/files/a%3Fb", "/v1/files/a%2f..%2fb",
        "/v1/files/.", "/v1/files/a%0d%0ab", "/v1/containers/../files/x/content",
        "/v1/containers/c/files/%2e%2e/content", "/v1/files/ä",
    ],
)  # fmt: skip
def test_file_id_cannot_change_the_path(serve: Serve, path: str) -> None:
    upstream = Upstream()

    assert make_client(serve, upstream).get(path).status_code == 404
    assert upstream.requests == []


def test_unknown_upstream_is_a_400(serve: Serve) -> None:
    got = make_client(serve, Upstream()).get("/v1/files?upstream=nobody")

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "upstream")


def test_files_need_a_responses_upstream(serve: Serve) -> None:
    environment = {"RESPONSES_BASE_URL": "", "RESPONSES_API_KEY": "", "FORWARDER_FILES": "upstream"}
    got = make_client(serve, Upstream(), **environment).get("/v1/files")

    assert (got.status_code, got.get_json()["error"]["code"]) == (404, "not_found")


def test_only_clients_with_a_key_reach_files(serve: Serve) -> None:
    upstream = Upstream()
    client = make_client(serve, upstream, FORWARDER_API_KEYS="k")

    assert client.get("/v1/files").status_code == 401
    assert upstream.requests == []
    assert client.get("/v1/files", headers={"Authorization": "Bearer k"}).status_code == 200


def test_a_file_over_the_limit_is_refused(serve: Serve) -> None:
    upstream = Upstream()

    form = {"file": (io.BytesIO(bytes(2000)), "a")}
    got = make_client(serve, upstream, FORWARDER_MAX_BODY="1k").post("/v1/files", data=form)

    assert (got.status_code, upstream.requests) == (413, [])


def test_unreachable_file_upstream_is_reported(serve: Serve) -> None:
    def refuse_connection(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no")

    assert serve(refuse_connection, **KEYS).get("/v1/files").status_code == 502


@check_each("path", ["/v1/files/file-1/content", "/v1/containers/cntr_1/files/cfile_1/content"])
@check_each(
    ("disposition", "expected"),
    [
        (None, "attachment"),
        ("inline", "attachment"),
        ('inline; filename="a;b.html"', 'attachment; filename="a;b.html"'),
        ("INLINE;filename*=UTF-8''%e2%82%ac.svg", "attachment;filename*=UTF-8''%e2%82%ac.svg"),
        ('attachment; filename="a.pdf"', 'attachment; filename="a.pdf"'),
        ("", "attachment"),
    ],
)
def test_content_never_runs_as_a_page(
    serve: Serve, path: str, disposition: str | None, expected: str
) -> None:
    headers = {"content-type": "text/html"}
    if disposition is not None:
        headers["content-disposition"] = disposition
    upstream = Upstream(200, headers=headers, content=b"<script>alert(1)</script>")

    got = make_client(serve, upstream).get(path)

    assert got.data == b"<script>alert(1)</script>"
    assert got.headers.getlist("Content-Disposition") == [expected]
    assert got.headers["Content-Security-Policy"] == "sandbox"
    assert got.headers["X-Content-Type-Options"] == "nosniff"


def test_file_metadata_never_runs_as_a_page(serve: Serve) -> None:
    upstream = Upstream(200, headers={"content-type": "text/html"}, content=b"<script/>")

    for path in ("/v1/files", "/v1/files/file-1"):
        assert (
            make_client(serve, upstream).get(path).headers["Content-Security-Policy"] == "sandbox"
        )


# -- ownership ------------------------------------------------------------------------------------

A, B = {"Authorization": "Bearer key-a"}, {"Authorization": "Bearer key-b"}
LONG = "file-abcdefghijklmnopqrstuv"
LISTS = ["/v1/files", "/v1/files?upstream=chat", "/v1/files?purpose=user_data"]


@check_each("path", LISTS)
@check_each("method", ["GET", "HEAD"])
def test_one_client_does_not_see_the_files_of_another(serve: Serve, path: str, method: str) -> None:
    upstream = Upstream()
    client = make_client(serve, upstream, FORWARDER_API_KEYS="key-a,key-b")

    got = client.open(path, method=method, headers=B)

    assert (got.status_code, upstream.requests) == (403, [])
    if method == "GET":
        assert "FORWARDER_SHARED_FILES" in got.get_json()["error"]["message"]


@check_each("method", ["GET", "DELETE"])
@check_each("name", ["file-1", "a" * 19])
def test_guessable_file_id_is_not_found_with_shared_keys(
    serve: Serve, method: str, name: str
) -> None:
    upstream = Upstream()
    client = make_client(serve, upstream, FORWARDER_API_KEYS="key-a,key-b")

    assert client.open(f"/v1/files/{name}", method=method, headers=B).status_code == 404
    assert client.get(f"/v1/files/{name}/content", headers=B).status_code == 404
    assert client.get(f"/v1/containers/c/files/{name}/content", headers=B).status_code == 404
    assert upstream.requests == []


def test_uploaded_file_is_read_by_its_id(serve: Serve) -> None:
    upstream = Upstream()
    client = make_client(serve, upstream, FORWARDER_API_KEYS="key-a,key-b")
    form = {"purpose": "user_data", "file": (io.BytesIO(b"x"), "a.txt")}

    assert client.post("/v1/files", data=form, headers=A).status_code == 200
    assert client.get(f"/v1/files/{LONG}", headers=A).status_code == 200
    assert client.get(f"/v1/files/{LONG}/content", headers=A).status_code == 200
    path = f"/v1/containers/{'c' * 20}/files/f/content"
    assert client.get(path, headers=A).status_code == 200
    assert client.delete(f"/v1/files/{LONG}", headers=A).status_code == 200
    assert len(upstream.requests) == 5


@check_each(
    "environment",
    [
        {"FORWARDER_API_KEYS": "key-a,key-b", "RESPONSES_API_KEY": "passthrough"},
        {"FORWARDER_API_KEYS": "key-a,key-b", "FORWARDER_SHARED_FILES": "true"},
        {"FORWARDER_API_KEYS": "key-a"},
        {},
    ],
)
def test_files_of_one_client_or_for_everybody_are_listed(
    serve: Serve, environment: dict[str, str]
) -> None:
    client = make_client(serve, Upstream(), **environment)

    assert client.get("/v1/files", headers=A).status_code == 200
    assert client.get("/v1/files/file-1", headers=A).status_code == 200


@check_each(("environment", "status"), [({}, 403), ({"FORWARDER_SHARED_FILES": "true"}, 200)])
def test_without_keys_files_are_listed_only_for_local_requests(
    serve: Serve, environment: dict[str, str], status: int
) -> None:
    client = make_client(serve, Upstream(), **environment)
    remote = {"REMOTE_ADDR": "192.0.2.7"}

    assert client.get("/v1/files", environ_base=remote).status_code == status
    assert client.get("/v1/files/file-1", environ_base=remote).status_code == (
        404 if status == 403 else 200
    )
    assert client.get(f"/v1/files/{LONG}", environ_base=remote).status_code == 200
