"""Ollama's own clients, in Python and JavaScript, over upstreams of both protocols."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

import pytest
from pydantic import BaseModel

from tests.fake_provider import Answer, Call, ScriptedUpstream, faults
from tests.live.clients import NODE, make_http_options, needs_node_package, needs_python_package
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import Server
from tests.live.talk import http

Json = dict[str, Any]

MESSAGES = [{"role": "user", "content": "hi"}]
PNG = "iVBORw0KGgo="

python = needs_python_package("ollama")
javascript = needs_node_package("ollama")
each_upstream_api = pytest.mark.parametrize("model", ["chat/m", "responses/m"])
PATHS = {"chat/m": "/v1/chat/completions", "responses/m": "/v1/responses"}


class Place(BaseModel):
    city: str


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.

    Returns:
        What it is like there.
    """
    return f"sunny in {city}"


def make_client(forwarder: Server, **options: Any) -> Any:
    from ollama import Client

    return Client(host=forwarder.url, **make_http_options(), **options)


def collect_images(body: Json) -> list[str]:
    """The images in the requests of an upstream, in either protocol."""
    entries = body.get("messages") or body["input"]
    parts = [p for e in entries if isinstance(e.get("content"), list) for p in e["content"]]
    urls = [p["image_url"] for p in parts if p["type"] in ("image_url", "input_image")]
    return [url["url"] if isinstance(url, dict) else url for url in urls]


# -- in Python ------------------------------------------------------------------------------------


@python
@each_upstream_api
def test_a_chat_comes_whole_and_streamed(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text="Zürich 🏔", pieces=4)] * 2)

    answer = make_client(forwarder).chat(model, MESSAGES)
    parts = list(make_client(forwarder).chat(model, MESSAGES, stream=True))

    assert answer.message.content == "Zürich 🏔"
    assert "".join(part.message.content for part in parts) == "Zürich 🏔"
    assert len(parts) > 3
    for final in (answer, parts[-1]):
        assert (final.done, final.done_reason, final.model) == (True, "stop", model)
        assert (final.prompt_eval_count, final.eval_count) == (21, 9)
        assert final.total_duration == final.prompt_eval_duration + final.eval_duration
    assert {request.path for request in upstream.requests} == {PATHS[model]}


@python
@each_upstream_api
def test_asynchronous_client_chats_generates_and_embeds(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    from ollama import AsyncClient

    async def talk() -> tuple[Any, str, Any]:
        client = AsyncClient(host=forwarder.url, **make_http_options())
        answer = await client.chat(model, MESSAGES)
        parts = [part async for part in await client.generate(model, "hi", stream=True)]
        embeddings = await client.embed(model, "four")
        return answer, "".join(part.response for part in parts), embeddings

    upstream.script(Answer(text="one"), Answer(text="two, in pieces"))
    answer, text, embeddings = asyncio.run(talk())

    assert (answer.message.content, text) == ("one", "two, in pieces")
    assert embeddings.embeddings[0] == pytest.approx([0.6, 0.8])


@python
@each_upstream_api
def test_a_prompt_comes_whole_and_streamed(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text="Grüezi mitenand", reasoning="Hm.")] * 2)

    answer = make_client(forwarder).generate(model, "hi", system="Be brief.", images=[PNG])
    parts = list(make_client(forwarder).generate(model, "hi", stream=True))

    assert (answer.response, answer.thinking) == ("Grüezi mitenand", "Hm.")
    assert "".join(part.response for part in parts) == "Grüezi mitenand"
    assert "".join(part.thinking or "" for part in parts) == "Hm."
    assert collect_images(upstream.requests[0].body) == [f"data:image/png;base64,{PNG}"]
    assert "Be brief." in json.dumps(upstream.requests[0].body)


