"""The command and the program that send a request."""

from __future__ import annotations

import inspect
import json
import shlex
from typing import Any

import openai
import pytest
from openai.resources.chat.completions import Completions
from openai.resources.responses import Responses

from forwarder.console import code_snippets
from forwarder.console.code_snippets import make_headers, write_curl, write_python
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS

HOSTILE = 'it\'s "$HOME" `id` \\ </script> \n JSON\nJSON'
BODY: dict[str, Any] = {
    "model": "m",
    "input": [{"role": "user", "content": HOSTILE}],
    "stream": True,
    "temperature": None,
    "seed": 1,
    "x'y": [True, False, None, "true \x01\u2028\U0001f600", 1.5, {}],
}


def test_curl_sends_the_body_unchanged() -> None:
    text = write_curl("http://a/v1/responses", BODY, {"X-A": "it's"}, needs_key=True)
    command, _, body_text = text.partition("<<'JSON'\n")

    assert json.loads(body_text.removesuffix("JSON\n")) == BODY
    assert not any(line == "JSON" for line in body_text.removesuffix("JSON\n").splitlines())
    assert shlex.split(command.replace("\\\n", "")) == [
        *("curl", "-sN", "http://a/v1/responses", "-H", "Content-Type: application/json"),
        *("-H", "X-A: it's", "-H", "Authorization: Bearer $FORWARDER_KEY", "--data-binary", "@-"),
    ]


class StubClient:
    """Replaces `openai.OpenAI`; the class records its arguments."""

    calls: list[tuple[str, dict[str, Any]]] = []
    options: dict[str, Any] = {}

    def __init__(self, **options: Any) -> None:
        StubClient.options = options
        self.responses = self.chat = self.completions = self

    def create(self, **arguments: Any) -> list[Any]:
        StubClient.calls.append(("create", arguments))
        return []


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_python_sends_the_body_by_the_sdk(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "OpenAI", StubClient)
    monkeypatch.setenv("FORWARDER_KEY", "sk-env")
    program = write_python("http://a", api, BODY, make_headers("text", True), needs_key=True)
    assert program is not None

    exec(compile(program, "program", "exec"), {})

    _, arguments = StubClient.calls.pop()
    create = {"responses": Responses.create, "chat": Completions.create}[api]
    assert set(arguments) <= set(inspect.signature(create).parameters)
    assert arguments.pop("extra_headers") == {
        "X-Forwarder-Reasoning": "text",
        "X-Forwarder-Strict": "true",
    }
    extra = arguments.pop("extra_body")
    assert {**arguments, **extra} == BODY
    assert StubClient.options == {"base_url": "http://a/v1", "api_key": "sk-env"}


def test_python_without_key_and_headers_is_short() -> None:
    assert write_python("http://a", "chat", {"model": "m"}, {}, needs_key=False) == (
        "from openai import OpenAI\n\n"
        'client = OpenAI(base_url="http://a/v1", api_key="none")\n'
        'answer = client.chat.completions.create(\n    model="m",\n)\nprint(answer)\n'
    )


def test_the_sdk_has_no_ollama_api() -> None:
    assert write_python("http://a", "ollama", {"model": "m"}, {}, needs_key=False) is None


def test_sdk_has_all_parameters_except_the_listed_ones() -> None:
    for api, create in (("responses", Responses.create), ("chat", Completions.create)):
        parameters = set(UPSTREAM_PROTOCOLS[api].parameters) - code_snippets.UNKNOWN_TO_SDK
        assert parameters <= set(inspect.signature(create).parameters)
