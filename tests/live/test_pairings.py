"""The four pairings over real HTTP: the answer of each upstream for each client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fake_provider import Answer, Call, Framing, Raw, ScriptedUpstream
from tests.helpers.check_cases import check_each
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import Server
from tests.live.talk import PAIRINGS, PATHS, ClientAnswer, Json, http, make_body, send_request

ACROSS = [("responses", "chat"), ("chat", "responses")]
SAME = [("chat", "chat"), ("responses", "responses")]

every_pairing = pytest.mark.parametrize(("client", "upstream_api"), PAIRINGS)
across = check_each(("client", "upstream_api"), ACROSS)
passing_through = check_each(("client", "upstream_api"), SAME)
either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
every_client = pytest.mark.parametrize("client", PATHS)

THOUGHT = "First this.\n\nThen that."
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}


def make_tools(client: str, *functions: Json) -> list[Json]:
    """Function tools in the client's shape."""
    if client == "chat":
        return [{"type": "function", "function": function} for function in functions]
    return [{"type": "function", "strict": False, **function} for function in functions]


def get_sent_body(upstream: ScriptedUpstream) -> Json:
    """The body of the last request that the upstream received."""
    body: Json = upstream.requests[-1].body
    return body


# -- text and usage ------------------------------------------------------------------------------


