"""The request context under Flask: creation, authentication, error responses, headers.

Flask hooks open a `RequestContext` before the view, also if no route matches, and close it after
the response. So each response has a request id, and each request has a log record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import cast
from urllib.parse import quote

from flask import Flask, Request, Response, g, jsonify, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from forwarder.context.capture_recorder import RequestHead
from forwarder.context.client_identity import make_account_id, warn_of_whole_key
from forwarder.context.request_context import RequestContext
from forwarder.core.body_memory import BodyReservation
from forwarder.core.errors import (
    BodyTimeout,
    ForwarderError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ShuttingDown,
    TooLarge,
    Unauthorized,
)
from forwarder.core.form_disk_limit import FormDiskReservation
from forwarder.core.ids import generate_id
from forwarder.core.translation_context import LossReport
from forwarder.core.validate import check_enum
from forwarder.protocols.client_reasoning_style import find_rendered_field
from forwarder.protocols.registry import find_api
from forwarder.server.auth import Client, authenticate_client, identify_client
from forwarder.server.base_paths import get_base_path
from forwarder.server.client_disconnect import on_client_disconnect
from forwarder.server.client_socket import RequestBodyError
from forwarder.server.extension import get_globals, get_request, get_services
from forwarder.server.form_body import FormRequest
from forwarder.server.operator_call import find_operator_call
from forwarder.services import Services

_UNQUOTED_CHARACTERS = " !#$&'()*+-./:;<=>?@[]^_`{|}~"
MAX_NAME_LENGTH = 64
MAX_HEADER_NAMES = 40
MAX_ROUTE_LENGTH = 100
MAX_UNCOUNTED_ANSWER_BYTES = 2**16
_LIMIT_HEADER_PREFIX = "x-ratelimit-"
STRICT_HEADER = "X-Forwarder-Strict"
TRUE_VALUES, FALSE_VALUES = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_UNOBSERVED_ROUTES = (
    "console",
    "docs",
    "health",
    "landing",
    "metrics",
    "openapi",
    "websocket",
)
_ID = re.compile(r"[\x21-\x7e]{1,128}")


def install_hooks(app: Flask) -> None:
    """Open a context for each request of ``app`` and close it after the response or failure."""
    app.before_request(open_context)
    app.after_request(finish_response)
    app.register_error_handler(Exception, handle_error)
    app.teardown_request(close_unfinished_context)


def current_context() -> RequestContext:
    """Return the context of the current request."""
    context: RequestContext = get_globals().context
    return context


def open_context() -> None:
    flask_request = get_request()
    context = create_context(
        flask_request, get_services(), name_route(flask_request), is_observed_route(flask_request)
    )
    context.method = flask_request.method
    get_globals().context = context


def name_route(flask_request: Request) -> str:
    """Return the route for the log: the view name, or method and path if no view matches."""
    if flask_request.endpoint is None:
        return f"{flask_request.method} {flask_request.path}"[:MAX_ROUTE_LENGTH]
    return flask_request.endpoint.rpartition(".")[2]


def handle_error(error: Exception) -> Response:
    """Convert any exception into an error response of the client's API."""
    if isinstance(error, HTTPException | RequestBodyError):
        error = convert_http_error(error)
    failure = current_context().record_failure(error)
    api = find_api(request.path, request.headers.__contains__)
    answer = api.encode_error(failure, current_context().id)
    response = jsonify(answer.body)
    response.status_code = answer.status
    response.headers.extend(failure.headers)
    return response


def finish_response(response: Response) -> Response:
    context, flask_request = current_context(), get_request()
    context.status = response.status_code
    api = find_api(flask_request.path, flask_request.headers.__contains__)
    for name in api.request_id_headers:
        response.headers[name] = context.id
    add_headers(response.headers, context)
    if context.recorder is not None:
        recording = context.recorder.record_answer_head(
            response.status_code, list(response.headers.items())
        )
        if response.is_streamed:  # recorded while it is sent
            response.response = recording.tap(cast(Iterable[bytes], response.response))
        else:
            recording.add(response.get_data())
    if response.is_streamed:
        response.call_on_close(context.close)
    else:
        context.close()  # the response is complete
        hold_answer_memory(response, context)
    return response


def hold_answer_memory(response: Response, context: RequestContext) -> None:
    """Count the memory of a large response until the client has received it.

    The response may be as large as the request body, and clients may read slowly.
    """
    size = response.calculate_content_length() or 0
    if (
        size > MAX_UNCOUNTED_ANSWER_BYTES and request.method != "HEAD"
    ):  # HEAD responses are not closed
        reservation = BodyReservation(context.body_memory)
        reservation.hold(size)
        response.call_on_close(reservation.close)


