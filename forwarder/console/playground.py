"""The playground: translates a request while it is typed, sends it, and shows both sides.

The browser sends the request as the body, and the choices of the form as query parameters
(`PlaygroundChoice`). The preview is the gateway's dry run. To send the request, the page runs it
through the application like a client's request (`ObservedCall`) and streams its events to the
browser as server-sent events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import orjson
from flask import Response, current_app
from werkzeug.exceptions import HTTPException

from forwarder.console.answer_events import shorten_strings
from forwarder.console.blueprint import blueprint, render_page
from forwarder.console.code_snippets import make_headers, write_curl, write_json, write_python
from forwarder.console.exchanges import parse_record
from forwarder.console.observed_call import CallRequest, ObservedCall
from forwarder.context.redaction import (
    Redactor,
    collect_client_key,
    collect_settings_secrets,
    collect_upstream_secrets,
)
from forwarder.core.blocking_work import BlockingPool
from forwarder.core.errors import ForwarderError, InvalidRequest, NotFound
from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json
from forwarder.core.validate import check_enum
from forwarder.observability.capture.replay import make_replay_request
from forwarder.pipeline.dry_run import detect_protocol
from forwarder.protocols.client_reasoning_style import HEADER as STYLE_HEADER
from forwarder.protocols.framing import KEEP_ALIVE
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.server import request_hooks
from forwarder.server.extension import get_gateway, get_request, get_services
from forwarder.server.json_body import read_body
from forwarder.server.mixed_request_shapes import adapt_shape
from forwarder.server.request_hooks import build_public_address
from forwarder.server.serving import EventStreamResponse
from forwarder.services import Services, list_registered_upstreams

SAMPLES = Path(__file__).parent / "samples"
"""One file for each API: name of the sample -> its title and its body."""

KEY_HEADER = "X-Playground-Key"
"""Header of the page's request with the client's key. A query parameter would be logged."""

MODEL_PLACEHOLDER = "MODEL"

MAX_SHOWN_REQUEST = 200_000
"""Characters of an upstream request that are shown."""

MAX_CODE_BYTES = 500_000
"""Larger requests are shown without code that sends them."""


class Api(NamedTuple):
    """An API of clients: its protocol, title and path."""

    protocol: str
    title: str
    path: str


APIS = (
    Api("responses", "Responses", "/v1/responses"),
    Api("chat", "Chat Completions", "/v1/chat/completions"),
    Api("messages", "Anthropic Messages", "/v1/messages"),
    Api("ollama", "Ollama chat", "/api/chat"),
    Api("ollama_generate", "Ollama generate", "/api/generate"),
)

API_BY_PROTOCOL = {api.protocol: api for api in APIS}

OLLAMA_FIELDS = ("options", "think", "keep_alive", "format")
"""Fields that tell a request of ``/api/chat`` from one of Chat Completions."""


ANTHROPIC_FIELDS = ("system", "thinking", "stop_sequences", "output_config")
"""Fields that tell a request of ``/v1/messages`` from one of Chat Completions."""


class PlaygroundChoice(NamedTuple):
    """The choices for a request: API, upstream or registered model, style, and two switches.

    An empty ``api`` is detected from the body, an empty ``target`` follows from the model's name,
    and an empty ``style`` is the default. Without ``stores``, nothing is stored.
    """

    api: str = ""
    target: str = ""
    style: str = ""
    stores: bool = False
    is_strict: bool = False


class PlaygroundRequest(NamedTuple):
    """A request as it will be sent: its API, body and headers."""

    api: Api
    body: Json
    headers: dict[str, str]


class InvalidJson(InvalidRequest):
    """The text is not JSON; ``line`` and ``column`` count from 1."""

    code = "invalid_json"

    def __init__(self, error: json.JSONDecodeError) -> None:
        self.line, self.column = error.lineno, error.colno
        super().__init__(f"Line {self.line}, column {self.column}: {error.msg}.")


# -- pages ----------------------------------------------------------------------------------------


@blueprint.get("/playground")
def show_playground() -> Response:
    """Show the page; ``?exchange=`` or ``?sample=`` names the request in it."""
    arguments = get_request().args
    exchange, sample = arguments.get("exchange"), arguments.get("sample")
    choice = PlaygroundChoice()
    if exchange:
        choice, text = load_exchange(exchange)
    else:
        sample = sample or "responses/streaming"
        choice, text = load_sample(sample)
    services = get_services()
    return render_page(
        "playground.html",
        text=text,
        choice=choice,
        exchange=exchange,
        sample=sample,
        apis=APIS,
        samples=[
            (api, [(f"{api.protocol}/{name}", title) for name, title in list_samples(api.protocol)])
            for api in APIS
        ],
        targets=list_targets(services),
        styles=[
            (api.title, CLIENT_PROTOCOLS[api.protocol].reasoning_styles)
            for api in APIS
            if CLIENT_PROTOCOLS[api.protocol].reasoning_styles
        ],
        is_captured=services.capture is not None,
        key_header=KEY_HEADER,
    )


@cache
def get_pool() -> BlockingPool:
    """Return the pool of previews. It is created at first use, because it needs an event loop."""
    return BlockingPool(1)


@blueprint.post("/playground/preview")
def preview_request() -> Response:
    """Show the upstream request that a request becomes, and the disposition of each field."""
    context = request_hooks.current_context()
    try:
        request = read_request()
        code = write_code(request)  # before the dry run, which may change the body
        style = request.headers.get(STYLE_HEADER)
        if "X-Forwarder-Strict" in request.headers:
            context.loss_report.strict = True
        client = request.api.protocol
        body = adapt_shape(request.body, client, context)
        report = get_gateway().preview(client, body, style, context)
    except ForwarderError as error:
        return render_page("playground_preview.html", failure=error)
    # A native thread, because a request may have half a million values.
    upstream = get_pool().run(lambda: write_json(shorten_strings(report["request"])))
    return render_page(
        "playground_preview.html",
        failure=None,
        api=request.api,
        report=report,
        upstream=upstream[:MAX_SHOWN_REQUEST],
        is_cut=len(upstream) > MAX_SHOWN_REQUEST,
        rows=list(list_dispositions(report)),
        code=code,
    )


def list_dispositions(report: Json) -> Iterator[tuple[str, str, str]]:
    """Yield name, disposition and reason of each field, and of each part that is dropped."""
    dispositions, dropped = report["dispositions"], report["dropped"]
    for name, row in dispositions.items():
        yield escape_control_characters(name), row["disposition"], row.get("reason", "")
    for name, reason in dropped.items():
        if name not in dispositions:
            yield escape_control_characters(name), "dropped", escape_control_characters(reason)


@blueprint.post("/playground/send")
def send_request() -> Response:
    """Send a request and stream the events of both sides."""
    try:
        request = read_request()
        key = require_ascii_key(get_request().headers.get(KEY_HEADER, "").strip())
    except ForwarderError as error:
        return stream_batches(batch for batch in [[encode_refusal(error)]])
    services = get_services()
    wanted = CallRequest(
        request.api.protocol, request.api.path, orjson.dumps(request.body), request.headers, key
    )
    redactor = make_redactor(services, key)
    call = ObservedCall(
        current_app.wsgi_app, get_request(), wanted, redactor, services.settings.capture_max
    )
    reservation = request_hooks.current_context().body_reservation
    if reservation is not None:
        reservation.release()  # the call reserves the memory of its body
    return stream_batches(call.stream_events(services.settings.keepalive))


def stream_batches(batches: Iterator[list[bytes]]) -> Response:
    response = EventStreamResponse(encode_batches(batches), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    return response


def encode_batches(batches: Iterator[list[bytes]]) -> Iterator[bytes]:
    """Encode batches of JSON texts as server-sent events, and an empty one as a comment."""
    with closing(batches):  # type: ignore[type-var]
        yield KEEP_ALIVE  # the page learns at once that the request was accepted
        for batch in batches:
            yield b"".join(b"data: %b\n\n" % event for event in batch) or KEEP_ALIVE


def encode_refusal(error: ForwarderError) -> bytes:
    """Encode the event for a request that was not sent."""
    place = {"line": error.line, "column": error.column} if isinstance(error, InvalidJson) else {}
    return orjson.dumps(
        {"side": "call", "at": 0, "kind": "refused", **error.make_error_object(), **place}
    )


# -- the request ----------------------------------------------------------------------------------


def read_request() -> PlaygroundRequest:
    """Read the request of the page. Raises InvalidRequest, TooLarge or Overloaded."""
    choice = read_choice()
    try:
        data = request_hooks.pop_body()
    except HTTPException as error:  # too large, or cut off
        raise request_hooks.convert_http_error(error) from None
    body = read_json(data)
    api = API_BY_PROTOCOL[choice.api or detect_api(body)]
    body = choose_storage(choose_target(body, choice.target), api.protocol, choice.stores)
    return PlaygroundRequest(api, body, make_headers(choice.style, choice.is_strict))


def read_choice() -> PlaygroundChoice:
    arguments = get_request().args
    api = arguments.get("api", "")
    if api:
        check_enum(api, tuple(API_BY_PROTOCOL), "api")
    style = arguments.get("style", "")
    if not style.isascii() or not style.isprintable():
        raise InvalidRequest("Unknown reasoning style.", param="style", code="invalid_value")
    return PlaygroundChoice(
        api, arguments.get("target", ""), style, "store" in arguments, "strict" in arguments
    )


def require_ascii_key(key: str) -> str | None:
    """Return the key of the client for whom a request is sent, or None without one."""
    if not key.isascii():
        raise InvalidRequest("A key has only ASCII characters.", param="key", code="invalid_value")
    return key or None


def read_json(data: bytes) -> Json:
    """Parse the text of a request. Raises InvalidJson with the place of the mistake."""
    context, limit = request_hooks.current_context(), get_services().settings.max_json_values
    try:
        return read_body(data, limit, partial(request_hooks.reserve_text_memory, context))
    except InvalidRequest as error:
        if error.code == "invalid_json" and error.param is None:
            try:
                json.loads(data)
            except json.JSONDecodeError as mistake:
                raise InvalidJson(mistake) from None
            except (ValueError, RecursionError):
                raise error from None
        raise


def detect_api(body: Json) -> str:
    """Return the protocol of a body. Raises InvalidRequest if it is ambiguous."""
    if "prompt" in body and not {"messages", "input"} & body.keys():
        return "ollama_generate"
    if "messages" in body and any(name in body for name in OLLAMA_FIELDS):
        return "ollama"
    if "messages" in body and any(name in body for name in ANTHROPIC_FIELDS):
        return "messages"
    try:
        return detect_protocol(body, None)
    except InvalidRequest:
        raise InvalidRequest(
            "The API of this request is ambiguous: add 'input' or 'messages', or choose the API.",
            param="api",
            code="missing_required_parameter",
        ) from None


def choose_target(body: Json, target: str) -> Json:
    """Return the body with the model name that leads to the chosen upstream or model."""
    if not target:
        return body
    kind, _, name = target.partition(":")
    services = get_services()
    if kind == "model" and services.registry.find(name) is not None:
        return {**body, "model": name}
    names = [upstream.name for upstream in services.settings.upstreams]
    if kind != "upstream" or name not in names:
        raise InvalidRequest("Unknown upstream.", param="target", code="invalid_value")
    model = body.get("model") or services.settings.default_model or ""
    if isinstance(model, str):
        head, _, rest = model.partition("/")
        body = {**body, "model": f"{name}/{rest if rest and head in names else model}"}
    return body


def choose_storage(body: Json, api: str, stores: bool) -> Json:
    """Return the body with ``store`` set, if the API has it.

    Raises InvalidRequest without ``stores`` if another parameter would store the answer.
    """
    protocol = CLIENT_PROTOCOLS[api]
    if "store" not in protocol.parameters:
        return body
    if stores:
        return {**body, "store": True}
    for name in ("background", "conversation"):
        if body.get(name):
            raise InvalidRequest(
                f"'{name}' stores the answer. Tick \"Store\" or leave it out.",
                param=name,
                code="unsupported_parameter",
            )
    # An API with background work stores answers by default; chat completions are not stored.
    is_default = protocol.runs_in_background
    return {**body, "store": False} if is_default or "store" in body else body


def write_code(request: PlaygroundRequest) -> list[tuple[str, str, str]]:
    """Return id, title and text of the code that sends a request."""
    services = get_services()
    base = build_public_address(services.settings.public_url, get_request())
    api, body, headers = request
    if len(orjson.dumps(body)) > MAX_CODE_BYTES:
        return []
    needs_key = services.client_keys.are_required()
    curl = write_curl(f"{base}{api.path}", body, headers, needs_key)
    python = write_python(base, api.protocol, body, headers, needs_key)
    return [
        ("curl", "curl", curl),
        *([("python", "Python (openai SDK)", python)] if python is not None else []),
    ]


def make_redactor(services: Services, key: str | None) -> Redactor:
    """Return a redactor that removes all secrets that the forwarder has from the answers."""
    registered = map(collect_upstream_secrets, list_registered_upstreams(services.registry))
    known = collect_settings_secrets(services.settings).union(*registered)
    return Redactor((), known | services.hosted_tools.secrets | collect_client_key(key))


# -- samples and captures -------------------------------------------------------------------------


@cache
def read_samples(protocol: str) -> dict[str, Json]:
    """Return the samples of an API: name -> title and body."""
    samples: dict[str, Json] = orjson.loads((SAMPLES / f"{protocol}.json").read_bytes())
    return samples


def list_samples(protocol: str) -> list[tuple[str, str]]:
    return [(name, sample["title"]) for name, sample in read_samples(protocol).items()]


def load_sample(name: str) -> tuple[PlaygroundChoice, str]:
    """Return the choices for a sample, and its text. Raises NotFound."""
    protocol, _, own_name = name.partition("/")
    sample = read_samples(protocol).get(own_name) if protocol in API_BY_PROTOCOL else None
    if sample is None:
        raise NotFound(f"There is no sample '{name[:64]}'.")
    body = {"model": choose_model(), **sample["body"]}
    return PlaygroundChoice(protocol), write_json(body)


def choose_model() -> str:
    """Return the model of the samples: the default one, or the first that is known."""
    services = get_services()
    if services.settings.demo or services.settings.default_model:
        return find_example_model()
    return next((name for name, _ in services.router.list_models()), find_example_model())


def find_example_model() -> str:
    """Return the name of a model that a request can name, or `MODEL_PLACEHOLDER`."""
    settings = get_services().settings
    return "demo" if settings.demo else settings.default_model or MODEL_PLACEHOLDER


def load_exchange(name: str) -> tuple[PlaygroundChoice, str]:
    """Return the choices of a captured request, and its text. Raises NotFound or InvalidRequest."""
    record = find_record(name)
    request = make_replay_request(record, None)
    path = request.path.partition("?")[0]
    api = next((api for api in APIS if path.endswith(api.path.removeprefix("/v1"))), None)
    if api is None:
        raise InvalidRequest("Only requests for generated answers open in the playground.")
    headers = {header.lower(): text for header, text in request.headers.items()}
    style = headers.get(STYLE_HEADER.lower(), "")
    base = path.lstrip("/").partition("/")[0]
    if not style and base in CLIENT_PROTOCOLS[api.protocol].reasoning_styles:
        style = base
    try:
        text = write_json(orjson.loads(request.body))
    except ValueError:  # the client's text was not JSON
        text = request.body.decode(errors="replace")
    return PlaygroundChoice(api.protocol, style=style), text


def find_record(name: str) -> Json:
    """Return a captured exchange by its id or that of its request. Raises NotFound."""
    capture = get_services().capture
    if capture is None:
        raise NotFound("Captures are disabled: FORWARDER_CAPTURE is off.")
    found = capture.run_blocking(partial(capture.store.find, name))  # may read all records
    if found is None:
        where = "" if capture.store.is_shared else " in this worker"
        raise NotFound(f"There is no exchange '{name[:64]}'{where}.")
    return parse_record(found)


def list_targets(services: Services) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the configured upstreams and the registered models: values and titles, by group."""
    upstreams = [
        (f"upstream:{each.name}", f"{each.name} ({', '.join(sorted(each.apis))})")
        for each in services.settings.upstreams
    ]
    models = [(f"model:{each.name}", each.name) for each in services.registry.list_models()]
    groups = [("Upstreams", upstreams), ("Registered models", models)]
    return [group for group in groups if group[1]]
