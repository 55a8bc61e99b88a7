"""``/v1/vector_stores``: stores, their files, batches of files, and search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
from flask import Blueprint, Response, request

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.core.validate import (
    BOOL,
    DICT,
    INT,
    LIST,
    STR,
    check_enum,
    check_type,
    make_missing_parameter_error,
    read_field,
    require_field,
)
from forwarder.server import request_hooks
from forwarder.server.extension import get_gateway, get_services
from forwarder.server.files import report_broken_download
from forwarder.server.serving import json_answer, read_json_body
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.vector_stores import STATUSES, NewStoreFile
from forwarder.storage.pagination import (
    find_numbered_page,
    make_list_object,
    read_metadata,
    read_page,
)
from forwarder.vector_stores.attributes import read_attributes, read_filter
from forwarder.vector_stores.chunking import ChunkingStrategy, read_strategy
from forwarder.vector_stores.search import (
    DEFAULT_RESULTS,
    MAX_QUERIES,
    MAX_QUERY_LENGTH,
    MAX_RESULTS,
    read_ranking_options,
)
from forwarder.vector_stores.service import VectorStoreService, render_result

blueprint = Blueprint("vector_stores", __name__)

MAX_NAME_LENGTH = 256
MAX_DESCRIPTION_LENGTH = 1024
MAX_STORE_FILES_AT_CREATION = 500
MAX_BATCH_FILES = 2000
MAX_EXPIRY_DAYS = 365


def open_vector_stores() -> tuple[VectorStoreService, str]:
    """Authenticate the client. Returns the stores and the client's owner id."""
    context = request_hooks.current_context()
    context.route = "vector_stores"
    request_hooks.authenticate(context)
    stores = get_gateway().vector_stores
    return stores, get_services().owners.find_owner(context.client_key)


def find_payer() -> str | None:
    """Return the account of the client, which pays for embeddings."""
    return request_hooks.current_context().account_id


# -- stores ---------------------------------------------------------------------------------------


@blueprint.post("/vector_stores")
def create_store() -> Response:
    """Create a store, optionally with files."""
    stores, owner = open_vector_stores()
    body = read_json_body(request_hooks.current_context(), required=False)
    strategy = read_strategy(
        read_field(body, "chunking_strategy", DICT, "chunking_strategy"), "chunking_strategy"
    )
    ids = read_file_ids(body, MAX_STORE_FILES_AT_CREATION) if body.get("file_ids") else []
    return json_answer(
        stores.create_store(
            owner,
            read_text(body, "name", MAX_NAME_LENGTH) or "",
            read_text(body, "description", MAX_DESCRIPTION_LENGTH),
            read_metadata(body),
            read_expiry(body),
            [NewStoreFile(name, {}, *strategy, find_payer()) for name in ids],
        )
    )


@blueprint.get("/vector_stores")
def list_stores() -> Response:
    """List a page of the client's stores."""
    stores, owner = open_vector_stores()
    page = read_numbered_page(lambda name: stores.find_store_position(owner, name))
    return json_answer(make_list_object(*stores.list_stores(owner, page)))


@blueprint.get("/vector_stores/<store_id>")
def get_store(store_id: str) -> Response:
    """Return a store."""
    stores, owner = open_vector_stores()
    return json_answer(stores.get_store(owner, store_id))


@blueprint.post("/vector_stores/<store_id>")
def update_store(store_id: str) -> Response:
    """Change the name, the metadata or the expiry of a store."""
    stores, owner = open_vector_stores()
    body = read_json_body(request_hooks.current_context())
    changes: dict[str, Any] = {}
    if body.get("name") is not None:
        changes["name"] = read_text(body, "name", MAX_NAME_LENGTH)
    if "metadata" in body:
        changes["metadata"] = read_metadata(body)
    if "expires_after" in body:
        changes["expires_days"] = read_expiry(body)
    return json_answer(stores.update_store(owner, store_id, changes))


@blueprint.delete("/vector_stores/<store_id>")
def delete_store(store_id: str) -> Response:
    """Delete a store; its files stay."""
    stores, owner = open_vector_stores()
    stores.remove_store(owner, store_id)
    return json_answer({"id": store_id, "object": "vector_store.deleted", "deleted": True})


