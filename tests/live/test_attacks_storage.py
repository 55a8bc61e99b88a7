"""One client's stored data against that of others, and files as pages of the forwarder."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.live.conftest import Serve, make_settings
from tests.live.neighbour import Neighbour
from tests.live.server import Server
from tests.live.talk import http

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.exhaustive]

Json = dict[str, Any]

MB = 2**20


@pytest.fixture(scope="module")
def server(serve: Serve, upstream: ScriptedUpstream, neighbour: Neighbour) -> Server:
    """Two workers with room for little; ``k`` is the neighbour's key."""
    limits = {
        "WEB_CONCURRENCY": "2",
        "FORWARDER_API_KEYS": "k,own,other",
        "FORWARDER_FILES": "store",
        "FORWARDER_STORE_MAX_SIZE": "8m",
        "FORWARDER_FILES_MAX": "8m",
    }
    return serve(neighbour.settings | make_settings(upstream, **limits))


def request_with_key(server: Server, key: str, method: str, path: str, **more: Any) -> Any:
    """The answer to a client's request."""
    headers = {"Authorization": f"Bearer {key}"}
    return http.request(method, f"{server.v1}{path}", headers=headers, **more)


def store_response(server: Server, key: str, size: int) -> str:
    """Store a response of about ``size`` bytes that cannot be compressed; returns its id."""
    text = "".join(f"{hash((key, i)):x}" for i in range(size // 16))
    body = {"model": "chat/m", "input": text, "store": True}
    answer = request_with_key(server, key, "POST", "/responses", json=body)
    assert answer.status_code == 200, answer.text[:500]
    return str(answer.json()["id"])


def wait_until_deleted(server: Server, key: str, names: list[str]) -> None:
    """Wait until one of a client's responses is deleted by the thread of a worker."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        for name in names:
            if request_with_key(server, key, "GET", f"/responses/{name}").status_code == 404:
                return
        time.sleep(0.5)
    pytest.fail("no response was deleted")


def test_stored_data_of_one_client_evicts_no_data_of_another(
    server: Server, neighbour: Neighbour
) -> None:
    file = {"file": ("a.txt", b"mine", "text/plain")}
    form_data = {"purpose": "user_data"}
    file_id = request_with_key(server, "own", "POST", "/files", data=form_data, files=file).json()[
        "id"
    ]
    response = store_response(server, "own", 1000)
    with neighbour.watch(server):
        attacks = [store_response(server, "other", MB) for _ in range(24)]
        for _ in range(4):
            large = {"file": ("b.bin", bytes(3 * MB), "application/octet-stream")}
            request_with_key(server, "other", "POST", "/files", data=form_data, files=large)

    wait_until_deleted(server, "other", attacks)  # there is not room for all
    assert request_with_key(server, "own", "GET", f"/responses/{response}").status_code == 200
    assert request_with_key(server, "own", "GET", f"/files/{file_id}/content").content == b"mine"
    assert request_with_key(server, "other", "GET", f"/responses/{response}").status_code == 404


def test_stored_html_file_is_sent_as_an_attachment(server: Server) -> None:
    page = {"file": ("a.html", b"<script>alert(1)</script>", "text/html")}
    form_data = {"purpose": "user_data"}
    file_id = request_with_key(server, "own", "POST", "/files", data=form_data, files=page).json()[
        "id"
    ]

    response = request_with_key(server, "own", "GET", f"/files/{file_id}/content")
    assert response.status_code == 200
    assert response.headers["content-disposition"].startswith("attachment")
    assert response.headers["content-security-policy"] == "sandbox"
    assert response.headers["x-content-type-options"] == "nosniff"
