"""Events of both sides: their order, rows, phases and joined texts."""

from __future__ import annotations

from typing import Any

from forwarder.console.exchange_events import (
    CLIENT,
    UPSTREAM,
    Row,
    collect_parts,
    find_phases,
    fold_entries,
    list_entries,
)
from tests.console.records import HOSTILE, Json, make_attempt, make_chunk, make_event, make_record
from tests.helpers.check_cases import check_each


def make_streams(upstream: list[Json], client: list[Json], **more: Any) -> Json:
    attempt = make_attempt({"model": "m"})
    attempt["answer"]["events"] = upstream
    record = make_record({"model": "m", "input": "hi"}, attempt, **more)
    record["client"]["answer"]["events"] = client
    return record


def make_text_delta(at: float, delta: str) -> Json:
    return make_event(at, "response.output_text.delta", output_index=0, delta=delta)


def describe(rows: list[Row]) -> list[tuple[str, str]]:
    """Return the titles of both sides of each row; a number is the count of joined events."""

    def name_cell(row: Row, side: str) -> str:
        cell = row.cells.get(side)
        if cell is None:
            return ""
        return f"{cell.title} {len(cell.entries)}" if row.kind else cell.title

    return [(name_cell(row, UPSTREAM), name_cell(row, CLIENT)) for row in rows]


def test_deltas_of_both_sides_are_joined_by_kind() -> None:
    record = make_streams(
        [
            make_chunk(10, role="assistant"),
            make_chunk(11, reasoning_content="I "),
            make_chunk(13, reasoning_content="think"),
            make_chunk(20, content="Hel"),
            make_chunk(30, content="lo"),
            make_chunk(40, finish="stop"),
        ],
        [
            make_event(11, "response.created", response={}),
            make_event(12, "response.reasoning_summary_text.delta", output_index=0, delta="I "),
            make_event(14, "response.reasoning_summary_text.delta", output_index=0, delta="think"),
            make_text_delta(21, "Hel"),
            make_text_delta(31, "lo"),
            make_event(41, "response.completed", response={"status": "completed"}),
        ],
    )

    rows = fold_entries(list_entries(record))

    assert describe(rows) == [
        ("request to chat", ""),
        ("status 200", ""),
        ("chat.completion.chunk", ""),
        ("chat.completion.chunk 1", ""),
        ("", "response.created"),
        ("chat.completion.chunk 1", "response.reasoning_summary_text.delta 2"),
        ("chat.completion.chunk 2", "response.output_text.delta 2"),
        ("chat.completion.chunk", "response.completed"),
    ]
    assert (rows[6].at, rows[6].end) == (20, 31)
    assert rows[6].cells[UPSTREAM].text == rows[6].cells[CLIENT].text == "Hello"


def test_upstream_event_comes_before_its_translation() -> None:
    record = make_streams([make_chunk(10, content="a")], [make_text_delta(10, "a")])

    (row,) = fold_entries(list_entries(record))[2:]

    assert row.cells[UPSTREAM].text == row.cells[CLIENT].text == "a"


def test_attempts_are_numbered_and_errors_marked() -> None:
    failed = make_attempt({}, at=1.0, answer={"status": 429, "head_at": 2.0, "body": {"error": {"message": "slow down"}}, "at": 3.0})  # fmt: skip
    cut = make_attempt({}, at=10.0, answer={}, error={"type": "ReadError", "message": HOSTILE})
    record = make_record({"input": "hi"}, failed, cut)
    record["client"]["answer"] = {"status": 502, "at": 20.0, "body": {"error": {"message": "no"}}}

    entries = list_entries(record)

    assert [(entry.title, entry.is_bad) for entry in entries] == [
        ("request 1 to chat", False),
        ("status 429 1", True),
        ("whole answer", True),
        ("request 2 to chat", False),
        ("connection failed 2", True),
        ("whole answer", True),
    ]


