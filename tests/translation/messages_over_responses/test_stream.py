"""Responses streams of unusual form as events of the Messages API."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamError, UpstreamProtocolError
from forwarder.protocols.messages import fold_messages
from forwarder.translation.messages_over_responses import translate_request, translate_stream
from forwarder.translation.messages_over_responses.stream import EVENT_HANDLERS
from tests.helpers.check_cases import check_each
from tests.helpers.messages import REQUEST, message_mistakes
from tests.helpers.sdk import CONTENT_EVENT_TYPES
from tests.helpers.translating import SEAL, collect_events, make_translator_context

Json = dict[str, Any]


def translate_events(*events: Json, **changes: Any) -> list[Json]:
    context = make_translator_context(origin="up/m", **changes.pop("terms", {}))
    translated = translate_request({**REQUEST, **changes}, context)
    return collect_events(
        translate_stream(iter([[event] for event in events]), translated, context)
    )


def fold_answer(*events: Json, **changes: Any) -> Json:
    message = fold_messages(iter([translate_events(*events, **changes)]))
    assert message_mistakes(message) == []
    return message


def make_item_done(item: Json, index: int = 0) -> Json:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def make_completed(*output: Json, **fields: Any) -> Json:
    return {"type": "response.completed", "response": {"output": list(output), **fields}}


def make_incomplete(reason: str | None) -> Json:
    details = {"incomplete_details": {"reason": reason}} if reason else {}
    return {"type": "response.incomplete", "response": {"output": [], **details}}


SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {
        "type": "search",
        "query": "weather",
        "sources": [{"type": "url", "url": "https://example.com"}],
    },
}


def test_searches_become_server_tool_blocks() -> None:
    open_page = {**SEARCH, "action": {"type": "open_page", "url": "https://example.com"}}
    use, result, text = fold_answer(
        make_item_done(SEARCH), make_item_done(open_page, 1), make_completed(SEARCH, open_page)
    )["content"] + [None]

    assert use["input"] == {"query": "weather"}
    assert result["tool_use_id"] == use["id"]
    assert [page["url"] for page in result["content"]] == ["https://example.com"]
    assert text is None


def test_failed_searches_are_errors() -> None:
    content = fold_answer(make_completed({**SEARCH, "status": "failed"}))["content"]

    assert content[1]["content"]["type"] == "web_search_tool_result_error"


def test_postponed_searches_are_left_out() -> None:
    message = fold_answer(make_completed({**SEARCH, "status": "incomplete"}))

    assert [block["type"] for block in message["content"]] == ["text"]
    assert message["usage"].get("server_tool_use") is None


def test_searches_are_counted_in_the_usage() -> None:
    usage = fold_answer(make_completed(SEARCH))["usage"]

    assert usage["server_tool_use"]["web_search_requests"] == 1


@check_each(
    ("reason", "stop"),
    [
        ("max_output_tokens", "max_tokens"),
        (None, "max_tokens"),
        ("content_filter", "refusal"),
        ("steered", "end_turn"),
    ],
)
def test_incomplete_reason_is_mapped(reason: str | None, stop: str) -> None:
    assert fold_answer(make_incomplete(reason))["stop_reason"] == stop


def test_reasoning_without_text_is_redacted_thinking() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    block, _ = fold_answer(make_item_done(item), make_completed(item))["content"] + [None]

    assert block["type"] == "redacted_thinking"
    assert block["data"].startswith(SEAL)


def make_reasoning_event(kind: str, part: int = 0, **fields: Any) -> Json:
    name = "summary_index" if "summary" in kind else "content_index"
    return {"type": f"response.{kind}", "output_index": 0, name: part, **fields}


@check_each(
    ("event_name", "field"),
    [
        ("reasoning_text", "content"),
        ("reasoning", "content"),
        ("reasoning_summary_text", "summary"),
    ],
)
def test_reasoning_missing_in_deltas_is_taken_from_done_events(event_name: str, field: str) -> None:
    """An upstream may send the end of a part, or whole parts, in done events only."""
    delta = make_reasoning_event(f"{event_name}.delta", delta="Hm")
    done_events = [
        make_reasoning_event(f"{event_name}.done", text="Hmm"),
        make_reasoning_event(f"{event_name}.done", part=1, text="So"),
    ]
    parts = [{"text": "Hmm"}, {"text": "So"}]
    item: Json = {"type": "reasoning", "id": "rs_1", "encrypted_content": "x", field: parts}
    for events in ([], [delta], [delta, done_events[0]], [delta, *done_events], done_events):
        for item_events in ([make_item_done(item)], []):
            thinking = fold_answer(*events, *item_events, make_completed(item))["content"][0]
            assert thinking["thinking"] == "Hmm\n\nSo"
            assert thinking["signature"].startswith(SEAL)


@check_each("parts", [(None, None, None), (1, 1, 1), (1, 2, 3)])
@check_each("kind", ["reasoning_text", "reasoning_summary_text"])
def test_reasoning_is_sent_once_if_its_events_number_no_part_of_the_item(
    kind: str, parts: tuple[Any, ...]
) -> None:
    """SambaNova sends no indexes; vLLM numbers each event."""
    name = "summary_index" if "summary" in kind else "content_index"
    events = [
        {"type": f"response.{kind}.delta", "output_index": 0, "delta": "Let me ", name: parts[0]},
        {"type": f"response.{kind}.delta", "output_index": 0, "delta": "think.", name: parts[1]},
        {
            "type": f"response.{kind}.done",
            "output_index": 0,
            "text": "Let me think.",
            name: parts[2],
        },
    ]
    field = "summary" if "summary" in kind else "content"
    item: Json = {"type": "reasoning", "id": "rs_1", field: [{"text": "Let me think."}]}

    thinking = fold_answer(*events, make_item_done(item), make_completed(item))["content"][0]

    assert thinking["thinking"].replace("\n\n", "") == "Let me think."


@check_each("first_form", ["text", "summary"])
def test_only_the_first_form_of_reasoning_is_sent(first_form: str) -> None:
    texts = [
        make_reasoning_event("reasoning_text.delta", delta="tex"),
        make_reasoning_event("reasoning_text.done", text="text"),
    ]
    summaries = [
        make_reasoning_event("reasoning_summary_text.delta", delta="summ"),
        make_reasoning_event("reasoning_summary_text.done", text="summary"),
    ]
    item = {"type": "reasoning", "content": [{"text": "text"}], "summary": [{"text": "summary"}]}
    streamed = [*texts, *summaries] if first_form == "text" else [*summaries, *texts]

    assert fold_answer(*streamed, make_completed(item))["content"][0]["thinking"] == first_form


def test_omitted_thinking_is_in_the_signature() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "so"}]}
    thinking = {"type": "adaptive", "display": "omitted"}

    block = fold_answer(make_completed(item), thinking=thinking)["content"][0]

    assert block["thinking"] == ""
    assert '"reasoning_content": "so"' in block["signature"]


def test_interleaved_items_become_consecutive_blocks() -> None:
    def make_text_delta(index: int, text: str) -> Json:
        place = {"output_index": index, "content_index": 0}
        return {"type": "response.output_text.delta", **place, "delta": text}

    def make_message(text: str) -> Json:
        return {"type": "message", "content": [{"type": "output_text", "text": text}]}

    events = translate_events(
        make_text_delta(0, "a"),
        make_text_delta(1, "b"),
        make_text_delta(0, "a"),
        make_item_done(make_message("aa")),
        make_item_done(make_message("b"), 1),
        make_completed(),
    )

    indexes = [event["index"] for event in events if "index" in event]
    assert indexes == sorted(indexes)
    texts = [block["text"] for block in fold_messages(iter([events]))["content"]]
    assert texts == ["aa", "b"]


def test_calls_answered_by_the_provider_are_omitted() -> None:
    call = {"type": "function_call", "call_id": "xs_1", "name": "f", "arguments": "{}"}

    message = fold_answer(
        make_item_done(call), make_completed(call), terms={"server_calls": ("xs_",)}
    )

    assert message["content"] == [{"type": "text", "text": ""}]
    assert message["stop_reason"] == "end_turn"


@check_each("streamed", [False, True])
def test_cited_pages_are_citations_of_the_text(streamed: bool) -> None:
    annotation = {"type": "url_citation", "url": "https://example.com", "title": "E"}
    message = {
        "type": "message",
        "content": [{"type": "output_text", "text": "a", "annotations": [annotation]}],
    }
    position = {"output_index": 0, "content_index": 0}
    events = [
        {"type": "response.output_text.delta", **position, "delta": "a"},
        {"type": "response.output_text.done", **position, "text": "a"},
        {"type": "response.output_text.annotation.added", **position, "annotation": annotation},
        make_item_done(message),
    ]

    text = fold_answer(*(events if streamed else ()), make_completed(message))["content"][0]
    assert [citation["url"] for citation in text["citations"]] == ["https://example.com"]


def test_images_become_markdown() -> None:
    image = {"type": "image_generation_call", "id": "ig_1", "result": "iVBORw0KGgo="}

    text = fold_answer(make_completed(image))["content"][0]["text"]
    assert text == "![image](data:image/png;base64,iVBORw0KGgo=)"


@check_each(
    "event",
    [
        {"type": "response.failed", "response": {"error": {"message": "broken"}}},
        {"type": "response.failed"},
        {"type": "error", "message": "broken"},
        {"type": "error", "error": {"message": "broken"}},
    ],
)
def test_failures_are_raised(event: Json) -> None:
    with pytest.raises(UpstreamError, match="broken|failed"):
        translate_events(event)


def test_stream_without_an_end_is_an_error() -> None:
    with pytest.raises(UpstreamProtocolError):
        translate_events({"type": "response.created", "response": {}})


IGNORED_EVENTS = {
    "response.created",  # a message has the model name of the request and its own id
    "response.image_generation_call.partial_image",  # a sent text cannot be replaced by a later draft
}


def test_all_content_events_have_handlers() -> None:
    assert CONTENT_EVENT_TYPES - EVENT_HANDLERS.keys() == IGNORED_EVENTS
