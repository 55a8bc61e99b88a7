"""Properties of every stream of every case under ``tests/cases``, in any chunking."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from forwarder.core.errors import UpstreamUnreachable
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, Event, EventStream
from forwarder.protocols import unfold
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.protocols.registry import CLIENT_PROTOCOLS, UPSTREAM_PROTOCOLS
from forwarder.providers import PROFILES, adapt_request
from tests.fake_provider import check_chat, check_responses
from tests.helpers import sdk
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each
from tests.helpers.translating import (
    CHUNKINGS,
    batch_all_events,
    batch_each_event,
    collect_events,
    make_translator_context,
    read_completion_content,
    read_response_content,
    translate,
    translate_answer,
    translate_case,
)

Json = dict[str, Any]

MISTAKES = {"responses": sdk.event_mistakes, "chat": sdk.chunk_mistakes}
VENDOR_PARAMETERS = {"chat_template_kwargs", "enable_thinking", "reasoning_split", "thinking"}
STRICT: dict[str, Callable[..., list[Any]]] = {"chat": check_chat, "responses": check_responses}

every_case = check_each("case", list_cases())
every_stream = check_each("case", list_cases(streams=True))
to_responses = check_each("case", list_cases("responses_over_chat", streams=True))
to_chat = check_each("case", list_cases("chat_over_responses", streams=True))
every_chunking = check_each("chunking", CHUNKINGS)


@functools.cache
def translate_events(case: Case, chunking: str = "as sent") -> list[Event]:
    return translate_answer(case, CHUNKINGS[chunking](case.read("upstream.jsonl")))


def fold(case: Case, events: list[Event]) -> Json:
    return CLIENT_PROTOCOLS[case.client].fold(iter([events]))


# -- requests and answers -----------------------------------------------------------------------


@every_case
def test_request_is_translated_as_recorded(case: Case) -> None:
    translated = translate_case(case)
    assert translated.request == case.read("upstream.request.json")
    assert sorted(translated.dropped) == case.read("dropped.json", [])


@every_case
@check_each("streamed", [False, True])
def test_stream_parameter_follows_the_client(case: Case, streamed: bool) -> None:
    request = {**case.read("request.json"), "stream": streamed}
    context = make_translator_context(**case.read("terms.json", {}))
    usage = {"include_usage": True} if streamed and case.upstream == "chat" else None
    upstream_request = translate(case.direction, request, context).request
    assert (upstream_request["stream"], upstream_request.get("stream_options")) == (streamed, usage)
    assert {k: v for k, v in upstream_request.items() if not k.startswith("stream")} == {
        k: v for k, v in case.read("upstream.request.json").items() if not k.startswith("stream")
    }


@every_case
def test_translated_request_is_valid_for_strict_providers(case: Case) -> None:
    extensions = set(case.read("terms.json", {}).get("extensions", ()))
    providers = [p for p in PROFILES.values() if extensions <= p.responses_takes]
    assert providers
    request = translate_case(case).request
    for profile in providers:
        body = adapt_request(copy.deepcopy(request), case.upstream, profile, LossReport())
        check = STRICT[case.upstream]
        openai_body = _without_parts(as_openai_body(body), extensions)
        assert check(openai_body, extra=extensions) == [], profile.name


def _without_parts(value: Any, kinds: set[str]) -> Any:
    """Return the body without the content parts of these types."""
    if isinstance(value, dict):
        return {key: _without_parts(inner, kinds) for key, inner in value.items()}
    if isinstance(value, list):
        items = [i for i in value if not (isinstance(i, dict) and i.get("type") in kinds)]
        return [_without_parts(inner, kinds) for inner in items]
    return value


def as_openai_body(body: Json) -> Json:
    """Return the body without vendor parameters, and with OpenAI's values."""
    vendor_parameters = VENDOR_PARAMETERS | ({"reasoning"} if "messages" in body else set())
    body = {k: v for k, v in body.items() if k not in vendor_parameters}
    return {**body, "tool_choice": "required"} if body.get("tool_choice") == "any" else body


@every_case
def test_translation_does_not_modify_the_request(case: Case) -> None:
    request = case.read("request.json")
    before = copy.deepcopy(request)
    translate(case.direction, request, make_translator_context(**case.read("terms.json", {})))
    assert request == before


@every_stream
@every_chunking
def test_answer_is_independent_of_chunking(case: Case, chunking: str) -> None:
    answer = fold(case, translate_events(case, chunking))
    expected = case.read("answer.json")
    assert {key: answer.get(key) for key in expected} == expected


