from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}
CHAT_TOOL = {"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
ECHO = "[demo upstream] You said: hello"
REPORT = "[demo upstream] The tool answered: 2"


class Person(BaseModel):
    name: str
    age: int


def test_whole_and_streamed_chat_answers_are_equal(sdk: openai.OpenAI) -> None:
    parameters: Any = {"model": "demo", "messages": HELLO}
    whole_answer = sdk.chat.completions.create(**parameters)
    with sdk.chat.completions.stream(
        **parameters, stream_options={"include_usage": True}
    ) as stream:
        streamed = stream.get_final_completion()
    assert whole_answer.choices[0].message.content == ECHO
    assert streamed.choices[0].message.content == ECHO
    assert streamed.usage == whole_answer.usage


def test_whole_and_streamed_responses_are_equal(sdk: openai.OpenAI) -> None:
    whole_answer = sdk.responses.create(model="demo", input="hello")
    with sdk.responses.stream(model="demo", input="hello") as stream:
        streamed = stream.get_final_response()
    assert whole_answer.output_text == streamed.output_text == ECHO
    assert streamed.usage == whole_answer.usage
    assert [item.type for item in streamed.output] == ["reasoning", "message"]


def test_a_chat_tool_loop_runs_to_its_end(sdk: openai.OpenAI) -> None:
    parameters: Any = {"model": "demo", "tools": [CHAT_TOOL]}
    with sdk.chat.completions.stream(**parameters, messages=HELLO) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert json.loads(call.function.arguments) == {"a": 1, "b": 1}
    call_message: Any = {"role": "assistant", "tool_calls": [call.model_dump(exclude={"index"})]}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "2"}
    ended = sdk.chat.completions.create(**parameters, messages=[*HELLO, call_message, result])
    assert ended.choices[0].message.content == REPORT


def test_a_responses_tool_loop_runs_to_its_end(sdk: openai.OpenAI) -> None:
    parameters: Any = {"model": "demo", "tools": [TOOL]}
    with sdk.responses.stream(**parameters, input=HELLO) as stream:
        first = stream.get_final_response()
    call: Any = first.output[-1]
    assert json.loads(call.arguments) == {"a": 1, "b": 1}
    output_items: Any = [item.to_dict() for item in first.output]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "2"}
    ended = sdk.responses.create(**parameters, input=[*HELLO, *output_items, result])
    assert ended.output_text == REPORT


def test_a_custom_tool_is_called_in_both_protocols(sdk: openai.OpenAI) -> None:
    tool: Any = {"type": "custom", "name": "patch"}
    nested: Any = {"type": "custom", "custom": {"name": "patch"}}
    call: Any = sdk.responses.create(model="demo", input="hello", tools=[tool]).output[-1]
    chat = sdk.chat.completions.create(model="demo", messages=HELLO, tools=[nested])
    chat_call: Any = next(iter(chat.choices[0].message.tool_calls or ()))
    assert (call.type, call.name, call.input) == ("custom_tool_call", "patch", ECHO)
    assert (chat_call.custom.name, chat_call.custom.input) == ("patch", ECHO)


def test_a_schema_is_honoured_in_both_protocols(sdk: openai.OpenAI) -> None:
    chat = sdk.chat.completions.parse(model="demo", messages=HELLO, response_format=Person)
    response = sdk.responses.parse(model="demo", input="hello", text_format=Person)
    with sdk.responses.stream(model="demo", input="hello", text_format=Person) as stream:
        streamed = stream.get_final_response()
    person = Person(name="demo", age=1)
    assert chat.choices[0].message.parsed == person
    assert response.output_parsed == person
    assert streamed.output_parsed == person


def test_json_object_identifies_the_demo(sdk: openai.OpenAI) -> None:
    chat = sdk.chat.completions.create(
        model="demo", messages=HELLO, response_format={"type": "json_object"}
    )
    response = sdk.responses.create(
        model="demo", input="hello", text={"format": {"type": "json_object"}}
    )
    expected = {"demo": True, "you_said": "hello"}
    assert json.loads(chat.choices[0].message.content or "") == expected
    assert json.loads(response.output_text) == expected


