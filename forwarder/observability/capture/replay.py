"""Replay of a captured request with the current code, and comparison of the answers.

The comparison ignores ids, times and encrypted content, which differ in each run.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson

from forwarder.config.parsers import ENV_PREFIX, Fallback
from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.redaction import REDACTED, Redactor
from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.observability.capture import serialize
from forwarder.protocols.client_reasoning_style import CLIENT_HEADERS
from forwarder.protocols.registry import (
    ALL_STYLES,
    CLIENT_PROTOCOLS,
    EMBEDDING_PROTOCOLS,
    EMBEDDINGS,
    PROTOCOLS,
)
from forwarder.protocols.responses import RESPONSES
from forwarder.providers import PROFILES


class ReplayRequest(NamedTuple):
    """A request to repeat. ``path`` includes the query; ``body`` is usually JSON."""

    path: str
    headers: dict[str, str]
    body: bytes


def make_replay_request(record: Json, key: str | None) -> ReplayRequest:
    """Rebuild the client's request from a record, with ``key`` in place of the redacted key.

    WebSocket turns and background work become streamed requests. Raises InvalidRequest if the
    record does not contain the request or the request cannot be replayed.
    """
    request = read_part(read_part(record, "client"), "request")
    body = read_body(record)
    path, query = str(request.get("path", "")), request.get("query") or []
    matched = MODEL_PATH.fullmatch(path)
    if matched is None:
        raise InvalidRequest("Only model requests can be replayed.")
    protocol = CLIENT_PROTOCOLS.get(read_route(record))
    runs_in_background = protocol is not None and protocol.runs_in_background
    queued = runs_in_background and isinstance(body, dict) and body.get("background")
    if queued and read_recorded_answer(record).status == 200:
        raise InvalidRequest(
            "This request only queued background work. Replay the record of that work instead; "
            "its route is 'background'."
        )
    if request.get("method") == "GET" or queued or read_route(record) == "background":
        path, query = f"{matched['base']}/v1/responses", []
        body = {name: value for name, value in body.items() if name not in DELIVERY_FIELDS}
        body["stream"] = True
    headers = {k: v for k, v in request.get("headers") or () if KEPT_HEADERS.fullmatch(k)}
    headers["Content-Type"] = "application/json"
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    suffix = f"?{urlencode([(k, v) for k, v in query])}" if query else ""
    return ReplayRequest(path + suffix, headers, data)


MODEL_PATH = re.compile(
    rf"(?P<base>(/({'|'.join(ALL_STYLES)}))?)("
    + "|".join(re.sub("^/v1", "(/v1)?", path) for each in PROTOCOLS.values() for path in each.paths)
    + ")"
)
"""Paths of model requests. Others are not replayed: a foreign record could change stored data."""

KEPT_HEADERS = re.compile(f"x-forwarder-.*|{'|'.join(CLIENT_HEADERS)}", re.IGNORECASE)
"""Headers that affect the answer."""

DELIVERY_FIELDS = ("type", "generate", "background", "stream_options")
"""Fields about the delivery of the answer, which do not apply to the streamed replay."""


def list_caveats(record: Json) -> Iterator[str]:
    """Yield the reasons why the replay may differ from the original."""
    summary = read_part(record, "exchange")
    request = read_part(read_part(record, "client"), "request")
    if "left_out" in request:
        yield "the request exceeded the capture limit: its longest texts are missing"
    elif not summary.get("whole", True):
        yield "the exchange exceeded the capture limit: its end is missing"
    if summary.get("redacted") and is_content_redacted(record):
        yield "secrets are redacted"


REDACTED_PAIR = re.compile(rb'\["[^"]*","\*\*\*"\]')
"""A header or a query parameter with a key, as a record contains it."""


def is_content_redacted(record: Json) -> bool:
    """Return whether a redacted record lacks more than keys in headers, which it always lacks."""
    return REDACTED.encode() in REDACTED_PAIR.sub(b"", orjson.dumps(record))


def read_body(record: Json) -> Any:
    """Return the request body: a dict if it is a JSON object, otherwise bytes."""
    client = read_part(record, "client")
    resumed = client.get("resumed") or {}
    request = read_part(client, "request")
    body = resumed.get("body") or request.get("body")
    if isinstance(body, dict):
        return body
    if "body" in request:
        return orjson.dumps(request["body"])
    if isinstance(request.get("text"), str):
        return str(request["text"]).encode()
    raise InvalidRequest("The record does not contain the client's request.")


def read_part(parent: Json, name: str) -> Json:
    part = parent.get(name)
    if not isinstance(part, dict):
        raise InvalidRequest("This is not a record of an exchange.")
    return part


def read_route(record: Json) -> Any:
    return read_part(record, "exchange").get("route")


# -- settings -----------------------------------------------------------------------------------


def make_replay_settings(settings: Settings) -> Settings:
    """Return the settings without capture, metrics, tracing and limits."""
    return replace(
        settings,
        capture="off",
        metrics=False,
        tracing=False,
        rate_requests=None,
        rate_tokens=None,
        max_concurrent=None,
    )


def make_playback_settings(settings: Settings, record: Json) -> Settings:
    """Like `make_replay_settings`, plus an upstream for each one that the record names.

    An upstream that is still configured keeps its current settings if it still speaks the recorded
    protocol. The first recorded upstream comes first.
    """
    settings = make_replay_settings(settings)
    recorded: dict[str, list[Json]] = {}
    for attempt in record.get("upstream") or ():
        recorded.setdefault(str(attempt["upstream"]), []).append(attempt)
    if not recorded:
        return settings
    known = {} if settings.demo else {upstream.name: upstream for upstream in settings.upstreams}
    body = read_body(record)
    model = body.get("model") if isinstance(body, dict) else None
    models = {name: attempts[0].get("model") for name, attempts in recorded.items()}
    for name, attempts in recorded.items():
        if name not in known or not supports_protocol(known[name], attempts[0]):
            others = [Fallback(n, m) for n, m in models.items() if n != name and not known.get(n)]
            known[name] = make_recorded_upstream(name, attempts, model, tuple(others))
    first = next(iter(recorded))
    ordered = sorted(known.values(), key=lambda upstream: upstream.name != first)
    return replace(settings, upstreams=tuple(ordered), demo=False)


def make_recorded_upstream(
    name: str, attempts: list[Json], model: Any, others: tuple[Fallback, ...]
) -> UpstreamSettings:
    """Derive the settings of an unconfigured upstream from its recorded attempts."""
    first = attempts[0]
    environment = {
        f"{ENV_PREFIX}UPSTREAMS": "recorded",
        "RECORDED_BASE_URL": re.sub(
            r"/(chat/completions|responses|responses/compact|embeddings)$", "", first["url"]
        ),
        "RECORDED_API": read_protocol(first),
        "RECORDED_PROVIDER": first["provider"] if first.get("provider") in PROFILES else "",
    }
    (upstream,) = Settings.from_env(environment).upstreams
    target = first.get("model")
    aliases = {model: target} if isinstance(model, str) and isinstance(target, str) else {}
    retries = min(len(attempts) - 1, 5)
    return replace(upstream, name=name, aliases=aliases, max_retries=retries, fallback=others)


def read_protocol(attempt: Json) -> str:
    """Return the upstream's protocol; embeddings work with either, so they count as Chat."""
    protocol = str(attempt["protocol"])
    return _API_OF_ENDPOINT.get(protocol, protocol)