# -- the SDK's view -----------------------------------------------------------------------------


@every_stream
@every_chunking
def test_events_match_the_sdk_types(case: Case, chunking: str) -> None:
    mistakes = MISTAKES[case.client]
    assert {
        e.get("type", "chunk"): m for e in translate_events(case, chunking) if (m := mistakes(e))
    } == {}


@to_responses
def test_folded_response_matches_the_sdk_type(case: Case) -> None:
    assert sdk.response_mistakes(fold(case, translate_events(case))) == []


@to_chat
def test_folded_completion_matches_the_sdk_type(case: Case) -> None:
    assert sdk.completion_mistakes(fold(case, translate_events(case))) == []


@to_responses
@every_chunking
def test_sdk_accumulates_the_response(case: Case, chunking: str) -> None:
    events = translate_events(case, chunking)
    rebuilt = sdk.rebuild_response(events)["output"]
    final = events[-1]["response"]["output"]
    assert [item["id"] for item in rebuilt] == [item["id"] for item in final]
    for item, whole_item in zip(rebuilt, final, strict=True):
        if item["type"] == "function_call":
            assert item["arguments"] == whole_item["arguments"]
        if item["type"] == "message":
            texts = [[part.get("text") for part in i["content"]] for i in (item, whole_item)]
            assert texts[0] == texts[1]


@to_chat
@every_chunking
def test_sdk_accumulates_the_completion(case: Case, chunking: str) -> None:
    chunks = translate_events(case, chunking)
    rebuilt, folded = sdk.rebuild_completion(chunks), fold(case, chunks)
    assert read_completion_content(rebuilt) == read_completion_content(folded)
    assert rebuilt.get("usage") == folded["usage"]
    assert rebuilt["id"] == folded["id"]


# -- lifecycle ----------------------------------------------------------------------------------


@to_responses
@every_chunking
def test_items_open_grow_and_close_in_order(case: Case, chunking: str) -> None:
    opened: list[str] = []
    closed: set[str] = set()
    for event in translate_events(case, chunking):
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(opened)
            opened.append(event["item"]["id"])
        elif event["type"] == "response.output_item.done":
            assert event["item"]["id"] == opened[event["output_index"]]
            assert event["item"]["id"] not in closed
            closed.add(event["item"]["id"])
        elif "item_id" in event:
            assert event["item_id"] == opened[event["output_index"]]
            assert event["item_id"] not in closed
    assert set(opened) == closed


@to_responses
@every_chunking
def test_parts_open_grow_and_close_in_order(case: Case, chunking: str) -> None:
    """The deltas of a part also add up to the value of its done events."""
    texts: dict[tuple[Any, ...], str] = {}
    closed: dict[tuple[Any, ...], str] = {}
    for event in translate_events(case, chunking):
        position = (event.get("item_id"), event.get("content_index"), event.get("summary_index"))
        kind = event["type"].removeprefix("response.")
        if kind.endswith("part.added"):
            assert texts.setdefault(position, "") == ""
        elif kind.endswith(".delta"):
            assert position not in closed
            texts[position] = texts.get(position, "") + event["delta"]
        elif kind.endswith("part.done"):
            part = event["part"]
            assert closed[position] == part.get("text", part.get("refusal"))
        elif kind.endswith(".done") and "item_id" in event:
            closed[position] = next(
                event[k] for k in ("text", "refusal", "arguments", "input") if k in event
            )
            assert texts.get(position, "") == closed[position]
    assert texts.keys() <= closed.keys()


@to_responses
@every_chunking
def test_done_items_are_the_response_output(case: Case, chunking: str) -> None:
    events = translate_events(case, chunking)
    finished = {
        e["output_index"]: e["item"] for e in events if e["type"] == "response.output_item.done"
    }
    assert [finished[i] for i in sorted(finished)] == events[-1]["response"]["output"]


@to_responses
@every_chunking
def test_sequence_numbers_have_no_gaps(case: Case, chunking: str) -> None:
    events = translate_events(case, chunking)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@to_responses
@every_chunking
def test_response_has_one_start_and_one_terminal_event(case: Case, chunking: str) -> None:
    events = translate_events(case, chunking)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [i for i, kind in enumerate(kinds) if kind in TERMINAL_EVENTS] == [len(kinds) - 1]
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1


