"""The data of answers."""

from __future__ import annotations

from tests.fake_provider.answers import (
    SEALED,
    Answer,
    Call,
    ModelRequest,
    Usage,
    make_error,
    make_obfuscation,
    seal,
)
from tests.helpers.check_cases import check_each


@check_each("pieces", [1, 2, 3, 5, 100])
def test_a_text_is_cut_into_no_more_than_its_pieces(pieces: int) -> None:
    """The pieces add up to the text, and none is empty."""
    parts = Answer(pieces=pieces).cut_text("héllo 🏔!")

    assert "".join(parts) == "héllo 🏔!"
    assert 1 <= len(parts) <= pieces
    assert all(parts)
    assert Answer().cut_text("") == []


def test_a_call_is_streamed_as_text() -> None:
    """Arguments are JSON without ASCII escapes; the input of a custom call is unchanged."""
    assert Call("f", {"city": "Zürich"}).text == '{"city": "Zürich"}'
    assert Call("f", '{"a":1}').text == '{"a":1}'
    assert Call("f", kind="custom", input="free").text == "free"


def test_both_protocols_report_the_same_usage() -> None:
    usage = Usage(input=10, output=4, cached=2, reasoning=1)

    assert usage.chat()["total_tokens"] == usage.responses()["total_tokens"] == 14
    assert usage.chat()["prompt_tokens_details"]["cached_tokens"] == 2
    assert usage.responses()["output_tokens_details"]["reasoning_tokens"] == 1


def test_ids_differ_between_requests() -> None:
    one, two = ModelRequest("chat", {}, 1), ModelRequest("chat", {}, 2)

    assert one.id("msg_") != two.id("msg_")
    assert one.call_id(Call("f"), 0) != two.call_id(Call("f"), 0)
    assert one.call_id(Call("f", id="mine"), 0) == "mine"


def test_error_seal_and_padding_formats() -> None:
    assert make_error("no", param="x")["error"] == {
        "message": "no",
        "type": "invalid_request_error",
        "param": "x",
        "code": None,
    }
    assert seal("secret").startswith(SEALED)
    assert len("abc" + make_obfuscation("abc")) % 16 == 0
