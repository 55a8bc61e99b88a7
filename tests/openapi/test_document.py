"""The OpenAPI document: valid, complete, and consistent with the tables that it is built from."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import schemathesis

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.core.errors import Unauthorized
from forwarder.openapi.document import TAGS, build_document
from forwarder.openapi.schemas import list_references
from forwarder.protocols.item_dispositions import parse_row_type
from forwarder.protocols.messages_dispositions import MESSAGES_PARAMETERS
from forwarder.protocols.ollama import OLLAMA_CHAT
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT
from forwarder.protocols.protocol import UpstreamProtocol
from forwarder.protocols.registry import ALL_STYLES, CLIENT_PROTOCOLS, UPSTREAM_PROTOCOLS
from forwarder.server.openapi import DocumentRoute, list_routes
from tests.helpers.check_cases import check_each
from tests.helpers.openapi import make_conformance

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    return make_conformance().document


def iterate_operations(document: Json) -> list[tuple[str, Json]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_document_is_valid(document: Json) -> None:
    schemathesis.openapi.from_dict(document).validate()


def test_document_has_exactly_the_routes_of_the_application() -> None:
    app = create_app(Settings.from_env({"FORWARDER_DATABASE_URL": "none"}))
    documented = {key for _, table in TAGS.values() for key in table}

    assert {f"{route.method} {route.path}" for route in list_routes(app)} == documented


def test_a_route_without_an_operation_is_an_error() -> None:
    with pytest.raises(KeyError, match="GET /v1/new"):
        build_document([DocumentRoute("/v1/new", "GET", "new.view", "Do something.")])


def test_every_reference_resolves_to_a_component(document: Json) -> None:
    targets = set(re.findall(r'"\$ref": "#/components/(\w+)/([^"]+)"', json.dumps(document)))
    components = {(kind, name) for kind, table in document["components"].items() for name in table}

    assert len(targets) > 500
    assert targets <= components
    assert set(list_references(document)) == set(document["components"]["schemas"])


def test_operations_have_unique_ids_and_summaries(document: Json) -> None:
    operations = iterate_operations(document)
    names = [operation["operationId"] for _, operation in operations]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][A-Za-z]+", name) for name in names)
    for key, operation in operations:
        assert re.fullmatch(r"[A-Z][^\n]{5,}\.", operation["summary"]), key
        assert operation["responses"], key


def test_paths_have_all_their_parameters(document: Json) -> None:
    for key, operation in iterate_operations(document):
        path_parameters = [
            parameter["name"]
            for parameter in operation.get("parameters", ())
            if parameter.get("in") == "path"
        ]
        assert path_parameters == re.findall(r"\{(\w+)\}", key), key


@check_each(
    ("schema", "table"),
    [
        ("ChatCompletionRequest", CHAT_OVER_RESPONSES),
        ("ResponseRequest", RESPONSES_OVER_CHAT),
        ("MessageRequest", MESSAGES_PARAMETERS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_requests_have_every_parameter_of_the_table(
    document: Json, schema: str, table: dict[str, Any]
) -> None:
    properties = document["components"]["schemas"][schema]["properties"]

    assert set(properties) == set(table)
    for name, row in table.items():
        assert row.reason in properties[name]["description"], name


REQUEST_ROUTES = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "ollama": "/api/chat",
    "ollama_generate": "/api/generate",
}


def test_dry_run_takes_the_requests_of_all_client_protocols(document: Json) -> None:
    def get_schema(path: str) -> Json:
        content: Json = document["paths"][path]["post"]["requestBody"]["content"]
        schema: Json = content["application/json"]["schema"]
        return schema

    assert REQUEST_ROUTES.keys() == CLIENT_PROTOCOLS.keys()
    expected = [get_schema(path) for path in REQUEST_ROUTES.values()]
    assert get_schema("/forwarder/translate") == {"anyOf": expected}


@check_each("protocol", UPSTREAM_PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_requests_have_every_typed_object_of_the_tables(
    document: Json, protocol: UpstreamProtocol
) -> None:
    name = {"chat": "ChatCompletionRequest", "responses": "ResponseRequest"}[protocol.name]
    properties = document["components"]["schemas"][name]["properties"]

    for title, table in protocol.item_tables.items():
        parameter = "tools" if title == "tools" else protocol.conversation.parameter
        text = properties[parameter]["description"]
        for row, disposition in table.items():
            assert f"`{parse_row_type(row)}`" in text, row
            assert disposition.reason in text, row


def test_options_of_ollama_are_nested(document: Json) -> None:
    properties = document["components"]["schemas"]["OllamaChatRequest"]["properties"]
    options = properties["options"]["properties"]

    assert {f"options.{name}" for name in options} == {n for n in OLLAMA_CHAT if "." in n}
    assert {name for name in OLLAMA_CHAT if "." not in name} == set(properties) - {"options"}


def test_servers_have_every_reasoning_style(document: Json) -> None:
    assert document["servers"][1]["variables"]["style"]["enum"] == list(ALL_STYLES)


def test_servers_have_the_base_url() -> None:
    servers = build_document([], "https://api.test/llm")["servers"]

    assert [server["url"] for server in servers] == [
        "https://api.test/llm",
        "https://api.test/llm/{style}",
    ]


def test_errors_have_the_body_of_the_clients_api(document: Json) -> None:
    paths = document["paths"]

    for key, operation in iterate_operations(document):
        names = {
            r["$ref"].rpartition("/")[2] for r in operation["responses"].values() if "$ref" in r
        }
        path = key.partition(" ")[2]
        schemas_by_prefix = {"/api/": "OllamaError", "/v1/messages": "MessagesError"}
        schema_name = next(
            (
                schema_name
                for start, schema_name in schemas_by_prefix.items()
                if path.startswith(start)
            ),
            "Error",
        )
        assert all(re.fullmatch(rf"{schema_name}\w{{3}}", name) for name in names), key
    assert Unauthorized.code is not None
    assert Unauthorized.code in document["components"]["responses"]["Error401"]["description"]
    assert "401" not in paths["/health"]["get"]["responses"]


@check_each(
    ("key", "names"),
    [
        ("POST /v1/responses", ["clientKey", "clientKeyHeader"]),
        ("POST /api/create", ["administratorKey"]),
        ("GET /forwarder/exchanges", ["administratorKey"]),
        ("GET /metrics", ["metricsKey"]),
        ("GET /health", []),
    ],
)
def test_operations_name_the_keys_they_need(document: Json, key: str, names: list[str]) -> None:
    operation = dict(iterate_operations(document))[key]

    assert operation["security"] == [{name: []} for name in names]