def close_unfinished_context(error: BaseException | None) -> None:
    """Close the context of a request that ends without a response.

    This happens at process exit or if the greenlet is killed; Flask calls no error handler then.
    GeneratorExit means that the client of a streamed page has disconnected. The response closes the
    context in that case.
    """
    is_handled = error is None or isinstance(error, Exception | GeneratorExit)
    if not is_handled and "context" in g:
        context = current_context()
        context.record_failure(ShuttingDown())
        context.close()


def create_context(
    flask_request: Request, services: Services, route: str, is_observed: bool = True
) -> RequestContext:
    """Create the context of a request; ``is_observed=False`` leaves out the observers."""
    settings = services.settings
    header = flask_request.headers.get
    client_id = header("X-Request-Id", "")
    context = RequestContext(
        id=client_id if _ID.fullmatch(client_id) else generate_id("req"),
        route=route,
        loss_report=LossReport(
            strict=settings.strict or header(STRICT_HEADER, "").lower() in TRUE_VALUES,
            max_schema_nodes=settings.max_schema_nodes,
        ),
        log_sample_rate=settings.log_sample,
        log_bodies=settings.log_bodies,
        get_base_url=partial(build_public_address, settings.public_url, flask_request),
        rendered_field=find_rendered_field(header),
        observers=services.observers if is_observed else (),
        body_memory=services.body_memory,
        client_headers=services.header_selection.select(flask_request.headers.items()),
    )
    context.notify_request(header)
    return context


def reserve_text_memory(context: RequestContext, text: int) -> None:
    """Reserve the memory that the texts of the request body take beyond its size."""
    reservation = context.body_reservation or context.reserve_memory()
    reservation.add_text(context.body_size, text)
    context.body_text = text


def create_background_context(route: str) -> RequestContext:
    """Create the context of background work that outlives the current request.

    The work takes over the memory that the request body has reserved.
    """
    current = current_context()
    background = create_context(get_request(), get_services(), route)
    background.id = generate_id("req")
    background.client_key, background.client_name = current.client_key, current.client_name
    background.grants, background.sent_key = current.grants, current.sent_key
    background.account_id = current.account_id
    background.client_address = current.client_address
    background.body_size, background.body_text = current.body_size, current.body_text
    if current.body_reservation is not None:
        current.body_reservation.release()
    background.reserve_memory().resize(current.body_size, current.body_text)
    if current.recorder is not None:
        background.recorder = current.recorder.make_child(background.started_at)
    return background


def build_public_address(public_url: str | None, flask_request: Request) -> str:
    """Return the base URL under which the client reaches the forwarder."""
    return (public_url or flask_request.url_root).rstrip("/")


def is_observed_route(flask_request: Request) -> bool:
    """Return whether observers such as metrics see the request.

    They do not see probes and unknown paths, which clients can invent. For a WebSocket they see
    each turn instead of the connection.
    """
    return (flask_request.blueprint or "health") not in _UNOBSERVED_ROUTES


def authenticate(context: RequestContext, has_body: bool = True) -> None:
    """Authenticate the request, check its limits, read its body and admit it.

    Raises Unauthorized, RateLimited or Overloaded. The body is read before the request takes one
    of the FORWARDER_MAX_CONCURRENT slots, so that slow clients do not occupy them.
    """
    services, flask_request = get_services(), get_request()
    call = find_operator_call(flask_request)
    if call is not None:
        apply_client(context, identify_internal_client(call.client_key))
        context.recorder = call.make_recorder(context, describe_request(flask_request))
    else:
        apply_client(context, authenticate_client())
        if services.capture is not None:
            head = describe_request(flask_request)
            context.recorder = services.capture.make_recorder(context, head)
    check_strictness(flask_request)
    context.client_address = flask_request.remote_addr
    context.account_id = make_account_id(
        context.client_key, context.client_address, services.settings
    )
    if context.grants is not None:
        context.client_name = context.grants.name
    else:
        context.client_name = services.client_names.find_name(context.account_id)
    warn_of_whole_key(context.client_key, context.client_name)
    context.authorize(context.client_address)
    if has_body:
        receive_body(flask_request, context)
    services.resilience.admit_request(context)
    context.run = run = services.running.add_request()
    context.cleanup.add(services.running.remove_request, run)


