"""LangChain's ChatOllama and its embeddings, over upstreams of both protocols."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tests.fake_provider import Answer, Call, ScriptedUpstream
from tests.live.clients import make_http_options, needs_python_package
from tests.live.server import Server

pytestmark = needs_python_package("langchain_ollama")

each_upstream_api = pytest.mark.parametrize("name", ["chat/m", "responses/m"])


class Place(BaseModel):
    """A place."""

    city: str


def make_model(forwarder: Server, name: str, **options: Any) -> Any:
    from langchain_ollama import ChatOllama

    return ChatOllama(
        model=name, base_url=forwarder.url, client_kwargs=make_http_options(), **options
    )


@each_upstream_api
def test_text_comes_whole_and_streamed(
    name: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text="Zürich 🏔", reasoning="Hm.", pieces=4)] * 2)
    llm = make_model(forwarder, name, reasoning=True, temperature=0, num_ctx=4096)

    message = llm.invoke("hi")
    streamed = list(llm.stream("hi"))

    assert message.content == "Zürich 🏔"
    assert "".join(chunk.content for chunk in streamed) == "Zürich 🏔"
    assert message.additional_kwargs["reasoning_content"] == "Hm."
    assert message.usage_metadata["total_tokens"] == 30
    assert message.response_metadata["done_reason"] == "stop"


@each_upstream_api
def test_a_tool_loop_ends_with_text(
    name: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """The results have no ids and no names: their order assigns them to the calls."""
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    calls = [Call("get_weather", {"city": city}, id=f"call_{city}") for city in ("Bern", "Basel")]
    upstream.script(Answer(text="I look.", calls=calls), Answer(text="Sunny."))
    llm = make_model(forwarder, name).bind_tools([get_weather])
    history: list[Any] = [HumanMessage("hi")]

    first = llm.invoke(history)
    results = [ToolMessage(get_weather.invoke(c["args"]), tool_call_id=c["id"])
               for c in first.tool_calls]  # fmt: skip
    last = llm.invoke([*history, first, *results])

    assert [call["args"] for call in first.tool_calls] == [{"city": "Bern"}, {"city": "Basel"}]
    assert (first.content, last.content) == ("I look.", "Sunny.")
    assert [request.status for request in upstream.requests] == [200, 200]


@each_upstream_api
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_an_object(
    method: str, name: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    answer = Answer(text='{"city": "Bern"}')
    if method == "function_calling":
        answer = Answer(calls=[Call("Place", {"city": "Bern"})])
    upstream.script(answer)
    llm = make_model(forwarder, name).with_structured_output(Place, method=method)

    assert llm.invoke("hi") == Place(city="Bern")


def test_texts_are_embedded(forwarder: Server, upstream: ScriptedUpstream) -> None:
    from langchain_ollama import OllamaEmbeddings

    embeddings = OllamaEmbeddings(
        model="chat/m", base_url=forwarder.url, client_kwargs=make_http_options()
    )

    assert embeddings.embed_query("four") == pytest.approx([0.6, 0.8])
