"""Properties of Ollama lines, for the chat stream of every case under ``tests/cases``.

The chat stream is the upstream's, or the translation of a Responses upstream's stream.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from typing import Any

from forwarder.core.errors import UpstreamUnreachable
from forwarder.core.types import Batch, Event, EventStream
from forwarder.protocols import unfold
from forwarder.protocols.registry import CLIENT_PROTOCOLS, UPSTREAM_PROTOCOLS
from forwarder.translation import ollama_over_chat
from forwarder.translation.ollama_over_chat.endpoints import (
    CHAT_ENDPOINT,
    GENERATE_ENDPOINT,
    OllamaEndpoint,
)
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each
from tests.helpers.ollama import list_mistakes, translate_ollama_request
from tests.helpers.translating import (
    CHUNKINGS,
    batch_all_events,
    batch_each_event,
    collect_events,
    make_translator_context,
    read_completion_content,
    translate_answer,
)

Json = dict[str, Any]

PROTOCOLS = {"ollama": CHAT_ENDPOINT, "ollama_generate": GENERATE_ENDPOINT}


@functools.cache
def read_chunks(case: Case) -> list[Event]:
    """Return the chat chunks of a case: the upstream's, or the translated ones."""
    events: list[Event] = case.read("upstream.jsonl")
    return events if case.upstream == "chat" else translate_answer(case, batch_all_events(events))


def is_supported(case: Case) -> bool:
    """Whether an Ollama client can request the answer, and its calls have valid arguments."""
    text = json.dumps(read_chunks(case))
    if any(word in text for word in ('"custom"', '"error"')):
        return False
    choice = fold_completion(case)["choices"][0]
    calls = choice["message"].get("tool_calls") or () if choice["finish_reason"] != "length" else ()
    return all(is_object(call["function"].get("arguments") or "{}") for call in calls)


def fold_completion(case: Case) -> Json:
    return CLIENT_PROTOCOLS["chat"].fold(iter(batch_all_events(read_chunks(case))))


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


SUPPORTED_CASES = [param for param in list_cases(streams=True) if is_supported(param.values[0])]
every_stream = check_each("case", SUPPORTED_CASES)
every_comparable = check_each(
    "case", [param for param in SUPPORTED_CASES if param.values[0].name != "repeated_names"]
)
"""The completion of ``repeated_names`` has doubled names, so it cannot be compared."""
every_endpoint = check_each("protocol", PROTOCOLS)


def translate_chunks(batches: EventStream, endpoint: OllamaEndpoint = CHAT_ENDPOINT) -> EventStream:
    context = make_translator_context()
    request = translate_ollama_request(context, endpoint, logprobs=True)
    return ollama_over_chat.translate_stream(batches, request, context)


def translate_lines(
    case: Case, chunking: str = "as sent", endpoint: OllamaEndpoint = CHAT_ENDPOINT
) -> list[Event]:
    return collect_events(translate_chunks(iter(CHUNKINGS[chunking](read_chunks(case))), endpoint))


def fold_without_times(lines: list[Event]) -> Json:
    """Return the whole answer without durations."""
    answer = CLIENT_PROTOCOLS["ollama"].fold(iter([lines]))
    return {name: value for name, value in answer.items() if not name.endswith("_duration")}


def test_enough_cases_are_covered() -> None:
    assert len(SUPPORTED_CASES) > 40


@every_stream
@every_endpoint
def test_lines_match_ollamas_types(case: Case, protocol: str) -> None:
    """Tool calls are ignored for the generate endpoint, whose type has none."""
    lines = translate_lines(case, endpoint=PROTOCOLS[protocol])
    ignored = ["tool_calls"] if protocol == "ollama_generate" else []
    assert [m for line in lines for m in list_mistakes(line) if m not in ignored] == []


