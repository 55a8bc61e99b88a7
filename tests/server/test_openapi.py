"""``/openapi.json`` and ``/docs/api``: the document, and the page that shows it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import httpx2
from flask.testing import FlaskClient

from forwarder.server import openapi
from forwarder.server.openapi import ASSETS, CachedDocument, list_routes
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve

VIEWER = Path(openapi.__file__).parents[1] / "openapi" / "viewer"


def test_document_needs_no_key(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200), FORWARDER_API_KEYS="sk-1")

    got = client.get("/openapi.json")

    assert (got.status_code, got.mimetype) == (200, "application/json")
    assert got.json is not None
    assert got.json["openapi"].startswith("3.1")
    assert "/v1/responses" in got.json["paths"]


def test_document_has_the_public_address(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200), FORWARDER_PUBLIC_URL="https://api.test/llm")

    document = client.get("/openapi.json").json

    assert document is not None
    assert document["servers"][0]["url"] == "https://api.test/llm"


def test_document_is_built_once(demo: FlaskClient) -> None:
    built: list[str] = []

    def encode(routes: list[openapi.DocumentRoute], base_url: str) -> bytes:
        built.append(base_url)
        return b"{}"

    document = CachedDocument(encode)

    assert [document.read(demo.application) for _ in range(2)] == [b"{}", b"{}"]
    assert built == [""]


def test_routes_are_those_of_the_api(demo: FlaskClient) -> None:
    routes = [f"{route.method} {route.path}" for route in list_routes(demo.application)]

    assert len(set(routes)) == len(routes)
    assert {"GET /v1/responses", "HEAD /api/blobs/{digest}", "GET /v1/models/{model}"} <= {*routes}
    assert not {"GET /responses", "HEAD /v1/models", "OPTIONS /v1/models"} & {*routes}
    assert not [route for route in routes if "/console" in route]


@check_each("path", ["/docs/api", "/docs/api/", "/think/docs/api"])
def test_page_loads_only_files_of_this_server(demo: FlaskClient, path: str) -> None:
    got = demo.get(path, buffered=True)

    assert (got.status_code, got.mimetype) == (200, "text/html")
    policy = dict(part.split(" ", 1) for part in got.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.findall(r"<script(?![^>]* src=)|\son\w+=|https?:", got.text)
    file_names = re.findall(r'(?:src|href)="api/([\w.-]+)"', got.text)
    assert sorted(file_names) == sorted(ASSETS)


@check_each("name", ASSETS)
def test_files_of_the_page_are_served(demo: FlaskClient, name: str) -> None:
    got = demo.get(f"/docs/api/{name}", buffered=True)

    assert got.status_code == 200
    assert got.data == (VIEWER / name).read_bytes()
    assert got.mimetype == ("text/css" if name.endswith(".css") else "text/javascript")
    tag = {"If-None-Match": got.headers["ETag"]}
    assert demo.get(f"/docs/api/{name}", headers=tag, buffered=True).status_code == 304


@check_each("name", ["index.html", "VENDORED.md", "..%2Fsdk_schemas.json", "none.js"])
def test_other_files_are_not_served(demo: FlaskClient, name: str) -> None:
    got = demo.get(f"/docs/api/{name}")

    assert got.status_code == 404
    assert got.json is not None


def test_page_starts_the_viewer_with_the_document_of_this_server() -> None:
    script = (VIEWER / "start.js").read_text(encoding="utf-8")

    assert 'url: "../openapi.json"' in script
    assert "validatorUrl: null" in script
    assert "http" not in script


def test_vendored_files_are_unchanged() -> None:
    text = (VIEWER / "VENDORED.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([\w.-]+)` \| `([0-9a-f]{64})` \|$", text, re.MULTILINE))

    assert {path.name for path in VIEWER.iterdir()} == {
        *listed,
        "index.html",
        "start.js",
        "VENDORED.md",
    }
    for name, digest in listed.items():
        assert hashlib.sha256((VIEWER / name).read_bytes()).hexdigest() == digest, name


def test_viewer_needs_no_evaluation_of_strings() -> None:
    """`new Function` is only a fallback for browsers without `globalThis`."""
    bundle = (VIEWER / "swagger-ui-bundle.js").read_text(encoding="utf-8")

    found = [
        bundle[m.start() - 80 : m.end()]
        for m in re.finditer(r"new Function\(|[^\w.]eval\(", bundle)
    ]
    assert len(found) == 1
    assert 'if("object"==typeof globalThis)return globalThis' in found[0]
