"""Comparison of a client's request with the requests to upstreams that it became.

Pure: recorded requests go in, rows for the template come out. Dispositions are those that the dry
run finds (`pipeline.dry_run`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from forwarder.console.answer_events import get_dict, list_dicts
from forwarder.console.exchange_events import (
    AnswerPart,
    Entry,
    collect_parts,
    find_client_protocol,
)
from forwarder.console.exchange_text import (
    ReadableJsonFormatter,
    describe_left_out,
    shorten_text,
    show_body,
    show_headers,
    show_label,
)
from forwarder.core.errors import InvalidRequest
from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json
from forwarder.pipeline.dry_run import list_dispositions
from forwarder.protocols.parameters import Disposition
from forwarder.protocols.registry import PROTOCOLS
from forwarder.providers import PROFILES
from forwarder.upstream.client import PreviewedRequest

MAX_PARAMETERS = 80

SYNONYMS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""Parameters of Chat Completions that providers take under the other name."""


class Line(NamedTuple):
    """A line of JSON; ``is_different`` if the other side has no such line."""

    text: str
    is_different: bool


class NamedValue(NamedTuple):
    """A parameter and the lines of its value."""

    name: str
    lines: list[Line]


class ParameterRow(NamedTuple):
    """A parameter of the client and the parameters of the upstream that it becomes.

    ``kind`` is its disposition, or ``added`` for a parameter that only the upstream got; ``name``
    is then the upstream's.
    """

    name: str
    kind: str
    reason: str
    client: NamedValue | None
    upstream: list[NamedValue]


class AttemptView(NamedTuple):
    """One request to an upstream. ``same_as`` is the number of an earlier attempt with its body."""

    number: int
    upstream: str
    facts: list[tuple[str, str]]
    status: str
    is_bad: bool
    same_as: int | None
    rows: list[ParameterRow]
    more_parameters: int
    text: str
    headers: list[tuple[str, str]]
    parts: list[AnswerPart]


def find_request(client: Json) -> Json:
    """Return the client's request, together with the history that it continues."""
    resumed = get_dict(get_dict(client, "resumed"), "body")
    return resumed or get_dict(get_dict(client, "request"), "body")


class AttemptBuilder:
    """Builds a view of each request to an upstream in one record.

    ``client_request`` is the client's request, together with the history that it continues.
    """

    def __init__(
        self,
        record: Json,
        client_request: Json,
        entries: list[Entry],
        formatter: ReadableJsonFormatter,
    ) -> None:
        self._record = record
        self._client_request = client_request
        self._entries = entries
        self._formatter = formatter

    def build_attempt(self, number: int, attempt: Json) -> AttemptView:
        """Build the view of the attempt with this number, counted from 1."""
        request, answer = get_dict(attempt, "request"), get_dict(attempt, "answer")
        same_as = find_same_request(number, list_dicts(self._record.get("upstream")))
        rows: list[ParameterRow] = []
        if same_as is None and isinstance(request.get("body"), dict):
            rows = self._compare_requests(attempt)
        status = answer.get("status")
        return AttemptView(
            number=number,
            upstream=show_label(attempt.get("upstream")),
            facts=list(list_attempt_facts(attempt)),
            status=str(status) if type(status) is int else "",
            is_bad="error" in attempt or (type(status) is int and status >= 400),
            same_as=same_as,
            rows=rows[:MAX_PARAMETERS],
            more_parameters=max(0, len(rows) - MAX_PARAMETERS),
            text="" if rows or same_as else show_body(request, self._formatter),
            headers=show_headers(answer.get("headers")),
            parts=collect_parts(entry for entry in self._entries if entry.attempt == number),
        )

    def _compare_requests(self, attempt: Json) -> list[ParameterRow]:
        """Return a row for each parameter of the client, then those that only the upstream got."""
        sent = get_dict(get_dict(attempt, "request"), "body")
        dispositions = find_dispositions(self._client_request, attempt, self._record)
        matches = match_parameters(dispositions, sent, find_client_protocol(self._record))
        rows = [
            self._make_row(
                name,
                disposition,
                read_value(self._client_request, name),
                {sent_name: sent[sent_name] for sent_name in matches[name]},
            )
            for name, disposition in islice(dispositions.items(), MAX_PARAMETERS + 1)
        ]
        matched = {name for names in matches.values() for name in names}
        reason = "the client did not send it"
        for name in [name for name in sent if name not in matched][:MAX_PARAMETERS]:
            lines = [Line(text, False) for text in self._format_lines(sent[name])]
            value = NamedValue(show_label(name), lines)
            rows.append(ParameterRow(value.name, "added", reason, None, [value]))
        return rows

    def _make_row(
        self, name: str, disposition: Disposition, value: Any, sent: Json
    ) -> ParameterRow:
        own = self._format_lines(value)
        others = {sent_name: self._format_lines(each) for sent_name, each in sent.items()}
        other_keys = {make_line_key(line) for lines in others.values() for line in lines}
        own_keys = set(map(make_line_key, own))
        label = show_label(name)
        return ParameterRow(
            label,
            disposition.kind,
            escape_control_characters(shorten_text(disposition.reason, 500)),
            NamedValue(label, mark_lines(own, other_keys)),
            [NamedValue(show_label(k), mark_lines(lines, own_keys)) for k, lines in others.items()],
        )

    def _format_lines(self, value: Any) -> list[str]:
        return self._formatter.format(value).splitlines()


