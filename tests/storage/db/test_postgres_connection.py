"""PostgreSQL connections with deadlines."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from forwarder.storage.db import postgres_connection
from forwarder.storage.db.database import PostgresqlDatabase
from forwarder.storage.db.postgres_connection import (
    DeadlineConnection,
    connect_with_deadlines,
    operation_deadline,
)
from tests.live.postgres import Postgres, needs_postgres, run_postgres_process

pytestmark = [needs_postgres, pytest.mark.live]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with run_postgres_process() as running:
        yield running


@pytest.fixture
def engine(server: Postgres) -> Iterator[sa.Engine]:
    url = sa.make_url(server.url).set(drivername="postgresql+psycopg")
    new_engine = sa.create_engine(url)
    connect_with_deadlines(new_engine)
    yield new_engine
    new_engine.dispose()


def test_connections_that_are_in_use_are_closed_after_the_database(server: Postgres) -> None:
    database = PostgresqlDatabase(sa.make_url(server.url))
    used: list[Any] = []

    def use_connection(connection: sa.Connection, closes: bool) -> None:
        used.append(connection.connection.driver_connection)
        if closes:
            database.close()
        connection.execute(sa.text("SELECT 1"))

    for closes in (False, True, False):
        database.read(partial(use_connection, closes=closes))

    first, closing, later = used
    assert first is closing
    assert later is not closing
    assert [closing.closed, later.closed] == [True, True]


def test_statement_timeout_is_set(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "10s"


def test_operator_can_set_another_statement_timeout(server: Postgres) -> None:
    query = {"options": "-c statement_timeout=3s"}
    url = sa.make_url(server.url).set(drivername="postgresql+psycopg", query=query)
    engine = sa.create_engine(url)
    connect_with_deadlines(engine)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "3s"
    engine.dispose()


def test_tcp_timeouts_are_set(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, DeadlineConnection)
        parameters = driver.info.get_parameters()
    expected = {**postgres_connection.TCP_PARAMETERS, "connect_timeout": "5"}
    del expected["keepalives"]  # on by default, and therefore not listed
    assert expected.items() <= parameters.items()


def test_deadline_ends_the_statement_and_closes_the_connection(
    engine: sa.Engine,
) -> None:
    with engine.connect() as connection:
        before = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    began = time.monotonic()

    with (
        pytest.raises(sa.exc.OperationalError, match="does not respond"),
        operation_deadline(0.2),
        engine.connect() as connection,
    ):
        connection.execute(sa.text("SELECT pg_sleep(9)"))

    assert time.monotonic() - began < 8
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT pg_backend_pid()")) != before


def test_deadline_ends_the_wait_for_a_hanging_server(engine: sa.Engine, server: Postgres) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        connection.rollback()
        processes = server.list_processes()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(sa.exc.OperationalError), operation_deadline(0.2):
                connection.execute(sa.text("SELECT 1"))
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)


def test_no_deadline_means_no_limit(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_sleep(0.3)"))


def test_inner_deadline_ends_with_its_block(engine: sa.Engine) -> None:
    with operation_deadline(30), engine.connect() as connection:
        with operation_deadline(0.01):
            pass
        connection.execute(sa.text("SELECT pg_sleep(0.1)"))


def test_explicit_driver_timeout_takes_precedence(engine: sa.Engine) -> None:
    with operation_deadline(30), engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, DeadlineConnection)
        assert list(driver.notifies(timeout=0.05)) == []
    assert issubclass(DeadlineConnection, psycopg.Connection)
