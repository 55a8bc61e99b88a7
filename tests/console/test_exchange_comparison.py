"""Requests of clients beside those to upstreams."""

from __future__ import annotations

from forwarder.console.exchange_comparison import AttemptView
from forwarder.console.exchange_view import build_view
from tests.console.records import make_attempt, make_record


def describe(attempt: AttemptView) -> dict[str, tuple[str, list[str]]]:
    """Return the disposition of each parameter and the upstream's parameters for it."""
    return {row.name: (row.kind, [value.name for value in row.upstream]) for row in attempt.rows}


def test_parameters_are_listed_beside_their_translation() -> None:
    request = {
        "model": "m", "input": "hi", "max_output_tokens": 9, "reasoning": {"effort": "low"},
        "background": False, "access_programs": {}, "truncation": "auto", "user": None,
    }  # fmt: skip
    sent = {
        "model": "m", "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 9, "reasoning_effort": "low", "stream_options": {},
    }  # fmt: skip
    record = make_record(request, make_attempt(sent), dropped={"access_programs": "for others"})

    (attempt,) = build_view(record).attempts

    assert describe(attempt) == {
        "model": ("carried", ["model"]),
        "input": ("mapped", ["messages"]),
        "max_output_tokens": ("mapped", ["max_completion_tokens"]),
        "reasoning": ("mapped", ["reasoning_effort"]),
        "background": ("neutral", []),
        "access_programs": ("dropped", []),
        "truncation": ("emulated", []),
        "stream_options": ("added", ["stream_options"]),
    }
    assert {row.name: row.reason for row in attempt.rows}["access_programs"] == "for others"


def test_only_lines_missing_on_the_other_side_are_marked() -> None:
    request = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}
    sent = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}

    (attempt,) = build_view(make_record(request, make_attempt(sent))).attempts

    (row,) = attempt.rows
    assert row.client is not None
    marked = [
        [line.text.strip() for line in value.lines if line.is_different]
        for value in (row.client, *row.upstream)
    ]
    assert marked == [['"type": "input_text",'], ['"type": "text",']]


def test_options_of_ollama_are_parameters() -> None:
    request = {"model": "m", "prompt": "hi", "options": {"num_predict": 5, "main_gpu": 1}}
    sent = {"model": "m", "messages": [], "max_completion_tokens": 5}
    record = make_record(
        request, make_attempt(sent), route="ollama_generate", dropped={"options.main_gpu": "no GPU"}
    )

    (attempt,) = build_view(record).attempts

    parameters = describe(attempt)
    assert parameters["prompt"] == ("mapped", ["messages"])
    assert parameters["options.num_predict"][1] == ["max_completion_tokens"]
    assert parameters["options.main_gpu"] == ("dropped", [])


def test_history_that_a_request_continues_is_compared() -> None:
    record = make_record({"input": "and?"}, make_attempt({"messages": [1, 2, 3]}))
    record["client"]["resumed"] = {"body": {"input": ["one", "two", "and?"]}}

    view = build_view(record)

    row = view.attempts[0].rows[0]
    assert row.client is not None
    assert "two" in "".join(line.text for line in row.client.lines)
    assert any("history" in notice for notice in view.notices)


def test_repeated_requests_are_named_by_number() -> None:
    first = make_attempt({"model": "m"}, answer={"status": 503, "headers": []})
    record = make_record({"model": "m"}, first, make_attempt({"model": "m"}), retries=1)

    view = build_view(record)

    assert [each.same_as for each in view.attempts] == [None, 1]
    assert [(each.status, each.is_bad) for each in view.attempts] == [("503", True), ("200", False)]
    assert ("Retries", "1") in view.facts
