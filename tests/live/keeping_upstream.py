"""A provider that stores responses and generates them in the background, as OpenAI does.

It generates a word every ``delay`` seconds, also without a client. Each increment of ``cuts`` cuts
the connections of the clients that read.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


class KeepingUpstream:
    """Serves ``POST /v1/responses``, ``GET /v1/responses/<id>`` and its ``/cancel``."""

    def __init__(self, words: int = 20, delay: float = 0.3) -> None:
        self.words = words
        self.delay = delay
        self.posts: list[Json] = []
        self.follows: list[str] = []
        self.cancelled: list[str] = []
        self.logs: dict[str, list[Json]] = {}
        self.cuts = 0
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                upstream._post(self)

            def do_GET(self) -> None:
                upstream.follows.append(self.path)
                upstream._stream(self, self.path.split("/")[-1].partition("?")[0])

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> KeepingUpstream:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def text(self) -> str:
        return "".join(f"word{i} " for i in range(self.words))

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if handler.path.endswith("/cancel"):
            self.cancelled.append(handler.path.split("/")[-2])
            self._send_json(handler, {"id": self.cancelled[-1], "object": "response"})
            return
        request = json.loads(data)
        self.posts.append(request)
        name = f"resp_upstream{len(self.posts)}"
        self.logs[name] = []
        threading.Thread(target=self._work, args=(name, request), daemon=True).start()
        if request.get("stream"):
            self._stream(handler, name)

    def _work(self, name: str, request: Json) -> None:
        log = self.logs[name]
        response: Json = {
            "id": name,
            "object": "response",
            "created_at": 1,
            "model": request["model"],
            "background": bool(request.get("background")),
            "status": "queued",
            "output": [],
            "metadata": request.get("metadata") or {},
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "error": None,
            "incomplete_details": None,
        }
        position = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item: Json = {"id": "msg_1", "type": "message", "role": "assistant"}

        def add(event_type: str, **fields: Any) -> None:
            log.append({"type": f"response.{event_type}", "sequence_number": len(log), **fields})

        add("created", response=response)
        add("in_progress", response={**response, "status": "in_progress"})
        open_item = {**item, "status": "in_progress", "content": []}
        add("output_item.added", output_index=0, item=open_item)
        add("content_part.added", **position, part=part)
        for i in range(self.words):
            time.sleep(self.delay)
            add("output_text.delta", **position, delta=f"word{i} ", logprobs=[])
        part = {**part, "text": self.text}
        item = {**item, "status": "completed", "content": [part]}
        add("output_text.done", **position, text=self.text, logprobs=[])
        add("content_part.done", **position, part=part)
        add("output_item.done", output_index=0, item=item)
        usage = {
            "input_tokens": 1,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 1,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 2,
        }
        done = {**response, "status": "completed", "output": [item], "usage": usage}
        add("completed", response=done)

    def _stream(self, handler: BaseHTTPRequestHandler, name: str) -> None:
        if name not in self.logs:
            handler.send_error(404)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        sent, cuts, log = 0, self.cuts, self.logs[name]
        try:
            while self.cuts == cuts:
                for event in log[sent:]:
                    data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
                    handler.wfile.write(data.encode())
                    sent += 1
                    if event["type"] == "response.completed":
                        return
                time.sleep(0.02)
        except OSError:
            return

    def _send_json(self, handler: BaseHTTPRequestHandler, body: Json) -> None:
        data = json.dumps(body).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