def test_phases_are_those_of_attempts_and_kinds() -> None:
    record = make_streams(
        [
            make_chunk(10, reasoning_content="a"),
            make_chunk(20, content="a"),
            make_chunk(30, content="b"),
        ],
        [
            make_event(11, "response.reasoning_text.delta", output_index=0, delta="a"),
            make_text_delta(21, "a"),
            make_text_delta(31, "b"),
        ],
    )

    phases = find_phases(record, list_entries(record))

    assert [(each.label, each.start, each.end) for each in phases] == [
        ("exchange", 0.0, 100.0),
        ("waiting for upstream", 1.0, 5.0),
        ("upstream answers", 5.0, 30.0),
        ("thinking", 11.0, 11.0),
        ("text", 21.0, 31.0),
        ("client receives", 11.0, 31.0),
    ]


def test_failed_connections_have_no_phase_of_an_answer() -> None:
    attempt = make_attempt({}, answer={}, error={"type": "ConnectError", "message": "refused"})
    record = make_record({"input": "hi"}, attempt)
    record["client"]["answer"] = {}

    phases = find_phases(record, list_entries(record))

    assert [each.label for each in phases] == ["exchange", "waiting for upstream"]


def test_tool_calls_are_joined_with_their_names() -> None:
    record = make_streams(
        [
            make_chunk(
                1, tool_calls=[{"index": 0, "function": {"name": "find", "arguments": '{"a"'}}]
            ),
            make_chunk(
                2, tool_calls=[{"index": 1, "function": {"name": "stop", "arguments": "{}"}}]
            ),
            make_chunk(3, tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
        ],
        [],
    )

    parts = collect_parts(list_entries(record))

    assert [(part.kind, part.name, part.text) for part in parts] == [
        ("tool call", "find", '{"a": 1}'),
        ("tool call", "stop", "{}"),
    ]


def test_lines_of_ollama_are_events() -> None:
    record = make_record({"model": "m"}, route="ollama")
    record["client"]["answer"] = {
        "status": 200,
        "lines": [
            {"at": 1.0, "data": {"message": {"content": "a"}, "done": False}},
            {"at": 2.0, "data": {"message": {"content": "b"}, "done": False}},
            {"at": 3.0, "data": {"done": True, "done_reason": "stop", "eval_count": 2}},
        ],
    }

    rows = fold_entries(list_entries(record))

    assert [row.kind for row in rows] == ["text", ""]
    assert rows[0].cells[CLIENT].text == "ab"


@check_each(
    "answer",
    [
        {},
        {"events": "many"},
        {"events": [None, 5, {}, {"at": "soon", "data": None}, {"at": 1, "data": [1]}]},
        {"events": [{"at": 1, "data": {"choices": [None, {"delta": 5}, {"delta": {"tool_calls": [7]}}]}}]},
        {"events": [{"at": 1, "data": {"type": "response.output_text.delta", "delta": {}}}]},
        {"events": [{"at": 1, "data": {"type": ["x"], "response": "y", "output": {"a": 1}}}]},
        {"lines": [{"data": {"message": {"content": [1], "tool_calls": {"a": 1}}}}]},
        {"body": [1, 2], "at": None},
        {"latin1": "\xff\x00", "at": 3},
        {"status": "good", "head_at": []},
    ],
)  # fmt: skip
@check_each("route", ["chat", "responses", "ollama", "embeddings", "background", "what"])
def test_any_events_can_be_shown(answer: Json, route: str) -> None:
    record = make_record({"input": "hi"}, make_attempt({}, answer=answer), route=route)
    record["client"]["answer"] = answer

    entries = list_entries(record)
    rows = fold_entries(entries)

    assert sum(len(cell.entries) for row in rows for cell in row.cells.values()) == len(entries)
    assert all(isinstance(cell.text, str) for row in rows for cell in row.cells.values())
    collect_parts(entries)
    find_phases(record, entries)


def test_texts_are_bounded_and_escaped() -> None:
    record = make_streams([make_chunk(1, content=HOSTILE + "x" * 100_000)], [])

    entries = list_entries(record)
    (text,) = (row.cells[UPSTREAM].text for row in fold_entries(entries) if row.kind)
    (part,) = collect_parts(entries)

    assert "\u202e" not in text + part.text
    assert len(text) < 600
    assert len(part.text) < 21_000
