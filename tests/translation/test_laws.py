"""Laws that hold for every stream of every conversation under ``tests/cases``, in any chunking."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forwarder.core.errors import UpstreamUnreachable
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, Event, EventStream
from forwarder.protocols import unfold
from forwarder.protocols.mappings import TERMINAL_EVENTS
from forwarder.protocols.stream_end import COMPLETENESS_CHECKS, ERROR_ENCODERS
from forwarder.providers import PROFILES, adapt_request
from forwarder.translation import FOLDS
from tests.fake_provider import check_chat, check_responses
from tests.helpers import sdk
from tests.helpers.cases import Case, cases
from tests.helpers.translating import (
    CHUNKINGS,
    answered,
    as_sent,
    at_once,
    events_of,
    said_by_completion,
    said_by_response,
    terms,
    translate,
    translate_case,
)

Json = dict[str, Any]

MISTAKES = {"responses": sdk.event_mistakes, "chat": sdk.chunk_mistakes}
VENDORS_WORDS = {"chat_template_kwargs", "enable_thinking", "reasoning_split", "thinking"}
STRICT: dict[str, Callable[..., list[Any]]] = {"chat": check_chat, "responses": check_responses}

every_case = pytest.mark.parametrize("case", cases())
every_stream = pytest.mark.parametrize("case", cases(streams=True))
to_responses = pytest.mark.parametrize("case", cases("responses_over_chat", streams=True))
to_chat = pytest.mark.parametrize("case", cases("chat_over_responses", streams=True))
every_chunking = pytest.mark.parametrize("chunking", CHUNKINGS)


@functools.cache
def _events(case: Case, chunking: str = "as sent") -> list[Event]:
    return answered(case, CHUNKINGS[chunking](case.read("upstream.jsonl")))


def _folded(case: Case, events: list[Event]) -> Json:
    return FOLDS[case.client](iter([events]))


# -- what goes up, and what comes down ----------------------------------------------------------


@every_case
def test_a_request_becomes_what_its_upstream_takes(case: Case) -> None:
    translated = translate_case(case)
    assert translated.request == case.read("upstream.request.json")
    assert sorted(translated.dropped) == case.read("dropped.json", [])


@every_case
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_is_asked_for_in_the_form_in_which_the_client_wants_it(
    case: Case, streamed: bool
) -> None:
    asked = {**case.read("request.json"), "stream": streamed}
    its_terms = terms(**case.read("terms.json", {}))
    usage = {"include_usage": True} if streamed and case.upstream == "chat" else None
    sent = translate(case.direction, asked, its_terms).request
    assert (sent["stream"], sent.get("stream_options")) == (streamed, usage)
    assert {k: v for k, v in sent.items() if not k.startswith("stream")} == {
        k: v for k, v in case.read("upstream.request.json").items() if not k.startswith("stream")
    }


@every_case
def test_a_translated_request_is_one_that_strict_providers_take(case: Case) -> None:
    beyond = set(case.read("terms.json", {}).get("extensions", ()))
    providers = [p for p in PROFILES.values() if beyond <= p.responses_takes]
    assert providers
    for profile in providers:
        body = adapt_request(translate_case(case).request, case.upstream, profile, LossReport())
        check = STRICT[case.upstream]
        known = _without_parts(_in_openais_words(body), beyond)
        assert check(known, extra=beyond) == [], profile.name


def _without_parts(value: Any, kinds: set[str]) -> Any:
    """The body without the content parts of these types."""
    if isinstance(value, dict):
        return {key: _without_parts(inner, kinds) for key, inner in value.items()}
    if isinstance(value, list):
        kept = [i for i in value if not (isinstance(i, dict) and i.get("type") in kinds)]
        return [_without_parts(inner, kinds) for inner in kept]
    return value


def _in_openais_words(body: Json) -> Json:
    """Without what only the vendor says, or says otherwise."""
    strange = VENDORS_WORDS | ({"reasoning"} if "messages" in body else set())
    body = {k: v for k, v in body.items() if k not in strange}
    return {**body, "tool_choice": "required"} if body.get("tool_choice") == "any" else body


@every_case
def test_a_request_is_not_changed_by_its_translation(case: Case) -> None:
    request = case.read("request.json")
    before = copy.deepcopy(request)
    translate(case.direction, request, terms(**case.read("terms.json", {})))
    assert request == before


@every_stream
@every_chunking
def test_an_answer_is_the_same_in_every_chunking(case: Case, chunking: str) -> None:
    answer = _folded(case, _events(case, chunking))
    expected = case.read("answer.json")
    assert {key: answer.get(key) for key in expected} == expected


# -- what the SDK makes of it -------------------------------------------------------------------


@every_stream
@every_chunking
def test_every_event_is_as_the_sdk_types_it(case: Case, chunking: str) -> None:
    mistakes = MISTAKES[case.client]
    assert {e.get("type", "chunk"): m for e in _events(case, chunking) if (m := mistakes(e))} == {}


@to_responses
def test_a_whole_response_is_as_the_sdk_types_it(case: Case) -> None:
    assert sdk.response_mistakes(_folded(case, _events(case))) == []


@to_chat
def test_a_whole_completion_is_as_the_sdk_types_it(case: Case) -> None:
    assert sdk.completion_mistakes(_folded(case, _events(case))) == []


@to_responses
@every_chunking
def test_the_sdk_rebuilds_the_response_from_its_deltas(case: Case, chunking: str) -> None:
    events = _events(case, chunking)
    rebuilt = sdk.rebuilt_response(events)["output"]
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
def test_the_sdk_rebuilds_the_completion_from_its_deltas(case: Case, chunking: str) -> None:
    chunks = _events(case, chunking)
    rebuilt, folded = sdk.rebuilt_completion(chunks), _folded(case, chunks)
    assert said_by_completion(rebuilt) == said_by_completion(folded)
    assert rebuilt.get("usage") == folded["usage"]
    assert rebuilt["id"] == folded["id"]


# -- the life of a response ---------------------------------------------------------------------


@to_responses
@every_chunking
def test_every_item_is_opened_grown_and_closed_in_that_order(case: Case, chunking: str) -> None:
    opened: list[str] = []
    closed: set[str] = set()
    for event in _events(case, chunking):
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
def test_every_part_is_opened_grown_and_closed_in_that_order(case: Case, chunking: str) -> None:
    """And the deltas of a part add up to what its done events say."""
    texts: dict[tuple[Any, ...], str] = {}
    closed: dict[tuple[Any, ...], str] = {}
    for event in _events(case, chunking):
        place = (event.get("item_id"), event.get("content_index"), event.get("summary_index"))
        kind = event["type"].removeprefix("response.")
        if kind.endswith("part.added"):
            assert texts.setdefault(place, "") == ""
        elif kind.endswith(".delta"):
            assert place not in closed
            texts[place] = texts.get(place, "") + event["delta"]
        elif kind.endswith("part.done"):
            part = event["part"]
            assert closed[place] == part.get("text", part.get("refusal"))
        elif kind.endswith(".done") and "item_id" in event:
            closed[place] = next(
                event[k] for k in ("text", "refusal", "arguments", "input") if k in event
            )
            assert texts.get(place, "") == closed[place]
    assert texts.keys() <= closed.keys()


@to_responses
@every_chunking
def test_finished_items_are_the_output_of_the_response(case: Case, chunking: str) -> None:
    events = _events(case, chunking)
    done = {
        e["output_index"]: e["item"] for e in events if e["type"] == "response.output_item.done"
    }
    assert [done[i] for i in sorted(done)] == events[-1]["response"]["output"]


@to_responses
@every_chunking
def test_events_are_numbered_without_gaps(case: Case, chunking: str) -> None:
    events = _events(case, chunking)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@to_responses
@every_chunking
def test_a_response_has_one_beginning_and_one_end(case: Case, chunking: str) -> None:
    events = _events(case, chunking)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [i for i, kind in enumerate(kinds) if kind in TERMINAL_EVENTS] == [len(kinds) - 1]
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1


@to_responses
def test_only_the_last_item_of_an_incomplete_response_is_incomplete(case: Case) -> None:
    response = _folded(case, _events(case))
    statuses = [item["status"] for item in response["output"]]
    assert set(statuses[:-1]) <= {"completed"}
    assert (statuses[-1] == "completed") == (response["status"] == "completed")


@to_chat
@every_chunking
def test_a_completion_has_one_beginning_and_one_end(case: Case, chunking: str) -> None:
    chunks = _events(case, chunking)
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert all("role" not in choice["delta"] for choice in choices[1:])
    assert [bool(choice["finish_reason"]) for choice in choices].index(True) == len(choices) - 1
    assert all(chunk["choices"] for chunk in chunks[: len(choices)])  # usage comes last
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1


@to_chat
@every_chunking
def test_calls_are_numbered_densely_from_zero(case: Case, chunking: str) -> None:
    seen: list[int] = []
    for chunk in _events(case, chunking):
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                if call["index"] not in seen:
                    assert call["id"]
                    assert call["type"]
                    seen.append(call["index"])
    assert seen == list(range(len(seen)))


# -- there and back -----------------------------------------------------------------------------


def _over(direction: str, events: list[Event]) -> list[Event]:
    """The events through a translation that knows nothing of the request."""
    request: Json = {"model": "some-model"}
    request |= (
        {"input": "Hi."}
        if direction == "responses_over_chat"
        else {"messages": [{"role": "user", "content": "Hi."}]}
    )
    return events_of(translate(direction, request, terms()).answer(iter(at_once(events))))


@to_responses
def test_an_answer_says_the_same_to_a_chat_client_and_back(case: Case) -> None:
    response = _folded(case, _events(case))
    chunks = _over("chat_over_responses", _events(case))
    back = _over("responses_over_chat", chunks)
    said = said_by_response(response)
    assert said_by_completion(FOLDS["chat"](iter([chunks]))) == said
    assert said_by_response(FOLDS["responses"](iter([back]))) == said


@to_chat
def test_an_answer_says_the_same_to_a_responses_client_and_back(case: Case) -> None:
    chunks = _events(case)
    events = _over("responses_over_chat", chunks)
    back = _over("chat_over_responses", events)
    said = said_by_completion(FOLDS["chat"](iter([chunks])))
    assert said_by_response(FOLDS["responses"](iter([events]))) == said
    assert said_by_completion(FOLDS["chat"](iter([back]))) == said


@to_chat
def test_calls_keep_their_ids_there_and_back(case: Case) -> None:
    def ids(chunks: list[Event]) -> list[str]:
        message = FOLDS["chat"](iter([chunks]))["choices"][0]["message"]
        return [call["id"] for call in message.get("tool_calls") or ()]

    chunks = _events(case)
    back = _over("chat_over_responses", _over("responses_over_chat", chunks))
    assert ids(back) == ids(chunks) or "function_call" in str(chunks)


# -- whole and stream ---------------------------------------------------------------------------


@to_chat
def test_a_whole_response_gives_the_completion_that_its_stream_gives(case: Case) -> None:
    streamed = _folded(case, _events(case))
    response = case.read("upstream.jsonl")[-1]["response"]
    for asked_to_stream in (False, True):
        batch = unfold.unfold_answer("responses", response, streamed=asked_to_stream)
        assert _folded(case, answered(case, [batch])) == streamed


HISTORIES = {
    "annotations_of_later_texts",
    "annotations_too_late",
    "image_growing",
    "images",
    "repeated_names",
    "text_between_calls",
}
"""Cases whose stream tells of an order, of drafts or of late ids, for which no message has room."""


@to_responses
def test_a_whole_message_gives_the_response_that_its_stream_gives(case: Case) -> None:
    """Item for item, in the words of the case's own upstream."""
    upstream = case.read("upstream.jsonl")
    completion = FOLDS["chat"](iter([upstream]))
    streamed = _folded(case, _events(case))
    for asked_to_stream in (False, True):
        batch = unfold.unfold_answer("chat", completion, streamed=asked_to_stream)
        answer = _folded(case, answered(case, [batch]))
        assert said_by_response(answer) == said_by_response(streamed)
        assert (answer == streamed) == (case.name not in HISTORIES)


