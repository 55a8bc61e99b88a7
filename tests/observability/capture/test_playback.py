"""Playback of recorded upstream answers, including their errors."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from forwarder.core.errors import UpstreamTimeout
from forwarder.observability.capture.playback import PlaybackTransport, fetch_placeholders
from tests.helpers.check_cases import check_each

URL = "http://up.test/v1/chat/completions"


def make_attempt(text: str = "", url: str = URL, status: int = 200, **more: Any) -> dict[str, Any]:
    answer = {"status": status, "headers": [["a", "b"], ["Content-Length", "9"]], "text": text}
    return {"url": url, "request": {}, "answer": answer, **more}


def make_client(*attempts: dict[str, Any]) -> httpx2.Client:
    return httpx2.Client(transport=PlaybackTransport(attempts))


def test_playback_returns_the_recorded_answer() -> None:
    answer = make_client(make_attempt("hello", status=429)).post(f"{URL}?api-version=1", json={})

    assert (answer.status_code, answer.text, answer.headers["a"]) == (429, "hello", "b")
    assert answer.headers.get("content-length") != "9"


def test_playback_prefers_the_attempt_of_the_same_request() -> None:
    playback = PlaybackTransport(
        [
            make_attempt("other", url="http://other.test/v1/responses"),
            make_attempt("first"),
            make_attempt("second"),
            make_attempt("asked", request={"body": {"n": 2}}),
        ]
    )
    client = httpx2.Client(transport=playback)

    assert [client.post(URL, json={"n": n}).text for n in (2, 3, 4)] == ["asked", "first", "second"]
    assert playback.remaining_count == 1
    assert client.post(URL, json={}).text == "other"
    with pytest.raises(httpx2.ConnectError, match="no more answers"):
        client.post(URL, json={})


@check_each(
    ("name", "kind"),
    [("ConnectTimeout", httpx2.ConnectTimeout), ("ConnectError", httpx2.ConnectError),
     ("GaiError", httpx2.ConnectError), ("Client", httpx2.ConnectError), ("", httpx2.ConnectError)],
)  # fmt: skip
def test_attempt_without_an_answer_fails_as_recorded(name: str, kind: type[Exception]) -> None:
    broken = {"url": URL, "request": {}, "error": {"type": name, "message": "why"}}

    with pytest.raises(kind, match="why"):
        make_client(broken).post(URL, json={})


@check_each(
    ("name", "kind"),
    [("ReadError", httpx2.ReadError), ("RemoteProtocolError", httpx2.RemoteProtocolError),
     ("UpstreamTimeout", UpstreamTimeout), ("Stopping", httpx2.ReadError)],
)  # fmt: skip
def test_playback_breaks_at_the_recorded_position(name: str, kind: type[Exception]) -> None:
    broken = make_attempt("as far as here", error={"type": name, "message": "why"})
    received: list[str] = []

    with (
        make_client(broken).stream("POST", URL, json={}) as answer,
        pytest.raises(kind, match="why"),
    ):
        received.extend(answer.iter_text())

    assert received == ["as far as here"]


def test_an_upload_has_an_id() -> None:
    answer = make_client().post("http://up.test/v1/files", files={"file": b"x"})

    assert answer.json()["id"] == "file-recorded"


def test_nothing_is_fetched() -> None:
    blobs = fetch_placeholders({"http://a.test/x": "input[0]"})

    assert blobs["http://a.test/x"].data == b"not fetched"
