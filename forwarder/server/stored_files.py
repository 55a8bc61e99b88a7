"""``/v1/files`` in the forwarder's own database."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from flask import Response, request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException

from forwarder.core.errors import InvalidRequest
from forwarder.core.validate import check_enum, make_missing_parameter_error
from forwarder.server import request_hooks
from forwarder.server.extension import get_services
from forwarder.server.serving import json_answer
from forwarder.storage.db.files import StoredFile
from forwarder.storage.files import FileStore, render_file
from forwarder.storage.pagination import find_numbered_page, make_list_object, read_page

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MAX_PAGE_SIZE = 10_000
MAX_FILENAME_LENGTH = 255
MIN_LIFETIME, MAX_LIFETIME = 3600, 2_592_000
"""Seconds."""


def open_files() -> tuple[FileStore, str]:
    """Authenticate the client. Returns the file store and the client's owner id."""
    context = request_hooks.current_context()
    context.route = "files"
    request_hooks.authenticate(context)
    services = get_services()
    return services.require_files(), services.owners.find_owner(context.client_key)


def upload() -> Response:
    """Store a file."""
    store, owner = open_files()
    uploaded = [file for field, file in read_form_files() if field == "file"]
    if not uploaded:
        raise make_missing_parameter_error("file")
    purpose = request.form.get("purpose")
    if not purpose:
        raise make_missing_parameter_error("purpose")
    check_enum(purpose, PURPOSES, "purpose")
    file = store.upload(
        owner,
        uploaded[0].stream,
        measure_stream(uploaded[0]),
        clean_filename(uploaded[0].filename),
        purpose,
        read_lifetime(),
    )
    return json_answer(render_file(file))


def read_form_files() -> Iterable[tuple[str, FileStorage]]:
    """Return (field, file) of the form. Raises InvalidRequest if it is too large or cut off."""
    try:
        return request.files.items(multi=True)
    except HTTPException as error:
        raise request_hooks.convert_http_error(error) from None


def measure_stream(file: FileStorage) -> int:
    size = file.stream.seek(0, os.SEEK_END)
    file.stream.seek(0)
    return size


def clean_filename(name: str | None) -> str:
    """Return the last part of a path, without control characters."""
    last = re.split(r"[/\\]", name or "")[-1]
    return re.sub(r"[\x00-\x1f\x7f]", "", last)[:MAX_FILENAME_LENGTH] or "file"


def read_lifetime() -> int | None:
    """Return the seconds after which the file expires; None if the form sets no expiry."""
    text = request.form.get("expires_after[seconds]")
    anchor = request.form.get("expires_after[anchor]")
    if text is None and anchor is None:
        return None
    check_enum(anchor, ("created_at",), "expires_after.anchor")
    is_number = text is not None and re.fullmatch(r"\d{1,9}", text, re.ASCII)
    if text is None or not is_number or not MIN_LIFETIME <= int(text) <= MAX_LIFETIME:
        raise InvalidRequest(
            f"Invalid value for 'expires_after.seconds': expected an integer from {MIN_LIFETIME} "
            f"to {MAX_LIFETIME}.",
            param="expires_after.seconds",
            code="invalid_value",
        )
    return int(text)


def list_files() -> Response:
    """List a page of the client's files, by default newest first."""
    store, owner = open_files()
    page = find_numbered_page(
        read_page(request.args, "desc", MAX_PAGE_SIZE, MAX_PAGE_SIZE),
        None,
        lambda name: store.find_position(owner, name),
    )
    purpose = request.args.get("purpose")
    if purpose is not None:
        check_enum(purpose, PURPOSES, "purpose")
    found, has_more = store.list_page(owner, page, purpose)
    return json_answer(make_list_object(list(map(render_file, found)), has_more))


def get(name: str) -> Response:
    """Return the metadata of a file."""
    store, owner = open_files()
    return json_answer(render_file(store.find(owner, name)))


def remove(name: str) -> Response:
    """Delete a file, also from vector stores."""
    store, owner = open_files()
    store.remove(owner, name)
    return json_answer({"id": name, "object": "file", "deleted": True})


def open_content(name: str) -> tuple[StoredFile, Iterator[bytes]]:
    """Return a file and its content in parts."""
    store, owner = open_files()
    return store.find(owner, name), store.iterate_content(owner, name)
