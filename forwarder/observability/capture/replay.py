"""A captured request once more, through today's code; and how its answer differs from that time's.

Ids, times and seals are new each time, so they are not compared.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson

from forwarder.config.parsers import ENV_PREFIX, Fallback
from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.redaction import Redactor, collect_settings_secrets
from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.observability.capture import serialize
from forwarder.protocols.client_reasoning_style import ALL_STYLES, CLIENT_HEADERS
from forwarder.providers import PROFILES


class ReplayRequest(NamedTuple):
    """A request as it is to be sent again: ``path`` has the query, ``body`` is JSON mostly."""

    path: str
    headers: dict[str, str]
    body: bytes


def make_replay_request(record: Json, key: str | None) -> ReplayRequest:
    """The client's request of a record, with ``key`` in the place of the one that is not in there.

    Turns of a WebSocket and background work are asked for as streams.  Raises InvalidRequest when
    the record does not have the request.
    """
    asked = read_part(read_part(record, "client"), "request")
    body = read_body(record)
    path, query = str(asked.get("path", "")), asked.get("query") or []
    matched = MODEL_PATH.fullmatch(path)
    if matched is None:
        raise InvalidRequest("Only requests that ask a model are sent again.")
    queued = read_route(record) == "responses" and isinstance(body, dict) and body.get("background")
    if queued and read_recorded_answer(record).status == 200:
        raise InvalidRequest(
            "This request was only queued; the work that it asked for is an exchange of its own, "
            "whose route is 'background'."
        )
    if asked.get("method") == "GET" or queued or read_route(record) == "background":
        path, query = f"{matched['base']}/v1/responses", []
        body = {name: value for name, value in body.items() if name not in DELIVERY_FIELDS}
        body["stream"] = True
    kept = {k: v for k, v in asked.get("headers") or () if KEPT_HEADERS.fullmatch(k)}
    headers = {**kept, "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return ReplayRequest(path + format_query(query), headers, data)


MODEL_PATH = re.compile(
    rf"(?P<base>(/({'|'.join(ALL_STYLES)}))?)"
    r"((/v1)?/(chat/completions|responses|responses/compact|embeddings)"
    r"|/api/(chat|generate|embed|embeddings))"
)
"""Paths on which a model is asked; on others a record from elsewhere might change something."""

KEPT_HEADERS = re.compile(f"x-forwarder-.*|{'|'.join(CLIENT_HEADERS)}", re.IGNORECASE)
"""Headers that decide how a request is answered."""

DELIVERY_FIELDS = ("type", "generate", "background", "stream_options")
"""What says how an answer is wanted that is not wanted so here."""


def list_caveats(record: Json) -> Iterator[str]:
    """Why the replay may fare otherwise than the original."""
    summary = read_part(record, "exchange")
    asked = read_part(read_part(record, "client"), "request")
    if "left_out" in asked:
        yield "the request was too long to be kept whole: its longest texts are left out"
    elif not summary.get("whole", True):
        yield "the exchange was too long to be kept whole: its end is left out"
    if summary.get("redacted"):
        yield "what was secret is blotted out of it"


def read_body(record: Json) -> Any:
    client = read_part(record, "client")
    resumed = client.get("resumed") or {}
    asked = read_part(client, "request")
    found = resumed.get("body") or asked.get("body")
    if isinstance(found, dict):
        return found
    if "body" in asked:
        return orjson.dumps(asked["body"])
    if isinstance(asked.get("text"), str):
        return str(asked["text"]).encode()
    raise InvalidRequest("The record does not have the client's request.")


def format_query(pairs: Sequence[Sequence[str]]) -> str:
    return f"?{urlencode([(k, v) for k, v in pairs])}" if pairs else ""


def read_part(of: Json, name: str) -> Json:
    part = of.get(name)
    if not isinstance(part, dict):
        raise InvalidRequest("This is no record of an exchange.")
    return part


def read_route(record: Json) -> Any:
    return read_part(record, "exchange").get("route")


# -- with which settings ------------------------------------------------------------------------


def make_replay_settings(settings: Settings) -> Settings:
    """The settings for a request that nobody else should notice."""
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
    """The same, in which every upstream that a record names is there, as it was asked.

    Those that today's settings have as well are as they are today.
    """
    settings = make_replay_settings(settings)
    asked: dict[str, list[Json]] = {}
    for attempt in record.get("upstream") or ():
        asked.setdefault(str(attempt["upstream"]), []).append(attempt)
    if not asked:
        return settings
    known = {} if settings.demo else {upstream.name: upstream for upstream in settings.upstreams}
    model = read_requested_model(record)
    models = {name: attempts[0].get("model") for name, attempts in asked.items()}
    for name, attempts in asked.items():
        if name not in known or not supports_protocol(known[name], attempts[0]):
            others = [Fallback(n, m) for n, m in models.items() if n != name and not known.get(n)]
            known[name] = make_recorded_upstream(name, attempts, model, tuple(others))
    first = next(iter(asked))
    ordered = sorted(known.values(), key=lambda upstream: upstream.name != first)
    return replace(settings, upstreams=tuple(ordered), demo=False)


def make_recorded_upstream(
    name: str, attempts: list[Json], model: Any, others: tuple[Fallback, ...]
) -> UpstreamSettings:
    """Settings for an upstream of which only its recorded requests are known."""
    first = attempts[0]
    given = {
        f"{ENV_PREFIX}UPSTREAMS": "recorded",
        "RECORDED_BASE_URL": re.sub(
            r"/(chat/completions|responses|responses/compact|embeddings)$", "", first["url"]
        ),
        "RECORDED_API": read_protocol(first),
        "RECORDED_PROVIDER": first["provider"] if first.get("provider") in PROFILES else "",
    }
    (upstream,) = Settings.from_env(given).upstreams
    to = first.get("model")
    aliases = {model: to} if isinstance(model, str) and isinstance(to, str) else {}
    retries = min(len(attempts) - 1, 5)
    return replace(upstream, name=name, aliases=aliases, max_retries=retries, fallback=others)


def read_protocol(attempt: Json) -> str:
    """What an upstream spoke; embeddings are the same beside either."""
    protocol = str(attempt["protocol"])
    return {"compact": "responses", "embeddings": "chat"}.get(protocol, protocol)


def supports_protocol(upstream: UpstreamSettings, attempt: Json) -> bool:
    return attempt["protocol"] == "embeddings" or read_protocol(attempt) in upstream.apis


def read_requested_model(record: Json) -> Any:
    body = read_body(record)
    return body.get("model") if isinstance(body, dict) else None


# -- what came of it ----------------------------------------------------------------------------


class ReplayAnswer(NamedTuple):
    """An answer: its status and what was said, as `frames` has it."""

    status: int | None
    content: Json

    def format_lines(self) -> Iterator[str]:
        """For people: the status, then a line for each thing that was said."""
        yield f"status {self.status}" if self.status else "no status"
        for value in iterate_values(self.content):
            yield json.dumps(value, ensure_ascii=False)


def read_recorded_answer(record: Json) -> ReplayAnswer:
    """What the client got when the record was made."""
    answer = read_part(record, "client").get("answer") or {}
    return ReplayAnswer(answer.get("status"), answer)


def make_replay_answer(status: int, data: bytes, settings: Settings) -> ReplayAnswer:
    """What came of a replay, blotted as a record is."""
    redaction = Redactor(settings.capture_redact, collect_settings_secrets(settings))
    said = serialize.parse_answer([(0.0, data)])
    return ReplayAnswer(
        status,
        orjson.loads(redaction.redact_everywhere(orjson.dumps(redaction.redact_value(said)))),
    )


def diff_answers(before: ReplayAnswer, now: ReplayAnswer) -> list[str]:
    """The lines in which two answers differ, as a unified diff; none when they say the same."""
    if before.status is None:
        before, now = align_without_status(before, now)
    old, new = (list(iterate_comparable_lines(each)) for each in (before, now))
    return list(difflib.unified_diff(old, new, "captured", "now", lineterm="", n=2))


def align_without_status(
    before: ReplayAnswer, now: ReplayAnswer
) -> tuple[ReplayAnswer, ReplayAnswer]:
    """The events of a turn or of background work, and what a POST is told instead of them.

    Those say by ``response.failed`` alone what a stream says by ``error`` too, and what a request
    is told by its status.
    """
    if now.status is not None and now.status >= 400:
        return reduce_to_error(before), reduce_to_error(now)
    return drop_error_events(before), drop_error_events(now)


def reduce_to_error(answer: ReplayAnswer) -> ReplayAnswer:
    """The message of the error that an answer is, or ends with."""
    last = ([None, *iterate_values(answer.content)])[-1]
    failed = last if isinstance(last, dict) else {}
    error = failed.get("error") or (failed.get("response") or {}).get("error") or {}
    return ReplayAnswer(None, {"body": error.get("message")})


def drop_error_events(answer: ReplayAnswer) -> ReplayAnswer:
    events = answer.content.get("events", ())
    return ReplayAnswer(
        None, {"events": [each for each in events if read_event_type(each) != "error"]}
    )


def read_event_type(event: Json) -> Any:
    data = event.get("data")
    return data.get("type") if isinstance(data, dict) else None


def iterate_values(said: Json) -> Iterator[Any]:
    """What was said, without when; comments and the like say nothing."""
    if "body" in said:
        yield said["body"]
    elif "text" in said or "latin1" in said:
        yield said.get("text", said.get("latin1"))
    for each in (*said.get("events", ()), *said.get("lines", ())):
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
    r"\b(?:resp|msg|rs|fc|ctc|call|chatcmpl|req|item|cmp|conv|ig|ws)[_-][\w-]{8,}"
)
"""Ids as they are made here."""

VOLATILE_FIELDS = frozenset(
    {
        "created", "created_at", "completed_at", "encrypted_content", "obfuscation",
        "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
    }
)  # fmt: skip
"""Fields that never say the same twice."""

STORAGE_FIELDS = frozenset({"store", "previous_response_id", "conversation", "background"})
"""Fields that say what is stored, which in a replay is nothing."""


def drop_volatile_fields(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in STORAGE_FIELDS}
        return {
            k: "*" if k in VOLATILE_FIELDS and v is not None else drop_volatile_fields(v)
            for k, v in kept.items()
        }
    if isinstance(value, list):
        return [drop_volatile_fields(inner) for inner in value]
    return value
