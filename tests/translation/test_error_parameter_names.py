"""Errors of translated requests name the client's parameters."""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from typing import Any

import pytest

from forwarder import translation
from forwarder.core.errors import InvalidRequest, Unsupported, UpstreamRefused
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, EventStream
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT
from forwarder.protocols.registry import PROTOCOLS
from forwarder.translation.error_parameter_names import find_client_parameter, rename_losses
from tests.helpers.cases import Case
from tests.helpers.check_cases import check_each
from tests.helpers.translating import make_translator_context

Json = dict[str, Any]

RENAMED: list[tuple[str, str, str, Json]] = [
    ("messages", "input", "responses", {"input": "hi"}),
    ("messages[3].content[1].image_url.url", "input", "responses", {"input": "hi"}),
    ("messages.[0].role", "input", "responses", {"input": "hi"}),
    ("max_completion_tokens", "max_output_tokens", "responses", {"max_output_tokens": 5}),
    ("response_format.json_schema", "text.format", "responses", {"text": {"format": {}}}),
    ("response_format.json_schema.schema", "text.format.schema", "responses", {"text": {"format": {"schema": {}}}}),
    ("response_format.json_schema.schema.type", "text.format.schema", "responses", {"text": {"format": {"schema": {}}}}),
    ("response_format.type", "text.format.type", "responses", {"text": {"format": {"type": "text"}}}),
    ("verbosity", "verbosity", "responses", {"text": {"format": {}}}),
    ("reasoning_effort", "reasoning.effort", "responses", {"reasoning": {"effort": "max"}}),
    ("tools[2].function.name", "tools", "responses", {"tools": [{}]}),
    ("logprobs", "top_logprobs", "responses", {"top_logprobs": 2}),
    ("logprobs", "include.message.output_text.logprobs", "responses", {"include": ["message.output_text.logprobs"]}),
    ("input[0].content[0].image_url", "messages", "chat", {"messages": []}),
    ("max_output_tokens", "max_completion_tokens", "chat", {"max_completion_tokens": 20}),
    ("max_output_tokens", "max_tokens", "chat", {"max_tokens": 20}),
    ("text.format.schema", "response_format", "chat", {"response_format": {}, "verbosity": "low"}),
    ("text.format.name", "response_format.json_schema.name", "chat", {"response_format": {"json_schema": {"name": "a"}}}),
    ("text.verbosity", "verbosity", "chat", {"response_format": {}, "verbosity": "low"}),
    ("reasoning.effort", "reasoning_effort", "chat", {"reasoning_effort": "max"}),
    ("tools[0].name", "functions", "chat", {"functions": [{}]}),
    ("temperature", "temperature", "chat", {"temperature": 3}),
    ("metadata.x", "metadata.x", "responses", {"metadata": {}}),
    ("stream_options", "stream_options", "responses", {"input": "hi"}),
    ("reasoning.summary", "reasoning.summary", "chat", {"messages": []}),
    ("[]", "[]", "chat", {"messages": []}),
    ("text.format.schema", "output_config.format.schema", "messages", {"output_config": {"format": {"schema": {}}}}),
    ("messages[1].content", "messages", "ollama", {"messages": []}),
    ("messages[0].content", "prompt", "ollama_generate", {"prompt": "hi"}),
    ("max_tokens", "options.num_predict", "ollama", {"options": {"num_predict": 1}}),
    ("response_format.json_schema.schema", "format", "ollama", {"format": {}}),
    ("reasoning_effort", "think", "ollama", {"think": True}),
    ("temperature", "options.temperature", "ollama", {"options": {"temperature": 9}}),
    ("input", "input", "ollama_embed", {"input": "hi"}),
    ("input", "prompt", "ollama_embeddings", {"prompt": "hi"}),
]  # fmt: skip


@check_each(("param", "expected", "client", "request_"), RENAMED)
def test_parameter_is_renamed_to_the_clients(
    param: str, expected: str, client: str, request_: Json
) -> None:
    assert find_client_parameter(param, client, request_)[0] == expected


@check_each(
    ("client", "client_parameters", "upstream_parameters"),
    [
        ("responses", RESPONSES_OVER_CHAT, CHAT_OVER_RESPONSES),
        ("chat", CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT),
    ],
)
def test_names_are_parameters_of_both_apis(
    client: str, client_parameters: Json, upstream_parameters: Json
) -> None:
    for upstream_name, client_names in PROTOCOLS[client].parameter_names.items():
        assert upstream_name.partition(".")[0] in upstream_parameters
        assert {name.partition(".")[0] for name in client_names} <= client_parameters.keys()


