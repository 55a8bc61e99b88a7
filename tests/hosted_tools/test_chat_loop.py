"""Hosted tools for Chat clients, through the whole forwarder over both kinds of upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import openai
import pytest

from forwarder.config.settings import ConfigError, Settings
from forwarder.hosted_tools.loop import with_extra_tools
from forwarder.hosted_tools.services import HostedToolServices
from tests.fake_provider import faults
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.scripted import ScriptedUpstream
from tests.helpers.hosted import hosting
from tests.helpers.translating import events_of
from tests.hosted_tools.mcp_server_process import serving_mcp
from tests.hosted_tools.scripted_upstream import ScriptedUpstream as ScriptedHandler
from tests.hosted_tools.scripted_upstream import text
from tests.hosted_tools.search_server import PAGE, serving_search

pytestmark = pytest.mark.live  # an MCP server in a process of its own

Json = dict[str, Any]
CITED = f"Cats sleep ([Cats]({PAGE['url']}))."
QUESTION: Any = [{"role": "user", "content": "cats?"}]
SEARCH = Answer(calls=[Call(name="web_search", arguments='{"query":"cats"}')])
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object"}},
}


class Setup(NamedTuple):
    client: openai.OpenAI
    upstream: ScriptedUpstream
    url: str
    is_chat: bool

    @property
    def bodies(self) -> list[Json]:
        return [recorded.body for recorded in self.upstream.requests]


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with serving_search() as url:
        yield url


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of a file of MCP servers."""
    with serving_mcp() as root:
        path = tmp_path_factory.mktemp("servers") / "mcp.json"
        gone = {"url": "http://127.0.0.1:9/mcp"}
        path.write_text(json.dumps({"mcpServers": {"box": {"url": f"{root}/mcp"}, "gone": gone}}))
        yield str(path)


@pytest.fixture(params=["CHAT", "RESPONSES"])
def upstream_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def tools_for_all() -> str:
    return ""


@pytest.fixture
def setup(
    upstream_name: str, engine: str, servers: str, tools_for_all: str, tmp_path: Path
) -> Iterator[Setup]:
    with ScriptedUpstream() as upstream:
        environment = {
            f"{upstream_name}_BASE_URL": upstream.url,
            f"{upstream_name}_API_KEY": "u",
            f"{upstream_name}_PROVIDER": "vllm",
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": engine,
            "FORWARDER_MCP_SERVERS": servers,
            "FORWARDER_TOOLS_FOR_ALL": tools_for_all,
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
        }
        with (
            hosting(environment) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        ):
            yield Setup(client, upstream, url, upstream_name == "CHAT")


def ask(setup: Setup, **more: Any) -> Any:
    return setup.client.chat.completions.create(
        model="m", messages=QUESTION, web_search_options={}, **more
    )


def read_stream(setup: Setup, **more: Any) -> list[Json]:
    stream = ask(setup, stream=True, stream_options={"include_usage": True}, **more)
    chunks = [chunk.model_dump(exclude_unset=True) for chunk in stream]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert [bool(delta.get("role")) for delta in deltas].count(True) == 1
    ends = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert len(ends) == 1
    assert [i for i, chunk in enumerate(chunks) if chunk.get("usage")] == [len(chunks) - 1]
    return chunks


