"""Captured exchanges of real workers: shared, without secrets, within their bounds, and replayed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from forwarder.app import create_app
from forwarder.config.settings import Settings
from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.helpers.waiting import wait_until
from tests.live.conftest import KEY as UPSTREAM_KEY
from tests.live.conftest import make_settings
from tests.live.processes import inherit_environment
from tests.live.server import GUNICORN, ROOT, Server, run_forwarder
from tests.live.talk import PAIRINGS, http, make_body, send_request
from tests.live.test_websocket import WebSocketSession

TWO = (*GUNICORN, "-w", "2")
CLIENT, ADMIN, OTHER = "sk-client-4711", "sk-admin-4712", "sk-remote-4713"
ADMINISTRATOR = {"Authorization": f"Bearer {ADMIN}"}
PERSON = "jane.doe@example.com"
SECRETS = (UPSTREAM_KEY, CLIENT, ADMIN, OTHER, PERSON)
PATH = "/forwarder/exchanges"

Json = dict[str, Any]


@pytest.fixture
def capture_settings(upstream: ScriptedUpstream, tmp_path: Path) -> dict[str, str]:
    """The environment of a forwarder that captures into a directory of the test."""
    upstream.forget()
    return make_settings(
        upstream,
        FORWARDER_CAPTURE=str(tmp_path / "exchanges"),
        FORWARDER_CAPTURE_REDACT="user",
        FORWARDER_API_KEYS=CLIENT,
        FORWARDER_ADMIN_KEYS=ADMIN,
        FORWARDER_METRICS="false",
    )


@pytest.fixture
def two_workers(capture_settings: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    with run_forwarder(capture_settings, tmp_path, TWO) as server:
        yield server


def admin(server: Server, path: str = PATH, key: str = ADMIN) -> Any:
    return http.get(server.url + path, headers={"Authorization": f"Bearer {key}"} if key else {})


def post(server: Server, path: str, **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {CLIENT}", **options.pop("headers", {})}
    return http.post(server.url + path, headers=headers, **options)


def wait_for_exchanges(server: Server, count: int) -> list[Json]:
    """The newest exchanges, once there are so many."""

    def all_there() -> list[Json]:
        exchanges: list[Json] = admin(server, f"{PATH}?limit=1000").json()["data"]
        return exchanges if len(exchanges) >= count else []

    return [admin(server, f"{PATH}/{each['id']}").json() for each in wait_until(all_there)]


class Replayed(NamedTuple):
    """The exit code of the command, what it printed, and what it wrote to standard error."""

    code: int
    output: str
    report: str


def replay(settings: dict[str, str], *arguments: str) -> Replayed:
    """Run the command in this process."""
    app = create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none", **settings}))
    done = app.test_cli_runner().invoke(args=["replay", *arguments])
    return Replayed(done.exit_code, done.stdout, done.stderr)


def replay_in_a_process(settings: dict[str, str], *arguments: str) -> Replayed:
    """Run the command as operators do; its start takes two seconds of computing."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "replay", *arguments],
        cwd=ROOT,
        env={
            **inherit_environment(),
            "FORWARDER_DOTENV": "",
            "FORWARDER_DATABASE_URL": "none",
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Replayed(done.returncode, done.stdout, done.stderr)


def test_two_workers_share_their_captures(
    two_workers: Server, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    for streamed in (True, False):
        for client, upstream_api in PAIRINGS:
            upstream.script(Answer(text="one two three", pieces=3))
            body = make_body(client, model=f"{upstream_api}/m", stream=streamed)
            path = "/v1/chat/completions" if client == "chat" else "/v1/responses"
            assert post(two_workers, path, json=body).status_code == 200

    exchanges = wait_for_exchanges(two_workers, 8)

    assert len(exchanges) == 8
    for _ in range(8):  # any worker may answer
        listing = admin(two_workers).json()
        assert listing["shared"]
        assert [each["id"] for each in listing["data"]] == [
            each["exchange"]["id"] for each in exchanges
        ]
    names = [each["exchange"]["id"] for each in exchanges]  # by the time at which each was over
    assert names == sorted(names, reverse=True)
    for each in exchanges:
        assert each["exchange"]["whole"]
        (attempt,) = each["upstream"]
        assert attempt["url"].startswith(upstream.url)
        assert 0 <= attempt["at"] <= attempt["answer"]["head_at"] <= each["exchange"]["duration_ms"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "exchanges").iterdir()} == {0o600}


def test_no_secret_is_in_any_file_or_answer(
    two_workers: Server, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    message = f"Incorrect API key provided: {UPSTREAM_KEY}, for {CLIENT} and {PERSON}."
    headers = {"Cookie": f"session={OTHER}", "X-Api-Key": OTHER}
    body = make_body("responses", f"my keys are {CLIENT} and {UPSTREAM_KEY}", model="chat/m",
                  user=PERSON)  # fmt: skip
    upstream.script(faults.refuse_with_status(403, message=message), faults.error_in_200(message),
                    faults.error_event(Answer(text=message, pieces=2), after=2), Answer(text=message))  # fmt: skip
    for streamed in (False, False, True, False):
        url = f"/v1/responses?key={OTHER}&api-version=1"
        post(two_workers, url, json={**body, "stream": streamed}, headers=headers)
    post(two_workers, "/v1/responses", json={**body, "remote_api_key": OTHER, "no_such_thing": 1})
    post(two_workers, "/v1/responses", content=f'{{"remote_api_key": "{OTHER}", "user": "{PERSON}"')

    exchanges = wait_for_exchanges(two_workers, 6)

    files = [path.read_text() for path in (tmp_path / "exchanges").iterdir()]
    assert len(files) == len(exchanges) == 6
    for text in (*files, admin(two_workers).text, json.dumps(exchanges), two_workers.log):
        for secret in SECRETS:
            assert secret not in text
    assert all(each["exchange"]["redacted"] for each in exchanges)
    query = exchanges[-1]["client"]["request"]["query"]
    assert query == [["key", "***"], ["api-version", "1"]]


@pytest.mark.parametrize(
    ("key", "status"), [(ADMIN, 200), (CLIENT, 403), ("sk-no", 401), ("", 401)]
)
def test_only_administrators_read_captures(key: str, status: int, two_workers: Server) -> None:
    assert admin(two_workers, key=key).status_code == status
    if status != 200:
        assert admin(two_workers, f"{PATH}/x", key=key).status_code == status


def test_capture_disabled_is_reported_and_writes_no_file(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with run_forwarder(make_settings(upstream), tmp_path) as server:
        upstream.script(Answer(text="hi"))
        send_request(server, "chat", make_body("chat"))
        before = {path.name for path in tmp_path.iterdir()}
        response = http.get(server.url + PATH)

    assert response.status_code == 404
    assert "FORWARDER_CAPTURE is off" in response.json()["error"]["message"]
    assert not any("ex" in name for name in before)


def test_captures_are_limited_in_number_size_and_age(
    capture_settings: dict[str, str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    directory = tmp_path / "exchanges"
    bounds = {"COUNT": "5", "MAX": "4k", "AGE": "8"}
    capture_settings |= {f"FORWARDER_CAPTURE_{name}": value for name, value in bounds.items()}
    with run_forwarder(capture_settings, tmp_path, TWO) as server:
        for number in range(12):
            upstream.script(Answer(text="word " * 400, pieces=300))
            body = make_body("responses", f"{number} " + "x" * 9000, model="chat/m", stream=True)
            assert post(server, "/v1/responses", json=body).status_code == 200

        def read_files() -> list[bytes]:
            try:
                contents = [path.read_bytes() for path in directory.glob("*.json")]
            except FileNotFoundError:  # it was deleted meanwhile
                return []
            return contents if len(contents) == 5 else []

        files = wait_until(read_files)
        assert max(map(len, files)) <= 4096
        records = list(map(json.loads, files))
        assert not any(each["exchange"]["whole"] for each in records)
        assert all("left_out" in each["client"]["request"] for each in records)
        assert wait_until(lambda: not list(directory.iterdir()))  # no request in between


@pytest.mark.parametrize("upstream_api", ["chat", "responses"])
@pytest.mark.parametrize("client", ["chat", "responses"])
def test_a_failing_request_is_captured_and_its_failure_reproduced(
    client: str,
    upstream_api: str,
    two_workers: Server,
    capture_settings: dict[str, str],
    upstream: ScriptedUpstream,
) -> None:
    failing = [
        faults.refuse_with_status(429, retry_after=3),
        faults.cut_connection(Answer(text="one two three", pieces=3)),
        faults.error_event(Answer(text="one two three", pieces=3)),
        faults.answer_with_html(),
    ]
    path = "/v1/chat/completions" if client == "chat" else "/v1/responses"
    for fault in failing:
        upstream.script(fault)
        post(two_workers, path, json=make_body(client, model=f"{upstream_api}/m", stream=True))
    exchanges = wait_for_exchanges(two_workers, len(failing))
    upstream.requests.clear()

    for each in exchanges:
        assert each["exchange"]["error"], each["exchange"]
        result = replay(capture_settings, each["exchange"]["id"], "--upstream", "captured")
        assert result.code == 0, (result.output, result.report)
        assert "The response equals the captured one." in result.report
        assert "error" in result.output
    assert upstream.requests == []


@pytest.mark.parametrize("kind", ["openai", "openai-responses"])
def test_failure_with_a_registered_model_is_replayed_with_and_without_it(
    kind: str, capture_settings: dict[str, str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    capture_settings |= {
        "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
        "FORWARDER_SECRET_KEY": "secret",
        "FORWARDER_REMOTE_ALLOW": "127.0.0.1",
    }
    create = {
        "model": "mine", "from": "scripted", "remote_host": upstream.url, "remote_type": kind,
        "remote_api_key": UPSTREAM_KEY, "verify": False, "system": "Be kind.",
    }  # fmt: skip
    body = {"model": "mine:latest", "messages": [{"role": "user", "content": "hi"}]}
    with run_forwarder(capture_settings, tmp_path, TWO) as two:
        created = post(two, "/api/create", json=create, headers=ADMINISTRATOR)
        assert created.status_code == 200
        upstream.script(
            Answer(text="one two", pieces=2), faults.error_event(Answer(text="x y z", pieces=3)),
            faults.cut_connection(Answer(text="x y z", pieces=3)), faults.refuse_with_status(404),
        )  # fmt: skip
        for _ in range(4):
            post(two, "/api/chat", json=body)
        post(two, "/api/embed", json={"model": "mine", "input": "four"})
        records = wait_for_exchanges(two, 5)
    upstream.requests.clear()

    settings_without_store = {**capture_settings, "FORWARDER_DATABASE_URL": "none"}
    for each, settings in (
        *((each, settings_without_store) for each in records),
        (records[1], capture_settings),
    ):
        result = replay(settings, each["exchange"]["id"], "--upstream", "captured")
        assert (result.code, "The response equals" in result.report) == (0, True), result.report
    assert upstream.requests == []
    upstream.script(Answer(text="one two", pieces=2))
    result = replay(capture_settings, records[-1]["exchange"]["id"])
    assert result.code == 0, result.report
    assert "Be kind." in json.dumps(upstream.requests[-1].body)
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"


def test_replay_sends_the_request_to_the_current_upstream(
    two_workers: Server, capture_settings: dict[str, str], upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.refuse_with_status(500))
    id_ = post(two_workers, "/v1/responses", json=make_body("responses", model="chat/m")).headers[
        "x-request-id"
    ]
    wait_for_exchanges(two_workers, 1)

    upstream.script(Answer(text="better today"))
    result = replay_in_a_process(capture_settings, id_)

    assert result.code == 1, result.report
    assert "better today" in result.output
    assert "-status 500" in result.report
    assert "+status 200" in result.report
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"


def test_turns_of_a_websocket_are_exchanges(
    two_workers: Server, capture_settings: dict[str, str], upstream: ScriptedUpstream
) -> None:
    session = WebSocketSession(two_workers, Authorization=f"Bearer {CLIENT}")
    upstream.script(Answer(text="one"), Answer(text="two"), faults.refuse_with_status(400))
    first = session.run_turn("hello")
    session.run_turn("and", previous_response_id=first[-1]["response"]["id"])
    session.run_turn("no")
    session.ws.close()

    failed_turn, second_turn, _ = wait_for_exchanges(two_workers, 3)

    assert second_turn["client"]["request"]["body"]["input"] == "and"
    assert len(second_turn["client"]["resumed"]["body"]["input"]) == 3
    assert second_turn["client"]["answer"]["events"][-1]["data"]["type"] == "response.completed"
    assert failed_turn["exchange"]["status"] == 400
    for each in (second_turn, failed_turn):
        result = replay(capture_settings, each["exchange"]["id"], "--upstream", "captured")
        assert result.code == 0, (result.output, result.report)


def test_a_client_that_leaves_is_captured(two_workers: Server, upstream: ScriptedUpstream) -> None:
    upstream.script(faults.slow_down(Answer(text="word " * 300, pieces=300), delay=0.02))
    body = make_body("responses", model="chat/m", stream=True)
    with http.stream("POST", f"{two_workers.v1}/responses", json=body,
                     headers={"Authorization": f"Bearer {CLIENT}"}) as answer:  # fmt: skip
        next(answer.iter_bytes())

    (exchange,) = wait_for_exchanges(two_workers, 1)

    assert exchange["exchange"]["error"] == "client_left"
    assert exchange["client"]["answer"]["events"]


def test_capture_in_memory_is_saved_and_replayed(
    capture_settings: dict[str, str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    capture_settings |= {"FORWARDER_CAPTURE": "memory"}
    with run_forwarder(capture_settings, tmp_path) as server:
        upstream.script(faults.refuse_with_status(429))
        post(server, "/v1/responses", json=make_body("responses", model="chat/m"))
        (exchange,) = wait_for_exchanges(server, 1)
        assert admin(server).json()["shared"] is False
        file = tmp_path / "saved.json"
        file.write_bytes(admin(server, f"{PATH}/{exchange['exchange']['id']}").content)

    offline = {"FORWARDER_LOG_LEVEL": "ERROR"}  # another machine, which knows no upstream
    result = replay_in_a_process(offline, str(file), "--upstream", "captured")

    assert result.code == 0, (result.output, result.report)
    assert "status 429" in result.output
