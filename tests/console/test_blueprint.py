"""Access to the console, security headers and error pages."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import threading
import time
from io import BytesIO
from pathlib import Path

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.console import blueprint
from tests.server.conftest import Serve

VENDORED = Path(blueprint.__file__).parent / "static" / "vendor"
TEMPLATES = sorted((Path(blueprint.__file__).parent / "templates").rglob("*.html"))


@pytest.fixture
def client(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr(blueprint, "FAILURE_SECONDS", 0)
    return serve(lambda _: httpx2.Response(200), FORWARDER_ADMIN_KEYS="adm-one,adm-two")


def test_pages_have_a_strict_policy(demo: FlaskClient) -> None:
    page = demo.get("/console/exchanges")

    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Cache-Control"] == "no-store"
    # Browsers send "Origin: null" with the forms of pages that forbid all referrers.
    assert page.headers["Referrer-Policy"] == "same-origin"


def test_without_administrator_keys_only_local_browsers_have_access(demo: FlaskClient) -> None:
    assert demo.get("/console/exchanges").status_code == 200
    refused = demo.get("/console/exchanges", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})

    assert refused.status_code == 403
    assert refused.mimetype == "text/html"
    assert "FORWARDER_ADMIN_KEYS" in refused.text


def test_with_administrator_keys_browsers_sign_in_first(client: FlaskClient) -> None:
    redirection = client.get("/console/exchanges?model=a")
    assert redirection.status_code == 302
    form = client.get(redirection.headers["Location"])
    assert 'type="password"' in form.text

    refused = client.post("/console/sign-in", data={"key": "adm-three"})
    assert refused.status_code == 401
    assert client.get("/console/exchanges").status_code == 302

    done = client.post(redirection.headers["Location"], data={"key": "adm-two"})
    assert (done.status_code, done.headers["Location"]) == (302, "/console/exchanges?model=a")
    assert client.get("/console/exchanges").status_code == 200

    client.post("/console/sign-out")
    assert client.get("/console/exchanges").status_code == 302


def test_parts_of_pages_get_an_error_instead_of_the_sign_in_page(client: FlaskClient) -> None:
    part = client.get("/console/exchanges", headers={"HX-Request": "true"})

    assert part.status_code == 401
    assert part.text.startswith('<p class="notice bad"')


def test_errors_after_the_end_of_a_session_link_the_sign_in_page(client: FlaskClient) -> None:
    for answer in (
        client.get("/console/exchanges", headers={"HX-Request": "true"}),
        client.post("/console/keys", data={"name": "alice"}),
    ):
        assert answer.status_code == 401
        assert 'href="/console/sign-in"' in answer.text


def sign_in_from(client: FlaskClient, key: str, address: str = "192.0.2.7") -> int:
    """Sign in; return the status."""
    answer = client.application.test_client().post(
        "/console/sign-in", data={"key": key}, environ_overrides={"REMOTE_ADDR": address}
    )
    return answer.status_code


def test_parallel_guesses_of_a_network_are_refused(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []

    def guess_meanwhile(seconds: float) -> None:
        assert seconds == 7
        for address in ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"):
            statuses.append(sign_in_from(client, "adm-one", address))

    monkeypatch.setattr(blueprint, "FAILURE_SECONDS", 7)
    monkeypatch.setattr(time, "sleep", guess_meanwhile)

    assert sign_in_from(client, "guess") == 401
    assert statuses == [429, 429, 302]
    assert sign_in_from(client, "adm-one") == 302


def test_refused_keys_leave_no_files_open(client: FlaskClient) -> None:
    def guess_in_thread() -> int:
        thread = threading.Thread(target=sign_in_from, args=(client, "guess"))
        thread.start()
        thread.join()
        return len(os.listdir("/dev/fd"))

    before = guess_in_thread()

    assert max(guess_in_thread() for _ in range(5)) <= before


def test_console_can_be_switched_off(serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(200), FORWARDER_CONSOLE="false")

    for path in ("/console", "/console/exchanges", "/console/sign-in"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("next_page", ["https://evil.test/", "//evil.test", "/v1", ""])
def test_sign_in_redirects_only_to_the_console(client: FlaskClient, next_page: str) -> None:
    done = client.post(
        "/console/sign-in", query_string={"next": next_page}, data={"key": "adm-one"}
    )

    assert done.headers["Location"] == "/console"


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("media_type", blueprint.FORM_TYPES)
@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/console/sign-in", blueprint.MAX_OPEN_FORM_BYTES),
        ("/console/sign-out", blueprint.MAX_FORM_BYTES),
    ],
)
def test_the_size_of_a_form_is_limited(
    client: FlaskClient, path: str, limit: int, media_type: str, encoding: str
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\n'
    start = b"key=" if media_type == blueprint.FORM_TYPES[0] else head
    data = start + b"a" * limit + b"\r\n--x--\r\n"

    answer = client.post(
        path,
        data=gzip.compress(data) if encoding else data,
        headers={"Authorization": "Bearer adm-one", "Content-Encoding": encoding},
        content_type=f"{media_type}; boundary=x",
    )

    assert answer.status_code == 413


def test_the_fields_of_a_form_are_counted_before_it_is_parsed(client: FlaskClient) -> None:
    for count, is_refused in ((1000, False), (1001, True)):
        fields = {f"a{number}": "b" for number in range(count)}
        answer = client.post(
            "/console/models/new",
            data=fields,
            headers={"Authorization": "Bearer adm-one"},
        )
        assert (answer.status_code == 413) is is_refused, answer.text


def test_a_form_is_not_read_before_access_is_checked(client: FlaskClient) -> None:
    class Body(BytesIO):
        def read(self, *arguments: int | None) -> bytes:
            raise AssertionError("the form was read")

    answer = client.post(
        "/console/sign-out",
        input_stream=Body(),
        content_length=10,
        content_type=blueprint.FORM_TYPES[0],
    )

    assert answer.status_code == 401


def test_templates_have_no_inline_scripts_or_styles() -> None:
    for template in TEMPLATES:
        text = template.read_text()
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", text), template
        assert "|safe" not in text.replace(" ", ""), template


def test_vendored_files_match_their_list() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` .*`([0-9a-f]{64})`", (VENDORED / "VENDORED.md").read_text(), re.M
    )
    files = {path.name for path in VENDORED.iterdir()} - {"VENDORED.md"}

    assert {name for name, _ in rows} == files
    for name, digest in rows:
        assert hashlib.sha256((VENDORED / name).read_bytes()).hexdigest() == digest, name
