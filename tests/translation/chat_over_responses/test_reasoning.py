from __future__ import annotations

from typing import Any

from forwarder.translation.chat_over_responses.reasoning import ReasoningText

Json = dict[str, Any]


def make_text_fields(content: str, index: int = 0, part: int = 0) -> Json:
    return {"output_index": index, "content_index": part, "delta": content, "text": content}


def make_summary_fields(content: str, index: int = 0, part: int = 0) -> Json:
    return {"output_index": index, "summary_index": part, "delta": content, "text": content}


def test_parts_and_items_are_paragraphs() -> None:
    reasoning = ReasoningText()
    pieces = [
        reasoning.add_delta(make_text_fields("a"), "text"),
        reasoning.add_delta(make_text_fields("b"), "text"),
        reasoning.add_delta(make_text_fields("c", part=1), "text"),
        reasoning.add_delta(make_summary_fields("d", index=2), "summary"),
    ]
    assert "".join(pieces) == "ab\n\nc\n\nd"
    assert reasoning.output_indexes == {0, 2}
    assert reasoning.separate_summary == ""


def test_missing_deltas_are_added_once() -> None:
    reasoning = ReasoningText()
    assert reasoning.add_delta(make_text_fields("Le"), "text") == "Le"
    assert reasoning.finish_part(make_text_fields("Let me"), "text") == "t me"
    assert reasoning.finish_part(make_text_fields("Let me"), "text") == ""
    item = {"content": [{"text": "Let me"}, {"text": "see."}], "summary": [{"text": "Sees."}]}
    assert reasoning.finish_item(0, item) == "\n\nsee."
    assert reasoning.finish_item(0, item) == ""
    assert reasoning.separate_summary == "Sees."


def test_item_without_deltas_is_returned() -> None:
    reasoning = ReasoningText()
    item = {"content": None, "summary": [{"text": "a"}, {"text": None}, {"text": "b"}]}
    assert reasoning.finish_item(3, item) == "a\n\nb"
    assert reasoning.output_indexes == {3}


def test_summary_beside_text_is_separate() -> None:
    reasoning = ReasoningText()
    assert reasoning.add_delta(make_summary_fields("Early. ", part=0), "summary") == "Early. "
    assert reasoning.add_delta(make_text_fields("t"), "text") == "\n\nt"
    assert reasoning.add_delta(make_summary_fields("late", part=1), "summary") == ""
    assert reasoning.separate_summary == "Early. \n\nlate"
