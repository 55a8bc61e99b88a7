"""An Ollama request as a Chat request; its parameters are in test_fates_of_ollama.py."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.translation.ollama_over_chat.forms import GENERATE_ENDPOINT
from tests.fake_provider import check_chat
from tests.helpers.ollama import USER, chat, prepared
from tests.helpers.translating import terms

Json = dict[str, Any]

TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_a_stream_brings_its_usage() -> None:
    usage = {"include_usage": True}
    assert chat() == {"model": "m", "messages": [USER], "stream": True, "stream_options": usage}
    assert chat(stream=False) == {"model": "m", "messages": [USER], "stream": False}


def test_options_stand_beside_the_messages() -> None:
    given = {"temperature": 0, "top_p": 0.5, "seed": 7.0, "stop": ["x"], "num_predict": 12,
             "presence_penalty": 1, "frequency_penalty": -1}  # fmt: skip
    made = chat(options=given)
    named = {**given, "seed": 7, "max_completion_tokens": 12}
    del named["num_predict"]
    assert {k: v for k, v in made.items() if k in named} == named
    assert type(made["seed"]) is int
    assert check_chat(made) == []


@pytest.mark.parametrize("limit", [-1, -2, 0])
def test_a_limit_that_is_none_is_left_out(limit: int) -> None:
    assert "max_completion_tokens" not in chat(options={"num_predict": limit})


@pytest.mark.parametrize(("stop", "made"), [("x", "x"), (["x"], ["x"]), ([], None), ("", None)])
def test_no_stops_ask_for_nothing(stop: Any, made: Any) -> None:
    assert chat(options={"stop": stop}).get("stop") == made


@pytest.mark.parametrize(
    ("takes", "given", "made"),
    [
        ({"top_k", "min_p"}, {"top_k": 3, "min_p": 0.1}, {"top_k": 3, "min_p": 0.1}),
        ({"repetition_penalty"}, {"repeat_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"repeat_penalty"}, {"repeat_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"dry_base"}, {"dry_base": 2}, {"dry_base": 2}),
        ({"seed"}, {"seed": 2}, {"seed": 2}),
    ],
)
def test_what_an_upstream_takes_beyond_chat_it_gets(
    takes: set[str], given: Json, made: Json
) -> None:
    its_terms = terms(extensions=takes)
    body = prepared(its_terms, options=given).chat_request
    assert {k: v for k, v in body.items() if k in made} == made
    assert not any(name.startswith("options.") for name in body)
    assert its_terms.loss_report.losses == {}


@pytest.mark.parametrize(
    ("think", "effort"),
    [(True, "medium"), (False, "none"), ("low", "low"), ("max", "max"), (None, None)],
)
def test_thinking_is_an_effort(think: Any, effort: str | None) -> None:
    made = prepared(think=think)
    assert made.chat_request.get("reasoning_effort") == effort
    assert made.wants_reasoning is (think is not False)


def test_a_format_is_json_or_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wrapped = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert chat(format=schema)["response_format"] == wrapped
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat(format="")
    assert check_chat(chat(format=schema)) == []


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {}),
        ({"logprobs": False, "top_logprobs": 3}, {}),
        ({"logprobs": True}, {"logprobs": True}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    ],
)
def test_alternatives_go_with_log_probabilities(given: Json, made: Json) -> None:
    asked = prepared(**given)
    assert {k: v for k, v in asked.chat_request.items() if "logprobs" in k} == made
    assert asked.wants_logprobs is bool(made)


def test_tools_are_functions() -> None:
    bare = {"function": {"name": "g", "description": None, "extra": 1}, "items": 2}
    made = chat(tools=[TOOL, bare])["tools"]
    assert made == [TOOL, {"type": "function", "function": {"name": "g"}}]
    assert "tools" not in chat(tools=[])


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": None}, "model"),
        ({"options": [1]}, "options"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"stream": 1}, "stream"),
        ({"messages": "hi"}, "messages"),
        ({"format": "yaml"}, "format"),
        ({"think": "hard"}, "think"),
        ({"think": 1}, "think"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"options": {"seed": 1e30}}, "options.seed"),
        ({"options": {"num_predict": 1e30}}, "options.num_predict"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{}]}, "tools[0].function"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": 1}}]}, "tools[0].function.parameters"),
    ],
)
def test_what_is_malformed_is_named(given: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(**given)
    assert caught.value.param == param


def test_a_tool_of_another_kind_is_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        prepared(tools=[{"type": "web_search"}])
    assert caught.value.param == "tools[0].type"


@pytest.mark.parametrize(
    ("keep_alive", "instead"),
    [(None, "load"), ("5m", "load"), (-1, "load"), (0.5, "load"), ("0.5s", "load"),
     (0, "unload"), (0.0, "unload"), ("0", "unload"), ("0s", "unload"), ("0.0m", "unload")],
)  # fmt: skip
def test_nothing_asked_is_a_wish_for_the_model(keep_alive: Any, instead: str) -> None:
    for made in (
        prepared(messages=[], keep_alive=keep_alive),
        prepared(messages=None, keep_alive=keep_alive),
        prepared(form=GENERATE_ENDPOINT, prompt="", keep_alive=keep_alive),
        prepared(form=GENERATE_ENDPOINT, prompt=None, system="x", keep_alive=keep_alive),
    ):
        assert (made.chat_request, made.load_action) == ({}, instead)


def test_with_something_asked_keep_alive_is_only_taken() -> None:
    assert prepared(keep_alive=0).load_action == ""
    assert "keep_alive" not in chat(keep_alive="5m")
