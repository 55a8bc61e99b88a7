"""Checks real requests and answers against the OpenAPI document."""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs
from flask import Flask
from flask.testing import FlaskClient

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.openapi.document import build_document
from forwarder.server.openapi import list_routes

Json = dict[str, Any]


def read_json(data: bytes) -> list[Any]:
    return [json.loads(data)]


def read_events(data: bytes) -> list[Any]:
    lines = data.decode().splitlines()
    frames = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(frame) for frame in frames if frame != "[DONE]"]


def read_lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines() if line.strip()]


READERS: dict[str, Callable[[bytes], list[Any]]] = {
    "application/json": read_json,
    "text/event-stream": read_events,
    "application/x-ndjson": read_lines,
}
"""Media type -> the function that reads the values described by the schema."""


class Conformance:
    """Compares requests and answers of an application with its document."""

    def __init__(self, app: Flask) -> None:
        self.document = build_document(list_routes(app))
        self._validator = functools.cache(self._make_validator)

    def find_request_mistakes(self, key: str, body: Any) -> list[str]:
        """Return the mistakes of a request body, for ``POST /path``."""
        schema = self._find_operation(key)["requestBody"]["content"]["application/json"]["schema"]
        return self._find_mistakes(schema, body)

    def find_answer_mistakes(
        self, key: str, status: int, media_type: str, data: bytes
    ) -> list[str]:
        """Return the mistakes of an answer of this media type."""
        responses = self._find_operation(key)["responses"]
        names = (str(status), f"{status // 100}XX")
        response = next((responses[name] for name in names if name in responses), None)
        if response is None:
            return [f"{key}: the status {status} is not documented"]
        content = self._resolve(response).get("content", {})
        if not data and not content:
            return []
        if media_type not in content:
            return (
                []
                if "*/*" in content
                else [f"{key}: {status} of type {media_type!r} is not documented"]
            )
        schema = content[media_type].get("x-itemSchema", content[media_type]["schema"])
        values = READERS.get(media_type, lambda data: [data.decode()])(data)
        return [mistake for value in values for mistake in self._find_mistakes(schema, value)]

    def _find_operation(self, key: str) -> Json:
        method, _, path = key.partition(" ")
        operation: Json = self.document["paths"][path][method.lower()]
        return operation

    def _resolve(self, value: Json) -> Json:
        name = value.get("$ref", "").rpartition("/")[2]
        resolved: Json = self.document["components"]["responses"][name] if name else value
        return resolved

    def _find_mistakes(self, schema: Json, value: Any) -> list[str]:
        validator = self._validator(json.dumps(schema))
        return [describe_mistake(error) for error in validator.iter_errors(value)]

    def _make_validator(self, schema: str) -> Any:
        root = {"components": self.document["components"], "allOf": [json.loads(schema)]}
        return jsonschema_rs.Draft202012Validator(root)


def describe_mistake(error: Any) -> str:
    path = "/".join(map(str, error.instance_path))
    return f"{path}: {error.message[:500]}"


@functools.cache
def make_conformance() -> Conformance:
    """Return the comparison for an application with the demo upstream."""
    return Conformance(create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none"})))


# -- objects ------------------------------------------------------------------------------------


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


NUMBERS = itertools.count()


def create_client_key(client: FlaskClient) -> dict[str, str]:
    """Make a key and return its id."""
    name = f"client-{next(NUMBERS)}"
    return {"name": client.post("/forwarder/keys", json={"name": name}).json["id"]}


OBJECTS: dict[str, Callable[[FlaskClient], dict[str, str]]] = {
    "/v1/responses/": create_response,
    "/v1/chat/completions/": create_completion,
    "/v1/conversations/": create_conversation,
    "/v1/files/": create_file,
    "/v1/vector_stores/": create_vector_store,
    "/v1/models/": lambda client: {"model": "demo"},
    "/forwarder/keys/": create_client_key,
}
"""Prefix of a path -> the function that creates an object for the path."""


def create_objects(client: FlaskClient, path: str) -> dict[str, str]:
    """Make the objects that a path can name; return their ids by parameter of the path."""
    create = next((each for start, each in OBJECTS.items() if path.startswith(start)), None)
    return {} if create is None else create(client)
