"""Replays a captured exchange with the current code and compares the answers.

A request goes to its upstream as configured now, to another upstream, or to none. Without an
upstream, a separate application parses and translates the recorded answers again. Building it takes
some 50 ms of CPU time, so a native thread does it while other streams continue.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cache, partial
from typing import Any, NamedTuple

import orjson
from flask import Response, current_app

from forwarder.console.answer_events import Part, collect_parts, shorten_strings
from forwarder.console.blueprint import (
    blueprint,
    is_part_request,
    read_form_field,
    render_page,
)
from forwarder.console.observed_call import CallRequest, ObservedCall
from forwarder.console.playground import (
    choose_target,
    find_record,
    list_targets,
    make_redactor,
    require_ascii_key,
)
from forwarder.core.blocking_work import BlockingPool
from forwarder.core.errors import ForwarderError
from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json
from forwarder.core.validate import check_enum
from forwarder.observability.capture.replay import (
    ReplayAnswer,
    diff_answers,
    iterate_values,
    list_caveats,
    make_replay_answer,
    make_replay_request,
    read_recorded_answer,
)
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.server.extension import get_request, get_services
from forwarder.server.replay_application import get_replay_function, replay_offline

MODES = {
    "recorded": "to the recorded answers of the upstream; no upstream is called",
    "today": "to its upstream, as it is today",
    "other": "to another upstream",
}
"""Where a replayed request goes, in words."""

MAX_ANSWER_BYTES = 8 * 2**20
"""Bytes of a new answer; a longer one is not read to its end."""

MAX_COMPARED_LINES = 5000
"""Lines of each answer that are compared. The time grows faster than the number of lines."""

MAX_SHOWN_LINES = 400
MAX_LINE_CHARACTERS = 2000


class Comparison(NamedTuple):
    """A new answer beside the recorded one, as the page shows them."""

    old: ShownAnswer
    new: ShownAnswer
    differences: list[str]
    is_cut: bool


class ShownAnswer(NamedTuple):
    """An answer: its status, its parts, and its events, one per line."""

    status: int | None
    parts: list[Part]
    lines: list[str]


@blueprint.get("/exchanges/<path:name>/replay")
def show_replay(name: str) -> Response:
    """Show the form for the replay of an exchange, and the possible causes of differences."""
    return render_replay(name, find_record(name))


def render_replay(name: str, record: Json, **result: Any) -> Response:
    """Render the page of a replay. ``result`` are the comparison and its choices."""
    try:
        make_replay_request(record, None)
        caveats, refusal = list(list_caveats(record)), None
    except ForwarderError as error:
        caveats, refusal = [], error.message
    return render_page(
        "replay.html",
        name=name,
        summary=record["exchange"],
        caveats=caveats,
        refusal=refusal,
        modes=MODES,
        targets=list_targets(get_services()),
        **result,
    )


@blueprint.post("/exchanges/<path:name>/replay")
def replay_exchange(name: str) -> Response:
    """Replay an exchange and show both answers."""
    mode = check_enum(read_form_field("mode") or "recorded", tuple(MODES), "mode")
    key = require_ascii_key(read_form_field("key"))
    record = find_record(name)
    target = read_form_field("target")
    if mode == "recorded":
        answer = get_replay_function()
        settings = get_services().settings
        work = partial(replay_offline, record, key, settings, answer)
        comparison = get_pool().run(lambda: compare_answers(record, work(), is_cut=False))
    else:
        comparison = replay_online(record, key, target if mode == "other" else "")
    if is_part_request():
        return render_page("replay_result.html", comparison=comparison, is_part=True)
    return render_replay(name, record, comparison=comparison, mode=mode, target=target)


@cache
def get_pool() -> BlockingPool:
    """Return the pool of replays. It is created at first use, because it needs an event loop."""
    return BlockingPool(1)


def replay_online(record: Json, key: str | None, target: str) -> Comparison:
    """Send a captured request to an upstream, by default its own, and compare the answers.

    Raises InvalidRequest for a record that cannot be replayed.
    """
    request = make_replay_request(record, None)
    protocol = find_protocol(record)
    body, names = prepare_body(request.body, protocol, target)
    services = get_services()
    redactor = make_redactor(services, key)
    collector = AnswerCollector()
    call = ObservedCall(
        current_app.wsgi_app,
        get_request(),
        CallRequest(protocol, request.path, body, request.headers, key),
        redactor,
        services.settings.capture_max,
        collector.add,
    )
    with closing(call.stream_events(services.settings.keepalive)) as batches:  # type: ignore[type-var]
        for _ in batches:
            if collector.is_full:
                break
    data = b"".join(collector.pieces)

    def compare() -> Comparison:
        now = make_replay_answer(call.status, data, redactor)
        now = now._replace(content=rename_model(now.content, *names))
        return compare_answers(record, now, collector.is_full)

    return get_pool().run(compare)


class AnswerCollector:
    """Collects the bytes of an answer up to `MAX_ANSWER_BYTES`."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._room = MAX_ANSWER_BYTES

    def add(self, piece: bytes) -> None:
        """Add bytes, unless there are too many already."""
        if not self.is_full:
            self._room -= len(piece)
            self.pieces.append(piece)

    @property
    def is_full(self) -> bool:
        """Whether the answer is too long."""
        return self._room < 0


