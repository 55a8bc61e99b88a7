"""The program as its operators meet it: start, stop, log, demo."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import FLASK, ROOT, Server, run_forwarder
from tests.live.talk import PAIRINGS, PATHS, ClientAnswer, Json, http, make_body, send_request

CLIENT_KEY = "client-key-that-is-secret"
PROMPT = "a prompt that nobody else should read"
ANSWER_TEXT = "an answer that nobody else should read"


def read_log(server: Server) -> list[Json]:
    """The log's JSON lines."""
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def find_log_line(server: Server, response: ClientAnswer) -> Json:
    """The one line of an exchange, which is written once the answer is out."""
    name = response.headers["x-request-id"]
    deadline = time.monotonic() + 2
    lines: list[Json] = []
    while not lines and time.monotonic() < deadline:
        lines = [line for line in read_log(server) if line.get("id") == name and "status" in line]
    [line] = lines
    return line


# -- the log --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked_forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """A forwarder that requires a key, and has one upstream with a wrong key."""
    return serve(
        make_settings(
            upstream,
            FORWARDER_UPSTREAMS="chat,responses,wrong",
            FORWARDER_API_KEYS=CLIENT_KEY,
            FORWARDER_LOG_LEVEL="DEBUG",
            FORWARDER_LOG_SAMPLE="1",
            WRONG_BASE_URL=upstream.url,
            WRONG_API_KEY="sk-wrong-and-secret",
        )
    )