def apply_client(context: RequestContext, client: Client) -> None:
    """Record the client of the request in the context."""
    context.client_key, context.grants, context.sent_key = client


def identify_internal_client(key: str | None) -> Client:
    """Return the client of a request that the operator sends; its key need not be valid."""
    try:
        return identify_client(key or "")
    except Unauthorized:
        return Client(key)


def receive_body(flask_request: Request, context: RequestContext) -> None:
    """Read the whole request body in advance; `pop_body` returns it.

    Forms are parsed too; their files are written to disk.
    """
    # Not ``mimetype``, which parses the header.
    content_type = flask_request.environ.get("CONTENT_TYPE", "")
    if content_type.lstrip().lower().startswith("multipart/form-data"):
        space = FormDiskReservation(get_services().form_disk)
        context.cleanup.add(space.release)
        cast(FormRequest, flask_request).read_form(context.reserve_memory(), space)
    else:
        get_globals().body = read_whole_body(flask_request, context)


def pop_body() -> bytes:
    """Return the request body once. No reference remains, so that its memory can be freed."""
    received: bytes | None = get_globals().pop("body", None)
    return read_whole_body(get_request(), current_context()) if received is None else received


def read_whole_body(flask_request: Request, context: RequestContext) -> bytes:
    announced = flask_request.content_length or 0
    context.body_reservation = reservation = context.reserve_memory()
    data = reservation.read_all(flask_request.stream.read, announced)
    context.body_size = len(data)
    return data


def describe_request(flask_request: Request) -> RequestHead:
    """Return the request without its body, for a capture."""
    query = list(flask_request.args.items(multi=True))
    return RequestHead(
        flask_request.method,
        get_base_path(flask_request) + flask_request.path,
        query,
        list(flask_request.headers.items()),
    )


def check_strictness(flask_request: Request) -> None:
    """Raise InvalidRequest for an unknown value of ``X-Forwarder-Strict``."""
    if value := flask_request.headers.get(STRICT_HEADER, "").lower():
        check_enum(value, (*TRUE_VALUES, *FALSE_VALUES), STRICT_HEADER)


def watch_disconnect(context: RequestContext) -> None:
    """Cancel ``context`` when the client disconnects.

    Call this after the whole request has been read: the watch ends with the next received byte.
    """
    context.cleanup.add(
        on_client_disconnect(get_request().environ.get("gunicorn.socket"), context.cancel)
    )


def add_headers(headers: Headers, context: RequestContext) -> None:
    """Add the headers of the context: request id, upstream, losses and rate limits."""
    # Not ``setdefault``: Werkzeug's makes an exception for each missing header.
    present = {name.lower() for name, _ in headers}
    for name, value in context.reply_headers.items():
        if name.lower() not in present:
            headers[name] = value
    if context.rate_limit_headers:
        add_limit_headers(headers, context.rate_limit_headers)
    headers["X-Request-Id"] = context.id
    if context.upstream:
        headers["X-Forwarder-Upstream"] = context.upstream
    headers.update(make_loss_header(context))


def make_loss_header(context: RequestContext) -> dict[str, str]:
    """Return the header that lists dropped parameters, or an empty dict without any."""
    dropped = sorted(context.loss_report.losses)
    return {"X-Forwarder-Dropped": quote_names(dropped)} if dropped else {}


def add_limit_headers(headers: Headers, limits: dict[str, str]) -> None:
    """Replace the upstream's rate limit headers by those of the forwarder's own limits."""
    names = list(headers.keys())
    for name in names:
        if name.lower().startswith(_LIMIT_HEADER_PREFIX):
            del headers[name]
    for name, value in limits.items():
        headers[name] = value


def convert_http_error(error: HTTPException | RequestBodyError) -> ForwarderError:
    """Convert an error of Werkzeug or of the gunicorn worker."""
    return _ERRORS_BY_STATUS.get(error.code or 500, InvalidRequest)(error.description or error.name)


_ERRORS_BY_STATUS: dict[int, type[ForwarderError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    408: BodyTimeout,
    413: TooLarge,
    500: InternalError,
}


def quote_names(names: list[str]) -> str:
    """Join names for a header. Clients choose some names, so quote and shorten them."""
    quoted = [
        quote(name[:MAX_NAME_LENGTH], safe=_UNQUOTED_CHARACTERS)
        for name in names[:MAX_HEADER_NAMES]
    ]
    more = len(names) - len(quoted)
    return ", ".join(quoted) + (f", and {more} more" if more else "")
