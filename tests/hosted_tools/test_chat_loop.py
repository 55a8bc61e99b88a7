"""Hosted tools for Chat clients, through the whole forwarder over both kinds of upstream."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import openai
import pytest

from forwarder.config.settings import ConfigError, Settings
from forwarder.core.errors import ClientDisconnected, UpstreamProtocolError
from forwarder.core.ssrf import AddressGuard
from forwarder.core.translation_context import LossReport
from forwarder.hosted_tools.chat_loop import (
    list_images,
    make_tool_message,
    with_hosted_chat_tools,
)
from forwarder.hosted_tools.kind_table import ToolResources, build_kinds
from forwarder.hosted_tools.mcp_client import McpClient
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.request_preparation import LoopContext
from forwarder.hosted_tools.responses_loop import LIMIT_NOTE, SIZE_NOTE, with_extra_tools
from forwarder.hosted_tools.tool_services import HostedToolServices
from forwarder.hosted_tools.web_search import WebSearch
from forwarder.hosted_tools.web_search_backends import SearchAnswer, WebSearchResult
from tests.fake_provider import faults
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.scripted import ScriptedUpstream
from tests.helpers.check_cases import check_each
from tests.helpers.hosted import host_forwarder
from tests.helpers.translating import collect_events
from tests.hosted_tools.mcp_server_process import serving_mcp
from tests.hosted_tools.scripted_upstream import ScriptedUpstream as ScriptedHandler
from tests.hosted_tools.scripted_upstream import make_text_item
from tests.hosted_tools.search_server import PAGE, serving_search
from tests.hosted_tools.test_responses_loop import FakeClient

pytestmark = pytest.mark.live  # an MCP server in a process of its own

Json = dict[str, Any]
CITED_TEXT = f"Cats sleep ([Cats]({PAGE['url']}))."
QUESTION: Any = [{"role": "user", "content": "cats?"}]
SEARCH_ANSWER = Answer(calls=[Call(name="web_search", arguments='{"query":"cats"}')])
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
def engine_url() -> Iterator[str]:
    with serving_search() as url:
        yield url


@pytest.fixture(scope="module")
def server_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of a file of MCP servers."""
    with serving_mcp() as mcp_base_url:
        path = tmp_path_factory.mktemp("servers") / "mcp.json"
        unreachable = {"url": "http://127.0.0.1:9/mcp"}
        path.write_text(
            json.dumps({"mcpServers": {"box": {"url": f"{mcp_base_url}/mcp"}, "gone": unreachable}})
        )
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
    upstream_name: str, engine_url: str, server_file: str, tools_for_all: str, tmp_path: Path
) -> Iterator[Setup]:
    with ScriptedUpstream() as upstream:
        environment = {
            f"{upstream_name}_BASE_URL": upstream.url,
            f"{upstream_name}_API_KEY": "u",
            f"{upstream_name}_PROVIDER": "vllm",
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": engine_url,
            "FORWARDER_MCP_SERVERS": server_file,
            "FORWARDER_HOSTED_TOOL_IMAGE_GENERATION": "mcp:box/picture",
            "FORWARDER_TOOLS_FOR_ALL": tools_for_all,
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
        }
        with (
            host_forwarder(environment) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        ):
            yield Setup(client, upstream, url, upstream_name == "CHAT")


def create_completion(setup: Setup, **more: Any) -> Any:
    return setup.client.chat.completions.create(
        model="m", messages=QUESTION, web_search_options={}, **more
    )


def read_stream(setup: Setup, **more: Any) -> list[Json]:
    stream = create_completion(setup, stream=True, stream_options={"include_usage": True}, **more)
    chunks = [chunk.model_dump(exclude_unset=True) for chunk in stream]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert [bool(delta.get("role")) for delta in deltas].count(True) == 1
    finish_reasons = [
        c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]
    ]
    assert len(finish_reasons) == 1
    assert [i for i, chunk in enumerate(chunks) if chunk.get("usage")] == [len(chunks) - 1]
    return chunks


