"""Anthropic's Messages API for clients: its errors, its whole answers, its list of models.

Every event has a type, and a stream ends with ``message_stop`` or with ``error``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import (
    ForwarderError,
    InvalidRequest,
    NotFound,
    Unsupported,
    UpstreamProtocolError,
    UpstreamRefused,
)
from forwarder.core.ids import format_timestamp
from forwarder.core.types import EventStream, Json
from forwarder.protocols import framing
from forwarder.protocols.chat_responses_mappings import to_upstream_error
from forwarder.protocols.messages_dispositions import MESSAGES_PARAMETERS
from forwarder.protocols.parameters import list_client_names
from forwarder.protocols.protocol import (
    AUTO_STYLE,
    Carrier,
    ClientApi,
    ClientProtocol,
    ErrorAnswer,
    Framing,
)
from forwarder.protocols.stream_end import InterruptibleStream

PING = b'event: ping\ndata: {"type":"ping"}\n\n'

VERSION_HEADER = "anthropic-version"
"""The header that every client of this API sends."""

# -- errors -------------------------------------------------------------------------------------

OVERLOADED_STATUS = 529

_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    OVERLOADED_STATUS: "overloaded_error",
}
"""HTTP status -> type of the error; others are invalid_request_error or api_error."""

_TOO_LONG = "prompt is too long"
"""Claude Code compacts the conversation when an error's message contains these words."""

_THREAD_DETAILS = {"error_code": "thread_unsupported_request"}
"""With these details, the SDK's tool runner sends the request again, without ``thread``."""


def make_error(error: ForwarderError) -> Json:
    """Return the ``error`` event.  With a request id, it is also the body of an HTTP error."""
    status = error.status
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    message = error.message
    is_too_long = isinstance(error, UpstreamRefused) and error.kind is ErrorKind.CONTEXT_TOO_LONG
    if is_too_long and _TOO_LONG not in message:
        message = f"{_TOO_LONG}: {message}"
    inner: Json = {"type": kind, "message": message}
    if isinstance(error, Unsupported) and error.param == "thread":
        inner["details"] = _THREAD_DETAILS
    return {"type": "error", "error": inner}


def encode_error(error: ForwarderError, request_id: str) -> ErrorAnswer:
    """Return the answer to a request that failed; the status 503 becomes Anthropic's 529."""
    status = OVERLOADED_STATUS if error.status == 503 else error.status
    return ErrorAnswer(status, {**make_error(error), "request_id": request_id})


def append_messages_error(stream: EventStream) -> InterruptibleStream:
    """Convert a failure in the stream to the ``error`` event; the stream ends with it.

    A failure after the end of the message is harmless.
    """
    is_ended = False
    try:
        for batch in stream:
            yield batch
            if batch:
                is_ended = batch[-1]["type"] == "message_stop"
    except ForwarderError as error:
        if not is_ended:
            yield [make_error(error)]


# -- whole answers ------------------------------------------------------------------------------

_DELTA_TEXTS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
"""Type of a delta -> the field with its text."""


def fold_messages(stream: EventStream) -> Json:
    """Return the message that a stream builds.

    Raises UpstreamError for an ``error`` event or a stream without its end.
    """
    message: Json = {}
    blocks: dict[int, FoldedBlock] = {}
    for batch in stream:
        for event in batch:
            kind = event["type"]
            if kind == "content_block_delta":
                blocks[event["index"]].add_delta(event["delta"])
            elif kind == "content_block_start":
                blocks[event["index"]] = FoldedBlock(event["content_block"])
            elif kind == "message_start":
                message = event["message"]
            elif kind == "message_delta":
                usage = {**message["usage"], **event["usage"]}
                message = {**message, **event["delta"], "usage": usage}
            elif kind == "message_stop":
                content = [blocks[index].build() for index in sorted(blocks)]
                return {**message, "content": content}
            elif kind == "error":
                raise to_upstream_error(event["error"])
    raise UpstreamProtocolError("The upstream's stream ended before its answer was finished.")


