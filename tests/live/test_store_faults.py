"""A store that is full, read-only, locked, not there or hanging, with real files and processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fake_provider import Answer, ScriptedUpstream
from tests.helpers.waiting import wait_until
from tests.live.conftest import make_settings
from tests.live.postgres import Postgres, needs_postgres, run_postgres_process
from tests.live.server import Server, run_forwarder
from tests.live.talk import ClientAnswer, Json, http, make_body, send_request

pytestmark = pytest.mark.slow

MB = 2**20
UNAVAILABLE = "store_unavailable"
INCLUDE: Json = {"include": ["reasoning.encrypted_content"]}

Fault = Callable[[Path, Path], AbstractContextManager[None]]


def read_readiness(server: Server) -> Json:
    body: Json = http.get(f"{server.url}/ready").json()
    return body


def store_is_back(server: Server) -> bool:
    return read_readiness(server)["store"].get("reachable") is True


def store_answer(server: Server, **parameters: Any) -> ClientAnswer:
    """An answer that the client wants stored."""
    return send_request(
        server, "responses", make_body("responses", model="chat/m", store=True, **parameters)
    )


def assert_serves_without_a_store(server: Server) -> None:
    """Requests that need no store are served; requests to store something are refused."""
    for stream in (False, True):
        for client in ("chat", "responses"):
            body = make_body(client, model="chat/m", stream=stream)
            response = send_request(server, client, body)
            assert response.ending == "completed", response.text
            if client == "responses":
                assert response.whole["store"] is False
                assert response.dropped_parameters == ["store"]
            refusal = send_request(server, client, {**body, "store": True})
            assert (refusal.status, refusal.error["code"]) == (503, UNAVAILABLE)
        body = make_body("responses", model="chat/m", stream=stream, store=False)
        response = send_request(server, "responses", body)
        assert (response.ending, response.dropped_parameters) == ("completed", [])
    background = send_request(
        server, "responses", make_body("responses", model="chat/m", background=True)
    )
    assert background.error["code"] == UNAVAILABLE
    state = read_readiness(server)
    assert state["status"] == "degraded"
    assert state["store"]["reachable"] is False
    assert state["store"]["error"]


def assert_stores(server: Server) -> None:
    wait_until(lambda: store_is_back(server), 30)
    wait_until(lambda: store_answer(server).status == 200, 30)
    response = store_answer(server)
    stored = http.get(f"{server.v1}/responses/{response.json['id']}")
    assert stored.status_code == 200
    assert read_readiness(server)["status"] == "ok"
    next_answer = store_answer(server, previous_response_id=response.json["id"])
    assert next_answer.ending == "completed"


# -- SQLite ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def mount_file_system(directory: Path, size: int) -> Iterator[Path]:
    """A file system of this size in bytes; skips if it cannot be mounted."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Write until nothing more finds room; the file that takes it."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    return ballast


@contextlib.contextmanager
def fill_disk(directory: Path, database: Path) -> Iterator[None]:
    ballast = fill(directory)
    yield
    ballast.unlink()


