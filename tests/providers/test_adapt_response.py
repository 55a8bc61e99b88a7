"""Repair and renaming in answers."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.types import Batch
from forwarder.providers import PROFILES, Profile, adapt_response

LONG = "x" * 70
TOOLS = [{"type": "function", "function": {"name": LONG}}]


def adapt(request: dict[str, Any], profile: Profile, *batches: Batch) -> list[Batch]:
    return list(adapt_response(iter(batches), request, "chat", profile, lambda: True))


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_adapt_response_returns_the_same_stream(protocol: str) -> None:
    stream = iter([[{}]])
    adapted = adapt_response(stream, {"stream": True}, protocol, PROFILES["generic"], lambda: True)
    assert adapted is stream


def test_adapt_response_restores_names() -> None:
    short = {"function": {"name": f"{'x' * 55}_"}}
    chunk = {"choices": [{"delta": {"tool_calls": [short]}}]}
    from forwarder.providers.names import map_long_names

    (short["function"]["name"],) = map_long_names({"tools": TOOLS}, 64)
    ((adapted,), silence) = adapt({"tools": TOOLS}, Profile("some"), [chunk], [])
    assert adapted["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == LONG
    assert silence == []


def test_adapt_response_repairs_forced_stream() -> None:
    event = {"type": "response.output_text.delta", "delta": "a"}
    adapted = adapt_response(
        iter([[event]]), {"stream": False}, "responses", PROFILES["lmstudio"], lambda: False
    )
    assert len(next(adapted)) == 5


def test_adapt_response_repairs_native_stream() -> None:
    event = {"type": "response.output_text.delta", "delta": "a"}
    for name, count in (("lmstudio", 5), ("openai", 1)):
        stream = iter([[event]])
        adapted = adapt_response(
            stream, {"stream": True}, "responses", PROFILES[name], lambda: False
        )
        assert len(next(adapted)) == count
