"""Builds the OpenAPI document from the routes of the application."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import orjson

from forwarder import __version__
from forwarder.core.errors import Forbidden, InternalError
from forwarder.core.types import Json
from forwarder.openapi import (
    file_operations,
    forwarder_operations,
    image_operations,
    messages_operations,
    ollama_operations,
    openai_operations,
    vector_store_operations,
)
from forwarder.openapi.errors import (
    ERROR_SCHEMAS,
    find_envelope,
    make_error_responses,
    refer_to_errors,
)
from forwarder.openapi.forwarder_schemas import make_forwarder_schemas
from forwarder.openapi.ollama_schemas import make_ollama_schemas
from forwarder.openapi.openai_schemas import make_openai_schemas
from forwarder.openapi.operation import HTML, STREAMS, Answer, Operation, make_query
from forwarder.openapi.schemas import add_used_schemas, list_references, load_sdk_schemas
from forwarder.protocols.client_reasoning_style import HEADER
from forwarder.protocols.registry import ALL_STYLES, CLIENT_PROTOCOLS
from forwarder.server.openapi import DocumentRoute
from forwarder.server.request_hooks import FALSE_VALUES, STRICT_HEADER, TRUE_VALUES

TAGS: dict[str, tuple[str, Mapping[str, Operation]]] = {
    "Chat Completions": ("OpenAI's Chat Completions API.", openai_operations.CHAT),
    "Responses": ("OpenAI's Responses API.", openai_operations.RESPONSES),
    "Messages": ("Anthropic's Messages API.", messages_operations.MESSAGES),
    "Conversations": ("Stored conversations.", openai_operations.CONVERSATIONS),
    "Models": ("Models, embeddings and search.", openai_operations.MODELS),
    "Images": ("Images, made by an upstream.", image_operations.IMAGES),
    "Files": ("Files, stored here or at an upstream.", file_operations.FILES),
    "Vector stores": (
        "Stores of files that can be searched.",
        vector_store_operations.VECTOR_STORES,
    ),
    "Ollama": ("Ollama's API, and the registry of models.", ollama_operations.OLLAMA),
    "Diagnostics": ("The dry run and captured requests.", forwarder_operations.DIAGNOSTICS),
    "Client keys": ("Keys of clients, with limits and budgets.", forwarder_operations.CLIENT_KEYS),
    "Usage": ("Requests, tokens and costs.", forwarder_operations.USAGE),
    "Probes": ("Health, readiness and metrics.", forwarder_operations.PROBES),
    "Documentation": ("This document and the documentation.", forwarder_operations.DOCUMENTATION),
}
"""Tag -> its description, and its operations by method and path."""

DESCRIPTION = """\
Translates between OpenAI's Chat Completions and Responses APIs, and serves Anthropic's Messages
API and Ollama's API.

**Paths.** `/v1` may be left out or repeated, and `/openai/v1` is the same. A base path selects the
reasoning style: `/think/v1/chat/completions` (see *Servers*).

**Keys.** Without `FORWARDER_API_KEYS` and keys made at run time no key is needed. A key can also
be sent in the header `api-key` or `X-Api-Key`. Without `FORWARDER_ADMIN_KEYS`, routes for
administrators accept requests of local programs only.

**Bodies** may have a `Content-Encoding`: `zstd`, `br`, `gzip` or `deflate`. Fields that the schemas
do not have are accepted.