@every_pairing
@either
def test_text_arrives(
    client: str, upstream_api: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    text = 'Zürich 🏔 "quoted" \\ 日本語 \u2028\u0085\u200b'
    upstream.script(Answer(text=text, pieces=9))

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert response.ending == "completed"
    assert response.content.text == text
    assert upstream.requests[0].path == f"/v1{PATHS[upstream_api]}"
    assert get_sent_body(upstream)["model"] == "m"
    assert get_sent_body(upstream)["stream"] is stream


@across
@either
def test_translated_answers_fit_the_types_of_the_sdk(
    client: str, upstream_api: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    calls = [Call("get_weather", {"city": "Bern"})]
    upstream.script(Answer(text="Let me see.", reasoning=THOUGHT, calls=calls))
    body = make_body(
        client, model=f"{upstream_api}/m", stream=stream, tools=make_tools(client, FUNCTION)
    )

    response = send_request(forwarder, client, body, X_Forwarder_Reasoning=REASONING_AS[client])

    assert response.mistakes == []
    assert response.content.text == "Let me see."
    assert response.content.calls == [("get_weather", '{"city": "Bern"}')]
    assert response.content.reasoning == THOUGHT


REASONING_AS = {"chat": "reasoning_content", "responses": "summary"}


@check_each("upstream_api", PATHS)
@check_each("with_usage", [False, True], ids=["not asked", "asked"])
def test_chat_stream_has_usage_on_request(
    upstream_api: str, with_usage: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    options = {"stream_options": {"include_usage": True}} if with_usage else {}

    response = send_request(
        forwarder, "chat", make_body("chat", model=f"{upstream_api}/m", stream=True, **options)
    )

    usages = [event["usage"] for event in response.events if event.get("usage")]
    assert [usage["total_tokens"] for usage in usages] == ([30] if with_usage else [])
    assert all(event["choices"] or event.get("usage") for event in response.events)


@every_pairing
def test_answer_has_usage(client: str, upstream_api: str, forwarder: Server) -> None:
    usage = send_request(forwarder, client, make_body(client, model=f"{upstream_api}/m")).json[
        "usage"
    ]

    assert usage["total_tokens"] == 30
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    assert details["cached_tokens"] == 5
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    assert details["reasoning_tokens"] == 4


@every_pairing
@either
@check_each(
    ("answer", "ending"),
    [
        (Answer(refusal="I cannot."), "completed"),
        (Answer(text="cut in the", finish="length"), "max_output_tokens"),
        (Answer(text="not", finish="content_filter"), "content_filter"),
    ],
    ids=["refusal", "length", "filter"],
)
def test_every_ending_arrives(
    client: str,
    upstream_api: str,
    stream: bool,
    answer: Answer,
    ending: str,
    forwarder: Server,
    upstream: ScriptedUpstream,
) -> None:
    upstream.forget()
    upstream.script(answer)

    response = send_request(
        forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert response.content.ending == ending
    assert response.content.text == (answer.text or "")
    assert response.content.refusal == (answer.refusal or "")
    assert response.ending == ("completed" if ending == "completed" else "incomplete")


# -- reasoning for chat clients -------------------------------------------------------------------


def collect_message(response: ClientAnswer) -> tuple[Any, Json]:
    """``(content, the rest)`` of a chat message; a stream is folded here."""
    if not response.is_streamed:
        return response.message["content"], response.message
    content: list[Any] = []
    other_fields: Json = {}
    for event in response.events:
        for choice in event["choices"]:
            delta = choice["delta"]
            if delta.get("content"):
                content.append(delta["content"])
            for name in ("reasoning_content", "reasoning"):
                if delta.get(name):
                    other_fields[name] = other_fields.get(name, "") + delta[name]
            if delta.get("metadata"):
                assert choice["finish_reason"], "metadata stands on the finish chunk"
                other_fields["metadata"] = delta["metadata"]
    return join_content(content), other_fields


def join_content(content: list[Any]) -> Any:
    """Texts as one; of parts, those of a kind as one."""
    if all(isinstance(piece, str) for piece in content):
        return "".join(content)
    parts: list[Json] = []
    for piece in content:
        for part in [{"type": "text", "text": piece}] if isinstance(piece, str) else piece:
            if parts and parts[-1]["type"] == part["type"]:
                parts[-1][part["type"]] += part[part["type"]]
            else:
                parts.append(dict(part))
    return parts


STYLED: dict[str, tuple[Any, Json]] = {
    "thinking": (f"[thinking]{THOUGHT}[/thinking]\n\nHello.", {}),
    "think": (f"<think>{THOUGHT}</think>\n\nHello.", {}),
    "reasoning_content": ("Hello.", {"reasoning_content": THOUGHT}),
    "reasoning": ("Hello.", {"reasoning": THOUGHT}),
    "parts": (
        [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": "Hello."}],
        {},
    ),
    "none": ("Hello.", {}),
}
"""Style -> the content, and what else the message has besides its metadata."""


@check_each("upstream_api", PATHS)
@check_each("style", STYLED)
@either
def test_a_chat_client_sees_reasoning_in_its_style(
    upstream_api: str, style: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT))
    body = make_body("chat", model=f"{upstream_api}/m", stream=stream)

    response = send_request(forwarder, "chat", body, X_Forwarder_Reasoning=style)

    content, other_fields = collect_message(response)
    assert content == STYLED[style][0]
    assert other_fields["metadata"]["reasoning"] == THOUGHT
    spelled = {k: v for k, v in other_fields.items() if k in ("reasoning_content", "reasoning")}
    assert spelled == STYLED[style][1]


@either
def test_thinking_is_the_style_of_translated_answers(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT))

    content, other_fields = collect_message(
        send_request(forwarder, "chat", make_body("chat", stream=stream))
    )

    assert content == STYLED["thinking"][0]
    assert other_fields["metadata"] == {"reasoning": THOUGHT}


KNOWN = [
    ({"User_Agent": "opencode/1.18.2 ai-sdk/provider-utils/4.0.66"}, "reasoning_content"),
    ({"User_Agent": "ai-sdk/openrouter/3.1.0"}, "reasoning"),
    ({"X_Title": "Cherry Studio"}, "reasoning_content"),
]


@check_each(("headers", "field"), KNOWN)
@either
def test_a_client_that_renders_a_field_gets_it_in_translated_answers(
    headers: dict[str, str], field: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT))

    content, other_fields = collect_message(
        send_request(forwarder, "chat", make_body("chat", stream=stream), **headers)
    )

    assert content == "Hello."
    assert {
        k: other_fields[k] for k in ("reasoning_content", "reasoning") if k in other_fields
    } == {field: THOUGHT}
    assert other_fields["metadata"] == {"reasoning": THOUGHT}


@check_each("field", ["reasoning_content", "reasoning"])
@either
def test_a_client_gets_the_field_that_its_history_carries(
    field: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT))
    body = make_body("chat", stream=stream)
    earlier_message = {"role": "assistant", "content": "Yes?", field: "Somebody calls."}
    body["messages"] = [*body["messages"], earlier_message, *body["messages"]]

    content, other_fields = collect_message(send_request(forwarder, "chat", body))

    assert content == "Hello."
    assert other_fields[field] == THOUGHT


@either
def test_chat_upstream_s_reasoning_field_is_unchanged(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT, reasoning_field="reasoning"))

    response = send_request(forwarder, "chat", make_body("chat", model="chat/m", stream=stream))

    content, other_fields = collect_message(response)
    assert content == "Hello."
    assert other_fields["reasoning"] == THOUGHT
    assert "metadata" not in other_fields


@check_each("style", ["thinking", "think", "parts"])
@check_each("upstream_api", PATHS)
@either
def test_inline_styles_stay_out_of_json(
    style: str, upstream_api: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text='{"a": 1}', reasoning=THOUGHT))
    body = make_body(
        "chat",
        "in json",
        f"{upstream_api}/m",
        stream=stream,
        response_format={"type": "json_object"},
    )

    content, other_fields = collect_message(
        send_request(forwarder, "chat", body, X_Forwarder_Reasoning=style)
    )

    assert json.loads(content) == {"a": 1}
    assert other_fields["metadata"]["reasoning"] == THOUGHT