@to_responses
def test_a_whole_completion_gives_the_response_that_its_stream_gives(case: Case) -> None:
    streamed = _folded(case, _events(case))
    completion = FOLDS["chat"](iter([_over("chat_over_responses", _events(case))]))
    for asked_to_stream in (False, True):
        batch = unfold.unfold_answer("chat", completion, streamed=asked_to_stream)
        answer = _folded(case, _over("responses_over_chat", batch))
        assert said_by_response(answer) == said_by_response(streamed)
        assert answer["usage"] == streamed["usage"]


# -- breaking -----------------------------------------------------------------------------------


def _cut(events: list[Event]) -> EventStream:
    yield from as_sent(events)


def _disconnected(events: list[Event]) -> EventStream:
    yield from as_sent(events)
    raise UpstreamUnreachable("The connection broke.")


def _reported(events: list[Event]) -> EventStream:
    error = {
        "message": "Overloaded.",
        "type": "server_error",
        "code": "server_error",
        "param": None,
    }
    last: Event = {"error": error}
    if events[0].get("type"):
        last |= {"type": "error", "message": "Overloaded.", "sequence_number": len(events)}
    yield from [*as_sent(events), [last]]


BREAKS = {"cut": _cut, "disconnected": _disconnected, "reported": _reported}
every_break = pytest.mark.parametrize("how", BREAKS)


