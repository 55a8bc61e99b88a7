"""Recorded answers of real providers, replayed to a client of each protocol, streamed and whole.

The forwarder runs in this process with one upstream for each provider and protocol; the provider is
a real server.  See `tests.helpers.recordings` for the recordings.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.providers import PROFILES
from tests.fake_provider.listener import Listener, Request
from tests.fake_provider.wire import SSE_TYPE, Reply
from tests.helpers import sdk
from tests.helpers.check_cases import check_each
from tests.helpers.recordings import (
    TERMINALS,
    Outcome,
    Recording,
    compare_outcomes,
    convert_to_completion,
    convert_to_response,
    load_recordings,
    outcome_of_chunks,
    outcome_of_completion,
    outcome_of_events,
    outcome_of_response,
    read_sse,
)

pytestmark = pytest.mark.slow

Json = dict[str, Any]

FOLDER = os.environ.get("RECORDINGS")

needs_recordings = pytest.mark.skipif(
    not FOLDER, reason="RECORDINGS names no folder with recordings of real providers"
)

PROFILE_OF = {
    "alibaba": "dashscope",
    "copilot": "copilot",
    "z.ai": "zhipu",
    **{name: name for name in ("azure", "chatgpt", "deepseek", "groq", "llamacpp", "lmstudio",
                               "mistral", "ollama", "openai", "openrouter", "vllm", "xai")},
}  # fmt: skip
"""Provider of a recording -> its profile; every other provider is generic."""


@dataclass(frozen=True)
class Judgement:
    """How the outcome of a recording is judged, where it differs from the provider's answer."""

    reason: str
    instead: Json
    ways: Collection[tuple[str, bool]] = ()  # empty: all four


_SAYS_NOTHING = Judgement("ends without a finish reason and has said nothing", {"error": True})
_FAILS = Judgement("the provider reports an error in its stream", {"error": True})
_SKETCH = (
    "a sketch of a stream, without items; whole answers are completed only where a profile asks"
)
_WHOLE_RESPONSE = [("responses", False)]

JUDGED: dict[str, Judgement] = {
    "bc0009de8be8": _SAYS_NOTHING,
    "fe070e2a9d2f": _SAYS_NOTHING,
    "334ea790b933": _FAILS,
    "51d47aa0cd36": _FAILS,
    "12367895c0fa": _FAILS,
    **dict.fromkeys(
        ("a0ba28be64ad", "c6b2fe023813"),
        Judgement("[DONE] stands for the finish reason", {"finish": "stop"},
                  [("chat", True), ("chat", False)]),
    ),
    "52286a6e1418": Judgement("[DONE] stands for the finish reason", {"finish": "tool_calls"},
                              [("chat", True), ("chat", False)]),
    **dict.fromkeys(
        ("0d656028abad", "702d0f35d8a6", "e788dd024df6"),
        Judgement(_SKETCH, {"text": ""}, _WHOLE_RESPONSE),
    ),
    "c0c89d4f2b1e": Judgement(_SKETCH, {"reasoning": ""}, _WHOLE_RESPONSE),
}  # fmt: skip
"""Recording -> its expected outcome and the reason; all others must reach the client unchanged."""

WAYS = [(client, streamed) for client in ("chat", "responses") for streamed in (True, False)]
"""Protocol of the client, and whether it asks for a stream."""


@functools.cache
def read_recordings() -> dict[str, Recording]:
    """All recordings by id."""
    return {r.id: r for r in load_recordings(Path(FOLDER))} if FOLDER else {}


# -- the provider and the forwarder -------------------------------------------------------------


@dataclass
class ClientAnswer:
    """The recorded answer, as the listener sends it."""

    closed_by_client: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)


def play(request: Request) -> tuple[Reply, ClientAnswer]:
    """The recording that the requested model names."""
    body = read_recordings()[request.json()["model"]].sse.encode()
    return Reply(headers={"content-type": SSE_TYPE}, steps=[body]), ClientAnswer()


@pytest.fixture(scope="module")
def forwarder() -> Iterator[FlaskClient]:
    """A forwarder in this process with the player as all of its upstreams."""
    listener = Listener(play, threading.Event())
    listener.start()
    environment = {"FORWARDER_DATABASE_URL": "none", "FORWARDER_LOG_LEVEL": "error"}
    names = dict.fromkeys(map(upstream_of, read_recordings().values()))
    for name in names:
        provider, _, protocol = name.rpartition("-")
        prefix = name.upper().replace("-", "_")
        environment |= {
            f"{prefix}_BASE_URL": f"http://127.0.0.1:{listener.port}/v1",
            f"{prefix}_API_KEY": "sk-recorded",
            f"{prefix}_API": protocol,
            f"{prefix}_PROVIDER": provider,
            f"{prefix}_BREAKER_FAILURES": "0",
            f"{prefix}_BREAKER_SHARE": "0",
            f"{prefix}_RETRIES": "0",
        }
    environment["FORWARDER_UPSTREAMS"] = ",".join(names)
    with httpx2.HTTPTransport() as transport, pytest.MonkeyPatch.context() as patch:
        patch.setattr("forwarder.services.select_transport", lambda *_: transport)
        yield create_app(Settings.from_env(environment)).test_client()
    listener.stop()
    assert not listener.failures


