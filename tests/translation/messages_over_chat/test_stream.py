"""Chat streams of unusual form as events of the Messages API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError
from forwarder.protocols.messages import fold_messages
from forwarder.translation.messages_over_chat import translate_request, translate_stream
from tests.helpers.check_cases import check_each
from tests.helpers.messages import REQUEST
from tests.helpers.translating import SEAL, collect_events, make_translator_context

Json = dict[str, Any]


def make_chunk(delta: Json, finish: str | None = None, **choice: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **choice}]}


def make_call_chunk(arguments: str = "", index: int = 0, **fields: Any) -> Json:
    function = {"arguments": arguments, **{k: fields.pop(k) for k in ("name",) if k in fields}}
    return make_chunk({"tool_calls": [{"index": index, "function": function, **fields}]})


def translate_chunks(*chunks: Json, context: Any = None, **changes: Any) -> list[Json]:
    context = context or make_translator_context(origin="up/m")
    translated = translate_request({**REQUEST, **changes}, context)
    return collect_events(
        translate_stream(iter([[chunk] for chunk in chunks]), translated, context)
    )


def fold_answer(*chunks: Json, **changes: Any) -> Json:
    return fold_messages(iter([translate_chunks(*chunks, **changes)]))


STOP = make_chunk({}, "stop")


@check_each("field", ["stop_reason", "matched_stop"])
def test_stop_sequence_is_reported_if_the_upstream_names_it(field: str) -> None:
    with_sequence = fold_answer(
        make_chunk({"content": "a"}),
        make_chunk({}, "stop", **{field: "END"}),
        stop_sequences=["END"],
    )
    without_sequence = fold_answer(
        make_chunk({"content": "a"}), make_chunk({}, "stop", **{field: 7}), stop_sequences=["END"]
    )

    assert (with_sequence["stop_reason"], with_sequence["stop_sequence"]) == (
        "stop_sequence",
        "END",
    )
    assert (without_sequence["stop_reason"], without_sequence["stop_sequence"]) == (
        "end_turn",
        None,
    )


@check_each(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("model_length", "model_context_window_exceeded"),
        ("content_filter", "refusal"),
    ],
)
def test_finish_reasons_become_stop_reasons(finish: str, reason: str) -> None:
    assert (
        fold_answer(make_chunk({"content": "a"}), make_chunk({}, finish))["stop_reason"] == reason
    )


def test_refusal_becomes_text_and_stop_details() -> None:
    message = fold_answer(make_chunk({"refusal": "I "}), make_chunk({"refusal": "won't."}), STOP)

    assert message["content"] == [{"type": "text", "text": "I won't."}]
    assert message["stop_details"]["explanation"] == "I won't."


def test_interleaved_calls_become_consecutive_blocks() -> None:
    events = translate_chunks(
        make_call_chunk("{", 0, id="a", name="f"),
        make_call_chunk("{", 1, id="b", name="g"),
        make_call_chunk("}", 0),
        make_call_chunk("}", 1),
        STOP,
    )

    indexes = [event["index"] for event in events if "index" in event]
    assert indexes == sorted(indexes)
    blocks = fold_messages(iter([events]))["content"]
    assert [(block["id"], block["input"]) for block in blocks] == [("a", {}), ("b", {})]


def test_arguments_may_come_after_the_names_of_all_calls() -> None:
    message = fold_answer(
        make_call_chunk("", 0, id="a", name="f"),
        make_call_chunk("", 1, id="b", name="g"),
        make_call_chunk('{"x": 1}', 1),
        make_call_chunk('{"y": 2}', 0),
        STOP,
    )

    assert [block["input"] for block in message["content"]] == [{"y": 2}, {"x": 1}]


def test_calls_stream_while_they_arrive() -> None:
    events = translate_chunks(
        make_call_chunk("{", id="a", name="f"),
        make_call_chunk('"x":1}'),
        make_call_chunk("", 1, id="b", name="g"),
        STOP,
    )

    pieces = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
    assert pieces == ["{", '"x":1}']


def test_calls_without_ids_or_with_the_same_id_get_their_own() -> None:
    message = fold_answer(
        make_call_chunk("{}", name="f"),
        make_call_chunk("{}", 1, id="a", name="f"),
        make_call_chunk("{}", 2, id="a", name="f"),
        STOP,
    )

    assert len({block["id"] for block in message["content"]}) == 3
    assert message["stop_reason"] == "tool_use"


def test_call_without_a_name_is_an_error() -> None:
    with pytest.raises(UpstreamProtocolError, match="without a name"):
        translate_chunks(make_call_chunk("{}", id="a"), STOP)


def test_stream_without_a_finish_reason_is_an_error() -> None:
    with pytest.raises(UpstreamProtocolError):
        translate_chunks(make_chunk({"content": "a"}))


def test_images_become_markdown_once() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    message = fold_answer(
        make_chunk({"content": "See"}),
        make_chunk({"images": [image]}),
        make_chunk({"images": [image]}),
        STOP,
    )

    assert message["content"][0]["text"] == "See\n\n![image](https://example.com/a.png)\n\n"


def make_signature(name: str) -> Json:
    return {"extra_content": {"google": {"thought_signature": name}}}


OPAQUE = make_chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]})
REASONING = make_chunk({"reasoning_content": "Hm."})
SIGNED_CALL = make_call_chunk("{}", id="a", name="f", **make_signature("x"))
LATE_SIGNATURE = make_chunk({"tool_calls": [{"index": 0, **make_signature("x")}]})


@check_each(
    ("chunks", "expected"),
    [
        # Signatures that arrive before the first call
        ([SIGNED_CALL], ["redacted_thinking", "tool_use"]),
        ([OPAQUE, make_call_chunk("{}", id="a", name="f")], ["redacted_thinking", "tool_use"]),
        (
            [make_call_chunk("", id="a", name="f", **make_signature("x")), make_call_chunk("{}")],
            ["redacted_thinking", "tool_use"],
        ),
        ([make_chunk({"content": "a"}), SIGNED_CALL], ["text", "redacted_thinking", "tool_use"]),
        # The thinking block before the call is signed
        ([REASONING, SIGNED_CALL], ["thinking", "tool_use"]),
        ([REASONING, OPAQUE, SIGNED_CALL], ["thinking", "tool_use"]),
        # Signatures that arrive later
        (
            [make_call_chunk("{}", id="a", name="f"), LATE_SIGNATURE],
            ["tool_use", "redacted_thinking"],
        ),
        ([make_call_chunk("{}", id="a", name="f"), OPAQUE], ["tool_use", "redacted_thinking"]),
        (
            [SIGNED_CALL, make_call_chunk("{}", 1, id="b", name="f", **make_signature("y"))],
            ["redacted_thinking", "tool_use", "tool_use", "redacted_thinking"],
        ),
    ],
)
def test_known_signatures_precede_the_first_call(chunks: list[Json], expected: list[str]) -> None:
    assert [block["type"] for block in fold_answer(*chunks, STOP)["content"]] == expected


def test_each_signature_of_a_call_is_in_one_seal() -> None:
    second_call = make_call_chunk("{}", 1, id="b", name="f", **make_signature("y"))
    first_seal, _, _, last_seal = fold_answer(SIGNED_CALL, second_call, STOP)["content"]

    assert json.loads(first_seal["data"].removeprefix(SEAL))["calls"] == {"a": make_signature("x")}
    assert json.loads(last_seal["data"].removeprefix(SEAL))["calls"] == {"b": make_signature("y")}


def test_seal_of_thinking_has_the_signatures_of_its_call() -> None:
    thinking, _ = fold_answer(REASONING, OPAQUE, SIGNED_CALL, STOP)["content"]

    sealed = json.loads(thinking["signature"].removeprefix(SEAL))
    assert sealed["calls"] == {"a": make_signature("x")}
    assert sealed["reasoning_details"] == [{"type": "reasoning.encrypted", "data": "x"}]


def test_signatures_are_reported_as_lost_without_a_cache() -> None:
    signed_call = make_call_chunk(
        "{}", id="a", name="f", extra_content={"google": {"thought_signature": "x"}}
    )
    context = make_translator_context(caches_signatures=False)

    assert len(fold_answer(signed_call, STOP, context=context, thinking=None)["content"]) == 1
    assert list(context.loss_report.losses) == ["output.signatures"]


def test_encrypted_reasoning_without_text_comes_before_the_answer() -> None:
    opaque = make_chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]})

    kinds = [
        block["type"]
        for block in fold_answer(opaque, make_chunk({"content": "a"}), STOP)["content"]
    ]
    assert kinds == ["redacted_thinking", "text"]


def test_blank_reasoning_opens_no_block() -> None:
    message = fold_answer(
        make_chunk({"reasoning_content": "\n"}), make_chunk({"content": "a"}), STOP
    )

    assert [block["type"] for block in message["content"]] == ["text"]


def test_cited_pages_are_citations_of_the_text() -> None:
    page = {"url": "https://example.com", "title": "E", "start_index": 0, "end_index": 1}
    annotation_chunk = make_chunk(
        {"annotations": [{"type": "url_citation", "url_citation": page}, {"type": "x"}]}
    )

    text = fold_answer(make_chunk({"content": "a"}), annotation_chunk, STOP)["content"][0]
    assert [citation["url"] for citation in text["citations"]] == ["https://example.com"]
    assert fold_answer(annotation_chunk, STOP)["content"] == [{"type": "text", "text": ""}]


def test_heartbeats_pass_through() -> None:
    context = make_translator_context()
    translated = translate_request(REQUEST, context)
    batches = [[], [make_chunk({"content": "a"})], [], [STOP]]

    received_batches = list(translate_stream(iter(batches), translated, context))

    assert received_batches[0] == []
    assert received_batches[1][0]["type"] == "message_start"
    assert received_batches[2] == []
