"""Signatures of Chat providers return to them, for all ways to continue a conversation.

The table covers every signature format and every client, streamed and whole.
"""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.protocols.fold import fold_chat, fold_responses
from forwarder.protocols.messages import fold_messages
from forwarder.protocols.signatures import CALL_FIELDS, MESSAGE_FIELDS
from forwarder.protocols.unfold import unfold_answer as whole_events
from forwarder.storage.db.database import SqliteDatabase
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # hundreds of round trips

Json = dict[str, Any]

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


# -- the provider ---------------------------------------------------------------------------------


def make_google_signature(turn: int) -> Json:
    return {"extra_content": {"google": {"thought_signature": f"sig-{turn}"}}}


def make_litellm_signature(turn: int) -> Json:
    return {"provider_specific_fields": {"thought_signature": f"sig-{turn}"}}


def call(turn: int, index: int, **more: Any) -> Json:
    function = {"name": "f", "arguments": '{"a":', **more.pop("function", {})}
    head = {"index": index, "id": f"call_{turn}_{index}", "type": "function", "function": function}
    return {**head, **more}


def make_calls(turn: int, **signature: Any) -> Iterator[Json]:
    """Two parallel calls; Gemini signs only the first."""
    yield {"tool_calls": [call(turn, 0, **signature)]}
    yield {"tool_calls": [{"index": 0, "function": {"arguments": f" {turn}}}"}}]}
    yield {"tool_calls": [call(turn, 1)]}
    yield {"tool_calls": [{"index": 1, "function": {"arguments": ' "é"}'}}]}


def make_turn(turn: int, before: list[Json], after: list[Json], **signature: Any) -> list[Json]:
    """The deltas of a turn: the first two turns call, the third says a text."""
    deltas = (
        [{"content": "It is "}, {"content": "42."}]
        if turn == 3
        else [*make_calls(turn, **signature)]
    )
    return [{"role": "assistant", "content": None}, *before, *deltas, *after]


def extra_content(turn: int) -> list[Json]:
    """Gemini."""
    return make_turn(
        turn, [], [make_google_signature(turn)] if turn == 3 else [], **make_google_signature(turn)
    )


def fields_of_proxy(turn: int) -> list[Json]:
    """LiteLLM before Gemini."""
    text = {"provider_specific_fields": {"thought_signatures": [f"sig-{turn}"]}}
    return make_turn(turn, [], [text] if turn == 3 else [], **make_litellm_signature(turn))


def fields_of_function(turn: int) -> list[Json]:
    """LiteLLM of earlier versions."""
    return make_turn(turn, [], [], function=make_litellm_signature(turn))


def bare_signature(turn: int) -> list[Json]:
    return make_turn(turn, [], [], thought_signature=f"sig-{turn}")


def late_signature(turn: int) -> list[Json]:
    """A signature that arrives after complete calls."""
    delta = {"tool_calls": [{"index": 0, **make_google_signature(turn)}]}
    return make_turn(turn, [], [delta] if turn < 3 else [make_google_signature(turn)])


def thinking_blocks(turn: int) -> list[Json]:
    """LiteLLM before Claude or Bedrock: two blocks, the second one redacted."""
    blocks: list[Json] = [
        {"type": "thinking", "thinking": "Let me ", "signature": None},
        {"type": "thinking", "thinking": "see.", "signature": None},
        {"type": "thinking", "thinking": "", "signature": f"sig-{turn}"},
        {"type": "redacted_thinking", "data": f"redacted-{turn}"},
    ]
    before = [
        {"reasoning_content": block.get("thinking"), "thinking_blocks": [block]} for block in blocks
    ]
    return make_turn(turn, before, [])


def two_thinking_blocks(turn: int) -> list[Json]:
    before: list[Json] = []
    for number in (1, 2):
        block = {"type": "thinking", "thinking": f"Thought {number}."}
        sign = {"type": "thinking", "signature": f"sig-{turn}-{number}"}
        before += [{"thinking_blocks": [block]}, {"thinking_blocks": [sign]}]
    return make_turn(turn, before, [])


