"""Hosted tools by settings, and through the whole forwarder over a Chat upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from forwarder.config.settings import ConfigError, Settings
from forwarder.hosted_tools.page_reader import PageFailure
from forwarder.hosted_tools.tool_context import ToolClient
from forwarder.hosted_tools.tool_services import HostedToolServices, build_page_reader
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.scripted import ScriptedUpstream
from tests.helpers.check_cases import check_each
from tests.helpers.hosted import host_forwarder
from tests.helpers.loopback import Peer, find_unused_port, run_server
from tests.hosted_tools.mcp_server_process import TOKEN, serving_mcp
from tests.hosted_tools.test_responses_loop import FakeClient

pytestmark = pytest.mark.live  # an MCP server in a process of its own

Json = dict[str, Any]
MCP: Json = {"type": "mcp", "server_label": "s", "server_url": "https://mcp.example/"}
SEARCH: Json = {"type": "web_search"}
SEARXNG = {"FORWARDER_WEB_SEARCH": "searxng", "FORWARDER_WEB_SEARCH_URL": "http://searxng.test"}


def build_context(environment: dict[str, str], **options: Any) -> Any:
    services = HostedToolServices(Settings.from_env(environment))
    return services.make_context(FakeClient(), ToolClient("account"), **options)


def can_open_pages(environment: dict[str, str]) -> bool:
    search = HostedToolServices(Settings.from_env(environment)).find_search("account")
    return search is not None and search.reader is not None


def test_urls_of_clients_need_keys_and_the_setting() -> None:
    keys = {"FORWARDER_API_KEYS": "k"}
    assert build_context(keys).find_kind(MCP)
    assert not build_context({}).find_kind(MCP)
    assert not build_context({**keys, "FORWARDER_MCP_URLS": "off"}).find_kind(MCP)


def test_servers_of_the_operator_need_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"s": {"command": "true"}}}))
    context = build_context({"FORWARDER_MCP_SERVERS": str(path)})
    assert context.find_kind({"type": "mcp", "server_label": "s"})
    assert not context.find_kind({"type": "mcp", "server_label": "other"})
    assert not context.find_kind(MCP)


def test_invalid_server_file_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    for content in (None, "{}"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigError, match="FORWARDER_MCP_SERVERS"):
            build_context({"FORWARDER_MCP_SERVERS": str(path)})


def test_web_search_is_off_unless_an_engine_is_set() -> None:
    assert not build_context({}).find_kind(SEARCH)
    assert build_context(SEARXNG).find_kind(SEARCH)
    assert not build_context(SEARXNG, native=frozenset({"web_search"})).find_kind(SEARCH)


def test_pages_are_opened_only_for_clients_with_keys() -> None:
    keys = {**SEARXNG, "FORWARDER_API_KEYS": "k"}
    assert can_open_pages(keys)
    assert not can_open_pages({**keys, "FORWARDER_FETCH": "off"})
    assert not can_open_pages(SEARXNG)


def test_fetched_pages_have_the_size_limit_of_the_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("forwarder.hosted_tools.tool_services.MAX_PAGE_BYTES", 100)
    keys = {"FORWARDER_API_KEYS": "k", "FORWARDER_FETCH_ALLOW": "127.0.0.1"}
    reader = build_page_reader(Settings.from_env(keys))
    assert reader is not None

    def serve(peer: Peer) -> None:
        peer.request()
        peer.answer(b"a" * 1000, b"Content-Type: text/plain", b"Connection: close")

    with run_server(serve) as server, pytest.raises(PageFailure, match="too large, alone"):
        reader.read_page(f"http://127.0.0.1:{server.port}/", "client")


@check_each(
    ("engine", "missing"),
    [("searxng", "FORWARDER_WEB_SEARCH_URL"), ("exa", "FORWARDER_WEB_SEARCH_KEY")],
)
def test_engine_without_address_or_key_is_a_config_error(engine: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        Settings.from_env({"FORWARDER_WEB_SEARCH": engine})


UPSTREAM = {"CHAT_BASE_URL": "http://up.test/v1", "CHAT_API_KEY": "sk"}


@check_each(
    ("source", "settings", "reason"),
    [
        ("upstream:chat", UPSTREAM, "must be off, searxng, .* upstream:NAME/MODEL"),
        ("bing", UPSTREAM, "must be off, searxng"),
        ("upstream:other/m", UPSTREAM, "must name an upstream with a key of its own"),
        ("upstream:chat/m", {**UPSTREAM, "CHAT_API_KEY": "passthrough"}, "key of its own"),
        ("mcp:web/search", UPSTREAM, "needs a server in FORWARDER_MCP_SERVERS"),
        ("mcp:web", UPSTREAM, "mcp:LABEL/TOOL"),
    ],
)
def test_invalid_search_source_is_a_config_error(
    source: str, settings: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        Settings.from_env({**settings, "FORWARDER_WEB_SEARCH": source})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("images:chat", "must be off, images:NAME/MODEL, or model:NAME/MODEL"),
        ("dalle", "must be off, images:NAME/MODEL, or model:NAME/MODEL"),
        ("images:other/m", "must name an upstream with a key of its own"),
        ("model:other/m", "must name an upstream with a key of its own"),
    ],
)
def test_invalid_image_maker_is_a_config_error(source: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Settings.from_env({**UPSTREAM, "FORWARDER_IMAGE_GENERATION": source})


def test_images_are_off_unless_a_maker_is_set() -> None:
    tool = {"type": "image_generation"}
    assert not build_context(UPSTREAM).find_kind(tool)
    for source in ("images:chat/m", "model:chat/m"):
        context = build_context({**UPSTREAM, "FORWARDER_IMAGE_GENERATION": source})
        assert context.find_kind(tool)


def test_search_by_an_unknown_server_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"web": {"command": "true"}}}))
    servers = {"FORWARDER_MCP_SERVERS": str(path)}
    assert build_context({**servers, "FORWARDER_WEB_SEARCH": "mcp:web/search"}).find_kind(SEARCH)
    with pytest.raises(ConfigError, match="must name a server in FORWARDER_MCP_SERVERS"):
        build_context({**servers, "FORWARDER_WEB_SEARCH": "mcp:other/search"})


# -- through the forwarder ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mcp_base_url() -> Iterator[str]:
    with serving_mcp("--protected") as mcp_base_url:
        yield mcp_base_url


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def client(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[openai.OpenAI]:
    environment = {
        "CHAT_BASE_URL": upstream.url,
        "FORWARDER_API_KEYS": "k",
        "FORWARDER_REMOTE_ALLOW": "127.0.0.1",
        "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
    }
    with (
        host_forwarder(environment) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0) as client,
    ):
        yield client


def make_mcp_tool(mcp_base_url: str, **more: Any) -> Any:
    return {
        "type": "mcp",
        "server_label": "tests",
        "server_url": f"{mcp_base_url}/mcp",
        "authorization": TOKEN,
        "require_approval": "never",
        **more,
    }


def make_call_answer(name: str, **arguments: Any) -> Answer:
    return Answer(calls=[Call(name=name, arguments=json.dumps(arguments))])


def test_sdk_streams_a_response_with_an_mcp_call(
    client: openai.OpenAI, upstream: ScriptedUpstream, mcp_base_url: str
) -> None:
    upstream.script(make_call_answer("tests__echo", text="hi"), Answer(text="It said hi."))
    with client.responses.stream(
        model="m", input="go", tools=[make_mcp_tool(mcp_base_url)]
    ) as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert "response.mcp_call.completed" in kinds
    assert kinds.count("response.completed") == 1
    assert response.output_text == "It said hi."
    call: Any = response.output[1]
    assert (call.type, call.output, call.status) == ("mcp_call", "hi", "completed")
    assert TOKEN not in response.model_dump_json()
    messages = upstream.requests[1].body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[2]["content"] == "hi"


def test_next_turn_continues_from_the_stored_response(
    client: openai.OpenAI, upstream: ScriptedUpstream, mcp_base_url: str
) -> None:
    upstream.script(
        make_call_answer("tests__echo", text="hi"), Answer(text="It said hi."), Answer(text="Bye.")
    )
    tools = [make_mcp_tool(mcp_base_url)]
    first = client.responses.create(model="m", input="go", tools=tools)
    stored = client.responses.retrieve(first.id)
    assert [item.type for item in stored.output] == ["mcp_list_tools", "mcp_call", "message"]
    second = client.responses.create(
        model="m", input="bye", tools=tools, previous_response_id=first.id
    )
    assert [item.type for item in second.output] == ["message"]
    roles = [message["role"] for message in upstream.requests[2].body["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_approval_works_with_stored_responses(
    client: openai.OpenAI, upstream: ScriptedUpstream, mcp_base_url: str
) -> None:
    upstream.script(make_call_answer("tests__add", a=2, b=3), Answer(text="5."))
    tools = [make_mcp_tool(mcp_base_url, require_approval="always")]
    first = client.responses.create(model="m", input="go", tools=tools)
    request: Any = first.output[-1]
    assert request.type == "mcp_approval_request"
    answer: Any = {
        "type": "mcp_approval_response",
        "approval_request_id": request.id,
        "approve": True,
    }
    second = client.responses.create(
        model="m", input=[answer], tools=tools, previous_response_id=first.id
    )
    call: Any = second.output[0]
    assert (call.type, call.output) == ("mcp_call", "5")
    assert second.output_text == "5."


def test_background_response_runs_tools(
    client: openai.OpenAI, upstream: ScriptedUpstream, mcp_base_url: str
) -> None:
    upstream.script(make_call_answer("tests__echo", text="hi"), Answer(text="Done."))
    stream = client.responses.create(
        model="m", input="go", tools=[make_mcp_tool(mcp_base_url)], background=True, stream=True
    )
    last: Any = list(stream)[-1]
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == [
        "mcp_list_tools", "mcp_call", "message"
    ]  # fmt: skip
    assert len(upstream.requests) == 2


def test_invalid_server_is_rejected_by_name(client: openai.OpenAI, mcp_base_url: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(
            model="m",
            input="go",
            tools=[make_mcp_tool(mcp_base_url, server_url="file:///etc/passwd")],
        )
    assert caught.value.param == "tools[0].server_url"


def test_preview_calls_no_server(client: openai.OpenAI, mcp_base_url: str) -> None:
    input_items: list[Any] = [
        {
            "type": "mcp_approval_request",
            "id": "mcpr_1",
            "name": "die",
            "server_label": "tests",
            "arguments": "{}",
        },
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    ]
    body: Json = {
        "model": "m",
        "input": input_items,
        "tools": [make_mcp_tool("http://127.0.0.1:1")],
    }
    address = str(client.base_url).removesuffix("/v1/")
    report: Any = client.post(f"{address}/forwarder/translate", body=body, cast_to=object)
    messages = report["request"]["messages"]
    assert [message["role"] for message in messages] == ["assistant", "tool"]


def test_fallback_does_not_repeat_an_approved_call(
    upstream: ScriptedUpstream, mcp_base_url: str, tmp_path: Path
) -> None:
    environment = {
        "FORWARDER_UPSTREAMS": "chat,spare",
        "CHAT_BASE_URL": f"http://127.0.0.1:{find_unused_port()}",
        "CHAT_FALLBACK": "spare",
        "SPARE_BASE_URL": upstream.url,
        "FORWARDER_API_KEYS": "k",
        "FORWARDER_REMOTE_ALLOW": "127.0.0.1",
        "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
    }
    rule = {"always": {"tool_names": ["note"]}, "never": {"tool_names": ["events"]}}
    tools = [make_mcp_tool(mcp_base_url, require_approval=rule)]
    with (
        host_forwarder(environment) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0) as client,
    ):
        upstream.script(make_call_answer("tests__note"), Answer(text="Noted."))
        first = client.responses.create(model="m", input="go", tools=tools)
        approval: Any = {
            "type": "mcp_approval_response",
            "approval_request_id": first.output[-1].id,
            "approve": True,
        }
        second = client.responses.create(
            model="m", input=[approval], tools=tools, previous_response_id=first.id
        )
        assert second.output_text == "Noted."
        upstream.script(make_call_answer("tests__events"), Answer(text="Done."))
        third = client.responses.create(model="m", input="go", tools=tools)
    note_call: Any = third.output[1]
    assert note_call.output.count("note called") == 1


def test_other_upstream_searches_for_the_model(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    citation = {
        "type": "url_citation",
        "start_index": 0,
        "end_index": 4,
        "title": "Cats",
        "url": "https://example.org/cats",
    }
    part = {"type": "output_text", "text": "Cats sleep.", "annotations": [citation]}
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    search_response = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "output": [message],
    }

    def search(peer: Peer) -> None:
        peer.request()
        body = json.dumps({**search_response, "created_at": 1, "model": "searcher"}).encode()
        peer.answer(body, b"Content-Type: application/json", b"Connection: close")

    text = "They sleep ([Cats](https://example.org/cats))."
    upstream.script(make_call_answer("web_search", query="cats"), Answer(text=text))
    with run_server(search) as searcher:
        environment = {
            "CHAT_BASE_URL": upstream.url,
            "RESPONSES_BASE_URL": f"http://127.0.0.1:{searcher.port}/v1",
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
            "FORWARDER_WEB_SEARCH": "upstream:responses/searcher",
        }
        with (
            host_forwarder(environment) as address,
            openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0) as client,
        ):
            response: Any = client.responses.create(model="chat/m", input="cats?", tools=[SEARCH])
    assert [item.type for item in response.output] == ["web_search_call", "message"]
    assert response.output[0].status == "completed"
    assert response.output[1].content[0].annotations[0].url == "https://example.org/cats"
    result = upstream.requests[1].body["messages"][-1]["content"]
    assert result.startswith("Cats sleep.\n\n1. Cats\nURL: https://example.org/cats")
    search_request = json.loads(searcher.requests[0].partition(b"\r\n\r\n")[2])
    assert (search_request["model"], search_request["input"]) == ("searcher", "cats")
    assert search_request["tools"] == [{"type": "web_search", "search_context_size": "medium"}]


@pytest.fixture
def searching_client(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[openai.OpenAI]:
    """A client of a forwarder with a search engine of SearXNG's shape and stored files."""
    page = {"title": "Cats", "url": "https://example.org/cats", "content": "Cats sleep."}

    def answer(peer: Peer) -> None:
        peer.request()
        peer.answer(json.dumps({"results": [page]}).encode(), b"Connection: close")

    with run_server(answer) as searxng:
        environment = {
            "CHAT_BASE_URL": upstream.url,
            "FORWARDER_FILES": "store",
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
            "FORWARDER_WEB_SEARCH": "searxng",
            "FORWARDER_WEB_SEARCH_URL": f"http://127.0.0.1:{searxng.port}",
        }
        with (
            host_forwarder(environment) as address,
            openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0) as client,
        ):
            yield client


