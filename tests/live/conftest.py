"""Fixtures of the live tests: a scripted upstream, and the forwarder in front of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.live.neighbour import Neighbour, run_neighbour
from tests.live.postgres import create_database, needs_postgres, run_postgres
from tests.live.server import Server, run_forwarder

KEY = "sk-upstream-secret"

Serve = Callable[..., Server]


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("live")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Handle SIGINT, which processes that a shell starts in the background ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """A strict provider that speaks both protocols and knows one key."""
    with ScriptedUpstream(keys={KEY}) as scripted:
        yield scripted


@pytest.fixture(autouse=True)
def _clear_requests(request: pytest.FixtureRequest) -> None:
    """Remove the recorded requests of earlier tests."""
    if "upstream" in request.fixturenames:
        request.getfixturevalue("upstream").requests.clear()


@pytest.fixture(scope="session")
def stopping_servers() -> Iterator[ExitStack]:
    """Servers that stop while other tests run: each takes more than a second to stop."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, stopping_servers: ExitStack) -> Iterator[Serve]:
    """Start a forwarder with the given settings, as `run_forwarder` does; all are stopped at the end."""
    directory: Path = tmp_path_factory.mktemp("forwarder")
    started: list[Server] = []

    def start(environment: dict[str, str], **options: Any) -> Server:
        server = run_forwarder(environment, directory, **options)
        started.append(stopping_servers.enter_context(server))
        return started[-1]

    yield start
    for server in started:
        server.process.terminate()


@pytest.fixture(scope="session")
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbour]:
    """Another client, with its own forwarder (``control``) to compare with an attacked one."""
    with ExitStack() as stack:
        neighbour = stack.enter_context(run_neighbour())
        directory = tmp_path_factory.mktemp("control")
        neighbour.control = stack.enter_context(run_forwarder(neighbour.settings, directory))
        yield neighbour


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with an empty ``work`` folder and an empty ``home`` for a client."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server, which the tests of this process share."""
    with run_postgres() as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('state')}/state.db"
    else:
        yield create_database(request.getfixturevalue("postgres"))


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """The forwarder with the scripted upstream behind both of its default upstreams."""
    return serve(make_settings(upstream))


def make_settings(upstream: ScriptedUpstream, **more: str) -> dict[str, str]:
    """The environment of a forwarder in front of ``upstream``."""
    return {
        "CHAT_BASE_URL": upstream.url,
        "CHAT_API_KEY": KEY,
        "RESPONSES_BASE_URL": upstream.url,
        "RESPONSES_API_KEY": KEY,
        # Tests let the upstream fail repeatedly, and later tests need it.
        "CHAT_BREAKER_FAILURES": "0",
        "CHAT_BREAKER_SHARE": "0",
        "RESPONSES_BREAKER_FAILURES": "0",
        "RESPONSES_BREAKER_SHARE": "0",
        **more,
    }
