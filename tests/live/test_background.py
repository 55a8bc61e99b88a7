"""Background work when workers go, die, or lose the database, on both databases."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from openai import OpenAI

from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.helpers.waiting import wait_until
from tests.live.conftest import make_settings
from tests.live.keeping_upstream import KeepingUpstream
from tests.live.postgres import create_database, needs_postgres
from tests.live.server import Server, list_workers, run_forwarder

pytestmark = pytest.mark.slow

each_upstream_api = pytest.mark.parametrize("upstream_api", ["chat", "responses"])

LONG = Answer(text="first attempt " * 20, pieces=20)
SHORT = Answer(text="The second attempt.")

Start = Callable[..., Server]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database for each test, because servers take over jobs of other tests."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    return create_database(request.getfixturevalue("postgres"))


@pytest.fixture
def start(database: str, upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[Start]:
    """Start servers that share one database."""
    upstream.forget()
    with contextlib.ExitStack() as stack:

        def start_server(**overrides: str) -> Server:
            settings = make_settings(
                upstream,
                FORWARDER_DATABASE_URL=database,
                FORWARDER_SECRET_KEY="s",
                WEB_CONCURRENCY="2",
                **{"GUNICORN_GRACEFUL_TIMEOUT": "4", **overrides},
            )
            return stack.enter_context(run_forwarder(settings, tmp_path))

        yield start_server


def client_of(server: Server) -> OpenAI:
    return OpenAI(base_url=server.v1, api_key="mine", max_retries=0, timeout=60)


def wait_until_ended(client: OpenAI, name: str, seconds: float = 40.0) -> Any:
    """A background response when it has ended."""

    def poll_response() -> Any:
        result = client.responses.retrieve(name)
        return None if result.status in ("queued", "in_progress") else result

    return wait_until(poll_response, seconds)


def deploy(server: Server) -> set[int]:
    """Begin a deploy, and give the workers that go."""
    old_workers = {*list_workers(server)}
    server.process.send_signal(signal.SIGHUP)
    return old_workers


def follow(client: OpenAI, name: str, events: list[Any]) -> None:
    """Follow a response to its end; reconnect when its worker stops."""
    for _ in range(5):
        after = events[-1].sequence_number if events else -1
        with contextlib.suppress(openai.APIError, openai.APIConnectionError):
            for event in client.responses.retrieve(name, stream=True, starting_after=after):
                events.append(event)
        if events[-1].type in ("response.completed", "response.failed", "response.incomplete"):
            return
        time.sleep(0.3)


@each_upstream_api
def test_a_deploy_hands_work_to_another_worker(
    upstream_api: str, start: Start, upstream: ScriptedUpstream
) -> None:
    server = start()
    upstream.script(faults.slow_down(LONG, delay=0.5), SHORT)
    parameters: Any = {
        "model": f"{upstream_api}/m",
        "input": [{"role": "user", "content": "hi"}],
        "metadata": {"mine": "x"},
        "instructions": "Be brief.",
    }
    with client_of(server) as client:
        response = client.responses.create(**parameters, background=True)
        wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
        old_workers = deploy(server)
        events: list[Any] = []
        follow(client, response.id, events)
        done = client.responses.retrieve(response.id)
        log = list(client.responses.retrieve(response.id, stream=True))
        old_workers_ended = wait_until(lambda: not old_workers & {*list_workers(server)})

    assert old_workers_ended
    assert (done.status, done.output_text) == ("completed", "The second attempt.")
    assert done.metadata == {"mine": "x", "forwarder.attempt": "2"}
    first, second = upstream.requests
    assert first.body == second.body
    # A follower saw rising numbers, one terminal event, and the beginning of the attempt.
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    assert [e.type for e in events if e.type in ("response.completed", "response.failed")] == [
        "response.completed"
    ]
    assert [e.type for e in events].count("response.queued") == 2
    # A later reader sees the attempt that counts.
    assert [e.type for e in log[:4]] == [
        "response.created", "response.queued", "response.queued", "response.in_progress",
    ]  # fmt: skip
    assert log[-1].sequence_number == numbers[-1]
    deltas = [e.delta for e in log if e.type == "response.output_text.delta"]
    assert "".join(deltas) == "The second attempt."


def test_follower_of_a_stopping_worker_gets_a_retryable_error(
    start: Start, upstream: ScriptedUpstream
) -> None:
    server = start()
    upstream.script(faults.slow_down(LONG, delay=0.5), SHORT)
    events: list[Any] = []
    with client_of(server) as client:
        stream = client.responses.create(model="chat/m", input="hi", background=True, stream=True)
        events.append(next(iter(stream)))
        deploy(server)
        with pytest.raises(openai.APIError, match="restarted"):
            events.extend(stream)
        assert not any(event.type == "response.failed" for event in events)
        follow(client, events[0].response.id, events)

    assert events[-1].type == "response.completed"
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))


def test_background_grace_lets_work_end_during_a_deploy(
    start: Start, upstream: ScriptedUpstream
) -> None:
    server = start(FORWARDER_BACKGROUND_GRACE="20", GUNICORN_GRACEFUL_TIMEOUT="22")
    upstream.script(faults.slow_down(LONG, delay=0.3))
    with client_of(server) as client:
        response = client.responses.create(model="chat/m", input="hi", background=True)
        wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
        old_workers = deploy(server)
        done = wait_until_ended(client, response.id)
        wait_until(lambda: not old_workers & {*list_workers(server)})

    assert (done.status, done.output_text) == ("completed", LONG.text)
    assert done.metadata == {}
    assert len(upstream.requests) == 1


def test_work_with_a_tool_of_the_upstream_is_not_restarted(
    start: Start, upstream: ScriptedUpstream
) -> None:
    server = start()
    upstream.script(faults.slow_down(LONG, delay=0.5))
    tool: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
    with client_of(server) as client:
        response = client.responses.create(
            model="responses/m", input="hi", background=True, tools=[tool]
        )
        wait_until(lambda: upstream.requests)
        time.sleep(1)
        deploy(server)
        done = wait_until_ended(client, response.id)

    assert done.status == "failed"
    assert "restarted" in done.error.message
    # The output so far is stored.
    assert done.output[0].status == "incomplete"
    assert done.output_text.startswith("first attempt")
    assert len(upstream.requests) == 1


@each_upstream_api
def test_work_of_a_dead_worker_is_restarted(
    upstream_api: str, start: Start, upstream: ScriptedUpstream
) -> None:
    server = start()
    upstream.script(faults.slow_down(LONG, delay=1), SHORT)
    with client_of(server) as client:
        response = client.responses.create(model=f"{upstream_api}/m", input="hi", background=True)
        wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
    killed_workers = {*list_workers(server)}
    for pid in killed_workers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len({*list_workers(server)} - killed_workers) == 2)
    time.sleep(2)  # earlier connections may still reach the dead worker
    with client_of(server) as client:
        done = wait_until_ended(client, response.id)

    assert (done.status, done.output_text) == ("completed", "The second attempt.")
    assert done.metadata == {"forwarder.attempt": "2"}


def test_work_with_one_attempt_fails_with_its_worker(
    start: Start, upstream: ScriptedUpstream
) -> None:
    server = start(FORWARDER_BACKGROUND_ATTEMPTS="1")
    upstream.script(faults.slow_down(LONG, delay=0.5), SHORT)
    with client_of(server) as client:
        response = client.responses.create(model="chat/m", input="hi", background=True)
        wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
        deploy(server)
        done = wait_until_ended(client, response.id)

    assert done.status == "failed"
    assert upstream.unused_count == 1


def test_work_is_queued_while_no_server_runs(start: Start, upstream: ScriptedUpstream) -> None:
    upstream.script(faults.slow_down(LONG, delay=0.5), SHORT)
    server = start()
    with client_of(server) as client:
        response = client.responses.create(model="chat/m", input="hi", background=True)
        wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(15)
    with client_of(start()) as client:
        done = wait_until_ended(client, response.id)

    assert (done.status, done.output_text) == ("completed", "The second attempt.")


# -- the database ---------------------------------------------------------------------------------

_REFUSE_SQLITE = (
    "CREATE TRIGGER refuse BEFORE UPDATE ON responses BEGIN SELECT RAISE(ABORT, 'away'); END"
)
_REFUSE_POSTGRES = (
    "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'away'; END $$;"
    " CREATE TRIGGER refuse BEFORE UPDATE ON responses"
    " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
)


def execute(database: str, statement: str) -> None:
    if database.startswith("sqlite"):
        connection: Any = sqlite3.connect(database.removeprefix("sqlite:///"), timeout=20)
    else:
        connection = psycopg.connect(database)
    with contextlib.closing(connection), connection:
        connection.execute(statement)


@contextlib.contextmanager
def refuse_writes(database: str) -> Iterator[None]:
    """Let the database refuse changes of responses meanwhile."""
    of_sqlite = database.startswith("sqlite")
    execute(database, _REFUSE_SQLITE if of_sqlite else _REFUSE_POSTGRES)
    try:
        yield
    finally:
        execute(database, "DROP TRIGGER refuse" + ("" if of_sqlite else " ON responses"))


@pytest.mark.exhaustive
def test_finished_response_is_stored_when_the_database_recovers(
    database: str, start: Start, upstream: ScriptedUpstream
) -> None:
    server = start()
    upstream.script(faults.slow_down(Answer(text="Worth keeping."), delay=0.2))
    with client_of(server) as client:
        response = client.responses.create(model="chat/m", input="hi", background=True)
        with refuse_writes(database):
            wait_until(lambda: upstream.requests and upstream.requests[-1].finished.is_set())
            time.sleep(20)  # longer than a lease
        done = wait_until_ended(client, response.id)

    assert (done.status, done.output_text) == ("completed", "Worth keeping.")
    assert done.metadata == {}
    assert len(upstream.requests) == 1


_SKEW = """
import time
_real = time.time
time.time = lambda: _real() + {seconds}
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("skew", [-3600, 3600])
def test_clock_skew_does_not_affect_leases_and_locks(
    skew: int, start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_SKEW.format(seconds=skew))
    servers = [start(), start(PYTHONPATH=str(tmp_path))]
    for server, other in (servers, servers[::-1]):
        upstream.script(faults.slow_down(LONG, delay=0.3))
        with client_of(server) as client, client_of(other) as reader:
            conversation = client.conversations.create()
            response = client.responses.create(
                model="chat/m", input="hi", background=True, conversation=conversation.id
            )
            wait_until(lambda: reader.responses.retrieve(response.id).status == "in_progress")  # noqa: B023
            with pytest.raises(openai.BadRequestError, match="Another process"):
                reader.responses.create(model="chat/m", input="hi", conversation=conversation.id)
            done = wait_until_ended(reader, response.id)
        assert (done.status, done.output_text, done.metadata) == ("completed", LONG.text, {})
    assert len(upstream.requests) == 2


