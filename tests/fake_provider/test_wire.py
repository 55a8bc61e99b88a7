"""Framing: events to bytes, and the pauses and comments between them."""

from __future__ import annotations

import json

from tests.fake_provider import Answer, Cut, Framing, Pause, Raw, Stream
from tests.fake_provider.answers import ModelRequest
from tests.helpers.check_cases import check_each

CHAT = ModelRequest("chat", {"stream": True})
RESPONSES = ModelRequest("responses", {"stream": True})


def test_chat_ends_with_done_and_responses_without() -> None:
    """This is OpenAI's behaviour and the default."""
    event = {"type": "x"}

    assert Framing().frames([event], "chat") == [b'data: {"type": "x"}\n\n', b"data: [DONE]\n\n"]
    assert Framing().frames([event], "responses") == [b'event: x\ndata: {"type": "x"}\n\n']
    assert len(Framing(done=False).frames([event], "chat")) == 1
    assert len(Framing(done=True).frames([event], "responses")) == 2


def test_line_endings_and_field_prefixes_are_configurable() -> None:
    framing = Framing(newline="\r\n", space="")

    assert framing.frame({"a": 1}, "chat") == b'data:{"a": 1}\r\n\r\n'


def test_non_ascii_text_is_sent_unescaped() -> None:
    """This includes Unicode line separators, which some readers take for the end of a line."""
    assert "é\u2028🏔".encode() in Framing().frame({"a": "é\u2028🏔"}, "chat")


def test_bytes_can_be_sent_one_by_one() -> None:
    steps = list(Framing(by_byte=True).pace_steps(["é".encode(), Cut()]))

    assert steps == [b"\xc3", b"\xa9", Cut()]


def test_frames_can_be_slow_commented_or_all_at_once() -> None:
    assert list(Framing(delay=0.5).pace_steps([b"a"])) == [Pause(0.5), b"a"]
    assert list(Framing(comments=True).pace_steps([b"a"])) == [b": PROCESSING\n\n", b"a"]
    assert list(Framing(at_once=True).pace_steps([b"a", b"b"])) == [b"ab"]


def test_an_answer_is_one_object_if_no_stream_is_requested() -> None:
    reply = Stream(Answer(text="a")).reply(ModelRequest("chat", {}))

    assert reply.steps is None
    assert json.loads(reply.body)["object"] == "chat.completion"
    assert reply.headers["content-type"] == "application/json"


@check_each("request", [CHAT, RESPONSES], ids=["chat", "responses"])
def test_changes_come_before_the_ending(request: ModelRequest) -> None:
    """``changes`` work on events, ``ending`` on frames."""
    stream = Stream(
        Answer(text="a"),
        [lambda events, request: events[:1]],
        ending=lambda frames: [*frames, Cut()],
    )

    steps = stream.reply(request).steps

    assert steps is not None
    assert steps[-1] == Cut()
    assert len(stream.events(request)) == 1


def test_raw_is_not_rendered() -> None:
    assert Raw(body=b"x", status=404).reply(CHAT).body == b"x"
    steps = Raw(events=[{"a": 1}]).reply(CHAT).steps
    assert steps == [b'data: {"a": 1}\n\n', b"data: [DONE]\n\n"]
