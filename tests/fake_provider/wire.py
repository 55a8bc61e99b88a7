"""Describes the bytes of a reply: its head, its frames, and the steps between them.

A ``Reply`` is data; ``listener`` writes it to a connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from . import chat, responses
from .answers import Answer, Json, ModelRequest, Protocol

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Pause:
    """Send nothing for ``seconds``."""

    seconds: float


@dataclass(frozen=True)
class Stall:
    """Send nothing until the test sets ``release``, the client disconnects, or ``seconds`` pass."""

    seconds: float = 30.0


@dataclass(frozen=True)
class Cut:
    """End the connection: with a reset, or by closing it before the end of the body."""

    reset: bool = True


Step = bytes | Pause | Stall | Cut


@dataclass(frozen=True)
class Reply:
    """One HTTP response.

    ``body`` is sent with its length. If ``steps`` is not None, they are sent as chunks instead.
    ``before`` is performed before the status line. A header of None is left out.
    """

    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    steps: Sequence[Step] | None = None
    before: Pause | Stall | Cut | None = None


@dataclass(frozen=True)
class Framing:
    """The encoding of events.

    ``done`` adds ``[DONE]``; with None only to chat streams, as OpenAI does. ``delay`` is the pause
    before each frame in seconds, ``by_byte`` sends each byte separately, ``comments`` adds a comment
    before each frame, ``at_once`` sends all frames in one packet.
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
        """Return one frame per event, and ``[DONE]``."""
        frames = [self.frame(event, protocol) for event in events]
        has_done = protocol == "chat" if self.done is None else self.done
        if has_done:
            frames.append(self._lines(f"data:{self.space}[DONE]"))
        return frames

    def frame(self, event: Json, protocol: Protocol) -> bytes:
        """Return the frame of an event. Only the Responses API has an ``event`` line."""
        data = f"data:{self.space}{json.dumps(event, ensure_ascii=False)}"
        if protocol == "chat" or "type" not in event:
            return self._lines(data)
        return self._lines(f"event:{self.space}{event['type']}", data)

    def pace_steps(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Yield the steps with the pauses and comments of this framing."""
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


Change = Callable[[list[Json], ModelRequest], list[Json]]
"""Changes OpenAI's events to those of a vendor."""

Ending = Callable[[list[bytes]], Sequence[Step]]
"""Converts the frames of an answer to steps, which may cut or stall it."""


@dataclass(frozen=True)
class Stream:
    """An answer, which is streamed if the request asks for it and otherwise sent whole.

    ``change_whole`` changes a whole answer, as ``changes`` do with a stream. For ``ending``, a whole
    answer is split into as many pieces as the stream would have frames. With a ``delay``, it is sent
    at the time of the stream's last frame.
    """

    answer: Answer = field(default_factory=Answer)
    changes: Sequence[Change] = ()
    change_whole: Callable[[Json, ModelRequest], Json] | None = None
    framing: Framing = Framing()
    ending: Ending = list
    headers: Mapping[str, str | None] = field(default_factory=dict)
    before: Pause | Stall | Cut | None = None

    def reply(self, request: ModelRequest) -> Reply:
        """The bytes and pauses with which ``request`` is answered."""
        frames = self.framing.frames(self.events(request), request.protocol)
        if not request.stream:
            return self._make_whole(request, len(frames))
        steps = list(self.framing.pace_steps(self.ending(frames)))
        headers = {"content-type": self.framing.content_type, **self.headers}
        return Reply(headers=headers, steps=steps, before=self.before)

    def _make_whole(self, request: ModelRequest, count: int) -> Reply:
        answer = RENDER[request.protocol][1](self.answer, request)
        reply = make_whole_reply(
            self.change_whole(answer, request) if self.change_whole else answer
        )
        size = -(-len(reply.body) // count)
        pieces = [reply.body[i : i + size] for i in range(0, len(reply.body), size)]
        steps = self.ending(pieces)
        pause = Pause(self.framing.delay * count) if self.framing.delay else None
        return replace(
            reply,
            headers={**reply.headers, **self.headers},
            steps=None if steps == pieces else steps,
            before=self.before or pause,
        )

    def events(self, request: ModelRequest) -> list[Json]:
        """Return the events as this vendor sends them."""
        events = RENDER[request.protocol][0](self.answer, request)
        for change in self.changes:
            events = change(events, request)
        return events


@dataclass(frozen=True)
class Raw:
    """An answer with exactly these events, or exactly this body, for any request."""

    events: Sequence[Json] | None = None
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    framing: Framing = Framing()

    def reply(self, request: ModelRequest) -> Reply:
        """The bytes and pauses with which ``request`` is answered."""
        if self.events is None:
            return Reply(self.status, self.headers, self.body)
        frames = self.framing.frames(self.events, request.protocol)
        headers = {"content-type": self.framing.content_type, **self.headers}
        return Reply(self.status, headers, steps=list(self.framing.pace_steps(frames)))


def make_whole_reply(
    value: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> Reply:
    """Return a reply with a JSON object as its body."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return Reply(status, {"content-type": JSON_TYPE, **(headers or {})}, body)


RENDER: dict[
    Protocol,
    tuple[Callable[[Answer, ModelRequest], list[Json]], Callable[[Answer, ModelRequest], Json]],
]
RENDER = {
    "chat": (chat.make_chunks, chat.make_completion),
    "responses": (responses.make_events, responses.make_response),
}
"""Protocol -> functions that render an answer as a stream and as a whole."""