def test_a_limit_ends_the_answer_in_both_protocols(sdk: openai.OpenAI) -> None:
    long = "word " * 20
    chat = sdk.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": long}], max_completion_tokens=16
    )
    events = list(sdk.responses.create(model="demo", input=long, max_output_tokens=16, stream=True))
    assert chat.choices[0].finish_reason == "length"
    assert chat.usage
    assert chat.usage.completion_tokens == 16
    last: Any = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.usage.output_tokens == 16


def test_any_model_name_is_answered_and_repeated(sdk: openai.OpenAI) -> None:
    assert sdk.responses.create(model="gpt-x", input="hello").model == "gpt-x"
    assert sdk.chat.completions.create(model="gpt-x", messages=HELLO).model == "gpt-x"


def test_every_answer_has_ids_of_its_own(sdk: openai.OpenAI) -> None:
    first, second = (sdk.responses.create(model="demo", input="hello") for _ in range(2))
    assert first.id != second.id
    assert first.output[0].id != second.output[0].id
    assert first._request_id != second._request_id


def test_the_model_is_listed_and_found(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["demo"]
    assert sdk.models.retrieve("demo").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_streams_have_the_frames_of_their_protocol(http: httpx2.Client) -> None:
    parameters = {"model": "demo", "stream": True}
    chat = http.post("/chat/completions", json={**parameters, "messages": HELLO})
    response = http.post("/responses", json={**parameters, "input": "hello"})
    assert chat.headers["content-type"].startswith("text/event-stream")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert chat.text.endswith("\n\ndata: [DONE]\n\n")
    assert "event:" not in chat.text
    *frames, after_last_frame = response.text.split("\n\n")
    assert after_last_frame == ""
    for frame in frames:
        name, data = frame.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


def test_stream_arrives_in_several_chunks(http: httpx2.Client) -> None:
    body = {"model": "demo", "stream": True, "messages": HELLO}
    with http.stream("POST", "/chat/completions", json=body) as response:
        assert len(list(response.iter_raw())) > 10


@pytest.mark.parametrize("text", ["日本語 😀 ", "\u2028\u0085", "\ud83d alone"])
def test_any_text_survives_the_wire(http: httpx2.Client, text: str) -> None:
    content = json.dumps({"model": "demo", "input": text, "stream": True}).encode()
    last = http.post("/responses", content=content).content.split(b"data: ")[-1]
    answer_text = json.loads(last)["response"]["output"][-1]["content"][0]["text"]
    assert answer_text == f"[demo upstream] You said: {text}".replace("\ud83d", "?")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/responses"),
        ("POST", "/models"),
        ("POST", "/audio/speech"),
        ("DELETE", "/models/demo"),
        ("GET", "/responses/resp_1"),
    ],
)
def test_every_other_path_is_not_found(http: httpx2.Client, method: str, path: str) -> None:
    response = http.request(method, path)
    assert response.status_code == 404
    assert response.json()["error"]["message"] == f"Invalid URL ({method} /v1{path})"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(http: httpx2.Client, content: bytes) -> None:
    response = http.post("/responses", content=content)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_not_an_object_is_refused(http: httpx2.Client) -> None:
    assert http.post("/chat/completions", json=[]).json()["error"] == {
        "message": "Invalid type for 'body': expected an object, but got an array instead.",
        "type": "invalid_request_error",
        "param": "body",
        "code": "invalid_type",
    }


def test_invalid_request_is_refused_before_the_stream(sdk: openai.OpenAI) -> None:
    endless_format: Any = {"type": "json_schema", "name": "n", "schema": {"$ref": "#"}}
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="demo", input="hi", text={"format": endless_format}, stream=True)
    assert caught.value.param == "text.format.schema"


def test_texts_are_embedded(http: httpx2.Client) -> None:
    answer = http.post("/embeddings", json={"model": "demo", "input": ["one", "two"]}).json()
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    refused = http.post("/embeddings", json={"model": "demo"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