def list_attempt_facts(attempt: Json) -> Iterator[tuple[str, str]]:
    request, answer = get_dict(attempt, "request"), get_dict(attempt, "answer")
    for title, name in (
        ("URL", "url"), ("Protocol", "protocol"), ("Profile", "provider"), ("Model", "model"),
    ):  # fmt: skip
        if attempt.get(name):
            yield title, show_label(attempt[name])
    error = get_dict(attempt, "error")
    if error:
        yield "Connection failed", show_label(f"{error.get('type')}: {error.get('message')}")
    for title, part in (("Request", request), ("Answer", answer)):
        if "left_out" in part:
            yield title, describe_left_out(part)


def find_same_request(number: int, attempts: list[Json]) -> int | None:
    """Return the number of the first earlier attempt with the same request."""
    own = attempts[number - 1]
    for other, attempt in enumerate(attempts[: number - 1], 1):
        same = all(attempt.get(name) == own.get(name) for name in ("url", "protocol", "request"))
        if same:
            return other
    return None


def find_dispositions(client_request: Json, attempt: Json, record: Json) -> dict[str, Disposition]:
    """Return the dispositions of the request's parameters, as the dry run finds them."""
    client, over = find_client_protocol(record), str(attempt.get("protocol"))
    profile = PROFILES.get(str(attempt.get("provider")), PROFILES["generic"])
    sent = PreviewedRequest("", profile, get_dict(get_dict(attempt, "request"), "body"))
    dropped = {name: str(reason) for name, reason in get_dict(record, "dropped").items()}
    if client not in PROTOCOLS:
        return {name: Disposition("") for name in client_request}
    if over == "compact":
        over = client
    try:
        return list_dispositions(client_request, client, over, sent, dropped)
    except InvalidRequest:  # the request was refused
        return {name: Disposition("") for name in client_request}


def match_parameters(
    dispositions: dict[str, Disposition], sent: Json, client: str
) -> dict[str, list[str]]:
    """Return the upstream's parameters that each parameter of the client becomes.

    Each of the upstream's parameters is matched with at most one of the client's.
    """
    names = PROTOCOLS[client].parameter_names if client in PROTOCOLS else {}
    matches: dict[str, list[str]] = {name: [] for name in dispositions}
    for sent_name in sent:
        candidates = (sent_name, *names.get(sent_name, ()), SYNONYMS.get(sent_name, ""))
        for candidate in candidates:
            own = candidate if candidate in matches else candidate.partition(".")[0]
            if own in matches:
                matches[own].append(sent_name)
                break
    return matches


def read_value(client_request: Json, name: str) -> Any:
    """Return the value of a parameter, which may be in Ollama's ``options``."""
    if name in client_request:
        return client_request[name]
    return get_dict(client_request, "options").get(name.removeprefix("options."))


def mark_lines(lines: list[str], other_keys: set[str]) -> list[Line]:
    """Mark the lines that the other side lacks, if it has any."""
    return [
        Line(line, bool(other_keys) and make_line_key(line) not in other_keys) for line in lines
    ]


def make_line_key(line: str) -> str:
    """Return a line without the parts that depend on its place: indentation and the comma."""
    return line.strip().rstrip(",")
