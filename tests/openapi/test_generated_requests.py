"""Requests that Schemathesis generates from the OpenAPI document, against the application."""

from __future__ import annotations

import functools
import io
import socket
from collections.abc import Callable
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

EXAMPLES = 3
"""Requests of each operation, for each way to generate them."""

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
def app(monkeypatch: pytest.MonkeyPatch) -> Flask:
    """An application over the demo, in which every feature is on that needs no other server."""

    def refuse_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("names are not looked up in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse_name)
    return create_app(
        Settings.from_env({"FORWARDER_CAPTURE": "memory", "FORWARDER_ADMIN_KEYS": KEY})
    )


def create_response(client: FlaskClient) -> dict[str, str]:
    body = {"model": "demo", "input": "Hi", "store": True}
    return {"name": client.post("/v1/responses", json=body).json["id"]}


def create_completion(client: FlaskClient) -> dict[str, str]:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "store": True}
    return {"name": client.post("/v1/chat/completions", json=body).json["id"]}


def create_conversation(client: FlaskClient) -> dict[str, str]:
    item = {"type": "message", "role": "user", "content": "Hi", "id": "msg_1"}
    name = client.post("/v1/conversations", json={"items": [item]}).json["id"]
    return {"name": name, "item_id": "msg_1"}


def create_file(client: FlaskClient) -> dict[str, str]:
    form = {"file": (io.BytesIO(b"Hello"), "a.txt"), "purpose": "user_data"}
    return {"file": client.post("/v1/files", data=form).json["id"]}


def create_vector_store(client: FlaskClient) -> dict[str, str]:
    file = create_file(client)["file"]
    store = client.post("/v1/vector_stores", json={"name": "a"}).json["id"]
    path = f"/v1/vector_stores/{store}/file_batches"
    batch = client.post(path, json={"file_ids": [file]}).json["id"]
    return {"store_id": store, "file_id": file, "batch_id": batch}


KEY = "sk-admin"

OBJECTS: dict[str, Callable[[FlaskClient], dict[str, str]]] = {
    "/v1/responses/": create_response,
    "/v1/chat/completions/": create_completion,
    "/v1/conversations/": create_conversation,
    "/v1/files/": create_file,
    "/v1/vector_stores/": create_vector_store,
    "/v1/models/": lambda client: {"model": "demo"},
}
"""The beginning of a path -> what makes an object that the path can name."""


def create_objects(client: FlaskClient, path: str) -> dict[str, str]:
    """Make the objects that a path can name; return their ids by parameter of the path."""
    create = next((each for start, each in OBJECTS.items() if path.startswith(start)), None)
    return {} if create is None else create(client)


def send_generated_requests(
    operation: Any, mode: GenerationMode, client: FlaskClient | None, succeeded: set[str]
) -> None:
    """Send requests of an operation; with a client, for objects that it has made, without a query.

    Adds the operation to ``succeeded`` if one of the requests did.
    """

    @given(case=operation.as_strategy(generation_mode=mode))
    @BOUNDED
    def send(case: Case) -> None:
        if client is not None:
            ids = create_objects(client, operation.path)
            case.path_parameters.update({k: v for k, v in ids.items() if k in case.path_parameters})
            case.query.clear()  # a random cursor or upstream would be refused first
            case.headers.clear()
        answer = case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"})
        if answer.status_code < 400:
            succeeded.add(operation.label)

    send()


def has_parameters(operation: Any) -> bool:
    """Whether a request of an operation can be wrong."""
    parts = (operation.path_parameters, operation.query, operation.headers, operation.body)
    return any(map(bool, parts))


# The thread that processes files of vector stores draws random numbers while cases are generated.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.slow
def test_generated_requests_are_answered_as_the_document_says(app: Flask) -> None:
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

    assert len(succeeded) > len(operations) / 2, "most requests are refused before they do anything"