@blueprint.post("/vector_stores/<store_id>/search")
def search(store_id: str) -> Response:
    """Search a store. Queries are not rewritten."""
    stores, owner = open_vector_stores()
    context = request_hooks.current_context()
    body = read_json_body(context)
    queries = read_queries(body)
    matches = read_filter(body.get("filters"), "filters")
    options = read_ranking_options(
        read_field(body, "ranking_options", DICT, "ranking_options"), "ranking_options"
    )
    max_results = read_field(body, "max_num_results", INT, "max_num_results")
    if max_results is not None and not 1 <= max_results <= MAX_RESULTS:
        raise InvalidRequest(
            f"Invalid value for 'max_num_results': expected an integer from 1 to {MAX_RESULTS}.",
            param="max_num_results",
            code="invalid_value",
        )
    if read_field(body, "rewrite_query", BOOL, "rewrite_query"):
        context.loss_report.drop("rewrite_query", "queries are searched as they are")
    results = stores.search_store(
        owner,
        store_id,
        queries,
        matches,
        options,
        max_results or DEFAULT_RESULTS,
        find_payer() or "",
    )
    return json_answer(
        {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": list(map(render_result, results)),
            "has_more": False,
            "next_page": None,
        }
    )


# -- files ----------------------------------------------------------------------------------------


@blueprint.post("/vector_stores/<store_id>/files")
def add_file(store_id: str) -> Response:
    """Add a file to a store; it is processed in the background."""
    stores, owner = open_vector_stores()
    body = read_json_body(request_hooks.current_context())
    return json_answer(stores.add_file(owner, store_id, read_new_file(body, "")))


@blueprint.get("/vector_stores/<store_id>/files")
def list_files(store_id: str) -> Response:
    """List a page of a store's files."""
    stores, owner = open_vector_stores()
    page = read_numbered_page(lambda name: stores.find_file_position(owner, store_id, name))
    return json_answer(
        make_list_object(*stores.list_files(owner, store_id, page, read_status_filter()))
    )


@blueprint.get("/vector_stores/<store_id>/files/<file_id>")
def get_file(store_id: str, file_id: str) -> Response:
    """Return a file of a store."""
    stores, owner = open_vector_stores()
    return json_answer(stores.get_file(owner, store_id, file_id))


@blueprint.post("/vector_stores/<store_id>/files/<file_id>")
def update_file(store_id: str, file_id: str) -> Response:
    """Replace the attributes of a store's file."""
    stores, owner = open_vector_stores()
    body = read_json_body(request_hooks.current_context())
    if "attributes" not in body:
        raise make_missing_parameter_error("attributes")
    attributes = read_attributes(body["attributes"], "attributes")
    return json_answer(stores.update_file(owner, store_id, file_id, attributes))


@blueprint.delete("/vector_stores/<store_id>/files/<file_id>")
def delete_file(store_id: str, file_id: str) -> Response:
    """Remove a file from a store; the file itself stays."""
    stores, owner = open_vector_stores()
    stores.remove_file(owner, store_id, file_id)
    return json_answer({"id": file_id, "object": "vector_store.file.deleted", "deleted": True})


@blueprint.get("/vector_stores/<store_id>/files/<file_id>/content")
def get_file_content(store_id: str, file_id: str) -> Response:
    """Return the passages of a store's file."""
    stores, owner = open_vector_stores()
    texts = stores.iterate_texts(owner, store_id, file_id)
    chunks = report_broken_download(encode_texts(texts), request_hooks.current_context())
    return Response(chunks, mimetype="application/json")


def encode_texts(texts: Iterator[str]) -> Iterator[bytes]:
    """Encode a page with texts piece by piece, because a file may have many megabytes."""
    yield b'{"object":"vector_store.file_content.page","data":['
    for i, text in enumerate(texts):
        yield (b"," if i else b"") + orjson.dumps({"type": "text", "text": text})
    yield b'],"has_more":false,"next_page":null}'


# -- batches --------------------------------------------------------------------------------------


@blueprint.post("/vector_stores/<store_id>/file_batches")
def create_batch(store_id: str) -> Response:
    """Add several files to a store, with the same or with their own settings."""
    stores, owner = open_vector_stores()
    body = read_json_body(request_hooks.current_context())
    if body.get("files") is not None and body.get("file_ids") is not None:
        raise InvalidRequest(
            "'files' and 'file_ids' exclude each other.",
            param="files",
            code="mutually_exclusive_parameters",
        )
    if body.get("files") is not None:
        entries = check_count(check_type(body["files"], LIST, "files"), MAX_BATCH_FILES, "files")
        new_files = [
            read_new_file(check_type(entry, DICT, f"files[{i}]"), f"files[{i}].")
            for i, entry in enumerate(entries)
        ]
        return json_answer(stores.create_batch(owner, store_id, new_files, "files"))
    ids = read_file_ids(body, MAX_BATCH_FILES)
    attributes = read_attributes(body.get("attributes"), "attributes")
    strategy = read_strategy(
        read_field(body, "chunking_strategy", DICT, "chunking_strategy"), "chunking_strategy"
    )
    new_files = [NewStoreFile(name, attributes, *strategy, find_payer()) for name in ids]
    return json_answer(stores.create_batch(owner, store_id, new_files, "file_ids"))