@to_responses
def test_only_the_last_item_can_be_incomplete(case: Case) -> None:
    response = fold(case, translate_events(case))
    statuses = [item["status"] for item in response["output"]]
    assert set(statuses[:-1]) <= {"completed"}
    assert (statuses[-1] == "completed") == (response["status"] == "completed")


@to_chat
@every_chunking
def test_completion_has_one_role_and_one_finish_reason(case: Case, chunking: str) -> None:
    chunks = translate_events(case, chunking)
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert all("role" not in choice["delta"] for choice in choices[1:])
    assert [bool(choice["finish_reason"]) for choice in choices].index(True) == len(choices) - 1
    assert all(chunk["choices"] for chunk in chunks[: len(choices)])  # usage comes last
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1


@to_chat
@every_chunking
def test_call_indexes_are_dense_from_zero(case: Case, chunking: str) -> None:
    indexes: list[int] = []
    for chunk in translate_events(case, chunking):
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                if call["index"] not in indexes:
                    assert call["id"]
                    assert call["type"]
                    indexes.append(call["index"])
    assert indexes == list(range(len(indexes)))


# -- round trips --------------------------------------------------------------------------------


def translate_events_over(direction: str, events: list[Event]) -> list[Event]:
    """Translate the events for a minimal request."""
    request: Json = {"model": "some-model"}
    request |= (
        {"input": "Hi."}
        if direction == "responses_over_chat"
        else {"messages": [{"role": "user", "content": "Hi."}]}
    )
    return collect_events(
        translate(direction, request, make_translator_context()).answer(
            iter(batch_all_events(events))
        )
    )


@to_responses
def test_response_survives_chat_and_back(case: Case) -> None:
    response = fold(case, translate_events(case))
    chunks = translate_events_over("chat_over_responses", translate_events(case))
    round_trip_events = translate_events_over("responses_over_chat", chunks)
    expected = read_response_content(response)
    assert read_completion_content(CLIENT_PROTOCOLS["chat"].fold(iter([chunks]))) == expected
    assert (
        read_response_content(CLIENT_PROTOCOLS["responses"].fold(iter([round_trip_events])))
        == expected
    )


@to_chat
def test_completion_survives_responses_and_back(case: Case) -> None:
    chunks = translate_events(case)
    events = translate_events_over("responses_over_chat", chunks)
    round_trip_chunks = translate_events_over("chat_over_responses", events)
    expected = read_completion_content(CLIENT_PROTOCOLS["chat"].fold(iter([chunks])))
    assert read_response_content(CLIENT_PROTOCOLS["responses"].fold(iter([events]))) == expected
    assert (
        read_completion_content(CLIENT_PROTOCOLS["chat"].fold(iter([round_trip_chunks])))
        == expected
    )


@to_chat
def test_call_ids_survive_the_round_trip(case: Case) -> None:
    def list_call_ids(chunks: list[Event]) -> list[str]:
        message = CLIENT_PROTOCOLS["chat"].fold(iter([chunks]))["choices"][0]["message"]
        return [call["id"] for call in message.get("tool_calls") or ()]

    chunks = translate_events(case)
    round_trip_chunks = translate_events_over(
        "chat_over_responses", translate_events_over("responses_over_chat", chunks)
    )
    assert list_call_ids(round_trip_chunks) == list_call_ids(chunks) or "function_call" in str(
        chunks
    )


# -- whole and stream ---------------------------------------------------------------------------


@to_chat
def test_whole_response_equals_its_stream(case: Case) -> None:
    streamed = fold(case, translate_events(case))
    response = case.read("upstream.jsonl")[-1]["response"]
    for is_streamed in (False, True):
        batch = unfold.unfold_answer("responses", response, streamed=is_streamed)
        assert fold(case, translate_answer(case, [batch])) == streamed


HISTORIES = {
    "annotations_of_later_texts",
    "annotations_too_late",
    "image_growing",
    "images",
    "repeated_names",
    "text_between_calls",
}
"""Cases whose stream has an order, drafts or late ids that a message cannot express."""


@to_responses
def test_whole_message_equals_its_stream(case: Case) -> None:
    """The items are equal, with the values of the case's upstream."""
    upstream = case.read("upstream.jsonl")
    completion = CLIENT_PROTOCOLS["chat"].fold(iter([upstream]))
    streamed = fold(case, translate_events(case))
    for is_streamed in (False, True):
        batch = unfold.unfold_answer("chat", completion, streamed=is_streamed)
        answer = fold(case, translate_answer(case, [batch]))
        assert read_response_content(answer) == read_response_content(streamed)
        assert (answer == streamed) == (case.name not in HISTORIES)