@pytest.mark.parametrize("kind", ["web_search", "web_search_2025_08_26"])
def test_next_turn_includes_the_search_without_tools(
    searching_client: openai.OpenAI, upstream: ScriptedUpstream, kind: Any
) -> None:
    upstream.script(
        make_call_answer("web_search", query="cats"), Answer(text="Asleep."), Answer(text="Yes.")
    )
    tool: Any = {"type": kind, "search_context_size": "low"}
    stream = searching_client.responses.create(model="m", input="cats?", tools=[tool], stream=True)
    first: Any = list(stream)[-1]
    second = searching_client.responses.create(
        model="m", input="Sure?", previous_response_id=first.response.id
    )
    assert [item.type for item in second.output] == ["message"]
    body = upstream.requests[2].body
    assert [message["role"] for message in body["messages"]] == [
        "user", "assistant", "tool", "assistant", "user"
    ]  # fmt: skip
    assert "tools" not in body


def test_log_probabilities_of_the_last_round_are_included(
    searching_client: openai.OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(make_call_answer("web_search", query="cats"), Answer(text="Asleep."))
    searching_client.responses.create(
        model="m", input="cats?", tools=[SEARCH], include=["message.output_text.logprobs"]
    )  # type: ignore[call-overload]
    assert [request.body.get("logprobs") for request in upstream.requests] == [True, True]


def test_search_of_an_empty_store_is_completed_without_results(
    searching_client: openai.OpenAI, upstream: ScriptedUpstream
) -> None:
    store = searching_client.vector_stores.create(name="empty")
    upstream.script(make_call_answer("file_search", query="experts"), Answer(text="I do not know."))
    response = searching_client.responses.create(
        model="m",
        input="How many?",
        tools=[{"type": "file_search", "vector_store_ids": [store.id]}],
        include=["file_search_call.results"],
    )
    search: Any = response.output[0]
    assert (search.status, search.queries, search.results) == ("completed", ["experts"], [])
    assert response.output_text == "I do not know."


def test_filters_of_the_tool_select_files(
    searching_client: openai.OpenAI, upstream: ScriptedUpstream
) -> None:
    store = searching_client.vector_stores.create(name="reports")
    for region, quarter in (("us", 1), ("us", 2), ("eu", 1)):
        searching_client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id,
            file=(f"{region}{quarter}.txt", f"Report of {region}, Q{quarter}.".encode()),
            attributes={"region": region, "quarter": quarter},
            poll_interval_ms=20,
        )
    upstream.script(make_call_answer("file_search", query="report"), Answer(text="One."))
    filters: Any = {
        "type": "and",
        "filters": [
            {"type": "eq", "key": "region", "value": "us"},
            {"type": "lt", "key": "quarter", "value": 2},
        ],
    }
    response = searching_client.responses.create(
        model="m",
        input="What is new?",
        tools=[{"type": "file_search", "vector_store_ids": [store.id], "filters": filters}],
        include=["file_search_call.results"],
    )
    search: Any = response.output[0]
    assert [result.filename for result in search.results] == ["us1.txt"]
    assert search.results[0].attributes == {"region": "us", "quarter": 1}


