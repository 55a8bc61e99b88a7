"""LangChain's ChatOpenAI, in both of its modes, each over the upstream of the other protocol."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tests.fake_provider import Answer, Call, ScriptedUpstream
from tests.live.clients import needs_python_package
from tests.live.server import Server

pytestmark = needs_python_package("langchain_openai")

both_modes = pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])


class Place(BaseModel):
    """A place."""

    city: str


def make_model(forwarder: Server, responses: bool) -> Any:
    """The client; without a prefix, its requests go to the upstream of the other protocol."""
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model="m",
        base_url=forwarder.v1,
        api_key="none",
        use_responses_api=responses,
        max_retries=0,
        timeout=10,
    )


def text_of(message: Any) -> str:
    """The text of a message with content that may be parts."""
    return str(message.text if isinstance(message.text, str) else message.text())


@both_modes
def test_text_comes_whole_and_streamed(
    responses: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text="Zürich 🏔", pieces=4)] * 2)
    llm = make_model(forwarder, responses)

    message = llm.invoke("hi")
    streamed = list(llm.stream("hi"))

    assert text_of(message) == "Zürich 🏔"
    assert "".join(text_of(chunk) for chunk in streamed) == "Zürich 🏔"
    assert message.usage_metadata["total_tokens"] == 30
    paths = {request.path for request in upstream.requests}
    assert paths == {"/v1/chat/completions" if responses else "/v1/responses"}


def test_reasoning_stands_in_blocks_for_a_chat_client_that_reads_no_field(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(*[Answer(text="Hi.", reasoning="Hm.", pieces=2)] * 2)
    llm = make_model(forwarder, responses=False)

    assert text_of(llm.invoke("hi")) == "[thinking]Hm.[/thinking]\n\nHi."
    pieces = [text_of(chunk) for chunk in llm.stream("hi")]
    assert "".join(pieces) == "[thinking]Hm.[/thinking]\n\nHi."


@both_modes
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_loop_ends_with_text(
    responses: bool, streamed: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    @tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    calls = [Call("get_weather", {"city": city}, id=f"call_{city}") for city in ("Bern", "Basel")]
    upstream.script(Answer(text="I look.", calls=calls), Answer(text="Sunny."))
    llm = make_model(forwarder, responses).bind_tools([get_weather])
    history: list[Any] = [HumanMessage("hi")]

    first = add_chunks(llm.stream(history)) if streamed else llm.invoke(history)
    results = [ToolMessage(get_weather.invoke(c["args"]), tool_call_id=c["id"])
               for c in first.tool_calls]  # fmt: skip
    last = llm.invoke([*history, first, *results])

    assert [call["args"] for call in first.tool_calls] == [{"city": "Bern"}, {"city": "Basel"}]
    assert text_of(first) == "I look."
    assert text_of(last) == "Sunny."


def add_chunks(chunks: Any) -> Any:
    """The message that the chunks add up to."""
    total = None
    for chunk in chunks:
        total = chunk if total is None else total + chunk
    return total


@both_modes
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_an_object(
    responses: bool, method: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    answer = Answer(text='{"city": "Bern"}')
    if method == "function_calling":
        answer = Answer(calls=[Call("Place", {"city": "Bern"})])
    upstream.script(answer)
    llm = make_model(forwarder, responses).with_structured_output(Place, method=method)

    assert llm.invoke("hi") == Place(city="Bern")