**Errors** of the upstream come with its own status and message.
"""

_KEY_NOTE = "Not needed without `FORWARDER_API_KEYS`."

SECURITY_SCHEMES: dict[str, Json] = {
    "clientKey": {
        "type": "http",
        "scheme": "bearer",
        "description": f"A client's key. {_KEY_NOTE}",
    },
    "clientKeyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Api-Key",
        "description": f"A client's key, in this header or in `api-key`. {_KEY_NOTE}",
    },
    "administratorKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "One of `FORWARDER_ADMIN_KEYS`. Without this setting, the request must "
        "come from the local machine.",
    },
    "metricsKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "`FORWARDER_METRICS_KEY`, if it is set.",
    },
}

_TEXT: Json = {"type": "string"}

PARAMETERS: dict[str, Json] = {
    "Strict": {
        "name": STRICT_HEADER,
        "in": "header",
        "description": "Refuse the request if anything would be lost in translation.",
        "schema": {"type": "string", "enum": [*TRUE_VALUES, *FALSE_VALUES]},
    },
    **{
        name: {
            "name": HEADER,
            "in": "header",
            "description": "The reasoning style of the answer.",
            "schema": {"type": "string", "enum": list(CLIENT_PROTOCOLS[api].reasoning_styles)},
        }
        for name, api in (("ChatReasoning", "chat"), ("ResponsesReasoning", "responses"))
    },
    "FileUpstream": {
        "name": "X-Forwarder-Upstream",
        "in": "header",
        "description": "The upstream to use.",
        "schema": _TEXT,
    },
    "FileUpstreamQuery": make_query("upstream", _TEXT, "The upstream to use, for links."),
}

HEADERS: dict[str, Json] = {
    "X-Request-Id": {"description": "The id of the request, also in the log.", "schema": _TEXT},
    "request-id": {"description": "The id of the request, for Anthropic's SDKs.", "schema": _TEXT},
    "X-Forwarder-Upstream": {"description": "The upstream that answered.", "schema": _TEXT},
    "X-Forwarder-Dropped": {
        "description": "Names of parameters, items and parts that were lost in translation.",
        "schema": _TEXT,
    },
    "X-Forwarder-Estimated": {"description": "Fields with estimates.", "schema": _TEXT},
    "Retry-After": {"description": "Seconds until a retry makes sense.", "schema": _TEXT},
    "Content-Disposition": {"description": "`attachment`, with a file name.", "schema": _TEXT},
    "Location": {"description": "The address of the page.", "schema": _TEXT},
}

_PATH_PARAMETER = re.compile(r"\{(\w+)\}")
_PATHS_WITH_SLASHES = ("/v1/models/{model}", "/forwarder/exchanges/{name}", "/docs/{path}")


def encode_document(routes: Iterable[DocumentRoute], base_url: str) -> bytes:
    """Return the document as JSON. Raises KeyError for a route without an `Operation`."""
    try:
        return orjson.dumps(build_document(routes, base_url))
    finally:
        load_sdk_schemas.cache_clear()  # the parsed schemas take several megabytes


def build_document(routes: Iterable[DocumentRoute], base_url: str = "") -> Json:
    """Return the document of ``routes`` on a server that clients reach at ``base_url``."""
    operations = {
        key: (tag, each) for tag, (_, table) in TAGS.items() for key, each in table.items()
    }
    paths: dict[str, Json] = {}
    for route in sorted(routes):
        tag, operation = operations[f"{route.method} {route.path}"]
        described = describe_operation(route, tag, operation)
        paths.setdefault(route.path, {})[route.method.lower()] = described
    components: Json = {
        "securitySchemes": SECURITY_SCHEMES,
        "parameters": PARAMETERS,
        "headers": HEADERS,
        "responses": make_error_responses(),
    }
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Responses Forwarder",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": make_servers(base_url),
        "tags": [{"name": tag, "description": text} for tag, (text, _) in TAGS.items()],
        "paths": paths,
        "components": components,
    }
    own = {
        **ERROR_SCHEMAS,
        **make_openai_schemas(),
        **messages_operations.make_messages_schemas(),
        **make_ollama_schemas(),
        **make_forwarder_schemas(),
    }
    components["schemas"] = add_used_schemas(document, own)
    return document


def make_servers(base_url: str) -> list[Json]:
    """Return the server, and the same one with the base paths of reasoning styles."""
    style = {"enum": list(ALL_STYLES), "default": ALL_STYLES[0]}
    return [
        {"url": base_url or "/", "description": "The default reasoning style."},
        {
            "url": f"{base_url}/{{style}}",
            "description": "A base path with the reasoning style.",
            "variables": {"style": style},
        },
    ]


def describe_operation(route: DocumentRoute, tag: str, operation: Operation) -> Json:
    """Return the operation object of a route."""
    summary, _, description = (operation.summary or route.docstring).partition("\n\n")
    names = _PATH_PARAMETER.findall(route.path)
    parameters = [*(make_path_parameter(name, route.path) for name in names), *operation.parameters]
    described: Json = {
        "operationId": make_operation_id(route),
        "tags": [tag],
        "summary": " ".join(summary.split()),
        **({"description": clean_docstring(description)} if description else {}),
        "security": [{name: []} for name in operation.access.value],
        **({"parameters": parameters} if parameters else {}),
    }
    if operation.body is not None:
        described["requestBody"] = describe_body(operation, operation.body)
    described["responses"] = describe_responses(route, operation)
    return described


def make_operation_id(route: DocumentRoute) -> str:
    """Return a unique name in camel case, which the viewer's links can contain."""
    first, *others = re.split(r"[._]", f"{route.endpoint}.{route.method.lower()}")
    return first + "".join(map(str.capitalize, others))


def clean_docstring(text: str) -> str:
    """Return a docstring as Markdown, without its indentation."""
    lines = " ".join(line.strip() or "\n\n" for line in text.splitlines())
    return lines.replace("``", "`").strip()


def make_path_parameter(name: str, path: str) -> Json:
    note = {"description": "May have slashes."} if path in _PATHS_WITH_SLASHES else {}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        **note,
    }


def describe_body(operation: Operation, body: Mapping[str, Json]) -> Json:
    example = {"example": operation.example} if operation.example is not None else {}
    return {
        "required": operation.is_body_required,
        "content": {kind: {"schema": schema, **example} for kind, schema in body.items()},
    }


def describe_responses(route: DocumentRoute, operation: Operation) -> Json:
    """Return status -> response: the answers, and all errors that can happen."""
    envelope = find_envelope(route.path)
    raised = (*operation.errors, Forbidden, InternalError)
    errors = refer_to_errors(envelope, raised, operation.is_relayed)
    if route.method == "HEAD":  # without bodies
        errors = {status: {"description": "An error."} for status in errors}
    if operation.has_error_pages:
        page = {HTML: {"schema": _TEXT}}
        errors = {status: {"description": "A page.", "content": page} for status in errors}
    answers = {str(answer.status): describe_answer(answer) for answer in operation.answers}
    return {**errors, **answers}


def describe_answer(answer: Answer) -> Json:
    names = ("X-Request-Id", *answer.headers)
    described: Json = {
        "description": answer.description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
    }
    if answer.content:
        described["content"] = {
            kind: describe_stream(each) if kind in STREAMS else {"schema": each}
            for kind, each in answer.content.items()
        }
    return described


def describe_stream(item: Json) -> Json:
    """Return the media type object of a stream; OpenAPI has ``itemSchema`` only from 3.2 on."""
    names = " or ".join(f"`{name}`" for name in list_references(item))
    schema = {"type": "string", "description": f"A stream; the type of its items is {names}."}
    return {"schema": schema, "x-itemSchema": item}