def find_protocol(record: Json) -> str:
    """Return the client's protocol of an exchange."""
    route = str(record["exchange"].get("route"))
    return "responses" if route in ("background", "compact") else route


def prepare_body(data: bytes, protocol: str, target: str) -> tuple[bytes, tuple[Any, Any]]:
    """Return the request's body with storage off, for ``target`` unless that is ``""``.

    Also returns the model's name in this body and the name that the client sent.
    """
    try:
        body = orjson.loads(data)
    except ValueError:  # a client's text that is not JSON is replayed as it is
        return data, (None, None)
    if not isinstance(body, dict):
        return data, (None, None)
    model = body.get("model")
    body = choose_target(body, target)
    if protocol in CLIENT_PROTOCOLS and "store" in CLIENT_PROTOCOLS[protocol].parameters:
        body = {k: v for k, v in body.items() if k not in ("background", "conversation")}
        body["store"] = False
    return orjson.dumps(body), (body.get("model"), model)


def rename_model(value: Any, new: Any, old: Any) -> Any:
    """Replace the model's name ``new`` by ``old``, so that the comparison ignores it."""
    if isinstance(value, dict):
        return {
            name: old if name == "model" and inner == new else rename_model(inner, new, old)
            for name, inner in value.items()
        }
    return [rename_model(inner, new, old) for inner in value] if isinstance(value, list) else value


# -- comparison -----------------------------------------------------------------------------------


def compare_answers(record: Json, now: ReplayAnswer, is_cut: bool) -> Comparison:
    """Return both answers as the page shows them, and their differences."""
    before, protocol = read_recorded_answer(record), find_protocol(record)
    differences = diff_answers(before, now, MAX_COMPARED_LINES)
    shown = [escape_control_characters(line[:MAX_LINE_CHARACTERS]) for line in differences]
    old, new = (show_answer(each, protocol) for each in (before, now))
    return Comparison(old, new, shown, is_cut)


def show_answer(answer: ReplayAnswer, protocol: str) -> ShownAnswer:
    values = [shorten_strings(value) for value in iterate_values(answer.content)]
    lines = list(write_lines(values[:MAX_SHOWN_LINES]))
    if len(values) > MAX_SHOWN_LINES:
        lines.append(f"… {len(values) - MAX_SHOWN_LINES} more")
    return ShownAnswer(answer.status, collect_parts(protocol, values), lines)


def write_lines(values: list[Any]) -> Iterator[str]:
    for value in values:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        yield text[:MAX_LINE_CHARACTERS]