def join_content(chunks: list[Json]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_whole_answer_is_searched_and_cited(setup: Setup) -> None:
    setup.upstream.script(SEARCH_ANSWER, Answer(text=CITED_TEXT))
    answer = create_completion(setup)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (CITED_TEXT, "stop")
    assert not choice.message.tool_calls
    (annotation,) = choice.message.annotations
    citation = annotation.url_citation
    assert (annotation.type, citation.url) == ("url_citation", PAGE["url"])
    assert CITED_TEXT[citation.start_index : citation.end_index] == f"[Cats]({PAGE['url']})"
    first, second = setup.bodies
    assert "web_search_options" not in first
    assert first["tools"] == second["tools"]
    single = setup.client.chat.completions.create(model="m", messages=QUESTION)
    assert answer.usage.total_tokens == 2 * single.usage.total_tokens


def test_streamed_answer_is_one_completion(setup: Setup) -> None:
    setup.upstream.script(
        Answer(text="Let me see.", calls=SEARCH_ANSWER.calls), Answer(text=CITED_TEXT)
    )
    chunks = read_stream(setup)
    separator = "\n\n" if setup.is_chat else ""
    content = f"Let me see.{separator}{CITED_TEXT}"
    assert join_content(chunks) == content
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert not any(delta.get("tool_calls") for delta in deltas)
    (annotations,) = [delta["annotations"] for delta in deltas if delta.get("annotations")]
    citation = annotations[0]["url_citation"]
    assert content[citation["start_index"] : citation["end_index"]] == f"[Cats]({PAGE['url']})"


def test_reasoning_is_sent_back_to_the_upstream(setup: Setup) -> None:
    setup.upstream.script(
        Answer(reasoning="Hm.", calls=SEARCH_ANSWER.calls), Answer(reasoning="So.", text=CITED_TEXT)
    )
    chunks = read_stream(setup, extra_headers={"X-Reasoning": "reasoning_content"})
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    thoughts = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    assert "Hm." in thoughts or "Hm." in join_content(chunks)
    assert "Hm." in json.dumps(setup.bodies[1])
    if setup.is_chat:
        roles = [message["role"] for message in setup.bodies[1]["messages"]]
        assert roles == ["user", "assistant", "tool"]


def test_client_tool_call_ends_the_answer(setup: Setup) -> None:
    calls_of_both = [*SEARCH_ANSWER.calls, Call(name="weather", arguments='{"city":"Rome"}')]
    setup.upstream.script(Answer(calls=calls_of_both), Answer(calls=calls_of_both))
    completion = create_completion(setup, tools=[WEATHER])
    (call,) = completion.choices[0].message.tool_calls
    assert (call.function.name, completion.choices[0].finish_reason) == ("weather", "tool_calls")
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


def test_each_choice_has_its_own_rounds(setup: Setup) -> None:
    setup.upstream.script(
        SEARCH_ANSWER, SEARCH_ANSWER, Answer(text=CITED_TEXT), Answer(text=CITED_TEXT)
    )
    answer = create_completion(setup, n=2)
    assert [choice.message.content for choice in answer.choices] == [CITED_TEXT, CITED_TEXT]
    assert all(choice.message.annotations for choice in answer.choices)
    assert answer.usage.completion_tokens
    assert len(setup.bodies) == 4


def test_rounds_share_the_token_limit(setup: Setup) -> None:
    setup.upstream.script(SEARCH_ANSWER, Answer(text=CITED_TEXT))
    create_completion(setup, max_completion_tokens=500)
    limits = [
        body.get("max_completion_tokens") or body.get("max_tokens") or body["max_output_tokens"]
        for body in setup.bodies
    ]
    assert limits[0] == 500 > limits[1]


def test_failed_search_is_reported_to_the_model(setup: Setup) -> None:
    failing_call = Answer(calls=[Call(name="web_search", arguments="{}")])
    setup.upstream.script(failing_call, Answer(text="Sorry."))
    assert create_completion(setup).choices[0].message.content == "Sorry."
    assert "lack 'query'" in json.dumps(setup.bodies[1])


def test_failed_round_is_an_error_at_the_end(setup: Setup) -> None:
    setup.upstream.script(SEARCH_ANSWER, faults.refuse_with_status(503))
    with pytest.raises(openai.InternalServerError):
        create_completion(setup)
    setup.upstream.script(
        Answer(text="Hm.", calls=SEARCH_ANSWER.calls), faults.refuse_with_status(503)
    )
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
def test_invalid_options_are_rejected_by_name(setup: Setup, options: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        setup.client.chat.completions.create(
            model="m", messages=QUESTION, web_search_options=options
        )
    assert caught.value.param == param


def test_request_without_hosted_tools_is_unchanged(setup: Setup) -> None:
    setup.upstream.script(Answer(text="Hi."))
    setup.client.chat.completions.create(model="m", messages=QUESTION, tools=[WEATHER], n=1)
    assert len(setup.bodies[0]["tools"]) == 1


def test_options_are_passed_to_an_upstream_with_web_search(engine_url: str, tmp_path: Path) -> None:
    with ScriptedUpstream(strict=False) as upstream:
        environment = {
            "CHAT_BASE_URL": upstream.url,
            "CHAT_HOSTED_TOOLS": "web_search",
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": engine_url,
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
        }
        with (
            host_forwarder(environment) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        ):
            client.chat.completions.create(model="m", messages=QUESTION, web_search_options={})
            client.responses.create(model="m", input="hi", tools=[{"type": "web_search"}])
        assert [recorded.body["web_search_options"] for recorded in upstream.requests] == [{}, {}]
        assert not any(recorded.body.get("tools") for recorded in upstream.requests)


# -- the loop of Chat requests ------------------------------------------------------------------


class ChatHandler:
    """A Chat handler that answers each request with the next list of chunks, or raises."""

    def __init__(self, *rounds: list[Json] | Exception) -> None:
        self.requests: list[Json] = []
        self.open = 0
        self._rounds = [*rounds]

    def __call__(self, request: Json) -> Iterator[list[Json]]:
        self.requests.append(copy.deepcopy(request))
        answer = self._rounds.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.open += 1
        return self._stream(answer)

    def _stream(self, chunks: list[Json]) -> Iterator[list[Json]]:
        try:
            for chunk in chunks:
                yield [chunk]
        finally:
            self.open -= 1


def make_chunk(delta: Json, finish: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**base, "choices": [choice], **more}


def call_delta(index: int, name: str | None, arguments: str, call_id: str | None = None) -> Json:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    delta: Json = {"index": index, "function": function}
    return {"tool_calls": [delta if call_id is None else {**delta, "id": call_id}]}


USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
SEARCH_CHUNKS = [
    make_chunk(call_delta(0, "web_search", '{"query"', "call_1")),
    make_chunk(call_delta(0, None, ':"cats"}')),
    make_chunk({}, "tool_calls", usage=USAGE),
]
ANSWER_CHUNKS = [
    make_chunk({"role": "assistant", "content": "Meow."}),
    make_chunk({}, "stop", usage=USAGE),
]


class Engine:
    def __init__(self, wait: threading.Event | None = None) -> None:
        self._wait = wait

    def search(self, query: str, options: Any, client: str, call: Any) -> SearchAnswer:
        if self._wait is not None:
            self._wait.wait(10)
        return SearchAnswer([WebSearchResult("Cats", PAGE["url"], "All about cats.")])


def make_context(engine: Any = None, token: Any = None, **more: Any) -> LoopContext:
    client = McpClient(AddressGuard())  # never used, so it starts no thread
    search = WebSearch(engine or Engine(), None)
    kinds = build_kinds(ToolResources(client, McpPolicy(), search))
    return LoopContext(kinds, token or FakeClient(), heartbeat=0.02, keeps_calls=False, **more)


def run_loop(
    handler: ChatHandler, context: LoopContext | None = None, **request: Any
) -> list[Json]:
    loop = with_hosted_chat_tools(
        handler, [{"type": "web_search"}], context or make_context(), LossReport()
    )
    chunks = collect_events(loop({"messages": QUESTION, "stream": True, **request}))
    assert handler.open == 0
    return chunks


def test_calls_are_sent_back_unchanged() -> None:
    first_round = [make_chunk({"role": "assistant", "reasoning_content": "Hm."}), *SEARCH_CHUNKS]
    handler = ChatHandler(first_round, ANSWER_CHUNKS)
    ended_items: list[Json] = []
    chunks = run_loop(handler, make_context(on_call_end=ended_items.append), tool_choice="auto")
    assert [item["type"] for item in ended_items] == ["web_search_call"]
    _, assistant, tool = handler.requests[1]["messages"]
    assert assistant == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {
                "type": "function",
                "function": {"name": "web_search", "arguments": '{"query":"cats"}'},
                "id": "call_1",
            }
        ],
    }
    assert (tool["role"], tool["tool_call_id"]) == ("tool", "call_1")
    assert PAGE["url"] in tool["content"]
    assert chunks[-1]["usage"]["total_tokens"] == 30
    assert [c["choices"][0]["delta"].get("role") for c in chunks if c["choices"]].count(
        "assistant"
    ) == 1