def upstream_of(recording: Recording) -> str:
    """The name of the upstream that speaks as the recorded provider."""
    return f"{PROFILE_OF.get(recording.provider, 'generic')}-{recording.kind}"


# -- the client's answers -----------------------------------------------------------------------


@dataclass
class ClientResult:
    """The answer that a client received: an error, the events of a stream, or a whole answer."""

    status: int
    text: str
    streamed: bool

    @functools.cached_property
    def events(self) -> list[Json]:
        """The events of a stream."""
        return [json.loads(data) for data in read_sse(self.text) if data != "[DONE]"]


def send_request(
    forwarder: FlaskClient, recording: Recording, client: str, streamed: bool
) -> ClientResult:
    """Request the answer of a recording."""
    model = f"{upstream_of(recording)}/{recording.id}"
    body: Json = {"model": model, "stream": streamed, "input": "hi", "store": False}
    path, headers = "/v1/responses", {}
    if client == "chat":
        body = {
            "model": model,
            "stream": streamed,
            "messages": [{"role": "user", "content": "hi"}],
        }
        path = "/v1/chat/completions"
        if streamed:
            body["stream_options"] = {"include_usage": True}
        if recording.kind == "chat" and recording.request.get("n"):
            body["n"] = recording.request["n"]
        if recording.kind == "responses":
            headers = {"X-Forwarder-Reasoning": "reasoning_content"}
    answer = forwarder.post(path, json=body, headers=headers)
    result = ClientResult(answer.status_code, answer.text, streamed)
    answer.close()
    return result


READERS: dict[tuple[str, bool], Callable[[Any], Outcome]] = {
    ("chat", True): outcome_of_chunks,
    ("chat", False): outcome_of_completion,
    ("responses", True): outcome_of_events,
    ("responses", False): outcome_of_response,
}


def outcome_of(answer: ClientResult, client: str) -> Outcome:
    """The client's answer."""
    if answer.status != 200:
        return Outcome(error=True)
    return READERS[client, answer.streamed](
        answer.events if answer.streamed else json.loads(answer.text)
    )


def expected_of(recording: Recording, client: str, streamed: bool) -> Outcome:
    """The expected answer of a client."""
    outcome = recording.outcome
    if recording.kind != client:
        outcome = (
            convert_to_response(outcome)
            if client == "responses"
            else convert_to_completion(outcome)
        )
    judged = JUDGED.get(recording.id)
    if judged and (not judged.ways or (client, streamed) in judged.ways):
        return replace(outcome, **judged.instead)
    return outcome


# -- the laws of a stream -----------------------------------------------------------------------


def faults_of(answer: ClientResult, client: str, recording: Recording) -> list[str]:
    """The mistakes in the form of an answer, independently of its content."""
    if answer.status != 200:
        return error_faults(json.loads(answer.text))
    if not answer.streamed:
        return whole_faults(json.loads(answer.text), client, recording)
    if recording.kind == client and not is_repaired(recording):
        return passing_faults(answer.events, client, recording)
    mistakes = [m for event in answer.events for m in EVENT_MISTAKES[client](event)]
    if client == "responses":
        mistakes += order_faults(answer.events)
        sdk.rebuild_response(answer.events)
    else:
        sdk.rebuild_completion(answer.events)
    return without_additions(mistakes) if recording.kind == client else mistakes


EVENT_MISTAKES = {"chat": sdk.chunk_mistakes, "responses": sdk.event_mistakes}


def is_repaired(recording: Recording) -> bool:
    """Does the profile complete the native Responses streams of this provider?"""
    profile = PROFILES[PROFILE_OF.get(recording.provider, "generic")]
    return recording.kind == "responses" and profile.repair_responses


def without_additions(mistakes: list[str]) -> list[str]:
    """The mistakes except the provider's additions to its protocol, which pass through."""
    return [m for m in mistakes if not m.endswith("unknown field")]


