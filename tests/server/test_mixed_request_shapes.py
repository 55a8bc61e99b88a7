"""Requests in the shape of the other API: converted or rejected."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.server.mixed_request_shapes import adapt_shape
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response, serve

__all__ = ["serve"]

Json = dict[str, Any]

SCHEMA: Json = {"type": "object", "properties": {"path": {"type": "string"}}}
FLAT: Json = {
    "type": "function",
    "name": "read_file",
    "description": "Reads a file",
    "parameters": SCHEMA,
    "strict": False,
}
NESTED: Json = {"type": "function", "function": {k: v for k, v in FLAT.items() if k != "type"}}
GRAMMAR: Json = {"syntax": "lark", "definition": "start: /.+/"}
FLAT_CUSTOM: Json = {"type": "custom", "name": "patch", "format": {"type": "grammar", **GRAMMAR}}
NESTED_CUSTOM: Json = {
    "type": "custom",
    "custom": {"name": "patch", "format": {"type": "grammar", "grammar": GRAMMAR}},
}
CURSOR: Json = {
    "model": "m",
    "user": "u",
    "stream": True,
    "stream_options": {"include_usage": True},
    "input": [
        {"role": "system", "content": "You are a coding agent."},
        {"role": "user", "content": [{"type": "input_text", "text": "Read a.py"}]},
        {
            "type": "function_call",
            "call_id": "call_1",
            "name": "read_file",
            "arguments": '{"path":"a.py"}',
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "print()"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [FLAT, FLAT_CUSTOM],
    "tool_choice": "auto",
    "reasoning": {"effort": "medium", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "text": {"verbosity": "low"},
    "truncation": "auto",
    "store": False,
    "max_tokens": 100,
    "temperature": 1,
}


def adapt(request: Json, client: str, strict: bool = False) -> tuple[Json, RequestContext]:
    context = RequestContext("id", client, LossReport(strict=strict))
    return adapt_shape(request, client, context), context


def get_refusal(request: Json, client: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        adapt(request, client)
    return raised.value


# -- at /chat/completions -------------------------------------------------------------------------


def test_request_in_the_shape_of_cursor_is_read_as_chat_request() -> None:
    chat, context = adapt(CURSOR, "chat")

    assert chat == {
        "model": "m",
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "You are a coding agent."},
            {"role": "user", "content": [{"type": "text", "text": "Read a.py"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "read_file", "arguments": '{"path":"a.py"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "print()"},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [NESTED, NESTED_CUSTOM],
        "tool_choice": "auto",
        "reasoning_effort": "medium",
        "verbosity": "low",
        "store": False,
        "max_tokens": 100,
        "temperature": 1,
    }
    assert context.loss_report.losses.keys() == {"truncation"}


def test_usage_is_sent_only_on_request() -> None:
    body = {"input": [{"role": "user", "content": "Hi"}], "stream": True}
    assert "stream_options" not in adapt(body, "chat")[0]


def test_body_of_the_right_protocol_is_unchanged() -> None:
    chat = {"model": "m", "messages": [], "tools": [NESTED], "tool_choice": {"type": "function"}}
    responses = {"model": "m", "input": "Hi", "tools": [FLAT], "max_output_tokens": 5}
    assert adapt(chat, "chat")[0] is chat
    assert adapt(responses, "responses")[0] is responses
    assert adapt(chat, "ollama")[0] is chat


def test_flat_tools_beside_messages_are_nested() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    body = {
        "messages": messages,
        "tools": [FLAT, NESTED, FLAT_CUSTOM],
        "tool_choice": {"type": "function", "name": "read_file"},
    }

    assert adapt(body, "chat")[0] == {
        "messages": messages,
        "tools": [NESTED, NESTED, NESTED_CUSTOM],
        "tool_choice": {"type": "function", "function": {"name": "read_file"}},
    }


@check_each("invalid", [5, "x", True, {"a": 1}, [5], [[]], [{"type": []}]])
def test_tools_of_a_wrong_type_are_not_converted(invalid: Any) -> None:
    for name in ("tools", "tool_choice"):
        body = {"messages": [], name: invalid}
        assert adapt(body, "chat")[0] is body
    body = {"model": "m", "input": [{"role": "user", "content": "Hi"}], "tools": invalid}
    assert get_refusal(body, "chat").param in ("tools", "tools[0]", "tools[0].type")


def test_nested_tools_beside_input_are_accepted() -> None:
    body = {"input": [{"role": "user", "content": "Hi"}], "tools": [NESTED]}
    assert adapt(body, "chat")[0]["tools"] == [NESTED]


@check_each(
    ("body", "name"),
    [
        ({"input": "Hello"}, "input"),
        ({"input": [], "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [], "conversation": "conv_1"}, "conversation"),
        ({"input": "Hello", "background": True}, "background"),
    ],
)
def test_responses_body_error_names_the_right_path(body: Json, name: str) -> None:
    error = get_refusal({"model": "m", **body}, "chat")
    assert error.param == "messages"
    assert f"'{name}'" in error.message
    assert "/v1/responses" in error.message


def test_strict_mode_covers_losses_of_the_conversion() -> None:
    with pytest.raises(Unsupported, match="truncation"):
        adapt(CURSOR, "chat", strict=True)


# -- at /responses --------------------------------------------------------------------------------


def test_chat_body_error_names_the_right_path() -> None:
    error = get_refusal(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}, "responses"
    )
    assert error.param == "input"
    assert "/v1/chat/completions" in error.message


@check_each("name", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_by_its_chat_name_is_mapped(name: str) -> None:
    assert adapt({"input": "Hi", name: 7}, "responses")[0] == {
        "input": "Hi",
        "max_output_tokens": 7,
    }
    body = {"input": "Hi", name: 7, "max_output_tokens": 9}
    assert adapt(body, "responses")[0] is body
    assert get_refusal({"input": "Hi", name: "7"}, "responses").param == name


@check_each("invalid", [0, -1])
def test_fewer_tool_calls_than_one_are_refused(invalid: int) -> None:
    error = get_refusal({"input": "Hi", "max_tool_calls": invalid}, "responses")
    assert (error.status, error.param) == (400, "max_tool_calls")
    assert error.code == "integer_below_min_value"
    for valid in (1, None):
        body = {"input": "Hi", "max_tool_calls": valid}
        assert adapt(body, "responses")[0] is body


# -- through the routes ---------------------------------------------------------------------------


@check_each("api", ["chat", "responses"])
@check_each("stream", [True, False])
def test_cursor_gets_a_chat_completion(api: str, stream: bool, serve: Serve) -> None:
    requests: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(json.loads(request.content))
        call = {"id": "c1", "type": "function", "index": 0,
                "function": {"name": "read_file", "arguments": "{}"}}  # fmt: skip
        item = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "read_file",
                "arguments": "{}", "status": "completed"}  # fmt: skip
        response = {"id": "resp_1", "object": "response", "status": "completed", "output": [item]}
        if api == "responses" and stream:
            return make_stream_response(
                {"type": "response.created", "response": {**response, "output": []}},
                {"type": "response.output_item.added", "output_index": 0, "item": item},
                {"type": "response.output_item.done", "output_index": 0, "item": item},
                {"type": "response.completed", "response": response},
            )
        if api == "responses":
            return httpx2.Response(200, json=response)
        field = "delta" if stream else "message"
        choice = {"index": 0, field: {"tool_calls": [call]}, "finish_reason": "tool_calls"}
        completion = {"id": "c", "object": "chat.completion", "choices": [choice]}
        return make_stream_response(completion) if stream else httpx2.Response(200, json=completion)

    client = serve(answer, FORWARDER_UPSTREAMS=api)
    got = client.post("/v1/chat/completions", json={**CURSOR, "stream": stream})

    assert got.status_code == 200
    assert "tool_calls" in got.text
    assert "read_file" in got.text
    assert "response.created" not in got.text
    assert "truncation" in got.headers["X-Forwarder-Dropped"]
    [sent] = requests
    assert ("messages" in sent, "input" in sent) == (api == "chat", api == "responses")
    assert sent["tools"][0] == (NESTED if api == "chat" else FLAT)


def test_converted_body_is_adapted_to_the_provider(serve: Serve) -> None:
    requests: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(json.loads(request.content))
        return httpx2.Response(400, json={"error": {"message": "no"}})

    client = serve(answer, FORWARDER_UPSTREAMS="chat")
    other_fields = {k: v for k, v in CURSOR.items() if k != "max_tokens"}
    system = {"role": "developer", "content": "You are a coding agent."}
    body = {**other_fields, "input": [system, *CURSOR["input"][1:]], "max_output_tokens": 100}
    client.post("/v1/chat/completions", json=body)

    [sent] = requests
    assert (sent["max_tokens"], "max_completion_tokens" in sent) == (100, False)
    assert sent["messages"][0]["role"] == "system"


@check_each("api", ["chat", "responses"])
def test_the_limit_reaches_the_upstream(api: str, serve: Serve) -> None:
    requests: list[Json] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(json.loads(request.content))
        return httpx2.Response(400, json={"error": {"message": "no"}})

    client = serve(answer, FORWARDER_UPSTREAMS=api)
    client.post("/v1/responses", json={"model": "m", "input": "Hi", "max_tokens": 77})

    name = "max_output_tokens" if api == "responses" else "max_completion_tokens"
    assert 77 in (requests[0].get(name), requests[0].get("max_tokens"))
    assert api == "chat" or "max_tokens" not in requests[0]


@check_each("path", ["/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens", "/forwarder/translate?from=responses"])  # fmt: skip
def test_chat_body_error_on_every_responses_route(path: str, serve: Serve) -> None:
    client = serve(lambda _: httpx2.Response(500))
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}

    got = client.post(path, json=body)

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "input")


@check_each("api", ["chat", "responses"])
@check_each("more", [{}, {"stream": True}, {"background": True}])
def test_zero_max_tool_calls_is_refused(api: str, more: Json, serve: Serve) -> None:
    client = serve(lambda _: pytest.fail("the upstream was called"), FORWARDER_UPSTREAMS=api)

    got = client.post(
        "/v1/responses", json={"model": "m", "input": "a", "max_tool_calls": 0, **more}
    )

    assert (got.status_code, got.get_json()["error"]["param"]) == (400, "max_tool_calls")
