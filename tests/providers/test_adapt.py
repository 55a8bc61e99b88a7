"""Parameters of upstream requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch
from forwarder.providers import PROFILES, Profile, adapt_request, adapt_response
from tests.helpers.check_cases import check_each
from tests.providers.adapting import Json, adapt, adapt_messages

USER = {"role": "user", "content": "U"}
SYSTEM = {"role": "system", "content": "S"}


def test_drop_parameters() -> None:
    for protocol in ("chat", "responses"):
        loss_report = LossReport()
        body = {"store": True, "user": "u", "seed": 1}
        assert adapt(body, protocol, loss_report, drop=frozenset({"store", "metadata"})) == {
            "user": "u",
            "seed": 1,
        }
        assert loss_report.losses == {"store": "some does not take it"}
        with pytest.raises(Unsupported):
            adapt(body, protocol, LossReport(strict=True), drop=frozenset({"store"}))


@check_each(
    ("original", "name", "expected"),
    [
        ({"max_completion_tokens": 5}, "max_tokens", {"max_tokens": 5}),
        ({"max_tokens": 5}, "max_tokens", {"max_tokens": 5}),
        ({"max_tokens": 5}, "max_completion_tokens", {"max_completion_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", {"max_tokens": 5}),
        ({}, "max_tokens", {}),
    ],
)
def test_rename_token_limit(original: Json, name: str, expected: Json) -> None:
    assert adapt(original, max_tokens=name) == expected


def test_drop_stream_options() -> None:
    body = {"stream": True, "stream_options": {"include_usage": True}}
    assert adapt(body) == body
    assert adapt(body, stream_options=False) == {"stream": True}


def test_force_stream() -> None:
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    responses_request = {"stream": False, "input": "Hi."}
    assert adapt({"stream": False}, always_stream=True) == streamed
    assert adapt({"stream": False}, always_stream=True, stream_options=False) == {"stream": True}
    assert adapt({"stream": True}, always_stream=True) == {"stream": True}
    assert adapt(responses_request, "responses", always_stream=True) == {
        **responses_request,
        "stream": True,
    }
    compaction = {"input": "Hi."}  # has no parameter "stream"
    assert adapt(compaction, "responses", always_stream=True) == compaction
    assert adapt({"stream": False}) == {"stream": False}


@check_each(
    ("body", "param"),
    [
        ({"messages": "Hi."}, "messages"),
        ({"messages": ["Hi."]}, "messages[0]"),
        ({"messages": [USER], "tools": {"a": 1}}, "tools"),
        ({"messages": [USER], "tools": ["f"]}, "tools[0]"),
        ({"messages": [USER], "tools": [{"type": "function", "function": "f"}]}, "tools"),
        (
            {"messages": [USER], "tool_choice": {"type": "allowed_tools", "allowed_tools": []}},
            "tool_choice",
        ),
    ],
)
def test_malformed_request_is_rejected_by_name(body: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        adapt(body, strict_tools=False)
    assert caught.value.param == param


def test_dropping_store_false_is_not_reported() -> None:
    for protocol in ("chat", "responses"):
        loss_report = LossReport(strict=True)
        assert adapt({"store": False}, protocol, loss_report, drop=frozenset({"store"})) == {}
        assert loss_report.losses == {}


def test_local_parameters_are_not_reported() -> None:
    loss_report = LossReport(strict=True, local_parameters={"store", "metadata"})
    drop = frozenset({"store", "metadata", "user"})
    assert adapt({"store": True, "metadata": {"a": "b"}}, "chat", loss_report, drop=drop) == {}
    assert loss_report.losses == {}
    with pytest.raises(Unsupported):
        adapt({"user": "u"}, "chat", loss_report, drop=drop)


def test_add_parameters() -> None:
    assert adapt({"a": 1}, add={"a": 2, "b": 3}) == {"a": 1, "b": 3}
    fields = {"a": 2, "b": 3}
    assert adapt({"a": 1}, "responses", responses_add=fields) == {"a": 1, "b": 3}


def test_adapt_request_for_chatgpt_backend() -> None:
    loss_report = LossReport()
    request = {"model": "m", "input": "Hi.", "stream": False, "store": True, "temperature": 0.5}
    assert adapt_request(request, "responses", PROFILES["chatgpt"], loss_report) == {
        "model": "m", "input": "Hi.", "stream": True, "store": False, "instructions": "",
    }  # fmt: skip
    assert sorted(loss_report.losses) == ["store", "temperature"]


@check_each("value", [True, False])
def test_drop_parallel_tool_calls(value: bool) -> None:
    loss_report = LossReport()
    body = {"parallel_tool_calls": value}
    assert adapt(body) == body
    assert adapt(body, loss_report=loss_report, parallel_tool_calls=False) == {}
    assert loss_report.losses == {}  # a middleware drops further calls
    profile_fields = {"parallel_tool_calls": False, "keeps_responses": True}
    native = {**body, "input": "hi"}
    assert adapt(native, "responses", loss_report, **profile_fields) == {"input": "hi"}
    assert bool(loss_report.losses) is (value is False)


def test_token_limit_as_is() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        assert adapt({name: 5}, max_tokens="as_is") == {name: 5}


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
OBJECT = {"type": "json_object"}


@check_each(
    ("level", "original", "expected"),
    [
        ("json_schema", SCHEMA_FORMAT, SCHEMA_FORMAT),
        ("json_object", SCHEMA_FORMAT, OBJECT),
        ("json_object", OBJECT, OBJECT),
        ("none", SCHEMA_FORMAT, None),
        ("none", OBJECT, None),
        ("schema_only", SCHEMA_FORMAT, SCHEMA_FORMAT),
    ],
)
def test_adapt_response_format_adds_instruction(level: str, original: Json, expected: Any) -> None:
    loss_report = LossReport()
    body = {"messages": [SYSTEM, USER], "response_format": original}
    adapted = adapt(body, loss_report=loss_report, response_format=level)
    assert adapted.get("response_format") == expected
    content = adapted["messages"][1]["content"]
    assert (content == "U") is (original == expected)
    if original == SCHEMA_FORMAT != expected:
        assert json.dumps(SCHEMA, separators=(",", ":")) in content
    assert bool(loss_report.losses) is (original != expected)


def test_json_object_becomes_schema_for_schema_only_providers() -> None:
    adapted = adapt({"response_format": OBJECT}, response_format="schema_only")
    assert adapted["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_long_call_ids_are_replaced() -> None:
    (result,) = adapt_messages({"role": "tool", "tool_call_id": "x" * 50, "content": "a"})
    assert result["tool_call_id"].startswith("call_")


LONG = "x" * 70
TOOLS = [{"type": "function", "function": {"name": LONG}}]


def restore(request: dict[str, Any], profile: Profile, *batches: Batch) -> list[Batch]:
    return list(adapt_response(iter(batches), request, "chat", profile, lambda: True))


@check_each("protocol", ["chat", "responses"])
def test_adapt_response_returns_the_same_stream(protocol: str) -> None:
    stream = iter([[{}]])
    adapted = adapt_response(stream, {"stream": True}, protocol, PROFILES["generic"], lambda: True)
    assert adapted is stream


def test_adapt_response_restores_names() -> None:
    short = {"function": {"name": f"{'x' * 55}_"}}
    chunk = {"choices": [{"delta": {"tool_calls": [short]}}]}
    from forwarder.providers.name_shortening import map_long_names

    (short["function"]["name"],) = map_long_names({"tools": TOOLS}, 64)
    ((adapted,), silence) = restore({"tools": TOOLS}, Profile("some"), [chunk], [])
    assert adapted["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == LONG
    assert silence == []


def test_adapt_response_repairs_forced_stream() -> None:
    event = {"type": "response.output_text.delta", "delta": "a"}
    adapted = adapt_response(
        iter([[event]]), {"stream": False}, "responses", PROFILES["lmstudio"], lambda: False
    )
    assert len(next(adapted)) == 5


def test_adapt_response_repairs_native_stream() -> None:
    event = {"type": "response.output_text.delta", "delta": "a"}
    for name, count in (("lmstudio", 5), ("openai", 1)):
        stream = iter([[event]])
        adapted = adapt_response(
            stream, {"stream": True}, "responses", PROFILES[name], lambda: False
        )
        assert len(next(adapted)) == count
