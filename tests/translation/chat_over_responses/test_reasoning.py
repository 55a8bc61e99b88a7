from __future__ import annotations

from typing import Any

from forwarder.translation.chat_over_responses.reasoning import ReasoningText

Json = dict[str, Any]


def make_text_fields(content: str, index: int = 0, part: int = 0) -> Json:
    return {"output_index": index, "content_index": part, "delta": content, "text": content}


def make_summary_fields(content: str, index: int = 0, part: int = 0) -> Json:
    return {"output_index": index, "summary_index": part, "delta": content, "text": content}


def test_parts_and_items_are_paragraphs() -> None:
    thoughts = ReasoningText()
    pieces = [
        thoughts.add_delta(make_text_fields("a"), "text"),
        thoughts.add_delta(make_text_fields("b"), "text"),
        thoughts.add_delta(make_text_fields("c", part=1), "text"),
        thoughts.add_delta(make_summary_fields("d", index=2), "summary"),
    ]
    assert "".join(pieces) == "ab\n\nc\n\nd"
    assert thoughts.output_indexes == {0, 2}
    assert thoughts.separate_summary == ""


def test_missing_deltas_are_added_once() -> None:
    thoughts = ReasoningText()
    assert thoughts.add_delta(make_text_fields("Le"), "text") == "Le"
    assert thoughts.finish_part(make_text_fields("Let me"), "text") == "t me"
    assert thoughts.finish_part(make_text_fields("Let me"), "text") == ""
    item = {"content": [{"text": "Let me"}, {"text": "see."}], "summary": [{"text": "Sees."}]}
    assert thoughts.finish_item(0, item) == "\n\nsee."
    assert thoughts.finish_item(0, item) == ""
    assert thoughts.separate_summary == "Sees."


def test_whole_item_is_shown() -> None:
    thoughts = ReasoningText()
    item = {"content": None, "summary": [{"text": "a"}, {"text": None}, {"text": "b"}]}
    assert thoughts.finish_item(3, item) == "a\n\nb"
    assert thoughts.output_indexes == {3}


def test_summary_beside_text_is_separate() -> None:
    thoughts = ReasoningText()
    assert thoughts.add_delta(make_summary_fields("Early. ", part=0), "summary") == "Early. "
    assert thoughts.add_delta(make_text_fields("t"), "text") == "\n\nt"
    assert thoughts.add_delta(make_summary_fields("late", part=1), "summary") == ""
    assert thoughts.separate_summary == "Early. \n\nlate"
