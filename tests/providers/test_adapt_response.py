"""The other half of the mends."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.types import Batch
from forwarder.providers import PROFILES, Profile, adapt_response

LONG = "x" * 70
TOOLS = [{"type": "function", "function": {"name": LONG}}]


def answered(request: dict[str, Any], profile: Profile, *batches: Batch) -> list[Batch]:
    return list(adapt_response(iter(batches), request, "chat", profile, lambda: True))


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_a_stream_that_needs_nothing_is_the_very_same(protocol: str) -> None:
    stream = iter([[{}]])
    given = adapt_response(stream, {"stream": True}, protocol, PROFILES["generic"], lambda: True)
    assert given is stream


def test_names_that_were_shortened_come_back_whole() -> None:
    short = {"function": {"name": f"{'x' * 55}_"}}
    chunk = {"choices": [{"delta": {"tool_calls": [short]}}]}
    from forwarder.providers.names import map_long_names

    (short["function"]["name"],) = map_long_names({"tools": TOOLS}, 64)
    ((made,), silence) = answered({"tools": TOOLS}, Profile("some"), [chunk], [])
    assert made["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == LONG
    assert silence == []


def test_what_was_streamed_in_place_of_a_whole_is_repaired_as_a_stream() -> None:
    event = {"type": "response.output_text.delta", "delta": "a"}
    made = adapt_response(
        iter([[event]]), {"stream": False}, "responses", PROFILES["lmstudio"], lambda: False
    )
    assert len(next(made)) == 5


def test_a_native_stream_is_repaired_where_the_profile_says_so() -> None:
    event = {"type": "response.output_text.delta", "delta": "a"}
    for name, count in (("lmstudio", 5), ("openai", 1)):
        stream = iter([[event]])
        made = adapt_response(stream, {"stream": True}, "responses", PROFILES[name], lambda: False)
        assert len(next(made)) == count