def encrypted_details(turn: int) -> list[Json]:
    """OpenRouter before OpenAI: the sealed entry comes last."""
    summary = {"type": "reasoning.summary", "format": "openai-responses-v1", "index": 0}
    detail = {"type": "reasoning.encrypted", "data": f"sealed-{turn}", "id": "rs_1", "index": 0}
    before: list[Json] = [
        {"reasoning": text, "reasoning_details": [{**summary, "summary": text}]}
        for text in ("Let me ", "see.")
    ]
    return make_turn(turn, before, [{"reasoning_details": [detail]}])


def signed_details(turn: int) -> list[Json]:
    """OpenRouter before Claude."""
    entry = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
    before: list[Json] = [
        {"reasoning": "Let me ", "reasoning_details": [{**entry, "text": "Let me "}]},
        {"reasoning": "see.", "reasoning_details": [{**entry, "text": "see."}]},
        {"reasoning_details": [{**entry, "signature": f"sig-{turn}"}]},
    ]
    return make_turn(turn, before, [])


def opaque(turn: int) -> list[Json]:
    """GitHub Copilot."""
    return make_turn(turn, [], [{"reasoning_opaque": f"opaque-{turn}"}])


FORMS = {
    form.__name__: form
    for form in (
        extra_content,
        fields_of_proxy,
        fields_of_function,
        bare_signature,
        late_signature,
        thinking_blocks,
        two_thinking_blocks,
        encrypted_details,
        signed_details,
        opaque,
    )
}


class Provider:
    """A mock provider that answers turns and records requests."""

    def __init__(self, form: str) -> None:
        self.form = FORMS[form]
        self.bodies: list[Json] = []
        self.refusals: list[httpx2.Response] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.read())
        if self.refusals and any(map(list_signatures, body["messages"])):
            return self.refusals.pop()
        self.bodies.append(body)
        chunks = self.chunks(len(self.bodies))
        if body.get("stream"):
            return make_stream_response(*chunks)
        return httpx2.Response(200, json=fold_chat(iter([copy.deepcopy(chunks)])))

    def chunks(self, turn: int) -> list[Json]:
        turn = min(turn, 3)
        deltas: list[Json] = [*self.form(turn), {}]
        finish = "stop" if turn == 3 else "tool_calls"
        base = {"id": f"chatcmpl-{turn}", "object": "chat.completion.chunk", "created": 1,
                "model": "m"}  # fmt: skip
        return [
            {**base, "choices": [{"index": 0, "delta": delta,
                                  "finish_reason": None if delta else finish}]}
            for delta in deltas
        ]  # fmt: skip

    def get_signatures(self, turn: int) -> Json:
        """Return the signatures in the response of a turn."""
        message = fold_chat(iter([copy.deepcopy(self.chunks(turn))]))["choices"][0]["message"]
        return list_signatures(message)

    @property
    def sent_signatures(self) -> list[Json]:
        """Return the signatures in the last request, per assistant message."""
        return [list_signatures(m) for m in self.bodies[-1]["messages"] if m["role"] == "assistant"]


def list_signatures(message: Json) -> Json:
    signatures: Json = {name: message[name] for name in MESSAGE_FIELDS if message.get(name)}
    for function_call in message.get("tool_calls") or ():
        names = [name for name in CALL_FIELDS if function_call.get(name)]
        inner = [name for name in CALL_FIELDS if function_call["function"].get(name)]
        signatures[function_call["id"]] = {
            **{name: function_call[name] for name in names},
            **{f"function.{name}": function_call["function"][name] for name in inner},
        }
    return signatures


# -- the clients ----------------------------------------------------------------------------------


