"""The ``replay`` command: resends captured requests and compares responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from tests.server.conftest import make_stream_response

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def make_chunk(**choice: Any) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": None, **choice}]}


SAYS = [make_chunk(delta={"content": "hi"}), make_chunk(finish_reason="stop")]
CUT = make_stream_response(SAYS[0], done=False)
PAGE = httpx2.Response(200, text="<html>no</html>", headers={"content-type": "text/html"})


class Runs:
    """A forwarder that captures into a directory, and its replay command."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[httpx2.Request] = []
        self.answers: Any = None
        transport = httpx2.MockTransport(self._answer)
        monkeypatch.setattr(services, "select_transport", lambda *given: transport)
        self.environment = {
            "FORWARDER_UPSTREAMS": "far",
            "FAR_BASE_URL": "http://up.test/v1",
            "FAR_API_KEY": "sk-upstream",
            "FORWARDER_API_KEYS": "sk-client",
            "FORWARDER_ADMIN_KEYS": "sk-admin",
            "FORWARDER_CAPTURE": str(directory / "x"),
            "FORWARDER_LOG_LEVEL": "ERROR",
        }

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        answer: httpx2.Response = next(self.answers)
        return answer

    def capture_request(
        self, body: Any, *answers: httpx2.Response, path: str = "/v1/responses"
    ) -> str:
        """Return the id of a capture with these upstream responses."""
        self.answers = iter(answers)
        client = create_app(Settings.from_env(self.environment)).test_client()
        headers = {"Authorization": "Bearer sk-client"}
        client.post(path, json=body, headers=headers, buffered=True)
        self.asked.clear()
        found = client.get("/forwarder/exchanges", headers={"Authorization": "Bearer sk-admin"})
        return str(found.json["data"][0]["id"])

    def replay(self, *arguments: str, given: str = "", **environment: str) -> tuple[int, str, str]:
        app = create_app(Settings.from_env({**self.environment, **environment}))
        result = app.test_cli_runner().invoke(args=["replay", *arguments], input=given)
        return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


BODY = {"model": "m", "input": "hi", "stream": True}


