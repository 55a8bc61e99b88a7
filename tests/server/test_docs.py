"""The documentation site under ``/docs``."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import httpx2
import pytest
from flask.testing import FlaskClient

from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve

SCRIPT = "let a = '<b>'"
PAGE = f"<script src=app.js></script><script id=x>{SCRIPT}</script><h1>Hello</h1>"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "clients").mkdir(parents=True)
    (folder / "index.html").write_text(PAGE)
    (folder / "clients" / "codex.html").write_text("<h1>Codex</h1>")
    (folder / "app.js").write_text("1")
    (tmp_path / "secret.html").write_text("secret")
    return folder


@pytest.fixture
def client(serve: Serve, site: Path) -> FlaskClient:
    return serve(lambda _: httpx2.Response(200), FORWARDER_DOCS_DIR=str(site))


@pytest.mark.parametrize(
    ("path", "content_type", "text"),
    [
        ("/docs/index.html", "text/html; charset=utf-8", PAGE),
        ("/docs/clients/codex.html", "text/html; charset=utf-8", "<h1>Codex</h1>"),
        ("/docs/app.js", "text/javascript; charset=utf-8", "1"),
    ],
)
def test_docs_are_served(client: FlaskClient, path: str, content_type: str, text: str) -> None:
    got = client.get(path, buffered=True)

    assert (got.status_code, got.content_type, got.text) == (200, content_type, text)
    assert got.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_docs_root_redirects_to_the_first_page(client: FlaskClient, path: str) -> None:
    got = client.get(path)

    assert (got.status_code, got.headers["Location"]) == (302, "/docs/index.html")


def test_docs_policy_allows_only_own_files_and_the_page_s_inline_scripts(
    client: FlaskClient,
) -> None:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()

    policies = {
        path: dict(
            directive.strip().partition(" ")[::2]
            for directive in client.get(path, buffered=True)
            .headers["Content-Security-Policy"]
            .split(";")
        )
        for path in ("/docs/index.html", "/docs/clients/codex.html")
    }

    assert policies["/docs/index.html"]["script-src"] == f"'self' 'sha256-{digest}'"
    assert policies["/docs/clients/codex.html"]["script-src"] == "'self'"
    for policy in policies.values():
        assert policy["default-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["object-src"] == "'none'"


@pytest.mark.parametrize(
    "path",
    ["../secret.html", "%2e%2e/secret.html", "clients/../../secret.html", "..%2fsecret.html",
     "..\\secret.html", "/etc/passwd", "%00", "missing.html", "clients"],
)  # fmt: skip
def test_docs_path_cannot_leave_the_folder(client: FlaskClient, path: str) -> None:
    got = client.get(f"/docs/{path}", buffered=True)

    assert got.status_code == 404
    assert "secret" not in got.text.replace("secret.html", "")


def test_docs_need_no_key_and_are_not_counted(serve: Serve, site: Path) -> None:
    client = serve(
        lambda _: httpx2.Response(200), FORWARDER_DOCS_DIR=str(site), FORWARDER_API_KEYS="key-a"
    )

    assert client.get("/docs/index.html", buffered=True).status_code == 200
    assert "requests_total{" not in client.get("/metrics").text


@check_each("folder", ["off", "OFF", "/no/such/folder"])
def test_missing_docs_are_a_404_with_the_reason(serve: Serve, folder: str) -> None:
    client = serve(lambda _: httpx2.Response(200), FORWARDER_DOCS_DIR=folder)

    for path in ("/docs", "/docs/index.html"):
        got = client.get(path, buffered=True)
        assert got.status_code == 404
        assert "FORWARDER_DOCS_DIR" in got.get_json()["error"]["message"]
