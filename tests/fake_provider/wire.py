"""How a reply is written: its head, its frames, and the steps between them.

A ``Reply`` is data; ``scripted`` performs it on a connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from . import chat, responses
from .answers import Answer, Ask, Json, Protocol

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Pause:
    """Nothing is sent for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Stall:
    """Nothing is sent until the test sets ``release``, the client leaves, or it is too long."""

    seconds: float = 30.0


@dataclass(frozen=True)
class Cut:
    """The connection ends here: by a reset, or closed in good order but without its end."""

    reset: bool = True


Step = bytes | Pause | Stall | Cut


@dataclass(frozen=True)
class Reply:
    """One HTTP response.

    ``body`` goes out with its length; ``steps``, when not None, as chunks instead. ``before`` is
    done in place of the status line's first byte. A header of None is left out.
    """

    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    steps: Sequence[Step] | None = None
    before: Pause | Stall | Cut | None = None


@dataclass(frozen=True)
class Framing:
    """How events become bytes.

    ``done`` writes ``[DONE]``; None is as OpenAI does it: after a chat stream only. ``delay`` is
    in seconds before each frame, ``by_byte`` sends every byte alone, ``comments`` puts a comment
    in front of each frame, ``at_once`` sends all frames in one packet.
    """

    newline: str = "\n"
    space: str = " "
    done: bool | None = None
    content_type: str | None = SSE_TYPE
    comments: bool = False
    by_byte: bool = False
    at_once: bool = False
    delay: float = 0.0

    def frames(self, events: Sequence[Json], protocol: Protocol) -> list[bytes]:
        """One frame per event, and ``[DONE]``."""
        said = [self.frame(event, protocol) for event in events]
        if protocol == "chat" if self.done is None else self.done:
            said.append(self._lines(f"data:{self.space}[DONE]"))
        return said

    def frame(self, event: Json, protocol: Protocol) -> bytes:
        """One event; only the Responses API names it in a line of its own."""
        data = f"data:{self.space}{json.dumps(event, ensure_ascii=False)}"
        if protocol == "chat" or "type" not in event:
            return self._lines(data)
        return self._lines(f"event:{self.space}{event['type']}", data)

    def pace_steps(self, steps: Sequence[Step]) -> Iterator[Step]:
        """The steps with the pauses and comments of this framing."""
        for step in self._join_steps(steps):
            if self.delay:
                yield Pause(self.delay)
            if self.comments and isinstance(step, bytes):
                yield self._lines(": PROCESSING")
            if self.by_byte and isinstance(step, bytes):
                yield from (step[i : i + 1] for i in range(len(step)))
            else:
                yield step

    def _join_steps(self, steps: Sequence[Step]) -> Sequence[Step]:
        if not self.at_once:
            return steps
        return [b"".join(step for step in steps if isinstance(step, bytes))]

    def _lines(self, *lines: str) -> bytes:
        return "".join(line + self.newline for line in (*lines, "")).encode()


Change = Callable[[list[Json], Ask], list[Json]]
"""What a vendor makes of the events that OpenAI would send."""

Ending = Callable[[list[bytes]], Sequence[Step]]
"""What becomes of the frames on a bad day."""


@dataclass(frozen=True)
class Stream:
    """An answer, streamed when the request asks for it; otherwise sent whole.

    A whole answer is spoiled by ``spoiled`` as a stream is by ``changes``, and cut, ended or
    stalled by ``ending`` in as many pieces as the stream would have frames.  All of a slow one
    comes when the last frame would.
    """

    answer: Answer = field(default_factory=Answer)
    changes: Sequence[Change] = ()
    spoiled: Callable[[Json, Ask], Json] | None = None
    framing: Framing = Framing()
    ending: Ending = list
    headers: Mapping[str, str | None] = field(default_factory=dict)
    before: Pause | Stall | Cut | None = None

    def reply(self, ask: Ask) -> Reply:
        """What is written in answer to ``ask``."""
        frames = self.framing.frames(self.events(ask), ask.protocol)
        if not ask.stream:
            return self._make_whole(ask, len(frames))
        steps = list(self.framing.pace_steps(self.ending(frames)))
        headers = {"content-type": self.framing.content_type, **self.headers}
        return Reply(headers=headers, steps=steps, before=self.before)

    def _make_whole(self, ask: Ask, count: int) -> Reply:
        answer = RENDER[ask.protocol][1](self.answer, ask)
        reply = make_whole_reply(self.spoiled(answer, ask) if self.spoiled else answer)
        size = -(-len(reply.body) // count)
        pieces = [reply.body[i : i + size] for i in range(0, len(reply.body), size)]
        steps = self.ending(pieces)
        late = Pause(self.framing.delay * count) if self.framing.delay else None
        return replace(
            reply,
            headers={**reply.headers, **self.headers},
            steps=None if steps == pieces else steps,
            before=self.before or late,
        )

    def events(self, ask: Ask) -> list[Json]:
        """The events as this vendor sends them."""
        said = RENDER[ask.protocol][0](self.answer, ask)
        for change in self.changes:
            said = change(said, ask)
        return said


@dataclass(frozen=True)
class Raw:
    """Exactly these events, or exactly this body, for any request."""

    events: Sequence[Json] | None = None
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    framing: Framing = Framing()

    def reply(self, ask: Ask) -> Reply:
        """What is written in answer to ``ask``."""
        if self.events is None:
            return Reply(self.status, self.headers, self.body)
        frames = self.framing.frames(self.events, ask.protocol)
        headers = {"content-type": self.framing.content_type, **self.headers}
        return Reply(self.status, headers, steps=list(self.framing.pace_steps(frames)))


def make_whole_reply(
    value: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> Reply:
    """A JSON object as the body."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return Reply(status, {"content-type": JSON_TYPE, **(headers or {})}, body)


RENDER: dict[Protocol, tuple[Callable[[Answer, Ask], list[Json]], Callable[[Answer, Ask], Json]]]
RENDER = {
    "chat": (chat.make_chunks, chat.make_completion),
    "responses": (responses.make_events, responses.make_response),
}
"""Protocol -> how an answer is streamed, and how it is sent whole."""
