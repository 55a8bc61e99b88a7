"""The upstream of the hosted tools' benchmark: calls as often as its model says, then text."""

from __future__ import annotations

import http.client
import json
from typing import Any

from bench.hosted_tools import run_upstream

TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}


def ask(port: int, results: int) -> list[dict[str, Any]]:
    messages = [{"role": "tool", "tool_call_id": "c", "content": ""}] * results
    body = {"model": "rounds-2", "messages": messages, "tools": [TOOL]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    lines = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    return [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]


def test_model_calls_the_first_function_until_it_has_all_results() -> None:
    with run_upstream() as port:
        answers = [ask(port, results) for results in range(3)]
    calls = [answer[0]["delta"].get("tool_calls") for answer in answers]
    assert [call and call[0]["function"]["name"] for call in calls] == ["look", "look", None]
    assert [answer[-1]["finish_reason"] for answer in answers] == [
        "tool_calls",
        "tool_calls",
        "stop",
    ]


def test_search_engine_answers_like_searxng() -> None:
    with run_upstream() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/search?q=cats&format=json")
        results = json.loads(connection.getresponse().read())["results"]
        connection.close()
    assert {"url", "title", "content"} <= results[0].keys()