@every_stream
@check_each("chunking", CHUNKINGS)
def test_only_the_last_line_is_done(case: Case, chunking: str) -> None:
    lines = translate_lines(case, chunking)
    assert [line["done"] for line in lines].index(True) == len(lines) - 1
    final_line = lines[-1]
    assert final_line["done_reason"] in ("stop", "length", "content_filter")
    parts = [final_line[f"{part}_duration"] for part in ("load", "prompt_eval", "eval")]
    assert final_line["total_duration"] == sum(parts)
    assert min(parts) >= 0


@every_stream
def test_answer_is_independent_of_chunking(case: Case) -> None:
    first_answer, *other_answers = [
        fold_without_times(translate_lines(case, chunking)) for chunking in CHUNKINGS
    ]
    for answer in other_answers:
        assert {**answer, "logprobs": None} == {**first_answer, "logprobs": None}


@every_comparable
def test_answer_equals_the_completion(case: Case) -> None:
    """Except reasoning in tags and images, which Ollama has in other fields."""
    completion = fold_completion(case)
    message = fold_without_times(translate_lines(case))["message"]
    if isinstance(completion["choices"][0]["message"]["content"], list) or "<think>" in str(
        completion
    ):
        return
    expected = read_completion_content(completion)
    assert message["content"].split("\n\n![image]")[0] == expected.text + expected.refusal
    assert (
        message.get("thinking", "").strip() == expected.reasoning.strip() or not expected.reasoning
    )
    names = [call["function"]["name"] for call in message.get("tool_calls") or ()]
    assert names == [name for name, _ in expected.calls][: len(names)]
    assert len(names) == len(expected.calls) or expected.ending == "max_output_tokens"


@every_comparable
def test_whole_answer_equals_its_stream(case: Case) -> None:
    streamed = fold_without_times(translate_lines(case))
    completion = fold_completion(case)
    for asked_to_stream in (False, True):
        batch = unfold.unfold_answer("chat", copy.deepcopy(completion), streamed=asked_to_stream)
        assert fold_without_times(collect_events(translate_chunks(iter([batch])))) == streamed


# -- broken streams -----------------------------------------------------------------------------


def cut_stream(chunks: list[Event]) -> EventStream:
    yield from batch_each_event(chunks)


def disconnect_stream(chunks: list[Event]) -> EventStream:
    yield from batch_each_event(chunks)
    raise UpstreamUnreachable("The connection broke.")


def report_error(chunks: list[Event]) -> EventStream:
    yield from batch_each_event(chunks)
    yield [{"error": {"message": "Overloaded.", "code": "server_error"}}]


@every_stream
@every_endpoint
@check_each("break_stream", [cut_stream, disconnect_stream, report_error])
def test_broken_stream_ends_with_one_error(
    case: Case, protocol: str, break_stream: Callable[[list[Event]], EventStream]
) -> None:
    chunks = read_chunks(case)
    for length in range(1, len(chunks)):
        upstream = UPSTREAM_PROTOCOLS["chat"].require_complete(
            break_stream(chunks[:length]), lambda: False
        )
        lines = collect_events(
            CLIENT_PROTOCOLS[protocol].append_error(translate_chunks(upstream, PROTOCOLS[protocol]))
        )
        choices = [choice for c in chunks[:length] for choice in c.get("choices") or ()]
        unfinished = {c.get("index") for c in choices}
        unfinished -= {c.get("index") for c in choices if c.get("finish_reason")}
        if (
            choices and not unfinished and break_stream is not report_error
        ):  # only the usage is missing
            assert lines[-1]["done"]
            continue
        assert ["error" in line for line in lines].index(True) == len(lines) - 1
        assert list(lines[-1]) == ["error"]
        assert isinstance(lines[-1]["error"], str)
        assert not any(line.get("done") for line in lines)


# -- unchanged values ---------------------------------------------------------------------------


@every_stream
def test_events_are_never_modified(case: Case) -> None:
    upstream = batch_each_event(read_chunks(case))
    before = copy.deepcopy(upstream)
    emitted: list[Batch] = []
    copies: list[Batch] = []
    for batch in translate_chunks(iter(upstream)):
        emitted.append(batch)
        copies.append(copy.deepcopy(batch))
    assert emitted == copies
    assert upstream == before
