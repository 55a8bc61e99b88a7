"""Sends plain HTTP requests to the forwarder and reads the answers of either protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx2

from tests.helpers import sdk
from tests.helpers.translating import AnswerContent, read_completion_content, read_response_content
from tests.live.server import Server

Json = dict[str, Any]

PATHS = {"chat": "/chat/completions", "responses": "/responses"}
TERMINALS = {"response.completed", "response.incomplete", "response.failed"}
LIMIT = 10.0
"""Seconds after which an answer that does not end counts as a hang."""

# A connection for each request, so that tests do not affect each other.
http = httpx2.Client(
    timeout=LIMIT, limits=httpx2.Limits(max_keepalive_connections=0), trust_env=False
)

PAIRINGS = [(client, upstream) for client in PATHS for upstream in PATHS]
"""The protocols of client and upstream. A model ``chat/m`` or ``responses/m`` selects the latter."""


def make_body(client: str, prompt: str = "hi", model: str = "m", **parameters: Any) -> Json:
    """Return the body of a request with one user message."""
    conversation: Json = {"input": prompt}
    if client == "chat":
        conversation = {"messages": [{"role": "user", "content": prompt}]}
    return {"model": model, **conversation, **parameters}


@dataclass
class ClientAnswer:
    """The forwarder's answer to one request."""

    client: str
    status: int
    headers: httpx2.Headers
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> Json:
        """The error of an error response, which must have OpenAI's shape."""
        assert self.status >= 400, self.text
        assert self.json.keys() == {"error"}
        error: Json = self.json["error"]
        assert {"message", "type", "param", "code"} <= error.keys()
        return error

    @property
    def is_streamed(self) -> bool:
        return self.headers["content-type"].startswith("text/event-stream")

    @cached_property
    def events(self) -> list[Json]:
        """The events of a stream; its framing must be exactly that of the protocol."""
        assert self.is_streamed, (self.status, self.text)
        assert not self.text or self.text.endswith("\n\n")
        read = _parse_chunk if self.client == "chat" else _parse_event
        frames = [f for f in self.text.split("\n\n")[:-1] if not f.startswith(":")]
        if self.done:
            assert frames.pop() == "data: [DONE]", "something follows [DONE]"
        return [read(frame) for frame in frames]

    @property
    def done(self) -> bool:
        return "data: [DONE]" in self.text

    @property
    def ending(self) -> str:
        """``completed``, ``incomplete`` or ``failed``; the answer must end exactly once."""
        if self.status >= 400:
            return "failed"
        if self.client == "responses":
            return self._responses_ending() if self.is_streamed else str(self.json["status"])
        return self._chat_ending() if self.is_streamed else _map_finish_reason(self.json["choices"])

    def _chat_ending(self) -> str:
        errors = [i for i, event in enumerate(self.events) if event.get("error")]
        if errors:
            assert errors == [len(self.events) - 1], "something follows the error"
            assert not self.done, "a failed stream ends with [DONE]"
            return "failed"
        assert self.done, self.text[-300:]
        return _map_finish_reason([choice for event in self.events for choice in event["choices"]])

    def _responses_ending(self) -> str:
        terminal = [i for i, event in enumerate(self.events) if event["type"] in TERMINALS]
        assert terminal == [len(self.events) - 1], [e["type"] for e in self.events]
        last = self.events[-1]
        status = last["type"].removeprefix("response.")
        assert last["response"]["status"] == status
        return str(status)

    @cached_property
    def whole(self) -> Json:
        """The completion or response; for a stream, the one that the SDK accumulates."""
        assert self.status == 200, self.text
        if not self.is_streamed:
            whole: Json = self.json
            return whole
        if self.client == "chat":
            return sdk.rebuild_completion(self.events)
        sdk.rebuild_response(self.events)
        response: Json = self.events[-1]["response"]
        return response

    @property
    def content(self) -> AnswerContent:
        return (read_completion_content if self.client == "chat" else read_response_content)(
            self.whole
        )

    @property
    def message(self) -> Json:
        """The message of a chat answer."""
        message: Json = self.whole["choices"][0]["message"]
        return message

    @property
    def mistakes(self) -> list[str]:
        """The differences between the answer and the SDK's types."""
        if not self.is_streamed:
            judge = sdk.completion_mistakes if self.client == "chat" else sdk.response_mistakes
            return judge(self.json)
        judge = sdk.chunk_mistakes if self.client == "chat" else sdk.event_mistakes
        return [mistake for event in self.events for mistake in judge(event)]

    @property
    def dropped_parameters(self) -> list[str]:
        return [name for name in self.headers.get("x-forwarder-dropped", "").split(", ") if name]


def send_request(
    server: Server,
    client: str,
    body: Any,
    *,
    path: str = "",
    timeout: float = LIMIT,
    **headers: str | bytes,
) -> ClientAnswer:
    """Post ``body``, a JSON value or raw bytes, and read the whole answer.

    ``_`` in header names stands for ``-``. ``timeout`` is the maximum time without data, in
    seconds.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers_to_send = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{server.url}{path}" if path else f"{server.v1}{PATHS[client]}"
    response = http.post(
        url,
        content=content,
        headers={"content-type": "application/json", **headers_to_send},
        timeout=timeout,
    )
    return ClientAnswer(client, response.status_code, response.headers, response.text)


def _map_finish_reason(choices: list[Json]) -> str:
    [finish] = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    return "incomplete" if finish in ("length", "content_filter") else "completed"


def _parse_chunk(frame: str) -> Json:
    assert frame.startswith("data: {"), frame
    chunk: Json = json.loads(frame.removeprefix("data: "))
    return chunk


def _parse_event(frame: str) -> Json:
    head, _, data = frame.partition("\n")
    event: Json = json.loads(data.removeprefix("data: "))
    assert head == f"event: {event['type']}", frame
    return event
