"""Requests that Schemathesis generates from the OpenAPI document, against the application."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from forwarder.app import create_app
from forwarder.config.settings import Settings
from tests.helpers.check_cases import run_checks
from tests.helpers.openapi import OBJECTS, create_objects

KEY = "sk-admin"

EXAMPLES = 3
"""Number of requests for each operation and generation mode."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Flask:
    """An application over the demo with every feature that needs no other server."""

    def refuse_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("names are not looked up in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse_name)
    return create_app(
        Settings.from_env(
            {
                "FORWARDER_CAPTURE": "memory",
                "FORWARDER_ADMIN_KEYS": KEY,
                "FORWARDER_CLIENT_KEYS": "optional",  # otherwise the first created key would require a key from all clients
                "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
            }
        )
    )


def send_generated_requests(
    operation: Any, mode: GenerationMode, client: FlaskClient | None, succeeded: set[str]
) -> None:
    """Send requests of an operation. With a client, they are for existing objects and have no query.

    Adds the operation to ``succeeded`` if one of the requests succeeded.
    """

    @given(case=operation.as_strategy(generation_mode=mode))
    @BOUNDED
    def send(case: Case) -> None:
        if client is not None:
            ids = create_objects(client, operation.path)
            case.path_parameters.update({k: v for k, v in ids.items() if k in case.path_parameters})
            case.query.clear()  # a random cursor or upstream would be rejected first
            case.headers.clear()
        answer = case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"})
        if answer.status_code < 400:
            succeeded.add(operation.label)

    send()


def has_parameters(operation: Any) -> bool:
    """Whether a request of an operation can be invalid."""
    parts = (operation.path_parameters, operation.query, operation.headers, operation.body)
    return any(map(bool, parts))


# The thread that processes files of vector stores draws random numbers while cases are generated.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.slow
@pytest.mark.exhaustive
def test_answers_to_generated_requests_match_the_document(app: Flask) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app).exclude(path_regex="^/docs")
    operations = [result.ok() for result in schema.get_all_operations()]
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"  # so that objects have one owner
    succeeded: set[str] = set()
    checks = [
        (
            f"{operation.label}, {mode.value}, {'existing' if creator else 'any'} objects",
            functools.partial(send_generated_requests, operation, mode, creator, succeeded),
        )
        for operation in operations
        for mode in GenerationMode
        for creator in (None, client)
        if mode is GenerationMode.POSITIVE or has_parameters(operation)
        if creator is None or operation.path.startswith(tuple(OBJECTS))
    ]

    run_checks(checks)

    assert len(succeeded) > len(operations) / 2, "most operations never succeeded"
