"""The ends of an exchange that are Flask's: what the request says of it, what the answer says.

Every request is one exchange, from before it is known where it leads until its answer is over, so
every answer has an id and every request a line in the log, whatever became of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any, cast
from urllib.parse import quote

from flask import Flask, Request, Response, current_app, g, jsonify, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from forwarder.context.client_identity import make_account_id
from forwarder.context.recorder import Recorder, RequestHead
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
)
from forwarder.core.ids import generate_id
from forwarder.core.translation_context import LossReport
from forwarder.core.validate import check_enum
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols.client_reasoning_style import find_rendered_field
from forwarder.server.auth import require_client_key
from forwarder.server.client_disconnect import on_client_disconnect
from forwarder.server.client_socket import RequestBodyError
from forwarder.server.reasoning_base_paths import get_base_path

_UNQUOTED_CHARACTERS = " !#$&'()*+-./:;<=>?@[]^_`{|}~"
MAX_NAME_LENGTH = 64
MAX_HEADER_NAMES = 40
MAX_ROUTE_LENGTH = 100
_LIMIT_HEADER_PREFIX = "x-ratelimit-"
_STRICT = "X-Forwarder-Strict"
_TRUE_VALUES, _FALSE_VALUES = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_UNOBSERVED_ROUTES = ("docs", "health", "metrics", "websocket")
_ID = re.compile(r"[\x21-\x7e]{1,128}")


def install_hooks(app: Flask) -> None:
    """Have each request of ``app`` begin an exchange, and its answer or failure end it."""
    app.before_request(open_context)
    app.after_request(finish_response)
    app.register_error_handler(Exception, handle_error)
    app.teardown_request(close_unfinished_context)


def current_context() -> RequestContext:
    """The exchange of the current request."""
    exchange: RequestContext = g.exchange
    return exchange


def open_context() -> None:
    # Each use of one of Flask's proxies costs as much as a small function.
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]
    bridge = current_app.extensions["forwarder"]
    g.exchange = new_context(asked, bridge, name_route(asked), is_observed_route(asked))


def name_route(asked: Request) -> str:
    """What the log calls a request: its view, or where it tried to go."""
    if asked.endpoint is None:
        return f"{asked.method} {asked.path}"[:MAX_ROUTE_LENGTH]
    return asked.endpoint.rpartition(".")[2]


def handle_error(error: Exception) -> Response:
    """The one door for errors: whatever ended a request leaves as one of ours."""
    if isinstance(error, HTTPException | RequestBodyError):
        error = convert_http_error(error)
    failure = current_context().record_failure(error)
    response = jsonify(encode_error_body(failure))
    response.status_code = failure.status
    response.headers.extend(failure.headers)
    return response


def encode_error_body(failure: ForwarderError) -> dict[str, Any]:
    """What is wrong, in the words of the API that was asked: Ollama's has nothing but a message."""
    return {"error": failure.message} if request.path.startswith("/api/") else failure.make_body()


def finish_response(response: Response) -> Response:
    exchange = current_context()
    exchange.status = response.status_code
    add_headers(response.headers, exchange)
    if exchange.recorder is not None:
        record_response(response, exchange.recorder)
    if response.is_streamed:
        response.call_on_close(exchange.close)
    else:
        exchange.close()  # all that was opened for it has been read
    return response


def record_response(response: Response, tape: Recorder) -> None:
    """Put the answer on the tape, a stream while it goes out."""
    track = tape.record_answer_head(response.status_code, list(response.headers.items()))
    if response.is_streamed:
        response.response = track.tap(cast(Iterable[bytes], response.response))
    else:
        track.add(response.get_data())


def close_unfinished_context(error: BaseException | None) -> None:
    """Close the exchange of a request that ends by itself, without an answer of the application.

    The process ends, or the greenlet is killed: no error handler hears of that.
    """
    if error is not None and not isinstance(error, Exception) and "exchange" in g:
        exchange = current_context()
        exchange.record_failure(ShuttingDown())
        exchange.close()


def new_context(
    asked: Request, bridge: Gateway, route: str, watched: bool = True
) -> RequestContext:
    """A new exchange for a request."""
    settings = bridge.settings
    header = asked.headers.get
    given = header("X-Request-Id", "")
    exchange = RequestContext(
        id=given if _ID.fullmatch(given) else generate_id("req"),
        route=route,
        loss_report=LossReport(
            strict=settings.strict or header(_STRICT, "").lower() in _TRUE_VALUES,
            max_schema_nodes=settings.max_schema_nodes,
        ),
        log_sample_rate=settings.log_sample,
        log_bodies=settings.log_bodies,
        get_base_url=partial(build_public_address, settings.public_url, asked),
        rendered_field=find_rendered_field(header),
        observers=bridge.observers if watched else (),
        client_headers=bridge.header_selection.select(asked.headers.items()),
    )
    exchange.notify_request(header)
    return exchange


def reserve_body_memory(exchange: RequestContext) -> BodyReservation:
    """Room for the body of a request, until its exchange ends."""
    bridge: Gateway = current_app.extensions["forwarder"]
    room = BodyReservation(bridge.body_memory)
    exchange.cleanup.add(room.release)
    return room


