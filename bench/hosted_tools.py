"""The cost of hosted tools, and their pauses in other streams: ``python -m bench.hosted_tools``."""

from __future__ import annotations

import argparse
import http.client
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from bench.measure import make_forwarder_environment
from bench.processes import (
    ServerProcess,
    list_process_tree,
    read_process_cpu_time,
    run_server,
)
from bench.shape import Shape

Json = dict[str, Any]

TOOLS: dict[str, Json] = {
    "web_search": {"type": "web_search"},
    "mcp": {"type": "mcp", "server_label": "bench", "require_approval": "never"},
}
_CLIENT_TOOL: Json = {"type": "function", "name": "look", "parameters": {"type": "object"}}

_MCP_SERVER = """\
from mcp.server.mcpserver import MCPServer

server = MCPServer("bench")


@server.tool()
def look(query: str) -> str:
    return "A result. " * 20


server.run("stdio")
"""

_REQUESTS = 60
_LOOPS = 10
_NEIGHBOUR = Shape(text=400, pause=20)
_RESULTS = [
    {"url": f"https://example.org/{i}", "title": f"Page {i}", "content": "A result. " * 20}
    for i in range(5)
]


# -- the upstream whose model calls tools, and the search engine -------------------------------


class ToolUpstream(BaseHTTPRequestHandler):
    """Calls the first function as often as the model name ``rounds-N`` says, then answers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("application/json", orjson.dumps({"results": _RESULTS}))

    def do_POST(self) -> None:
        request = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rounds = int(request["model"].rpartition("-")[2])
        results = sum(message["role"] == "tool" for message in request["messages"])
        deltas: list[Json] = [{"content": f"w{i:04d} "} for i in range(20)]
        if results < rounds:
            name = request["tools"][0]["function"]["name"]
            function = {"name": name, "arguments": '{"query":"cats"}'}
            call = {"index": 0, "id": f"call_{results}", "type": "function", "function": function}
            deltas = [{"role": "assistant", "tool_calls": [call]}]
        reason = "tool_calls" if results < rounds else "stop"
        choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": reason})
        frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunks = [orjson.dumps({**frame, "choices": [choice]}) for choice in choices]
        events = [b"data: " + chunk + b"\n\n" for chunk in [*chunks, b"[DONE]"]]
        self._answer("text/event-stream", b"".join(events))

    def _answer(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def run_upstream() -> Iterator[int]:
    """Serve in threads of this process, whose CPU time is not measured; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), ToolUpstream)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


# -- requests ----------------------------------------------------------------------------------


def send_request(port: int, model: str, tools: list[Json]) -> list[float]:
    """Send a streamed Responses request; returns the times at which its answer arrived."""
    body = {"model": model, "input": "Hi", "stream": True, "store": False, "tools": tools}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        "POST", "/v1/responses", orjson.dumps(body), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    arrivals, received = [], b""
    while data := response.read1(2**16):
        arrivals.append(time.monotonic())
        received = (received + data)[-20_000:]
    connection.close()
    if response.status != 200 or b"event: response.completed" not in received:
        raise SystemExit(f"status {response.status}: {received[-500:]!r}")
    return arrivals


def read_worker_time(server: ServerProcess) -> float:
    """Return the CPU microseconds of gunicorn's processes, without the MCP server."""
    pids = list_process_tree(server.pid)
    return sum(
        read_process_cpu_time(pid)
        for pid in pids
        if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def measure_cost(server: ServerProcess, model: str, tools: list[Json]) -> float:
    """Return the milliseconds of CPU of one request."""
    for _ in range(10):
        send_request(server.port, model, tools)
    costs = []
    for _ in range(3):
        before = read_worker_time(server)
        for _ in range(_REQUESTS // 3):
            send_request(server.port, model, tools)
        costs.append((read_worker_time(server) - before) / (_REQUESTS // 3) / 1000)
    return statistics.median(costs)


def measure_stall(port: int, loops: int, tools: list[Json]) -> float:
    """Return the longest pause of a paced stream in milliseconds while ``loops`` loops run."""
    is_over = threading.Event()

    def run_loop() -> None:
        while not is_over.is_set():
            send_request(port, "chat/rounds-4", tools)

    threads = [threading.Thread(target=run_loop) for _ in range(loops)]
    for thread in threads:
        thread.start()
    try:
        arrivals = send_request(port, f"responses/{_NEIGHBOUR.model}", [])
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    return max(gaps) * 1000 - _NEIGHBOUR.pause


def run_worker(folder: Path, stack: ExitStack) -> ServerProcess:
    """Run a worker with a search engine, an MCP server, and both upstreams."""
    script = folder / "server.py"
    script.write_text(_MCP_SERVER)
    command = {"command": sys.executable, "args": [str(script)]}
    config = folder / "mcp.json"
    config.write_bytes(orjson.dumps({"mcpServers": {"bench": command}}))
    tool_port = stack.enter_context(run_upstream())
    paced = stack.enter_context(run_server("upstream", ["bench.upstream", "{fd}"], folder))
    env = make_forwarder_environment(paced.port, "none") | {
        "CHAT_BASE_URL": f"http://127.0.0.1:{tool_port}/v1",
        "FORWARDER_WEB_SEARCH": "searxng",
        "FORWARDER_WEB_SEARCH_URL": f"http://127.0.0.1:{tool_port}",
        "FORWARDER_MCP_SERVERS": str(config),
        "FORWARDER_LOG_LEVEL": "ERROR",
    }
    module = ["gunicorn", "-w", "1", "-b", "fd://{fd}", "wsgi:app"]
    return stack.enter_context(run_server("forwarder", module, folder, env))


_ABOUT = """\
Measure the CPU time of hosted tools: one worker of the forwarder, a Chat upstream whose model calls
a tool, a search engine and an MCP server. Also measure the longest pause of a paced stream on the
same worker while ten such requests run. Needs Linux (/proc).
"""


def main() -> None:
    """Print the cost of a round, and the longest pause of another stream, for each tool."""
    argparse.ArgumentParser(
        prog="python -m bench.hosted_tools",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    with tempfile.TemporaryDirectory(prefix="hosted-") as folder, ExitStack() as stack:
        server = run_worker(Path(folder), stack)
        call_cost = measure_cost(server, "chat/rounds-1", [_CLIENT_TOOL])
        print(f"A request whose answer is a call: {call_cost:.2f} ms of CPU.")
        print(f"A paced stream alone pauses {measure_stall(server.port, 0, []):.0f} ms too long.\n")
        print("| tool | CPU per further round, ms | without its request, ms | longest pause, ms |")
        print("|---|--:|--:|--:|")
        for name, tool in TOOLS.items():
            one, four = (measure_cost(server, f"chat/rounds-{n}", [tool]) for n in (1, 4))
            round_cost = (four - one) / 3
            stall = measure_stall(server.port, _LOOPS, [tool])
            print(
                f"| {name} | {round_cost:.2f} | {round_cost - call_cost:.2f} | {stall:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
