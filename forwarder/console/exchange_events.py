"""The events of a recorded exchange: rows of both sides, phases, and the joined texts.

Pure: a record (see `observability.capture.record`) goes in, values for templates come out. Records
are untrusted: any field of an event may be missing or have any type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from forwarder.console import answer_events
from forwarder.console.answer_events import get_dict, list_dicts
from forwarder.console.exchange_text import shorten_text
from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json

MAX_CELL_TEXT = 400
"""Characters of the joined text of one row."""

MAX_PART_TEXT = 20_000
"""Characters of one part of an answer."""

MAX_PARTS = 60

SAME_MILLISECONDS = 1.0
"""Events of both sides are shown in one row if they are no further apart."""

STREAMED_KINDS = {
    "reasoning": "thinking",
    "text": "text",
    "refusal": "refusal",
    "call": "tool call",
}
"""Kinds of parts that arrive in pieces, and their names on the page."""

CLIENT_PROTOCOLS_OF_ROUTES = {"background": "responses", "compact": "responses"}
"""Routes whose name is not that of the client's protocol -> that protocol."""


class Entry(NamedTuple):
    """One event on one side of the exchange, at ``at`` milliseconds.

    ``data`` is the recorded event, None for an entry without one. ``is_delta`` marks events that
    only continue a text. ``attempt`` is the number of the request to an upstream.
    """

    at: float
    side: str
    title: str
    data: Any = None
    parts: tuple[answer_events.Part, ...] = ()
    is_delta: bool = False
    is_bad: bool = False
    attempt: int = 0


UPSTREAM, CLIENT = "upstream", "client"


class Cell(NamedTuple):
    """The entries of one side in one row."""

    entries: list[Entry]

    @property
    def title(self) -> str:
        """The type of the first entry."""
        return escape_control_characters(self.entries[0].title)

    @property
    def text(self) -> str:
        """The joined texts, shortened."""
        separator = "" if self.entries[0].is_delta else ", "
        texts = [part.text for entry in self.entries for part in entry.parts if part.text]
        joined = separator.join(texts)
        return escape_control_characters(shorten_text(joined, MAX_CELL_TEXT))

    @property
    def has_data(self) -> bool:
        """Whether there is JSON to show."""
        return self.entries[0].data is not None

    @property
    def is_bad(self) -> bool:
        """Whether one of the entries is an error."""
        return any(entry.is_bad for entry in self.entries)


class Row(NamedTuple):
    """The entries of both sides in the same span of time, from ``at`` to ``end``."""

    at: float
    kind: str
    cells: dict[str, Cell]

    @property
    def end(self) -> float:
        """The time of the last entry."""
        return max(cell.entries[-1].at for cell in self.cells.values())


# -- entries --------------------------------------------------------------------------------------


def list_entries(record: Json) -> list[Entry]:
    """Return all entries of both sides, in the order of their times."""
    entries: list[Entry] = []
    attempts = list_dicts(record.get("upstream"))
    for number, attempt in enumerate(attempts, 1):
        label = f" {number}" if len(attempts) > 1 else ""
        entries += [each._replace(attempt=number) for each in list_attempt(attempt, label)]
    answer = get_dict(get_dict(record, "client"), "answer")
    end = read_time(get_dict(record, "exchange").get("duration_ms"))
    answered = list(iterate_answer(answer, CLIENT, find_client_protocol(record), end))
    if not answered and "status" in answer:
        answered = [Entry(end, CLIENT, f"status {answer['status']}")]
    return sorted(entries + answered, key=lambda entry: entry.at)


def list_attempt(attempt: Json, label: str) -> Iterator[Entry]:
    """Yield the entries of one request to an upstream; ``label`` is its number, if needed."""
    at = read_time(attempt.get("at"))
    yield Entry(at, UPSTREAM, f"request{label} to {attempt.get('upstream')}")
    answer = get_dict(attempt, "answer")
    if "status" in answer:
        status, at = answer["status"], read_time(answer.get("head_at"), at)
        is_bad = type(status) is int and status >= 400
        yield Entry(at, UPSTREAM, f"status {status}{label}", is_bad=is_bad)
    for entry in iterate_answer(answer, UPSTREAM, str(attempt.get("protocol")), at):
        at = entry.at
        yield entry
    if attempt.get("error"):
        yield Entry(at, UPSTREAM, f"connection failed{label}", attempt["error"], is_bad=True)


def find_client_protocol(record: Json) -> str:
    """Return the name of the protocol that the client speaks."""
    route = str(get_dict(record, "exchange").get("route"))
    return CLIENT_PROTOCOLS_OF_ROUTES.get(route, route)


def iterate_answer(answer: Json, side: str, protocol: str, default_at: float) -> Iterator[Entry]:
    """Yield the entries of an answer in the format of `capture.serialize`."""
    if "body" in answer:
        yield make_entry(answer, side, protocol, default_at)
    for each in (*list_dicts(answer.get("events")), *list_dicts(answer.get("lines"))):
        yield make_entry(each, side, protocol, default_at)
    if "text" in answer or "latin1" in answer:
        yield make_entry(answer, side, protocol, default_at)