REQUESTS: dict[str, Json] = {
    "responses": {"model": "m", "input": "hi", "tools": [], "text": {"verbosity": "low"}},
    "chat": {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    "messages": {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    },
    "ollama": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "ollama_embeddings": {"model": "m", "prompt": "hi"},
}
"""A request for each client protocol."""

PAIRS = [
    ("responses", "chat", "messages[0].content", "input"),
    ("chat", "responses", "input[0].content", "messages"),
    ("messages", "chat", "max_completion_tokens", "max_tokens"),
    ("messages", "responses", "max_output_tokens", "max_tokens"),
    ("ollama_embeddings", "embeddings", "input", "prompt"),
]


@check_each(("client", "upstream", "param", "expected"), PAIRS)
def test_upstream_error_names_the_clients_parameter(
    client: str, upstream: str, param: str, expected: str
) -> None:
    def refuse_request(request: Json) -> EventStream:
        raise UpstreamRefused(400, {"message": "No.", "param": param})

    handler = translation.translate_handler(
        refuse_request, client, upstream, make_translator_context()
    )
    with pytest.raises(UpstreamRefused) as caught:
        handler(REQUESTS[client])
    assert caught.value.make_error_object()["param"] == expected
    assert caught.value.message == "No."


def make_failing_stream(upstream: str, error: Json) -> EventStream:
    """Return a stream whose upstream reports an error after the first events."""
    case = Case("text", f"{'chat' if upstream == 'responses' else 'responses'}_over_{upstream}")
    *first_events, _ = case.read("upstream.jsonl")[:4]
    batches: list[Batch] = [first_events, [{"type": "error", "error": error}]]
    return iter(batches)


@check_each(("client", "upstream", "param", "expected"), PAIRS[:-1])
def test_error_in_the_stream_names_the_clients_parameter(
    client: str, upstream: str, param: str, expected: str
) -> None:
    error = {"message": "No.", "param": param, "code": 400}
    handler = translation.translate_handler(
        lambda request: make_failing_stream(upstream, error),
        client,
        upstream,
        make_translator_context(),
    )
    stream = handler(REQUESTS[client])
    with pytest.raises(UpstreamRefused) as caught:
        list(stream)
    assert caught.value.param == expected


def test_error_of_a_later_call_names_the_clients_parameter() -> None:
    """A stage may call the upstream again while its stream is read."""

    def begin_stream(request: Json) -> EventStream:
        yield []
        raise InvalidRequest("Invalid value for 'input[3]': no.", param="input[3]")

    handler = translation.translate_handler(
        begin_stream, "chat", "responses", make_translator_context()
    )
    stream = handler(REQUESTS["chat"])
    with pytest.raises(InvalidRequest) as caught:
        list(stream)
    assert caught.value.param == "messages"
    assert caught.value.message == "Invalid value for 'messages': no."


def test_error_of_the_translation_keeps_the_clients_path() -> None:
    handler = translation.translate_handler(
        lambda request: iter(()), "responses", "chat", make_translator_context()
    )
    with pytest.raises(InvalidRequest) as caught:
        handler({**REQUESTS["responses"], "tools": [{"type": "function", "name": 5}]})
    assert caught.value.param == "tools[0].name"


@check_each(
    ("client", "upstream", "param", "field", "client_param"),
    [
        ("messages", "chat", "messages[1].content[0].image_url.url", "url", "messages"),
        ("messages", "responses", "tools[0].filters.blocked_domains[2]", "blocked_domains[2]", "tools"),
        ("ollama", "chat", "messages[0].content[1].image_url.url", "url", "messages"),
        ("responses", "chat", "messages[0].content[1].image_url.url", "url", "input"),
        ("chat", "responses", "tools[0].parameters", "parameters", "tools"),
    ],
)  # fmt: skip
def test_refusal_of_a_stage_below_the_translation_names_the_clients_parameter(
    client: str, upstream: str, param: str, field: str, client_param: str
) -> None:
    def refuse_request(request: Json) -> EventStream:
        raise InvalidRequest(f"Invalid value for '{param}': no.", param=param)

    handler = translation.translate_handler(
        refuse_request, client, upstream, make_translator_context()
    )
    with pytest.raises(InvalidRequest) as caught:
        handler(REQUESTS[client])
    assert caught.value.param == client_param
    assert caught.value.message == f"Invalid value for '{client_param}' ({field}): no."


def test_refusal_of_a_parameter_with_the_same_name_is_unchanged() -> None:
    def refuse_request(request: Json) -> EventStream:
        raise InvalidRequest("Invalid value for 'top_p': no.", param="top_p")

    request = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    handler = translation.translate_handler(
        refuse_request, "messages", "chat", make_translator_context()
    )
    with pytest.raises(InvalidRequest, match="Invalid value for 'top_p': no."):
        handler({**request, "top_p": 5})


def test_passthrough_error_is_unchanged() -> None:
    def refuse_request(request: Json) -> EventStream:
        raise UpstreamRefused(400, {"message": "No.", "param": "messages[0].content"})

    with pytest.raises(UpstreamRefused) as caught:
        translation.translate_handler(refuse_request, "chat", "chat", make_translator_context())(
            {"model": "m", "messages": []}
        )
    assert caught.value.param == "messages[0].content"


@check_each(
    ("client", "request_", "losses"),
    [
        (
            "responses",
            {"input": [], "text": {"verbosity": "low"}, "reasoning": {"effort": "max"}},
            {
                "verbosity": "text.verbosity",
                "reasoning_effort": "reasoning.effort",
                "response_format": "response_format",  # the client did not send it
                "messages.reasoning_details": "input.reasoning",
                "messages.signatures": "input.signatures",
                "tool_images": "tool_images",
            },
        ),
        (
            "chat",
            {"messages": [], "response_format": {}, "web_search_options": {}},
            {
                "text": "response_format",
                "tools.web_search": "web_search_options",
                "input.reasoning": "messages.reasoning_content",
            },
        ),
        (
            "chat",
            {"messages": [], "reasoning_effort": "max"},
            {"reasoning.effort": "reasoning_effort"},
        ),
        (
            "messages",
            {"messages": [], "output_config": {"effort": "low"}},
            {"reasoning_effort": "output_config", "input.reasoning": "messages.thinking"},
        ),
        (
            "ollama",
            {"messages": [], "options": {"seed": 1}},
            {
                "options.num_ctx": "options.num_ctx",
                "seed": "options.seed",
                "messages.reasoning_content": "messages.thinking",
                "metadata": "metadata",
            },
        ),
    ],
)
def test_losses_are_renamed_to_the_clients(
    client: str, request_: Json, losses: dict[str, str]
) -> None:
    loss_report = LossReport()
    for name in losses:
        loss_report.drop(name, f"why {name}")

    rename_losses(loss_report, (), client, request_)

    assert loss_report.losses == {expected: f"why {name}" for name, expected in losses.items()}


def test_loss_of_an_unknown_parameter_keeps_its_name() -> None:
    """The client's parameter may have the same name as one of the upstream's."""
    context = make_translator_context()

    def lose_verbosity(request: Json) -> EventStream:
        context.loss_report.drop("verbosity", "not taken")
        return iter(())

    handler = translation.translate_handler(lose_verbosity, "responses", "chat", context)
    handler({**REQUESTS["responses"], "reasoning_effort": "low", "reasoning": {"effort": "low"}})
    assert context.loss_report.losses.keys() == {"reasoning_effort", "text.verbosity"}


def test_loss_in_strict_mode_names_the_clients_parameter() -> None:
    context = make_translator_context(strict=True)

    def lose_verbosity(request: Json) -> EventStream:
        context.loss_report.drop("verbosity", "not taken")
        return iter(())

    handler = translation.translate_handler(lose_verbosity, "responses", "chat", context)
    with pytest.raises(Unsupported) as caught:
        handler(REQUESTS["responses"])
    assert caught.value.param == "text.verbosity"
    assert caught.value.message == "'text.verbosity' cannot be carried: not taken."


def test_loss_of_a_later_call_names_the_clients_parameter() -> None:
    context = make_translator_context()

    def begin_stream(request: Json) -> EventStream:
        yield []
        context.loss_report.note("verbosity", "not taken")
        yield from make_failing_stream("chat", {"message": "No.", "code": 400})

    stream = translation.translate_handler(begin_stream, "responses", "chat", context)(
        REQUESTS["responses"]
    )
    with pytest.raises(UpstreamRefused):
        list(stream)
    assert context.loss_report.losses == {"text.verbosity": "not taken"}


def test_long_path_of_an_upstream_is_compared_only_at_its_beginning() -> None:
    path = "input" + ".a" * 200_000

    assert count_calls(lambda: find_client_parameter(path, "chat", {"messages": []})) < 200


def count_calls(work: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats())
