"""Scenarios, chosen by the prompt, in both protocols."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_provider import Answer
from tests.fake_provider.answers import Json, ModelRequest
from tests.fake_provider.scenarios import HELLO, SCENARIOS, UNICODE, answer
from tests.helpers.check_cases import check_each

PERSON: Json = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}
CITY: Json = {"type": "object", "properties": {"city": {"type": "string"}}}
COMMAND: Json = {"type": "object", "properties": {"cmd": {"type": "string"}}}
INPUT: Json = {"type": "object", "properties": {"input": {"type": "string"}}}

Make = Callable[..., ModelRequest]


def chat(prompt: str, *functions: tuple[str, Json], results: tuple[str, ...] = ()) -> ModelRequest:
    """A chat request after calls of ``f`` with these results."""
    messages: list[Json] = [{"role": "user", "content": f"please do {prompt} [[tag:t1]]"}]
    for result in results:
        call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        messages.append({"role": "assistant", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": "a", "content": result})
    tools = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in functions]
    return ModelRequest("chat", {"messages": messages, "tools": tools})


def make_responses_request(
    prompt: str, *functions: tuple[str, Json], results: tuple[str, ...] = ()
) -> ModelRequest:
    """The same as a Responses request."""
    items: list[Json] = [{"role": "user", "content": f"please do {prompt} [[tag:t1]]"}]
    for result in results:
        items.append({"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"})
        items.append({"type": "function_call_output", "call_id": "a", "output": result})
    tools = [{"type": "function", "name": name, "parameters": s} for name, s in functions]
    return ModelRequest("responses", {"input": items, "tools": tools})


protocols = check_each("make", [chat, make_responses_request])


@protocols
def test_a_prompt_without_a_marker_is_greeted(make: Make) -> None:
    assert answer(make("hi")).text == answer(make("[[scenario:text]]")).text == HELLO


def test_unknown_scenario_raises_an_error() -> None:
    with pytest.raises(KeyError):
        answer(chat("[[scenario:nonsense]]"))


@protocols
@check_each("name", SCENARIOS)
def test_every_scenario_answers_without_tools(make: Make, name: str) -> None:
    """Without offered tools, the model calls none."""
    result = answer(make(f"[[scenario:{name} tool=none]]"))

    assert isinstance(result, Answer)
    assert not result.calls


@protocols
@check_each(
    ("name", "count", "text"),
    [
        ("one_tool", 1, None),
        ("parallel_tools", 2, None),
        ("text_and_tool", 1, "Let me look that up."),
        ("reasoning_tool", 1, None),
    ],
)
def test_tool_results_are_repeated_in_the_text(
    make: Make, name: str, count: int, text: str | None
) -> None:
    prompt, tool = f"[[scenario:{name}]]", ("get_weather", CITY)
    first_answer = answer(make(prompt, tool))
    final_answer = answer(make(prompt, tool, results=("sunny", "rainy")))

    assert [call.text for call in first_answer.calls] == ['{"city": "Zürich 🏔"}'] * count
    assert first_answer.text == text
    assert final_answer.text == "Done: sunny | rainy"
    assert not final_answer.calls


@protocols
def test_a_named_tool_is_called(make: Make) -> None:
    result = answer(make("[[scenario:named_tool tool=User]]", ("f", CITY), ("User", PERSON)))

    assert result.calls[0].name == "User"
    assert json.loads(result.calls[0].text) == {"name": "Ada", "age": 36}


@protocols
def test_a_handoff_transfers_then_works_then_ends(make: Make) -> None:
    prompt = "[[scenario:handoff]]"
    transfer: tuple[str, Json] = ("transfer_to_second", {})
    weather = ("get_weather", CITY)

    first = answer(make(prompt, weather, transfer))
    second = answer(make(prompt, weather, results=("transferred",)))
    third = answer(make(prompt, weather, results=("transferred", "sunny")))
    idle = answer(make(prompt, results=("transferred",)))

    assert [call.name for call in first.calls] == ["transfer_to_second"]
    assert [call.name for call in second.calls] == ["get_weather"]
    assert third.text == "Done: transferred | sunny"
    assert idle.text == "Done: transferred"


@protocols
@check_each(
    ("tool", "key", "command"),
    [
        ("exec_command", "cmd", "printf 'made by the scripted model' > x.txt"),
        ("ns__exec_command", "cmd", "printf 'made by the scripted model' > x.txt"),
        ("shell", "command", ["bash", "-lc", "printf 'made by the scripted model' > x.txt"]),
    ],
)
def test_the_shell_makes_a_file(make: Make, tool: str, key: str, command: Any) -> None:
    result = answer(make("[[scenario:shell_loop file=x.txt]]", ("other", CITY), (tool, COMMAND)))

    assert result.text
    assert result.calls[0].name == tool
    assert json.loads(result.calls[0].text) == {key: command}


@protocols
def test_a_shell_of_free_text_makes_a_file_too(make: Make) -> None:
    call = answer(make("[[scenario:shell_loop file=x.txt]]", ("functions__exec", INPUT))).calls[0]

    assert "tools.exec_command" in json.loads(call.text)["input"]


def test_a_patch_adds_a_file_through_a_custom_tool_or_a_function() -> None:
    prompt = "[[scenario:apply_patch_loop file=p.txt]]"
    custom = {"input": f"go {prompt}", "tools": [{"type": "custom", "name": "apply_patch"}]}

    custom_call = answer(ModelRequest("responses", custom)).calls[0]
    function_call = answer(chat(prompt, ("apply_patch", INPUT))).calls[0]

    assert custom_call.kind == "custom"
    assert "*** Add File: p.txt\n" in custom_call.text
    assert json.loads(function_call.text) == {"input": custom_call.text}


@protocols
def test_patch_follows_the_shell_command(make: Make) -> None:
    tools = (("exec_command", COMMAND), ("apply_patch", INPUT))
    turns = [
        answer(make("[[scenario:shell_then_patch]]", *tools, results=("ok",) * count))
        for count in range(3)
    ]

    assert [[call.name for call in turn.calls] for turn in turns] == [
        ["exec_command"],
        ["apply_patch"],
        [],
    ]
    assert turns[2].text == "Done: ok | ok"


@check_each(
    "request",
    [
        ModelRequest(
            "chat",
            {
                "messages": [{"role": "user", "content": "[[scenario:json_schema]]"}],
                "response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}},
            },
        ),
        ModelRequest(
            "responses",
            {
                "input": "[[scenario:json_schema]]",
                "text": {"format": {"type": "json_schema", "schema": PERSON}},
            },
        ),
    ],
    ids=["chat", "responses"],
)
def test_structured_output_follows_its_schema(request: ModelRequest) -> None:
    assert json.loads(answer(request).text or "") == {"name": "Ada", "age": 36}


@protocols
def test_simple_scenarios_match_their_names(make: Make) -> None:
    by_name = {name: answer(make(f"[[scenario:{name} tool=x]]")) for name in SCENARIOS}

    assert by_name["unicode"].text == UNICODE
    assert by_name["reasoning_content"].reasoning
    assert by_name["reasoning"].reasoning_field == "reasoning"
    assert by_name["reasoning_text"].reasoning_form == "text"
    assert "\n\n" in (by_name["reasoning_summary"].reasoning or "")
    assert by_name["think"].reasoning_field == "think"
    assert by_name["refusal"].refusal
    assert by_name["length"].finish == "length"
    assert by_name["content_filter"].finish == "content_filter"
    assert by_name["empty"] == Answer()
    assert answer(make("[[scenario:long n=5]]")).pieces == 5


@protocols
def test_the_last_marker_counts_if_other_messages_follow(make: Make) -> None:
    """Images of a tool's result may follow it in a user message, for example."""
    request = make("[[scenario:one_tool]]", ("f", CITY), results=("sunny",))
    turns = request.body["messages" if request.protocol == "chat" else "input"]
    turns.append({"role": "user", "content": "(the image above)"})

    assert answer(request).text == "Done: sunny"