def test_parallel_tool_calls_false_is_sent_in_each_round(
    client: openai.OpenAI, upstream: ScriptedUpstream, mcp_base_url: str
) -> None:
    upstream.script(
        make_call_answer("tests__echo", text="a"),
        make_call_answer("tests__echo", text="b"),
        Answer(text="Done."),
    )
    response = client.responses.create(
        model="m", input="go", tools=[make_mcp_tool(mcp_base_url)], parallel_tool_calls=False
    )
    assert [item.type for item in response.output] == [
        "mcp_list_tools", "mcp_call", "mcp_call", "message"
    ]  # fmt: skip
    assert response.parallel_tool_calls is False
    parallel_parameters = [request.body.get("parallel_tool_calls") for request in upstream.requests]
    assert parallel_parameters == [False, False, False]


def test_max_tool_calls_does_not_limit_client_functions(
    client: openai.OpenAI, upstream: ScriptedUpstream, mcp_base_url: str
) -> None:
    calls = [Call("get_weather", "{}"), Call("get_time", "{}")]
    functions: Any = [
        {"type": "function", "name": call.name, "parameters": {"type": "object", "properties": {}}}
        for call in calls
    ]
    for tools in (functions, [*functions, make_mcp_tool(mcp_base_url)]):
        upstream.script(Answer(calls=calls))
        response: Any = client.responses.create(
            model="m", input="go", tools=tools, max_tool_calls=1
        )
        names = [item.name for item in response.output if item.type == "function_call"]
        assert names == ["get_weather", "get_time"]
        assert response.max_tool_calls == 1


