"""The workloads: their requests, request counts and concurrency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.shape import Shape

Json = dict[str, Any]

CLIENTS = ("responses", "chat")
"""The protocols that a client can speak."""

_OTHER = {"chat": "responses", "responses": "chat"}


@dataclass(frozen=True)
class Workload:
    """``requests`` requests in total over ``connections``; each one waits for its last answer.

    ``history`` is the number of messages before the question. ``passthrough`` selects the upstream
    of the client's own protocol. ``beside`` is the target to compare the forwarder with.
    """

    name: str
    about: str
    shape: Shape
    connections: int
    requests: int
    streamed: bool = True
    history: int = 0
    passthrough: bool = False
    beside: str = "relay"
    clients: tuple[str, ...] = CLIENTS

    def get_upstream(self, client: str) -> str:
        """Return the upstream protocol for a client protocol."""
        return client if self.passthrough else _OTHER[client]

    def make_body(self, client: str) -> Json:
        """Return the request body in the protocol ``client``."""
        model = self.shape.model
        head = {"model": f"{client}/{model}" if self.passthrough else model}
        return head | _BODIES[client](self)


def make_chat_body(workload: Workload) -> Json:
    messages = [{"role": "system", "content": _TERSE}, *make_history(workload), _QUESTION]
    body: Json = {"messages": messages, "stream": workload.streamed}
    if workload.streamed:
        body["stream_options"] = {"include_usage": True}
    if workload.shape.arguments:
        body["tools"] = [{"type": "function", "function": _FUNCTION}]
    return body


def make_responses_body(workload: Workload) -> Json:
    turns = [*make_history(workload), _QUESTION]
    body: Json = {"instructions": _TERSE, "input": turns, "stream": workload.streamed}
    if workload.shape.arguments:
        body["tools"] = [{"type": "function", **_FUNCTION}]
    return body


def make_history(workload: Workload) -> list[Json]:
    roles = ("user", "assistant")
    text = "lorem ipsum " * 40
    return [{"role": roles[i % 2], "content": text} for i in range(workload.history)]


_BODIES = {"chat": make_chat_body, "responses": make_responses_body}
_TERSE = "You are terse."
_QUESTION = {"role": "user", "content": "Say something."}
_FUNCTION = {
    "name": "lookup",
    "description": "Look something up.",
    "parameters": {
        "type": "object",
        "properties": {"key": {"type": "string"}},
        "required": ["key"],
        "additionalProperties": False,
    },
    "strict": True,
}

_TEXT = Shape(text=200)

WORKLOADS = (
    Workload("burst", "200 chunks without pauses", _TEXT, 16, 64),
    Workload("paced", "200 chunks, one every 20 ms", Shape(text=200, pause=20), 16, 16),
    Workload("long", "one stream of 5000 chunks", Shape(text=5000), 1, 2),
    Workload("short", "short whole answers", Shape(text=20), 8, 256, streamed=False),
    Workload("history", "short, after 100 messages", Shape(text=20), 8, 96, False, history=100),
    Workload("reasoning", "150 chunks of reasoning, 50 of text", Shape(150, 50), 16, 64),
    Workload("arguments", "200 chunks of a tool's arguments", Shape(arguments=200), 16, 64),
    Workload(
        "passthrough", "burst, the same protocol on both sides", _TEXT, 16, 64, passthrough=True
    ),
    Workload(
        "stored",
        "burst, beside a forwarder that stores nothing",
        _TEXT,
        16,
        64,
        beside="unstored",
        clients=("responses",),
    ),
    Workload(
        "stored-paced",
        "50 paced streams at once, beside a forwarder that stores nothing",
        Shape(text=200, pause=20),
        50,
        50,
        beside="unstored",
        clients=("responses",),
    ),
    Workload(
        "stored-long",
        "long, beside a forwarder that stores nothing",
        Shape(text=5000),
        1,
        2,
        beside="unstored",
        clients=("responses",),
    ),
)
