"""Ollama's two embeddings endpoints over OpenAI's."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, UpstreamProtocolError
from forwarder.core.types import EventStream, Json
from forwarder.translation import translate_handler
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context

ANSWER: Json = {
    "object": "list",
    "data": [
        {"object": "embedding", "index": 1, "embedding": [0.0, 5.0]},
        {"object": "embedding", "index": 0, "embedding": [3.0, 4.0]},
    ],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}


class Upstream:
    """Returns the same answer to every request, and records the requests."""

    def __init__(self, answer: Json = ANSWER) -> None:
        self.requests: list[Json] = []
        self._answer = answer

    def __call__(self, request: Json) -> EventStream:
        self.requests.append(request)
        return iter([[], [self._answer]])


def send_request(client: str, upstream: Upstream, **request: Any) -> Json:
    call = translate_handler(upstream, client, "embeddings", make_translator_context())
    [[answer]] = call({"model": "m", **request})
    return answer


def test_embed_returns_normalized_vectors_in_order() -> None:
    upstream = Upstream()
    answer = send_request("ollama_embed", upstream, input=["a", "b"], dimensions=2)
    texts = {"input": ["a", "b"], "dimensions": 2, "encoding_format": "float"}
    assert upstream.requests == [{"model": "m", **texts}]
    assert answer["embeddings"] == [pytest.approx([0.6, 0.8]), [0.0, 1.0]]
    assert (answer["model"], answer["prompt_eval_count"]) == ("m", 4)
    assert answer["total_duration"] > 0
    assert answer["load_duration"] == 0


def test_unit_and_zero_vectors_are_unchanged() -> None:
    data = [{"embedding": [0.6, 0.8]}, {"embedding": [0.0, 0.0]}]
    answer = send_request("ollama_embed", Upstream({"data": data}), input="a")
    assert answer["embeddings"] == [[0.6, 0.8], [0.0, 0.0]]
    assert "prompt_eval_count" not in answer


def test_embeddings_returns_the_upstreams_vector() -> None:
    upstream = Upstream()
    answer = send_request("ollama_embeddings", upstream, prompt="a", keep_alive="5m")
    assert answer == {"embedding": [3.0, 4.0]}
    assert upstream.requests == [{"model": "m", "input": "a", "encoding_format": "float"}]


@check_each(
    ("client", "fields", "answer"),
    [
        ("ollama_embed", {"input": []}, {"embeddings": []}),
        ("ollama_embed", {"input": ""}, {"embeddings": []}),
        ("ollama_embed", {}, {"embeddings": []}),
        ("ollama_embeddings", {"prompt": ""}, {"embedding": []}),
        ("ollama_embeddings", {}, {"embedding": []}),
    ],
)
def test_empty_input_sends_no_upstream_request(client: str, fields: Json, answer: Json) -> None:
    upstream = Upstream()
    actual = send_request(client, upstream, **fields)
    assert actual.items() >= answer.items()
    assert upstream.requests == []


@check_each(
    ("client", "fields", "param"),
    [
        ("ollama_embed", {"input": [1]}, "input[0]"),
        ("ollama_embed", {"input": {"a": 1}}, "input"),
        ("ollama_embed", {"model": None, "input": "a"}, "model"),
        ("ollama_embeddings", {"prompt": ["a"]}, "prompt"),
    ],
)
def test_malformed_parameter_is_named(client: str, fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        send_request(client, Upstream(), **fields)
    assert caught.value.param == param


@check_each("data", [[], [{"embedding": "AAAA"}], [{"embedding": []}], [{"embedding": None}]])
@check_each("client", ["ollama_embed", "ollama_embeddings"])
def test_answer_without_vectors_is_an_upstream_error(client: str, data: list[Any]) -> None:
    with pytest.raises(UpstreamProtocolError):
        send_request(client, Upstream({"data": data}), input="a", prompt="a")