def test_model_makes_images_and_edits_those_of_stored_turns(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    urls = [f"data:image/png;base64,{data}" for data in ("iVBORw0KGgoA", "iVBORw0KGgoB")]

    def draw(peer: Peer) -> None:
        while peer.request():
            image = {"type": "image_url", "image_url": {"url": urls[len(artist.requests) - 1]}}
            message = {"role": "assistant", "content": None, "images": [image]}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "c", "object": "chat.completion", "choices": [choice]}
            body = json.dumps({**answer, "created": 1, "model": "artist"}).encode()
            peer.answer(body, b"Content-Type: application/json")

    upstream.script(
        make_call_answer("image_generation", prompt="a cat"), Answer(text="Here."),
        make_call_answer("image_generation", prompt="darker", action="edit"), Answer(text="Darker."),
    )  # fmt: skip
    tool: Any = {"type": "image_generation"}
    with run_server(draw) as artist:
        environment = {
            "FORWARDER_UPSTREAMS": "chat,artist",
            "CHAT_BASE_URL": upstream.url,
            "ARTIST_API": "chat",
            "ARTIST_BASE_URL": f"http://127.0.0.1:{artist.port}/v1",
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
            "FORWARDER_IMAGE_GENERATION": "model:artist/artist",
        }
        with (
            host_forwarder(environment) as address,
            openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0) as client,
        ):
            first = client.responses.create(model="chat/m", input="A cat!", tools=[tool])
            second: Any = client.responses.create(
                model="chat/m", input="Darker!", tools=[tool], previous_response_id=first.id
            )
    image: Any = first.output[0]
    assert (image.status, image.result) == ("completed", "iVBORw0KGgoA")
    assert (second.output[0].action, second.output[0].result) == ("edit", "iVBORw0KGgoB")
    image_requests = [
        json.loads(raw_request.partition(b"\r\n\r\n")[2]) for raw_request in artist.requests
    ]
    assert image_requests[1]["messages"][0]["content"] == [
        {"type": "text", "text": "darker"},
        {"type": "image_url", "image_url": {"url": urls[0]}},
    ]
