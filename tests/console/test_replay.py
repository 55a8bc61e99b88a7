"""Replays of captured exchanges in the three modes."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.console import replay
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
HOSTILE = "</script><img src=x onerror=alert(1)>"


def answer_text(text: str) -> httpx2.Response:
    chunk = {**CHUNK, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    end = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return make_stream_response(chunk, end)


class CapturedExchange:
    """A forwarder with one captured exchange."""

    def __init__(self, serve: Serve, text: str = "then", **environment: str) -> None:
        self.text, self.status = text, 200
        self.requests: list[httpx2.Request] = []
        self.client: FlaskClient = serve(
            self._answer,
            FORWARDER_CAPTURE="memory",
            FORWARDER_UPSTREAMS="one,two",
            ONE_BASE_URL="http://one.test/v1",
            ONE_API="chat",
            TWO_BASE_URL="http://two.test/v1",
            TWO_API="chat",
            **environment,
        )

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": {"message": self.text}})
        return answer_text(self.text)

    def capture(self, path: str = "/v1/responses", **body: Any) -> str:
        """Make an exchange; return its id."""
        request_body = {"model": "m", "input": "hi", "stream": True, **body}
        headers = {"Authorization": "Bearer sk-client"}
        self.client.post(path, json=request_body, headers=headers, buffered=True)
        self.requests.clear()
        listed = self.client.get("/forwarder/exchanges", headers=ADMIN).json["data"]
        return str(listed[0]["id"])

    def replay(self, name: str, mode: str, **form: str) -> str:
        answer = self.client.post(
            f"/console/exchanges/{name}/replay",
            data={"mode": mode, **form},
            headers={**ADMIN, "HX-Request": "true"},
        )
        assert answer.status_code == 200, answer.text
        return answer.text


ADMIN = {"Authorization": "Bearer sk-admin"}
KEYS = {"FORWARDER_API_KEYS": "sk-client", "FORWARDER_ADMIN_KEYS": "sk-admin"}


@check_each("keys", [{}, KEYS])
@check_each("stream", [True, False])
@check_each("mode", ["recorded", "today", "other"])
def test_equal_answer_is_reported(
    mode: str, stream: bool, keys: dict[str, str], serve: Serve
) -> None:
    exchange_setup = CapturedExchange(serve, **keys)
    name = exchange_setup.capture(stream=stream)

    page = exchange_setup.replay(name, mode, target="upstream:two")

    assert "equals the captured one" in page, page
    assert [request.url.host for request in exchange_setup.requests] == {
        "recorded": [],
        "today": ["one.test"],
        "other": ["two.test"],
    }[mode]


def test_another_answer_is_compared(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    name = exchange_setup.capture()
    exchange_setup.text = "now" + HOSTILE

    page = exchange_setup.replay(name, "today")

    assert "The answers differ" in page
    texts = re.findall(r'data-kind="text">.*?<pre[^>]*>\s*(.*?)</pre>', page, re.DOTALL)
    assert texts[0] == "then"
    assert texts[1].startswith("now&lt;/script&gt;")
    assert "<img" not in page
    assert re.search(r'class="removed">-.*then', page)
    assert re.search(r'class="added">\+.*now', page)
    assert "equals the captured one" in exchange_setup.replay(name, "recorded")


def test_a_replay_stores_nothing(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    conversation = exchange_setup.client.post("/v1/conversations", json={}).json["id"]
    name = exchange_setup.capture(conversation=conversation, store=True, stream=False)
    items = f"/v1/conversations/{conversation}/items"
    before = exchange_setup.client.get(items).json

    for mode in ("recorded", "today", "other"):
        exchange_setup.replay(name, mode, target="upstream:two")

    assert exchange_setup.client.get(items).json == before
    listed = exchange_setup.client.get("/forwarder/exchanges").json["data"]
    records = [
        exchange_setup.client.get(f"/forwarder/exchanges/{each['id']}").json for each in listed
    ]
    bodies = [record["client"]["request"]["body"] for record in records]
    assert [body["store"] for body in bodies] == [False, False, True]
    assert all("conversation" not in body for body in bodies[:2])


@check_each("stream", [True, False])
def test_a_failure_is_replayed(stream: bool, serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    exchange_setup.status = 422
    name = exchange_setup.capture(stream=stream)

    for mode in ("recorded", "today"):
        page = exchange_setup.replay(name, mode)
        assert "equals the captured one" in page
        assert "status 422" in page

    exchange_setup.status = 200
    assert "The answers differ" in exchange_setup.replay(name, "today")


def test_a_request_that_is_not_json_is_replayed(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    exchange_setup.client.post("/v1/responses", data="{not json")
    name = exchange_setup.client.get("/forwarder/exchanges").json["data"][0]["id"]

    assert "equals the captured one" in exchange_setup.replay(name, "today")


def test_long_answers_are_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_ANSWER_BYTES", 500)
    exchange_setup = CapturedExchange(serve)
    name = exchange_setup.capture()

    assert "too long" in exchange_setup.replay(name, "today")


def test_the_client_key_reaches_an_upstream_that_needs_it(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve, ONE_API_KEY="passthrough", **KEYS)
    name = exchange_setup.capture()

    page = exchange_setup.replay(name, "today", key="sk-the-clients-own")

    assert exchange_setup.requests[0].headers["authorization"] == "Bearer sk-the-clients-own"
    assert "sk-the-clients-own" not in page


@check_each(
    ("form", "param"),
    [
        ({"mode": "x"}, "mode"),
        ({"mode": "other", "target": "upstream:x"}, "target"),
        ({"mode": "today", "key": "schlüssel"}, "key"),
    ],
)
def test_bad_choices_are_refused(form: dict[str, str], param: str, serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    name = exchange_setup.capture()

    answer = exchange_setup.client.post(
        f"/console/exchanges/{name}/replay", data=form, headers={"HX-Request": "true"}
    )

    assert answer.status_code == 400
    assert f"<code>{param}</code>" in answer.text
    assert "<html" not in answer.text


def test_page_shows_caveats_and_refusals(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve, FORWARDER_CAPTURE_MAX="2k")
    name = exchange_setup.capture(input="x" * 5000)

    page = exchange_setup.client.get(f"/console/exchanges/{name}/replay").text
    assert "exceeded the capture limit" in page
    assert 'value="upstream:two"' in page
    assert f'href="/console/exchanges/{name}"' in page


def test_background_requests_cannot_be_replayed(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    exchange_setup.client.post(
        "/v1/responses", json={"model": "m", "input": "hi", "background": True}
    )
    listed = exchange_setup.client.get("/forwarder/exchanges").json["data"]
    (name,) = [each["id"] for each in listed if each["route"] == "responses"]

    page = exchange_setup.client.get(f"/console/exchanges/{name}/replay").text

    assert "only queued background work" in page
    assert "<fieldset" not in page


def test_unknown_exchanges_are_not_found(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    for method in ("get", "post"):
        assert (
            getattr(exchange_setup.client, method)("/console/exchanges/a/b/replay").status_code
            == 404
        )


def test_only_operators_replay(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve, **KEYS)
    name = exchange_setup.capture()
    path = f"/console/exchanges/{name}/replay"

    assert exchange_setup.client.get(path).status_code == 302
    assert exchange_setup.client.post(path, data={"mode": "today"}).status_code == 401
    foreign = {**ADMIN, "Origin": "https://evil.example"}
    assert (
        exchange_setup.client.post(path, data={"mode": "today"}, headers=foreign).status_code == 403
    )
    assert exchange_setup.requests == []


def test_requests_of_other_protocols_are_replayed(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    messages = [{"role": "user", "content": "hi"}]
    for path in ("/v1/chat/completions", "/api/chat", "/think/v1/chat/completions"):
        name = exchange_setup.capture(path, messages=messages, input=None)
        assert "equals the captured one" in exchange_setup.replay(name, "today"), path
        assert "equals the captured one" in exchange_setup.replay(name, "recorded"), path
        assert json.loads(exchange_setup.requests[0].content)["messages"] == messages


def test_browsers_without_scripts_get_whole_pages(serve: Serve) -> None:
    exchange_setup = CapturedExchange(serve)
    name = exchange_setup.capture()
    exchange_setup.text = "now"

    page = exchange_setup.client.post(
        f"/console/exchanges/{name}/replay",
        data={"mode": "other", "target": "upstream:two"},
        headers=ADMIN,
    ).text

    assert "<h1>Replay</h1>" in page
    assert "<h2>Differences</h2>" in page
    assert page.count('id="replay-state"') == 1
    assert 'value="other" checked' in page
    assert 'value="upstream:two" selected' in page
    failed = exchange_setup.client.post("/console/exchanges/x/replay", headers=ADMIN)
    assert "<h1>Not Found</h1>" in failed.text