def _broken(case: Case, how: str) -> Iterator[list[Event]]:
    """What the client gets when its upstream breaks, for every place where it can."""
    events = case.read("upstream.jsonl")
    for length in range(1, len(events)):
        upstream = COMPLETENESS_CHECKS[case.upstream](BREAKS[how](events[:length]), lambda: False)
        yield events_of(ERROR_ENCODERS[case.client](translate_case(case).answer(upstream)))


def _finished(case: Case, events: list[Event]) -> bool:
    """An upstream's stream that is cut after its finish reason has said all but the usage."""
    return any(c.get("finish_reason") for e in events for c in e.get("choices") or ())


@to_responses
@every_break
def test_a_broken_stream_ends_a_response_in_one_failure(case: Case, how: str) -> None:
    for length, events in enumerate(_broken(case, how), start=1):
        kinds = [event["type"] for event in events]
        assert [i for i, kind in enumerate(kinds) if kind in TERMINAL_EVENTS] == [len(kinds) - 1]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [m for event in events for m in sdk.event_mistakes(event)] == []
        sdk.rebuilt_response(events)
        if how == "reported" or not _finished(case, case.read("upstream.jsonl")[:length]):
            assert kinds[-2:] == ["error", "response.failed"]
            assert events[-1]["response"]["status"] == "failed"
            assert events[-1]["response"]["error"]["message"]


@to_chat
@every_break
def test_a_broken_stream_ends_a_completion_in_one_failure(case: Case, how: str) -> None:
    for chunks in _broken(case, how):
        assert ["error" in chunk for chunk in chunks].index(True) == len(chunks) - 1
        assert chunks[-1]["error"]["message"]
        assert not _finished(case, chunks)


# -- values -------------------------------------------------------------------------------------


@every_stream
@every_chunking
def test_an_event_is_a_value_that_nobody_changes(case: Case, chunking: str) -> None:
    """Neither those that were given out, nor those that came in."""
    upstream = CHUNKINGS[chunking](case.read("upstream.jsonl"))
    before = copy.deepcopy(upstream)
    given: list[Batch] = []
    copies: list[Batch] = []
    for batch in translate_case(case).answer(iter(upstream)):
        given.append(batch)
        copies.append(copy.deepcopy(batch))
    assert given == copies
    assert upstream == before


@every_stream
def test_a_heartbeat_is_passed_on_at_once(case: Case) -> None:
    stream = translate_case(case).answer(
        itertools.chain([[]], at_once(case.read("upstream.jsonl")))
    )
    first = next(stream)
    assert first == [] or first[0]["type"] == "response.created"