@blueprint.get("/vector_stores/<store_id>/file_batches/<batch_id>")
def get_batch(store_id: str, batch_id: str) -> Response:
    """Return a batch."""
    stores, owner = open_vector_stores()
    return json_answer(stores.get_batch(owner, store_id, batch_id))


@blueprint.post("/vector_stores/<store_id>/file_batches/<batch_id>/cancel")
def cancel_batch(store_id: str, batch_id: str) -> Response:
    """Cancel the files of a batch that are not processed yet."""
    stores, owner = open_vector_stores()
    return json_answer(stores.cancel_batch(owner, store_id, batch_id))


@blueprint.get("/vector_stores/<store_id>/file_batches/<batch_id>/files")
def list_batch_files(store_id: str, batch_id: str) -> Response:
    """List a page of the files of a batch."""
    stores, owner = open_vector_stores()
    page = read_numbered_page(lambda name: stores.find_file_position(owner, store_id, name))
    return json_answer(
        make_list_object(
            *stores.list_batch_files(owner, store_id, batch_id, page, read_status_filter())
        )
    )


# -- parameters -----------------------------------------------------------------------------------


def read_numbered_page(find_position: Callable[[str], int | None]) -> NumberedPage:
    return find_numbered_page(
        read_page(request.args, "desc"), request.args.get("before"), find_position
    )


def read_status_filter() -> str | None:
    status = request.args.get("filter")
    return None if status is None else str(check_enum(status, STATUSES, "filter"))


def read_text(body: Json, name: str, max_length: int) -> str | None:
    text: str | None = read_field(body, name, STR, name)
    if text is not None and len(text) > max_length:
        raise InvalidRequest(
            f"'{name}' must have at most {max_length} characters.",
            param=name,
            code="string_above_max_length",
        )
    return None if text is None else remove_nul(text)


def remove_nul(text: str) -> str:
    """Return a text without NUL, which PostgreSQL cannot store."""
    return text.replace("\0", "")


def read_expiry(body: Json) -> int | None:
    """Return the days of ``expires_after``; None if the store does not expire."""
    value = read_field(body, "expires_after", DICT, "expires_after")
    if value is None:
        return None
    anchor = require_field(value, "anchor", STR, "expires_after.anchor")
    check_enum(anchor, ("last_active_at",), "expires_after.anchor")
    days: int = require_field(value, "days", INT, "expires_after.days")
    if not 1 <= days <= MAX_EXPIRY_DAYS:
        raise InvalidRequest(
            f"Invalid value for 'expires_after.days': expected an integer from 1 to "
            f"{MAX_EXPIRY_DAYS}.",
            param="expires_after.days",
            code="invalid_value",
        )
    return days


def read_file_ids(body: Json, max_count: int) -> list[str]:
    """Return the distinct ids of ``file_ids``."""
    ids = require_field(body, "file_ids", LIST, "file_ids")
    check_count(ids, max_count, "file_ids")
    for i, name in enumerate(ids):
        check_type(name, STR, f"file_ids[{i}]")
    return list(dict.fromkeys(ids))


def read_new_file(body: Json, prefix: str) -> NewStoreFile:
    """Return a file with its own settings; ``prefix`` begins the names in errors."""
    file_id = require_field(body, "file_id", STR, f"{prefix}file_id")
    attributes = read_attributes(body.get("attributes"), f"{prefix}attributes")
    path = f"{prefix}chunking_strategy"
    strategy: ChunkingStrategy = read_strategy(
        read_field(body, "chunking_strategy", DICT, path), path
    )
    return NewStoreFile(file_id, attributes, *strategy, find_payer())


def check_count(entries: list[Any], max_count: int, param: str) -> list[Any]:
    if not entries:
        raise InvalidRequest(f"'{param}' must not be empty.", param=param, code="empty_array")
    if len(entries) > max_count:
        raise InvalidRequest(
            f"'{param}' must have at most {max_count} entries.",
            param=param,
            code="array_above_max_length",
        )
    return entries


def read_queries(body: Json) -> list[str]:
    """Return the queries, one or several."""
    value = require_field(body, "query", (str, list), "query")
    queries = [value] if isinstance(value, str) else check_count(value, MAX_QUERIES, "query")
    for i, query in enumerate(queries):
        path = "query" if isinstance(value, str) else f"query[{i}]"
        check_type(query, STR, path)
        if not query.strip():
            raise InvalidRequest(f"'{path}' must not be empty.", param=path, code="invalid_value")
        if len(query) > MAX_QUERY_LENGTH:
            raise InvalidRequest(
                f"'{path}' must have at most {MAX_QUERY_LENGTH} characters.",
                param=path,
                code="string_above_max_length",
            )
    return list(queries)
