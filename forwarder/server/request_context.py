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

from forwarder.context.client_identity import identify_payer
from forwarder.context.recorder import Asked, Tape
from forwarder.context.request_context import Exchange
from forwarder.core.body_memory import BodyRoom
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
from forwarder.core.ids import random_id
from forwarder.core.translation_context import Ledger
from forwarder.core.validate import choose
from forwarder.pipeline.gateway import Bridge
from forwarder.protocols.client_reasoning_style import find_rendered_field
from forwarder.server.auth import authorized
from forwarder.server.client_disconnect import on_leaving
from forwarder.server.client_socket import RequestBodyError
from forwarder.server.reasoning_base_paths import get_base_path

_PLAIN = " !#$&'()*+-./:;<=>?@[]^_`{|}~"
_NAME_LIMIT = 64
_MOST_NAMES = 40
_ROUTE_LIMIT = 100
_LIMITS = "x-ratelimit-"
_STRICT = "X-Forwarder-Strict"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_UNWATCHED = ("health", "metrics", "websocket")
_ID = re.compile(r"[\x21-\x7e]{1,128}")


def attend(app: Flask) -> None:
    """Have each request of ``app`` begin an exchange, and its answer or failure end it."""
    app.before_request(_begin)
    app.after_request(_end)
    app.register_error_handler(Exception, _failed)
    app.teardown_request(_abandon)


def current() -> Exchange:
    """The exchange of the current request."""
    exchange: Exchange = g.exchange
    return exchange


def _begin() -> None:
    # Each use of one of Flask's proxies costs as much as a small function.
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]
    bridge = current_app.extensions["forwarder"]
    g.exchange = begin(asked, bridge, _named(asked), _is_watched(asked))


def _named(asked: Request) -> str:
    """What the log calls a request: its view, or where it tried to go."""
    if asked.endpoint is None:
        return f"{asked.method} {asked.path}"[:_ROUTE_LIMIT]
    return asked.endpoint.rpartition(".")[2]


def _failed(error: Exception) -> Response:
    """The one door for errors: whatever ended a request leaves as one of ours."""
    if isinstance(error, HTTPException | RequestBodyError):
        error = ours(error)
    failure = current().blame(error)
    response = jsonify(_body(failure))
    response.status_code = failure.status
    response.headers.extend(failure.headers)
    return response


def _body(failure: ForwarderError) -> dict[str, Any]:
    """What is wrong, in the words of the API that was asked: Ollama's has nothing but a message."""
    return {"error": failure.message} if request.path.startswith("/api/") else failure.body()


def _end(response: Response) -> Response:
    exchange = current()
    exchange.status = response.status_code
    sign(response.headers, exchange)
    if exchange.tape is not None:
        _take_down(response, exchange.tape)
    if response.is_streamed:
        response.call_on_close(exchange.close)
    else:
        exchange.close()  # all that was opened for it has been read
    return response


def _take_down(response: Response, tape: Tape) -> None:
    """Put the answer on the tape, a stream while it goes out."""
    track = tape.answers(response.status_code, list(response.headers.items()))
    if response.is_streamed:
        response.response = track.passing(cast(Iterable[bytes], response.response))
    else:
        track.add(response.get_data())


def _abandon(error: BaseException | None) -> None:
    """Close the exchange of a request that ends by itself, without an answer of the application.

    The process ends, or the greenlet is killed: no error handler hears of that.
    """
    if error is not None and not isinstance(error, Exception) and "exchange" in g:
        exchange = current()
        exchange.blame(ShuttingDown())
        exchange.close()


def begin(asked: Request, bridge: Bridge, route: str, watched: bool = True) -> Exchange:
    """A new exchange for a request."""
    settings = bridge.settings
    header = asked.headers.get
    given = header("X-Request-Id", "")
    exchange = Exchange(
        id=given if _ID.fullmatch(given) else random_id("req"),
        route=route,
        ledger=Ledger(
            strict=settings.strict or header(_STRICT, "").lower() in _YES,
            max_schema_nodes=settings.max_schema_nodes,
        ),
        log_sample=settings.log_sample,
        log_bodies=settings.log_bodies,
        address=partial(_address, settings.public_url, asked),
        rendered_field=find_rendered_field(header),
        observers=bridge.observers if watched else (),
        client_headers=bridge.header_selection.select(asked.headers.items()),
    )
    exchange.began(header)
    return exchange


def make_room(exchange: Exchange) -> BodyRoom:
    """Room for the body of a request, until its exchange ends."""
    bridge: Bridge = current_app.extensions["forwarder"]
    room = BodyRoom(bridge.body_memory)
    exchange.opened.add(room.free)
    return room


