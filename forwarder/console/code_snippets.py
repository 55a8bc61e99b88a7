"""Code that sends a request: a curl command and a program with OpenAI's Python SDK."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import orjson

from forwarder.core.types import Json
from forwarder.protocols.client_reasoning_style import HEADER as STYLE_HEADER
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS

KEY_VARIABLE = "FORWARDER_KEY"
"""The environment variable from which the code reads the key."""

SDK_METHODS = {"chat": "chat.completions.create", "responses": "responses.create"}

UNKNOWN_TO_SDK = frozenset(
    {"client_metadata", "frequency_penalty", "logit_bias", "presence_penalty", "seed", "stop"}
)
"""Parameters of Responses requests that the forwarder knows and the SDK does not."""


def make_headers(style: str, is_strict: bool) -> dict[str, str]:
    """Return the headers of a request with a reasoning style, which may be ``""``."""
    return {
        **({STYLE_HEADER: style} if style else {}),
        **({"X-Forwarder-Strict": "true"} if is_strict else {}),
    }


def write_curl(url: str, body: Json, headers: Mapping[str, str], needs_key: bool) -> str:
    """Return the command that sends ``body`` to ``url``."""
    options = [f"-H {shlex.quote(f'{name}: {text}')}" for name, text in headers.items()]
    if needs_key:
        options.append(f'-H "Authorization: Bearer ${KEY_VARIABLE}"')
    lines = [
        f"curl -sN {shlex.quote(url)}",
        "-H 'Content-Type: application/json'",
        *options,
        "--data-binary @- <<'JSON'",
    ]
    # The here-document ends at a line "JSON", which indented JSON cannot contain.
    return " \\\n  ".join(lines) + f"\n{write_json(body)}\nJSON\n"


def write_python(
    base: str, api: str, body: Json, headers: Mapping[str, str], needs_key: bool
) -> str | None:
    """Return the program that sends ``body`` with the SDK, or None if the SDK has no such API."""
    if api not in SDK_METHODS:
        return None
    known = UPSTREAM_PROTOCOLS[api].parameters.keys() - UNKNOWN_TO_SDK
    arguments = {name: value for name, value in body.items() if name in known}
    extra = {name: value for name, value in body.items() if name not in known}
    if extra:
        arguments["extra_body"] = extra
    if headers:
        arguments["extra_headers"] = dict(headers)
    written = "".join(f"    {name}={write_value(value)},\n" for name, value in arguments.items())
    key = f'os.environ["{KEY_VARIABLE}"]' if needs_key else '"none"'
    result = "for event in answer:\n    print(event)\n" if body.get("stream") else "print(answer)\n"
    return (
        ("import os\n\n" if needs_key else "")
        + "from openai import OpenAI\n\n"
        + f"client = OpenAI(base_url={write_value(f'{base}/v1')}, api_key={key})\n"
        + f"answer = client.{SDK_METHODS[api]}(\n{written})\n{result}"
    )


def write_json(value: Any) -> str:
    """Return a JSON value as indented text."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|true|false|null')

_PYTHON_NAMES = {"true": "True", "false": "False", "null": "None"}


def write_value(value: Any) -> str:
    """Return a JSON value as a Python literal for the argument of a call.

    JSON strings need no conversion: Python has the same escapes.
    """
    text = _JSON_TOKEN.sub(lambda match: _PYTHON_NAMES.get(match[0], match[0]), write_json(value))
    return text.replace("\n", "\n    ")