class FoldedBlock:
    """One block of a message while its deltas arrive."""

    def __init__(self, block: Json) -> None:
        self._block = block
        self._texts: dict[str, list[str]] = {}
        self._citations: list[Json] = []

    def add_delta(self, delta: Json) -> None:
        kind = delta["type"]
        if kind == "citations_delta":
            self._citations.append(delta["citation"])
        else:
            field = _DELTA_TEXTS[kind]
            self._texts.setdefault(field, []).append(delta[field])

    def build(self) -> Json:
        texts = {field: "".join(pieces) for field, pieces in self._texts.items()}
        arguments = texts.pop("partial_json", None)
        block = {**self._block, **texts}
        if arguments is not None:
            block["input"] = parse_input(arguments)
        return {**block, "citations": self._citations} if self._citations else block


def parse_input(arguments: str) -> Json:
    """Parse the arguments of a call; return ``{}`` if they are cut off or not a JSON object."""
    try:
        value = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# -- models -------------------------------------------------------------------------------------

_DEFAULT_PAGE, _MAX_PAGE = 20, 1000


def make_model_entry(model: Json) -> Json:
    """Return a model as this API describes it, from OpenAI's object."""
    created = model.get("created")
    seconds = created if isinstance(created, int) and 0 <= created < 2**33 else 0
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": format_timestamp(seconds),
        "lifecycle": "active",
    }


def make_model_page(models: list[Json], query: Mapping[str, str]) -> Json:
    """Return a page of the list of models; ``query`` has ``limit``, ``after_id``, ``before_id``.

    Raises InvalidRequest for an invalid limit, NotFound for an unknown id.
    """
    text = query.get("limit", str(_DEFAULT_PAGE))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= limit <= _MAX_PAGE:
        raise InvalidRequest(
            f"Invalid value for 'limit': expected a number from 1 to {_MAX_PAGE}.",
            param="limit",
            code="invalid_value",
        )
    places = {model["id"]: place for place, model in enumerate(models)}
    first, end = 0, len(models)
    if "after_id" in query:
        first = find_place(places, query["after_id"], "after_id") + 1
    if "before_id" in query:
        end = find_place(places, query["before_id"], "before_id")
        first = max(first, end - limit)
    page = [make_model_entry(model) for model in models[first : min(end, first + limit)]]
    has_more = first > 0 if "before_id" in query else first + limit < end
    return {
        "data": page,
        "has_more": has_more,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def find_place(places: Mapping[str, int], name: str, param: str) -> int:
    place = places.get(name)
    if place is None:
        raise NotFound("There is no such model in the list.", param=param, code="model_not_found")
    return place


# -- the protocol -------------------------------------------------------------------------------


def is_messages_request(path: str, has_header: Callable[[str], bool]) -> bool:
    return has_header(VERSION_HEADER) or path == "/v1/messages" or path.startswith("/v1/messages/")


MESSAGES_API = ClientApi(
    is_messages_request,
    encode_error,
    request_id_headers=("request-id",),
    make_model_page=make_model_page,
    make_model_entry=make_model_entry,
)

_PARAMETER_NAMES = {
    **list_client_names(MESSAGES_PARAMETERS),
    "messages": ("messages", "system"),
    "messages.reasoning_content": ("messages.thinking",),
    "input.reasoning": ("messages.thinking",),
    "input.reasoning.content": ("messages.thinking",),
    "reasoning_effort": ("thinking", "output_config"),
    "reasoning": ("thinking", "output_config"),
    "reasoning.effort": ("thinking", "output_config"),
    "response_format": ("output_config", "output_format"),
    "text": ("output_config", "output_format"),
    "text.format": ("output_config", "output_format"),
    **dict.fromkeys(
        ("response_format.json_schema.schema", "text.format.schema"),
        ("output_config.format.schema", "output_format.schema"),
    ),
    "service_tier": ("service_tier", "speed"),
    **{name: (name,) for name in ("temperature", "top_p", "top_k")},
}

MESSAGES = ClientProtocol(
    "messages",
    upstream_api="chat",
    parameters=MESSAGES_PARAMETERS,
    parameter_names=_PARAMETER_NAMES,
    api=MESSAGES_API,
    paths=("/v1/messages",),
    framing=Framing(framing.encode_responses, PING),
    fold=fold_messages,
    append_error=append_messages_error,
    served_as={"chat": Carrier("chat", AUTO_STYLE), "responses": Carrier("responses")},
)
