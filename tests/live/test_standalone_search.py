"""The standalone search of the forwarder as a process: an upstream that does not answer."""

from __future__ import annotations

import threading

from tests.helpers.loopback import Peer, run_server
from tests.live.conftest import Serve
from tests.live.talk import http

BODY = {"id": "s", "model": "m", "commands": {"search_query": [{"q": "cats"}]}}


def test_slow_upstream_is_disconnected(serve: Serve) -> None:
    client_left = threading.Event()

    def hang(peer: Peer) -> None:
        peer.request()
        if peer.file.read(1) == b"":
            client_left.set()

    with run_server(hang) as server:
        forwarder = serve(
            {
                "RESPONSES_BASE_URL": f"http://127.0.0.1:{server.port}/v1",
                "RESPONSES_API_KEY": "sk-up",
                "FORWARDER_WEB_SEARCH": "upstream:responses/searcher",
                "FORWARDER_TOOL_TIMEOUT": "0.5",
            }
        )
        answer = http.post(f"{forwarder.v1}/alpha/search", json=BODY)
        assert client_left.wait(5)
    assert answer.status_code == 200
    output = answer.json()["output"]
    assert "in time" in output or "too long" in output
