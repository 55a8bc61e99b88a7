"""``/v1/files`` and container files, passed through to an upstream or stored here.

FORWARDER_FILES decides where files are; `stored_files.py` serves those in the database. The default
upstream is the first one that speaks Responses. A request selects another one with the header
``X-Forwarder-Upstream`` or, in links, with ``?upstream=``; such a request always goes there.

If all clients share one upstream key, the upstream holds the files of all of them. Clients then
cannot list files, but can read a file if they know its id, which is too long to guess.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from http import HTTPStatus

from flask import Blueprint, Response, request

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import RequestContext
from forwarder.core.data_urls import UNKNOWN
from forwarder.core.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    ShuttingDown,
    UpstreamError,
    UpstreamRefused,
)
from forwarder.core.in_flight_requests import ShutdownInterrupt
from forwarder.core.types import Json
from forwarder.server import request_hooks, stored_files
from forwarder.server.browser_guard import is_local
from forwarder.server.extension import get_services
from forwarder.upstream.client import Upstream
from forwarder.upstream.files import MultipartForm, PassthroughResponse

blueprint = Blueprint("files", __name__)

_ID = re.compile(r"\w[\w.:-]{0,255}", re.ASCII)
MIN_UNGUESSABLE_ID_LENGTH = 20
"""Shorter ids could be guessed. The ids of providers have 20 to 40 characters."""

_FORWARDED_HEADERS = ("content-type", "content-disposition", "content-length")


@blueprint.route("/files", methods=["GET", "POST"])
def files() -> Response:
    """List files or upload one. Listing raises Forbidden if other clients may own files."""
    if is_stored_here():
        return stored_files.upload() if request.method == "POST" else stored_files.list_files()
    return forward_file_request("/files", lists=request.method != "POST")


@blueprint.route("/files/<file>", methods=["GET", "DELETE"])
def file(file: str) -> Response:
    """Return the metadata of a file, or delete the file."""
    if is_stored_here():
        return stored_files.remove(file) if request.method == "DELETE" else stored_files.get(file)
    return forward_file_request(f"/files/{check_file_id(file)}", file)


@blueprint.get("/files/<file>/content")
def content(file: str) -> Response:
    """Return the content of a file."""
    if is_stored_here():
        stored, parts = stored_files.open_content(file)
        chunks = report_broken_download(parts, request_hooks.current_context())
        response = protect_browsers(Response(chunks, mimetype=UNKNOWN))
        response.headers["Content-Length"] = str(stored.size)
        response.headers.set("Content-Disposition", "attachment", filename=stored.filename)
        return response
    return send_as_attachment(forward_file_request(f"/files/{check_file_id(file)}/content", file))


@blueprint.get("/containers/<container>/files/<file>/content")
def container_content(container: str, file: str) -> Response:
    """Return the content of a file that a tool created in its container."""
    path = f"/containers/{check_file_id(container)}/files/{check_file_id(file)}/content"
    return send_as_attachment(forward_file_request(path, max(container, file, key=len)))


def is_stored_here() -> bool:
    """Whether the request is about files in the database."""
    names_upstream = "X-Forwarder-Upstream" in request.headers or "upstream" in request.args
    return get_services().stores_files and not names_upstream


def send_as_attachment(answer: Response) -> Response:
    """Make browsers download the file: an HTML page must not run under this origin."""
    _, separator, options = answer.headers.get("Content-Disposition", "").partition(";")
    answer.headers["Content-Disposition"] = f"attachment{separator}{options}"
    return answer


def check_file_id(name: str) -> str:
    """Return a valid id, which is safe as one URL path segment. Raises NotFound otherwise."""
    if not _ID.fullmatch(name):
        raise NotFound(f"There is no file '{name[:64]}'.")
    return name


def forward_file_request(path: str, name: str | None = None, lists: bool = False) -> Response:
    """Send a file request to its upstream; ``name`` is the requested id."""
    context = request_hooks.current_context()
    context.route = "files"
    request_hooks.authenticate(context)
    try:
        upstream = choose_upstream()
        if has_files_of_other_clients(upstream.settings):
            if lists:
                raise Forbidden(
                    f"Clients cannot list files because they share one key of the upstream "
                    f"'{upstream.settings.name}'. "
                    "Set FORWARDER_SHARED_FILES=true to allow all clients to list all files."
                )
            if name is not None and len(name) < MIN_UNGUESSABLE_ID_LENGTH:
                raise NotFound(f"There is no file '{name}'.")
        form = read_form() if request.method == "POST" else None
        return send_to_upstream(path, upstream, context, form)
    except ShutdownInterrupt:  # report the shutdown to the client as an error
        raise ShuttingDown from None


def has_files_of_other_clients(upstream: UpstreamSettings) -> bool:
    """Return whether the upstream may hold files that belong to other clients.

    All local clients without keys count as one client. The upstream of a registered model belongs
    to the administrator.
    """
    services = get_services()
    settings = services.settings
    if upstream.passthrough_key or settings.shared_files:
        return False
    if upstream.registered:
        return bool(settings.admin_keys) or not is_local(settings)
    clients = settings.client_count + services.client_keys.count_keys()
    return clients > 1 or not (services.client_keys.are_required() or is_local(settings))


def send_to_upstream(
    path: str, upstream: Upstream, context: RequestContext, content: MultipartForm | Json | None
) -> Response:
    """Send a form, JSON or nothing to the upstream, and pass its response on as it arrives."""
    context.upstream = upstream.settings.name
    query = {k: v for k, v in request.args.items() if k != "upstream"}
    request_hooks.watch_disconnect(context)
    method = "GET" if request.method == "HEAD" else request.method
    upstream_response = open_passthrough(upstream, method, path, query, context, content)
    response = Response(
        context.set_response_stream(report_broken_download(upstream_response.chunks, context)),
        upstream_response.status,
    )
    for name in _FORWARDED_HEADERS:
        if name in upstream_response.headers:
            response.headers[name] = upstream_response.headers[name]
    return protect_browsers(response)


def open_passthrough(
    upstream: Upstream,
    method: str,
    path: str,
    query: Json,
    context: RequestContext,
    content: MultipartForm | Json | None,
) -> PassthroughResponse:
    """Send a request to the upstream, and to its other endpoints if the first lacks the file.

    Clients' files are at the first endpoint, but a tool leaves its files at the endpoint that ran
    it. Requests with content go to the first endpoint only. Raises the error of the first endpoint
    if none has the file.
    """
    try:
        return upstream.files.passthrough(method, path, query, context, content)
    except UpstreamRefused as refusal:
        if refusal.status != HTTPStatus.NOT_FOUND or content is not None:
            raise
        for replica in upstream.list_replicas():
            with contextlib.suppress(UpstreamError):
                return replica.files.passthrough(method, path, query, context)
        raise


def protect_browsers(response: Response) -> Response:
    """Keep browsers from running code in a file."""
    response.headers["X-Content-Type-Options"] = "nosniff"  # no HTML from a text file
    response.headers["Content-Security-Policy"] = "sandbox"
    return response


def report_broken_download(chunks: Iterator[bytes], context: RequestContext) -> Iterator[bytes]:
    """Pass the chunks on. If the upstream fails, record it and abort the response."""
    try:
        yield from chunks
    except (Exception, ShutdownInterrupt) as error:
        raise context.record_failure(error) from error


def choose_upstream() -> Upstream:
    upstream = find_selected_upstream()
    if upstream is None:
        services = get_services()
        name = services.router.default_file_upstream
        upstream = services.find_upstream(name) if name else None
        if upstream is None:
            raise NotFound("No upstream supports files. Select one with ?upstream=.")
    return upstream


def find_selected_upstream() -> Upstream | None:
    """Return the upstream that the request names, or None; raises InvalidRequest if unknown."""
    name = request.headers.get("X-Forwarder-Upstream") or request.args.get("upstream")
    if name is None:
        return None
    upstream = get_services().find_upstream(name)
    if upstream is None:
        raise InvalidRequest(
            f"There is no upstream '{name[:64]}'.", param="upstream", code="invalid_value"
        )
    return upstream


def read_form() -> MultipartForm:
    """Return the multipart form of the request. Werkzeug keeps large files on disk.

    Raises InvalidRequest for a part without a name: the form for the upstream needs one.
    """
    files = [
        (field, (f.filename or "file", f.stream, f.mimetype or UNKNOWN))
        for field, f in stored_files.read_form_files()
    ]
    fields = request.form.to_dict()
    names: set[str | None] = {*fields, *(field for field, _ in files)}  # None without a name
    if None in names:
        raise InvalidRequest("A part of the form has no name.", code="invalid_value")
    return MultipartForm(fields, files)