class ResponsesClient:
    """A Responses client: stateless, with previous_response_id or with a conversation."""

    def __init__(self, workers: list[FlaskClient], stream: bool, mode: str) -> None:
        self.workers = workers
        self.stream = stream
        self.mode = mode
        self.model = "chat/m"
        self.headers: Json = {}
        self.dropped = ""
        self.items: list[Json] = []
        self.previous: str | None = None
        self.outputs: list[Json] = []
        self.conversation = None
        if mode == "conversation":
            self.conversation = workers[0].post("/v1/conversations", json={}).json["id"]

    def send(self, *new: Json) -> Json:
        body: Json = {"model": self.model, "stream": self.stream, "tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object"}}
        ]}  # fmt: skip
        if self.mode == "previous":
            body |= {"input": list(new), "previous_response_id": self.previous}
        elif self.mode == "conversation":
            body |= {"input": list(new), "conversation": self.conversation}
        else:
            body |= {"input": [*self.items, *new], "store": False}
        if self.mode == "sealed":
            body["include"] = ["reasoning.encrypted_content"]
        self.workers.append(self.workers.pop(0))
        answer = self.workers[0].post("/v1/responses", json=body, headers=self.headers)
        assert answer.status_code == 200, answer.text
        self.dropped = answer.headers.get("X-Forwarder-Dropped", "")
        response = fold_responses(iter([parse_events(answer.text)])) if self.stream else answer.json
        if self.mode != "sealed":
            assert "encrypted_content" not in answer.text
        self.previous = response["id"]
        self.items += [*new, *response["output"]]
        return response

    def send_turn(self, text: str | None = None) -> None:
        new = [] if text is None else [{"type": "message", "role": "user", "content": text}]
        response = self.send(*self.outputs, *new)
        self.outputs = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "42"}
            for item in response["output"]
            if item["type"] == "function_call"
        ]


class ChatClient:
    """A Chat client that keeps messages whole or only their documented fields."""

    def __init__(self, workers: list[FlaskClient], stream: bool, mode: str) -> None:
        self.workers = workers
        self.stream = stream
        self.keeps = mode == "keeping"
        self.model = "chat/m"
        self.dropped = ""
        self.headers: Json = {"X-Forwarder-Reasoning": "thinking"} if mode == "styled" else {}
        self.messages: list[Json] = []

    def send_turn(self, text: str | None = None) -> None:
        if text is not None:
            self.messages.append({"role": "user", "content": text})
        body = {"model": self.model, "messages": self.messages, "tools": TOOLS}
        body |= {"stream": self.stream}
        self.workers.append(self.workers.pop(0))
        answer = self.workers[0].post("/v1/chat/completions", json=body, headers=self.headers)
        assert answer.status_code == 200, answer.text
        self.dropped = answer.headers.get("X-Forwarder-Dropped", "")
        completion = fold_chat(iter([parse_events(answer.text)])) if self.stream else answer.json
        message = completion["choices"][0]["message"]
        if not self.keeps:
            message = {k: message[k] for k in ("role", "content", "tool_calls") if k in message}
            if message.get("tool_calls"):
                message["tool_calls"] = [*map(serialize_again, message["tool_calls"])]
        self.messages.append(message)
        self.messages += [
            {"role": "tool", "tool_call_id": function_call["id"], "content": "42"}
            for function_call in message.get("tool_calls") or ()
        ]


class OllamaClient:
    """An Ollama client; its calls have no ids."""

    def __init__(self, workers: list[FlaskClient], stream: bool, mode: str) -> None:
        self.workers = workers
        self.stream = stream
        self.messages: list[Json] = []

    def send_turn(self, text: str | None = None) -> None:
        if text is not None:
            self.messages.append({"role": "user", "content": text})
        body = {"model": "chat/m", "messages": self.messages, "tools": TOOLS}
        body |= {"stream": self.stream}
        self.workers.append(self.workers.pop(0))
        answer = self.workers[0].post("/api/chat", json=body)
        assert answer.status_code == 200, answer.text
        messages = [json.loads(line)["message"] for line in answer.text.splitlines()]
        calls = [
            function_call
            for message in messages
            for function_call in message.get("tool_calls") or ()
        ]
        content = "".join(message["content"] for message in messages)
        calls = [{"function": function_call["function"]} for function_call in calls]
        self.messages.append({"role": "assistant", "content": content, "tool_calls": calls})
        self.messages += [{"role": "tool", "tool_name": "f", "content": "42"} for _ in calls]