@python
@each_upstream_api
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_loop_of_tools_ends_with_text(
    model: str, streamed: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The package loses the ids of calls; strict upstreams get such that fit each other."""
    calls = [Call("get_weather", {"city": city}, id=f"call_{city}") for city in ("Bern", "Basel")]
    upstream.script(Answer(text="I look.", calls=calls), Answer(text="Sunny."))
    client = make_client(forwarder)

    if streamed:
        parts = list(client.chat(model, MESSAGES, tools=[get_weather], stream=True))
        [message] = [part.message for part in parts if part.message.tool_calls]
    else:
        message = client.chat(model, MESSAGES, tools=[get_weather]).message
    functions = [call.function for call in message.tool_calls]
    results = [
        {"role": "tool", "tool_name": f.name, "content": get_weather(**f.arguments)}
        for f in functions
    ]
    answer = client.chat(model, [*MESSAGES, message, *results], tools=[get_weather])

    assert [f.arguments for f in functions] == [{"city": "Bern"}, {"city": "Basel"}]
    assert answer.message.content == "Sunny."
    sent = json.dumps(upstream.requests[-1].body)
    assert "sunny in Bern" in sent
    assert "sunny in Basel" in sent
    assert [request.status for request in upstream.requests] == [200, 200]


@python
@each_upstream_api
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_thinking_is_separate_and_is_sent_back(
    model: str, streamed: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text="4", reasoning="Two and two.")] * 2)
    client = make_client(forwarder)

    answer = client.chat(model, MESSAGES, think="high", stream=streamed)
    parts = list(answer) if streamed else [answer]
    message = {
        "role": "assistant",
        "content": "".join(part.message.content for part in parts),
        "thinking": "".join(part.message.thinking or "" for part in parts),
    }
    answer_without_thinking = client.chat(model, [*MESSAGES, message, *MESSAGES], think=False)

    assert (message["content"], message["thinking"]) == ("4", "Two and two.")
    assert (answer_without_thinking.message.content, answer_without_thinking.message.thinking) == (
        "4",
        None,
    )
    bodies = [request.body for request in upstream.requests]
    efforts = [b.get("reasoning_effort") or b["reasoning"]["effort"] for b in bodies]
    assert efforts == ["high", "none"]


@python
@each_upstream_api
def test_an_answer_follows_its_schema(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text='{"city": "Bern"}')] * 2)

    answer = make_client(forwarder).chat(model, MESSAGES, format=Place.model_json_schema())
    make_client(forwarder).generate(model, "Answer in JSON.", format="json")

    assert Place.model_validate_json(answer.message.content) == Place(city="Bern")
    kinds = [r.body.get("response_format") or r.body["text"]["format"] for r in upstream.requests]
    assert [kind["type"] for kind in kinds] == ["json_schema", "json_object"]


@python
@each_upstream_api
def test_images_reach_the_upstream(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="a cat"))

    message = {"role": "user", "content": "What?", "images": [PNG, "/9j/4AAQ"]}
    make_client(forwarder).chat(model, [message])

    [png, jpeg] = collect_images(upstream.requests[0].body)
    assert (png, jpeg) == (f"data:image/png;base64,{PNG}", "data:image/jpeg;base64,/9j/4AAQ")


@python
@each_upstream_api
def test_options_reach_the_upstream(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="one two three STOP four"))

    options = {"temperature": 0.5, "num_predict": 64, "stop": [" STOP"], "num_ctx": 4096}
    answer = make_client(forwarder).chat(model, MESSAGES, options=options, keep_alive="5m")

    body = upstream.requests[0].body
    assert body["temperature"] == 0.5
    assert 64 in (body.get("max_tokens"), body.get("max_output_tokens"))
    assert answer.message.content == "one two three" or body.get("stop") == [" STOP"]
    assert '"dropped":["options.num_ctx"]' in forwarder.log


@python
@each_upstream_api
def test_texts_are_embedded(model: str, forwarder: Server, upstream: ScriptedUpstream) -> None:
    embeddings = make_client(forwarder).embed(model, ["four", "seventy"])
    older = make_client(forwarder).embeddings(model, "four")

    assert embeddings.embeddings[0] == pytest.approx([0.6, 0.8])
    assert older.embedding == [3.0, 4.0]
    assert embeddings.prompt_eval_count == 4
    assert {request.path for request in upstream.requests} == {"/v1/embeddings"}
    assert {request.body["model"] for request in upstream.requests} == {"m"}


@python
def test_openai_s_client_embeds_too(forwarder: Server, upstream: ScriptedUpstream) -> None:
    from openai import OpenAI

    with OpenAI(base_url=forwarder.v1, api_key="none", max_retries=0) as client:
        embeddings = client.embeddings.create(model="chat/m", input="four", encoding_format="float")

    assert embeddings.data[0].embedding == [3.0, 4.0]


@python
@each_upstream_api
def test_empty_request_loads_a_model(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    assert make_client(forwarder).chat(model).done_reason == "load"
    assert make_client(forwarder).generate(model, keep_alive=0).done_reason == "unload"
    assert upstream.requests == []


@python
@each_upstream_api
def test_a_refusal_has_its_status(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    from ollama import ResponseError

    upstream.script(*[faults.refuse_with_status(429, retry_after=3)] * 2)

    for streamed in (False, True):
        with pytest.raises(ResponseError) as excinfo:
            list(make_client(forwarder).chat(model, MESSAGES, stream=streamed))
        assert excinfo.value.status_code == 429
        assert excinfo.value.error
    with pytest.raises(ResponseError, match="context"):
        make_client(forwarder).generate(model, "hi", context=[1, 2])


@python
@each_upstream_api
def test_a_broken_answer_ends_with_an_error_without_done(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    from ollama import ResponseError

    upstream.script(faults.cut_connection(Answer(text="and so on", pieces=9), after=7))
    parts: list[Any] = []

    with pytest.raises(ResponseError):
        parts.extend(make_client(forwarder).chat(model, MESSAGES, stream=True))

    assert parts
    assert not any(part.done for part in parts)


@python
def test_client_key_is_a_bearer_token(serve: Serve, upstream: ScriptedUpstream) -> None:
    from ollama import ResponseError

    forwarder = serve(make_settings(upstream, FORWARDER_API_KEYS="key-a"))
    client_with_key = make_client(forwarder, headers={"Authorization": "Bearer key-a"})

    assert client_with_key.chat("chat/m", MESSAGES).done
    with pytest.raises(ResponseError) as excinfo:
        make_client(forwarder).chat("chat/m", MESSAGES)
    assert excinfo.value.status_code == 401
    assert KEY not in forwarder.log


@python
def test_keep_alives_do_not_break_the_lines(serve: Serve, upstream: ScriptedUpstream) -> None:
    """Clients ignore the lines that keep the connection alive."""
    forwarder = serve(make_settings(upstream, FORWARDER_KEEPALIVE="0.1"))
    upstream.script(*[faults.slow_down(Answer(text="late, but whole", pieces=3), 0.25)] * 2)

    raw = http.post(f"{forwarder.url}/api/chat", json={"model": "chat/m", "messages": MESSAGES})
    parts = list(make_client(forwarder).chat("chat/m", MESSAGES, stream=True))

    assert " {" in raw.text
    assert all(json.loads(line) for line in raw.text.splitlines())
    assert "".join(part.message.content for part in parts) == "late, but whole"
    assert parts[-1].done


@python
def test_a_client_that_leaves_closes_the_upstream(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.stall(Answer(text="never over", pieces=5), after=3))

    with http.stream(
        "POST", f"{forwarder.url}/api/chat", json={"model": "chat/m", "messages": MESSAGES}
    ) as answer:
        next(answer.iter_lines())

    assert upstream.requests[0].closed_by_client.wait(10)


@python
def test_the_demo_serves_ollama_s_clients_too(serve: Serve) -> None:
    client = make_client(serve({}))

    for model in ("chat/demo", "responses/demo"):
        assert "You said: hi" in client.chat(model, MESSAGES).message.content
        tool_calls = client.chat(model, MESSAGES, tools=[get_weather]).message.tool_calls
        assert tool_calls[0].function.name == "get_weather"
        answer = client.generate(model, "hi", format=Place.model_json_schema())
        assert Place.model_validate_json(answer.response)
        assert len(client.embed(model, ["a", "b"]).embeddings) == 2


# -- in JavaScript --------------------------------------------------------------------------------


def run_node(command_name: str, forwarder: Server, model: str) -> Any:
    """The output of the script."""
    command = ["node", "ollama.mjs", command_name, forwarder.url, model]
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + forwarder.log[-2000:]
    return json.loads(done.stdout)


@javascript
@each_upstream_api
def test_the_javascript_client_chats(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    answer = Answer(text="Zürich 🏔", reasoning="Hm.", pieces=4)
    upstream.script(*[answer] * 4)

    chat_answer = run_node("chat", forwarder, model)
    streamed, thought, generated = (
        run_node(command_name, forwarder, model) for command_name in ("stream", "think", "generate")
    )

    assert chat_answer["message"]["content"] == "Zürich 🏔"
    for result in (streamed, thought, generated):
        assert (result["text"], result["thinking"]) == ("Zürich 🏔", "Hm.")
        assert result["parts"] > 3
        assert (result["last"]["done_reason"], result["last"]["eval_count"]) == ("stop", 9)


@javascript
@each_upstream_api
def test_the_javascript_client_runs_tools_shows_images_and_reads_json(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    calls = [Call("get_weather", {"city": city}, id=f"call_{city}") for city in ("Bern", "Basel")]
    upstream.script(
        Answer(calls=calls), Answer(text="Sunny."), Answer(text="a cat"),
        Answer(text='{"city": "Bern"}'),
    )  # fmt: skip

    loop = run_node("tools", forwarder, model)
    answer = run_node("image", forwarder, model)
    value = run_node("json", forwarder, model)

    assert [call["function"]["arguments"]["city"] for call in loop["calls"]] == ["Bern", "Basel"]
    assert loop["text"] == "Sunny."
    assert answer["message"]["content"] == "a cat"
    assert collect_images(upstream.requests[2].body) == [f"data:image/png;base64,{PNG}"]
    assert value == {"city": "Bern"}


@javascript
def test_the_javascript_client_embeds(forwarder: Server, upstream: ScriptedUpstream) -> None:
    several, one = run_node("embed", forwarder, "chat/m")

    assert several[0] == pytest.approx([0.6, 0.8])
    assert one == [3, 4]


@javascript
@each_upstream_api
def test_javascript_client_raises_on_failures(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        faults.refuse_with_status(429, retry_after=3),
        faults.cut_connection(Answer(text="and so on", pieces=9), after=7),
    )

    refusal = run_node("refused", forwarder, model)
    failure = run_node("broken", forwarder, model)

    assert (refusal["status"], type(refusal["error"])) == (429, str)
    assert failure["error"]
    assert failure["parts"]
    assert not failure["done"]