@check_each("call_id", [None, ""])
def test_calls_without_an_id_get_one(call_id: str | None) -> None:
    first = [
        make_chunk(call_delta(number, "web_search", '{"query":"x"}', call_id)) for number in (0, 1)
    ]
    handler = ChatHandler([*first, make_chunk({}, "tool_calls")], ANSWER_CHUNKS)
    run_loop(handler)
    _, assistant, *tools = handler.requests[1]["messages"]
    names = [call["id"] for call in assistant["tool_calls"]]
    assert all(names)
    assert names == [tool["tool_call_id"] for tool in tools]
    assert len(set(names)) == 2


def test_heartbeats_of_the_upstream_are_passed_on() -> None:
    stream = iter([[SEARCH_CHUNKS[0]], [], ANSWER_CHUNKS])
    tools = [{"type": "web_search"}]
    loop = with_hosted_chat_tools(lambda request: stream, tools, make_context(), LossReport())
    assert next(loop({"messages": QUESTION, "stream": True})) == []


def test_client_tool_calls_are_streamed_and_hosted_calls_hidden() -> None:
    handler = ChatHandler(
        [
            make_chunk(call_delta(0, "web_search", '{"query":"x"}', "call_1")),
            make_chunk(
                {"tool_calls": [{"index": 1, "id": "call_2"}]}
            ),  # the name follows in the next chunk
            make_chunk(call_delta(1, "weather", '{"city":')),
            make_chunk(call_delta(1, None, '"Rome"}')),
            make_chunk({}, "tool_calls"),
        ]
    )
    chunks = run_loop(handler)
    calls = [call for c in chunks for call in c["choices"][0]["delta"].get("tool_calls") or ()]
    assert [call["index"] for call in calls] == [0, 0, 0]
    assert (calls[0]["id"], calls[1]["function"]["name"]) == ("call_2", "weather")
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert len(handler.requests) == 1


