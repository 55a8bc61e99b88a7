"""Errors of translated requests name the client's parameters."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder import translation
from forwarder.core.errors import InvalidRequest, UpstreamRefused
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT
from forwarder.protocols.registry import PROTOCOLS
from forwarder.translation.error_parameter_names import (
    map_to_client_parameter,
    rename_losses,
)
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context

Json = dict[str, Any]

RENAMED: list[tuple[str, str, str, Json]] = [
    ("messages", "input", "responses", {"input": "hi"}),
    ("messages[3].content[1].image_url.url", "input", "responses", {"input": "hi"}),
    ("messages.[0].role", "input", "responses", {"input": "hi"}),
    ("max_completion_tokens", "max_output_tokens", "responses", {"max_output_tokens": 5}),
    ("response_format.json_schema", "text.format", "responses", {"text": {"format": {}}}),
    ("reasoning_effort", "reasoning.effort", "responses", {"reasoning": {"effort": "max"}}),
    ("tools[2].function.name", "tools", "responses", {"tools": [{}]}),
    ("logprobs", "top_logprobs", "responses", {"top_logprobs": 2}),
    ("input[0].content[0].image_url", "messages", "chat", {"messages": []}),
    ("max_output_tokens", "max_completion_tokens", "chat", {"max_completion_tokens": 20}),
    ("max_output_tokens", "max_tokens", "chat", {"max_tokens": 20}),
    ("text.format.schema", "response_format", "chat", {"response_format": {}, "verbosity": "low"}),
    ("text.verbosity", "verbosity", "chat", {"response_format": {}, "verbosity": "low"}),
    ("reasoning.effort", "reasoning_effort", "chat", {"reasoning_effort": "max"}),
    ("tools[0].name", "functions", "chat", {"functions": [{}]}),
    ("temperature", "temperature", "chat", {"temperature": 3}),
    ("metadata.x", "metadata.x", "responses", {"metadata": {}}),
    ("stream_options", "stream_options", "responses", {"input": "hi"}),
    ("reasoning.summary", "reasoning.summary", "chat", {"messages": []}),
    ("[]", "[]", "chat", {"messages": []}),
    ("messages[1].content", "messages", "ollama", {"messages": []}),
    ("messages[0].content", "prompt", "ollama_generate", {"prompt": "hi"}),
    ("max_tokens", "options.num_predict", "ollama", {"options": {"num_predict": 1}}),
    ("response_format.json_schema.schema", "format", "ollama", {"format": {}}),
    ("reasoning_effort", "think", "ollama", {"think": True}),
    ("temperature", "options.temperature", "ollama", {"options": {"temperature": 9}}),
    ("input", "input", "ollama_embed", {"input": "hi"}),
    ("input", "prompt", "ollama_embeddings", {"prompt": "hi"}),
]


@check_each(("param", "expected", "client", "request_"), RENAMED)
def test_parameter_is_renamed_to_the_clients(
    param: str, expected: str, client: str, request_: Json
) -> None:
    assert map_to_client_parameter(param, client, request_) == expected


@check_each(
    ("client", "own", "upstreams"),
    [
        ("responses", RESPONSES_OVER_CHAT, CHAT_OVER_RESPONSES),
        ("chat", CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT),
    ],
)
def test_names_are_parameters_of_both_apis(client: str, own: Json, upstreams: Json) -> None:
    for theirs, ours in PROTOCOLS[client].parameter_names.items():
        assert theirs.partition(".")[0] in upstreams
        assert {name.partition(".")[0] for name in ours} <= own.keys()


def test_translated_error_names_the_clients_parameter() -> None:
    def refuse_request(request: Json) -> EventStream:
        raise UpstreamRefused(400, {"message": "No.", "param": "messages[0].content"})

    call = translation.translate_handler(
        refuse_request, "responses", "chat", make_translator_context()
    )
    with pytest.raises(UpstreamRefused) as caught:
        call({"model": "m", "input": "hi"})
    assert caught.value.make_error_object()["param"] == "input"
    assert caught.value.message == "No."


@check_each(
    ("client", "upstream", "param", "field", "known"),
    [
        ("messages", "chat", "messages[1].content[0].image_url.url", "url", "messages"),
        ("messages", "responses", "tools[0].filters.blocked_domains[2]", "blocked_domains[2]", "tools"),
        ("ollama", "chat", "messages[0].content[1].image_url.url", "url", "messages"),
    ],
)  # fmt: skip
def test_refusal_of_a_stage_below_the_translation_names_the_clients_parameter(
    client: str, upstream: str, param: str, field: str, known: str
) -> None:
    def refuse_request(request: Json) -> EventStream:
        raise InvalidRequest(f"Invalid value for '{param}': no.", param=param)

    tool = {"name": "f", "input_schema": {"type": "object"}}
    request = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        **({"max_tokens": 9, "tools": [tool]} if client == "messages" else {}),
    }
    call = translation.translate_handler(
        refuse_request, client, upstream, make_translator_context()
    )
    with pytest.raises(InvalidRequest) as caught:
        call(request)
    assert caught.value.param == known
    assert caught.value.message == f"Invalid value for '{known}' ({field}): no."


def test_refusal_of_a_parameter_with_the_same_name_is_unchanged() -> None:
    def refuse_request(request: Json) -> EventStream:
        raise InvalidRequest("Invalid value for 'top_p': no.", param="top_p")

    request = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    call = translation.translate_handler(
        refuse_request, "messages", "chat", make_translator_context()
    )
    with pytest.raises(InvalidRequest, match="Invalid value for 'top_p': no."):
        call({**request, "top_p": 5})


def test_passthrough_error_is_unchanged() -> None:
    def refuse_request(request: Json) -> EventStream:
        raise UpstreamRefused(400, {"message": "No.", "param": "messages[0].content"})

    with pytest.raises(UpstreamRefused) as caught:
        translation.translate_handler(refuse_request, "chat", "chat", make_translator_context())(
            {"model": "m", "messages": []}
        )
    assert caught.value.param == "messages[0].content"


def test_losses_are_renamed_to_the_clients() -> None:
    loss_report = LossReport()
    for name in ("options.num_ctx", "seed", "messages.reasoning_content", "metadata"):
        loss_report.drop(name, f"why {name}")

    rename_losses(loss_report, "ollama", {"messages": [], "options": {"seed": 1}})

    assert loss_report.losses == {
        "options.num_ctx": "why options.num_ctx",
        "options.seed": "why seed",
        "messages.thinking": "why messages.reasoning_content",
        "metadata": "why metadata",
    }
