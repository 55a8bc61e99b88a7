"""Replays of captured exchanges, in their three ways."""

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


def say(text: str) -> httpx2.Response:
    chunk = {**CHUNK, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    end = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return make_stream_response(chunk, end)


class Runs:
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
        return say(self.text)

    def capture(self, path: str = "/v1/responses", **body: Any) -> str:
        """Make an exchange; return its id."""
        given = {"model": "m", "input": "hi", "stream": True, **body}
        headers = {"Authorization": "Bearer sk-client"}
        self.client.post(path, json=given, headers=headers, buffered=True)
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
def test_an_equal_answer_is_recognised(
    mode: str, stream: bool, keys: dict[str, str], serve: Serve
) -> None:
    runs = Runs(serve, **keys)
    name = runs.capture(stream=stream)

    shown = runs.replay(name, mode, target="upstream:two")

    assert "equals the captured one" in shown, shown
    assert [request.url.host for request in runs.requests] == {
        "recorded": [],
        "today": ["one.test"],
        "other": ["two.test"],
    }[mode]


def test_another_answer_is_compared(serve: Serve) -> None:
    runs = Runs(serve)
    name = runs.capture()
    runs.text = "now" + HOSTILE

    shown = runs.replay(name, "today")

    assert "The answers differ" in shown
    texts = re.findall(r'data-kind="text">.*?<pre[^>]*>\s*(.*?)</pre>', shown, re.DOTALL)
    assert texts[0] == "then"
    assert texts[1].startswith("now&lt;/script&gt;")
    assert "<img" not in shown
    assert re.search(r'class="removed">-.*then', shown)
    assert re.search(r'class="added">\+.*now', shown)
    assert "equals the captured one" in runs.replay(name, "recorded")


def test_a_replay_stores_nothing(serve: Serve) -> None:
    runs = Runs(serve)
    conversation = runs.client.post("/v1/conversations", json={}).json["id"]
    name = runs.capture(conversation=conversation, store=True, stream=False)
    items = f"/v1/conversations/{conversation}/items"
    before = runs.client.get(items).json

    for mode in ("recorded", "today", "other"):
        runs.replay(name, mode, target="upstream:two")

    assert runs.client.get(items).json == before
    listed = runs.client.get("/forwarder/exchanges").json["data"]
    records = [runs.client.get(f"/forwarder/exchanges/{each['id']}").json for each in listed]
    bodies = [record["client"]["request"]["body"] for record in records]
    assert [body["store"] for body in bodies] == [False, False, True]
    assert all("conversation" not in body for body in bodies[:2])


@check_each("stream", [True, False])
def test_a_failure_is_replayed(stream: bool, serve: Serve) -> None:
    runs = Runs(serve)
    runs.status = 422
    name = runs.capture(stream=stream)

    for mode in ("recorded", "today"):
        shown = runs.replay(name, mode)
        assert "equals the captured one" in shown
        assert "status 422" in shown

    runs.status = 200
    assert "The answers differ" in runs.replay(name, "today")


def test_a_request_that_is_not_json_is_replayed(serve: Serve) -> None:
    runs = Runs(serve)
    runs.client.post("/v1/responses", data="{not json")
    name = runs.client.get("/forwarder/exchanges").json["data"][0]["id"]

    assert "equals the captured one" in runs.replay(name, "today")


def test_long_answers_are_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_ANSWER_BYTES", 500)
    runs = Runs(serve)
    name = runs.capture()

    assert "too long" in runs.replay(name, "today")


def test_the_client_key_reaches_an_upstream_that_needs_it(serve: Serve) -> None:
    runs = Runs(serve, ONE_API_KEY="passthrough", **KEYS)
    name = runs.capture()

    shown = runs.replay(name, "today", key="sk-the-clients-own")

    assert runs.requests[0].headers["authorization"] == "Bearer sk-the-clients-own"
    assert "sk-the-clients-own" not in shown


@check_each(
    ("form", "param"),
    [
        ({"mode": "x"}, "mode"),
        ({"mode": "other", "target": "upstream:x"}, "target"),
        ({"mode": "today", "key": "schlüssel"}, "key"),
    ],
)
def test_bad_choices_are_refused(form: dict[str, str], param: str, serve: Serve) -> None:
    runs = Runs(serve)
    name = runs.capture()

    answer = runs.client.post(
        f"/console/exchanges/{name}/replay", data=form, headers={"HX-Request": "true"}
    )

    assert answer.status_code == 400
    assert f"<code>{param}</code>" in answer.text
    assert "<html" not in answer.text


def test_page_shows_caveats_and_refusals(serve: Serve) -> None:
    runs = Runs(serve, FORWARDER_CAPTURE_MAX="2k")
    name = runs.capture(input="x" * 5000)

    page = runs.client.get(f"/console/exchanges/{name}/replay").text
    assert "exceeded the capture limit" in page
    assert 'value="upstream:two"' in page
    assert f'href="/console/exchanges/{name}"' in page


def test_background_requests_cannot_be_replayed(serve: Serve) -> None:
    runs = Runs(serve)
    runs.client.post("/v1/responses", json={"model": "m", "input": "hi", "background": True})
    listed = runs.client.get("/forwarder/exchanges").json["data"]
    (name,) = [each["id"] for each in listed if each["route"] == "responses"]

    page = runs.client.get(f"/console/exchanges/{name}/replay").text

    assert "only queued background work" in page
    assert "<fieldset" not in page


def test_unknown_exchanges_are_not_found(serve: Serve) -> None:
    runs = Runs(serve)
    for method in ("get", "post"):
        assert getattr(runs.client, method)("/console/exchanges/a/b/replay").status_code == 404


def test_only_operators_replay(serve: Serve) -> None:
    runs = Runs(serve, **KEYS)
    name = runs.capture()
    path = f"/console/exchanges/{name}/replay"

    assert runs.client.get(path).status_code == 302
    assert runs.client.post(path, data={"mode": "today"}).status_code == 401
    foreign = {**ADMIN, "Origin": "https://evil.example"}
    assert runs.client.post(path, data={"mode": "today"}, headers=foreign).status_code == 403
    assert runs.requests == []


def test_requests_of_other_protocols_are_replayed(serve: Serve) -> None:
    runs = Runs(serve)
    messages = [{"role": "user", "content": "hi"}]
    for path in ("/v1/chat/completions", "/api/chat", "/think/v1/chat/completions"):
        name = runs.capture(path, messages=messages, input=None)
        assert "equals the captured one" in runs.replay(name, "today"), path
        assert "equals the captured one" in runs.replay(name, "recorded"), path
        assert json.loads(runs.requests[0].content)["messages"] == messages


def test_browsers_without_scripts_get_whole_pages(serve: Serve) -> None:
    runs = Runs(serve)
    name = runs.capture()
    runs.text = "now"

    page = runs.client.post(
        f"/console/exchanges/{name}/replay",
        data={"mode": "other", "target": "upstream:two"},
        headers=ADMIN,
    ).text

    assert "<h1>Replay</h1>" in page
    assert "<h2>Differences</h2>" in page
    assert page.count('id="replay-state"') == 1
    assert 'value="other" checked' in page
    assert 'value="upstream:two" selected' in page
    failed = runs.client.post("/console/exchanges/x/replay", headers=ADMIN)
    assert "<h1>Not Found</h1>" in failed.text
