"""Properties of Messages events, for the upstream's stream of every case under ``tests/cases``."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

from forwarder.core.errors import UpstreamUnreachable
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, Event, EventStream
from forwarder.protocols import unfold
from forwarder.protocols.messages import fold_messages
from forwarder.protocols.registry import CLIENT_PROTOCOLS, UPSTREAM_PROTOCOLS
from forwarder.providers import PROFILES, adapt_request
from tests.fake_provider import check_chat, check_responses
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each
from tests.helpers.messages import (
    REQUEST,
    event_mistakes,
    message_mistakes,
    read_message_content,
    rebuild_message,
)
from tests.helpers.translating import (
    CHUNKINGS,
    TRANSLATIONS,
    AnswerContent,
    batch_all_events,
    batch_each_event,
    collect_events,
    make_translator_context,
    read_completion_content,
    read_response_content,
    translate_case,
)
from tests.helpers.translating import translate as translate_request
from tests.translation.test_laws import as_openai_body

Json = dict[str, Any]

STRICT: dict[str, Any] = {"chat": check_chat, "responses": check_responses}

every_stream = check_each("case", list_cases(streams=True))
every_chunking = check_each("chunking", CHUNKINGS)
MESSAGES_CASES = [
    case_param
    for over in ("chat", "responses")
    for case_param in list_cases(f"messages_over_{over}")
]
every_messages_case = check_each("case", MESSAGES_CASES)
every_messages_stream = check_each(
    "case", [case_param for case_param in MESSAGES_CASES if case_param.values[0].streams]
)


def translate(case: Case, batches: list[Batch] | EventStream, **changes: Any) -> EventStream:
    context = make_translator_context(**case.read("terms.json", {}))
    translation = TRANSLATIONS[f"messages_over_{case.upstream}"]
    translated = translation.translate_request({**REQUEST, **changes}, context)
    stream: EventStream = translation.translate_stream(iter(batches), translated, context)
    return stream


@functools.cache
def translate_events(case: Case, chunking: str = "as sent") -> list[Event]:
    return collect_events(translate(case, CHUNKINGS[chunking](case.read("upstream.jsonl"))))


def fold(events: list[Event]) -> Json:
    return fold_messages(iter([events]))


@every_stream
@every_chunking
def test_events_match_the_sdk_types(case: Case, chunking: str) -> None:
    mistakes = [event_mistakes(event) for event in translate_events(case, chunking)]
    assert [mistake for mistake in mistakes if mistake] == []


@every_stream
def test_folded_message_matches_the_sdk_type(case: Case) -> None:
    assert message_mistakes(fold(translate_events(case))) == []


@every_stream
@every_chunking
def test_sdk_accumulates_the_message(case: Case, chunking: str) -> None:
    events = translate_events(case, chunking)
    folded = fold(events)
    if all(is_whole(block) for block in folded["content"]):  # the SDK reads cut input in part
        rebuilt = rebuild_message(events)
        assert {k: v for k, v in rebuilt.items() if v is not None} == {
            k: v for k, v in folded.items() if v is not None
        }


def is_whole(block: Json) -> bool:
    return block["type"] != "tool_use" or block["input"] != {}


@every_stream
@every_chunking
def test_blocks_follow_each_other_strictly(case: Case, chunking: str) -> None:
    """Every block is opened, filled and closed before the next one."""
    open_index, count = None, 0
    for event in translate_events(case, chunking)[1:-2]:
        if event["type"] == "content_block_start":
            assert open_index is None
            assert event["index"] == count
            open_index, count = count, count + 1
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_index
            open_index = None
        else:
            assert event["type"] == "content_block_delta"
            assert event["index"] == open_index
    assert open_index is None
    assert count


@every_stream
@every_chunking
def test_message_has_one_start_and_one_end(case: Case, chunking: str) -> None:
    kinds = [event["type"] for event in translate_events(case, chunking)]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    frame_kinds = ("message_start", "message_delta", "message_stop", "error")
    assert [kind for kind in kinds if kind in frame_kinds] == list(frame_kinds[:3])


@every_stream
@every_chunking
def test_thinking_is_signed_once_at_its_end(case: Case, chunking: str) -> None:
    events = translate_events(case, chunking)
    opened = [
        event["index"]
        for event in events
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "thinking"
    ]
    signed = [
        (event["index"], events[i + 1]["type"])
        for i, event in enumerate(events)
        if event.get("delta", {}).get("type") == "signature_delta"
    ]
    assert signed == [(index, "content_block_stop") for index in opened]


@every_stream
@every_chunking
def test_chunking_changes_only_the_pieces(case: Case, chunking: str) -> None:
    assert read_message_content(fold(translate_events(case, chunking))) == read_message_content(
        fold(translate_events(case))
    )


def read_upstream_content(case: Case) -> AnswerContent:
    events = batch_all_events(case.read("upstream.jsonl"))
    answer = CLIENT_PROTOCOLS[case.upstream].fold(iter(events))
    read_content = read_completion_content if case.upstream == "chat" else read_response_content
    return read_content(answer)


NOT_COMPARABLE = {
    "image_alone", "image_and_call", "image_growing", "image_parts", "images", "images_in_answers",
    "only_an_image", "image_by_url",  # images become Markdown
    "reasoning_details", "reasoning_field", "reasoning_in_parts", "reasoning_in_tags",
    "reasoning_twice", "reasoning_blank", "reasoning_both_forms", "logprobs_of_thoughts",
    "cut_in_thought", "reasoning_content",  # their fold has the reasoning in other places
    "repeated_names", "server_run_calls", "legacy_function_call", "several_choices",
    "custom_tool_native", "custom_tool", "custom_tool_bare", "namespaces",
}  # fmt: skip
"""Cases whose upstream answers `read_upstream_content` cannot compare; other tests check them."""


@check_each("case", [p for p in list_cases(streams=True) if p.values[0].name not in NOT_COMPARABLE])
def test_message_has_the_content_of_the_upstream(case: Case) -> None:
    content, upstream_content = (
        read_message_content(fold(translate_events(case))),
        read_upstream_content(case),
    )
    calls = [(name, parse_arguments(arguments)) for name, arguments in upstream_content.calls]
    expected = upstream_content._replace(calls=calls)  # type: ignore[arg-type]
    assert content._replace(refusal="", ending="") == expected._replace(refusal="", ending="")
    assert content.refusal in (upstream_content.refusal, "")
    assert content.ending == upstream_content.ending or content.refusal


def parse_arguments(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return {}


# -- requests and their answers -----------------------------------------------------------------


@every_messages_case
def test_request_is_translated_as_recorded(case: Case) -> None:
    translated = translate_case(case)
    assert translated.request == case.read("upstream.request.json")
    assert sorted(translated.dropped) == case.read("dropped.json", [])


@every_messages_case
def test_translation_does_not_modify_the_request(case: Case) -> None:
    request = case.read("request.json")
    before = copy.deepcopy(request)
    translate_request(
        case.direction, request, make_translator_context(**case.read("terms.json", {}))
    )
    assert request == before


@every_messages_case
@check_each("streamed", [False, True])
def test_stream_parameter_follows_the_client(case: Case, streamed: bool) -> None:
    request = {**case.read("request.json"), "stream": streamed}
    context = make_translator_context(**case.read("terms.json", {}))
    usage = {"include_usage": True} if streamed and case.upstream == "chat" else None
    upstream_request = translate_request(case.direction, request, context).request
    assert (upstream_request["stream"], upstream_request.get("stream_options")) == (streamed, usage)


SEALED_OR_FETCHED = {
    ("messages_media", "chat"),  # the URL of its file is fetched by an earlier stage
    ("messages_thinking", "responses"),  # its encrypted content belongs to no client
}


@check_each(
    "case",
    [
        c
        for c in MESSAGES_CASES
        if (c.values[0].name, c.values[0].upstream) not in SEALED_OR_FETCHED
    ],
)
def test_translated_request_is_valid_for_strict_providers(case: Case) -> None:
    extensions = set(case.read("terms.json", {}).get("extensions", ()))
    providers = [p for p in PROFILES.values() if extensions <= p.responses_takes]
    assert providers
    request = translate_case(case).request
    for profile in providers:
        body = adapt_request(copy.deepcopy(request), case.upstream, profile, LossReport())
        mistakes = STRICT[case.upstream](as_openai_body(body), extra=extensions)
        assert mistakes == [], profile.name


@every_messages_stream
@every_chunking
def test_answer_is_as_recorded(case: Case, chunking: str) -> None:
    batches = CHUNKINGS[chunking](case.read("upstream.jsonl"))
    answer = fold(collect_events(translate_case(case).answer(iter(batches))))
    expected = case.read("answer.json")
    assert {key: answer.get(key) for key in expected} == expected


@every_messages_stream
def test_answer_survives_as_history_of_the_next_turn(case: Case) -> None:
    """The answer of one turn is history in the next one, with the signatures of its provider."""
    events = case.read("upstream.jsonl")
    request = case.read("request.json")
    context = make_translator_context(**case.read("terms.json", {}))
    translated = translate_request(case.direction, request, context)
    message = fold(collect_events(translated.answer(iter(batch_all_events(events)))))
    calls = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call_id, "content": "x"} for call_id in calls]
    next_message = {"role": "user", "content": [*results, {"type": "text", "text": "Go on"}]}
    turn = {"role": "assistant", "content": message["content"]}
    next_request = {**request, "messages": [*request["messages"], turn, next_message]}
    translated_next = translate_request(
        case.direction, next_request, make_translator_context(**case.read("terms.json", {}))
    )
    upstream_answer = UPSTREAM_PROTOCOLS[case.upstream].fold(iter(batch_all_events(events)))
    if case.upstream == "chat":
        upstream_message = upstream_answer["choices"][0]["message"]
        history_message = next(
            m for m in reversed(translated_next.request["messages"]) if m["role"] == "assistant"
        )
        assert history_message["content"] == upstream_message["content"]
        assert history_message.get("reasoning_details") == upstream_message.get("reasoning_details")
        ids = [call["id"] for call in upstream_message.get("tool_calls", ())]
        assert [call["id"] for call in history_message.get("tool_calls", ())] == ids
    else:
        reasoning_items = [
            item for item in upstream_answer["output"] if item["type"] == "reasoning"
        ]
        assert [
            item for item in translated_next.request["input"] if item in reasoning_items
        ] == reasoning_items


# -- whole answers ------------------------------------------------------------------------------


@every_stream
def test_whole_answer_equals_the_stream(case: Case) -> None:
    events = case.read("upstream.jsonl")
    upstream_answer = UPSTREAM_PROTOCOLS[case.upstream].fold(iter(batch_all_events(events)))
    unfolded = unfold.unfold_answer(case.upstream, copy.deepcopy(upstream_answer), streamed=False)
    message = fold(collect_events(translate(case, [unfolded])))
    content, streamed = (
        read_message_content(message),
        read_message_content(fold(translate_events(case))),
    )
    if case.name not in NOT_COMPARABLE:
        assert content == streamed
    assert message["stop_reason"] == fold(translate_events(case))["stop_reason"]


# -- failures -----------------------------------------------------------------------------------


@every_stream
def test_cut_stream_ends_with_one_error(case: Case) -> None:
    """After a break of the upstream, the client has the events so far and one ``error``."""
    events = case.read("upstream.jsonl")
    append_error = CLIENT_PROTOCOLS["messages"].append_error

    def break_off(batches: list[Batch]) -> EventStream:
        yield from batches
        raise UpstreamUnreachable("the connection broke")

    for length in range(len(events) + 1):
        received_events = collect_events(
            append_error(translate(case, break_off(batch_each_event(events[:length]))))
        )
        kinds = [event["type"] for event in received_events]
        assert kinds.count("error") + kinds.count("message_stop") == 1
        assert kinds[-1] in ("error", "message_stop")
        if kinds[-1] == "error":
            assert received_events[-1]["error"] == {
                "type": "api_error",
                "message": "the connection broke",
            }


# -- settings -----------------------------------------------------------------------------------


@every_stream
def test_thinking_is_omitted_if_not_enabled(case: Case) -> None:
    without_thinking = fold(
        collect_events(
            translate(case, batch_each_event(case.read("upstream.jsonl")), thinking=None)
        )
    )
    with_thinking = fold(translate_events(case))
    kinds = ("thinking", "redacted_thinking")
    other_blocks = [block for block in with_thinking["content"] if block["type"] not in kinds]
    assert without_thinking["content"] == (other_blocks or [{"type": "text", "text": ""}])


@every_stream
def test_omitted_thinking_has_a_signature_and_no_text(case: Case) -> None:
    setting = {**REQUEST["thinking"], "display": "omitted"}
    events = batch_each_event(case.read("upstream.jsonl"))
    omitted = fold(collect_events(translate(case, events, thinking=setting)))
    with_text = fold(translate_events(case))
    assert [block["type"] for block in omitted["content"]] == [
        block["type"] for block in with_text["content"]
    ]
    for block in omitted["content"]:
        if block["type"] == "thinking":
            assert block["thinking"] == ""
            assert block["signature"]


# -- unchanged values ---------------------------------------------------------------------------


@check_each(
    "case", [*list_cases(streams=True), *(c for c in MESSAGES_CASES if c.values[0].streams)]
)
@every_chunking
@check_each("has_thinking", [True, False])
def test_events_are_never_modified(case: Case, chunking: str, has_thinking: bool) -> None:
    """Neither the emitted events nor the upstream's events change later."""
    upstream = CHUNKINGS[chunking](case.read("upstream.jsonl"))
    before = copy.deepcopy(upstream)
    emitted: list[Batch] = []
    copies: list[Batch] = []
    thinking = REQUEST["thinking"] if has_thinking else None
    for batch in translate(case, upstream, thinking=thinking):
        emitted.append(batch)
        copies.append(copy.deepcopy(batch))
    assert emitted == copies
    assert upstream == before
