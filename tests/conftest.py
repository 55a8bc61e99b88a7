"""What holds for the whole test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from forwarder import bridge
from forwarder.store import Database, open_database, opening

# The same examples on every run and every machine: a red test is red for everybody.
settings.register_profile("forwarder", derandomize=True, deadline=None, database=None)
settings.load_profile("forwarder")


@pytest.fixture(scope="session", autouse=True)
def _stored_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What an application under test remembers goes with the test run."""
    opening.BASE = tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _stores_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An application has its store for as long as the process lives; a test run makes hundreds."""
    opened: list[Database] = []

    def open_noted(url: str) -> Database | None:
        database = open_database(url)
        opened.extend([database] if database is not None else [])
        return database

    monkeypatch.setattr(bridge, "open_database", open_noted)
    yield
    for database in opened:
        database.close()