@contextlib.contextmanager
def make_read_only(directory: Path, database: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", str(directory)], check=True)


@contextlib.contextmanager
def lock_database(directory: Path, database: Path) -> Iterator[None]:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


@contextlib.contextmanager
def hide_directory(directory: Path, database: Path) -> Iterator[None]:
    hidden_directory = directory / "away"
    database.parent.rename(hidden_directory)
    database.parent.write_text("no directory")
    yield
    database.parent.unlink()
    hidden_directory.rename(database.parent)


def worker_of(server: Server) -> int:
    """The process id of the only worker."""
    pid = server.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def is_answering(server: Server) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return http.get(f"{server.url}/health").status_code == 200
    return False


@pytest.mark.parametrize("fault", [fill_disk, make_read_only, lock_database, hide_directory])
@pytest.mark.parametrize("is_new", [False, True], ids=["old", "new"])
def test_worker_without_its_database_file_serves_and_recovers(
    fault: Fault, is_new: bool, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        disk = stack.enter_context(mount_file_system(tmp_path / "disk", 4 * MB))
        database = disk / "state" / "forwarder.db"
        database.parent.mkdir()
        settings = make_settings(upstream, FORWARDER_DATABASE_URL=f"sqlite:///{database}")
        response_id = None
        if not is_new:
            with run_forwarder(settings, tmp_path) as server:
                response_id = store_answer(server).json["id"]
        undo = stack.enter_context(ExitStack())
        undo.enter_context(fault(disk, database))
        server = stack.enter_context(run_forwarder(settings, tmp_path))
        assert_serves_without_a_store(server)
        os.kill(worker_of(server), signal.SIGKILL)  # the one that replaces it starts as well
        wait_until(lambda: is_answering(server), 30)
        assert_serves_without_a_store(server)

        undo.close()

        assert_stores(server)
        if response_id is not None:
            assert http.get(f"{server.v1}/responses/{response_id}").status_code == 200
        assert "Traceback" not in server.log


def test_disk_that_fills_up_while_a_worker_serves(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        disk = stack.enter_context(mount_file_system(tmp_path / "disk", 4 * MB))
        settings = make_settings(upstream, FORWARDER_DATABASE_URL=f"sqlite:///{disk}/forwarder.db")
        server = stack.enter_context(run_forwarder(settings, tmp_path))
        response_id = store_answer(server).json["id"]
        with fill_disk(disk, disk / "forwarder.db"):
            # Writes without room have failed, and their answers are not reported as stored.
            wait_until(lambda: store_answer(server, metadata={"x": "y" * 500}).status == 503, 30)
            assert http.get(f"{server.v1}/responses/{response_id}").status_code == 200
            body = make_body("responses", model="chat/m", store=False)
            assert send_request(server, "responses", body).ending == "completed"

        assert_stores(server)


def test_encrypted_reasoning_decrypts_after_the_store_returns(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Without a key file there is a secret in memory; the file gets it later."""

    def make_sealed_output(server: Server) -> list[Json]:
        upstream.script(Answer(text="Hello.", reasoning="I think."))
        body = make_body("responses", model="chat/m", store=False, **INCLUDE)
        output: list[Json] = send_request(server, "responses", body).whole["output"]
        output[0]["summary"] = []  # only the seal knows
        return output

    def can_decrypt(server: Server, output: list[Json]) -> bool:
        history = [{"role": "user", "content": "hi"}, *output, {"role": "user", "content": "go on"}]
        send_request(server, "responses", {"model": "chat/m", "input": history, "store": False})
        return "I think." in str(upstream.requests[-1].body["messages"])

    with ExitStack() as stack:
        disk = stack.enter_context(mount_file_system(tmp_path / "disk", 4 * MB))
        settings = make_settings(upstream, FORWARDER_DATABASE_URL=f"sqlite:///{disk}/forwarder.db")
        with fill_disk(disk, disk / "forwarder.db"):
            server = stack.enter_context(run_forwarder(settings, tmp_path))
            output_during_fault = make_sealed_output(server)
            assert can_decrypt(server, output_during_fault)
        wait_until(lambda: store_is_back(server), 30)
        output_after_fault = make_sealed_output(server)
        assert can_decrypt(server, output_during_fault)
        with run_forwarder(settings, tmp_path) as restarted_server:
            assert can_decrypt(restarted_server, output_during_fault)
            assert can_decrypt(restarted_server, output_after_fault)


# -- PostgreSQL -----------------------------------------------------------------------------------


def hang(server: Postgres, sign: int) -> None:
    """Stop, or continue, the server and every process of it."""
    for process in server.list_processes():
        with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
            os.kill(process, sign)


def measure_answer(server: Server, client: str, **parameters: Any) -> float:
    """Seconds that an answer took which needs no store."""
    started_at = time.monotonic()
    response = send_request(server, client, make_body(client, **parameters))
    assert response.ending == "completed", response.text
    return time.monotonic() - started_at


@needs_postgres
def test_postgres_that_hangs_stalls_no_request_that_needs_no_store(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        postgres = stack.enter_context(run_postgres_process())
        settings = make_settings(
            upstream, FORWARDER_DATABASE_URL=postgres.url, FORWARDER_SECRET_KEY="s"
        )
        server = stack.enter_context(run_forwarder(settings, tmp_path))
        response_id = store_answer(server).json["id"]
        stack.callback(hang, postgres, signal.SIGCONT)
        hang(postgres, signal.SIGSTOP)

        started_at = time.monotonic()
        for i in range(20):
            for stream in (False, True):
                measure_answer(server, "responses", stream=stream, store=False)
                measure_answer(server, "chat", stream=stream)
                upstream.script(Answer(text=f"{i}", reasoning=f"which is kept {i} {stream}"))
                measure_answer(server, "chat", stream=stream, model="responses/gpt-5.5")
        assert time.monotonic() - started_at < 8, "requests have waited for time-outs"
        waiting_pool = ThreadPoolExecutor(4)
        retrievals = [
            waiting_pool.submit(http.get, f"{server.v1}/responses/{response_id}") for _ in range(4)
        ]
        measure_answer(server, "responses", store=False)
        assert read_readiness(server)["store"]["reachable"] is False

        hang(postgres, signal.SIGCONT)

        assert {answer.result().status_code for answer in retrievals} <= {200, 503}
        assert_stores(server)
        assert http.get(f"{server.v1}/responses/{response_id}").status_code == 200


@needs_postgres
def test_postgres_that_hangs_is_given_up(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Requests that need the store fail after the time-out, and from then on at once."""
    with ExitStack() as stack:
        postgres = stack.enter_context(run_postgres_process())
        settings = make_settings(
            upstream, FORWARDER_DATABASE_URL=postgres.url, FORWARDER_SECRET_KEY="s"
        )
        server = stack.enter_context(run_forwarder(settings, tmp_path))
        response_id = store_answer(server).json["id"]
        stack.callback(hang, postgres, signal.SIGCONT)
        hang(postgres, signal.SIGSTOP)

        retrieval = httpx2.get(f"{server.v1}/responses/{response_id}", timeout=40, trust_env=False)
        assert (retrieval.status_code, retrieval.json()["error"]["code"]) == (503, UNAVAILABLE)
        started_at = time.monotonic()
        for _ in range(20):
            assert http.get(f"{server.v1}/responses/{response_id}").status_code == 503
        assert time.monotonic() - started_at < 8, "requests have waited for time-outs"

        hang(postgres, signal.SIGCONT)
        assert_stores(server)


@needs_postgres
@pytest.mark.parametrize("failure", ["stopped", "hanging"])
def test_worker_without_its_database_server_serves_and_recovers(
    failure: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        postgres = stack.enter_context(run_postgres_process())
        stack.callback(hang, postgres, signal.SIGCONT)
        if failure == "hanging":
            hang(postgres, signal.SIGSTOP)
        else:
            postgres.stop()
        settings = make_settings(
            upstream,
            FORWARDER_DATABASE_URL=postgres.url,
            FORWARDER_SECRET_KEY="s",
            FORWARDER_CLIENT_KEYS="optional",  # or the database might have keys
        )
        server = stack.enter_context(run_forwarder(settings, tmp_path))
        assert_serves_without_a_store(server)

        if failure == "hanging":
            hang(postgres, signal.SIGCONT)
        else:
            postgres.start()

        assert_stores(server)


@needs_postgres
def test_worker_without_its_database_server_cannot_check_keys(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        postgres = stack.enter_context(run_postgres_process())
        postgres.stop()
        settings = make_settings(
            upstream, FORWARDER_DATABASE_URL=postgres.url, FORWARDER_SECRET_KEY="s"
        )
        server = stack.enter_context(run_forwarder(settings, tmp_path))
        refusal = send_request(server, "chat", make_body("chat", model="chat/m"))
        assert (refusal.status, refusal.error["code"]) == (503, UNAVAILABLE)

        postgres.start()

        assert_stores(server)