def test_results_of_one_completion_are_limited_together() -> None:
    handler = ChatHandler(SEARCH_CHUNKS, SEARCH_CHUNKS, ANSWER_CHUNKS)
    run_loop(handler, make_context(max_output_bytes=300))
    outputs = [m["content"] for m in handler.requests[-1]["messages"] if m["role"] == "tool"]
    assert [output == SIZE_NOTE for output in outputs] == [False, True]


def test_last_round_has_only_the_clients_tools() -> None:
    client_tool = {"type": "function", "function": {"name": "weather"}}
    handler = ChatHandler(SEARCH_CHUNKS, SEARCH_CHUNKS)
    chunks = run_loop(handler, make_context(max_rounds=2), tools=[client_tool])
    assert [len(request["tools"]) for request in handler.requests] == [2, 1]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    handler = ChatHandler(SEARCH_CHUNKS, ANSWER_CHUNKS)
    run_loop(handler, make_context(max_rounds=2))
    assert handler.requests[1]["tool_choice"] == "none"


def test_call_beyond_the_limit_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forwarder.hosted_tools.chat_loop.MAX_CALLS", 1)
    chunks = [
        SEARCH_CHUNKS[0],
        SEARCH_CHUNKS[1],
        make_chunk(call_delta(1, "web_search", "{}", "call_2")),
    ]
    handler = ChatHandler([*chunks, make_chunk({}, "tool_calls")], ANSWER_CHUNKS)
    run_loop(handler)
    outputs = [message["content"] for message in handler.requests[1]["messages"][2:]]
    assert (PAGE["url"] in outputs[0], outputs[1]) == (True, LIMIT_NOTE)


