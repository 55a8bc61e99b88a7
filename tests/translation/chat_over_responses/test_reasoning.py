from __future__ import annotations

from typing import Any

from forwarder.translation.chat_over_responses.reasoning import Thoughts

Json = dict[str, Any]


def text(said: str, index: int = 0, part: int = 0) -> Json:
    return {"output_index": index, "content_index": part, "delta": said, "text": said}


def summary(said: str, index: int = 0, part: int = 0) -> Json:
    return {"output_index": index, "summary_index": part, "delta": said, "text": said}


def test_parts_and_items_are_paragraphs() -> None:
    thoughts = Thoughts()
    shown = [
        thoughts.grow(text("a"), "text"),
        thoughts.grow(text("b"), "text"),
        thoughts.grow(text("c", part=1), "text"),
        thoughts.grow(summary("d", index=2), "summary"),
    ]
    assert "".join(shown) == "ab\n\nc\n\nd"
    assert thoughts.indexes == {0, 2}
    assert thoughts.apart == ""


def test_what_the_deltas_left_out_is_shown_once() -> None:
    thoughts = Thoughts()
    assert thoughts.grow(text("Le"), "text") == "Le"
    assert thoughts.finish(text("Let me"), "text") == "t me"
    assert thoughts.finish(text("Let me"), "text") == ""
    item = {"content": [{"text": "Let me"}, {"text": "see."}], "summary": [{"text": "Sees."}]}
    assert thoughts.finish_item(0, item) == "\n\nsee."
    assert thoughts.finish_item(0, item) == ""
    assert thoughts.apart == "Sees."


def test_an_item_that_came_whole_is_shown_whole() -> None:
    thoughts = Thoughts()
    item = {"content": None, "summary": [{"text": "a"}, {"text": None}, {"text": "b"}]}
    assert thoughts.finish_item(3, item) == "a\n\nb"
    assert thoughts.indexes == {3}


def test_a_summary_beside_the_text_is_told_apart() -> None:
    thoughts = Thoughts()
    assert thoughts.grow(summary("Early. ", part=0), "summary") == "Early. "
    assert thoughts.grow(text("t"), "text") == "\n\nt"
    assert thoughts.grow(summary("late", part=1), "summary") == ""
    assert thoughts.apart == "Early. \n\nlate"