class MessagesClient:
    """A client of the Messages API that sees thinking; it keeps the blocks of each answer."""

    def __init__(self, workers: list[FlaskClient], stream: bool) -> None:
        self.workers = workers
        self.stream = stream
        self.messages: list[Json] = []

    def send_turn(self, text: str | None = None) -> None:
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "42"}
            for block in (self.messages[-1]["content"] if self.messages else ())
            if block["type"] == "tool_use"
        ]
        texts = [] if text is None else [{"type": "text", "text": text}]
        self.messages.append({"role": "user", "content": [*results, *texts]})
        tool = {"name": "f", "input_schema": {"type": "object"}}
        body = {"model": "chat/m", "messages": self.messages, "tools": [tool], "max_tokens": 9000}
        body |= {"stream": self.stream, "thinking": {"type": "enabled", "budget_tokens": 5000}}
        self.workers.append(self.workers.pop(0))
        answer = self.workers[0].post("/v1/messages", json=body)
        assert answer.status_code == 200, answer.text
        message = (
            fold_messages(iter([parse_events(answer.text)])) if self.stream else answer.get_json()
        )
        self.messages.append({"role": "assistant", "content": message["content"]})


def serialize_again(function_call: Json) -> Json:
    """Return a call whose arguments were parsed and serialized again."""
    arguments = json.dumps(
        json.loads(function_call["function"]["arguments"]), separators=(",", ":")
    )
    function = {"name": function_call["function"]["name"], "arguments": arguments}
    return {"id": function_call["id"], "type": "function", "function": function}


def parse_events(text: str) -> list[Json]:
    lines = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]


