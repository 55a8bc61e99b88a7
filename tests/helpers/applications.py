"""Fixtures of all tests that make applications fast to create, isolated, and closed."""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import httpcore2
import hypothesis
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.templating import Environment
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from werkzeug.routing import Map

from forwarder import services
from forwarder.app import Application, register_routes
from forwarder.services import Services
from forwarder.storage.db import database, open
from forwarder.storage.db.database import SqliteDatabase
from forwarder.upstream.resilience import retry_policy
from tests.helpers.empty_database import copy_empty_database

# The same examples on every run and every machine, so that failures can be reproduced.
hypothesis.settings.register_profile("forwarder", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("forwarder")

CreateFile = Callable[[SqliteDatabase], None]


class SharedRoutes:
    """Shares one URL map among applications. Building it takes a third of their creation time.

    An application gets the shared map when it has added the same rules as the first application. An
    application with another rule gets its own map.
    """

    def __init__(self) -> None:
        self._add_rule = Application.add_url_rule
        self._calls: list[tuple[str, str | None, dict[str, Any]]] = []
        self._map: Map | None = None
        self._counts: WeakKeyDictionary[Application, int] = WeakKeyDictionary()

    def record(self) -> None:
        """Record the rules of an application."""
        first = Application("forwarder", static_folder=None)

        def add_and_record(
            app: Application, rule: str, endpoint: str, view: Any, **options: Any
        ) -> None:
            self._calls.append((rule, endpoint, options))
            self._add_rule(app, rule, endpoint, view, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Application, "add_url_rule", add_and_record)
            register_routes(first)
        self._map = first.url_map

    def add(
        self,
        app: Application,
        rule: str,
        endpoint: str | None = None,
        view_func: Any = None,
        **options: Any,
    ) -> None:
        """Replace `Flask.add_url_rule`."""
        count = self._counts.get(app, 0)
        if count < len(self._calls) and self._calls[count] == (rule, endpoint, options):
            app.view_functions[str(endpoint)] = view_func
            self._counts[app] = count + 1
            if count + 1 == len(self._calls) and self._map is not None:
                app.url_map = self._map
            return
        if count <= len(self._calls):  # the first rule that differs
            self._counts[app] = len(self._calls) + 1
            app.url_map = Map()
            for rule_endpoint, name, rule_options in self._calls[:count]:
                self._add_rule(
                    app, rule_endpoint, name, app.view_functions[str(name)], **rule_options
                )
        self._add_rule(app, rule, endpoint, view_func, **options)


@pytest.fixture(scope="session", autouse=True)
def _share_routes() -> Iterator[None]:
    routes = SharedRoutes()
    routes.record()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Application, "add_url_rule", lambda app, *a, **options: routes.add(app, *a, **options)
        )
        yield


class CompiledTemplates(BytecodeCache):
    """Caches compiled Jinja templates, which each application would otherwise compile again."""

    def __init__(self) -> None:
        self._codes: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._codes:
            bucket.bytecode_from_string(self._codes[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._codes[bucket.key] = bucket.bytecode_to_string()


@pytest.fixture(scope="session", autouse=True)
def _compile_templates_once() -> Iterator[None]:
    create_environment = Flask.create_jinja_environment
    compiled = CompiledTemplates()

    def create_with_cache(app: Flask) -> Environment:
        environment = create_environment(app)
        environment.bytecode_cache = compiled
        return environment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flask, "create_jinja_environment", create_with_cache)
        yield


@pytest.fixture(scope="session", autouse=True)
def _share_ssl_contexts() -> Iterator[None]:
    """Share SSL contexts, because loading the system's certificates takes longer than most tests."""
    make_context = httpcore2.default_ssl_context
    contexts: dict[tuple[object, ...], ssl.SSLContext] = {}

    def get_context(*, _trust_env: bool = True) -> ssl.SSLContext:
        key = (_trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        if key not in contexts:
            contexts[key] = make_context(_trust_env=_trust_env)
        return contexts[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", get_context)
        yield


@pytest.fixture(scope="session", autouse=True)
def _share_one_secret() -> Iterator[None]:
    """Use the same secret for all databases without one: stretching a secret takes 25 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "token_urlsafe", lambda size: "x" * size)
        yield


@pytest.fixture(scope="session", autouse=True)
def create_database_file() -> Iterator[CreateFile]:
    """Create SQLite files as copies of a migrated one; yields the original method."""
    create_file = SqliteDatabase._create_file

    def create_by_copy(database: SqliteDatabase) -> None:
        copy_empty_database(database.path)
        create_file(database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteDatabase, "_create_file", create_by_copy)
        yield create_file


@pytest.fixture
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait before retries, for tests that wait for them."""
    monkeypatch.setattr(retry_policy, "FIRST_DELAY_SECONDS", 0.02)


@pytest.fixture
def _migrate_each_database(
    create_database_file: CreateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrate each new database, for tests of the creation of databases."""
    monkeypatch.setattr(SqliteDatabase, "_create_file", create_database_file)


@pytest.fixture(scope="session", autouse=True)
def _store_in_run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the stored data of applications under test into a folder of the test run.

    Most applications share the default file there, which is prepared and checked once. They also
    share its engines, which cache compiled statements. One connection stays open, because SQLite
    rewrites the file whenever the last connection is closed.
    """
    open.BASE_PATH = tmp_path_factory.mktemp("store")
    shared = open.BASE_PATH / "forwarder.db"
    first_database = SqliteDatabase(shared)
    first_database.start()
    start, make_engine = SqliteDatabase.start, database.make_engine
    find_engine = functools.cache(make_engine)

    def start_or_share(other_database: SqliteDatabase) -> None:
        if other_database.path == shared:
            other_database._is_prepared = True
        else:
            start(other_database)

    def make_or_share_engine(path: Path, timeout: float) -> sa.Engine:
        return (find_engine if path == shared else make_engine)(path, timeout)

    with closing(sqlite3.connect(shared)) as connection, pytest.MonkeyPatch.context() as patch:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # opens the file
        patch.setattr(SqliteDatabase, "start", start_or_share)
        patch.setattr(database, "make_engine", make_or_share_engine)
        yield
    first_database.close()


@pytest.fixture(scope="session", autouse=True)
def _record_services() -> Iterator[list[Services]]:
    """Record the services that a test builds."""
    services: list[Services] = []
    build = Services.build

    def build_and_record(*arguments: Any, **options: Any) -> Services:
        services.append(build(*arguments, **options))
        return services[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Services, "build", build_and_record)
        yield services


@pytest.fixture(autouse=True)
def _separate_applications(_record_services: list[Services]) -> Iterator[None]:
    """Undo side effects of applications: unclosed services, and changes of the logger."""
    logger = logging.getLogger("forwarder")
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    _record_services.clear()  # of fixtures that other tests use too
    yield
    while _record_services:
        _record_services.pop().close()
