"""The worker with other applications; tests/live/test_steady.py runs it with the forwarder."""

from __future__ import annotations

import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.server.client_socket import ClientLimits, ClientSocket
from forwarder.server.extension import ForwarderExtension
from forwarder.server.gunicorn_worker import CorkingResponse, cache_settings
from tests.helpers.check_cases import check_each

ROOT = Path(__file__).parents[2]
APP = """
import gc
from time import sleep
from os import getpid
def app(environ, start_response):
    if environ["QUERY_STRING"] == "busy":
        while True: pass
    sleep(float(environ["QUERY_STRING"] or 0))
    start_response("200 OK", [("Content-Length", "2"), ("Pid", str(getpid())),
        ("Kept", str(gc.get_freeze_count()))])
    return [b"ok"]
"""
REQUEST = b"GET /?%b HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start gunicorn with one worker and a grace period of 8 seconds; return its port."""
    (tmp_path / "small.py").write_text(APP)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    command = [sys.executable, "-m", "gunicorn", "-b", f"fd://{listener.fileno()}"]
    command += ["--graceful-timeout", "8", "--keep-alive", "60", "--pythonpath", str(tmp_path)]
    command += ["--timeout", "3"]
    with listener:
        process = subprocess.Popen(
            [*command, "small:app"],
            cwd=ROOT,
            env={"FORWARDER_DOTENV": ""},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        port = listener.getsockname()[1]
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def send_and_read(sock: socket.socket, query: bytes = b"") -> bytes:
    sock.sendall(REQUEST % query)
    answer = b""
    while not answer.endswith(b"ok"):
        answer += sock.recv(4096) or b"cut ok"
    return answer


@pytest.mark.live
def test_idle_connections_do_not_delay_shutdown(
    gunicorn: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = gunicorn
    with connect(port) as sock, connect(port):
        assert b"keep-alive" in send_and_read(sock)
        process.send_signal(signal.SIGTERM)
        stopped_at = time.monotonic()

        assert sock.recv(1) == b""
        assert process.wait(10) == 0
        assert 1 < time.monotonic() - stopped_at < 6


@pytest.mark.live
def test_kept_alive_connection_gets_one_more_answer_with_connection_close(
    gunicorn: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = gunicorn
    with connect(port) as sock:
        send_and_read(sock)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)

        last = send_and_read(sock, b"3")

        assert last.startswith(b"HTTP/1.1 200 OK")
        assert re.search(rb"\r\nconnection: close\r\n", last, re.IGNORECASE)
        assert sock.recv(1) == b""
    assert process.wait(10) == 0


@pytest.mark.live
def test_blocked_worker_is_replaced(
    gunicorn: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = gunicorn
    with connect(port) as sock:
        before = send_and_read(sock)
        sock.sendall(REQUEST % b"busy")
        time.sleep(0.2)

        with connect(port) as other:
            after = send_and_read(other)

    pids = [re.search(rb"\r\nPid: (\d+)\r\n", answer) for answer in (before, after)]
    assert all(pids)
    assert pids[0][1] != pids[1][1]  # type: ignore[index]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


@pytest.mark.live
def test_permanent_objects_are_frozen(
    gunicorn: tuple[subprocess.Popen[bytes], int],
) -> None:
    with connect(gunicorn[1]) as sock:
        answer = send_and_read(sock)

    match = re.search(rb"\r\nKept: (\d+)\r\n", answer)
    assert match
    assert int(match[1]) > 10_000


@pytest.mark.live
def test_a_connection_without_requests_ends_after_the_keep_alive() -> None:
    program = """
from gunicorn.config import Config
from forwarder.server.gunicorn_worker import Worker
import gevent, logging
config = Config(); config.set("keepalive", 1)
worker = Worker(1, 1, [], None, 30, config, logging.getLogger())
def wait():
    with worker.timeout_ctx():
        gevent.sleep(9)
    return len(worker._idle)
print(gevent.spawn(wait).get(timeout=5))
"""

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20
    )

    assert done.stdout == "0\n", done.stderr


FINISH = """
from types import SimpleNamespace
from gunicorn.config import Config
from forwarder.server.gunicorn_worker import Worker, read_client_limits, raise_file_limit
from forwarder.server.gunicorn_worker import return_large_buffers
from forwarder.core.in_flight_requests import InFlightRequests
import gevent, logging, os, resource, time
config = Config(); config.set("graceful_timeout", 1)
worker = Worker(1, os.getppid(), [], None, 30, config, logging.getLogger())
running = InFlightRequests()
worker.wsgi = SimpleNamespace(extensions={"forwarder": SimpleNamespace(running=running)})
"""


def run_program(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FINISH + code], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@check_each(("grace", "seconds"), [(None, 1), (0, 1), (2, 1)])
@pytest.mark.live
def test_endless_work_ends_with_the_grace_period(grace: float | None, seconds: int) -> None:
    code = f"""
def stuck():
    run = running.add_request({grace})
    while True:
        try: gevent.sleep(60)
        except BaseException: pass
gevent.spawn(stuck); gevent.sleep(0)
worker.alive = False
gevent.spawn(worker._watch_for_exit)
started = time.monotonic()
worker._await_background_work()
print(len(running), round(time.monotonic() - started), flush=True)
os._exit(0)
"""

    assert run_program(code) == f"1 {seconds}"


@check_each(("configured", "warned"), [(None, False), (0.5, False), (2.0, True)])
@pytest.mark.live
def test_too_long_background_grace_is_logged(configured: float | None, warned: bool) -> None:
    code = f"""
settings = SimpleNamespace(background_grace={configured})
worker.wsgi.extensions["forwarder"].settings = settings
logging.basicConfig(format="%(message)s", stream=sys.stdout)
worker._check_background_grace()
"""
    warning = (
        "FORWARDER_BACKGROUND_GRACE (2 s) exceeds gunicorn's graceful timeout: "
        "background work has only 0.5 s. Raise GUNICORN_GRACEFUL_TIMEOUT to 4."
    )

    assert run_program("import sys" + code) == (warning if warned else "")


@pytest.mark.live
def test_worker_reads_limits_from_the_forwarder_settings() -> None:
    code = """
settings = SimpleNamespace(head_timeout=1.5, send_timeout=7.0, min_send_rate=500)
print(*read_client_limits(SimpleNamespace(settings=settings)), *read_client_limits(None))
"""

    assert run_program(code) == "1.5 30.0 7.0 500 65536 2.0 10.0 30.0 60.0 4096 65536 2.0"


@pytest.mark.live
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no mallopt")
def test_freed_buffers_are_returned_to_the_system() -> None:
    code = """
def measure():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def fill_and_free():
    bytearray(b"x") * 20_000_000
    bytearray(b"x") * 19_000_000

return_large_buffers()
before = measure()
fill_and_free()
print(measure() - before < 5_000_000)
"""

    assert run_program(code) == "True"


@pytest.mark.live
def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    code = """
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
raise_file_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""

    assert run_program(code) == "True"


@check_each(
    ("owner", "method"),
    [
        (ForwarderExtension, "resume_background_work"),
        (ForwarderExtension, "save_usage"),
        (InFlightRequests, "announce"),
        (InFlightRequests, "stop"),
    ],
)
def test_methods_that_the_worker_calls_by_name_exist(owner: type, method: str) -> None:
    source = (ROOT / "forwarder" / "server" / "gunicorn_worker.py").read_text()
    assert f'"{method}"' in source
    assert callable(getattr(owner, method))


class RecordingSocket:
    """Records what is sent, one entry for each call."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def gettimeout(self) -> None:
        return None

    def settimeout(self, seconds: float | None) -> None:
        pass

    def fileno(self) -> int:
        return -1


def make_response(method: str = "GET") -> tuple[CorkingResponse, RecordingSocket]:
    sock = RecordingSocket()
    request = SimpleNamespace(method=method, version=(1, 1), should_close=lambda: False)
    return CorkingResponse(request, ClientSocket(sock, ClientLimits()), Config()), sock


def test_head_and_body_are_sent_at_once() -> None:
    response, sock = make_response()

    response.start_response("200 OK", [("Content-Length", "2")])
    response.write(b"ok")

    [sent] = sock.sent
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert sent.endswith(b"\r\n\r\nok")


def test_each_part_of_a_stream_is_sent_when_it_is_written() -> None:
    response, sock = make_response()
    response.start_response("200 OK", [])

    response.write(b"one")
    assert sock.sent[0].endswith(b"\r\n\r\n3\r\none\r\n")
    response.write(b"two")
    assert sock.sent[1:] == [b"3\r\ntwo\r\n"]
    response.close()
    assert sock.sent[2:] == [b"0\r\n\r\n"]


def test_large_first_part_is_not_copied_behind_the_head() -> None:
    response, sock = make_response()
    body = bytes(2**20)

    response.start_response("200 OK", [("Content-Length", str(len(body)))])
    response.write(body)

    assert sock.sent[0].endswith(b"\r\n\r\n")
    assert sock.sent[1:] == [body]


@check_each(("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content")])
def test_head_without_a_body_is_sent(method: str, status: str) -> None:
    response, sock = make_response(method)

    response.start_response(status, [])
    response.close()

    assert b"".join(sock.sent).startswith(b"HTTP/1.1 " + status.encode())


def test_head_is_sent_if_the_first_part_is_malformed() -> None:
    response, sock = make_response()
    response.start_response("200 OK", [("Content-Length", "2")])

    with pytest.raises(TypeError):
        response.write("text")  # type: ignore[arg-type]

    [sent] = sock.sent
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")


def test_cached_settings_equal_those_of_gunicorn() -> None:
    config = Config()
    config.set("keepalive", 7)
    expected = {name: getattr(config, name) for name in config.settings}

    cache_settings(config)

    assert {name: getattr(config, name) for name in config.settings} == expected
    assert vars(config)["keepalive"] == 7
