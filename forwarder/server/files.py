"""``/v1/files`` and the files of containers, passed through to the upstream that has them.

That is the first upstream that speaks Responses, unless the request names another: by the header
``X-Forwarder-Upstream`` or, for links, by ``?upstream=``.

An upstream that is asked with one key for all has the files of all clients.  Clients that are
strangers to each other cannot list them: who knows the id of a file, which cannot be guessed, may
have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import RequestContext
from forwarder.core.data_urls import UNKNOWN
from forwarder.core.errors import Forbidden, InvalidRequest, NotFound, ShuttingDown
from forwarder.core.shutdown import ShutdownInterrupt
from forwarder.pipeline.gateway import Gateway
from forwarder.server import request_context
from forwarder.server.browser_guard import is_local
from forwarder.upstream.client import MultipartForm, Upstream

blueprint = Blueprint("files", __name__)

_ID = re.compile(r"\w[\w.:-]{0,255}", re.ASCII)
MIN_UNGUESSABLE_ID_LENGTH = 20
"""Characters from which on an id is not found by trying; providers' have 20 to 40."""

_FORWARDED_HEADERS = ("content-type", "content-disposition", "content-length")


@blueprint.route("/files", methods=["GET", "POST"])
def files() -> Response:
    """List the files, or store one.  Raises Forbidden where they may be those of others."""
    return forward_file_request("/files", lists=request.method != "POST")


@blueprint.route("/files/<file>", methods=["GET", "DELETE"])
def file(file: str) -> Response:
    """What is known of a file, or delete it."""
    return forward_file_request(f"/files/{check_file_id(file)}", file)


@blueprint.get("/files/<file>/content")
def content(file: str) -> Response:
    """A file itself."""
    return send_as_attachment(forward_file_request(f"/files/{check_file_id(file)}/content", file))


@blueprint.get("/containers/<container>/files/<file>/content")
def container_content(container: str, file: str) -> Response:
    """A file that a tool has made in its container."""
    path = f"/containers/{check_file_id(container)}/files/{check_file_id(file)}/content"
    return send_as_attachment(forward_file_request(path, max(container, file, key=len)))


def send_as_attachment(answer: Response) -> Response:
    """The answer as a file that browsers store: a page in it does not run at this address."""
    _, separator, options = answer.headers.get("Content-Disposition", "").partition(";")
    answer.headers["Content-Disposition"] = f"attachment{separator}{options}"
    return answer


def check_file_id(name: str) -> str:
    """An id, which stays one step of a path whatever it holds."""
    if not _ID.fullmatch(name):
        raise NotFound(f"There is no file '{name[:64]}'.")
    return name


def forward_file_request(path: str, name: str | None = None, lists: bool = False) -> Response:
    """The upstream's answer; ``name`` is the id by which a file is asked for."""
    exchange = request_context.current_context()
    exchange.route = "files"
    request_context.authenticate(exchange)
    try:
        upstream = choose_upstream()
        if has_files_of_other_clients(upstream.settings):
            if lists:
                raise Forbidden(
                    f"The files of all clients are under one key of the upstream "
                    f"'{upstream.settings.name}', so they are not listed. "
                    "(FORWARDER_SHARED_FILES=true lists them for everybody.)"
                )
            if name is not None and len(name) < MIN_UNGUESSABLE_ID_LENGTH:
                raise NotFound(f"There is no file '{name}'.")
        return send_to_upstream(path, upstream, exchange)
    except ShutdownInterrupt:  # the end of the process is told as any failure is
        raise ShuttingDown from None


def has_files_of_other_clients(upstream: UpstreamSettings) -> bool:
    """May an upstream have files that are not for who asks?

    Clients without keys are one client where they are on this machine.  The upstream of a
    registered model belongs to the administrator.
    """
    settings = get_gateway().settings
    if upstream.passthrough_key or settings.shared_files:
        return False
    if upstream.registered:
        return bool(settings.admin_keys) or not is_local(settings)
    return len(settings.api_keys) > 1 or not (settings.api_keys or is_local(settings))


def send_to_upstream(path: str, upstream: Upstream, exchange: RequestContext) -> Response:
    exchange.upstream = upstream.settings.name
    query = {k: v for k, v in request.args.items() if k != "upstream"}
    form = read_form() if request.method == "POST" else None
    request_context.watch_disconnect(exchange)
    method = "GET" if request.method == "HEAD" else request.method
    passed = upstream.passthrough(method, path, query, exchange, form)
    response = Response(
        exchange.set_response_stream(report_broken_download(passed.chunks, exchange)), passed.status
    )
    for name in _FORWARDED_HEADERS:
        if name in passed.headers:
            response.headers[name] = passed.headers[name]
    response.headers["X-Content-Type-Options"] = "nosniff"  # a stored page stays a file
    response.headers["Content-Security-Policy"] = "sandbox"
    return response


def report_broken_download(pieces: Iterator[bytes], exchange: RequestContext) -> Iterator[bytes]:
    """The pieces; should they break off, the exchange is told, and the server cuts the answer."""
    try:
        yield from pieces
    except (Exception, ShutdownInterrupt) as error:
        raise exchange.record_failure(error) from error


def choose_upstream() -> Upstream:
    bridge = get_gateway()
    name = request.headers.get("X-Forwarder-Upstream") or request.args.get("upstream")
    if name is None:
        name = bridge.router.default_file_upstream
        if name is None:
            raise NotFound("No upstream is known to have files; name one by ?upstream=.")
    upstream = bridge.find_upstream(name)
    if upstream is None:
        raise InvalidRequest("There is no such upstream.", param="upstream", code="invalid_value")
    return upstream


def read_form() -> MultipartForm:
    """The form of the request; a large file in it lies on disk meanwhile."""
    try:
        files = request.files.items(multi=True)
    except HTTPException as error:  # too large, or cut off
        raise request_context.convert_http_error(error) from None
    return MultipartForm(
        request.form.to_dict(),
        [(field, (f.filename or "file", f.stream, f.mimetype or UNKNOWN)) for field, f in files],
    )


def get_gateway() -> Gateway:
    bridge: Gateway = current_app.extensions["forwarder"]
    return bridge