# -- upstreams that keep responses ----------------------------------------------------------------


@pytest.fixture
def keeping(start: Start, upstream: ScriptedUpstream) -> Iterator[tuple[KeepingUpstream, Server]]:
    with KeepingUpstream() as provider:
        quirks = '{"keeps_responses": true}'
        yield provider, start(RESPONSES_BASE_URL=provider.url, RESPONSES_QUIRKS=quirks)


def check_followed(events: list[Any], done: Any, provider: KeepingUpstream) -> None:
    """The response came whole, and each of its events once."""
    assert (done.status, done.output_text) == ("completed", provider.text)
    assert done.metadata == {}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == provider.text
    assert events[-1].type == "response.completed"
    assert len(provider.posts) == 1
    assert provider.posts[0]["background"] is True


def test_a_new_worker_follows_background_work_of_an_upstream(
    keeping: tuple[KeepingUpstream, Server],
) -> None:
    provider, server = keeping
    tool: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
    with client_of(server) as client:
        response = client.responses.create(
            model="responses/m", input="hi", background=True, tools=[tool]
        )
        wait_until(lambda: client.responses.retrieve(response.id).status == "in_progress")
        deploy(server)
        events: list[Any] = []
        follow(client, response.id, events)
        done = wait_until_ended(client, response.id)

    check_followed(events, done, provider)
    assert provider.follows == ["/v1/responses/resp_upstream1?stream=true"]
    # The next turn goes on from the upstream's own response.
    with client_of(server) as client:
        second_response = client.responses.create(
            model="responses/m", input="more", background=True, previous_response_id=response.id
        )
        wait_until(lambda: len(provider.posts) == 2)
        client.responses.cancel(second_response.id)
    assert provider.posts[1]["previous_response_id"] == "resp_upstream1"


def test_a_broken_connection_does_not_end_background_work_of_an_upstream(
    keeping: tuple[KeepingUpstream, Server],
) -> None:
    provider, server = keeping
    with client_of(server) as client:
        response = client.responses.create(model="responses/m", input="hi", background=True)
        for _ in range(2):
            time.sleep(1.5)
            provider.cuts += 1
        done = wait_until_ended(client, response.id)
        events = list(client.responses.retrieve(response.id, stream=True))

    check_followed(events, done, provider)
    assert len(provider.follows) == 2


def test_background_work_is_cancelled_at_its_upstream(
    keeping: tuple[KeepingUpstream, Server],
) -> None:
    provider, server = keeping
    with client_of(server) as client:
        response = client.responses.create(model="responses/m", input="hi", background=True)
        wait_until(lambda: provider.posts)
        time.sleep(1)
        assert client.responses.cancel(response.id).status == "cancelled"

    assert provider.cancelled == ["resp_upstream1"]