def test_token_limit_ends_the_answer() -> None:
    handler = ChatHandler(SEARCH_CHUNKS)
    chunks = run_loop(handler, max_tokens=20)
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


def test_cut_answer_runs_no_tool() -> None:
    handler = ChatHandler([*SEARCH_CHUNKS[:2], make_chunk({}, "length")])
    assert run_loop(handler)[-1]["choices"][0]["finish_reason"] == "length"


def test_chunks_with_other_fields_are_passed_on() -> None:
    logprobs = {"content": [{"token": "Meow"}]}
    logprobs_chunk = make_chunk({"content": "Meow"})
    logprobs_chunk["choices"][0]["logprobs"] = logprobs
    filter_chunk = {**make_chunk({}), "choices": [], "prompt_filter_results": [1]}
    chunks = run_loop(ChatHandler([filter_chunk, logprobs_chunk, *ANSWER_CHUNKS]))
    assert chunks[0]["prompt_filter_results"] == [1]
    assert chunks[1]["choices"][0]["logprobs"] == logprobs


def test_logprobs_are_sent_once() -> None:
    logprobs = {"content": [{"token": "Meow"}]}
    last = make_chunk({"content": "Meow"}, "stop")
    last["choices"][0]["logprobs"] = logprobs
    choices = [chunk["choices"][0] for chunk in run_loop(ChatHandler([last]))]
    assert [choice["logprobs"] for choice in choices] == [logprobs, None]
    assert [choice["finish_reason"] for choice in choices] == [None, "stop"]


@pytest.mark.parametrize(
    ("choice", "tools", "next_choice"),
    [
        ("required", [], "auto"),
        ("required", [WEATHER], "required"),  # the client waits for a call
        ({"type": "function", "function": {"name": "web_search"}}, [], "auto"),
    ],
    ids=["required", "client's tools", "by name"],
)
def test_tool_choice_is_relaxed_after_a_hosted_call(
    choice: Any, tools: list[Json], next_choice: Any
) -> None:
    handler = ChatHandler(SEARCH_CHUNKS, ANSWER_CHUNKS)
    run_loop(handler, tool_choice=choice, tools=tools)
    assert [request["tool_choice"] for request in handler.requests] == [choice, next_choice]


def test_error_in_a_stream_ends_it() -> None:
    error_chunk = {"error": {"message": "broken", "code": "server_error"}}
    handler = ChatHandler([*SEARCH_CHUNKS[:2], error_chunk])
    assert run_loop(handler)[-1]["error"] == error_chunk["error"]
    assert len(handler.requests) == 1


def test_failure_of_a_later_round_has_the_usage_so_far() -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        run_loop(ChatHandler(SEARCH_CHUNKS, UpstreamProtocolError("no")))
    assert caught.value.usage == USAGE


def test_disconnected_client_cancels_the_search() -> None:
    release, token = threading.Event(), FakeClient()
    timer = threading.Timer(0.1, token.cancel)
    timer.start()
    try:
        with pytest.raises(ClientDisconnected):
            run_loop(ChatHandler(SEARCH_CHUNKS), make_context(Engine(release), token))
    finally:
        release.set()
        timer.join()
    assert not token.cancel_callbacks


def test_images_of_the_user_are_passed_to_tools() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}, *QUESTION]
    assert list_images({"messages": messages}) == [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}],
        }
    ]


