"""The MCP client against servers built with the official SDK."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools import mcp_client
from forwarder.hosted_tools.asyncio_thread import PendingTask, TaskCancelled
from forwarder.hosted_tools.mcp_client import (
    ENTRY_BYTES,
    McpClient,
    McpConnections,
    McpFailure,
    McpLimits,
    ToolCache,
)
from forwarder.hosted_tools.mcp_content import CUT_NOTE, MAX_TEXT_LENGTH, ToolResult
from forwarder.hosted_tools.mcp_server import McpServer
from forwarder.hosted_tools.mcp_session import SessionLimits, hide_result_secrets
from tests.helpers.loopback import encode_chunk, find_unused_port, run_server
from tests.hosted_tools.mcp_server_process import TOKEN, serving_mcp

pytestmark = pytest.mark.live  # an MCP server in a process of its own

LOOPBACK = AddressGuard(["127.0.0.1"])


@pytest.fixture(scope="module")
def mcp_base_url() -> Iterator[str]:
    with serving_mcp() as mcp_base_url:
        yield mcp_base_url


@pytest.fixture
def client() -> Iterator[McpClient]:
    client = McpClient(LOOPBACK)
    yield client
    client.close()


@pytest.fixture
def connections(client: McpClient) -> Iterator[McpConnections]:
    connections = client.open_connections()
    yield connections
    connections.close()


def make_server(mcp_base_url: str, path: str = "/mcp", **headers: str) -> McpServer:
    return McpServer("tests", url=mcp_base_url + path, headers=headers)


def get_failure(task: PendingTask[Any]) -> McpFailure:
    with pytest.raises(McpFailure) as caught:
        task.unwrap()
    return caught.value


def wait_for_event(connections: McpConnections, server: McpServer, event: str) -> None:
    for _ in range(100):
        if event in connections.call_tool(server, "events", {}).unwrap().text:
            return
        time.sleep(0.05)
    raise AssertionError(event)


def test_tools_are_listed_with_schemas_and_annotations(
    mcp_base_url: str, connections: McpConnections
) -> None:
    tools = {
        tool["name"]: tool for tool in connections.list_tools(make_server(mcp_base_url)).unwrap()
    }
    assert tools["echo"]["description"] == "Say a text again."
    assert tools["echo"]["input_schema"]["properties"]["text"]["type"] == "string"
    assert tools["echo"]["annotations"] == {"readOnlyHint": True}
    assert tools["add"]["annotations"] is None


def test_call_returns_texts_structures_and_images(
    mcp_base_url: str, connections: McpConnections
) -> None:
    server = make_server(mcp_base_url)
    assert connections.call_tool(server, "echo", {"text": "höi"}).unwrap().output == "höi"
    assert connections.call_tool(server, "add", {"a": 1, "b": 2}).unwrap().output == "3"
    picture = connections.call_tool(server, "picture", {}).unwrap()
    assert picture.text.splitlines()[0] == "a pixel"
    assert isinstance(picture.output, list)
    assert [part["type"] for part in picture.output] == ["input_text", "input_image"]
    assert picture.output[1]["image_url"].startswith("data:image/png;base64,iVBOR")


def test_calls_of_one_response_run_at_the_same_time(
    mcp_base_url: str, connections: McpConnections
) -> None:
    server = make_server(mcp_base_url)
    connections.call_tool(server, "echo", {"text": "warm"}).unwrap()
    started_at = time.monotonic()
    tasks = [connections.call_tool(server, "hang", {"seconds": 0.5}) for _ in range(5)]
    assert [task.unwrap().text for task in tasks] == ["slept"] * 5
    assert time.monotonic() - started_at < 2


def test_failing_tool_is_a_result_with_an_error(
    mcp_base_url: str, connections: McpConnections
) -> None:
    result = connections.call_tool(make_server(mcp_base_url), "fail", {}).unwrap()
    assert result.is_error
    assert "the disk is full" in result.text


def test_invalid_arguments_are_a_result_with_an_error(
    mcp_base_url: str, connections: McpConnections
) -> None:
    assert connections.call_tool(make_server(mcp_base_url), "add", {"a": "one"}).unwrap().is_error


def test_unknown_tool_is_a_result_with_an_error(
    mcp_base_url: str, connections: McpConnections
) -> None:
    result = connections.call_tool(make_server(mcp_base_url), "nosuch", {}).unwrap()
    assert result.is_error
    assert "nosuch" in result.text


def test_long_text_is_cut(mcp_base_url: str, connections: McpConnections) -> None:
    task = connections.call_tool(
        make_server(mcp_base_url), "long_text", {"length": MAX_TEXT_LENGTH + 10}
    )
    text = task.unwrap().text
    assert text == "x" * MAX_TEXT_LENGTH + CUT_NOTE


def test_response_above_the_limit_fails(mcp_base_url: str) -> None:
    client = McpClient(LOOPBACK, McpLimits(sessions=SessionLimits(max_response=50_000)))
    connections = client.open_connections()
    server = make_server(mcp_base_url)
    failure = get_failure(connections.call_tool(server, "long_text", {"length": 100_000}))
    assert "too large" in failure.message
    assert connections.call_tool(server, "echo", {"text": "a"}).unwrap().text == "a"
    connections.close()
    client.close()


def test_bearer_token_is_sent_and_a_refusal_names_the_status(client: McpClient) -> None:
    with serving_mcp("--protected") as mcp_base_url:
        connections = client.open_connections()
        authorized_server = make_server(mcp_base_url, Authorization=f"Bearer {TOKEN}")
        assert (
            connections.call_tool(authorized_server, "echo", {"text": "in"}).unwrap().text == "in"
        )
        for server in (
            make_server(mcp_base_url),
            make_server(mcp_base_url, Authorization="Bearer wrong-token"),
        ):
            failure = get_failure(connections.list_tools(server))
            assert (failure.kind, failure.code) == ("http_error", 401)
            assert "401" in failure.message
            assert "wrong-token" not in failure.message
        connections.close()


def test_hanging_call_ends_at_its_time_limit_and_notifies_the_server(mcp_base_url: str) -> None:
    client = McpClient(LOOPBACK, McpLimits(call_seconds=1.0))
    connections = client.open_connections()
    server = make_server(mcp_base_url)
    connections.call_tool(server, "echo", {"text": "warm"}).unwrap()
    started_at = time.monotonic()
    with pytest.raises(TimeoutError):
        connections.call_tool(server, "hang", {}).unwrap()
    assert 0.9 < time.monotonic() - started_at < 3
    wait_for_event(connections, server, "hang cancelled")
    connections.close()
    client.close()


def test_cancelled_call_ends_immediately(mcp_base_url: str, connections: McpConnections) -> None:
    server = make_server(mcp_base_url)
    task = connections.call_tool(server, "hang", {})
    wait_for_event(connections, server, "hang started")
    started_at = time.monotonic()
    task.cancel()
    with pytest.raises(TaskCancelled):
        task.unwrap()
    assert time.monotonic() - started_at < 2


def test_server_that_dies_in_a_call_fails_it(client: McpClient) -> None:
    with serving_mcp() as mcp_base_url:
        connections = client.open_connections()
        server = make_server(mcp_base_url)
        connections.call_tool(server, "echo", {"text": "warm"}).unwrap()
        failure = get_failure(connections.call_tool(server, "die", {}))
        assert failure.code == -32000
        assert "127.0.0.1" not in failure.message
        next_failure = get_failure(connections.call_tool(server, "echo", {"text": "a"}))
        assert "cannot be reached" in next_failure.message
        connections.close()


@pytest.mark.parametrize("options", [["--old"], ["--transport", "sse"]])
def test_servers_of_earlier_protocols_are_supported(client: McpClient, options: list[str]) -> None:
    with serving_mcp(*options) as mcp_base_url:
        connections = client.open_connections()
        server = make_server(mcp_base_url, "/sse" if "sse" in options else "/mcp")
        assert len(connections.list_tools(server).unwrap()) > 5
        assert connections.call_tool(server, "echo", {"text": "old"}).unwrap().text == "old"
        connections.close()


def test_command_of_the_operator_is_a_server(client: McpClient) -> None:
    module = "tests.hosted_tools.mcp_server_process"
    command = (sys.executable, "-m", module, "--transport", "stdio")
    server = McpServer("local", command=command, is_trusted=True)
    for _ in range(2):  # the session outlives the first response
        connections = client.open_connections()
        assert connections.call_tool(server, "note", {}).unwrap().text == "noted"
        connections.close()
    connections = client.open_connections()
    notes = connections.call_tool(server, "events", {}).unwrap().text
    assert notes.count("note called") == 2
    failure = get_failure(connections.call_tool(server, "die", {}))
    assert failure.code == -32000
    assert connections.call_tool(server, "echo", {"text": "up"}).unwrap().text == "up"
    connections.close()


def test_error_of_a_command_keeps_its_session(client: McpClient) -> None:
    module = "tests.hosted_tools.mcp_server_process"
    command = (sys.executable, "-m", module, "--transport", "stdio")
    server = McpServer("local", command=command, is_trusted=True)
    connections = client.open_connections()
    connections.call_tool(server, "note", {}).unwrap()
    failure = get_failure(connections.call_tool(server, "refuse", {}))
    assert (failure.code, failure.message) == (-32000, "the quota is used up")
    assert "note called" in connections.call_tool(server, "events", {}).unwrap().text
    connections.close()


def test_missing_command_fails(client: McpClient) -> None:
    server = McpServer("local", command=("/nonexistent/program",), is_trusted=True)
    connections = client.open_connections()
    assert "cannot be started" in get_failure(connections.list_tools(server)).message
    connections.close()


def test_guard_refuses_private_addresses_of_clients_but_not_of_the_operator(
    mcp_base_url: str,
) -> None:
    client = McpClient(AddressGuard())
    connections = client.open_connections()
    failure = get_failure(connections.list_tools(make_server(mcp_base_url)))
    assert "no address that may be connected to" in failure.message
    trusted = McpServer("tests", url=f"{mcp_base_url}/mcp", is_trusted=True)
    assert connections.list_tools(trusted).unwrap()
    connections.close()
    client.close()


def test_name_is_looked_up_once_and_its_address_used(mcp_base_url: str) -> None:
    port = mcp_base_url.rpartition(":")[2]
    looked_up_hosts: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        looked_up_hosts.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    client = McpClient(AddressGuard(["localhost"], resolve))
    connections = client.open_connections()
    server = McpServer("tests", url=f"http://localhost:{port}/mcp")
    assert connections.list_tools(server).unwrap()
    assert set(looked_up_hosts) == {"localhost"}
    connections.close()
    client.close()


def test_unreachable_server_fails(connections: McpConnections) -> None:
    server = make_server(f"http://127.0.0.1:{find_unused_port()}")
    assert "cannot be reached" in get_failure(connections.list_tools(server)).message


def test_redirect_to_another_host_is_not_followed(connections: McpConnections) -> None:
    def redirect(peer: Any) -> None:
        while peer.request():
            peer.send(
                b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/\r\n"
                b"Content-Length: 0\r\n\r\n"
            )

    with run_server(redirect) as server:
        failure = get_failure(
            connections.list_tools(make_server(f"http://127.0.0.1:{server.port}"))
        )
    assert "169.254.169.254" not in failure.message or failure.kind == "mcp_protocol_error"


def test_secrets_reach_no_log_and_no_error(
    connections: McpConnections, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer_with_error(peer: Any) -> None:
        while request := peer.request():
            message_in = json.loads(request.partition(b"\r\n\r\n")[2])
            error = {"code": -1, "message": f"bad token {TOKEN}"}
            reply = {"jsonrpc": "2.0", "id": message_in["id"], "error": error}
            peer.answer(json.dumps(reply).encode(), b"Content-Type: application/json")

    with run_server(answer_with_error) as server, caplog.at_level("DEBUG"):
        mcp_base_url = f"http://127.0.0.1:{server.port}"
        mcp_server = make_server(
            mcp_base_url, "/mcp?token=hunter2-hunter2", Authorization=f"Bearer {TOKEN}"
        )
        message = get_failure(connections.list_tools(mcp_server)).message
    output = message + "".join(capfd.readouterr())
    output += "".join(r.getMessage() for r in caplog.records if not r.name.startswith("http"))
    assert message == "bad token ***"
    assert "sesame" not in output
    assert "hunter2" not in output


def test_secrets_of_the_server_are_hidden_in_all_parts_of_a_result() -> None:
    server = McpServer("s", url="http://host/", headers={"Authorization": f"Bearer {TOKEN}"})
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"}
    text = f"got {TOKEN}"
    parts = [{"type": "input_text", "text": text}, image]
    hidden = hide_result_secrets(ToolResult(parts, text), server)
    assert hidden.output == [{"type": "input_text", "text": "got ***"}, image]
    assert hidden.text == "got ***"


def test_endless_response_is_bounded() -> None:
    def flood(peer: Any) -> None:
        while peer.request():
            peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(400):
                peer.send(encode_chunk(b" " * 65536))

    client = McpClient(LOOPBACK, McpLimits(sessions=SessionLimits(max_response=2**20)))
    connections = client.open_connections()
    with run_server(flood) as server:
        failure = get_failure(
            connections.list_tools(make_server(f"http://127.0.0.1:{server.port}"))
        )
    assert "too large" in failure.message
    connections.close()
    client.close()


def test_lists_are_cached_by_credentials_and_expire(mcp_base_url: str) -> None:
    client = McpClient(LOOPBACK, McpLimits(cache_seconds=0.5))
    server = make_server(mcp_base_url)

    def measure_listing(server: McpServer) -> float:
        connections = client.open_connections()
        started_at = time.monotonic()
        connections.list_tools(server).unwrap()
        connections.close()
        return time.monotonic() - started_at

    measure_listing(server)
    other_server = McpServer("tests", url=server.url, headers={"X-Key": "other-key"})
    assert client._cache.get_tools(server) is not None
    assert client._cache.get_tools(other_server) is None
    time.sleep(0.6)
    assert client._cache.get_tools(server) is None
    measure_listing(server)
    client.close()


def test_cached_lists_are_bounded_even_if_they_are_empty() -> None:
    cache = ToolCache(60.0, 3 * ENTRY_BYTES)
    servers = [McpServer("a", f"https://example.org/{number}") for number in range(4)]
    for server in servers:
        cache.add_tools(server, [])
    assert [cache.get_tools(server) for server in servers] == [None, None, [], []]


def test_idle_sessions_of_commands_are_reused_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mcp_client, "MAX_SHARED_SESSIONS", 4)
    client = McpClient(AddressGuard())
    servers = [McpServer("a", command=("run", str(number))) for number in range(5)]

    async def borrow_all() -> list[bool]:
        sessions = []
        for server in servers:
            sessions.append(client.borrow_session(server))
            client.return_session(server)
        return [client.borrow_session(servers[i]) is sessions[i] for i in (1, 2, 3, 4, 0)]

    assert asyncio.run(borrow_all()) == [True, True, True, True, False]
    client.close()


def test_closed_client_cancels_calls_and_starts_none(mcp_base_url: str) -> None:
    client = McpClient(LOOPBACK)
    connections = client.open_connections()
    server = make_server(mcp_base_url)
    connections.call_tool(server, "echo", {"text": "warm"}).unwrap()
    task = connections.call_tool(server, "hang", {})
    time.sleep(0.1)
    client.close()
    with pytest.raises(TaskCancelled):
        task.unwrap()
    with pytest.raises(TaskCancelled):
        connections.list_tools(server)
    connections.close()  # must not raise
