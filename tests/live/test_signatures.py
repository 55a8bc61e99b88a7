"""Signatures of a Chat provider over a WebSocket with turns that send only new items."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import ModelRequest
from tests.fake_provider.wire import Stream
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import Server
from tests.live.test_websocket import open_session
from tests.server.test_signature_round_trips import FORMS, Provider, list_signatures

Json = dict[str, Any]


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """A provider that knows more fields than OpenAI's."""
    with ScriptedUpstream(keys={KEY}, strict=False) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    return serve(make_settings(upstream))


def make_signed_chunks(
    provider: Provider, turn: int, chunks: list[Json], request: ModelRequest
) -> list[Json]:
    """The provider's chunks of a turn, in place of the scripted ones."""
    return provider.chunks(turn)


@pytest.mark.parametrize("mode", ["stored", "not stored", "sealed"])
@pytest.mark.parametrize("format_name", FORMS)
def test_signatures_come_back_over_a_websocket(
    format_name: str, mode: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    provider = Provider(format_name)
    upstream.script(
        *(Stream(changes=[partial(make_signed_chunks, provider, turn)]) for turn in (1, 2, 3, 3))
    )
    # All forms say the same; a model of its own keeps their signatures apart.
    parameters: Json = {
        "model": f"chat/{format_name}",
        "store": mode == "stored",
        "tools": [{"type": "function", "name": "f"}],
    }
    if mode == "sealed":
        parameters["include"] = ["reasoning.encrypted_content"]
    input_items: list[Json] = [{"role": "user", "content": "What is it?"}]
    with open_session(forwarder) as session:
        for _ in range(4):
            response = session.run_turn(input_items, **parameters)[-1]["response"]
            parameters["previous_response_id"] = response["id"]
            input_items = [
                {"type": "function_call_output", "call_id": item["call_id"], "output": "42"}
                for item in response["output"]
                if item["type"] == "function_call"
            ] or [{"role": "user", "content": "Are you sure?"}]

    messages = upstream.requests[-1].body["messages"]
    signatures = [
        list_signatures(message) for message in messages if message["role"] == "assistant"
    ]
    assert signatures == [provider.get_signatures(turn) for turn in (1, 2, 3)]