def fill_output(events: list[Json]) -> list[Json]:
    """Return the events; if the output of the last one is empty, it gets the finished items.

    Only if their indexes are those of a whole output.
    """
    done = [e for e in events if e.get("type") == "response.output_item.done"]
    items = {e.get("output_index"): e["item"] for e in done}
    *others, last = events
    has_output = not isinstance(last.get("response"), dict) or last["response"].get("output")
    if not done or has_output or items.keys() != set(range(len(done))):
        return events
    output = [items[index] for index in range(len(done))]
    return [*others, {**last, "response": {**last["response"], "output": output}}]


def passing_faults(events: list[Json], client: str, recording: Recording) -> list[str]:
    """The mistakes of a stream that passes through: all of the source must be there, in order.

    The finish reason that stands for a bare ``[DONE]``, the output of a last event that had none,
    and errors, are the forwarder's own.
    """
    source = [e for e in fill_output(recording.events) if not e.get("error")]
    faults = [] if [e for e in events if e in source] == source else ["it is not the source's"]
    new_events = [e for e in events if e not in recording.events and not e.get("error")]
    mistakes = [m for event in new_events for m in EVENT_MISTAKES[client](event)]
    return faults + without_sources(mistakes, client, recording)


def error_faults(body: Json) -> list[str]:
    """The missing parts of the body of an error."""
    error = body.get("error") or {}
    return [f"error.{k} is missing" for k in ("message", "type", "code", "param") if k not in error]


def whole_faults(answer: Json, client: str, recording: Recording) -> list[str]:
    """The mistakes of a whole answer, by the SDK's types."""
    judge = sdk.response_mistakes if client == "responses" else sdk.completion_mistakes
    mistakes = judge(answer)
    if recording.kind != client:
        return mistakes
    return (
        without_additions(mistakes)
        if is_repaired(recording)
        else without_sources(mistakes, client, recording)
    )


def without_sources(mistakes: list[str], client: str, recording: Recording) -> list[str]:
    """The mistakes without those of the provider itself, which pass through."""
    events = [e for e in recording.events if not e.get("error")]
    known_mistakes = {last_field(m) for e in events for m in EVENT_MISTAKES[client](e)}
    return [m for m in without_additions(mistakes) if last_field(m) not in known_mistakes]


def last_field(mistake: str) -> str:
    """The name of a mistaken field, and its mistake."""
    path, _, description = mistake.partition(": ")
    return f"{path.rpartition('.')[2]}: {description}"


def order_faults(events: list[Json]) -> list[str]:
    """Where a Responses stream breaks the order of its events."""
    kinds = [event["type"] for event in events]
    faults = []
    if kinds[0] != "response.created":
        faults.append(f"begins with {kinds[0]}")
    if [i for i, kind in enumerate(kinds) if kind in TERMINALS] != [len(kinds) - 1]:
        faults.append("its terminal event is not its last")
    numbers = [event["sequence_number"] for event in events]
    if numbers != list(range(numbers[0], numbers[0] + len(events))):
        faults.append("its numbers have gaps")
    item_ids: dict[int, str] = {}
    closed: dict[int, Json] = {}
    parts: set[tuple[Any, ...]] = set()
    for event in events:
        kind, index = event["type"].removeprefix("response."), event.get("output_index")
        if kind == "output_item.added":
            if index != len(item_ids):
                faults.append(f"item {index} is the {len(item_ids)}th")
            item_ids[index] = event["item"]["id"]
        elif kind == "output_item.done":
            if event["item"]["id"] != item_ids.get(index) or index in closed:
                faults.append(f"item {index} is done without being open")
            closed[index] = event["item"]
        elif "item_id" in event:
            if event["item_id"] != item_ids.get(index) or index in closed:
                faults.append(f"{kind} of item {index}, which is not open")
            position = (index, event.get("content_index"), event.get("summary_index"))
            if kind.endswith("part.added"):
                parts.add(position)
            elif position[1:] != (None, None) and position not in parts:
                faults.append(f"{kind} of a part that was not announced")
    if kinds[-1] in ("response.completed", "response.incomplete"):
        output = events[-1]["response"]["output"]
        if [i["id"] for i in output] != [closed[i]["id"] for i in sorted(closed)]:
            faults.append("the output is not the items that were done")
    return faults


# -- the replay ---------------------------------------------------------------------------------


@needs_recordings
@check_each(("client", "streamed"), WAYS)
@check_each("name", read_recordings(), parts=40 if FOLDER else 1)
def test_a_recorded_answer_reaches_the_client(
    name: str, client: str, streamed: bool, forwarder: FlaskClient
) -> None:
    recording = read_recordings()[name]
    answer = send_request(forwarder, recording, client, streamed)
    outcome, expected = outcome_of(answer, client), expected_of(recording, client, streamed)
    assert compare_outcomes(expected, outcome) == []
    assert faults_of(answer, client, recording) == []
