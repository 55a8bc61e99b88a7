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

from forwarder.config.parsers import OURS, Fallback
from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.redaction import Redaction, secrets_in
from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.observability.capture import serialize
from forwarder.protocols.client_reasoning_style import ALL_STYLES, CLIENT_HEADERS
from forwarder.providers import PROFILES


class Asking(NamedTuple):
    """A request as it is to be sent again: ``path`` has the query, ``body`` is JSON mostly."""

    path: str
    headers: dict[str, str]
    body: bytes


def asking(record: Json, key: str | None) -> Asking:
    """The client's request of a record, with ``key`` in the place of the one that is not in there.

    Turns of a WebSocket and background work are asked for as streams.  Raises InvalidRequest when
    the record does not have the request.
    """
    asked = _part(_part(record, "client"), "request")
    body = _body(record)
    path, query = str(asked.get("path", "")), asked.get("query") or []
    matched = _ASKING.fullmatch(path)
    if matched is None:
        raise InvalidRequest("Only requests that ask a model are sent again.")
    queued = _route(record) == "responses" and isinstance(body, dict) and body.get("background")
    if queued and came(record).status == 200:
        raise InvalidRequest(
            "This request was only queued; the work that it asked for is an exchange of its own, "
            "whose route is 'background'."
        )
    if asked.get("method") == "GET" or queued or _route(record) == "background":
        path, query = f"{matched['base']}/v1/responses", []
        body = {name: value for name, value in body.items() if name not in _LOCAL}
        body["stream"] = True
    kept = {k: v for k, v in asked.get("headers") or () if _KEPT.fullmatch(k)}
    headers = {**kept, "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return Asking(path + _query(query), headers, data)


_ASKING = re.compile(
    rf"(?P<base>(/({'|'.join(ALL_STYLES)}))?)"
    r"((/v1)?/(chat/completions|responses|responses/compact|embeddings)"
    r"|/api/(chat|generate|embed|embeddings))"
)
"""Paths on which a model is asked; on others a record from elsewhere might change something."""

_KEPT = re.compile(f"x-forwarder-.*|{'|'.join(CLIENT_HEADERS)}", re.IGNORECASE)
"""Headers that decide how a request is answered."""

_LOCAL = ("type", "generate", "background", "stream_options")
"""What says how an answer is wanted that is not wanted so here."""


def notes(record: Json) -> Iterator[str]:
    """Why the replay may fare otherwise than the original."""
    summary = _part(record, "exchange")
    asked = _part(_part(record, "client"), "request")
    if "left_out" in asked:
        yield "the request was too long to be kept whole: its longest texts are left out"
    elif not summary.get("whole", True):
        yield "the exchange was too long to be kept whole: its end is left out"
    if summary.get("redacted"):
        yield "what was secret is blotted out of it"


def _body(record: Json) -> Any:
    client = _part(record, "client")
    resumed = client.get("resumed") or {}
    asked = _part(client, "request")
    found = resumed.get("body") or asked.get("body")
    if isinstance(found, dict):
        return found
    if "body" in asked:
        return orjson.dumps(asked["body"])
    if isinstance(asked.get("text"), str):
        return str(asked["text"]).encode()
    raise InvalidRequest("The record does not have the client's request.")


def _query(pairs: Sequence[Sequence[str]]) -> str:
    return f"?{urlencode([(k, v) for k, v in pairs])}" if pairs else ""


def _part(of: Json, name: str) -> Json:
    part = of.get(name)
    if not isinstance(part, dict):
        raise InvalidRequest("This is no record of an exchange.")
    return part


def _route(record: Json) -> Any:
    return _part(record, "exchange").get("route")


# -- with which settings ------------------------------------------------------------------------


def rehearsed(settings: Settings) -> Settings:
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


def recorded(settings: Settings, record: Json) -> Settings:
    """The same, in which every upstream that a record names is there, as it was asked.

    Those that today's settings have as well are as they are today.
    """
    settings = rehearsed(settings)
    asked: dict[str, list[Json]] = {}
    for attempt in record.get("upstream") or ():
        asked.setdefault(str(attempt["upstream"]), []).append(attempt)
    if not asked:
        return settings
    known = {} if settings.demo else {upstream.name: upstream for upstream in settings.upstreams}
    model = _asked_model(record)
    models = {name: attempts[0].get("model") for name, attempts in asked.items()}
    for name, attempts in asked.items():
        if name not in known or not _speaks(known[name], attempts[0]):
            others = [Fallback(n, m) for n, m in models.items() if n != name and not known.get(n)]
            known[name] = _made(name, attempts, model, tuple(others))
    first = next(iter(asked))
    ordered = sorted(known.values(), key=lambda upstream: upstream.name != first)
    return replace(settings, upstreams=tuple(ordered), demo=False)


def _made(
    name: str, attempts: list[Json], model: Any, others: tuple[Fallback, ...]
) -> UpstreamSettings:
    """Settings for an upstream of which only its recorded requests are known."""
    first = attempts[0]
    given = {
        f"{OURS}UPSTREAMS": "recorded",
        "RECORDED_BASE_URL": re.sub(
            r"/(chat/completions|responses|responses/compact|embeddings)$", "", first["url"]
        ),
        "RECORDED_API": _protocol(first),
        "RECORDED_PROVIDER": first["provider"] if first.get("provider") in PROFILES else "",
    }
    (upstream,) = Settings.from_env(given).upstreams
    to = first.get("model")
    aliases = {model: to} if isinstance(model, str) and isinstance(to, str) else {}
    retries = min(len(attempts) - 1, 5)
    return replace(upstream, name=name, aliases=aliases, max_retries=retries, fallback=others)


def _protocol(attempt: Json) -> str:
    """What an upstream spoke; embeddings are the same beside either."""
    protocol = str(attempt["protocol"])
    return {"compact": "responses", "embeddings": "chat"}.get(protocol, protocol)


def _speaks(upstream: UpstreamSettings, attempt: Json) -> bool:
    return attempt["protocol"] == "embeddings" or _protocol(attempt) in upstream.apis


def _asked_model(record: Json) -> Any:
    body = _body(record)
    return body.get("model") if isinstance(body, dict) else None


# -- what came of it ----------------------------------------------------------------------------


class Came(NamedTuple):
    """An answer: its status and what was said, as `frames` has it."""

    status: int | None
    said: Json

    def lines(self) -> Iterator[str]:
        """For people: the status, then a line for each thing that was said."""
        yield f"status {self.status}" if self.status else "no status"
        for value in _values(self.said):
            yield json.dumps(value, ensure_ascii=False)


def came(record: Json) -> Came:
    """What the client got when the record was made."""
    answer = _part(record, "client").get("answer") or {}
    return Came(answer.get("status"), answer)


def came_now(status: int, data: bytes, settings: Settings) -> Came:
    """What came of a replay, blotted as a record is."""
    redaction = Redaction(settings.capture_redact, secrets_in(settings))
    said = serialize.read([(0.0, data)])
    return Came(status, orjson.loads(redaction.everywhere(orjson.dumps(redaction.value(said)))))


def differences(before: Came, now: Came) -> list[str]:
    """The lines in which two answers differ, as a unified diff; none when they say the same."""
    if before.status is None:
        before, now = _headless(before, now)
    old, new = (list(_comparable(each)) for each in (before, now))
    return list(difflib.unified_diff(old, new, "captured", "now", lineterm="", n=2))


def _headless(before: Came, now: Came) -> tuple[Came, Came]:
    """The events of a turn or of background work, and what a POST is told instead of them.

    Those say by ``response.failed`` alone what a stream says by ``error`` too, and what a request
    is told by its status.
    """
    if now.status is not None and now.status >= 400:
        return _why(before), _why(now)
    return _without_errors(before), _without_errors(now)


def _why(answer: Came) -> Came:
    """The message of the error that an answer is, or ends with."""
    last = ([None, *_values(answer.said)])[-1]
    failed = last if isinstance(last, dict) else {}
    error = failed.get("error") or (failed.get("response") or {}).get("error") or {}
    return Came(None, {"body": error.get("message")})


def _without_errors(answer: Came) -> Came:
    events = answer.said.get("events", ())
    return Came(None, {"events": [each for each in events if _kind(each) != "error"]})


def _kind(event: Json) -> Any:
    data = event.get("data")
    return data.get("type") if isinstance(data, dict) else None


def _values(said: Json) -> Iterator[Any]:
    """What was said, without when; comments and the like say nothing."""
    if "body" in said:
        yield said["body"]
    elif "text" in said or "latin1" in said:
        yield said.get("text", said.get("latin1"))
    for each in (*said.get("events", ()), *said.get("lines", ())):
        if "data" in each:
            yield each["data"]


def _comparable(answer: Came) -> Iterator[str]:
    yield f"status {answer.status}"
    names: dict[str, str] = {}
    for value in _values(answer.said):
        text = json.dumps(_timeless(value), ensure_ascii=False, indent=1, sort_keys=True)
        yield from _ID.sub(lambda m: names.setdefault(m[0], f"id{len(names)}"), text).splitlines()


_ID = re.compile(r"\b(?:resp|msg|rs|fc|ctc|call|chatcmpl|req|item|cmp|conv|ig|ws)[_-][\w-]{8,}")
"""Ids as they are made here."""

_NEW = frozenset(
    {
        "created", "created_at", "completed_at", "encrypted_content", "obfuscation",
        "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
    }
)  # fmt: skip
"""Fields that never say the same twice."""

_STATE = frozenset({"store", "previous_response_id", "conversation", "background"})
"""Fields that say what is stored, which in a replay is nothing."""


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _STATE}
        return {k: "*" if k in _NEW and v is not None else _timeless(v) for k, v in kept.items()}
    if isinstance(value, list):
        return [_timeless(inner) for inner in value]
    return value
