"""Blocks of a Messages answer: never more than one is open."""

from __future__ import annotations

from typing import Any

from forwarder.translation.messages_answer_blocks import (
    Block,
    BlockWriter,
    is_complete_input,
    make_call_block,
    make_message_start,
    make_text_block,
    make_thinking_block,
    map_usage,
)
from tests.helpers.check_cases import check_each


def test_later_blocks_wait_until_the_open_block_is_done() -> None:
    writer, call, text = BlockWriter(), make_call_block("toolu_1", "f"), make_text_block()
    events = writer.begin(call) + writer.append(call, "{")

    assert writer.begin(text) == []
    assert writer.append(text, "Hi") == []
    assert writer.last_block is text
    events += writer.append(call, "}") + writer.finish(call)

    assert [(event["type"], event["index"]) for event in events] == [
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
    ]
    assert events[-1]["delta"] == {"type": "text_delta", "text": "Hi"}
    assert writer.close() == [{"type": "content_block_stop", "index": 1}]


def test_close_sends_waiting_blocks() -> None:
    writer, calls = BlockWriter(), [make_call_block(f"toolu_{i}", "f") for i in range(3)]
    for call in calls:
        writer.begin(call)
        writer.append(call, "{")

    events = writer.close()

    assert [e["index"] for e in events if e["type"] == "content_block_stop"] == [0, 1, 2]
    texts = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
    assert texts == ["{", "{"]  # the delta of the first block was sent earlier


def test_citations_belong_to_the_last_text_block() -> None:
    writer, call, text = BlockWriter(), make_call_block("toolu_1", "f"), make_text_block()
    writer.begin(call)
    assert writer.add_citation({"url": "a"}) == []
    writer.begin(text)
    assert writer.add_citation({"url": "b"}) == []  # the text block waits

    events = writer.finish(call) + writer.add_citation({"url": "c"}) + writer.close()

    cited_urls = [e["delta"]["citation"]["url"] for e in events if "delta" in e]
    assert cited_urls == ["c", "b"]


def test_last_deltas_come_before_the_end_of_a_block() -> None:
    def sign(block: Block) -> None:
        block.last_deltas.append({"type": "signature_delta", "signature": block.text})

    writer, thinking = BlockWriter(sign), make_thinking_block()
    writer.begin(thinking)
    writer.append(thinking, "so")

    assert [event.get("delta") for event in writer.close()] == [
        {"type": "signature_delta", "signature": "so"},
        None,
    ]


@check_each(
    ("text", "is_complete"),
    [("", False), ("{}", True), ('{"a":1}', True), ('{"a"', False), ("1", False)],
)
def test_complete_input_is_an_object(text: str, is_complete: bool) -> None:
    assert is_complete_input(text) is is_complete


@check_each(
    ("tier", "expected"),
    [
        ("priority", "priority"),
        ("fast", "priority"),
        ("default", "standard"),
        (None, None),
        (7, None),
    ],
)
def test_service_tier_is_mapped_to_anthropic_values(tier: Any, expected: str | None) -> None:
    assert (
        make_message_start("msg_1", "m", tier)["message"]["usage"].get("service_tier") == expected
    )


def test_usage_counts_cached_tokens_separately() -> None:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
    }

    assert map_usage(usage, 2) == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 60,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    }
    assert map_usage(None)["input_tokens"] == 0