_API_OF_ENDPOINT = {"compact": RESPONSES.name, EMBEDDINGS.name: EMBEDDINGS.upstream_api}


def supports_protocol(upstream: UpstreamSettings, attempt: Json) -> bool:
    return attempt["protocol"] in EMBEDDING_PROTOCOLS or read_protocol(attempt) in upstream.apis


# -- answers ------------------------------------------------------------------------------------


class ReplayAnswer(NamedTuple):
    """An answer: its status and its content in the format of `serialize`."""

    status: int | None
    content: Json

    def format_lines(self) -> Iterator[str]:
        """Yield readable lines: the status, then one line per JSON value."""
        yield f"status {self.status}" if self.status else "no status"
        for value in iterate_values(self.content):
            yield json.dumps(value, ensure_ascii=False)


def read_recorded_answer(record: Json) -> ReplayAnswer:
    """Return the answer that the client received originally."""
    answer = read_part(record, "client").get("answer") or {}
    return ReplayAnswer(answer.get("status"), answer)


def make_replay_answer(status: int, data: bytes, redactor: Redactor) -> ReplayAnswer:
    """Parse the answer of a replay and redact it like a record."""
    parsed = redactor.redact_value(serialize.parse_answer([(0.0, data)]))
    redacted = redactor.redact_everywhere(orjson.dumps(parsed))
    return ReplayAnswer(status, orjson.loads(redacted))