CLIENTS: dict[str, tuple[Any, str]] = {
    "responses, sealed": (ResponsesClient, "sealed"),
    "responses, by call id": (ResponsesClient, "bare"),
    "responses, previous_response_id": (ResponsesClient, "previous"),
    "responses, conversation": (ResponsesClient, "conversation"),
    "chat, keeping fields": (ChatClient, "keeping"),
    "chat, by call id": (ChatClient, "dropping"),
    "chat, with a reasoning style": (ChatClient, "styled"),
}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with all tables; copying it is faster than creating the tables."""
    database = SqliteDatabase(tmp_path_factory.mktemp("empty") / "forwarder.db")
    database.prepare()
    database.close()
    return database.path


@pytest.fixture
def workers(serve: Serve, empty_database: Path, tmp_path: Path) -> Any:
    """Two workers on one new database, in front of a provider."""
    numbers = itertools.count()

    def make_workers(provider: Provider, **environment: str) -> list[FlaskClient]:
        database = shutil.copy(empty_database, tmp_path / f"{next(numbers)}.db")
        shared = {
            "FORWARDER_DATABASE_URL": f"sqlite:///{database}",
            "FORWARDER_SECRET_KEY": "s",
            **environment,
        }
        return [serve(provider, **shared), serve(provider, **shared)]

    return make_workers


@check_each("stream", [False, True], ids=["whole", "streamed"])
@check_each("client", CLIENTS)
@check_each("form", FORMS, parts=4)
def test_signatures_return_to_the_provider(
    form: str, client: str, stream: bool, workers: Any
) -> None:
    provider = Provider(form)
    make, mode = CLIENTS[client]
    api_client = make(workers(provider), stream, mode)

    api_client.send_turn("What is it?")
    api_client.send_turn()
    assert provider.sent_signatures == [provider.get_signatures(1)]
    api_client.send_turn()
    assert provider.sent_signatures == [provider.get_signatures(1), provider.get_signatures(2)]
    api_client.send_turn("Are you sure?")
    assert provider.sent_signatures == [provider.get_signatures(turn) for turn in (1, 2, 3)]


@check_each("stream", [False, True], ids=["whole", "streamed"])
@check_each("client", CLIENTS)
@check_each(
    ("provider", "model", "form"),
    [
        ("gemini", "chat/gemini-3-pro", "extra_content"),
        ("vertex", "chat/google/gemini-3-pro", "extra_content"),
        ("litellm", "chat/claude", "thinking_blocks"),
        ("litellm", "chat/gemini-3-pro", "fields_of_proxy"),
        ("openrouter", "chat/anthropic/claude", "signed_details"),
        ("openrouter", "chat/openai/gpt-5", "encrypted_details"),
    ],
    parts=3,
)
def test_profiles_forward_the_signatures_of_their_providers(
    provider: str, model: str, form: str, client: str, stream: bool, workers: Any
) -> None:
    upstream = Provider(form)
    make, mode = CLIENTS[client]
    api_client = make(workers(upstream, CHAT_PROVIDER=provider), stream, mode)
    api_client.model = model

    for text in ("What is it?", None, None, "Are you sure?"):
        api_client.send_turn(text)

    assert upstream.sent_signatures == [upstream.get_signatures(turn) for turn in (1, 2, 3)]
    assert "extra_content" not in api_client.dropped


UNSIGNED = {"call_1_0": {}, "call_1_1": {}}


@check_each("form", FORMS)
@check_each("client", [name for name in CLIENTS if name != "chat, keeping fields"], parts=2)
def test_another_model_gets_no_signatures(form: str, client: str, workers: Any) -> None:
    provider = Provider(form)
    make, mode = CLIENTS[client]
    api_client = make(workers(provider), True, mode)
    api_client.send_turn("What is it?")

    api_client.model = "chat/other"
    api_client.send_turn()

    assert provider.sent_signatures == [UNSIGNED]
    is_reported = "input.reasoning.encrypted_content" in api_client.dropped
    assert is_reported == (make is ResponsesClient and mode != "bare")
    api_client.model = "chat/m"
    api_client.send_turn()
    assert provider.sent_signatures[0] == provider.get_signatures(1)


def test_another_client_gets_no_signatures(workers: Any) -> None:
    provider = Provider("extra_content")
    client = ChatClient(workers(provider, FORWARDER_API_KEYS="a,b"), False, "dropping")
    client.headers = {"Authorization": "Bearer a"}
    client.send_turn("What is it?")

    client.headers = {"Authorization": "Bearer b"}
    client.send_turn()

    assert provider.sent_signatures == [UNSIGNED]


@check_each("mode", ["dropping", "bare"])
def test_placeholder_for_a_lost_signature_is_reported(mode: str, workers: Any) -> None:
    provider = Provider("extra_content")
    make = ChatClient if mode == "dropping" else ResponsesClient
    client = make(
        workers(provider, CHAT_PROVIDER="gemini", FORWARDER_REASONING_TTL="0"), False, mode
    )
    client.send_turn("What is it?")
    assert client.dropped == ("output.signatures" if mode == "bare" else "")

    client.send_turn()

    [signatures] = provider.sent_signatures
    placeholder = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert signatures == {**UNSIGNED, "call_1_0": {"extra_content": placeholder}}
    assert "tool_calls.extra_content" in client.dropped


@check_each("stream", [False, True], ids=["whole", "streamed"])
@check_each("mode", ["previous", "conversation", "sealed"])
@check_each("form", FORMS, parts=2)
def test_stored_or_encrypted_signatures_need_no_cache(
    form: str, mode: str, stream: bool, workers: Any
) -> None:
    provider = Provider(form)
    client = ResponsesClient(workers(provider, FORWARDER_REASONING_TTL="0"), stream, mode)

    for text in ("What is it?", None, None, "Are you sure?"):
        client.send_turn(text)

    assert provider.sent_signatures == [provider.get_signatures(turn) for turn in (1, 2, 3)]


@check_each("mode", ["bare", "dropping"])
def test_signatures_are_kept_in_memory_without_a_store(mode: str, workers: Any) -> None:
    provider = Provider("late_signature")
    [worker, _] = workers(provider, FORWARDER_DATABASE_URL="none")
    make = ChatClient if mode == "dropping" else ResponsesClient
    client = make([worker], True, mode)

    for text in ("What is it?", None, None, "Are you sure?"):
        client.send_turn(text)

    assert provider.sent_signatures == [provider.get_signatures(turn) for turn in (1, 2, 3)]


@check_each("background", [False, True])
def test_stored_seals_are_returned_only_if_included(background: bool, workers: Any) -> None:
    [worker, _] = workers(Provider("extra_content"))
    body = {"model": "chat/m", "input": "hi", "stream": True, "background": background}
    answer = worker.post("/v1/responses", json=body)
    path = f"/v1/responses/{parse_events(answer.text)[0]['response']['id']}"

    output = parse_events(answer.text)[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["function_call", "function_call"]
    assert "encrypted_content" not in answer.text
    assert worker.get(path).json["output"] == output
    assert "encrypted_content" not in worker.get(f"{path}?stream=true").text
    output_items = worker.get(f"{path}?include[]=reasoning.encrypted_content").json["output"]
    assert [item["type"] for item in output_items] == [
        "function_call",
        "function_call",
        "reasoning",
    ]
    assert output_items[-1]["encrypted_content"].startswith("fwd2.")


@check_each("mode", ["bare", "dropping"])
def test_refused_signatures_are_removed_on_retry(mode: str, workers: Any) -> None:
    provider = Provider("extra_content")
    make = ChatClient if mode == "dropping" else ResponsesClient
    client = make(workers(provider), False, mode)
    client.send_turn("What is it?")
    refusal = {"error": {"message": "Corrupted thought signature.", "code": 400}}
    provider.refusals = [httpx2.Response(400, json=refusal)]

    client.send_turn()

    assert provider.sent_signatures == [UNSIGNED]
    assert "signatures" in client.dropped


@check_each("form", FORMS)
def test_chat_client_gets_the_fields_unchanged(form: str, workers: Any) -> None:
    provider = Provider(form)
    [worker, _] = workers(provider)
    body: Json = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}]}

    completion = worker.post("/v1/chat/completions", json=body).json
    parts = worker.post("/v1/chat/completions", json={**body, "stream": True})

    assert list_signatures(completion["choices"][0]["message"]) == provider.get_signatures(1)
    assert parse_events(parts.text) == provider.chunks(2)


@check_each(
    ("tool", "arguments"),
    [
        ({"type": "custom", "name": "f"}, '{"input": "a\\nb"}'),
        ({"type": "shell"}, '{"commands": ["ls"], "timeout_ms": null}'),
        ({"type": "local_shell"}, '{"command": ["ls"], "env": {}}'),
        ({"type": "apply_patch"}, '{"type": "delete_file", "path": "a"}'),
        ({"type": "function", "name": "f", "parameters": {"type": "object"}}, ""),
    ],
)
def test_signatures_of_all_tool_types_are_restored(
    tool: Json, arguments: str, workers: Any
) -> None:
    """Clients may reformat arguments and omit call ids."""
    bodies: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.read()))
        function = {"name": tool.get("name", tool["type"]), "arguments": arguments}
        function_call = {
            "type": "function",
            "function": function,
            **make_google_signature(len(bodies)),
        }
        message = {"role": "assistant", "content": None, "tool_calls": [function_call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return httpx2.Response(200, json={"id": "c", "model": "m", "choices": [choice]})

    [worker, _] = workers(answer)
    items: list[Json] = [{"role": "user", "content": "go"}]
    for _ in range(3):
        body = {"model": "chat/m", "input": items, "tools": [tool], "store": False}
        [returned_call] = worker.post("/v1/responses", json=body).json["output"]
        kind = returned_call["type"].removesuffix("_call") + "_call_output"
        result = {"output": "done", "status": "completed"}
        items += [returned_call, {"type": kind, "call_id": returned_call["call_id"], **result}]

    sent_calls = [m["tool_calls"][0] for m in bodies[-1]["messages"] if m["role"] == "assistant"]
    assert [
        {"extra_content": returned_call.get("extra_content")} for returned_call in sent_calls
    ] == [
        make_google_signature(1),
        make_google_signature(2),
    ]


def test_each_of_several_choices_can_be_continued(workers: Any) -> None:
    bodies: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.read()))
        choices = [
            {"index": i, "finish_reason": "stop",
             "message": {"role": "assistant", "content": f"Answer {i}.", **make_google_signature(i)}}
            for i in range(2)
        ]  # fmt: skip
        return httpx2.Response(200, json={"id": "c", "model": "m", "choices": choices})

    [worker, _] = workers(answer)
    user = {"role": "user", "content": "go"}
    path, body = "/v1/chat/completions", {"model": "chat/m", "messages": [user], "n": 2}
    worker.post(path, json=body)
    chosen = {"role": "assistant", "content": "Answer 1."}
    worker.post(path, json={**body, "messages": [user, chosen, user]})

    assert bodies[-1]["messages"][1] == {**chosen, **make_google_signature(1)}


class ResponsesProvider:
    """A mock provider with encrypted reasoning; it records requests."""

    def __init__(self) -> None:
        self.inputs: list[list[Json]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.read())
        self.inputs.append(body["input"])
        turn = min(len(self.inputs), 3)
        response = {"id": f"resp_{turn}", "object": "response", "status": "completed",
                    "output": self.output(turn)}  # fmt: skip
        if body.get("stream"):
            return make_stream_response(*whole_events("responses", response, True), done=False)
        return httpx2.Response(200, json=response)

    def output(self, turn: int) -> list[Json]:
        reasoning = {"type": "reasoning", "id": f"rs_{turn}", "summary": [],
                  "encrypted_content": f"sealed-{turn}"}  # fmt: skip
        if turn == 3:
            part = {"type": "output_text", "text": "It is 42.", "annotations": []}
            message = {"type": "message", "id": "msg", "role": "assistant", "content": [part]}
            return [reasoning, message]
        function_call = {"type": "function_call", "name": "f", "arguments": f'{{"a": {turn}}}'}
        return [
            reasoning,
            *(
                {**function_call, "id": f"fc_{turn}_{i}", "call_id": f"call_{turn}_{i}"}
                for i in range(2)
            ),
        ]


@check_each("stream", [False, True], ids=["whole", "streamed"])
@check_each("mode", ["keeping", "dropping", "styled"])
def test_encrypted_reasoning_returns_to_a_responses_upstream(
    mode: str, stream: bool, workers: Any
) -> None:
    provider = ResponsesProvider()
    client = ChatClient(workers(provider), stream, mode)
    client.model = "responses/gpt-5.5"

    for text in ("What is it?", None, None, "Are you sure?"):
        client.send_turn(text)

    kinds = [
        item.get("encrypted_content", item["type"])
        for item in provider.inputs[-1]
        if item["type"] != "function_call_output"
    ]
    assert kinds == [
        "message",
        "sealed-1", "function_call", "function_call",
        "sealed-2", "function_call", "function_call",
        "sealed-3", "message",
        "message",
    ]  # fmt: skip


@check_each("stream", [False, True], ids=["whole", "streamed"])
@check_each("form", FORMS)
def test_signatures_return_for_an_ollama_client(form: str, stream: bool, workers: Any) -> None:
    provider = Provider(form)
    client = OllamaClient(workers(provider), stream, "")

    for text in ("What is it?", None, None, "Are you sure?"):
        client.send_turn(text)

    expected = [[*provider.get_signatures(turn).values()] for turn in (1, 2, 3)]
    assert [[*sent_signatures.values()] for sent_signatures in provider.sent_signatures] == expected


@check_each("stream", [False, True], ids=["whole", "streamed"])
@check_each("form", FORMS)
def test_signatures_return_for_a_messages_client(form: str, stream: bool, workers: Any) -> None:
    """Its blocks contain the signatures, so that no cache is needed."""
    provider = Provider(form)
    client = MessagesClient(workers(provider, FORWARDER_REASONING_TTL="0"), stream)

    for text in ("What is it?", None, None, "Are you sure?"):
        client.send_turn(text)

    assert provider.sent_signatures == [provider.get_signatures(turn) for turn in (1, 2, 3)]