FAILURES: dict[str, list[httpx2.Response]] = {
    "refused": [httpx2.Response(429, json={"error": {"message": "slowly sk-upstream"}})],
    "a page": [PAGE],
    "cut off": [CUT],
    "an error in the stream": [make_stream_response(SAYS[0], {"error": {"message": "no more"}})],
    "an event that cannot be read": [
        make_stream_response(SAYS[0], make_chunk(delta={"tool_calls": [7]}))
    ],
    "no answer": [make_stream_response(done=True)],
}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
@pytest.mark.parametrize("streamed_", [True, False])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_reproduced_offline(name: str, streamed_: bool, path: str, runs: Runs) -> None:
    body = {"model": "m", "input": "hi", "stream": streamed_}
    if path.endswith("completions"):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": streamed_}
    again = [
        httpx2.Response(a.status_code, headers=a.headers, content=a.content) for a in FAILURES[name]
    ]
    capture_id = runs.capture_request(body, *again, path=path)

    code, output, told = runs.replay(capture_id, "--upstream", "captured")

    assert "The response equals the captured one." in told, (output, told)
    assert code == 0
    assert "error" in output or name == "an event that cannot be read"  # Chat clients do not see it
    assert "sk-upstream" not in output + told
    assert runs.asked == []


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("streamed_", [True, False])
@pytest.mark.parametrize("name", ["well", *FAILURES])
def test_ollama_responses_are_reproduced_offline(
    name: str, streamed_: bool, path: str, runs: Runs
) -> None:
    asked = {"prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}
    field = "messages" if path == "/api/chat" else "prompt"
    body = {"model": "m", field: asked[field], "stream": streamed_}
    whole = {**CHUNK, "choices": [{"index": 0, "message": {"content": "hi"}}]}
    well = make_stream_response(*SAYS) if streamed_ else httpx2.Response(200, json=whole)
    answers = [
        httpx2.Response(a.status_code, headers=a.headers, content=a.content)
        for a in FAILURES.get(name, [well])
    ]
    capture_id = runs.capture_request(body, *answers, path=path)

    code, output, told = runs.replay(capture_id, "--upstream", "captured")

    assert "The response equals the captured one." in told, (output, told)
    assert (code, runs.asked) == (0, [])
    assert "sk-upstream" not in output + told


EMBEDDED = {"data": [{"index": 0, "embedding": [3.0, 4.0]}], "usage": {"prompt_tokens": 2}}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_embeddings_are_reproduced_offline(
    path: str, elsewhere: bool, runs: Runs, tmp_path: Path
) -> None:
    body = {"model": "m", "prompt" if path == "/api/embeddings" else "input": "hi"}
    capture_id = runs.capture_request(body, httpx2.Response(200, json=EMBEDDED), path=path)
    record = tmp_path / "x" / f"{capture_id}.json"
    (attempt,) = json.loads(record.read_bytes())["upstream"]
    assert (attempt["protocol"], attempt["answer"]["body"]) == ("embeddings", EMBEDDED)
    if elsewhere:
        runs.environment = {"FORWARDER_LOG_LEVEL": "ERROR"}

    code, output, told = runs.replay(str(record), "--upstream", "captured")

    assert "The response equals the captured one." in told, (output, told)
    assert (code, runs.asked) == (0, [])


def test_a_failure_is_reproduced_from_a_file_on_another_machine(runs: Runs, tmp_path: Path) -> None:
    capture_id = runs.capture_request(
        BODY, make_stream_response(SAYS[0], make_chunk(delta={"tool_calls": [7]}))
    )
    file = tmp_path / "record.json"
    file.write_bytes((tmp_path / "x" / f"{capture_id}.json").read_bytes())
    runs.environment = {"FORWARDER_LOG_LEVEL": "ERROR"}

    code, output, told = runs.replay(str(file), "--upstream", "captured")

    assert code == 0, (output, told)
    assert "cannot be read" in output


def test_replay_shows_a_changed_response(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    capture_id = runs.capture_request(BODY, make_stream_response(*SAYS))
    monkeypatch.setattr("forwarder.protocols.framing.SseDecoder.feed", lambda self, data: [])

    code, _, told = runs.replay(capture_id, "--upstream", "captured")

    assert code == 1
    assert "--- captured" in told
    assert '+ "type": "response.failed"' in told or "+status 502" in told


def test_replay_calls_the_current_upstream_and_compares(runs: Runs) -> None:
    capture_id = runs.capture_request(BODY, make_stream_response(*SAYS))

    runs.answers = iter([make_stream_response(*SAYS)])
    assert runs.replay(capture_id)[0] == 0
    runs.answers = iter([make_stream_response(make_chunk(delta={"content": "other"}), SAYS[1])])
    code, output, told = runs.replay(capture_id)

    assert code == 1
    assert "other" in output
    assert '+ "delta": "other"' in told
    assert {r.headers["authorization"] for r in runs.asked} == {"Bearer sk-upstream"}


@pytest.mark.parametrize("source", ["variable", "standard input", "option"])
def test_replay_takes_the_client_key(
    source: str, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.environment |= {"FAR_API_KEY": "passthrough", "FORWARDER_API_KEYS": ""}
    capture_id = runs.capture_request(BODY, make_stream_response(*SAYS))
    runs.answers = iter([make_stream_response(*SAYS)])
    options = {"standard input": ("--key-stdin",), "option": ("--key", "sk-own-key")}
    if source == "variable":
        monkeypatch.setenv("REPLAY_KEY", "sk-own-key")

    code, _, told = runs.replay(capture_id, *options.get(source, ()), given="sk-own-key\n")

    assert code == 0, told
    assert runs.asked[0].headers["authorization"] == "Bearer sk-own-key"
    assert ("warning: other users can see a key" in told) is (source == "option")
    assert "sk-own-key" not in told


def test_a_replay_is_neither_stored_nor_captured(runs: Runs, tmp_path: Path) -> None:
    capture_id = runs.capture_request({"model": "m", "input": "hi"}, make_stream_response(*SAYS))

    code, output, _ = runs.replay(capture_id, "--upstream", "captured")

    assert code == 0
    assert len(list((tmp_path / "x").iterdir())) == 1
    made = json.loads(output.splitlines()[1])["id"]
    client = create_app(Settings.from_env(runs.environment)).test_client()
    found = client.get(f"/v1/responses/{made}", headers={"Authorization": "Bearer sk-client"})
    assert found.status_code == 404


def test_replay_repeats_retries_and_fallbacks(runs: Runs) -> None:
    runs.environment |= {
        "FORWARDER_UPSTREAMS": "far,spare",
        "SPARE_BASE_URL": "http://spare.test/v1",
        "FAR_FALLBACK": "spare",
        "FAR_MODELS": "m",
    }
    capture_id = runs.capture_request(
        BODY, httpx2.Response(500, json={}), make_stream_response(*SAYS)
    )

    assert runs.replay(capture_id, "--upstream", "captured")[0] == 0
    runs.environment = {"FORWARDER_CAPTURE": runs.environment["FORWARDER_CAPTURE"]}
    assert runs.replay(capture_id, "--upstream", "captured")[0] == 0


def test_replay_of_an_unknown_capture_is_an_error(runs: Runs, tmp_path: Path) -> None:
    code, _, told = runs.replay("ex_nothing")
    assert code == 2
    assert "There is no exchange 'ex_nothing'" in told

    code, _, told = runs.replay("ex_nothing", FORWARDER_CAPTURE="memory")
    assert code == 2
    assert "other processes" in told


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"exchange": {}}'])
def test_replay_of_an_invalid_file_is_an_error(text: str, runs: Runs, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)

    code, _, told = runs.replay(str(file))

    assert code == 2
    assert told.count("\n") == 1
