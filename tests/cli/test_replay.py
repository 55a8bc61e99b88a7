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


ANSWER_CHUNKS = [make_chunk(delta={"content": "hi"}), make_chunk(finish_reason="stop")]
CUT = make_stream_response(ANSWER_CHUNKS[0], done=False)
PAGE = httpx2.Response(200, text="<html>no</html>", headers={"content-type": "text/html"})


class ReplaySetup:
    """A forwarder that captures into a directory, and its replay command."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[httpx2.Request] = []
        self.answers: Any = None
        transport = httpx2.MockTransport(self._answer)
        monkeypatch.setattr(services, "select_transport", lambda *args: transport)
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
        self.requests.append(request)
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
        self.requests.clear()
        exchanges = client.get("/forwarder/exchanges", headers={"Authorization": "Bearer sk-admin"})
        return str(exchanges.json["data"][0]["id"])

    def replay(self, *arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
        app = create_app(Settings.from_env({**self.environment, **environment}))
        result = app.test_cli_runner().invoke(args=["replay", *arguments], input=stdin)
        return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def replay_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReplaySetup:
    return ReplaySetup(tmp_path, monkeypatch)


BODY = {"model": "m", "input": "hi", "stream": True}


FAILURES: dict[str, list[httpx2.Response]] = {
    "refused": [httpx2.Response(429, json={"error": {"message": "slowly sk-upstream"}})],
    "a page": [PAGE],
    "cut off": [CUT],
    "an error in the stream": [
        make_stream_response(ANSWER_CHUNKS[0], {"error": {"message": "no more"}})
    ],
    "an event that cannot be read": [
        make_stream_response(ANSWER_CHUNKS[0], make_chunk(delta={"tool_calls": [7]}))
    ],
    "no answer": [make_stream_response(done=True)],
}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
@pytest.mark.parametrize("streamed_", [True, False])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_reproduced_offline(
    name: str, streamed_: bool, path: str, replay_setup: ReplaySetup
) -> None:
    body = {"model": "m", "input": "hi", "stream": streamed_}
    if path.endswith("completions"):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": streamed_}
    answers = [
        httpx2.Response(a.status_code, headers=a.headers, content=a.content) for a in FAILURES[name]
    ]
    capture_id = replay_setup.capture_request(body, *answers, path=path)

    code, output, stderr = replay_setup.replay(capture_id, "--upstream", "captured")

    assert "The response equals the captured one." in stderr, (output, stderr)
    assert code == 0
    assert "error" in output or name == "an event that cannot be read"  # Chat clients get no error
    assert "sk-upstream" not in output + stderr
    assert replay_setup.requests == []


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("streamed_", [True, False])
@pytest.mark.parametrize("name", ["well", *FAILURES])
def test_ollama_responses_are_reproduced_offline(
    name: str, streamed_: bool, path: str, replay_setup: ReplaySetup
) -> None:
    input_fields = {"prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}
    field = "messages" if path == "/api/chat" else "prompt"
    body = {"model": "m", field: input_fields[field], "stream": streamed_}
    completion = {**CHUNK, "choices": [{"index": 0, "message": {"content": "hi"}}]}
    well = (
        make_stream_response(*ANSWER_CHUNKS) if streamed_ else httpx2.Response(200, json=completion)
    )
    answers = [
        httpx2.Response(a.status_code, headers=a.headers, content=a.content)
        for a in FAILURES.get(name, [well])
    ]
    capture_id = replay_setup.capture_request(body, *answers, path=path)

    code, output, stderr = replay_setup.replay(capture_id, "--upstream", "captured")

    assert "The response equals the captured one." in stderr, (output, stderr)
    assert (code, replay_setup.requests) == (0, [])
    assert "sk-upstream" not in output + stderr


EMBEDDED = {"data": [{"index": 0, "embedding": [3.0, 4.0]}], "usage": {"prompt_tokens": 2}}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize("from_file", [False, True])
def test_embeddings_are_reproduced_offline(
    path: str, from_file: bool, replay_setup: ReplaySetup, tmp_path: Path
) -> None:
    body = {"model": "m", "prompt" if path == "/api/embeddings" else "input": "hi"}
    capture_id = replay_setup.capture_request(body, httpx2.Response(200, json=EMBEDDED), path=path)
    record = tmp_path / "x" / f"{capture_id}.json"
    (attempt,) = json.loads(record.read_bytes())["upstream"]
    assert (attempt["protocol"], attempt["answer"]["body"]) == ("embeddings", EMBEDDED)
    if from_file:
        replay_setup.environment = {"FORWARDER_LOG_LEVEL": "ERROR"}

    code, output, stderr = replay_setup.replay(str(record), "--upstream", "captured")

    assert "The response equals the captured one." in stderr, (output, stderr)
    assert (code, replay_setup.requests) == (0, [])


def test_a_failure_is_reproduced_from_a_file_on_another_machine(
    replay_setup: ReplaySetup, tmp_path: Path
) -> None:
    capture_id = replay_setup.capture_request(
        BODY, make_stream_response(ANSWER_CHUNKS[0], make_chunk(delta={"tool_calls": [7]}))
    )
    file = tmp_path / "record.json"
    file.write_bytes((tmp_path / "x" / f"{capture_id}.json").read_bytes())
    replay_setup.environment = {"FORWARDER_LOG_LEVEL": "ERROR"}

    code, output, stderr = replay_setup.replay(str(file), "--upstream", "captured")

    assert code == 0, (output, stderr)
    assert "cannot be read" in output


def test_replay_shows_a_changed_response(
    replay_setup: ReplaySetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture_id = replay_setup.capture_request(BODY, make_stream_response(*ANSWER_CHUNKS))
    monkeypatch.setattr("forwarder.protocols.framing.SseDecoder.feed", lambda self, data: [])

    code, _, stderr = replay_setup.replay(capture_id, "--upstream", "captured")

    assert code == 1
    assert "--- captured" in stderr
    assert '+ "type": "response.failed"' in stderr or "+status 502" in stderr


def test_replay_calls_the_current_upstream_and_compares(replay_setup: ReplaySetup) -> None:
    capture_id = replay_setup.capture_request(BODY, make_stream_response(*ANSWER_CHUNKS))

    replay_setup.answers = iter([make_stream_response(*ANSWER_CHUNKS)])
    assert replay_setup.replay(capture_id)[0] == 0
    replay_setup.answers = iter(
        [make_stream_response(make_chunk(delta={"content": "other"}), ANSWER_CHUNKS[1])]
    )
    code, output, stderr = replay_setup.replay(capture_id)

    assert code == 1
    assert "other" in output
    assert '+ "delta": "other"' in stderr
    assert {r.headers["authorization"] for r in replay_setup.requests} == {"Bearer sk-upstream"}


@pytest.mark.parametrize("source", ["variable", "standard input", "option"])
def test_replay_takes_the_client_key(
    source: str, replay_setup: ReplaySetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay_setup.environment |= {"FAR_API_KEY": "passthrough", "FORWARDER_API_KEYS": ""}
    capture_id = replay_setup.capture_request(BODY, make_stream_response(*ANSWER_CHUNKS))
    replay_setup.answers = iter([make_stream_response(*ANSWER_CHUNKS)])
    options = {"standard input": ("--key-stdin",), "option": ("--key", "sk-own-key")}
    if source == "variable":
        monkeypatch.setenv("REPLAY_KEY", "sk-own-key")

    code, _, stderr = replay_setup.replay(
        capture_id, *options.get(source, ()), stdin="sk-own-key\n"
    )

    assert code == 0, stderr
    assert replay_setup.requests[0].headers["authorization"] == "Bearer sk-own-key"
    assert ("warning: other users can see a key" in stderr) is (source == "option")
    assert "sk-own-key" not in stderr


def test_a_replay_is_neither_stored_nor_captured(replay_setup: ReplaySetup, tmp_path: Path) -> None:
    capture_id = replay_setup.capture_request(
        {"model": "m", "input": "hi"}, make_stream_response(*ANSWER_CHUNKS)
    )

    code, output, _ = replay_setup.replay(capture_id, "--upstream", "captured")

    assert code == 0
    assert len(list((tmp_path / "x").iterdir())) == 1
    response_id = json.loads(output.splitlines()[1])["id"]
    client = create_app(Settings.from_env(replay_setup.environment)).test_client()
    response = client.get(
        f"/v1/responses/{response_id}", headers={"Authorization": "Bearer sk-client"}
    )
    assert response.status_code == 404


def test_replay_repeats_retries_and_fallbacks(replay_setup: ReplaySetup) -> None:
    replay_setup.environment |= {
        "FORWARDER_UPSTREAMS": "far,spare",
        "SPARE_BASE_URL": "http://spare.test/v1",
        "FAR_FALLBACK": "spare",
        "FAR_MODELS": "m",
    }
    capture_id = replay_setup.capture_request(
        BODY, httpx2.Response(500, json={}), make_stream_response(*ANSWER_CHUNKS)
    )

    assert replay_setup.replay(capture_id, "--upstream", "captured")[0] == 0
    replay_setup.environment = {"FORWARDER_CAPTURE": replay_setup.environment["FORWARDER_CAPTURE"]}
    assert replay_setup.replay(capture_id, "--upstream", "captured")[0] == 0


def test_replay_of_an_unknown_capture_is_an_error(
    replay_setup: ReplaySetup, tmp_path: Path
) -> None:
    code, _, stderr = replay_setup.replay("ex_nothing")
    assert code == 2
    assert "There is no exchange 'ex_nothing'" in stderr

    code, _, stderr = replay_setup.replay("ex_nothing", FORWARDER_CAPTURE="memory")
    assert code == 2
    assert "other processes" in stderr


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"exchange": {}}'])
def test_replay_of_an_invalid_file_is_an_error(
    text: str, replay_setup: ReplaySetup, tmp_path: Path
) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)

    code, _, stderr = replay_setup.replay(str(file))

    assert code == 2
    assert stderr.count("\n") == 1