@check_each("style", ["thinking", "think", "parts", "none"])
def test_reasoning_that_comes_back_is_taken_out_of_the_text(
    style: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT))
    body = make_body("chat", "hi", "chat/m")
    first = send_request(forwarder, "chat", body, X_Forwarder_Reasoning=style)
    body["messages"] += [first.message, {"role": "user", "content": "and now?"}]

    second = send_request(forwarder, "chat", body, X_Forwarder_Reasoning=style)

    assert second.status == 200, second.text
    assistant = get_sent_body(upstream)["messages"][1]
    assert assistant["content"] in ("Hello.", [{"type": "text", "text": "Hello."}])
    assert assistant["reasoning_content"] == THOUGHT
    assert "metadata" not in assistant


def test_reasoning_in_the_history_does_not_reach_a_responses_upstream_as_text(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT))
    body = make_body("chat")
    first = send_request(forwarder, "chat", body)
    body["messages"] += [first.message, {"role": "user", "content": "and now?"}]

    assert send_request(forwarder, "chat", body).status == 200

    assert THOUGHT not in json.dumps(get_sent_body(upstream)["input"], ensure_ascii=False)
    assert get_sent_body(upstream)["input"][1]["content"][0]["text"] == "Hello."


# -- reasoning for Responses clients --------------------------------------------------------------


@check_each(
    "field", ["reasoning_content", "reasoning", "reasoning_details", "openrouter", "think", "parts"]
)
@either
def test_a_responses_client_gets_every_spelling_as_an_item(
    field: Any, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT, reasoning_field=field, pieces=11))

    response = send_request(forwarder, "responses", make_body("responses", stream=stream))

    reasoning, message = response.whole["output"]
    assert [part["text"] for part in reasoning["content"]] == [THOUGHT]
    assert message["content"][0]["text"] == "Hello."
    assert response.mistakes == []


@check_each(
    ("form", "summary", "content"),
    [("summary", True, False), ("text", False, True), ("both", True, True)],
)
@either
def test_a_responses_client_chooses_the_form_of_reasoning(
    form: str,
    summary: bool,
    content: bool,
    stream: bool,
    forwarder: Server,
    upstream: ScriptedUpstream,
) -> None:
    upstream.forget()
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT))
    body = make_body("responses", stream=stream)

    response = send_request(forwarder, "responses", body, X_Forwarder_Reasoning=form)

    item = response.whole["output"][0]
    assert bool(item["summary"]) == summary
    assert bool(item.get("content")) == content
    if stream:
        kinds = {event["type"] for event in response.events}
        assert ("response.reasoning_summary_text.delta" in kinds) == summary
        assert ("response.reasoning_text.delta" in kinds) == content


@every_client
def test_an_unknown_style_is_refused(client: str, forwarder: Server) -> None:
    response = send_request(forwarder, client, make_body(client), X_Forwarder_Reasoning="loud")

    assert response.status == 400
    assert response.error["param"] == "X-Forwarder-Reasoning"


# -- sealed reasoning -----------------------------------------------------------------------------


def request_sealed_reasoning(forwarder: Server, first: Json) -> ClientAnswer:
    """A turn with sealed reasoning."""
    return send_request(
        forwarder, "responses", {**first, "include": ["reasoning.encrypted_content"]}
    )


