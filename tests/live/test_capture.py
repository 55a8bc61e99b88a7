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
from tests.live.talk import PAIRINGS, ask, http, make_body
from tests.live.test_websocket import Talk

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


def post(server: Server, path: str, **given: Any) -> Any:
    headers = {"Authorization": f"Bearer {CLIENT}", **given.pop("headers", {})}
    return http.post(server.url + path, headers=headers, **given)


def wait_for_exchanges(server: Server, count: int) -> list[Json]:
    """The newest exchanges, once there are so many."""

    def all_there() -> list[Json]:
        listed: list[Json] = admin(server, f"{PATH}?limit=1000").json()["data"]
        return listed if len(listed) >= count else []

    return [admin(server, f"{PATH}/{each['id']}").json() for each in wait_until(all_there)]


class Replayed(NamedTuple):
    """The exit code of the command, what it printed, and what it wrote to standard error."""

    code: int
    output: str
    told: str


def replay(given: dict[str, str], *arguments: str) -> Replayed:
    """Run the command in this process."""
    app = create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none", **given}))
    done = app.test_cli_runner().invoke(args=["replay", *arguments])
    return Replayed(done.exit_code, done.stdout, done.stderr)


def replay_in_a_process(given: dict[str, str], *arguments: str) -> Replayed:
    """Run the command as operators do; its start takes two seconds of computing."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "replay", *arguments],
        cwd=ROOT,
        env={
            **inherit_environment(),
            "FORWARDER_DOTENV": "",
            "FORWARDER_DATABASE_URL": "none",
            **given,
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
        for client, over in PAIRINGS:
            upstream.script(Answer(text="one two three", pieces=3))
            body = make_body(client, model=f"{over}/m", stream=streamed)
            path = "/v1/chat/completions" if client == "chat" else "/v1/responses"
            assert post(two_workers, path, json=body).status_code == 200

    found = wait_for_exchanges(two_workers, 8)

    assert len(found) == 8
    for _ in range(8):  # any worker may answer
        listed = admin(two_workers).json()
        assert listed["shared"]
        assert [each["id"] for each in listed["data"]] == [each["exchange"]["id"] for each in found]
    names = [each["exchange"]["id"] for each in found]  # by the time at which each was over
    assert names == sorted(names, reverse=True)
    for each in found:
        assert each["exchange"]["whole"]
        (attempt,) = each["upstream"]
        assert attempt["url"].startswith(upstream.url)
        assert 0 <= attempt["at"] <= attempt["answer"]["head_at"] <= each["exchange"]["duration_ms"]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "exchanges").iterdir()} == {0o600}


def test_no_secret_is_in_any_file_or_answer(
    two_workers: Server, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    said = f"Incorrect API key provided: {UPSTREAM_KEY}, for {CLIENT} and {PERSON}."
    headers = {"Cookie": f"session={OTHER}", "X-Api-Key": OTHER}
    body = make_body("responses", f"my keys are {CLIENT} and {UPSTREAM_KEY}", model="chat/m",
                  user=PERSON)  # fmt: skip
    upstream.script(faults.refuse_with_status(403, message=said), faults.error_in_200(said),
                    faults.error_event(Answer(text=said, pieces=2), after=2), Answer(text=said))  # fmt: skip
    for streamed in (False, False, True, False):
        url = f"/v1/responses?key={OTHER}&api-version=1"
        post(two_workers, url, json={**body, "stream": streamed}, headers=headers)
    post(two_workers, "/v1/responses", json={**body, "remote_api_key": OTHER, "no_such_thing": 1})
    post(two_workers, "/v1/responses", content=f'{{"remote_api_key": "{OTHER}", "user": "{PERSON}"')

    found = wait_for_exchanges(two_workers, 6)

    files = [path.read_text() for path in (tmp_path / "exchanges").iterdir()]
    assert len(files) == len(found) == 6
    for text in (*files, admin(two_workers).text, json.dumps(found), two_workers.log):
        for secret in SECRETS:
            assert secret not in text
    assert all(each["exchange"]["redacted"] for each in found)
    query = found[-1]["client"]["request"]["query"]
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
        ask(server, "chat", make_body("chat"))
        before = {path.name for path in tmp_path.iterdir()}
        got = http.get(server.url + PATH)

    assert got.status_code == 404
    assert "FORWARDER_CAPTURE is off" in got.json()["error"]["message"]
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
                found = [path.read_bytes() for path in directory.glob("*.json")]
            except FileNotFoundError:  # it was deleted meanwhile
                return []
            return found if len(found) == 5 else []

        files = wait_until(read_files)
        assert max(map(len, files)) <= 4096
        records = list(map(json.loads, files))
        assert not any(each["exchange"]["whole"] for each in records)
        assert all("left_out" in each["client"]["request"] for each in records)
        assert wait_until(lambda: not list(directory.iterdir()))  # no request in between


@pytest.mark.parametrize("over", ["chat", "responses"])
@pytest.mark.parametrize("client", ["chat", "responses"])
def test_a_failing_request_is_captured_and_its_failure_reproduced(
    client: str,
    over: str,
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
        post(two_workers, path, json=make_body(client, model=f"{over}/m", stream=True))
    found = wait_for_exchanges(two_workers, len(failing))
    upstream.requests.clear()

    for each in found:
        assert each["exchange"]["error"], each["exchange"]
        got = replay(capture_settings, each["exchange"]["id"], "--upstream", "captured")
        assert got.code == 0, (got.output, got.told)
        assert "The response equals the captured one." in got.told
        assert "error" in got.output
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
    asked = {"model": "mine:latest", "messages": [{"role": "user", "content": "hi"}]}
    with run_forwarder(capture_settings, tmp_path, TWO) as two:
        created = post(two, "/api/create", json=create, headers=ADMINISTRATOR)
        assert created.status_code == 200
        upstream.script(
            Answer(text="one two", pieces=2), faults.error_event(Answer(text="x y z", pieces=3)),
            faults.cut_connection(Answer(text="x y z", pieces=3)), faults.refuse_with_status(404),
        )  # fmt: skip
        for _ in range(4):
            post(two, "/api/chat", json=asked)
        post(two, "/api/embed", json={"model": "mine", "input": "four"})
        records = wait_for_exchanges(two, 5)
    upstream.requests.clear()

    elsewhere = {**capture_settings, "FORWARDER_DATABASE_URL": "none"}
    for each, where in (*((each, elsewhere) for each in records), (records[1], capture_settings)):
        got = replay(where, each["exchange"]["id"], "--upstream", "captured")
        assert (got.code, "The response equals" in got.told) == (0, True), got.told
    assert upstream.requests == []
    upstream.script(Answer(text="one two", pieces=2))
    got = replay(capture_settings, records[-1]["exchange"]["id"])
    assert got.code == 0, got.told
    assert "Be kind." in json.dumps(upstream.requests[-1].body)
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"


def test_a_request_is_sent_again_to_the_upstream_of_today(
    two_workers: Server, capture_settings: dict[str, str], upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.refuse_with_status(500))
    id_ = post(two_workers, "/v1/responses", json=make_body("responses", model="chat/m")).headers[
        "x-request-id"
    ]
    wait_for_exchanges(two_workers, 1)

    upstream.script(Answer(text="better today"))
    got = replay_in_a_process(capture_settings, id_)

    assert got.code == 1, got.told
    assert "better today" in got.output
    assert "-status 500" in got.told
    assert "+status 200" in got.told
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"


def test_turns_of_a_websocket_are_exchanges(
    two_workers: Server, capture_settings: dict[str, str], upstream: ScriptedUpstream
) -> None:
    talk = Talk(two_workers, Authorization=f"Bearer {CLIENT}")
    upstream.script(Answer(text="one"), Answer(text="two"), faults.refuse_with_status(400))
    first = talk.ask("hello")
    talk.ask("and", previous_response_id=first[-1]["response"]["id"])
    talk.ask("no")
    talk.ws.close()

    failed, second, _ = wait_for_exchanges(two_workers, 3)

    assert second["client"]["request"]["body"]["input"] == "and"
    assert len(second["client"]["resumed"]["body"]["input"]) == 3
    assert second["client"]["answer"]["events"][-1]["data"]["type"] == "response.completed"
    assert failed["exchange"]["status"] == 400
    for each in (second, failed):
        got = replay(capture_settings, each["exchange"]["id"], "--upstream", "captured")
        assert got.code == 0, (got.output, got.told)


def test_a_client_that_leaves_is_captured(two_workers: Server, upstream: ScriptedUpstream) -> None:
    upstream.script(faults.slow_down(Answer(text="word " * 300, pieces=300), delay=0.02))
    body = make_body("responses", model="chat/m", stream=True)
    with http.stream("POST", f"{two_workers.v1}/responses", json=body,
                     headers={"Authorization": f"Bearer {CLIENT}"}) as answer:  # fmt: skip
        next(answer.iter_bytes())

    (found,) = wait_for_exchanges(two_workers, 1)

    assert found["exchange"]["error"] == "client_left"
    assert found["client"]["answer"]["events"]


def test_capture_in_memory_is_saved_and_replayed(
    capture_settings: dict[str, str], upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    capture_settings |= {"FORWARDER_CAPTURE": "memory"}
    with run_forwarder(capture_settings, tmp_path) as server:
        upstream.script(faults.refuse_with_status(429))
        post(server, "/v1/responses", json=make_body("responses", model="chat/m"))
        (found,) = wait_for_exchanges(server, 1)
        assert admin(server).json()["shared"] is False
        file = tmp_path / "saved.json"
        file.write_bytes(admin(server, f"{PATH}/{found['exchange']['id']}").content)

    offline = {"FORWARDER_LOG_LEVEL": "ERROR"}  # another machine, which knows no upstream
    got = replay_in_a_process(offline, str(file), "--upstream", "captured")

    assert got.code == 0, (got.output, got.told)
    assert "status 429" in got.output
