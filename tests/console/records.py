"""Records of exchanges for the tests of pages."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> \u202eevil"


def make_chunk(at: float, finish: str | None = None, **delta: Any) -> Json:
    """Return a recorded chunk of Chat Completions."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "at": at,
        "data": {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]},
    }


def make_event(at: float, kind: str, **fields: Any) -> Json:
    """Return a recorded event of the Responses API."""
    return {"at": at, "event": kind, "data": {"type": kind, **fields}}


def make_attempt(body: Json, protocol: str = "chat", **more: Any) -> Json:
    """Return a recorded request to an upstream."""
    return {
        "upstream": "chat",
        "provider": "generic",
        "protocol": protocol,
        "url": "http://up.test/v1/chat/completions",
        "at": 1.0,
        "request": {"body": body},
        "answer": {"status": 200, "headers": [["X-Header", "a"]], "head_at": 5.0, "events": []},
        **more,
    }


def make_record(body: Any, *attempts: Json, route: str = "responses", **more: Any) -> Json:
    """Return a record of a client's request with this body."""
    return {
        "exchange": {
            "id": "ex_0189c0de0000aaaaaaaaaaaa",
            "request_id": "req_1",
            "time": "2026-01-02T03:04:05.678Z",
            "route": route,
            "model": "m",
            "upstream": "chat",
            "status": 200,
            "duration_ms": 100.0,
            "whole": True,
            "redacted": False,
        },
        "client": {
            "request": {
                "method": "POST",
                "path": "/v1/responses",
                "query": [],
                "headers": [["Authorization", "***"]],
                "body": body,
            },
            "answer": {"status": 200, "headers": [], "events": []},
        },
        "upstream": list(attempts),
        "dropped": {},
        **more,
    }