def test_sealed_reasoning_returns_to_the_message_it_belongs_to(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Hello.", reasoning="I think.", reasoning_field="reasoning"))
    output = request_sealed_reasoning(forwarder, make_body("responses", store=False)).whole[
        "output"
    ]
    assert "I think." not in output[0]["encrypted_content"]
    output[0]["summary"] = []  # only the sealed content has the reasoning
    history = [{"role": "user", "content": "hi"}, *output, {"role": "user", "content": "go on"}]

    send_request(forwarder, "responses", {"model": "m", "input": history})

    user, assistant, next_message = get_sent_body(upstream)["messages"]
    assert assistant["content"] == "Hello."
    assert assistant["reasoning_content"] == "I think."
    assert "reasoning_content" not in user
    assert "reasoning_content" not in next_message


@either
def test_sealed_reasoning_returns_to_a_message_with_calls(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    calls = [Call("get_weather", {"city": "Bern"}, id=f"call_{n}") for n in "ab"]
    upstream.script(Answer(reasoning="Both, please.", calls=calls))
    tools = make_tools("responses", FUNCTION)
    output = request_sealed_reasoning(
        forwarder, make_body("responses", stream=stream, tools=tools)
    ).whole["output"]
    output[0]["summary"] = []
    results = [
        {"type": "function_call_output", "call_id": f"call_{n}", "output": "sunny"} for n in "ba"
    ]
    history = [{"role": "user", "content": "hi"}, *output, *results]

    response = send_request(
        forwarder, "responses", {"model": "m", "input": history, "tools": tools}
    )

    assert response.status == 200, response.text
    _, assistant, *answers = get_sent_body(upstream)["messages"]
    assert assistant["reasoning_content"] == "Both, please."
    assert [call["id"] for call in assistant["tool_calls"]] == ["call_a", "call_b"]
    assert [message["tool_call_id"] for message in answers] == ["call_a", "call_b"]


def test_reasoning_encrypted_by_others_is_dropped(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    foreign_reasoning = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "encrypted_content": "gAAAAAfoo",
    }
    message = {"type": "message", "role": "assistant", "content": "Hello."}
    history = [
        {"role": "user", "content": "hi"},
        foreign_reasoning,
        message,
        {"role": "user", "content": "on"},
    ]

    response = send_request(forwarder, "responses", {"model": "m", "input": history})

    assert response.status == 200
    assert get_sent_body(upstream)["messages"][1] == {"role": "assistant", "content": "Hello."}


def test_our_seal_is_not_sent_to_a_responses_upstream(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Hello.", reasoning="I think."))
    output = request_sealed_reasoning(forwarder, make_body("responses")).whole["output"]
    history = [{"role": "user", "content": "hi"}, *output, {"role": "user", "content": "go on"}]

    response = send_request(forwarder, "responses", {"model": "responses/m", "input": history})

    assert response.status == 200, response.text
    assert "reasoning" not in [item.get("type") for item in get_sent_body(upstream)["input"]]


def test_items_can_be_referred_to(forwarder: Server, upstream: ScriptedUpstream) -> None:
    upstream.script(Answer(text="Remember me.", reasoning="I think."))
    output = send_request(forwarder, "responses", make_body("responses")).whole["output"]
    references = [{"type": "item_reference", "id": item["id"]} for item in output]
    history = [{"role": "user", "content": "hi"}, *references, {"role": "user", "content": "on"}]

    response = send_request(forwarder, "responses", {"model": "m", "input": history})

    assert response.status == 200, response.text
    assistant = get_sent_body(upstream)["messages"][1]
    assert (assistant["content"], assistant["reasoning_content"]) == ("Remember me.", "I think.")


def test_an_unknown_reference_is_refused(forwarder: Server) -> None:
    history = [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": "msg_nowhere"}]

    error = send_request(forwarder, "responses", {"model": "m", "input": history}).error

    assert "msg_nowhere" in error["message"]
    assert error["param"] == "input[1].id"


# -- tools ----------------------------------------------------------------------------------------


@every_pairing
@either
def test_parallel_calls_keep_their_order_and_their_results(
    client: str, upstream_api: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    cities = ["Bern", "Zürich", "Genève"]
    calls = [Call("get_weather", {"city": city}, id=f"call_{city[0]}") for city in cities]
    upstream.script(Answer(text="I look.", calls=calls, pieces=5))
    body = make_body(
        client, model=f"{upstream_api}/m", stream=stream, tools=make_tools(client, FUNCTION)
    )

    response = send_request(forwarder, client, body)

    assert response.content.text == "I look."
    assert [json.loads(arguments)["city"] for _, arguments in response.content.calls] == cities
    second = send_request(forwarder, client, {**body, **with_results(client, body, response.whole)})
    assert second.status == 200, second.text
    assert second.ending == "completed"


def with_results(client: str, body: Json, answer: Json) -> Json:
    """The history with the answer and, in another order, the results of its calls."""
    if client == "chat":
        message = answer["choices"][0]["message"]
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
            for call in reversed(message["tool_calls"])
        ]
        calls = [
            {
                "id": call["id"],
                "type": "function",
                "function": {k: call["function"][k] for k in ("name", "arguments")},
            }
            for call in message["tool_calls"]
        ]
        assistant_message = {
            "role": "assistant",
            "content": message["content"],
            "tool_calls": calls,
        }
        return {"messages": [*body["messages"], assistant_message, *results]}
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
        for item in reversed(answer["output"])
        if item["type"] == "function_call"
    ]
    return {"input": [{"role": "user", "content": body["input"]}, *answer["output"], *results]}


@either
def test_indexes_of_calls_are_dense_for_chat_clients(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Reasoning and text come first, and count for nothing."""
    upstream.forget()
    upstream.script(Answer(text="a", reasoning="b", calls=[Call("f"), Call("f")]))
    body = make_body("chat", stream=True, tools=make_tools("chat", {"name": "f"}))

    events = send_request(forwarder, "chat", body).events

    deltas = [c["delta"] for e in events for c in e["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    assert {call["index"] for call in calls} == {0, 1}


@either
def test_freeform_tool_is_sent_as_a_function_and_unwrapped(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    text = 'print("Zürich")\n\t\\ 🏔'
    upstream.script(Answer(calls=[Call("run", {"input": text}, id="call_r")], pieces=13))
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    tool = {"type": "custom", "name": "run", "description": "Runs.", "format": grammar}
    body = make_body("responses", stream=stream, tools=[tool])

    response = send_request(forwarder, "responses", body)

    [item] = response.whole["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "run", text)
    assert response.mistakes == []
    [sent_tool] = get_sent_body(upstream)["tools"]
    assert sent_tool["type"] == "function"
    assert "start: /.+/" in json.dumps(sent_tool)
    result = {"type": "custom_tool_call_output", "call_id": "call_r", "output": "done"}
    history = [{"role": "user", "content": "hi"}, item, result]
    assert send_request(forwarder, "responses", {**body, "input": history}).status == 200
    arguments = get_sent_body(upstream)["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"input": text}


@either
def test_a_chat_client_s_freeform_tool_is_kept(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(calls=[Call("run", kind="custom", input="ls -l")]))
    tool = {"type": "custom", "custom": {"name": "run", "format": {"type": "text"}}}

    response = send_request(forwarder, "chat", make_body("chat", stream=stream, tools=[tool]))

    assert get_sent_body(upstream)["tools"] == [
        {"type": "custom", "name": "run", "format": {"type": "text"}}
    ]
    assert response.ending == "completed"
    calls = (
        [
            call
            for event in response.events
            for choice in event["choices"]
            for call in choice["delta"].get("tool_calls") or ()
        ]
        if stream
        else response.message["tool_calls"]
    )
    assert calls[0]["type"] == "custom"
    assert calls[0]["custom"]["name"] == "run"
    assert "".join(call["custom"].get("input") or "" for call in calls) == "ls -l"


@either
def test_a_namespace_is_flattened_and_restored(
    stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Answer(calls=[Call("get", {"city": "x"}, namespace="mcp_geo", id="call_g")]))
    inner = {"type": "function", "name": "get", "parameters": SCHEMA, "strict": False}
    tool = {"type": "namespace", "name": "mcp_geo", "description": "Geo.", "tools": [inner]}
    body = make_body("responses", stream=stream, tools=[tool])

    [item] = send_request(forwarder, "responses", body).whole["output"]

    assert (item["namespace"], item["name"]) == ("mcp_geo", "get")
    assert get_sent_body(upstream)["tools"][0]["function"]["name"] == "mcp_geo__get"
    result = {"type": "function_call_output", "call_id": "call_g", "output": "done"}
    history = [{"role": "user", "content": "hi"}, item, result]
    assert send_request(forwarder, "responses", {**body, "input": history}).status == 200
    assert (
        get_sent_body(upstream)["messages"][1]["tool_calls"][0]["function"]["name"]
        == "mcp_geo__get"
    )


def test_a_legacy_function_is_called_in_the_legacy_way(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(calls=[Call("get_weather", {"city": "Bern"})]))

    response = send_request(forwarder, "chat", make_body("chat", functions=[FUNCTION]))

    [choice] = response.whole["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"]["name"] == "get_weather"
    assert get_sent_body(upstream)["parallel_tool_calls"] is False


# -- structured output ----------------------------------------------------------------------------


@every_pairing
@either
def test_a_schema_is_honoured(
    client: str, upstream_api: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    json_schema = {"name": "place", "schema": SCHEMA, "strict": True}
    format_parameters: Json = {"text": {"format": {"type": "json_schema", **json_schema}}}
    if client == "chat":
        format_parameters = {"response_format": {"type": "json_schema", "json_schema": json_schema}}
    body = make_body(
        client, "[[scenario:json_schema]]", f"{upstream_api}/m", stream=stream, **format_parameters
    )

    response = send_request(forwarder, client, body)

    assert json.loads(response.content.text).keys() == {"city"}


# -- passing through ------------------------------------------------------------------------------

CHUNKS: list[Json] = [
    {
        "id": "v1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "v",
        "vendor": {"a": [1, None]},
        "choices": [
            {
                "index": 0,
                "vendor": 2,
                "delta": {"role": "assistant", "content": "Hi", "vendor": {"b": 1.5}},
                "finish_reason": None,
            }
        ],
    },
    {"object": "vendor.event", "choices": [], "citations": ["x"]},
    {
        "id": "v1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "v",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "eos"}],
        "x_groq": {"id": "req"},
    },
]

EVENTS: list[Json] = [
    {"type": "response.created", "response": {"id": "resp_v", "vendor": 1}, "v": True},
    {"type": "response.vendor.progress", "percent": 50},
    {"type": "vendor.event", "anything": {"deep": [{"er": None}]}},
    {
        "type": "response.completed",
        "response": {
            "id": "resp_v",
            "object": "response",
            "status": "completed",
            "output": [{"type": "vendor_item", "id": "x", "v": {"n": 1}}],
            "vendor": [1],
        },
        "vendor": 2.5,
    },
]


@check_each(("client", "events"), [("chat", CHUNKS), ("responses", EVENTS)])
def test_unknown_fields_and_events_pass_through(
    client: str, events: list[Json], forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(Raw(events=events))

    response = send_request(
        forwarder, client, make_body(client, model=f"{client}/m", stream=True, store=False)
    )

    assert response.events == events


@check_each(
    ("client", "body"),
    [
        (
            "chat",
            {
                "id": "v",
                "object": "chat.completion",
                "choices": [
                    {"index": 0, "message": {"content": "Hi", "v": 1}, "finish_reason": "stop"}
                ],
                "vendor": {"x": [1.5, None]},
            },
        ),
        ("responses", EVENTS[-1]["response"]),
    ],
)
def test_whole_answers_pass_through(
    client: str, body: Json, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.script(
        Raw(body=json.dumps(body).encode(), headers={"content-type": "application/json"})
    )

    assert (
        send_request(forwarder, client, make_body(client, model=f"{client}/m", store=False)).json
        == body
    )


@passing_through
@either
def test_unknown_parameters_pass_through(
    client: str, upstream_api: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    upstream.extra_params = frozenset({"vendor_knob", "deep"})
    body = make_body(
        client, model=f"{upstream_api}/m", stream=stream, vendor_knob={"deep": [1, None]}
    )
    try:
        response = send_request(forwarder, client, body)
    finally:
        upstream.extra_params = frozenset()

    assert response.status == 200, response.text
    assert response.dropped_parameters == []
    expected = {**body, "model": "m"}
    sent = {k: v for k, v in get_sent_body(upstream).items() if k != "stream_options"}
    assert sent == expected


# -- losses ---------------------------------------------------------------------------------------

LOST = [
    ("chat", {"seed": 7, "logit_bias": {"1": 2}, "no_such_thing": 1}),
    (
        "responses",
        {"access_programs": {"a": 1}, "no_such_thing": 1, "tools": [{"type": "web_search"}]},
    ),
]


@check_each(("client", "dropped"), LOST)
@either
def test_dropped_parameters_are_named(
    client: str, dropped: Json, stream: bool, forwarder: Server
) -> None:
    response = send_request(forwarder, client, make_body(client, stream=stream, **dropped))

    assert response.status == 200, response.text
    assert len(response.dropped_parameters) == len(dropped)
    assert response.dropped_parameters == sorted(response.dropped_parameters)
    assert "no_such_thing" in response.dropped_parameters


@check_each(("client", "dropped"), LOST)
def test_strict_requests_with_losses_are_refused(
    client: str, dropped: Json, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    for name, value in dropped.items():
        body = make_body(client, **{name: value})
        error = send_request(forwarder, client, body, X_Forwarder_Strict="true").error
        assert error["param"].startswith(name)
    assert upstream.requests == []


@check_each(
    ("client", "parameters", "param"),
    [
        ("chat", {"modalities": ["text", "audio"]}, "modalities"),
        ("responses", {"background": True, "store": False}, "background"),
        ("responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        (
            "responses",
            {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
            "tool_choice",
        ),
    ],
)
def test_uncarriable_parameter_is_refused(
    client: str, parameters: Json, param: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    response = send_request(forwarder, client, make_body(client, **parameters))

    assert response.status == 400
    assert response.error["param"] == param
    assert upstream.requests == []


# -- routes, ids, headers -------------------------------------------------------------------------


@every_client
@either
def test_routes_need_no_prefix(client: str, stream: bool, forwarder: Server) -> None:
    response = send_request(forwarder, client, make_body(client, stream=stream), path=PATHS[client])

    assert response.ending == "completed"


@every_pairing
@either
def test_a_client_s_request_id_is_returned(
    client: str, upstream_api: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.forget()
    body = make_body(client, model=f"{upstream_api}/m", stream=stream)

    response = send_request(forwarder, client, body, X_Request_Id="my-id-42")
    other = send_request(forwarder, client, body)

    assert response.headers["x-request-id"] == "my-id-42"
    assert response.headers["x-upstream-request-id"].startswith("req_scripted")
    assert other.headers["x-request-id"].startswith("req_")
    assert '"my-id-42"' in forwarder.log


def test_models_are_listed_under_names_that_work(forwarder: Server) -> None:
    for prefix in ("/v1", ""):
        model_list = http.get(f"{forwarder.url}{prefix}/models").json()
        assert model_list["object"] == "list"
        names = [model["id"] for model in model_list["data"]]
        assert "chat/gpt-5.5" in names
        assert "responses/gpt-5.5" in names
        for name in names:
            one = http.get(f"{forwarder.url}{prefix}/models/{name}").json()
            assert (one["id"], one["object"]) == (name, "model")


def test_an_unknown_model_is_not_found(forwarder: Server) -> None:
    response = http.get(f"{forwarder.v1}/models/nothing")

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@check_each(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/responses", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
    ],
)
def test_other_routes_are_refused_in_openai_s_shape(
    method: str, path: str, status: int, forwarder: Server
) -> None:
    response = http.request(method, forwarder.url + path)

    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_request_without_a_model_is_refused(forwarder: Server) -> None:
    for client in PATHS:
        body = make_body(client)
        del body["model"]
        response = send_request(forwarder, client, body)
        assert (response.status, response.error["param"]) == (400, "model")


# -- other settings -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned_forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """A forwarder with values other than the defaults for most settings."""
    return serve(
        make_settings(
            upstream,
            CHAT_MODELS="fast=qwen-turbo,qwen-*,org/deep=qwen/deep",
            RESPONSES_MODELS="gpt-*",
            CHAT_PROVIDER="openai",
            RESPONSES_HEADERS="X-Team: red; X-Other: blue",
            FORWARDER_DEFAULT_MODEL="fallback",
            FORWARDER_CHAT_DEFAULT_STREAM="true",
            FORWARDER_CHAT_REASONING="reasoning",
            FORWARDER_RESPONSES_REASONING="both",
            FORWARDER_HOSTED_TOOLS="refuse",
            FORWARDER_STRICT="true",
            FORWARDER_KEEPALIVE="0.2",
        )
    )


@pytest.mark.parametrize(
    ("client", "model", "upstream_api", "name"),
    [
        ("chat", "fast", "chat", "qwen-turbo"),
        ("responses", "fast", "chat", "qwen-turbo"),
        ("chat", "org/deep", "chat", "qwen/deep"),
        ("chat", "qwen-max", "chat", "qwen-max"),
        ("responses", "gpt-5", "responses", "gpt-5"),
        ("chat", "chat/gpt-5", "chat", "gpt-5"),
        ("responses", "responses/fast", "responses", "fast"),
        ("chat", "other", "responses", "other"),
        ("responses", "other", "chat", "other"),
        ("chat", None, "responses", "fallback"),
        ("responses", None, "chat", "fallback"),
    ],
)
def test_the_model_chooses_the_upstream(
    client: str,
    model: str | None,
    upstream_api: str,
    name: str,
    tuned_forwarder: Server,
    upstream: ScriptedUpstream,
) -> None:
    body = {**make_body(client, stream=False), "model": model}

    response = send_request(tuned_forwarder, client, body)

    assert response.ending == "completed"
    assert upstream.requests[0].path == f"/v1{PATHS[upstream_api]}"
    assert get_sent_body(upstream)["model"] == name


def test_configured_models_are_listed(tuned_forwarder: Server) -> None:
    names = [model["id"] for model in http.get(f"{tuned_forwarder.v1}/models").json()["data"]]

    assert names[:2] == ["fast", "org/deep"]
    assert http.get(f"{tuned_forwarder.v1}/models/org/deep").json()["owned_by"] == "chat"


@pytest.mark.parametrize(
    ("client", "parameters", "streamed"),
    [
        ("chat", {}, True),
        ("chat", {"stream": None}, True),
        ("chat", {"stream": False}, False),
        ("responses", {}, False),
    ],
)
def test_chat_may_stream_by_default(
    client: str, parameters: Json, streamed: bool, tuned_forwarder: Server
) -> None:
    response = send_request(tuned_forwarder, client, make_body(client, **parameters))

    assert response.is_streamed == streamed
    assert response.ending == "completed"


def test_reasoning_style_is_configurable(
    tuned_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    for upstream_api in PATHS:
        upstream.script(Answer(text="Hello.", reasoning=THOUGHT))
        body = make_body("chat", model=f"{upstream_api}/m", stream=False)
        assert send_request(tuned_forwarder, "chat", body).message["reasoning"] == THOUGHT
    upstream.script(Answer(text="Hello.", reasoning=THOUGHT))
    item = send_request(tuned_forwarder, "responses", make_body("responses")).whole["output"][0]
    assert item["summary"]
    assert item["content"]


def test_refusal_of_losses_is_configurable(tuned_forwarder: Server) -> None:
    assert send_request(tuned_forwarder, "chat", make_body("chat", seed=1)).error["param"] == "seed"
    body = make_body("responses", tools=[{"type": "web_search"}])
    assert send_request(tuned_forwarder, "responses", body).error["param"].startswith("tools")


def test_headers_and_dialect_are_those_of_the_upstream(
    tuned_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    send_request(tuned_forwarder, "chat", make_body("chat", stream=False))
    headers = upstream.requests[0].headers
    assert (headers["x-team"], headers["x-other"]) == ("red", "blue")
    assert headers["authorization"] == f"Bearer {KEY}"
    body = make_body("responses", max_output_tokens=50, instructions="Be brief.")
    tool = {"type": "custom", "name": "run", "format": {"type": "text"}}
    send_request(tuned_forwarder, "responses", {**body, "tools": [tool]})
    assert get_sent_body(upstream)["max_completion_tokens"] == 50
    assert get_sent_body(upstream)["messages"][0]["role"] == "developer"
    assert get_sent_body(upstream)["tools"][0]["type"] == "custom"


@every_pairing
def test_comments_keep_a_silent_stream_alive(
    client: str, upstream_api: str, tuned_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Raw(events=SLOW[upstream_api], framing=Framing(delay=0.5)))

    response = send_request(
        tuned_forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
    )

    assert response.ending == "completed"
    assert response.text.count(": keep-alive\n\n") >= 2


SLOW = {"chat": [{**CHUNKS[0]}, CHUNKS[2]], "responses": [EVENTS[0], EVENTS[3]]}


# -- keys -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded_forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """A forwarder with keys of its own, an upstream that wants the client's, and one as Azure's."""
    host = upstream.url.removesuffix("/v1")
    return serve(
        {
            "FORWARDER_UPSTREAMS": "own,theirs,azure,wrong",
            "FORWARDER_API_KEYS": f"client-key-1, client-key-2,{KEY}",
            "OWN_BASE_URL": upstream.url,
            "OWN_API": "both",
            "OWN_API_KEY": KEY,
            "THEIRS_BASE_URL": upstream.url,
            "THEIRS_API": "both",
            "THEIRS_API_KEY": "passthrough",
            "AZURE_BASE_URL": f"{host}/openai/deployments/gpt",
            "AZURE_API_KEY": KEY,
            "AZURE_PROVIDER": "azure",
            "AZURE_QUERY": "api-version=2024-10-21",
            "WRONG_BASE_URL": upstream.url,
            "WRONG_API": "both",
            "WRONG_API_KEY": "sk-wrong-and-secret",
        }
    )


@every_client
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer client-key-3"},
        {"Authorization": "Basic client-key-1"},
        {"Authorization": "Bearer ärger".encode()},
        {"api_key": "client-key"},
    ],
)
def test_invalid_key_is_refused(
    client: str,
    headers: dict[str, str | bytes],
    guarded_forwarder: Server,
    upstream: ScriptedUpstream,
) -> None:
    response = send_request(guarded_forwarder, client, make_body(client, model="own/m"), **headers)

    assert response.status == 401
    assert response.error["code"] == "invalid_api_key"
    assert response.error["type"] == "invalid_request_error"
    assert upstream.requests == []


@every_client
@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer client-key-1"},
        {"Authorization": "bearer  client-key-2"},
        {"api_key": "client-key-2"},
    ],
)
def test_with_a_key_the_upstream_gets_the_forwarder_s(
    client: str, headers: dict[str, str], guarded_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    response = send_request(guarded_forwarder, client, make_body(client, model="own/m"), **headers)

    assert response.ending == "completed"
    assert upstream.requests[0].headers["authorization"] == f"Bearer {KEY}"


@every_client
def test_client_s_own_key_is_forwarded(
    client: str, guarded_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    body = make_body(client, model="theirs/m")

    response = send_request(guarded_forwarder, client, body, Authorization=f"Bearer {KEY}")
    refusal = send_request(guarded_forwarder, client, body, Authorization="Bearer client-key-1")

    assert response.ending == "completed"
    assert upstream.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert refusal.status == 401
    assert refusal.error["code"] == "invalid_api_key"


@pytest.mark.parametrize("client", PATHS)
@either
def test_azure_gets_its_header_and_its_version(
    client: str, stream: bool, guarded_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    body = make_body(client, model="azure/gpt", stream=stream)

    response = send_request(guarded_forwarder, client, body, Authorization="Bearer client-key-1")

    assert response.ending == "completed"
    [request] = upstream.requests
    assert request.path == "/openai/deployments/gpt/chat/completions"
    assert request.query == {"api-version": "2024-10-21"}
    assert request.headers["api-key"] == KEY
    assert "authorization" not in request.headers


@every_client
@either
def test_refused_upstream_key_is_a_forwarder_error(
    client: str, stream: bool, guarded_forwarder: Server
) -> None:
    body = make_body(client, model="wrong/m", stream=stream)

    response = send_request(guarded_forwarder, client, body, Authorization="Bearer client-key-1")

    assert response.status == 403
    assert response.error["code"] == "upstream_authentication"
    assert "WRONG_API_KEY" in response.error["message"]
    assert "sk-wrong-and-secret" not in response.text


def test_health_needs_no_key_and_readiness_lists_every_upstream(guarded_forwarder: Server) -> None:
    assert http.get(f"{guarded_forwarder.url}/health").status_code == 200
    ready = http.get(f"{guarded_forwarder.url}/ready")
    assert ready.status_code == 200
    states = ready.json()["upstreams"]
    assert states["own"]["reachable"] is True
    assert states["wrong"]["reachable"] is False