def test_pictures_of_a_tool_are_parts_of_its_message() -> None:
    parts = [
        {"type": "input_text", "text": "a"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA"},
    ]
    assert make_tool_message("c", parts)["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]


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


PICTURE_ANSWER = Answer(calls=[Call(name="image_generation", arguments="{}")])


@pytest.mark.parametrize("tools_for_all", ["image_generation"])
@pytest.mark.parametrize("streamed", [True, False])
def test_images_are_part_of_the_message(setup: Setup, streamed: bool) -> None:
    setup.upstream.script(PICTURE_ANSWER, Answer(text="Look."))
    body: Any = {"model": "m", "messages": QUESTION}
    if streamed:
        stream = setup.client.chat.completions.create(**body, stream=True)
        deltas = [c.model_dump()["choices"][0]["delta"] for c in stream if c.choices]
        images = [image for delta in deltas for image in delta.get("images") or ()]
    else:
        message = setup.client.chat.completions.create(**body).choices[0].message
        assert message.content == "Look."
        images = message.model_dump()["images"]
    (image,) = images
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize("upstream_name", ["RESPONSES"])
def test_image_modality_adds_image_generation_over_responses(setup: Setup) -> None:
    setup.upstream.script(PICTURE_ANSWER, Answer(text="Look."))
    modalities: Any = ["text", "image"]
    answer = setup.client.chat.completions.create(
        model="m", messages=QUESTION, modalities=modalities
    )
    assert answer.choices[0].message.model_dump()["images"]


@pytest.mark.parametrize("tools_for_all", ["web_search,mcp:gone"])
def test_unreachable_server_is_named_in_the_header(setup: Setup) -> None:
    setup.upstream.script(SEARCH_ANSWER, Answer(text=CITED_TEXT))
    response = setup.client.chat.completions.with_raw_response.create(model="m", messages=QUESTION)
    assert response.parse().choices[0].message.annotations
    if setup.is_chat:
        assert "tools.hosted" in response.headers["x-forwarder-dropped"]


@pytest.mark.parametrize("tools_for_all", ["web_search"])
def test_tool_choice_none_adds_no_operator_tools(setup: Setup) -> None:
    setup.upstream.script(Answer(text="Hi."), Answer(text="Hi."))
    setup.client.chat.completions.create(
        model="m", messages=QUESTION, tools=[WEATHER], tool_choice="none"
    )
    setup.client.responses.create(model="m", input="hi", tool_choice="none")
    assert len(setup.bodies[0]["tools"]) == 1
    assert not setup.bodies[1].get("tools")


@pytest.mark.parametrize("upstream_name", ["RESPONSES"])
@pytest.mark.parametrize("tools_for_all", ["web_search"])
def test_tool_choice_none_is_obeyed_without_client_tools(setup: Setup) -> None:
    setup.upstream.script(Answer(text="Hi."))
    setup.client.chat.completions.create(model="m", messages=QUESTION, tool_choice="none")
    assert not setup.bodies[0].get("tools")


@pytest.mark.parametrize("tools_for_all", ["web_search"])
def test_client_function_overrides_the_operators_tool(setup: Setup) -> None:
    setup.upstream.script(SEARCH_ANSWER, SEARCH_ANSWER)
    body = {"name": "web_search", "parameters": {"type": "object"}}
    chat_tool: Any = {"type": "function", "function": body}
    answer = setup.client.chat.completions.create(model="m", messages=QUESTION, tools=[chat_tool])
    assert answer.choices[0].message.tool_calls[0].function.name == "web_search"
    responses_tool: Any = {"type": "function", **body}
    response = setup.client.responses.create(model="m", input="go", tools=[responses_tool])
    assert [item.type for item in response.output] == ["function_call"]


def test_tools_of_the_request_come_before_the_operators() -> None:
    operator_tools = [{"type": "web_search"}, {"type": "mcp", "server_label": "a"}]
    client_tools = [{"type": "web_search_preview"}, {"type": "mcp", "server_label": "b"}]
    upstream = ScriptedHandler([make_text_item("Hi.")])
    collect_events(with_extra_tools(upstream, operator_tools)({"tools": client_tools}))
    assert upstream.requests[0]["tools"] == [*client_tools, operator_tools[1]]


@pytest.mark.parametrize("value", ["file_search", "mcp", "mcp:", "search"])
def test_unknown_tool_for_all_is_a_config_error(value: str) -> None:
    with pytest.raises(ConfigError, match="FORWARDER_TOOLS_FOR_ALL"):
        Settings.from_env({"FORWARDER_TOOLS_FOR_ALL": value})


def test_unknown_server_for_all_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="FORWARDER_TOOLS_FOR_ALL"):
        HostedToolServices(Settings.from_env({"FORWARDER_TOOLS_FOR_ALL": "mcp:nowhere"}))