def join_content(chunks: list[Json]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_whole_answer_is_searched_and_cited(setup: Setup) -> None:
    setup.upstream.script(SEARCH, Answer(text=CITED))
    answer = ask(setup)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (CITED, "stop")
    assert not choice.message.tool_calls
    (annotation,) = choice.message.annotations
    citation = annotation.url_citation
    assert (annotation.type, citation.url) == ("url_citation", PAGE["url"])
    assert CITED[citation.start_index : citation.end_index] == f"[Cats]({PAGE['url']})"
    first, second = setup.bodies
    assert "web_search_options" not in first
    assert first["tools"] == second["tools"]
    single = setup.client.chat.completions.create(model="m", messages=QUESTION)
    assert answer.usage.total_tokens == 2 * single.usage.total_tokens


def test_streamed_answer_is_one_completion(setup: Setup) -> None:
    setup.upstream.script(Answer(text="Let me see.", calls=SEARCH.calls), Answer(text=CITED))
    chunks = read_stream(setup)
    separator = "\n\n" if setup.is_chat else ""
    whole = f"Let me see.{separator}{CITED}"
    assert join_content(chunks) == whole
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert not any(delta.get("tool_calls") for delta in deltas)
    (annotations,) = [delta["annotations"] for delta in deltas if delta.get("annotations")]
    citation = annotations[0]["url_citation"]
    assert whole[citation["start_index"] : citation["end_index"]] == f"[Cats]({PAGE['url']})"


def test_reasoning_and_message_go_back_to_the_upstream(setup: Setup) -> None:
    setup.upstream.script(
        Answer(reasoning="Hm.", calls=SEARCH.calls), Answer(reasoning="So.", text=CITED)
    )
    chunks = read_stream(setup, extra_headers={"X-Reasoning": "reasoning_content"})
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    thoughts = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    assert "Hm." in thoughts or "Hm." in join_content(chunks)
    assert "Hm." in json.dumps(setup.bodies[1])
    if setup.is_chat:
        roles = [message["role"] for message in setup.bodies[1]["messages"]]
        assert roles == ["user", "assistant", "tool"]


def test_clients_call_ends_the_answer(setup: Setup) -> None:
    both = [*SEARCH.calls, Call(name="weather", arguments='{"city":"Rome"}')]
    setup.upstream.script(Answer(calls=both), Answer(calls=both))
    whole = ask(setup, tools=[WEATHER])
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, whole.choices[0].finish_reason) == ("weather", "tool_calls")
    chunks = read_stream(setup, tools=[WEATHER])
    calls = [
        call
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert {call["index"] for call in calls} == {0}
    assert "".join(call["function"].get("arguments") or "" for call in calls) == '{"city":"Rome"}'
    assert len(setup.bodies) == 2


def test_several_choices_have_rounds_of_their_own(setup: Setup) -> None:
    setup.upstream.script(SEARCH, SEARCH, Answer(text=CITED), Answer(text=CITED))
    answer = ask(setup, n=2)
    assert [choice.message.content for choice in answer.choices] == [CITED, CITED]
    assert all(choice.message.annotations for choice in answer.choices)
    assert len(setup.bodies) == 4


def test_rounds_share_the_token_limit(setup: Setup) -> None:
    setup.upstream.script(SEARCH, Answer(text=CITED))
    ask(setup, max_completion_tokens=500)
    limits = [
        body.get("max_completion_tokens") or body.get("max_tokens") or body["max_output_tokens"]
        for body in setup.bodies
    ]
    assert limits[0] == 500 > limits[1]


def test_failed_search_is_told_to_the_model(setup: Setup) -> None:
    broken = Answer(calls=[Call(name="web_search", arguments="{}")])
    setup.upstream.script(broken, Answer(text="Sorry."))
    assert ask(setup).choices[0].message.content == "Sorry."
    assert "lack 'query'" in json.dumps(setup.bodies[1])


def test_failed_round_is_an_error_at_the_end(setup: Setup) -> None:
    setup.upstream.script(SEARCH, faults.status(503))
    with pytest.raises(openai.InternalServerError):
        ask(setup)
    setup.upstream.script(Answer(text="Hm.", calls=SEARCH.calls), faults.status(503))
    with pytest.raises(openai.APIError):
        read_stream(setup)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"search_context_size": "huge"}, "web_search_options.search_context_size"),
        (
            {"user_location": {"type": "approximate", "approximate": {"country": "Germany"}}},
            "web_search_options.user_location.country",
        ),
        ({"user_location": 5}, "web_search_options.user_location"),
        (5, "web_search_options"),
    ],
)
def test_bad_options_are_refused_by_name(setup: Setup, options: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        setup.client.chat.completions.create(
            model="m", messages=QUESTION, web_search_options=options
        )
    assert refused.value.param == param


def test_request_without_hosted_tools_is_unchanged(setup: Setup) -> None:
    setup.upstream.script(Answer(text="Hi."))
    setup.client.chat.completions.create(model="m", messages=QUESTION, tools=[WEATHER], n=1)
    assert len(setup.bodies[0]["tools"]) == 1


def test_upstream_that_searches_gets_the_options(engine: str, tmp_path: Path) -> None:
    with ScriptedUpstream(strict=False) as upstream:
        environment = {
            "CHAT_BASE_URL": upstream.url,
            "CHAT_HOSTED_TOOLS": "web_search",
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": engine,
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
        }
        with (
            hosting(environment) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        ):
            client.chat.completions.create(model="m", messages=QUESTION, web_search_options={})
            client.responses.create(model="m", input="hi", tools=[{"type": "web_search"}])
        assert [recorded.body["web_search_options"] for recorded in upstream.requests] == [{}, {}]
        assert not any(recorded.body.get("tools") for recorded in upstream.requests)


# -- tools of the operator ----------------------------------------------------------------------


@pytest.mark.parametrize("tools_for_all", ["mcp:box"])
@pytest.mark.parametrize("client_api", ["chat", "responses", "ollama"])
def test_operators_tools_run_for_every_client(setup: Setup, client_api: str) -> None:
    setup.upstream.script(
        Answer(calls=[Call(name="box__echo", arguments='{"text":"hi"}')]),
        Answer(text="It said hi."),
    )
    if client_api == "chat":
        answer = setup.client.chat.completions.create(model="m", messages=QUESTION)
        content = answer.choices[0].message.content
    elif client_api == "responses":
        response = setup.client.responses.create(model="m", input="go")
        kinds = [item.type for item in response.output]
        assert kinds == ["mcp_list_tools", "mcp_call", "message"]
        content = response.output_text
    else:
        body = {"model": "m", "messages": QUESTION, "stream": False}
        content = httpx2.post(f"{setup.url}/api/chat", json=body).json()["message"]["content"]
    assert content == "It said hi."
    assert '"hi"' in json.dumps(setup.bodies[1])


@pytest.mark.parametrize("tools_for_all", ["web_search,mcp:gone"])
def test_server_that_is_gone_is_named_in_the_header(setup: Setup) -> None:
    setup.upstream.script(SEARCH, Answer(text=CITED))
    raw = setup.client.chat.completions.with_raw_response.create(model="m", messages=QUESTION)
    assert raw.parse().choices[0].message.annotations
    if setup.is_chat:
        assert "tools.hosted" in raw.headers["x-forwarder-dropped"]


@pytest.mark.parametrize("tools_for_all", ["web_search"])
def test_choice_of_no_tool_is_kept(setup: Setup) -> None:
    setup.upstream.script(Answer(text="Hi."), Answer(text="Hi."))
    setup.client.chat.completions.create(
        model="m", messages=QUESTION, tools=[WEATHER], tool_choice="none"
    )
    setup.client.responses.create(model="m", input="hi", tool_choice="none")
    assert len(setup.bodies[0]["tools"]) == 1
    assert not setup.bodies[1].get("tools")


@pytest.mark.parametrize("tools_for_all", ["web_search"])
def test_clients_function_takes_the_place_of_the_operators_tool(setup: Setup) -> None:
    setup.upstream.script(SEARCH, SEARCH)
    body = {"name": "web_search", "parameters": {"type": "object"}}
    own: Any = {"type": "function", "function": body}
    answer = setup.client.chat.completions.create(model="m", messages=QUESTION, tools=[own])
    assert answer.choices[0].message.tool_calls[0].function.name == "web_search"
    flat: Any = {"type": "function", **body}
    response = setup.client.responses.create(model="m", input="go", tools=[flat])
    assert [item.type for item in response.output] == ["function_call"]


def test_tools_of_the_request_come_before_the_operators() -> None:
    extra = [{"type": "web_search"}, {"type": "mcp", "server_label": "a"}]
    own = [{"type": "web_search_preview"}, {"type": "mcp", "server_label": "b"}]
    upstream = ScriptedHandler([text("Hi.")])
    events_of(with_extra_tools(upstream, extra)({"tools": own}))
    assert upstream.requests[0]["tools"] == [*own, extra[1]]


@pytest.mark.parametrize("value", ["file_search", "mcp", "mcp:", "search"])
def test_unknown_tool_for_all_is_a_mistake(value: str) -> None:
    with pytest.raises(ConfigError, match="FORWARDER_TOOLS_FOR_ALL"):
        Settings.from_env({"FORWARDER_TOOLS_FOR_ALL": value})


def test_unknown_server_for_all_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="FORWARDER_TOOLS_FOR_ALL"):
        HostedToolServices(Settings.from_env({"FORWARDER_TOOLS_FOR_ALL": "mcp:nowhere"}))
