"""The readers of recorded answers, with which their replay is compared."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.fake_provider import Answer
from tests.fake_provider import Call as ScriptedCall
from tests.fake_provider.answers import ModelRequest
from tests.fake_provider.wire import RENDER
from tests.helpers.check_cases import check_each
from tests.helpers.recordings import (
    Call,
    Outcome,
    Usage,
    compare_outcomes,
    convert_to_completion,
    convert_to_response,
    load_recordings,
    outcome_of_chunks,
    outcome_of_completion,
    outcome_of_events,
    outcome_of_response,
)

Json = dict[str, Any]

ANSWER = Answer(
    text="Hello there.", reasoning="I think.", calls=[ScriptedCall("look", {"city": "Bern"})]
)


def render_answer(protocol: Any, renderer_index: int) -> Any:
    """The answer as a provider streams it (0) or sends it whole (1)."""
    body = {"model": "m", "messages": [], "input": "hi", "stream": not renderer_index,
             "stream_options": {"include_usage": True}}  # fmt: skip
    return RENDER[protocol][renderer_index](ANSWER, ModelRequest(protocol, body, 1))


def test_streams_and_whole_answers_are_read_alike() -> None:
    chat = outcome_of_chunks(render_answer("chat", 0))
    response = outcome_of_events(render_answer("responses", 0))
    assert outcome_of_completion(render_answer("chat", 1)) == chat
    assert outcome_of_response(render_answer("responses", 1)) == response
    for outcome in (chat, response):
        assert (outcome.text, outcome.reasoning) == ("Hello there.", "I think.")
        assert [(c.name, c.arguments) for c in outcome.calls] == [("look", '{"city": "Bern"}')]
        assert outcome.usage is not None
    assert (chat.finish, response.finish) == ("tool_calls", "completed")
    assert (convert_to_response(chat).finish, convert_to_completion(response).finish) == (
        "completed",
        "tool_calls",
    )


OUTCOME = Outcome("a", "", "b", [Call("f", "{}", "c")], "stop", Usage(1, 2, 3, 0, 0))


@check_each(
    "change",
    [
        {"text": "x"}, {"refusal": "x"}, {"reasoning": "x"}, {"calls": []}, {"finish": "length"},
        {"usage": None}, {"error": True}, {"calls": [Call("f", "{}", "d")]},
    ],
)  # fmt: skip
def test_every_difference_is_found(change: Json) -> None:
    assert compare_outcomes(OUTCOME, OUTCOME) == []
    assert len(compare_outcomes(OUTCOME, replace(OUTCOME, **change))) == 1


def test_ids_are_not_compared_if_they_are_not_unique() -> None:
    source = replace(OUTCOME, calls=[Call("f", "{}", "c"), Call("g", "{}", "c")])
    outcome = replace(source, calls=[Call("f", "{}", "c"), Call("g", "{}", "made")])
    assert compare_outcomes(source, outcome) == []


def test_a_thinking_block_at_the_head_is_reasoning_in_a_response() -> None:
    outcome = convert_to_response(Outcome(text="<think>Hm.</think>\n\nHello.", finish="length"))
    assert (outcome.reasoning, outcome.text, outcome.finish) == (
        "Hm.",
        "Hello.",
        "max_output_tokens",
    )
    assert convert_to_response(Outcome(text="<think>\n</think>Hello.")).reasoning == ""


def test_a_recording_is_read_up_to_the_end_of_its_first_answer(tmp_path: Path) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
    turn = f"data: {json.dumps(chunk)}\r\n\r\ndata: null\n\ndata: [DONE]\n\n"
    line = {"id": "r1", "kind": "chat", "provider": "p", "request": None, "sse": turn * 2}
    framed = {**line, "id": "r2", "sse": f"---\nsource: a\n---\n{turn}"}
    with gzip.open(tmp_path / "streams.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in (line, framed))
    for recording in load_recordings(tmp_path):
        assert recording.events == [chunk]
        assert recording.outcome == Outcome(text="a", finish="stop")