def another(route: str) -> Exchange:
    """An exchange for work that is begun by this request, and outlives it.

    Raises Overloaded when there is no room to hold the body for it.
    """
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]
    own, more = current(), begin(asked, current_app.extensions["forwarder"], route)
    more.id, more.client_key, more.payer = random_id("req"), own.client_key, own.payer
    more.client_address = own.client_address
    more.body_size = own.body_size
    make_room(more).resize(own.body_size)
    if own.tape is not None:
        more.tape = own.tape.another(more.started)
    return more


def _address(public_url: str | None, asked: Request) -> str:
    """Where the client reaches the forwarder; few answers need to say it, and some only later."""
    return (public_url or asked.url_root).rstrip("/")


def _is_watched(asked: Request) -> bool:
    """Probes would fill the counts, and addresses that nobody serves are anybody's invention.

    Of a WebSocket the turns count, each for itself.
    """
    return (asked.blueprint or "health").partition("/")[0] not in _UNWATCHED


def admit(exchange: Exchange, has_body: bool = True) -> None:
    """Note who asks; raises what says that it may not, has had its share, or comes too many.

    The body is read before the exchange takes one of the places (FORWARDER_MAX_CONCURRENT), so
    that slow clients do not hold them.
    """
    bridge: Bridge = current_app.extensions["forwarder"]
    exchange.client_key = authorized(bridge.settings.api_keys)
    if bridge.capture is not None:
        exchange.tape = bridge.capture.tape(exchange, _asked(request))
    check_strictness()
    exchange.client_address = request.remote_addr
    exchange.payer = identify_payer(exchange.client_key, exchange.client_address, bridge.settings)
    exchange.admit(exchange.client_address)
    if has_body:
        receive_body()
    bridge.resilience.admit(exchange)
    exchange.run = run = bridge.running.enter()
    exchange.opened.add(bridge.running.leave, run)


def receive_body() -> None:
    """Read the whole request body in advance; `take_body` gives it.

    A form is read too: its large files go to disk.
    """
    if request.mimetype == "multipart/form-data":
        _ = request.form
    else:
        g.body = _read_all()


def take_body() -> bytes:
    """The request body, once: nothing here keeps it afterwards."""
    received: bytes | None = g.pop("body", None)
    return _read_all() if received is None else received


def _read_all() -> bytes:
    exchange = current()
    data = make_room(exchange).read_all(request.stream.read)
    exchange.body_size = len(data)
    return data


def _asked(asked: Request) -> Asked:
    """The head of a request."""
    query = list(asked.args.items(multi=True))
    return Asked(
        asked.method, get_base_path(asked) + asked.path, query, list(asked.headers.items())
    )


def check_strictness() -> None:
    """Raise InvalidRequest for a header of which it is not clear what it wants."""
    if said := request.headers.get(_STRICT, "").lower():
        choose(said, (*_YES, *_NO), _STRICT)


def watch(exchange: Exchange) -> None:
    """Notice from here on that the client leaves.

    To be called when its whole request has been read: the watch ends with the next byte that comes.
    """
    exchange.opened.add(on_leaving(request.environ.get("gunicorn.socket"), exchange.leave))


def sign(headers: Headers, exchange: Exchange) -> None:
    """Put what the client should know of the exchange into an answer's headers."""
    for name, value in exchange.reply_headers.items():
        headers.setdefault(name, value)
    if exchange.limit_headers:
        _tell_limits(headers, exchange.limit_headers)
    headers["X-Request-Id"] = exchange.id
    if exchange.upstream:
        headers["X-Forwarder-Upstream"] = exchange.upstream
    headers.update(losses(exchange))


def losses(exchange: Exchange) -> dict[str, str]:
    """The header that names what did not go over; none when all did."""
    dropped = sorted(exchange.ledger.dropped)
    return {"X-Forwarder-Dropped": _listed(dropped)} if dropped else {}


def _tell_limits(headers: Headers, limits: dict[str, str]) -> None:
    """Our own limits are those the client meets; the upstream's beside them would confuse it."""
    names = list(headers.keys())
    for name in names:
        if name.lower().startswith(_LIMITS):
            del headers[name]
    for name, value in limits.items():
        headers[name] = value


def ours(error: HTTPException | RequestBodyError) -> ForwarderError:
    """One of Werkzeug's own refusals, or the worker's, as ours."""
    return _OURS.get(error.code or 500, InvalidRequest)(error.description or error.name)


_OURS: dict[int, type[ForwarderError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    408: BodyTimeout,
    413: TooLarge,
    500: InternalError,
}


def _listed(names: list[str]) -> str:
    """Names for a header: clients choose some of them, so they are quoted and kept short."""
    quoted = [quote(name[:_NAME_LIMIT], safe=_PLAIN) for name in names[:_MOST_NAMES]]
    more = len(names) - len(quoted)
    return ", ".join(quoted) + (f", and {more} more" if more else "")