def diff_answers(
    before: ReplayAnswer, now: ReplayAnswer, max_lines: int | None = None
) -> list[str]:
    """Return a unified diff of two answers; empty if they are equal apart from volatile fields.

    At most ``max_lines`` lines of each answer are compared.
    """
    if before.status is None:
        before, now = align_without_status(before, now)
    old, new = (list(islice(iterate_comparable_lines(each), max_lines)) for each in (before, now))
    return list(difflib.unified_diff(old, new, "captured", "now", lineterm="", n=2))


def align_without_status(
    before: ReplayAnswer, now: ReplayAnswer
) -> tuple[ReplayAnswer, ReplayAnswer]:
    """Make the answer of a WebSocket turn or of background work comparable with an HTTP answer.

    Turns and background work report an error only as ``response.failed``. A stream also sends an
    ``error`` event, and a rejected request has an error status.
    """
    if now.status is not None and now.status >= 400:
        return reduce_to_error(before), reduce_to_error(now)
    return drop_error_events(before), drop_error_events(now)


def reduce_to_error(answer: ReplayAnswer) -> ReplayAnswer:
    """Reduce an answer to the message of its error, or of its final error event."""
    last = ([None, *iterate_values(answer.content)])[-1]
    failure = last if isinstance(last, dict) else {}
    error = failure.get("error") or (failure.get("response") or {}).get("error") or {}
    return ReplayAnswer(None, {"body": error.get("message")})


def drop_error_events(answer: ReplayAnswer) -> ReplayAnswer:
    def is_error(event: Json) -> bool:
        data = event.get("data")
        return isinstance(data, dict) and data.get("type") == "error"

    events = answer.content.get("events", ())
    return ReplayAnswer(None, {"events": [event for event in events if not is_error(event)]})


def iterate_values(content: Json) -> Iterator[Any]:
    """Yield the values of an answer without their times; skip comments and other non-data."""
    if "body" in content:
        yield content["body"]
    elif "text" in content or "latin1" in content:
        yield content.get("text", content.get("latin1"))
    for each in (*content.get("events", ()), *content.get("lines", ())):
        if "data" in each:
            yield each["data"]


def iterate_comparable_lines(answer: ReplayAnswer) -> Iterator[str]:
    yield f"status {answer.status}"
    names: dict[str, str] = {}
    for value in iterate_values(answer.content):
        text = json.dumps(drop_volatile_fields(value), ensure_ascii=False, indent=1, sort_keys=True)
        yield from GENERATED_ID.sub(
            lambda m: names.setdefault(m[0], f"id{len(names)}"), text
        ).splitlines()


GENERATED_ID = re.compile(
    r"\b(?:resp|msg|rs|fc|ctc|call|chatcmpl|req|item|cmp|conv|ig|ws|toolu|srvtoolu)[_-][\w-]{8,}"
)
"""Matches ids that the forwarder generates."""

VOLATILE_FIELDS = frozenset(
    {
        "created", "created_at", "completed_at", "encrypted_content", "obfuscation", "signature",
        "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
    }
)  # fmt: skip
"""Fields with a different value in each run."""

STORAGE_FIELDS = frozenset({"store", "previous_response_id", "conversation", "background"})
"""Fields about storage. A replay stores nothing."""


def drop_volatile_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: "*" if k in VOLATILE_FIELDS and v is not None else drop_volatile_fields(v)
            for k, v in value.items()
            if k not in STORAGE_FIELDS
        }
    if isinstance(value, list):
        return [drop_volatile_fields(inner) for inner in value]
    return value