def new_background_context(route: str) -> RequestContext:
    """An exchange for work that is begun by this request, and outlives it.

    Raises Overloaded when there is no room to hold the body for it.
    """
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]
    own, more = current_context(), new_context(asked, current_app.extensions["forwarder"], route)
    more.id, more.client_key, more.account_id = generate_id("req"), own.client_key, own.account_id
    more.client_address = own.client_address
    more.body_size = own.body_size
    reserve_body_memory(more).resize(own.body_size)
    if own.recorder is not None:
        more.recorder = own.recorder.make_child(more.started_at)
    return more


def build_public_address(public_url: str | None, asked: Request) -> str:
    """Where the client reaches the forwarder; few answers need to say it, and some only later."""
    return (public_url or asked.url_root).rstrip("/")


def is_observed_route(asked: Request) -> bool:
    """Probes would fill the counts, and addresses that nobody serves are anybody's invention.

    Of a WebSocket the turns count, each for itself.
    """
    return (asked.blueprint or "health").partition("/")[0] not in _UNOBSERVED_ROUTES


def authenticate(exchange: RequestContext, has_body: bool = True) -> None:
    """Note who asks; raises what says that it may not, has had its share, or comes too many.

    The body is read before the exchange takes one of the places (FORWARDER_MAX_CONCURRENT), so
    that slow clients do not hold them.
    """
    bridge: Gateway = current_app.extensions["forwarder"]
    exchange.client_key = require_client_key(bridge.settings.api_keys)
    if bridge.capture is not None:
        exchange.recorder = bridge.capture.make_recorder(exchange, describe_request(request))
    check_strictness()
    exchange.client_address = request.remote_addr
    exchange.account_id = make_account_id(
        exchange.client_key, exchange.client_address, bridge.settings
    )
    exchange.authorize(exchange.client_address)
    if has_body:
        receive_body()
    bridge.resilience.admit_request(exchange)
    exchange.run = run = bridge.running.add_request()
    exchange.cleanup.add(bridge.running.remove_request, run)


def receive_body() -> None:
    """Read the whole request body in advance; `pop_body` gives it.

    A form is read too: its large files go to disk.
    """
    if request.mimetype == "multipart/form-data":
        _ = request.form
    else:
        g.body = read_whole_body()


def pop_body() -> bytes:
    """The request body, once: nothing here keeps it afterwards."""
    received: bytes | None = g.pop("body", None)
    return read_whole_body() if received is None else received


def read_whole_body() -> bytes:
    exchange = current_context()
    data = reserve_body_memory(exchange).read_all(request.stream.read)
    exchange.body_size = len(data)
    return data


def describe_request(asked: Request) -> RequestHead:
    """The head of a request."""
    query = list(asked.args.items(multi=True))
    return RequestHead(
        asked.method, get_base_path(asked) + asked.path, query, list(asked.headers.items())
    )


def check_strictness() -> None:
    """Raise InvalidRequest for a header of which it is not clear what it wants."""
    if said := request.headers.get(_STRICT, "").lower():
        check_enum(said, (*_TRUE_VALUES, *_FALSE_VALUES), _STRICT)


def watch_disconnect(exchange: RequestContext) -> None:
    """Notice from here on that the client leaves.

    To be called when its whole request has been read: the watch ends with the next byte that comes.
    """
    exchange.cleanup.add(
        on_client_disconnect(request.environ.get("gunicorn.socket"), exchange.cancel)
    )


def add_headers(headers: Headers, exchange: RequestContext) -> None:
    """Put what the client should know of the exchange into an answer's headers."""
    for name, value in exchange.reply_headers.items():
        headers.setdefault(name, value)
    if exchange.rate_limit_headers:
        add_limit_headers(headers, exchange.rate_limit_headers)
    headers["X-Request-Id"] = exchange.id
    if exchange.upstream:
        headers["X-Forwarder-Upstream"] = exchange.upstream
    headers.update(loss_header(exchange))


def loss_header(exchange: RequestContext) -> dict[str, str]:
    """The header that names what did not go over; none when all did."""
    dropped = sorted(exchange.loss_report.losses)
    return {"X-Forwarder-Dropped": quote_names(dropped)} if dropped else {}


def add_limit_headers(headers: Headers, limits: dict[str, str]) -> None:
    """Our own limits are those the client meets; the upstream's beside them would confuse it."""
    names = list(headers.keys())
    for name in names:
        if name.lower().startswith(_LIMIT_HEADER_PREFIX):
            del headers[name]
    for name, value in limits.items():
        headers[name] = value


def convert_http_error(error: HTTPException | RequestBodyError) -> ForwarderError:
    """One of Werkzeug's own refusals, or the worker's, as ours."""
    return _ERRORS_BY_STATUS.get(error.code or 500, InvalidRequest)(error.description or error.name)


_ERRORS_BY_STATUS: dict[int, type[ForwarderError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    408: BodyTimeout,
    413: TooLarge,
    500: InternalError,
}


def quote_names(names: list[str]) -> str:
    """Names for a header: clients choose some of them, so they are quoted and kept short."""
    quoted = [
        quote(name[:MAX_NAME_LENGTH], safe=_UNQUOTED_CHARACTERS)
        for name in names[:MAX_HEADER_NAMES]
    ]
    more = len(names) - len(quoted)
    return ", ".join(quoted) + (f", and {more} more" if more else "")
