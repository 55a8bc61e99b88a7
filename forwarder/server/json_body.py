"""Parsing of request bodies: decompression, size checks, JSON."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask
from werkzeug.wsgi import get_input_stream

from forwarder.core import json_lenient
from forwarder.core.errors import InvalidRequest, TooLarge
from forwarder.core.large_bodies import take_turn
from forwarder.core.paced_iteration import LARGE_BYTES
from forwarder.core.types import Json
from forwarder.server.content_encoding import DecodedBody
from forwarder.server.extension import get_request


def install_decoding(app: Flask) -> None:
    """Decode compressed request bodies for all routes of ``app``, up to MAX_CONTENT_LENGTH."""
    app.before_request(decode_body)


def decode_body() -> None:
    """Replace the request stream with the decoded body and remove ``Content-Encoding``.

    The limit also applies to bodies of unknown length: Werkzeug would truncate them silently.
    """
    flask_request = get_request()
    environ = flask_request.environ
    header = environ.pop("HTTP_CONTENT_ENCODING", "")
    limit = flask_request.max_content_length
    flask_request.max_content_length = limit  # else Flask reads its configuration at each access
    if limit is not None and (header or "CONTENT_LENGTH" not in environ):
        # One more byte, so that the reader sees the end of a body of exactly the limit.
        open_body = partial(get_input_stream, environ, max_content_length=limit + 1)
        flask_request.stream = DecodedBody(open_body, header, limit)  # type: ignore[assignment]


def read_body(data: bytes, max_values: int, reserve_text: Callable[[int], None]) -> Json:
    """Parse a request body into a JSON object.

    Large bodies are parsed one at a time, and other requests run between the steps.
    ``reserve_text`` reserves the extra memory that decoded strings need, beyond the bytes of the
    body; it may raise to refuse the body.

    Raises TooLarge if the body holds more than about ``max_values`` values, InvalidRequest if it
    is missing, malformed, no object, or too deeply nested to re-serialize.
    """
    size = len(data)
    take_turn(size)
    if json_lenient.has_more_values(data, max_values):
        raise TooLarge(
            f"The request body holds more than {max_values} JSON values "
            "(limit: FORWARDER_MAX_JSON_VALUES)."
        )
    if size >= LARGE_BYTES:
        reserve_text(json_lenient.measure_text(data))
    take_turn(size)
    body = parse_json(data)
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.", code="invalid_json")
    take_turn(size)
    if json_lenient.is_too_deep(data, body):
        name = next(n for n, value in body.items() if not json_lenient.is_writable({n: value}))
        raise InvalidRequest(f"'{name}' is nested too deeply.", param=name, code="invalid_value")
    take_turn(size)
    return body


def parse_json(data: bytes) -> Any:
    try:
        return json_lenient.parse_strict(data)
    except json_lenient.NonFiniteNumber as error:
        raise InvalidRequest(
            f"Invalid value for '{error.path}': {error}", param=error.path, code="invalid_json"
        ) from None
    except ValueError:
        raise InvalidRequest("The request body is not valid JSON.", code="invalid_json") from None