@to_responses
def test_whole_completion_equals_its_stream(case: Case) -> None:
    streamed = fold(case, translate_events(case))
    completion = CLIENT_PROTOCOLS["chat"].fold(
        iter([translate_events_over("chat_over_responses", translate_events(case))])
    )
    for is_streamed in (False, True):
        batch = unfold.unfold_answer("chat", completion, streamed=is_streamed)
        answer = fold(case, translate_events_over("responses_over_chat", batch))
        assert read_response_content(answer) == read_response_content(streamed)
        assert answer["usage"] == streamed["usage"]


# -- broken streams -----------------------------------------------------------------------------


def cut_stream(events: list[Event]) -> EventStream:
    yield from batch_each_event(events)


def disconnect_stream(events: list[Event]) -> EventStream:
    yield from batch_each_event(events)
    raise UpstreamUnreachable("The connection broke.")


def report_error(events: list[Event]) -> EventStream:
    error = {
        "message": "Overloaded.",
        "type": "server_error",
        "code": "server_error",
        "param": None,
    }
    error_event: Event = {"error": error}
    if events[0].get("type"):
        error_event |= {"type": "error", "message": "Overloaded.", "sequence_number": len(events)}
    yield from [*batch_each_event(events), [error_event]]


BREAKS = {"cut": cut_stream, "disconnected": disconnect_stream, "reported": report_error}
every_break = check_each("break_name", BREAKS, parts=3)


def break_everywhere(case: Case, break_name: str) -> Iterator[list[Event]]:
    """Yield the client's events for a break after every event of the upstream."""
    events = case.read("upstream.jsonl")
    for length in range(1, len(events)):
        upstream = UPSTREAM_PROTOCOLS[case.upstream].require_complete(
            BREAKS[break_name](events[:length]), lambda: False
        )
        yield collect_events(
            CLIENT_PROTOCOLS[case.client].append_error(translate_case(case).answer(upstream))
        )


def has_finish_reason(case: Case, events: list[Event]) -> bool:
    """Whether the stream has its finish reason. A break after it loses only the usage."""
    return any(c.get("finish_reason") for e in events for c in e.get("choices") or ())


@to_responses
@every_break
def test_broken_stream_ends_a_response_with_one_failure(case: Case, break_name: str) -> None:
    for length, events in enumerate(break_everywhere(case, break_name), start=1):
        kinds = [event["type"] for event in events]
        assert [i for i, kind in enumerate(kinds) if kind in TERMINAL_EVENTS] == [len(kinds) - 1]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [m for event in events for m in sdk.event_mistakes(event)] == []
        sdk.rebuild_response(events)
        if break_name == "reported" or not has_finish_reason(
            case, case.read("upstream.jsonl")[:length]
        ):
            assert kinds[-2:] == ["error", "response.failed"]
            assert events[-1]["response"]["status"] == "failed"
            assert events[-1]["response"]["error"]["message"]


@to_chat
@every_break
def test_broken_stream_ends_a_completion_with_one_error(case: Case, break_name: str) -> None:
    for chunks in break_everywhere(case, break_name):
        assert ["error" in chunk for chunk in chunks].index(True) == len(chunks) - 1
        assert chunks[-1]["error"]["message"]
        assert not has_finish_reason(case, chunks)


# -- unchanged values ---------------------------------------------------------------------------


@every_stream
@every_chunking
def test_events_are_never_modified(case: Case, chunking: str) -> None:
    """Neither the emitted events nor the upstream's events change later."""
    upstream = CHUNKINGS[chunking](case.read("upstream.jsonl"))
    before = copy.deepcopy(upstream)
    emitted: list[Batch] = []
    copies: list[Batch] = []
    for batch in translate_case(case).answer(iter(upstream)):
        emitted.append(batch)
        copies.append(copy.deepcopy(batch))
    assert emitted == copies
    assert upstream == before


@every_stream
def test_heartbeat_is_forwarded_immediately(case: Case) -> None:
    stream = translate_case(case).answer(
        itertools.chain([[]], batch_all_events(case.read("upstream.jsonl")))
    )
    first_batch = next(stream)
    assert first_batch == [] or first_batch[0]["type"] == "response.created"