@pytest.mark.parametrize(("client", "upstream_api"), PAIRINGS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_request_is_logged_in_one_line(
    client: str, upstream_api: str, stream: bool, forwarder: Server
) -> None:
    body = make_body(client, model=f"{upstream_api}/m", stream=stream, no_such_thing=1)
    if client == upstream_api:
        del body["no_such_thing"]

    line = find_log_line(forwarder, send_request(forwarder, client, body))

    assert (line["route"], line["upstream"], line["model"]) == (client, upstream_api, "m")
    assert (line["status"], line["input_tokens"], line["output_tokens"]) == (200, 21, 9)
    assert 0 < line["first_event_ms"] <= line["duration_ms"]
    assert line.get("dropped") == (None if client == upstream_api else ["no_such_thing"])
    assert line["time"].endswith("Z")


def test_failed_request_is_logged_in_one_line(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        faults.refuse_with_status(429),
        faults.cut_connection(Answer(text=ANSWER_TEXT, pieces=9), reset=False),
    )

    refusal = send_request(forwarder, "chat", make_body("chat"))
    failure = send_request(forwarder, "chat", make_body("chat", stream=True))
    malformed = send_request(forwarder, "chat", b"{")

    line = find_log_line(forwarder, refusal)
    assert (line["status"], line["error"]) == (429, "rate_limit_exceeded")
    assert find_log_line(forwarder, failure)["error"] == "upstream_disconnected"
    assert find_log_line(forwarder, malformed)["error"] == "invalid_json"


def test_the_log_contains_no_keys_and_no_prompts(
    locked_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    texts = []
    for client, upstream_api in PAIRINGS:
        for stream in (False, True):
            body = make_body(client, PROMPT, f"{upstream_api}/m", stream=stream)
            body_with_wrong_model = {**body, "model": "wrong/m"}
            quoting = faults.refuse_with_status(400, message=f"Who is {KEY}? You said: {PROMPT}")
            upstream.script(
                Answer(text=ANSWER_TEXT, reasoning=ANSWER_TEXT), quoting, faults.hang_up()
            )
            for request_body in (
                body,
                body,
                body,
                body_with_wrong_model,
                {**body, "temperature": PROMPT},
            ):
                response = send_request(
                    locked_forwarder, client, request_body, Authorization=f"Bearer {CLIENT_KEY}"
                )
                texts.append(response.text + str(response.headers))
            texts.append(
                send_request(
                    locked_forwarder, client, body, Authorization="Bearer not-this-one"
                ).text
            )

    for secret in (KEY, CLIENT_KEY, "sk-wrong-and-secret", "not-this-one"):
        assert secret not in locked_forwarder.log
        assert not any(secret in text for text in texts)
    for private_text in (PROMPT, ANSWER_TEXT):
        assert private_text not in locked_forwarder.log


def test_sampled_events_are_logged(locked_forwarder: Server) -> None:
    response = send_request(
        locked_forwarder,
        "chat",
        make_body("chat", stream=True),
        Authorization=f"Bearer {CLIENT_KEY}",
    )

    name = find_log_line(locked_forwarder, response)["id"]
    logged_events = [
        line["sample"]
        for line in read_log(locked_forwarder)
        if line.get("id") == name and "sample" in line
    ]
    assert len(logged_events) >= len(response.events) - 1
    assert all(event.keys() == {"type"} for event in logged_events)


def test_bodies_are_logged_when_the_operator_wants_them(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream, FORWARDER_LOG_BODIES="true"))

    send_request(server, "chat", make_body("chat", PROMPT))

    assert PROMPT in server.log
    assert KEY not in server.log


def test_text_log_has_a_banner_and_a_line_for_each_request(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    text = {"FORWARDER_LOG_FORMAT": "text", "WEB_CONCURRENCY": "2"}
    server = serve(make_settings(upstream, CHAT_MODELS="fast=m-1", **text))

    send_request(server, "chat", make_body("chat", model="fast"))
    send_request(
        server, "chat", {**make_body("chat", model="m\x1b[31mhot\n"), "temperature": "hot"}
    )

    deadline = time.monotonic() + 5
    while len(re.findall("POST chat", server.log)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    banner = server.log.partition("Forwarder 0")[2]
    assert server.log.count("Forwarder 0") == 1
    assert f"  upstream   chat  {upstream.url}  (chat, profile generic, with a key)" in banner
    assert f"  serves     {server.url}" in banner
    assert KEY not in server.log
    answer_line, refusal_line = [line for line in server.log.splitlines() if "POST chat" in line]
    assert re.search(
        r"  200  fast → m-1 at chat  \d+ ms \(first \d+ ms\)  21 in, 9 out$", answer_line
    )
    assert r"  400  m\x1b[31mhot\n" in refusal_line
    assert "invalid_type: Invalid type for 'temperature'" in refusal_line
    assert "\x1b" not in server.log


def test_json_log_has_a_record_of_the_start(forwarder: Server, upstream: ScriptedUpstream) -> None:
    [started] = [line for line in read_log(forwarder) if line.get("event") == "started"]

    assert started["addresses"] == [forwarder.url]
    assert [each["url"] for each in started["upstreams"]] == [upstream.url, upstream.url]
    assert started["store"] == "sqlite"
    assert KEY not in str(started)


# -- start and stop -------------------------------------------------------------------------------


def test_sigterm_stops_the_server_after_running_requests(
    serve: Serve, upstream: ScriptedUpstream
) -> None:
    server = serve(make_settings(upstream))
    upstream.script(faults.slow_down(Answer(text="a b c d", pieces=4), delay=0.1))
    with http.stream(
        "POST", f"{server.v1}/responses", json=make_body("responses", stream=True)
    ) as response:
        pieces = response.iter_text()
        text = next(pieces)
        server.process.send_signal(signal.SIGTERM)
        text += "".join(pieces)

    assert ClientAnswer("responses", 200, response.headers, text).ending == "completed"
    assert server.process.wait(10) == 0
    assert "Traceback" not in server.log


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    inherited_variables = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**inherited_variables, "FORWARDER_DOTENV": "", **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    "command",
    [("-c", "import wsgi"), ("-m", "gunicorn", "-b", "127.0.0.1:0", "wsgi:app")],
    ids=["import", "gunicorn"],
)
def test_mistakes_stop_the_start_with_a_line_each(command: tuple[str, ...]) -> None:
    environment = {
        "CHAT_BASE_URL": "nonsense",
        "CHAT_API_KEY": KEY,
        "CHAT_IDLE_TIMEOUT": "soon",
        "FORWARDER_STRICT": "maybe",
        "FORWARDER_STRIKT": "true",
    }

    done = run(environment, *command)

    assert done.returncode != 0
    output = done.stdout + done.stderr
    for name in ("CHAT_BASE_URL", "CHAT_IDLE_TIMEOUT", "FORWARDER_STRICT", "FORWARDER_STRIKT"):
        assert len(re.findall(rf"^{name} .+", output, re.MULTILINE)) == 1, output
    assert KEY not in output
    assert "maybe" not in output
    assert "Traceback" not in output


# -- the demo, and the server of Flask ------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(serve: Serve) -> Server:
    """A forwarder without settings, which runs the demo."""
    return serve({}, is_fresh=True)


README = (ROOT / "README.md").read_text()


def run_readme_commands(demo: Server) -> dict[str, ClientAnswer]:
    """Client -> the answer to its curl line in the README."""
    answers = {}
    for line in README.replace("\\\n", " ").splitlines():
        if line.startswith("curl "):
            command = shlex.split(line)
            url = next(argument for argument in command if argument.startswith("http"))
            body = json.loads(command[command.index("-d") + 1])
            [client] = [name for name, path in PATHS.items() if url.endswith(path)]
            answers[client] = send_request(demo, client, body)
            assert answers[client].is_streamed == body.get("stream", False)
    return answers


def test_the_readme_s_curl_lines_print_its_examples(demo: Server) -> None:
    answers = run_readme_commands(demo)

    assert {client: answer.ending for client, answer in answers.items()} == {
        "chat": "completed",
        "responses": "completed",
    }
    example = json.loads(README.partition("```json\n")[2].partition("```")[0])
    message = example["choices"][0]["message"]
    assert {key: answers["chat"].message[key] for key in message} == message
    [event] = re.findall(r"^data: (\{.*\})$", README, re.MULTILINE)
    [delta] = [e for e in answers["responses"].events if e.get("delta") == " Hello"]
    assert {**delta, "item_id": "msg_…"} == json.loads(event)


def test_documentation_is_served_complete(serve: Serve, tmp_path: Path) -> None:
    """Files go out by another way than answers: gunicorn hands them to the system."""
    script = "let text = '" + "x" * 500_000 + "'"
    (tmp_path / "index.html").write_text("<h1>Hello</h1>")
    (tmp_path / "app.js").write_text(script)
    server = serve({"FORWARDER_DOCS_DIR": str(tmp_path)})

    with httpx2.Client(base_url=server.url, follow_redirects=True) as client:
        assert client.get("/docs").text == "<h1>Hello</h1>"
        for _ in range(3):
            assert client.get("/docs/app.js").text == script
        assert client.head("/docs/app.js").headers["Content-Length"] == str(len(script))
        etag = client.get("/docs/app.js").headers["ETag"]
        revalidation = client.get("/docs/app.js", headers={"If-None-Match": etag})
        assert revalidation.status_code == 304


def test_demo_warns_at_its_start(demo: Server) -> None:
    assert any("built-in demo" in str(line.get("message")) for line in read_log(demo))
    ready = http.get(f"{demo.url}/ready")
    assert ready.status_code == 200
    assert all(state["reachable"] for state in ready.json()["upstreams"].values())


@pytest.fixture(scope="module")
def flask(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The forwarder under Flask's own server, with threads."""
    with run_forwarder(make_settings(upstream), tmp_path_factory.mktemp("flask"), FLASK) as server:
        yield server


def test_flask_run_logs_the_start_and_its_other_commands_do_not(flask: Server) -> None:
    [started] = [line for line in read_log(flask) if line.get("event") == "started"]
    listing = run(
        {"CHAT_BASE_URL": "http://127.0.0.1:9/v1", "FORWARDER_DATABASE_URL": "none"},
        *("-m", "flask", "--app", "wsgi", "models", "list"),
    )

    assert started["addresses"] == [flask.url]
    assert (listing.returncode, listing.stderr) == (0, "")


@pytest.mark.parametrize(("client", "upstream_api"), PAIRINGS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_flask_s_own_server_serves_requests(
    client: str, upstream_api: str, stream: bool, flask: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Zürich 🏔", pieces=4))

    response = send_request(
        flask, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert response.ending == "completed"
    assert response.content.text == "Zürich 🏔"


@pytest.mark.parametrize("stream", [True, False])
def test_a_silent_upstream_is_disconnected_when_the_client_disconnects(
    stream: bool, serve: Serve, upstream: ScriptedUpstream
) -> None:
    """With the default keep-alive, long before anything would be written to the client."""
    server = serve(make_settings(upstream))
    upstream.script(faults.stall(Answer(text="word " * 50, pieces=50), after=5))
    body = json.dumps({"model": "m", "input": "hi", "stream": stream}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    url = urlsplit(server.url)
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=5) as sock:
        sock.sendall(head.encode() + body)
        deadline = time.monotonic() + 5
        while not upstream.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # the stall has begun

    [request] = upstream.requests
    assert request.closed_by_client.wait(3)