def make_entry(event: Json, side: str, protocol: str, default_at: float) -> Entry:
    data = next((event[k] for k in ("body", "data", "text", "latin1") if k in event), None)
    parts = tuple(answer_events.read_parts(protocol, data))
    kind = data.get("type") if isinstance(data, dict) else None
    continues = (kind is None or str(kind).endswith(".delta")) and "body" not in event
    is_delta = bool(parts) and continues and all(part.kind in STREAMED_KINDS for part in parts)
    is_bad = any(part.kind == "error" for part in parts)
    at = read_time(event.get("at"), default_at)
    return Entry(at, side, find_title(event, data), data, parts, is_delta, is_bad)


def find_title(event: Json, data: Any) -> str:
    """Return the type of an event, or else a description of its data."""
    if not isinstance(data, dict):
        return shorten_text(str(data), 80).strip() or "nothing"
    for candidate in (data.get("type"), event.get("event"), data.get("object")):
        if isinstance(candidate, str) and candidate:
            return shorten_text(candidate, 80)
    return "whole answer" if "body" in event else "line"


def read_time(value: Any, default: float = 0.0) -> float:
    """Return a time of a record, in milliseconds."""
    return float(value) if type(value) in (int, float) else default


# -- rows -----------------------------------------------------------------------------------------


def fold_entries(entries: list[Entry]) -> list[Row]:
    """Join consecutive deltas of the same kind, on both sides, to one row.

    Other events share a row if they are on different sides and within `SAME_MILLISECONDS`.
    """
    rows: list[Row] = []
    is_open = False
    for entry in entries:
        kind = entry.parts[0].kind if entry.is_delta else ""
        joins = bool(rows) and rows[-1].kind == kind
        if entry.is_delta:
            joins = joins and is_open
        elif joins:
            joins = entry.side not in rows[-1].cells and entry.at - rows[-1].at <= SAME_MILLISECONDS
        if not joins:
            rows.append(Row(entry.at, kind, {}))
        is_open = entry.is_delta
        rows[-1].cells.setdefault(entry.side, Cell([])).entries.append(entry)
    return rows


# -- phases ---------------------------------------------------------------------------------------


class Phase(NamedTuple):
    """A bar of the waterfall, in milliseconds; ``kind`` selects its colour."""

    label: str
    kind: str
    start: float
    end: float

    @property
    def duration(self) -> float:
        """Its length."""
        return self.end - self.start


MAX_PHASE_ATTEMPTS = 8


def find_phases(record: Json, entries: list[Entry]) -> list[Phase]:
    """Return the phases of an exchange: waiting and answer of each attempt, then the kinds."""
    total = read_time(get_dict(record, "exchange").get("duration_ms"))
    phases = [Phase("exchange", "total", 0.0, total)]
    attempts = list_dicts(record.get("upstream"))
    ends: dict[int, float] = {}
    received: list[float] = []
    for entry in entries:
        if entry.side == CLIENT:
            received.append(entry.at)
        elif entry.data is not None:
            ends[entry.attempt] = entry.at
    for number, attempt in enumerate(attempts[:MAX_PHASE_ATTEMPTS], 1):
        label = f" {number}" if len(attempts) > 1 else ""
        start, answer = read_time(attempt.get("at")), get_dict(attempt, "answer")
        head_at = max(start, read_time(answer.get("head_at"), ends.get(number, total)))
        phases.append(Phase(f"waiting for upstream{label}", "wait", start, head_at))
        if answer and number in ends:  # the other attempts have only the error of their connection
            end = max(head_at, ends[number])
            phases.append(Phase(f"upstream{label} answers", UPSTREAM, head_at, end))
    phases += find_kinds(entries)
    if received:
        phases.append(Phase("client receives", CLIENT, received[0], received[-1]))
    return phases


def find_kinds(entries: list[Entry]) -> Iterator[Phase]:
    """Yield when thinking, text and calls were streamed: to the client, else by the upstream."""
    spans: dict[tuple[str, str], tuple[float, float]] = {}
    for entry in entries:
        for part in entry.parts:
            key = (part.kind, entry.side)
            spans[key] = (spans[key][0] if key in spans else entry.at, entry.at)
    for kind, label in STREAMED_KINDS.items():
        span = spans.get((kind, CLIENT)) or spans.get((kind, UPSTREAM))
        if span is not None:
            yield Phase(label, kind, *span)


# -- parts of the answer --------------------------------------------------------------------------


class AnswerPart(NamedTuple):
    """A text, a block of reasoning, a tool call, usage … of an answer, to be shown."""

    kind: str
    name: str
    text: str


def collect_parts(entries: Iterable[Entry]) -> list[AnswerPart]:
    """Join the parts of the answer in the entries of one side."""
    return [
        AnswerPart(
            STREAMED_KINDS.get(part.kind, part.kind),
            escape_control_characters(shorten_text(part.name, 200)),
            escape_control_characters(shorten_text(part.text, MAX_PART_TEXT)),
        )
        for part in join_parts(entries)[:MAX_PARTS]
        if part.text or part.name
    ]


def join_parts(entries: Iterable[Entry]) -> list[answer_events.Part]:
    """Join the parts that the entries extend, like `answer_events.collect_parts`."""
    pieces: dict[tuple[str, str], list[answer_events.Part]] = {}
    for entry in entries:
        for part in entry.parts:
            part_id = (part.kind, part.key)
            if part.kind in answer_events.REPLACED_KINDS:
                pieces.pop(part_id, None)
            pieces.setdefault(part_id, []).append(part)
    return [
        parts[0]._replace(
            text="".join(part.text for part in parts),
            name=next((part.name for part in parts if part.name), ""),
        )
        for parts in pieces.values()
    ]
