"""Incomplete upstream streams and failures; tests/cases and test_laws.py cover the rest."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError, UpstreamRefused
from forwarder.protocols.fold import fold_chat
from forwarder.translation.chat_over_responses.request import is_answer_cut
from forwarder.translation.chat_over_responses.stream import EVENT_HANDLERS
from tests.helpers import sdk
from tests.helpers.check_cases import check_each
from tests.helpers.sdk import CONTENT_EVENT_TYPES
from tests.helpers.translating import NOW, collect_events, make_translator_context, translate

Json = dict[str, Any]


def translate_events(*events: Json, **request: Any) -> list[Json]:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}], **request}
    return collect_events(
        translate("chat_over_responses", body, make_translator_context()).answer(
            iter([[e] for e in events])
        )
    )


def fold_events(*events: Json, **request: Any) -> Json:
    folded: Json = fold_chat(iter([translate_events(*events, **request)]))["choices"][0]["message"]
    return folded


def make_event(kind: str, **more: Any) -> Json:
    return {"type": f"response.{kind}", **more}


def make_place(index: int, part: int = 0) -> Json:
    return {"output_index": index, "content_index": part, "item_id": f"item_{index}"}


def make_completed(*output: Json, **more: Any) -> Json:
    return make_event("completed", response={"status": "completed", "output": list(output), **more})


def test_completion_id_and_model_come_from_the_response() -> None:
    created = make_event(
        "created",
        response={"id": "resp_7", "model": "m-2026", "created_at": 7.5, "service_tier": "flex"},
    )
    first_chunk = translate_events(
        created, make_event("output_text.delta", **make_place(0), delta="a"), make_completed()
    )[0]
    assert (first_chunk["id"], first_chunk["model"], first_chunk["created"]) == (
        "chatcmpl-7",
        "m-2026",
        7,
    )
    assert first_chunk["service_tier"] == "flex"


def test_completion_has_its_own_id_without_a_response_id() -> None:
    first_chunk = translate_events(
        make_event("output_text.delta", **make_place(0), delta="a"), make_completed()
    )[0]
    assert (first_chunk["id"], first_chunk["model"], first_chunk["created"]) == (
        "chatcmpl-1",
        "m",
        NOW,
    )


@check_each(
    ("status", "details", "finish"),
    [
        ("completed", None, "stop"),
        ("incomplete", {"reason": "max_output_tokens"}, "length"),
        ("incomplete", {"reason": "content_filter"}, "content_filter"),
        ("incomplete", {"reason": "max_messages"}, "length"),
        ("incomplete", {"reason": "steered"}, "stop"),
        ("incomplete", None, "length"),
    ],
)
def test_finish_reason_is_mapped(status: str, details: Json | None, finish: str) -> None:
    terminal_event = make_event(
        status, response={"status": status, "incomplete_details": details, "output": []}
    )
    assert translate_events(terminal_event)[-1]["choices"][0]["finish_reason"] == finish


@check_each(
    "event",
    [
        make_event(
            "failed", response={"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}
        ),
        {"type": "error", "code": "rate_limit_exceeded", "message": "Slow down.", "param": None},
        {"type": "error", "error": {"code": "rate_limit_exceeded", "message": "Slow down."}},
    ],
)
def test_failure_keeps_its_status(event: Json) -> None:
    with pytest.raises(UpstreamRefused, match=r"Slow down\.") as caught:
        translate_events(event)
    assert caught.value.status == 429


def test_failure_without_an_error_raises() -> None:
    with pytest.raises(UpstreamRefused):
        translate_events(make_event("failed", response={"status": "failed", "error": None}))


def test_stream_without_terminal_event_raises() -> None:
    with pytest.raises(UpstreamProtocolError):
        translate_events(make_event("output_text.delta", **make_place(0), delta="a"))


def test_missing_deltas_are_added() -> None:
    reply = fold_events(
        make_event("output_text.delta", **make_place(0), delta="Hel"),
        make_event("output_text.done", **make_place(0), text="Hello"),
        make_event("refusal.delta", **make_place(0, 1), delta="N"),
        make_event("refusal.done", **make_place(0, 1), refusal="No"),
        make_event("reasoning_text.done", **make_place(1), text="Hm"),
        make_event("output_item.added", output_index=2, item={"type": "function_call", "call_id": "a", "name": "f"}),
        make_event("function_call_arguments.delta", output_index=2, delta='{"a"'),
        make_event("output_item.done", output_index=2,
              item={"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"a": 1}'}),
        make_completed(),
    )  # fmt: skip
    assert (reply["content"], reply["refusal"], reply["reasoning_content"]) == ("Hello", "No", "Hm")
    assert reply["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


def test_text_is_sent_once() -> None:
    item = {
        "type": "message",
        "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
    }
    reply = fold_events(
        make_event("output_text.delta", **make_place(0), delta="Hello"),
        make_event("output_text.done", **make_place(0), text="Hello"),
        make_event("output_item.done", output_index=0, item=item),
        make_completed(item),
    )
    assert reply["content"] == "Hello"


def test_arguments_wait_for_an_unannounced_call() -> None:
    item = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    reply = fold_events(
        make_event("function_call_arguments.delta", output_index=0, delta="{}"),
        make_event("output_item.done", output_index=0, item=item),
        make_completed(),
    )
    assert reply["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


def test_both_reasoning_event_names_are_read() -> None:
    for event_name in ("reasoning_text", "reasoning"):
        reply = fold_events(
            make_event(f"{event_name}.delta", **make_place(0), delta="H"),
            make_event(f"{event_name}.done", **make_place(0), text="Hm"),
            make_completed(),
        )
        assert reply["reasoning_content"] == "Hm"


def test_summary_without_deltas_is_paragraphs() -> None:
    done = [
        make_event("reasoning_summary_text.done", output_index=0, summary_index=i, text=text)
        for i, text in enumerate("ab")
    ]
    assert fold_events(*done, make_completed())["reasoning_content"] == "a\n\nb"


def test_summary_beside_text_is_separate() -> None:
    text = make_event("reasoning_text.delta", **make_place(0), delta="text")
    summary = make_event(
        "reasoning_summary_text.delta", output_index=0, summary_index=0, delta="summary"
    )
    reply = fold_events(text, summary, make_completed())
    assert reply["reasoning_content"] == "text"
    assert reply["metadata"] == {"reasoning_summary": "summary"}
    reply = fold_events(summary, text, make_completed())
    assert reply["reasoning_content"] == "summary\n\ntext"
    assert reply["metadata"] == {"reasoning_summary": "summary"}


def test_unknown_events_and_items_are_ignored() -> None:
    reply = fold_events(
        make_event("telepathy.delta", delta="x"),
        {"no": "type"},
        make_event("output_item.added", output_index=0, item={"type": "vendor:thing"}),
        make_event("output_item.done", output_index=0, item={"type": "vendor:thing"}),
        make_event("output_text.delta", **make_place(1), delta="a"),
        make_completed({"type": "vendor:thing"}),
    )
    assert reply["content"] == "a"


def test_empty_answer_still_has_a_message() -> None:
    assert fold_events(make_completed()) == {"role": "assistant", "content": "", "refusal": None}


def test_late_logprobs_are_sent_once() -> None:
    entry = {"token": "a", "logprob": -1, "top_logprobs": []}
    deltas = make_event("output_text.delta", **make_place(0), delta="a", logprobs=[entry])
    without_logprobs = make_event("output_text.delta", **make_place(0), delta="a", logprobs=[])
    done = make_event("output_text.done", **make_place(0), text="a", logprobs=[entry])
    part = {"type": "output_text", "text": "a", "annotations": [], "logprobs": [entry]}
    item = make_event(
        "output_item.done", output_index=0, item={"type": "message", "content": [part]}
    )
    for events in (
        [deltas, done, item],
        [without_logprobs, done, item],
        [without_logprobs, item],
        [item],
        [deltas],
    ):
        emitted = translate_events(*events, make_completed(), logprobs=True)
        logprobs = [c["choices"][0]["logprobs"] for c in emitted if c["choices"][0]["logprobs"]]
        assert [[token["token"] for token in entry_list["content"]] for entry_list in logprobs] == [
            ["a"]
        ]
        assert "".join(c["choices"][0]["delta"].get("content") or "" for c in emitted) == "a"


def test_unrequested_logprobs_are_omitted() -> None:
    entry = {"token": "a", "logprob": -1, "top_logprobs": []}
    delta = make_event("output_text.delta", **make_place(0), delta="a", logprobs=[entry])
    done = make_event("output_text.done", **make_place(0), text="a", logprobs=[entry])
    assert all(
        c["choices"][0]["logprobs"] is None for c in translate_events(delta, done, make_completed())
    )


def test_image_of_the_final_response_is_sent() -> None:
    item = {"type": "image_generation_call", "id": "ig_1", "result": "iVBORw=="}
    assert len(fold_events(make_completed(item))["images"]) == 1
    added = make_event("output_item.done", output_index=0, item={**item, "result": None})
    assert len(fold_events(added, make_completed(item))["images"]) == 1


def test_image_alone_keeps_the_completion_id() -> None:
    item = {"type": "image_generation_call", "id": "ig_1", "result": "iVBORw=="}
    done = make_event("output_item.done", output_index=0, item=item)
    emitted = translate_events(done, make_completed(item, id="resp_9", model="other"))
    assert len({(chunk["id"], chunk["model"]) for chunk in emitted}) == 1


def test_drafts_stream_separately_from_images() -> None:
    draft = make_event("image_generation_call.partial_image", output_index=0, item_id="ig_1",
                  partial_image_index=0, partial_image_b64="iVBORw==")  # fmt: skip
    deltas = [c["choices"][0]["delta"] for c in translate_events(draft, make_completed())]
    assert [d["metadata"]["partial_images"][0]["id"] for d in deltas if "metadata" in d] == ["ig_1"]
    assert "metadata" not in fold_events(draft, make_completed())


def test_all_content_events_have_handlers() -> None:
    assert CONTENT_EVENT_TYPES - EVENT_HANDLERS.keys() == set()


def test_chunks_before_a_failure_are_sent() -> None:
    """The chunks before the failure are sent, then the failure is raised."""
    batch = [
        make_event("output_text.delta", **make_place(0), delta="begun"),
        {"type": "error", "message": "Overloaded.", "code": "server_error"},
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
    stream = translate("chat_over_responses", body, make_translator_context()).answer(iter([batch]))

    first_batch = next(stream)

    assert first_batch[-1]["choices"][0]["delta"] == {"content": "begun"}
    with pytest.raises(UpstreamRefused):
        next(stream)


def test_cut_answer_streams_its_side_data() -> None:
    url = {"type": "url_citation", "start_index": 0, "end_index": 3, "url": "u", "title": "t"}
    file = {"type": "file_path", "file_id": "file-1", "index": 2}
    events = [
        make_event("reasoning_text.delta", **make_place(0), delta="text"),
        make_event(
            "reasoning_summary_text.delta", output_index=0, summary_index=0, delta="summary"
        ),
        make_event("output_item.done", output_index=0, item={"type": "reasoning", "id": "rs"}),
        make_event("output_text.delta", **make_place(1), delta="one two"),
        make_event("output_text.annotation.added", **make_place(1), annotation=url),
        make_event("output_text.annotation.added", **make_place(1), annotation=file),
        make_completed(),
    ]
    deltas = [
        c["choices"][0]["delta"] for c in translate_events(*events, stop="END") if c["choices"]
    ]
    side_data = [delta["notes"] for delta in deltas if "notes" in delta]
    assert side_data[0] == {
        "annotations": [],
        "files": [],
        "metadata": {"reasoning_summary": "summary"},
    }
    assert [[at for at, _ in notes["annotations"]] for notes in side_data] == [[], [3], [3], [3]]
    assert [[at for at, _ in notes["files"]] for notes in side_data] == [[], [], [2], [2]]
    assert deltas[-1] == {}
    assert not any("annotations" in delta or "metadata" in delta for delta in deltas)


@check_each(
    ("request_", "is_cut"),
    [
        ({}, False),
        ({"stop": []}, False),
        ({"stop": "END"}, True),
        ({"stop": ["END"]}, True),
        ({"max_tokens": 15}, True),
        ({"max_tokens": 16}, False),
        ({"max_tokens": 2, "max_completion_tokens": 99}, False),
        ({"max_tokens": 99, "max_completion_tokens": 2}, True),
        ({"max_tokens": "2"}, False),
    ],
)
def test_answer_is_cut_at_stops_and_low_limits(request_: Json, is_cut: bool) -> None:
    assert is_answer_cut(request_) is is_cut


# -- quirks of providers -------------------------------------------------------------------------


@check_each(
    ("tier", "expected"), [("on_demand", "default"), ("ultrafast", "priority"), ("flex", "flex")]
)
def test_service_tier_is_mapped_to_chats_values(tier: str, expected: str) -> None:
    created = make_event("created", response={"service_tier": tier})
    first_chunk = translate_events(
        created, make_event("output_text.delta", **make_place(0), delta="a"), make_completed()
    )[0]
    assert first_chunk["service_tier"] == expected


SEARCH = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "xs_call_1",
          "name": "x_keyword_search", "input": '{"query": "a"}'}  # fmt: skip


@check_each("streamed", [True, False])
def test_provider_answered_calls_are_ignored(streamed: bool) -> None:
    client_call = {**SEARCH, "call_id": "call_1", "name": "patch"}
    steps = [
        make_event("output_item.added", output_index=0, item={**SEARCH, "input": ""}),
        make_event("custom_tool_call_input.delta", **make_place(0), delta=SEARCH["input"]),
        make_event("custom_tool_call_input.done", **make_place(0), input=SEARCH["input"]),
        make_event("output_item.done", output_index=0, item=SEARCH),
        make_event("output_item.added", output_index=1, item={**client_call, "input": ""}),
        make_event("output_item.done", output_index=1, item=client_call),
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
    context = make_translator_context(server_calls=("xs_call_",))
    events = [*(steps if streamed else []), make_completed(SEARCH, client_call)]
    stream = translate("chat_over_responses", body, context).answer(iter([events]))
    [choice] = fold_chat(stream)["choices"]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["call_1"]
    assert choice["finish_reason"] == "tool_calls"


def test_answer_after_provider_calls_finishes_with_stop() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
    context = make_translator_context(server_calls=("xs_call_",))
    reply = {"type": "message", "content": [{"type": "output_text", "text": "a"}]}
    stream = translate("chat_over_responses", body, context).answer(
        iter([[make_completed(SEARCH, reply)]])
    )
    [choice] = fold_chat(stream)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a", "stop")
    assert "tool_calls" not in choice["message"]


@check_each("streamed", [True, False])
def test_citation_without_position_is_placed_at_the_end(streamed: bool) -> None:
    """xAI sends only the URL."""
    annotation = {"type": "url_citation", "url": "https://x.ai", "title": None}
    part = {"type": "output_text", "text": "Hello.", "annotations": [annotation]}
    item = {"type": "message", "id": "item_0", "content": [part]}
    steps = [
        make_event("output_text.delta", **make_place(0), delta="Hello."),
        make_event(
            "output_text.annotation.added",
            **make_place(0),
            annotation_index=0,
            annotation=annotation,
        ),
        make_event("output_item.done", output_index=0, item=item),
    ]
    emitted = translate_events(*(steps if streamed else []), make_completed(item))
    [citation] = fold_chat(iter([emitted]))["choices"][0]["message"]["annotations"]
    assert citation == {
        "type": "url_citation",
        "url_citation": {"start_index": 6, "end_index": 6, "title": "", "url": "https://x.ai"},
    }
    assert sdk.completion_mistakes(fold_chat(iter([emitted]))) == []


def test_moderation_is_carried() -> None:
    result = {"type": "moderation_result", "model": "omni", "flagged": True, "categories": {},
              "category_applied_input_types": {}, "category_scores": {}}  # fmt: skip
    result_list = {"type": "moderation_results", "model": "omni", "results": [result]}
    emitted = translate_events(
        make_event("output_text.delta", **make_place(0), delta="a"),
        make_completed(moderation={"input": result, "output": result}),
    )
    assert [m for chunk in emitted for m in sdk.chunk_mistakes(chunk)] == []
    folded = fold_chat(iter([emitted]))
    assert folded["moderation"] == {"input": result_list, "output": result_list}
    assert sdk.completion_mistakes(folded) == []


def test_finished_empty_answer_is_an_empty_message() -> None:
    folded = fold_chat(
        iter([translate_events(make_event("created", response={}), make_completed())])
    )
    [choice] = folded["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
