"""The parameters of a body that is about to leave."""

from __future__ import annotations

import json
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.providers import PROFILES, adapt_request
from tests.providers.mending import Json, mended, messages

USER = {"role": "user", "content": "U"}
SYSTEM = {"role": "system", "content": "S"}


def test_what_a_provider_does_not_take_is_dropped_and_named() -> None:
    for protocol in ("chat", "responses"):
        ledger = LossReport()
        body = {"store": True, "user": "u", "seed": 1}
        assert mended(body, protocol, ledger, drop=frozenset({"store", "metadata"})) == {
            "user": "u",
            "seed": 1,
        }
        assert ledger.losses == {"store": "some does not take it"}
        with pytest.raises(Unsupported):
            mended(body, protocol, LossReport(strict=True), drop=frozenset({"store"}))


@pytest.mark.parametrize(
    ("given", "name", "sent"),
    [
        ({"max_completion_tokens": 5}, "max_tokens", {"max_tokens": 5}),
        ({"max_tokens": 5}, "max_tokens", {"max_tokens": 5}),
        ({"max_tokens": 5}, "max_completion_tokens", {"max_completion_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", {"max_tokens": 5}),
        ({}, "max_tokens", {}),
    ],
)
def test_the_token_limit_has_the_providers_name(given: Json, name: str, sent: Json) -> None:
    assert mended(given, max_tokens=name) == sent


def test_stream_options_go_only_where_they_are_known() -> None:
    body = {"stream": True, "stream_options": {"include_usage": True}}
    assert mended(body) == body
    assert mended(body, stream_options=False) == {"stream": True}


def test_a_stream_is_asked_for_where_there_is_nothing_else() -> None:
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    native = {"stream": False, "input": "Hi."}
    assert mended({"stream": False}, always_stream=True) == streamed
    assert mended({"stream": False}, always_stream=True, stream_options=False) == {"stream": True}
    assert mended({"stream": True}, always_stream=True) == {"stream": True}
    assert mended(native, "responses", always_stream=True) == {**native, "stream": True}
    compaction = {"input": "Hi."}  # has no such choice
    assert mended(compaction, "responses", always_stream=True) == compaction
    assert mended({"stream": False}) == {"stream": False}


@pytest.mark.parametrize(
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
def test_a_body_that_cannot_be_mended_is_a_400_that_names_the_place(body: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        mended(body, strict_tools=False)
    assert caught.value.param == param


def test_who_does_not_know_the_store_stores_nothing() -> None:
    for protocol in ("chat", "responses"):
        ledger = LossReport(strict=True)
        assert mended({"store": False}, protocol, ledger, drop=frozenset({"store"})) == {}
        assert ledger.losses == {}


def test_what_is_honoured_here_is_not_lost() -> None:
    ledger = LossReport(strict=True, local_parameters={"store", "metadata"})
    drop = frozenset({"store", "metadata", "user"})
    assert mended({"store": True, "metadata": {"a": "b"}}, "chat", ledger, drop=drop) == {}
    assert ledger.losses == {}
    with pytest.raises(Unsupported):
        mended({"user": "u"}, "chat", ledger, drop=drop)


def test_fields_are_added_unless_they_are_there() -> None:
    assert mended({"a": 1}, add={"a": 2, "b": 3}) == {"a": 1, "b": 3}
    fields = {"a": 2, "b": 3}
    assert mended({"a": 1}, "responses", responses_add=fields) == {"a": 1, "b": 3}


def test_chatgpts_backend_is_asked_as_it_wants_to_be() -> None:
    ledger = LossReport()
    asked = {"model": "m", "input": "Hi.", "stream": False, "store": True, "temperature": 0.5}
    assert adapt_request(asked, "responses", PROFILES["chatgpt"], ledger) == {
        "model": "m", "input": "Hi.", "stream": True, "store": False, "instructions": "",
    }  # fmt: skip
    assert sorted(ledger.losses) == ["store", "temperature"]


@pytest.mark.parametrize("wish", [True, False])
def test_parallel_calls_are_left_out_where_they_are_not_known(wish: bool) -> None:
    ledger = LossReport()
    body = {"parallel_tool_calls": wish}
    assert mended(body) == body
    assert mended(body, ledger=ledger, parallel_tool_calls=False) == {}
    assert ledger.losses == {}  # more than one call falls away elsewhere
    lacking = {"parallel_tool_calls": False, "keeps_responses": True}
    native = {**body, "input": "hi"}
    assert mended(native, "responses", ledger, **lacking) == {"input": "hi"}
    assert bool(ledger.losses) is (wish is False)


def test_a_limit_may_keep_its_name() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        assert mended({name: 5}, max_tokens="as_is") == {name: 5}


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ASKED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
OBJECT = {"type": "json_object"}


@pytest.mark.parametrize(
    ("level", "given", "sent"),
    [
        ("json_schema", ASKED, ASKED),
        ("json_object", ASKED, OBJECT),
        ("json_object", OBJECT, OBJECT),
        ("none", ASKED, None),
        ("none", OBJECT, None),
        ("schema_only", ASKED, ASKED),
    ],
)
def test_what_is_not_enforced_is_asked_for(level: str, given: Json, sent: Any) -> None:
    ledger = LossReport()
    body = {"messages": [SYSTEM, USER], "response_format": given}
    made = mended(body, ledger=ledger, response_format=level)
    assert made.get("response_format") == sent
    told = made["messages"][1]["content"]
    assert (told == "U") is (given == sent)
    if given == ASKED != sent:
        assert json.dumps(SCHEMA, separators=(",", ":")) in told
    assert bool(ledger.losses) is (given != sent)


def test_where_only_schemas_are_known_any_object_is_one() -> None:
    made = mended({"response_format": OBJECT}, response_format="schema_only")
    assert made["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_ids_that_are_too_long_are_replaced() -> None:
    (result,) = messages({"role": "tool", "tool_call_id": "x" * 50, "content": "a"})
    assert result["tool_call_id"].startswith("call_")
